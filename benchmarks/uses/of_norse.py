"""Norse 1.1.0: pure steps on NamedTuples, and cells and `SequentialState` around them. Its modules keep no state."""

from typing import Any

import norse.torch as norse
import torch
from norse.torch.functional.lif_box import lif_box_feed_forward_step, LIFBoxFeedForwardState, LIFBoxParameters
from norse.torch.module.snn import SNN
from torch import nn
from torch.func import functional_call
from way import alif, by_hand, Module, Neuron, SIZES, Way, weights


ALPHA = {"super": 100.0, "triangle": 0.3, "tanh": 1.0}


def ways() -> list[Way]:
    return [
        _functional("method super", "super", lambda u: 1 / (1 + u.abs()) ** 2),
        _functional("method super, tensors in a dict", "super", lambda u: 1 / (1 + u.abs()) ** 2, own="params in a dict"),
        _functional("method triangle, tensors in a dict", "triangle", lambda u: 0.3 * torch.relu(1 - u.abs()), own="params in a dict"),
        _functional("method tanh, tensors in a dict", "tanh", lambda u: 1 - torch.tanh(u).pow(2), own="params in a dict"),
    ]  # fmt: skip


def _functional(name: str, method: str, slope: Any, own: str = "") -> Way:
    """The LIFBoxParameters are leaves' parents in the tree, a string and a function among their leaves; or are made of a dict."""
    w1, w2 = weights(0.7)
    numbers = lambda rate: dict(tau_mem_inv=torch.tensor(rate), v_th=torch.tensor(0.6))
    whole = lambda n: LIFBoxParameters(method=method, alpha=torch.tensor(ALPHA[method]), **n)  # type: ignore[arg-type]
    make = numbers if own else lambda rate: whole(numbers(rate))
    read = whole if own else lambda p: p

    def step(params, state, x):
        z, s1 = lif_box_feed_forward_step(x @ params["w1"].T, state[0], read(params["lif1"]))
        z, s2 = lif_box_feed_forward_step(z @ params["w2"].T, state[1], read(params["lif2"]))
        return z, (s1, s2)

    return Way(
        "norse",
        name,
        params={"w1": w1, "lif1": make(400.0), "w2": w2, "lif2": make(500.0)},
        init=lambda params, x: tuple(LIFBoxFeedForwardState(x.new_zeros(*x.shape[:-1], n)) for n in SIZES[1:]),
        step=step,
        by_hand=by_hand(_neuron, slope),
        own=own,
    )


def _neuron(numbers, v, x, spike):
    if len(numbers) == 2:
        (rate, th), leak, reset = numbers, 0.0, 0.0
    else:
        rate, leak, th, reset, _ = numbers
    v = torch.zeros_like(x) if v is None else v
    v = v + 0.001 * rate * (x + leak - v)
    z = spike(v - th)
    return z, (1 - z) * v + z * reset


def modules() -> list[Module]:
    return [Module("norse", "SequentialState", Holder, lambda net, x: net.advance(x), _pure, keeps_state=False)]


class Holder(nn.Module):
    """`SequentialState` and the user's variable for its state, which a copy shares, as two names may share a value."""

    def __init__(self) -> None:
        super().__init__()
        first, hidden, last = SIZES
        p = LIFBoxParameters(tau_mem_inv=torch.tensor(400.0), v_th=torch.tensor(0.6))
        lif = lambda: norse.LIFBoxCell(p)
        linear = lambda n, m: nn.Linear(n, m, bias=False)
        self.net = norse.SequentialState(linear(first, hidden), lif(), linear(hidden, last), lif())
        self.net[0].weight.data, self.net[2].weight.data = weights(0.7)
        self.state = None

    def advance(self, x):
        out, self.state = self.net(x, None if self.state is None else list(self.state))
        return out

    def __deepcopy__(self, memo):
        twin = Holder()
        twin.load_state_dict(self.state_dict())
        twin.state = None if self.state is None else list(self.state)
        return twin


def _pure(holder: Holder, x: torch.Tensor) -> Any:
    net = holder.net
    state = [None if i % 2 == 0 else LIFBoxFeedForwardState(x.new_zeros(len(x), SIZES[1 + i // 2])) for i in range(4)]
    step = lambda params, state, x: functional_call(
        net, {k.removeprefix("net."): v for k, v in params.items()}, (x, list(state))
    )
    return step, dict(holder.named_parameters()), state


def own_neuron() -> list[Neuron]:
    def step(x, state, p, dt):
        spk, *state = alif(x, *state)
        return spk, state

    layer = SNN(step, lambda xs: (torch.zeros_like(xs[0]), torch.zeros_like(xs[0])), None)
    return [Neuron("SNN(activation)", lambda xs: layer(xs)[0])]
