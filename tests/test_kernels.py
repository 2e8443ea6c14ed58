"""The fused kind against the definition: random steps that no one wrote, odd sizes, all strides, and the building of kernels."""

import dataclasses
import itertools
import math
import os
import subprocess
import sys
import threading

import optree
import pytest
import torch
from helpers import EXAMPLES, needs_kernels, UsersSpike
from hypothesis import given, HealthCheck, Phase, settings, strategies as st
from steps import leaves, RandomStep
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import snn_functional as snf
from snn_functional import kernels
from snn_functional.kernels import _build, _plan
from snn_functional.kernels._program import Unsupported


pytestmark = needs_kernels

COUNTS = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))
SIZES = st.sampled_from([(1,), (7,), (3, 5), (2, 3, 4), (513,)])
QUIET = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate]
)


def both(f):
    return optree.tree_leaves(f("fused")), optree.tree_leaves(f("loop"))


def close(f, rtol, atol):
    fast, slow = both(f)
    assert len(fast) == len(slow)
    for a, b in zip(fast, slow):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)


def equal(f):
    for a, b in zip(*both(f)):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def loss_of(step, outputs, last):
    """A loss that looks at every output and every last state, each with a random cotangent."""

    def loss(kind):
        def f(params, state, inputs, reverse=False):
            out, end = snf.scan(step, params, state, inputs, kind=kind, reverse=reverse)
            pairs = zip(optree.tree_leaves((out, end)), optree.tree_leaves((outputs, last)))
            return sum((x * w[tuple(slice(n) for n in x.shape)]).sum() for x, w in pairs)

        return f

    return loss


def check(seed, counts, T, lanes, exact, dtype, second=False):
    step = RandomStep(seed, *counts, exact)
    given_ = leaves(step, T, lanes, dtype, seed)
    if exact:
        equal(lambda k: snf.scan(step, *given_, kind=k))
    else:
        close(lambda k: snf.scan(step, *given_, kind=k), 1e-12 if dtype == torch.float64 else 1e-5, 1e-6)
    outputs, last = snf.scan(step, *given_, kind="loop")
    loss = loss_of(step, *optree.tree_map(torch.randn_like, (outputs, last)))
    tolerance = (1e-9, 1e-11) if dtype == torch.float64 else (2e-3, 2e-4)
    wrt = tuple(range(3))
    close(lambda k: grad(loss(k), wrt)(*given_), *tolerance)
    given_ = optree.tree_map(torch.Tensor.contiguous, given_)  # torch makes no dual of an expanded tensor
    moves = optree.tree_map(torch.randn_like, given_)
    close(lambda k: jvp(loss(k), given_, moves), *tolerance)
    if second:
        close(lambda k: jvp(grad(loss(k), wrt), given_, moves)[1], *tolerance)
        close(lambda k: grad(lambda *a: jvp(loss(k), a, moves)[1], wrt)(*given_), *tolerance)
        pairs = optree.tree_map(lambda x: torch.stack([x, 0.9 * x]), given_)
        close(lambda k: vmap(grad(loss(k), wrt))(*pairs), *tolerance)
        if given_[0]:
            close(lambda k: vmap(grad(loss(k), wrt), (0, None, None))(pairs[0], *given_[1:]), *tolerance)


@pytest.mark.usefixtures("optimized")
@settings(QUIET, max_examples=max(1, EXAMPLES // 2))
@given(
    st.integers(0, 10**6),
    COUNTS,
    st.sampled_from([1, 2, 5, 17]),
    SIZES,
    st.sampled_from([torch.float32, torch.float64]),
)
def test_random_steps_have_the_loops_bits(seed, counts, T, lanes, dtype):
    check(seed, counts, T, lanes, True, dtype)


@settings(QUIET, max_examples=2)
@given(st.integers(0, 10**6), COUNTS, st.sampled_from([2, 5]), st.sampled_from([(3,), (2, 3)]))
def test_random_smooth_steps_to_the_second_derivative(seed, counts, T, lanes):
    check(seed, counts, T, lanes, False, torch.float64, second=True)


@pytest.mark.slow
@settings(QUIET, max_examples=150)
@given(
    st.integers(0, 10**6), COUNTS, st.sampled_from([1, 2, 5, 17, 63]), SIZES, st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_many_random_steps(seed, counts, T, lanes, exact, dtype):
    check(seed, counts, T, lanes, exact, dtype, second=dtype == torch.float64 and T < 6)


LEAKY = snf.LeakyParams(torch.tensor(0.9), torch.tensor(0.8))


def of_neuron(params, x, neuron=snf.leaky):
    return params, neuron.init(params, x[0]), x


@pytest.mark.parametrize("T", [1, 2, 63, 300])
def test_sizes(T, optimized):
    for neurons, reverse in itertools.product([0, 1, 7, 513], [False, True]):
        args = of_neuron(LEAKY, torch.randn(T, 2, neurons))
        equal(lambda k, a=args, r=reverse: snf.scan(snf.leaky_step, *a, kind=k, reverse=r))
        loss = loss_of(snf.leaky_step, torch.randn(T, 2, neurons), snf.LeakyState(torch.randn(2, neurons)))
        close(lambda k, loss=loss, a=args, r=reverse: grad(loss(k), (0, 1, 2))(*a, r), 1e-4, 1e-4)


@pytest.mark.usefixtures("optimized")
def test_many_blocks_and_threads():
    x = torch.randn(20, 16, 5000)
    params = snf.LeakyParams(torch.rand(5000), torch.rand(16, 1) + 0.5)
    args = of_neuron(params, x)
    loss = loss_of(snf.leaky_step, torch.randn_like(x), snf.LeakyState(torch.randn(16, 5000)))
    slow = optree.tree_leaves((snf.scan(snf.leaky_step, *args, kind="loop"), grad(loss("loop"), (0, 1, 2))(*args)))
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            fast = optree.tree_leaves(
                (snf.scan(snf.leaky_step, *args, kind="fused"), grad(loss("fused"), (0, 1, 2))(*args))
            )
        finally:
            torch.set_num_threads(1)
        assert torch.equal(fast[0], slow[0]) and torch.equal(fast[1], slow[1])
        for a, b in zip(fast, slow):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


STRIDES = {
    "contiguous": lambda x: x,
    "batch last": lambda x: x.permute(0, 2, 1).contiguous().permute(0, 2, 1),
    "time last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "every other": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "constant in time": lambda x: x[0].expand_as(x),
    "one for the batch": lambda x: x[:, :1].expand_as(x),
    "one for all neurons": lambda x: x[:, :1, :1].expand_as(x),
    "one number": lambda x: x[:1, :1, :1].expand_as(x),
    "backwards in a slice": lambda x: torch.cat([x, x])[5 : 5 + len(x)],
}


@pytest.mark.parametrize("input, cotangent", [*zip(STRIDES, reversed(STRIDES)), *((how, how) for how in STRIDES)])
def test_any_strides(input, cotangent):
    x, w = STRIDES[input](torch.randn(33, 4, 6)), STRIDES[cotangent](torch.randn(33, 4, 6))
    args = of_neuron(LEAKY, x)
    versions = x._version
    equal(lambda k: snf.scan(snf.leaky_step, *args, kind=k))
    loss = loss_of(snf.leaky_step, w, snf.LeakyState(torch.randn(6).expand(4, 6)))
    close(lambda k: grad(loss(k), (0, 1, 2))(*args), 1e-4, 1e-4)
    assert x._version == versions


@pytest.mark.usefixtures("optimized")
def test_nan_and_infinity_pass_as_in_the_loop():
    x = torch.randn(12, 40)
    x[3, ::5], x[5, 1::5], x[7, 2::5] = math.nan, math.inf, -math.inf
    for neuron, params in (
        (snf.leaky, LEAKY),
        (snf.synaptic, snf.SynapticParams(0.8, 0.7)),
        (snf.alpha, snf.AlphaParams(0.9, 0.8)),
    ):
        args = of_neuron(params, x, neuron)
        equal(lambda k, n=neuron, a=args: snf.scan(n.step, *a, kind=k))
        mem = lambda k, n=neuron, a=args: grad(lambda x: snf.scan(n.step, a[0], a[1], x, kind=k)[0].sum())(x)
        close(mem, 1e-4, 1e-5)


X = torch.cat([torch.linspace(-30, 30, 4001, dtype=torch.float64), torch.linspace(-1, 1, 4000, dtype=torch.float64)])
POSITIVE = {"log": 0, "log2": 0, "sqrt": 0, "rsqrt": 0, "log1p": -1}  # and what they are positive beyond
WITHIN = {"asin", "acos"}
UNARY = """exp exp2 expm1 log log1p log2 sqrt rsqrt sin cos tan tanh sinh cosh asin acos atan erf erfc sigmoid reciprocal floor
ceil trunc round sign abs neg square""".split()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_functions_are_within_two_units_in_the_last_place_of_torchs(dtype):
    inside = {name: X > bound for name, bound in POSITIVE.items()} | {name: X.abs() <= 1 for name in WITHIN}
    xs = {name: X.where(inside.get(name, X == X), X.new_tensor(0.5)).to(dtype)[None] for name in UNARY}
    every = lambda p, s, x: ({name: getattr(torch, name)(x[name]) for name in UNARY}, s)
    fast, slow = (snf.scan(every, None, torch.zeros(()), xs, kind=kind)[0] for kind in ("fused", "loop"))
    whole = torch.int32 if dtype == torch.float32 else torch.int64
    apart = {name: int((fast[name].view(whole) - slow[name].view(whole)).abs().max()) for name in UNARY}
    # torch's sigmoid in float32 is 2.3 units from the truth, the kernel's 2.2 to the other side.
    wide = {"sigmoid": 4} if dtype == torch.float32 else {}
    assert not {name: n for name, n in apart.items() if n > wide.get(name, 2)}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("dtype, per_neuron", [(torch.bfloat16, True), (torch.float16, False)])
def test_half_precision_rounds_where_torch_rounds(dtype, per_neuron):
    x = (torch.randn(40, 3, 70) * 0.7).to(dtype)
    params = snf.LeakyParams(0.9, 0.8)
    if per_neuron:
        params = optree.tree_map(lambda p: (p + torch.rand(70) * 0.05).to(dtype), params)
    args = of_neuron(params, x)
    equal(lambda k: snf.scan(snf.leaky_step, *args, kind=k))
    loss = lambda k: lambda p, x: snf.scan(snf.leaky_step, p, snf.leaky_init(p, x[0]), x, kind=k)[0].sum().float()
    fast, slow = both(lambda k: grad(loss(k), (0, 1))(params, x))
    for a, b in zip(fast, slow):
        assert a.dtype == b.dtype and torch.allclose(a.float(), b.float(), rtol=0.1, atol=0.1 * b.float().abs().max())


def test_a_float64_scan_with_float32_numbers():
    x = torch.randn(20, 3, 5, dtype=torch.float64)
    for params in (snf.LeakyParams(0.9), snf.LeakyParams(torch.rand(5), torch.rand(3, 1))):
        args = of_neuron(params, x)
        equal(lambda k, a=args: snf.scan(snf.leaky_step, *a, kind=k))
        loss = lambda p, x, k: snf.scan(snf.leaky_step, p, snf.leaky_init(p, x[0]), x, kind=k)[0].sum()
        close(lambda k, p=params, loss=loss: grad(loss, (0, 1))(p, x, k), 1e-6, 1e-6)


def test_integer_and_boolean_states_and_inputs():
    def refractory(params, state, x):
        mem, rest, ever = state
        x, gate = x
        mem = params * mem + torch.where((rest > 0) | gate, torch.zeros_like(x), x)
        spk = snf.surrogate.ATan()(mem - 1)
        fired = spk.detach() > 0
        return (spk, rest), (
            mem - spk,
            torch.where(fired, torch.full_like(rest, 3), (rest - 1).clamp(min=0)),
            ever | fired,
        )

    x = torch.randn(30, 5) * 1.5
    state = torch.zeros(5), torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.bool)
    args = torch.tensor(0.9), state, (x, torch.rand(30, 5) < 0.1)
    assert snf.explain(refractory, *args).startswith("fused")
    equal(lambda k: snf.scan(refractory, *args, kind=k))
    loss = lambda p, x, k: snf.scan(refractory, p, state, (x, args[2][1]), kind=k)[0][0].sum()
    close(lambda k: grad(loss, (0, 1))(args[0], x, k), 1e-5, 1e-5)
    close(lambda k: jvp(lambda p: loss(p, x, k), (args[0],), (torch.tensor(1.0),)), 1e-5, 1e-5)


class Doubled(UsersSpike):
    """A user's own rule, which no derivative of its forward would give."""

    @staticmethod
    def backward(ctx, g):
        return 2 * g / (1 + ctx.saved_tensors[0].abs())


def test_a_users_own_autograd_function():
    params = snf.LeakyParams(0.9, spike_grad=Doubled.apply)
    args = of_neuron(params, torch.randn(20, 7))
    equal(lambda k: snf.scan(snf.leaky_step, *args, kind=k))
    loss = lambda x, k: snf.scan(snf.leaky_step, args[0], args[1], x, kind=k)[0].sum()
    close(lambda k: grad(loss)(args[2], k), 1e-5, 1e-5)
    assert grad(loss)(args[2], "fused").abs().sum() > 0


GLOBAL = torch.tensor([0.5, 1.0, 1.5])


def test_captured_tensors_get_gradients():
    x = torch.randn(10, 3)

    def loss(w, v, kind):
        helper = lambda x: torch.tanh(w) * x * GLOBAL  # a tensor in a closure's closure, and a global one
        step = lambda p, s, x: snf.leaky_step(p, s, helper(x) + v)
        return snf.scan(step, LEAKY, snf.leaky_init(LEAKY, x[0]), x, kind=kind)[0].sum()

    w, v = torch.rand(3), torch.tensor(0.3)
    close(lambda k: grad(loss, (0, 1))(w, v, k), 1e-5, 1e-6)
    close(
        lambda k: vmap(grad(loss), (0, None, None))(torch.rand(4, 3, generator=torch.Generator().manual_seed(1)), v, k),
        1e-5,
        1e-6,
    )
    close(lambda k: jvp(lambda w: loss(w, v, k), (w,), (w,)), 1e-5, 1e-6)
    w.requires_grad_()
    loss(w, v, "fused").backward()
    torch.testing.assert_close(w.grad, grad(loss)(w.detach(), v, "loop"))


@pytest.mark.parametrize("kind", ["loop", "fused", "auto"])
def test_the_loops_door_is_every_kinds_door(kind):
    """What a step refuses at the sizes at hand is refused with its own words, not only what is refused at any size."""
    with pytest.raises(
        ValueError, match="LeakyState.mem has shape .3, 4., which does not broadcast to the input's .4,."
    ):
        snf.scan(snf.leaky_step, LEAKY, snf.LeakyState(torch.zeros(3, 4)), torch.zeros(5, 4), kind=kind)


def test_vmap_over_any_axis_of_any_argument():
    T, batch, n, maps = 7, 3, 4, 5
    w, last = torch.randn(T, batch, n), torch.randn(batch, n)
    whole = [torch.rand(n), torch.randn(batch, n), torch.randn(T, batch, n)]

    def loss(kind):
        def f(beta, mem, x):
            out, end = snf.scan(snf.leaky_step, snf.LeakyParams(beta, 0.8), snf.LeakyState(mem), x, kind=kind)
            return (out * w).sum() + (end.mem * last).sum()

        return f

    for dims in [(0, None, None), (None, 1, None), (None, None, 2), (1, 0, None), (None, -1, 0), (-1, 2, 3)]:
        args = [
            x if d is None else torch.stack([x * (1 - 0.1 * i) for i in range(maps)], d) for x, d in zip(whole, dims)
        ]
        close(lambda k, d=dims, a=args: vmap(loss(k), d)(*a), 1e-5, 1e-5)
        close(lambda k, d=dims, a=args: vmap(grad(loss(k), (0, 1, 2)), d)(*a), 1e-4, 1e-4)
        close(lambda k, d=dims, a=args: grad(lambda *a: vmap(loss(k), d)(*a).sum(), (0, 1, 2))(*a), 1e-4, 1e-4)
        twice = [x if d is None else torch.stack([x, x + 0.1]) for x, d in zip(args, dims)]
        outer = tuple(None if d is None else 0 for d in dims)
        close(lambda k, d=dims, o=outer, a=twice: vmap(vmap(grad(loss(k)), d), o)(*a), 1e-4, 1e-4)


def test_a_step_that_scans():
    """A scan inside a step is read with it, not run beside it."""
    inner = lambda p, s, x: (s, 0.5 * s + x)

    def step(p, s, x):
        ys, last = snf.scan(inner, None, s, x.expand(3, *x.shape))
        return ys.select(0, 1) * 1, last * p

    args = torch.tensor(0.9), torch.zeros(4), torch.randn(6, 4)
    close(lambda k: snf.scan(step, *args, kind="auto" if k == "fused" else k), 0, 0)


@pytest.mark.slow
def test_very_long_time():
    args = of_neuron(LEAKY, torch.randn(100_000, 2))
    loss = loss_of(snf.leaky_step, torch.randn(100_000, 2), snf.LeakyState(torch.randn(2)))
    equal(lambda k: snf.scan(snf.leaky_step, *args, kind=k))
    close(lambda k: grad(loss(k), 2)(*args), 1e-4, 1e-4)


def in_place_through_a_view(p, s, x):
    m = x.clone()
    m.view(m.shape).add_(1)
    return m, s


AS_READ = {
    "its shape": lambda p, s, x: (x / x.shape[-1], s),
    "its number of axes": lambda p, s, x: (x * 2 if x.dim() == 2 else x, s),
    "the rank of a number": lambda p, s, x: (x * (2 * p if p.dim() == 0 else 3 * p), s),
    "whether a state is as large as the input": lambda p, s, x: (x if x.shape == s.shape else -x, s),
}


@pytest.mark.parametrize("what", AS_READ)
def test_shapes_are_those_of_the_loop(what):
    args = torch.tensor(0.7), torch.randn(3, 4), torch.randn(5, 3, 4)
    assert snf.explain(AS_READ[what], *args).startswith("fused: ")
    equal(lambda k: snf.scan(AS_READ[what], *args, kind=k))
    close(lambda k: grad(lambda *a: snf.scan(AS_READ[what], *a, kind=k)[0].sum(), (0, 2))(*args), 1e-6, 1e-6)
    one = torch.tensor(0.7), torch.randn(3, 1), torch.randn(5, 3, 4)  # the same code, the other branch
    equal(lambda k: snf.scan(AS_READ[what], *one, kind="auto" if k == "fused" else k))


NOT_AS_READ = {
    "an output of its own size": lambda p, s, x: (torch.zeros(7) + 1, s),
    "a reshaped output": lambda p, s, x: (x.flatten(), s),
    "a number taken out of torch": lambda p, s, x: (float(p.detach().numpy()) * x, s),
    "a view that is written to": in_place_through_a_view,
    "rounding to decimals": lambda p, s, x: (torch.round(x, decimals=1), s),
    "the floor of a quotient": lambda p, s, x: (torch.div(x, 0.1, rounding_mode="floor"), s),
    "bits of integers": lambda p, s, x: ((x * 9).to(torch.int64) & 3, s),
}


@pytest.mark.parametrize("what", NOT_AS_READ)
def test_what_has_no_scalar_form_runs_as_the_loop(what):
    args = torch.tensor(0.7), torch.randn(3, 4), torch.randn(5, 3, 4)
    assert snf.explain(NOT_AS_READ[what], *args).startswith("loop: ")
    equal(lambda k: snf.scan(NOT_AS_READ[what], *args, kind="auto" if k == "fused" else k))


def test_a_step_is_read_once_for_all_lengths(monkeypatch):
    read, calls = snf._scan._known.read, []
    monkeypatch.setattr(snf._scan._known, "read", lambda *given: calls.append(1) or read(*given))

    def step(p, s, x):
        return p * x + s, s * 0.9

    xs = torch.rand(100, 3)
    for T in (5, 9, 2, 100, 1):
        equal(lambda k, T=T: snf.scan(step, torch.tensor(2.0), torch.ones(3), xs[:T], kind=k))
    assert len(calls) == 1


def test_an_impure_step_leaves_no_trace():
    def gradient():
        start = torch.ones(4, requires_grad=True)
        snf.scan(lambda p, s, x: (s * x, s * 0.5), None, start, torch.ones(3, 4))[0].sum().backward()
        return start.grad

    before = gradient()
    with pytest.raises(ValueError, match="changed its arguments in place"):
        snf.scan(lambda p, s, x: (torch.add(s, 1.0, out=s), s * 1), None, torch.tensor(0.0), torch.rand(5, 4))
    assert torch.equal(gradient(), before)


def test_leaves_are_read_as_what_they_stand_for():
    double = lambda p, s, x: (x * 2, s)
    negated = torch.tensor([1.0 + 2j, 3 + 4j]).conj().imag
    equal(lambda k: snf.scan(double, None, torch.zeros(()), negated[None], kind=k))
    summed = lambda p, s, x: (s + x, s + x)
    equal(lambda k: snf.scan(summed, None, torch.tensor(3), torch.tensor([0.5, 0.25], dtype=torch.float64), kind=k))


def test_vmap_over_params_alone():
    step = lambda p, s, x: (p[0] * p[1], s)
    run = lambda k: lambda a, b: snf.scan(step, (a, b), None, None, length=3, kind=k)[0]
    close(lambda k: vmap(run(k))(torch.ones(4, 4), torch.arange(4.0)), 0, 0)


def test_modified_steps_are_fused_where_they_are_pointwise():
    params = snf.LeakyParams(0.9)
    args = of_neuron(params, torch.rand(30, 4, 6))
    step = snf.immediate_reset(snf.leaky_step)
    assert snf.explain(step, *args).startswith("fused")
    equal(lambda k: snf.scan(step, *args, kind=k))
    assert "argmax" in snf.explain(snf.inhibit(snf.leaky_step), *args)


@pytest.mark.slow
def test_second_derivatives_of_a_loss_in_every_order():
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    smooth = snf.LeakyParams(torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64))
    w = torch.randn_like(x)

    def loss(kind):
        def f(p, x):
            spks, last = snf.scan(snf.leaky_step, p, snf.leaky_init(p, x[0]), x, kind=kind)
            return (spks * w).sum() + (last.mem**2).sum()

        return f

    for outer in (jacrev, jacfwd):
        for inner in (jacrev, jacfwd):
            close(lambda k, o=outer, i=inner: o(i(loss(k), (0, 1)), (0, 1))(smooth, x), 1e-10, 1e-12)
    close(lambda k: grad(lambda p: grad(lambda p: grad(loss(k))(p, x).beta)(p).threshold)(smooth), 1e-10, 1e-12)


def rectified(p, s, x):
    """In its derivatives a sum over neurons meets zeros that are no constant: those of `relu`, whose slope does not move."""
    s = torch.relu(p) - 0.3 * x + p * s
    return s, s


TWICE = {
    "Grad Jvp": lambda f: lambda *a: grad(lambda *b: jvp(f, b, a)[1], (0, 1, 2))(*a),
    "Jvp Grad": lambda f: lambda *a: jvp(grad(f, (0, 1, 2)), a, a)[1],
    "Grad Grad": lambda f: lambda *a: grad(lambda *b: sum(x.sum() for x in grad(f, (0, 1, 2))(*b)), (0, 1, 2))(*a),
    "Jvp Jvp": lambda f: lambda *a: jvp(lambda *b: jvp(f, b, a)[1], a, a)[1],
}


@pytest.mark.parametrize("order", TWICE)
@pytest.mark.parametrize("kind", ["fused", "auto"])
def test_sums_that_meet_zeros_and_what_has_no_second_derivative(order, kind, monkeypatch):
    args = torch.tensor(0.3).double(), torch.rand(2, 3).double(), torch.rand(4, 2, 3).double()
    of = lambda kind: TWICE[order](lambda *a: snf.scan(rectified, *a, kind=kind)[0].square().sum())(*args)
    slow = optree.tree_leaves(of("loop"))
    if kind == "auto":  # as a step that has a kernel, and its derivative one, but not that one's derivative

        def none(*args):
            raise Unsupported("there is no kernel for its second derivative")

        monkeypatch.setattr(_plan.Plan, "twice", none)
    for a, b in zip(optree.tree_leaves(of(kind)), slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    if kind == "auto":
        with pytest.raises(ValueError, match="no kernel for its second derivative"):
            of("fused")


def test_memory_of_a_gradient_is_a_small_part_of_the_input():
    for T in (100, 3000):
        x = torch.randn(T, 200, requires_grad=True)
        kept = []
        snf.scan(
            snf.leaky_step, *of_neuron(LEAKY, x), kind="fused"
        )  # an old torch reads no derivative within the hooks
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            snf.scan(snf.leaky_step, *of_neuron(LEAKY, x), kind="fused")
        extra = sum(t.numel() * t.element_size() for t in kept if t.data_ptr() != x.data_ptr())
        assert 0 < extra <= 0.15 * x.numel() * 4


def test_concurrent_calls_and_first_builds():
    results, x = {}, torch.randn(50, 300)
    step = lambda p, s, x: (p * s + x, p * s - 0.25 * x)
    run = lambda i: results.__setitem__(i, snf.scan(step, torch.tensor(0.7), torch.zeros(300), x + i, kind="fused"))
    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    for i in range(8):
        expected = snf.scan(step, torch.tensor(0.7), torch.zeros(300), x + i, kind="loop")
        assert torch.equal(results[i][0], expected[0]) and torch.equal(results[i][1], expected[1])


PROGRAM = """
import os, sys, torch, snn_functional as snf
torch.set_num_threads(2)
params, x = snf.LeakyParams(0.9), torch.ones(100, 8, 500)
state = snf.leaky_init(params, x[0])
run = lambda: snf.scan(snf.leaky_step, params, state, x, kind=sys.argv[1])[0].sum().item()
first = run()
"""


def python(program, *args, **env):
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, env=os.environ | env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.long
def test_a_fork_after_use_works():
    # torch's own operations are not asked for in the child: its thread pool does not survive a fork.
    program = PROGRAM + (
        "pid = os.fork()\nspks = snf.scan(snf.leaky_step, params, state, x, kind=sys.argv[1])[0]\n"
        "assert spks[1, 0, 0].item() == 1.0\nif pid: assert os.waitpid(pid, 0)[1] == 0\nelse: os._exit(0)"
    )
    python(program, "fused")


@pytest.mark.long
def test_threads_are_torchs_own_and_a_forked_child_has_others():
    """The child would wait for ever for the threads that torch and the kernels share: they are not there."""
    program = (
        "import os, torch, snn_functional as snf\ntorch.set_num_threads(2)\n"
        "x = torch.rand(64, 64, 128)\nparams = snf.LeakyParams(0.9)\nw = torch.randn(128, 128) / 20\n"
        "def step(params, state, x):\n    spk, lif = snf.leaky_step(params, state[0], x + state[1] @ w)\n    return spk, (lif, spk)\n"
        "state = snf.leaky_init(params, x[0])\n"
        "run = lambda kind: snf.scan(step, params, (state, x[0]), x, kind=kind)[0]\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "alone = threads()\nfirst = run('fused')\nassert threads() == alone + 1\n"
        "x.flatten(0, 1) @ w\nassert threads() == alone + 1\n"
        "pid = os.fork()\n"
        "second = snf.scan(step, params, (state, x[0]), x, kind='fused')[0]\n"
        "assert list(memoryview(first.numpy()).cast('B')) == list(memoryview(second.numpy()).cast('B'))\n"
        "if pid: assert os.waitpid(pid, 0)[1] == 0\nelse: os._exit(0)"
    )
    python(program)


@pytest.mark.long
def test_the_printed_loop_is_vectorised(tmp_path):
    x = torch.randn(3, 2, 64)

    def masked(p, s, x):
        x, valid = x
        spk, new = snf.leaky_step(p, s, x)
        return spk, snf.LeakyState(torch.where(valid, new.mem, s.mem))

    for step, world in (
        (snf.leaky_step, of_neuron(LEAKY, x)),
        (snf.synaptic_step, of_neuron(snf.SynapticParams(0.8, 0.7), x, snf.synaptic)),
        (snf.alpha_step, of_neuron(snf.AlphaParams(0.9, 0.8), x, snf.alpha)),
        (masked, (LEAKY, snf.LeakyState(x[0]), (x, x > 0))),
    ):
        plan = snf._scan._known.prepare(step, *world, 3).known.plan
        uniform = (True,) * plan.counts[0]
        floats = plan.signature.leaves.floating
        for kernel in (plan.forward(uniform), plan.backward(uniform, floats)):
            compiler, *_, version = _build.find()
            if "clang" in version:
                pytest.skip("only GCC's report is read here")
            text = tmp_path / "kernel.cpp"
            text.write_text(kernel.source)
            report = subprocess.run(
                [compiler, *_build.FLAGS, "-fopt-info-vec-optimized", "-o", str(tmp_path / "k.so"), str(text)],
                capture_output=True,
                text=True,
            ).stderr
            lines = text.read_text().splitlines()
            loops = [
                i
                for i, line in enumerate(lines, 1)
                if "for (i64 i = 0; i < n; ++i) {" in line and "ivdep" in lines[i - 2]
            ]
            assert loops and all(f"kernel.cpp:{i}:" in report for i in loops)


def test_what_is_refused_is_refused_politely():
    with pytest.raises(kernels.Unsupported, match="aten.rand_like.default draws"):
        snf._scan._known.prepare(
            lambda p, s, x: (x + torch.rand_like(x), s), None, torch.zeros(3), torch.zeros(2, 3), 2
        )


def test_a_slope_in_a_closure_is_one_kernel_for_all_numbers_and_has_a_gradient(monkeypatch):
    built = []
    load = kernels._cpu.load
    monkeypatch.setattr(kernels._cpu, "load", lambda text, *more: built.append(text) or load(text, *more))
    x = torch.randn(20, 3, 5, dtype=torch.float64)

    def loss(slope, kind):
        steep = snf.surrogate.FastSigmoid(slope)
        step = lambda p, s, x: snf.leaky_step(dataclasses.replace(p, spike_grad=steep), s, x)
        run = lambda p: (snf.scan(step, p, snf.leaky_init(p, x[0]), x, kind=kind)[0] * x).sum()
        return grad(run)(snf.LeakyParams(x.new_tensor(0.9), x.new_tensor(1.0))).beta

    for slope in (5.0, 10.0, 20.0):
        slope = x.new_tensor(slope)
        torch.testing.assert_close(loss(slope, "fused"), loss(slope, "loop"))
        torch.testing.assert_close(grad(loss)(slope, "fused"), grad(loss)(slope, "loop"))
    assert len(set(built)) == len(built)
