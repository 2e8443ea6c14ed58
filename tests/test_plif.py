"""The parametric leaky neuron against its paper's equations, by plain autograd; `test_peer_plif_raf.py` has SpikingJelly's."""

import math

import pytest
import torch
from helpers import assert_allclose, backward, dot

import snn_functional as snf


def fang(params, xs):
    """Fang et al. 2021, equations 5 to 8: charge, fire, reset. Its resets are to 0 and by the threshold."""
    v = torch.zeros_like(xs[0])
    for x in xs:
        rate = 1 / (1 + torch.exp(-params.w))
        h = v + rate * (x - v) if params.gain == "1/tau" else v - rate * v + x
        s = params.spike_grad(h - params.threshold)
        z = s.detach()
        v = {"zero": h * (1 - z), "subtract": h - z * params.threshold, "none": h}[params.reset_mechanism]
        yield s


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "each"])
@pytest.mark.parametrize("gain", ["1/tau", "one"])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.fidelity(
    model="plif",
    reference="equations of Fang et al. 2021",
    compared="spikes and gradients of 40 drawn steps, float64, one w for all and one each",
    closely="spikes equal, gradients to rounding",
    differs="no gradient passes through the reset",
)
def test_it_is_the_neuron_of_the_paper(reset, gain, shared):
    xs = 2 * torch.rand(40, 3, 5, dtype=torch.float64)
    w = torch.randn(() if shared else (5,), dtype=torch.float64)
    params = snf.PlifParams(w, torch.tensor(1.0, dtype=torch.float64), reset_mechanism=reset, gain=gain)
    weights, state = torch.randn_like(xs), snf.plif_init(params, xs[0])
    spikes = lambda params, xs: snf.scan(snf.plif_step, params, state, xs, kind="loop")[0]
    papers = lambda params, xs: torch.stack(list(fang(params, xs)))
    assert 0.02 < papers(params, xs).mean() < 0.98 and torch.equal(spikes(params, xs), papers(params, xs))
    expected = backward(lambda *args: dot(papers(*args), weights), (params, xs))
    assert_allclose(backward(lambda *args: dot(spikes(*args), weights), (params, xs)), expected)


def test_w_is_a_time_constant():
    """What a membrane loses in a step is a tau-th of it."""
    tau = torch.tensor([1.5, 2.0, 10.0, 300.0])
    params = snf.PlifParams(-torch.log(tau - 1))
    _, state = snf.plif_step(params, snf.PlifState(torch.full((4,), 0.5)), torch.zeros(4))
    assert_allclose(state.mem, 0.5 * (1 - 1 / tau))


def test_tau_is_learned_from_a_trace():
    """A membrane that was made with tau = 8 gives it back to one that starts at 2."""
    xs = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    neuron = snf.record(snf.plif)

    def trace(w):
        params = snf.PlifParams(w, threshold=10.0)
        return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)[0][1].mem

    wanted, w = trace(torch.tensor(-math.log(7.0))), torch.tensor(0.0)
    slope = torch.func.grad(lambda w: (trace(w) - wanted).square().mean())
    for _ in range(60):
        w = w - 10 * slope(w)
    assert 1 + math.exp(-w) == pytest.approx(8, rel=0.02)
