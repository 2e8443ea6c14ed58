"""Synapses that grow or tire with use, against the solution of their differential equations between spikes."""

import math

import pytest
import torch
from helpers import assert_allclose
from scipy.integrate import solve_ivp
from torch.func import grad

import snn_functional as snf


TAUS = {"depressing": (50.0, 750.0), "facilitating": (750.0, 50.0)}


def params_of(name):
    """From the time constants, in double precision, and not from the preset."""
    double = lambda x: torch.tensor(x, dtype=torch.float64)
    rho_f, rho_d = (double(math.exp(-1 / tau)) for tau in TAUS[name])
    return snf.ShortTermPlasticityParams(double(snf.short_term_plasticity_presets[name]["U"]), rho_f, rho_d)


def run(params, spks, kind="auto"):
    init = snf.short_term_plasticity_init
    return snf.scan(snf.short_term_plasticity_step, params, init(params, spks[0]), spks, kind=kind)


def solved(name, times, end):
    """What each spike gives, and u and x at the end: integrated from spike to spike, with a jump at each."""
    (tau_f, tau_d), U = TAUS[name], snf.short_term_plasticity_presets[name]["U"]
    slope = lambda t, y: [-y[0] / tau_f, (1 - y[1]) / tau_d]
    y, now, given = [0.0, 1.0], -1.0, []  # the state before the first step, and where it is in time
    for time in [*times, end]:
        if time > now:
            y = solve_ivp(slope, (now, time), y, rtol=1e-10, atol=1e-12).y[:, -1]
        now = time
        if time != end:
            u = y[0] + U * (1 - y[0])
            given.append(u * y[1])
            y = [u, y[1] - given[-1]]
    return given, y


@pytest.mark.parametrize("kind", ["auto", "loop"])
@pytest.mark.parametrize("name", TAUS)
@pytest.mark.fidelity(
    model="short_term_plasticity",
    reference="scipy's solve_ivp between spikes",
    compared="the currents of a drawn train of spikes, 1000 steps, and the last state",
    closely="to 1e-8",
    differs="nothing",
)
def test_it_is_exact_between_spikes(name, kind):
    spks = (torch.rand(1000, 1, dtype=torch.float64) < 0.03).double()
    times = spks[:, 0].nonzero()[:, 0].tolist()
    given, (u, x) = solved(name, times, 999.0)
    currents, last = run(params_of(name), spks, kind)
    found = currents[times, 0]
    assert len(times) > 10 and not currents[spks == 0].any()
    assert_allclose(found, torch.tensor(given, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    assert_allclose((last.u.item(), last.x.item()), (float(u), float(x)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", TAUS)
@pytest.mark.fidelity(
    model="short_term_plasticity",
    reference="the steady state's formula, Tsodyks & Wu 2013",
    compared="the current of a spike in a long regular train, at intervals of 5, 20 and 100 ms",
    closely="to 1e-9",
    differs="nothing",
)
def test_a_regular_train_settles_where_the_formula_says(name):
    params = params_of(name)
    (tau_f, tau_d), U = TAUS[name], params.U.item()
    for gap in (5, 20, 100):
        spks = torch.zeros(200 * gap, 1, dtype=torch.float64)
        spks[::gap] = 1
        u = U / (1 - (1 - U) * math.exp(-gap / tau_f))
        x = (1 - math.exp(-gap / tau_d)) / (1 - (1 - u) * math.exp(-gap / tau_d))
        assert_allclose(run(params, spks)[0][-gap, 0].item(), u * x, rtol=1e-9, atol=0)


def test_the_presets_are_their_time_constants_and_do_what_they_are_named_for():
    spks = torch.zeros(200, 1)
    spks[::20] = 1
    of = lambda name: run(snf.ShortTermPlasticityParams(**snf.short_term_plasticity_presets[name]), spks)[0][::20, 0]
    for name in TAUS:
        exact = {name: x.float() for name, x in snf.named_leaves(params_of(name)).items()}
        preset = snf.ShortTermPlasticityParams(**snf.short_term_plasticity_presets[name])
        assert_allclose(snf.named_leaves(preset), exact, rtol=1e-7, atol=0)
    assert (of("depressing").diff() < 0).all() and (of("facilitating").diff()[:3] > 0).all()
    default = run(snf.ShortTermPlasticityParams(), spks)[0][::20, 0]
    assert torch.equal(default, of("depressing"))


def test_in_a_chain_and_within_a_filter():
    net = snf.chain(snf.filtered(snf.short_term_plasticity), snf.linear, snf.leaky)
    synapse = snf.FilteredParams(snf.ShortTermPlasticityParams(), decay=0.9)
    params = (synapse, snf.Linear(torch.rand(3, 4)), snf.LeakyParams(0.8))
    xs = (torch.rand(50, 2, 4) < 0.2).float()
    loss = lambda params, kind="auto": snf.scan(net.step, params, net.init(params, xs[0]), xs, kind=kind)[0].mean()
    slopes = grad(loss)(params)
    assert_allclose(slopes, grad(lambda params: loss(params, "loop"))(params))
    assert slopes[0].inner.U != 0 and slopes[0].inner.rho_d != 0
