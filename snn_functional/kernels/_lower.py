"""From a tape to a program: aten's operations on tensors of many shapes become scalar ones, on what each neuron is given.

A pointwise operation is the same for every neuron, so shapes are dropped, once it is clear that they do nothing but broadcast from the
right. A derivative also sums: the cotangent of a number that many neurons share is the sum of theirs. Such sums are left out too
(`Sums` sees to it that this is right) and made outside, once for all time steps.
"""

from collections.abc import Collection
from typing import Any

import torch

from ._lines import place
from ._operations import fill_of, FILLED, SAME, SHAPES, VIEWS
from ._program import Operand, Program, Unsupported, Value
from ._rules import Call, LOWER, lower, Refusal
from ._tape import broadcast, CONSTANT, Node, SUMS, Tape
from ._writer import Writer


def program_of(tape: Tape, *, exact: bool, prefix: str, cotangents: int = 0, checked: bool = False) -> Program:
    """- `exact`: is every bit promised (a step), or rounding only (a derivative)?
    - `prefix`: the letter of the free numbers.
    - `cotangents`: how many of the last leaves are what flows back in a derivative.
    - `checked`: has it been seen already that all sums may be left out?

    Raises Unsupported, by name, for what no scalar operation does.
    """
    write = Writer(exact, prefix)
    leaves = tuple(Value(f"a{i}", leaf.dtype) for i, leaf in enumerate(tape.leaves))
    values: dict[Node, Operand] = dict(zip(tape.leaves, leaves))
    sums = None if checked else Sums.of(tape, cotangents)
    for node in tape.nodes:
        if node.why:
            raise Unsupported(node.why)
        if sums:
            sums.admit(node)
        args = [values[x] if isinstance(x, Node) else x for x in node.args]
        if node.name == CONSTANT or node.name in SUMS:
            values[node] = write.cast(args[0], node.dtype)
        else:
            kwargs = {k: values[x] if isinstance(x, Node) else x for k, x in node.kwargs.items()}
            call = Call(node.name, node.dtype, node.common, kwargs, exact)
            try:
                values[node] = lower(write, call, *args)
            except Refusal as refusal:
                raise Unsupported(
                    f"{node.target} {getattr(refusal, 'why', 'has no formula')} in {node.dtype}{place(node.line)}"
                ) from None
    if write.wraps:
        raise Unsupported("it makes a number whole, which may not fit, and floating again")
    return write.program(leaves, [values[node] for node in tape.outputs])


class Sums:
    """Which values stand for the sum over neurons that share them: of these a program holds what one neuron adds.

    That is right as long as nothing but linear is done with the sum: it is scaled by what the same neurons share, added to another
    such sum, summed further.
    """

    def __init__(self, allowed: bool, summed: Collection[Node] = ()) -> None:
        self.allowed, self.summed = allowed, set(summed)
        self.zeros: set[Node] = set()  # of nothing but zeros: added to a sum they change it for no neuron

    @classmethod
    def of(cls, tape: Tape, cotangents: int) -> "Sums":
        if not cotangents:
            return cls(False)
        # Of a result that is smaller than all lanes, the first of the neurons that share it gets the cotangent, the others 0.
        leaves, flowing = tape.leaves[:-cotangents], tape.leaves[-cotangents:]
        lanes = broadcast(*(leaf.shape for leaf in leaves))
        return cls(True, [x for x in flowing if _stripped(x.shape) != _stripped(lanes)])

    def admit(self, node: Node) -> None:
        if self._is_zero(node):
            self.zeros.add(node)
        tensors = [x for x in (*node.args, *node.kwargs.values()) if isinstance(x, Node)]
        parts = [x for x in tensors if x in self.summed]
        if node.name in SUMS:
            if not self.allowed:
                raise Unsupported(f"{node.target} is not pointwise")
            if parts or _stripped(node.shape) != _stripped(tensors[0].shape):
                self.summed.add(node)
            return
        if node.name in SHAPES and not _fits(tensors[0].shape, node.shape, growing=not parts):
            raise Unsupported(f"{node.target} from {list(tensors[0].shape)} to {list(node.shape)} is not pointwise")
        if parts:
            if not self._linear(node, parts) or any(_stripped(x.shape) != _stripped(node.shape) for x in parts):
                raise Unsupported(f"{node.target} of a sum over neurons is not pointwise")
            self.summed.add(node)

    def _linear(self, node: Node, parts: list[Node]) -> bool:
        name, args = node.name, node.args
        is_sum = [isinstance(x, Node) and x in self.summed for x in args]
        if name in SHAPES or name in SAME or name in VIEWS or name in ("neg", "_to_copy"):
            return True
        if name in ("add", "sub"):
            return all(known or self._zero(x) for known, x in zip(is_sum, args))
        if name == "mul":
            return is_sum.count(True) == 1
        if name == "div" or name.endswith("_backward"):
            return is_sum[0] and is_sum.count(True) == 1
        if name == "where":
            return not is_sum[0] and all(known or self._zero(x) for known, x in zip(is_sum[1:], args[1:]))
        if name == "masked_fill":
            return is_sum[0] and not is_sum[1] and self._zero(args[2])
        return False

    def _zero(self, x: Any) -> bool:
        return x in self.zeros if isinstance(x, Node) else zero(x)

    def _is_zero(self, node: Node) -> bool:
        """Of nothing but zeros, or NaN for every neuron, which a sum is then too."""
        name, args = node.name, node.args
        if zero(node):
            return True
        if name == "mul":
            return any(map(self._zero, args))
        if name in ("add", "sub"):
            return all(map(self._zero, args[:2]))
        if name == "where":
            return all(map(self._zero, args[1:]))
        linear = name in SHAPES or name in SAME or name in VIEWS or name in SUMS or name in ("neg", "_to_copy", "div")
        return (linear or name.endswith("_backward")) and self._zero(args[0])


def zero(x: Any) -> bool:
    if isinstance(x, Node):
        return x.name in FILLED and fill_of(x.name, x.args) == 0 or x.name == CONSTANT and x.args[0] == 0
    return isinstance(x, (int, float)) and x == 0


def _stripped(shape: torch.Size) -> tuple[int, ...]:
    """Without the leading ones, which broadcasting from the right does not see."""
    first = next((i for i, n in enumerate(shape) if n != 1), len(shape))
    return tuple(shape[first:])


def _fits(small: torch.Size, large: torch.Size, growing: bool) -> bool:
    """Does every neuron find its number at the same place, counted from the right?"""
    a, b = _stripped(small), _stripped(large)
    if a == b:
        return True
    return growing and len(a) <= len(b) and all(m in (1, n) for m, n in zip(a[::-1], b[::-1]))


def pointwise(node: Node) -> bool:
    """Is it, in a step, the same operation for every neuron?"""
    if node.why or node.name in SUMS:
        return False
    return node.name not in SHAPES or _fits(next(node.inputs()).shape, node.shape, growing=True)


def elementwise(node: Node) -> bool:
    """Does it, at tensors of any shape, the same to each place?"""
    return not node.why and node.name in LOWER and node.name not in SHAPES and node.name not in FILLED


def made_of_nothing(node: Node) -> bool:
    """Is it a constant?"""
    return not node.rule and (node.name == CONSTANT or node.name in FILLED)


def alike(one: Tape, other: Tape, changed: set[int]) -> bool:
    """Are these the same program, but for the dtypes of the leaves in `changed`?"""
    if any(node.why for node in one.nodes):
        return _outline(one) == _outline(other)
    ids: dict[Any, int] = {}
    first, second = (program_of(tape, exact=True, prefix="k").expressions(ids, changed) for tape in (one, other))
    return first == second


def _outline(tape: Tape) -> list[object]:
    """The operations in order, without their shapes."""
    number = {x: i for i, x in enumerate((*tape.leaves, *tape.nodes))}

    def of(x: Any) -> object:
        return tuple(map(of, x)) if isinstance(x, (list, tuple)) else ("node", number[x]) if isinstance(x, Node) else x

    outline: list[object] = [number[x] for x in tape.outputs]
    for node in tape.nodes:
        args = node.args[:1] if node.name in SHAPES else node.args[-1:] if node.name in FILLED else node.args
        outline.append((node.name, str(node.target), of(args), *((k, of(x)) for k, x in node.kwargs.items())))
    return outline
