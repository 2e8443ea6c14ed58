"""One kernel over all of time, forward and backward, for a step that is pointwise."""

from typing import Any

import torch
from torch import Tensor

from .._functorch import applied, wrapping
from .._tree import tree_unflatten
from ..kernels import Plan
from ._loop import Step
from ._prepared import prepare
from ._primitive import Call, checkpointing, Scan


def fused(step: Step, params: Any, state: Any, inputs: Any, length: int | None, reverse: bool) -> tuple[Any, Any]:
    """What `loop` returns, in one kernel. Raises Unsupported where the step, or the place, has none."""
    prepared, leaves = prepare(step, params, state, inputs, length)
    plan, count = prepared.plan, prepared.plan.outputs + prepared.plan.counts[1]
    done = wrapping(leaves)
    # A step whose derivative has no kernel is refused before it runs.
    every = checkpointing(prepared.T, plan) if "tracked" in done and plan.pullback else 0
    if "dual" in done:
        plan.tangent  # noqa: B018
    call = Call(plan, prepared.T, reverse, every)
    run = Scan.forward if not done else applied(Scan) if done == {"tracked"} else Scan.apply
    order = _order(plan.split(leaves)[2], prepared.lanes)
    if order is None:
        results = run(call, *leaves)[:count]
    else:
        results = _turned(run(call, *_turned(leaves, plan, order))[:count], plan, order, back=True)
    results = prepared.unfilled(results)
    outputs, last = results[: plan.outputs], results[plan.outputs :]
    return tree_unflatten(prepared.trees[0], outputs), tree_unflatten(prepared.trees[1], last)


def _order(inputs: list[Tensor], lanes: torch.Size) -> list[int] | None:
    """The order of lanes in which an input lies in memory, as channels_last does; None where that is the order of its axes."""
    if len(lanes) < 2:
        return None
    for x in inputs:
        strides = x.stride()[1:]
        order = sorted(range(len(lanes)), key=lambda i: (-strides[i], i))
        if 0 not in strides and order != sorted(order) and x[0].permute(order).is_contiguous():
            return order
    return None


def _turned(tensors: Any, plan: Plan, order: list[int], back: bool = False) -> list[Tensor]:
    """The leaves of a scan with the axes of their lanes in this order; or its results back in theirs."""
    rank = len(order)
    timed = range(plan.outputs) if back else range(len(plan.leaves) - plan.counts[2], len(plan.leaves))
    if back:
        order = [order.index(i) for i in range(rank)]
    out = []
    for i, x in enumerate(tensors):
        if i in timed:
            x = x.permute(0, *(1 + axis for axis in order))
        elif x.dim():
            x = x.reshape(*[1] * (rank - x.dim()), *x.shape).permute(order)
        out.append(x)
    return out
