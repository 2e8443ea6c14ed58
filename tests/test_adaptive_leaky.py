"""The LSNN's neuron against its equations, values and gradients, by plain autograd."""

import pytest
import torch
from helpers import assert_allclose, backward, dot

import snn_functional as snf


def lsnn(params, xs):
    """Bellec et al. 2020, in the order of its equations: the last spike is kept, with its gradient but in the reset."""
    spike = params.spike_grad
    v = a = z = torch.zeros_like(xs[0])
    for x in xs:
        a = params.rho * a + z
        if params.reset_mechanism == "subtract":
            v = params.beta * v + x - z.detach() * params.threshold
        elif params.reset_mechanism == "zero":
            v = params.beta * v * (1 - z.detach()) + x
        else:
            v = params.beta * v + x
        z = spike(v - (params.threshold + params.jump * a))
        yield z


@pytest.mark.parametrize("kind", ["auto", "loop"])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.fidelity(
    model="adaptive_leaky",
    reference="equations of Bellec et al. 2020",
    compared="spikes and gradients of 40 drawn steps, float64",
    closely="spikes equal, gradients to rounding",
    differs="nothing",
)
def test_it_is_the_neuron_of_the_lsnn(reset, kind):
    xs = torch.rand(40, 3, 5, dtype=torch.float64)
    number = lambda usual: usual * (1 - torch.rand(5, dtype=torch.float64) / 5)
    params = snf.AdaptiveLeakyParams(number(0.9), number(0.99), number(0.3), number(1.0), reset_mechanism=reset)
    weights, state = torch.randn_like(xs), snf.adaptive_leaky_init(params, xs[0])

    def spikes(params, xs):
        return snf.scan(snf.adaptive_leaky_step, params, state, xs, kind=kind)[0]

    papers = lambda params, xs: torch.stack(list(lsnn(params, xs)))
    assert torch.equal(spikes(params, xs), papers(params, xs))
    expected = backward(lambda *args: dot(papers(*args), weights), (params, xs))
    assert_allclose(backward(lambda *args: dot(spikes(*args), weights), (params, xs)), expected)


def test_a_steady_current_is_answered_ever_more_slowly():
    xs, params = torch.full((400, 1), 0.5), snf.AdaptiveLeakyParams(0.9)
    spks, _ = snf.scan(snf.adaptive_leaky_step, params, snf.adaptive_leaky_init(params, xs[0]), xs)
    times = spks[:, 0].nonzero()[:, 0]
    assert times.diff()[-1] > 2 * times.diff()[0]


def test_modifiers_look_at_the_adapted_threshold():
    params = snf.AdaptiveLeakyParams(0.9, rho=0.99, jump=0.5)
    xs = torch.rand(30, 2, 4)
    same = snf.quantize(snf.adaptive_leaky, lambda x: x)
    found, right = (snf.scan(n.step, params, n.init(params, xs[0]), xs)[0] for n in (same, snf.adaptive_leaky))
    assert right.any() and torch.equal(found, right)
    params = snf.AdaptiveLeakyParams(1.0, rho=1.0, jump=5.0)
    state = snf.AdaptiveLeakyState(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    spk, _ = snf.inhibit(snf.adaptive_leaky_step)(params, state, torch.tensor([[4.0, 2.0]]))
    assert spk.tolist() == [[0.0, 1.0]]  # the first one's threshold is 6
