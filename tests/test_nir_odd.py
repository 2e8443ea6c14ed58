"""Graphs as nobody would draw them, and files as nobody would write them: read for what they say, or refused by name."""

import random

import pytest
import torch
from helpers import assert_equal
from nirs import affine, between, graph, LIF, nir, node, np, run, W

import snn_functional as snf


h5py = pytest.importorskip("h5py")


def described(nodes, edges, **more):
    """A graph as a dictionary; its nodes too, or as the library has them."""
    ends = {name: {"type": name.title(), "shape": np.array([3])} for name in ("input", "output")}
    plain = lambda x: x if isinstance(x, dict) else x.to_dict()
    pairs = [tuple(edge.split(">")) for edge in edges.split()]
    return {"type": "NIRGraph", "nodes": ends | {key: plain(x) for key, x in nodes.items()}, "edges": pairs} | more


def row(**middle):
    return described({"n": middle}, "input>n n>output")


def again(source, xs, tmp_path, **how):
    """Read, run, written, read and run again."""
    neuron, params = snf.nir.read(source, **how)
    snf.nir.write(neuron, params, tmp_path / "again.nir")
    return run(source, xs, **how), run(tmp_path / "again.nir", xs)


X = torch.rand(7, 2, 3, generator=torch.Generator().manual_seed(0)) * 2


# ------------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("one, many", [
    (node("LIF"), LIF),
    (node("CubaLIF"), node("CubaLIF", 3)),
    (nir.Threshold(np.array(0.5)), nir.Threshold(np.full(3, 0.5))),
    (nir.Scale(np.array(0.5)), nir.Scale(np.full(3, 0.5))),
    (nir.Delay(np.array(3e-4)), nir.Delay(np.full(3, 3e-4))),
    (nir.Delay(np.array(0.0)), nir.Delay(np.zeros(3))),
], ids=lambda x: type(x).__name__)  # fmt: skip
def test_one_number_for_all_is_written_one_each(one, many, tmp_path):
    first, second = again(between(one, affine(3, 3), shape=(3,)), X, tmp_path)
    assert_equal(first, run(between(many, affine(3, 3), shape=(3,)), X))
    assert_equal(second, first)


def test_a_delay_of_one_number_in_a_circle(tmp_path):
    edges = "input>lif lif>d d>w w>lif lif>output"
    first, second = again(graph(edges, lif=LIF, w=W, d=nir.Delay(np.array(2e-4))), X, tmp_path)
    assert_equal(first, run(graph(edges, lif=LIF, w=W, d=nir.Delay(np.full(3, 2e-4))), X))
    assert_equal(second, first)


def test_a_time_constant_of_infinity_is_an_integrator_on_the_way_out(tmp_path):
    first, second = again(between(node("LIF", 3, tau=np.inf), shape=(3,)), X, tmp_path, platform="snntorch")
    assert_equal(second, first)


@pytest.mark.parametrize("layer", [
    nir.Conv2d((8, 6), np.ones((2, 1, 3, 3)), 1, 0, 1, 1, np.ones(2)),
    nir.Conv1d(8, np.ones((4, 1, 3)), 1, 0, 1, 2, np.ones(4)),
    nir.Flatten({"input": np.array([2, 3])}, 0, -1),
], ids=lambda x: type(x).__name__)  # fmt: skip
def test_a_layer_says_the_shape_of_its_input(layer):
    neuron, _ = snf.nir.read(layer)
    shape = {"Conv2d": (1, 8, 6), "Conv1d": (2, 8), "Flatten": (2, 3)}[type(layer).__name__]
    assert neuron.step.of_kind("Input")[0].shape == shape


@pytest.mark.parametrize("dtype", [">f8", ">f4", np.longdouble, np.float16, np.uint16, np.int8])
def test_numbers_of_any_width(dtype, tmp_path):
    first, second = again(row(type="Scale", scale=np.array([1, 2, 3], dtype)), X, tmp_path)
    assert_equal(first, X * torch.tensor([1.0, 2, 3]))
    assert_equal(second, first)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("source, says", [
    (described({"n": LIF}, "input>n n>output") | {"edges": [(0, "n")]}, r"edges of the graph are pairs of names, but \[\(0, 'n'\)\] came"),
    (described({"n": LIF}, "input>n") | {"edges": [("a", "b", "c")]}, "edges of the graph are pairs of names"),
    (described({"n": LIF}, "input>n") | {"edges": None}, "edges of the graph are pairs of names, but None came"),
    (described({"n": LIF}, "input>n") | {"nodes": [1]}, r"nodes of the graph are a dictionary by name, but \[1\] came"),
    (row(type=3), "node 'n' of the graph has no type"),
    (described({"input": {"type": "Input", "shape": np.array([-3])}, "n": LIF}, "input>n n>output"), "shape is whole numbers, 0 or more"),
    (described({"input": {"type": "Input", "shape": np.array([3.5])}, "n": LIF}, "input>n n>output"), "shape is whole numbers, 0 or more"),
    (described({"input": {"type": "Input", "shape": "x"}, "n": LIF}, "input>n n>output"), "shape is whole numbers, .* but 'x' came"),
    (row(type="Delay", delay=np.array([1e-4, -1e-4, 0])), r"node 'n' \(Delay\): a delay is so many seconds, 0 or more, but \[.*-9.99"),
    (row(type="Delay", delay=np.array([1e-4, np.inf, 0])), "a delay is so many seconds, 0 or more, but .*inf"),
    (row(type="Affine", weight=np.ones((3, 3)), bias=None), r"node 'n' \(Affine\): bias holds no numbers, but None"),
    (described({"n": LIF}, "input>n n>output", metadata={"snn_functional": "{"}), "was noted by no nir.write"),
    (described({"n": LIF}, "input>n n>output", metadata={"snn_functional": "[1]"}), "was noted by no nir.write"),
    (described({"n": LIF}, "input>n n>output", metadata={"snn_functional": '{"dt": "x"}'}), "was noted by no nir.write"),
    (described({"n": LIF}, "input>n n>output", metadata={"snn_functional": '{"recurrent": 3}'}), "was noted by no nir.write"),
])  # fmt: skip
def test_what_is_no_graph_is_refused_by_name(source, says):
    with pytest.raises(ValueError, match=says):
        snf.nir.read(source)


@pytest.mark.parametrize("dt", [float("inf"), float("nan"), -1.0, "x"])
def test_a_step_has_a_length(dt):
    with pytest.raises(ValueError, match=r"nir.read\(dt=.*a step is longer than 0 seconds, and a number"):
        snf.nir.read(between(LIF, shape=(3,)), dt=dt)


def test_a_graph_that_nothing_enters():
    source = described({"a": LIF, "b": LIF}, "a>b b>a b>output")
    del source["nodes"]["input"]
    with pytest.raises(
        ValueError, match="no Input node, and each of its nodes has something that leads to it: 'a', 'b'"
    ):
        snf.nir.read(source)


def test_a_node_may_not_be_called_as_an_edge():
    source = described({"a": LIF, "a -> a": LIF}, "input>a a>output")
    source["edges"] += [("a", "a"), ("a", "a -> a")]
    with pytest.raises(
        ValueError, match="a node is called 'a -> a', which is the name, in the state, of what the edge from 'a'"
    ):
        snf.nir.read(source)


# ------------------------------------------------------------------------------------------------ files


def test_a_damaged_file_is_refused_or_read(tmp_path):
    """Whatever is wrong in it: no word of h5py's, and no crash."""
    path, draw = tmp_path / "g.nir", random.Random(0)
    nir.write(path, graph("input>lif lif>w w>lif lif>output", lif=LIF, w=W))
    whole, refused = path.read_bytes(), 0
    for _ in range(80):
        damaged = bytearray(whole[: draw.choice([len(whole), draw.randrange(len(whole))])])
        for _ in range(min(10, len(damaged))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            snf.nir.read(path)
        except ValueError as error:
            assert str(error).startswith("nir.read"), error
            refused += 1
    assert refused > 25


@pytest.mark.parametrize("spoil, says", [
    (lambda file: file.__setitem__("node/nodes/a", h5py.SoftLink("/nowhere")), "a damaged file of HDF5: /node/nodes/a holds nothing"),
    (lambda file: file.__setitem__("node/nodes/lif/nodes", file["node"]), "a damaged file of HDF5: maximum recursion"),
    (lambda file: (file.__delitem__("node"), file.__setitem__("node", 3)), "it has no /node with a type in it, only node, version"),
    (lambda file: (file.__delitem__("node/type"), file.__setitem__("node/type", [1, 2])), "it has no /node with a type in it"),
])  # fmt: skip
def test_a_file_that_holds_something_else(spoil, says, tmp_path):
    nir.write(tmp_path / "g.nir", between(LIF, shape=(3,)))
    with h5py.File(tmp_path / "g.nir", "a") as file:
        if "lif" not in file["node/nodes"]:
            file.move("node/nodes/n0", "node/nodes/lif")
        spoil(file)
    with pytest.raises(ValueError, match=says):
        snf.nir.read(tmp_path / "g.nir")


# ------------------------------------------------------------------------------------------------ what is written


LEAKY = snf.LifParams(torch.tensor([0.5, 0.6, 0.7]), reset_mechanism="value")


def line(seed=0):
    return snf.Linear.random(3, 3, generator=torch.Generator().manual_seed(seed))


def test_a_network_may_end_with_a_way_around(tmp_path):
    net = snf.chain(snf.residual(snf.linear, snf.lif), snf.linear, snf.residual(snf.linear, snf.lif))
    params = ((line(), LEAKY), line(1), (line(2), LEAKY))
    snf.nir.write(net, params, tmp_path / "g.nir")
    assert_equal(run(tmp_path / "g.nir", X), snf.scan(net.step, params, net.init(params, X[0]), X, kind="loop")[0])


def test_an_integrator_with_a_number_for_each_neuron(tmp_path):
    params = snf.LifParams(torch.ones(3), leak=torch.zeros(3), reset_mechanism="value")
    snf.nir.write(snf.lif, params, tmp_path / "g.nir")
    assert_equal(run(tmp_path / "g.nir", X), snf.scan(snf.lif.step, params, snf.lif.init(params, X[0]), X)[0])


def test_weights_in_half_precision_are_written_as_they_are(tmp_path):
    weight = line().weight.bfloat16()
    snf.nir.write(snf.linear, snf.Linear(weight), tmp_path / "g.nir")
    assert_equal(snf.nir.read(tmp_path / "g.nir")[1]["0"].weight, weight.float())


@pytest.mark.parametrize("name", ["a/b", "", "."])
def test_a_file_has_no_room_for_some_names(name, tmp_path):
    source = described({name: LIF}, "")
    source["edges"] += [("input", name), (name, "output")]
    neuron, params = snf.nir.read(source)
    assert name in snf.nir.write(neuron, params).nodes
    with pytest.raises(ValueError, match=f"a node is called {name!r}, and in a file"):
        snf.nir.write(neuron, params, tmp_path / "g.nir")


@pytest.mark.parametrize("call, says", [
    (lambda: snf.nir.write(snf.chain(snf.linear, snf.lif), (line(),)), "has a tuple of 2 params, but one of 1 came"),
    (lambda: snf.nir.write(snf.chain(snf.linear, snf.lif), (line(), line())), "layer 1: lif has LifParams, but a Linear came"),
    (lambda: snf.nir.write(snf.linear, LEAKY), "layer 0: linear has Linear, but a LifParams came"),
    (lambda: snf.nir.write(snf.lif, LEAKY, shape=3), r"nir.write\(shape=3\): expected the axes of one step"),
    (lambda: torch.func.grad(lambda beta: snf.nir.write(snf.lif, snf.LifParams(beta)))(torch.tensor(0.5)), "within a transform"),
    (lambda: torch.func.vmap(lambda beta: snf.nir.write(snf.lif, snf.LifParams(beta)))(torch.rand(3)), "within a transform"),
])  # fmt: skip
def test_what_does_not_belong_is_named(call, says):
    with pytest.raises(TypeError, match=says):
        call()


def test_double_precision_may_have_no_time_constant():
    params = snf.LifParams(torch.tensor([0.3], dtype=torch.float64), reset_mechanism="value")
    with pytest.raises(
        ValueError, match="beta. A share in double precision may have no time constant .* torch.float32"
    ):
        snf.nir.write(snf.lif, params, shape=(1,))
