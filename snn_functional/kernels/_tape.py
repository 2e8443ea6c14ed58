"""What was read of a step: its operations in order, each with the shapes and dtypes that it has there. See `_recorder.py`."""

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._operations import fill_of, FILLED, FIRST, SAME, SHAPES, VIEWS
from ._program import Unsupported


@dataclasses.dataclass(eq=False, slots=True)
class Node:
    """A tensor of the reading: a leaf, a constant, or the result of one of aten's operations on others.

    - `args`: other nodes stand among them, in lists too.
    - `common`: what the operands are converted to, which for a comparison is not the result's dtype.
    - `line`: the user's code.
    - `why`: why it is not pointwise, if so. Its result may then be several tensors, each a node that takes one out (`PART`).
    - `draws`: does it draw from torch's generator? `like`: what tells in which order of memory.
    - `rule`: what gives it is an `autograd.Function`, kept weakly, called so; then it is called, for its derivative, where the node is
      performed. A kernel has what the call did: `inner` nodes, which stand before this one and are nobody else's.
    """

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dtype: torch.dtype
    shape: torch.Size
    common: torch.dtype
    line: tuple[str, int] | None = None
    why: str | None = None
    draws: bool = False
    like: tuple["Node", ...] = ()
    rule: tuple[Any, tuple[Any, ...]] | None = None
    inner: bool = False

    def inputs(self) -> Iterator["Node"]:
        """The nodes among its arguments."""
        for x in (*self.args, *self.kwargs.values(), *(self.rule[1] if self.rule else ())):
            if type(x) is Node:
                yield x
            elif type(x) in (list, tuple):
                yield from (part for part in x if type(part) is Node)

    @property
    def shows(self) -> bool:
        """Is what it gives, or may it be, its argument's memory under another name?"""
        if self.why and self.name != PART:
            return any(x.alias_info is not None for x in self.target._schema.returns)
        return self.name in SHAPES or self.name in SAME or self.name in VIEWS or self.name == PART

    def perform(self, value: Callable[["Node"], Any], device: torch.device) -> Any:
        """The operation itself, on what `value` says its nodes are."""
        name = self.name
        if self.rule:
            return self.rule[0]().apply(*(_given(x, value) for x in self.rule[1]))
        if name == CONSTANT:
            return torch.tensor(self.args[0], dtype=self.dtype)
        if name in FILLED:
            return torch.full(self.shape, fill_of(name, self.args), dtype=self.dtype, device=device)
        args = [_given(x, value) for x in self.args]
        if name == "view_as_real":  # which lacks what torch does first for a conjugate that is not worked out yet
            args = [args[0].resolve_conj()]
        if name in RESHAPES:  # of a stand-in any reshaping is a view
            return args[0].reshape(self.shape)
        if name in SAME:
            return args[0]
        if name == DRAWN:
            return self.target(torch.empty(self.shape, dtype=self.dtype, device=device), *args[1:])
        kwargs = {k: _given(x, value) for k, x in self.kwargs.items()}
        if self.why and not any(True for _ in self.inputs()):
            kwargs["device"] = device
        out = self.target(*args, **kwargs)
        return out[0] if name in FIRST else out


def _given(x: Any, value: Callable[[Node], Any]) -> Any:
    if type(x) is Node:
        return value(x)
    return [_given(part, value) for part in x] if type(x) in (list, tuple) else x


LEAF, CONSTANT, PART, DRAWN = "a leaf", "a constant", "a part", "drawn"
RESHAPES = {"view", "_unsafe_view", "view_copy", "squeeze", "unsqueeze"}
SUMS = {"sum"}


def performed(nodes: Sequence[Node]) -> list[Node]:
    """Those that are done again: what a call of an `autograd.Function` did within is not, the call is."""
    return [node for node in nodes if not node.inner]


def part(whole: Node, i: int, dtype: torch.dtype, shape: torch.Size) -> Node:
    """One of the tensors that an operation gave."""
    return Node(PART, operator.getitem, (whole, i), {}, dtype, shape, dtype, whole.line, whole.why)


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
    """What a function did, in order.

    - `own`: why the derivative of that is not the function's, if so.
    - `cut`: is it detached where the function is under `no_grad`? That is the same backwards, once. Forward mode sees through a
      `no_grad`, and of several levels of `torch.func` all but the innermost do.
    """

    leaves: tuple[Node, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]
    own: str | None = None
    cut: bool = False

    def perform(self, *leaves: Tensor) -> list[Tensor]:
        """The same again, at the shapes that were read."""
        values: dict[Node, Any] = dict(zip(self.leaves, leaves))
        device = leaves[0].device if leaves else torch.device("cpu")
        for node in performed(self.nodes):
            values[node] = node.perform(values.__getitem__, device)
        return [values[node] for node in self.outputs]

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
            if node in needed or node.draws:  # a draw that nobody reads moves the generator, too
                nodes.append(node)
                needed.update(node.inputs())
        return dataclasses.replace(self, nodes=tuple(nodes[::-1]), outputs=outputs)

    def read_leaves(self) -> set[int]:
        """Which leaves any operation or output has use for."""
        used = {x for node in self.nodes for x in node.inputs()}
        used.update(self.outputs)
        return {i for i, leaf in enumerate(self.leaves) if leaf in used}

    def with_leaves(self, which: Sequence[int]) -> "Tape":
        return dataclasses.replace(self, leaves=tuple(self.leaves[i] for i in which))

    def without(self, count: int) -> "Tape":
        """Without the last leaves, which nothing may have read."""
        kept = len(self.leaves) - count
        if any(i >= kept for i in self.read_leaves()):
            raise Unsupported("where it is differentiated it reads what it did not read before")
        return self.with_leaves(range(kept))


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


def broadcast(*shapes: Sequence[int]) -> torch.Size:
    """`torch.broadcast_shapes`, which would import a computer algebra system."""
    size = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for i, n in enumerate(reversed(shape), 1):
            if n != 1 and size[-i] not in (1, n):
                raise RuntimeError(f"the shapes {', '.join(str(list(shape)) for shape in shapes)} do not go together")
            size[-i] = n if n != 1 else size[-i]
    return torch.Size(size)
