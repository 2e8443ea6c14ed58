"""Izhikevich's presets and short-term plasticity beside the installed Norse 1.1."""

import importlib

import pytest
import torch
from helpers import assert_allclose
from test_izhikevich_euler import currents_of, double, ours

import snn_functional as snf


norse = pytest.importorskip("norse.torch.functional")
theirs = importlib.import_module("norse.torch.functional.izhikevich")
plasticity = importlib.import_module("norse.torch.functional.tsodyks_makram")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", snf.norse_izhikevich_presets)
@pytest.mark.fidelity(
    model="izhikevich_euler",
    reference="Norse 1.1.0, `izhikevich_feed_forward_step`",
    compared="spikes and membranes of its twenty presets at the currents of its tests, float64",
    closely="spikes equal, membranes to 1e-3",
    differs="the reset is seen one step later; where its preset 'accomodation' starts",
)
def test_norses_presets(name):
    p, s = getattr(theirs, name)
    numbers = snf.norse_izhikevich_presets[name]
    full = double(numbers)
    assert (p.a, p.b, p.c, p.d) == tuple(numbers[k] for k in "abcd")
    assert (p.sq, p.mn, p.bias, p.v_th) == (full.square, full.slope, full.offset, full.threshold)
    start = numbers["v_start"], -16.0 if name == "accomodation" else p.b * numbers["v_start"]
    assert (float(s.v), float(s.u)) == pytest.approx(start, rel=1e-6)  # which are float32
    state = theirs.IzhikevichState(full.v_start, p.b * full.v_start)
    spikes, membranes = [], []
    for step, current in enumerate(currents_of(name)):
        spk, state = theirs.izhikevich_feed_forward_step(
            torch.tensor(current).double(), state, p, dt=numbers["dt"] / p.tau_inv
        )
        membranes.append(state.v)
        if spk:
            spikes.append(step)
    found, mems = ours(name)
    assert found == spikes
    after = torch.where(mems > 30, double(numbers).c, mems)
    assert_allclose(after, torch.stack(membranes), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", snf.norse_izhikevich_presets)
def test_a_step_is_as_long_as_norses(name):
    """Its own default of a thousandth of a second."""
    p, _ = getattr(theirs, name)
    assert 0.001 * p.tau_inv == pytest.approx(snf.norse_izhikevich_presets[name]["dt"])


@pytest.mark.fidelity(
    model="short_term_plasticity",
    reference="Norse 1.1.0, `stp_step`",
    compared="the currents of a drawn train of spikes at steps of 1 and 0.1 ms",
    closely="within 4 % and 0.4 %",
    differs="Norse is Euler's method, and its spikes meet u and x of the step before",
)
def test_norses_plasticity_becomes_ours_at_short_steps():
    worst = []
    for dt in (0.001, 0.0001):
        times = torch.tensor([5, 13, 30, 41, 77, 160, 171, 300, 320]) / 1000
        spks = torch.zeros(round(0.35 / dt), 1, dtype=torch.float64)
        spks[(times / dt).round().long()] = 1
        p = plasticity.TsodyksMakramParameters()
        decay = lambda rate, dt=dt: torch.tensor(-rate * dt, dtype=torch.float64).exp()
        params = snf.ShortTermPlasticityParams(torch.tensor(p.U).double(), decay(p.tau_f_inv), decay(p.tau_d_inv))
        rest = snf.short_term_plasticity_init(params, spks[0])
        found, _ = snf.scan(snf.short_term_plasticity_step, params, rest, spks)
        state, currents = plasticity.TsodyksMakramState(rest.u, rest.x), []
        for spk in spks:
            current, state = plasticity.stp_step(spk, state, p, dt)
            currents.append(current)
        fired = spks[:, 0] > 0
        worst.append((torch.stack(currents)[fired] / found[fired] - 1).abs().max().item())
    assert worst[0] < 0.04 and worst[1] < 0.004, worst
