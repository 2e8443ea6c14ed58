"""The membrane in place of the spikes."""

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from .._names import Shown
from .._tree import replaced
from ._modifier import Modifier, Step


@dataclasses.dataclass(frozen=True, repr=False)
class readout(Modifier, metaclass=Shown):
    """Gives the membrane, which is never reset: the last layer of many networks.

    output[t] = mem[t] of the step without reset

    neuron = readout(lif)                     NIR's LI, with the leak and the gain of LifParams; readout(cuba_lif) is its CubaLI

    Needs a state with `mem`. The params keep their own `reset_mechanism`, which is not read. A neuron without that choice whose reset is
    part of its equation, as `se_adlif` or `adex`, goes on with it.
    """

    _binary: ClassVar[bool] = False
    step: Step

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        self.reads(state, "mem")
        if hasattr(params, "reset_mechanism"):
            params = replaced(params, reset_mechanism="none")
        _, state = self.step(params, state, input)
        return state.mem, state
