"""NIR, the exchange format of neuromorphic tools: a graph becomes one pure step and its params, and a network of ours a graph.

    from snn_functional import nir

    neuron, params = nir.read("network.nir", dt=1e-4)
    spks, state = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)

See README.md here for what is read, which edges are recurrent, and what differs between platforms.
"""

from .._names import show as _show
from ._platforms import Platform as Platform, platforms as platforms
from ._read import noted as noted, read as read
from ._write import write as write


_show(globals())
