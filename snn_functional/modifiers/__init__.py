"""Modifiers: a step in, a step out; or a neuron in, a neuron out. What other libraries do with flags of the neuron, or with twins of it.

    neuron = refractory(adaptive_threshold(leaky), 3)          a Neuron: its Params, State, init and step
    step = inhibit(leaky_step)                                 a step

One that has numbers or a memory of its own puts them beside those of the neuron, which are under `inner`:
`AdaptiveThresholdParams(LeakyParams(0.9), decay=0.95, jump=0.3)`. A modified step is a value (a frozen dataclass that can be called),
so two made alike are equal and pickle, and `scan` finds its kernel as it does for any step.

Which goes inside which, from the neuron outwards; what cannot work in another order is refused:

    quantize, inhibit, immediate_reset, adaptive_threshold       read the membrane
    multi_spike, ternary, escape_noise, driven                   read it, and say themselves what fires
    refractory, recurrent, noisy, sub_steps                      take any step that gives spikes
    filtered, readout, record                                    give something else than spikes
    masked                                                       around all of a network
"""

from .._names import show as _show, with_lines as _with_lines
from ._adaptive_threshold import (
    adaptive_threshold as adaptive_threshold,
    AdaptiveThresholdParams as AdaptiveThresholdParams,
    AdaptiveThresholdState as AdaptiveThresholdState,
)
from ._driven import driven as driven
from ._escape_noise import escape_noise as escape_noise, EscapeNoiseParams as EscapeNoiseParams
from ._filtered import filtered as filtered, FilteredParams as FilteredParams, FilteredState as FilteredState
from ._masked import masked as masked, valid_steps as valid_steps
from ._membrane import immediate_reset as immediate_reset, inhibit as inhibit, quantize as quantize
from ._multi_spike import multi_spike as multi_spike
from ._noisy import noisy as noisy, NoisyParams as NoisyParams
from ._readout import readout as readout
from ._record import record as record
from ._recurrent import recurrent as recurrent, RecurrentParams as RecurrentParams, RecurrentState as RecurrentState
from ._refractory import refractory as refractory, RefractoryState as RefractoryState
from ._sub_steps import sub_steps as sub_steps
from ._ternary import ternary as ternary


__doc__ = _with_lines(
    __doc__,
    {name: value.__doc__ for name, value in globals().items() if name.islower() and name[0] != "_" and callable(value)},
)
_show(globals())
