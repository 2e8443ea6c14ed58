"""What a step does to one neuron in one time step, as a straight line of scalar operations.

a0, a1, ...     the leaves: what a neuron is given
v0, v1, ...     the results of the lines
k0, k1, ...     the free numbers: Python floats that the user's code holds (a slope, a decay). They are numbers of the call, not of
                the text, so that a slope which changes with every update is one program, and one kernel
"""

import contextlib
import ctypes
import dataclasses
import struct
import threading
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch


class Unsupported(Exception):
    """This step has no scalar program; the message says which operation, and where it stands."""


class Refused(Unsupported):
    """What a step is told while it is read. One that catches exceptions would go on, as it does not in the loop: so it is remembered."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if (said := getattr(_reading, "said", None)) is not None:
            said.append(args)


_reading = threading.local()


def being_read() -> bool:
    """Is a step being read now?"""
    return getattr(_reading, "said", None) is not None


@contextlib.contextmanager
def not_to_be_caught() -> Iterator[None]:
    """Around a reading: raises what was `Refused` in it, even if the step has caught that."""
    before, _reading.said = getattr(_reading, "said", None), []
    try:
        yield
        if _reading.said:
            raise Unsupported(*_reading.said[0])
    finally:
        _reading.said = before


@dataclasses.dataclass(frozen=True)
class Value:
    """A number of the program that is not known when it is written: a leaf, a free number or the result of a line, of a dtype."""

    name: str
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Const:
    """A number known when the program is written. Two are the same if their bits are: 0.0 is not -0.0, and NaN is NaN."""

    value: float | int | bool
    dtype: torch.dtype

    def __str__(self) -> str:
        return self.value.hex() if isinstance(self.value, float) else str(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Const) and self.dtype == other.dtype and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((str(self), self.dtype))


Operand = Value | Const


@dataclasses.dataclass(frozen=True)
class Line:
    """`result = op(*operands)`; arithmetic is done in `dtype`, which for comparisons is not the result's (bool)."""

    result: Value
    op: str
    operands: tuple[Operand, ...]
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """`leaves -> outputs`.

    Two programs are equal if their texts are: what the free numbers are is no part of that. `numbers` are
    the values of `free`, in order, each rounded to its dtype.
    """

    leaves: tuple[Value, ...]
    lines: tuple[Line, ...]
    outputs: tuple[Operand, ...]
    free: tuple[Value, ...] = ()
    numbers: tuple[float, ...] = ()

    @cached_property
    def text(self) -> str:
        """All that a kernel depends on."""
        of = lambda operands: ", ".join(x.name if isinstance(x, Value) else f"{x}:{x.dtype}" for x in operands)
        typed = lambda values: ", ".join(f"{x.name}: {x.dtype}" for x in values)
        lines = [f"{x.result.name}: {x.result.dtype} = {x.op} {x.dtype} ({of(x.operands)})" for x in self.lines]
        return "\n".join([typed(self.leaves), typed(self.free), *lines, of(self.outputs)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @cached_property
    def used(self) -> set[Operand]:
        """All that is computed with or given."""
        return {x for line in self.lines for x in line.operands} | set(self.outputs)

    def numbered(self, ids: dict[Any, int], changed: Collection[int] = ()) -> dict[Operand, Any]:
        """Every value as a number: the same one for what computes the same of leaves and numbers, in all programs with these `ids`.
        Of the leaves `changed`, a cast is no other value."""
        number = lambda key: ids.setdefault(key, len(ids))
        known: dict[Operand, Any] = {leaf: number(("leaf", i)) for i, leaf in enumerate(self.leaves)}
        known |= {x: number((value.hex(), x.dtype)) for x, value in zip(self.free, self.numbers)}
        for line in self.lines:
            operands = tuple(known[x] if isinstance(x, Value) else x for x in line.operands)
            same = line.op == "cast" and operands[0] in [known[self.leaves[i]] for i in changed]
            known[line.result] = operands[0] if same else number((line.op, line.dtype, line.result.dtype, operands))
        return known

    def expressions(self, ids: dict[Any, int], changed: Collection[int] = ()) -> list[Any]:
        """Its outputs, numbered so, in whatever order the lines stand."""
        known = self.numbered(ids, changed)
        return [known[x] if isinstance(x, Value) else x for x in self.outputs]

    def only(self, wanted: Sequence[int]) -> "Program":
        """The program of some of the outputs: lines that these do not need are dropped. The free numbers stay, all of them."""
        outputs = tuple(self.outputs[i] for i in wanted)
        needed, lines = set(outputs), []
        for line in reversed(self.lines):
            if line.result in needed:
                needed |= set(line.operands)
                lines.append(line)
        return dataclasses.replace(self, lines=tuple(lines[::-1]), outputs=outputs)

    def reusing(self, other: "Program", first: int) -> "Program":
        """The same, with what `other` gives from its output `first` on as further leaves: no line works that out again.

        Free numbers of the two are the same where their values and dtypes are.
        """
        ids: dict[Any, int] = {}
        theirs, mine = other.numbered(ids), self.numbered(ids)
        new = [Value(f"b{i}", x.dtype) for i, x in enumerate(other.outputs[first:])]
        known = {theirs[x]: leaf for x, leaf in zip(other.outputs[first:], new) if isinstance(x, Value)}
        known_already = {*self.leaves, *self.free}
        place: dict[Operand, Operand] = {x: known[i] for x, i in mine.items() if i in known and x not in known_already}
        swap = lambda operands: tuple(place[x] if x in place else x for x in operands)
        lines = tuple(dataclasses.replace(x, operands=swap(x.operands)) for x in self.lines if x.result not in place)
        whole = dataclasses.replace(self, leaves=(*self.leaves, *new), lines=lines, outputs=swap(self.outputs))
        return whole.only(range(len(self.outputs)))

    def renamed(self, lines: str = "v", numbers: str = "k", leaves: Sequence[str] = ()) -> "Program":
        """The same, lines and free numbers counted anew under these letters, and leaves called so: to stand beside another program in one
        kernel."""
        names = {x: Value(name, x.dtype) for x, name in zip(self.leaves, leaves)}
        names |= {x: Value(f"{numbers}{i}", x.dtype) for i, x in enumerate(self.free)}
        names |= {x.result: Value(f"{lines}{i}", x.result.dtype) for i, x in enumerate(self.lines)}
        swap = lambda operands: tuple(names.get(x, x) for x in operands)
        new = [dataclasses.replace(x, result=names[x.result], operands=swap(x.operands)) for x in self.lines]
        leaves_, outputs, free = map(swap, (self.leaves, self.outputs, self.free))
        return dataclasses.replace(self, leaves=leaves_, lines=tuple(new), outputs=outputs, free=free)


def rounded(value: float, dtype: torch.dtype) -> float:
    """A Python float as torch rounds it to a floating dtype: to half precision by way of float32.

    In plain Python, because a step is read while torch's operations are recorded.
    """
    if dtype == torch.float64:
        return value
    value = ctypes.c_float(value).value
    if dtype == torch.float16:
        try:
            return struct.unpack("e", struct.pack("e", value))[0]
        except OverflowError:
            return float("inf") if value > 0 else -float("inf")
    if dtype == torch.bfloat16 and value == value:
        (bits,) = struct.unpack("I", struct.pack("f", value))
        return struct.unpack("f", struct.pack("I", (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000))[0]
    return value
