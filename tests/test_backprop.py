"""`snn.backprop` against plain loops, and against the trainings that snnTorch's golden vectors hold."""

import copy

import pytest
import torch
from test_golden import array, GOLDEN, network
from torch import nn

from snn_functional import snn
from snn_functional.snn import backprop, functional as SF


TRAININGS = [net for net in GOLDEN["networks"] if net["kind"] != "forward"]


def batches(net):
    return [(array(net["arrays"][f"X{i}"]), array(net["arrays"][f"Y{i}"])) for i in range(net["batches"])]


@pytest.mark.parametrize("net", TRAININGS, ids=lambda net: net["id"])
def test_the_trainings_of_snntorch(net):
    layers = network(net)
    optimizer = torch.optim.SGD(layers.parameters(), lr=net["lr"])
    criterion = getattr(SF, net["criterion"]["name"])(**net["criterion"].get("args", {}))
    options = {"time_var": net["time_var"]} | ({} if net["time_var"] else {"num_steps": net["T"]})
    options |= {"K": net["K"]} if "K" in net else {}
    options |= {"regularization": SF.l1_rate_sparsity(net["reg"])} if "reg" in net else {}
    loss = getattr(backprop, net["kind"])(layers, batches(net), optimizer, criterion, **options)
    state = layers.state_dict()
    for key, name in net["arrays"].items():
        if key.startswith("final_"):
            torch.testing.assert_close(state[key.removeprefix("final_")], array(name), rtol=1e-4, atol=1e-5)
    if net["T"] % net.get("K", 1) == 0:
        assert float(loss) == pytest.approx(net["loss"], rel=1e-5)
    else:  # a remainder counts by its steps (T5); there it counted as a whole chunk and more
        assert float(loss) < net["loss"]


def made():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 8),
        snn.Leaky(0.9, threshold=0.3, init_hidden=True),
        nn.Linear(8, 4),
        snn.Synaptic(0.5, 0.8, threshold=0.2, init_hidden=True, output=True),
    )
    data = [(torch.rand(7, 3, 6), torch.randint(4, (3,))) for _ in range(4)]
    return net, data, torch.optim.SGD(net.parameters(), lr=0.1)


def by_hand(net, data, optimizer, criterion, K, mems):
    """The same, written out."""
    losses = []
    for xs, targets in data:
        snn.utils.reset(net)
        for start in range(0, len(xs), K):
            outputs = [net(x) for x in xs[start : start + K]]
            loss = criterion(torch.stack([out[-1 if mems else 0] for out in outputs]), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for layer in (net[1], net[3]):
                layer.detach_hidden()
            losses.append(loss.item() * len(outputs) / len(xs))
    return sum(losses) / len(data)


@pytest.mark.parametrize("K", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["ce_rate_loss", "ce_max_membrane_loss", "mse_count_loss"])
def test_every_chunk_is_the_loop_by_hand(K, name):
    """Time-varying data, several neuron types, several batches, a remainder (T1, T2, T3, T5)."""
    criterion = getattr(SF, name)()
    net, data, optimizer = made()
    mean = backprop.TBPTT(net, data, optimizer, criterion, K=K)
    plain, data, optimizer = made()
    assert float(mean) == pytest.approx(by_hand(plain, data, optimizer, criterion, K, "membrane" in name), rel=1e-5)
    assert not mean.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters()))


def test_bptt_and_rtrl_are_its_ends():
    criterion = SF.ce_rate_loss()
    for kind, K in ((backprop.BPTT, 7), (backprop.RTRL, 1)):
        net, data, optimizer = made()
        kind(net, data, optimizer, criterion)
        other, data, optimizer = made()
        backprop.TBPTT(other, data, optimizer, criterion, K=K)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def test_arguments_in_the_order_of_every_version():
    criterion, found = SF.ce_rate_loss(), []
    calls = [
        lambda net, data, o: backprop.TBPTT(net, data, o, criterion, False, True, True, False, "cpu", 3),  # 1.0.0
        lambda net, data, o: backprop.TBPTT(net, data, o, criterion, False, True, False, "cpu", 3),  # 0.4.11
        lambda net, data, o: backprop.TBPTT(net, data, 7, o, criterion, True, False, "cpu", 3),  # 0.4.10
        lambda net, data, o: backprop.TBPTT(
            net, [(x.transpose(0, 1), y) for x, y in data], o, criterion, time_first=False, K=3
        ),
    ]
    for call in calls:
        net, data, optimizer = made()
        call(net, data, optimizer)
        found.append(list(net.parameters()))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_a_constant_input_is_fed_again():
    criterion, (net, data, optimizer) = SF.mse_count_loss(), made()
    other, optimizer2 = copy.deepcopy(net), None
    optimizer2 = torch.optim.SGD(other.parameters(), lr=0.1)
    backprop.BPTT(net, [(x[0], y) for x, y in data], optimizer, criterion, num_steps=5, time_var=False)
    backprop.BPTT(other, [(x[0].expand(5, 3, 6), y) for x, y in data], optimizer2, criterion)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def test_a_membrane_criterion_of_ones_own_is_fed_the_membrane():
    fed = []

    def my_membrane_loss(mems, targets):
        fed.append(mems)
        return (mems**2).mean()

    net, data, optimizer = made()
    backprop.BPTT(net, data, optimizer, my_membrane_loss)
    assert len(set(fed[0].unique().tolist())) > 2


@pytest.mark.parametrize(
    "change, error, says",
    [
        ({"num_steps": 5}, ValueError, "num_steps=5 came with time_var=True"),
        ({"time_var": False}, ValueError, "needs a count"),
        ({"time_var": False, "num_steps": 3, "K": 4}, ValueError, "K=4 must be less than or equal to num_steps=3"),
        ({"K": 0.5}, ValueError, "expected the number of steps between two updates"),
        ({"dataloader": []}, ValueError, "gave no batch"),
        ({"dataloader": [1]}, TypeError, "pairs of tensors"),
        ({"criterion": 3}, TypeError, "Expected an optimizer and a criterion"),
        ({"criterion": lambda out, y: out}, TypeError, "gives one number"),
        ({"net": nn.Linear(6, 4)}, TypeError, "output=True"),
        ({"net": nn.Sequential(nn.Linear(6, 4), snn.Leaky(0.9))}, ValueError, "needs init_hidden=True"),
    ],
)
def test_refuses(change, error, says):
    net, data, optimizer = made()
    given = {"net": net, "dataloader": data, "optimizer": optimizer, "criterion": SF.ce_rate_loss()} | change
    with pytest.raises(error, match=says):
        backprop.TBPTT(**given)
