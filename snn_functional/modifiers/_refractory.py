"""A refractory period for any neuron."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .._names import Shown
from .._neuron import beside
from .._tree import pytree, tree_map
from ._modifier import emitted, Modifier, Step


@pytree
class RefractoryState:
    """- `inner`: the neuron's own state. - `count`: steps for which it is still held, a whole number. (batch, ..., neurons)."""

    inner: Any
    count: Tensor


@dataclasses.dataclass(frozen=True, repr=False)
class refractory(Modifier, metaclass=Shown):
    """After a spike the neuron is held for `steps` steps: it does not fire, and its state stands still.

        held     = count[t-1] > 0
        inner[t] = inner[t-1] if held, else the step's state
        spk[t]   = 0          if held, else the step's spike
        count[t] = count[t-1] - 1 if held, else steps if spk[t] != 0, else 0

    A neuron fired if its output is not 0: a negative or graded spike holds it too.
    All of the state is held (an adaptation too) but the spikes that a recurrent neuron remembers: what does not fire feeds nothing
    back. A neuron that resets one step after its spike does so when it is released; with `refractory(immediate_reset(leaky), 3)` it
    waits at its reset. No gradient passes from a spike into the count.

        neuron = refractory(leaky, 3)
        spks, state = scan(neuron.step, params, neuron.init(params, xs[0]), xs)        params: those of leaky

    Takes any step whose output is one tensor of spikes and whose state has the spikes' shape.
    Source: the update of Norse's `lif_refrac_step`.
    """

    step: Step
    steps: int
    State = RefractoryState

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"refractory(..., steps={self.steps!r}): expected a whole number of steps, 1 or more.")
        if getattr(self.step, "through", None) is not None:
            raise ValueError(
                f"refractory({self.step!r}): what is on its way back would be held with the neuron. recurrent goes outside: "
                "recurrent(refractory(neuron, steps), through)."
            )

    def rest(self, init: Any, params: Any, input: Any) -> Any:
        inner = init(params, input)
        spk = self.spikes(self.step(params, inner, input)[0])
        most = round(2 / torch.finfo(spk.dtype).eps)
        if self.steps > most:
            raise ValueError(f"refractory(..., steps={self.steps}): {spk.dtype} counts to {most} only.")
        return RefractoryState(inner, torch.zeros_like(spk))

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        self.opened(params, state)
        output, inner = self.step(params, state.inner, input)
        spk = self.spikes(output)
        beside(None, state, spk)
        held = state.count > 0
        spk = torch.where(held, 0.0, spk)
        inner = tree_map(lambda old, new: torch.where(held, old, _like(new, spk)), state.inner, inner)
        count = torch.where(held, state.count - 1, self.steps * (spk != 0).to(spk.dtype))
        return spk, RefractoryState(emitted(spk, inner), count)


def _like(leaf: Tensor, spk: Tensor) -> Tensor:
    if leaf.shape != spk.shape:
        raise ValueError(
            f"refractory holds a neuron's whole state, but {tuple(leaf.shape)} stands in the state of spikes {tuple(spk.shape)}. In a "
            "network hold the layer: chain(..., refractory(neuron, steps))."
        )
    return leaf
