"""The faces: snnTorch's interface over the pure steps. Each test runs over every face."""

import copy
import inspect
import pickle
import threading

import pytest
import torch
from torch import nn

import snn_functional as snf
from snn_functional import snn


FACES = {snn.Leaky: (0.9,), snn.Synaptic: (0.8, 0.7), snn.Lapicque: (0.9,), snn.Alpha: (0.9, 0.8)}
SIGNATURES = {  # of snnTorch 1.0.0, in order
    snn.Leaky: "beta, threshold=1.0, spike_grad=None, surrogate_disable=False, init_hidden=False, inhibition=False, "
    "learn_beta=False, learn_threshold=False, reset_mechanism='subtract', state_quant=False, output=False, "
    "graded_spikes_factor=1.0, learn_graded_spikes_factor=False, reset_delay=True",
    snn.Synaptic: "alpha, beta, threshold=1.0, spike_grad=None, surrogate_disable=False, init_hidden=False, inhibition=False, "
    "learn_alpha=False, learn_beta=False, learn_threshold=False, reset_mechanism='subtract', state_quant=False, output=False, "
    "reset_delay=True",
    snn.Lapicque: "beta=False, R=False, C=False, time_step=1, threshold=1.0, spike_grad=None, surrogate_disable=False, "
    "init_hidden=False, inhibition=False, learn_beta=False, learn_threshold=False, reset_mechanism='subtract', "
    "state_quant=False, output=False",
    snn.Alpha: "alpha, beta, threshold=1.0, spike_grad=None, surrogate_disable=False, init_hidden=False, inhibition=False, "
    "learn_alpha=False, learn_beta=False, learn_threshold=False, reset_mechanism='zero', state_quant=False, output=False",
}
every_face = pytest.mark.parametrize("Face", FACES, ids=lambda f: f.__name__)
X = torch.rand(12, 3, 7) * 1.5


def make(Face, **options):
    return Face(*FACES[Face], **options)


def states_of(Face):
    return Face.neuron.State.__leaves__


def run(layer, xs=X):
    """T calls of a layer in hidden mode with output: every returned tensor, stacked over time."""
    return [torch.stack(column) for column in zip(*(layer(x) for x in xs))]


@every_face
def test_constructor_is_snntorchs(Face):
    assert str(inspect.signature(Face)) == f"({SIGNATURES[Face]}, *, batch_size=None)"


@every_face
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_face_is_scan(Face, reset):
    layer = make(Face, init_hidden=True, output=True, reset_mechanism=reset)
    params, neuron = layer.params(), Face.neuron

    def recorded(params, state, x):
        spk, state = neuron.step(params, state, x)
        return (spk, *(getattr(state, name) for name in states_of(Face))), state

    outputs, _ = snf.scan(recorded, params, neuron.init(params, X[0]), X)
    assert all(torch.equal(a, b) for a, b in zip(run(layer), outputs))


@every_face
def test_explicit_and_hidden_agree(Face):
    hidden, explicit = make(Face, init_hidden=True, output=True), make(Face)
    starts = {
        "nothing": (),
        "init": explicit.reset_mem() if len(states_of(Face)) > 1 else (explicit.reset_mem(),),
        "zeros": tuple(torch.zeros(3, 7) for _ in states_of(Face)),
        "a row": tuple(torch.zeros(1, 7) for _ in states_of(Face)),
    }
    for start in starts.values():
        snn.utils.reset(hidden)
        given = start
        for x in X:
            spk, *given = explicit(x, *given)
            assert all(torch.equal(a, b) for a, b in zip(hidden(x), (spk, *given)))
        by_name = explicit(X[0], **dict(zip(states_of(Face), given)))
        assert all(torch.equal(a, b) for a, b in zip(by_name, explicit(X[0], *given)))


@every_face
def test_explicit_mode_leaves_nothing_behind(Face):
    layer = make(Face)
    layer(X[0], *(torch.rand(3, 7) for _ in states_of(Face)))
    assert all(torch.equal(a, b) for a, b in zip(layer(X[1]), make(Face)(X[1])))
    assert layer.mem is None


@every_face
def test_what_is_returned(Face):
    assert len(make(Face)(X[0])) == 1 + len(states_of(Face))
    assert isinstance(make(Face, init_hidden=True)(X[0]), torch.Tensor)
    layer = make(Face, init_hidden=True, output=True)
    spk, *states = layer(X[0])
    assert all(getattr(layer, name) is state for name, state in zip(states_of(Face), states))


@every_face
def test_state_takes_dtype_and_batch_from_the_input(Face):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        layer = make(Face, init_hidden=True, output=True)
        layer = layer.to(dtype) if dtype == torch.bfloat16 else layer
        assert all(out.dtype == dtype and out.shape == (5, 4) for out in layer(torch.rand(5, 4).to(dtype)))
    meta = make(Face, init_hidden=True)
    assert meta(X[0].to("meta")).device.type == "meta"


@every_face
def test_networks_in_bf16_and_float64_with_per_neuron_parameters(Face):
    for dtype in (torch.bfloat16, torch.float64):
        numbers = {name: torch.full((7,), value) for name, value in zip(list(Face.numbers), FACES[Face])}
        net = nn.Sequential(nn.Linear(7, 7), Face(**numbers, init_hidden=True, learn_beta=True), nn.Linear(7, 7)).to(
            dtype
        )
        out = net(X[0].to(dtype))
        out.sum().backward()
        assert out.dtype == dtype and net[1].beta.grad.dtype == dtype
        mixed = Face(**numbers, init_hidden=True)  # float32 parameters, this input
        assert mixed(X[0].to(dtype)).dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)


@every_face
def test_a_new_batch_size_needs_a_reset(Face):
    layer = make(Face, init_hidden=True)
    layer(X[0])
    before = layer.mem
    for x in (X[0, :2], X[0, :1], X[0, 0]):
        with pytest.raises(
            ValueError, match=r"holds the state of an input \(3, 7\), but .* came. .*snn.utils.reset\(net\)"
        ):
            layer(x)
    assert layer.mem is before
    layer.reset_mem()
    assert layer(X[0, :2]).shape == (2, 7)


@every_face
def test_reset_is_scoped_and_recursive(Face):
    other = nn.Sequential(make(Face, init_hidden=True))
    net = nn.Sequential(nn.Sequential(nn.Sequential(make(Face, init_hidden=True))), make(Face, init_hidden=True))
    net(X[0]), other(X[0])
    snn.utils.reset(net)
    assert net[0][0][0].mem is None and net[1].mem is None and other[0].mem is not None
    assert torch.equal(net(X[0]), net.apply(lambda m: getattr(m, "reset_hidden", lambda: None)())(X[0]))
    snn.utils.reset(other[0])
    assert other[0].mem is None
    with pytest.raises(TypeError, match="takes the network, an nn.Module"):
        snn.utils.reset([net])


@every_face
def test_reset_mechanism_setter_changes_the_dynamics(Face):
    layer = make(Face, init_hidden=True, output=True)
    for reset in ("zero", "none", "subtract"):
        layer.reset_mechanism = reset
        snn.utils.reset(layer)
        fresh = make(Face, init_hidden=True, output=True, reset_mechanism=reset)
        assert all(torch.equal(a, b) for a, b in zip(run(layer), run(fresh)))
        assert layer.reset_mechanism_val == ["subtract", "zero", "none"].index(reset)
    with pytest.raises(ValueError, match="unknown choice"):
        layer.reset_mechanism = "soft"
    assert layer.reset_mechanism == "subtract"


@every_face
def test_learning_every_number_twice(Face):
    learnable = [
        name for name in ("alpha", "beta", "threshold") if f"learn_{name}" in inspect.signature(Face).parameters
    ]
    layer = make(Face, init_hidden=True, **{f"learn_{name}": True for name in learnable})
    assert {name for name, _ in layer.named_parameters()} == set(learnable)
    for _ in range(2):  # the second backward too
        layer.zero_grad()
        snn.utils.reset(layer)
        sum(layer(x) for x in X).sum().backward()
        assert all(getattr(layer, name).grad.abs() > 0 for name in learnable)


@every_face
def test_gradients_are_the_pure_steps(Face):
    numbers = {name: torch.full((7,), value) for name, value in zip(list(Face.numbers), FACES[Face])}
    layer = Face(**numbers, init_hidden=True, learn_beta=True)
    x = X.clone().requires_grad_()
    sum(layer(v) for v in x.unbind(0)).sum().backward()

    def loss(beta, x):
        if Face is snn.Lapicque:
            params = snf.lapicque_params(beta=beta)
        else:
            params = Face.neuron.Params(**(numbers | {"beta": beta}))
        return snf.scan(Face.neuron.step, params, Face.neuron.init(params, x[0]), x)[0].sum()

    d_beta, d_x = torch.func.grad(loss, (0, 1))(numbers["beta"], X)
    torch.testing.assert_close(layer.beta.grad, d_beta)
    torch.testing.assert_close(x.grad, d_x)


@every_face
def test_layers_do_not_share_a_tensor_with_the_caller(Face):
    values = [torch.tensor(v) for v in FACES[Face]]
    a, b = Face(*values, learn_beta=True), Face(*values)
    with torch.no_grad():
        a.beta.mul_(0.5)
    assert torch.equal(b.beta, values[-1]) and values[-1] != a.beta
    assert Face(*FACES[Face], threshold=1).threshold.dtype == torch.float32


@every_face
def test_deepcopy_and_pickle_between_steps(Face):
    layer = make(Face, init_hidden=True, output=True, learn_beta=True)
    run(layer, X[:5])
    assert layer.mem.requires_grad
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert all(torch.equal(a, b) for a, b in zip(twin(X[5]), copy.deepcopy(layer)(X[5])))
        assert torch.equal(twin.beta, layer.beta) and twin.beta is not layer.beta
        snn.utils.reset(twin)
    assert layer.mem.requires_grad


@every_face
def test_state_dict_round_trip(Face, tmp_path):
    layer = make(Face, learn_beta=True, reset_mechanism="none")
    assert "mem" not in layer.state_dict()
    torch.save(layer.state_dict(), tmp_path / "net.pt")
    other = Face(*(0.6, 0.5)[-len(FACES[Face]) :], learn_beta=True)
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert other.reset_mechanism == "none"
    assert all(torch.equal(a, b) for a, b in zip(other(X[0]), layer(X[0])))


@every_face
def test_state_dict_with_the_running_state_resumes_bit_for_bit(Face, tmp_path):
    build = lambda: nn.Sequential(
        nn.Linear(7, 7), make(Face, init_hidden=True), nn.Linear(7, 7), make(Face, init_hidden=True)
    )
    net = build()
    for x in X[:6]:
        net(x)
    torch.save(snn.utils.state_dict(net), tmp_path / "net.pt")
    resumed = build()
    resumed.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    for x in X[6:]:
        assert torch.equal(net(x), resumed(x))
    assert torch.equal(net[3].mem, resumed[3].mem)


@every_face
def test_moving_a_network_moves_its_running_state(Face):
    layer = make(Face, init_hidden=True)
    layer(X[0])
    layer.double()
    assert layer.mem.dtype == torch.float64 and layer(X[1].double()).dtype == torch.float64


@every_face
def test_data_parallel_replicas_keep_their_own_state(Face):
    """What nn.DataParallel does, without the GPUs: shallow replicas, each in a thread with its share of the batch."""
    layer = make(Face, init_hidden=True, output=True)
    replicas, results = [layer._replicate_for_data_parallel() for _ in range(2)], [None, None]

    def work(i, xs):
        results[i] = run(replicas[i], xs)

    threads = [threading.Thread(target=work, args=(i, X[:, i : i + 2])) for i in range(2)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert layer.mem is None
    for i in range(2):
        alone = make(Face, init_hidden=True, output=True)
        assert all(torch.equal(a, b) for a, b in zip(results[i], run(alone, X[:, i : i + 2])))


@every_face
def test_switches_are_the_modifiers(Face):
    quantizer = lambda x: (x * 8).round() / 8
    neuron = Face.neuron
    cases = [
        ({"inhibition": True, "batch_size": 3}, snf.inhibit(neuron.step)),
        ({"state_quant": quantizer}, snf.quantize(neuron.step, quantizer)),
        ({"spike_grad": snf.surrogate.fast_sigmoid(5)}, neuron.step),
    ]
    if "reset_delay" in inspect.signature(Face).parameters:
        cases.append(({"reset_delay": False}, snf.immediate_reset(neuron.step)))
    for options, step in cases:
        layer = make(Face, init_hidden=True, **options)
        params = layer.params()
        pure, _ = snf.scan(step, params, neuron.init(params, X[0]), X)
        assert torch.equal(torch.stack([layer(x) for x in X]), pure)
    with pytest.raises(ValueError, match=r"takes \(batch, neurons\), but \(3, 7, 2, 2\) came"):
        make(Face, inhibition=True)(torch.rand(3, 7, 2, 2))


@every_face
def test_surrogate_disable_passes_no_gradient(Face):
    layer = make(Face, surrogate_disable=True)
    x = X[0].clone().requires_grad_()
    spk, *_, mem = layer(x)
    assert not spk.requires_grad and mem.requires_grad


def test_graded_spikes():
    plain, graded = (
        snn.Leaky(0.9, init_hidden=True),
        snn.Leaky(0.9, init_hidden=True, graded_spikes_factor=0.5, learn_graded_spikes_factor=True),
    )
    for x in X:
        assert torch.equal(graded(x), 0.5 * plain(x))
    snn.utils.reset(graded)
    graded(X[0]).sum().backward()
    assert graded.graded_spikes_factor.grad == (X[0] > 1).sum()


def test_lapicques_numbers_follow_snntorch():
    layer = snn.Lapicque(0.9)
    assert layer.R == 1 and torch.allclose(layer.C, -1 / torch.log(torch.tensor(0.9))) and layer.time_step == 1
    assert torch.allclose(snn.Lapicque(R=2.0, C=5.0).beta, torch.exp(torch.tensor(-0.1)))
    assert torch.allclose(snn.Lapicque(beta=0.9, C=5.0).R, -1 / (5 * torch.log(torch.tensor(0.9))))
    per_neuron = snn.Lapicque(torch.rand(7) / 2 + 0.4, learn_beta=True)
    assert per_neuron(X[0])[0].shape == (3, 7)
    says = "Either beta or 2 of beta, R and C must be specified"
    for given in ({}, {"R": 1.0}, {"C": 1.0}, {"beta": 0}):
        with pytest.raises(ValueError, match=says):
            snn.Lapicque(**given)
    with pytest.raises(ValueError, match="all three were given"):
        snn.Lapicque(0.9, 1.0, 5.0)


@pytest.mark.parametrize(
    "given", [{"beta": 0.9}, {"beta": 0.9, "R": 2.0}, {"beta": 0.9, "C": 5.0}, {"R": 2.0, "C": 5.0}]
)
def test_lapicque_learns_beta_whatever_was_given(given):
    layer = snn.Lapicque(**given, learn_beta=True, init_hidden=True)
    before = torch.stack([layer(x) for x in X])
    layer.reset_mem()
    with torch.no_grad():
        layer.beta.mul_(0.8)
    assert not torch.equal(before, torch.stack([layer(x) for x in X]))


@every_face
@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda F: make(F, reset_mechanism="soft"), ValueError, "unknown choice"),
        (lambda F: F(*(float("nan") for _ in FACES[F])), ValueError, "NaN"),
        (lambda F: make(F, slope=3), TypeError, "unexpected keyword argument 'slope'"),
        (
            lambda F: make(F, init_hidden=True)(X[0], X[0]),
            TypeError,
            "should not be passed as an argument while `init_hidden=True`",
        ),
        (lambda F: make(F)(X[0], *[X[0]] * 4), TypeError, "call it as spk, "),
        (lambda F: make(F)(X[0], voltage=X[0]), TypeError, "call it as spk, "),
        (
            lambda F: make(F)(X[0], *(torch.zeros(4, 7) for _ in states_of(F))),
            ValueError,
            "does not broadcast to the input's",
        ),
        (lambda F: make(F)((X[0] * 9).long()), TypeError, r"give input.float\(\)"),
        (lambda F: make(F)([1.0, 2.0]), TypeError, r"takes a tensor \[batch, ..., neurons\], not list"),
        (lambda F: make(F, threshold=torch.ones(5))(X[0]), ValueError, r"threshold has shape \(5,\)"),
    ],
)
def test_bad_input(Face, call, error, says):
    with pytest.raises(error, match=says):
        call(Face)


def test_some_of_the_states_are_not_enough():
    with pytest.raises(
        TypeError, match=r"of the states only \['mem'\] came. Call it as spk, syn, mem = layer\(input_, syn, mem\)"
    ):
        snn.Synaptic(0.9, 0.8)(X[0], mem=X[0])


def test_alpha_must_exceed_beta():
    with pytest.raises(ValueError, match="alpha must be greater than beta"):
        snn.Alpha(0.5, 0.5)


# The four examples of snnTorch 0.4's documentation page, with `snntorch` replaced by `snn_functional.snn` and its typos mended.

num_inputs, num_hidden, num_outputs, batch_size, num_steps = 784, 100, 10, 4, 5
data, device = torch.rand(4, 1, 28, 28), "cpu"


def test_documentation_example_1_explicit_states():
    alpha, beta = 0.9, 0.85

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(num_inputs, num_hidden)
            self.lif1 = snn.Synaptic(alpha=alpha, beta=beta)
            self.fc2 = nn.Linear(num_hidden, num_outputs)
            self.lif2 = snn.Synaptic(alpha=alpha, beta=beta)

        def forward(self, x):
            spk1, syn1, mem1 = self.lif1.init_synaptic(batch_size, num_hidden)
            spk2, syn2, mem2 = self.lif2.init_synaptic(batch_size, num_outputs)
            spk2_rec, mem2_rec = [], []
            for _ in range(num_steps):
                cur1 = self.fc1(x)
                spk1, syn1, mem1 = self.lif1(cur1, syn1, mem1)
                cur2 = self.fc2(spk1)
                spk2, syn2, mem2 = self.lif2(cur2, syn2, mem2)
                spk2_rec.append(spk2)
                mem2_rec.append(mem2)
            return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)

    net = Net().to(device)
    output, mem_rec = net(data.view(batch_size, -1))
    assert output.shape == mem_rec.shape == (5, 4, 10)
    mem_rec.sum().backward()
    assert net.fc1.weight.grad.abs().sum() > 0


def sequential(lif1, lif2):
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, num_hidden), lif1, nn.Linear(num_hidden, 10), lif2).to(device)
    for _ in range(num_steps):
        spk_out, mem_out = net(data.view(batch_size, -1))
    assert spk_out.shape == mem_out.shape == (4, 10)
    (spk_out.sum() + mem_out.sum()).backward()
    return net


def test_documentation_example_2_hidden_states():
    sequential(snn.Leaky(beta=0.9, init_hidden=True), snn.Leaky(beta=0.9, init_hidden=True, output=True))


def test_documentation_example_3_learnable_decay():
    net = sequential(
        snn.Leaky(beta=0.9, learn_beta=True, init_hidden=True),
        snn.Leaky(beta=0.5, learn_beta=True, init_hidden=True, output=True),
    )
    assert net[2].beta.grad is not None and net[4].beta.grad is not None


def test_documentation_example_4_learnable_decay_per_neuron():
    net = sequential(
        snn.Leaky(beta=torch.rand(num_hidden), learn_beta=True, init_hidden=True),
        snn.Leaky(beta=torch.rand(10), learn_beta=True, init_hidden=True, output=True),
    )
    assert net[2].beta.grad.shape == (100,) and net[4].beta.grad.shape == (10,)


def test_an_import_alias_is_the_whole_migration():
    """Every form of import that a script of snnTorch has."""
    import snn_functional.snn as snn_
    import snn_functional.snn.functional as functional
    import snn_functional.snn.surrogate as surrogate_
    from snn_functional.snn import backprop, functional as SF, spikegen, spikeplot as splt, surrogate, utils
    from snn_functional.snn.functional import probe, quant
    from snn_functional.snn.surrogate import atan, fast_sigmoid

    assert snn_.Leaky(0.9, spike_grad=fast_sigmoid(25)).spike_grad == surrogate.fast_sigmoid(25)
    assert surrogate_ is surrogate and functional is SF and atan() == snf.surrogate.ATan()
    for module, name in (
        (backprop, "BPTT"),
        (spikegen, "rate"),
        (splt, "raster"),
        (utils, "reset"),
        (probe, "OutputMonitor"),
        (quant, "state_quant"),
    ):
        assert callable(getattr(module, name))
