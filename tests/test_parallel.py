"""The faces without a reset: each is the loop of its pure step, however it is run."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from helpers import needs_kernels, needs_torch, sweep
from torch import nn
from torch.func import functional_call, grad, vmap

import snn_functional as snf
from snn_functional import snn


def per_channel(n, low=0.3):
    return torch.linspace(low, 0.95, n)


LAYERS = {
    "StateLeaky": lambda **o: snn.StateLeaky(
        per_channel(5), 5, threshold=0.8, learn_beta=True, learn_threshold=True, **o
    ),
    "StateLeaky, one beta": lambda **o: snn.StateLeaky(0.9, 5, learn_beta=True, **o),
    "LinearLeaky": lambda **o: snn.LinearLeaky(per_channel(7), 5, 7, threshold=0.2, learn_beta=True, **o),
    "LinearLeaky without bias": lambda **o: snn.LinearLeaky(0.8, 5, 7, bias=False, threshold=0.2, **o),
    "AssociativeLeaky": lambda **o: snn.AssociativeLeaky(5, 2, 3, 6, **o),
    "AssociativeLeaky without queries": lambda **o: snn.AssociativeLeaky(5, 2, 3, use_q_projection=False, **o),
    "LeakyParallel": lambda: snn.LeakyParallel(5, 7, learn_beta=True, threshold=0.3),
    "LeakyParallel, beta": lambda: snn.LeakyParallel(5, 7, per_channel(7), bias=False, threshold=0.3, learn_beta=True),
    "LeakyParallel, dense": lambda: snn.LeakyParallel(5, 7, threshold=0.3, weight_hh_enable=True, learn_beta=True),
}
every_layer = pytest.mark.parametrize("which", LAYERS)
every_kind = pytest.mark.parametrize("which", [name for name in LAYERS if "Parallel" not in name])


def made(which, **options):
    torch.manual_seed(1)
    layer = LAYERS[which](**options)
    with torch.no_grad():  # so that some fire
        for name, p in layer.named_parameters():
            p.mul_(3) if "weight" in name and "hh" not in name else None
        if isinstance(layer, snn.AssociativeLeaky):
            layer.threshold.fill_(0.3)
    return layer, torch.randn(9, 3, 5) + 0.3


def returned(layer, xs):
    out = layer(xs)
    return list(out) if isinstance(out, tuple) else [out]


def by_its_step(layer, xs):
    """What the pure neuron gives, step by step, weights and all."""
    if isinstance(layer, snn.LinearLeaky):
        bias = layer.linear.bias
        linear = snf.Linear(layer.linear.weight, 0.0 if bias is None else bias)
        neuron, params = snf.linear_leaky, snf.LinearLeakyParams(linear, layer.beta, layer.threshold)
    elif isinstance(layer, snn.StateLeaky):
        neuron, params = snf.state_leaky, layer.params()
    elif isinstance(layer, snn.AssociativeLeaky):
        neuron, params = snf.associative_leaky, layer.params()
    else:
        neuron, params = snf.leaky_parallel, layer.params()
    record = lambda p, s, x: (lambda spk, s: ((spk, s.mem), s))(*neuron.step(p, s, x))
    (spk, mem), _ = snf.scan(record, params, neuron.init(params, xs[0]), xs, kind="loop")
    if not isinstance(layer, snn.AssociativeLeaky):
        return [spk, mem] if isinstance(layer, snn.StateLeaky) else [spk]
    if not layer.use_q_projection:
        return [spk.flatten(-2)]
    queries = layer.to_q(xs).view(*xs.shape[:2], layer.d_key, layer.d_value)
    return [torch.einsum("tbdn,tbne->tbde", spk, queries).flatten(-2)]


@every_layer
def test_a_face_is_the_loop_of_its_step_and_every_parameter_learns(which):
    layer, xs = made(which)
    layer, xs = layer.double(), xs.double()
    found, expected = returned(layer, xs), by_its_step(layer, xs)
    assert 0 < found[0].count_nonzero() < found[0].numel()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    learned = dict(layer.named_parameters())
    slopes = [torch.autograd.grad(sum((x * x).sum() for x in out), learned.values()) for out in (found, expected)]
    for name, a, b in zip(learned, *slopes, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")
        assert a.count_nonzero(), f"{name} is dead"


@every_kind
def test_in_parallel_over_time_a_face_gives_the_same(which):
    xs = made(which)[1].double()
    layers = [made(which, kind=kind)[0].double() for kind in ("auto", "parallel")]
    losses = []
    for layer in layers:
        losses.append(sum((x * x).sum() for x in returned(layer, xs)))
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    for a, b in zip(*(layer.parameters() for layer in layers), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@every_kind
@needs_kernels
def test_the_recurrence_is_one_kernel(which):
    layer, xs = made(which, kind="fused")  # raises where there is none
    returned(layer, xs)


@needs_kernels
@pytest.mark.parametrize("neuron", [snf.leaky_parallel, snf.linear_leaky, snf.associative_leaky])
def test_products_run_once_and_the_recurrence_is_one_kernel(neuron):
    weight = lambda: snf.Linear(torch.randn(7, 4))
    params = {
        snf.leaky_parallel: lambda: snf.LeakyParallelParams(weight(), 0.5),
        snf.linear_leaky: lambda: snf.LinearLeakyParams(weight(), 0.5),
        snf.associative_leaky: lambda: snf.AssociativeLeakyParams(weight(), weight(), weight()),
    }[neuron]()
    xs = torch.rand(9, 3, 4)
    said = snf.explain(neuron.step, params, neuron.init(params, xs[0]), xs)
    assert [part.how for part in said.stages] == ["once", "kernel"]


@every_layer
def test_nothing_is_kept_between_calls(which):
    layer, xs = made(which)
    before = copy.deepcopy(layer.state_dict())
    once, twice = returned(layer, xs), returned(layer, xs)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    assert all(torch.equal(x, before[name]) for name, x in layer.state_dict().items())
    snn.utils.reset(nn.Sequential(layer))


@every_layer
def test_deepcopy_pickle_and_state_dict(which):
    layer, xs = made(which)
    sum(x.sum() for x in returned(layer, xs)).backward()
    torch.manual_seed(2)
    loaded = LAYERS[which]()
    loaded.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert all(torch.equal(a, b) for a, b in zip(returned(twin, xs), returned(layer, xs), strict=True))


@every_layer
def test_functional_call_and_per_sample_gradients(which):
    layer, xs = made(which)
    params = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(params, xs):
        out = functional_call(layer, params, (xs,))
        return sum(x.sum() for x in out) if isinstance(out, tuple) else out.sum()

    each = vmap(grad(loss), in_dims=(None, 1))(params, xs[:, :, None])
    for b in range(3):
        for name, slope in grad(loss)(params, xs[:, b : b + 1]).items():
            torch.testing.assert_close(each[name][b], slope, rtol=1e-4, atol=1e-5)


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_networks_in_other_dtypes(which, dtype):
    layer, xs = made(which)
    layer, xs = layer.to(dtype), xs.to(dtype)
    out = returned(layer, xs)
    assert {x.dtype for x in out} == {dtype}
    sum(x.sum() for x in out).backward()
    assert {p.grad.dtype for p in layer.parameters()} <= {dtype}


@every_layer
def test_spikes_come_in_as_bool(which):
    layer, xs = made(which)
    assert all(
        torch.equal(a, b) for a, b in zip(returned(layer, xs > 0), returned(layer, (xs > 0).float()), strict=True)
    )


@sweep(
    "which",
    ["StateLeaky", "LinearLeaky", "AssociativeLeaky", "LeakyParallel", "LeakyParallel, dense"],
    of=("LinearLeaky",),
)
@needs_torch("2.10", "torch.compile reads optree")
def test_compiled_without_a_graph_break(which):
    torch.compiler.reset()
    layer, xs = made(which)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for a, b in zip(returned(compiled, xs), returned(layer, xs), strict=True):
        torch.testing.assert_close(a, b)


def test_state_leaky_keeps_beta_of_its_membrane():
    impulse = torch.zeros(4, 1, 2)
    impulse[0] = 2.0
    _, mem = snn.StateLeaky(torch.tensor([0.9, 0.5]), 2)(impulse)
    torch.testing.assert_close(mem[:, 0], 2 * torch.tensor([[1, 1], [0.9, 0.5], [0.81, 0.25], [0.729, 0.125]]))


def test_state_leaky_quantised_truncated_and_graded():
    xs, quantizer = torch.rand(12, 3, 5), lambda x: (x * 4).round() / 4
    whole, plain = snn.StateLeaky(0.9, 5, output=False), snn.StateLeaky(0.9, 5)
    spk, mem = snn.StateLeaky(0.9, 5, state_quant=quantizer)(xs)
    assert torch.equal(mem, quantizer(whole(xs))) and torch.equal(spk, (mem > 1).float())
    spk, mem = snn.StateLeaky(0.9, 5, kernel_truncation_steps=3)(xs)
    late = torch.cat([torch.zeros(2, 3, 5), xs])
    torch.testing.assert_close(mem, late[2:] + 0.9 * late[1:-1] + 0.81 * late[:-2])
    assert torch.equal(spk, (mem > 1).float())
    torch.testing.assert_close(whole(xs), plain(xs)[1])
    graded = snn.StateLeaky(0.9, 5, graded_spikes_factor=3.0, learn_graded_spikes_factor=True)
    assert torch.equal(graded(xs)[0], 3 * plain(xs)[0]) and torch.equal(graded.fire(plain(xs)[1]), 3 * plain(xs)[0])
    graded(xs)[0].sum().backward()
    assert graded.graded_spikes_factor.grad == plain(xs)[0].sum()


def test_settings_of_spikes_without_spikes_are_warned_of():
    with pytest.warns(UserWarning, match="StateLeaky.output=False. fires no spikes"):
        snn.StateLeaky(0.9, 5, output=False, learn_threshold=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn.LinearLeaky(0.9, 5, 3, output=False, threshold=2.0)


def test_associative_leaky_from_a_number_of_neurons():
    layer = snn.AssociativeLeaky.from_num_spiking_neurons(5, 9)
    assert (layer.d_value, layer.d_key, layer.num_spiking_neurons) == (3, 3, 9)
    assert layer(torch.rand(4, 2, 5)).shape == (4, 2, 9)
    assert snn.AssociativeLeaky(5, 2, 3, None)(torch.rand(4, 2, 5)).shape == (4, 2, 4)


def test_leaky_parallel_takes_a_beta_for_each_neuron_and_keeps_it_in_bounds():
    beta = torch.tensor([0.2, 0.9, 1.7, -0.4])
    layer = snn.LeakyParallel(3, 4, beta, learn_beta=True)
    assert torch.equal(layer.beta, beta.clamp(0, 1)) and torch.equal(layer.rnn.weight_hh_l0, layer.beta.diag())
    with torch.no_grad():
        layer.rnn.weight_hh_l0.mul_(3)
    assert torch.equal(layer.beta, (3 * beta.clamp(0, 1)).clamp(max=1))
    sum(layer(torch.rand(6, 2, 3)) for _ in range(2)).sum().backward()
    assert layer.rnn.weight_hh_l0.grad.diag().diag().equal(layer.rnn.weight_hh_l0.grad)
    assert not snn.LeakyParallel(3, 4, beta).rnn.weight_hh_l0.requires_grad
    assert snn.LeakyParallel(3, 4, 0.5, weight_hh_enable=True).beta is None
    assert layer(torch.rand(6, 3)).shape == (6, 4)  # unbatched, as an nn.RNN takes it


@pytest.mark.parametrize("which", [name for name in LAYERS if "Parallel" in name])
def test_leaky_parallel_is_torchs_rnn_with_a_threshold(which):
    layer, xs = made(which)
    rnn = nn.RNN(5, 7, nonlinearity="relu", bias="bias_ih_l0" in layer.rnn)
    rnn.load_state_dict(dict(layer.rnn.items()))
    layer.spike_grad = lambda u: u + layer.threshold  # the membranes
    torch.testing.assert_close(layer(xs), rnn(xs)[0])


def test_associative_leaky_is_gated_linear_attention():
    layer, xs = made("AssociativeLeaky without queries")
    layer.spike_grad = lambda u: u + layer.threshold  # the membranes
    v, k, a = layer.to_v(xs), layer.to_k(xs), layer.to_alpha(xs).sigmoid()
    for t, mem in enumerate(layer(xs)):
        right = sum(torch.einsum("bd,bn->bdn", v[s], k[s] * a[s + 1 : t + 1].prod(0)) for s in range(t + 1))
        torch.testing.assert_close(mem, right.flatten(-2))


def test_a_checkpoint_of_snntorch_keeps_the_decay_it_had():
    """Its `tau` is 1 / (1 - beta), its decay exp(-1 / tau), and its beta is dead."""
    state = {"beta": 0.9, "tau": 10.0, "threshold": 0.7, "graded_spikes_factor": 1.0, "reset_mechanism_val": 0}
    layer = snn.StateLeaky(0.5, 5)
    layer.load_state_dict({name: torch.tensor(x) for name, x in state.items()})
    torch.testing.assert_close(layer.beta, torch.tensor(math.exp(-0.1)))
    assert layer.threshold == torch.tensor(0.7)


BAD = {
    "a step": (
        lambda: snn.StateLeaky(0.9, 5)(torch.rand(3, 5)),
        ValueError,
        r"a whole sequence \[T, batch, 5\], but \(3, 5\)",
    ),
    "other channels": (lambda: snn.StateLeaky(0.9, 5)(torch.rand(9, 3, 4)), ValueError, r"but \(9, 3, 4\) came"),
    "no tensor": (lambda: snn.LinearLeaky(0.9, 5, 3)([1.0]), TypeError, r"takes a tensor \[T, batch, 5\], not list"),
    "no time": (lambda: snn.LeakyParallel(5, 3)(torch.rand(0, 3, 5)), ValueError, "the time axis of .* is empty"),
    "integers": (lambda: snn.StateLeaky(0.9, 5)(torch.ones(9, 3, 5).long()), TypeError, "expected a floating tensor"),
    "beta of another shape": (lambda: snn.StateLeaky(torch.rand(3), 5), ValueError, r"one for each channel, \(5,\)"),
    "an integer beta": (lambda: snn.StateLeaky(torch.tensor(1), 5), TypeError, "int64"),
    "no window": (lambda: snn.StateLeaky(0.9, 5, kernel_truncation_steps=0), ValueError, "at least 1 step"),
    "an integer threshold": (
        lambda: snn.LeakyParallel(5, 3, threshold=torch.tensor(1)),
        TypeError,
        "threshold=.*int64",
    ),
    "beta of another length": (
        lambda: snn.LeakyParallel(5, 3, torch.rand(5)),
        ValueError,
        r"one for each neuron, \(3,\)",
    ),
    "a dropout": (lambda: snn.LeakyParallel(5, 3, dropout=0.5), ValueError, r"Put nn.Dropout\(0.5\) after"),
    "sizes": (lambda: snn.AssociativeLeaky(5, 0, 3), ValueError, "d_value must be a positive integer"),
    "sizes that differ": (lambda: snn.AssociativeLeaky(5, 2, 3, 7), ValueError, "must equal d_value . d_key = 6"),
    "no square": (lambda: snn.AssociativeLeaky.from_num_spiking_neurons(5, 8), ValueError, "a perfect square"),
    "weights of no connection": (lambda: snf.LinearLeakyParams(0.5, 0.9), TypeError, r"Linear\(weight, bias\)"),
    "values and keys alone": (
        lambda: snf.AssociativeLeakyParams(snf.Linear(torch.rand(2, 3)), snf.Linear(torch.rand(2, 3)), torch.rand(2)),
        TypeError,
        "decay=....? takes a connection",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input(bad):
    call, error, says = BAD[bad]
    with pytest.raises(error, match=says):
        call()
