"""`snn.run` against its definition, the loop: the same outputs, gradients and hidden states, for all faces and any shape of network."""

import contextlib
import copy
import functools
import random
import warnings

import pytest
import torch
from test_faces import LAYERS, made
from torch import nn

import snn_functional as snf
from snn_functional import snn
from snn_functional.kernels import Node


X = torch.rand(6, 3, 7)
LEAKY = {"beta": 0.9, "threshold": 0.4, "init_hidden": True}


def loop(net, xs):
    returned = [net(x) for x in xs.unbind(0)]
    return torch.stack(returned) if isinstance(returned[0], torch.Tensor) else tuple(map(torch.stack, zip(*returned)))


def leaves(tree):
    return [tree] if isinstance(tree, torch.Tensor) else list(tree)


def states(net):
    return [vars(m._hidden) for m in net.modules() if isinstance(m, snn.LIF) and m._hidden is not None]


def assert_is_the_loop(net, xs, how="layer by layer", rounds=2):
    """Twice, so that the second time begins where the first ended; with the gradients of the input and of all parameters."""
    slow = copy.deepcopy(net)
    said = snn.explain(net, xs)
    if not (how == "layer by layer" and "which kernels need" in said):
        assert said.kind != "loop" if how == "layer by layer" else said.startswith(how), said
    totals = []
    for n, go in ((slow, loop), (net, snn.run)):
        x, total = xs.clone().requires_grad_(), 0
        expanded = x if xs.stride(0) else x[0].expand(xs.shape)
        for _ in range(rounds):
            out = leaves(go(n, expanded))
            torch.manual_seed(3)
            total = total + sum((y * torch.randn(y.shape)).sum() for y in out)
        total.backward()
        totals.append([*out, x.grad, *(p.grad for p in n.parameters() if p.grad is not None), *n.buffers()])
        totals[-1] += [v.detach() for state in states(n) for v in state.values()]
    assert len(totals[0]) == len(totals[1])
    assert any(x.any() for x in totals[0][0]), "nothing fires"
    for a, b in zip(*totals):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


VARIANTS = ("SLSTM without bias", "RLeaky one to one", "RSynaptic one to one", "RLeaky conv")  # of what others show


@pytest.mark.parametrize("which", [pytest.param(x, marks=pytest.mark.slow if x in VARIANTS else ()) for x in LAYERS])
def test_every_face_alone(which):
    layer, xs = made(which, init_hidden=True, output=True, learn_threshold=True)
    assert_is_the_loop(layer, xs)
    layer, xs = made(which, init_hidden=True, learn_threshold=True)
    assert_is_the_loop(nn.Sequential(nn.Identity(), layer), xs)


def dense(**options):
    hidden = snn.Leaky(**LEAKY, learn_beta=True)
    return nn.Sequential(
        nn.Linear(7, 20), hidden, nn.Linear(20, 5), snn.Synaptic(0.8, 0.7, threshold=0.3, init_hidden=True, **options)
    )


@pytest.mark.parametrize(
    "options", [{}, {"output": True}, {"inhibition": True}, {"reset_delay": False, "output": True}], ids=str
)
def test_a_dense_network(options):
    assert_is_the_loop(dense(**options), X)


def test_a_convolutional_network_with_an_input_constant_in_time():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), snn.Leaky(**LEAKY), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.AvgPool2d(2), snn.Leaky(**LEAKY),
        nn.Flatten(), nn.Linear(6, 5), snn.Leaky(0.9, threshold=0.1, init_hidden=True, output=True),
    )  # fmt: skip
    image = torch.rand(2, 1, 12, 12)
    assert_is_the_loop(net, image.expand(4, *image.shape))
    snn.utils.reset(net), net.zero_grad()
    assert_is_the_loop(net, torch.rand(4, 2, 1, 12, 12))


def test_what_is_constant_in_time_is_worked_out_once(monkeypatch):
    shapes, perform = [], Node.perform

    def performed(node, *args):
        result = perform(node, *args)
        if node.name == "addmm":
            shapes.append(tuple(result.shape))
        return result

    net = nn.Sequential(nn.Linear(7, 20), snn.Leaky(**LEAKY))
    monkeypatch.setattr(Node, "perform", performed)
    snn.run(net, X[0].expand(50, 3, 7))
    assert shapes == [(3, 20)]
    snn.run(net, X)
    assert shapes[1:] == [(18, 20)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("xs", [X, X[0].expand(6, 3, 7)], ids=["moving", "constant"])
def test_batch_normalisation_looks_at_one_step_at_a_time(training, xs):
    net = nn.Sequential(
        nn.Linear(7, 9), nn.BatchNorm1d(9), snn.Leaky(**LEAKY), nn.Linear(9, 4), nn.BatchNorm1d(4), snn.Leaky(**LEAKY)
    )
    # In float64: the gradient of a bias in front of a normalisation is 0, that is, what rounding leaves of large numbers.
    assert_is_the_loop(net.train(training).double(), xs.double())
    assert "forward" not in vars(net[1])


@pytest.mark.parametrize("xs", [X, X[0].expand(6, 3, 7)], ids=["moving", "constant"])
def test_dropout_draws_a_mask_for_each_step(xs):
    net = nn.Sequential(nn.Dropout(0.5), snn.Leaky(0.0, threshold=0.0, reset_mechanism="none", init_hidden=True))
    found = snn.run(net, xs)
    assert 0.3 < found.mean() < 0.7
    assert len({tuple(step.flatten().tolist()) for step in found}) == 6
    assert_is_the_loop(net.eval(), xs)


class OfItsOwn(nn.Module):
    """A forward of its own, with a branch, that feeds forward."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(7, 9), snn.Leaky(**LEAKY, output=True)
        self.fc2, self.lif2 = nn.Linear(9, 9), snn.RLeaky(0.8, linear_features=9, threshold=0.3, init_hidden=True)

    def forward(self, x):
        spk, mem = self.lif1(self.fc1(x))
        return self.lif2(self.fc2(spk) + spk), torch.relu(mem).view(x.size(0), -1)


class Feedback(OfItsOwn):
    """The last layer's spikes come back to the first one in the next step."""

    def forward(self, x):
        back = 0 if self.lif2.spk is None else self.lif2.spk
        spk, mem = self.lif1(self.fc1(x) + back)
        return self.lif2(self.fc2(spk)), mem


class Remembers(OfItsOwn):
    before = None

    def forward(self, x):
        spk, mem = self.lif1(self.fc1(x) + (0 if self.before is None else self.before))
        self.before = mem.detach() / 10
        return self.lif2(self.fc2(spk)), mem


class Meets(OfItsOwn):
    def forward(self, x):
        spk, mem = self.lif1(self.fc1(x - x.mean(0)))
        return self.lif2(self.fc2(spk)), mem


class Twice(OfItsOwn):
    def forward(self, x):
        _, mem = self.lif1(self.fc1(x))
        spk, _ = self.lif1(self.fc1(x) + mem)
        return self.lif2(self.fc2(spk)), mem


class Fixed(OfItsOwn):
    def forward(self, x):
        spk, mem = self.lif1(self.fc1(x))
        return self.lif2(self.fc2(spk.view(3, 9))), mem


@pytest.mark.parametrize(
    "Net, how",
    [
        (OfItsOwn, "layer by layer"),
        (Feedback, "layer by layer"),
        (Remembers, "step by step: it changes Remembers.before"),
        (Meets, "layer by layer"),
        (Twice, "layer by layer"),
        (Fixed, "layer by layer"),
    ],
)
def test_any_module_is_run_as_it_can_be(Net, how):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    net = Net()
    torch.random.set_rng_state(before)
    assert_is_the_loop(net, X, how)


class Gate(OfItsOwn):
    """Samples meet as soon as the gate opens, by learning."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        x = self.fc1(x)
        spk, mem = self.lif1(x - self.gate * x.mean(0))
        return self.lif2(self.fc2(spk)), mem


class Switch(OfItsOwn):
    center = False

    def __init__(self):
        super().__init__()
        self.center = False

    def forward(self, x):
        spk, mem = self.lif1(self.fc1(x - x.mean(0) if self.center else x))
        return self.lif2(self.fc2(spk)), mem


class Monitored(OfItsOwn):
    """It counts its steps, and how many spikes there were of late."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.steps += 1
        return super().forward(x)


class Counted(OfItsOwn):
    count = 0

    def forward(self, x):
        self.count += 1
        return super().forward(x)


def test_what_is_learned_switched_or_counted_is_seen():
    gated = Gate()
    assert_is_the_loop(gated, X)
    gated.gate.data.fill_(1.0)
    snn.utils.reset(gated), gated.zero_grad()
    assert_is_the_loop(gated, X)
    switched = Switch()
    assert_is_the_loop(switched, X, "layer by layer")
    switched.center = True
    snn.utils.reset(switched), switched.zero_grad()
    assert_is_the_loop(switched, X)
    monitored, counted = Monitored(), Counted()
    snn.run(monitored, X), snn.run(counted, X)
    assert float(monitored.steps) == counted.count == len(X)
    assert snn.explain(counted, X) == "step by step: it changes Counted.count."


class Loud(OfItsOwn):
    """A face is called twice, but in loud steps only: no rehearsal at usual numbers knows of it."""

    def forward(self, x):
        spk, mem = self.lif1(self.fc1(x))
        if x.max() > 10:
            spk, mem = self.lif1(self.fc1(x) - mem)
        return self.lif2(self.fc2(spk)), mem


@pytest.mark.parametrize("loud", [[2], [0, 5], range(6)], ids=str)
def test_a_branch_that_no_rehearsal_knows_begins_where_the_net_was(loud):
    """It is found out when the first layer has run over all of time: its state must be as if it had not."""
    torch.manual_seed(0)
    net, xs = Loud(), X.clone()
    for t in loud:
        xs[t, 0, 0] = 11.0
    snn.run(net, X)  # and it is planned
    twin = copy.deepcopy(net)
    for _ in range(2):
        for a, b in zip(snn.run(net, xs), loop(twin, xs)):
            torch.testing.assert_close(a, b)
            assert a.any()
        for found, expected in zip(states(net), states(twin)):
            assert found.keys() == expected.keys()
            for name in found:
                torch.testing.assert_close(found[name], expected[name])


def test_a_norm_over_the_batch_sees_one_step():
    net = nn.Sequential(nn.LayerNorm((3, 7)), snn.Leaky(**LEAKY))
    assert_is_the_loop(net, X, "layer by layer")


def test_a_convolution_without_a_batch_sees_one_step():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), snn.Leaky(**LEAKY))
    assert_is_the_loop(net, torch.rand(5, 1, 6, 6) * 5, "layer by layer")


@pytest.mark.parametrize("Net, how", [(Feedback, "layer by layer"), (Remembers, "step by step: it changes ")])
def test_a_recurrence_that_broadcasts_is_seen_too(Net, how):
    assert_is_the_loop(Net(), X[:, :1], how)


def test_what_is_tried_leaves_no_trace():
    net, before = Counted(), torch.random.get_rng_state()
    snn.explain(net, X), snn.run(net, X), snn.run(net, X)
    assert net.count == 2 * len(X) and torch.equal(torch.random.get_rng_state(), before)


def test_hooks_see_every_step():
    net, seen = dense(), []
    net[1].register_forward_hook(lambda module, given, spk: seen.append(spk.shape))
    assert snn.explain(net, X) == "step by step: the network has hooks, which look at each step."
    snn.run(net, X)
    assert seen == [(3, 20)] * 6


class Outside(nn.Module):
    """Hands the state on by itself."""

    def __init__(self):
        super().__init__()
        self.fc, self.lif, self.mem = nn.Linear(7, 5), snn.Leaky(0.9, threshold=0.1), torch.zeros(())

    def forward(self, x):
        spk, self.mem = self.lif(self.fc(x), self.mem)
        return spk


def test_states_outside_run_step_by_step():
    assert_is_the_loop(Outside(), X, "step by step: it changes Outside.mem")


def test_a_face_without_memory_is_refused():
    net = nn.Sequential(nn.Linear(7, 5), snn.Leaky(0.9))
    with pytest.raises(TypeError, match=r"Layer '1', Leaky\(init_hidden=False\), got no state.*init_hidden=True"):
        snn.run(net, X)
    net(X[0])  # alone it is at rest, and remains so
    step, params, state = snf.functionalize(net)
    for kind in ("auto", "loop"):
        with pytest.raises(TypeError, match="pass mem through forward"):
            snf.scan(step, params, state, X, kind=kind)


def test_without_a_batch_a_step_is_one_sample():
    assert_is_the_loop(dense(), X[:, 0], "layer by layer")


def test_one_step_and_a_network_without_neurons():
    assert_is_the_loop(dense(), X[:1])
    assert_is_the_loop(nn.Sequential(nn.Linear(7, 3)), X)
    assert_is_the_loop(nn.Sequential(nn.Linear(7, 3)), X[0].expand(6, 3, 7))


def test_another_batch_size_is_refused_as_in_the_loop_and_changes_nothing():
    net = dense()
    snn.run(net, X)
    before = states(net)
    for go in (loop, snn.run):
        with pytest.raises(ValueError, match=r"holds the state of an input .*snn.utils.reset\(net\)"):
            go(net, X[:, :2])
    assert all(torch.equal(a[k], b[k]) for a, b in zip(states(net), before) for k in a)


def test_under_torch_func():
    net = dense()
    params = {name: p.detach() for name, p in net.named_parameters()}

    class Whole(nn.Module):
        def __init__(self, go):
            super().__init__()
            self.net, self.go = net, go

        def forward(self, xs):
            snn.utils.reset(self.net)
            return self.go(self.net, xs).sum()

    def gradients(go):
        whole = Whole(go)
        loss = lambda p, xs: torch.func.functional_call(whole, {f"net.{k}": v for k, v in p.items()}, (xs,))
        return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(params, X[:, :, None])

    fast, slow = gradients(snn.run), gradients(loop)
    for name in params:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-4, atol=1e-5)
    snn.utils.reset(net)


def test_the_kernel_is_found_again():
    """Each call of `run` makes its step anew; it is the same step."""
    net = dense(output=True)
    snn.run(net, X)
    plans = len(snf._scan._known._known)
    for _ in range(3):
        snn.utils.reset(net)
        snn.run(net, X)
    assert len(snf._scan._known._known) == plans


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: snn.run(snf.leaky_step, X), TypeError, r"net is a module, not function. .* snf.scan\(step, ...\)"),
        (lambda: snn.run(dense(), [*X]), TypeError, r"xs is one tensor .* Give torch.stack\(xs\)"),
        (lambda: snn.run(dense(), X.numpy()), TypeError, r"not ndarray. Give torch.from_numpy\(xs\)"),
        (lambda: snn.run(dense(), X[:0]), ValueError, "at least one step"),
        (lambda: snn.run(dense(), torch.tensor(1.0)), ValueError, r"xs has shape \(\)"),
    ],
)
def test_bad_input(call, error, says):
    with warnings.catch_warnings(), pytest.raises(error, match=says):
        call()


class Explicit(nn.Module):
    """As snnTorch's tutorials write it."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(7, 9), snn.Leaky(beta=0.9)
        self.fc2, self.lif2 = nn.Linear(9, 4), snn.Leaky(beta=0.9, threshold=0.1)

    def forward(self, x, mem1, mem2):
        spk, mem1 = self.lif1(self.fc1(x), mem1)
        spk, mem2 = self.lif2(self.fc2(spk), mem2)
        return spk, mem1, mem2


class Optional(Explicit):
    def forward(self, x, mem1=None, mem2=None):
        return super().forward(x, mem1, mem2)


def test_a_net_whose_states_come_and_go_is_told_both_ways():
    for go in (snn.run, snn.explain):
        with pytest.raises(TypeError, match=r"the forward of Explicit takes \(x, mem1, mem2\)") as told:
            go(Explicit(), X)
        assert "lif1, lif2:\n    self.lif1 = snn.Leaky(..., init_hidden=True)\n" in str(told.value)
    with pytest.raises(TypeError, match="Layer 'lif1', .* or pass mem through forward") as other:
        snn.run(Optional(), X)
    for net, said in ((Explicit(), told), (Optional(), other)):  # and the way that is shown goes
        names = {"snf": snf, "torch": torch, "net": net, "xs": X}
        lines = str(said.value).splitlines()[-2:]
        exec("\n".join(line.strip() for line in lines), names)
        mems, spks = [torch.zeros(()), torch.zeros(())], []
        for x in X:
            spk, *mems = net(x, *mems)
            spks.append(spk)
        assert torch.equal(names["spks"], torch.stack(spks)) and names["spks"].any()
        assert torch.equal(names["state"]["mem1"], mems[0])


class WithLabels(nn.Linear):
    def forward(self, x, labels):
        return super().forward(x)


def test_a_forward_that_takes_more_without_any_face():
    with pytest.raises(
        TypeError, match=r"each step is net\(x\), but the forward of WithLabels takes \(x, labels\)\.\nAs it is"
    ):
        snn.run(WithLabels(7, 7), X)


HIDDEN = {"beta": 0.9, "init_hidden": True}
PASSED = {
    "explicit": (
        lambda: nn.Sequential(nn.Linear(7, 9), snn.Leaky(0.9), nn.Linear(9, 4), snn.Leaky(0.9)),
        r"Layer '1', Leaky\(init_hidden=False\), returns \(spk, mem\), .* layer '2', Linear, .* init_hidden=True of each: '1', '3'",
    ),
    "with output": (
        lambda: nn.Sequential(nn.Linear(7, 9), snn.Leaky(**HIDDEN, output=True), nn.Linear(9, 4), snn.Leaky(**HIDDEN)),
        r"Layer '1', Leaky\(output=True\), returns .* Say output=False of it",
    ),
    "face after face": (
        lambda: nn.Sequential(snn.Synaptic(0.9, 0.8), snn.Leaky(**HIDDEN)),
        r"Layer '0', Synaptic\(init_hidden=False\), returns \(spk, syn, mem\), .* layer '1', Leaky, .* of each: '0'",
    ),
    "nested": (
        lambda: nn.Sequential(nn.Identity(), nn.Sequential(nn.Sequential(nn.Linear(7, 9), snn.RLeaky(0.9, linear_features=9)), nn.ReLU())),
        r"Layer '1.0.1', RLeaky\(init_hidden=False\), returns \(spk, mem\), all of which goes on to layer '1.1', ReLU",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PASSED)
def test_a_tuple_that_goes_on_in_a_sequential_is_named(what):
    net, says = PASSED[what][0](), PASSED[what][1]
    with pytest.raises(TypeError, match=rf"snn.run\(net, xs\): {says}") as told:
        snn.run(net, X)
    assert isinstance(told.value.__cause__, (TypeError, AttributeError))
    step, params, state = snf.functionalize(net)
    for call in (lambda: snf.scan(step, params, state, X), lambda: step(params, state, X[0])):
        with pytest.raises(TypeError, match=says):
            call()


class TakesBoth(nn.Module):
    def forward(self, both):
        return both[0] + 0 * both[1]


def test_a_tuple_goes_on_to_who_takes_it():
    assert_is_the_loop(nn.Sequential(nn.Linear(7, 9), snn.Leaky(**LEAKY, output=True), nn.Identity(), TakesBoth()), X)


IMAGES = torch.rand(3, 1, 8, 8)
IMAGES_NET = nn.Sequential(
    nn.Conv2d(1, 4, 3), snn.Leaky(**LEAKY), nn.Flatten(), nn.Linear(4 * 36, 4), snn.Leaky(**LEAKY)
)


@pytest.mark.parametrize(
    "net, x",
    [
        (IMAGES_NET, IMAGES),
        (nn.Sequential(nn.Linear(7, 4), nn.BatchNorm1d(4), snn.Leaky(**LEAKY)), X[0]),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), snn.Leaky(**LEAKY)), IMAGES),
    ],
)
def test_a_batch_without_time_is_told_where_its_step_fails(net, x):
    with pytest.raises(
        ValueError, match=r"which the net does not take: .*axis of time\? .*snn.run\(net, xs.expand\(T, "
    ) as told:
        snn.run(net, x)
    assert f"xs is {tuple(x.shape)}, [T, batch, ...], so each step is {tuple(x.shape[1:])}, which" in str(told.value)
    assert not states(net)
    assert snn.run(net, x.expand(5, *x.shape)).shape[:2] == (5, 3)
    snn.utils.reset(net)


def test_what_fails_otherwise_is_not_taken_for_a_batch():
    net = nn.Sequential(nn.Linear(8, 4), snn.Leaky(**LEAKY))
    with pytest.raises(RuntimeError, match="cannot be multiplied") as told:
        snn.run(net, X)
    assert "axis of time" not in str(told.value)


@pytest.mark.parametrize(
    "net, xs, says",
    [
        (dense(), X.double(), r"module torch.float32: give snn.run\(net, xs.to\(torch.float32\)\), or net.to\(torch.float64\)"),
        (dense().double(), X, r"module torch.float64: give snn.run\(net, xs.to\(torch.float64\)\), or net.to\(torch.float32\)"),
        (dense(), X > 0.5, r"input is torch.bool, the module torch.float32: give snn.run\(net, xs.to\(torch.float32\)\)\.$"),
        (dense(), X.to("meta"), r"on meta, the module on cpu: give snn.run\(net, xs.to\('cpu'\)\), or net.to\('meta'\)"),
        (OfItsOwn().double(), X, r"give snn.run\(net, xs.to\(torch.float64\)\)"),
        (nn.Sequential(snn.LeakyParallel(7, 4)), X, r"LeakyParallel takes whole sequences .* call net\(xs\); .*layer\(snn.run"),
    ],
)  # fmt: skip
def test_another_dtype_place_or_kind_of_layer(net, xs, says):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=says):
        snn.run(net, xs)


class Odd(nn.Module):
    """A net whose forward is given."""

    def __init__(self, forward, *layers):
        super().__init__()
        self.fc, self.lif, self.bn = nn.Linear(7, 7), snn.Leaky(**LEAKY), nn.BatchNorm1d(7)
        self.register_buffer("c", torch.zeros(()))
        self.n, self.odd = 0, forward

    def forward(self, x):
        return self.odd(self, x)


def toggles(net, x):
    net.n = 1 - net.n
    return net.lif(net.fc(x) if net.n else -x)


def counts_and_normalises(net, x):
    net.n += 1
    return net.lif(net.bn(net.fc(x)))


def writes(what):
    def forward(net, x):
        with torch.no_grad():
            what(net, x)
        return net.lif(net.fc(x) + net.c)

    return forward


def clamps_what_came(net, x):
    spk, mem = net.lif2(net.fc(x))
    mem.clamp_(0, 0.2)
    return spk


def swallows(net, x):
    try:
        scale = float(x.max())
    except Exception:
        scale = 0.0
    return net.lif(net.fc(x) * scale)


ODD = {
    "a toggle": toggles,
    "statistics and a counter": counts_and_normalises,
    "normalised twice": lambda net, x: net.lif(net.bn(net.bn(net.fc(x)))),
    "statistics that are read": lambda net, x: net.lif(net.bn(net.fc(x)) - net.bn.running_mean),
    "weights that decay": writes(lambda net, x: net.fc.weight.mul_(0.9)),
    "a threshold that grows": writes(lambda net, x: net.lif.threshold.add_(0.05)),
    "a buffer beside the version": writes(lambda net, x: net.c.data.add_(0.1)),
    "an input that is written to": writes(lambda net, x: x.add_(1)),
    "whether it is differentiated": lambda net, x: net.lif(net.fc(x) if net.fc(x).requires_grad else -x),
    "an exception": swallows,
    "a random number": lambda net, x: net.lif(net.fc(x) * random.random()),
    "a branch after statistics": lambda net, x: (lambda y: net.lif(y * 2 if y.sum() > 3 else y))(net.bn(net.fc(x))),
    "a seed": lambda net, x: (torch.manual_seed(0), net.lif(net.fc(x) + torch.randn(7)))[1],
}


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("what", ODD)
def test_an_odd_net_is_the_loop(what, constant):
    """What it gives, what it leaves behind, and what is left of its input; `explain` leaves all as it is."""
    torch.manual_seed(0)
    net = Odd(ODD[what])
    net.lif2 = snn.Leaky(0.9, threshold=0.3, init_hidden=True, output=True)
    xs = torch.rand(3, 7).expand(128, 3, 7) if constant else torch.rand(2 * 128, 33, 7)  # two pieces of time
    twin, ys, seed = (
        copy.deepcopy(net),
        xs.clone() if not constant else xs[0].clone().expand(128, 3, 7),
        random.getstate(),
    )
    left = lambda net: [
        *net.parameters(),
        *net.buffers(),
        *(x for s in states(net) for x in s.values()),
        torch.tensor(net.n),
    ]

    def same(a, b):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)

    snn.explain(net, xs)
    same(left(net), left(twin))
    assert torch.equal(xs, ys) and random.getstate() == seed
    with torch.no_grad() if "written" in what else contextlib.nullcontext():
        found = snn.run(net, xs)
        random.setstate(seed)
        expected = torch.stack([twin(y) for y in ys.unbind(0)])
    same([found, xs, *left(net)], [expected, ys, *left(twin)])


def filled(net):
    net.register_forward_pre_hook(lambda net, args: (*args, 2.0))
    return net


class Scales(nn.Module):
    """A net whose forward takes more than a step, which comes from elsewhere."""

    def __init__(self):
        super().__init__()
        self.lif = snn.Leaky(**LEAKY)

    def forward(self, x, scale):
        return self.lif(scale * x)


def doubling(forward):
    @functools.wraps(forward)  # by which its signature is the other's
    def doubled(self, x):
        return forward(self, x, 2.0)

    return doubled


class Decorated(Scales):
    forward = doubling(Scales.forward)


class Called(Scales):
    def __call__(self, x):
        return super().__call__(x, 2.0)


class OneByOne(nn.Module):
    """A layer of whole sequences that gets one in each step."""

    def __init__(self):
        super().__init__()
        self.lif, self.whole, self.other = snn.Leaky(**LEAKY), snn.LeakyParallel(7, 7), snn.LeakyParallel(7, 7)

    def forward(self, x):
        return self.lif(x) + self.whole(x[None])[0]


@pytest.mark.parametrize("make", [lambda: filled(Scales()), Decorated, Called, OneByOne])
def test_what_only_seems_to_be_no_step_of_time_is_run(make):
    net = make()
    steps = torch.stack([net(x) for x in X])
    snn.utils.reset(net)
    assert torch.equal(snn.run(net, X), steps) and steps.any()


def test_a_batch_that_a_layer_would_take_for_time_is_refused_wherever_the_layer_is():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.whole = nn.Linear(7, 7), snn.LeakyParallel(7, 7)

        def forward(self, x):
            return self.whole(self.fc(x))

    for go in (snn.run, snn.explain):
        with pytest.raises(
            TypeError, match=r"^snn.run\(net, xs\): each step is net\(xs\[t\]\), but LeakyParallel takes whole"
        ):
            go(Net(), X)
    net = Net()
    assert net(X).shape == X.shape and net.whole._watcher is None  # as a whole it goes


def test_an_error_of_its_own_is_left_alone():
    class Odd(Exception):
        pass

    class Net(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.error, self.seq = error, nn.Sequential(snn.Leaky(**LEAKY, output=True), nn.Linear(7, 7))

        def forward(self, x):
            spk, _ = self.seq[0](x)  # whose layers are called one by one
            if x.dim() == 2 or isinstance(self.error, TypeError):
                raise self.error
            return self.seq[1](spk)

    for error in (Odd("of its own"), TypeError("of its own")):
        with pytest.raises(type(error), match="of its own") as told:
            snn.run(Net(error), X)
        assert "output=True" not in str(told.value)
