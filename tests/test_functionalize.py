"""`functionalize` against the module itself: the same outputs, states and gradients; nothing touched; closed under torch.func."""

import copy
import pickle
import threading
import time

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, needs_kernels, needs_torch, stacked, sweep
from test_faces import every_layer, fields, made
from torch import nn
from torch.func import grad, jvp, vmap

import snn_functional as snf
from snn_functional import snn


X = torch.rand(6, 3, 7)
LEAKY = {"beta": 0.9, "threshold": 0.3, "init_hidden": True}


def leaky(**more):
    return snn.Leaky(**(LEAKY | more))


def dense():
    last = snn.Synaptic(0.8, 0.7, threshold=0.3, init_hidden=True, output=True, learn_alpha=True)
    return nn.Sequential(nn.Linear(7, 9), leaky(learn_beta=True), nn.Linear(9, 5), last)


def normed():
    return nn.Sequential(
        nn.Linear(7, 9), nn.BatchNorm1d(9), leaky(), nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4), leaky())
    )


def convolutional():
    return nn.Sequential(
        nn.Unflatten(1, (1, 7, 1)), nn.Conv2d(1, 4, (3, 1)), leaky(), nn.MaxPool2d((2, 1)), nn.Flatten(), nn.Linear(8, 5), leaky()
    )  # fmt: skip


class Tied(nn.Module):
    """One matrix in two places, one face called by two names, a buffer of its own."""

    def __init__(self):
        super().__init__()
        self.there, self.back = nn.Linear(7, 5, bias=False), nn.Linear(7, 5, bias=False)
        self.back.weight = self.there.weight
        self.lif, self.again = leaky(), leaky(learn_threshold=True)
        self.same = self.lif
        self.register_buffer("seen", torch.zeros(5), persistent=False)

    def forward(self, x):
        spk = self.same(self.there(x))
        self.seen = self.seen + spk.detach().sum(0)
        self.again(self.back(x)), self.seen.mul_(0.9)
        return {"spk": spk, "mem": self.again.mem * self.seen}


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.lif1, self.fc2 = nn.Linear(7, 5), leaky(), nn.Linear(5, 5)
        self.lif2 = snn.RLeaky(0.8, linear_features=5, threshold=0.3, init_hidden=True)


class Recurrent(Layers):
    """The last layer's spikes come back to the first one in the next step."""

    def forward(self, x):
        back = 0 if self.lif2.spk is None else self.lif2.spk
        return self.lif2(self.fc2(self.lif1(self.fc1(x) + back)))


class Explicit(nn.Module):
    """States in and out, and a face with a hidden one beside."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1, self.lif2 = (
            nn.Linear(7, 5),
            snn.Leaky(0.9, threshold=0.3),
            snn.Synaptic(0.9, 0.8, threshold=0.3),
        )
        self.last = leaky()

    def forward(self, x, mem, pair):
        spk, mem = self.lif1(self.fc1(x), mem)
        spk, *pair = self.lif2(spk, *pair)
        return self.last(spk), mem, tuple(pair)


NETS = {"dense": dense, "normed": normed, "convolutional": convolutional, "tied": Tied, "recurrent": Recurrent}
each_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


def loop(step, params, state, xs, **options):
    return snf.scan(step, params, state, xs, kind="loop", **options)


def by_module(net, xs):
    """The definition: the module itself, step by step."""
    outs = [net(x) for x in xs]
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *outs)


def everything(net):
    """All the tensors of a module and of its faces, with how often they were written to."""
    tensors = [*net.parameters(), *net.buffers()]
    tensors += [
        x for m in net.modules() if isinstance(m, snn.LIF) and m._hidden is not None for x in vars(m._hidden).values()
    ]
    return [(x, x.detach().clone(), x._version) for x in tensors]


def of(net):
    """What `functionalize` should find in it."""
    _, params, state = snf.functionalize(net)
    return params, state


def summed(outs):
    """A mixture of all that is returned, the same for the same shapes."""
    mixed = lambda x: (x * torch.linspace(-1, 2, x.numel()).view(x.shape).to(x.dtype)).sum()
    return sum(mixed(x) for x in optree.tree_leaves(outs))


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_every_face_is_its_step(which, training):
    layer, xs = made(which, init_hidden=True, output=True, learn_threshold=True)
    step, params, state = snf.functionalize(nn.Sequential(nn.Identity(), layer).train(training))
    names = [f"1.{name}" for name in fields(layer)]
    assert all(not state[name].dim() and not state[name] for name in names) and list(state)[-len(names) :] == names
    outs, last = loop(step, params, state, xs)
    expected = by_module(layer, xs)
    assert outs[0].any()
    assert_equal(outs, expected)
    assert_equal(
        [last[f"1.{name}"] for name in fields(layer)], [getattr(layer, name).detach() for name in fields(layer)]
    )

    summed(expected).backward()
    found = grad(lambda params: summed(loop(step, params, state, xs)[0]))(params)
    for name, p in layer.named_parameters():
        torch.testing.assert_close(found[f"1.{name}"], p.grad)


@every_layer
def test_every_face_with_its_states_outside(which):
    layer, xs = made(which)
    zeros = layer.reset_mem()
    step, params, state = snf.functionalize(layer, *(zeros if isinstance(zeros, tuple) else (zeros,)))
    assert list(state)[-len(fields(layer)) :] == list(fields(layer))
    outs, last = loop(step, params, state, xs)
    hidden, _ = made(which, init_hidden=True)
    assert_equal(outs, by_module(hidden, xs).detach())
    assert_equal([last[name] for name in fields(layer)], [getattr(hidden, name).detach() for name in fields(layer)])


def test_delta_leaky_whose_states_are_a_pair():
    zeros = torch.zeros(()), torch.zeros(())
    step, params, state = snf.functionalize(snn.DeltaLeaky(0.1, beta=0.9), zeros)
    (spks, last), hidden = loop(step, params, state, X), snn.DeltaLeaky(0.1, beta=0.9, init_hidden=True, output=False)
    assert_equal(spks, by_module(hidden, X))
    assert_equal(last["mem"], (hidden.mem, hidden.mem_prev))
    outs, last = loop(*snf.functionalize(hidden), X)
    assert_equal(outs, by_module(hidden, X))


@each_net
@pytest.mark.parametrize("training", [True, False])
def test_networks_go_on_from_the_middle(net, training):
    """Outputs, states and running statistics, and the gradients of the second half."""
    net = net().train(training)
    by_module(net, X)
    [m.detach_hidden() for m in net.modules() if isinstance(m, snn.LIF)]
    step, params, state = snf.functionalize(net)
    for _ in range(2):
        outs, last = loop(step, params, state, X)  # pure: twice the same
    expected = by_module(net, X)
    assert_equal(outs, optree.tree_map(torch.Tensor.detach, expected))
    assert_equal((params, last), of(net))
    summed(expected).backward()
    found = grad(lambda params: summed(loop(step, params, state, X)[0]))(params)
    for name, p in net.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-5, atol=1e-6)


@each_net
def test_nothing_is_touched(net):
    net = net().train()
    net(X[0])
    before = everything(net)
    step, params, state = snf.functionalize(net)
    given = optree.tree_map(torch.clone, (params, state))
    private = {m: dict(vars(m)) for m in step._module.modules()}
    step(params, state, X[1])
    vmap(grad(lambda p, x: summed(step(p, state, x)[0])), in_dims=(None, 0))(params, X)
    with pytest.raises(RuntimeError):
        step(params, state, X[0, :, :2])
    assert_equal((params, state), given)
    assert all(torch.equal(x, old) and x._version == version for x, old, version in before)
    for m, held in private.items():
        assert vars(m).keys() == held.keys() and all(x is held[key] for key, x in vars(m).items())
    assert not any(m._hidden for m in step._module.modules() if isinstance(m, snn.LIF))
    assert all(isinstance(p, nn.Parameter) for p in step._module.parameters())
    shared = {x.data_ptr() for x in (*net.parameters(), *net.buffers())}
    assert not shared & {x.data_ptr() for x in optree.tree_leaves((params, state)) if x.numel()}


@each_net
def test_there_and_back(net):
    """Into another module of its kind: bit for bit, and both go on alike."""
    first, second = net(), net()
    by_module(first, X)
    snf.defunctionalize(second, *of(first))
    assert_equal(of(second), of(first))
    assert_equal({**first.state_dict()}, {**second.state_dict()})
    assert_equal(*(optree.tree_map(torch.Tensor.detach, by_module(n, X)) for n in (second, first)))
    snn.utils.reset(first)
    snf.defunctionalize(second, *of(first))
    assert all(m.mem is None for m in second.modules() if isinstance(m, snn.LIF))


def test_the_names_are_those_of_state_dict(tmp_path):
    net = normed()
    net(X[0])
    params, state = of(net)
    saved = snn.utils.state_dict(net)
    assert {**params, **state}.keys() == {name for name in saved if not name.endswith("reset_mechanism_val")}
    assert params.keys() == dict(net.named_parameters()).keys()
    torch.save({**params, **state}, tmp_path / "net.pt")
    twin = normed()
    twin.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert_equal(of(twin), (params, state))
    assert_equal(twin(X[1]), net(X[1]))


def test_shared_and_hidden_by_name():
    params, state = of(Tied())
    assert sorted(params) == ["again.threshold", "there.weight"]
    assert {"seen", "lif.mem", "again.mem", "lif.beta"} < set(state) and not any(k.startswith("same") for k in state)


def test_explicit_states_beside_hidden_ones():
    net, zero = Explicit(), torch.zeros(())
    step, params, state = snf.functionalize(net, torch.zeros(3, 5), (zero, zero))
    assert list(state)[-3:] == ["last.mem", "mem", "pair"]
    outs, last = loop(step, params, state, X)
    mem, pair, expected = torch.zeros(3, 5), (zero, zero), []
    for x in X:
        spk, mem, pair = net(x, mem, pair)
        expected.append(spk)
    assert_equal(outs, torch.stack(expected).detach())
    assert_equal(
        (last["mem"], last["pair"], last["last.mem"]), optree.tree_map(torch.Tensor.detach, (mem, pair, net.last.mem))
    )
    snf.defunctionalize(net, params, last)  # what forward is given is not the module's
    assert torch.equal(net.last.mem, last["last.mem"])


def test_a_forward_with_any_number_of_states_and_of_outputs():
    class Net(nn.Module):
        def forward(self, x, *mems):
            mems = [0.9 * mem + x for mem in mems]
            return x, mems[0], *mems

    step, params, state = snf.functionalize(Net(), torch.zeros(()), torch.ones(()))
    assert params == {} and list(state) == ["mems.0", "mems.1"]
    (x, mem), last = loop(step, params, state, X)
    assert (
        torch.equal(x, X) and torch.equal(mem[-1], last["mems.0"]) and not torch.equal(last["mems.0"], last["mems.1"])
    )
    snf.defunctionalize(Net(), params, last)


@each_net
def test_per_sample_gradients_are_the_loop_over_samples(net):
    step, params, state = snf.functionalize(net().eval())
    loss = lambda params, xs: summed(loop(step, params, state, xs)[0])
    each = vmap(grad(loss), in_dims=(None, 1))(params, X[:, :, None])
    for b in range(3):
        one = grad(loss)(params, X[:, b : b + 1])
        assert_allclose(optree.tree_map(lambda g, b=b: g[b], each), one, rtol=1e-4, atol=1e-5)


@each_net
@pytest.mark.parametrize("training", [True, False])
def test_vmap_over_weights_over_streams_and_over_both(net, training):
    nets = [net().train(training) for _ in range(2)]
    for n in nets:
        by_module(n, X[:2])
    step = snf.functionalize(nets[0])[0]
    params, states = zip(*map(of, nets))
    run = lambda params, state, xs: loop(step, params, state, xs)
    xs = torch.stack([X, X.flip(0)])
    alone = lambda p, s, x: [run(params[p * i], states[s * i], xs[x * i]) for i in range(2)]
    for p, s, x in [(1, 0, 0), (0, 1, 1), (0, 0, 1), (1, 1, 1)]:
        given = [stacked(t) if moves else t[0] for t, moves in ((params, p), (states, s), (xs, x))]
        dims = tuple(0 if moves else None for moves in (p, s, x))
        assert_allclose(vmap(run, in_dims=dims)(*given), stacked(alone(p, s, x)), rtol=1e-4, atol=1e-5)
    nested = vmap(vmap(run, in_dims=(None, 0, 0)), in_dims=(0, None, None))(stacked(params), stacked(states), xs)
    for i in range(2):
        member = optree.tree_map(lambda leaf, i=i: leaf[i], nested)
        assert_allclose(member, stacked([run(params[i], states[j], xs[j]) for j in range(2)]), rtol=1e-4, atol=1e-5)


@each_net
def test_forward_mode_and_second_derivatives(net):
    step, params, state = snf.functionalize(net().double().train())
    xs = X.double()
    loss = lambda params: summed(loop(step, params, state, xs)[0])
    direction = optree.tree_map(torch.randn_like, params)
    gradient, curved = jvp(grad(loss), (params,), (direction,))
    value, slope = jvp(loss, (params,), (direction,))
    dotted = lambda a, b: sum((a[k] * b[k]).sum() for k in a)
    torch.testing.assert_close(slope, dotted(gradient, direction))
    assert_allclose(curved, grad(lambda p: dotted(grad(loss)(p), direction))(params), rtol=1e-7, atol=1e-9)


@each_net
def test_training_by_torch_func_is_training_the_module(net):
    net = net()
    twin = copy.deepcopy(net)
    step, params, state = snf.functionalize(net)
    for _ in range(3):
        gradient, state = grad(lambda p, s: (lambda o: (summed(o[0]), o[1]))(loop(step, p, s, X)), has_aux=True)(
            params, state
        )
        params = {name: p - 0.01 * gradient[name] for name, p in params.items()}
        twin.zero_grad()
        summed(by_module(twin, X)).backward()
        torch.optim.SGD(twin.parameters(), 0.01).step()
        [m.detach_hidden() for m in twin.modules() if isinstance(m, snn.LIF)]
    snf.defunctionalize(net, params, state)
    assert_allclose(of(net), of(twin), rtol=1e-4, atol=1e-5)


def test_checkpointed():
    net = normed()
    step, params, state = snf.functionalize(net)
    loss = lambda params, kind: summed(snf.scan(step, params, state, X, kind=kind))
    found, expected = (grad(loss)(params, kind) for kind in ("checkpointed", "loop"))
    assert_allclose(found, expected)


def test_dropout_draws_from_torchs_generator():
    net = nn.Sequential(nn.Dropout(0.5), leaky())
    step, params, state = snf.functionalize(net)
    torch.manual_seed(3)
    outs, _ = loop(step, params, state, X)
    torch.manual_seed(3)
    assert torch.equal(outs, by_module(net, X))
    each, _ = vmap(lambda x: step(params, state, x), randomness="different")(torch.ones(20, 3, 7))
    assert len({tuple(x.flatten().tolist()) for x in each}) > 10
    quiet = snf.functionalize(net.eval())[0]
    assert torch.equal(quiet(params, state, X[0])[0], quiet(params, state, X[0])[0])


def test_a_step_is_a_value_that_travels():
    net = Recurrent()
    step, params, state = snf.functionalize(net)
    expected = loop(step, params, state, X)
    for twin in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
        assert twin != step and step == step and {step: 1}[step]
        assert_equal(loop(twin, params, state, X), expected)


def test_threads_take_turns():
    step, params, state = snf.functionalize(dense())
    expected = [loop(step, params, state, X + i) for i in range(4)]
    found = [None] * 4

    def work(i):
        found[i] = loop(step, params, state, X + i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert_equal(found, expected)


FORWARD = ["dense", "normed", "convolutional"]  # those that feed forward


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("training", [True, False])
def test_over_time_it_runs_layer_by_layer(name, training):
    # In float64: the gradient of a bias in front of a normalisation is 0, that is, what rounding leaves of large numbers.
    step, params, state = snf.functionalize(NETS[name]().double().train(training))
    xs = X.double()
    assert snf.explain(step, params, state, xs).kind == "staged"
    over = lambda params, state, xs: snf.scan(step, params, state, xs)
    slow = lambda params, state, xs: loop(step, params, state, xs)
    close = {"rtol": 1e-4, "atol": 1e-5}
    assert_allclose(over(params, state, xs), slow(params, state, xs), **close)
    middle = slow(params, state, xs)[1]
    losses = [lambda *args, f=f: summed(f(*args)) for f in (over, slow)]
    assert_allclose(*(grad(loss, argnums=(0, 2))(params, middle, xs) for loss in losses), **close)
    if not training or name != "normed":
        each = [vmap(grad(loss), in_dims=(None, None, 1))(params, state, xs[:, :, None]) for loss in losses]
        assert_allclose(*each, **close)
    many = stacked([params, optree.tree_map(lambda p: 1.1 * p, params)])
    for dims, given in [
        ((0, None, None), (many, state, xs)),
        ((0, None, 0), (many, state, torch.stack([xs, xs.flip(0)]))),
    ]:
        assert_allclose(*(vmap(f, in_dims=dims)(*given) for f in (over, slow)), **close)
        assert_allclose(*(vmap(grad(loss), in_dims=dims)(*given) for loss in losses), **close)
    moved = [
        jvp(lambda p, f=f: f(p, state, xs), (params,), (optree.tree_map(torch.ones_like, params),))
        for f in (over, slow)
    ]
    assert_allclose(*moved, **close)


class Branch(Layers):
    """A forward nobody knows, that feeds forward."""

    def forward(self, x):
        spk = self.lif1(self.fc1(x))
        return self.lif2(self.fc2(spk) + spk)


@needs_torch("2.4", "before, nothing can be tried out beside a transform, and every scan is a loop")
@pytest.mark.parametrize("transform", ["plain", "grad", "vmap"])
def test_a_first_scan_under_a_transform(transform):
    step, params, state = snf.functionalize(Branch())
    wrap = {"plain": lambda f: f, "grad": grad, "vmap": lambda f: vmap(f, in_dims=(None, 1))}[transform]
    xs = X[:, :, None] if transform == "vmap" else X
    over, slow = (lambda p, xs, k=k: snf.scan(step, p, state, xs, kind=k)[0].sum() for k in ("auto", "loop"))
    assert_allclose(wrap(over)(params, xs), wrap(slow)(params, xs), rtol=1e-4, atol=1e-5)


class Outside(nn.Module):
    """A face whose state is at rest at each step, and said to be."""

    def __init__(self):
        super().__init__()
        self.fc, self.lif = nn.Linear(7, 5), snn.Leaky(0.9)

    def forward(self, x):
        return self.lif(self.fc(x), self.lif.reset_mem())


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = dense()

    def forward(self, pair):
        return self.net(pair[0] + pair[1])


@needs_kernels
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "net, xs, how",
    [
        (Recurrent(), X, "staged"),  # its first product is; from the last layer to the first all is one component
        (Two(), (X, X), "staged"),
        (Outside(), X, "staged"),
        (dense(), X, "staged"),
    ],
)
def test_any_module_runs_as_it_can(net, xs, how, reverse):
    step, params, state = snf.functionalize(net)
    assert snf.explain(step, params, state, xs).kind == how
    fast, slow = (snf.scan(step, params, state, xs, kind=kind, reverse=reverse) for kind in ("auto", "loop"))
    assert_allclose(fast, slow)


@needs_kernels
def test_a_pointwise_module_with_its_states_outside_is_one_kernel():
    step, params, state = snf.functionalize(snn.Leaky(0.9, threshold=0.3), torch.zeros(()))
    assert (
        snf.explain(step, params, state, X) == "fused: functionalize(Leaky) is pointwise, one kernel for all 6 steps."
    )
    assert_equal(snf.scan(step, params, state, X), loop(step, params, state, X))
    step, params, state = snf.functionalize(Explicit(), torch.zeros(()), (torch.zeros(()), torch.zeros(())))
    assert snf.explain(step, params, state, X).kind == "staged"


@needs_torch("2.10", "torch.compile reads optree")
@sweep("name", ["dense", "normed", "recurrent"], of=("recurrent",))
def test_compiled(name):
    step, params, state = snf.functionalize(NETS[name]().train())
    state = step(params, state, X[0])[1]
    torch.compiler.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert_allclose(compiled(params, state, X[1]), step(params, state, X[1]))
    expected = step(params, state, X[2])
    assert_allclose(compiled(params, state, X[2]), expected)
    assert all(m._hidden is None for m in step._module.modules() if isinstance(m, snn.LIF))


class Remembers(Layers):
    def forward(self, x):
        spk = self.lif1(self.fc1(x))
        self.before = spk.detach()
        return spk


class InLazyBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mem", None)

    def forward(self, x):
        self.mem = x if self.mem is None else 0.5 * self.mem + x
        return self.mem


class InNewBuffer(nn.Module):
    def forward(self, x):
        if not hasattr(self, "mem"):
            self.register_buffer("mem", torch.zeros_like(x))
        self.mem = 0.5 * self.mem + x
        return self.mem


class InContainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.mem = ({"last": [0.0]},)

    def forward(self, x):
        self.mem[0]["last"][0] = 0.5 * self.mem[0]["last"][0] + x
        return self.mem[0]["last"][0]


class Box:
    last = 0.0


class InObject(nn.Module):
    def __init__(self):
        super().__init__()
        self.mem = Box()

    def forward(self, x):
        self.mem.last = 0.5 * self.mem.last + x
        return self.mem.last


class InTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.mem = torch.zeros(7)

    def forward(self, x):
        self.mem.mul_(0.5).add_(x[0])
        return self.mem.clone()


class InFace(snn.Leaky):
    def forward(self, input_):
        self.mem_before = self.__dict__.get("mem_before", 0.0) * 0.5 + input_
        return super().forward(self.mem_before)


@pytest.mark.parametrize(
    "make",
    [InLazyBuffer, InNewBuffer, InContainer, InObject, InTensor, lambda: InFace(0.9, init_hidden=True)],
)
def test_a_memory_is_refused_and_put_back(make):
    net = make()
    step, params, state = snf.functionalize(net)
    for _ in range(2):
        with pytest.raises(TypeError, match=rf"keeps something in {type(net).__name__}.mem.*A pure step remembers"):
            step(params, state, X[0])
    assert torch.equal(net(X[0]), make()(X[0]))  # nor has the module that was given seen anything
    assert torch.equal(step._module(X[0]), make()(X[0]))


class CountingFace(snn.Leaky):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, input_):
        self.count += 1
        return super().forward(input_)


def test_a_face_with_a_buffer_of_its_own():
    net = CountingFace(0.9, init_hidden=True)
    step, params, state = snf.functionalize(net)
    _, once = step(params, state, X[0])
    _, twice = step(params, once, X[0])
    assert [float(s["count"]) for s in (state, once, twice)] == [0, 1, 2]
    assert float(snf.scan(step, params, state, X)[1]["count"]) == len(X)


class Alias(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 7)
        self.register_buffer("alias", self.fc.weight)

    def forward(self, x):
        return self.fc(x)


def test_a_parameter_that_is_a_buffer_too_is_a_parameter():
    net = Alias()
    step, params, state = snf.functionalize(net)
    assert sorted(params) == ["fc.bias", "fc.weight"] and not state
    assert torch.func.grad(lambda p: step(p, state, X[0])[0].sum())(params)["fc.weight"].any()
    snf.defunctionalize(net, params, state)


class WritesItsWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 7)

    def forward(self, x):
        with torch.no_grad():
            self.fc.weight.clamp_(-0.1, 0.1)
        return self.fc(x)


class InClosure(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 7)
        self.block = lambda x: self.fc(x)

    def forward(self, x):
        return self.block(x)


@needs_kernels
def test_a_kernel_that_is_built_in_a_turn_of_the_step():
    """One thread reads the step for its kernel, the other builds one within the step."""

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif = snn.Leaky(0.51)

        def forward(self, x, mem):
            time.sleep(0.05)
            return self.lif(x, mem)

    step, params, state = snf.functionalize(Slow(), torch.zeros(()))
    calls = (
        lambda: snf.scan(step, params, state, torch.rand(4, 2, 3)),
        lambda: step(params, state, torch.rand(2, 5000)),
    )
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


class Clash(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mem", torch.zeros(3))

    def forward(self, x, mem):
        return x, mem


def renamed(net, **more):
    step, params, state = snf.functionalize(net)
    return lambda: step(params, {**state, **more}, X[0])


def with_mem(mem):
    return written(lambda p, s: (p, {name: mem if name.endswith("mem") else x for name, x in s.items()}))


def written(change):
    net = dense()
    params, state = of(net)
    return lambda: snf.defunctionalize(net, *change(params, state))


BAD = {
    "a step": (
        lambda: snf.functionalize(snf.leaky_step),
        TypeError,
        r"an nn.Module, not function. .*scan\(neuron.step",
    ),
    "a sequence": (
        lambda: snf.functionalize(snn.LeakyParallel(7, 5)),
        TypeError,
        "LeakyParallel takes whole sequences.*functional_call",
    ),
    "no states": (
        lambda: snf.functionalize(snn.Leaky(0.9)),
        TypeError,
        r"functionalize\(module, mem\); a membrane at rest is torch.zeros\(\(\)\). Or make the face with init_hidden",
    ),
    "too few": (lambda: snf.functionalize(Explicit(), X[0]), TypeError, r"takes \(x, mem, pair\), but 1 states came"),
    "too many": (lambda: snf.functionalize(dense(), X[0]), TypeError, r"takes \(x\), but 1 states came"),
    "hidden and given": (lambda: snf.functionalize(leaky(), X[0]), TypeError, "but 1 states came"),
    "no tensor": (
        lambda: snf.functionalize(snn.Leaky(0.9), None),
        TypeError,
        r"state 0 holds None. At rest it is torch.zeros\(\(\)\)",
    ),
    "a number": (lambda: snf.functionalize(snn.Leaky(0.9), 0.0), TypeError, "state 0 holds 0.0"),
    "one name for two": (
        lambda: snf.functionalize(Clash(), X[0]),
        ValueError,
        "mem names an argument of forward and a tensor",
    ),
    "a memory": (renamed(Remembers()), TypeError, r"keeps something in Remembers.before.*register_buffer"),
    "a closure": (
        lambda: snf.functionalize(InClosure()),
        TypeError,
        "InClosure.block is a function that holds a InClosure",
    ),
    "weights written to": (renamed(WritesItsWeights()), ValueError, "changed its arguments in place"),
    "a state of integers": (
        with_mem(torch.zeros((), dtype=torch.int64)),
        TypeError,
        "mem is a floating tensor, but torch.int64 came",
    ),
    "a state that is a number": (with_mem(0.5), TypeError, "mem is a floating tensor, but float came"),
    "an unknown name": (renamed(dense(), extra=X), ValueError, "state has the unknown extra. Expected the names"),
    "no dict": (
        lambda: renamed(dense())() and snf.functionalize(dense())[0]((), {}, X[0]),
        TypeError,
        "params is a dictionary",
    ),
    "no new state": (
        lambda: (lambda s, p, q: s(p, q, X[0]))(*snf.functionalize(Quiet(), torch.zeros(()))),
        TypeError,
        r"takes 1 states and returned Tensor; expected \(out, mem\)",
    ),
    "lost": (
        written(lambda p, s: ({k: x for k, x in p.items() if k != "0.bias"}, s)),
        ValueError,
        "params lacks 0.bias",
    ),
    "more": (written(lambda p, s: (p, {**s, "4.mem": X})), ValueError, "state has the unknown 4.mem"),
    "lost and more": (
        written(lambda p, s: ({k + "s" if k == "0.bias" else k: x for k, x in p.items()}, s)),
        ValueError,
        "lacks 0.bias and has the unknown 0.biass",
    ),
    "an ensemble": (
        written(lambda p, s: (stacked([p, p]), s)),
        ValueError,
        r"\(2, 9, 7\), but the module's is torch.float32 \(9, 7\)\. Of an ensemble write one member",
    ),
    "float64": (written(lambda p, s: ({k: x.double() for k, x in p.items()}, s)), ValueError, "is torch.float64"),
    "no module": (lambda: snf.defunctionalize(snf.leaky, {}, {}), TypeError, "an nn.Module, not Neuron"),
}


class Quiet(nn.Module):
    def forward(self, x, mem):
        return x + mem


@pytest.mark.parametrize("bad", BAD)
def test_bad_input(bad):
    call, error, says = BAD[bad]
    with pytest.raises(error, match=says):
        call()


def test_a_refused_write_writes_nothing():
    net = dense()
    params, state = of(net)
    changed = {k: x + 1 for k, x in params.items()} | {"2.bias": torch.zeros(9)}
    with pytest.raises(ValueError, match="2.bias"):
        snf.defunctionalize(net, changed, state)
    assert_equal(of(net), (params, state))
