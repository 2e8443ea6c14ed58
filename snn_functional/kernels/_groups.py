"""Groups of rows with matrices of their own: members of an ensemble, which `vmap` put among the rows."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def groups_of(matrices: Iterable[Tensor], lanes: torch.Size) -> int:
    """How many groups of rows, one after another, have matrices of their own. A matrix broadcasts to the lanes from the right."""
    return max([1, *(_groups(x, lanes) for x in matrices)])


def grouped(x: Tensor, groups: int, lanes: torch.Size) -> Tensor:
    """[1 or groups, in, out]: a matrix for all rows, or one for each group."""
    if _groups(x, lanes) == 1:
        return x[(0,) * (x.dim() - 2)][None]
    axes = next(i for i in range(len(lanes) + 1) if math.prod(lanes[:i]) == groups)
    sizes, _ = _lead(x, lanes)
    x = x.reshape(*sizes, *x.shape[-2:])[(..., *[slice(0, 1)] * (len(lanes) - axes), slice(None), slice(None))]
    return x.expand(*lanes[:axes], *[1] * (len(lanes) - axes), *x.shape[-2:]).reshape(groups, *x.shape[-2:])


def _groups(x: Tensor, lanes: torch.Size) -> int:
    sizes, strides = _lead(x, lanes)
    last = max((i for i, (n, stride) in enumerate(zip(sizes, strides)) if n > 1 and stride), default=-1)
    return math.prod(lanes[: last + 1])


def _lead(x: Tensor, lanes: torch.Size) -> tuple[list[int], list[int]]:
    """Sizes and strides of a matrix over the axes of the lanes, from the right."""
    missing = len(lanes) - (x.dim() - 2)
    return [1] * missing + list(x.shape[:-2]), [0] * missing + list(x.stride()[:-2])
