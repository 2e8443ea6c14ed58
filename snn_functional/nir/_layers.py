"""Nodes of NIR that are no neurons, each a pure step of a time step [..., shape]: any axes may stand in front.

Affine, Linear       W x + b, W x: `linear`, the connection of a chain
Scale                s x
Conv1d, Conv2d       as torch's, but for "same" at an even kernel, where the one zero more is behind, as torch has it
SumPool2d, AvgPool2d the sum or the mean of each window; zeros around the image count in both
Flatten              axes start to end, counted without the batch, made one
Threshold            1 where x > threshold, with a surrogate gradient
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .._neuron import admit, at_least, Neuron
from .._tree import Leaf, pytree, static
from ..surrogate import ATan, Spike


def no_state(params: Any, input: Any) -> tuple[()]:
    """The init of a layer that remembers nothing."""
    return ()


@pytree
class Scale:
    """- `scale`: what the input is multiplied by. () or the shape of the input."""

    scale: Leaf


def scale_step(params: Scale, state: Any, input: Tensor) -> tuple[Tensor, Any]:
    """`input` times the scale; there is no state."""
    return admit(params, _NOTHING, input) * params.scale, state


@pytree
class Threshold:
    """- `threshold`: 1 above it, else 0. () or the shape of the input. - `spike_grad`: a surrogate."""

    threshold: Leaf
    spike_grad: Spike = static(default=ATan())


def threshold_step(params: Threshold, state: Any, input: Tensor) -> tuple[Tensor, Any]:
    """1 where `input` is above the threshold; there is no state."""
    return params.spike_grad(admit(params, _NOTHING, input) - params.threshold), state


@pytree
class _Nothing:
    """The state of what remembers nothing, for `admit`."""


_NOTHING: Any = _Nothing()


@pytree
class Convolution:
    """- `weight`: (out, in / groups, length) or (out, in / groups, height, width). - `bias`: (out,).
    - `stride`, `dilation`: a number for each axis. - `padding`: zeros in front and behind, for each axis.
    - `same`: was the padding called "same"? It is written so again. - `groups`: as torch's.
    """

    weight: Leaf
    bias: Leaf
    stride: tuple[int, ...] = static()
    padding: tuple[tuple[int, int], ...] = static()
    dilation: tuple[int, ...] = static()
    groups: int = static(default=1)
    same: bool = static(default=False)

    @property
    def axes(self) -> int:
        return self.weight.dim() - 2


def convolution_step(params: Convolution, state: Any, input: Tensor) -> tuple[Tensor, Any]:
    """`input` [..., in, (height,) width] through the connection; there is no state."""
    x, axes = at_least(params.weight.dtype, input), params.axes
    lead = x.shape[: x.dim() - axes - 1]
    samples = x.reshape(-1, *x.shape[x.dim() - axes - 1 :])
    even = all(first == last for first, last in params.padding)
    if not even:
        samples = torch.nn.functional.pad(samples, [n for pair in reversed(params.padding) for n in pair])
    padding = [first if even else 0 for first, _ in params.padding]
    convolve: Any = torch.nn.functional.conv1d if axes == 1 else torch.nn.functional.conv2d
    out = convolve(
        samples, params.weight, params.bias, list(params.stride), padding, list(params.dilation), params.groups
    )
    return out.reshape(*lead, *out.shape[1:]), state


@dataclasses.dataclass(frozen=True)
class Pool:
    """The step of a pooling layer: the sum of each window, or the mean."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    sum: bool

    def __call__(self, params: Any, state: Any, input: Tensor) -> tuple[Tensor, Any]:
        samples = input.reshape(-1, *input.shape[-3:])
        pool = torch.nn.functional.avg_pool2d
        out = pool(samples, self.kernel, self.stride, self.padding, divisor_override=1 if self.sum else None)
        return out.reshape(*input.shape[:-3], *out.shape[1:]), state


@dataclasses.dataclass(frozen=True)
class Flatten:
    """The step of a layer that makes one axis of some: those from `start` to `end`, both negative, counted from the last."""

    start: int
    end: int

    def __call__(self, params: Any, state: Any, input: Tensor) -> tuple[Tensor, Any]:
        return input.flatten(self.start, self.end), state


@dataclasses.dataclass(frozen=True)
class Passes:
    """The step of an input, an output, and of what stands for those of a graph within."""

    def __call__(self, params: Any, state: Any, input: Tensor) -> tuple[Tensor, Any]:
        return input, state


scale = Neuron(Scale, tuple, no_state, scale_step)
threshold = Neuron(Threshold, tuple, no_state, threshold_step)
convolution = Neuron(Convolution, tuple, no_state, convolution_step)
