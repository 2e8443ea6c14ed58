"""One kernel over all of time, forward and backward, for a step that is pointwise."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._functorch import ends_a_recomputation, wrapping
from .._primitives import applied, bare
from .._tree import tree_map, tree_unflatten
from ..kernels import lane_axis, NoCompiler, Plan, Role, Unsupported
from ._door import admit
from ._known import FirstDiffers, prepare
from ._loop import loop, Step
from ._prepared import Prepare
from ._primitive import Call, checkpointing, keeping, lanes_of, Scan
from ._stages import run as run_stages, Staged


class Several(Unsupported):
    """The step has stages, and is not one kernel."""


def fused(
    step: Step, params: Any, state: Any, inputs: Any, length: int | None, reverse: bool, stages: bool = False
) -> tuple[Any, Any]:
    """What `loop` returns, in one kernel, or in stages if these are allowed. Raises Unsupported where the step, or the place, has none."""
    try:
        prepared = prepare(step, params, state, inputs, length)
    except FirstDiffers as reason:
        return _after_first(step, params, state, inputs, length, reverse, stages, reason)
    known = prepared.known
    if isinstance(known, Staged):
        if not (stages or known.alone):
            raise Several(known.why)
        outputs, last = run_stages(known, prepared.every, reverse, _whole)
    else:
        outputs, last = _whole(prepared, reverse)
    return tree_unflatten(known.tree, outputs), tree_unflatten(prepared.tree, last)


def _whole(prepared: Prepare, reverse: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and last states of one kernel."""
    known = prepared.known
    results = _run(prepared, known.plan, reverse) if known.plan is not None else ()
    return known.results(results, prepared.every, *prepared.counts)


def _after_first(
    step: Step,
    params: Any,
    state: Any,
    inputs: Any,
    length: int | None,
    reverse: bool,
    stages: bool,
    reason: Unsupported,
) -> tuple[Any, Any]:
    """The first step as the loop makes it, then the others at once."""
    T = admit(step, params, state, inputs, length)
    if T == 1:
        raise reason
    begin, rest = (T - 1, slice(0, T - 1)) if reverse else (0, slice(1, T))
    first, state = loop(step, params, state, tree_map(lambda x: x[begin : begin + 1], inputs), 1, False)
    after = tree_map(lambda x: x[rest], inputs)
    try:
        others, state = fused(step, params, state, after, T - 1, reverse, stages)
    except (Unsupported, NoCompiler):  # the first step is taken, and shall not be once more
        others, state = loop(step, params, state, after, T - 1, reverse)
    parts = (others, first) if reverse else (first, others)
    return tree_map(lambda *x: torch.cat(x), *parts), state


def _run(prepared: Prepare, plan: Plan, reverse: bool) -> list[Tensor]:
    """What the kernel gives: outputs, then last states."""
    known, leaves = prepared.known, prepared.leaves
    takes, gives = plan.signature.leaves, plan.signature.results
    done = prepared.derivatives()
    keep = "tracked" in done and keeping(known.T, plan, known.lanes.numel())
    every = checkpointing(known.T, plan, keep) if "tracked" in done else 0
    call = Call(plan, prepared.source, known.T, reverse, every, keep)
    go = functools.partial(applied if done else bare, Scan)
    order = None if plan.products.each else _order(takes.split(leaves)[2], known.lanes)
    try:
        if done and not plan.built and done <= {"tracked", "wrapped"} and known.lanes.numel():
            # A compiler that fails shall do so now, when the loop can still run, and not in the backward.
            wanted = tuple(i for i in takes.floating if wrapping([leaves[i]]))
            plan.backward(lanes_of(plan, leaves)[1], wanted, known.device.type, prepared.source).build()
            plan.built = True
        if order is None:
            return go(call, *leaves)[: len(gives)]
        return _turned(
            go(call, *_turned(leaves, takes.roles, order)), gives.roles, [order.index(i) for i in range(len(order))]
        )
    except NoCompiler as reason:
        plan.failed = str(reason)
        raise
    except Unsupported:
        raise
    except Exception as error:  # whatever it is: the loop runs
        if ends_a_recomputation(error):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise Unsupported(f"its kernel fails: {type(error).__name__}: {reason}") from error


def _order(inputs: list[Tensor], lanes: torch.Size) -> list[int] | None:
    """The order of lanes in which an input lies in memory, as channels_last does; None where that is the order of its axes."""
    if len(lanes) < 2:
        return None
    for x in inputs:
        if x.is_contiguous():
            continue
        strides = x.stride()[1:]
        order = sorted(range(len(lanes)), key=lambda i: (-strides[i], i))
        if 0 not in strides and order != sorted(order) and x[0].permute(order).is_contiguous():
            return order
    return None


def _turned(tensors: Sequence[Tensor], roles: Sequence[Role], order: list[int]) -> list[Tensor]:
    """The leaves or results of a scan with the axes of their lanes in this order."""
    out = []
    for x, role in zip(tensors, roles):
        if x.dim():
            first = lane_axis(role)
            x = x.reshape(*x.shape[:first], *[1] * (len(order) + first - x.dim()), *x.shape[first:])
            x = x.permute(*range(first), *(first + axis for axis in order))
        out.append(x)
    return out
