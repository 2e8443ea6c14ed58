"""One kernel over all of time, forward and backward, for a step that is pointwise."""

from typing import Any

from .._functorch import applied, wrapping
from .._tree import tree_unflatten
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
    results = prepared.unfilled(run(call, *leaves)[:count])
    outputs, last = results[: plan.outputs], results[plan.outputs :]
    return tree_unflatten(prepared.trees[0], outputs), tree_unflatten(prepared.trees[1], last)
