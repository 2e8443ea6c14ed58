"""Spikes of both signs."""

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from .._names import Shown
from ._membrane import charged, fire, inhibit, Lowers, outside, paid
from ._modifier import emitted, Step


@dataclasses.dataclass(frozen=True, repr=False)
class ternary(Lowers, metaclass=Shown):
    """A neuron below -threshold fires -1.

        U   = the membrane after the step without reset
        spk = S(U - threshold) - S(-U - threshold)                                          -1, 0 or 1
        mem = U - spk threshold                                                             "subtract"
              0 where spk != 0, else U                                                      "zero", "clear"

        neuron = ternary(leaky)
        spks, state = scan(neuron.step, params, neuron.init(params, xs[0]), xs)             params: those of leaky

    The reset falls into the step of the spike; the surrogate's gradient, at both thresholds, flows through it. An adaptive neuron fires
    at its raised threshold on both sides.

    Needs a state with `mem` and params with `threshold`, `spike_grad` and `reset_mechanism`. Source: `ternary_if_step` and
    `ternary_lif_step` of SpikingJelly 2.0, which fire at the threshold, too (so does a `lif` that is `inclusive`).
    """

    _binary: ClassVar[bool] = False
    step: Step

    def __post_init__(self) -> None:
        super().__post_init__()
        outside(self, inhibit)

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        state = charged(self, params, state, input)
        above, below = fire(params, state, state.mem), fire(params, state, -state.mem)
        return above - below, emitted(above - below, paid(params, state, above + below, above - below))
