"""The loop in O(sqrt(T)) memory: only the state at every sqrt(T)-th step is kept, the steps between are run again.

A segment of the loop is one `autograd.Function` whose rules are those of the segment, run again: backward is `torch.func.vjp`
of the loop, jvp is `torch.func.jvp` of it, vmap is the same Function over the vmapped loop. So it nests like the loop does.
`torch.utils.checkpoint` would not do: it raises under `torch.func.grad`.

What a step draws from the generators of torch, Python and numpy is drawn again: a segment that is run once more begins where they
stood when it was run first. A step that changes anything else is refused.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .._functorch import depends, transforms
from .._identity import generators, Held, identify, undone
from .._primitives import once_or_told
from .._tree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from ..kernels import only_floats
from ._loop import loop, P, S, Step, step_name, X, Y


def checkpointed(step: Step[P, S, X, Y], params: P, state: S, inputs: X, length: int, reverse: bool) -> tuple[Y, S]:
    """What `loop` returns, with its gradients. The step must take all its differentiable tensors as arguments."""
    _refuse_captures(step, params, state, inputs)
    if transforms().count("Jvp") > 1:
        raise ValueError(
            'scan(kind="checkpointed"): two forward-mode transforms are active, and torch would lose one of them. Take kind="loop".'
        )
    size = math.isqrt(length - 1) + 1
    xs, tree = tree_flatten(inputs)
    starts = range(0, length, size)
    chunks = (
        [tree_unflatten(tree, chunk) for chunk in zip(*(x.split(size) for x in xs))] if xs else [None] * len(starts)
    )
    outputs = []
    for start, chunk in reversed(list(zip(starts, chunks))) if reverse else zip(starts, chunks):
        output, state = _segment(step, params, state, chunk, min(size, length - start), reverse)
        outputs.append(output)
    return tree_map(lambda *parts: torch.cat(parts), *(outputs[::-1] if reverse else outputs)), state


def _segment(step: Any, params: Any, state: Any, inputs: Any, length: int, reverse: bool) -> tuple[Any, Any]:
    leaves, tree = tree_flatten((params, state, inputs))
    result: list[Any] = []

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        params, state, inputs = tree_unflatten(tree, leaves)
        outputs, spec = tree_flatten(loop(step, params, state, inputs, length, reverse))
        result[:] = [spec]
        return tuple(outputs)

    outputs = _Again.apply(_Redrawn(run), *leaves)
    return tree_unflatten(result[0], outputs)


class _Redrawn:
    """A function that draws the same numbers each time it is called."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.began: list[Held] | None = None

    def __call__(self, *leaves: Tensor) -> Any:
        if self.began is None:
            before = generators()
            outputs = self.run(*leaves)
            self.began = [held for held in before if not held.same()]
            return outputs
        now = generators() if self.began else []
        for held in self.began:
            held.restore()
        try:
            return self.run(*leaves)
        finally:
            for held in now:
                held.restore()


class _Again(torch.autograd.Function):
    """`run(*leaves) -> tuple of tensors`, keeping the leaves only: whatever a rule needs is computed again."""

    @staticmethod
    def forward(run: Any, *leaves: Tensor) -> tuple[Tensor, ...]:
        # An output that is an input, or a view of one, must leave as a copy.
        return tuple(
            out.clone() if out._is_view() or any(out is leaf for leaf in leaves) else out for out in run(*leaves)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.run, *leaves = inputs
        ctx.save_for_backward(*leaves)
        ctx.save_for_forward(*leaves)
        ctx.real = [out.is_floating_point() for out in output]
        ctx.mark_non_differentiable(*(out for out in output if not out.is_floating_point()))

    @staticmethod
    @once_or_told
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        leaves = ctx.saved_tensors
        floats, run = only_floats(ctx.run, leaves)
        vjp = torch.func.vjp(run, *floats)[1]
        grads = iter(vjp(tuple(c for c, real in zip(cotangents, ctx.real) if real)))
        return None, *(next(grads) if leaf.is_floating_point() else None for leaf in leaves)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        leaves = ctx.saved_tensors
        floats, run = only_floats(ctx.run, leaves)
        moves = [t for leaf, t in zip(leaves, tangents[1:]) if leaf.is_floating_point()]
        moves = tuple(torch.zeros_like(x) if t is None else t for x, t in zip(floats, moves))
        moved = iter(torch.func.jvp(run, floats, moves)[1])
        return tuple(next(moved) if real else None for real in ctx.real)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        run, *leaves = args
        mapped = torch.func.vmap(run, in_dims=in_dims[1:], randomness=info.randomness)
        outputs = _Again.apply(mapped, *leaves)
        return outputs, (0,) * len(outputs)


def _refuse_captures(step: Any, params: Any, state: Any, inputs: Any) -> None:
    """One step, to see that it can be run again: nothing of it may remain, and no gradient may flow beside its arguments."""
    what = identify(step, params, state, inputs)
    if what.opaque:
        raise ValueError(
            f'scan(kind="checkpointed"): {step_name(step)} {what.opaque}, so what it does when it is run again cannot be known. Take '
            'kind="loop".'
        )
    first = tree_map(lambda x: x[0], inputs)
    arguments, tree = tree_flatten((params, state, first))
    # A captured tensor would be a constant to the Function above, and its gradient silently zero.
    detached = tree_unflatten(tree, [leaf.detach() for leaf in arguments])
    # Generators are put back before the rest is compared: drawing is allowed.
    with undone(what.hold()) as changed, undone(generators()):
        outputs = [out for out in tree_leaves(step(*detached)) if isinstance(out, Tensor)]
    if changed:
        raise ValueError(
            f'scan(kind="checkpointed"): {step_name(step)} changes {changed[0]}, so it would do something else when it is run '
            'again. A step is pure: what it remembers stands in its state. Or take kind="loop".'
        )
    if depends(outputs, arguments):
        raise ValueError(
            f'scan(kind="checkpointed"): {step_name(step)} uses a tensor that is differentiated or batched but is not one of its '
            'arguments, so its gradient would be lost. Give it in params, or take kind="loop".'
        )
