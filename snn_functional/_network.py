"""The network that `python -m snn_functional train` trains and saves: a tree, and the function that runs it.

    import torch
    import snn_functional as snf

    network = torch.load("runs/digits/model.pt", weights_only=True)        # torch < 2.4: without weights_only
    mems, spks = snf.train.network_apply(network, xs)                      # xs [T, batch, inputs] -> mems [T, batch, classes]

It comes with the library, so that a saved one is known once that is imported.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import neurons
from ._chain import chain, every_layer
from ._connections import Conv2d, conv2d, linear
from ._layers import flatten
from ._scan import scan
from ._tree import pytree, static


_KNOWN = (
    neurons.leaky,
    neurons.synaptic,
    neurons.lapicque,
    neurons.alpha,
    neurons.rleaky,
    neurons.rsynaptic,
    neurons.adaptive_leaky,
    neurons.lif,
    neurons.cuba_lif,
    neurons.plif,
    neurons.resonate_and_fire,
    neurons.klif,
    neurons.leaky_integrator,
)
NEURONS = {neuron.Params: neuron for neuron in _KNOWN}


@pytree
class Layer:
    """- `connection`: from the layer below to its neurons, `Linear` or `Conv2d`.
    - `neuron`: their params, every leaf (neurons,), or (channels, 1, 1) behind a convolution.
    """

    connection: Any
    neuron: Any


@pytree
class Network:
    """- `hidden`: layers that fire. `readout`: a layer of leaky integrators, one a class, whose membrane is read.
    - `image`: the inputs as (channels, height, width), where the first layer is a convolution; else None.
    """

    hidden: tuple[Layer, ...]
    readout: Layer
    image: tuple[int, int, int] | None = static(default=None)


@dataclasses.dataclass(frozen=True)
class as_image:
    """[..., inputs] -> [..., channels, height, width]."""

    image: tuple[int, int, int]

    def __call__(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, self.image)


def halved(image: tuple[int, int, int], channels: int) -> tuple[int, int, int]:
    """The shape behind a convolution to so many channels that takes every other pixel."""
    return channels, (image[1] + 1) // 2, (image[2] + 1) // 2


def network_apply(network: Network, xs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The readout's membrane over time [T, batch, classes], and the spikes of each hidden layer, [T, batch, neurons].

    `xs`: [T, batch, inputs], spikes, counts or currents.
    """
    parts, params, ends = [], [], []
    if network.image is not None:
        parts, params = [as_image(network.image)], [()]
    layers = *network.hidden, network.readout
    for layer, below in zip(layers, (None, *layers)):
        if below is not None and isinstance(below.connection, Conv2d) and not isinstance(layer.connection, Conv2d):
            parts, params = [*parts, flatten], [*params, ()]
        parts += [conv2d if isinstance(layer.connection, Conv2d) else linear, NEURONS[type(layer.neuron)]]
        params += [layer.connection, layer.neuron]
        ends.append(len(parts) - 1)
    net = every_layer(chain(*parts))
    outputs, _ = scan(net.step, tuple(params), net.init(tuple(params), xs[0]), xs)
    *spks, mems = (outputs[end] for end in ends)
    return mems, [spk.flatten(2) for spk in spks]


def layer_apply(layer: Layer, xs: Tensor, modifier: Callable[[Any], Any] = lambda neuron: neuron) -> Any:
    """What its neurons, modified perhaps, give out, from rest: [T, batch, inputs] -> [T, batch, neurons]. What a convolution takes is
    [T, batch, channels, height, width], and so is what its neurons give.
    """
    connection = conv2d if isinstance(layer.connection, Conv2d) else linear
    net = chain(connection, modifier(NEURONS[type(layer.neuron)]))
    params = layer.connection, layer.neuron
    outputs, _ = scan(net.step, params, net.init(params, xs[0]), xs)
    return outputs
