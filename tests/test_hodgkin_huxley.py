"""Hodgkin and Huxley's membrane against the solution of its differential equations, and its rates where their formulas are 0/0."""

import decimal
import math

import numpy as np
import pytest
import torch
from helpers import assert_allclose, law
from hypothesis import example, given, strategies as st
from scipy.integrate import solve_ivp
from torch.func import grad, vmap

import snn_functional as snf
from snn_functional.neurons._hodgkin_huxley import _ramp, _rates


PULSES = lambda t: 30.0 * (5 <= t % 20 < 6)  # every 20 ms a pulse of 1 ms
CONSTANT = lambda t: 10.0 + 0 * t
REBOUND = lambda t: -10.0 * (t < 30)  # released from inhibition, it fires
T = 60.0


def papers_slope(t, y, current):
    V, m, h, n = y
    alpha = lambda top, x: top * x / (1 - np.exp(-x))
    sodium, potassium, leak = 120 * m**3 * h * (V - 50), 36 * n**4 * (V + 77), 0.3 * (V + 54.387)
    return [
        current(t) - sodium - potassium - leak,
        alpha(1.0, (V + 40) / 10) * (1 - m) - 4 * np.exp(-(V + 65) / 18) * m,
        0.07 * np.exp(-(V + 65) / 20) * (1 - h) - h / (1 + np.exp(-(V + 35) / 10)),
        alpha(0.1, (V + 55) / 10) * (1 - n) - 0.125 * np.exp(-(V + 65) / 80) * n,
    ]


def solved(current, start):
    """When the membrane crosses 0 mV upwards, and where it ends. A step may not jump over an edge of the current."""
    crosses = lambda t, y, current: y[0]
    crosses.direction = 1
    options = dict(method="LSODA", rtol=1e-9, atol=1e-9, max_step=0.5)
    path = solve_ivp(papers_slope, (0, T), start, events=crosses, args=(current,), **options)
    return torch.tensor(path.t_events[0]), path.y[:, -1]


def ours(current, dt):
    neuron, double = snf.hodgkin_huxley, lambda x: torch.tensor(x, dtype=torch.float64)
    numbers = {name: double(round(x.item(), 6)) for name, x in snf.named_leaves(neuron.Params()).items()}
    params = neuron.Params(**numbers | {"dt": double(dt)})
    xs = double([current(dt * step) for step in range(round(T / dt))])[:, None]
    rest = neuron.init(params, xs[0])
    spks, last = snf.scan(neuron.step, params, rest, xs)
    return dt * (spks[:, 0].nonzero()[:, 0] + 1), rest, last


@pytest.mark.parametrize("current", [CONSTANT, PULSES, REBOUND], ids=["constant", "pulses", "rebound"])
@pytest.mark.fidelity(
    model="hodgkin_huxley",
    reference="scipy's solve_ivp, LSODA at 1e-9",
    compared="spike times and the last state over 60 ms of three currents, at steps of 0.01 and 0.0025 ms",
    closely="as many spikes; within 0.02 ms and 0.005 ms",
    differs="exponential Euler is of first order",
)
def test_it_becomes_the_differential_equations(current):
    errors, ends = [], []
    for dt in (0.01, 0.0025):
        times, rest, last = ours(current, dt)
        expected, end = solved(current, [x.item() for x in (rest.mem, rest.m, rest.h, rest.n)])
        assert len(expected) >= 1 and len(times) == len(expected)
        errors.append((times - expected).abs().max().item())
        ends.append(abs(last.mem.item() - end[0]))
    assert errors[0] < 0.02 and errors[1] < 0.005 and ends[1] < 0.01, (errors, ends)


def test_it_rests_and_fires_where_the_axon_does():
    times = lambda current: ours(lambda t: current, 0.01)[0]
    assert len(times(2.0)) == 0 and len(times(4.0)) == 1 and len(times(7.0)) > 3
    rest, last = ours(lambda t: 0.0, 0.01)[1:]
    assert_allclose(last, rest, atol=2e-2, rtol=0)  # -65 mV is rounded


def test_one_spike_is_one_step():
    """The membrane stays above 0 for a good part of a millisecond."""
    neuron = snf.record(snf.hodgkin_huxley)
    params, xs = snf.HodgkinHuxleyParams(), torch.full((2000, 1), 10.0)
    (spks, states), _ = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)
    above = states.mem > 0
    assert spks.sum() == 2 and above.sum() > 100
    assert torch.equal(spks[1:].bool(), above[1:] & ~above[:-1])


def exact(x):
    """x / (1 - exp(-x)) and its derivative, in 60 digits."""
    if x == 0:
        return 1.0, 0.5
    with decimal.localcontext(decimal.Context(prec=60)):
        x = decimal.Decimal(x)
        e = (-x).exp()
        return float(x / (1 - e)), float((1 - e - x * e) / (1 - e) ** 2)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=str)
def test_the_ramp_and_its_slope(dtype, tolerance):
    """At 0, around it, at the seam of its series, and far away."""
    xs = [
        0.0,
        1e-12,
        -1e-12,
        1e-5,
        -1e-5,
        0.03,
        -0.03,
        0.0999,
        0.1001,
        -0.0999,
        -0.1001,
        0.5,
        -0.5,
        3.0,
        -3.0,
        20.0,
        -20.0,
    ]
    at = torch.tensor(xs, dtype=dtype)
    values, slopes = zip(*(exact(x.item()) for x in at))
    double = lambda numbers: torch.tensor(numbers, dtype=torch.float64)
    torch.testing.assert_close(_ramp(at).double(), double(values), rtol=tolerance, atol=0)
    torch.testing.assert_close(vmap(grad(_ramp))(at).double(), double(slopes), rtol=10 * tolerance, atol=0)


def test_the_rates_where_their_formulas_are_0_over_0():
    """Of any gradient a NaN would be in every number."""
    mem = torch.tensor([-40.0, -55.0, -35.0, -65.0], dtype=torch.float64, requires_grad=True)
    (opening_m, _), _, (opening_n, _) = _rates(mem)
    assert opening_m[0] == 1 and opening_n[1] == 0.1
    of = lambda mem: torch.stack([rate for pair in _rates(mem) for rate in pair])
    assert torch.autograd.gradcheck(of, mem) and torch.autograd.gradgradcheck(of, mem)
    state = snf.HodgkinHuxleyState(torch.tensor([[-40.0, -55.0]]), *torch.full((3, 1, 2), 0.4))
    params, xs = snf.HodgkinHuxleyParams(), torch.zeros(5, 1, 2)
    for kind in ("loop", "auto"):
        loss = lambda *args, kind=kind: snf.scan(snf.hodgkin_huxley_step, *args, kind=kind)[1].mem.sum()
        slopes = grad(loss, (0, 1, 2))(params, state, xs)
        assert all(x.isfinite().all() for x in snf.named_leaves(slopes).values())
        assert slopes[1].mem.all() and slopes[1].n.all()


@law
@given(
    currents=st.lists(st.floats(-math.inf, math.inf, width=32), min_size=3, max_size=6),
    dt=st.sampled_from([0.01, 1.0, 100.0]),
    kind=st.sampled_from(["loop", "auto"]),
)
@example(currents=[0.0, 0.0, math.inf], dt=0.01, kind="loop")
@example(currents=[-math.inf, 3e38, 0.0], dt=100.0, kind="auto")
def test_it_stays_finite_whatever_comes_and_however_long_a_step_is(currents, dt, kind):
    params, xs = snf.HodgkinHuxleyParams(dt=dt), torch.tensor(currents)[:, None]
    init = snf.hodgkin_huxley_init
    run = lambda xs: snf.scan(snf.hodgkin_huxley_step, params, init(params, xs[0]), xs, kind=kind)
    spks, state = run(xs)
    for tensor in (spks, state.mem, state.m, state.h, state.n, grad(lambda xs: run(xs)[1].n.sum())(xs)):
        assert tensor.isfinite().all()
