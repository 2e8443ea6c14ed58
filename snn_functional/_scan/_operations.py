"""A scan's kernels, called: directly, or for a tracer as `torch.ops.snn_functional.scan` and `scan_backward` (`_operators.py`).

A tracer knows shapes and no numbers, so it cannot call a kernel, which takes addresses. These operations it puts into its graph. They stand
below `Scan` and `Adjoint`, which have the rules. Called directly a kernel is some 50 us faster, so they are for tracers alone. The
kernel comes along as text (`kernels.packed`): a graph that is cached or exported means the same in another process.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._events import outer
from .._functorch import intercepted
from ..kernels import broadcasts, Flow, gradient, packed, Signature, unpacked


def scanned(
    kernel: Any, leaves: Sequence[Tensor], lanes: Sequence[int], T: int, reverse: bool, every: int, keep: bool = False
) -> Sequence[Tensor]:
    """Outputs, last states, and what is kept for the backward."""
    if intercepted():
        return torch.ops.snn_functional.scan(packed(kernel), leaves, lanes, T, reverse, every)
    return [x for part in kernel(leaves, lanes, T, reverse, every, keep) for x in part]


def scanned_back(
    kernel: Any, leaves: Sequence[Tensor], cotangents: Sequence[Tensor], checkpoints: Sequence[Tensor],
    lanes: torch.Size, T: int, reverse: bool, every: int,
) -> Sequence[Tensor]:  # fmt: skip
    """The gradients of the leaves `kernel.wanted`, in their shapes."""
    if intercepted():
        traced = torch.ops.snn_functional.scan_backward
        return traced(packed(kernel), leaves, cotangents, checkpoints, lanes, T, reverse, every)
    found, flows = kernel(leaves, cotangents, checkpoints, lanes, T, reverse, every)
    into_matrices(found, flows, kernel.signature, leaves, outer)
    return [_summed(found[i], leaves[i]) if i < len(kernel.uniform) else found[i] for i in kernel.wanted]


def into_matrices(
    found: dict[int, Tensor], flows: list[Flow], signature: Signature, leaves: Sequence[Tensor], outer: Any
) -> None:
    """Adds the gradients of matrices."""
    for flow in flows:
        i = signature.leaves.places[3][flow.product.matrix]
        more = gradient(flow, leaves[i], outer)
        found[i] = found[i] + more if i in found else more


def _summed(gradient: Tensor, leaf: Tensor) -> Tensor:
    if leaf.shape.numel() == 1:
        return gradient.sum().to(leaf.dtype).reshape(leaf.shape)
    return gradient.sum_to_size(leaf.shape)


def _scan(
    kernel: str, leaves: Sequence[Tensor], lanes: Sequence[int], T: int, reverse: bool, every: int
) -> list[Tensor]:
    return list(scanned(unpacked(kernel), leaves, torch.Size(lanes), T, reverse, every))


def _shapes_of_scan(
    kernel: str, leaves: Sequence[Tensor], lanes: Sequence[int], T: int, reverse: bool, every: int
) -> list[Tensor]:
    signature, device, shape = unpacked(kernel).signature, leaves[0].device, torch.Size(lanes)
    return [*signature.results.empty(shape, T, device), *signature.memory(shape, T, every, False, device)]


def _scan_backward(
    kernel: str, leaves: Sequence[Tensor], cotangents: Sequence[Tensor], checkpoints: Sequence[Tensor],
    lanes: Sequence[int], T: int, reverse: bool, every: int,
) -> list[Tensor]:  # fmt: skip
    found = scanned_back(unpacked(kernel), leaves, cotangents, checkpoints, torch.Size(lanes), T, reverse, every)
    return [x.contiguous() for x in found]


def _shapes_of_scan_backward(
    kernel: str, leaves: Sequence[Tensor], cotangents: Sequence[Tensor], checkpoints: Sequence[Tensor],
    lanes: Sequence[int], T: int, reverse: bool, every: int,
) -> list[Tensor]:  # fmt: skip
    bound = unpacked(kernel)
    slots = bound.signature.leaves
    shapes = slots.shapes(torch.Size(lanes), T)
    own = lambda i: leaves[i].shape if broadcasts(slots.roles[i]) else shapes[i]
    return [torch.empty(own(i), dtype=slots.dtypes[i], device=leaves[0].device) for i in bound.wanted]


OPERATORS = {"scan": (_scan, _shapes_of_scan), "scan_backward": (_scan_backward, _shapes_of_scan_backward)}
