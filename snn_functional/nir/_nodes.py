"""What each kind of node becomes: a step and its params, and the shape of what it puts out, without the batch.

Shapes are worked out here, and not taken from the file or the library: NIR's own for a convolution is right for square kernels only.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from .._connections import Linear, linear
from .._neuron import Neuron
from ._delay import delay, DelayParams
from ._given import Given, Shape
from ._layers import Convolution, convolution, Flatten, no_state, Passes, Pool, Scale, scale, Threshold, threshold
from ._neurons import Dynamics, NEURONS


class Layer(NamedTuple):
    """`params`: () where there are none. `shape`: of one step of the output, without the batch; None where nothing says it."""

    neuron: Neuron
    params: Any
    shape: Shape | None


def layer_of(given: Given, shape: Shape | None, dynamics: Dynamics) -> Layer:
    """- `shape`: of what it gets, where that is known.

    Raises ValueError for an unknown kind and for parameters that cannot be right.
    """
    if given.kind in NEURONS:
        neuron, params, own = dynamics.neuron(given)
        layer = Layer(neuron, params, given.fits(own, shape))
    elif given.kind in _KINDS:
        layer = _KINDS[given.kind](given, shape, dynamics.dt)
    else:
        known = ", ".join(sorted([*NEURONS, *_KINDS]))
        raise ValueError(f"nir.read: {given} is of a kind that is not known here. Known are {known}.")
    given.done()
    return layer


def shape_wanted(given: Given) -> Shape | None:
    """What the node must get, as far as its parameters alone say so: for an input that does not say its shape."""
    for key in ("tau", "tau_mem", "r", "threshold", "scale", "delay"):
        if key in given.numbers:
            return np.shape(given.numbers[key])
    weight = np.shape(given.numbers.get("weight", ()))
    if given.kind in ("Linear", "Affine"):
        return weight[1:]
    if given.kind in ("Conv1d", "Conv2d"):
        size, (groups,) = given.sizes("input_shape"), given.whole("groups", 1, 1, least=1)
        return (weight[1] * groups, *size) if size and len(weight) > 1 else None
    return given.sizes("input_type") if given.kind == "Flatten" else None


def _stateless(step: Any, shape: Shape | None) -> Layer:
    return Layer(Neuron(tuple, tuple, no_state, step), (), shape)


def _passes(given: Given, shape: Shape | None, dt: float) -> Layer:
    own = given.sizes("shape")
    given.numbers.pop("input_type", None)
    if given.kind == "Input" and own is not None:
        return _stateless(Passes(), own)
    return _stateless(Passes(), shape)  # what the file says of an output is what the library worked out, if it did


def _affine(given: Given, shape: Shape | None, dt: float) -> Layer:
    weight = given.floats("weight")
    if weight.dim() != 2:
        raise given.wrong(f"its weight is [out, in], but {tuple(weight.shape)} came.")
    outputs, inputs = weight.shape
    if given.kind == "Affine":
        bias = given.floats("bias")
        if bias.shape != (outputs,):
            raise given.wrong(
                f"its weight is {tuple(weight.shape)}, so its bias is ({outputs},), but {tuple(bias.shape)} came."
            )
    else:
        bias = torch.zeros((), dtype=weight.dtype)
    if shape not in (None, (inputs,)):
        last = " A Flatten is missing in front of it?" if math.prod(shape or ()) == inputs else ""
        raise given.wrong(f"it takes ({inputs},), but gets {shape}.{last}")
    return Layer(linear, Linear(weight, bias), (outputs,))


def _scale(given: Given, shape: Shape | None, dt: float) -> Layer:
    params = Scale(given.floats("scale"))
    return Layer(scale, params, given.fits(tuple(params.scale.shape), shape))


def _threshold(given: Given, shape: Shape | None, dt: float) -> Layer:
    params = Threshold(given.floats("threshold"))
    return Layer(threshold, params, given.fits(tuple(params.threshold.shape), shape))


def _delay(given: Given, shape: Shape | None, dt: float) -> Layer:
    seconds = given.floats("delay")
    exact = seconds.double() / dt
    steps = exact.round()
    if not bool(((seconds >= 0) & seconds.isfinite()).all()):
        raise given.wrong(f"a delay is so many seconds, 0 or more, but {seconds.reshape(-1).tolist()} came.")
    if bool(((exact - steps).abs() > 1e-4 * steps.clamp(min=1)).any()):
        worst = float(seconds.reshape(-1)[int((exact - steps).abs().argmax())])
        raise given.wrong(
            f"a delay is a whole number of steps, 0 or more, but {worst:g} s came at dt={dt:g} s: "
            f"{worst / dt:g} steps. Read it with a dt that divides it."
        )
    lengths = tuple(sorted({int(n) for n in steps.reshape(-1).tolist()}))
    return Layer(delay, DelayParams(seconds, dt, lengths), given.fits(tuple(seconds.shape), shape))


def _convolution(given: Given, shape: Shape | None, dt: float) -> Layer:
    weight, bias, axes = given.floats("weight"), given.floats("bias"), 1 if given.kind == "Conv1d" else 2
    if weight.dim() != axes + 2:
        sizes = "[out, in / groups, length]" if axes == 1 else "[out, in / groups, height, width]"
        raise given.wrong(f"its weight is {sizes}, but {tuple(weight.shape)} came.")
    stride, dilation = given.whole("stride", axes, 1, least=1), given.whole("dilation", axes, 1, least=1)
    (groups,) = given.whole("groups", 1, 1, least=1)
    outputs, inputs = len(weight), weight.shape[1] * groups
    if outputs % groups or bias.shape != (outputs,):
        raise given.wrong(
            f"weight {tuple(weight.shape)}, bias {tuple(bias.shape)} and groups={groups} do not go together: the bias is ({outputs},), and "
            "the channels that come out are divided by the groups."
        )
    kernel = tuple(weight.shape[2:])
    padding = given.take("padding", 0)
    given.numbers.pop("input_shape", None)
    same = _word(padding) == "same"
    if same and set(stride) != {1}:
        raise given.wrong(f'padding "same" goes with a stride of 1, but {stride} came.')
    if same:  # the one zero more is behind, as in torch
        whole = [d * (k - 1) for d, k in zip(dilation, kernel)]
        pads = tuple((n // 2, n - n // 2) for n in whole)
    elif _word(padding) == "valid":
        pads = ((0, 0),) * axes
    elif _word(padding):
        raise given.wrong(f'padding is "same", "valid" or numbers, but {padding!r} came.')
    else:
        given.numbers["padding"] = padding
        pads = tuple((n, n) for n in given.whole("padding", axes))
    params = Convolution(weight, bias, stride, pads, dilation, groups, same)
    return Layer(convolution, params, _windows(given, shape, inputs, outputs, kernel, stride, pads, dilation))


def _word(padding: Any) -> str | None:
    return str(padding) if isinstance(padding, str) else None


def _pool(given: Given, shape: Shape | None, dt: float) -> Layer:
    kernel, padding = given.whole("kernel_size", 2, least=1), given.whole("padding", 2, 0)
    stride = given.whole("stride", 2, least=1)
    if any(2 * p > k for p, k in zip(padding, kernel)):
        raise given.wrong(
            f"a padding is at most half of the window, but padding {padding} and kernel_size {kernel} came."
        )
    step = Pool((kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1]), given.kind == "SumPool2d")
    pads = tuple((p, p) for p in padding)
    channels = shape[0] if shape and len(shape) == 3 else -1
    return _stateless(step, _windows(given, shape, channels, channels, kernel, stride, pads, (1, 1)))


def _windows(
    given: Given,
    shape: Shape | None,
    inputs: int,
    outputs: int,
    kernel: Shape,
    stride: Shape,
    padding: tuple[tuple[int, int], ...],
    dilation: Shape,
) -> Shape | None:
    """The shape of what windows over an image give."""
    if shape is None:
        return None
    axes = len(kernel)
    if len(shape) != axes + 1 or shape[0] != inputs:
        channels = f"{inputs} channels" if inputs >= 0 else "channels"
        raise given.wrong(f"it takes {channels} of {axes} {'axis' if axes == 1 else 'axes'}, but gets {shape}.")
    sizes = []
    for n, k, s, (front, behind), d in zip(shape[1:], kernel, stride, padding, dilation):
        sizes.append((n + front + behind - d * (k - 1) - 1) // s + 1)
    if min(sizes) < 1:
        raise given.wrong(f"its window, {kernel}, is larger than what it gets, {shape}.")
    return outputs, *sizes


def _flatten(given: Given, shape: Shape | None, dt: float) -> Layer:
    written = given.sizes("input_type")
    shape = written if shape is None else shape
    (start,), (end,) = given.whole("start_dim", 1, 1, least=-99), given.whole("end_dim", 1, -1, least=-99)
    if shape is None:
        raise given.wrong("nothing says the shape of what it gets: give the graph's Input a shape.")
    n = len(shape)
    first, last = start + n * (start < 0), end + n * (end < 0)
    if not 0 <= first <= last < n:
        raise given.wrong(f"it flattens the axes {start} to {end}, counted without the batch, but gets {shape}.")
    flat = math.prod(shape[first : last + 1])
    return _stateless(Flatten(first - n, last - n), (*shape[:first], flat, *shape[last + 1 :]))


_KINDS: dict[str, Callable[[Given, Shape | None, float], Layer]] = {
    "Input": _passes,
    "Output": _passes,
    "Identity": _passes,
    "Affine": _affine,
    "Linear": _affine,
    "Scale": _scale,
    "Threshold": _threshold,
    "Delay": _delay,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Flatten": _flatten,
}
