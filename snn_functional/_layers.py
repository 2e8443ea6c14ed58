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


def flatten(x: Tensor, axes: int = 3) -> Tensor:
    """The last `axes` axes made one. For images without channels: `functools.partial(flatten, axes=2)`."""
    if x.dim() < axes:
        raise ValueError(f"flatten(x {tuple(x.shape)}, axes={axes}): expected at least {axes} axes.")
    return x.flatten(-axes)


@dataclasses.dataclass(frozen=True)
class max_pool2d(metaclass=Shown):
    """The largest value in each window of `kernel_size` pixels, every `stride` pixels (default: the window's size)."""

    kernel_size: int
    stride: int | None = None
    padding: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        return _pooled(torch.nn.functional.max_pool2d, self, x)


@dataclasses.dataclass(frozen=True)
class avg_pool2d(metaclass=Shown):
    """The mean of each window of `kernel_size` pixels, every `stride` pixels (default: the window's size)."""

    kernel_size: int
    stride: int | None = None
    padding: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        return _pooled(torch.nn.functional.avg_pool2d, self, x)


def _pooled(pool: Any, how: Any, x: Tensor) -> Tensor:
    if x.dim() < 3:
        raise ValueError(f"{how} takes [..., channels, height, width], but {tuple(x.shape)} came.")
    samples = x.flatten(0, -4) if x.dim() > 4 else x
    out = pool(samples, how.kernel_size, how.stride, how.padding)
    return out.unflatten(0, x.shape[:-3]) if x.dim() > 4 else out
