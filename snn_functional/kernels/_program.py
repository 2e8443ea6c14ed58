"""What a step does to one neuron in one time step, as a straight line of scalar operations."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Unsupported(Exception):
    """This step has no scalar program; the message says which operation, and where it stands."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A number of the program: a leaf or the result of a line, of a dtype."""

    name: str
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True)
class Const:
    """A number known when the program is written."""

    value: float | int | bool
    dtype: torch.dtype


Operand = Value | Const


@dataclasses.dataclass(frozen=True)
class Line:
    """`result = op(*operands)`; arithmetic is done in `dtype`, which for comparisons is not the result's (bool)."""

    result: Value
    op: str
    operands: tuple[Operand, ...]
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True)
class Program:
    """`leaves -> outputs`."""

    leaves: tuple[Value, ...]
    lines: tuple[Line, ...]
    outputs: tuple[Operand, ...]
    function: Callable[..., Sequence[Tensor]] = dataclasses.field(compare=False, repr=False)

    def only(self, wanted: Sequence[int]) -> "Program":
        """The program of some of the outputs: lines that these do not need are dropped."""
        outputs = tuple(self.outputs[i] for i in wanted)
        needed, lines = set(outputs), []
        for line in reversed(self.lines):
            if line.result in needed:
                needed |= set(line.operands)
                lines.append(line)
        function = lambda *leaves: [self.function(*leaves)[i] for i in wanted]
        return Program(self.leaves, tuple(lines[::-1]), outputs, function)

    def given(self, other: "Program", first: int) -> "Program":
        """The same, with what `other` gives from its output `first` on as further leaves: no line works that out again."""
        ids: dict[Any, int] = {}
        number = lambda key: ids.setdefault(key, len(ids))

        def numbered(program: Program) -> dict[Operand, int]:
            known: dict[Operand, int] = {leaf: number(leaf) for leaf in program.leaves}
            for line in program.lines:
                operands = tuple(known[x] if isinstance(x, Value) else x for x in line.operands)
                known[line.result] = number((line.op, line.dtype, operands))
            return known

        theirs, mine = numbered(other), numbered(self)
        new = [Value(f"b{i}", x.dtype) for i, x in enumerate(other.outputs[first:])]
        known = {theirs[x]: leaf for x, leaf in zip(other.outputs[first:], new) if isinstance(x, Value)}
        place: dict[Operand, Operand] = {x: known[i] for x, i in mine.items() if i in known and x not in self.leaves}
        swap = lambda operands: tuple(place[x] if x in place else x for x in operands)
        lines = tuple(dataclasses.replace(x, operands=swap(x.operands)) for x in self.lines if x.result not in place)
        whole = Program((*self.leaves, *new), lines, swap(self.outputs), self.function)
        return whole.only(range(len(self.outputs)))
