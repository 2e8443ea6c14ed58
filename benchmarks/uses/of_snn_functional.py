"""This library: a chain of pure steps, faces made pure by `functionalize`, and `scan`."""

from typing import Any

import torch
from torch import nn
from way import alif, by_hand, Module, Neuron, SIZES, Way, weights

import snn_functional as snf
from snn_functional import snn


def ways() -> list[Way]:
    net = snf.chain(snf.linear, snf.leaky, snf.linear, snf.leaky)
    w1, w2 = weights(0.6)
    lif = lambda beta: snf.LeakyParams(beta=beta, threshold=1.0)
    # Without biases: a number that nobody learns would be another leaf without axes.
    params = (snf.Linear(w1), lif(0.8), snf.Linear(w2), lif(0.7))
    return [
        Way(
            "snn_functional",
            "chain",
            params,
            net.init,
            net.step,
            by_hand(_neuron, atan),
            snf.scan,
            getattr(snf.learning, "rtrl", None),
        )
    ]


atan = lambda u: 1 / (1 + (torch.pi * u) ** 2)


def _neuron(numbers, mem, x, spike):
    bias, beta, threshold = numbers
    x, mem = x + bias, torch.zeros_like(x) if mem is None else mem
    mem = beta.clamp(0, 1) * mem + x - (mem > threshold).float() * threshold
    return spike(mem - threshold), mem


def modules() -> list[Module]:
    saving = {"snn.utils.state_dict(net)": (snn.utils.state_dict, lambda net, saved: net.load_state_dict(saved))}
    call, pure = lambda net, x: net(x), lambda net, x: snf.functionalize(net)
    return [Module("snn_functional", "snn.Leaky", _module, call, pure, saving=saving)]


def _module() -> nn.Module:
    first, hidden, last = SIZES
    lif = lambda beta: snn.Leaky(beta=beta, init_hidden=True, learn_beta=True)
    net = nn.Sequential(nn.Linear(first, hidden, bias=False), lif(0.8), nn.Linear(hidden, last, bias=False), lif(0.7))
    net[0].weight.data, net[2].weight.data = weights(0.6)
    return net


def own_neuron() -> list[Neuron]:
    def step(params: Any, state: Any, x: Any):
        spk, *state = alif(x, *state)
        return spk, tuple(state)

    rest = lambda xs: (torch.zeros_like(xs[0]), torch.zeros_like(xs[0]))
    return [Neuron("scan(kind='fused')", lambda xs: snf.scan(step, (), rest(xs), xs, kind="fused")[0])]
