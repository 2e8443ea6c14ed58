"""Several spikes in a step, for the platforms that fire so."""

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._names import Shown
from ..surrogate import fires
from ._membrane import charged, Lowers, paid
from ._modifier import Step


@dataclasses.dataclass(frozen=True, repr=False)
class several(Lowers, metaclass=Shown):
    """A membrane of several thresholds fires as often as it holds one, and pays for each spike.

        mem = that of the step without reset
        spk = floor(mem / threshold), at least 0 and at most `most`
        mem = mem - spk threshold             "subtract"
              reset, where spk > 0            "value"

    The slope of spk is that of `spike_grad(mem - threshold)`, however many they are, and there need be no most: as these platforms have it.
    `multi_spike` has a slope at each multiple. Source: `MultiSpike` of sinabs 3.1.3.
    Needs the params of `lif` or `cuba_lif`.
    """

    _binary: ClassVar[bool] = False
    step: Step
    most: int | None = None

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        self.reads(params, "detach_reset")
        state = charged(self, params, state, input)
        above = state.mem - params.threshold
        count = torch.floor(state.mem / params.threshold).clamp(0, self.most)
        spk = params.spike_grad(above) + (count - fires(above))
        return spk, paid(params, state, spk.clamp(max=1.0), spk)
