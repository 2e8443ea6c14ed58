"""The quadratic and the exponential integrate-and-fire neuron against the loops of their equations, and against their differential
equations: of the one the solution is a tangent, of the other an integral."""

import math

import pytest
import torch
from helpers import assert_allclose, backward, dot, law
from hypothesis import given, strategies as st
from scipy.integrate import quad
from torch.func import grad

import snn_functional as snf


QIF, EIF = snf.quadratic_integrate_and_fire, snf.exponential_integrate_and_fire
SLOPES = {
    QIF: lambda p, v, x: p.a * (v - p.v_rest) * (v - p.v_c) + x,
    EIF: lambda p, v, x: p.v_rest - v + p.delta_T * ((v - p.theta_rh) / p.delta_T).exp() + x,
}
UNUSUAL = {
    QIF: dict(tau=3.0, a=0.9, v_rest=0.1, v_c=0.7, v_reset=-0.2, threshold=1.1),
    EIF: dict(tau=3.0, delta_T=0.2, theta_rh=0.6, v_rest=0.1, v_reset=-0.2, threshold=1.2),
}
both = pytest.mark.parametrize("neuron", [QIF, EIF], ids=["qif", "eif"])


def run(neuron, params, xs, kind="auto"):
    return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs, kind=kind)


def double(neuron, **numbers):
    return neuron.Params(**{k: torch.tensor(x, dtype=torch.float64) for k, x in numbers.items()})


def loop(neuron, params, xs):
    """The reset at the end of the step, without gradient."""
    v = params.v_rest.expand_as(xs[0])
    for x in xs:
        v = v + SLOPES[neuron](params, v, x) / params.tau
        spk = params.spike_grad(v - params.threshold)
        v = torch.where(spk.detach() > 0, params.v_reset, v)
        yield spk


@both
@pytest.mark.parametrize("kind", ["auto", "loop"])
@pytest.mark.fidelity(
    model="quadratic_integrate_and_fire, exponential_integrate_and_fire",
    reference="equations, in a plain loop",
    compared="spikes and gradients of 40 drawn steps, float64",
    closely="spikes equal, gradients to rounding",
    differs="the reset is seen one step later",
)
def test_it_is_its_equation(neuron, kind):
    params = double(neuron, **UNUSUAL[neuron])
    xs = torch.randn(40, 3, 5, dtype=torch.float64) / 2 + 0.5
    weights = torch.randn_like(xs)
    plain = lambda params, xs: torch.stack(list(loop(neuron, params, xs)))
    ours = lambda params, xs: run(neuron, params, xs, kind)[0]
    assert torch.equal(ours(params, xs), plain(params, xs)) and 0.03 < plain(params, xs).mean() < 0.6
    expected = backward(lambda *args: dot(plain(*args), weights), (params, xs))
    assert_allclose(backward(lambda *args: dot(ours(*args), weights), (params, xs)), expected)


def tangent(p, current):
    """The time from reset to peak in units of tau, by the solution that the quadratic equation has."""
    middle = (p["v_rest"] + p["v_c"]) / 2
    root = math.sqrt(current / p["a"] - (p["v_c"] - p["v_rest"]) ** 2 / 4)
    at = lambda v: math.atan((v - middle) / root)
    return (at(p["threshold"]) - at(p["v_reset"])) / (p["a"] * root)


def integral(p, current):
    """The same of the exponential one: the integral of dv / (dv/dt)."""
    slope = lambda v: p["v_rest"] - v + p["delta_T"] * math.exp((v - p["theta_rh"]) / p["delta_T"]) + current
    return quad(lambda v: 1 / slope(v), p["v_reset"], p["threshold"])[0]


@both
@pytest.mark.parametrize("current", [0.6, 2.0])
@pytest.mark.fidelity(
    model="quadratic_integrate_and_fire, exponential_integrate_and_fire",
    reference="the differential equations' own solution, a tangent; scipy's quad",
    compared="the interval between spikes under constant inputs, at tau of 1000 and 4000 steps",
    closely="within 1 % and 0.3 %",
    differs="Euler's method is of first order",
)
def test_the_interval_between_spikes(neuron, current):
    p = UNUSUAL[neuron] | {"threshold": 3.0 if neuron is QIF else 1.2}
    exact = (tangent if neuron is QIF else integral)(p, current)
    errors = []
    for tau in (1000.0, 4000.0):
        params = double(neuron, **p | {"tau": tau})
        xs = torch.full((round(3.5 * exact * tau), 1), current, dtype=torch.float64)
        gaps = run(neuron, params, xs)[0][:, 0].nonzero()[:, 0].diff()
        errors.append(abs(gaps[-1].item() / tau / exact - 1))
    assert errors[0] < 0.01 and errors[1] < 0.003


@pytest.mark.parametrize("neuron, rheobase", [(QIF, 0.16), (EIF, 0.4)], ids=["qif", "eif"])
def test_it_fires_for_ever_above_the_rheobase_that_it_is_said_to_have(neuron, rheobase):
    params = neuron.Params(tau=10.0)
    count = lambda current: run(neuron, params, torch.full((5000, 1), current))[0].sum()
    assert count(rheobase - 0.001) == 0 and count(rheobase + 0.001) > 3


def test_a_spike_makes_itself_beyond_the_critical_membrane():
    state = QIF.State(torch.tensor([[0.79, 0.81]]))
    spks, last = snf.scan(QIF.step, QIF.Params(tau=10.0), state, torch.zeros(400, 1, 2))
    assert spks.sum(0).tolist() == [[0.0, 1.0]] and last.mem.abs().max() < 0.1


def test_they_start_at_rest():
    for neuron in (QIF, EIF):
        rest = torch.tensor([-65.0, -70.0])
        assert_allclose(neuron.init(neuron.Params(v_rest=rest), torch.zeros(3, 2)), neuron.State(rest.expand(3, 2)))


@both
@law
@given(st.lists(st.floats(-math.inf, math.inf, width=32), min_size=3, max_size=6), st.sampled_from(["loop", "auto"]))
def test_it_stays_finite_whatever_comes(neuron, currents, kind):
    params, xs = neuron.Params(), torch.tensor(currents)[:, None]
    spks, state = run(neuron, params, xs, kind)
    slopes = grad(lambda *args: run(neuron, *args, kind)[1].mem.sum(), (0, 1))(params, xs)
    for tensor in (spks, state.mem, slopes[0].tau, slopes[0].v_reset, slopes[1]):
        assert tensor.isfinite().all()
