"""Layers of a `chain` that have neither parameters nor state: plain functions of one step, on any leading axes.

    flatten                    [..., channels, height, width] -> [..., channels * height * width]
    max_pool2d(kernel_size)    [..., height, width] -> the largest of each window
    avg_pool2d(kernel_size)    [..., height, width] -> the mean of each window

Any function of one tensor is such a layer: `torch.relu`, a lambda, a module without parameters.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ._names import Shown
from ._neuron import at_least, SPIKES


def flatten(x: Tensor = None, axes: int = 3) -> Tensor:  # pyright: ignore[reportArgumentType]
    """The last `axes` axes made one. For images without channels: `functools.partial(flatten, axes=2)`.

    It is a layer as it stands, without a call: `chain(conv2d, leaky, flatten, linear)`. Raises TypeError and ValueError.
    """
    if not isinstance(x, Tensor):
        call = "" if x is None else f"{x!r:.40}"
        raise TypeError(
            f"flatten({call}): flatten is a layer as it stands, chain(conv2d, leaky, flatten, linear, leaky), which makes three axes "
            "one. Of another number of axes: functools.partial(flatten, axes=2)."
        )
    if x.dim() < axes:
        raise ValueError(
            f"flatten(x {tuple(x.shape)}, axes={axes}): expected at least {axes} axes, [..., channels, height, width]. For two axes, "
            "[..., height, width]: functools.partial(flatten, axes=2); what is flat already needs no flatten."
        )
    return x.flatten(-axes)


@dataclasses.dataclass(frozen=True)
class max_pool2d(metaclass=Shown):
    """The largest value in each window of `kernel_size` pixels, every `stride` pixels (default: the window's size)."""

    kernel_size: int
    stride: int | None = None
    padding: int = 0

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, x: Tensor) -> Tensor:
        return _pooled(torch.nn.functional.max_pool2d, self, x)


@dataclasses.dataclass(frozen=True)
class avg_pool2d(metaclass=Shown):
    """The mean of each window of `kernel_size` pixels, every `stride` pixels (default: the window's size)."""

    kernel_size: int
    stride: int | None = None
    padding: int = 0

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, x: Tensor) -> Tensor:
        return _pooled(torch.nn.functional.avg_pool2d, self, x)


def _check(how: Any) -> None:
    """Refuses what is no window, before anything is pooled: the tensor itself say, for one who calls it as torch's function."""
    name = type(how).__name__
    for field in ("kernel_size", "stride", "padding"):
        value, least = getattr(how, field), 0 if field == "padding" else 1
        numbers = value if isinstance(value, (tuple, list)) else (value,)
        whole = all(hasattr(n, "__index__") and not isinstance(n, (bool, Tensor)) for n in numbers)  # numpy's, too
        if not (field == "stride" and value is None) and not (whole and all(n >= least for n in numbers)):
            came = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise TypeError(
                f"{name}({field}=...): expected a number of pixels, {least} or more, but {came} came. It is made first and is a layer "
                f"then, chain(conv2d, leaky, {name}(2), flatten, linear), or a function: {name}(2)(x)."
            )


def _pooled(pool: Any, how: Any, x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or x.dim() < 3:
        came = f"{tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        flat = (
            " Of flat pixels [batch, pixels]: x.unflatten(-1, (channels, height, width))."
            if came.count(",") == 1
            else ""
        )
        raise ValueError(f"{how} takes [..., channels, height, width], but {came} came.{flat}")
    size, padding = _two(how.kernel_size), _two(how.padding)
    if any(n + 2 * p < k for n, p, k in zip(x.shape[-2:], padding, size)):
        raise ValueError(
            f"{how} takes [..., channels, height, width] of at least {size[0]} x {size[1]} pixels, but {tuple(x.shape)} came: a smaller "
            "kernel_size, or fewer layers that halve the image."
        )
    x = at_least(torch.get_default_dtype(), x) if x.dtype in SPIKES else x
    samples = x.flatten(0, -4) if x.dim() > 4 else x
    out = pool(samples, how.kernel_size, how.stride, how.padding)
    return out.unflatten(0, x.shape[:-3]) if x.dim() > 4 else out


def _two(value: Any) -> tuple[int, int]:
    sizes = value if isinstance(value, (tuple, list)) else (value,)
    return (*sizes, *sizes)[:2] if len(sizes) == 1 else tuple(sizes)
