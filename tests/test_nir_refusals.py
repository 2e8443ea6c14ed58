"""`snf.nir.read` refuses what cannot be right, with the node or the edge."""

import pytest
import torch
from nirs import affine, between, graph, LIF, nir, node, np, W

import snn_functional as snf


def conv(channels, kernel, stride=1, padding=0):
    return nir.Conv2d(None, np.ones((2, channels, *kernel)), stride, padding, 1, 1, np.ones(2))


@pytest.mark.parametrize("source, says", [
    (between(node("LIF", 4), shape=(3,)), r"node 'n0' \(LIF\): it is of \(4,\), but gets \(3,\)"),
    (between(node("LIF", 3, tau=0.0), shape=(3,)), r"node 'n0' \(LIF\): tau is a time constant in seconds, above 0, but 0 came"),
    (between(node("CubaLIF", 3, tau_syn=5e-5), shape=(3,)), r"tau_syn = 5e-05 s is shorter than a step, dt=0.0001 s"),
    (between(affine(3, 4), shape=(2, 2)), r"node 'n0' \(Affine\): it takes \(4,\), but gets \(2, 2\). A Flatten is missing"),
    (between(nir.Delay(np.array([1.5e-4])), shape=(1,)), r"node 'n0' \(Delay\): a delay is a whole number of steps.*1.5 steps"),
    (between(nir.Flatten({"input": None}, 0, 3), shape=(2, 3)), "it flattens the axes 0 to 3, counted without the batch, but gets"),
    (between(nir.Scale(np.array([1.0, np.nan])), shape=(2,)), r"node 'n0' \(Scale\): scale holds NaN"),
    (between(conv(3, (3, 3)), shape=(2, 8, 8)), r"takes 3 channels of 2 axes, but gets \(2, 8, 8\)"),
    (between(conv(2, (9, 3)), shape=(2, 8, 8)), "is larger than what it gets"),
    (between(conv(2, (3, 3), 2, "same"), shape=(2, 8, 8)), 'padding "same" goes with a stride of 1'),
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
    nodes = {
        "input": {"type": "Input", "shape": np.array([3])},
        "lif": lif,
        "output": {"type": "Output", "shape": np.array([3])},
    }
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
    ({"type": "Delay", "delay": "long"}, r"node 'lif' \(Delay\): delay holds no numbers, but 'long'"),
])  # fmt: skip
def test_parameters_that_are_wrong_are_named(changes, says):
    with pytest.raises(ValueError, match=says):
        snf.nir.read(described(**changes))


def test_files_before_0_2_have_no_v_reset():
    assert snf.nir.read(described())[1]["lif"].reset.tolist() == [0, 0, 0]


def test_a_graph_without_an_output():
    source = described()
    del source["nodes"]["output"], source["edges"][1]
    with pytest.raises(
        ValueError, match="the graph has no Output node, so nothing to give. Its nodes are 'input', 'lif'"
    ):
        snf.nir.read(source)


def test_what_is_no_graph(tmp_path):
    with pytest.raises(TypeError, match="expected the path of a .nir file or a nir.NIRGraph, but int came"):
        snf.nir.read(3)
    with pytest.raises(TypeError, match="params are of a floating dtype"):
        snf.nir.read(between(LIF, shape=(3,)), dtype=torch.int32)
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
    with pytest.raises(
        TypeError, match=r"params is a dictionary by the names of nodes, \['n0', 'n1'\], but \['n0'\] came"
    ):
        neuron.step({"n0": params["n0"]}, state, torch.rand(2, 3))
    with pytest.raises(TypeError, match=r"state is a dictionary by the names of nodes, \['n1'\]"):
        neuron.step(params, {}, torch.rand(2, 3))
