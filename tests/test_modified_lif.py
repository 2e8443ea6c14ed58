"""Modifiers that look at the membrane, around neurons whose reset or spike is in another step than leaky's: done right, or refused."""

import pytest
import torch
from helpers import assert_allclose, assert_equal
from torch.func import grad

import snn_functional as snf


X = torch.tensor([[[1.2, 0.5]]] * 4)
STRONG = torch.randn(30, 2, 4, generator=torch.Generator().manual_seed(0)) * 1.5
NEURONS = {
    "lif": (snf.lif, lambda **choices: snf.LifParams(0.9, **choices)),
    "cuba_lif": (snf.cuba_lif, lambda **choices: snf.CubaLifParams(0.1, 0.9, **choices)),
}
either = pytest.mark.parametrize("neuron, params", NEURONS.values(), ids=NEURONS)


def run(neuron, params, xs=X):
    return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs, kind="loop")[0]


def same(x):
    return x


def modified(neuron):
    return [snf.inhibit(neuron), snf.quantize(neuron, same)]


@either
def test_a_membrane_that_was_lowered_is_not_taken_for_the_one_that_fired(neuron, params):
    """inhibit would let a neuron win that has not fired, and quantize would fire nothing."""
    for each in modified(neuron):
        with pytest.raises(
            ValueError, match=r"looks at the membrane after the step.*immediate_reset\((inhibit|quantize)\(neuron\)\)"
        ):
            run(each, params())
        with pytest.raises(ValueError, match="looks at the membrane after the step.*spike_delay=False"):
            run(each, params(spike_delay=True))


@either
def test_the_two_ways_out(neuron, params):
    late = params(reset_delay=True)
    winner = lambda spks: torch.stack([spks[..., 0], spks[..., 1] * (1 - spks[..., 0])], -1)
    assert_equal(run(snf.quantize(neuron, same), late), run(neuron, late))
    assert_equal(run(snf.immediate_reset(snf.quantize(neuron, same)), params()), run(neuron, params()))
    assert run(neuron, params())[..., 1].any()
    for each, p in ((snf.inhibit(neuron), late), (snf.immediate_reset(snf.inhibit(neuron)), params())):
        assert_equal(run(each, p)[0], winner(run(neuron, p))[0])
        assert_equal(run(each, p).sum(-1).clamp(max=1), run(each, p).sum(-1))
        assert run(each, p)[..., 0].any()


@pytest.mark.parametrize(
    "neuron, params", [(snf.se_adlif, snf.SeAdlifParams(0.1)), (snf.hodgkin_huxley, snf.HodgkinHuxleyParams())]
)
def test_neurons_whose_spikes_cannot_be_taken_again(neuron, params):
    for each in modified(neuron):
        with pytest.raises(
            ValueError, match=f"looks at the membrane after the step, which of {type(params).__name__} is not"
        ):
            run(each, params)


SECOND = {
    "multi_spike": (snf.multi_spike(snf.lif, 2), None),
    "ternary": (snf.ternary(snf.lif), None),
    "driven": (snf.driven(snf.lif), torch.zeros_like(X)),
    "escape_noise": (snf.escape_noise(snf.lif), torch.rand_like(X)),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_late_spike_is_not_lost_in_a_modifier(name):
    neuron, second = SECOND[name]
    params = snf.LifParams(0.9, spike_delay=True)
    params = snf.EscapeNoiseParams(params, 0.2) if name == "escape_noise" else params
    xs, state = X if second is None else (X, second), snf.lif_init(snf.LifParams(0.9), X[0])
    with pytest.raises(ValueError, match=f"{name} looks at the membrane after the step.*spike_delay=False"):
        snf.scan(neuron.step, params, state, xs, kind="loop")


@pytest.mark.parametrize("modifier, reset", [
    (snf.immediate_reset, "subtract"), (snf.immediate_reset, "value"), (lambda neuron: snf.multi_spike(neuron, 1), "subtract")
])  # fmt: skip
def test_a_reset_that_is_detached_stays_so_in_a_modifier(modifier, reset):
    params = snf.LifParams(0.9, reset_mechanism=reset, detach_reset=True)
    slope = lambda neuron: grad(lambda xs: run(neuron, params, xs).sum())(STRONG.abs())
    assert_allclose(slope(modifier(snf.lif)), slope(snf.lif))


@pytest.mark.parametrize("modifier", [snf.immediate_reset, snf.ternary])
def test_a_reset_of_more_than_the_membrane_is_not_made_one_of_the_membrane(modifier):
    neuron, params = modifier(snf.resonate_and_fire), snf.ResonateAndFireParams(0.9)
    with pytest.raises(ValueError, match="reset_mechanism='upright' is more than a membrane that is lowered"):
        run(neuron, params)
    assert run(neuron, snf.ResonateAndFireParams(0.9, reset_mechanism="zero"), 3 * X).any()


@pytest.mark.parametrize(
    "inner",
    [snf.multi_spike(snf.lif, 3), snf.refractory(snf.ternary(snf.lif), 2), snf.readout(snf.lif), snf.filtered(snf.lif)],
)
def test_sub_steps_refuses_what_is_not_0_or_1(inner):
    """Of two spikes and one it would make 1 - (1 - 2) (1 - 1) = 1, of three and two -1."""
    with pytest.raises(
        ValueError, match=r"sub_steps\((multi_spike|ternary|readout|filtered)\(neuron\)\): what it gives is not 0 or 1"
    ):
        snf.sub_steps(inner, 2)


@pytest.mark.parametrize("numbers", [{"width": 0.0}, {"width": -1.0}, {"width": 0.2, "rate": -1.0}])
def test_escape_noise_has_a_width_and_a_rate(numbers):
    with pytest.raises(ValueError, match=r"EscapeNoiseParams\((width|rate)=.*expected a number above 0"):
        snf.EscapeNoiseParams(snf.LifParams(0.9), **numbers)


def test_ottt_refuses_a_spike_that_is_late():
    net = snf.chain(snf.linear, snf.lif)
    params = (snf.Linear(torch.eye(2)), snf.LifParams(0.9, spike_delay=True))
    with pytest.raises(ValueError, match="fires from the membrane of the step before"):
        snf.learning.ottt(net.step, lambda spk, target: spk.sum())(params, net.init(params, X[0]), X, X)
