"""What is known of a step that is one kernel, at given shapes: its plan, and what becomes of each leaf and result."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._functorch import depth, transforms, wrapping
from ..kernels import broadcast, Form, Later, Plan, Role, Signature, Tape, Unsupported
from ._primitive import HIDDEN


class Result(NamedTuple):
    """An output or a last state. `kernel`: its place among the results of the kernel, None where it is a leaf passed on; `leaf`:
    which one. `shape`: what the loop gives for one step."""

    kernel: int | None
    leaf: int | None
    shape: torch.Size


class Prepared(NamedTuple):
    """A step at given shapes, past the door.

    - `plan`: of what it computes, None where all it does is to pass things on.
    - `used`: which of the leaves (params, held tensors, states, inputs) that takes, in its order; `gives`: which of the step's results.
    - `plain`: are all results the kernel's, and as large as the lanes?
    - `lanes`: the shape of one step of those leaves together. `states`: shapes and dtypes of the states after the first step.
    """

    plan: Plan | None
    used: tuple[int, ...]
    gives: tuple[int, ...]
    T: int
    device: torch.device
    lanes: torch.Size
    states: tuple[Form, ...]
    outputs: tuple[Result, ...]
    last: tuple[Result, ...]
    plain: bool
    tree: Any

    def leaves(self, every: list[Tensor]) -> list[Tensor]:
        """The leaves of the kernel, the states as they are after the first step's broadcast, everything over all lanes."""
        if self.plan is None:
            return []
        slots, lanes, out = self.plan.signature.leaves, self.lanes, []
        for i, role, dtype in zip(self.used, slots.roles, slots.dtypes):
            x = _over(every[i], lanes) if role is Role.TIMED else self._there(every[i])
            if role is Role.STATE:
                x = x if x.dtype == dtype else x.to(dtype)
                x = x if x.shape == lanes else x.expand(lanes)
            out.append(x)
        return out

    def _there(self, leaf: Tensor) -> Tensor:
        """Numbers come along to the device of the others."""
        return leaf if leaf.device == self.device else leaf.to(self.device, non_blocking=True)

    def results(
        self, found: Sequence[Tensor], leaves: list[Tensor], params: int, states: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs and last states: those of the kernel, from all lanes back to the shapes that the loop gives, and what is passed on."""
        if self.plain:
            return list(found[: len(self.outputs)]), list(found[len(self.outputs) :])
        outputs = []
        for result in self.outputs:
            if result.kernel is not None:
                outputs.append(_shrink(found[result.kernel], result.shape, 1))
            else:
                assert result.leaf is not None
                x = leaves[result.leaf]
                x = x if result.leaf >= params + states else x.expand(self.T, *x.shape)
                outputs.append(x.clone(memory_format=torch.contiguous_format))
        last = []
        for result in self.last:
            if result.kernel is None:
                assert result.leaf is not None
                last.append(leaves[result.leaf])
            else:
                last.append(_shrink(found[result.kernel], result.shape, 0))
        return outputs, last


class Prepare(NamedTuple):
    """A step with its leaves: the kernel's, and all. `known`: a `Prepared`, or its stages. `source`: itself, for what has still to be
    read of it."""

    known: Any
    leaves: list[Tensor]
    every: list[Tensor]
    counts: tuple[int, int]
    source: Later
    tree: Any
    loose: str | None

    def derivatives(self) -> set[str]:
        """What is done to the leaves. A step whose derivative has no kernel is refused before it runs."""
        done = wrapping(self.leaves)
        if self.known.plan is None:
            return done
        if "tracked" in done:
            self.known.plan.pullback(self.source)
        if "dual" in done:
            self.known.plan.tangent(self.source)
        if done and depth() > 1 and len(levels := [x for x in transforms() if x in ("Grad", "Jvp")]) > 1:
            if not self.known.plan.faithful(self.source):
                raise Unsupported(f"it {HIDDEN}")
            self.known.plan.twice(levels[-1], levels[-2], self.source)
        return done


def planned(
    tape: Tape, device: torch.device, tree: Any, params: int, states: int, after: tuple[Form, ...], length: int
) -> Prepared:
    """The plan of what is computed. What is only passed on does not come into it, nor does a leaf that nothing reads."""
    dtypes = [x.dtype for x in tape.leaves], [x.dtype for x in tape.outputs]
    whole = Signature.of((params, states, len(tape.leaves) - params - states), *dtypes)
    roles, (_, starts, _, _), (outputs, new) = (
        whole.leaves.roles,
        whole.leaves.places,
        whole.results.split(tape.outputs),
    )
    place = {leaf: i for i, leaf in enumerate(tape.leaves)}
    computed = {x for node in tape.nodes for x in node.inputs()}
    computed |= {x for i, x in zip(starts, new) if x is not tape.leaves[i]}  # what another state keeps next, too
    constant = {i for i, x in zip(starts, new) if x is tape.leaves[i]}
    still = lambda i: roles[i] is not Role.STATE or i in constant
    passed = [place[x] if x in place and still(place[x]) else None for x in outputs]
    # A state that never changes, and that nothing computes with, is not the kernel's.
    idle = {i for i in constant if tape.leaves[i] not in computed}
    ends = [i if i in idle else None for i in starts]
    own_outputs = [j for j, i in enumerate(passed) if i is None]
    own_states = [s for s, i in enumerate(ends) if i is None]
    gives = (*own_outputs, *(len(outputs) + s for s in own_states))
    small = tape.giving(tuple(tape.outputs[i] for i in gives))
    used = sorted({*small.read_leaves(), *(starts[s] for s in own_states)})
    shapes = [tape.leaves[i].shape for i in used]
    try:
        lanes = broadcast(*shapes)
    except RuntimeError:
        shown = ", ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise Unsupported(f"what it computes with has shapes that do not go together: {shown}") from None
    for x in small.outputs:
        if len(x.shape) > len(lanes) or any(a not in (1, n) for a, n in zip(x.shape[::-1], lanes[::-1])):
            raise Unsupported(f"it returns shape {list(x.shape)}, of arguments that together have {list(lanes)}")
    params, states, inputs, _ = map(len, whole.leaves.only(used).parts)
    if small.outputs and not used:
        raise Unsupported("it reads none of its arguments")
    plan = Plan(small.with_leaves(used), (params, states, inputs)) if small.outputs else None
    in_kernel = {j: n for n, j in enumerate(own_outputs)}
    state_in_kernel = {s: len(own_outputs) + n for n, s in enumerate(own_states)}
    results = tuple(Result(in_kernel.get(j), passed[j], x.shape) for j, x in enumerate(outputs))
    last = tuple(Result(state_in_kernel.get(s), ends[s], x.shape) for s, x in enumerate(after))
    plain = all(x.kernel is not None and x.shape == lanes for x in (*results, *last))
    return Prepared(plan, tuple(used), gives, length, device, lanes, after, results, last, plain, tree)


def _over(x: Tensor, lanes: torch.Size) -> Tensor:
    if x.shape[1:] == lanes:
        return x
    T = x.shape[0]
    uniform = x.numel() == T
    x = x.reshape(T, *[1] * (len(lanes) - x.dim() + 1), *x.shape[1:]).expand(T, *lanes)
    # A mask, one a sample say, is a byte for each neuron, and side by side a kernel reads many at once.
    return x if uniform or x.dtype != torch.bool else x.contiguous()


def _shrink(x: Tensor, form: torch.Size, time: int) -> Tensor:
    """From all lanes back to the shape that the loop gives where less was needed."""
    if x.shape[time:] == form:
        return x
    x = x[(slice(None),) * time + (0,) * (x.dim() - time - len(form))]
    for axis, n in enumerate(form, time):
        if x.shape[axis] != n:
            x = x.narrow(axis, 0, 1)
    return x
