"""One operation of a step over all of time at once: what it gives is what it would give at each step."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._events import convolution, sparse
from .._functorch import ends_a_recomputation, transforms
from ..kernels import elementwise, factors, Node, PART, RESHAPES


def over_time(node: Node, over: Mapping[Node, Any], fixed: Mapping[Node, Any], T: int, device: torch.device) -> Any:
    """`over`: tensors [T, ...], one a step; `fixed`: those that are the same at every step."""
    moving = [x for x in dict.fromkeys(node.inputs()) if x in over]
    if node.rule:  # a call of an `autograd.Function`
        return _mapped(node, [x for x in moving if x in node.rule[1]], over, fixed, T, device)
    if node.name == PART:
        return over[moving[0]][node.args[1]]
    if node.name in RESHAPES:
        return over[moving[0]].reshape(T, *node.shape)
    rank = len(node.shape)
    if node.name == "expand":
        return _ranked(over[moving[0]], rank).expand(T, *node.shape)
    if elementwise(node) and _promotes_alike(node, moving):
        return node.perform(lambda x: _ranked(over[x], rank) if x in over else fixed[x], device)
    rule = SAMPLES.get(node.name)
    alone = rule is not None and moving == [node.args[rule.place]] and [*node.inputs()].count(moving[0]) == 1
    if rule is not None and alone and rule.fits(node):
        return _by_samples(node, moving[0], over[moving[0]], fixed, device)
    return _mapped(node, moving, over, fixed, T, device)


def _mapped(
    node: Node, moving: list[Node], over: Mapping[Node, Any], fixed: Mapping[Node, Any], T: int, device: torch.device
) -> Any:
    """Under `vmap`, where the operation has a rule for that; else step by step."""
    value = lambda x, xs: xs[moving.index(x)] if x in over else fixed[x]
    step = lambda *xs: node.perform(lambda x: value(x, xs), device)
    xs = [over[x] for x in moving]
    try:
        every: Any = torch.func.vmap(step)
        return every(*xs)
    except Exception as error:  # one of its own it has in a step, too
        if ends_a_recomputation(error):
            raise
        steps = [step(*(x[t] for x in xs)) for t in range(T)]
    return torch.stack(steps) if isinstance(steps[0], Tensor) else tuple(map(torch.stack, zip(*steps)))


def _ranked(x: Tensor, rank: int) -> Tensor:
    """With axes of 1 behind time, so that a step of it has this rank."""
    return x if x.dim() == 1 + rank else x.reshape(x.shape[0], *[1] * (1 + rank - x.dim()), *x.shape[1:])


def _promotes_alike(node: Node, moving: list[Node]) -> bool:
    """Do the dtypes go together as they do in one step? There a 0-d tensor counts less than others; with time it is 0-d no more."""
    return all(len(x.shape) for x in moving) or len({x.dtype for x in node.inputs()}) == 1


def _by_samples(node: Node, moving: Node, x: Tensor, fixed: Mapping[Node, Any], device: torch.device) -> Any:
    """An operation that does the same to each sample: steps are so many samples more."""
    flat, axes = x.flatten(0, 1), x.shape[:2]
    if node.name == "convolution" and flat.dim() == 4 and flat.device.type == "cpu" and "Vmap" not in transforms():
        # On CPUs convolutions, and the pooling behind them, are up to ten times as fast with the channels last.
        flat = flat.to(memory_format=torch.channels_last)
    found = _by_events(node, flat, fixed)
    if found is None:
        found = node.perform(lambda y: flat if y is moving else fixed[y], device)
    back = lambda y: (
        y.view(*axes, *y.shape[1:]) if y.shape[:1] == flat.shape[:1] else y
    )  # else empty, and nobody reads it
    return tuple(map(back, found)) if isinstance(found, (tuple, list)) else back(found)


def _by_events(node: Node, x: Tensor, fixed: Mapping[Node, Any]) -> Tensor | None:
    """A product of samples that may be spikes; None where there is nothing to gain, or it is none."""
    if node.name == "convolution":
        _, w, bias, *how, transposed, _, groups = node.args
        if len(x.shape) == 4 and not transposed and groups == 1:
            return convolution(x, fixed[w], None if bias is None else fixed[bias], *how)
    elif parts := factors(node):
        bias = None if parts.added is None else fixed[parts.added].reshape(-1).expand(node.shape[1])
        return sparse(x, fixed[parts.matrix], bias)
    return None


class _Samples(NamedTuple):
    """`place`: which argument has the samples in front. `fits`: does it at these shapes?"""

    place: int
    fits: Callable[[Node], bool]


def _images(node: Node) -> bool:
    return len(node.args[0].shape) == 4


SAMPLES = {
    "mm": _Samples(0, lambda node: True),
    "addmm": _Samples(1, lambda node: len(node.args[0].shape) < 2 or node.args[0].shape[0] == 1),
    "convolution": _Samples(0, lambda node: True),
    "_native_batch_norm_legit_no_training": _Samples(0, lambda node: True),  # `vmap` has no rule for it
    **dict.fromkeys(
        ("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"), _Samples(0, _images)
    ),
}
