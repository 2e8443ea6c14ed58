"""SpikingJelly 2.0.0: modules with memories, `functional.*_step` beneath them, `base.to_functional_forward`, FlexSN."""

import functools
from typing import Any

import torch
from spikingjelly.activation_based import base, functional, neuron, surrogate
from torch import nn
from torch.func import functional_call
from way import alif, by_hand, Module, Neuron, own_surrogate, SIZES, STATE_DICT, Way, weights


atan = lambda u: 1 / (1 + (torch.pi * u) ** 2)
pseudo = lambda u: (1 + 2 * u.abs()) ** -2.0


def ways() -> list[Way]:
    return [
        _lif("lif_step, ATan", surrogate.ATan(), atan, numbers=float),
        _plif("plif_step, ATan", surrogate.ATan(), atan),
        _lif("lif_step, QPseudoSpike", surrogate.QPseudoSpike(), pseudo, own="QPseudoSpike"),
        _plif("plif_step, QPseudoSpike", surrogate.QPseudoSpike(), pseudo, own="QPseudoSpike"),
        _lif("lif_step, own surrogate", own_surrogate, atan, own="own surrogate"),
    ]


def _lif(name: str, spike: Any, slope: Any, own: str = "", numbers: Any = torch.tensor) -> Way:
    """tau and v_threshold are floats, says the annotation; without the registered operator of the usual surrogates, tensors too."""
    w1, w2 = weights(0.7)

    def step(params, state, x):
        p = fixed | params
        s, v1 = functional.lif_step(x @ p["w1"].T, state[0], p["tau1"], True, p["v_th1"], 0.0, spike)
        s, v2 = functional.lif_step(s @ p["w2"].T, state[1], p["tau2"], True, p["v_th2"], 0.0, spike)
        return s, (v1, v2)

    params = {
        "w1": w1,
        "tau1": numbers(2.0),
        "v_th1": numbers(0.6),
        "w2": w2,
        "tau2": numbers(1.8),
        "v_th2": numbers(0.6),
    }
    fixed = {k: v for k, v in params.items() if isinstance(v, float)}
    params = {k: v for k, v in params.items() if k not in fixed}
    return Way("spikingjelly", name, params, _init, step, by_hand(_neuron, slope), own=own)


def _plif(name: str, spike: Any, slope: Any, own: str = "") -> Way:
    """What ParametricLIFNode learns, a rate sigmoid(w), is a tensor here; the threshold is a float."""
    w1, w2 = weights(0.7)

    def step(params, state, x):
        s, v1 = functional.plif_step(x @ params["w1"].T, state[0], params["r1"], True, 0.6, 0.0, spike)
        s, v2 = functional.plif_step(s @ params["w2"].T, state[1], params["r2"], True, 0.6, 0.0, spike)
        return s, (v1, v2)

    params = {"w1": w1, "r1": torch.tensor(0.1), "w2": w2, "r2": torch.tensor(0.4)}
    return Way("spikingjelly", name, params, _init, step, by_hand(_neuron, slope), own=own)


def _init(params, x):
    return tuple(x.new_zeros(*x.shape[:-1], size) for size in SIZES[1:])


def _neuron(numbers, v, x, spike):
    if len(numbers) == 1:
        rate, threshold = torch.sigmoid(numbers[0]), 0.6
    else:
        tau, threshold = numbers or (2.0 if x.shape[-1] == SIZES[1] else 1.8, 0.6)
        rate = 1 / tau
    v = torch.zeros_like(x) if v is None else v
    v = v + (x - v) * rate
    s = spike(v - threshold)
    return s, (1 - s) * v


def modules() -> list[Module]:
    lif = lambda tau, **more: neuron.LIFNode(tau=tau, **more)
    plif = lambda tau, **more: neuron.ParametricLIFNode(init_tau=tau, **more)
    memories = (lambda net: (net.state_dict(), base.extract_memories(net)), _set)
    saving = {"net.state_dict()": STATE_DICT, "base.extract_memories and load_memories": memories}
    make = lambda name, kind, spike, own="": Module(
        "spikingjelly", name, lambda: _module(kind, spike), _call, _pure, own=own, saving=saving
    )
    return [
        make("ParametricLIFNode, ATan", plif, surrogate.ATan()),
        make("LIFNode, ATan", lif, surrogate.ATan()),
        make("QPseudoSpike", plif, surrogate.QPseudoSpike(), own="QPseudoSpike"),
        make("own surrogate", plif, own_surrogate, own="own surrogate"),
    ]


def _set(net: nn.Module, saved: Any) -> None:
    net.load_state_dict(saved[0])
    base.load_memories(net, saved[1])


def _module(lif: Any, spike: Any) -> nn.Module:
    first, hidden, last = SIZES
    lif = functools.partial(lif, v_threshold=0.6, surrogate_function=spike)
    net = nn.Sequential(nn.Linear(first, hidden, bias=False), lif(2.0), nn.Linear(hidden, last, bias=False), lif(1.8))
    net[0].weight.data, net[2].weight.data = weights(0.7)
    return net


_call = lambda net, x: net(x)


class Functional(nn.Module):
    """`to_functional_forward` takes the state out; `functional_call` takes the parameters out of that."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x, state):
        (spk,), state = base.to_functional_forward(self.net)((x,), state)
        return spk, state


def _pure(net: nn.Module, x: torch.Tensor) -> Any:
    whole = Functional(net)
    step = lambda params, state, x: functional_call(whole, {f"net.{k}": v for k, v in params.items()}, (x, state))
    return step, dict(net.named_parameters()), _init(None, x)


def own_neuron() -> list[Neuron]:
    return [Neuron("FlexSN", lambda xs: neuron.FlexSN(alif, num_states=2, step_mode="m")(xs))]
