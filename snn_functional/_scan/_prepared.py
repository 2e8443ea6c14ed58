"""What is known of a step that is one kernel, at given shapes: its plan, and what becomes of each leaf and result."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._functorch import transforms, wrapping
from ..kernels import broadcast, Form, Later, Plan, Tape, Unsupported
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

    def leaves(self, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor]) -> list[Tensor]:
        """The leaves of the kernel, the states as they are after the first step's broadcast, everything over all lanes."""
        lanes, params, states = self.lanes, len(ps), len(ps) + len(ss)
        out = []
        for i in self.used:
            if i < params:
                out.append(self._there(ps[i]))
            elif i < states:
                s, known = self._there(ss[i - params]), self.states[i - params]
                s = s if s.dtype == known.dtype else s.to(known.dtype)
                out.append(s if s.shape == lanes else s.expand(lanes))
            else:
                out.append(_over(xs[i - states], lanes))
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
    """A step with its leaves: the kernel's, and all. `source`: itself, for what has still to be read of it."""

    known: Prepared
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
        if done and sum(level in ("Grad", "Jvp") for level in transforms()) > 1:
            if not self.known.plan.faithful(self.source):
                raise Unsupported(f"it {HIDDEN}")
        return done


def planned(
    tape: Tape, device: torch.device, tree: Any, params: int, states: int, after: tuple[Form, ...], length: int
) -> Prepared:
    """The plan of what is computed. What is only passed on does not come into it, nor does a leaf that nothing reads."""
    outputs = len(tape.outputs) - states
    place = {leaf: i for i, leaf in enumerate(tape.leaves)}
    computed = {x for node in tape.nodes for x in node.inputs()}
    kept = {params + s for s in range(states) if tape.outputs[outputs + s] is tape.leaves[params + s]}
    still = lambda i: i < params or i in kept or i >= params + states
    passed = [place[x] if x in place and still(place[x]) else None for x in tape.outputs[:outputs]]
    # A state that never changes, and that nothing computes with, is not the kernel's.
    idle = {i for i in kept if tape.leaves[i] not in computed}
    ends: list[int | None] = [params + s if params + s in idle else None for s in range(states)]
    own_outputs = [j for j, i in enumerate(passed) if i is None]
    own_states = [s for s, i in enumerate(ends) if i is None]
    gives = (*own_outputs, *(outputs + s for s in own_states))
    small = tape.giving(tuple(tape.outputs[i] for i in gives))
    used = sorted({*small.read_leaves(), *(params + s for s in own_states)})
    shapes = [tape.leaves[i].shape for i in used]
    try:
        lanes = broadcast(*shapes)
    except RuntimeError:
        shown = ", ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise Unsupported(f"what it computes with has shapes that do not go together: {shown}") from None
    for x in small.outputs:
        if len(x.shape) > len(lanes) or any(a not in (1, n) for a, n in zip(x.shape[::-1], lanes[::-1])):
            raise Unsupported(f"it returns shape {list(x.shape)}, of arguments that together have {list(lanes)}")
    counts = (
        sum(i < params for i in used),
        sum(params <= i < params + states for i in used),
        sum(i >= params + states for i in used),
    )
    if small.outputs and not used:
        raise Unsupported("it reads none of its arguments")
    plan = Plan(small.with_leaves(used), counts) if small.outputs else None
    in_kernel = {j: n for n, j in enumerate(own_outputs)}
    state_in_kernel = {s: len(own_outputs) + n for n, s in enumerate(own_states)}
    results = tuple(Result(in_kernel.get(j), passed[j], x.shape) for j, x in enumerate(tape.outputs[:outputs]))
    last = tuple(Result(state_in_kernel.get(s), ends[s], after[s].shape) for s in range(states))
    plain = all(x.kernel is not None and x.shape == lanes for x in (*results, *last))
    return Prepared(plan, tuple(used), gives, length, device, lanes, after, results, last, plain, tree)


def _over(x: Tensor, lanes: torch.Size) -> Tensor:
    if x.shape[1:] == lanes:
        return x
    return x.reshape(len(x), *[1] * (len(lanes) - x.dim() + 1), *x.shape[1:]).expand(len(x), *lanes)


def _shrink(x: Tensor, form: torch.Size, time: int) -> Tensor:
    """From all lanes back to the shape that the loop gives where less was needed."""
    if x.shape[time:] == form:
        return x
    x = x[(slice(None),) * time + (0,) * (x.dim() - time - len(form))]
    for axis, n in enumerate(form, time):
        if x.shape[axis] != n:
            x = x.narrow(axis, 0, 1)
    return x
