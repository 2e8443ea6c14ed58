"""What is pointwise: each of aten's operations as a few scalar ones.

    @lowers("addcmul", keywords="value")
    def _addcmul(write, call, x, a, b): ...

A rule is given a `Writer`, the call, and its positional arguments as operands, Python numbers or None; it gives the result's operand.
What stands in no rule is not pointwise. A rule raises `Refusal` where no formula has torch's bits in the dtype at hand, unless the
program is not `exact`: a derivative is promised to rounding.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from ._program import Const, Operand, Value
from ._writer import HALF, Writer


class Refusal(Exception):
    """This operation is not pointwise, or has no formula."""

    def __init__(self, operation: str) -> None:
        self.operation = operation


class Call(Protocol):
    """A call of an aten operation. `name` is without its overload; `dtype` the result's; `common` that of its first two operands."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def common(self) -> torch.dtype: ...
    @property
    def kwargs(self) -> Mapping[str, Any]: ...
    @property
    def exact(self) -> bool: ...


Number = Operand | float
Rule = Callable[..., Number]

LOWER: dict[str, Rule] = {}
KEYWORDS: dict[str, frozenset[str]] = {}  # those that a rule reads; all others must be these:
HARMLESS = frozenset("dtype layout device pin_memory memory_format non_blocking".split())

VIEWS = {"detach", "alias"}  # other names of the same tensor
SHAPES = {"expand", "view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "expand_copy", "view_copy"}
CHECKS = {"is_same_size", "_has_same_storage_numel", "_assert_tensor_metadata"}  # no numbers at all


def lower(write: Writer, call: Call, *args: Any) -> Operand:
    """The operand of what this call gives. Raises Refusal."""
    rule = LOWER.get(call.name)
    if rule is None or set(call.kwargs) - HARMLESS - KEYWORDS[call.name]:
        raise Refusal(call.name)
    return write.cast(rule(write, call, *args), call.dtype)


def lowers(*names: str, keywords: str = "") -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names:
            LOWER[name], KEYWORDS[name] = rule, frozenset(keywords.split())
        return rule

    return register


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What torch computes a function of several operations in, to round once at the end."""
    return torch.float32 if dtype in HALF else dtype


# One operation is one line. Operands are converted to the result's dtype.

ARITHMETIC = {
    "mul": "mul", "div": "div", "true_divide": "div", "neg": "neg", "abs": "abs", "minimum": "min", "maximum": "max",
    "sqrt": "sqrt", "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "sin": "sin", "cos": "cos", "tan": "tan",
    "tanh": "tanh", "atan": "atan", "asin": "asin", "acos": "acos", "sinh": "sinh", "cosh": "cosh", "erf": "erf", "erfc": "erfc",
    "floor": "floor", "ceil": "ceil", "round": "round", "trunc": "trunc", "sign": "sign", "sgn": "sign", "atan2": "atan2",
    "fmod": "fmod", "exp2": "exp2", "log2": "log2",
}  # fmt: skip
LOGICAL = {
    "logical_and": "and", "logical_or": "or", "logical_xor": "ne", "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "ne",
}  # fmt: skip


def _arithmetic(op: str) -> Rule:
    return lambda write, call, *args: write.line(op, call.dtype, *args)


for _name, _op in ARITHMETIC.items():
    lowers(_name)(_arithmetic(_op))


@lowers("gt", "ge", "lt", "le", "eq", "ne")
def _compare(write: Writer, call: Call, a: Number, b: Number) -> Operand:
    return write.line(call.name, call.common, a, b, result=torch.bool)


@lowers(*LOGICAL)
def _logical(write: Writer, call: Call, a: Number, b: Number) -> Operand:
    if call.dtype != torch.bool:
        raise Refusal(call.name)  # the bits of integers
    return write.line(LOGICAL[call.name], torch.bool, a, b)


@lowers("logical_not", "bitwise_not")
def _not(write: Writer, call: Call, x: Number) -> Operand:
    if call.dtype != torch.bool:
        raise Refusal(call.name)
    return write.line("not", torch.bool, x)


# The same numbers, or numbers made of nothing.


@lowers("clone", "lift_fresh", "lift_fresh_copy", "positive", "resolve_conj", *VIEWS, *SHAPES)
def _unchanged(write: Writer, call: Call, x: Number, *_: Any) -> Operand:
    return write.operand(x)


@lowers("_to_copy", "convert_element_type")
def _converted(write: Writer, call: Call, x: Number, *_: Any) -> Operand:
    return write.cast(write.operand(x), call.dtype)


@lowers("copy", "fill")
def _copied(write: Writer, call: Call, x: Number, value: Number, *_: Any) -> Number:
    return value


@lowers("zeros", "zeros_like", "_efficientzerotensor", "new_zeros", "_new_zeros_with_same_feature_meta", "zero")
def _zeros(write: Writer, call: Call, *_: Any) -> Number:
    return 0


@lowers("ones", "ones_like", "new_ones")
def _ones(write: Writer, call: Call, *_: Any) -> Number:
    return 1


@lowers("full", "full_like", "scalar_tensor", "new_full")
def _full(write: Writer, call: Call, *args: Any) -> Number:
    return 1 if args[-1] == 1 else args[-1]


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


@lowers("add", "sub", keywords="alpha")
def _add(write: Writer, call: Call, a: Number, b: Number, alpha: float = 1) -> Operand:
    alpha = call.kwargs.get("alpha", alpha)
    if alpha != 1:
        b = write.line("mul", call.dtype, b, alpha)
    return write.line(call.name, call.dtype, a, b)


@lowers("rsub", keywords="alpha")
def _rsub(write: Writer, call: Call, a: Number, b: Number, alpha: float = 1) -> Operand:
    alpha = call.kwargs.get("alpha", alpha)
    if alpha != 1:
        a = write.line("mul", call.dtype, a, alpha)
    return write.line("sub", call.dtype, b, a)


@lowers("mul")
def _mul(write: Writer, call: Call, a: Number, b: Number) -> Operand:
    return write.line("and" if call.dtype == torch.bool else "mul", call.dtype, a, b)


@lowers("div", keywords="rounding_mode")
def _div(write: Writer, call: Call, a: Number, b: Number) -> Operand:
    mode = call.kwargs.get("rounding_mode")
    if mode == "floor":
        raise Refusal(call.name)  # not the floor of the quotient, which is rounded
    quotient = write.line("div", call.dtype, a, b)
    return quotient if mode is None else write.line(mode, call.dtype, quotient)


@lowers("reciprocal")
def _reciprocal(write: Writer, call: Call, x: Number) -> Operand:
    return write.line("div", call.dtype, 1, x)


@lowers("rsqrt")
def _rsqrt(write: Writer, call: Call, x: Number) -> Operand:
    return write.line("div", call.dtype, 1, write.line("sqrt", call.dtype, x))


@lowers("pow")
def _pow(write: Writer, call: Call, base: Number, exponent: Number) -> Operand:
    dtype = call.dtype
    number = exponent.value if isinstance(exponent, Const) else None if isinstance(exponent, Value) else exponent
    if number in (2, 3):
        square = write.line("mul", dtype, base, base)
        return square if number == 2 else write.line("mul", dtype, square, base)
    if number == 0.5:
        return write.line("sqrt", dtype, base)
    if number is not None and number in (1, -1, -2):
        power = write.cast(base, dtype) if abs(number) == 1 else write.line("mul", dtype, base, base)
        return power if number > 0 else write.line("div", dtype, 1, power)
    return write.line("pow", dtype, base, exponent)


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


# Functions of several operations.


@lowers("sigmoid")
def _sigmoid(write: Writer, call: Call, x: Number) -> Operand:
    dtype = call.dtype
    return write.line(
        "div", dtype, 1, write.line("add", dtype, 1, write.line("exp", dtype, write.line("neg", dtype, x)))
    )
