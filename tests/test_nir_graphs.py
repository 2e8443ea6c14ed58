"""`snf.nir.read`: which edge is recurrent, what it hands on, graphs within graphs, and any graph against its own meaning."""

import pytest
import torch
from helpers import assert_allclose, assert_equal, law
from hypothesis import given, strategies as st
from nirs import EQUATIONS, graph, LIF, nir, node, np, run, W

import snn_functional as snf


def recurrent(source, **how):
    return snf.nir.read(source, **how)[0].step.recurrent


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
    source = graph(
        "input>lif lif>w w>lif lif>output", lif=node("I", 3, r=1.0), w=nir.Affine(np.zeros((3, 3)), np.ones(3))
    )
    xs = torch.zeros(4, 1, 3)
    assert run(source, xs)[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert run(source, xs, before="silence")[:, 0, 0].tolist() == [1, 2, 3, 4]


def in_a_file(path, source):
    """As the first versions of the library wrote it, which checked nothing."""
    h5py = pytest.importorskip("h5py")

    def fill(group, found):
        group["type"] = type(found).__name__
        if isinstance(found, nir.NIRGraph):
            group["edges"] = np.array(found.edges, dtype=object)
            nodes = group.create_group("nodes")
            for name, inner in found.nodes.items():
                fill(nodes.create_group(name), inner)
        elif isinstance(found, nir.Input | nir.Output):
            group["shape"] = np.array([3])
        else:
            for key in set(vars(found)) - {"input_type", "output_type", "metadata", "v_reset"}:
                group[key] = getattr(found, key)

    with h5py.File(path, "w") as file:
        file["version"] = "0.1.1"
        fill(file.create_group("node"), source)
    return path


def test_graphs_within_a_graph(tmp_path):
    """One edge to the graph, or to a node within: both forms are about, and NIR's own library reads only the first."""
    inner = graph("input>lif lif>w w>lif lif>output", lif=LIF, w=W)
    plain = graph("input>lif lif>w w>lif lif>output", lif=LIF, w=W)
    nodes = {"input": nir.Input(np.array([3])), "sub": inner, "output": nir.Output(np.array([3]))}
    xs = torch.rand(20, 2, 3) * 3
    for edges in (
        [("input", "sub"), ("sub", "output")],
        [("input", "sub.input"), ("sub.output", "output")],
        [("input", "sub.lif"), ("sub.lif", "output")],
    ):
        outer = nir.NIRGraph.__new__(nir.NIRGraph)  # which the library itself does not make of such edges
        outer.nodes, outer.edges, outer.metadata = nodes, edges, {}
        for source in (outer, in_a_file(tmp_path / "outer.nir", outer)):
            assert_equal(run(source, xs), run(plain, xs))
        neuron, params = snf.nir.read(source)
        assert sorted(params) == ["sub.lif", "sub.w"] and neuron.step.recurrent == (("sub.w", "sub.lif"),)
    outer.edges = [("input", "sub.nobody"), ("sub", "output")]
    for source in (outer, in_a_file(tmp_path / "outer.nir", outer)):
        with pytest.raises(ValueError, match="edge 'input' -> 'sub.nobody': there is no node 'nobody'"):
            snf.nir.read(source)
    with pytest.raises(ValueError, match="references destination node 'sub.nobody' which does not exist"):
        nir.read(source)


@st.composite
def networks(draw):
    """Any graph of lines and neurons, cycles and all, that NIR has a meaning for."""
    names = [f"n{i}" for i in range(draw(st.integers(1, 5)))]
    nodes = {
        name: draw(st.sampled_from([LIF, node("CubaLIF", 3), node("LI", 3), W, nir.Scale(np.full(3, 0.5))]))
        for name in names
    }
    ends = st.lists(st.sampled_from(names), min_size=1, unique=True)
    edges = {(a, b) for b in names for a in draw(ends) if isinstance(nodes[b], nir.LIF) or a < b}
    edges |= {("input", name) for name in draw(ends)} | {(name, "output") for name in draw(ends)}
    return nir.NIRGraph(
        {"input": nir.Input(np.array([3])), "output": nir.Output(np.array([3]))} | nodes,
        sorted(edges),
        type_check=False,
    )


def by_hand(source, xs):
    """The graph's own meaning: each node on the sum of what came, recurrent edges a step late."""
    neuron, params = snf.nir.read(source, dtype=torch.float64)
    late, state, last, outs = set(neuron.step.recurrent), {}, {}, []
    edges = [
        *source.edges,
        *((f"input_{n}", n) for n in source.nodes if n != "input" and not any(b == n for _, b in source.edges)),
    ]
    for x in xs.numpy():
        values = {"input": x} | {a: x for a, _ in edges if a.startswith("input_")}
        while len(values) < len({*source.nodes, *values}):
            for name, theirs in source.nodes.items():
                into = [a for a, b in edges if b == name]
                if name in values or any(a not in values and (a, name) not in late for a in into):
                    continue
                came = sum(last.get((a, name), 0.0) if (a, name) in late else values[a] for a in into) + np.zeros_like(
                    x
                )
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
