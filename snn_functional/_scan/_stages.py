"""A whole network, stage by stage: each is through with a piece of time before the next begins.

What `_fission.py` makes of a step runs here: products and all else that feeds nothing back as one operation over all of time, each
component as one kernel, or as the loop where it has none. All of it is ordinary operations and scans, so every transform sees through.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .._functorch import autocast, intercepted, mapped, transforms, wrapping
from ..kernels import Form, LEAF, NoCompiler, Node, performed, place, pointwise, Source, Tape, Unsupported
from ._distributed import distributed
from ._fission import Fission, fission, Stage
from ._networked import Networked, networked
from ._order import in_order, ordered
from ._over_time import over_time
from ._prepared import planned, Prepare, Prepared
from ._primitive import HIDDEN
from ._turned import turned


# A piece of time is so many samples times steps, or more where one step is small: what a stage leaves is still in the cache when the
# next takes it up.
ROWS = 4096
NUMBERS = 256 * ROWS


class Staged(NamedTuple):
    """A step at given shapes. `cores`: of each stage its kernel, why it has none, or None where it has no states."""

    tape: Tape
    fission: Fission
    cores: tuple[Prepared | Networked | str | None, ...]
    counts: tuple[int, int]
    device: torch.device
    states: tuple[Form, ...]
    ordered: tuple[int, ...]
    largest: int
    T: int
    tree: Any

    @property
    def alone(self) -> bool:
        """Is it one kernel after all, one with products in it?"""
        return (
            not self.fission.draws
            and all(isinstance(x, Networked) and x.whole for x in self.cores)
            and len(self.cores) == 1
        )

    @property
    def why(self) -> str:
        """Why it is not one kernel."""
        return obstacle(self.tape.nodes)


def staged(tape: Tape, params: int, states: tuple[Form, ...], device: torch.device, tree: Any, T: int) -> Staged:
    """The stages of what was read.

    Raises Unsupported where nothing is gained: all of it is one loop, but for what is pointwise.
    """
    if tape.own:
        raise Unsupported(tape.own)
    begin = tape.leaves[params : params + len(states)]
    whole = distributed(turned(tape, begin), begin)
    found = _taken_apart(whole, params, states, device, tree, T)
    if whole is tape or not any(isinstance(core, str) for core in found.cores):
        return found
    # A loop of parts would take more time than one of the whole.
    return _taken_apart(tape, params, states, device, tree, T)


def _taken_apart(tape: Tape, params: int, states: tuple[Form, ...], device: torch.device, tree: Any, T: int) -> Staged:
    apart = set[int]()
    while True:
        parts = fission(tape, params, len(states), apart)
        cores: list[Prepared | Networked | str | None] = []
        for stage in parts.stages:
            try:
                cores.append(_core(stage, tape, device))
            except (Unsupported, NoCompiler) as reason:
                if stage.alone:
                    cores.append(str(reason))
                else:  # it may be what stands beside it that has no kernel
                    apart.update(stage.states)
                    break
        else:
            break
    once = any(node.why for stage in parts.stages if not stage.states for node in stage.nodes)
    if not once and not any(isinstance(core, (Prepared, Networked)) for core in cores):
        kernels.ready(device.type)  # where there are none at all, that is why
        raise Unsupported(obstacle(tape.nodes))
    return Staged(
        tape,
        parts,
        tuple(cores),
        (params, len(states)),
        device,
        states,
        ordered(tape, params, len(states)),
        max((x.shape.numel() for x in tape.nodes), default=0),
        T,
        tree,
    )


def obstacle(nodes: Sequence[Node]) -> str:
    """The first of them that is not pointwise; one that only looks at its argument in another way if there is no other."""
    found = sorted((node for node in nodes if node.why), key=lambda node: node.shows)
    if found:
        return str(found[0].why)
    node = next(node for node in nodes if not pointwise(node))
    return f"{node.target} is not pointwise{place(node.line)}"


def _core(stage: Stage, tape: Tape, device: torch.device) -> Prepared | Networked | None:
    """The kernel of a stage that has states."""
    if not stage.states or stage.delays:
        return None
    kernels.ready(device.type)
    alone = Tape((*stage.given, *stage.begin, *stage.timed), stage.nodes, (*stage.gives, *stage.end), cut=tape.cut)
    if not stage.pointwise:
        return networked(alone, len(stage.given), len(stage.states), 1, device)
    forms = tuple(Form(x.dtype, x.shape) for x in stage.begin)
    return planned(alone, device, None, len(stage.given), len(stage.states), forms, 1)


def run(step: Staged, every: Sequence[Tensor], reverse: bool, kernel: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs over time, and last states. `kernel(prepared, reverse)`: a core's.

    Raises Unsupported before anything has run.
    """
    if step.tape.cut and ("dual" in wrapping(every) or sum(level in ("Grad", "Jvp") for level in transforms()) > 1):
        raise Unsupported(f"it {HIDDEN}")
    params, count = step.counts
    if step.fission.draws and ("Vmap" in transforms() or not in_order(every, params + count, step.ordered)):
        raise Unsupported("it draws under vmap, or into what does not lie in the order of its axes")
    states = [_as(s, form) for s, form in zip(every[params : params + count], step.states)]
    moving = {node for stage in step.fission.stages for node in stage.begin}
    fixed: dict[Node, Any] = {
        node: x for node, x in zip(step.tape.leaves, (*every[:params], *states)) if node not in moving
    }
    asleep = torch.autocast(step.device.type, enabled=False) if autocast() else contextlib.nullcontext()
    with asleep:
        for node in performed(step.fission.fixed):
            fixed[node] = node.perform(fixed.__getitem__, step.device)
        pieces = _pieces(every[params + count :], step.T, step.largest)
        outputs: list[list[Tensor]] = []
        for piece in reversed(pieces) if reverse else pieces:
            some, states = _Piece(step, fixed, piece, states, reverse, kernel).run()
            outputs.append(some)
    outputs = outputs[::-1] if reverse else outputs
    return [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*outputs)], states


def _as(state: Tensor, form: Form) -> Tensor:
    """As the first step makes it."""
    state = state if state.dtype == form.dtype else state.to(form.dtype)
    return state if state.shape == form.shape else state.expand(form.shape)


def _pieces(xs: Sequence[Tensor], T: int, largest: int) -> list[tuple[int, list[Tensor]]]:
    """How many steps each piece of time has, and the inputs there. `largest`: how many numbers what is made in one step has at most."""
    if intercepted():  # a graph is to serve any length
        return [(T, list(xs))]
    rows = max([1, *(x.shape[1] for x in xs if x.dim() > 2)])
    copies = max(1, mapped() // 2)  # pieces of an ensemble may be longer: each begins with all of its matrices
    size = max(1, ROWS // (copies * rows), NUMBERS // (copies * max(1, largest)))
    if not xs or T <= 2 * size:  # a short rest would not pay
        return [(T, list(xs))]
    size = -(-T // (T // size))
    return [(len(some[0]), list(some)) for some in zip(*(x.split(size) for x in xs))]


class _Piece:
    """A step over one piece of time. `over`: what differs from step to step, time first; `fixed`: what does not."""

    def __init__(
        self, step: Staged, fixed: dict[Node, Any], piece: Any, states: list[Tensor], reverse: bool, kernel: Any
    ) -> None:
        self.step, self.reverse, self.kernel = step, reverse, kernel
        self.T, xs = piece
        self.fixed, self.over = dict(fixed), dict[Node, Any]()
        params, count = step.counts
        for leaf, x in zip(step.tape.leaves[params + count :], xs):
            if self.T > 1 and x.stride(0) == 0 and not wrapping([x]) & {"tracked", "dual"}:
                self.fixed[leaf] = x[0]
            else:
                self.over[leaf] = x
        self.states = list(states)

    def run(self) -> tuple[list[Tensor], list[Tensor]]:
        parts = self.step.fission
        for node in performed(parts.early):
            self._once(node)
        self._draw(parts.draws)
        for stage, core in zip(parts.stages, self.step.cores):
            if not stage.states:
                for node in performed(stage.nodes):
                    self._once(node)
                continue
            begin = [self.states[s] for s in stage.states]
            gives, end = self._through(stage, core, begin)
            self.over |= zip(stage.gives, gives)
            for s, x in zip(stage.states, end):
                self.states[s] = x
        outputs, seen = [], set[Node]()
        ends = len(self.step.tape.outputs) - len(self.states)
        for node in self.step.tape.outputs[:ends]:
            x = self._timed(node)
            shared = node.name == LEAF or node.shows or node in self.fixed or node in seen
            outputs.append(x.clone(memory_format=torch.contiguous_format) if shared else x)
            seen.add(node)
        return outputs, [self._last(node, x) for node, x in zip(self.step.tape.outputs[ends:], self.states)]

    def _last(self, node: Node, x: Tensor) -> Tensor:
        x = self.fixed.get(node, x)
        return x.clone() if node.name == "clone" else x  # which so far was none

    def _timed(self, node: Node) -> Tensor:
        """Over time, whether it changes or not."""
        if node in self.over:
            return self.over[node]
        x = self.fixed[node]
        return x.expand(self.T, *x.shape)

    def _once(self, node: Node) -> None:
        if any(x in self.over for x in node.inputs()):
            self.over[node] = over_time(node, self.over, self.fixed, self.T, self.step.device)
        else:
            self.fixed[node] = node.perform(self.fixed.__getitem__, self.step.device)

    def _draw(self, draws: Sequence[Node]) -> None:
        """In the loop's order, so that the numbers are the loop's."""
        drawn: dict[Node, list[Any]] = {node: [] for node in draws}
        for t in (reversed(range(self.T)) if self.reverse else range(self.T)) if draws else ():
            now = lambda x, t=t: (self.over[x][t] if x in self.over else self.fixed[x]).contiguous()
            for node in draws:
                drawn[node].append(node.perform(now, self.step.device))
        for node, numbers in drawn.items():
            numbers = numbers[::-1] if self.reverse else numbers
            several = isinstance(numbers[0], (tuple, list))
            self.over[node] = tuple(map(torch.stack, zip(*numbers))) if several else torch.stack(numbers)

    def _through(self, stage: Stage, core: Any, begin: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        if stage.delays:
            return self._delayed(stage, begin)
        given, timed = [self.fixed[x] for x in stage.given], [self._timed(x) for x in stage.timed]
        if isinstance(core, (Prepared, Networked)):
            known = core._replace(T=self.T)
            every = [*given, *begin, *timed]
            source = lambda: Source(known.plan.tape.perform)  # pyright: ignore[reportOptionalMemberAccess]
            leaves = known.leaves(every)
            with contextlib.suppress(Unsupported, NoCompiler):
                return self.kernel(
                    Prepare(known, leaves, every, (len(given), len(begin)), source, None, None), self.reverse
                )
        return self._looped(stage, given, begin, timed)

    def _delayed(self, stage: Stage, begin: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """All that is ever in a delay line lies in a row, so what a state holds over time is a view."""
        x, kept = self._timed(stage.end[0]), [s[None] for s in begin]
        if self.reverse:
            row, at, step = torch.cat([x, *kept]), 1, 1
        else:
            row, at, step = torch.cat([*reversed(kept), x]), len(kept) - 1, -1
        gives = [row.narrow(0, at + step * stage.begin.index(node), self.T) for node in stage.gives]
        return gives, [row[i if self.reverse else -1 - i].clone() for i in range(len(kept))]

    def _looped(
        self, stage: Stage, given: list[Tensor], begin: list[Tensor], timed: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        steps: Sequence[Any] = list(zip(*(x.unbind(0) for x in timed))) if timed else [()] * self.T
        found = []
        nodes, values = performed(stage.nodes), dict[Node, Any](zip(stage.given, given))
        for x in reversed(steps) if self.reverse else steps:
            values |= zip((*stage.begin, *stage.timed), (*begin, *x))
            for node in nodes:
                values[node] = node.perform(values.__getitem__, self.step.device)
            found.append([values[node] for node in stage.gives])
            begin = [values[node] for node in stage.end]
        found = found[::-1] if self.reverse else found
        return [torch.stack(column) for column in zip(*found)], begin
