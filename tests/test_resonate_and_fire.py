"""The resonators against scipy's solver of their differential equation and against the program of the balanced one's paper."""

import math

import pytest
import torch
from helpers import assert_allclose, backward, dot

import snn_functional as snf


def pulses(*times, T=60, size=1.0):
    xs = torch.zeros(T, 1, dtype=torch.float64)
    xs[list(times)] = size
    return xs


def run(params, xs, kind="loop"):
    neuron = snf.record(snf.resonate_and_fire)
    (spks, states), _ = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs, kind=kind)
    return spks[:, 0], states


def solved(b, omega, xs, threshold):
    """z' = (b + i omega) z by scipy, a step at a time: a pulse moves the real part, and after a spike z = i threshold."""
    solve_ivp = pytest.importorskip("scipy.integrate").solve_ivp
    turn = lambda t, z: [b * z[0] - omega * z[1], omega * z[0] + b * z[1]]
    z, spks, found = (0.0, 0.0), [], []
    for x in xs[:, 0].tolist():
        if z[1] > threshold:
            z = (0.0, threshold)
        end = solve_ivp(turn, (0, 1), z, rtol=1e-10, atol=1e-12).y[:, -1]
        z = (end[0] + x, end[1])
        found.append(z)
        spks.append(float(z[1] > threshold))
    return torch.tensor(spks), torch.tensor(found, dtype=torch.float64)


@pytest.mark.fidelity(
    model="resonate_and_fire",
    reference="the equation of Izhikevich 2001, solved by scipy's Runge-Kutta to 1e-10",
    compared="spikes and both parts for 60 steps of drawn pulses",
    closely="spikes equal, parts to 1e-7",
    differs="it fires at the end of a step, not where it crosses the threshold within one",
)
def test_it_is_the_differential_equation():
    xs = torch.randn(60, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b, omega, double = -0.08, 0.7, lambda x: torch.tensor(x, dtype=torch.float64)
    spks, states = run(snf.ResonateAndFireParams(double(math.exp(b)), double(omega), double(1.0)), xs)
    expected, parts = solved(b, omega, xs, 1.0)
    assert 3 < expected.sum() < 30 and torch.equal(spks.float(), expected)
    assert_allclose(torch.cat([states.real, states.mem], -1), parts, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("apart, fires", [(20, True), (10, False), (30, False), (40, True)])
def test_of_two_pulses_those_in_its_rhythm_make_it_fire(apart, fires):
    """Figure 3 of Izhikevich 2001: a cycle is 20 steps, and no pulse does it alone."""
    params = snf.ResonateAndFireParams(0.995, 2 * math.pi / 20)
    assert run(params, pulses(0, apart, T=80, size=0.7))[0].any() == fires
    assert not run(params, pulses(0, T=80, size=0.7))[0].any()


def test_it_fires_when_inhibition_ends():
    params = snf.ResonateAndFireParams(0.98, 0.3)
    spks, _ = run(params, pulses(0, size=-1.5))
    assert spks.nonzero()[0, 0] > math.pi / 0.3  # the rebound, not the pulse


@pytest.mark.parametrize("reset, expected", [("upright", (0.0, 1.0)), ("zero", (3.0, 0.0)), ("subtract", (3.0, 1.5))])
def test_what_a_spike_leaves(reset, expected):
    params = snf.ResonateAndFireParams(1.0, 0.0, reset_mechanism=reset)
    state = snf.ResonateAndFireState(torch.tensor([3.0]), torch.tensor([2.5]))
    _, state = snf.resonate_and_fire_step(params, state, torch.zeros(1))
    assert (state.real.item(), state.mem.item()) == expected


# ------------------------------------------------------------------------------------------------ balanced


def higuchi(params, xs):
    """The program of Higuchi et al. 2024, `BRFCell` and `brf_update`: spikes first, then q."""
    dt, omega = params.dt, params.omega
    p_omega = (-1 + torch.sqrt(1 - torch.square(dt * omega))) / dt
    u = v = q = torch.zeros_like(xs[0])
    for x in xs:
        b = p_omega - params.b_offset - q
        u, v = u + b * u * dt - omega * v * dt + x * dt, v + omega * u * dt + b * v * dt
        z = params.spike_grad(u - params.threshold - q)
        q = params.gamma * q + z
        yield z, u


@pytest.mark.parametrize("kind", ["auto", "loop"])
@pytest.mark.fidelity(
    model="balanced_resonate_and_fire",
    reference="program of Higuchi et al. 2024 (AdaptiveAILab/brf-neurons, `BRFCell`), rewritten",
    compared="spikes and gradients of 150 drawn steps, float64",
    closely="spikes equal, gradients to rounding",
    differs="omega and b_offset are not made positive first; where dt omega > 1 the program is NaN",
)
def test_it_is_the_neuron_of_higuchi(kind):
    xs = 400 * torch.rand(150, 3, 5, dtype=torch.float64) * (torch.rand(150, 3, 5) < 0.3)
    number = lambda usual: usual * (1 - torch.rand(5, dtype=torch.float64) / 2)
    params = snf.BalancedResonateAndFireParams(number(20.0), number(2.0), number(0.95), number(1.0), number(0.01))
    neuron, weights = snf.balanced_resonate_and_fire, torch.randn_like(xs)

    def spikes(params, xs):
        return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs, kind=kind)[0]

    papers = lambda params, xs: torch.stack([z for z, _ in higuchi(params, xs)])
    expected = papers(params, xs)
    assert 0.02 < expected.mean() < 0.5 and torch.equal(spikes(params, xs), expected)
    found = (backward(lambda *args, f=f: dot(f(*args), weights), (params, xs)) for f in (spikes, papers))
    assert_allclose(*found)


@pytest.mark.parametrize("offset", [0.0, 0.5, -0.5])
def test_from_the_boundary_on_it_grows(offset):
    """Without damping beyond it, an oscillation neither grows nor fades, at any frequency."""
    omega = torch.tensor([1.0, 10.0, 50.0, 90.0], dtype=torch.float64)
    params = snf.BalancedResonateAndFireParams(omega, offset, threshold=1e9)
    xs = torch.zeros(400, 4, dtype=torch.float64)
    rest = snf.balanced_resonate_and_fire_init(params, xs[0])
    start = snf.BalancedResonateAndFireState(rest.spk, rest.q, rest.imag, rest.mem + 1)
    _, end = snf.scan(snf.balanced_resonate_and_fire_step, params, start, xs)
    length = (end.mem**2 + end.imag**2).sqrt()
    if offset == 0:
        assert_allclose(length, torch.ones_like(length))
    else:
        assert ((length > 1) == (offset < 0)).all()


def test_a_spike_makes_it_refractory():
    params = snf.BalancedResonateAndFireParams()
    state = snf.BalancedResonateAndFireState(*(torch.tensor([x]) for x in (1.0, 0.5, 0.0, 1.8)))
    spk, state = snf.balanced_resonate_and_fire_step(params, state, torch.zeros(1))
    assert spk == 0 and state.q.item() == pytest.approx(1.45)
    assert params.level(state).item() == pytest.approx(2.45)


def test_beyond_the_highest_frequency_it_is_finite():
    params = snf.BalancedResonateAndFireParams(omega=torch.tensor([100.0, 110.0]))
    xs = torch.ones(20, 2)
    init = snf.balanced_resonate_and_fire_init(params, xs[0])
    mem = lambda p: snf.scan(snf.balanced_resonate_and_fire_step, p, init, xs)[1].mem.sum()
    assert mem(params).isfinite() and torch.func.grad(mem)(params).omega.isfinite().all()
