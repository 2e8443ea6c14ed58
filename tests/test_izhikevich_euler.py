"""Izhikevich by Euler's method: twenty features against a plain program of Norse's step, and what some of them are named for."""

import pytest
import torch
from helpers import assert_allclose, law
from hypothesis import given, strategies as st

import snn_functional as snf


def between(*edges):
    return lambda t, high, low=0.0: high if any(a < t < b for a, b in edges) else low


STEP = lambda current, start: lambda t: current if t > start else 0.0
PULSES = lambda current, rest, *edges: lambda t: between(*edges)(t, current, rest)
# The length in ms, and the current at a time: those of the program of 2004, as Norse tests them, whose steps are shorter in two. The second
# class ends where a rounding has grown to a step; "accomodation", which fires by itself here and there, has a current of ours.
CURRENTS = {
    "tonic_spiking": (100, STEP(14.0, 10)),
    "phasic_spiking": (200, STEP(0.5, 20)),
    "tonic_bursting": (220, STEP(15.0, 25)),
    "phasic_bursting": (200, STEP(0.6, 20)),
    "mixed_mode": (160, STEP(10.0, 16)),
    "spike_frequency_adaptation": (85, STEP(30.0, 8.5)),
    "class_1_exc": (300, lambda t: max(0.0, 0.075 * (t - 30))),
    "class_2_exc": (200, lambda t: -0.5 + max(0.0, 0.015 * (t - 30))),
    "spike_latency": (100, PULSES(7.4, 0.0, (10, 13))),
    "subthreshold_oscillation": (200, PULSES(2.0, 0.0, (20, 25))),
    "resonator": (400, PULSES(0.65, 0.0, (40, 44), (60, 64), (280, 284), (320, 324))),
    "integrator": (100, PULSES(9.0, 0.0, (9, 11), (14, 16), (70, 72), (80, 82))),
    "rebound_spike": (200, PULSES(-15.0, 0.0, (20, 25))),
    "rebound_burst": (200, PULSES(-15.0, 0.0, (20, 25))),
    "threshold_variability": (100, lambda t: between((10, 15), (80, 85))(t, 1.0) + between((70, 75))(t, -6.0)),
    "bistability": (300, PULSES(1.24, 0.24, (37.5, 42.5), (216, 221))),
    "dap": (50, PULSES(20.0, 0.0, (9, 11))),
    "accomodation": (100, lambda t: t / 25),
    "inhibition_induced_spiking": (175, PULSES(75.0, 80.0, (25, 125))),
    "inhibition_induced_bursting": (175, PULSES(75.0, 80.0, (25, 125))),
}


def currents_of(name):
    dt = snf.norse_izhikevich_presets[name]["dt"]
    length, current = CURRENTS[name]
    return [float(current(dt * step)) for step in range(round(length / dt))]


def program(currents, a, b, c, d, v_start, dt, slope=5.0, offset=140.0):
    """Norse's step in plain Python: `(the steps of spikes, membranes before their reset)`."""
    v, u = v_start, b * v_start
    spikes, membranes = [], []
    for step, current in enumerate(currents):
        v, u = v + dt * (0.04 * v**2 + slope * v + offset - u + current), u + dt * a * (b * v - u)
        membranes.append(v)
        if v > 30:
            spikes.append(step)
            v, u = c, u + d
    return spikes, membranes


def double(numbers):
    exact = {name: round(x.item(), 6) for name, x in snf.named_leaves(snf.IzhikevichEulerParams()).items()} | numbers
    return snf.IzhikevichEulerParams(**{name: torch.tensor(x, dtype=torch.float64) for name, x in exact.items()})


def ours(name):
    params, neuron = double(snf.norse_izhikevich_presets[name]), snf.record(snf.izhikevich_euler)
    xs = torch.tensor(currents_of(name), dtype=torch.float64)[:, None]
    (spks, states), _ = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)
    return spks[:, 0].nonzero()[:, 0].tolist(), states.mem[:, 0]


@pytest.mark.parametrize("name", snf.norse_izhikevich_presets)
@pytest.mark.fidelity(
    model="izhikevich_euler",
    reference="Euler program of Izhikevich 2004 as in Norse, in plain Python",
    compared="spike times and membranes of twenty presets at their currents",
    closely="spikes equal, membranes to 1e-3",
    differs="the reset is seen one step later",
)
def test_spike_for_spike(name):
    spikes, membranes = ours(name)
    expected = program(currents_of(name), **snf.norse_izhikevich_presets[name])
    assert spikes == expected[0]
    assert_allclose(membranes, torch.tensor(expected[1], dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_some_of_what_they_are_named_for():
    times = {name: torch.tensor(ours(name)[0]) * p["dt"] for name, p in snf.norse_izhikevich_presets.items()}
    gaps = {name: spikes.diff() for name, spikes in times.items()}
    assert len(times["tonic_spiking"]) > 3 and len(times["phasic_spiking"]) == 1
    assert len(times["phasic_bursting"]) > 3 and times["phasic_bursting"].max() < 80
    assert gaps["tonic_bursting"].max() > 4 * gaps["tonic_bursting"].min()
    assert gaps["spike_frequency_adaptation"][-1] > 2 * gaps["spike_frequency_adaptation"][0]
    assert gaps["class_1_exc"][0] > 2.5 * gaps["class_1_exc"][-1]  # from nothing up
    assert gaps["class_2_exc"].max() < 2 * gaps["class_2_exc"].min()  # with one rhythm from its first spike on
    assert times["spike_latency"][0] > 16  # when its pulse of 3 ms is over
    assert len(times["rebound_spike"]) == 1 and times["rebound_spike"] > 25 and len(times["rebound_burst"]) > 2
    assert len(times["resonator"]) == 1 and times["resonator"] > 280  # to pulses 40 ms apart, not 20
    inhibited = times["inhibition_induced_spiking"]
    assert len(inhibited) > 1 and ((25 < inhibited) & (inhibited < 140)).all()


@law
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=6), st.sampled_from(["loop", "auto"]))
def test_it_stays_finite_whatever_comes(currents, kind):
    params, xs = snf.IzhikevichEulerParams(), torch.tensor(currents)[:, None]
    init, step = snf.izhikevich_euler_init, snf.izhikevich_euler_step
    run = lambda xs: snf.scan(step, params, init(params, xs[0]), xs, kind=kind)[1]
    for tensor in (run(xs).mem, run(xs).recovery, torch.func.grad(lambda xs: run(xs).recovery.sum())(xs)):
        assert tensor.isfinite().all()
