"""snnTorch 1.0.0: modules. The state is given and returned (explicit), or kept by the layers in buffers (hidden)."""

from typing import Any

import snntorch as snn
import torch
from snntorch import surrogate
from torch import nn
from torch.func import functional_call
from way import alif, by_hand, Module, Neuron, own_surrogate, SIZES, Way, weights


atan = lambda u: 1 / (1 + (torch.pi * u) ** 2)


def ways() -> list[Way]:
    straight = surrogate.straight_through_estimator()
    return [
        _explicit("atan", surrogate.atan(), atan),
        _explicit("fast_sigmoid", surrogate.fast_sigmoid(), lambda u: 1 / (1 + 25 * u.abs()) ** 2),
        _explicit("straight_through_estimator", straight, torch.ones_like),
        _explicit("own surrogate", own_surrogate, atan, own="own surrogate"),
    ]


class Explicit(nn.Module):
    def __init__(self, spike_grad: Any) -> None:
        super().__init__()
        first, hidden, last = SIZES
        more = dict(spike_grad=spike_grad, learn_beta=True, learn_threshold=True)
        self.fc1, self.lif1 = nn.Linear(first, hidden, bias=False), snn.Leaky(beta=0.8, **more)
        self.fc2, self.lif2 = nn.Linear(hidden, last, bias=False), snn.Leaky(beta=0.7, **more)
        self.fc1.weight.data, self.fc2.weight.data = weights(0.6)

    def forward(self, x, mem1, mem2):
        spk, mem1 = self.lif1(self.fc1(x), mem1)
        spk, mem2 = self.lif2(self.fc2(spk), mem2)
        return spk, (mem1, mem2)


def _explicit(name: str, spike_grad: Any, slope: Any, own: str = "") -> Way:
    net = Explicit(spike_grad)
    return Way(
        "snntorch",
        name,
        params={name: p.detach().clone() for name, p in net.named_parameters()},
        init=lambda params, x: tuple(x.new_zeros(*x.shape[:-1], size) for size in SIZES[1:]),
        step=lambda params, state, x: functional_call(net, params, (x, *state)),
        by_hand=by_hand(_neuron, slope),
        own=own,
    )


def _neuron(numbers, mem, x, spike):
    threshold, beta = numbers
    mem = torch.zeros_like(x) if mem is None else mem
    mem = beta.clamp(0, 1) * mem + x - (mem > threshold).float() * threshold
    return spike(mem - threshold), mem


def modules() -> list[Module]:
    by_hand = {"layer.mem taken and set": (lambda net: (net.state_dict(), net[1].mem, net[3].mem), _set)}
    make = lambda name, spike_grad, own: Module(
        "snntorch", name, lambda: _hidden(spike_grad), _call, _pure, own=own, by_hand=by_hand
    )
    return [make("atan", surrogate.atan(), ""), make("own surrogate", own_surrogate, "own surrogate")]


def _set(net: nn.Module, saved: Any) -> None:
    net.load_state_dict(saved[0])
    net[1].mem, net[3].mem = saved[1:]


def _hidden(spike_grad: Any) -> nn.Module:
    first, hidden, last = SIZES
    more = dict(spike_grad=spike_grad, init_hidden=True, learn_beta=True)
    net = nn.Sequential(
        nn.Linear(first, hidden, bias=False), snn.Leaky(beta=0.8, **more),
        nn.Linear(hidden, last, bias=False), snn.Leaky(beta=0.7, **more),
    )  # fmt: skip
    net[0].weight.data, net[2].weight.data = weights(0.6)
    return net


_call = lambda net, x: net(x)


def _pure(net: nn.Module, x: torch.Tensor) -> Any:
    """`functional_call` leaves a buffer that was assigned to in the dict that it was given."""
    state = {f"{n}.mem": x.new_zeros(len(x), size) for n, size in zip("13", SIZES[1:])}

    def step(params, state, x):
        given = {**params, **state}
        spk = functional_call(net, given, (x,))
        return spk, {name: given[name] for name in state}

    return step, dict(net.named_parameters()), state


class Alif(snn.SpikingNeuron):
    def forward(self, x, mem, adapt):
        return alif(x, mem, adapt)


def own_neuron() -> list[Neuron]:
    layer = Alif()

    def run(xs):
        mem, adapt, spks = torch.zeros_like(xs[0]), torch.zeros_like(xs[0]), []
        for x in xs.unbind(0):
            spk, mem, adapt = layer(x, mem, adapt)
            spks.append(spk)
        return torch.stack(spks)

    return [Neuron("SpikingNeuron", run)]
