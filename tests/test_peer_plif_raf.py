"""The parametric leaky neuron and the resonator beside SpikingJelly's, where that is installed."""

import math

import pytest
import torch
from helpers import assert_allclose

import snn_functional as snf


functional = pytest.importorskip("spikingjelly.activation_based.functional")

RESETS = {"zero": 0.0, "subtract": None}  # its v_reset


def both(neuron, params, theirs, xs):
    """Spikes, and the gradients of a mixture of them, of the steps here and of `theirs(state, x) -> (spk, state)`."""
    weights = torch.randn_like(xs)
    leaves = [getattr(params, name).requires_grad_() for name in params.__leaves__]
    xs = xs.requires_grad_()

    def loop():
        state, spks = None, []
        for x in xs:
            spk, state = theirs(state, x)
            spks.append(spk)
        return torch.stack(spks)

    for spks in (snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs, kind="loop")[0], loop()):
        grads = torch.autograd.grad((spks * weights).sum(), [*leaves, xs], allow_unused=True)
        yield (
            spks.detach(),
            {name: grad for name, grad in zip([*params.__leaves__, "input"], grads) if grad is not None},
        )


@pytest.mark.parametrize("gain", ["1/tau", "one"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.fidelity(
    model="plif",
    reference="SpikingJelly 2.0.0, `plif_step`",
    compared="spikes and gradients (w, input) of 50 drawn steps, float64",
    closely="spikes equal, gradients to rounding",
    differs="no gradient passes through the reset: its detach_reset=True; v_reset is 0",
)
def test_plif(reset, gain):
    torch.manual_seed(0)
    xs, w = 2 * torch.rand(50, 3, 5, dtype=torch.float64), torch.tensor(-math.log(1.0), dtype=torch.float64)
    params = snf.PlifParams(w, torch.tensor(1.0, dtype=torch.float64), reset_mechanism=reset, gain=gain)

    def theirs(v, x):
        v = torch.zeros_like(x) if v is None else v
        return functional.plif_step(x, v, w, gain == "1/tau", 1.0, RESETS[reset], params.spike_grad, True)

    (found, ours), (expected, slopes) = both(snf.plif, params, theirs, xs)
    assert 0.1 < expected.mean() < 0.9 and torch.equal(found, expected)
    assert set(slopes) == {"w", "input"}
    assert_allclose({name: ours[name] for name in slopes}, slopes)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.fidelity(
    model="resonate_and_fire",
    reference="SpikingJelly 2.0.0, `raf_step`",
    compared="spikes and gradients (input) of 100 drawn steps, float64",
    closely="spikes equal, gradients to rounding",
    differs="no gradient passes through the reset: its detach_reset=True; v_reset is 0; it has no dt",
)
def test_resonate_and_fire(reset):
    torch.manual_seed(0)
    b, omega, dt, double = -0.5, 6.0, 0.1, lambda x: torch.tensor(x, dtype=torch.float64)
    xs = torch.randn(100, 3, 5, dtype=torch.float64)
    params = snf.ResonateAndFireParams(double(math.exp(b * dt)), double(omega * dt), double(1.0), reset_mechanism=reset)

    def theirs(state, x):
        u, v = (torch.zeros_like(x), torch.zeros_like(x)) if state is None else state
        spk, u, v = functional.raf_step(x, u, v, b, omega, dt, 1.0, RESETS[reset], params.spike_grad, True)
        return spk, (u, v)

    (found, ours), (expected, slopes) = both(snf.resonate_and_fire, params, theirs, xs)
    assert 0.05 < expected.mean() < 0.9 and torch.equal(found, expected)
    assert set(slopes) == {"input"}
    assert_allclose(ours["input"], slopes["input"])
