"""Six ways to say a network, and the numbers that all of them must have: those of the plain loop.

Weights are multiples of 1/16 and inputs spikes, so products are exact, in bfloat16 too, and in any order: spikes are equal, not close.
"""

import functools
from typing import Any, NamedTuple

import optree
import torch
from compiled import Run
from torch import nn

import snn_functional as snf
from snn_functional import snn


LEARNED = ["weight", "beta"]
T, BATCH = 12, 4


def weight(outputs, inputs, seed=0):
    return torch.randint(-5, 12, (outputs, inputs), generator=torch.Generator().manual_seed(seed)) / 16


def xs():
    return torch.randint(0, 2, (T, BATCH, 6), generator=torch.Generator().manual_seed(0)).float()


def tree(scalar=(), seed=0):
    """6-8-3, the neurons' decays of this shape."""
    neurons = lambda: snf.LeakyParams(torch.full(scalar, 0.875))
    return snf.Linear(weight(8, 6, seed)), neurons(), snf.Linear(weight(3, 8, seed)), neurons()


def recurrent_tree(scalar=(), seed=0):
    first, neurons, *rest = tree(scalar, seed)
    return first, snf.RecurrentParams(neurons, snf.Linear(weight(8, 8, seed + 1) / 4)), *rest


def own_step(params, state, x):
    first, hidden, second, last = params
    spk, mem = snf.leaky_step(hidden, state[0], x @ first.weight.T)
    spk, out = snf.leaky_step(last, state[1], spk @ second.weight.T)
    return spk, (mem, out)


def own_init(params, x):
    first, hidden, second, last = params
    return snf.leaky_init(hidden, x @ first.weight.T), snf.leaky_init(last, x.new_zeros(len(x), len(second.weight)))


class Pure:
    """A step and its tree, some leaves of which are learned."""

    def __init__(self, neuron, tree):
        self.neuron, self.tree = neuron, optree.tree_map(torch.clone, tree)
        self.learned = list(snf.partition(self.tree, LEARNED)[0].values())
        for leaf in self.learned:
            leaf.requires_grad_()

    def target(self, xs, kind="auto"):
        return snf.scan(self.neuron.step, self.tree, self.neuron.init(self.tree, xs[0]), xs, kind=kind)[0]

    def over(self, target, xs):
        return target(xs)

    def module(self):
        return snf.module(self.neuron, self.tree, learn=LEARNED)

    def saved(self):
        return self.tree

    def load(self, tree):
        self.__init__(self.neuron, tree)


def faces(scalar=(), seed=0):
    first, hidden, second, last = tree(scalar, seed)
    layers = [nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False)]
    for layer, of in zip(layers, (first, second)):
        layer.weight.data.copy_(of.weight)
    lif = [snn.Leaky(of.beta, learn_beta=True, init_hidden=True) for of in (hidden, last)]
    return nn.Sequential(layers[0], lif[0], layers[1], lif[1])


class Module:
    """A module, which is what torch's tools are made for."""

    def __init__(self, target):
        self.target = target

    @property
    def learned(self):
        return list(self.target.parameters())

    def over(self, target, xs):
        return target(xs)

    def module(self):
        return self.target

    def saved(self):
        return self.target.state_dict()

    def load(self, saved):
        self.target.load_state_dict(saved)


class StepByStep(Module):
    """A module of one step, called in a loop over time."""

    def over(self, target, xs):
        if isinstance(target, nn.Module):
            snn.utils.reset(target)
        return torch.stack([target(x) for x in xs])


class Functionalized(Pure):
    def __init__(self, net):
        self.step, *rest = snf.functionalize(net)
        self.load(rest)

    def target(self, xs):
        return snf.scan(self.step, self.params, self.state, xs)[0]

    def exported(self):
        over_time = lambda params, state, xs: snf.scan(self.step, params, state, xs)[0]
        return InAModule(over_time), (self.params, self.state)

    def saved(self):
        return self.params, self.state

    def load(self, saved):
        self.params, self.state = saved
        self.learned = [p.requires_grad_() for p in self.params.values()]


class InAModule(nn.Module):
    """A function, where torch takes modules only."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, params, state, x):
        return self.function(params, state, x)


OWN = snf.Neuron(tuple, tuple, own_init, own_step)
CHAIN = snf.chain(snf.linear, snf.leaky, snf.linear, snf.leaky)
RECURRENT = snf.chain(snf.linear, snf.recurrent(snf.leaky), snf.linear, snf.leaky)
WAYS = {  # its name in the README, and what makes it: of numbers of this shape, from this seed
    "`scan`": lambda *how: Pure(OWN, tree(*how)),
    "chain": lambda *how: Pure(CHAIN, tree(*how)),
    "recurrent chain": lambda *how: Pure(RECURRENT, recurrent_tree(*how)),
    "faces step by step": lambda *how: StepByStep(faces(*how)),
    "`snn.run`": lambda *how: Module(Run(faces(*how))),
    "functionalized": lambda *how: Functionalized(faces(*how)),
}
TREES = list(WAYS)[:3]
STEPS, FUNCTIONALIZED = "faces step by step", "functionalized"


class Numbers(NamedTuple):
    spks: Any
    grads: Any


def loss_of(spks):
    return (spks.mean(0) - 0.3).square().mean()


def numbers(run, learned, xs):
    spks = run(xs)
    return Numbers(spks.detach(), list(torch.autograd.grad(loss_of(spks), learned)))


@functools.cache
def plain(way, seed=0):
    """By the definition: the loop over the pure step, one for all ways that say one network."""
    pure = Pure(RECURRENT, recurrent_tree((), seed)) if way == "recurrent chain" else Pure(OWN, tree((), seed))
    return numbers(lambda xs: pure.target(xs, kind="loop"), pure.learned, xs())


def same(found, expected, **tolerance):
    assert torch.equal(found.spks, expected.spks)
    for a, b in zip(found.grads, expected.grads, strict=True):
        torch.testing.assert_close(a.reshape(b.shape), b, **tolerance)
