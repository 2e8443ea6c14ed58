"""`multi_spike` against the installed sinabs 3.1, `ternary` against the installed SpikingJelly 2.0; skipped where they are not there."""

import pytest
import torch
from helpers import assert_allclose, assert_equal

import snn_functional as snf


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of the peers
X = torch.randn(60, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def ours(neuron, params, xs):
    recorded = snf.record(neuron)
    (spks, states), _ = snf.scan(recorded.step, params, recorded.init(params, xs[0]), xs)
    return spks, states.mem


@pytest.mark.parametrize("most", [2, 20])
@pytest.mark.fidelity(
    model="multi_spike",
    reference="sinabs 3.1, `lif_forward` with `MaxSpike` and `MembraneSubtract`",
    compared="spike counts and membranes of 60 drawn steps, at most 2 and 20 spikes a step",
    closely="spikes equal, membranes to 1e-5",
    differs="sinabs counts in float32, fires at a multiple of the threshold, too, and has one surrogate, not one at each multiple",
)
def test_multi_spike_counts_as_sinabs_does(most):
    activation = pytest.importorskip("sinabs.activation", reason="sinabs is not installed: .ci/peers")
    from sinabs.layers.functional.lif import lif_forward

    xs, threshold = 3 * X + 0.5, 0.7
    state = {"v_mem": torch.zeros(3, 5, dtype=torch.float64)}
    theirs, _, recorded = lif_forward(
        xs.transpose(0, 1), 0.9, None, state | {"i_syn": torch.zeros(3, 5)}, threshold, activation.MaxSpike(most),
        activation.MembraneSubtract(), activation.SingleExponential(), None, False, record_states=True,
    )  # fmt: skip
    params = snf.LeakyParams(torch.tensor(0.9).double(), torch.tensor(threshold).double())
    spks, mems = ours(snf.multi_spike(snf.leaky, most), params, xs)
    assert_equal(spks, theirs.transpose(0, 1).double())
    assert_allclose(mems, recorded["v_mem"].transpose(0, 1), rtol=0, atol=1e-5)
    assert 2 < spks.max() or most == 2


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.fidelity(
    model="ternary",
    reference="SpikingJelly 2.0, `ternary_lif_step`, both resets",
    compared="spikes, membranes and gradients of 60 drawn steps, ATan of alpha 2",
    closely="spikes equal, the rest to 1e-12",
    differs="SpikingJelly also fires at the threshold exactly",
)
def test_ternary_fires_as_spikingjelly_does(hard):
    neuron = pytest.importorskip(
        "spikingjelly.activation_based.functional.neuron", reason="SpikingJelly is not installed: .ci/peers"
    )
    from spikingjelly.activation_based import surrogate

    theirs, xs = X.clone().requires_grad_(), X.clone().requires_grad_()
    weights, v, spks, mems = torch.randn_like(X), torch.zeros_like(X[0]), [], []
    for x in theirs:
        spk, v = neuron.ternary_lif_step(x, v, 2.0, False, 1.0, 0.0 if hard else None, surrogate.ATan(2.0))
        spks.append(spk)
        mems.append(v)
    reset = "zero" if hard else "subtract"
    params = snf.LeakyParams(torch.tensor(0.5).double(), torch.tensor(1.0).double(), reset_mechanism=reset)
    own, own_mems = ours(snf.ternary(snf.leaky), params, xs)
    assert_equal(own.detach(), torch.stack(spks).detach())
    assert_allclose(own_mems, torch.stack(mems), rtol=0, atol=1e-12)
    assert set(own.unique().tolist()) == {-1.0, 0.0, 1.0}
    expected = torch.autograd.grad((torch.stack(spks) * weights).sum() + torch.stack(mems).sum(), theirs)
    found = torch.autograd.grad((own * weights).sum() + own_mems.sum(), xs)
    assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
