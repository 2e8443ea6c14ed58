"""The neurons, one private file each: Params, State, init, step and the bundle, named in the file's `__all__`.

A new neuron is a new file and a line here; the tests find it by themselves.
"""

from ._adaptive_leaky import *
from ._alpha import *
from ._associative_leaky import *
from ._cuba_lif import *
from ._delta_leaky import *
from ._izhikevich import *
from ._lapicque import *
from ._leaky import *
from ._leaky_integrator import *
from ._leaky_parallel import *
from ._lif import *
from ._linear_leaky import *
from ._rleaky import *
from ._rsynaptic import *
from ._sconv2dlstm import *
from ._slstm import *
from ._state_leaky import *
from ._synaptic import *
