"""The network that `python -m snn_functional train` trains and saves: a tree, and the function that runs it.

    import torch
    import snn_functional as snf

    network = torch.load("runs/digits/model.pt", weights_only=True)        # torch < 2.4: without weights_only
    mems, spks = snf.train.network_apply(network, xs)                      # xs [T, batch, inputs] -> mems [T, batch, classes]

It comes with the library, so that a saved one is known once that is imported.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import neurons
from ._chain import chain, every_layer
from ._connections import Conv2d, conv2d, linear
from ._layers import flatten
from ._names import columns
from ._neuron import name_of, Neuron
from ._scan import scan
from ._tree import named_leaves, pytree, static


NEURONS = {name: value for name, value in vars(neurons).items() if isinstance(value, Neuron)}
_OF_PARAMS = {neuron.Params: neuron for neuron in NEURONS.values()}


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

    To train it further, or parts of it, it is a chain as any other, whose outputs are the readout's membranes [T, batch, classes]:

        net, params = network.chain()
        model = snf.module(net, params, learn=["weight", "bias"])
        loss = cross_entropy(snf.train.scores(model(xs)), y)                xs [T, batch, inputs]

    `print(network)` shows its layers; `snf.summary(network, xs=xs)` and `snf.diagnose(network, xs)` how often they fire.
    """

    hidden: tuple[Layer, ...]
    readout: Layer
    image: tuple[int, int, int] | None = static(default=None)

    def chain(self) -> tuple[Neuron, tuple[Any, ...]]:
        """`(net, params)`: the chain that it is, of inputs [batch, inputs] at one step, and the params of its layers."""
        parts, params, _ = _layers(self)
        return chain(*parts), tuple(params)

    def arguments(self, xs: Tensor) -> tuple[Any, Any, Any, Any]:
        """What `scan` takes: `mems, state = scan(*network.arguments(xs))`, from rest."""
        xs = _inputs(self, xs)
        net, params = self.chain()
        return net.step, params, net.init(params, xs[0]), xs

    def __repr__(self) -> str:
        """A row for each layer, with the shapes of its numbers."""
        parts, params, _ = _layers(self)
        rows = [
            (str(i), name_of(getattr(part, "step", part)), _shapes(p)) for i, (part, p) in enumerate(zip(parts, params))
        ]
        return "\n    ".join([f"{type(self).__name__} of {len(self.hidden)} hidden layers, a chain of", *columns(rows)])


def _shapes(params: Any) -> str:
    return ", ".join(f"{name} {tuple(getattr(leaf, 'shape', ()))}" for name, leaf in named_leaves(params).items())


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

    `xs`: [T, batch, inputs], spikes, counts or currents; or [T, batch, channels, height, width], as `recordings.batch` gives frames.
    Raises ValueError for any other shape.
    """
    xs = _inputs(network, xs)
    parts, params, ends = _layers(network)
    net = every_layer(chain(*parts))
    outputs, _ = scan(net.step, tuple(params), net.init(tuple(params), xs[0]), xs)
    *spks, mems = (outputs[end] for end in ends)
    return mems, [spk.flatten(2) for spk in spks]


def _layers(network: Network) -> tuple[list[Any], list[Any], list[int]]:
    """The layers of its chain, their params, and which of them are neurons."""
    parts, params, ends = [], [], []
    if network.image is not None:
        parts, params = [as_image(network.image)], [()]
    layers = *network.hidden, network.readout
    for layer, below in zip(layers, (None, *layers)):
        if below is not None and isinstance(below.connection, Conv2d) and not isinstance(layer.connection, Conv2d):
            parts, params = [*parts, flatten], [*params, ()]
        parts += [conv2d if isinstance(layer.connection, Conv2d) else linear, _OF_PARAMS[type(layer.neuron)]]
        params += [layer.connection, layer.neuron]
        ends.append(len(parts) - 1)
    return parts, params, ends


def _inputs(network: Network, xs: Tensor) -> Tensor:
    """[T, batch, inputs], whatever axes a step of a sample has."""
    image = network.image
    inputs = math.prod(image) if image else (*network.hidden, network.readout)[0].connection.weight.shape[1]
    of_step = tuple(xs.shape[2:])
    if xs.dim() > 2 and math.prod(of_step) == inputs and (not image or of_step in ((inputs,), image)):
        return xs.flatten(2)
    forms = f"[T, batch, {inputs}]" + (f" or [T, batch, {', '.join(map(str, image))}]" if image else "")
    help = "Frames of recordings are made so by snf.recordings.batch([(frames, label), ...])."
    if xs.dim() == 2:
        help = "Time comes first: snf.encode.direct(x, T) of images x [batch, inputs], xs[:, None] of one sample [T, inputs]."
    elif xs.dim() > 1 and math.prod(xs.shape[1:]) == inputs:
        help = "The batch is missing: xs[:, None] of one sample, or snf.recordings.batch([(xs, label), ...]) of many."
    raise ValueError(f"network_apply(network, xs): xs is {forms}, but {tuple(xs.shape)} came. {help}")


def layer_apply(layer: Layer, xs: Tensor, modifier: Callable[[Any], Any] = lambda neuron: neuron) -> Any:
    """What its neurons, modified perhaps, give out, from rest: [T, batch, inputs] -> [T, batch, neurons]. What a convolution takes is
    [T, batch, channels, height, width], and so is what its neurons give.
    """
    connection = conv2d if isinstance(layer.connection, Conv2d) else linear
    net = chain(connection, modifier(_OF_PARAMS[type(layer.neuron)]))
    params = layer.connection, layer.neuron
    outputs, _ = scan(net.step, params, net.init(params, xs[0]), xs)
    return outputs
