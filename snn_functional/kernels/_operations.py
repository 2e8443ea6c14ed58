"""What is pointwise: each of aten's basic operations as one scalar operation or two. Functions of several are in `_formulas.py`."""

import math
from typing import Any

import torch

from ._formulas import formula as formula  # whose rules are in the table, too
from ._program import Const, Operand, Value
from ._rules import Call, FUSED, inexact, LOWER as LOWER, lower as lower, lowers, Number, PLACE, Refusal
from ._writer import HALF, Writer


VIEWS = {"detach", "alias"}  # other names of the same tensor
SHAPES = {"expand", "view", "_unsafe_view", "squeeze", "unsqueeze", "expand_copy", "view_copy"}
FIRST = {"log_sigmoid_forward"}  # of their several results the first alone is read
SAME = {"clone", "lift_fresh", "lift_fresh_copy"}  # copies
ZEROS = {"zeros", "zeros_like", "_efficientzerotensor", "new_zeros", "_new_zeros_with_same_feature_meta"}
ONES = {"ones", "ones_like", "new_ones"}
FILLED = ZEROS | ONES | {"full", "full_like", "scalar_tensor", "new_full"}
CHECKS = {"is_same_size", "_has_same_storage_numel", "_assert_tensor_metadata"}  # no numbers at all


# One operation is one line. Operands are converted to the result's dtype.

ARITHMETIC = {
    "neg": "neg", "abs": "abs", "minimum": "min", "maximum": "max", "sign": "sign", "sgn": "sign",
}  # fmt: skip
WHOLE = {"floor": "floor", "ceil": "ceil", "round": "round", "trunc": "trunc"}
FUNCTIONS = {
    "sqrt": "sqrt", "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "sin": "sin", "cos": "cos", "tan": "tan",
    "tanh": "tanh", "atan": "atan", "asin": "asin", "acos": "acos", "sinh": "sinh", "cosh": "cosh", "erf": "erf", "erfc": "erfc",
    "atan2": "atan2", "exp2": "exp2", "log2": "log2",
}  # fmt: skip
LOGICAL = {
    "logical_and": "and", "logical_or": "or", "logical_xor": "ne", "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "ne",
}  # fmt: skip


@lowers(*ARITHMETIC)
def _arithmetic(write: Writer, call: Call, *args: Number) -> Operand:
    # Of 0.0 and -0.0 the lesser, and the greater, is either: torch's own depends on where in memory a number stands.
    return write.line(ARITHMETIC[call.name], call.dtype, *args)


@lowers(*WHOLE)
def _whole(write: Writer, call: Call, x: Number) -> Operand:
    if not call.dtype.is_floating_point:
        return write.cast(x, call.dtype)
    return write.line(WHOLE[call.name], call.dtype, x)


@lowers(*FUNCTIONS)
def _function(write: Writer, call: Call, *args: Number) -> Operand:
    return write.line(FUNCTIONS[call.name], call.dtype, *args)


@lowers("fmod")
def _fmod(write: Writer, call: Call, a: Number, b: Number) -> Operand:
    inexact(call, f"is NaN or not, where the quotient is large: that {PLACE}")
    return write.line("fmod", call.dtype, a, b)


@lowers("gt", "ge", "lt", "le", "eq", "ne")
def _compare(write: Writer, call: Call, a: Number, b: Number) -> Operand:
    return write.line(call.name, call.common, a, b, result=torch.bool)


@lowers(*LOGICAL)
def _logical(write: Writer, call: Call, a: Number, b: Number) -> Operand:
    if call.dtype != torch.bool:
        raise Refusal(call.name, "works on the bits of integers")
    return write.line(LOGICAL[call.name], torch.bool, a, b)


@lowers("logical_not", "bitwise_not")
def _not(write: Writer, call: Call, x: Number) -> Operand:
    if call.dtype != torch.bool:
        raise Refusal(call.name, "works on the bits of integers")
    return write.line("not", torch.bool, x)


# The same numbers, or numbers made of nothing.


@lowers(*SAME, *VIEWS, *SHAPES)
def _unchanged(write: Writer, call: Call, x: Number, *_: Any) -> Operand:
    return write.operand(x)


@lowers("_to_copy")
def _converted(write: Writer, call: Call, x: Number, *_: Any) -> Operand:
    return write.cast(write.operand(x), call.dtype)


def fill_of(name: str, args: Any) -> Any:
    """The number that an operation of FILLED fills its result with."""
    return 0 if name in ZEROS else 1 if name in ONES else args[-1]


@lowers(*FILLED)
def _filled(write: Writer, call: Call, *args: Any) -> Number:
    number = fill_of(call.name, args)
    return 1 if number == 1 else number  # a fill of 1.0 is no number that somebody chose


@lowers("where")
def _where(write: Writer, call: Call, condition: Number, a: Number, b: Number) -> Operand:
    return write.line("where", call.dtype, condition, a, b)


@lowers("masked_fill")
def _masked_fill(write: Writer, call: Call, x: Number, mask: Number, value: Number) -> Operand:
    return write.line("where", call.dtype, mask, value, x)


@lowers("isnan")
def _isnan(write: Writer, call: Call, x: Operand) -> Operand:
    return write.line("ne", x.dtype, x, x, result=torch.bool)


@lowers("isinf")
def _isinf(write: Writer, call: Call, x: Operand) -> Operand:
    if not x.dtype.is_floating_point:
        return Const(False, torch.bool)
    return write.line("eq", x.dtype, write.line("abs", x.dtype, x), math.inf, result=torch.bool)


@lowers("nan_to_num")
def _nan_to_num(
    write: Writer,
    call: Call,
    x: Number,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
) -> Operand:
    dtype = call.dtype
    if not dtype.is_floating_point:
        return write.cast(x, dtype)
    if nan is not None and nan == posinf == neginf:  # one number for all that is not finite
        finite = write.line("lt", dtype, write.line("abs", dtype, x), math.inf, result=torch.bool)
        return write.line("where", dtype, finite, x, nan)
    limits, result = torch.finfo(dtype), x
    for op, other, fill in (
        ("ne", x, 0.0 if nan is None else nan),
        ("eq", math.inf, Const(limits.max, dtype) if posinf is None else posinf),
        ("eq", -math.inf, Const(limits.min, dtype) if neginf is None else neginf),
    ):
        result = write.line("where", dtype, write.line(op, dtype, x, other, result=torch.bool), fill, result)
    return write.operand(result)


# Sums, products, quotients and powers.


@lowers("add", "sub", "rsub", keywords="alpha")
def _add(write: Writer, call: Call, a: Number, b: Number, alpha: float = 1) -> Operand:
    alpha = call.kwargs.get("alpha", alpha)
    if call.name == "rsub":
        a, b = b, a
    op = "add" if call.name == "add" else "sub"
    if alpha == -1:
        alpha, op = 1, "sub" if op == "add" else "add"
    if alpha != 1:
        if call.dtype.is_floating_point:
            inexact(call, f"with alpha {FUSED}")
        b = write.line("mul", call.dtype, b, alpha)
    return write.line(op, call.dtype, a, b)


@lowers("mul")
def _mul(write: Writer, call: Call, a: Number, b: Number) -> Operand:
    _check_scale(call, b)
    return write.line("and" if call.dtype == torch.bool else "mul", call.dtype, a, b)


@lowers("div", keywords="rounding_mode")
def _div(write: Writer, call: Call, a: Number, b: Number) -> Operand:
    mode, dtype = call.kwargs.get("rounding_mode"), call.dtype
    _check_scale(call, b)
    if mode is None:
        return write.line("div", dtype, a, b)
    if mode == "floor" or not dtype.is_floating_point:
        # Not the floor of the quotient, which is rounded; an integer's may be one by zero.
        raise Refusal(call.name, f"with rounding_mode={mode!r} has no formula")
    if dtype in HALF and isinstance(b, Value) and b.dtype == dtype:
        inexact(call, "rounds the quotient first where its divisor is many numbers, and not where it is one")
    wide = torch.float32 if dtype in HALF else dtype
    a, b = write.cast(write.cast(a, dtype), wide), write.cast(write.cast(b, dtype, rounded=False), wide)
    return write.line("trunc", wide, write.line("div", wide, a, b))


def _check_scale(call: Call, b: Number) -> None:
    if call.dtype in HALF and isinstance(b, Value) and b.dtype in (torch.int16, torch.int32, torch.int64):
        inexact(call, "rounds an integer tensor of many numbers to half precision, and not one of one number")


@lowers("reciprocal")
def _reciprocal(write: Writer, call: Call, x: Number) -> Operand:
    return write.line("div", call.dtype, 1, x)


@lowers("rsqrt")
def _rsqrt(write: Writer, call: Call, x: Number) -> Operand:
    if call.dtype in HALF:
        inexact(call, f"in half precision rounds the root first, or not: that {PLACE}")
    return write.line("div", call.dtype, 1, write.line("sqrt", call.dtype, x))


@lowers("pow")
def _pow(write: Writer, call: Call, base: Number, exponent: Number) -> Number:
    """Exponents that torch computes otherwise than by its power are part of the text, whatever they are."""
    dtype = call.dtype
    number = exponent.value if isinstance(exponent, Const) else None if isinstance(exponent, Value) else exponent
    if not dtype.is_floating_point and number not in (0, 1, 2, 3):
        raise Refusal(call.name, "of integers has no formula")
    if number == 0:
        return Const(1, dtype)
    if number == 1:
        return write.cast(base, dtype)
    if number == 2 or number == 3 and dtype != torch.float16:
        square = write.line("mul", dtype, base, write.cast(base, dtype))
        return square if number == 2 else write.line("mul", dtype, square, write.cast(base, dtype))
    if number == -1:
        return write.line("div", dtype, 1, base)
    if number == -0.5 and dtype != torch.float16:
        return _rsqrt(write, call, base)
    if number == -2 and dtype != torch.float16:
        return write.line("div", dtype, 1, write.line("mul", dtype, base, write.cast(base, dtype)))
    if number == 0.5 and dtype != torch.float16:
        return write.line("sqrt", dtype, base)
    # To float16 none of them is special: its -inf ** 0.5 is inf.
    special = number in (0.5, -0.5, 3, -2)
    return write.line("pow", dtype, base, Const(float(number), dtype) if special and number is not None else exponent)


# Bounds.


@lowers("clamp", keywords="min max")
def _clamp(write: Writer, call: Call, x: Number, low: Number | None = None, high: Number | None = None) -> Operand:
    return _between(write, call.dtype, x, call.kwargs.get("min", low), call.kwargs.get("max", high))


@lowers("clamp_min")
def _clamp_min(write: Writer, call: Call, x: Number, low: Number) -> Operand:
    return _between(write, call.dtype, x, low, None)


@lowers("clamp_max")
def _clamp_max(write: Writer, call: Call, x: Number, high: Number) -> Operand:
    return _between(write, call.dtype, x, None, high)


@lowers("relu")
def _relu(write: Writer, call: Call, x: Number) -> Operand:
    return _between(write, call.dtype, x, 0, None)


@lowers("hardtanh")
def _hardtanh(write: Writer, call: Call, x: Number, low: float = -1, high: float = 1) -> Operand:
    return _between(write, call.dtype, x, low, high)


def _between(write: Writer, dtype: torch.dtype, x: Number, low: Number | None, high: Number | None) -> Operand:
    """As two selections, which vectorise and let NaN pass as torch's does."""
    result = write.cast(x, dtype)
    for bound, op in ((low, "lt"), (high, "gt")):
        if bound is None:
            continue
        if isinstance(bound, Value):  # NaN in a bound is NaN in the result
            result = write.line({"lt": "max", "gt": "min"}[op], dtype, result, bound)
            continue
        bound = bound.value if isinstance(bound, Const) else bound
        if bound != bound:
            return Const(math.nan, dtype)
        result = write.line("where", dtype, write.line(op, dtype, result, bound, result=torch.bool), bound, result)
    return result


@lowers("frac")
def _frac(write: Writer, call: Call, x: Number) -> Operand:
    return write.line("sub", call.dtype, x, write.line("trunc", call.dtype, x))
