"""Chains: the loop is the definition, and layer by layer gives what it gives."""

import copy
import functools
import pickle

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, law, needs_kernels
from hypothesis import given, strategies as st
from torch.func import grad, jvp, vmap

import snn_functional as snf
from snn_functional import _scan
from snn_functional.kernels import Node


def steep(u):
    return torch.sigmoid(4 * u)


DENSE = snf.chain(snf.linear, snf.leaky, snf.linear, snf.synaptic)
CONV = snf.chain(
    snf.conv2d,
    snf.max_pool2d(2),
    snf.leaky,
    snf.avg_pool2d(2),
    torch.relu,
    snf.flatten,
    snf.linear,
    snf.leaky_integrator,
)
NESTED = snf.chain(snf.chain(snf.linear, snf.leaky), snf.chain(snf.linear), torch.tanh, snf.chain(snf.leaky))


def _dense(dtype, spike_grad):
    params = (
        snf.Linear.random(5, 7, dtype=dtype),
        snf.LeakyParams(beta=torch.full((7,), 0.9, dtype=dtype), threshold=0.3, spike_grad=spike_grad),
        snf.Linear.random(7, 3, dtype=dtype, bias=False),
        snf.SynapticParams(0.8, 0.7, threshold=0.2, spike_grad=spike_grad),
    )
    return DENSE, params, (5,)


def _conv(dtype, spike_grad):
    params = (
        snf.Conv2d.random(2, 3, 3, padding=0, dtype=dtype),
        (),
        snf.LeakyParams(0.9, threshold=0.2, spike_grad=spike_grad),
        (),
        (),
        (),
        snf.Linear.random(12, 2, dtype=dtype),
        snf.LeakyIntegratorParams(0.9),
    )
    return CONV, params, (2, 10, 10)


def _nested(dtype, spike_grad):
    leaky = functools.partial(snf.LeakyParams, 0.9, 0.3, spike_grad)
    params = ((snf.Linear.random(4, 6, dtype=dtype), leaky()), (snf.Linear.random(6, 2, dtype=dtype),), (), (leaky(),))
    return NESTED, params, (4,)


def _recurrent(dtype, spike_grad):
    net = snf.chain(snf.linear, snf.rleaky, snf.linear, snf.leaky)
    params = (
        snf.Linear.random(4, 6, dtype=dtype),
        snf.RLeakyParams(0.9, snf.Linear.random(6, 6, dtype=dtype), 0.3, spike_grad),
        snf.Linear.random(6, 2, dtype=dtype),
        snf.LeakyParams(0.9, 0.3, spike_grad),
    )
    return net, params, (4,)


each_net = pytest.mark.parametrize("make", [_dense, _conv, _nested, _recurrent])


def world(make, T=5, batch=3, dtype=torch.float32, spike_grad=None):
    net, params, size = make(dtype, spike_grad or snf.surrogate.ATan())
    xs = torch.rand(T, batch, *size, dtype=dtype)
    state = optree.tree_map(lambda x: torch.rand_like(x) / 2, net.init(params, xs[0]))
    return net.step, params, state, xs


@each_net
@law
@given(T=st.integers(1, 9), batch=st.integers(1, 3), reverse=st.booleans(), seed=st.integers(0, 99))
def test_layer_by_layer_is_the_loop(make, T, batch, reverse, seed):
    torch.manual_seed(seed)
    args = world(make, T, batch, torch.float64)
    fast, slow = (snf.scan(*args, kind=kind, reverse=reverse) for kind in ("auto", "loop"))
    assert_allclose(fast, slow)
    assert_equal(fast[0] > 0, slow[0] > 0)


@each_net
def test_gradients_are_the_loops(make):
    step, params, state, xs = world(make, dtype=torch.float64)
    weights = [torch.randn_like(x) for x in optree.tree_leaves(snf.scan(step, params, state, xs))]

    def loss(params, state, xs, kind):
        results = optree.tree_leaves(snf.scan(step, params, state, xs, kind=kind))
        return sum((w * x).sum() for w, x in zip(weights, results))

    derivative = grad(loss, argnums=(0, 1, 2))
    assert_allclose(derivative(params, state, xs, "auto"), derivative(params, state, xs, "loop"))


@each_net
def test_gradcheck(make):
    step, params, state, xs = world(make, T=3, batch=2, dtype=torch.float64, spike_grad=steep)
    leaves, tree = optree.tree_flatten((params, state, xs))

    def run(*leaves):
        return tuple(optree.tree_leaves(snf.scan(step, *optree.tree_unflatten(tree, leaves))))

    tracked = [x.double().detach().requires_grad_() for x in leaves]
    assert torch.autograd.gradcheck(run, tracked, fast_mode=True, check_forward_ad=True)


@each_net
def test_transforms_are_the_loops(make):
    """A sample by itself, forward mode, and a population of networks."""
    net, params, _ = make(torch.float64, snf.surrogate.ATan())
    _, _, _, xs = world(make, dtype=torch.float64)

    def out(params, x, kind):
        return snf.scan(net.step, params, net.init(params, x[0]), x, kind=kind)[0].sum()

    def all_of(kind):
        many = optree.tree_map(lambda x: torch.stack([x, 1.1 * x, 0.9 * x]), params)
        tangent = optree.tree_map(torch.ones_like, params)
        return (
            vmap(grad(out), in_dims=(None, 1, None))(params, xs, kind),
            vmap(grad(out), in_dims=(0, None, None))(many, xs, kind),
            jvp(lambda p: out(p, xs, kind), (params,), (tangent,)),
            jvp(grad(lambda p: out(p, xs, kind)), (params,), (tangent,)) if make is _nested else (),
        )

    assert_allclose(all_of("auto"), all_of("loop"))


def test_a_sample_of_a_population_is_that_sample():
    step, params, _, xs = world(_dense)
    rate = lambda p, x: snf.scan(step, p, DENSE.init(p, x[0]), x)[0].mean()
    each = vmap(grad(rate), in_dims=(None, 1))(params, xs)
    for i in range(3):
        assert_allclose(optree.tree_map(lambda x, i=i: x[i], each), grad(rate)(params, xs[:, i]))


@law
@given(cut=st.integers(1, 8))
def test_long_sequences_run_in_pieces(cut):
    args = world(_dense, T=9, dtype=torch.float64)
    stages = _scan._stages
    before, stages.ROWS, stages.NUMBERS = (stages.ROWS, stages.NUMBERS), 3 * cut, 1
    try:
        for reverse in (False, True):
            assert_allclose(snf.scan(*args, reverse=reverse), snf.scan(*args, reverse=reverse, kind="loop"))
    finally:
        stages.ROWS, stages.NUMBERS = before


@needs_kernels
def test_a_constant_input_is_multiplied_once(monkeypatch):
    shapes, mm = [], Node.perform
    monkeypatch.setattr(
        Node, "perform", lambda node, *args: (x := mm(node, *args), shapes.append((node.name, tuple(x.shape))))[0]
    )
    net = snf.chain(snf.linear, snf.leaky)
    params, x = (snf.Linear.random(4, 5, bias=False), snf.LeakyParams(0.9)), torch.rand(3, 4)
    state = net.init(params, x)
    fast = snf.scan(net.step, params, state, x.expand(6, 3, 4))
    assert [shape for name, shape in shapes if name == "mm"] == [(3, 5)]
    assert_allclose(fast, snf.scan(net.step, params, state, x.expand(6, 3, 4), kind="loop"))


@pytest.mark.parametrize("generator", [False, True])
def test_what_is_drawn_is_drawn_at_each_step(generator):
    """Rate coding within a network, of an image that is constant in time."""
    drawn = torch.Generator().manual_seed(1) if generator else None
    net = snf.chain(lambda x: torch.bernoulli(x, generator=drawn), snf.linear, snf.leaky)
    params, xs = (
        ((), snf.Linear(torch.eye(500)), snf.LeakyParams(0.0, 0.5, reset_mechanism="none")),
        torch.full((500,), 0.5).expand(20, 500),
    )
    spks, _ = snf.scan(net.step, params, net.init(params, xs[0]), xs)
    assert 0.4 < spks.mean() < 0.6 and 0.4 < (spks[1:] != spks[:-1]).float().mean() < 0.6


def test_what_vmap_cannot_follow_runs_step_by_step():
    net = snf.chain(lambda x: x if x.sum() > 6 else -x, snf.leaky)
    params, xs = ((), snf.LeakyParams(0.9)), torch.rand(8, 3, 4)
    state = net.init(params, xs[0])
    assert_equal(snf.scan(net.step, params, state, xs), snf.scan(net.step, params, state, xs, kind="loop"))


@needs_kernels
def test_what_looks_back_is_no_chain_and_one_kernel():
    net = snf.chain(snf.linear, snf.leaky)

    def fed_back(params, state, x):
        spk, inner = net.step(params, state[0], x + state[1])
        return spk, (inner, spk)

    params, xs = (snf.Linear.random(4, 4), snf.LeakyParams(0.9)), torch.rand(6, 2, 4)
    state = (net.init(params, xs[0]), torch.zeros(2, 4))
    assert [part.how for part in snf.explain(fed_back, params, state, xs).stages] == ["kernel"]
    assert_allclose(snf.scan(fed_back, params, state, xs), snf.scan(fed_back, params, state, xs, kind="loop"))


@needs_kernels
def test_explain_shows_the_plan():
    step, params, state, xs = world(_recurrent)
    plan = snf.explain(step, params, state, xs)
    assert plan.splitlines()[0] == f"layer by layer, 5 steps of {step!r}:" and plan.kind == "staged"
    assert [part.how for part in plan.stages] == ["once", "kernel", "once", "kernel"]
    assert plan.stages[0].operations[0].startswith("addmm") and plan.stages[3].states == ("state[3].mem",)


def test_the_last_state_goes_on():
    step, params, state, xs = world(_conv, T=7, dtype=torch.float64)
    whole, end = snf.scan(step, params, state, xs)
    first, middle = snf.scan(step, params, state, xs[:3])
    second, last = snf.scan(step, params, middle, xs[3:])
    assert_allclose((torch.cat([first, second]), last), (whole, end))


def test_a_chain_is_a_value():
    assert DENSE.step == snf.chain(snf.linear, snf.leaky, snf.linear, snf.synaptic).step != NESTED.step
    for twin in (pickle.loads(pickle.dumps(CONV.step)), copy.deepcopy(CONV.step)):
        assert twin == CONV.step


@pytest.mark.parametrize("module", [torch.nn.Flatten(), torch.nn.MaxPool2d(2)])
def test_a_module_without_parameters_is_a_function(module):
    net = snf.chain(module)
    xs = torch.rand(3, 2, 1, 4, 4)
    outputs, _ = snf.scan(net.step, ((),), ((),), xs)
    assert_equal(outputs, torch.stack([module(x) for x in xs]))


@pytest.mark.parametrize(
    "layer, message",
    [
        (snf.leaky_step, "a layer with parameters is a bundle"),
        (snf.Linear(torch.eye(2)), "a tree belongs into params"),
        (snf.LeakyParams, "a tree belongs into params"),
        (torch.nn.Linear(2, 2), r"layer\(module\) makes"),
        (3, "a Neuron, such as leaky, or a function"),
    ],
)
def test_what_is_no_layer_is_refused(layer, message):
    with pytest.raises(TypeError, match=message):
        snf.chain(snf.linear, layer)


def test_bad_trees_are_refused():
    step, params, state, xs = world(_dense)
    for kind in ("auto", "loop"):
        with pytest.raises(TypeError, match="params is a tuple with an entry for each of 4 layers.*but 3 came"):
            snf.scan(step, params[:3], state, xs, kind=kind)
        with pytest.raises(TypeError, match="state is a tuple .* a LeakyState came"):
            snf.scan(step, params, state[1], xs, kind=kind)
        with pytest.raises(ValueError, match=r"Linear\(weight \(7, 5\)\) takes \[..., in\] with in = 5"):
            snf.scan(step, params, state, xs[..., :3], kind=kind)
    eye, leak, x = snf.Linear(torch.eye(7)), snf.LeakyParams(0.9), xs[0]
    with pytest.raises(TypeError, match=r"params\[0\] is a tree of Linear, but a LeakyParams came"):
        snf.chain(snf.linear, snf.leaky).init((leak, eye), x)
    with pytest.raises(TypeError, match=r"params\[1\] is a tree of RecurrentParams, but a LeakyParams came"):
        snf.chain(snf.linear, snf.recurrent(snf.leaky)).init((eye, leak), x)
    with pytest.raises(TypeError, match=r"Linear: the input is one tensor, not tuple"):
        snf.chain(snf.record(snf.leaky), snf.linear).init((leak, eye), x)
    with pytest.raises(TypeError, match="at least one layer"):
        snf.chain()
    with pytest.raises(ValueError, match="changed its arguments in place"):
        snf.scan(snf.chain(lambda x: x.mul_(2)).step, ((),), ((),), xs)
    with pytest.raises(ValueError, match=r"flatten\(x \(2, 3\), axes=3\)"):
        snf.flatten(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="channels, height, width"):
        snf.max_pool2d(2)(torch.zeros(2, 3))


ONE, TWO = (snf.Conv2d.random(n, 2, 3) for n in (1, 2))
OF_784 = snf.Linear.random(784, 10)


@pytest.mark.parametrize(
    "layer, params, shape, says",
    [
        (
            snf.conv2d,
            ONE,
            (5, 28, 28),
            r"\(5, 28, 28\) came. .*width\], \(5, 1, H, W\): the channels are missing, give x.unsqueeze\(-3\)",
        ),
        (snf.conv2d, ONE, (5, 784), r"\(5, 784\) came. .*: of flat pixels give x.unflatten\(-1, \(1, H, W\)\)"),
        (snf.conv2d, TWO, (5, 28, 28, 2), r"\(5, 2, H, W\): the channels came last, give x.movedim\(-1, -3\)"),
        (snf.conv2d, TWO, (5, 3, 28, 28), r"One step is \[batch, channels, height, width\], \(5, 2, H, W\)\.$"),
        (
            snf.linear,
            OF_784,
            (5, 1, 28, 28),
            r"Its last 3 axes are made one by a layer in front, chain\(..., flatten, linear\)",
        ),
        (
            snf.linear,
            OF_784,
            (5, 28, 28),
            r"Its last 2 axes .* chain\(..., functools.partial\(flatten, axes=2\), linear\)",
        ),
        (
            snf.linear,
            OF_784,
            (3920,),
            r"These may be 5 samples that a `flatten` in front made one: it takes three axes of each",
        ),
        (snf.linear, OF_784, (5, 392), r"but \(5, 392\) came\.$"),
    ],
)
def test_a_connection_says_which_axes_it_takes_and_what_to_write(layer, params, shape, says):
    with pytest.raises(ValueError, match=says):
        layer.step(params, (), torch.rand(shape))
    calls = {"unsqueeze": lambda x: x.unsqueeze(-3), "movedim": lambda x: x.movedim(-1, -3)}
    calls["unflatten"] = lambda x: x.unflatten(-1, (1, 28, 28))
    calls["chain(..., flatten"] = snf.flatten
    calls["partial"] = functools.partial(snf.flatten, axes=2)
    for written, call in calls.items():
        if written in says.replace("\\", "") and len(shape) > 1:
            assert layer.step(params, (), call(torch.rand(shape)))[0].shape[:2] in ((5, 2), (5, 10))


@pytest.mark.parametrize(
    "call, error, says",
    [
        (
            lambda: snf.flatten(),
            TypeError,
            r"^flatten\(\): flatten is a layer as it stands, chain\(conv2d, leaky, flatten, linear",
        ),
        (
            lambda: snf.chain(snf.conv2d, snf.flatten(2)),
            TypeError,
            r"^flatten\(2\): .* functools.partial\(flatten, axes=2\)",
        ),
        (lambda: snf.flatten(torch.rand(5, 4)), ValueError, r"\(5, 4\), axes=3\): .* \[..., channels, height, width\]"),
        (
            lambda: snf.avg_pool2d(torch.rand(5, 2, 4, 4)),
            TypeError,
            r"a tensor \(5, 2, 4, 4\) came. .* avg_pool2d\(2\)\(x\)",
        ),
        (lambda: snf.max_pool2d(0), TypeError, r"max_pool2d\(kernel_size=...\): .* 1 or more, but 0 came"),
        (lambda: snf.max_pool2d(2, 2, -1), TypeError, r"max_pool2d\(padding=...\): .* 0 or more, but -1 came"),
        (
            lambda: snf.max_pool2d(2)(torch.rand(5, 784)),
            ValueError,
            r"\(5, 784\) came. Of flat pixels .* x.unflatten\(-1, ",
        ),
        (lambda: snf.max_pool2d(2)("x"), ValueError, "but str came"),
        (
            lambda: snf.max_pool2d((2, 8))(torch.rand(5, 2, 9, 7)),
            ValueError,
            r"at least 2 x 8 pixels, but \(5, 2, 9, 7\) came",
        ),
    ],
)
def test_layers_without_numbers_say_which_axes_they_take_and_what_to_write(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_pools_take_spikes_as_connections_do():
    spikes = torch.rand(5, 2, 6, 6) < 0.5
    for pool in (snf.max_pool2d(2), snf.avg_pool2d((2, 3), 2, (1, 1))):
        assert_equal(pool(spikes), pool(spikes.float()))
        assert_equal(pool(spikes.to(torch.uint8)), pool(spikes.float()))


@pytest.mark.parametrize("leading", [(), (2,), (3, 2)])
def test_layers_take_any_leading_axes(leading):
    x = torch.rand(*leading, 2, 6, 6)
    each = x.reshape(-1, 2, 6, 6)
    conv = snf.Conv2d.random(2, 3, (3, 1), stride=2, padding=1)
    whole = torch.nn.functional.conv2d(each, conv.weight, conv.bias, 2, 1)
    assert_equal(conv(x), whole.reshape(*leading, *whole.shape[1:]))
    for layer in (snf.max_pool2d(2), snf.avg_pool2d(3, 1, 1), snf.flatten):
        expected = torch.stack([layer(one[None])[0] for one in each])
        assert_equal(layer(x), expected.reshape(*leading, *expected.shape[1:]))


def test_random_connections_are_torchs():
    torch.manual_seed(0)
    a, b = snf.Linear.random(50, 40), torch.nn.Linear(50, 40)
    assert a.weight.shape == b.weight.shape and a.bias.shape == b.bias.shape
    assert 0.9 < float(a.weight.abs().max() / b.weight.detach().abs().max()) < 1.1
    g = lambda: torch.Generator().manual_seed(1)
    assert_equal(snf.Conv2d.random(2, 3, 3, generator=g()), snf.Conv2d.random(2, 3, 3, generator=g()))
    assert snf.Linear.random(2, 3, bias=False, dtype=torch.float64).bias.dtype == torch.float64
    with pytest.raises(ValueError, match="padding='valid'"):
        snf.Conv2d(torch.zeros(1, 1, 3, 3), padding="valid")


class Doubles(torch.nn.Module):
    def forward(self, x):
        return x.mul_(2)


def test_a_layer_that_writes_into_its_input_is_refused():
    with pytest.raises(TypeError, match="writes into its input.*inplace=False"):
        snf.chain(snf.leaky, torch.nn.Sequential(torch.nn.ReLU(inplace=True)))
    net, params, xs = snf.chain(snf.leaky, Doubles()), (snf.LeakyParams(0.9), ()), torch.rand(6, 2, 3)
    state = (snf.leaky.init(params[0], xs[0]), ())
    for kind in ("loop", "auto"):
        with pytest.raises(ValueError, match="changed its arguments in place"):
            snf.scan(net.step, params, state, xs, kind=kind)


def test_a_class_is_no_layer():
    with pytest.raises(TypeError, match=r"a class. Give one that is made, with its arguments: ReLU\(\.\.\.\)"):
        snf.chain(snf.leaky, torch.nn.ReLU)


@pytest.mark.parametrize("transform", [torch.func.jacfwd, torch.func.hessian])
def test_forward_mode_over_a_convolution(transform):
    net = snf.chain(snf.conv2d, snf.leaky)
    params, xs = (snf.Conv2d(torch.randn(2, 1, 3, 3)), snf.LeakyParams(0.9)), torch.randn(4, 2, 1, 4, 4)
    state = net.init(params, xs[0])
    f = lambda kind: lambda b: snf.scan(net.step, params, state, xs * b, kind=kind)[1][1].mem.square().sum()
    found, right = (transform(f(kind))(torch.tensor(0.5)) for kind in ("auto", "loop"))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_none_among_the_inputs():
    net = snf.chain(lambda x: x[0] * 2, snf.leaky)
    params, xs = ((), snf.LeakyParams(0.9)), torch.rand(4, 3)
    state = ((), snf.leaky.init(params[1], xs[0]))
    found, right = (snf.scan(net.step, params, state, (xs, None), kind=kind) for kind in ("auto", "loop"))
    assert torch.equal(found[0], right[0])


def test_a_state_at_rest_is_made_without_a_step_once_it_is_known_to_depend_on_shapes_alone():
    from snn_functional._scan._shapes import by_shapes

    net, calls = snf.chain(snf.linear, snf.leaky, snf.linear, snf.leaky), []
    params = snf.Linear(torch.rand(5, 3)), snf.LeakyParams(0.9), snf.Linear(torch.rand(2, 5)), snf.LeakyParams(0.9)
    for batch in (4, 6):
        counted = lambda p, x: calls.append(1) or net.step._init(p, x)
        for _ in range(5):
            state = by_shapes(counted, net.step, params, torch.rand(batch, 3))
            assert [x.mem.shape for x in state if x] == [(batch, 5), (batch, 2)]
            assert all(torch.equal(x.mem, torch.zeros(batch, x.mem.shape[1])) for x in state if x)
            state[1].mem.add_(1)  # it is the caller's own
    assert len(calls) == 2 * 3  # twice, and once to be read


def test_a_state_at_rest_that_depends_on_numbers_is_made_of_these():
    settled = snf.leaky._replace(init=lambda p, x: snf.LeakyState(p.threshold / 2 + x))
    net = snf.chain(snf.linear, settled)
    mem = lambda w, x, i: net.init((snf.Linear(w), snf.LeakyParams(0.9, threshold=i)), x)[1].mem
    for i in range(5):
        x, w = torch.rand(4, 3), torch.rand(2, 3)
        assert torch.allclose(mem(w, x, float(i)), x @ w.T + i / 2)
        assert torch.allclose(grad(lambda w, *rest: mem(w, *rest).sum())(w, x, float(i)), x.sum(0).expand(2, 3))
