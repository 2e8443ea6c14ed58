"""Products with events as primitives with rules, each written with the primitives themselves, so that every nesting stays sparse.

    Product    y = z w + bias       dz = dy w^T (dense), dw = Outer(z, dy)
    Outer      m = z^T g            dz = g dm^T (dense), dg = Product(z, dm)

All have groups in front, one for each part of a mapped axis, or one for all: z [groups or 1, n, in], w [groups or 1, in, out], bias
[groups or 1, out], g [groups or 1, n, out]. What is not mapped has more rows instead: they are the same for lists.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._functorch import in_memory, intercepted, transforms
from .._primitives import pulled, run
from ._native import Lists, lists, outer, product


class Events:
    """Where the events of a tensor are: found when they are first asked for, and not sought again while its memory is the same."""

    def __init__(self) -> None:
        self.key: Any = None
        self.lists: Lists | None = None

    def of(self, x: Tensor, seek: Callable[[], Lists | None]) -> Lists | None:
        """None where the dense product is faster."""
        key = None if x.is_inference() else (x.data_ptr(), x.shape, x.stride(), x._version)
        if key is None or key != self.key:
            self.key, self.lists = key, seek()
        return self.lists

    def taken(self) -> "Events":
        """For who is the last to need them: a graph that nobody goes back through any more shall not hold them."""
        other = Events()
        other.key, other.lists = self.key, self.lists
        self.key = self.lists = None
        return other


def _rows(events: Events, z: Tensor, out: int) -> Lists | None:
    """Of z [groups, n, in], `out` columns wide."""
    rows = z.flatten(0, 1)  # a view, where rows stand evenly apart
    return events.of(rows, lambda: lists(rows if rows.stride(1) == 1 else rows.contiguous(), most(z.dtype, out)))


def most(dtype: torch.dtype, out: int) -> float:
    """The density up to which events are faster than the dense product. See README.md."""
    density, narrow = _MOST[dtype]
    return density * out / (out + narrow)


# Up to which density, if the result is wide; and for what width half of it: lists cost the same for a narrow one.
_MOST = {torch.float32: (0.25, 4), torch.float64: (0.25, 4), torch.bfloat16: (0.12, 64)}


def rows_added(events: Events, z: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """z @ w + bias, by its rules. Under two forward modes it is the dense product: torch turns forward mode off inside a Function's jvp,
    and with it the outer one of the two."""
    return _dense(z, w, bias) if transforms().count("Jvp") > 1 else run(Product, events, z, w, bias)


def columns_added(events: Events, z: Tensor, g: Tensor, turned: bool = False) -> Tensor:
    """z^T @ g likewise; `turned`: in memory it is the transpose of that."""
    return _dense(z.mT, g) if transforms().count("Jvp") > 1 else run(Outer, events, z, g, turned)


class Product(torch.autograd.Function):
    """`(events, z, w, bias or None) -> z @ w + bias`"""

    @staticmethod
    def forward(events: Events, z: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        if intercepted():
            return torch.ops.snn_functional.product(z, w, bias)
        z, w, *more = in_memory([z, w] if bias is None else [z, w, bias])
        bias = more[0] if more else None
        known = _rows(events, z, w.shape[2])
        found = None if known is None else product(known, z.shape[1], w, bias)
        return _dense(z, w, bias) if found is None else found

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.events, z, w, bias = inputs
        ctx.groups = None if bias is None else len(bias)
        ctx.save_for_backward(z, w)
        ctx.save_for_forward(z, w)

    @staticmethod
    @pulled
    def backward(ctx: Any, d: Tensor) -> Any:
        (z, w), (_, of_z, of_w, of_bias) = ctx.saved_tensors, ctx.needs_input_grad
        events = ctx.events.taken()
        return (
            None,
            _summed(_dense(d, w.mT), len(z)) if of_z else None,
            _summed(columns_added(events, z, d, _turned(w)), len(w)) if of_w else None,
            _summed(d.sum(1), ctx.groups) if of_bias else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (z, w), (_, dz, dw, d_bias) = ctx.saved_tensors, tangents
        parts = [] if dz is None else [_dense(dz, w, d_bias)]
        if dw is not None:
            parts.append(rows_added(ctx.events, z, dw, d_bias if dz is None else None))
        if not parts:
            parts = [d_bias[:, None].expand(max(len(z), len(w), len(d_bias)), z.shape[1], -1)]
        groups = max(len(z), len(w), ctx.groups or 1)
        return added(parts).expand(groups, -1, -1)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        (events, z, w, bias), (_, of_z, of_w, of_bias) = args, in_dims
        if of_w is None and of_bias is None:
            rows = z.movedim(of_z, 1)
            return Product.apply(events, rows.flatten(1, 2), w, bias).unflatten(1, rows.shape[1:3]), 1
        z, w, bias = _merged(info.batch_size, (z, of_z), (w, of_w), (bias, of_bias))
        return Product.apply(events, z, w, bias).unflatten(0, (info.batch_size, -1)), 0


class Outer(torch.autograd.Function):
    """`(events, z, g, turned) -> z^T @ g`"""

    @staticmethod
    def forward(events: Events, z: Tensor, g: Tensor, turned: bool) -> Tensor:
        if intercepted():
            return torch.ops.snn_functional.outer(z, g, turned)
        z, g = in_memory([z, g])
        known = _rows(events, z, g.shape[2])
        if known is not None and (found := outer(known, g, turned)) is not None:
            return found
        return _dense(g.mT, z).mT if turned else _dense(z.mT, g)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.events, z, g, _ = inputs
        ctx.save_for_backward(z, g)
        ctx.save_for_forward(z, g)

    @staticmethod
    @pulled
    def backward(ctx: Any, d: Tensor) -> Any:
        (z, g), (_, of_z, of_g, _) = ctx.saved_tensors, ctx.needs_input_grad
        events = ctx.events.taken()
        return (
            None,
            _summed(_dense(g, d.mT), len(z)) if of_z else None,
            _summed(rows_added(events, z, d), len(g)) if of_g else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (z, g), (_, dz, dg, _) = ctx.saved_tensors, tangents
        parts = [] if dz is None else [_dense(dz.mT, g)]
        parts += [] if dg is None else [columns_added(ctx.events, z, dg)]
        return added(parts)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        events, z, g, turned = args
        z, g = _merged(info.batch_size, (z, in_dims[1]), (g, in_dims[2]))
        return Outer.apply(events, z, g, turned).unflatten(0, (info.batch_size, -1)), 0


def _merged(size: int, *mapped: tuple[Any, int | None]) -> list[Any]:
    """The mapped axis and the groups as one axis of groups. What is neither mapped nor in groups stays one for all."""
    groups = max(len(x) if d is None else x.movedim(d, 0).shape[1] for x, d in mapped if x is not None)
    out = []
    for x, d in mapped:
        if x is not None and (d is not None or len(x) > 1):
            x = x.movedim(d, 0) if d is not None else x.expand(size, *x.shape)
            x = x.expand(size, groups, *x.shape[2:]).flatten(0, 1)
        out.append(x)
    return out


def _dense(z: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    if len(z) == 1 and len(w) == 1 and (bias is None or len(bias) == 1):
        pair = z.squeeze(0), w.squeeze(0)  # whose derivatives are views, as those of z[0] are not
        return (torch.mm(*pair) if bias is None else torch.addmm(bias.squeeze(0), *pair))[None]
    return z @ w if bias is None else z @ w + bias[:, None]


def added(parts: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


def _summed(x: Tensor, groups: int) -> Tensor:
    """What each group gave, together where there is one for all."""
    return x.sum(0, keepdim=True) if groups < len(x) else x


def _turned(w: Tensor) -> bool:
    """Is it a transpose in memory? So its gradient is: an optimizer goes through both side by side."""
    return w.stride(-2) == 1 and w.stride(-1) > 1
