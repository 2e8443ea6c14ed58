"""`snn.export_nir` and `snn.import_nir`: snnTorch's names over `snf.nir`."""

import pytest
import torch
from helpers import assert_allclose, assert_equal
from torch import nn

import snn_functional as snf
from snn_functional import snn
from snn_functional.snn.export_nir import export_to_nir
from snn_functional.snn.import_nir import import_from_nir


np = pytest.importorskip("numpy")
nir = pytest.importorskip("nir", reason="pip install nir")
ZERO = {"reset_mechanism": "zero", "init_hidden": True}
AT_ONCE = ZERO | {"reset_delay": False}


def outputs(net, xs):
    snn.utils.reset(net)
    return torch.stack([out[0] if isinstance(out := net(x), tuple) else out for x in xs]).detach()


def again(net, xs, **how):
    """What the module that is read back puts out, step by step; over time it is the same."""
    read = import_from_nir(export_to_nir(net, xs[0], **how))
    state, outs = None, []
    for x in xs:
        out, state = read(x, state)
        outs.append(out)
    assert_equal(read.over_time(xs).detach(), torch.stack(outs).detach())
    return torch.stack(outs).detach()


def test_a_network_goes_out_and_comes_back_with_the_same_spikes():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(8, 6), snn.Leaky(beta=torch.linspace(0.1, 0.9, 6), threshold=0.3, **ZERO), nn.Linear(6, 5, bias=False),
        snn.Synaptic(alpha=0.6, beta=0.7, threshold=0.1, output=True, **AT_ONCE),
    )  # fmt: skip
    xs = torch.rand(20, 3, 8) * 3
    expected = outputs(net, xs)
    assert 0 < expected.mean() < 1
    assert_equal(again(net, xs), expected)


def test_convolutions_pools_and_what_changes_nothing():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, (3, 5), stride=(2, 1), padding=(1, 0), bias=False), snn.Leaky(beta=0.9, threshold=0.2, **ZERO), nn.AvgPool2d(2),
        nn.Dropout(), nn.Flatten(), nn.Linear(16, 3), snn.Leaky(beta=0.5, threshold=0.1, **ZERO),
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[5].bias.fill_(0.1)
    xs = torch.rand(12, 3, 2, 8, 8)
    assert 0 < outputs(net, xs).mean() < 1
    assert_equal(again(net, xs), outputs(net, xs))
    assert sorted(export_to_nir(net, xs[0]).nodes) == ["0", "1", "2", "4", "5", "6", "input", "output"]


@pytest.mark.parametrize("feedback", [{"linear_features": 6}, {"all_to_all": False, "V": 0.3}])
def test_feedback(feedback):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), snn.RLeaky(beta=0.8, threshold=0.3, **feedback, **AT_ONCE))
    xs = torch.rand(15, 3, 8) * 2
    assert_allclose(again(net, xs), outputs(net, xs))
    with pytest.raises(ValueError, match="layer '0': its reset comes with the next step"):
        export_to_nir(nn.Sequential(snn.RLeaky(beta=0.8, linear_features=8, **ZERO)), xs[0])


class Twice(nn.Module):
    """A forward of one's own, with states in and out."""

    def __init__(self, between=lambda x: x):
        super().__init__()
        self.fc, self.lif, self.between = nn.Linear(8, 6), snn.Leaky(beta=0.9, reset_mechanism="zero"), between
        self.out = nn.Linear(6, 2)

    def forward(self, x, mem):
        spk, mem = self.lif(self.between(self.fc(x)), mem)
        return self.out(spk), spk, mem


def test_a_forward_of_ones_own():
    x, mem = torch.rand(3, 8), torch.zeros(3, 6)
    graph = export_to_nir(Twice(), x, model_fwd_args=[mem], ignore_dims=[0], model_name="net")
    assert graph.edges == [("input", "fc"), ("fc", "lif"), ("lif", "out"), ("out", "output_0"), ("lif", "output_1")]
    with pytest.raises(ValueError, match="what goes into 'lif' is neither the input nor what a layer put out"):
        export_to_nir(Twice(lambda x: x * 2), x, model_fwd_args=[mem])


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 6)

    def forward(self, x):
        return self.fc(x) + self.fc(x)


@pytest.mark.parametrize("net, says", [
    (nn.Sequential(nn.Linear(8, 2), snn.Leaky(beta=0.9)), "layer 1: reset_mechanism 'subtract' is not NIR's.*reset_mechanism=\"zero\""),
    (nn.Sequential(nn.Linear(8, 2), nn.ReLU()), "layer '1': NIR has no words for ReLU"),
    (nn.Sequential(snn.Leaky(beta=0.9, inhibition=True, **ZERO)), "NIR has no words for inhibition"),
    (Steps(), "'fc' is called 2 times in one forward"),
    (nn.Sequential(nn.Flatten(0)), "flattens the batch, too"),
])  # fmt: skip
def test_what_nir_cannot_say_is_refused(net, says):
    with pytest.raises(ValueError, match=says):
        export_to_nir(net, torch.rand(3, 8))


def test_a_functionalized_module_and_layers_of_torchs_in_a_chain(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.Sequential(snn.Leaky(beta=0.8, threshold=0.3, **ZERO)), nn.Linear(6, 2))
    step, params, state = snf.functionalize(net)
    params = {name: x * 1.5 for name, x in params.items()}
    snf.nir.write(step, params, tmp_path / "net.nir")
    neuron, found = snf.nir.read(tmp_path / "net.nir")
    xs = torch.rand(10, 3, 8)
    assert sorted(found) == ["0", "1.0", "2"]
    read = snf.scan(neuron.step, found, neuron.init(found, xs[0]), xs)[0]
    assert_equal(read, snf.scan(step, params, state, xs)[0])
    linear, of_linear = snf.layer(nn.Linear(8, 6))
    graph = snf.nir.write(snf.chain(linear, snf.lif), (of_linear, snf.LifParams(0.9, reset_mechanism="value")))
    assert sorted(graph.nodes) == ["0", "1", "input", "output"]
    with pytest.raises(ValueError, match="Steps has a forward of its own.*export_to_nir"):
        snf.nir.write(*snf.functionalize(Steps())[:2])


def test_what_is_no_module():
    with pytest.raises(TypeError, match="module is an nn.Module, not Neuron"):
        export_to_nir(snf.leaky, torch.rand(1, 3))


def test_a_graph_of_others_steps_as_snntorch_does_and_every_number_counts():
    lif = nir.LIF(*(np.array(x) for x in ([1e-3, 2e-3], [3.0, 4.0], [0.1, -0.2], [0.2, 0.3], [0.0, -0.1])))
    net = import_from_nir(nir.NIRGraph.from_list(lif))
    assert net.neuron.step.platform == snf.nir.platforms["snntorch"]
    assert_allclose(net.params["lif"].gain, torch.tensor([0.3, 0.2]))
    assert_allclose(net.params["lif"].leak, torch.tensor([0.1, -0.2]))
    assert {name for name, _ in net.named_parameters()} >= {"scanned.lif.beta", "scanned.lif.threshold"}
    assert (
        import_from_nir(nir.NIRGraph.from_list(lif), platform="norse").neuron.step.platform
        == snf.nir.platforms["norse"]
    )


def test_it_learns():
    net = import_from_nir(nir.NIRGraph.from_list(nir.Affine(np.ones((2, 3)), np.zeros(2))))
    net.over_time(torch.rand(4, 2, 3)).sum().backward()
    assert all(p.grad.any() for p in net.parameters())
