"""Python floats in a step are numbers of a kernel's call, not of its text: ten slopes, one kernel."""

import dataclasses
import gc
import math
import threading
import time
import weakref

import pytest
import torch
from helpers import needs_kernels, trace
from torch.func import grad, jvp

import snn_functional as snf
from snn_functional import kernels
from snn_functional.kernels import _cpu, _kernels
from snn_functional.kernels._program import rounded


pytestmark = needs_kernels


@pytest.fixture
def built(monkeypatch):
    """The texts that are built."""
    texts, load = [], _cpu.load
    monkeypatch.setattr(_cpu, "load", lambda text, *more: texts.append(text) or load(text, *more))
    monkeypatch.setattr(_kernels, "_kernels", snf._identity.Registry(100))
    return texts


def read(function, count=1, dtype=torch.float32):
    return trace(function, [torch.ones(2, dtype=dtype)] * count)


def close(f):
    torch.testing.assert_close(f("fused"), f("loop"), equal_nan=True)


def steep(slope):
    surrogate = snf.surrogate.FastSigmoid(slope)
    return lambda p, s, x: snf.leaky_step(dataclasses.replace(p, spike_grad=surrogate), s, x)


def test_ten_slopes_are_one_kernel_and_its_gradient(built):
    x, params = torch.randn(20, 3, 5), snf.LeakyParams(0.9, 1.0)
    for i in range(10):
        step = steep(1.5 + 7.3 * i)

        def loss(p, kind, step=step):
            return (snf.scan(step, p, snf.leaky_init(p, x[0]), x, kind=kind)[0] * x).sum()

        close(lambda kind, loss=loss: grad(loss)(params, kind).beta)
    assert len(built) == 2


def test_the_numbers_are_the_calls(built):
    x = torch.randn(9, 4)
    for a, b in ((0.3, 0.7), (-0.3, 1e-30), (1e30, 0.1), (3.0, 1.0), (math.pi, -2.5)):
        step = lambda p, s, x, a=a, b=b: (a * x + b / s, b * s - x * a)
        close(lambda kind, step=step: snf.scan(step, None, torch.ones(4), x, kind=kind))
    assert len(built) == 1
    for a in (0.0, -0.0, math.inf, -math.inf, math.nan):  # these are no numbers like others
        step = lambda p, s, x, a=a: (a * x + 0.7 / s, 0.7 * s - x * a)
        close(lambda kind, step=step: snf.scan(step, None, torch.ones(4), x, kind=kind))
    assert len(built) == 6


def test_programs_that_differ_in_numbers_only_are_equal():
    of = lambda a, b: read(lambda x: [a * x + b, x * a])
    first, second = of(0.3, 0.7), of(0.4, 0.1)
    assert first == second and hash(first) == hash(second) and first.text == second.text
    assert first.numbers == tuple(rounded(x, torch.float32) for x in (0.3, 0.7)) and [x.name for x in first.free] == [
        "k0",
        "k1",
    ]
    assert first != of(0.3, 0.3), "one number twice is another program"
    assert first != of(0.3, 1) and first != of(0.3, 0.0), "integers and zeros are literal"
    assert of(2, 3) != of(2, 4) and of(2, 3).free == ()
    double = lambda a: read(lambda x: [a * x], dtype=torch.float64)
    assert double(0.3) != read(lambda x: [0.3 * x])
    assert double(0.3).numbers == (0.3,)


def test_exponents_that_torch_treats_specially_are_literal():
    power = lambda p: read(lambda x: [x**p])
    assert power(1.3) == power(-2.7) and power(1.3).numbers == (rounded(1.3, torch.float32),)
    for special in (0.0, 0.5, 1.0, 2.0, 3.0, -0.5, -1.0, -2.0):
        assert power(special).free == () and power(special) != power(1.3)
    assert read(lambda x: [torch.full_like(x, 1.0) * x]) == read(lambda x: [torch.ones_like(x) * x])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_a_number_where_torch_does(dtype, built):
    x = torch.randn(9, 70).to(dtype)
    for a in (0.3, 1 / 3, 257.3, 1e-5):
        step = lambda p, s, x, a=a: ((x + a, a - x, x * a, x / a, a / x, x > a), s)
        for fast, slow in zip(
            *(snf.scan(step, None, torch.zeros(70, dtype=dtype), x, kind=kind)[0] for kind in ("fused", "loop"))
        ):
            assert torch.equal(fast, slow)
    assert len(built) == 1


def test_a_derivative_finds_again_what_has_the_forwards_numbers_and_only_that(built):
    """Two steps with equal programs and equal derivatives, in which the derivative's number is the forward's first or its second."""

    def step(a, b, first):
        def f(p, s, x):
            y, z = torch.tanh(a * s[0] * x), torch.tanh(b * s[0] * x)
            return (y + z.detach() if first else y.detach() + z), (s[0] * 0.9, y.detach(), z.detach())

        return f

    x, start = torch.randn(7, 4), tuple(torch.rand(3, 4))
    for a, b, first in ((0.3, 0.7, True), (0.3, 0.7, False), (0.7, 0.3, False), (0.5, 0.2, True)):
        f = step(a, b, first)
        close(lambda kind, f=f: grad(lambda x: snf.scan(f, None, start, x, kind=kind)[0].sum())(x))
    assert len(built) == 3, "one forward, and a derivative for each of the two"


def test_what_is_given_is_not_worked_out_again():
    """Numbers are the same where their values are, whatever they are called."""
    forward = read(lambda x, g: [torch.tanh(0.3 * x), x * 0.7], count=2)
    ops = lambda f: [line.op for line in read(f, count=2).reusing(forward, 0).lines]
    assert ops(lambda x, g: [(0.7 * g) * torch.tanh(0.3 * x)]) == ["mul", "mul"]
    assert ops(lambda x, g: [(0.3 * g) * torch.tanh(0.7 * x)]) == ["mul", "tanh", "mul"]


def test_numbers_under_every_transform():
    x, s = torch.randn(6, 4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    for a in (0.3, 0.9):
        step = lambda p, s, x, a=a: (torch.tanh(a * s) * x, 0.8 * s + torch.sin(x / (a + 1.0)))
        loss = lambda kind, step=step: lambda s, x: snf.scan(step, None, s, x, kind=kind)[0].sum()
        close(lambda kind, f=loss: jvp(f(kind), (s, x), (s, x)))
        close(lambda kind, f=loss: grad(lambda s: (grad(f(kind))(s, x) ** 2).sum())(s))
        close(lambda kind, f=loss: jvp(grad(f(kind)), (s, x), (s, x)))


def test_kernels_are_bounded_and_hold_nothing_of_a_step(monkeypatch):
    monkeypatch.setattr(_kernels, "_kernels", snf._identity.Registry(5))

    class Held:
        pass

    def program(i, held=None):
        return read(lambda x, held=held: [x * (i + 2)])

    one = kernels.Signature.of((0, 0, 1), [torch.float32], [torch.float32])
    kernel = lambda i, *held: _kernels.forward_kernel("cpu", program(i, *held), one, ()).kernel
    held = Held()
    alive = weakref.ref(held)
    first = kernel(0, held)
    del held
    gc.collect()
    assert alive() is None and kernel(0) is first
    for i in range(9):
        kernel(i)
    assert len(_kernels._kernels) == 5 and kernel(0) is not first
    with pytest.raises(kernels.Unsupported, match="there is no kernel for xpu"):
        _kernels.forward_kernel("xpu", program(0), one, ())


def test_threads_that_ask_at_once_build_once(built, monkeypatch):
    x, results, load = torch.randn(30, 50), {}, _cpu.load
    monkeypatch.setattr(_cpu, "load", lambda text: time.sleep(0.2) or load(text))

    def run(i):
        step = lambda p, s, x: ((0.1 + i) * x + s, s * 0.25)
        results[i] = snf.scan(step, None, torch.ones(50), x, kind="fused")[0]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    for i, found in results.items():
        step = lambda p, s, x, i=i: ((0.1 + i) * x + s, s * 0.25)
        assert torch.equal(found, snf.scan(step, None, torch.ones(50), x, kind="loop")[0])
    assert len(results) == 8 and len(built) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_number_is_rounded_as_torch_rounds_it(dtype):
    numbers = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    numbers = torch.cat([numbers, numbers * 1e-6, numbers * 1e-8, numbers * 3e4, numbers * 1e-40, numbers * 1e38])
    of = torch.finfo(dtype)
    numbers = [
        *numbers.tolist(),
        of.max,
        of.max * 1.001,
        of.max * 1.01,
        of.tiny / 3,
        0.0,
        -0.0,
        math.inf,
        -math.inf,
        1 + of.eps / 2,
    ]
    for x in numbers:
        expected = torch.tensor(x, dtype=dtype).item()
        assert rounded(x, dtype) == expected and math.copysign(1, rounded(x, dtype)) == math.copysign(1, expected), x
    assert math.isnan(rounded(math.nan, dtype))
