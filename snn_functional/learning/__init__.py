"""What trains online: rules that stream over time as any step does, with memory independent of T.

rtrl     exact, for any step; cheap for one layer            O(state x params); O(batch x weights)
eprop    exact within a neuron, cut between neurons          O(batch x weights)
ottt     a trace of each input                               O(neurons)
sltt     this moment only                                    nothing
tbptt    backpropagation within a piece of time              O(chunk)
stdp     what fires together: no loss                        O(neurons)
"""

from .._names import show as _show
from ._eprop import aligned as aligned, eprop as eprop
from ._ottt import ottt as ottt
from ._rtrl import rtrl as rtrl
from ._rule import LearningState as LearningState
from ._stdp import stdp_init as stdp_init, stdp_step as stdp_step, StdpParams as StdpParams, StdpState as StdpState
from ._tbptt import sltt as sltt, tbptt as tbptt


_show(globals())
