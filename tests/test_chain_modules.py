"""Modules of torch's as layers of a chain: the loop over the module itself is the definition."""

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, law, needs_kernels
from hypothesis import given, strategies as st
from torch import nn
from torch.func import grad, vmap

import snn_functional as snf


MODULES = {  # what they are made of, and the size of their input
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "norm_in_training": (lambda: nn.BatchNorm1d(6), (6,)),
    "norm_in_evaluation": (lambda: moved(nn.BatchNorm1d(6)).eval(), (6,)),
    "norm_without_statistics": (lambda: nn.BatchNorm1d(6, track_running_stats=False), (6,)),
    "cumulative_norm": (lambda: nn.BatchNorm1d(6, momentum=None), (6,)),
    "layer_norm": (lambda: nn.LayerNorm(6), (6,)),
    "grouped_dilated_conv": (lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), (4, 5, 5)),
    "conv_and_norm": (lambda: nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()), (4, 5, 5)),
    "conv_and_norm_in_evaluation": (
        lambda: moved(nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3))).eval(),
        (4, 5, 5),
    ),
    "stateless": (lambda: nn.Sequential(nn.ReLU(), nn.Flatten()), (6,)),
}
each = pytest.mark.parametrize("name", MODULES)


def moved(module):
    """With statistics that are not those at rest."""
    for name, buffer in module.named_buffers():
        buffer.copy_(torch.rand_like(buffer) + 0.5) if "running" in name else None
    return module


def world(name, T=5, batch=3):
    make, size = MODULES[name]
    module = make().double()
    layer, params = snf.layer(module)
    net, params = snf.chain(layer, snf.leaky), (params, snf.LeakyParams(0.9, threshold=0.3))
    xs = torch.randn(T, batch, *size, dtype=torch.float64)
    return module, net, params, net.init(params, xs[0]), xs


@each
@law
@given(T=st.integers(1, 7), batch=st.integers(2, 4), seed=st.integers(0, 99))
def test_it_is_the_loop_over_the_module(name, T, batch, seed):
    torch.manual_seed(seed)
    module, net, params, state, xs = world(name, T, batch)
    spks, last = snf.scan(net.step, params, state, xs)
    assert_allclose((spks, last), snf.scan(net.step, params, state, xs, kind="loop"))
    neuron, expected = snf.leaky.init(params[1], module(xs[0]).detach()), []
    module.load_state_dict(params[0] | state[0])  # as before the step that was only to know the shape
    for x in xs:
        spk, neuron = snf.leaky_step(params[1], neuron, module(x).detach())
        expected.append(spk)
    assert_equal(spks, torch.stack(expected))
    assert_allclose((last[0], last[1].mem), (dict(module.named_buffers()), neuron.mem))


@needs_kernels
@each
def test_it_runs_layer_by_layer(name):
    _, net, params, state, xs = world(name)
    plan = snf.explain(net.step, params, state, xs)
    loop = {"cumulative_norm": "it takes a number out of a tensor"}  # counts in Python, so it says
    assert plan.kind == ("loop" if name in loop else "fused" if name == "stateless" else "staged"), plan
    assert loop.get(name, "") in plan and "loop" not in [part.how for part in plan.stages]


@each
def test_gradients_are_the_modules(name):
    module, net, params, state, xs = world(name)
    xs.requires_grad_()

    def loss(params, xs, kind):
        spks, last = snf.scan(net.step, params, state, xs, kind=kind)
        return (spks.sum(0) - 1).square().mean() + last[1].mem.square().sum()

    found = grad(loss, (0, 1))(params, xs.detach(), "auto")
    assert_allclose(found, grad(loss, (0, 1))(params, xs.detach(), "loop"))
    neuron, spks = state[1], 0
    for x in xs:
        spk, neuron = snf.leaky_step(params[1], neuron, module(x))
        spks = spks + spk
    ((spks - 1).square().mean() + neuron.mem.square().sum()).backward()
    assert_allclose(found[0][0], {key: p.grad for key, p in module.named_parameters()})
    assert_allclose(found[1], xs.grad)


def test_gradients_of_a_sample_and_of_an_ensemble():
    _, net, params, _, xs = world("layer_norm")
    rate = lambda p, x: snf.scan(net.step, p, net.init(p, x[0]), x)[0].mean()
    samples = vmap(grad(rate), in_dims=(None, 1))(params, xs)
    many = optree.tree_map(lambda x: torch.stack([x, 1.1 * x]), params)
    members = vmap(grad(rate), in_dims=(0, None))(many, xs)
    for i in range(2):
        assert_allclose(optree.tree_map(lambda x, i=i: x[i], samples), grad(rate)(params, xs[:, i]))
        member = optree.tree_map(lambda x, i=i: x[i], many)
        assert_allclose(optree.tree_map(lambda x, i=i: x[i], members), grad(rate)(member, xs))


def test_the_running_statistics_go_from_training_to_evaluation():
    module, net, params, state, xs = world("norm_in_training")
    before = {name: x.clone() for name, x in module.named_buffers()}
    _, state = snf.scan(net.step, params, state, xs)
    assert_equal(dict(module.named_buffers()), before)  # the module is not touched
    snf.defunctionalize(module, params[0], state[0])
    layer, of_module = snf.layer(module.eval())
    net = snf.chain(layer, snf.leaky)
    state = net.init((of_module, params[1]), xs[0])
    assert_equal(state[0], dict(module.named_buffers())) and state[0]["running_mean"].abs().sum() > 0
    _, last = snf.scan(net.step, (of_module, params[1]), state, xs)
    assert_equal(last[0], state[0])


def test_a_network_of_one_layer_is_read_once(monkeypatch):
    from snn_functional._scan import _known

    _, net, params, state, xs = world("layer_norm")
    known = [_known.prepare(snf.chain(*net.step.layers).step, params, state, xs, 5).known for _ in range(2)]
    assert known[0] is known[1]


def test_what_is_no_layer_says_what_to_do():
    """Of two ways each error names the one that works, and what it names does."""
    with pytest.raises(TypeError, match=r"chain\(..., Linear, ...\): .* layer\(module\) makes of it"):
        snf.chain(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"layer\(module\) makes of it"):
        snf.chain(snf.functionalize(nn.Linear(2, 2))[0])
    with pytest.raises(TypeError, match="a chain too, is pure already"):
        snf.functionalize(snf.chain(snf.leaky))
    with pytest.raises(TypeError, match="module is an nn.Module, not Neuron"):
        snf.layer(snf.leaky)
    face = snf.snn.Leaky(beta=0.9, init_hidden=True)
    with pytest.raises(
        TypeError, match=r"layer\(Sequential\): it has a Leaky at '1', which remembers. .*functionalize\(module\)"
    ):
        snf.layer(nn.Sequential(nn.Linear(2, 2), face))
    for module in (face, nn.Sequential(nn.ReLU(), snf.snn.Leaky(beta=0.9))):
        with pytest.raises(TypeError, match="it has a Leaky"):
            snf.layer(module)
    _, net, params, state, xs = world("linear")
    with pytest.raises(ValueError, match="params lacks bias"):
        snf.scan(net.step, ({"weight": params[0]["weight"]}, params[1]), state, xs)


CONVS = [dict(groups=2), dict(dilation=2), dict(groups=4, dilation=3, stride=2), dict(padding=1, dilation=2, groups=2)]


@pytest.mark.parametrize("how", CONVS, ids=str)
@pytest.mark.parametrize("density", [0.02, 0.6])
def test_grouped_and_dilated_convolutions(how, density):
    """Of few spikes and of many, wide enough for events where there are no groups."""
    conv = snf.Conv2d.random(8, 32, 3, **how)
    module = nn.Conv2d(8, 32, 3, **{"padding": how.get("dilation", 1), **how})
    module.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    xs = (torch.rand(20, 4, 8, 16, 16) < density).float()
    net, params = snf.chain(snf.conv2d, snf.leaky), (conv, snf.LeakyParams(0.9, threshold=0.3))
    assert_allclose(conv(xs), torch.stack([module(x) for x in xs]).detach())
    loss = lambda p, kind: snf.scan(net.step, p, net.init(p, xs[0]), xs, kind=kind)[1][1].mem.square().mean()
    assert_allclose(grad(loss)(params, "auto"), grad(loss)(params, "loop"))
    if how.get("stride", 1) == 1 and "padding" not in how:
        assert conv(xs).shape[-2:] == (16, 16)


def test_a_convolution_that_cannot_be_is_refused():
    weight = torch.zeros(6, 2, 3, 3)
    for name in ("stride", "dilation", "groups"):
        for value in (0, 1.5, True):
            with pytest.raises(ValueError, match=rf"Conv2d\({name}={value}\): expected a whole number"):
                snf.Conv2d(weight, **{name: value})
    with pytest.raises(ValueError, match=r"groups=4\): the 6 channels that come out are not divided"):
        snf.Conv2d(weight, groups=4)
    with pytest.raises(ValueError, match=r"Conv2d.random\(3, 4, ..., groups=2\)"):
        snf.Conv2d.random(3, 4, 3, groups=2)
    with pytest.raises(
        ValueError, match=r"\(6, 2, 3, 3\), groups=3\) takes \[..., in, H, W\] with in = 6, but \(1, 2, 5, 5\) came"
    ):
        snf.Conv2d(weight, groups=3)(torch.zeros(1, 2, 5, 5))


def dyadic(*shape):
    return torch.randint(-8, 9, shape).double() / 16


LEAKY = snf.LeakyParams(torch.tensor(0.875).double(), 0.5)


def blocks():
    """Residual blocks within each other, of currents and of spikes: weights on a grid, where every order of a sum gives the same bits."""
    block = snf.residual(snf.linear, snf.leaky, snf.residual(snf.linear), snf.leaky)
    net = snf.chain(snf.linear, snf.leaky, block, torch.relu, snf.linear, snf.leaky)
    weights = lambda out, n: snf.Linear(dyadic(out, n), dyadic(out))
    inner = (weights(6, 6), LEAKY, (weights(6, 6),), LEAKY)
    return net, (weights(6, 4), LEAKY, inner, (), weights(3, 6), LEAKY)


@law
@given(T=st.integers(1, 9), seed=st.integers(0, 99), mask=st.booleans())
def test_residual_and_masked_networks_are_the_loop(T, seed, mask):
    torch.manual_seed(seed)
    net, params = blocks()
    xs = dyadic(T, 3, 4) * 4
    if mask:
        net, xs = snf.masked(net), (xs, torch.rand(T, 3) < 0.6)
    state = net.init(params, optree.tree_map(lambda x: x[0], xs))
    state = optree.tree_map(lambda x: dyadic(*x.shape), state)
    fast, slow = (snf.scan(net.step, params, state, xs, kind=kind) for kind in ("auto", "loop"))
    assert_equal(fast, slow)
    derivative = grad(lambda p, kind: snf.scan(net.step, p, state, xs, kind=kind)[1][-1].mem.square().sum())
    assert_allclose(derivative(params, "auto"), derivative(params, "loop"))


@needs_kernels
@pytest.mark.parametrize(
    "around", [lambda net: net, snf.masked, snf.every_layer, lambda net: snf.masked(snf.every_layer(net))]
)
def test_residual_and_masked_networks_run_layer_by_layer(around):
    net, params = blocks()
    net, xs = around(net), dyadic(5, 3, 4)
    if isinstance(net.step, snf.masked):
        xs = xs, torch.ones(5, 3, dtype=torch.bool)
    state = net.init(params, optree.tree_map(lambda x: x[0], xs))
    plan = snf.explain(net.step, params, state, xs)
    assert plan.kind == "staged" and [part.how for part in plan.stages].count("kernel") == 4, plan
    assert "loop" not in [part.how for part in plan.stages]
    assert_equal(snf.scan(net.step, params, state, xs), snf.scan(net.step, params, state, xs, kind="loop"))


def test_a_residual_block_is_its_equation():
    torch.manual_seed(0)
    inner, params = snf.chain(snf.linear, snf.leaky), (snf.Linear(dyadic(4, 4)), LEAKY)
    block, xs = snf.residual(snf.linear, snf.leaky), dyadic(6, 3, 4)
    spks, last = snf.scan(inner.step, params, inner.init(params, xs[0]), xs)
    assert_equal(snf.scan(block.step, params, block.init(params, xs[0]), xs), (xs + spks, last))
    assert block.step == snf.residual(snf.linear, snf.leaky).step and repr(block.step) == "residual(linear, leaky)"
    with pytest.raises(ValueError, match=r"residual\(linear\) adds its input \(3, 4\) to its output \(3, 2\)"):
        net = snf.chain(snf.residual(snf.linear), snf.leaky)
        net.init(((snf.Linear(dyadic(2, 4)),), LEAKY), xs[0])
    with pytest.raises(ValueError, match=r"\(3, 4\) to its output \(3, 1\)"):  # which would broadcast
        one = snf.residual(snf.linear)
        snf.scan(one.step, (snf.Linear(dyadic(1, 4)),), ((),), xs)
    with pytest.raises(TypeError, match="Tensor came and tuple was put out"):
        snf.chain(snf.residual(snf.record(snf.leaky)), snf.flatten).init(((LEAKY,), ()), xs[0])


@law
@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_padding_changes_nothing(lengths, seed):
    """Each sample of a padded batch is that sample by itself: its outputs, its last state, its gradient; even beside NaN."""
    torch.manual_seed(seed)
    net, params = blocks()
    held, n = snf.masked(net), len(lengths)
    xs = dyadic(8, n, 4) * 4
    valid = snf.valid_steps(torch.tensor(lengths), 8)
    for rest in (1.0, float("nan")):
        padded = torch.where(valid[..., None], xs, rest)
        state = held.init(params, (padded[0], valid[0]))
        spks, last = snf.scan(held.step, params, state, (padded, valid))
        assert not spks[~valid].any()
        for i, length in enumerate(lengths):
            own = xs[:length, i : i + 1]
            alone = snf.scan(net.step, params, net.init(params, own[0]), own)
            assert_equal((spks[:length, i : i + 1], optree.tree_map(lambda x, i=i: x[i : i + 1], last)), alone)
    padded = torch.where(valid[..., None], xs, 7.0)
    loss = lambda p, x, step: snf.scan(step, p, held.init(p, (x[0], valid[0])), (x, valid))[0].sum(0).square().sum()
    by_params, by_xs = grad(loss, (0, 1))(params, padded, held.step)
    assert not by_xs[~valid].any()

    def each(p):
        ends = [(xs[:length, i : i + 1], net) for i, length in enumerate(lengths)]
        return sum(snf.scan(net.step, p, net.init(p, x[0]), x)[0].sum(0).square().sum() for x, net in ends)

    assert_allclose(by_params, grad(each)(params))


def test_what_cannot_be_masked_is_refused():
    held = snf.masked(snf.leaky)
    with pytest.raises(TypeError, match=r"masked: the input is a pair \(x, valid\)"):
        held.init(LEAKY, torch.zeros(3, 4))
    with pytest.raises(TypeError, match="the input is a pair"):
        held.init(LEAKY, (torch.zeros(3, 4), torch.ones(3)))
    with pytest.raises(ValueError, match=r"valid has shape \(2,\), but a tensor of the state or output has \(3, 4\)"):
        held.init(LEAKY, (torch.zeros(3, 4), torch.ones(2, dtype=torch.bool)))
    for inner in (snf.leaky, snf.leaky_step):
        with pytest.raises(
            TypeError, match=r"^masked\(neuron\): 2 arguments came. Lengths .* xs, valid_steps\(lengths, len\(xs\)\)"
        ):
            snf.masked(inner, torch.tensor([1, 2, 7]))
    with pytest.raises(TypeError, match=r"^refractory\(neuron, steps\): 3 arguments came\.$"):
        snf.refractory(snf.leaky, 3, steps=4)
    whole = snf.valid_steps(torch.tensor([1, 2, 7]), 7)
    for step, says in (
        (whole.T[0], r"valid has shape \(7,\), .* is \[batch\], \(3,\) here. .* of a mask \[batch, T\] take mask.T"),
        (
            whole,
            r"valid has shape \(7, 3\), .* One step of it is meant, \[batch\]: of a mask \[T, batch\] that is mask\[0\]",
        ),
        (whole.T, r"of a mask \[batch, T\] that is mask.T\[0\]"),
    ):
        with pytest.raises(ValueError, match=says):
            held.init(LEAKY, (torch.zeros(3, 4), step))
    with pytest.raises(ValueError, match=r"\[\(7, 3, 4\), \(3, 7\)\].* the batch first: give it as transpose\(0, 1\)"):
        snf.scan(held.step, LEAKY, held.init(LEAKY, (torch.zeros(3, 4), whole[0])), (torch.zeros(7, 3, 4), whole.T))
    _, net, params, _, xs = world("norm_in_training")
    with pytest.raises(ValueError, match="running statistics say, cannot stand still"):
        snf.masked(net).init(params, (xs[0], torch.ones(3, dtype=torch.bool)))
    with pytest.raises(TypeError, match="whole numbers .* torch.float32 came"):
        snf.valid_steps(torch.ones(3), 4)
    with pytest.raises(TypeError, match=r"list came. Give torch.tensor\(lengths\)"):
        snf.valid_steps([3, 1], 4)
    with pytest.raises(TypeError, match="torch.bool came. It is a mask already"):
        snf.valid_steps(whole, 7)
    with pytest.raises(ValueError, match=r"valid_steps\(lengths, T=4\): a length is 9, but there are 4 steps"):
        snf.valid_steps(torch.tensor([9, 2]), 4)
