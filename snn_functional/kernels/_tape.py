"""Reading a step: run it once on tensors without numbers, and write down what it does.

    record(function, leaves) -> Tape

A *stand-in* has the shape, rank and dtype of the real tensor, but one number in memory, which it shows at every place (all its
strides are 0). So a step takes the branches on shapes that it takes in the loop, however large it is, and reading it costs what
some operations on single numbers cost. Only operations that this folder knows as pointwise are let through, on those single numbers;
anything else, and anything that would take a number out of a tensor, is refused by name, with the line of the user's code.

What is written down is functional: an operation that writes into a tensor is the same operation with a new result.
"""

import dataclasses
import functools
import linecache
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ._operations import CHECKS, fill_of, FILLED, FIRST, SAME, SHAPES, VIEWS
from ._program import Unsupported
from ._rules import LOWER


@dataclasses.dataclass(eq=False, slots=True)
class Node:
    """A tensor of the reading: a leaf, a constant, or the result of one of aten's operations on others.

    `common`: what the operands are converted to, which for a comparison is not the result's dtype. `line`: the user's code.
    """

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dtype: torch.dtype
    shape: torch.Size
    common: torch.dtype
    line: tuple[str, int] | None = None


LEAF, CONSTANT = "a leaf", "a constant"


class Form(NamedTuple):
    """What is known of a leaf before it is read. `parameter`: is it an `nn.Parameter`?"""

    dtype: torch.dtype
    shape: torch.Size
    parameter: bool = False

    def lane(self) -> "Form":
        """The same for one neuron."""
        return Form(self.dtype, torch.Size((1,)))


@dataclasses.dataclass(eq=False)
class Tape:
    """What a function did, in order."""

    leaves: tuple[Node, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]

    def __call__(self, *leaves: Tensor) -> list[Tensor]:
        """The same again, for one neuron: every leaf is a tensor over the same lanes, so that what fits shapes together is left out.

        A number that was 0-d in the reading promoted nothing there, and does not here.
        """
        values: dict[Node, Any] = dict(zip(self.leaves, leaves))
        lanes = broadcast(*(leaf.shape for leaf in leaves))
        for node in self.nodes:
            if node.name == CONSTANT:
                values[node] = torch.tensor(node.args[0], dtype=node.dtype, device="cpu")
            elif node.name in FILLED:
                values[node] = torch.full(lanes, fill_of(node.name, node.args), dtype=node.dtype, device="cpu")
            elif node.name in SHAPES or node.name in SUMS or node.name in SAME:
                x = values[node.args[0]]
                values[node] = x if x.dtype == node.dtype else x.to(node.dtype)
            else:
                values[node] = _applied(node, values)
        return [values[node] for node in self.outputs]

    def giving(self, outputs: tuple[Node, ...]) -> "Tape":
        """The same leaves, other outputs: what these do not need is left out."""
        needed, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if node in needed:
                nodes.append(node)
                needed.update(x for x in (*node.args, *node.kwargs.values()) if isinstance(x, Node))
        return Tape(self.leaves, tuple(nodes[::-1]), outputs)

    def read_leaves(self) -> set[int]:
        """Which leaves any operation or output has use for."""
        used = {x for node in self.nodes for x in (*node.args, *node.kwargs.values()) if isinstance(x, Node)}
        used.update(self.outputs)
        return {i for i, leaf in enumerate(self.leaves) if leaf in used}

    def with_leaves(self, which: Sequence[int]) -> "Tape":
        return Tape(tuple(self.leaves[i] for i in which), self.nodes, self.outputs)

    def without(self, count: int) -> "Tape":
        """Without the last leaves, which nothing may have read."""
        kept = len(self.leaves) - count
        if any(i >= kept for i in self.read_leaves()):
            raise Unsupported("where it is differentiated it reads what it did not read before")
        return self.with_leaves(range(kept))


SUMS = {"sum"}


def _applied(node: Node, values: dict[Node, Any]) -> Tensor:
    common = node.common

    def value(x: Any) -> Any:
        if not isinstance(x, Node):
            return x
        y = values[x]
        fits = y.dtype == common or not (y.dtype.is_floating_point and common.is_floating_point)
        return y if fits or node.name == "_to_copy" else y.to(common)

    kwargs = {k: value(x) for k, x in node.kwargs.items()}
    out = node.target(*map(value, node.args), **kwargs)
    out = out[0] if node.name in FIRST else out
    return out if out.dtype == node.dtype else out.to(node.dtype)


def record(function: Callable[..., Sequence[Tensor]], leaves: Sequence[Form]) -> Tape:
    """What `function(*leaves)` does. Raises Unsupported for what is not pointwise, and what the function raises."""
    recorder = _Recorder()
    given = [recorder.leaf(i, leaf) for i, leaf in enumerate(leaves)]
    with recorder:
        results = list(function(*given))
    if any(map(vars, given)):
        raise Unsupported("it gives a tensor an attribute")
    return recorder.tape(given, results)


def stand_in(shape: Sequence[int], number: Tensor) -> Tensor:
    """A tensor of this shape that shows this number everywhere."""
    return number.as_strided(tuple(shape), (0,) * len(shape))


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.of: dict[int, Node] = {}  # the value of each tensor, by its root
        self.root: dict[int, int] = {}  # of a tensor that is another name of the same memory: that tensor
        self.viewed: set[int] = set()  # roots that stand in memory together with tensors of another shape
        self.alive: list[Tensor] = []  # so that no id is given twice
        self.given: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, a second's work, to mark this for it

    def leaf(self, i: int, like: Form) -> Tensor:
        number = 0.3 + 0.01 * i if like.dtype.is_floating_point else 1
        tensor = stand_in(like.shape, torch.full((), number, dtype=like.dtype, device="cpu"))
        if like.parameter:
            tensor = torch.nn.Parameter(tensor, requires_grad=False)
        self.put(tensor, self.made(LEAF, None, (i,), {}, tensor))
        self.given.add(id(tensor))
        return tensor

    def tape(self, leaves: Sequence[Tensor], results: Sequence[Tensor]) -> Tape:
        outputs = tuple(self.node(x) for x in results)
        nodes = tuple(node for node in self.nodes if node.name != LEAF)
        return Tape(tuple(self.of[id(x)] for x in leaves), nodes, outputs).giving(outputs)

    def node(self, x: Tensor) -> Node:
        found = self.of.get(self.root.get(id(x), id(x)))
        if found is None:
            raise Unsupported("it uses a tensor that is not among its arguments; give it in params")
        return found

    def put(self, x: Tensor, node: Node) -> Tensor:
        self.nodes.append(node)
        self.of[self.root.get(id(x), id(x))] = node
        self.alive.append(x)
        return x

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _on_meta(args, kwargs or {}):  # torch's own bookkeeping in forward mode, of shapes alone
            return func(*args, **(kwargs or {}))
        kwargs = {k: x for k, x in (kwargs or {}).items() if k not in PLACES and x is not None}
        name = func.overloadpacket.__name__
        if name in CHECKS or name in TYPES:
            return func(*args, **kwargs)
        if name == "lift_fresh" and id(args[0]) not in self.of and args[0].numel() == 1 and not args[0].dim():
            return self.put(args[0], self.made(CONSTANT, None, (args[0].item(),), {}, args[0]))
        if name in NUMBERS:
            raise Unsupported(f"it takes a number out of a tensor, by {name}{_place()}")
        if "out" in kwargs:
            raise Unsupported(f"it writes into a tensor, by {func}{_place()}")
        if name in EMPTY:  # its numbers are nobody's, until something is written there
            fewer = [[0] * len(x) if isinstance(x, (list, tuple)) else _number(x) for x in args]
            like = func(*fewer, **kwargs)
            size = _size(args, [x for x in args if isinstance(x, Tensor)])
            self.alive.append(stand_in(size, torch.zeros((), dtype=like.dtype, device="cpu")))
            return self.alive[-1]
        if name in VIEWS or name in SHAPES:
            return self.view(name, func, args, kwargs)
        if name.endswith("_") and not name.startswith("__"):
            return self.written(name[:-1], func, args, kwargs)
        if name not in LOWER and name not in SUMS:
            return self.decomposed(func, args, kwargs)
        return self.computed(name, func, args, kwargs)

    def view(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        x, out = args[0], func(*args, **kwargs)
        root = self.root.get(id(x), id(x))
        self.alive.append(out)
        if name == "alias" or root not in self.of:  # another name of the same, or of what has no numbers yet
            self.root[id(out)] = root
            return out
        # `detach` too is a node of its own, or derivatives would not stop there.
        node = self.node(x)
        self.viewed |= {root, id(out)}
        return self.put(out, self.made(name, func, (node, *args[1:]), kwargs, out))

    def written(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        """An operation that writes into its first argument: under all its names that has a new value from here on."""
        x = args[0]
        if self.root.get(id(x), id(x)) in self.viewed:
            raise Unsupported(f"it writes into a tensor that has views: {func}{_place()}")
        if self.root.get(id(x), id(x)) in self.given:
            raise Unsupported(f"it mutates its arguments: {func}{_place()}")
        if name in ("copy", "fill", "zero"):
            value = args[1] if len(args) > 1 else 0
            if isinstance(value, Tensor):
                torch.broadcast_to(value, x.shape)  # raises where it does not fit
                new = self.made("_to_copy", torch.ops.aten._to_copy.default, (self.node(value),), {"dtype": x.dtype}, x)
            else:
                new = self.made("full", torch.ops.aten.full.default, (list(x.shape), value), {}, x)
            return self.put(x, new)
        packet = getattr(torch.ops.aten, name)
        result = self.computed(name, packet, args, kwargs)
        new, shape = self.node(result), result.shape
        if shape != x.shape:
            raise RuntimeError(f"output with shape {list(x.shape)} doesn't match the broadcast shape {list(shape)}")
        if result.dtype != x.dtype:
            if not torch.can_cast(result.dtype, x.dtype):
                raise RuntimeError(f"result type {result.dtype} can't be cast to the desired output type {x.dtype}")
            new = self.made("_to_copy", torch.ops.aten._to_copy.default, (new,), {"dtype": x.dtype}, x)
        return self.put(x, new)

    def computed(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """The operation on the single numbers, its result at the shape that it has of the stand-ins."""
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        nodes = {id(x): self.node(x) for x in tensors}
        node_of = lambda x: nodes[id(x)] if isinstance(x, Tensor) else x
        if name not in LOWER and name not in SUMS:
            raise Unsupported(f"{func} is not pointwise{_place()}")
        if name in SUMS:
            shape = _summed(*args, **kwargs)
            out = func(_number(args[0]), *args[1:], **kwargs)
        elif name in FILLED:
            shape = _size(args, tensors)
            fewer = [[0] * len(x) if isinstance(x, (list, tuple)) else _number(x) for x in args]
            out = torch.full((), fill_of(name, args), dtype=func(*fewer, **kwargs).dtype, device="cpu")
        else:
            shape = broadcast(*(x.shape for x in tensors))
            out = func(*map(_number, args), **{k: _number(x) for k, x in kwargs.items()})
        rest = [torch.zeros((), dtype=x.dtype, device="cpu") for x in out[1:]] if name in FIRST else []
        out = out[0] if name in FIRST else out
        made = stand_in(shape, out.reshape(()))
        node = self.made(name, func, tuple(map(node_of, args)), {k: node_of(x) for k, x in kwargs.items()}, made)
        if node.dtype == torch.bool and args:
            numbers: Any = [x for x in map(_number, args[:2]) if isinstance(x, (Tensor, bool, int, float))]
            if len(numbers) == 2:
                node.common = torch.result_type(*numbers)
            elif numbers:
                node.common = getattr(numbers[0], "dtype", torch.bool)
        self.put(made, node)
        if name not in FIRST:
            return made
        # What comes beside it is for torch's own formulas, which the rules here do not need.
        zeros = [self.put(x, self.made("zeros", torch.ops.aten.zeros.default, ([],), {}, x)) for x in rest]
        return (made, *zeros)

    def decomposed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation that torch writes with others, as these."""
        with self:
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        raise Unsupported(f"{func} is not pointwise{_place()}")

    def made(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], like: Tensor) -> Node:
        return Node(name, func, args, kwargs, like.dtype, like.shape, like.dtype, _line())


def _on_meta(args: Any, kwargs: Any) -> bool:
    device = kwargs.get("device")
    if device is not None and torch.device(device).type == "meta":
        return True
    return any(isinstance(x, Tensor) and x.is_meta for x in args)


TYPES = {"promote_types", "result_type", "can_cast"}
EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
PLACES = {"device", "layout", "pin_memory", "memory_format", "non_blocking"}
NUMBERS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "allclose"}


def broadcast(*shapes: Sequence[int]) -> torch.Size:
    """`torch.broadcast_shapes`, which would import a computer algebra system."""
    size = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for i, n in enumerate(reversed(shape), 1):
            if n != 1 and size[-i] not in (1, n):
                raise RuntimeError(f"the shapes {', '.join(str(list(shape)) for shape in shapes)} do not go together")
            size[-i] = n if n != 1 else size[-i]
    return torch.Size(size)


def _number(x: Any) -> Any:
    """Of a stand-in the single number, at its rank."""
    return x.as_strided((1,) * x.dim(), (1,) * x.dim()) if isinstance(x, Tensor) else x


def _size(args: Any, tensors: list[Tensor]) -> Sequence[int]:
    sizes = [x for x in args if isinstance(x, (list, tuple, torch.Size))]
    return sizes[0] if sizes else tensors[0].shape if tensors else ()


def _summed(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> list[int]:
    dims = range(x.dim()) if dim is None or (isinstance(dim, (list, tuple)) and not dim) else dim
    dims = {d % max(x.dim(), 1) for d in ((dims,) if isinstance(dims, int) else dims)}
    return [1 if d in dims else n for d, n in enumerate(x.shape) if keepdim or d not in dims]


def _place() -> str:
    return place(_line())


def _line() -> tuple[str, int] | None:
    """The file and the line of the user's code that is being run, if there is one."""
    frame: Any = sys._getframe(1)
    while frame is not None and not _is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame else None


def line_of(error: BaseException) -> str:
    """The user's line that raised it."""
    import traceback

    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    return place((frames[-1].filename, frames[-1].lineno or 0) if frames else None)


@functools.cache
def _is_users(filename: str) -> bool:
    ours = os.path.dirname(os.path.dirname(__file__))
    mine = filename.startswith(tuple(os.path.join(ours, room) for room in ("kernels", "_scan", "_identity")))
    return not (mine or filename.startswith((os.path.dirname(torch.__file__), "<string>", "<eval_with_key>")))


def place(where: tuple[str, int] | None) -> str:
    """How a message shows a line."""
    if where is None:
        return ""
    filename, line = where
    text = linecache.getline(filename, line).strip()
    return f" ({os.path.basename(filename)}:{line}{': ' + text if text else ''})"
