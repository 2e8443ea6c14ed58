"""A trace of the spikes in their place."""

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from .._names import Shown
from .._neuron import at_rest, beside, unit
from .._tree import Leaf, pytree
from ._modifier import Modifier, Step


@pytree
class FilteredParams:
    """- `inner`: the neuron's own params. - `decay`: share of the trace kept each step, read as clamped to [0, 1]. () or (neurons,)."""

    inner: Any
    decay: Leaf


@pytree
class FilteredState:
    """- `inner`: the neuron's own state. - `trace`: the filtered spikes. (batch, ..., neurons)."""

    inner: Any
    trace: Tensor


@dataclasses.dataclass(frozen=True, repr=False)
class filtered(Modifier, metaclass=Shown):
    """Gives the spikes through an exponential filter: the readout of many papers, a current for the next layer.

        output[t] = trace[t] = decay trace[t-1] + spk[t]

        neuron = filtered(leaky)
        params = FilteredParams(LeakyParams(0.9), decay=0.8)
        traces, state = scan(neuron.step, params, neuron.init(params, xs[0]), xs)

    Takes any step whose output is one tensor, whatever it stands for.
    """

    _binary: ClassVar[bool] = False
    step: Step
    Params = FilteredParams
    State = FilteredState

    def rest(self, init: Any, params: Any, input: Any) -> Any:
        self.opened(params)
        inner = init(params.inner, input)
        spk = self.spikes(self.step(params.inner, inner, input)[0])
        return FilteredState(inner, at_rest(params, spk))

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        self.opened(params, state)
        output, inner = self.step(params.inner, state.inner, input)
        spk = self.spikes(output)
        beside(params, state, spk)
        trace = unit(params.decay) * state.trace + spk
        return trace, FilteredState(inner, trace)
