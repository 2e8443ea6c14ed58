"""`snn.DeltaLeaky`: what every face owes its network, for the one whose states are a pair."""

import copy
import pickle

import pytest
import torch
from helpers import needs_torch
from torch import nn
from torch.func import functional_call, grad, vmap

import snn_functional as snf
from snn_functional import snn


def per_channel(n, low=0.3):
    return torch.linspace(low, 0.95, n)


X = torch.randn(12, 3, 7)


def test_delta_leaky_explicit_hidden_and_scan_agree():
    hidden = snn.DeltaLeaky(0.7, per_channel(7), init_hidden=True)
    alone = snn.DeltaLeaky(0.7, per_channel(7), init_hidden=True, output=False)
    explicit = snn.DeltaLeaky(delta_threshold=0.7, beta=per_channel(7))
    params = snf.DeltaLeakyParams(per_channel(7), 0.7)
    spks, last = snf.scan(snf.delta_leaky_step, params, snf.delta_leaky_init(params, X[0]), X)
    for start in (
        None,
        explicit.reset_mem(),
        (None, None),
        (torch.zeros(3, 7), None),
        [torch.zeros(7), torch.zeros(7)],
    ):
        snn.utils.reset(nn.Sequential(hidden, nn.Sequential(alone)))
        mem = start
        for t, (x, right) in enumerate(zip(X, spks)):
            before = mem[0] if t else torch.zeros(3, 7)
            spk, mem = explicit(x, mem)
            other, (now, prev) = hidden(x)
            assert torch.equal(spk, right) and torch.equal(other, right) and torch.equal(alone(x), right)
            assert torch.equal(mem[1], prev) and torch.equal(mem[0], now) and torch.equal(prev, before)
        assert torch.equal(hidden.mem, last.mem) and torch.equal(hidden.mem_prev, before)
    assert explicit.mem is None and 0 < spks.sum() < spks.numel()


def test_delta_leaky_fires_at_changes_both_ways_and_never_resets():
    layer = snn.DeltaLeaky(0.5, 1.0, init_hidden=True)
    currents = torch.tensor([0.4, 0.6, -0.6, 0.0, 2.0, 0.5])
    assert [layer(x)[0].item() for x in currents] == [0, 1, 1, 0, 1, 0]
    torch.testing.assert_close(layer.mem, currents.sum())


def test_delta_leaky_learns_grades_and_travels():
    layer = snn.DeltaLeaky(
        0.5, 0.9, init_hidden=True, learn_beta=True, learn_delta_threshold=True, graded_spikes_factor=2.0
    )
    out = torch.stack([layer(x)[0] for x in X])
    assert set(out.unique().tolist()) == {0.0, 2.0}
    out.sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad} == {"beta", "delta_threshold"}
    twins = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    resumed = snn.DeltaLeaky(0.1, 0.2, init_hidden=True, learn_beta=True, learn_delta_threshold=True)
    resumed.load_state_dict(snn.utils.state_dict(layer))
    expected = layer(X[0])[1][0]
    assert all(torch.equal(twin(X[0])[1][0], expected) for twin in (*twins, resumed))


def test_delta_leaky_beside_leaky_is_reset_with_the_network():
    net = nn.Sequential(snn.DeltaLeaky(0.5, 0.9, init_hidden=True, output=False), snn.Leaky(0.9, init_hidden=True))
    first = net(X[0])
    snn.utils.reset(net)
    assert net[0].mem is None and net[1].mem is None and torch.equal(net(X[0]), first)


@pytest.mark.parametrize("output", [False, True])
def test_delta_leaky_over_a_whole_sequence(output):
    net = nn.Sequential(nn.Linear(7, 7), snn.DeltaLeaky(0.5, 0.9, init_hidden=True, output=output))
    assert snn.explain(net, X).startswith("layer by layer")
    found = snn.run(net, X)
    snn.utils.reset(net)
    steps = [net(x) for x in X]
    if output:
        found, steps = (found[0], *found[1]), [(spk, *mem) for spk, mem in steps]
        for a, b in zip(found, zip(*steps), strict=True):
            torch.testing.assert_close(a, torch.stack(b))
    else:
        torch.testing.assert_close(found, torch.stack(steps))


def test_delta_leaky_of_many_neurons_is_the_same():
    x = torch.randn(3, 4, 2000)
    layer, params = snn.DeltaLeaky(0.5, 0.9, init_hidden=True, output=False), snf.DeltaLeakyParams(0.9, 0.5)
    spks, _ = snf.scan(snf.delta_leaky_step, params, snf.delta_leaky_init(params, x[0]), x, kind="loop")
    assert torch.equal(torch.stack([layer(step) for step in x]), spks)


@needs_torch("2.10", "torch.compile reads optree")
def test_delta_leaky_compiled_without_a_graph_break():
    torch.compiler.reset()
    layer = snn.DeltaLeaky(0.5, 0.9)
    step = torch.compile(layer, backend="aot_eager", fullgraph=True)
    spk, mem = step(X[0])
    assert torch.equal(step(X[1], mem)[0], layer(X[1], layer(X[0])[1])[0]) and torch.equal(spk, layer(X[0])[0])


def test_delta_leaky_gives_per_sample_gradients():
    layer = snn.DeltaLeaky(0.5, per_channel(7), learn_beta=True)
    params = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(params, xs):
        total, mem = 0, None
        for x in xs.unbind(0):
            spk, mem = functional_call(layer, params, (x, mem))
            total = total + spk.sum()
        return total

    each = vmap(grad(loss), in_dims=(None, 1))(params, X)
    for b in range(3):
        torch.testing.assert_close(each["beta"][b], grad(loss)(params, X[:, b])["beta"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_delta_leaky_in_other_dtypes(dtype):
    spk, (mem, prev) = snn.DeltaLeaky(0.5, per_channel(7)).to(dtype)(X[0].to(dtype))
    assert {spk.dtype, mem.dtype, prev.dtype} == {dtype}


BAD = {
    "no beta": (lambda: snn.DeltaLeaky(0.5), TypeError, r"as in DeltaLeaky\(beta=0.9\)"),
    "a reset": (lambda: snn.DeltaLeaky(beta=0.9, reset_mechanism="zero"), TypeError, "no use for `reset_mechanism`"),
    "a threshold": (lambda: snn.DeltaLeaky(beta=0.9, threshold=2.0), TypeError, "fires at delta_threshold"),
    "a dead parameter": (lambda: snn.DeltaLeaky(beta=0.9, learn_threshold=True), TypeError, "`learn_threshold`"),
    "not a pair": (lambda: snn.DeltaLeaky(beta=0.9)(X[0], X[0]), TypeError, r"the pair \(mem, mem_prev\); got Tensor"),
    "hidden and given": (
        lambda: snn.DeltaLeaky(beta=0.9, init_hidden=True)(X[0], (X[0], X[0])),
        TypeError,
        "should not be passed as an argument",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input(bad):
    call, error, says = BAD[bad]
    with pytest.raises(error, match=says):
        call()
