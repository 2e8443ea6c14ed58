"""`snf.nir.read`: every kind of node and its shapes, and what a pure step must do."""

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal
from nirs import affine, between, EQUATIONS, graph, LIF, nir, node, np, run, W

import snn_functional as snf


@pytest.mark.parametrize("kind", EQUATIONS)
def test_a_neuron_goes_through_eulers_step_of_its_equation(kind):
    draw = np.random.default_rng(1)
    theirs = node(kind, 5)
    for name, values in {
        "r": [1, 2, 4, 8, 3],
        "v_leak": [0, 0.25, -0.5, 0.125, 0],
        "w_in": [1, 2, 0.5, 4, 1],
        "v_threshold": [1, 0.5, 2, 0.75, 1.5],
    }.items():
        if hasattr(theirs, name):
            setattr(theirs, name, np.array(values, dtype=float))
    if hasattr(theirs, "v_reset"):
        theirs.v_reset = np.array([0, -0.25, 0.125, 0.5, 0])
    xs = torch.from_numpy(draw.integers(-2, 9, (30, 2, 5)) / 8)
    outs = run(between(theirs, shape=(5,)), xs, dtype=torch.float64)
    v, i = np.zeros((2, 5)) + getattr(theirs, "v_leak", 0), np.zeros((2, 5))
    for x, out in zip(xs.numpy(), outs.numpy()):
        v, i = EQUATIONS[kind](theirs, v, i, x)
        spk = v > theirs.v_threshold if kind.endswith("F") else None
        v = v if spk is None else np.where(spk, theirs.v_reset, v)
        np.testing.assert_allclose(out, v if spk is None else spk, atol=1e-12)
    assert not kind.endswith("F") or 0 < outs.mean() < 1


def test_integrators_count_a_step_as_one_or_as_dt():
    xs = torch.ones(4, 1, 1)
    assert run(between(node("I", 1), shape=(1,)), xs)[-1] == 8
    exact = {"integrate": "dt"}
    assert_allclose(
        run(between(node("I", 1, r=1e4), shape=(1,)), xs, platform=exact),
        torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1),
    )


EVEN = "ignore:Using padding='same' with even kernel:UserWarning"  # torch's own, of what it has to copy


@pytest.mark.filterwarnings(EVEN)
@pytest.mark.parametrize("kernel, stride, padding, dilation, groups", [
    ((3, 5), (1, 1), (0, 0), (1, 1), 1),
    ((3, 3), 2, 1, 1, 2),
    ((2, 3), (2, 1), (1, 2), (1, 2), 1),
    ((3, 5), 1, "same", (2, 1), 1),
    ((2, 4), 1, "same", 1, 2),
    ((3, 3), (1, 2), "valid", 1, 1),
])  # fmt: skip
def test_conv2d_is_torchs(kernel, stride, padding, dilation, groups):
    conv = torch.nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups)
    weight, bias = (x.detach().numpy() for x in (conv.weight, conv.bias))
    theirs = nir.Conv2d((8, 9), weight, stride, padding, dilation, groups, bias)
    xs = torch.rand(3, 2, 4, 8, 9)
    expected = conv(xs.flatten(0, 1)).detach()
    source = between(theirs, nir.Flatten({"input": None}, 0, -1), shape=(4, 8, 9))
    neuron, _ = snf.nir.read(source)
    assert {n.name: n.shape for n in neuron.step.nodes}["n0"] == expected.shape[1:]
    assert_allclose(run(source, xs), expected.flatten(1).unflatten(0, (3, 2)))


@pytest.mark.filterwarnings(EVEN)
@pytest.mark.parametrize("padding", [0, 2, "same"])
def test_conv1d_is_torchs(padding):
    conv = torch.nn.Conv1d(4, 6, 4, 1, padding, 2, 2)
    weight, bias = (x.detach().numpy() for x in (conv.weight, conv.bias))
    theirs = nir.Conv1d(9, weight, 1, padding, 2, 2, bias)
    xs = torch.rand(3, 2, 4, 9)
    assert_allclose(run(between(theirs, shape=(4, 9)), xs), conv(xs.flatten(0, 1)).detach().unflatten(0, (3, 2)))


def test_pooling_sums_and_means():
    xs = torch.rand(3, 2, 4, 7, 8)
    sizes = [np.array(x) for x in ((2, 3), (2, 1), (1, 0))]
    mean = torch.nn.functional.avg_pool2d(xs.flatten(0, 1), (2, 3), (2, 1), (1, 0)).unflatten(0, (3, 2))
    assert_allclose(run(between(nir.AvgPool2d(*sizes), shape=(4, 7, 8)), xs), mean)
    assert_allclose(run(between(nir.SumPool2d(*sizes), shape=(4, 7, 8)), xs), mean * 6)


@pytest.mark.parametrize(
    "start, end, shape", [(0, -1, (24,)), (1, -1, (2, 12)), (0, 1, (6, 4)), (-2, -1, (2, 12)), (-3, -2, (6, 4))]
)
@pytest.mark.parametrize("lead", [(), (5,), (5, 2)])
def test_flatten_counts_without_the_batch(start, end, shape, lead):
    xs = torch.rand(3, *lead, 2, 3, 4)
    assert_equal(
        run(between(nir.Flatten({"input": np.array([2, 3, 4])}, start, end), shape=(2, 3, 4)), xs),
        xs.reshape(3, *lead, *shape),
    )


def test_lines_scale_and_threshold():
    xs = torch.rand(3, 2, 4)
    a, weight = affine(3, 4), np.random.default_rng(0).random((3, 4), dtype=np.float32)
    assert_allclose(
        run(between(a, shape=(4,)), xs.double(), dtype=torch.float64),
        xs.double() @ torch.from_numpy(a.weight).T + torch.from_numpy(a.bias),
    )
    assert_allclose(run(between(nir.Linear(weight), shape=(4,)), xs), xs @ torch.from_numpy(weight).T)
    s = np.array([1, 2, 4, 0.5])
    assert_equal(run(between(nir.Scale(s), shape=(4,)), xs), xs * torch.tensor(s).float())
    assert_equal(
        run(between(nir.Threshold(np.array([0.1, 0.5, 0.9, 2.0])), shape=(4,)), xs),
        (xs > torch.tensor([0.1, 0.5, 0.9, 2.0])).float(),
    )


@pytest.mark.parametrize("steps", [[3, 3, 3], [0, 1, 4], [0, 0, 0], [2, 7, 2], [120, 1, 0]])
def test_a_delay_is_so_many_steps_of_each_neuron(steps):
    xs = torch.rand(150, 2, 3)
    expected = torch.zeros_like(xs)
    for n, k in enumerate(steps):
        expected[k:, :, n] = xs[: 150 - k, :, n]
    source = between(nir.Delay(np.array(steps) * 1e-4), shape=(3,))
    for kind in ("loop", "auto"):
        assert_equal(run(source, xs, kind=kind), expected)


def test_one_number_for_all_neurons():
    xs = torch.rand(9, 2, 3)
    assert_equal(run(between(node("LIF"), shape=(3,)), xs), run(between(node("LIF", 3), shape=(3,)), xs))


def test_a_sum_of_edges_and_several_ends():
    xs = {"left": torch.rand(4, 2, 3), "right": torch.rand(4, 2, 3)}
    nodes = {"left": nir.Input(np.array([3])), "right": nir.Input(np.array([3])), "sum": nir.Scale(np.full(3, 2.0))}
    nodes |= {"twice": nir.Output(np.array([3])), "plain": nir.Output(np.array([3]))}
    edges = [("left", "sum"), ("right", "sum"), ("sum", "twice"), ("right", "plain")]
    outs = run(nir.NIRGraph(nodes, edges), xs)
    assert_equal(outs, {"twice": (xs["left"] + xs["right"]) * 2, "plain": xs["right"]})
    neuron, params = snf.nir.read(nir.NIRGraph(nodes, edges))
    with pytest.raises(TypeError, match="dictionary of tensors, of 'left', 'right', but Tensor came"):
        neuron.init(params, xs["left"][0])


def test_a_node_without_an_input_gets_one():
    loose = {"node": {"type": "NIRGraph", "nodes": {}, "edges": []}}["node"]
    loose["nodes"] = {
        "scale": {"type": "Scale", "scale": np.full(3, 2.0)},
        "out": {"type": "Output", "shape": np.array([3])},
    }
    loose["edges"] = [("scale", "out")]
    assert_equal(run(loose, torch.ones(2, 3)), torch.full((2, 3), 2.0))


# What else a pure step must do -----------------------------------------------------------------------------------------------------


def test_it_is_closed_under_transforms_and_planned_layer_by_layer():
    source = graph(
        "input>a a>lif lif>w w>lif lif>b b>li li>output",
        a=affine(3, 3, 1),
        lif=LIF,
        w=W,
        b=affine(3, 3, 2),
        li=node("LI", 3),
    )
    neuron, params = snf.nir.read(source)
    xs = torch.rand(10, 4, 3) * 3

    def loss(params, xs):
        return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)[0].square().mean()

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(params, xs)
    alone = torch.func.grad(loss)(params, xs[:, 2])
    assert_allclose(optree.tree_map(lambda x: x[2], grads), alone)
    assert all(bool(alone[name].weight.any()) for name in ("a", "w", "b")) and bool(alone["lif"].beta.any())
    plan = str(snf.explain(neuron.step, params, neuron.init(params, xs[0]), xs))
    assert plan.startswith("layer by layer") and plan.count("once over all of time") == 2
    model = snf.module(neuron, params, learn="weight")
    assert_equal(model(xs), snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)[0])


def test_a_surrogate_for_all_that_fires():
    threshold = nir.Threshold(np.full(3, 0.5))
    _, params = snf.nir.read(between(LIF, threshold, shape=(3,)), spike_grad=snf.surrogate.Sigmoid(5.0))
    assert params["n0"].spike_grad == params["n1"].spike_grad == snf.surrogate.Sigmoid(5.0)


def test_spikes_may_come_as_bools_and_params_be_wider():
    source = between(affine(3, 3), LIF, shape=(3,))
    xs = torch.rand(10, 4, 3) > 0.5
    assert_equal(run(source, xs), run(source, xs.float()))
    assert run(source, xs, dtype=torch.float64).dtype == torch.float64
