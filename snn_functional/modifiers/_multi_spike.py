"""Several spikes in one step."""

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from .._names import Shown
from ._membrane import charged, fire, inhibit, Lowers, outside, paid
from ._modifier import emitted, Step


@dataclasses.dataclass(frozen=True, repr=False)
class multi_spike(Lowers, metaclass=Shown):
    """A neuron far above its threshold fires several times in a step, as often as the threshold goes into the membrane, `most` at most.

        U   = the membrane after the step without reset
        spk = S(U - threshold) + S(U - 2 threshold) + ... + S(U - most threshold)          a whole number, 0 ... most
        mem = U - spk threshold

        neuron = multi_spike(leaky, most=8)
        spks, state = scan(neuron.step, params, neuron.init(params, xs[0]), xs)             params: those of leaky

    The reset is a subtraction, in the step of the spikes. The gradient has the neuron's surrogate at each multiple of the threshold, and
    flows through the reset. `most` is part of the equation: the step costs as many surrogates.

    Needs a state with `mem` and params with `threshold`, `spike_grad` and `reset_mechanism`, which is "subtract" or "none"; raises
    ValueError for another. Source: `MultiSpike` and `MaxSpike` of sinabs 3.1, the neuron of the Speck chip. Their count is
    trunc(U / threshold), which fires at a multiple, too (so does a `lif` that is `inclusive`); their gradient has one surrogate.
    """

    _binary: ClassVar[bool] = False
    step: Step
    most: int

    def __post_init__(self) -> None:
        super().__post_init__()
        outside(self, inhibit)
        if type(self.most) is not int or self.most < 1:
            raise ValueError(f"multi_spike(..., most={self.most!r}): expected a whole number of spikes, 1 or more.")

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        state = charged(self, params, state, input)
        if params.reset_mechanism not in ("subtract", "none"):
            raise ValueError(
                f"multi_spike: reset_mechanism={params.reset_mechanism!r}. Several spikes are paid for by subtraction: "
                'reset_mechanism="subtract", or "none".'
            )
        spk = fire(params, state, state.mem)
        for times in range(2, self.most + 1):
            spk = spk + fire(params, state, state.mem, times)
        return spk, emitted(spk, paid(params, state, spk))
