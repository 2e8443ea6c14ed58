"""snnTorch's interface over the pure core: `from snn_functional import snn` where a script said `import snntorch as snn`.

    net = nn.Sequential(nn.Linear(784, 10), snn.Leaky(beta=0.9, init_hidden=True))

Each face is derived from its neuron's bundle; the dynamics are those of the pure step, snnTorch 1.0.0's.
Beside `_functionalize/`, the only room that imports `torch.nn`'s modules.
"""

from .._functionalize import defunctionalize as defunctionalize, functionalize as functionalize
from .._names import show as _show
from ..neurons import adaptive_leaky, alpha, izhikevich, leaky, synaptic
from . import (
    backprop as backprop,
    export_nir as export_nir,
    functional as functional,
    import_nir as import_nir,
    spikegen as spikegen,
    spikeplot as spikeplot,
    surrogate as surrogate,
    utils as utils,
)
from ._associative_leaky import AssociativeLeaky as AssociativeLeaky
from ._delta_leaky import DeltaLeaky as DeltaLeaky
from ._face import stateful as stateful
from ._lapicque import Lapicque as Lapicque
from ._layers import BatchNormTT1d as BatchNormTT1d, BatchNormTT2d as BatchNormTT2d, GradedSpikes as GradedSpikes
from ._leaky_parallel import LeakyParallel as LeakyParallel
from ._parallel import LinearLeaky as LinearLeaky, StateLeaky as StateLeaky
from ._recurrent import RLeaky as RLeaky, RSynaptic as RSynaptic, SConv2dLSTM as SConv2dLSTM, SLSTM as SLSTM
from ._run import explain as explain, run as run
from ._stateful import Stateful as Stateful


Leaky = stateful(leaky, "Leaky", "graded_spikes_factor", "learn_graded_spikes_factor", "reset_delay")
Synaptic = stateful(synaptic, "Synaptic", "reset_delay")
Alpha = stateful(alpha, "Alpha")
AdaptiveLeaky = stateful(adaptive_leaky, "AdaptiveLeaky", "reset_delay")  # snnTorch has neither
Izhikevich = stateful(izhikevich, "Izhikevich")
SpikingNeuron = LIF = Stateful


_show(
    globals(),
    *("backprop", "export_nir", "functional", "import_nir", "spikegen", "spikeplot", "surrogate", "utils"),
    hide=["adaptive_leaky", "alpha", "izhikevich", "leaky", "synaptic"],
)
