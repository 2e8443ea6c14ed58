"""sinabs 3.1.3: modules that keep their state in buffers, time second; one explicit step beneath, `lif_forward_single`."""

from typing import Any

import torch
from sinabs.activation import Gaussian, MembraneSubtract, SingleExponential, SingleSpike
from sinabs.layers import LIF, StatefulLayer
from sinabs.layers.functional.lif import lif_forward_single
from torch import nn
from torch.func import functional_call
from way import alif, by_hand, Module, Neuron, own_surrogate, SIZES, Way, weights


def ways() -> list[Way]:
    exponential = lambda u, threshold: torch.exp(-u.abs() / (threshold / 2)) / (threshold / 2)
    gaussian = lambda u, threshold: torch.exp(-(u**2) / 0.5) / (0.5 * (2 * torch.pi) ** 0.5)
    atan = lambda u, threshold: 1 / (1 + (torch.pi * u) ** 2)
    return [
        _functional("SingleExponential", SingleSpike, SingleExponential(), exponential),
        _functional("Gaussian", SingleSpike, Gaussian(), gaussian),
        _functional("own spike_fn", OwnSpike, None, atan, own="own surrogate"),
    ]


class OwnSpike:
    required_states = ["v_mem"]

    @staticmethod
    def apply(v_mem, threshold, surrogate_grad_fn):
        return own_surrogate(v_mem - threshold)


def _functional(name: str, spike_fn: Any, surrogate: Any, slope: Any, own: str = "") -> Way:
    w1, w2 = weights(0.7)

    def neuron(x, v, alpha, threshold):
        state, threshold = {"v_mem": v}, threshold.detach()  # it writes into this dict; thresholds are not learned
        s, state = lif_forward_single(
            x, alpha, None, state, threshold, spike_fn, MembraneSubtract(), surrogate, None, True
        )
        return s, state["v_mem"]

    def step(params, state, x):
        s, v1 = neuron(x @ params["w1"].T, state[0], params["alpha1"], params["v_th1"])
        s, v2 = neuron(s @ params["w2"].T, state[1], params["alpha2"], params["v_th2"])
        return s, (v1, v2)

    t = torch.tensor
    params = {"w1": w1, "alpha1": t(0.5), "v_th1": t(0.6), "w2": w2, "alpha2": t(0.4), "v_th2": t(0.6)}
    init = lambda params, x: tuple(x.new_zeros(*x.shape[:-1], size) for size in SIZES[1:])
    return Way("sinabs", name, params, init, step, by_hand(_neuron, slope), own=own)


def _neuron(numbers, v, x, spike):
    alpha, threshold = numbers[0], numbers[1].detach()
    v = torch.zeros_like(x) if v is None else v
    v = alpha * v + (1 - alpha) * x
    s = spike(v - threshold, threshold)
    return s, v - s * threshold


def modules() -> list[Module]:
    by_hand = {"init_state_with_shape for every layer, then load_state_dict": (lambda net: net.state_dict(), _set)}
    make = lambda name, spike_fn, own: Module(
        "sinabs", name, lambda: _module(spike_fn), _call, _pure, own=own, by_hand=by_hand
    )
    return [make("SingleExponential", SingleSpike, ""), make("own spike_fn", OwnSpike, "own surrogate")]


def _set(net: nn.Module, saved: Any) -> None:
    for layer in (1, 3):
        net[layer].init_state_with_shape(saved[f"{layer}.v_mem"].shape)
    net.load_state_dict(saved)


def _module(spike_fn: Any) -> nn.Module:
    first, hidden, last = SIZES
    lif = lambda tau: LIF(tau_mem=tau, spike_threshold=torch.tensor(0.6), spike_fn=spike_fn)
    net = nn.Sequential(nn.Linear(first, hidden, bias=False), lif(2.0), nn.Linear(hidden, last, bias=False), lif(1.5))
    net[0].weight.data, net[2].weight.data = weights(0.7)
    return net


_call = lambda net, x: net(x[:, None])[:, 0]


def _pure(net: nn.Module, x: torch.Tensor) -> Any:
    """`functional_call` leaves a buffer that was assigned to in the dict that it was given."""
    state = {f"{n}.v_mem": x.new_zeros(len(x), size) for n, size in zip("13", SIZES[1:])}

    def step(params, state, x):
        given = {**params, **state}
        spk = functional_call(net, given, (x[:, None],))[:, 0]
        return spk, {name: given[name] for name in state}

    return step, {name: p for name, p in net.named_parameters() if p.requires_grad}, state


class Alif(StatefulLayer):
    def __init__(self) -> None:
        super().__init__(state_names=["v_mem", "adapt"])

    def forward(self, xs):
        self.v_mem, self.adapt, spks = torch.zeros_like(xs[:, 0]), torch.zeros_like(xs[:, 0]), []
        for x in xs.unbind(1):
            spk, self.v_mem, self.adapt = alif(x, self.v_mem, self.adapt)
            spks.append(spk)
        return torch.stack(spks, 1)


def own_neuron() -> list[Neuron]:
    layer = Alif()
    return [Neuron("StatefulLayer", lambda xs: layer(xs.transpose(0, 1)).transpose(0, 1))]
