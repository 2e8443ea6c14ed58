"""Worlds to be compiled and exported, each a step and its arguments, and what looks at the graphs that they become."""

import torch
from torch import nn

from snn_functional import chain, leaky, leaky_init, leaky_step, LeakyParams, Linear, linear, snn
from snn_functional._tree import tree_leaves as leaves


class Graphs:
    """A backend that keeps the graphs that it is given, and their forward and backward of torch's operations."""

    def __init__(self):
        self.given, self.forward, self.backward = [], [], []

    def __call__(self, graph, inputs):
        from functorch.compile import make_boxed_func
        from torch._dynamo.backends.common import aot_autograd

        def keep(kept):
            return lambda traced, _: kept.append(traced) or make_boxed_func(traced.forward)

        self.given.append(graph)
        compiler = aot_autograd(fw_compiler=keep(self.forward), bw_compiler=keep(self.backward))
        return compiler(graph, inputs)


def kernels_in(graphs):
    return sum("snn_functional.scan" in str(node.target) for graph in graphs for node in graph.graph.nodes)


def size(graph):
    return len(graph.graph.nodes)


def compiled(function, backend="aot_eager", **more):
    return torch.compile(function, backend=backend, fullgraph=True, **more)


def dyadic(*shape):
    return torch.randint(-24, 25, shape) / 64


def spikes(T=9):
    return torch.randint(0, 9, (T, 4, 3)) / 8


def pointwise(T=9):
    params = LeakyParams(torch.tensor([0.5, 0.75, 0.875]))
    return leaky_step, params, leaky_init(params, torch.zeros(4, 3)), spikes(T)


def two_layers(T=9):
    net = chain(linear, leaky, linear, leaky)
    params = (Linear(dyadic(5, 3)), LeakyParams(0.5), Linear(dyadic(2, 5), dyadic(2)), LeakyParams(0.75))
    return net.step, params, net.init(params, torch.zeros(4, 3)), spikes(T)


def recurrent_step(params, state, x):
    w, v, neuron = params
    spk, mem = state
    spk, mem = leaky_step(neuron, mem, x @ w + spk @ v)
    return spk, (spk, mem)


def recurrent(T=9):
    params = dyadic(3, 5), dyadic(5, 5), LeakyParams(0.5)
    at_rest = torch.zeros(4, 5)
    return recurrent_step, params, (at_rest, leaky_init(params[2], at_rest)), spikes(T)


def convolving_step(params, state, x):
    w, v, neuron = params
    spk, mem = state
    spk, mem = leaky_step(neuron, mem, nn.functional.conv2d(x, w) + nn.functional.conv2d(spk, v, padding=1))
    return spk, (spk, mem)


def convolving(T=9):
    params = dyadic(2, 1, 1, 1), dyadic(2, 2, 3, 3), LeakyParams(0.5)
    at_rest = torch.zeros(2, 2, 4, 3)
    return (
        convolving_step,
        params,
        (at_rest, leaky_init(params[2], at_rest)),
        spikes(T)[:, None, None].repeat(1, 2, 1, 1, 1),
    )


def sorting_step(params, state, x):
    state = (params * state + x).sort(-1).values
    return state.cumsum(-1), state


def looping(T=4):
    return sorting_step, torch.tensor(0.5), torch.zeros(4, 3), torch.randn(T, 4, 3)


KERNELS = {pointwise: 1, two_layers: 2, recurrent: 1, convolving: 1, looping: 0}


def same(found, expected):
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def total(tree):
    return sum((y * torch.linspace(0, 1, y.numel()).reshape(y.shape)).sum() for y in leaves(tree))


class Net(nn.Module):
    def __init__(self, recurrent=False):
        super().__init__()
        own = {"threshold": 0.3, "init_hidden": True}
        self.fc1, self.fc2 = nn.Linear(3, 6), nn.Linear(6, 5)
        self.lif1 = snn.RLeaky(0.9, linear_features=6, **own) if recurrent else snn.Leaky(0.9, learn_beta=True, **own)
        self.lif2 = snn.Synaptic(0.8, 0.7, output=True, **own)

    def forward(self, x):
        return self.lif2(self.fc2(self.lif1(self.fc1(x))))


class Run(nn.Module):
    """Over a whole sequence, from rest."""

    def __init__(self, net=None):
        super().__init__()
        self.net = net or Net()

    def forward(self, xs):
        snn.utils.reset(self.net)
        return snn.run(self.net, xs)
