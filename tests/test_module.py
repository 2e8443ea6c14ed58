"""A tree as a module, and parts of a tree: what torch's optimisers, copies, checkpoints and averages do with them."""

import copy
import dataclasses
import io
import pickle
from typing import Any

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, at, needs_torch, some_neurons
from torch import nn
from torch.func import grad

import snn_functional as snf


NET = snf.chain(snf.linear, snf.leaky, snf.linear, snf.leaky)


def tree():
    return (
        snf.Linear.random(6, 5),
        snf.LeakyParams(0.9),
        snf.Linear.random(5, 2),
        snf.LeakyParams(torch.full((2,), 0.8), 0.5),
    )


def rate(params, xs):
    return snf.scan(NET.step, params, NET.init(params, xs[0]), xs)[0].mean()


@some_neurons
def test_it_is_the_scan_and_its_gradient_that_of_the_tree(case):
    step, params, state, inputs = case.world()
    model = snf.module(case.neuron, params)
    assert_equal(model(inputs, state, return_state=True), snf.scan(step, params, state, inputs))
    rest = case.neuron.init(params, at(inputs, 0))
    assert_equal(model(inputs), snf.scan(step, params, rest, inputs)[0])
    loss = lambda params: sum(x.square().sum() for x in optree.tree_leaves(snf.scan(step, params, state, inputs)[1]))
    sum(x.square().sum() for x in optree.tree_leaves(model(inputs, state, return_state=True)[1])).backward()
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    assert_allclose(found, snf.named_leaves(grad(loss)(params)))


def test_names_and_the_way_back():
    params = tree()
    model = snf.module(NET, params, learn=["weight", "1"])
    names = ["0.weight", "1.beta", "1.threshold", "2.weight"]
    assert [name for name, _ in model.named_parameters()] == names
    assert set(model.state_dict()) == set(snf.named_leaves(params))
    assert_equal(optree.tree_map(torch.Tensor.detach, model.params), params)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert params[0].weight.abs().sum() > 0, "the tree that was given is not the module's"
    assert optree.tree_leaves(model.double().params)[0].dtype == torch.float64
    assert snf.module(NET, params, learn=()).state_dict().keys() == model.state_dict().keys()
    assert not list(snf.module(NET, params, learn=()).parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_their_own(copied):
    model, xs = snf.module(NET, tree(), learn="weight"), torch.rand(7, 3, 6)
    other = copied(model)
    assert_equal(other(xs), model(xs))
    with torch.no_grad():
        other.get_parameter("0.weight").fill_(3.0)
    assert not torch.equal(other(xs), model(xs))


def test_a_checkpoint_goes_on_bit_for_bit():
    xs = torch.rand(7, 3, 6)

    def start(seed):
        torch.manual_seed(seed)
        model = snf.module(NET, tree())
        slow, fast = snf.partition(dict(model.named_parameters()), ["beta", "threshold"])
        groups = [{"params": list(slow.values()), "lr": 1e-3}, {"params": list(fast.values())}]
        optimizer = torch.optim.AdamW(groups, lr=1e-2)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    def train(model, optimizer, scheduler, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (model(xs).mean() - 0.5).square().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        return model.state_dict()

    whole = train(*start(0), 6)
    first, file = start(0), io.BytesIO()
    train(*first, 3)
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    second = start(1)
    for part, saved in zip(second, torch.load(file, weights_only=True)):
        part.load_state_dict(saved)
    assert_equal(dict(train(*second, 3)), dict(whole))
    assert not torch.equal(whole["1.beta"], torch.tensor(0.9)) and not torch.equal(
        whole["0.weight"], start(0)[0].state_dict()["0.weight"]
    )


def test_an_average_of_weights():
    model = snf.module(NET, tree(), learn="weight")
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    before = model.get_parameter("0.weight").detach().clone()
    with torch.no_grad():
        model.get_parameter("0.weight").add_(2.0)
    average.update_parameters(model)
    torch.testing.assert_close(average.module.params[0].weight, before + 1)


@needs_torch("2.3", "torch.amp.GradScaler")
def test_mixed_precision_with_a_scaler():
    """On a CPU, where bfloat16 needs no scale, it must change nothing."""
    xs, model = torch.rand(7, 3, 6), snf.module(NET, tree())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        spks = model(xs)
        loss = spks.mean()
    assert spks.dtype == torch.float32
    plain = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    for (name, p), g in zip(model.named_parameters(), plain):
        assert p.dtype == torch.float32
        torch.testing.assert_close(p.detach(), before[name] - 0.5 * g, rtol=1e-2, atol=1e-4)
    assert any(g.abs().sum() > 0 for g in plain)


def test_a_partition_is_put_together_again_and_learns_its_part():
    params, xs = tree(), torch.rand(7, 3, 6)
    learned, frozen = snf.partition(params, lambda name, leaf: leaf.dim() == 2)
    assert list(learned) == ["0.weight", "2.weight"] and len(learned) + len(frozen) == len(optree.tree_leaves(params))
    assert_equal(snf.with_leaves(params, frozen | learned), params)
    part = grad(lambda learned: rate(snf.with_leaves(params, learned | frozen), xs))(learned)
    whole = snf.named_leaves(grad(rate)(params, xs))
    assert_equal(part, {name: whole[name] for name in learned})
    assert list(snf.partition(params, "3")[0]) == ["3.beta", "3.threshold"]
    assert list(snf.partition(params, None)[1]) == [] and list(snf.partition(params, [])[0]) == []


def test_print_shows_each_layers_leaves_and_what_is_learned():
    net = snf.chain(snf.linear, snf.recurrent(snf.leaky), torch.relu, snf.residual(snf.linear, snf.leaky))
    params = (
        snf.Linear.random(6, 5),
        snf.RecurrentParams.random(snf.LeakyParams(0.9), 5),
        (),
        (snf.Linear.random(5, 5), snf.LeakyParams(torch.full((5,), 0.8))),
    )
    text = """Scanned(
  layer                     learned                             fixed
  0    linear                weight (5, 6), bias (5,)
  1    recurrent(leaky_step)  inner.beta (), V.weight (5, 5), V.bias (5,)  inner.threshold ()
  2    relu
  3.0  linear                weight (5, 5), bias (5,)
  3.1  leaky                 beta (5,)                           threshold ()
  101 of 103 numbers are learned
)"""
    model = snf.module(net, params, learn=["weight", "bias", "beta"])
    assert [line.split() for line in repr(model).splitlines()] == [line.split() for line in text.splitlines()]
    masked = repr(snf.module(snf.masked(net), params)).splitlines()
    assert masked[0].startswith("Scanned(masked(chain(linear") and masked[2].split()[:2] == ["0", "linear"]
    assert repr(snf.module(snf.leaky, snf.LeakyParams(0.9), learn="beta")) == (
        "Scanned(\n  layer  learned  fixed\n  leaky  beta ()  threshold ()\n  1 of 2 numbers are learned\n)"
    )
    assert "\n  (1): Scanned(\n    layer " in repr(nn.Sequential(nn.Linear(6, 6), model))


def test_a_leaf_that_is_not_used_has_no_gradient():
    """By which who goes to many processes sees what to leave out of `learn`."""
    model = snf.module(OWN, {"beta": torch.tensor(0.5), "unused": torch.tensor(1.0)})
    model(torch.rand(5, 3)).mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == ["unused"]


OWN = snf.Neuron(dict, tuple, lambda params, x: (), lambda params, state, x: (params["beta"] * x, state))
SHARED = snf.LeakyParams(0.9)
BAD = {
    "an unknown leaf": (
        lambda: snf.module(NET, tree(), learn="tau"),
        ValueError,
        "no leaf is called 'tau'. There are 0.weight",
    ),
    "a part of a name": (lambda: snf.partition(tree(), ["weight", "eta"]), ValueError, "no leaf is called 'eta'"),
    "one tensor twice": (
        lambda: snf.module(snf.chain(snf.leaky, snf.leaky), (SHARED, SHARED)),
        ValueError,
        "0.beta and 1.beta are one tensor",
    ),
    "a step": (lambda: snf.module(snf.leaky_step, SHARED), TypeError, "neuron is a bundle"),
    "numbers": (lambda: snf.module(OWN, {"beta": 0.9}), TypeError, "every leaf of params is a tensor, but 0.9"),
    "too few trees": (
        lambda: snf.module(NET, tree()[:3]),
        TypeError,
        r"params is a tuple of 4, one for each layer: \(Linear, LeakyParams, Linear, LeakyParams\); 3 came",
    ),
    "too many trees, masked": (
        lambda: snf.module(snf.masked(snf.every_layer(NET)), (*tree(), SHARED)),
        TypeError,
        "LeakyParams, Linear, LeakyParams.; 5 came",
    ),
    "a list of trees": (lambda: snf.module(NET, list(tree())), TypeError, r"a list came: give tuple\(params\)"),
    "another order": (
        lambda: snf.module(NET, tree()[::-1]),
        TypeError,
        r"params\[0\] is a tree of Linear, but a LeakyParams came. Make one: Linear\(weight, bias=0.0\)",
    ),
    "a class for a tree": (
        lambda: snf.module(NET, (*tree()[:3], snf.LeakyParams)),
        TypeError,
        r"params\[3\] is a tree of LeakyParams, but the class LeakyParams came",
    ),
    "a tree for a plain function": (
        lambda: snf.module(snf.chain(snf.flatten, snf.leaky), (SHARED, SHARED)),
        TypeError,
        r"params\[0\] is \(\), flatten has none, but a LeakyParams came",
    ),
    "a tensor for a plain function": (
        lambda: snf.module(snf.chain(torch.relu, snf.leaky), (torch.rand(3), SHARED)),
        TypeError,
        r"params\[0\] is \(\), relu has none, but a Tensor came",
    ),
    "no dictionary for a module": (
        lambda: snf.module(snf.chain(snf.layer(nn.BatchNorm1d(3))[0], snf.leaky), ((), SHARED)),
        TypeError,
        r"params\[0\] is a dictionary, as layer\(module\) gives it .* but a tuple came",
    ),
    "another neuron's tree within a modifier": (
        lambda: snf.module(
            snf.recurrent(snf.refractory(snf.leaky, 2)), snf.RecurrentParams(snf.AlphaParams(0.9, 0.8), 0.1)
        ),
        TypeError,
        "params.inner is a tree of LeakyParams, but an AlphaParams came",
    ),
    "too few in a block": (
        lambda: snf.module(snf.chain(snf.leaky, snf.residual(snf.linear, snf.leaky)), (SHARED, (SHARED,))),
        TypeError,
        r"params\[1\] is a tuple of 2, one for each layer: \(Linear, LeakyParams\); 1 came",
    ),
    "no axis of time": (lambda: snf.module(snf.leaky, SHARED)(torch.tensor(1.0)), ValueError, "0-d tensor has no time"),
    "no time": (lambda: snf.module(snf.leaky, SHARED)(torch.rand(0, 3)), ValueError, "the time axis is empty"),
    "an array": (lambda: snf.module(snf.leaky, SHARED)(torch.rand(5, 3).numpy()), TypeError, "torch.from_numpy"),
    "doubles": (
        lambda: snf.module(NET, tree())(torch.rand(7, 3, 6).double()),
        TypeError,
        r"give model\(xs.to\(torch.float32\)\), or model.to\(torch.float64\)",
    ),
    "a module of doubles": (
        lambda: snf.module(snf.leaky, snf.LeakyParams(torch.full((6,), 0.9))).double()(torch.rand(7, 3, 6)),
        TypeError,
        r"beta is torch.float64 .* give model\(xs.to\(torch.float64\)\), or model.to\(torch.float32\)",
    ),
    "whole numbers": (
        lambda: snf.module(NET, tree())(torch.ones(7, 3, 6).long()),
        TypeError,
        r"module torch.float32: give model\(xs.to\(torch.float32\)\)\.$",
    ),
    "another device": (
        lambda: snf.module(NET, tree())(torch.rand(7, 3, 6, device="meta")),
        (RuntimeError, ValueError),
        r"The input is on meta, the module on cpu: give model\(xs.to\('cpu'\)\), or model.to\('meta'\)",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_refusals(bad):
    call, error, message = BAD[bad]
    with pytest.raises(error, match=message):
        call()


class Beside:
    """Two neurons beside one another: a user's own step with layers, whose params are a dictionary."""

    def __init__(self, *layers):
        self.layers = layers

    def __call__(self, params, state, x):
        pairs = [layer.step(p, s, x) for layer, p, s in zip(self.layers, params.values(), state)]
        return sum(spk for spk, _ in pairs), tuple(s for _, s in pairs)

    def init(self, params, x):
        return tuple(layer.init(p, x) for layer, p in zip(self.layers, params.values()))


class Gained:
    """A user's own step around a chain or another step, whose params are a tuple."""

    def __init__(self, **inside):
        [self.inside] = inside.values()
        vars(self).update(inside)

    def __call__(self, params, state, x):
        return self.inside(params[0], state, params[1] * x)


@dataclasses.dataclass(frozen=True)
class Through:
    function: Any

    def __call__(self, params, state, x):
        return self.function(params["gain"] * x), state


@snf.pytree
class Slow:
    decay: torch.Tensor


def slowly(params, state, x):
    mem = params.decay * state.mem + x
    return mem, snf.LeakyState(mem)


GAIN = torch.tensor(2.0)
ODD = {
    "layers": (lambda s: snf.Neuron(dict, tuple, s.init, s))(Beside(snf.leaky, snf.leaky)),
    "chain": snf.Neuron(tuple, tuple, lambda p, x: NET.init(p[0], x), Gained(chain=NET.step)),
    "step": snf.Neuron(tuple, snf.LeakyState, lambda p, x: snf.leaky.init(p[0], x), Gained(step=snf.leaky_step)),
    "function": snf.Neuron(dict, tuple, lambda p, x: (), Through(torch.relu)),
    "another step": snf.leaky._replace(step=slowly),
    "nothing": snf.chain(torch.relu, snf.leaky),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_users_own_step_has_the_params_that_it_takes(name):
    """It is not taken for the library's, whatever it calls what it holds."""
    leaky, xs = lambda beta=0.9: snf.LeakyParams(beta), torch.rand(7, 3, 6)
    params = {
        "layers": {"a": leaky(), "b": leaky(0.5)},
        "chain": (tree(), GAIN),
        "step": (leaky(), GAIN),
        "function": {"gain": GAIN},
        "another step": Slow(torch.tensor(0.9)),
        "nothing": (None, leaky()),
    }[name]
    net = ODD[name]
    model = snf.module(net, params)
    expected, _ = snf.scan(net.step, params, net.init(params, xs[0]), xs)
    assert torch.equal(model(xs), expected) and "numbers are learned" in repr(model) and snf.summary(model, xs=xs).rows
