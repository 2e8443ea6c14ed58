"""Products that cost their spikes, on CPUs. See README.md in this folder.

They are torch's own, at another price: chosen at run time by counting, against the dense product. `SNN_FUNCTIONAL_EVENTS=0` in the
environment turns them off, for comparison.
"""

from typing import Any

import torch
from torch import Tensor

from .._functorch import intercepted, mapped, only_grad, readable, traced, untransformed
from .._primitives import under_old_vmap
from ..kernels import events as enabled
from ._convolution import convolved, How, IMAGES
from ._native import can, crowded
from ._rules import columns_added, Events, most, rows_added


# Multiplications below which too little is to be gained to look for it.
SMALL = {torch.float32: 1 << 24, torch.float64: 1 << 23, torch.bfloat16: 1 << 26}

RULES = (
    4  # times as many under transforms, but for a single `grad`: a primitive with rules takes half a millisecond there
)
WIDE = 32, 64  # channels of a convolution's result, and numbers in a patch, below which it is the lists that cost


def product(z: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """z [..., in] @ w [in, out] + bias [out], where z may be mostly zeros."""
    rows = z.flatten(0, -2) if z.dim() > 2 else z
    y = sparse(rows, w, bias)
    if y is None:
        y = torch.mm(rows, w) if bias is None else torch.addmm(bias, rows, w)
    return y.unflatten(0, z.shape[:-1]) if z.dim() > 2 else y


def sparse(rows: Tensor, w: Tensor, bias: Tensor | None) -> Tensor | None:
    """The same for z [n, in]; None where nothing is to be gained."""
    if not worth(rows, w, w.shape[-1]) or _crowded(rows, w.shape[-1]):
        return None
    return rows_added(Events(), rows[None], w[None], None if bias is None else bias[None]).squeeze(0)


def outer(z: Tensor, g: Tensor) -> Tensor:
    """z [..., n, in] transposed @ g [..., n, out], where z may be mostly zeros. The axes in front are the same for both."""
    if not worth(z, g, g.shape[-1]):
        return z.mT @ g
    m = columns_added(Events(), z.reshape(-1, *z.shape[-2:]), g.reshape(-1, *g.shape[-2:]))
    return m.reshape(*z.shape[:-2], *m.shape[1:])


def convolution(x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any) -> Tensor | None:
    """x [samples, channels, height, width] * w [out, channels, height, width] + bias [out]; None where nothing is to be gained."""
    out, columns = len(w), w[0].numel()
    if (
        intercepted()
        or x.dtype == torch.bfloat16
        or out < WIDE[0]
        or columns < WIDE[1]
        or not worth(x, w, out * w[0, 0].numel())
    ):
        return None
    if untransformed() and readable(x) and crowded(x.permute(0, 2, 3, 1).flatten(1), IMAGES * most(x.dtype, out)):
        return None
    pair = lambda n: tuple(n) * (2 // len(n))
    how = How(pair(stride), pair(padding), pair(dilation), tuple(w.shape[2:]))
    return convolved(Events(), how, x, w, bias)


def worth(z: Tensor, other: Tensor, out: int) -> bool:
    """May anything be gained, `out` columns wide? Whether it is, is counted where the numbers are at hand."""
    return (
        z.dtype in SMALL
        and z.dtype == other.dtype
        and z.device.type == other.device.type == "cpu"
        and not isinstance(n := z.numel() * mapped(), torch.SymInt)
        and n * out > SMALL[z.dtype] * (1 if untransformed() or only_grad() else RULES)
        and enabled()
        and all(traced(x) if intercepted() else type(x) in PLAIN for x in (z, other))
        and not under_old_vmap((z, other))
        and can()
    )


PLAIN = (Tensor, torch.nn.Parameter)


def _crowded(rows: Tensor, out: int) -> bool:
    """Is it seen here already, with no primitive around it, that there are too many?"""
    return rows.stride(1) == 1 and readable(rows) and crowded(rows, most(rows.dtype, out))
