"""`scan`: any step, over any number of time steps.

    loop           the definition: a Python loop                              _loop.py
    checkpointed   the same, in O(sqrt(T)) memory                             _checkpointed.py
    fused          the same, in one kernel, where the step is pointwise       _fused.py

Each kind is a function `(step, params, state, inputs, length, reverse) -> (outputs, state)` behind this one door.
"""

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

from .._tree import tree_leaves
from ..kernels import NoCompiler, Unsupported
from ._checkpointed import checkpointed
from ._fused import fused, prepare
from ._loop import loop, Step, step_name


KINDS = ("auto", "loop", "checkpointed", "fused")


def scan(
    step: Step,
    params: Any,
    state: Any,
    inputs: Any,
    *,
    kind: str = "auto",
    reverse: bool = False,
    length: int | None = None,
) -> tuple[Any, Any]:
    """Run `step` along the leading axis of `inputs`.

        for t in range(T):
            output[t], state = step(params, state, input[t])

    - `step`: `(params, state, input) -> (output, state)`, pure. All four are any pytrees of tensors.
    - `params`: the same at every step.
    - `state`: before the first step. It keeps its structure, dtypes and shapes (the first step may broadcast it).
    - `inputs`: time first, `[T, batch, ..., neurons]` for a neuron, T >= 1. A current constant in time costs no memory as
      `x.expand(T, *x.shape)`. None with `length=T` drives a step that takes no input (it is given None).
    - `kind`: "loop" (the definition), "fused" (one compiled kernel; raises, with the reason, where the step has none),
      "checkpointed" (the loop's values and gradients; memory O(sqrt(T)) for states, the step is run twice), or "auto": fused where
      that can be, else the loop. `explain` says which one "auto" takes.
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
    length = _admit(step, params, state, inputs, kind, length)
    if kind == "checkpointed":
        return checkpointed(step, params, state, inputs, length, reverse)
    if kind != "loop":
        try:
            return fused(step, params, state, inputs, length, reverse)
        except Unsupported as reason:
            if kind == "fused":
                raise ValueError(
                    f'scan(kind="fused"): {step_name(step)} has no kernel: {reason}. With kind="auto" it runs as the loop.'
                ) from None
        except NoCompiler as reason:
            if kind == "fused":
                raise
            _warn(str(reason))
    return loop(step, params, state, inputs, length, reverse)


def explain(step: Step, params: Any, state: Any, inputs: Any, *, length: int | None = None) -> str:
    """Which kind `scan(kind="auto")` takes for these arguments, and why; nothing is run. Raises as `scan` does.

    >>> params = LeakyParams(beta=0.9)
    >>> xs = torch.zeros(5, 1, 3)
    >>> explain(leaky_step, params, leaky_init(params, xs[0]), xs)
    'fused: leaky_step is pointwise, one kernel for all 5 steps.'
    """
    length = _admit(step, params, state, inputs, "auto", length)
    try:
        prepare(step, params, state, inputs, length)
    except (Unsupported, NoCompiler) as reason:
        return f"loop: {reason}."
    return f"fused: {step_name(step)} is pointwise, one kernel for all {length} steps."


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(f"scan: {reason}; every scan runs as the loop.", stacklevel=3)


def _admit(step: Any, params: Any, state: Any, inputs: Any, kind: str, length: int | None) -> int:
    """The door: refuses what cannot be scanned, and returns the number of steps."""
    if kind not in KINDS:
        raise ValueError(f"scan(kind={kind!r}): unknown kind. It is one of {', '.join(map(repr, KINDS))}.")
    if not callable(step):
        hint = " Give its step: scan(neuron.step, ...)." if hasattr(step, "step") else ""
        raise TypeError(
            f"scan(step, params, state, inputs): step is called at each time step, but came as {type(step).__name__}.{hint}"
        )
    xs = tree_leaves(inputs)
    for x in xs:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"scan(..., inputs): every leaf is a tensor [T, ...], but a {type(x).__name__} came: {x!r}."
            )
        if x.dim() == 0:
            raise ValueError(
                "scan(..., inputs): a 0-d tensor has no time axis. Expected [T, ...]; for T equal steps give x.expand(T)."
            )
    lengths = {len(x) for x in xs} | ({length} if length is not None else set())
    if not lengths:
        raise ValueError(
            "scan(..., inputs=None): without inputs the number of steps must be given: scan(..., None, length=T)."
        )
    if len(lengths) > 1:
        raise ValueError(
            f"scan(..., inputs): the time axes differ: {[tuple(x.shape) for x in xs]}"
            + (f" with length={length}" if length is not None else "")
            + ". Time comes first, [T, batch, ..., neurons], and T is the same everywhere."
        )
    (steps,) = lengths
    if steps < 1:
        raise ValueError(
            f"scan(..., inputs): the time axis is empty: {[tuple(x.shape) for x in xs]}. Expected at least one time step."
        )
    _one_device(params, state, inputs)
    return steps


def _one_device(params: Any, state: Any, inputs: Any) -> None:
    placed: dict[torch.device, str] = {}
    for name, tree in (("params", params), ("state", state), ("inputs", inputs)):
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor) and not (leaf.dim() == 0 and leaf.device.type == "cpu"):
                placed.setdefault(leaf.device, name)
    if len(placed) > 1:
        where = ", ".join(f"{name} on {device}" for device, name in placed.items())
        raise ValueError(
            f"scan(step, params, state, inputs): mixed devices: {where}. "
            "Move them to one: optree.tree_map(lambda leaf: leaf.to(device), tree)."
        )
