"""Writing a program down, one scalar operation after the other: what stands there already, or is known, is not written again.

Only what keeps every bit is left out of an *exact* program, a forward one: `x - x` where x is finite, `x + 0.0` where x is not -0.0
(the ranges know), `x - 0.0` and `x * 1` always. A derivative is promised to rounding, so there `x + 0` goes too.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from ._program import Const, Line, Operand, Program, rounded, Value
from ._ranges import Range, Ranges


HALF = (torch.float16, torch.bfloat16)
WIDER = {(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float64)}


class Writer:
    """Lines, in order. `prefix` is the letter of the free numbers: the Python floats that were given as operands."""

    def __init__(self, exact: bool = True, prefix: str = "k") -> None:
        self.exact, self.prefix = exact, prefix
        # Is a number made whole and floating again, that may not fit? Compilers leave out the way there and back.
        self.wraps = False
        self._lines: list[Line] = []
        self._written: dict[tuple[Any, ...], Value] = {}
        self._made: dict[Operand, Line] = {}
        self._free: dict[tuple[str, torch.dtype], Value] = {}
        self._numbers: dict[Operand, float] = {}
        self._ranges = Ranges(self._lines, self._numbers)

    def line(
        self, op: str, dtype: torch.dtype, *operands: Operand | float, result: torch.dtype | None = None
    ) -> Operand:
        """`op(*operands)`, computed in `dtype`: an operand that has its value, or a new line's result (of dtype `result`)."""
        # What something is multiplied with, or divided by, is not rounded to half precision before; see `cast`.
        whole = 1 if op in ("mul", "div") else -1
        given = [
            self.cast(x, torch.bool if op == "where" and i == 0 else dtype, rounded=i != whole)
            for i, x in enumerate(operands)
        ]
        same = self._same(op, dtype, given)
        if same is not None:
            return self.cast(same, result or dtype)
        return self._write(op, dtype, tuple(given), result or dtype)

    def cast(self, x: Operand | float, dtype: torch.dtype, rounded: bool = True) -> Operand:
        """x in `dtype`. In half precision torch rounds a number (a Python one, a 0-d float32) to the tensor's dtype first, except
        where it is what a tensor is multiplied with or divided by: then it is computed with as a float32, here `not rounded`.

        Raises OverflowError for a Python number that the dtype cannot hold: torch, too, raises there in some operations.
        """
        wide = torch.float32 if dtype in HALF and not rounded else dtype
        if isinstance(x, Const):
            return _const(x.value, wide)
        if isinstance(x, Value):
            if x.dtype in (dtype, wide):
                return x
            if wide != dtype and x.dtype == torch.float64:
                return self._write("cast", wide, (x,), wide)
            line = self._made.get(x)
            if line is not None and line.op == "cast" and (dtype, x.dtype) in WIDER and line.operands[0].dtype == dtype:
                return line.operands[0]  # there and back again
            return self._write("cast", dtype, (x,), dtype)
        number = self._number(x, wide) if isinstance(x, float) and dtype.is_floating_point else _const(x, wide)
        if (
            isinstance(number, Const)
            and isinstance(number.value, float)
            and math.isinf(number.value)
            and not math.isinf(x)
        ):
            raise OverflowError(f"{x} is beyond {dtype}")
        return number

    def operand(self, x: Operand | float | None) -> Operand:
        """An operand for x, a Python number as torch types it."""
        if isinstance(x, (Value, Const)):
            return x
        if x is None:
            return Const(0.0, torch.float32)
        types: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.get_default_dtype()}
        return self.cast(x, types[type(x)])

    def range(self, x: Operand) -> Range:
        """What is proved of x: its bounds, and whether it may be NaN or -0.0."""
        return self._ranges.of(x)

    def fits(self, x: Operand, dtype: torch.dtype) -> bool:
        """Is it proved that x, without its fraction, is a number of this integer dtype?"""
        found, limits = self._ranges.of(x), torch.iinfo(dtype)
        return found.finite and limits.min <= found.low and found.high <= limits.max

    def program(self, leaves: Sequence[Value], outputs: Sequence[Operand | float | None]) -> Program:
        """What was written, as far as the outputs need it, counted anew: the same lines are the same text."""
        results = tuple(self.operand(x) for x in outputs)
        program = Program(tuple(leaves), tuple(self._lines), results).only(range(len(results)))
        used = dict.fromkeys(x for line in program.lines for x in line.operands) | dict.fromkeys(program.outputs)
        free = [x for x in used if isinstance(x, Value) and x in self._numbers]
        numbers = tuple(self._numbers[x] for x in free)
        whole = Program(program.leaves, program.lines, program.outputs, tuple(free), numbers)
        return whole.renamed("v", self.prefix)

    def _wraps(self, x: Operand) -> bool:
        """Is x a whole number that was made of one which may not have fitted?"""
        line = self._made.get(x)
        if line is None or line.op != "cast" or x.dtype.is_floating_point or x.dtype == torch.bool:
            return False
        return line.operands[0].dtype.is_floating_point and not self.fits(line.operands[0], x.dtype)

    def _write(self, op: str, dtype: torch.dtype, operands: tuple[Operand, ...], result: torch.dtype) -> Operand:
        if op == "cast" and dtype.is_floating_point and self._wraps(operands[0]):
            self.wraps = True
        key = op, dtype, operands, result
        if key not in self._written:
            line = Line(Value(f"v{len(self._lines)}", result), op, operands, dtype)
            self._lines.append(line)
            self._written[key], self._made[line.result] = line.result, line
        return self._written[key]

    def _number(self, value: float, dtype: torch.dtype) -> Operand:
        """A Python float is no part of the text, unless it is a special one: what is 0 or infinite today may be left out."""
        value = rounded(value, dtype)
        if value == 0 or not math.isfinite(value):
            return Const(value, dtype)
        key = value.hex(), dtype
        if key not in self._free:
            self._free[key] = Value(f"{self.prefix}{len(self._free)}", dtype)
            self._numbers[self._free[key]] = value
        return self._free[key]

    def _same(self, op: str, dtype: torch.dtype, operands: Sequence[Operand]) -> Operand | None:
        """The operand that has this operation's value, if there is one."""
        if op == "where":
            condition, a, b = operands
            if isinstance(condition, Const):
                return a if condition.value else b
            return a if a == b else None
        if len(operands) != 2:
            return None
        a, b = operands
        if op == "and":
            x = self._finite(a, b)
            return (
                None
                if x is None
                else self.line("lt", x.dtype, self.line("abs", x.dtype, x), math.inf, result=torch.bool)
            )
        if op == "sub" and a == b and self._ranges.of(a).finite:
            return _const(0, dtype)  # h - h.detach(): a surrogate's shadow, which never shows forward
        if op in ("add", "sub") and _is(b, 0) and self._absorbs(a, b, op == "add"):
            return a
        if op == "add" and _is(a, 0) and self._absorbs(b, a, True):
            return b
        if op in ("mul", "div") and _is(b, 1):
            return a
        return b if op == "mul" and _is(a, 1) else None

    def _absorbs(self, x: Operand, zero: Operand, added: bool) -> bool:
        """Is x plus (or minus) this zero x? It is not at x = -0.0, unless -0.0 is added."""
        if not (self.exact and x.dtype.is_floating_point):
            return True
        minus = math.copysign(1.0, zero.value) < 0 if isinstance(zero, Const) else False
        return minus == added or not self._ranges.of(x).minus

    def _finite(self, a: Operand, b: Operand) -> Operand | None:
        """The x of `(x == x) & (|x| != inf)`, which is one comparison."""
        first, second = self._made.get(a), self._made.get(b)
        if first and second and first.op == "eq" and second.op == "ne" and first.operands[0] == first.operands[1]:
            size, bound = second.operands
            inner = self._made.get(size)
            if (
                inner
                and inner.op == "abs"
                and inner.operands == first.operands[:1]
                and bound == Const(math.inf, size.dtype)
            ):
                return first.operands[0]
        return None


def _const(value: float, dtype: torch.dtype) -> Const:
    if dtype == torch.bool:
        return Const(bool(value), dtype)
    return Const(rounded(float(value), dtype) if dtype.is_floating_point else int(value), dtype)


def _is(x: Operand, number: int) -> bool:
    return isinstance(x, Const) and x.value == number
