"""The state beside the spikes."""

import dataclasses
from typing import Any

from .._names import Shown
from ._modifier import Modifier, Step


@dataclasses.dataclass(frozen=True, repr=False)
class record(Modifier, metaclass=Shown):
    """The state of every step is part of the output.

    output[t] = (spk[t], state[t])

    (spks, states), state = scan(record(leaky_step), params, state, xs)          states.mem [T, batch, ..., neurons]
    """

    step: Step

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, Any]:
        output, state = self.step(params, state, input)
        return (output, state), state
