"""`scan`: any step, over any number of time steps.

    loop           the definition: a Python loop                              _loop.py
    checkpointed   the same, in O(sqrt(T)) memory                             _checkpointed.py
    fused          the same, in one kernel, where the step is pointwise       _fused.py

Each kind is a function `(step, params, state, inputs, length, reverse) -> (outputs, state)` behind this one door. "auto" takes apart what
is not pointwise as a whole (`_fission.py`): products run once over all of time, and what feeds itself back in kernels (`_stages.py`).
To a compiler a scan is one operation (`_captured.py`).
"""

from typing import Any, get_args, Literal, TYPE_CHECKING

from .._functorch import can_capture, is_compiling, is_dynamo_compiling, watched
from ._door import admit, complete, MISSING
from ._kinds import once, run
from ._loop import P, S, Step, step_name as step_name, X, Y


if TYPE_CHECKING:
    from ._explain import Explanation


Kind = Literal["auto", "loop", "checkpointed", "fused"]
KINDS = get_args(Kind)


def scan(
    step: Step[P, S, X, Y],
    params: P,
    state: S,
    inputs: X,
    *,
    kind: Kind = "auto",
    reverse: bool = False,
    length: int | None = None,
) -> tuple[Y, S]:
    """Run `step` along the leading axis of `inputs`.

        for t in range(T):
            output[t], state = step(params, state, input[t])

    - `step`: `(params, state, input) -> (output, state)`, pure. All four are any pytrees of tensors.
    - `params`: the same at every step.
    - `state`: before the first step. It keeps its structure, dtypes and shapes (the first step may broadcast it).
    - `inputs`: time first, `[T, batch, ..., neurons]` for a neuron, T >= 1. A current constant in time costs no memory as
      `x.expand(T, *x.shape)`. None with `length=T` drives a step that takes no input (it is given None).
    - `kind`: "loop" (the definition), "fused" (one compiled kernel; raises, with the reason, where the step has none),
      "checkpointed" (the loop's values and gradients; memory O(sqrt(T)) for states, the step is run twice), or "auto": one kernel where
      that can be; a network layer by layer, its products once over all of time and what feeds itself back in kernels; else the loop.
      `explain` says how "auto" runs a step.
    - `reverse`: from the last step to the first; outputs stay in the order of the inputs.

    Returns `(outputs, state)`: what the step returns first, stacked over time, and the state after the last step. To record
    the membrane, return it: `lambda p, s, x: (lambda spk, s: ((spk, s.mem), s))(*leaky_step(p, s, x))`.

    Closed under `torch.func`: `grad`, `vjp`, `jvp`, `vmap`, `jacrev`, `jacfwd`, `hessian` and their nestings give what the loop
    gives.

    Raises TypeError or ValueError, before the first step where it can be known there, for inputs without a time axis, lengths
    that differ, mixed devices, an unknown kind, a step that does not return `(output, state)` or changes its state's form.

        >>> params = LeakyParams(beta=0.9)
        >>> xs = torch.full((5, 1, 3), 0.4)
        >>> spks, state = scan(leaky_step, params, leaky_init(params, xs[0]), xs)
        >>> spks[:, 0, 0]
        tensor([0., 0., 1., 0., 0.])
    """
    if kind not in KINDS:
        raise ValueError(f"scan(kind={kind!r}): unknown kind. It is one of {', '.join(map(repr, KINDS))}.")
    if can_capture() and (is_compiling() or watched()) and kind != "loop":
        from ._captured import exported, in_graph, uncompiled

        if is_dynamo_compiling():
            return in_graph(step, params, state, inputs, kind, reverse, length)
        if not is_compiling():
            return uncompiled(step, params, state, inputs, kind, reverse, length)
        step = exported(step, params, state, inputs)
    return run(step, params, state, inputs, kind, reverse, length)


def explain(
    step: Any, params: Any, state: Any = MISSING, inputs: Any = MISSING, *, length: int | None = None
) -> "Explanation":
    """How `scan(kind="auto")` runs this step at these arguments, and why: text, and a value to be asserted on (`Explanation`). Raises
    as `scan` does. Of a module that `module` made: `explain(model, xs)`.

    Nothing is run over time. Of what has neither a kernel nor stages one step is run, to see whether it runs at all, and what that
    changes is put back.

    >>> params = LeakyParams(beta=0.9)
    >>> xs = torch.zeros(5, 1, 3)
    >>> explain(leaky_step, params, leaky_init(params, xs[0]), xs)
    fused: leaky_step is pointwise, one kernel for all 5 steps.
    >>> explain(leaky_step, params, leaky_init(params, xs[0]), xs).kind
    'fused'
    """
    from ._explain import planned

    step, params, state, inputs = complete("explain", step, params, state, inputs)
    length = admit(step, params, state, inputs, length)
    said = planned(step, params, state, inputs, length)
    if said.kind == "loop":
        once(step, params, state, inputs)
    return said
