"""A convolution of images with events is a product of their patches, of which only the lists are made.

    Convolution    y = x * w + bias       dx dense, dw = Weights(x, dy)
    Weights        w's gradient           dx dense, dg = Convolution(x, dw)

As in `_rules.py`. What is mapped besides samples is the dense convolution, but for `Weights`, which has groups for that: [groups,
samples, channels, height, width].
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .._functorch import in_memory, transforms
from .._primitives import pulled, run
from ._native import Lists, outer, patches, product
from ._rules import added, Events, most


@dataclasses.dataclass(frozen=True)
class How:
    """How the kernel goes over the image, and its own size."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    kernel: tuple[int, ...]

    @property
    def rest(self) -> tuple[Any, ...]:
        return list(self.stride), list(self.padding), list(self.dilation), False, [0, 0], 1


def _seen(events: Events, how: How, x: Tensor, y: tuple[int, ...], out: int) -> Lists | None:
    """The events of x [samples, channels, height, width] that the pixels of a result [height, width] = y see."""
    numbers = (*how.stride, *how.padding, *how.dilation)
    last = x.permute(0, 2, 3, 1)
    return events.of(x, lambda: patches(last.contiguous(), y, how.kernel, numbers, IMAGES * most(x.dtype, out)))


IMAGES = 0.7  # lists of patches cost more than those of rows, by this much the density must be less


def convolved(events: Events, how: How, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Under two forward modes the dense one, see `rows_added`."""
    return _dense(x, w, bias, how) if transforms().count("Jvp") > 1 else run(Convolution, events, how, x, w, bias)


def _weights(events: Events, how: How, x: Tensor, g: Tensor) -> Tensor:
    return _each(how, x, g) if transforms().count("Jvp") > 1 else run(Weights, events, how, x, g)


class Convolution(torch.autograd.Function):
    """`(events, how, x, w, bias or None) -> x * w + bias`"""

    @staticmethod
    def forward(events: Events, how: How, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        x, w, *more = in_memory([x, w] if bias is None else [x, w, bias])
        bias = more[0] if more else None
        size, (samples, _, height, width), out = how.kernel, x.shape, len(w)
        y = tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip((height, width), size, how.stride, how.padding, how.dilation)
        )
        known = _seen(events, how, x, y, out)
        if known is not None:
            matrix = w.permute(2, 3, 1, 0).reshape(1, -1, out)
            found = product(known, known.rows, matrix, None if bias is None else bias[None])
            if found is not None:
                return found.view(samples, *y, out).permute(0, 3, 1, 2)
        return _dense(x, w, bias, how)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.events, ctx.how, x, w, _ = inputs
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)

    @staticmethod
    @pulled
    def backward(ctx: Any, d: Tensor) -> Any:
        (x, w), (_, _, of_x, of_w, of_bias) = ctx.saved_tensors, ctx.needs_input_grad
        events = ctx.events.taken()
        return (
            None,
            None,
            _back(d, x, w, ctx.how, 0) if of_x else None,
            _weights(events, ctx.how, x[None], d[None]).squeeze(0) if of_w else None,
            d.sum((0, 2, 3)) if of_bias else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (x, w), (_, _, dx, dw, d_bias) = ctx.saved_tensors, tangents
        parts = [] if dx is None else [_dense(dx, w, None, ctx.how)]
        parts += [] if dw is None else [convolved(ctx.events, ctx.how, x, dw)]
        if not parts:
            parts = [torch.zeros_like(_dense(x, w, None, ctx.how))]
        return added(parts if d_bias is None else [*parts, d_bias[:, None, None]])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        (events, how, *tensors), dims = args, in_dims[-3:]
        x, w, bias = tensors
        if dims[1] is None and dims[2] is None:
            samples = x.movedim(dims[0], 0)
            y = Convolution.apply(events, how, samples.flatten(0, 1), w, bias)
            return y.unflatten(0, samples.shape[:2]), 0
        dense: Any = torch.func.vmap(lambda x, w, bias: _dense(x, w, bias, how), tuple(dims))
        return dense(x, w, bias), 0


class Weights(torch.autograd.Function):
    """`(events, how, x, g) -> the weight's gradient` of each group."""

    @staticmethod
    def forward(events: Events, how: How, x: Tensor, g: Tensor) -> Tensor:
        x, g = in_memory([x, g])
        groups, samples, channels = x.shape[:3]
        known = _seen(events, how, x.flatten(0, 1), tuple(g.shape[3:]), g.shape[2])
        if known is not None:
            rows = g.permute(0, 1, 3, 4, 2).reshape(groups, -1, g.shape[2])
            found = outer(known, rows, False)
            if found is not None:
                return found.view(groups, *how.kernel, channels, g.shape[2]).permute(0, 4, 3, 1, 2)
        return _each(how, x, g)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.events, ctx.how, x, g = inputs
        ctx.save_for_backward(x, g)
        ctx.save_for_forward(x, g)

    @staticmethod
    @pulled
    def backward(ctx: Any, d: Tensor) -> Any:
        (x, g), (_, _, of_x, of_g), how = ctx.saved_tensors, ctx.needs_input_grad, ctx.how
        events = ctx.events.taken()
        if len(x) == 1:
            of_g = convolved(events, how, x[0], d[0])[None] if of_g else None
        else:
            every: Any = torch.func.vmap(lambda x, d: _dense(x, d, None, how))
            of_g = every(x, d) if of_g else None
        back: Any = torch.func.vmap(lambda g, x, d: _back(g, x, d, how, 0))
        return None, None, back(g, x, d) if of_x else None, of_g

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (x, g), (_, _, dx, dg) = ctx.saved_tensors, tangents
        parts = [] if dx is None else [_each(ctx.how, dx, g)]
        parts += [] if dg is None else [_weights(ctx.events, ctx.how, x, dg)]
        return added(parts)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        events, how, *tensors = args
        merged = []
        for x, d in zip(tensors, in_dims[-2:]):
            x = x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0)
            merged.append(x.flatten(0, 1))
        return Weights.apply(events, how, *merged).unflatten(0, (info.batch_size, -1)), 0


def _dense(x: Tensor, w: Tensor, bias: Tensor | None, how: How) -> Tensor:
    return torch.ops.aten.convolution.default(x, w, bias, *how.rest)


def _back(g: Tensor, x: Tensor, w: Tensor, how: How, which: int) -> Tensor:
    """The gradient of x (0) or of w (1)."""
    wanted = [which == 0, which == 1, False]
    return torch.ops.aten.convolution_backward.default(g, x, w, None, *how.rest, wanted)[which]


def _each(how: How, x: Tensor, g: Tensor) -> Tensor:
    """The weight's gradient of each group, dense."""
    shape = (g.shape[2], x.shape[2], *how.kernel)
    one = lambda x, g: _back(g, x, g.new_empty(1).expand(shape), how, 1)
    if len(x) == 1:
        return one(x[0], g[0])[None]
    every: Any = torch.func.vmap(one)
    return every(x, g)
