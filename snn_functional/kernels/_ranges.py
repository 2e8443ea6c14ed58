"""What is known of a number before it is there: between which bounds it lies, and whether it may be NaN or -0.0.

Some lines are the identity for nearly all numbers: `x + 0.0` is x except at -0.0, `x - x` is 0 except at inf and NaN. The writer of a
program leaves such a line out where the ranges prove that the exception cannot happen, as in a surrogate's `h - h.detach()`, whose
argument is finite by `nan_to_num`. What cannot be proved is computed.

A bound is worked out in float64 and rounded to the dtype, as the operation itself would be: rounding is monotone, and twice is the
same as once from float64 to float32, for + - x / and the square root. So bounds hold to the last bit.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch

from ._program import Const, Line, Operand, rounded


INF = math.inf


@dataclasses.dataclass(frozen=True)
class Range:
    """`low <= x <= high`, or NaN where `nan`. Zero is zero to the bounds; `minus` says that it may be -0.0."""

    low: float = -INF
    high: float = INF
    nan: bool = True
    minus: bool = True

    @property
    def finite(self) -> bool:
        return not self.nan and -INF < self.low and self.high < INF

    @property
    def zero(self) -> bool:
        return self.low <= 0 <= self.high

    @property
    def infinite(self) -> bool:
        """May it be inf or -inf?"""
        return self.low == -INF or self.high == INF

    @property
    def positive(self) -> bool:
        """Has it no sign bit?"""
        return self.low >= 0 and not self.minus


ANY = Range()
UNIT = Range(-1.001, 1.001)  # no function's last bits are relied on
BOUNDED = {
    "sin": UNIT, "cos": UNIT, "tanh": UNIT, "erf": UNIT, "atan": Range(-1.58, 1.58), "atan2": Range(-3.15, 3.15),
    "erfc": Range(0, 2.001), "exp": Range(0), "exp2": Range(0), "cosh": Range(0), "expm1": Range(-1.001),
    "asin": Range(-1.58, 1.58), "acos": Range(0, 3.15),
}  # fmt: skip
TOTAL = {"tanh", "erf", "erfc", "atan", "exp", "exp2", "expm1"}  # NaN only of NaN
FALLING = {"exp", "exp2", "expm1"}  # at most what they are at 0, of what is not positive
MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}
OPPOSITE = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


class Ranges:
    """The ranges of a program's operands. `lines` are written on; `numbers` are the free ones."""

    def __init__(self, lines: Sequence[Line], numbers: Mapping[Operand, float]) -> None:
        self.lines, self.numbers = lines, numbers
        self.made: dict[Operand, Line] = {}
        self.known: dict[Operand, Range] = {}

    def of(self, x: Operand) -> Range:
        # In the order of the lines: a program may be too long for a recursion.
        for line in self.lines[len(self.made) :]:
            self.made[line.result] = line
            self.known[line.result] = self._found(line.result)
        return self._of(x)

    def _of(self, x: Operand) -> Range:
        if x not in self.known:
            self.known[x] = self._found(x)
        return self.known[x]

    def _found(self, x: Operand) -> Range:
        value = x.value if isinstance(x, Const) else self.numbers.get(x)
        if value is not None:
            value = float(value)
            zero = value == 0 and math.copysign(1, value) < 0
            return ANY if math.isnan(value) else Range(value, value, False, zero)
        line = self.made.get(x)
        if x.dtype == torch.bool:
            return Range(0, 1, False, False)
        if not x.dtype.is_floating_point:
            return Range(torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max, False, False)
        if line is None or (line.op not in RULES and line.op not in BOUNDED and line.op != "where"):
            return ANY
        if line.op == "where":
            condition, a, b = line.operands
            a, b = self._where(condition, True, a), self._where(condition, False, b)
            return Range(min(a.low, b.low), max(a.high, b.high), a.nan or b.nan, a.minus or b.minus)
        operands = [self._of(operand) for operand in line.operands]
        if line.op == "mul" and (sign := self._square(*line.operands)):
            found = _square(operands[0]) if sign > 0 else _neg(_square(operands[0]))
        else:
            found = RULES[line.op](*operands) if line.op in RULES else _bounded(line.op, operands)
        return Range(rounded(found.low, x.dtype), rounded(found.high, x.dtype), found.nan, found.minus)

    def _square(self, a: Operand, b: Operand) -> int:
        """1 for the product of x and x, -1 for that of x and -x, 0 for another."""
        if a == b:
            return 1
        opposite = any(
            (line := self.made.get(x)) and line.op == "neg" and line.operands[0] == y for x, y in ((a, b), (b, a))
        )
        return -1 if opposite else 0

    def _where(self, condition: Operand, truth: bool, x: Operand) -> Range:
        """x, where it is known that the condition is, or is not, true."""
        known, line = self._of(x), self.made.get(condition)
        if line is None:
            return known
        if line.op == "and" and truth:
            a, b = (self._where(part, True, x) for part in line.operands)
            return Range(max(a.low, b.low), min(a.high, b.high), a.nan and b.nan, a.minus and b.minus)
        if line.op not in MIRRORED:
            return known
        left, right = line.operands
        largest = torch.finfo(x.dtype).max if x.dtype.is_floating_point else INF
        if left == right == x:
            return dataclasses.replace(known, nan=known.nan and (line.op, truth) not in (("eq", True), ("ne", False)))
        if left == x:
            return _compared(known, line.op, self._of(right), truth, largest)
        if right == x:
            return _compared(known, MIRRORED[line.op], self._of(left), truth, largest)
        size = self.made.get(left)
        if size is not None and size.op == "abs" and size.operands == (x,):
            found = _compared(self._of(left), line.op, self._of(right), truth, largest)
            low, high = max(known.low, -found.high), min(known.high, found.high)
            return Range(low, high, known.nan and found.nan, known.minus)
        return known


def _compared(x: Range, op: str, bound: Range, truth: bool, largest: float) -> Range:
    """x, where `x op bound` is true, or false. `largest` is the largest finite number of its dtype."""
    if not truth and bound.nan:  # then it may be false whatever x is
        return x
    nan = x.nan and truth == (op == "ne")  # a comparison with NaN is false, but for `!=`
    if not truth:
        op = OPPOSITE[op]
    low, high, minus = x.low, x.high, x.minus
    if op in ("lt", "le", "eq"):
        high = min(high, bound.high)
    if op in ("gt", "ge", "eq"):
        low = max(low, bound.low)
    if op == "lt":
        high, minus = min(high, largest), minus and bound.high > 0
    if op == "gt":
        low, minus = max(low, -largest), minus and bound.low < 0
    return Range(low, high, nan, minus)


def _corners(f: Callable[[float, float], float], a: Range, b: Range, nan: bool, minus: bool) -> Range:
    """The least and the largest of a function that is monotone in each of its arguments. inf - inf and 0 x inf are not numbers."""
    found = [f(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return Range(min(found), max(found), a.nan or b.nan or nan, minus)


def _product(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


def _quotient(x: float, y: float) -> float:
    if y == 0:
        return math.copysign(INF, x) if x else 0.0
    return 0.0 if math.isinf(y) else x / y


def _add(a: Range, b: Range) -> Range:
    low, high = a.low + b.low, a.high + b.high
    apart = a.low == -INF and b.high == INF or a.high == INF and b.low == -INF
    return Range(
        -INF if low != low else low, INF if high != high else high, a.nan or b.nan or apart, a.minus and b.minus
    )


def _neg(a: Range) -> Range:
    return Range(-a.high, -a.low, a.nan, a.zero)


def _sub(a: Range, b: Range) -> Range:
    return _add(a, _neg(b))


def _mul(a: Range, b: Range) -> Range:
    nan = a.zero and b.infinite or a.infinite and b.zero
    return _corners(_product, a, b, nan, not (a.positive and b.positive))


def _square(a: Range) -> Range:
    size = _abs(a)
    return Range(size.low * size.low, size.high * size.high, a.nan, False)


def _div(a: Range, b: Range) -> Range:
    nan, minus = a.zero and b.zero or a.infinite and b.infinite, not (a.positive and b.positive)
    if b.zero:
        low = 0.0 if a.positive and b.positive else -INF
        return Range(low, INF, a.nan or b.nan or nan, minus)
    return _corners(_quotient, a, b, nan, minus)


def _abs(a: Range) -> Range:
    sizes = abs(a.low), abs(a.high)
    return Range(0.0 if a.zero else min(sizes), max(sizes), a.nan, False)


def _min(a: Range, b: Range) -> Range:
    return Range(min(a.low, b.low), min(a.high, b.high), a.nan or b.nan, a.minus or b.minus)


def _max(a: Range, b: Range) -> Range:
    return Range(max(a.low, b.low), max(a.high, b.high), a.nan or b.nan, a.minus or b.minus)


def _sqrt(a: Range) -> Range:
    root = lambda x: math.sqrt(x) if x > 0 else 0.0
    return Range(root(a.low), root(a.high), a.nan or a.low < 0, a.minus)


def _whole(a: Range) -> Range:
    return Range(a.low - 1, a.high + 1, a.nan, a.minus or a.low < 0)


def _sign(a: Range) -> Range:
    return Range(-1.0 if a.low < 0 else 0.0, 1.0 if a.high > 0 else 0.0, a.nan, True)


def _cast(a: Range) -> Range:
    return dataclasses.replace(a, minus=a.minus or a.low < 0)  # what is tiny becomes -0.0


def _bounded(op: str, operands: list[Range]) -> Range:
    bounds, x = BOUNDED[op], operands[0]
    nan = any(a.nan for a in operands) or op not in TOTAL
    high = min(bounds.high, 0.0 if op == "expm1" else 1.0) if op in FALLING and x.high <= 0 else bounds.high
    return Range(bounds.low, high, nan, op not in ("exp", "exp2", "cosh", "erfc", "acos"))


RULES: dict[str, Callable[..., Range]] = {
    "add": _add, "sub": _sub, "mul": _mul, "div": _div, "neg": _neg, "abs": _abs, "min": _min, "max": _max, "sqrt": _sqrt,
    "floor": _whole, "ceil": _whole, "round": _whole, "trunc": _whole, "sign": _sign, "cast": _cast,
}  # fmt: skip
