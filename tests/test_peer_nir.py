"""Graphs of NIR, read here and by Norse and SpikingJelly. In a virtual environment that has them."""

import pytest
import torch

import snn_functional as snf


norse = pytest.importorskip(
    "norse.torch", reason="compared with Norse and SpikingJelly, each in an environment of its own"
)
np = pytest.importorskip("numpy")
nir = pytest.importorskip("nir")


def recurrent():
    """A line, a recurrent CubaLIF, a line, a CubaLIF: numbers on a grid, so that every order of additions gives the same bits."""
    draw = np.random.default_rng(0)
    grid = lambda *shape, size=16: (draw.integers(-size, size + 1, shape) / 16).astype(np.float32)

    def cuba(n):
        full = lambda x: np.full(n, x, dtype=np.float32)
        return nir.CubaLIF(full(2e-4), full(4e-4), full(4.0), full(0.0), full(1.0), full(0.0), full(2.0))

    nodes = {"input": nir.Input(np.array([6])), "fc": nir.Affine(grid(5, 6), grid(5, size=4)), "lif": cuba(5)}
    nodes |= {
        "w": nir.Affine(grid(5, 5), grid(5, size=8)),
        "out": nir.Affine(grid(3, 5), grid(3, size=4)),
        "last": cuba(3),
    }
    nodes |= {"output": nir.Output(np.array([3]))}
    edges = "input>fc fc>lif lif>w w>lif lif>out out>last last>output"
    return nir.NIRGraph(nodes, [tuple(edge.split(">")) for edge in edges.split()])


def ours(graph, xs, **how):
    neuron, params = snf.nir.read(graph, **how)
    return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)[0]


def theirs(net, xs):
    state, outs = None, []
    for x in xs:
        out, state = net(x, state)
        outs.append(out.detach())
    return torch.stack(outs)


XS = (torch.rand(12, 4, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()


@pytest.mark.fidelity(
    model="nir",
    reference="Norse 1.1.0, `from_nir`",
    compared="spikes of a recurrent CubaLIF network, 12 steps on a grid of numbers",
    closely="equal",
    differs="nothing",
)
@pytest.mark.filterwarnings("ignore:nirtorch.load is being deprecated:DeprecationWarning")
def test_norse():
    found = theirs(norse.from_nir(recurrent(), dt=1e-4), XS)
    assert 0 < found.mean() < 1 and torch.equal(ours(recurrent(), XS, platform="norse"), found)


@pytest.mark.fidelity(
    model="nir",
    reference="SpikingJelly 2.0.0, `nir_exchange.import_from_nir`",
    compared="spikes of a recurrent CubaLIF network, 12 steps on a grid of numbers",
    closely="equal",
    differs="it fires at the threshold, too: a `Platform` says so",
)
def test_spikingjelly():
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange", reason="compared with SpikingJelly")
    found = theirs(exchange.import_from_nir(recurrent(), dt=1e-4), XS)
    platform = {"update": "decay", "inclusive": True}
    assert 0 < found.mean() < 1 and torch.equal(ours(recurrent(), XS, platform=platform), found)
