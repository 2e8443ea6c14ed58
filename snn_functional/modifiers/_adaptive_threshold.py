"""An adaptive threshold for any neuron: each spike raises it, and it decays back."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .._names import Shown
from .._neuron import at_rest, beside, unit
from .._tree import Leaf, pytree, replaced
from ._membrane import lowered
from ._modifier import Modifier, size, Step


@pytree
class AdaptiveThresholdParams:
    """- `inner`: the neuron's own params.
    - `decay`: share of the adaptation kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `jump`: what a spike adds to the threshold. () or (neurons,).
    """

    inner: Any
    decay: Leaf
    jump: Leaf


@pytree
class AdaptiveThresholdState:
    """- `inner`: the neuron's own state. - `adapt`: what is added to the threshold in the next step. (batch, ..., neurons)."""

    inner: Any
    adapt: Tensor


@dataclasses.dataclass(frozen=True, repr=False)
class adaptive_threshold(Modifier, metaclass=Shown):
    """A spike raises the neuron's threshold.

        spk[t], U = the step without reset, with threshold + adapt[t-1]
        mem[t]    = U less this spike's reset, as in `immediate_reset`
        adapt[t]  = decay adapt[t-1] + jump |spk[t]|

    A negative spike raises the threshold as a positive one does.
    The reset falls into the step of the spike, whatever the neuron's own: one step later the threshold would be another than the one
    the spike has crossed. So with a jump of 0 this is `immediate_reset(neuron)`. The surrogate's gradient flows through spk into
    adapt, as in the LSNN.

        neuron = adaptive_threshold(leaky)
        params = AdaptiveThresholdParams(LeakyParams(0.9), decay=0.95, jump=0.3)
        spks, state = scan(neuron.step, params, neuron.init(params, xs[0]), xs)

    Needs a state with `mem` and params with `threshold` and `reset_mechanism`. Source: the LSNN of Bellec et al. 2018,
    arXiv:1803.09574; `adaptive_leaky` is its neuron, which resets one step later.
    """

    step: Step
    Params = AdaptiveThresholdParams
    State = AdaptiveThresholdState

    def rest(self, init: Any, params: Any, input: Any) -> Any:
        self.opened(params)
        inner = init(params.inner, input)
        spk = self.spikes(self.step(params.inner, inner, input)[0])
        return AdaptiveThresholdState(inner, at_rest(params, spk))

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        self.opened(params, state)
        self.reads(params.inner, "threshold", "reset_mechanism")
        self.reads(state.inner, "mem")
        _check_sum(params, state)
        raised = replaced(params.inner, threshold=params.inner.threshold + state.adapt)
        spk, inner = lowered(self, raised, state.inner, input)
        beside(params, state, spk)
        return spk, AdaptiveThresholdState(inner, unit(params.decay) * state.adapt + params.jump * size(spk))


def _check_sum(params: Any, state: Any) -> None:
    parts = {"adapt": state.adapt, "threshold": params.inner.threshold, "mem": state.inner.mem}
    devices = {x.device for x in parts.values() if x.dim() or x.device.type != "cpu"}
    try:
        torch.broadcast_shapes(*(x.shape for x in parts.values()))
        fits = len(devices) < 2
    except RuntimeError:
        fits = False
    if not fits:
        described = ", ".join(f"{name} {tuple(x.shape)} is on {x.device}" for name, x in parts.items())
        raise ValueError(
            f"adaptive_threshold: {described}: one of them does not broadcast to the others. A state that fits is made by "
            "neuron.init(params, input)."
        )
