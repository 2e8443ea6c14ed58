"""Izhikevich against the program of the paper, one number at a time; and the firing patterns that made it known."""

import math

import pytest
import torch
from helpers import assert_allclose, law
from hypothesis import given, strategies as st
from torch.func import grad

import snn_functional as snf


def papers(currents, a, b, c, d):
    """The program of Izhikevich 2003, in plain Python: `(spike times, membranes)`."""
    v, u = -65.0, b * -65.0
    times, membranes = [], []
    for t, current in enumerate(currents):
        if v >= 30:
            v, u = c, u + d
        v = v + 0.5 * (0.04 * v * v + 5 * v + 140 - u + current)
        v = v + 0.5 * (0.04 * v * v + 5 * v + 140 - u + current)
        u = u + a * (b * v - u)
        membranes.append(v)
        if v >= 30:
            times.append(t)
    return times, membranes


def ours(currents, numbers):
    double = lambda x: torch.tensor(x, dtype=torch.float64)
    params = snf.IzhikevichParams(**{name: double(x) for name, x in numbers.items()}, threshold=double(30.0))
    neuron, xs = snf.record(snf.izhikevich), double(currents)
    (spks, states), _ = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)
    return spks.nonzero()[:, 0].tolist(), states.mem


STEP = [0.0] * 20 + [10.0] * 500
RELEASE = [0.0] * 50 + [-10.0] * 100 + [0.0] * 100


@pytest.mark.parametrize("currents", [STEP, RELEASE], ids=["step", "release"])
@pytest.mark.parametrize("name", snf.izhikevich_presets)
@pytest.mark.fidelity(
    model="izhikevich",
    reference="program of Izhikevich 2003",
    compared="spike times and membranes of seven firing patterns, 520 steps",
    closely="spikes equal, membranes to 1e-6",
    differs="nothing",
)
def test_spike_for_spike(name, currents):
    numbers = snf.izhikevich_presets[name]
    times, membranes = ours(currents, numbers)
    expected = papers(currents, **numbers)
    assert times == expected[0]
    # A rounding grows some five times in the step of a spike.
    assert_allclose(membranes, torch.tensor(expected[1], dtype=torch.float64), rtol=1e-6, atol=1e-6)


def intervals(name, currents=STEP):
    times, _ = papers(currents, **snf.izhikevich_presets[name])
    assert times == ours(currents, snf.izhikevich_presets[name])[0]
    return [b - a for a, b in zip(times, times[1:])]


def test_the_patterns_they_are_named_after():
    regular = intervals("regular_spiking")
    assert min(regular[1:]) > regular[0]  # it adapts
    first, *then = intervals("intrinsically_bursting")
    assert first < 10 and min(then) > 20  # a burst, then single spikes
    chatters = intervals("chattering")
    assert not [i for i in chatters if 10 < i < 40] and 0 < sum(i > 40 for i in chatters) < sum(
        i < 10 for i in chatters
    )
    for fast in ("fast_spiking", "low_threshold_spiking", "resonator"):
        assert sum(regular) / len(regular) > 2 * sum(intervals(fast)) / len(intervals(fast))
    weak = [0.0] * 20 + [1.0] * 500
    assert intervals("low_threshold_spiking", weak) and not intervals("fast_spiking", weak)
    # Released from inhibition, a thalamo-cortical neuron fires a burst. No other excitatory one does.
    assert intervals("thalamo_cortical", RELEASE) and not intervals("regular_spiking", RELEASE)


@law
@given(
    currents=st.lists(st.floats(-math.inf, math.inf, width=32), min_size=3, max_size=6),
    name=st.sampled_from(sorted(snf.izhikevich_presets)),
    kind=st.sampled_from(["loop", "auto"]),
)
def test_it_stays_finite_whatever_comes(currents, name, kind):
    params, xs = snf.IzhikevichParams(**snf.izhikevich_presets[name]), torch.tensor(currents)[:, None]
    run = lambda xs: snf.scan(snf.izhikevich_step, params, snf.izhikevich_init(params, xs[0]), xs, kind=kind)
    spks, state = run(xs)
    for tensor in (spks, state.mem, state.recovery, grad(lambda xs: run(xs)[1].recovery.sum())(xs)):
        assert tensor.isfinite().all()


def test_it_starts_where_the_paper_does():
    state = snf.izhikevich_init(snf.IzhikevichParams(b=torch.tensor([0.2, 0.25])), torch.zeros(3, 2))
    assert_allclose(state, snf.IzhikevichState(torch.tensor([-13.0, -16.25]).expand(3, 2), torch.full((3, 2), -65.0)))
