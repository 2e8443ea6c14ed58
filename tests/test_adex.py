"""AdEx against a plain program of its equations, against their solution, and by the patterns that its presets are named for."""

import functools
import math

import numpy as np
import pytest
import torch
from helpers import assert_allclose, law
from hypothesis import example, given, strategies as st
from scipy.integrate import solve_ivp
from torch.func import grad

import snn_functional as snf


PRESETS = {"brette_gerstner": {}, **snf.adex_presets}
CURRENTS = {"brette_gerstner": 1000.0, **snf.adex_currents}
PAPERS = dict(C=281, g_L=30, E_L=-70.6, V_T=-50.4, delta_T=2, a=4, tau_w=144, b=80.5, v_reset=-70.6, threshold=20)


def numbers(name):
    return PAPERS | PRESETS[name]


def program(currents, dt, C, g_L, E_L, V_T, delta_T, a, tau_w, b, v_reset, threshold):
    """Euler's method in plain Python, the reset in the step of the spike: `(spike times in ms, last membrane, last w)`."""
    v, w, times = float(E_L), 0.0, []
    for step, current in enumerate(currents):
        dv = (-g_L * (v - E_L) + g_L * delta_T * math.exp((v - V_T) / delta_T) - w + current) / C
        v, w = v + dt * dv, w + dt * (a * (v - E_L) - w) / tau_w
        if v > threshold:
            times.append(step)
            v, w = v_reset, w + b
    return [dt * step for step in times], v, w


@functools.lru_cache
def ours(name, T=600.0, dt=0.1):
    double = lambda x: torch.tensor(x, dtype=torch.float64)
    params = snf.AdexParams(**{k: double(float(x)) for k, x in numbers(name).items()}, dt=double(dt))
    xs = torch.full((round(T / dt), 1), CURRENTS[name], dtype=torch.float64)
    spks, state = snf.scan(snf.adex_step, params, snf.adex_init(params, xs[0]), xs)
    return [dt * step for step in spks[:, 0].nonzero()[:, 0].tolist()], state


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.fidelity(
    model="adex",
    reference="Euler program of Brette & Gerstner 2005, in plain Python",
    compared="spike times of the paper's numbers and of eight firing patterns, 6000 steps of 0.1 ms",
    closely="spikes equal, the last state to 1e-6",
    differs="the reset is seen one step later",
)
def test_spike_for_spike(name):
    T = 300.0 if name == "irregular" else 600.0  # which is chaos: in half a second a rounding grows to a step
    times, state = ours(name, T)
    expected, v, w = program([CURRENTS[name]] * round(T / 0.1), 0.1, **numbers(name))
    assert times == expected and times
    assert_allclose((state.mem.item(), state.w.item()), (v, w), rtol=1e-6, atol=1e-6)


def solved(name, T):
    """The spike times of the differential equation, integrated from reset to peak."""
    p = numbers(name)
    current = CURRENTS[name]

    def slope(t, y):
        onset = p["delta_T"] * np.exp(min((y[0] - p["V_T"]) / p["delta_T"], 30))
        leak = p["g_L"] * (p["E_L"] - y[0] + onset)
        return [(leak - y[1] + current) / p["C"], (p["a"] * (y[0] - p["E_L"]) - y[1]) / p["tau_w"]]

    peak = lambda t, y: y[0] - p["threshold"]
    peak.terminal, peak.direction = True, 1
    t, y, times = 0.0, [p["E_L"], 0.0], []
    while True:
        path = solve_ivp(slope, (t, T), y, events=peak, method="LSODA", rtol=1e-8, atol=1e-8)
        if path.status == 0:
            return times
        t, y = path.t[-1], [p["v_reset"], path.y[1, -1] + p["b"]]
        times.append(t)


@pytest.mark.parametrize("name", ["brette_gerstner", "initial_burst", "delayed_regular_bursting"])
@pytest.mark.fidelity(
    model="adex",
    reference="scipy's solve_ivp, LSODA at 1e-8",
    compared="spike times over 80 ms at steps of 0.02 and 0.005 ms",
    closely="as many spikes, within 0.5 ms and 0.15 ms",
    differs="Euler's method is of first order",
)
def test_it_becomes_the_differential_equation(name):
    expected = torch.tensor(solved(name, 80.0))
    assert len(expected) >= 4
    errors = [(torch.tensor(ours(name, 80.0, dt)[0]) - expected).abs().max() for dt in (0.02, 0.005)]
    assert errors[0] < 0.5 and errors[1] < 0.15 and errors[1] < errors[0] / 3


def intervals(name):
    times = torch.tensor(ours(name)[0])
    return times[0].item(), times.diff()


def bursts(name):
    """How many spikes in each burst: a burst ends with an interval more than three times as long as those before it."""
    _, gaps = intervals(name)
    ends = (gaps > 20).nonzero()[:, 0].tolist()
    return [b - a for a, b in zip([-1, *ends], ends)]


def test_the_patterns_they_are_named_after():
    _, gaps = intervals("tonic")
    assert gaps[-10:].max() - gaps[-10:].min() < 0.15 and gaps[-1] < 1.1 * gaps[0]
    _, gaps = intervals("adapting")
    assert gaps[-1] > 6 * gaps[0] and (gaps.diff()[:5] > 0).all()
    _, gaps = intervals("initial_burst")
    assert gaps[:2].max() < 10 and gaps[3:].min() > 50 and gaps[3:].max() - gaps[3:].min() < 0.3
    first, _ = intervals("regular_bursting")
    counts = bursts("regular_bursting")
    assert len(counts) >= 4 and set(counts[1:]) == {2} and first < 20
    first, gaps = intervals("delayed_accelerating")
    assert first > 1.5 * gaps[0] and gaps[0] > 1.8 * gaps[-1] and (gaps.diff() < 0.15).all()
    first, gaps = intervals("delayed_regular_bursting")
    assert first > gaps[:3].sum() * 3 and set(bursts("delayed_regular_bursting")) == {4}
    times, _ = ours("transient")
    assert times and times[-1] < 50  # and is silent for the rest of its 600 ms
    _, gaps = intervals("irregular")
    late = gaps[8:]
    for period in range(1, 6):  # it comes back to no rhythm
        assert (late[period:] - late[:-period]).abs().mean() > 3


@law
@given(
    currents=st.lists(st.floats(-math.inf, math.inf, width=32), min_size=3, max_size=6),
    name=st.sampled_from(sorted(snf.adex_presets)),
    kind=st.sampled_from(["loop", "auto"]),
)
@example(currents=[math.inf, 3e38, -math.inf, 0.0], name="tonic", kind="loop")
@example(currents=[3e5, 0.0, 0.0], name="tonic", kind="auto")  # up into where the exponential would overflow
def test_it_stays_finite_whatever_comes(currents, name, kind):
    preset = snf.adex_presets[name] | {"delta_T": 0.1, "threshold": 150.0}
    params, xs = snf.AdexParams(**preset), torch.tensor(currents)[:, None]
    run = lambda xs: snf.scan(snf.adex_step, params, snf.adex_init(params, xs[0]), xs, kind=kind)
    spks, state = run(xs)
    for tensor in (spks, state.mem, state.w, grad(lambda xs: run(xs)[1].w.sum())(xs)):
        assert tensor.isfinite().all()
