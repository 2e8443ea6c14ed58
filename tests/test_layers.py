"""snnTorch's small layers, its divisions of datasets, its monitors, its STDP: each against its definition."""

import gc
import math
import types

import numpy
import pytest
import torch
from torch import nn
from torch.func import grad, vmap

import snn_functional as snf
from snn_functional import snn
from snn_functional.snn import functional as SF
from snn_functional.snn.functional import probe, stdp_learner


# ------------------------------------------------------------------------------------------------ layers


def test_graded_spikes_scale_neurons_not_samples():
    layer = snn.GradedSpikes(4, 1.0)
    with torch.no_grad():
        layer.weights.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    x = torch.ones(3, 4)
    assert layer(x).tolist() == [[1, 2, 3, 4]] * 3 and layer(x[..., None]).shape == (3, 4, 1)
    layer(x).sum().backward()
    assert layer.weights.grad.flatten().tolist() == [3, 3, 3, 3]
    assert snn.GradedSpikes(5, 0.0)(torch.ones(5)).sum() == 0
    drawn = snn.GradedSpikes(1000, None).weights
    assert drawn.shape == (1000, 1) and 0.5 <= drawn.min() < 0.6 and 1.4 < drawn.max() <= 1.5
    with pytest.raises(ValueError, match=r"takes spikes \[..., 4\], but \(3, 5\) came"):
        layer(torch.ones(3, 5))


@pytest.mark.parametrize("make, x", [(snn.BatchNormTT1d, (8, 6)), (snn.BatchNormTT2d, (8, 6, 3, 2))])
def test_batch_normalisation_through_time_is_a_layer_a_step_without_bias(make, x):
    norms = make(6, 4, eps=1e-3, momentum=0.2)
    assert isinstance(norms, nn.ModuleList) and len(norms) == 4
    for norm in norms:
        assert norm.bias is None and norm.eps == 1e-3 and norm.momentum == 0.2
        out = norm(torch.randn(x) * 3 + 1)
        assert out.mean().abs() < 1e-5 and (out.std() - 1).abs() < 0.1
    with pytest.raises(ValueError, match="a layer for each step"):
        make(6, 0)


# ------------------------------------------------------------------------------------------------ datasets


def dataset(n=20, kind=torch.tensor):
    return types.SimpleNamespace(data=torch.arange(n * 2).view(n, 2), targets=kind(list(range(n))))


def test_data_subset_is_a_part_and_leaves_what_was_held():
    ds = dataset()
    held = ds.data
    cut = snn.utils.data_subset(ds, 3, idx=1)
    assert (
        cut is ds and cut.targets.tolist() == list(range(6, 12)) and cut.data[:, 0].tolist() == list(range(12, 24, 2))
    )
    assert held.shape == (20, 2)
    assert snn.utils.data_subset(dataset(kind=list), 4).targets == [0, 1, 2, 3, 4]
    for bad, error in (((0,), ValueError), ((3, 3), ValueError), ((2.5,), TypeError)):
        with pytest.raises(error, match="data_subset"):
            snn.utils.data_subset(dataset(), *bad)
    with pytest.raises(TypeError, match="attributes `data` and `targets`"):
        snn.utils.data_subset([1, 2], 2)


def test_valid_split_divides_without_loss():
    train, val = snn.utils.valid_split(dataset(), dataset(3), 0.25, seed=1)
    assert len(train.targets) == 15 and len(val.targets) == 5
    assert sorted([*train.targets.tolist(), *val.targets.tolist()]) == list(range(20))
    assert all(x[0] == 2 * y for x, y in zip(train.data, train.targets))
    again, _ = snn.utils.valid_split(dataset(), dataset(3), 0.25, seed=1)
    assert torch.equal(again.targets, train.targets)
    with pytest.raises(ValueError, match="share between 0 and 1"):
        snn.utils.valid_split(dataset(), dataset(), 2)


# ------------------------------------------------------------------------------------------------ monitors


def net_of():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4),
        snn.Leaky(0.9, threshold=0.2, init_hidden=True),
        nn.Sequential(nn.Linear(4, 2), snn.Leaky(0.8, threshold=0.1, init_hidden=True)),
    )


def test_monitors_record_every_call_by_layer_and_number():
    net, xs = net_of(), torch.rand(5, 2, 3)
    outputs, inputs = probe.OutputMonitor(net, snn.Leaky), probe.InputMonitor(net, nn.Linear, lambda x: x.sum().item())
    before = probe.AttributeMonitor("mem", True, net, snn.Leaky)
    after = probe.AttributeMonitor("mem", False, net, snn.Leaky)
    kept = [net(x) for x in xs]
    assert outputs.monitored_layers == ["1", "2.1"] and len(outputs.records) == 10
    assert all(torch.equal(a, b) for a, b in zip(outputs["2.1"], kept)) and outputs[1] is outputs["2.1"][0]
    assert inputs["0"] == [x.sum().item() for x in xs]
    assert before["1"][0] is None and all(a is b for a, b in zip(before["1"][1:], after["1"]))
    outputs.disable()
    net(xs[0])
    assert len(outputs.records) == 10 and not outputs.is_enable()
    outputs.enable()
    outputs.clear_recorded_data()
    assert outputs["1"] == []
    outputs.remove_hooks()
    net(xs[0])
    assert outputs.records == []
    del inputs, before, after, outputs
    gc.collect()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_gradient_monitors():
    net = net_of()
    given, got = probe.GradOutputMonitor(net, snn.Leaky), probe.GradInputMonitor(net, snn.Leaky, lambda g: g.shape)
    net(torch.rand(2, 3)).sum().backward()
    assert torch.equal(given["2.1"][0], torch.ones(2, 2)) and got["1"] == [(2, 4)]


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda net: probe.OutputMonitor(net, net[1]), TypeError, "expected the class of the layers to watch"),
        (lambda net: probe.OutputMonitor(net, nn.Conv2d), ValueError, "no layer of net is a"),
        (lambda net: probe.OutputMonitor(net, snn.Leaky)["3"], KeyError, "is not watched"),
        (lambda net: probe.AttributeMonitor("mem", False, snn.Leaky(0.9)), ValueError, "passed in and out, not kept"),
    ],
)
def test_monitors_refuse(call, error, says):
    with pytest.raises(error, match=says):
        call(net_of())


# ------------------------------------------------------------------------------------------------ STDP


def pairs(pre, post, weight, a, b, f_pre=lambda w: w, f_post=lambda w: w):
    """The rule over pairs of spikes: each pair of a pre before (or at) a post adds a^dt, of a post before (or at) a pre takes b^dt."""
    T, change = len(pre), torch.zeros_like(weight)
    for t in range(T):
        for s in range(t + 1):
            change += f_post(weight) * a ** (t - s) * torch.einsum("bo,bi->oi", post[t], pre[s])
            change -= f_pre(weight) * b ** (t - s) * torch.einsum("bo,bi->oi", post[s], pre[t])
    return change


def spikes():
    torch.manual_seed(2)
    return (torch.rand(9, 3, 5) < 0.4).double(), (torch.rand(9, 3, 4) < 0.4).double(), torch.rand(4, 5).double()


def test_traces_are_the_sum_over_pairs_of_spikes():
    pre, post, weight = spikes()
    params = snf.learning.StdpParams(weight, *torch.tensor([0.7, 0.6], dtype=torch.float64))
    deltas, _ = snf.scan(snf.learning.stdp_step, params, snf.learning.stdp_init(params, (pre[0], post[0])), (pre, post))
    torch.testing.assert_close(deltas.sum(0), pairs(pre, post, weight, 0.7, 0.6))


def test_the_pure_rule_is_closed_under_torch_func():
    pre, post, weight = spikes()
    rest = snf.learning.stdp_init(snf.learning.StdpParams(weight), (pre[0], post[0]))

    def change(weight, pre, post):
        params = snf.learning.StdpParams(weight, torch.tensor(0.5).double(), torch.tensor(0.5).double())
        return snf.scan(snf.learning.stdp_step, params, rest, (pre, post))[0].sum()

    assert torch.autograd.gradcheck(change, (weight.requires_grad_(), pre, post))
    each = vmap(grad(change), in_dims=(0, None, None))(torch.stack([weight.detach(), weight.detach() * 2]), pre, post)
    torch.testing.assert_close(each[1], grad(change)(weight.detach() * 2, pre, post))


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d"])
def test_the_learner_adds_up_its_steps(kind):
    torch.manual_seed(0)
    layer, x = {
        "linear": (nn.Linear(5, 4), torch.rand(6, 3, 5)),
        "conv1d": (nn.Conv1d(2, 3, 3, padding=1, stride=2), torch.rand(6, 3, 2, 8)),
        "conv2d": (nn.Conv2d(2, 3, 3), torch.rand(6, 3, 2, 5, 5)),
    }[kind]
    x, lif = (x > 0.5).float(), snn.Leaky(0.9, threshold=0.05, init_hidden=True)
    net = nn.Sequential(layer, lif)
    learner = stdp_learner.STDPLearner(layer, lif, tau_pre=2.0, tau_post=4.0)
    outs = [net(v).detach() for v in x]
    single = getattr(stdp_learner, f"stdp_{kind}_single_step")
    traces, total = (None, None), 0
    for pre, post in zip(x, outs):
        *traces, delta = single(layer, pre, post, *traces, 2.0, 4.0)
        total = total + delta
    before = layer.weight.detach().clone()
    learner.step(on_grad=True, scale=0.5)
    assert total.abs().sum() > 0 and torch.equal(layer.weight, before)
    torch.testing.assert_close(layer.weight.grad, -0.5 * total)
    with pytest.raises(ValueError, match="found 0 recorded inputs"):
        learner.step()


def test_reward_modulated_stdp_keeps_each_samples_eligibility():
    pre, post, _ = spikes()
    fc = nn.Linear(5, 4).double()
    decay = math.exp(-1 / 3.0)
    *_, each = stdp_learner.mstdp_linear_single_step(fc, pre[0], post[0], None, None, 3.0, 3.0)
    assert each.shape == (3, 4, 5)
    one = stdp_learner.mstdpet_linear_single_step(fc, pre[0, 1], post[0, 1], 1.0, 1.0, 3.0, 3.0, 5.0)
    torch.testing.assert_close(one[0], decay + pre[0, 1])
    with pytest.raises(ValueError, match="takes one sample"):
        stdp_learner.mstdpet_linear_single_step(fc, pre[0], post[0], None, None, 3.0, 3.0, 5.0)


def test_stdp_refuses_another_layer():
    with pytest.raises(TypeError, match="takes the layer nn.Linear, not Conv1d"):
        stdp_learner.stdp_linear_single_step(nn.Conv1d(1, 1, 1), None, None, None, None, 2.0, 2.0)
    assert SF.OutputMonitor is probe.OutputMonitor


@pytest.mark.parametrize("size", [numpy.int64(2), [2, 2], (2,), torch.Size([2, 2])], ids=str)
@pytest.mark.parametrize("pool", [snf.max_pool2d, snf.avg_pool2d])
def test_a_window_as_torch_takes_it(pool, size):
    x = torch.rand(3, 2, 4, 4)
    assert torch.equal(pool(size)(x), pool(2)(x))
    with pytest.raises(ValueError, match="at least 2 x 2 pixels"):
        pool(size)(x[..., :1])
