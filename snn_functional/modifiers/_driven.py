"""Recorded spikes in place of the neuron's own."""

import dataclasses
from typing import Any

from torch import Tensor

from .._names import Shown
from .._neuron import at_least
from ._membrane import charged, fire, inhibit, Lowers, outside, paid
from ._modifier import emitted, Step


@dataclasses.dataclass(frozen=True, repr=False)
class driven(Lowers, metaclass=Shown):
    """The neuron is reset where a recording fired, whatever it would have fired itself: teacher forcing, to fit it to the recording.

        U   = the membrane after the step without reset
        spk = S(U - threshold)                                                      what it would fire now
        mem = U less the reset of the recorded spikes, as in `immediate_reset`      of an input (x, recorded)

        neuron = driven(leaky)
        inputs = currents, recorded                                                 both [T, batch, ..., neurons]
        spks, state = scan(neuron.step, params, neuron.init(params, (xs[0], recorded[0])), inputs)      params: those of leaky

    So each step is asked what comes next after the history that really was, and its gradient does not pass through a spike that
    never happened. With a `spike_grad` that is a probability, `torch.sigmoid` say, the output is one of a spike, for a likelihood:
    `binary_cross_entropy(spks, recorded)`. A neuron that remembers its spikes remembers the recorded ones.

    Needs a state with `mem` and params with `threshold`, `spike_grad` and `reset_mechanism`. Raises TypeError where the input is no
    pair of tensors, ValueError where the recording has another shape than the spikes. Source: teacher forcing, Williams and Zipser 1989,
    doi:10.1162/neco.1989.1.2.270; for neurons the likelihood given the recorded past of Pillow et al. 2008, doi:10.1038/nature07140.
    """

    step: Step

    def __post_init__(self) -> None:
        super().__post_init__()
        outside(self, inhibit)

    def rest(self, init: Any, params: Any, input: Any) -> Any:
        return init(params, self._pair(input)[0])

    def __call__(self, params: Any, state: Any, input: tuple[Any, Tensor]) -> tuple[Tensor, Any]:
        x, recorded = self._pair(input)
        state = charged(self, params, state, x)
        spk, recorded = fire(params, state, state.mem), at_least(state.mem.dtype, recorded).to(state.mem.dtype)
        if recorded.shape != spk.shape:
            raise ValueError(
                f"driven: the recording has shape {tuple(recorded.shape)} in a step, the neuron's spikes {tuple(spk.shape)}. Expected one "
                "shape."
            )
        return spk, emitted(recorded, paid(params, state, recorded))

    def _pair(self, input: Any) -> tuple[Any, Tensor]:
        if not isinstance(input, tuple) or len(input) != 2 or not all(isinstance(x, Tensor) for x in input):
            raise TypeError(f"driven: the input is a pair of tensors (x, recorded), not {type(input).__name__}.")
        return input
