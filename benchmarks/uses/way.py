"""What the programs need of a library: a network of two layers in its own idiom, and the same network by hand.

    linear(5 -> 8), LIF(8), linear(8 -> 3), LIF(3), no biases

The weights are the leaves of two axes and the neurons' numbers the leaves of none, whatever the tree looks like.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


T, BATCH, SIZES = 9, 4, (5, 8, 3)


@dataclasses.dataclass
class Way:
    """- `name`: how it is done, for the reader. - `params`: a tree. - `init(params, x)`: the state at rest, for x [batch, 5].
    - `step(params, state, x)`: spikes [batch, 3] and the next state. - `by_hand(params, xs)`: the same spikes in plain torch.
    - `scan`: the library's own loop over time, if it has one. - `rtrl(step, loss)`: its online gradient, likewise.
    - `own`: what of it the user has to write or to give up, in a word or two.
    """

    library: str
    name: str
    params: Any
    init: Callable[[Any, Tensor], Any]
    step: Callable[[Any, Any, Tensor], tuple[Tensor, Any]]
    by_hand: Callable[[Any, Tensor], Tensor]
    scan: Callable[[Any, Any, Any, Tensor], tuple[Tensor, Any]] | None = None
    rtrl: Callable[[Any, Any], Any] | None = None
    own: str = ""

    def over_time(self, params: Any, state: Any, xs: Tensor) -> tuple[Tensor, Any]:
        return (self.scan or loop)(self.step, params, state, xs)

    def run(self, params: Any, xs: Tensor) -> Tensor:
        return self.over_time(params, self.init(params, xs[0]), xs)[0]


STATE_DICT = (lambda net: net.state_dict(), lambda net, saved: net.load_state_dict(saved))


@dataclasses.dataclass
class Module:
    """Two such layers as a module that keeps its state, if `keeps_state`. - `build()`: a new one, its weights drawn anew.
    - `call(net, x)`: one step.
    - `pure(net, x) -> step, params, state`: the library's way to a pure function, at rest. - `saving`: its ways to save a network in
    the middle of a sequence; {name: (save(net), load(net, saved))}, in `by_hand` those where the user has to know the layers.
    """

    library: str
    name: str
    build: Callable[[], torch.nn.Module]
    call: Callable[[Any, Tensor], Tensor]
    pure: Callable[[Any, Tensor], tuple[Any, dict[str, Tensor], Any]]
    own: str = ""
    keeps_state: bool = True
    saving: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=lambda: {"net.state_dict()": STATE_DICT})
    by_hand: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Neuron:
    """`run(xs)`: the spikes of `alif` over time, through what the library has for a neuron of one's own."""

    name: str
    run: Callable[[Tensor], Tensor]
    own: str = ""


def own_surrogate(u: Tensor) -> Tensor:
    """Two lines of plain torch that every transform can differentiate."""
    smooth = torch.atan(torch.pi * u) / torch.pi
    return (u > 0).to(u.dtype) + (smooth - smooth.detach())


def alif(x: Tensor, mem: Tensor, adapt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A user's own pointwise neuron: the threshold rises with every spike."""
    mem = 0.8 * mem + x
    spk = own_surrogate(mem - 1 - adapt)
    return spk, mem - spk.detach(), 0.9 * adapt + 0.3 * spk


def loop(step: Any, params: Any, state: Any, xs: Tensor) -> tuple[Tensor, Any]:
    outs = []
    for x in xs.unbind(0):
        out, state = step(params, state, x)
        outs.append(out)
    return torch.stack(outs), state


def weights(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """For a neuron that averages its input; a smaller `scale` for one that adds it up. Both layers fire, whichever is drawn."""
    first, hidden, last = SIZES
    return scale * (0.35 + torch.randn(hidden, first) / 5), scale * (0.25 + torch.randn(last, hidden) / 10)


def data(batch: int = BATCH, steps: int = T) -> tuple[Tensor, Tensor]:
    """Currents [T, batch, 5], and a rate for each sample's outputs."""
    return torch.rand(steps, batch, SIZES[0]) * 2, torch.rand(batch, SIZES[-1])


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, slope: Any) -> Tensor:
        ctx.save_for_backward(u)
        ctx.slope = slope
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return grad * ctx.slope(*ctx.saved_tensors), None


def by_hand(neuron: Any, slope: Any) -> Any:
    """The network in plain torch, for plain autograd: `neuron(numbers, states, x, spike) -> spike, states`.

    Takes the tree of params only as the list of its tensors: a weight, its neuron's numbers, and again.
    """
    spike = lambda u, *more: _Spike.apply(u, lambda u: slope(u, *more))

    def run(params: Any, xs: Tensor) -> Tensor:
        leaves, layers = tensors(params), []
        for leaf in leaves:
            layers.append([leaf]) if leaf.dim() == 2 else layers[-1].append(leaf)
        states, outs = [None] * len(layers), []
        for x in xs.unbind(0):
            for n, (weight, *numbers) in enumerate(layers):
                x, states[n] = neuron(numbers, states[n], x @ weight.T, spike)
            outs.append(x)
        return torch.stack(outs)

    return run


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def tree_map(f: Any, tree: Any, *others: Any) -> Any:
    """Over the tensors; what else there is stays."""
    return pytree.tree_map(lambda leaf, *more: f(leaf, *more) if isinstance(leaf, Tensor) else leaf, tree, *others)


def filled(tree: Any, leaves: Any) -> Any:
    """The tree with other tensors."""
    leaves = iter(leaves)
    return tree_map(lambda _: next(leaves), tree)
