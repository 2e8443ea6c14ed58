"""A product of rows with a matrix that several rows share, or a convolution, by torch; and the matrix's gradient.

Rows are [*lanes, n]; a matrix [..., in, out] has axes in front that broadcast to the lanes, so each of its own axes is one along which
groups of rows have matrices of their own.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ._network import Flow, Product


def product(which: Product, z: Tensor, matrix: Tensor) -> Tensor:
    """z @ matrix, or z @ matrix^T. z: [*lanes, in]."""
    order, own = _order(matrix, z.dim() - 1), [n for n in matrix.shape[:-2] if n > 1]
    y = _each(which, _grouped(z, order, len(own)), matrix.reshape(*own, *matrix.shape[-2:]))
    y = y.reshape(*(z.shape[a] for a in order), y.shape[-1])
    return y.permute(*(order.index(a) for a in range(len(order))), len(order)).contiguous() if own else y


def _each(which: Product, z: Tensor, w: Tensor) -> Tensor:
    if which.convolution is None:
        return z @ (w.mT if which.transposed else w)
    if z.dim() > 2:
        return torch.stack([_each(which, *one) for one in zip(z, w)])
    return which.convolution(z, w, which.transposed)


def gradient(flow: Flow, matrix: Tensor, outer: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Of the matrix, summed over time and over the rows that share it. `outer(z, d)`: z^T d for z [..., n, in] and d [..., n, out]."""
    which, z, d = flow
    own = sum(n > 1 for n in matrix.shape[:-2])
    order = [1 + a for a in _order(matrix, z.dim() - 2)]
    order = [*order[:own], 0, *order[own:]]
    z, d = _grouped(z, order, own), _grouped(d, order, own)
    if which.convolution:
        more = _weights(which, *((d, z) if which.transposed else (z, d)))
    else:
        more = outer(z, d).mT if which.transposed else outer(z, d)
    return more.reshape(matrix.shape)


def _weights(which: Product, z: Tensor, d: Tensor) -> Tensor:
    if z.dim() > 2:
        return torch.stack([_weights(which, *one) for one in zip(z, d)])
    assert which.convolution
    return which.convolution.outer(z, d)


def _order(matrix: Tensor, rows: int) -> list[int]:
    """The axes of the lanes, those first along which the matrix differs."""
    lead = matrix.shape[:-2]
    own = [a for a, n in enumerate((*[1] * (rows - len(lead)), *lead)) if n > 1]
    return [*own, *(a for a in range(rows) if a not in own)]


def _grouped(x: Tensor, order: list[int], own: int) -> Tensor:
    """The first axes so many of these, all others rows."""
    x = x.permute(*order, len(order))
    return x.reshape(*x.shape[:own], -1, x.shape[-1])
