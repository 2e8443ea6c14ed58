"""Modifiers: a step in, a step out. What snnTorch does with flags of the neuron is a function of its step here.

    step = inhibit(leaky_step)                  # one winner a sample
    spks, state = scan(step, params, state, xs)

A modified step is a value (a frozen dataclass that can be called), so two made alike are equal and pickle.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._tree import tree_map


Step = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class inhibit:
    """Winner takes all: along `dim`, only the neuron furthest above its threshold may fire.

        winner = argmax(mem - threshold)
        spk    = spk where the neuron is the winner, else 0

    At most one spike along `dim`; of equal neurons the first wins. Losers above the threshold stay silent but are reset all the
    same, and the gradient reaches the winner only: `inhibition=True` of snnTorch 1.0.0, which allows dim 1 of 2 only.

    Needs a state with `mem` and params with `threshold`.
    """

    step: Step
    dim: int = -1

    def __call__(self, params: Any, state: Any, input: Tensor) -> tuple[Tensor, Any]:
        spk, state = self.step(params, state, input)
        winner = (state.mem - params.threshold).argmax(self.dim, keepdim=True)
        return _emitted(spk * torch.zeros_like(spk).scatter(self.dim, winner, 1.0), state)


@dataclasses.dataclass(frozen=True)
class quantize:
    """Every leaf of the state is passed through `quantizer` after the step, and the spike is taken again from what is left.

    `quantizer` maps a tensor to one of its shape: `state_quant` of snnTorch 1.0.0.
    Needs a state with `mem` and params with `threshold` and `spike_grad`.
    """

    step: Step
    quantizer: Callable[[Tensor], Tensor]

    def __call__(self, params: Any, state: Any, input: Tensor) -> tuple[Tensor, Any]:
        _, state = self.step(params, state, input)
        state = tree_map(self.quantizer, state)
        fire = getattr(params, "fire", lambda mem: params.spike_grad(mem - params.threshold))
        return _emitted(fire(state.mem), state)


@dataclasses.dataclass(frozen=True)
class immediate_reset:
    """A spike lowers the membrane in the step it is fired, not in the next one.

        spk, U = the step without reset
        mem    = U - spk threshold      "subtract"
                 U - spk U              "zero", "clear"

    The surrogate's gradient flows through this reset. snnTorch 1.0.0's `reset_delay=False` differs where a membrane stays above
    its threshold after the reset: there it gives the next reset back and loses the spike; here the neuron fires again.

    Needs a state with `mem` and params with `threshold` and `reset_mechanism`.
    """

    step: Step

    def __call__(self, params: Any, state: Any, input: Tensor) -> tuple[Tensor, Any]:
        spk, state = self.step(dataclasses.replace(params, reset_mechanism="none"), state, input)
        if params.reset_mechanism == "none":
            return spk, state
        lost = params.threshold if params.reset_mechanism == "subtract" else state.mem
        return spk, dataclasses.replace(state, mem=state.mem - spk * lost)


def _emitted(spk: Tensor, state: Any) -> tuple[Tensor, Any]:
    """What a step returns that fires `spk` after all: a recurrent neuron remembers its spikes."""
    return spk, dataclasses.replace(state, spk=spk) if hasattr(state, "spk") else state
