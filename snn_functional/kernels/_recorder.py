"""Reading a step: run it once on tensors without numbers, and write down what it does.

    record(function, leaves) -> Tape

A *stand-in* has the shape, rank and dtype of the real tensor, but one number in memory, which it shows at every place (all its
strides are 0). So a step takes the branches on shapes that it takes in the loop, however large it is, and reading it costs what
some operations on single numbers cost. Operations that this folder knows as pointwise run on those single numbers. Of any other the
shapes alone are worked out, and it is written down why it is none, with the line of the user's code. What would take a number out of a
tensor is refused.

What is written down is functional: an operation that writes into a tensor is the same operation with a new result.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .._tree import tree_leaves, tree_map
from ._functions import call_of_a_function, calls_seen, rules, rules_of_their_own
from ._lines import place, users_line
from ._operations import CHECKS, fill_of, FILLED, FIRST, SHAPES, VIEWS
from ._program import not_to_be_caught, Refused
from ._rules import LOWER
from ._tape import broadcast, CONSTANT, DRAWN, Form, LEAF, Node, part, SUMS, Tape


def record(function: Callable[..., Sequence[Tensor]], leaves: Sequence[Form], differentiable: bool = True) -> Tape:
    """What `function(*leaves)` does. Raises Unsupported for what cannot be written down, and what the function raises.

    `differentiable`: is it to be seen where no derivative goes through, as under `no_grad`? Not where a derivative itself is read.
    """
    recorder = _Recorder(differentiable)
    given = [recorder.leaf(i, leaf) for i, leaf in enumerate(leaves)]
    try:
        with not_to_be_caught(), calls_seen(), recorder:
            results = list(function(*given))
    except RuntimeError as error:
        if not differentiable:
            raise
        again = record(function, leaves, differentiable=False)  # is it only that torch has no derivative of it?
        again.own = f"it cannot be differentiated: {error}"
        return again
    if any(map(vars, given)):
        raise Refused("it gives a tensor an attribute")
    return recorder.tape(given, results)


def stand_in(shape: Sequence[int], number: Tensor) -> Tensor:
    """A tensor of this shape that shows this number everywhere."""
    return number.as_strided(tuple(shape), (0,) * len(shape))


class _Recorder(TorchDispatchMode):
    def __init__(self, differentiable: bool) -> None:
        super().__init__()
        self.differentiable = differentiable
        self.own: str | None = None  # why the derivative of what was read is not the function's
        self.within_no_grad = False
        self.drawn = torch.get_rng_state()
        self.likes: dict[int, tuple[Node, ...]] = {}  # of a tensor without numbers yet: what it lies like
        self.calls: dict[Any, list[Node]] = {}  # of each call of an `autograd.Function`, by its frame, what it did
        self.rules = rules() if differentiable else set[type]()
        self.nodes: list[Node] = []
        self.depends: set[Node] = set()  # on an argument
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
        real = self.differentiable and like.dtype.is_floating_point
        only = torch.full((), number, dtype=like.dtype, device="cpu", requires_grad=real and not like.parameter)
        tensor = stand_in(like.shape, only * 1 if only.requires_grad else only)  # no leaf, so that it may be written to
        if like.parameter:
            tensor = torch.nn.Parameter(tensor, requires_grad=real)
        self.put(tensor, self.made(LEAF, None, (i,), {}, tensor))
        self.given.add(id(tensor))
        return tensor

    def tape(self, leaves: Sequence[Tensor], results: Sequence[Tensor]) -> Tape:
        outputs = tuple(self.node(x) for x in results)
        nodes = tuple(node for node in self.nodes if node.name != LEAF)
        known = [(frame.f_locals["cls"], self.call(frame, set(x), nodes, outputs)) for frame, x in self.calls.items()]
        for rule in rules_of_their_own(results) if self.differentiable else ():
            if (rule, True) not in known or (rule, False) in known:
                self.own = f"it calls {rule.__name__}, which has a derivative of its own"
        whole = Tape(tuple(self.of[id(x)] for x in leaves), nodes, outputs, self.own, self.within_no_grad)
        return whole.giving(outputs)

    def call(self, frame: Any, inner: set[Node], nodes: Sequence[Node], outputs: Sequence[Node]) -> bool:
        """Marks what a call of an `autograd.Function` gave, if that is one tensor, and nothing was drawn for it. One that the step has
        made itself may hold what is this step's only."""
        used = {x for node in nodes if node not in inner for x in node.inputs()} | {*outputs}
        gave = [x for x in inner if x in used]
        cls, args = frame.f_locals["cls"], frame.f_locals["args"]
        plain = cls in self.rules and all(isinstance(x, (Tensor, bool, int, float, str, type(None))) for x in args)
        known = all(self.root.get(id(x), id(x)) in self.of for x in args if isinstance(x, Tensor))
        if len(gave) != 1 or not plain or not known or any(x.draws for x in inner):
            return not gave
        gave[0].rule = weakref.ref(cls), tuple(map(self.node_or_same, args))
        for node in inner - set(gave):
            node.inner = True
        return True

    def node(self, x: Tensor) -> Node:
        found = self.of.get(self.root.get(id(x), id(x)))
        if found is None:
            raise Refused("it uses a tensor that is not among its arguments; give it in params")
        return found

    def put(self, x: Tensor, node: Node) -> Tensor:
        """What was done, and what this tensor is from here on."""
        self.write(node)
        return self.name(x, node)

    def name(self, x: Tensor, node: Node) -> Tensor:
        self.of[self.root.get(id(x), id(x))] = node
        self.alive.append(x)
        return x

    def write(self, node: Node) -> None:
        self.nodes.append(node)
        if node.name == LEAF or any(x in self.depends for x in node.inputs()):
            self.depends.add(node)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _on_meta(args, kwargs or {}):  # torch's own bookkeeping in forward mode, of shapes alone
            return func(*args, **(kwargs or {}))
        memory_format = (kwargs or {}).get("memory_format")
        kwargs = {k: x for k, x in (kwargs or {}).items() if k not in PLACES and x is not None}
        first = len(self.nodes)
        result = self.dispatched(func.overloadpacket.__name__, func, args, kwargs)
        if func is torch.ops.aten.clone.default and memory_format not in (None, torch.preserve_format):
            # By `contiguous`: of a tensor that lies so already it would be the tensor itself.
            self.viewed |= {self.root.get(id(x), id(x)) for x in (*args[:1], result)}
        if self.differentiable and not torch.is_grad_enabled():
            if (frame := call_of_a_function(record.__code__)) is not None:
                self.calls.setdefault(frame, []).extend(self.nodes[first:])
                return result
            for x in result if isinstance(result, (tuple, list)) else [result]:
                self.cut(x)
        return result

    def cut(self, x: Any) -> None:
        """No derivative goes through to this tensor, which was made under `no_grad`."""
        node = self.of.get(self.root.get(id(x), id(x)))
        if node in self.depends and x.is_floating_point() and node.name not in (LEAF, "detach"):
            self.within_no_grad = True
            self.put(x, self.made("detach", torch.ops.aten.detach.default, (node,), {}, x))

    def dispatched(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        if name in CHECKS or name in TYPES:
            return func(*args, **kwargs)
        if name == "lift_fresh" and id(args[0]) not in self.of and args[0].numel() == 1 and not args[0].dim():
            return self.put(args[0], self.made(CONSTANT, None, (args[0].item(),), {}, args[0]))
        if (
            name in NORMS and len(args) == 8 and args[5] and args[3] is not None
        ):  # fewer are those without running statistics
            return self.normalised(args)
        if name in NUMBERS:
            raise Refused(f"it takes a number out of a tensor, by {name}{place(users_line())}")
        if "out" in kwargs:
            raise Refused(f"it writes into a tensor, by {func}{place(users_line())}")
        if name in EMPTY:  # its numbers are nobody's, until something is written there
            fewer = [[0] * len(x) if isinstance(x, (list, tuple)) else _number(x) for x in args]
            like = func(*fewer, **kwargs)
            size = _size(args, [x for x in args if isinstance(x, Tensor)])
            self.alive.append(stand_in(size, torch.zeros((), dtype=like.dtype, device="cpu")))
            if name == "empty_like":
                self.likes[id(self.alive[-1])] = (self.node(args[0]),) if self._known(args[0]) else ()
            return self.alive[-1]
        if func is torch.ops.aten.view.dtype:
            raise Refused(f"it reads the bits of numbers as other numbers{place(users_line())}")
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
        same = name == "alias" and torch.is_grad_enabled() or name in VIEWS and self.of.get(root) not in self.depends
        if same or root not in self.of:  # another name of the same, or of what has no numbers yet
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
            raise Refused(f"it writes into a tensor that has views: {func}{place(users_line())}")
        if self.root.get(id(x), id(x)) in self.given:
            raise Refused(f"it mutates its arguments: {func}{place(users_line())}")
        if not torch.is_grad_enabled():
            self.own = self.own or f"it writes into a tensor under no_grad{place(users_line())}"
        if torch.Tag.nondeterministic_seeded in func.tags:
            node = self.made(DRAWN, func, (None, *map(self.node_or_same, args[1:])), self._plain(kwargs), x)
            node.why, node.draws = f"{func} draws{place(users_line())}", True
            node.like = self.likes.get(self.root.get(id(x), id(x)), ())
            self._refuse_a_seed()
            return self.put(x, node)
        if name in ("copy", "fill", "zero"):
            value = args[1] if len(args) > 1 else 0
            if isinstance(value, Tensor):
                torch.broadcast_to(value, x.shape)  # raises where it does not fit
                new = self.made("_to_copy", torch.ops.aten._to_copy.default, (self.node(value),), {"dtype": x.dtype}, x)
                if value.shape != x.shape:
                    new.shape = value.shape
                    self.write(new)
                    new = self.made("expand", torch.ops.aten.expand.default, (new, list(x.shape)), {}, x)
            else:
                new = self.made("full", torch.ops.aten.full.default, (list(x.shape), value), {}, x)
            return self.put(x, new)
        packet = getattr(torch.ops.aten, name)
        if name in SHAPES:
            before = self.node(
                func(*args)
            )  # torch does so to its own results: the tensor itself has another shape then
            return self.put(x, self.made(name, packet, (before, *args[1:]), {}, x))
        result = self.computed(name, packet, args, kwargs)
        new, shape = self.node(result), result.shape
        if shape != x.shape:
            raise RuntimeError(f"output with shape {list(x.shape)} doesn't match the broadcast shape {list(shape)}")
        if result.dtype != x.dtype:
            if not torch.can_cast(result.dtype, x.dtype):
                raise RuntimeError(f"result type {result.dtype} can't be cast to the desired output type {x.dtype}")
            return self.put(x, self.made("_to_copy", torch.ops.aten._to_copy.default, (new,), {"dtype": x.dtype}, x))
        return self.name(x, new)

    def computed(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """The operation on the single numbers, its result at the shape that it has of the stand-ins."""
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        nodes = {id(x): self.node(x) for x in tensors}
        node_of = lambda x: nodes[id(x)] if isinstance(x, Tensor) else x
        if name not in LOWER and name not in SUMS:
            raise Refused(f"{func} is not pointwise{place(users_line())}")
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
        args = [x for x in args if not (name in FILLED and isinstance(x, Tensor))]  # whose shape is all it is asked for
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
        return self.whole(func, args, kwargs) if result is NotImplemented else result

    def whole(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation that is not pointwise. Its result has the shape that torch works out, and no numbers."""
        if func.overloadpacket.__name__.startswith(("_embedding_bag", "as_strided")):
            raise Refused(f"{func} looks at how its argument lies in memory{place(users_line())}")
        if func._schema.is_mutable:
            raise Refused(f"it writes into a tensor, by {func}{place(users_line())}")
        view = any(x.alias_info is not None for x in func._schema.returns)
        given, named = tree_map(self.node_or_same, (list(args), self._plain(kwargs)))
        found = func(*args, **kwargs) if view else _shapes(func, args, kwargs)
        several = isinstance(found, (tuple, list))
        parts = list(found) if several else [found]
        if not parts or not all(isinstance(x, Tensor) and x.layout == torch.strided for x in parts):
            raise Refused(f"{func} gives what is no tensor{place(users_line())}")
        if not view:
            parts = [stand_in(x.shape, torch.zeros((), dtype=x.dtype, device="cpu")) for x in parts]
        node = self.made(func.overloadpacket.__name__, func, tuple(given), named, parts[0])
        node.draws = torch.Tag.nondeterministic_seeded in func.tags
        node.why = f"{func} {'draws' if node.draws else 'is not pointwise'}{place(node.line)}"
        if node.draws:
            node.like = tuple(node.inputs())
            self._refuse_a_seed()
        if several:
            self.write(node)
        for i, x in enumerate(parts):
            self.put(x, part(node, i, x.dtype, x.shape) if several else node)
        if view:
            self.viewed |= {id(x) for x in parts}
            self.viewed |= {self.root.get(id(x), id(x)) for x in tree_leaves(args) if isinstance(x, Tensor)}
        return type(found)(parts) if several else parts[0]

    def normalised(self, args: Any) -> Any:
        """Batch normalisation in training: without its running statistics, and what these become by themselves."""
        x, weight, bias, mean, var, training, momentum, eps = args
        axes = [0, *range(2, x.dim())]
        with self:
            bare = x.detach()
            for running, now in ((mean, bare.mean(axes)), (var, bare.var(axes, unbiased=True))):
                running.copy_((1 - momentum) * running + momentum * now)
        return self.whole(
            torch.ops.aten.native_batch_norm.default, (x, weight, bias, None, None, True, momentum, eps), {}
        )

    def _known(self, x: Tensor) -> bool:
        return self.root.get(id(x), id(x)) in self.of

    def _refuse_a_seed(self) -> None:
        # Nothing is drawn while a step is read: if the generator has moved, the step has seeded it.
        if not torch.equal(torch.get_rng_state(), self.drawn):
            raise Refused(f"it seeds torch's generator{place(users_line())}")

    def node_or_same(self, x: Any) -> Any:
        return self.node(x) if isinstance(x, Tensor) else x

    @staticmethod
    def _plain(kwargs: Any) -> dict[str, Any]:
        if "generator" in kwargs:
            raise Refused(f"it draws from a generator of its own{place(users_line())}")
        return dict(kwargs)

    def made(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], like: Tensor) -> Node:
        return Node(name, func, args, kwargs, like.dtype, like.shape, like.dtype, users_line())


def _on_meta(args: Any, kwargs: Any) -> bool:
    device = kwargs.get("device")
    if device is not None and torch.device(device).type == "meta":
        return True
    return any(isinstance(x, Tensor) and x.is_meta for x in args)


def _shapes(func: Any, args: Any, kwargs: Any) -> Any:
    """What the operation gives, as tensors without memory."""
    bare = lambda x: torch.empty(x.shape, dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x
    given, named = tree_map(bare, (list(args), dict(kwargs)))
    factory = not any(isinstance(x, Tensor) for x in tree_leaves((given, named)))
    try:
        return func(*given, **named, **({"device": "meta"} if factory else {}))
    except Exception as error:
        raise Refused(f"{func} fails: {(str(error).splitlines() or [''])[0]}{place(users_line())}") from error


NORMS = {"native_batch_norm", "_native_batch_norm_legit"}
TYPES = {"promote_types", "result_type", "can_cast"}
EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
PLACES = {"device", "layout", "pin_memory", "memory_format", "non_blocking"}
NUMBERS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "allclose"}


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
