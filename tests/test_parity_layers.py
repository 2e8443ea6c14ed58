"""The layers, the dataset's divisions, the monitors and STDP beside the installed snnTorch 1.0.0."""

import warnings

import pytest
import torch
from helpers import law
from hypothesis import given, strategies as st
from torch import nn

from snn_functional import snn
from snn_functional.snn.functional import probe, stdp_learner as ours


snntorch = pytest.importorskip("snntorch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import snntorch.utils  # noqa: F401
    from snntorch.functional import probe as their_probe, stdp_learner as theirs

pytestmark = pytest.mark.filterwarnings("ignore")


class Dataset:
    def __init__(self, n, seed):
        generator = torch.Generator().manual_seed(seed)
        self.data, self.targets = torch.rand(n, 2, 2, generator=generator), torch.randint(9, (n,), generator=generator)

    def __len__(self):
        return len(self.data)


def same_data(*pairs):
    return all(torch.equal(a.data, b.data) and torch.equal(a.targets, b.targets) for a, b in pairs)


@law
@given(st.data())
def test_data_subset(data):
    n = data.draw(st.integers(1, 40))
    subset = data.draw(st.integers(1, n))
    idx = data.draw(st.integers(0, subset - 1))
    assert same_data([lib.utils.data_subset(Dataset(n, 1), subset, idx) for lib in (snn, snntorch)])


@law
@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 999))
def test_valid_split(n, split, seed):
    results = [lib.utils.valid_split(Dataset(n, 1), Dataset(n, 2), split, seed) for lib in (snn, snntorch)]
    assert same_data(*zip(*results))


@law
@given(st.integers(1, 6), st.sampled_from([None, 0.5, 2.0]), st.integers(1, 4), st.integers(0, 99))
def test_graded_spikes(size, factor, batch, seed):
    layers = []
    for lib in (snn, snntorch):
        torch.manual_seed(seed)
        layers.append(lib.GradedSpikes(size, factor))
    x = torch.rand(batch, size, 1)  # where snnTorch scales neurons
    outs, grads = [], []
    for layer in layers:
        outs.append(layer(x))
        outs[-1].square().sum().backward()
        grads.append(layer.weights.grad)
    assert torch.equal(*outs) and torch.allclose(*grads)
    layers[1].load_state_dict(layers[0].state_dict())


def test_graded_spikes_of_a_batch():
    """B10: [batch, neurons] fails there, or scales the samples."""
    with pytest.raises(RuntimeError):
        snntorch.GradedSpikes(3, None)(torch.rand(2, 3))
    theirs, ours = snntorch.GradedSpikes(3, None), snn.GradedSpikes(3, None)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(theirs(torch.eye(3)), ours(torch.eye(3)))
    assert torch.equal(theirs(torch.ones(3, 3)).T, ours(torch.ones(3, 3)))


@pytest.mark.parametrize("name, dims", [("BatchNormTT1d", 0), ("BatchNormTT1d", 1), ("BatchNormTT2d", 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_through_time(name, dims, affine):
    pair = [getattr(lib, name)(4, 3, 1e-3, 0.3, affine) for lib in (snn, snntorch)]
    xs = torch.randn(3, 6, 4, *[5] * dims)
    for a, b, x in zip(*pair, xs):
        assert torch.equal(a(x), b(x)) and torch.equal(a.running_var, b.running_var)
    assert repr(pair[0]).replace("BatchNormTT(", "ModuleList(") == repr(pair[1]) and list(pair[0].state_dict()) == list(
        pair[1].state_dict()
    )


def build(lib):
    torch.manual_seed(5)
    snntorch.SpikingNeuron.instances = []
    lif = lambda **options: lib.Leaky(0.9, threshold=0.3, init_hidden=True, spike_grad=SPIKE_GRAD, **options)
    return nn.Sequential(nn.Linear(4, 5), lif(), nn.Sequential(nn.Linear(5, 3), lif()))


SPIKE_GRAD = snntorch.surrogate.fast_sigmoid(5)
MONITORS = {
    "OutputMonitor": (),
    "InputMonitor": (),
    "AttributeMonitor": ("mem", False),
    "GradInputMonitor": (),
    "GradOutputMonitor": (),
}


@pytest.mark.parametrize(
    "name, of",
    [
        (name, of)
        for name in MONITORS
        for of in ("neurons", "linear", "both")
        if name != "AttributeMonitor" or of == "neurons"
    ],
)
def test_monitors(name, of):
    torch.manual_seed(6)
    xs = torch.rand(4, 2, 4, requires_grad=True)
    monitors = []
    for lib, module in ((snn, probe), (snntorch, their_probe)):
        net = build(lib)
        watched = {"neurons": lib.Leaky, "linear": nn.Linear, "both": (lib.Leaky, nn.Linear)}[of]
        monitor = getattr(module, name)(*MONITORS[name], net, watched)
        sum(net(x) for x in xs[:3]).sum().backward()
        monitor.disable()
        net(xs[3]).detach()
        monitors.append(monitor)
    a, b = monitors
    assert a.monitored_layers == b.monitored_layers and a.name_records_index == b.name_records_index
    assert len(a.records) == len(b.records) > 0
    compare = torch.allclose if name.startswith("Grad") else torch.equal
    assert all(compare(x, y) for x, y in zip(a.records, b.records))
    for layer in a.monitored_layers:
        assert all(compare(x, y) for x, y in zip(a[layer], b[layer], strict=True))
    for monitor in monitors:
        monitor.clear_recorded_data()
        assert monitor.records == [] and monitor[monitor.monitored_layers[0]] == []


def spikes(*shape):
    return (torch.rand(shape) < 0.4).float()


functions = st.sampled_from([lambda w: w, lambda w: torch.ones_like(w), lambda w: 0.5 - w])
taus = st.floats(1.0, 20.0)


def assert_steps_agree(name, layer, pre_shape, post_shape, options, padding=None):
    mine, other = (None, None), (None, None)
    for _ in range(3):
        pre, post = spikes(*pre_shape), spikes(*post_shape)
        *mine, mine_w = getattr(ours, name)(layer, pre, post, *mine, **options)
        *other, other_w = getattr(theirs, name)(layer, pre, post, *other, **options)
        assert mine_w.shape == other_w.shape and not mine_w.requires_grad
        torch.testing.assert_close(mine_w, other_w, rtol=1e-4, atol=1e-5)
        if padding is None:
            torch.testing.assert_close(mine[0], other[0])
        torch.testing.assert_close(mine[1], other[1])


@law
@given(taus, taus, functions, functions, st.integers(0, 99), st.sampled_from(["stdp", "mstdp", "mstdpet"]))
def test_stdp_of_a_dense_layer(tau_pre, tau_post, f_pre, f_post, seed, name):
    torch.manual_seed(seed)
    options = {"tau_pre": tau_pre, "tau_post": tau_post, "f_pre": f_pre, "f_post": f_post}
    if name == "mstdpet":
        options["tau_trace"] = 3.0
    leading = () if name == "mstdpet" else (3,)
    assert_steps_agree(f"{name}_linear_single_step", nn.Linear(4, 5), (*leading, 4), (*leading, 5), options)


@law
@given(
    taus,
    functions,
    functions,
    st.sampled_from([1, 2]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sampled_from(["zeros", "circular", "replicate"]),
    st.integers(0, 99),
)
def test_stdp_of_a_convolution(tau, f_pre, f_post, dims, kernel, stride, padding, mode, seed):
    torch.manual_seed(seed)
    conv = [nn.Conv1d, nn.Conv2d][dims - 1](2, 3, kernel, stride, padding, padding_mode=mode)
    shape = (2, 2, *[6, 5][:dims])
    options = {"tau_pre": tau, "tau_post": 2 * tau, "f_pre": f_pre, "f_post": f_post}
    post = conv(torch.zeros(shape)).shape
    assert_steps_agree(f"stdp_conv{dims}d_single_step", conv, shape, post, options, padding=padding or None)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_learner(scale):
    torch.manual_seed(7)
    xs = spikes(6, 3, 4)
    results = []
    for lib, module in ((snn, ours), (snntorch, theirs)):
        net = build(lib)
        learner = module.STDPLearner(net[0], net[1], 2.0, 3.0)
        found = []
        for part in (xs[:4], xs[4:]):
            for x in part:
                net(x)
            learner.step(on_grad=True, scale=scale)
            found.append(net[0].weight.grad.clone())
        net(xs[0])
        results.append([*found, learner.step(on_grad=False), learner.trace_pre, learner.trace_post])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(AttributeError):
        learner.reset()  # theirs
