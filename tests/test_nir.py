"""`snf.nir.read`: every kind of node, shapes, orders, and what is refused."""

import dataclasses

import optree
import pytest
import torch
from hypothesis import given, strategies as st

import snn_functional as snf
from helpers import assert_allclose, assert_equal, law


np = pytest.importorskip("numpy")
nir = pytest.importorskip("nir", reason="pip install nir")


def node(kind, *shape, **numbers):
    """A neuron with plain numbers, as the library has it."""
    usual = {"r": 2.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0, "tau": 4e-4, "tau_mem": 4e-4, "tau_syn": 2e-4, "w_in": 1.0}
    names = [f.name for f in dataclasses.fields(getattr(nir, kind)) if f.name in usual]
    return getattr(nir, kind)(**{key: np.full(shape, numbers.get(key, usual[key])) for key in names})


def between(*nodes, shape, outputs=None):
    """A row of nodes."""
    names = ["input", *(f"n{i}" for i in range(len(nodes))), "output"]
    inside = dict(zip(names, [nir.Input(np.array(shape)), *nodes, nir.Output(np.array(outputs or shape))]))
    return nir.NIRGraph(inside, list(zip(names, names[1:])), type_check=False)


def graph(edges, shape=(3,), **nodes):
    """A graph of nodes by name, with an input and an output."""
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array(shape))}
    pairs = [tuple(edge.split(">")) for edge in edges.split()]
    return nir.NIRGraph(ends | nodes, pairs, type_check=False)


def run(source, xs, kind="loop", **how):
    neuron, params = snf.nir.read(source, **how)
    return snf.scan(neuron.step, params, neuron.init(params, optree.tree_map(lambda x: x[0], xs)), xs, kind=kind)[0]


def affine(rows, columns, seed=0):
    draw = np.random.default_rng(seed)
    return nir.Affine(draw.integers(-8, 9, (rows, columns)) / 8, draw.integers(-4, 5, rows) / 8)


EQUATIONS = {  # the step of each, Euler's, from its differential equation; the state is (v, i)
    "I": lambda p, v, i, x: (v + p.r * x, i),
    "IF": lambda p, v, i, x: (v + p.r * x, i),
    "LI": lambda p, v, i, x: (v + 1e-4 / p.tau * (p.v_leak - v + p.r * x), i),
    "LIF": lambda p, v, i, x: (v + 1e-4 / p.tau * (p.v_leak - v + p.r * x), i),
}


def cuba(p, v, i, x):
    i = i + 1e-4 / p.tau_syn * (p.w_in * x - i)
    return v + 1e-4 / p.tau_mem * (p.v_leak - v + p.r * i), i


EQUATIONS |= {"CubaLI": cuba, "CubaLIF": cuba}


@pytest.mark.parametrize("kind", EQUATIONS)
def test_a_neuron_goes_through_eulers_step_of_its_equation(kind):
    draw = np.random.default_rng(1)
    theirs = node(kind, 5)
    for name, values in {"r": [1, 2, 4, 8, 3], "v_leak": [0, 0.25, -0.5, 0.125, 0], "v_threshold": [1, 0.5, 2, 0.75, 1.5]}.items():
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
    assert_allclose(run(between(node("I", 1, r=1e4), shape=(1,)), xs, platform=exact), torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1))


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


@pytest.mark.parametrize("start, end, shape", [(0, -1, (24,)), (1, -1, (2, 12)), (0, 1, (6, 4)), (-2, -1, (2, 12)), (-3, -2, (6, 4))])
@pytest.mark.parametrize("lead", [(), (5,), (5, 2)])
def test_flatten_counts_without_the_batch(start, end, shape, lead):
    xs = torch.rand(3, *lead, 2, 3, 4)
    assert_equal(run(between(nir.Flatten({"input": np.array([2, 3, 4])}, start, end), shape=(2, 3, 4)), xs), xs.reshape(3, *lead, *shape))


def test_lines_scale_and_threshold():
    xs = torch.rand(3, 2, 4)
    a, weight = affine(3, 4), np.random.default_rng(0).random((3, 4), dtype=np.float32)
    assert_allclose(run(between(a, shape=(4,)), xs.double(), dtype=torch.float64), xs.double() @ torch.from_numpy(a.weight).T + torch.from_numpy(a.bias))
    assert_allclose(run(between(nir.Linear(weight), shape=(4,)), xs), xs @ torch.from_numpy(weight).T)
    s = np.array([1, 2, 4, 0.5])
    assert_equal(run(between(nir.Scale(s), shape=(4,)), xs), xs * torch.tensor(s).float())
    assert_equal(run(between(nir.Threshold(np.array([0.1, 0.5, 0.9, 2.0])), shape=(4,)), xs), (xs > torch.tensor([0.1, 0.5, 0.9, 2.0])).float())


@pytest.mark.parametrize("steps", [[3, 3, 3], [0, 1, 4], [0, 0, 0], [2, 7, 2]])
def test_a_delay_is_so_many_steps_of_each_neuron(steps):
    xs = torch.rand(9, 2, 3)
    expected = torch.zeros_like(xs)
    for n, k in enumerate(steps):
        expected[k:, :, n] = xs[: 9 - k, :, n]
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
    loose["nodes"] = {"scale": {"type": "Scale", "scale": np.full(3, 2.0)}, "out": {"type": "Output", "shape": np.array([3])}}
    loose["edges"] = [("scale", "out")]
    assert_equal(run(loose, torch.ones(2, 3)), torch.full((2, 3), 2.0))


# Orders -----------------------------------------------------------------------------------------------------------------------------


def recurrent(source, **how):
    return snf.nir.read(source, **how)[0].step.recurrent


LIF = node("LIF", 3)
W = affine(3, 3)


@pytest.mark.parametrize("edges, back", [
    ("input>lif lif>lif lif>output", ["lif>lif"]),
    ("input>lif lif>w w>lif lif>output", ["w>lif"]),
    ("input>w w>lif lif>w lif>output", ["lif>w"]),  # the line gets what is new, and what was
    ("input>lif lif>w w>b b>top top>lif b>output", ["top>lif"]),  # two layers, and back from above
    ("input>lif input>b lif>b b>lif b>output lif>output", ["b>lif", "lif>b"]),  # neither is first
    ("input>lif input>b lif>w w>b b>lif b>output", ["b>lif"]),  # the way to the output is not delayed
    ("input>lif lif>w w>lif lif>b b>top top>b b>c c>lif b>output", ["c>lif", "top>b", "w>lif"]),  # a cycle within a cycle
])  # fmt: skip
def test_which_edge_is_recurrent(edges, back):
    kinds = {"lif": LIF, "b": LIF, "w": W, "top": W, "c": W}
    used = {name: kind for name, kind in kinds.items() if f">{name}" in edges or f"{name}>" in edges}
    expected = tuple(tuple(edge.split(">")) for edge in back)
    assert tuple(sorted(recurrent(graph(edges, **used)))) == expected
    turned = " ".join(reversed(edges.split()))
    assert tuple(sorted(recurrent(graph(turned, **dict(reversed(used.items())))))) == expected


def test_names_decide_nothing():
    for first, second in (("a", "z"), ("z", "a")):
        edges = f"input>{first} {first}>{second} {second}>{first} {second}>output"
        assert recurrent(graph(edges, **{first: LIF, second: LIF})) == ((second, first),)


def test_recurrent_edges_may_be_named():
    source = graph("input>lif lif>w w>lif lif>output", lif=LIF, w=W)
    assert recurrent(source, recurrent=[("lif", "w")]) == (("lif", "w"),)
    with pytest.raises(ValueError, match="is no edge of the graph"):
        snf.nir.read(source, recurrent=[("w", "output")])
    with pytest.raises(ValueError, match="'lif' -> 'w' -> 'lif' wait for one another"):
        snf.nir.read(source, recurrent=[])


def test_a_delay_closes_a_cycle_by_itself():
    """What comes back after three steps comes after three, not four."""
    source = graph("input>if if>d d>if if>output", **{"if": node("IF", 3, r=1.0), "d": nir.Delay(np.full(3, 3e-4))})
    assert recurrent(source) == ()
    xs = torch.zeros(12, 1, 3)
    xs[0] = 1.5
    fired = run(source, xs)[:, 0, 0]
    assert fired.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]  # 1 is not above the threshold
    source.nodes["if"].r = np.full(3, 2.0)
    for kind in ("loop", "auto"):
        assert run(source, xs, kind=kind)[:, 0, 0].tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0]
    source.nodes["d"].delay = np.zeros(3)
    assert recurrent(source) == (("d", "if"),)


def test_a_recurrent_edge_holds_nothing_before_the_first_step():
    source = graph("input>lif lif>w w>lif lif>output", lif=node("I", 3, r=1.0), w=nir.Affine(np.zeros((3, 3)), np.ones(3)))
    xs = torch.zeros(4, 1, 3)
    assert run(source, xs)[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert run(source, xs, before="silence")[:, 0, 0].tolist() == [1, 2, 3, 4]


def test_graphs_within_a_graph():
    """One edge to the graph, or to a node within: both forms are about."""
    inner = graph("input>lif lif>w w>lif lif>output", lif=LIF, w=W)
    plain = graph("input>lif lif>w w>lif lif>output", lif=LIF, w=W)
    nodes = {"input": nir.Input(np.array([3])), "sub": inner, "output": nir.Output(np.array([3]))}
    xs = torch.rand(20, 2, 3) * 3
    for edges in ([("input", "sub"), ("sub", "output")], [("input", "sub.input"), ("sub.output", "output")], [("input", "sub.lif"), ("sub.lif", "output")]):
        outer = nir.NIRGraph.__new__(nir.NIRGraph)  # which the library itself does not make of such edges
        outer.nodes, outer.edges, outer.metadata = nodes, edges, {}
        assert_equal(run(outer, xs), run(plain, xs))
        neuron, params = snf.nir.read(outer)
        assert sorted(params) == ["sub.lif", "sub.w"] and neuron.step.recurrent == (("sub.w", "sub.lif"),)
    outer.edges = [("input", "sub.nobody"), ("sub", "output")]
    with pytest.raises(ValueError, match="edge 'input' -> 'sub.nobody': there is no node 'nobody'"):
        snf.nir.read(outer)


@st.composite
def networks(draw):
    """Any graph of lines and neurons, cycles and all, that NIR has a meaning for."""
    names = [f"n{i}" for i in range(draw(st.integers(1, 5)))]
    nodes = {name: draw(st.sampled_from([LIF, node("CubaLIF", 3), node("LI", 3), W, nir.Scale(np.full(3, 0.5))])) for name in names}
    ends = st.lists(st.sampled_from(names), min_size=1, unique=True)
    edges = {(a, b) for b in names for a in draw(ends) if isinstance(nodes[b], nir.LIF) or a < b}
    edges |= {("input", name) for name in draw(ends)} | {(name, "output") for name in draw(ends)}
    return nir.NIRGraph({"input": nir.Input(np.array([3])), "output": nir.Output(np.array([3]))} | nodes, sorted(edges), type_check=False)


def by_hand(source, xs):
    """The graph's own meaning: each node on the sum of what came, recurrent edges a step late."""
    neuron, params = snf.nir.read(source, dtype=torch.float64)
    late, state, last, outs = set(neuron.step.recurrent), {}, {}, []
    edges = [*source.edges, *((f"input_{n}", n) for n in source.nodes if n != "input" and not any(b == n for _, b in source.edges))]
    for x in xs.numpy():
        values = {"input": x} | {a: x for a, _ in edges if a.startswith("input_")}
        while len(values) < len({*source.nodes, *values}):
            for name, theirs in source.nodes.items():
                into = [a for a, b in edges if b == name]
                if name in values or any(a not in values and (a, name) not in late for a in into):
                    continue
                came = sum(last.get((a, name), 0.0) if (a, name) in late else values[a] for a in into) + np.zeros_like(x)
                values[name] = one(theirs, state, name, came)
        last = {edge: values[edge[0]] for edge in late}
        outs.append(values["output"])
    return torch.from_numpy(np.stack(outs))


def one(theirs, state, name, x):
    if isinstance(theirs, nir.Affine):
        return x @ theirs.weight.T + theirs.bias
    if isinstance(theirs, nir.Scale):
        return x * theirs.scale
    if type(theirs).__name__ not in EQUATIONS:
        return x
    v, i = EQUATIONS[type(theirs).__name__](theirs, *state.get(name, (np.zeros_like(x), np.zeros_like(x))), x)
    if not hasattr(theirs, "v_threshold"):
        state[name] = v, i
        return v
    spk = v > theirs.v_threshold
    state[name] = np.where(spk, theirs.v_reset, v), i
    return spk.astype(float)


@law
@given(networks(), st.integers(0, 99))
def test_any_graph_is_what_its_edges_say(source, seed):
    try:
        neuron, params = snf.nir.read(source)
    except ValueError as error:
        assert "none of them remembers anything" in str(error)
        return
    inputs = neuron.step.of_kind("Input")
    xs = torch.from_numpy(np.random.default_rng(seed).integers(0, 33, (12, 2, 3)) / 8)
    given = xs if len(inputs) == 1 else {n.name: xs for n in inputs}
    outs = run(source, given, dtype=torch.float64)
    assert_allclose(outs, by_hand(source, xs))


# What else a pure step must do -----------------------------------------------------------------------------------------------------


def test_it_is_closed_under_transforms_and_planned_layer_by_layer():
    source = graph("input>a a>lif lif>w w>lif lif>b b>li li>output", a=affine(3, 3, 1), lif=LIF, w=W, b=affine(3, 3, 2), li=node("LI", 3))
    neuron, params = snf.nir.read(source)
    xs = torch.rand(10, 4, 3) * 3

    def loss(params, xs):
        return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)[0].square().mean()

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(params, xs)
    alone = torch.func.grad(loss)(params, xs[:, 2])
    assert_allclose(optree.tree_map(lambda x: x[2], grads), alone)
    assert all(bool(alone[name].weight.any()) for name in ("a", "w", "b")) and bool(alone["lif"].beta.any())
    plan = str(snf.explain(neuron.step, params, neuron.init(params, xs[0]), xs))
    assert "one kernel: state['lif'].mem, state['w -> lif'], with addmm" in plan and plan.count("once over all of time") == 2
    model = snf.module(neuron, params, learn="weight")
    assert_equal(model(xs), snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)[0])


def test_spikes_may_come_as_bools_and_params_be_wider():
    source = between(affine(3, 3), LIF, shape=(3,))
    xs = torch.rand(10, 4, 3) > 0.5
    assert_equal(run(source, xs), run(source, xs.float()))
    assert run(source, xs, dtype=torch.float64).dtype == torch.float64


# Refused ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source, says", [
    (between(node("LIF", 4), shape=(3,)), r"node 'n0' \(LIF\): it is of \(4,\), but gets \(3,\)"),
    (between(node("LIF", 3, tau=0.0), shape=(3,)), r"node 'n0' \(LIF\): tau is a time constant in seconds, above 0, but 0 came"),
    (between(node("CubaLIF", 3, tau_syn=5e-5), shape=(3,)), r"tau_syn = 5e-05 s is shorter than a step, dt=0.0001 s"),
    (between(affine(3, 4), shape=(2, 2)), r"node 'n0' \(Affine\): it takes \(4,\), but gets \(2, 2\). A Flatten is missing"),
    (between(nir.Delay(np.array([1.5e-4])), shape=(1,)), r"node 'n0' \(Delay\): a delay is a whole number of steps.*1.5 steps"),
    (between(nir.Flatten({"input": None}, 0, 3), shape=(2, 3)), "it flattens the axes 0 to 3, counted without the batch, but gets"),
    (between(nir.Scale(np.array([1.0, np.nan])), shape=(2,)), r"node 'n0' \(Scale\): scale holds NaN"),
    (between(nir.Conv2d(None, np.ones((2, 3, 3, 3)), 1, 0, 1, 1, np.ones(2)), shape=(2, 8, 8)), r"takes 3 channels of 2 axes, but gets \(2, 8, 8\)"),
    (between(nir.Conv2d(None, np.ones((2, 2, 9, 3)), 1, 0, 1, 1, np.ones(2)), shape=(2, 8, 8)), "is larger than what it gets"),
    (between(nir.Conv2d(None, np.ones((2, 2, 3, 3)), 2, "same", 1, 1, np.ones(2)), shape=(2, 8, 8)), 'padding "same" goes with a stride of 1'),
    (graph("input>w w>v v>w w>output", w=W, v=W), "'v', 'w' lead to one another, and none of them remembers anything"),
    (graph("input>w w>w w>output", w=W), "'w' lead to one another"),
    (graph("input>a a>output input>output", a=affine(3, 3)), None),
    (graph("input>a input>b a>output b>output", a=affine(2, 3), b=affine(3, 3)), r"added up, but it gets \(2,\) from 'a', \(3,\) from 'b'"),
    (graph("input>lif lif>w w>lif lif>output", lif=LIF, w=affine(2, 3)), r"node 'lif' \(LIF\): what leads to it is added up"),
    (graph("input>lif", lif=LIF), "no edge leads to the output 'output'"),
    (graph("input>lif lif>ghost lif>output", lif=LIF), "edge 'lif' -> 'ghost': there is no node 'ghost'"),
    (graph("input>lif input>lif lif>output", lif=LIF), "edge 'input' -> 'lif' is there twice"),
    (graph("input>lif lif>input lif>output", lif=LIF), "nothing leads to an input"),
])  # fmt: skip
def test_what_cannot_be_right_is_refused_by_name(source, says):
    if says is None:
        snf.nir.read(source)
        return
    with pytest.raises(ValueError, match=says):
        snf.nir.read(source)


def described(**changes):
    lif = {"type": "LIF"} | {key: np.ones(3) for key in ("tau", "r", "v_leak", "v_threshold")}
    nodes = {"input": {"type": "Input", "shape": np.array([3])}, "lif": lif, "output": {"type": "Output", "shape": np.array([3])}}
    lif |= changes
    for key in [key for key, x in lif.items() if x is None]:
        del lif[key]
    return {"type": "NIRGraph", "nodes": nodes, "edges": [("input", "lif"), ("lif", "output")]}


@pytest.mark.parametrize("changes, says", [
    ({"tau": None}, r"node 'lif' \(LIF\): it has no tau. It has r, v_leak, v_threshold"),
    ({"type": "Izhikevich"}, r"node 'lif' \(Izhikevich\) is of a kind that is not known here. Known are Affine, AvgPool2d.*Threshold"),
    ({"r": np.ones(())}, r"its parameters are of one shape.*tau \(3,\), r \(\)"),
    ({"gain": np.ones(3)}, "it has parameters that NIR does not give it: gain"),
    ({"tau": "fast"}, "tau holds no numbers, but 'fast'"),
])  # fmt: skip
def test_parameters_that_are_wrong_are_named(changes, says):
    with pytest.raises(ValueError, match=says):
        snf.nir.read(described(**changes))


def test_files_before_0_2_have_no_v_reset():
    assert snf.nir.read(described())[1]["lif"].reset.tolist() == [0, 0, 0]


def test_a_graph_without_an_output():
    source = described()
    del source["nodes"]["output"], source["edges"][1]
    with pytest.raises(ValueError, match="the graph has no Output node, so nothing to give. Its nodes are 'input', 'lif'"):
        snf.nir.read(source)


def test_what_is_no_graph(tmp_path):
    with pytest.raises(TypeError, match="expected the path of a .nir file or a nir.NIRGraph, but int came"):
        snf.nir.read(3)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        snf.nir.read(tmp_path / "none.nir")
    (tmp_path / "text.nir").write_text("no")
    with pytest.raises(ValueError, match="no HDF5 file, so no graph of NIR"):
        snf.nir.read(tmp_path / "text.nir")
    for how, says in (({"dt": 0}, "longer than 0 seconds"), ({"before": "bias"}, "nothing"), ({"platform": "brian"}, "It is one of norse"),
                      ({"platform": {"leak": 1}}, "unknown are leak"), ({"platform": {"decay": "exact"}}, "has one share")):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            snf.nir.read(between(LIF, shape=(3,)), **how)


def test_a_step_says_what_it_wants():
    neuron, params = snf.nir.read(between(affine(3, 3), LIF, shape=(3,)))
    state = neuron.init(params, torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"the input 'input' is \[..., 3\] at one step, but \(2, 4\) came"):
        neuron.init(params, torch.rand(2, 4))
    with pytest.raises(TypeError, match=r"params is a dictionary by the names of nodes, \['n0', 'n1'\], but \['n0'\] came"):
        neuron.step({"n0": params["n0"]}, state, torch.rand(2, 3))
    with pytest.raises(TypeError, match=r"state is a dictionary by the names of nodes, \['n1'\]"):
        neuron.step(params, {}, torch.rand(2, 3))
