"""Modifiers that read the membrane: who may fire, with how many bits, and when a spike lowers it.

`charged` and `paid` are the two halves of a step whose spikes are paid for at once: the modifiers that say themselves what fires, in
files of their own, put their spike between the two.

A neuron that has them all is `immediate_reset(inhibit(quantize(neuron, quantizer)))`: each reads the membrane as the one inside it
has left it, so another order would read one that was lowered already, or fire again what was silenced, and is refused.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._names import Shown
from .._tree import replaced, tree_map
from ._modifier import emitted, Modifier, name, size, Step


class Lowers(Modifier):
    """What has lowered the membrane when its step is over."""


@dataclasses.dataclass(frozen=True, repr=False)
class inhibit(Modifier, metaclass=Shown):
    """Winner takes all: along `dim`, only the neuron furthest above its threshold may fire.

        winner = argmax(mem - threshold)
        spk    = spk where the neuron is the winner, else 0

    At most one spike along `dim`; of equal neurons the first wins. Losers above the threshold stay silent but are reset all the
    same, and the gradient reaches the winner only: `inhibition=True` of snnTorch 1.0.0, which allows dim 1 of 2 only.

    Needs a state with `mem` and params with `threshold`.
    """

    step: Step
    dim: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        outside(self, Lowers)

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        self.reads(params, "threshold")
        self.reads(state, "mem")
        seen(self, params)
        output, state = self.step(params, state, input)
        spk = self.spikes(output)
        winner = (state.mem - level(params, state)).argmax(self.dim, keepdim=True)
        spk = spk * torch.zeros_like(spk).scatter(self.dim, winner, 1.0)
        return spk, emitted(spk, state)


@dataclasses.dataclass(frozen=True, repr=False)
class quantize(Modifier, metaclass=Shown):
    """Every leaf of the state is passed through `quantizer` after the step, and the spike is taken again from what is left.

    `quantizer` maps a tensor to one of its shape: `state_quant` of snnTorch 1.0.0.
    Needs a state with `mem` and params with `threshold` and `spike_grad`, and a neuron whose spikes are `spike_grad(mem - threshold)`
    (or the `fire(mem)` of its params): of another, as one that gives -1, the spikes cannot be taken again.
    """

    step: Step
    quantizer: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        super().__post_init__()
        outside(self, Lowers, inhibit)

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        self.reads(params, "threshold", "spike_grad")
        self.reads(state, "mem")
        seen(self, params)
        output, state = self.step(params, state, input)
        self.spikes(output)
        state = tree_map(self.quantizer, state)
        spk = fire(params, state, state.mem)
        return spk, emitted(spk, state)


@dataclasses.dataclass(frozen=True, repr=False)
class immediate_reset(Lowers, metaclass=Shown):
    """A spike lowers the membrane in the step it is fired, not in the next one.

        spk, U = the step without reset
        mem    = U - |spk| threshold      "subtract"
                 U - |spk| U              "zero", "clear"
                 U - |spk| (U - reset)    "value"

    A negative spike costs what a positive one does. The surrogate's gradient flows through
    this reset. snnTorch 1.0.0's `reset_delay=False` differs where a membrane stays above
    its threshold after the reset: there it gives the next reset back and loses the spike; here the neuron fires again.

    Needs a state with `mem` and params with `threshold` and `reset_mechanism`.
    """

    step: Step

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        self.reads(params, "threshold", "reset_mechanism")
        self.reads(state, "mem")
        return lowered(self, params, state, input)


def lowered(modifier: Modifier, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
    """A step of what is inside, and the membrane less what its spike costs."""
    output, state = modifier.step(replaced(params, reset_mechanism="none"), state, input)
    spk = modifier.spikes(output)
    return spk, paid(params, state, size(spk))


def charged(modifier: Modifier, params: Any, state: Any, input: Any) -> Any:
    """The state after a step of what is inside, without its reset. What it fires there counts for nothing."""
    modifier.reads(params, "threshold", "reset_mechanism", "spike_grad")
    modifier.reads(state, "mem")
    params = replaced(params, reset_mechanism="none")
    seen(modifier, params)
    output, state = modifier.step(params, state, input)
    modifier.spikes(output)
    return state


def paid(params: Any, state: Any, fired: Tensor, lost: Tensor | None = None) -> Any:
    """The state after the reset, as the params say, of what has `fired`: less the threshold, as often as `lost` says if it is given; or 0,
    or the `reset` of the params. No gradient passes into it where they say `detach_reset`."""
    if params.reset_mechanism not in ("none", "subtract", "zero", "clear", "value"):
        raise ValueError(
            f"{type(params).__name__}: reset_mechanism={params.reset_mechanism!r} is more than a membrane that is lowered, so it cannot be "
            'put into the step of the spike. Give another: "subtract", "zero", or "none".'
        )
    if params.reset_mechanism == "none":
        return state
    lost = fired if lost is None else lost
    if getattr(params, "detach_reset", False):
        fired, lost = fired.detach(), lost.detach()
    if params.reset_mechanism == "subtract":
        return replaced(state, mem=state.mem - lost * params.threshold)
    mem = state.mem - fired * state.mem
    return replaced(state, mem=mem + fired * params.reset if params.reset_mechanism == "value" else mem)


def fire(params: Any, state: Any, mem: Tensor, times: int = 1) -> Tensor:
    """The spikes of this membrane, at so many times the threshold."""
    if hasattr(params, "fire"):
        return (params if times == 1 else replaced(params, threshold=times * params.threshold)).fire(mem)
    return params.spike_grad(mem - times * level(params, state))


def level(params: Any, state: Any) -> Tensor:
    """What the membrane must be above now: the threshold, unless the neuron says otherwise."""
    return params.level(state) if hasattr(params, "level") else params.threshold


def seen(modifier: Modifier, params: Any) -> None:
    """Refuses a neuron that leaves another membrane than the one that fired: what it left would not fire again."""
    if not getattr(params, "fires_from_state", True):
        way = ""
        if getattr(params, "spike_delay", False):
            way = " Give it spike_delay=False."
        elif hasattr(params, "reset_mechanism"):
            way = f" Put its reset outside: immediate_reset({name(modifier)}(neuron)); or give it reset_delay=True."
        raise ValueError(
            f"{name(modifier)} looks at the membrane after the step, which of {type(params).__name__} is not the one that fired.{way}"
        )


def outside(modifier: Modifier, *others: type) -> None:
    if isinstance(modifier.step, others):
        inner = name(modifier.step)
        raise ValueError(
            f"{name(modifier)}({inner}(neuron)): {inner} goes outside, {inner}({name(modifier)}(neuron)). {name(modifier)} reads the "
            "membrane and the spikes as the neuron makes them."
        )
