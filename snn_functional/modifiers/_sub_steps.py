"""Steps finer than those of the input."""

import dataclasses
from typing import Any

from torch import Tensor

from .._names import Shown
from ._modifier import Modifier, name, Step


@dataclasses.dataclass(frozen=True, repr=False)
class sub_steps(Modifier, metaclass=Shown):
    """`count` small steps of the neuron in each step, at the same input.

        spk[t] = 1 if it fires in any of them, else 0: 1 - (1 - spk_1) (1 - spk_2) ... (1 - spk_count)

        neuron = sub_steps(izhikevich, 4)
        spks, state = scan(neuron.step, params, neuron.init(params, xs[0]), xs)         params: those of the neuron, in small steps

    Where the equation of a neuron needs a finer step than the data has: what its params count in steps (a decay, a rate in steps, the
    period of `refractory` inside) they count in small ones. As a simulator that bins its spikes does, a step of the data has a spike or
    none; where a neuron may fire twice in one, the second is not seen by what comes after it, though the neuron has paid for it.
    The gradient of the product goes to the small steps that did not fire, or to the only one that did.

    Takes any step whose output is one tensor of spikes, 0 or 1. Raises ValueError for a modifier inside that gives something else, and
    for a count that is no whole number of 1 or more.
    """

    step: Step
    count: int

    def __post_init__(self) -> None:
        super().__post_init__()
        inner: Any = self.step
        while isinstance(inner, Modifier):
            if not inner._binary:
                raise ValueError(
                    f"sub_steps({name(inner)}(neuron)): what it gives is not 0 or 1, which alone a step of the data can be."
                )
            inner = inner.step
        if type(self.count) is not int or self.count < 1:
            raise ValueError(f"sub_steps(..., count={self.count!r}): expected a whole number of steps, 1 or more.")

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        output, state = self.step(params, state, input)
        silent = 1 - self.spikes(output)
        for _ in range(self.count - 1):
            output, state = self.step(params, state, input)
            silent = silent * (1 - self.spikes(output))
        return 1 - silent, state
