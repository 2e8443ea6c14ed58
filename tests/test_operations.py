"""Every operation that kernels know against torch's own: at special numbers and random ones, at every place of a long row.

A row is one number, many times over: torch computes most of it in vectors and what is left over one by one, and the two may differ.
Where they do, in the last bits of a smooth function or in the sign of a zero, a kernel's number may be either.
"""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import needs_kernels, trace
from torch.func import grad, jvp

import snn_functional as snf
from snn_functional.kernels import Unsupported
from snn_functional.kernels._operations import LOWER


pytestmark = needs_kernels
aten = torch.ops.aten

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HALF = [torch.bfloat16, torch.float16]
ROW = 77  # whole vectors of every dtype, and some more
KINDS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.int64, torch.int32, torch.uint8]

# Bit for bit. The number in a name is the Python number in the operation.
EXACT = {
    name: getattr(torch, name)
    for name in "neg abs sign floor ceil trunc round reciprocal square frac isnan isinf isfinite".split()
}
EXACT |= {f"to {dtype}": lambda x, dtype=dtype: x.to(dtype) for dtype in KINDS}
EXACT |= {
    "x + 0.3": lambda x: x + 0.3,
    "x - 0.3": lambda x: x - 0.3,
    "0.3 - x": lambda x: 0.3 - x,
    "x * 0.3": lambda x: x * 0.3,
    "x / 0.3": lambda x: x / 0.3,
    "0.3 / x": lambda x: 0.3 / x,
    "x + 0.0": lambda x: x + 0.0,
    "0.0 + x": lambda x: 0.0 + x,
    "x - 0.0": lambda x: x - 0.0,
    "x + -0.0": lambda x: x + -0.0,
    "x - -0.0": lambda x: x - -0.0,
    "x * 1": lambda x: x * 1,
    "x / 1": lambda x: x / 1,
    "x * 3": lambda x: x * 3,
    "x / 3": lambda x: x / 3,
    "x + 1": lambda x: x + 1,
    "x * 0": lambda x: x * 0,
    "x - x": lambda x: x - x,
    "h - h.detach()": lambda x: x * x - (x * x).detach(),
    "x * inf": lambda x: x * math.inf,
    "x + nan": lambda x: x + math.nan,
    "x > 0.3": lambda x: x > 0.3,
    "x >= 0": lambda x: x >= 0,
    "x < 1": lambda x: x < 1,
    "x <= 0.1": lambda x: x <= 0.1,
    "x == 0.5": lambda x: x == 0.5,
    "x != 0": lambda x: x != 0,
    "0.3 < x": lambda x: 0.3 < x,
    "not": lambda x: ~(x > 0),
    "logical_not": lambda x: torch.logical_not(x > 0),
    "and": lambda x: (x > 0) & (x < 1),
    "or": lambda x: (x > 1) | (x < 0),
    "xor": lambda x: (x > 0) ^ (x < 1),
    "logical_xor": lambda x: torch.logical_xor(x > 0, x < 1),
    "logical_and": lambda x: torch.logical_and(x > 0, x < 1),
    "logical_or": lambda x: torch.logical_or(x > 0, x < 1),
    "where": lambda x: torch.where(x > 0, x, 0.3),
    "masked_fill": lambda x: x.masked_fill(x > 0.5, 0.7),
    "relu": torch.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "hardtanh 0.3": lambda x: F.hardtanh(x, -0.3, 0.7),
    "clamp 0.3": lambda x: x.clamp(-0.3, 0.7),
    "clamp 0 1": lambda x: x.clamp(0, 1),
    "clamp min": lambda x: x.clamp(min=0.0),
    "clamp max": lambda x: x.clamp(max=0.0),
    "clamp nan": lambda x: x.clamp(min=math.nan),
    "clamp_min": lambda x: x.clamp_min(0.3),
    "clamp_max": lambda x: x.clamp_max(0.3),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "leaky_relu -2": lambda x: F.leaky_relu(x, -2),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardshrink": F.hardshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 0.7),
    "softsign": F.softsign,
    "nan_to_num": torch.nan_to_num,
    "nan_to_num 0": lambda x: x.nan_to_num(0.0, 0.0, 0.0),
    "nan_to_num 0.5": lambda x: x.nan_to_num(0.5, 1.0),
    "trunc of a quotient": lambda x: torch.div(x, 0.7, rounding_mode="trunc"),
    "x ** 0": lambda x: x**0,
    "x ** 1": lambda x: x**1,
    "x ** 2": lambda x: x**2,
    "x ** 2.0": lambda x: x**2.0,
    "x ** -1": lambda x: x**-1,
    "heaviside": lambda x: torch.heaviside(x, torch.tensor(0.5, dtype=x.dtype)),
    "true_divide": lambda x: torch.true_divide(x, 7),
    "in place": lambda x: x.clone().mul_(0.7).add_(1).clamp_(min=0.1),
    "copy_": lambda x: torch.empty_like(x).copy_(x).neg_(),
    "fill_": lambda x: torch.empty_like(x).fill_(0.3) * x,
    "zero_": lambda x: x.clone().zero_() + x,
    "zeros": lambda x: torch.zeros_like(x) - x,
    "ones": lambda x: torch.ones_like(x) / x,
    "full": lambda x: torch.full_like(x, 0.3) * x,
    "scalar_tensor": lambda x: torch.scalar_tensor(0.3, dtype=x.dtype) + x,
    "new": lambda x: x.new_zeros(()) + x.new_full((), 0.3) + x * x.new_ones(()),
    "views": lambda x: (
        x.view(x.shape).reshape(x.shape).expand(x.shape).squeeze().detach() + torch.ones(()).unsqueeze(0)
    ),
    "copied views": lambda x: aten._unsafe_view(aten.view_copy(aten.expand_copy(x, x.shape), x.shape), x.shape) * 3,
    "made of nothing": lambda x: torch.zeros(()) + torch.ones(()) * torch.full((), 0.3) * x,
    "filled": lambda x: torch.empty(()).fill_(0.3) + x.new_empty(()).fill_(0.7) * x,
    "filled by strides": lambda x: aten.empty_strided((), ()).fill_(0.3) + x.new_empty_strided((), ()).fill_(0.7) * x,
    "positive": lambda x: +x * 2,
    "sgn": lambda x: x.sgn(),
    "rsub": lambda x: torch.rsub(x, 0.3),
}
EXACT_PAIRS = {
    name: getattr(torch, name) for name in "add sub mul div minimum maximum gt ge lt le eq ne heaviside".split()
}
EXACT_PAIRS |= {
    "where": lambda a, b: torch.where(a > b, a, b),
    "clamp min": lambda a, b: torch.clamp(a, min=b),
    "masked_fill": lambda a, b: a.masked_fill(b > 0, 0.3),
    "clamp max": lambda a, b: torch.clamp(a, max=b),
    "clamp both": lambda a, b: torch.clamp(a, min=b, max=b.abs()),
    "clamp_min": lambda a, b: torch.clamp_min(a, b),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b),
    "alpha -1": lambda a, b: torch.add(a, b, alpha=-1),
    "addcdiv 0.3": lambda a, b: torch.addcdiv(a, b, a, value=0.3),
    "alpha 1": lambda a, b: torch.sub(a, b, alpha=-1),
    "prelu": lambda a, b: torch.where(a > 0, a, a * b),
    "(a - b) - (a - b)": lambda a, b: (a - b) - (a - b),
    "a * b + a": lambda a, b: a * b + a,
    "a - b * 0.3": lambda a, b: a - b * 0.3,
}

# To rounding; of inf, NaN and the sign of zero the same.
SMOOTH = {name: getattr(torch, name) for name in
          """sqrt exp expm1 exp2 log log1p log2 sin cos tan tanh sinh cosh asin acos atan erf erfc sigmoid logit selu
celu""".split()}  # fmt: skip
SMOOTH |= {
    "elu": F.elu,
    "elu 0.7": lambda x: F.elu(x, 0.7),
    "celu 0.7": lambda x: F.celu(x, 0.7),
    "softplus": F.softplus,
    "silu": F.silu,
    "mish": F.mish,
    "softplus 2": lambda x: F.softplus(x, 2.0, 3.0),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "logsigmoid": F.logsigmoid,
    "logit 0.1": lambda x: torch.logit(x, 0.1),
    "x ** 0.5": lambda x: x**0.5,
    "2.0 ** x": lambda x: 2.0**x,
    "1.0 ** x": lambda x: 1.0**x,
}
SMOOTH |= {f"x ** {p}": lambda x, p=p: x**p for p in (4, 1.3, -1.3, 1.5, 0.25, -3, 2.5, 1 / 3)}
SMOOTH_PAIRS = {"pow": torch.pow, "atan2": torch.atan2, "xlogy": torch.xlogy}
# Derivatives, called as torch's own calls them: what came back, and the number or the result.
BACKWARD = {
    "sigmoid": lambda g, y: aten.sigmoid_backward(g, y.clamp(0, 1)),
    "tanh": lambda g, y: aten.tanh_backward(g, y.clamp(-1, 1)),
    "silu": aten.silu_backward,
    "mish": aten.mish_backward,
    "hardsigmoid": aten.hardsigmoid_backward,
    "threshold": lambda g, x: aten.threshold_backward(g, x, 0.1),
    "leaky_relu": lambda g, x: aten.leaky_relu_backward(g, x, 0.1, False),
    "softplus": lambda g, x: aten.softplus_backward(g, x, 2.0, 3.0),
    "log_sigmoid": lambda g, x: aten.log_sigmoid_backward(g, x, torch.exp(-x.abs())),
    "gelu tanh": lambda g, x: aten.gelu_backward(g, x, approximate="tanh"),
    "logit": lambda g, x: aten.logit_backward(g, x),
    "logit 0.1": lambda g, x: aten.logit_backward(g, x, 0.1),
    "hardtanh": lambda g, x: aten.hardtanh_backward(g, x.nan_to_num(), -0.3, 0.7),
    "hardshrink": lambda g, x: aten.hardshrink_backward(g, x.nan_to_num(), 0.5),
    "softshrink": lambda g, x: aten.softshrink_backward(g, x.nan_to_num(), 0.5),
    "hardswish": lambda g, x: aten.hardswish_backward(g, x.nan_to_num()),
    "elu": lambda g, x: aten.elu_backward(g, 0.7, 1.2, 0.9, False, x.nan_to_num()),
    "elu of a result": lambda g, x: aten.elu_backward(g, 0.7, 1.2, 0.9, True, x.nan_to_num()),
}

# No formula has torch's bits: the loop, which says why.
REFUSED = {
    "add alpha": (lambda x: torch.add(x, x, alpha=0.3), "aten.add.Tensor with alpha rounds once or twice"),
    "add alpha 2": (lambda x: torch.add(x, x, alpha=2), "aten.add.Tensor with alpha"),
    "sub alpha": (lambda x: torch.sub(x, x, alpha=0.3), "aten.sub.Tensor with alpha"),
    "rsub alpha": (lambda x: torch.rsub(x, x, alpha=0.3), "aten.rsub.Tensor with alpha"),
    "addcmul": (lambda x: torch.addcmul(x, x, x), "aten.addcmul.default rounds once or twice"),
    "lerp": (lambda x: torch.lerp(x, x * 2, 0.3), "aten.lerp.Scalar rounds once or twice"),
    "softshrink": (F.softshrink, "aten.softshrink.default has zeros of a sign"),
    "fmod": (lambda x: torch.fmod(x, 0.7), "aten.fmod.Scalar is NaN or not"),
    "remainder": (lambda x: x % 0.7, "aten.remainder.Scalar is not pointwise"),
    "floor of a quotient": (
        lambda x: torch.div(x, 0.7, rounding_mode="floor"),
        "aten.div.Tensor_mode with rounding_mode='floor'",
    ),
    "decimals": (lambda x: torch.round(x, decimals=1), "aten.round.decimals"),
    "bits": (lambda x: (x.to(torch.int64) & 3) * x, "works on the bits of integers"),
    "not of integers": (lambda x: (~x.to(torch.int64)) * x, "works on the bits of integers"),
    "quotient of integers": (
        lambda x: torch.div(x.to(torch.int64), 2, rounding_mode="trunc") * x,
        "aten.div.Tensor_mode",
    ),
    "power of integers": (lambda x: (x.to(torch.int64) ** 5) * x, "aten.pow.Tensor_Scalar of integers"),
}
REFUSED_SOMEWHERE = {
    "gelu": (F.gelu, [torch.float32, *HALF], "aten.gelu.default is NaN at inf"),
    "rsqrt": (torch.rsqrt, HALF, "aten.rsqrt.default in half precision rounds the root first, or not"),
    "x ** -0.5": (lambda x: x**-0.5, [torch.bfloat16], "aten.pow.Tensor_Scalar in half precision"),
    "trunc of a quotient": (
        lambda x: torch.div(x, x, rounding_mode="trunc"),
        HALF,
        "aten.div.Tensor_mode rounds the quotient first",
    ),
    "times integers": (
        lambda x: x * x.nan_to_num(0.0, 0.0, 0.0).clamp(-9, 9).to(torch.int64),
        HALF,
        "aten.mul.Tensor rounds an integer tensor",
    ),
}
NO_SLOPE = {"relu6": F.relu6, "hardtanh": F.hardtanh, "hardswish": F.hardswish, "elu": F.elu, "celu": F.celu, "selu": F.selu,
            "hardshrink": F.hardshrink}  # fmt: skip


def special(dtype):
    of = torch.finfo(dtype)
    whole = [
        0.0,
        math.inf,
        of.smallest_normal,
        of.smallest_normal * of.eps,
        of.smallest_normal / 2,
        of.max,
        of.max / 2,
        1.0,
        0.5,
        2.0,
    ]
    whole += [
        1.5,
        2.5,
        3.0,
        6.0,
        0.3,
        0.1,
        7.0,
        20.0,
        20.1,
        50.0,
        104.0,
        700.0,
        math.pi,
        1e4,
        1e-3,
        1 + of.eps,
        1 - of.eps / 2,
    ]
    return torch.tensor([math.nan, *whole, *(-x for x in whole)], dtype=torch.float64).to(dtype)


def random(dtype, n, seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(n, generator=generator, dtype=torch.float64)
    return (numbers * torch.tensor([1.0, 10.0, 0.01, 100.0])[torch.arange(n) % 4]).to(dtype)


def rows(numbers):
    return numbers[:, None].expand(-1, ROW).contiguous()


def one(dtype, n=60):
    return (rows(torch.cat([special(dtype), random(dtype, n, 0)])),)


def two(dtype, every=3, n=100):
    numbers = special(dtype)
    a, b = numbers.repeat_interleave(len(numbers))[::every], numbers.repeat(len(numbers))[::every]
    return rows(torch.cat([a, random(dtype, n, 1)])), rows(torch.cat([b, random(dtype, n, 2)]))


def both(functions, given):
    """Of each function the results in a kernel and in the loop."""
    step = lambda p, s, x: (tuple(f(*x) for f in functions.values()), s)
    run = lambda kind: snf.scan(step, None, torch.zeros(ROW, dtype=given[0].dtype), given, kind=kind)[0]
    return zip(functions, run("fused"), run("loop"))


def bits(x):
    """Numbers that are equal if the bits are; NaN is NaN."""
    if not x.is_floating_point():
        return x
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16}[x.element_size()]
    return torch.where(x.isnan(), torch.full_like(x, math.nan), x).view(whole)


def assert_bits(name, fast, slow, given):
    assert fast.dtype == slow.dtype, name
    apart = bits(fast) != bits(slow)
    if slow.is_floating_point():  # torch's own zeros of both signs
        signs = torch.signbit(slow)
        either = (slow == 0).all(1) & signs.any(1) & ~signs.all(1)
        apart &= ~(either[:, None] & (fast == 0))
    report(name, apart, fast, slow, given)


def assert_close(name, fast, slow, given, eps, least=0.0):
    """`eps`: how many units in the last place they may be apart, of them or of `least`. What is smaller than a normal number may be 0."""
    of = torch.finfo(slow.dtype)
    apart = (fast.double() - slow.double()).abs()
    bound = eps * of.eps * torch.maximum(slow.double().abs(), torch.as_tensor(least)) + 2 * of.smallest_normal
    alike = (fast == slow) | (fast.isnan() & slow.isnan()) | (apart <= bound) & slow.isfinite()
    alike &= (fast != 0) | (slow != 0) | (fast.signbit() == slow.signbit())
    kind = torch.where(slow.isnan(), 2, torch.where(slow.isinf(), slow.sign(), 0))
    either = (kind != kind[:, :1]).any(1)  # torch's own: overflow is in one place of memory, and not in another
    report(name, ~alike & ~either[:, None], fast, slow, given)


def report(name, apart, fast, slow, given):
    if apart.any():
        at = [tuple(x[i].item() for x in (*given, slow, fast)) for i in map(tuple, apart.nonzero()[:5].tolist())]
        raise AssertionError(f"{name} of {slow.dtype}: at, the loop's, the kernel's: {at}")


def in_float16(name):
    """float16 has no special powers in torch: they are all to rounding."""
    return name in ("x ** 3", "x ** -2")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits(dtype, request):
    if dtype == torch.float32:  # once as users' kernels are built, whose loops are over vectors
        request.getfixturevalue("optimized")
    powers = {"x ** 3": lambda x: x**3, "x ** -2": lambda x: x**-2}
    more = {} if dtype == torch.float16 else powers
    more |= {} if dtype in HALF else {"rsqrt": torch.rsqrt, "x ** -0.5": lambda x: x**-0.5}
    for given, functions in ((one(dtype), EXACT | more), (two(dtype), EXACT_PAIRS)):
        for name, fast, slow in both(functions, given):
            assert_bits(name, fast, slow, given)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_smooth_functions(dtype):
    for given, functions in ((one(dtype), SMOOTH), (two(dtype), SMOOTH_PAIRS)):
        for name, fast, slow in both(functions, given):
            assert_close(name, fast, slow, given, 12 if dtype in (torch.float32, torch.float64) else 1.5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_derivatives(dtype):
    given = two(dtype)
    for name, fast, slow in both(BACKWARD, given):
        size = given[0].double().abs().nan_to_num(0, 0, 0)
        assert_close(name, fast, slow, given, 20 if dtype in (torch.float32, torch.float64) else 1.5, least=size)


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_formula_is_the_loop_and_says_why(what):
    function, why = REFUSED[what]
    given = None, torch.zeros(ROW), torch.randn(3, ROW)
    said = snf.explain(lambda p, s, x: (function(x), s), *given)
    assert said.kind != "fused" and why in said.reason


@pytest.mark.parametrize("what", REFUSED_SOMEWHERE)
def test_what_has_no_formula_in_some_dtypes(what):
    function, where, why = REFUSED_SOMEWHERE[what]
    for dtype in DTYPES:
        given = None, torch.zeros(ROW, dtype=dtype), torch.randn(3, ROW).to(dtype)
        said = snf.explain(lambda p, s, x: (function(x), s), *given)
        assert (said.startswith("loop: ") and why in said) if dtype in where else said.startswith("fused")


def gradients(functions, given, weights):
    """The gradient of each function, at numbers of its own, in a kernel and in the loop."""
    inputs = tuple(tuple(x.clone() for x in given) for _ in functions)
    step = lambda p, s, x: (tuple(f(*y) for f, y in zip(functions.values(), x)), s)

    def loss(kind):
        return lambda x: sum(
            (y * weights).sum() for y in snf.scan(step, None, torch.zeros(ROW, dtype=weights.dtype), x, kind=kind)[0]
        )

    fast, slow = grad(loss("fused"))(inputs), grad(loss("loop"))(inputs)
    return [(name, *pair) for name, a, b in zip(functions, fast, slow) for pair in zip(a, b)]


def real(functions, dtype, count):
    """Those that have a gradient."""
    example = [torch.ones(1, dtype=dtype)] * count
    found = {name: f for name, f in functions.items() if f(*example).dtype == dtype and name != "heaviside"}
    return {name: f for name, f in found.items() if not name.startswith(tuple(NO_SLOPE))}


def check_gradients(dtype, functions, given):
    weights = torch.tensor([1, -0.5, 2, -1, 0.5], dtype=dtype)[torch.arange(given[0].numel()) % 5].view_as(given[0])
    names = list(functions)
    for i in range(0, len(names), 30):
        part = {name: functions[name] for name in names[i : i + 30]}
        for name, fast, slow in gradients(part, given, weights):
            far = 100 if dtype in (torch.float32, torch.float64) else 8
            assert_close(name, fast / weights, slow / weights, given, far, least=1)  # 1 - y * y cancels


QUICK = """relu leaky_relu hardsigmoid threshold abs square reciprocal tanh sigmoid silu mish softplus logsigmoid logit sqrt""".split()
QUICK += ["gelu tanh", "clamp 0.3", "logit 0.1", "nan_to_num 0", "x / 0.3", "x ** 0.5", "x ** 1.3", "where", "softsign"]


def test_gradients():
    """Those that have rules of their own, or two sides; the rest are slow."""
    functions = EXACT | SMOOTH
    check_gradients(torch.float32, {name: functions[name] for name in QUICK}, one(torch.float32, 20))
    pairs = {
        name: EXACT_PAIRS[name]
        for name in ("mul", "div", "where", "minimum", "clamp both", "addcdiv 0.3", "masked_fill")
    }
    check_gradients(torch.float32, pairs, two(torch.float32, 9, 20))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_gradients(dtype):
    check_gradients(dtype, real(EXACT | SMOOTH, dtype, 1), one(dtype))
    check_gradients(dtype, real(EXACT_PAIRS | SMOOTH_PAIRS, dtype, 2), two(dtype))


@pytest.mark.parametrize("what", NO_SLOPE)
def test_a_slope_that_is_no_function_of_the_number_is_the_loops(what):
    """At NaN, torch's is one at the end of a row, and another before. A number that cannot be NaN has it in a kernel."""
    x = torch.tensor([math.nan, 0.25, -7.0]).repeat(30).expand(3, -1)
    step = lambda p, s, x: (NO_SLOPE[what](x), s)
    run = lambda kind: grad(lambda x: snf.scan(step, None, torch.zeros(90), x, kind=kind)[0].sum())(x)
    with pytest.raises(ValueError, match="has a slope at NaN that depends on where in memory a number stands"):
        run("fused")
    torch.testing.assert_close(run("auto"), run("loop"), rtol=0, atol=0, equal_nan=True)
    surrogate = snf.surrogate.Custom(NO_SLOPE[what])
    step = lambda p, s, x: (surrogate(x), s)
    torch.testing.assert_close(run("fused"), run("loop"))


INTEGERS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "a / 3": lambda a, b: a / 3,
    "a * 0.3": lambda a, b: a * 0.3,
    "7 - a": lambda a, b: 7 - a,
    "neg": lambda a, b: -a,
    "abs": lambda a, b: a.abs(),
    "sign": lambda a, b: a.sign(),
    "floor": lambda a, b: a.floor(),
    "relu": lambda a, b: a.relu(),
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "heaviside": torch.heaviside,
    "a > b": lambda a, b: a > b,
    "a > 0.5": lambda a, b: a > 0.5,
    "clamp": lambda a, b: a.clamp(-3, 100),
    "clamp 0.5": lambda a, b: a.clamp(0.5, 10.5),
    "clamp b": lambda a, b: torch.clamp(a, min=b),
    "where": lambda a, b: torch.where(a > b, a, 7),
    "a ** 2": lambda a, b: a**2,
    "a ** 3": lambda a, b: a**3,
    "a ** 0": lambda a, b: a**0,
    "a ** 0.5": lambda a, b: a**0.5,
    "alpha": lambda a, b: torch.add(a, b, alpha=3),
    "nan_to_num": lambda a, b: a.nan_to_num() * 3,
    "isinf": lambda a, b: a.isinf(),
    "logical": lambda a, b: torch.logical_xor(torch.logical_not(a), torch.logical_and(a, b)),
    "of truths": lambda a, b: (a > 0) * 3 - b,
    "a sum of truths": lambda a, b: (a > 0) + (b > 0),
    "a number": lambda a, b: a * torch.tensor(3.5),
    "in place": lambda a, b: a.clone().add_(b).mul_(2),
} | {f"to {dtype}": lambda a, b, dtype=dtype: a.to(dtype) for dtype in [*KINDS, torch.int8]}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool], ids=str)
def test_integers(dtype):
    if dtype == torch.bool:
        numbers = torch.tensor([True, False])
    else:
        of = torch.iinfo(dtype)
        numbers = torch.tensor([of.min, of.max, of.max - 1, of.max // 2, 0, 1, 2, 3, 7, 100], dtype=torch.int64).to(
            dtype
        )
        numbers = torch.cat([numbers, -numbers])
    given = rows(numbers.repeat_interleave(len(numbers))), rows(numbers.repeat(len(numbers)))
    functions = {}
    for name, f in INTEGERS.items():
        with contextlib.suppress(RuntimeError, TypeError):  # torch has no difference of truths, for one
            f(*(x[0] for x in given))
            functions[name] = f
    assert len(functions) > 25
    step = lambda p, s, x: (tuple(f(*x) for f in functions.values()), s)
    run = lambda kind: snf.scan(step, None, torch.zeros(ROW), given, kind=kind)[0]
    for name, fast, slow in zip(functions, run("fused"), run("loop")):
        check = assert_bits if name != "a ** 0.5" else lambda *a: assert_close(*a, 2)
        check(name, fast, slow, given)


# A number for all neurons, of another dtype than theirs: torch rounds it, or computes with it as it is.
ONE_NUMBER = {
    "x + p": lambda p, x: x + p,
    "p + x": lambda p, x: p + x,
    "x - p": lambda p, x: x - p,
    "p - x": lambda p, x: p - x,
    "x * p": lambda p, x: x * p,
    "p * x": lambda p, x: p * x,
    "x / p": lambda p, x: x / p,
    "p / x": lambda p, x: p / x,
    "minimum": lambda p, x: torch.minimum(x, p),
    "maximum": lambda p, x: torch.maximum(p, x),
    "x > p": lambda p, x: x > p,
    "p <= x": lambda p, x: p <= x,
    "x == p": lambda p, x: x == p,
    "where": lambda p, x: torch.where(x > 0, x, p),
    "masked_fill": lambda p, x: x.masked_fill(x > 0, p),
    "clamp": lambda p, x: x.clamp(min=p),
    "copy_": lambda p, x: x.clone().copy_(p),
    "a product of numbers": lambda p, x: (p * p) * x,
    "a sum of numbers": lambda p, x: x * (p + 1.7) - (0.3 * p),
    "expand": lambda p, x: p.expand_as(x) * x,
    "addcdiv": lambda p, x: torch.addcdiv(x, p, x),
    "trunc": lambda p, x: torch.div(x, p, rounding_mode="trunc"),
}


@pytest.mark.parametrize(
    "dtype, number",
    [
        (torch.float32, torch.float64), (torch.bfloat16, torch.float32), (torch.float16, torch.float64),
        (torch.float32, torch.uint8), (torch.bfloat16, torch.uint8),
    ],
    ids=str,
)  # fmt: skip
def test_a_number_of_another_dtype(dtype, number):
    given = one(dtype)
    functions = {
        name: f for name, f in ONE_NUMBER.items() if number.is_floating_point or name not in ("masked_fill", "copy_")
    }
    step = lambda p, s, x: (tuple(f(p, x) for f in functions.values()), s)
    for value in (0.3, 257.2, -1.7, 1e-6):
        if value >= 0 and (number.is_floating_point or value < 1):
            p = torch.tensor(value).to(number)
            run = lambda kind, p=p: snf.scan(step, p, torch.zeros(ROW, dtype=dtype), given[0], kind=kind)[0]
            for name, fast, slow in zip(functions, run("fused"), run("loop")):
                slow = slow if slow.shape == fast.shape else slow.expand_as(fast)
                assert_bits(f"{name}, p = {value} of {number}", fast, slow, given)


def test_every_rule_is_tried(monkeypatch):
    tried = set()
    for name, rule in LOWER.items():
        monkeypatch.setitem(LOWER, name, lambda *a, rule=rule, name=name, **k: tried.add(name) or rule(*a, **k))
    refused = {name: f for name, (f, *_) in (REFUSED | REFUSED_SOMEWHERE).items()}
    for functions, count in ((EXACT | SMOOTH | refused, 1), (EXACT_PAIRS | SMOOTH_PAIRS | BACKWARD, 2)):
        for f in functions.values():
            with contextlib.suppress(Unsupported):
                trace(lambda *x, f=f: [f(*x)], [torch.full((2,), 0.3)] * count, exact=False)
    # The first is another name of its argument; the others stand in forward mode, or for a constant.
    elsewhere = {"alias", "lift_fresh", "lift_fresh_copy", "_efficientzerotensor", "_new_zeros_with_same_feature_meta"}
    assert sorted(set(LOWER) - tried - elsewhere) == []


SECOND = [
    lambda f, x, move: jvp(grad(f), (x,), (move,))[1],
    lambda f, x, move: grad(lambda x: sum((g * m).sum() for g, m in zip(grad(f)(x), move)))(x),
    lambda f, x, move: grad(lambda x: jvp(f, (x,), (move,))[1])(x),
]


@pytest.mark.slow
def test_second_derivatives():
    """Of the derivatives of two kinds, in both orders."""
    dtype = torch.float64
    # torch has none of the first; a kernel multiplies inf with zeros that torch omits; the last are no operations of a user.
    without = {"hardsigmoid", "x * inf", "copied views"}
    functions = {name: f for name, f in real(EXACT | SMOOTH, dtype, 1).items() if name not in without}
    x = (random(dtype, 40, 5).abs() + 0.05).clamp(0.05, 0.85)[:, None].expand(-1, 3).contiguous()
    names = list(functions)
    for i in range(0, len(names), 25):
        part = [functions[name] for name in names[i : i + 25]]
        inputs, moves = tuple(x.clone() for _ in part), tuple(x + 0.3 for _ in part)
        step = lambda p, s, xs, part=part: (tuple(f(x) for f, x in zip(part, xs)), s)

        def loss(kind, step=step):
            return lambda xs: sum(
                (y * x).sum() for y in snf.scan(step, None, torch.zeros(3, dtype=dtype), xs, kind=kind)[0]
            )

        for second in SECOND:
            fast, slow = (second(loss(kind), inputs, moves) for kind in ("fused", "loop"))
            for name, a, b in zip(names[i:], fast, slow):
                said = lambda said, name=name: f"{name}: {said}"
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True, msg=said)
