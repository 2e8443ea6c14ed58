"""Functions of several operations, and their derivatives, as formulas.

    @formula("silu")
    def _silu(x):
        return x / (1 + exp(-x))

A formula is given its operands as terms, in the dtype that torch computes in: half precision in float32, rounded once, at the end. Python
numbers are given as they are. The order of operations is torch's, so that a formula of + - x / and comparisons has its bits, and of inf,
NaN and -0.0 each makes what torch's makes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from ._program import Const, Operand, rounded, Value
from ._rules import Call, FUSED, inexact as refuse_exact, lowers, Number, PLACE, Refusal
from ._writer import HALF, Writer


class Term:
    """An operand that Python's operators compute with, in one dtype."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, write: Writer, call: Call, dtype: torch.dtype, operand: Operand) -> None:
        self.write, self.call, self.dtype, self.operand = write, call, dtype, operand

    def line(self, op: str, *operands: Any, result: torch.dtype | None = None) -> "Term":
        numbers = [x.operand if isinstance(x, Term) else x for x in operands]
        return Term(self.write, self.call, self.dtype, self.write.line(op, self.dtype, *numbers, result=result))

    def const(self, number: float) -> "Term":
        """A number of the formula's own, and so of the text: no one will give another."""
        return Term(self.write, self.call, self.dtype, Const(number, self.dtype))

    def stored(self) -> "Term":
        """Rounded to the dtype of the result."""
        narrow = self.write.cast(self.operand, self.call.dtype)
        return Term(self.write, self.call, self.dtype, self.write.cast(narrow, self.dtype))

    def __neg__(self) -> "Term":
        return self.line("neg", self)

    def __abs__(self) -> "Term":
        return self.line("abs", self)

    def __add__(self, other: Any) -> "Term":
        return self.line("add", self, other)

    def __radd__(self, other: Any) -> "Term":
        return self.line("add", other, self)

    def __sub__(self, other: Any) -> "Term":
        return self.line("sub", self, other)

    def __rsub__(self, other: Any) -> "Term":
        return self.line("sub", other, self)

    def __mul__(self, other: Any) -> "Term":
        return self.line("mul", self, other)

    def __rmul__(self, other: Any) -> "Term":
        return self.line("mul", other, self)

    def __truediv__(self, other: Any) -> "Term":
        return self.line("div", self, other)

    def __rtruediv__(self, other: Any) -> "Term":
        return self.line("div", other, self)

    def __lt__(self, other: Any) -> "Term":
        return self.line("lt", self, other, result=torch.bool)

    def __le__(self, other: Any) -> "Term":
        return self.line("le", self, other, result=torch.bool)

    def __gt__(self, other: Any) -> "Term":
        return self.line("gt", self, other, result=torch.bool)

    def __ge__(self, other: Any) -> "Term":
        return self.line("ge", self, other, result=torch.bool)

    def __eq__(self, other: Any) -> "Term":  # type: ignore[override]
        return self.line("eq", self, other, result=torch.bool)

    def __ne__(self, other: Any) -> "Term":  # type: ignore[override]
        return self.line("ne", self, other, result=torch.bool)


def _no_nan(x: Term) -> None:
    """Refuses a derivative that is not one function at NaN, where x may be NaN."""
    if x.write.range(x.operand).nan:
        raise Refusal(x.call.name, f"has a slope at NaN that {PLACE}")


def choose(condition: Term, a: Any, b: Any) -> Term:
    """a where the condition is true, b where it is not."""
    return condition.line("where", condition, a, b)


def _function(op: str) -> Callable[[Term], Term]:
    return lambda x: x.line(op, x)


exp, expm1, log, log1p, tanh, erf = map(_function, ("exp", "expm1", "log", "log1p", "tanh", "erf"))
Formula = Callable[..., Term]


def formula(*names: str, keywords: str = "", inexact: str = "", stepwise: bool = False) -> Callable[[Formula], Formula]:
    """The formula of operations of these names. `inexact`: why it has not torch's bits, and may stand in a derivative only.
    `stepwise`: torch rounds to half precision after each operation."""

    def register(function: Formula) -> Formula:
        def rule(write: Writer, call: Call, *args: Any) -> Number:
            if inexact:
                refuse_exact(call, inexact)
            dtype = torch.float32 if call.dtype in HALF and not stepwise else call.dtype

            def term(x: Any) -> Any:
                if not isinstance(x, (Value, Const)):
                    return x
                return Term(write, call, dtype, write.cast(write.cast(x, call.dtype), dtype))

            given = {name: call.kwargs[name] for name in keywords.split() if name in call.kwargs}
            return function(*map(term, args), **given).operand

        lowers(*names, keywords=keywords)(rule)
        return function

    return register


# Piecewise. Which side a NaN falls to is torch's choice.


@formula("threshold")
def _threshold(x: Term, threshold: float, value: float) -> Term:
    return choose(x <= threshold, value, x)


@formula("threshold_backward")
def _threshold_backward(grad: Term, x: Term, threshold: float) -> Term:
    return choose(x <= threshold, 0, grad)


@formula("hardtanh_backward")
def _hardtanh_backward(grad: Term, x: Term, low: float, high: float) -> Term:
    _no_nan(x)
    return choose(x <= low, 0, choose(x >= high, 0, grad))


@formula("leaky_relu")
def _leaky_relu(x: Term, slope: float = 0.01) -> Term:
    return choose(x > 0, x, x * slope)


@formula("leaky_relu_backward")
def _leaky_relu_backward(grad: Term, x: Term, slope: float, of_result: bool) -> Term:
    return choose(x > 0, grad, grad * slope)


@formula("hardshrink")
def _hardshrink(x: Term, bound: float = 0.5) -> Term:
    return choose(x >= -bound, choose(x <= bound, 0, x), x)


@formula("softshrink", inexact=f"has zeros of a sign that {PLACE}")
def _softshrink(x: Term, bound: float = 0.5) -> Term:
    return choose(x > bound, x - bound, choose(x < -bound, x + bound, x * 0))


@formula("hardshrink_backward", "softshrink_backward")
def _shrink_backward(grad: Term, x: Term, bound: float) -> Term:
    _no_nan(x)
    return choose(x >= -bound, choose(x <= bound, 0, grad), grad)


@formula("heaviside")
def _heaviside(x: Term, values: Term) -> Term:
    return choose(x == 0, values, x > 0)


def _clamped(x: Term, low: float, high: float) -> Term:
    x = choose(x < low, low, x)
    return choose(x > high, high, x)


@formula("hardsigmoid")
def _hardsigmoid(x: Term) -> Term:
    return _clamped(x + 3, 0, 6) / 6


@formula("hardsigmoid_backward")
def _hardsigmoid_backward(grad: Term, x: Term) -> Term:
    sixth = x.const(rounded(1 / 6, torch.float32))  # in every dtype
    return choose(x > -3, choose(x < 3, grad * sixth, 0), 0)


@formula("hardswish")
def _hardswish(x: Term) -> Term:
    return x * _clamped(x + 3, 0, 6) / 6


@formula("hardswish_backward")
def _hardswish_backward(grad: Term, x: Term) -> Term:
    _no_nan(x)
    return choose(x <= -3, 0, choose(x < 3, grad * (x / 3 + x.const(0.5)), grad))


# Sums with products in them.


@formula("addcdiv", keywords="value")
def _addcdiv(x: Term, a: Term, b: Term, value: float = 1) -> Term:
    return x + value * a / b


@formula("addcmul", keywords="value", inexact=FUSED)
def _addcmul(x: Term, a: Term, b: Term, value: float = 1) -> Term:
    return x + value * a * b


@formula("lerp", inexact=FUSED)
def _lerp(start: Term, end: Term, weight: Any) -> Term:
    weight = weight if isinstance(weight, Term) else start.const(weight)
    apart = end - start
    return choose(abs(weight) < start.const(0.5), start + weight * apart, end - apart * (1 - weight))


# Smooth: to rounding.


def _logistic(x: Term) -> Term:
    return 1 / (1 + exp(-x))


@formula("sigmoid")
def _sigmoid(x: Term) -> Term:
    return _logistic(x)


@formula("sigmoid_backward")
def _sigmoid_backward(grad: Term, y: Term) -> Term:
    return grad * (1 - y) * y


@formula("tanh_backward")
def _tanh_backward(grad: Term, y: Term) -> Term:
    return grad * (1 - y * y)


@formula("elu")
def _elu(x: Term, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Term:
    return choose(x < 0, expm1(x * input_scale) * (alpha * scale), x * scale)


@formula("celu")
def _celu(x: Term, alpha: float = 1) -> Term:
    return _elu(x, alpha, 1, 1 / alpha)


@formula("elu_backward")
def _elu_backward(grad: Term, alpha: float, scale: float, input_scale: float, of_result: bool, x: Term) -> Term:
    _no_nan(x)
    slope = x + alpha * scale if of_result else alpha * scale * exp(x * input_scale)
    return choose(x <= 0, grad * input_scale * slope, grad * scale)


@formula("softplus")
def _softplus(x: Term, beta: float = 1, threshold: float = 20) -> Term:
    return choose(x * beta > threshold, x, log1p(exp(x * beta)) / beta)


@formula("softplus_backward")
def _softplus_backward(grad: Term, x: Term, beta: float, threshold: float) -> Term:
    grown = exp(x * beta)
    return choose(x * beta > threshold, grad, grad * grown / (grown + 1))


@formula("silu")
def _silu(x: Term) -> Term:
    return x / (1 + exp(-x))


@formula("silu_backward")
def _silu_backward(grad: Term, x: Term) -> Term:
    y = _logistic(x)
    return grad * y * (1 + x * (1 - y))


@formula("mish")
def _mish(x: Term) -> Term:
    return x * tanh(log1p(exp(x)))


@formula("mish_backward")
def _mish_backward(grad: Term, x: Term) -> Term:
    y = tanh(log1p(exp(x)))
    return grad * (y + x * _logistic(x) * (1 - y * y))


@formula("log_sigmoid_forward")
def _log_sigmoid_forward(x: Term) -> Term:
    return choose(x > 0, 0, x) - log1p(exp(-abs(x)))


@formula("log_sigmoid_backward")
def _log_sigmoid_backward(grad: Term, x: Term, *_: Any) -> Term:
    z = exp(-abs(x)).stored()  # as the forward keeps it
    part = z / (1 + z)
    return grad * choose(x < 0, 1 - part, part)


@formula("gelu", keywords="approximate")
def _gelu(x: Term, approximate: str = "none") -> Term:
    if approximate == "none" and x.dtype != torch.float64 and x.call.exact:
        raise Refusal("gelu", "is NaN at inf where oneDNN computes it")
    return x * x.const(0.5) * (1 + _from_minus_one_to_one(x, approximate)[0])


@formula("gelu_backward", keywords="approximate")
def _gelu_backward(grad: Term, x: Term, approximate: str = "none") -> Term:
    y, slope = _from_minus_one_to_one(x, approximate)
    return grad * ((1 + y) * x.const(0.5) + x * slope * x.const(0.5))


def _from_minus_one_to_one(x: Term, approximate: str) -> tuple[Term, Term]:
    """What gelu weighs x with, and its slope."""
    scale = x.const(math.sqrt(2 / math.pi))
    if approximate == "none":
        return erf(x * x.const(math.sqrt(0.5))), exp(x * x * x.const(-0.5)) * scale
    y = tanh(scale * (x + x.const(0.044715) * (x * x * x)))
    return y, (1 - y * y) * (scale * (1 + x.const(3 * 0.044715) * (x * x)))


@formula("logit", stepwise=True)
def _logit(x: Term, eps: float | None = None) -> Term:
    if eps is not None:
        x = _clamped(x, *_inside(x, eps))
    return log(x / (1 - x))


def _inside(x: Term, eps: float) -> tuple[float, float]:
    low = rounded(eps, x.call.dtype)
    return low, rounded(1 - low, x.call.dtype)


@formula("logit_backward")
def _logit_backward(grad: Term, x: Term, eps: float | None = None) -> Term:
    low, high, outside = (0, 1, math.nan) if eps is None else (*_inside(x, eps), 0)
    return choose(x < low, outside, choose(x > high, outside, grad / (x * (1 - x))))


@formula("xlogy", stepwise=True)
def _xlogy(x: Term, y: Term) -> Term:
    return choose(y != y, math.nan, choose(x == 0, 0, x * log(y)))
