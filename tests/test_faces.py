"""What every face owes its network, whatever neuron is below and whatever weights it has: one test a promise, all layers on one list."""

import copy
import functools
import pickle
import threading

import numpy
import pytest
import torch
from helpers import needs_torch, sweep
from torch import nn

import snn_functional as snf
from snn_functional import snn


LAYERS = {  # how it is made, and one input of a batch of 3
    "Leaky": (functools.partial(snn.Leaky, 0.9), (7,)),
    "Synaptic": (functools.partial(snn.Synaptic, 0.8, 0.7), (7,)),
    "Lapicque": (functools.partial(snn.Lapicque, 0.9, threshold=0.2), (7,)),
    "Alpha": (functools.partial(snn.Alpha, 0.9, 0.8), (7,)),
    "AdaptiveLeaky": (functools.partial(snn.AdaptiveLeaky, 0.9), (7,)),
    "RLeaky one to one": (functools.partial(snn.RLeaky, 0.9, V=0.5, all_to_all=False), (7,)),
    "RLeaky linear": (functools.partial(snn.RLeaky, 0.9, linear_features=7), (7,)),
    "RLeaky conv": (functools.partial(snn.RLeaky, 0.9, conv2d_channels=2, kernel_size=(3, 1)), (2, 5, 4)),
    "RSynaptic one to one": (functools.partial(snn.RSynaptic, 0.9, 0.8, all_to_all=False), (7,)),
    "RSynaptic linear": (functools.partial(snn.RSynaptic, 0.9, 0.8, linear_features=7), (7,)),
    "SLSTM": (functools.partial(snn.SLSTM, 7, 5, threshold=0.05), (7,)),
    "SLSTM without bias": (
        functools.partial(snn.SLSTM, 7, 7, bias=False, threshold=0.05, reset_mechanism="zero"),
        (7,),
    ),
    "SConv2dLSTM": (functools.partial(snn.SConv2dLSTM, 2, 3, 3, threshold=0.05), (2, 4, 4)),
    "SConv2dLSTM pooled": (functools.partial(snn.SConv2dLSTM, 2, 3, (1, 3), max_pool=2, threshold=0.05), (2, 4, 4)),
}
every_layer = pytest.mark.parametrize("which", LAYERS)


def made(which, T=6, **options):
    torch.manual_seed(1)
    make, shape = LAYERS[which]
    return make(**options), torch.rand(T, 3, *shape) * 1.5


def fields(layer):
    return layer.neuron.State.__leaves__


def outputs(layer, xs):
    """What the layer returns step by step, stacked over time, as a list."""
    returned = [layer(x) for x in xs]
    columns = zip(*(r if isinstance(r, tuple) else (r,) for r in returned))
    return [torch.stack(column) for column in columns]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype and torch.equal(a, b)


@every_layer
def test_the_layer_fires_and_learns(which):
    layer, xs = made(which, init_hidden=True, learn_threshold=True)
    spks = outputs(layer, xs)[0]
    assert set(spks.unique().tolist()) == {0.0, 1.0}
    spks.sum().backward()
    learned = dict(layer.named_parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned.values())


@every_layer
def test_a_face_is_the_scan_of_its_step(which):
    layer, xs = made(which, init_hidden=True, output=True)
    params = layer.params()

    def recorded(params, state, x):
        spk, state = layer.neuron.step(params, state, x)
        return (spk, *(getattr(state, name) for name in fields(layer) if name != "spk")), state

    pure, last = snf.scan(recorded, params, layer.neuron.init(params, xs[0]), xs, kind="loop")
    assert_same(outputs(layer, xs), pure)
    assert_same([getattr(layer, name) for name in fields(layer)], [getattr(last, name) for name in fields(layer)])


@every_layer
def test_explicit_and_hidden_agree(which):
    hidden, xs = made(which, init_hidden=True, output=True)
    explicit = made(which)[0]
    rest = explicit.neuron.init(explicit.params(), xs[0])
    zeros = explicit.reset_mem()
    names = fields(explicit)
    for start in ((), zeros if isinstance(zeros, tuple) else (zeros,), tuple(getattr(rest, name) for name in names)):
        snn.utils.reset(hidden)
        states = start
        for x in xs:
            returned = explicit(x, *states)
            assert_same(hidden(x), returned)
            states = returned if names[0] == "spk" else returned[1:]
    assert explicit.mem is None


@every_layer
def test_reset_is_scoped_and_recursive(which):
    layer, xs = made(which, init_hidden=True)
    other = copy.deepcopy(layer)
    net = nn.Sequential(nn.Sequential(nn.Sequential(layer)))
    net(xs[0]), other(xs[0])
    snn.utils.reset(net)
    assert layer.mem is None and other.mem is not None


@every_layer
def test_a_new_batch_size_needs_a_reset(which):
    layer, xs = made(which, init_hidden=True)
    layer(xs[0])
    before = layer.mem
    with pytest.raises(ValueError, match=r"holds the state of an input .*snn.utils.reset\(net\)"):
        layer(xs[0, :2])
    assert layer.mem is before
    layer.reset_hidden()
    assert layer(xs[0, :2]).shape[0] == 2


@every_layer
def test_deepcopy_and_pickle_in_the_middle_of_training(which):
    layer, xs = made(which, init_hidden=True, output=True, learn_threshold=True)
    outputs(layer, xs[:4])
    twins = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    expected = layer(xs[4])
    for twin in twins:
        assert_same(twin(xs[4]), expected)
        assert all(a is not b and torch.equal(a, b) for a, b in zip(twin.parameters(), layer.parameters()))


@every_layer
def test_state_dict_with_and_without_the_running_state(which):
    layer, xs = made(which, init_hidden=True, output=True)
    outputs(layer, xs[:3])
    plain, running = layer.state_dict(), snn.utils.state_dict(layer)
    assert not set(fields(layer)) & set(plain) and set(fields(layer)) <= set(running)
    torch.manual_seed(2)
    resumed, fresh = LAYERS[which][0](init_hidden=True, output=True), LAYERS[which][0](init_hidden=True, output=True)
    resumed.load_state_dict(running), fresh.load_state_dict(plain)
    assert_same(resumed(xs[3]), layer(xs[3]))
    snn.utils.reset(layer)
    assert_same(fresh(xs[3]), layer(xs[3]))


@every_layer
def test_data_parallel_replicas_keep_their_own_state(which):
    layer, xs = made(which, init_hidden=True, output=True)
    replicas, results = [layer._replicate_for_data_parallel() for _ in range(2)], [None, None]
    for replica in replicas:  # as torch's replicate does
        for name, part in (*layer.named_children(), *layer.named_parameters(recurse=False)):
            setattr(replica, name, part)

    def work(i):
        results[i] = outputs(replicas[i], xs[:, i : i + 2])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert layer.mem is None
    for i in range(2):
        assert_same(results[i], outputs(copy.deepcopy(layer), xs[:, i : i + 2]))


@every_layer
def test_functional_call_and_per_sample_gradients(which):
    """With explicit states nothing is left behind, and torch.func goes through."""
    layer, xs = made(which, learn_threshold=True)
    params = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(params, xs):
        total, states = 0, ()
        for x in xs:
            returned = torch.func.functional_call(layer, params, (x, *states))
            states = returned if fields(layer)[0] == "spk" else returned[1:]
            total = total + returned[0].sum() + returned[-1].sum()
        return total

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(params, xs[:, :, None])
    for b in range(3):
        one = torch.func.grad(loss)(params, xs[:, b : b + 1])
        for name in params:
            torch.testing.assert_close(each[name][b], one[name], rtol=1e-4, atol=1e-5)
    assert layer.mem is None


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_networks_in_other_dtypes(which, dtype):
    layer, xs = made(which, init_hidden=True, output=True, learn_threshold=True)
    layer, xs = layer.to(dtype), xs.to(dtype)
    found = outputs(layer, xs)
    assert all(x.dtype == dtype for x in found)
    sum(x.sum() for x in found).backward()
    assert all(p.grad.dtype == dtype for p in layer.parameters())


@every_layer
def test_in_a_nested_sequential(which):
    layer, xs = made(which, init_hidden=True)
    twin = copy.deepcopy(layer)
    assert torch.equal(nn.Sequential(nn.Identity(), nn.Sequential(layer))(xs[0]), twin(xs[0]))


@sweep("which", list(LAYERS), of=("Leaky", "RSynaptic linear"))
@needs_torch("2.10", "torch.compile reads optree")
def test_compiled_without_a_graph_break(which):
    torch.compiler.reset()
    layer, xs = made(which, T=3)
    step = torch.compile(layer, backend="aot_eager", fullgraph=True)
    states = ()
    for x in xs:
        expected, found = layer(x, *states), step(x, *states)
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b)
        states = [state.detach() for state in (expected if fields(layer)[0] == "spk" else expected[1:])]
    weights = list(layer.parameters())
    if weights:
        slopes = (
            torch.autograd.grad(sum(x.sum() for x in out), weights, allow_unused=True) for out in (found, expected)
        )
        for a, b in zip(*slopes):
            torch.testing.assert_close(a, b)


@every_layer
@pytest.mark.parametrize("mode", [{}, {"init_hidden": True}, {"init_hidden": True, "output": True}], ids=str)
def test_a_large_step_in_one_kernel_is_the_same(which, mode, monkeypatch):
    found = []
    for large in (0, 10**9):
        monkeypatch.setattr(snn._stateful, "LARGE", large)
        layer, xs = made(which, learn_threshold=True, **mode)
        xs.requires_grad_()
        states, returned = (), []
        for x in xs.unbind(0):
            out = layer(x, *states)
            out = out if isinstance(out, tuple) else (out,)
            states = () if mode else out if fields(layer)[0] == "spk" else out[1:]
            returned.append(out)
        outs = [torch.stack(column) for column in zip(*returned)]
        torch.manual_seed(0)
        sum((x * torch.randn_like(x)).sum() for x in outs).backward()
        found.append((outs, [xs.grad, *(p.grad for p in layer.parameters())]))
    (kernel, slopes), (plain, expected) = found
    assert_same(kernel, plain)
    for a, b in zip(slopes, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_instances_are_the_living_layers_and_keep_none_alive():
    before = len(snn.SpikingNeuron.instances)
    layer = snn.Leaky(0.9)
    assert snn.LIF is snn.SpikingNeuron and isinstance(layer, snn.LIF)
    assert len(layer.instances) == before + 1 and layer.instances[-1] is layer
    del layer
    assert len(snn.SpikingNeuron.instances) == before


def test_a_layers_own_spikes_are_those_it_fires():
    layer = snn.Leaky(0.9, threshold=0.5, graded_spikes_factor=2.0)
    mem = torch.tensor([0.4, 0.5, 0.6])
    assert layer.fire(mem).tolist() == [0, 0, 2] and layer.mem_reset(mem).tolist() == [0, 0, 1]


BAD = {
    "neither": (lambda: snn.RLeaky(0.9), TypeError, "takes either linear_features, the number of neurons, or both"),
    "both": (lambda: snn.RLeaky(0.9, linear_features=3, kernel_size=3), TypeError, "takes either linear_features"),
    "half a convolution": (lambda: snn.RSynaptic(0.9, 0.8, conv2d_channels=3), TypeError, "kernel_size=None"),
    "V and features": (
        lambda: snn.RLeaky(0.9, all_to_all=False, linear_features=3),
        TypeError,
        "one to one there is only V",
    ),
    "an even kernel": (lambda: snn.SConv2dLSTM(2, 3, 2), ValueError, "an even kernel changes the size"),
    "two pools": (lambda: snn.SConv2dLSTM(2, 3, 3, max_pool=2, avg_pool=2), ValueError, "give one of them, not both"),
    "other features": (
        lambda: snn.SLSTM(7, 5)(torch.rand(3, 6)),
        ValueError,
        r"takes \[..., in\] with in = 7, but \(3, 6\) came",
    ),
    "another dtype": (
        lambda: snn.SLSTM(7, 5)(torch.rand(3, 7).double()),
        TypeError,
        "or the connection in the input's dtype",
    ),
    "a state of another batch": (
        lambda: snn.SLSTM(7, 5)(torch.rand(3, 7), torch.zeros(2, 5), torch.zeros(2, 5)),
        ValueError,
        r"SLSTMState.syn has shape \(2, 5\), which does not fit",
    ),
    "too few axes": (
        lambda: snn.SConv2dLSTM(2, 3, 3)(torch.rand(4, 4)),
        ValueError,
        "takes an input of at least 3 axes",
    ),
    "a bias of another size": (
        lambda: snf.Linear(torch.rand(3, 2), torch.rand(2)),
        ValueError,
        r"expected a bias of shape \(3,\)",
    ),
    "a number for weights": (
        lambda: snf.SLSTMParams(0.5, 0.5),
        TypeError,
        r"takes a connection|Linear\(weight, bias\)",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input(bad):
    call, error, says = BAD[bad]
    with pytest.raises(error, match=says):
        call()


# ------------------------------------------------------------------------------------------------ your own neuron


@snf.pytree
class TauParams:
    """A leak given by its time constant, which has neither a reset to choose nor a field called threshold."""

    tau: snf.Leaf
    level: snf.Leaf = snf.leaf(default=1.0)
    kind: str = snf.static(default="leaky", choices=("leaky", "perfect"))


@snf.pytree
class TauState:
    u: torch.Tensor


def tau_init(params, input):
    return TauState(snf.at_rest(params, input))


def tau_step(params, state, input):
    input = snf.admit(params, state, input)
    u = (torch.exp(-1 / params.tau) if params.kind == "leaky" else 1.0) * state.u + input
    spk = snf.surrogate.ATan()(u - params.level)
    return spk, TauState(u - spk * params.level)


TAU = snf.Neuron(TauParams, TauState, tau_init, tau_step)
Tau = snn.stateful(TAU, "Tau")


def test_your_own_neuron_is_a_face():
    """Without a reset_mechanism, a surrogate, a threshold or a membrane called mem; its numbers are learned, its choice is one."""
    xs = torch.rand(9, 3, 7) * 1.5
    layer = Tau(torch.full((7,), 4.0), init_hidden=True, learn_tau=True)
    assert [name for name, _ in layer.named_parameters()] == ["tau"] and "level" in dict(layer.named_buffers())
    spks = torch.stack([layer(x) for x in xs])
    params = TauParams(torch.full((7,), 4.0))
    assert (
        torch.equal(spks, snf.scan(tau_step, params, tau_init(params, xs[0]), xs)[0]) and 0 < spks.sum() < spks.numel()
    )
    spks.sum().backward()
    assert layer.tau.grad.abs().sum() > 0
    snn.utils.reset(layer)
    assert torch.equal(snn.run(layer, xs), spks)
    other = Tau(torch.ones(7))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.tau, layer.tau) and "reset" not in repr(layer)
    assert not torch.equal(Tau(4.0, kind="perfect")(xs[0], xs[1])[1], Tau(4.0)(xs[0], xs[1])[1])
    with pytest.raises(ValueError, match="kind='linear'"):
        Tau(4.0, kind="linear")
    with pytest.raises(TypeError, match="reset_mechanism"):
        Tau(4.0, reset_mechanism="zero")


@pytest.mark.parametrize("per_neuron", [False, True])
def test_izhikevich_rests_where_it_rests(per_neuron):
    b = torch.full((7,), 0.21) if per_neuron else 0.21
    layer = snn.Izhikevich(b=b, init_hidden=True, learn_b=True)
    xs = torch.rand(300, 3, 7) * 15
    params = snf.IzhikevichParams(b=b)
    expected = snf.scan(snf.izhikevich_step, params, snf.izhikevich_init(params, xs[0]), xs)[0]
    spks = torch.stack([layer(x) for x in xs])
    assert torch.equal(spks, expected) and expected.sum() > 0
    snn.utils.reset(layer)
    assert torch.equal(snn.run(layer, xs), expected)
    snn.utils.reset(layer)
    assert layer.spike_grad == snf.IzhikevichParams().spike_grad
    step, weights, state = snf.functionalize(layer)
    assert torch.equal(snf.scan(step, weights, state, xs)[0], expected)
    explicit = snn.Izhikevich(b=b)
    recovery, mem = explicit.reset_mem()
    for x, spk in zip(xs[:50], expected):
        found, recovery, mem = explicit(x, recovery, mem)
        assert torch.equal(found, spk)


def test_numbers_of_neurons_and_pixels_are_numpys_too():
    flat = snn.RLeaky(0.9, linear_features=numpy.prod((3, 2)), init_hidden=True)
    image = snn.RLeaky(0.9, conv2d_channels=numpy.int64(2), kernel_size=tuple(numpy.array([3, 1])), init_hidden=True)
    assert flat(torch.rand(4, 6)).shape == (4, 6) and image(torch.rand(4, 2, 5, 3)).shape == (4, 2, 5, 3)
    with pytest.raises(TypeError, match="linear_features=True"):
        snn.RLeaky(0.9, linear_features=True)
