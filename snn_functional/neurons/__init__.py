"""The neurons, one private file each: Params, State, init, step and the bundle, named in the file's `__all__`.

A new neuron is a new file and a line here; the tests find it by themselves. `help(leaky)` and `help(leaky_step)` show the equations,
which stand at the head of the neuron's file.
"""

import sys as _sys

from .._names import show as _show, with_lines as _with_lines
from .._neuron import Neuron as _Neuron
from ._adaptive_leaky import *
from ._adex import *
from ._adlif import *
from ._alpha import *
from ._associative_leaky import *
from ._balanced_resonate_and_fire import *
from ._clif import *
from ._cuba_lif import *
from ._delta_leaky import *
from ._exponential_integrate_and_fire import *
from ._gated_lif import *
from ._hodgkin_huxley import *
from ._izhikevich import *
from ._izhikevich_euler import *
from ._klif import *
from ._lapicque import *
from ._leaky import *
from ._leaky_integrator import *
from ._leaky_parallel import *
from ._lif import *
from ._linear_leaky import *
from ._plif import *
from ._quadratic_integrate_and_fire import *
from ._resonate_and_fire import *
from ._rleaky import *
from ._rsynaptic import *
from ._sconv2dlstm import *
from ._se_adlif import *
from ._short_term_plasticity import *
from ._slstm import *
from ._state_leaky import *
from ._synaptic import *
from ._tc_lif import *


_heads = {}
for _name, _value in [*globals().items()]:
    if isinstance(_value, _Neuron):
        _heads[_name] = _sys.modules[_value.step.__module__].__doc__
        if _heads[_name] and _value.step.__doc__:
            _value.step.__doc__ = f"{_heads[_name].rstrip()}\n\n{_value.step.__doc__}"
__doc__ = _with_lines(__doc__, _heads)
_show(globals())
