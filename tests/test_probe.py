"""Monitors: what they record is what passed, of the layers they were told, while they are on."""

import gc
import weakref

import pytest
import torch
from torch import nn

from snn_functional import snn
from snn_functional.snn import functional as SF
from snn_functional.snn.functional import probe
from snn_functional.snn.functional.probe import (
    AttributeMonitor,
    GradInputMonitor,
    GradOutputMonitor,
    InputMonitor,
    OutputMonitor,
)


class Net(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.fc1 = nn.Linear(4, 5)
        self.lif1 = snn.Leaky(0.9, threshold=0.3, init_hidden=True)
        self.block = nn.Sequential(nn.Linear(5, 3), snn.Synaptic(0.5, 0.9, threshold=0.3, init_hidden=True, **options))

    def forward(self, x):
        return self.block(self.lif1(self.fc1(x)))


NEURONS = (snn.Leaky, snn.Synaptic)
MONITORS = {
    OutputMonitor: (),
    InputMonitor: (),
    AttributeMonitor: ("mem", False),
    GradInputMonitor: (),
    GradOutputMonitor: (),
}
each = pytest.mark.parametrize("Monitor", MONITORS, ids=lambda m: m.__name__)
xs = torch.rand(6, 2, 4)


def make(Monitor, net, *args, **options):
    return Monitor(*MONITORS[Monitor], net, *args, **options)


def use(net, xs=xs):
    sum(net(x) for x in xs).sum().backward()


@each
def test_records_by_number_and_by_layer(Monitor):
    net = Net()
    monitor = make(Monitor, net, NEURONS)
    use(net, xs[:3])
    assert monitor.monitored_layers == ["lif1", "block.1"]
    assert len(monitor.records) == 6 and monitor[1] is monitor.records[1] and monitor[-1] is monitor.records[5]
    assert [len(monitor[name]) for name in monitor.monitored_layers] == [3, 3]
    assert all(record.shape == (2, 5) for record in monitor["lif1"])
    assert sorted(i for indices in monitor.name_records_index.values() for i in indices) == list(range(6))


def test_what_is_recorded():
    net = Net()
    out, into, mem, before = (
        OutputMonitor(net, NEURONS),
        InputMonitor(net, NEURONS),
        AttributeMonitor("mem", False, net, NEURONS),
        AttributeMonitor("mem", True, net, NEURONS),
    )
    linear = OutputMonitor(net, nn.Linear)
    spks = [net(x) for x in xs]
    assert all(a is b for a, b in zip(out["block.1"], spks))
    assert all(a is b for a, b in zip(into["lif1"], linear["fc1"]))
    assert mem["lif1"][-1] is net.lif1.mem and mem["block.1"][-1] is net.block[1].mem
    assert before["lif1"][0] is None and all(a is b for a, b in zip(before["lif1"][1:], mem["lif1"]))  # B18


def test_gradients_are_those_of_autograd():
    net = Net()
    into, out = GradInputMonitor(net, snn.Leaky), GradOutputMonitor(net, snn.Leaky)
    kept = (
        InputMonitor(net, snn.Leaky, lambda x: x.retain_grad() or x),
        OutputMonitor(net, snn.Leaky, lambda x: x.retain_grad() or x),
    )
    sum((net(x) * (t + 1)).sum() for t, x in enumerate(xs)).backward()
    # Hooks see the last step's first.
    for monitor, reference in zip((into, out), kept):
        torch.testing.assert_close(monitor.records[0], reference.records[-1].grad)
        assert len(monitor.records) == 6 and monitor.records[0].abs().sum() > 0


@each
def test_the_function_is_applied(Monitor):
    net = Net()
    monitor, plain = make(Monitor, net, snn.Leaky, lambda x: x.detach().sum()), make(Monitor, net, snn.Leaky)
    use(net)
    assert all(
        torch.equal(a, b.sum()) and not a.requires_grad for a, b in zip(monitor.records, plain.records, strict=True)
    )


@each
def test_the_switches(Monitor):
    net = Net()
    monitor = make(Monitor, net, snn.Leaky)
    assert monitor.is_enable()
    monitor.disable()
    assert not monitor.is_enable()
    use(net)
    assert monitor.records == [] == monitor["lif1"]
    monitor.enable()
    snn.utils.reset(net)
    use(net)
    assert len(monitor.records) == len(monitor["lif1"]) == 6
    monitor.clear_recorded_data()
    assert monitor.records == [] == monitor["lif1"] and monitor.monitored_layers == ["lif1"]
    snn.utils.reset(net)
    use(net, xs[:2])
    assert len(monitor["lif1"]) == 2
    monitor.remove_hooks()
    snn.utils.reset(net)
    use(net)
    assert len(monitor.records) == 2 and monitor.hooks == []
    monitor.remove_hooks()


@each
def test_a_monitor_that_is_gone_leaves_the_network(Monitor):
    net = Net()
    monitor = make(Monitor, net, snn.Leaky)
    reference = weakref.ref(monitor)
    hooks = lambda: [*net.lif1._forward_hooks, *net.lif1._forward_pre_hooks, *net.lif1._backward_hooks]
    assert len(hooks()) == 1
    del monitor
    gc.collect()
    assert reference() is None and hooks() == []


@each
def test_without_a_class_the_networks_own_is_watched(Monitor):
    layer = snn.Leaky(0.9, threshold=0.3, init_hidden=True)
    monitor = make(Monitor, layer)
    x = torch.rand(2, 3, requires_grad=True)
    layer(x).sum().backward()
    assert monitor.monitored_layers == [""] and monitor[""][0].shape == (2, 3)


@pytest.mark.parametrize("name", ["beta", "reset_mechanism", "threshold", "training", "spike_grad"])
@pytest.mark.parametrize("pre_forward", [True, False])
def test_any_attribute_is_read(name, pre_forward):
    """B18: snnTorch reads buffers and parameters only, and nothing before the forward."""
    net = Net()
    monitor = AttributeMonitor(name, pre_forward, net, snn.Leaky)
    net(xs[0])
    assert monitor["lif1"] == [getattr(net.lif1, name)]
    with pytest.raises(AttributeError, match="'Leaky' object has no attribute 'voltage'"):
        monitor = AttributeMonitor("voltage", pre_forward, net, snn.Leaky)
        net(xs[0])


def test_several_inputs_or_outputs_are_a_tuple():
    layer = snn.Leaky(0.9)
    into, out = InputMonitor(layer), OutputMonitor(layer)
    result = layer(xs[0], xs[1])
    assert out[0] is result and torch.equal(torch.stack(into[0]), xs[:2]) and type(into[0]) is tuple
    assert probe.unpack_len1_tuple((1,)) == 1 == probe.unpack_len1_tuple(1) and probe.unpack_len1_tuple((1, 2)) == (
        1,
        2,
    )


def test_under_vmap():
    net = nn.Linear(4, 3)
    monitor = OutputMonitor(net, function_on_output=lambda y: y.shape)
    torch.func.vmap(net)(xs[0])
    assert monitor.records == [(3,)]


@pytest.mark.parametrize(
    "call, error, says",
    [
        (
            lambda: OutputMonitor(Net(), instance=snn.Leaky(0.9)),
            TypeError,
            r"OutputMonitor\(instance=Leaky\(...\)\): expected the class .* instance=Leaky",
        ),
        (lambda: InputMonitor(Net(), (snn.Leaky, "Synaptic")), TypeError, "expected the class of the layers"),
        (
            lambda: InputMonitor(Net(), snn.Alpha),
            ValueError,
            r"no layer of net is a .*Alpha.*made of \['Leaky', 'Linear', 'Net'",
        ),
        (lambda: OutputMonitor(Net(), snn.Leaky)["lif2"], KeyError, r"'lif2' is not watched; .*\['lif1'\]"),
        (
            lambda: AttributeMonitor("mem", False, nn.Sequential(snn.Leaky(0.9)), snn.Leaky),
            ValueError,
            r"0.mem is passed in and out, not kept \(init_hidden=False\)",
        ),
    ],
)
def test_refuses(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_names_are_those_of_snntorch():
    for name in [m.__name__ for m in MONITORS] + ["BaseMonitor", "unpack_len1_tuple"]:
        assert getattr(SF, name) is getattr(probe, name)
