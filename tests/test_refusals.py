"""What is refused, or warned of, with the way out; and beside each the kindred call that must go through."""

import copy
import pickle
import threading
import warnings

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal
from torch import nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

import snn_functional as snf
from snn_functional import snn


X = torch.rand(6, 3, 7, generator=torch.Generator().manual_seed(0))
LEAKY = {"beta": 0.9, "threshold": 0.4, "init_hidden": True}


# ------------------------------------------------------------------------------------------------ a face without a memory


@pytest.fixture(autouse=True)
def _nobody_was_warned(monkeypatch):
    monkeypatch.setattr(snn._stateful, "_warned", set())


def test_an_explicit_face_called_twice_without_a_state_warns_once():
    lif, other = snn.Synaptic(0.9, 0.8), snn.Synaptic(0.9, 0.8)
    lif(X[0])
    with pytest.warns(
        UserWarning, match=r"Synaptic\(init_hidden=False\).*Pass `syn`, `mem` .* init_hidden=True"
    ) as told:
        lif(X[1])
    assert len(told) == 1 and told[0].filename == __file__
    for face in (lif, other):
        for x in X:
            face(x)


def test_one_warning_for_each_class():
    for face in (snn.Leaky(0.9), snn.Alpha(0.9, 0.8), snn.SLSTM(7, 5), snn.DeltaLeaky(0.1, beta=0.9)):
        face(X[0])
        with pytest.warns(UserWarning, match=rf"^{type(face).__name__}\(init_hidden=False\) was called twice"):
            face(X[1])


def test_the_first_call_of_a_loop_does_not_warn():
    lif = snn.Leaky(0.9)
    for _ in range(3):
        spk, mem = lif(X[0])
        for x in X[1:]:
            spk, mem = lif(x, mem)
    for _ in range(3):  # nor does None, which is how a forward with `mem=None` begins
        mem = None
        for x in X:
            spk, mem = lif(x, mem)
    lif(X[0])
    copy.deepcopy(lif)(X[0]), pickle.loads(pickle.dumps(lif))(X[0])  # each begins anew


def test_none_for_a_state_is_no_state():
    lif = snn.Leaky(0.9)
    lif(X[0], None)
    with pytest.warns(UserWarning, match="twice in a row"):
        lif(X[1], mem=None)


def test_hidden_and_watched_faces_do_not_warn():
    hidden, net = snn.Leaky(**LEAKY), nn.Sequential(nn.Linear(7, 5), snn.Leaky(0.9))
    hidden(X[0]), hidden.reset_mem(), hidden(X[0]), hidden.reset_mem(), hidden(X[0])
    step, params, state = snf.functionalize(net)
    for _ in range(2):
        for call in (
            lambda: snn.run(net, X),
            lambda: snf.scan(step, params, state, X),
            lambda: step(params, state, X[0]),
        ):
            with pytest.raises(TypeError, match="got no state"):
                call()


# ------------------------------------------------------------------------------------------------ what a face is made of, and given


MADE = {
    "a number that is not there": (lambda: snn.Leaky(), r"Leaky: missing a required argument: 'beta'. It is Leaky\(beta, threshold=1.0, "),
    "a misspelt name": (lambda: snn.Leaky(0.9, treshold=1.0), r"argument 'treshold'. Is it threshold\? It is Leaky\(beta"),
    "an unknown name": (lambda: snn.Alpha(0.9, 0.8, spam=1), r"argument 'spam'. It is Alpha\(alpha, beta"),
    "a surrogate's name": (lambda: snn.Leaky(0.9, spike_grad="atan"), r"spike_grad='atan'\): expected .*surrogate.atan\(\)"),
    "a module for V": (
        lambda: snn.RLeaky(0.9, V=nn.Linear(7, 7), all_to_all=False),
        r"RLeaky\(V=...\): .* the module Linear came.* RLeaky\(..., linear_features=64\)",
    ),
    "a class for V": (lambda: snn.RSynaptic(0.9, 0.8, V=nn.Linear, linear_features=7), "the class Linear came"),
    "a connection for V": (lambda: snn.RLeaky(0.9, V=snf.Linear.random(7, 7)), "a Linear came. .* snf.recurrent"),
    "half a neuron": (lambda: snn.RLeaky(0.9, linear_features=7.0), r"RLeaky\(linear_features=7.0\): expected a whole number"),
    "half a channel": (lambda: snn.RLeaky(0.9, conv2d_channels=1.5, kernel_size=3), r"conv2d_channels=1.5\): expected a whole"),
    "a kernel's word": (lambda: snn.RLeaky(0.9, conv2d_channels=4, kernel_size="same"), "kernel_size='same': expected a whole number"),
    "a kernel of three axes": (lambda: snn.SConv2dLSTM(1, 4, (3, 3, 3)), r"kernel_size=\(3, 3, 3\): expected .* height and width"),
}  # fmt: skip


@pytest.mark.parametrize("what", MADE)
def test_what_a_face_cannot_be_made_of(what):
    call, says = MADE[what]
    with pytest.raises(TypeError, match=says):
        call()


def test_the_recurrent_faces_take_what_snntorchs_take():
    images = torch.rand(2, 4, 5, 5)
    for made, x in (
        (snn.RLeaky(0.9, linear_features=7), X[0]),
        (snn.RLeaky(0.9, all_to_all=False, V=0.5), X[0]),
        (snn.RSynaptic(0.9, 0.8, all_to_all=False, V=torch.rand(7), learn_recurrent=False), X[0]),
        (snn.RLeaky(0.9, conv2d_channels=4, kernel_size=3), images),
        (snn.RLeaky(0.9, conv2d_channels=4, kernel_size=(3, 5)), images),
        (
            snn.RSynaptic(0.9, 0.8, V=0.5, conv2d_channels=4, kernel_size=[1, 3]),
            images,
        ),  # of V snnTorch makes nothing, either
    ):
        assert made(x)[0].shape == x.shape


def test_what_another_face_returned_is_named():
    with pytest.raises(
        TypeError, match=r"not tuple. Is it what another face returns, \(spk, mem\)\? .* init_hidden=True"
    ):
        snn.Leaky(0.9)(snn.Leaky(0.9)(X[0]))
    with pytest.raises(TypeError, match=r"not ndarray. Give torch.from_numpy\(input_\)"):
        snn.Leaky(0.9)(X[0].numpy())


def test_dtypes_are_advised_as_modules_have_them():
    hidden, explicit = snn.Leaky(**LEAKY), snn.Synaptic(0.9, 0.8)
    hidden(X[0])
    with pytest.raises(
        TypeError, match=r"state mem is torch.float32 .* give input_.to\(torch.float32\), or snn.utils.reset\(net\)"
    ):
        hidden(X[1].double())
    assert hidden.double()(X[1].double()).dtype == torch.float64  # its state, too
    with pytest.raises(
        TypeError, match=r"the state syn is .* give input_.to\(torch.float32\), or syn.to\(torch.float64\)"
    ):
        explicit(X[0].double(), X[0], X[0])
    for face, x in ((snn.RLeaky(0.9, linear_features=7), X[0]), (snn.SConv2dLSTM(1, 2, 3), torch.rand(2, 1, 5, 5))):
        name = type(face).__name__
        with pytest.raises(TypeError, match=rf"give {name}\(input_.to\(torch.float32\)\), or net.to\(torch.float64\)"):
            face(x.double())
        copy.deepcopy(face).double()(x.double())
    for face in (snn.LeakyParallel(7, 4), snn.LinearLeaky(0.9, 7, 4), snn.AssociativeLeaky(7, 2, 2)):
        name = type(face).__name__
        with pytest.raises(TypeError, match=rf"{name}.* give input_.to\(torch.float32\), or net.to\(torch.float64\)"):
            face(X.double())
        face.double()(X.double())


# ------------------------------------------------------------------------------------------------ a state that vmap left behind


def ensemble():
    nets = [nn.Sequential(nn.Linear(7, 5), snn.Leaky(**LEAKY)) for _ in range(2)]
    return nets[0], *stack_module_state(nets)


LEFT = {
    "a call": lambda net: net(X[0]),
    "run": lambda net: snn.run(net, X),
    "functionalize": snf.functionalize,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "detach_hidden": lambda net: net[1].detach_hidden(),
    "state_dict": snn.utils.state_dict,
}


@pytest.mark.parametrize("nested", ["vmap", "vmap of grad", "vmap of vmap"])
@pytest.mark.parametrize("use", LEFT)
def test_a_state_that_vmap_left_behind_names_the_reset(use, nested):
    net, params, buffers = ensemble()
    expected = copy.deepcopy(net)(X[0])
    spikes = lambda p, b, x: functional_call(net, (p, b), (x,))
    if nested == "vmap":
        vmap(lambda p, b: spikes(p, b, X[0]))(params, buffers)
    elif nested == "vmap of grad":
        vmap(grad(lambda p, b: spikes(p, b, X[0]).sum()))(params, buffers)
    else:
        vmap(lambda p, b: vmap(lambda x: spikes(p, b, x))(X[:1]))(params, buffers)
    with pytest.raises(
        RuntimeError, match=r"Leaky\(init_hidden=True\) holds the state of .*vmap.*snn.utils.reset\(net\)"
    ):
        LEFT[use](net)
    net.float()  # which leaves it as it is
    snn.utils.reset(net)
    assert torch.equal(net(X[0]), expected)
    LEFT[use](net)


def test_within_vmap_the_state_goes_on_and_what_grad_leaves_is_alive():
    net, params, buffers = ensemble()
    run = lambda p, b: torch.stack([functional_call(net, (p, b), (x,)) for x in X])
    found = vmap(run)(params, buffers)
    snn.utils.reset(net)
    for i in range(2):
        assert torch.equal(found[i], run(*(optree.tree_map(lambda x, i=i: x[i], t) for t in (params, buffers))))
        snn.utils.reset(net)
    grad(lambda x: net(x).sum())(X[0])
    copy.deepcopy(net), net[1].detach_hidden(), net(X[1])


# ------------------------------------------------------------------------------------------------ layers of their own


def test_batch_normalisation_through_time_shows_its_call():
    norms = snn.BatchNormTT2d(4, time_steps=5)
    for bn, count in ((norms, 5), (norms[1:3], 2)):
        with pytest.raises(
            NotImplementedError, match=rf"BatchNormTT2d holds {count} layers.* call bn\[t\]\(x\) in step t"
        ):
            bn(torch.rand(2, 4, 6, 6))
    assert isinstance(norms, nn.ModuleList) and "BatchNormTT1d" in str(
        pytest.raises(NotImplementedError, snn.BatchNormTT1d(4, 2), X).value
    )
    assert list(norms.state_dict())[0] == "0.weight" and len(pickle.loads(pickle.dumps(norms))) == 5


IMAGES = torch.rand(3, 1, 6, 6)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: snn.SLSTM(4, 4)(X[0, :, :4], torch.zeros(3, 4), torch.zeros(3, 5)), r"mem has shape \(3, 5\).*expected \(3, 4\)"),
        (lambda: snn.SLSTM(7, 2)(X[0], *[torch.zeros(3, 7)] * 2), r"SLSTMState.syn has shape \(3, 7\).*expected \(3, 2\)"),
        (lambda: snn.SLSTM(7, 2)(X[0], *[torch.zeros(5, 3, 2)] * 2), r"SLSTMState.syn has shape \(5, 3, 2\).*expected \(3, 2\)"),
        (
            lambda: snn.SConv2dLSTM(1, 2, 3)(IMAGES, *[torch.zeros(3, 3, 6, 6)] * 2),
            r"SConv2dLSTMState.syn has shape \(3, 3, 6, 6\).*expected \(3, 2, 6, 6\).*sconv2dlstm_init",
        ),
        (
            lambda: snn.SConv2dLSTM(1, 2, 3)(IMAGES, torch.zeros(()), torch.zeros(3, 2, 6, 5)),
            r"SConv2dLSTMState.mem has shape \(3, 2, 6, 5\).*expected \(3, 2, 6, 6\)",
        ),
    ],
)  # fmt: skip
def test_a_state_of_another_width_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# ------------------------------------------------------------------------------------------------ surrogates of the old way


class Old(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).float()

    @staticmethod
    def backward(ctx, g):
        return g / (1 + (torch.pi * ctx.saved_tensors[0]) ** 2)


class NoVmap(torch.autograd.Function):
    @staticmethod
    def forward(u):
        return (u > 0).float()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    backward = Old.backward


def sloped(u, g, spikes):
    return g / (1 + (torch.pi * u) ** 2)


def by_scan(kind):
    def loss(spike_grad, params=None):
        params = snf.LeakyParams(0.9, spike_grad=spike_grad)
        return lambda xs: snf.scan(snf.leaky_step, params, snf.leaky_init(params, xs[0]), xs, kind=kind)[0].sum()

    return loss


def by_face(spike_grad):
    def loss(xs):
        lif = snn.Leaky(0.9, spike_grad=spike_grad, init_hidden=True)
        return sum(lif(x).sum() for x in xs)

    return loss


def by_functionalize(spike_grad):
    step, params, state = snf.functionalize(snn.Leaky(0.9, spike_grad=spike_grad, init_hidden=True))
    return lambda xs: snf.scan(step, params, state, xs)[0].sum()


WAYS = {"auto": by_scan("auto"), "loop": by_scan("loop"), "face": by_face}
WAYS["functionalize"] = by_functionalize


@pytest.mark.parametrize("way", WAYS)
def test_an_old_surrogate_under_a_transform_is_told_how(way):
    says = r"setup_context(?s:.)*custom_surrogate\(lambda (?s:.)*CustomSlope(?s:.)*forward\(u\)"
    with pytest.raises(RuntimeError, match=says) as told:
        grad(WAYS[way](Old.apply))(X)
    assert str(told.value).count("custom_surrogate(") == 1 and told.value.__cause__ is not None
    right = WAYS[way](snf.surrogate.custom_surrogate(sloped))
    x = X.clone().requires_grad_()
    assert_allclose(grad(right)(X), torch.autograd.grad(right(x), x)[0])


def test_a_surrogate_without_vmap_or_jvp_is_told_how():
    loss = by_face(NoVmap.apply)
    assert grad(loss)(X).any()
    with pytest.raises(RuntimeError, match=r"generate_vmap_rule(?s:.)*custom_surrogate"):
        vmap(grad(loss), in_dims=1)(X)
    with pytest.raises(RuntimeError, match=r"jvp(?s:.)*custom_surrogate"):
        jvp(loss, (X,), (X,))


def test_outside_transforms_an_old_surrogate_works_and_other_errors_stay():
    for way in ("auto", "face"):
        x = X.clone().requires_grad_()
        WAYS[way](Old.apply)(x).backward()
        assert_allclose(x.grad, grad(WAYS[way](snf.surrogate.custom_surrogate(sloped)))(X))

    def broken(u):
        raise RuntimeError("of my own")

    for way in ("loop", "face"):
        with pytest.raises(RuntimeError, match="^of my own$") as told:
            WAYS[way](broken)(X)
        assert told.value.__cause__ is None


# ------------------------------------------------------------------------------------------------ whole numbers


WHOLE = (torch.rand(4, 3, 2, 5, 5) * 3).long()
LINEAR, CONV = snf.Linear(torch.randn(4, 5) / 3), snf.Conv2d(torch.randn(3, 2, 3, 3) / 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: LINEAR(x),
        lambda x: CONV(x),
        lambda x: snf.linear.step(LINEAR, (), x),
        lambda x: snf.conv2d.step(CONV, (), x),
        lambda x: snf.scan(snf.linear.step, LINEAR, (), x),
        lambda x: snf.scan(snf.chain(snf.conv2d, snf.leaky).step, (CONV, snf.LeakyParams(0.9)), ((), snf.LeakyState(torch.zeros(()))), x),
    ],
    ids=["Linear", "Conv2d", "linear", "conv2d", "scan", "chain"],
)  # fmt: skip
def test_an_input_of_whole_numbers_is_to_be_cast_not_the_weights(call):
    with pytest.raises(TypeError, match=r"cannot take torch.int64: give input.float\(\)\.$"):
        call(WHOLE)
    call(WHOLE.float())


def test_the_cast_that_is_advised_fits_the_weights():
    double = optree.tree_map(torch.Tensor.double, LINEAR)
    with pytest.raises(TypeError, match=r"cannot take torch.int32: give input.to\(torch.float64\)\.$"):
        double(WHOLE.int())
    with pytest.raises(TypeError, match=r"cannot take torch.uint8: give input.float\(\)"):
        LINEAR(WHOLE.byte())  # which `linear`, the layer, takes for spikes
    with pytest.raises(TypeError, match=r"give input.to\(torch.float32\), or the connection in the input's dtype"):
        LINEAR(WHOLE.double())


cast = lambda tree: optree.tree_map(lambda leaf: leaf.to(torch.int64), tree)
RECURRENT = snf.Linear(torch.randn(5, 5))


@pytest.mark.parametrize(
    "call",
    [
        lambda: cast(LINEAR)(WHOLE),
        lambda: cast(CONV)(WHOLE),
        lambda: snf.linear.step(cast(LINEAR), (), WHOLE),
        lambda: snf.linear.step(cast(LINEAR), (), WHOLE > 1),
        lambda: snf.conv2d.step(cast(CONV), (), WHOLE.byte()),
        lambda: snf.chain(snf.linear, snf.leaky).init(cast((LINEAR, snf.LeakyParams(0.9))), WHOLE),
        lambda: once(snf.rleaky, snf.RLeakyParams(0.9, cast(RECURRENT))),
        lambda: once(snf.rleaky, snf.RLeakyParams.__rebuild__([torch.tensor(0.9), torch.ones(5).long(), torch.tensor(1.0)], ())),
        lambda: once(snf.recurrent(snf.leaky), snf.RecurrentParams(snf.LeakyParams(0.9), cast(RECURRENT))),
        lambda: once(snf.slstm, snf.SLSTMParams(cast(snf.Linear(torch.randn(8, 5))), snf.Linear(torch.randn(8, 2)))),
    ],
    ids=["Linear", "Conv2d", "linear", "linear of spikes", "conv2d", "chain", "rleaky", "V", "recurrent", "slstm"],
)  # fmt: skip
def test_weights_cut_to_whole_numbers_are_refused(call):
    with pytest.raises(
        TypeError, match=r"(weight|V) is torch.int64: its numbers were cut to whole ones.*input.float\(\)"
    ):
        call()


def once(neuron, params):
    x = torch.rand(3, 5)
    return neuron.step(params, neuron.init(params, x), x)


# ------------------------------------------------------------------------------------------------ buffers under vmap


class Module(nn.Module):
    def __init__(self, **buffers):
        super().__init__()
        self.fc, self.lif = nn.Linear(7, 4), snn.Leaky(**LEAKY)
        for name, x in buffers.items():
            self.register_buffer(name, x)


class ByStep(Module):
    """A layer for each step, chosen by a buffer that counts; and normalisations that count too."""

    def __init__(self, dtype=torch.long):
        super().__init__(t=torch.zeros((), dtype=dtype))
        self.bn, self.mean = snn.BatchNormTT1d(4, time_steps=6), nn.BatchNorm1d(4, momentum=None)

    def forward(self, x):
        i = int(self.t)
        self.t += 1
        return self.lif(self.mean(self.bn[i](self.fc(x))))


class Gathers(Module):
    """Numbers of spikes, in place: of each sample its own."""

    def __init__(self, dtype=torch.long):
        super().__init__(count=torch.zeros(4, dtype=dtype))

    def forward(self, x):
        spk = self.lif(self.fc(x))
        self.count += spk.detach().sum(0).to(self.count.dtype)
        return spk


class Both(Module):
    def __init__(self, t=torch.long, count=torch.float32):
        super().__init__(t=torch.zeros((), dtype=t), count=torch.zeros(4, dtype=count))

    def forward(self, x):
        spk = self.lif(self.fc(x) * (2 if self.t % 2 else 1))
        self.t.add_(1), self.count.mul_(0.5).add_(spk.detach().sum(0))
        return spk


class Draws(Gathers):
    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.5))


def each_sample(step, params, state, xs):
    """The loop over samples, the last axis but two: outputs, states and gradients."""
    loss = lambda p, x: (lambda out, s: ((out * torch.linspace(-1, 2, 4)).sum(), (out, s)))(*scanned(step, p, state, x))
    return [grad(loss, has_aux=True)(params, x) for x in xs.unbind(1)], lambda: vmap(
        grad(loss, has_aux=True), in_dims=(None, 1)
    )(params, xs)


def scanned(step, params, state, xs):
    return snf.scan(step, params, state, xs, kind="loop")


@pytest.mark.parametrize(
    "make",
    [ByStep, lambda: ByStep(torch.float32), Gathers, lambda: Gathers(torch.float32), Both],
    ids=["counts", "counts in floats", "gathers", "gathers in floats", "both"],
)
def test_buffers_under_vmap_are_those_of_the_loop_over_samples(make):
    torch.manual_seed(1)
    step, params, state = snf.functionalize(make())
    xs = torch.rand(6, 3, 2, 7)
    for _ in range(2):  # the second time it is known how
        one_by_one, together = each_sample(step, params, state, xs)
        found = together()
        for i, expected in enumerate(one_by_one):
            assert_allclose(optree.tree_map(lambda x, i=i: x[i], found), expected, rtol=1e-4, atol=1e-5)
    assert any(x.any() for x in optree.tree_leaves(found[0]))


def test_what_is_tried_twice_draws_once():
    step, params, state = snf.functionalize(Draws())
    xs, found = torch.rand(6, 3, 2, 7), []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(vmap(lambda x: scanned(step, params, state, x), in_dims=1, randomness="different")(xs))
    assert_equal(*found)
    assert torch.equal(found[0][1]["count"], found[0][0].sum((1, 2)).long())


def test_a_buffer_that_is_made_batched_keeps_its_bits():
    class Signed(Module):
        def forward(self, x):
            self.zero.mul_(x.sum() * 0 + 1)
            return 1 / self.zero

    step, params, state = snf.functionalize(Signed(zero=torch.tensor(-0.0)))
    assert vmap(lambda x: step(params, state, x)[0])(X[0]).tolist() == [-float("inf")] * 3


def test_a_count_that_differs_between_samples_is_refused_with_the_axes_that_work():
    step, params, state = snf.functionalize(ByStep())
    xs = torch.rand(6, 3, 2, 7)
    many = optree.tree_map(lambda x: x.expand(3, *x.shape), state)
    run = lambda s, x: scanned(step, params, s, x)
    counts = {name: None for name in state if name.endswith("num_batches_tracked")}
    with pytest.raises(
        RuntimeError, match=r"reads a number .*buffers .*\bt\b.*which come batched.*'t': None(?s:.)*torch says"
    ):
        vmap(run, in_dims=(dict.fromkeys(state, 0) | counts, 1))(many | {name: state[name] for name in counts}, xs)
    counts["t"] = None
    out, _ = vmap(run, in_dims=(dict.fromkeys(state, 0) | counts, 1))(many | {name: state[name] for name in counts}, xs)
    assert_allclose(out[1], run(state, xs[:, 1])[0])


def test_a_count_and_a_sum_of_one_kind_are_refused_with_the_kinds_that_work():
    step, params, state = snf.functionalize(Both(t=torch.float32))
    with pytest.raises(
        RuntimeError, match=r"count steps integers \(torch.long\), and those that gather samples floating"
    ):
        vmap(lambda x: scanned(step, params, state, x), in_dims=1)(torch.rand(6, 3, 2, 7))


def test_a_branch_on_the_samples_is_torchs_own_error():
    class Branch(Module):
        def forward(self, x):
            return self.lif(self.fc(x * 2 if x.sum() > 3 else x))

    step, params, state = snf.functionalize(Branch(t=torch.zeros(())))
    with pytest.raises(RuntimeError, match="^vmap: It looks like you're.*data-dependent control flow"):
        vmap(lambda x: step(params, state, x))(X)


class Cell(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.lif, self.cell = snn.Leaky(**LEAKY), kind(7, 4)

    def forward(self, x, h):
        h = self.cell(self.lif(x), h)
        return h, h


class Forgetful(Cell):
    def forward(self, x):
        return self.cell(self.lif(x))


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell])
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's own: it has no batching rule for the cells
def test_a_cell_under_vmap_takes_an_unbatched_state(kind):
    step, params, state = snf.functionalize(Cell(kind), torch.zeros(4))
    one_by_one, together = each_sample(step, params, state, X)
    found = together()
    for i, expected in enumerate(one_by_one):
        assert_allclose(optree.tree_map(lambda x, i=i: x[i], found), expected, rtol=1e-4, atol=1e-5)
    step, params, state = snf.functionalize(Forgetful(kind))
    with pytest.raises(
        RuntimeError, match=rf"an {kind.__name__} write into its state.*state.expand\(batch, .* in_dims 0"
    ):
        vmap(grad(lambda p, x: step(p, state, x)[0].sum()), in_dims=(None, 0))(params, X[0])


# ------------------------------------------------------------------------------------------------ a lock for each


class Waits(Module):
    def __init__(self, at=None, until=None):
        super().__init__()
        self.at, self.until = at, until

    def forward(self, x):
        if self.at is not None:
            self.at.set()
            self.until.wait(60)
        return self.lif(self.fc(x))

    def __deepcopy__(self, memo):
        twin = type(self)(self.at, self.until)
        twin.load_state_dict(self.state_dict())
        return twin


def test_a_step_does_not_wait_for_another():
    at, until = threading.Event(), threading.Event()
    (slow, p, s), (quick, q, r) = snf.functionalize(Waits(at, until)), snf.functionalize(Waits())
    thread = threading.Thread(target=lambda: slow(p, s, X[0]), daemon=True)
    thread.start()
    assert at.wait(60)
    other = threading.Thread(target=lambda: snf.scan(quick, q, r, X), daemon=True)
    other.start()
    other.join(60)
    alive = other.is_alive()
    until.set()
    thread.join(60)
    assert not alive and not thread.is_alive()


def test_copies_of_a_step_have_locks_of_their_own():
    step, params, state = snf.functionalize(Module())
    twins = copy.deepcopy(step), pickle.loads(pickle.dumps(step))
    assert len({id(s._lock) for s in (step, *twins)}) == 3


# ------------------------------------------------------------------------------------------------ nets with the time loop inside


class Net(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(7, 5), snn.Leaky(0.9, threshold=0.2, **options)
        self.fc2, self.lif2 = nn.Linear(5, 4), snn.Leaky(0.8, threshold=0.1, **options)


class OverTime(Net):
    """As one is written for snnTorch."""

    def forward(self, xs):
        mem1, mem2, spks = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for x in xs:
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spks.append(spk2)
        return torch.stack(spks)


class ByNumber(OverTime):
    def forward(self, xs):
        spk1, mem1 = self.lif1(self.fc1(xs[0]))
        spks = [spk1]
        for t in range(1, len(xs)):
            spk1, mem1 = self.lif1(self.fc1(xs[t]), mem1)
            spks.append(spk1)
        return torch.stack(spks), mem1


class HiddenOverTime(Net):
    def __init__(self):
        super().__init__(init_hidden=True)

    def forward(self, xs):
        snn.utils.reset(self)
        return torch.stack([self.lif2(self.fc2(self.lif1(self.fc1(x)))) for x in xs.unbind(0)])


class ForeverOverTime(HiddenOverTime):
    """Which forgets the reset."""

    def forward(self, xs):
        return torch.stack([self.lif2(self.fc2(self.lif1(self.fc1(x)))) for x in xs.unbind(0)])


class SameInput(Net):
    """25 steps of one input, as snnTorch's tutorials have it."""

    def forward(self, x):
        mem1, mem2, spks = self.lif1.reset_mem(), torch.zeros(*x.shape[:-1], 4), []
        for _ in range(25):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spks.append(spk2)
        return torch.stack(spks)


class HiddenSameInput(HiddenOverTime):
    def forward(self, x):
        snn.utils.reset(self)
        for _ in range(25):
            spk = self.lif2(self.fc2(self.lif1(self.fc1(x))))
        return spk, self.lif2.mem


class NeedsTime(OverTime):
    """Of one step it can make nothing."""

    def forward(self, xs):
        if xs.dim() != 3:
            raise ValueError("expected [T, batch, features]")
        return super().forward(xs)


LOOPS = [OverTime, ByNumber, HiddenOverTime, ForeverOverTime, SameInput, HiddenSameInput, NeedsTime]


@pytest.mark.parametrize("make", LOOPS)
def test_a_net_that_holds_the_time_loop_is_refused(make):
    net = make()
    net(X)
    before = {name: face.mem for name, face in net.named_children() if isinstance(face, snn.LIF)}
    says = r"`net` takes one step; yours loops over time itself:(?s:.)*init_hidden=True(?s:.)*def forward(?s:.)*snn.run\(net, xs\)"
    with pytest.raises(TypeError, match=says + r"(?s:.)*torch.stack\(\[net\(x\) for x in xs\]\)"):
        snn.run(net, X)
    assert all(getattr(net, name).mem is mem for name, mem in before.items())
    snn.utils.reset(net)
    step, params, state = snf.functionalize(net)
    for call in (snf.scan, snf.explain):
        with pytest.raises(TypeError, match=says + r'(?s:.)*kind="loop"'):
            call(step, params, state, X)
    if make is not NeedsTime:
        assert_equal(step(params, state, X)[0], optree.tree_map(torch.Tensor.detach, copy.deepcopy(net)(X)))
        snf.scan(step, params, state, X, kind="loop")


def test_the_three_lines_that_move_it_out_give_its_answer():
    class Moved(Net):
        def __init__(self):
            super().__init__(init_hidden=True)

        def forward(self, x):
            return self.lif2(self.fc2(self.lif1(self.fc1(x))))

    old, new = OverTime(), Moved()
    new.load_state_dict(old.state_dict())
    assert torch.equal(snn.run(new, X), old(X)) and old(X).any()


class Twice(HiddenOverTime):
    def forward(self, x):
        x = self.fc1(x)
        self.lif2(self.fc2(self.lif1(x)))
        return self.lif2(self.fc2(self.lif1(x + 1)))


class SmallSteps(HiddenOverTime):
    """Three small ones in each, which is the size of the batch too."""

    def forward(self, x):
        return torch.stack([self.lif2(self.fc2(self.lif1(self.fc1(x)))) for _ in range(3)], 1)


class SmallStepsOutside(Net):
    """The state is kept, or handed on; at first it is at rest."""

    def __init__(self):
        super().__init__()
        self.mems = [torch.zeros(()), torch.zeros(())]

    def forward(self, x):
        mem1, mem2 = self.mems
        for _ in range(3):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        self.mems = [mem1, mem2]
        return spk2


class SomeForget(HiddenOverTime):
    """Small steps of a part that begins at rest, before one that remembers."""

    def forward(self, x):
        self.lif1.reset_hidden()
        rate = sum(self.lif1(self.fc1(x)) for _ in range(4))
        return self.lif2(self.fc2(rate))


class TwoStreams(Net):
    """One face for two streams, both at rest in each step, and said to be."""

    def forward(self, x):
        return self.lif1(self.fc1(x), self.lif1.reset_mem())[0] + self.lif1(self.fc1(-x), self.lif1.reset_mem())[0]


class SampleBySample(Net):
    """One sample after the other, each at rest: none hears of the one before."""

    def forward(self, x):
        return torch.stack([self.lif1(self.fc1(sample), self.lif1.reset_mem())[0] for sample in x])


class Silent(Net):
    """At its first steps nothing moves, so nothing can be told."""

    def __init__(self):
        super().__init__(init_hidden=True)
        nn.init.zeros_(self.fc1.bias), nn.init.zeros_(self.fc2.bias)

    def forward(self, x):
        return [self.lif2(self.fc2(self.lif1(self.fc1(x)))) for _ in range(3)][-1]


@pytest.mark.parametrize("make", [Twice, SmallSteps, SmallStepsOutside, SomeForget, TwoStreams, SampleBySample, Silent])
def test_a_net_that_takes_some_small_steps_is_run(make):
    net = make()
    twin = copy.deepcopy(net)
    xs = X.clone()
    if make is Silent:
        xs[:2] = 0
    expected = torch.stack([twin(x) for x in xs])
    assert torch.equal(snn.run(net, xs), expected) and expected.any()
    if make is not SmallStepsOutside:  # which remembers in an attribute
        step, params, state = snf.functionalize(make())
        assert_allclose(snf.scan(step, params, state, xs), snf.scan(step, params, state, xs, kind="loop"))


@pytest.mark.parametrize(
    "make, xs", [(HiddenSameInput, X[:1]), (HiddenOverTime, X[:, :1])], ids=["one step", "one sample"]
)
def test_what_cannot_be_told_is_the_loop(make, xs):
    net = make()
    assert_equal(snn.run(net, xs), optree.tree_map(lambda *outs: torch.stack(outs), *[net(x) for x in xs]))


def test_the_warnings_of_a_loop_are_the_users():
    """A net that is tried out is silent about it; an error of its own stays what it is."""

    class Fails(Net):
        def forward(self, x):
            raise ValueError("of my own")

    with warnings.catch_warnings(), pytest.raises(ValueError, match="^of my own$"):
        snn.run(Fails(init_hidden=True), X)


# ------------------------------------------------------------------------------------------------ what a spike is


def scaled(size):
    def step(params, state, input):
        spk, state = snf.leaky_step(params, state, input)
        return size * spk, state

    return snf.Neuron(snf.LeakyParams, snf.LeakyState, snf.leaky_init, step)


adaptive = lambda params: snf.AdaptiveThresholdParams(params, 0.95, 0.3)
MODIFIERS = {
    "refractory": (lambda neuron: snf.refractory(neuron, 2), lambda params: params),
    "immediate_reset": (snf.immediate_reset, lambda params: params),
    "adaptive_threshold": (snf.adaptive_threshold, adaptive),
    "inhibit": (snf.inhibit, lambda params: params),
    "filtered": (snf.filtered, lambda params: snf.FilteredParams(params, 0.8)),
    "refractory of immediate_reset": (
        lambda neuron: snf.refractory(snf.immediate_reset(neuron), 3),
        lambda params: params,
    ),
    "adaptive of inhibit": (lambda neuron: snf.adaptive_threshold(snf.inhibit(neuron)), adaptive),
}


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize(
    # What a graded spike costs in a reset, or adds to a threshold, is as graded as it is.
    "modifier, size",
    [(m, size) for m in MODIFIERS for size in ((-1.0,) if "immediate" in m or "adaptive" in m else (-1.0, 0.25, 2.0))],
)
@pytest.mark.parametrize("kind", ["auto", "loop"])
def test_a_negative_or_graded_spike_is_a_spike(kind, modifier, size, reset):
    """The same neuron with spikes of another size fires at the same times."""
    modify, around = MODIFIERS[modifier]
    params, xs = around(snf.LeakyParams(0.9, reset_mechanism=reset)), torch.rand(20, 3, 4)
    run = lambda neuron: snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs, kind=kind)
    spks, state = run(modify(scaled(size)))
    expected, last = run(modify(snf.leaky))
    assert torch.equal(spks, size * expected) and expected.any()
    if modifier != "filtered":  # whose state is what it puts out
        assert_equal(state, last)


def test_what_is_fed_back_is_the_spike_with_its_size():
    params, xs = snf.RecurrentParams(snf.LeakyParams(0.9), torch.tensor(0.5)), torch.rand(20, 3, 4)
    run = lambda neuron, V: snf.scan(neuron.step, p := snf.RecurrentParams(params.inner, V), neuron.init(p, xs[0]), xs)[
        0
    ]
    assert torch.equal(run(snf.recurrent(scaled(-2.0)), 0.25), -2 * run(snf.recurrent(snf.leaky), -0.5))


def test_the_size_of_a_spike_is_what_its_gradient_follows():
    """More current makes a spike more certain, and with it the reset: for a spike of -1 too, once it is there."""
    params, x = snf.LeakyParams(0.9), torch.tensor([[1.2]])
    mem = lambda neuron: lambda x: neuron.step(params, neuron.init(params, x), x)[1].mem.sum()
    slopes = [grad(mem(snf.immediate_reset(neuron)))(x) for neuron in (snf.leaky, scaled(-1.0))]
    assert_equal(*slopes)
    assert slopes[0] < 1
