"""From what was read of a step to stages: what may run once over all of time, and what has to go step by step.

A step feeds its states back into itself, and nothing else. So its operations fall apart:

- what no state reaches, a product of the inputs say, is known for all steps before the first;
- *components*: states that reach one another from step to step, with all that lies between them. Each is a scan of its own;
- what is read out of a component may wait until that is through with all of time;
- *delay lines*: states of which each only keeps what the one before it held. No step computes anything there.

Components have an order in which each is over before the next begins. What is pointwise and stands beside one goes into its kernel, and
neighbours of one shape share a kernel. Everything else is operations over all of time.
"""

import graphlib
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import torch

from ..kernels import broadcast, made_of_nothing, Node, PART, pointwise, Tape, Unsupported


class Stage(NamedTuple):
    """Operations in their order, with the states that they feed back; without any they run once over all of time.

    - `begin`, `end`: each state before and after a step.
    - `given`: what is taken from outside and is the same at every step; `timed`: what is not.
    - `gives`: what others read of it.
    - `pointwise`: may it be one kernel? `alone`: is it a component, and nothing beside it?
    """

    nodes: tuple[Node, ...]
    states: tuple[int, ...] = ()
    begin: tuple[Node, ...] = ()
    end: tuple[Node, ...] = ()
    given: tuple[Node, ...] = ()
    timed: tuple[Node, ...] = ()
    gives: tuple[Node, ...] = ()
    pointwise: bool = True
    alone: bool = False

    @property
    def delays(self) -> bool:
        """Is it a delay line: does its first state keep what it is given for one step, and each other one what the one before it held?"""
        alone = bool(self.states) and not self.nodes and self.end[0] not in self.begin
        return alone and self.end[1:] == self.begin[:-1]


class Fission(NamedTuple):
    """`fixed`: what is the same at every step. `early`: what drawing depends on. `draws`: what is drawn, in order, at each step."""

    fixed: tuple[Node, ...]
    early: tuple[Node, ...]
    draws: tuple[Node, ...]
    stages: tuple[Stage, ...]


class _Unit:
    """What is placed as one: a component, or a single operation."""

    def __init__(
        self, nodes: list[Node], states: tuple[int, ...] = (), begin: Iterable[Node] = (), line: bool = False
    ) -> None:
        self.nodes, self.states, begin = nodes, states, list(begin)
        self.line = line  # a delay line of several states: it costs nothing as long as it is in no kernel
        self.before: set[_Unit] = set()
        shapes = [x.shape for x in (*nodes, *begin)]
        try:
            self.shape: torch.Size | None = broadcast(*shapes)
        except RuntimeError:
            self.shape = None
        self.pointwise = all(map(pointwise, nodes))
        self.rows = {x.shape for x in begin}  # shapes of states
        self.joined = 1  # of how many units it is
        self.single = self  # what it has become part of

    def now(self) -> "_Unit":
        while self.single is not self.single.single:
            self.single = self.single.single
        return self.single


def fission(tape: Tape, params: int, states: int, apart: Collection[int] = ()) -> Fission:
    """- `params`, `states`: how many leaves are the same at every step, how many states follow them.
    - `apart`: states of components that shall have nothing beside them.

    Raises Unsupported where operations cannot leave their order.
    """
    begin, end = tape.leaves[params : params + states], tape.outputs[len(tape.outputs) - states :]
    moving = [s for s in range(states) if not _stays(begin[s], end[s], tape)]
    timed = {*tape.leaves[params + states :], *(begin[s] for s in moving)}
    for node in tape.nodes:
        if node.draws or any(x in timed for x in node.inputs()):
            timed.add(node)
    before = _reached({begin[s]: 1 << s for s in moving}, tape)
    early, draws = _drawn(tape, before, timed)
    first = {*early, *draws}
    components = _components(moving, [before.get(x, 0) for x in end])
    lines = _lines([s for s, *more in components if not more and not before.get(end[s], 0) >> s & 1], begin, end)
    inside = {s for line in lines for s in line}
    components = [members for members in components if members[0] not in inside]
    after = _reaching(end, moving, tape)
    unit_of: dict[Node, _Unit] = {}
    units: list[_Unit] = []
    for members in components:
        mask = sum(1 << s for s in members)
        core = [x for x in tape.nodes if before.get(x, 0) & mask and after.get(x, 0) & mask]
        core = core if any(before.get(end[s], 0) & mask for s in members) else []
        core += [x for x in tape.nodes if x.name == PART and x not in core and x.args[0] in core]
        unit = _Unit(core, members, [begin[s] for s in members])
        units.append(unit)
        unit_of |= dict.fromkeys((*core, *(begin[s] for s in members)), unit)
    for line in lines:
        units.append(_Unit([], line, [begin[s] for s in line], line=True))
        unit_of |= dict.fromkeys((begin[s] for s in line), units[-1])
    for node in tape.nodes:
        if node in timed and node not in unit_of and node not in first:
            units.append(_Unit([node]))
            unit_of[node] = units[-1]
    for unit in units:
        needed = [x for node in unit.nodes for x in node.inputs()] + [end[s] for s in unit.states]
        unit.before = {unit_of[x] for x in needed if x in unit_of} - {unit}
    ordered = _in_order(units)
    kept = {s for members in components if members[0] in apart for s in members}
    for unit in ordered:
        for other in [x for x in ordered if x in unit.before]:
            if not kept & {*unit.now().states, *other.now().states}:
                _join(other.now(), unit.now())
    joined = list(dict.fromkeys(unit.now() for unit in ordered))
    for unit in joined:
        unit.before = {x.now() for x in unit.before} - {unit}
    stages = _staged(_in_order(joined), {node: i for i, node in enumerate(tape.nodes)})
    fixed = tuple(x for x in tape.nodes if x not in timed)
    return Fission(fixed, early, draws, _closed(stages, tape, begin, end, timed))


def _stays(begin: Node, end: Node, tape: Tape) -> bool:
    """Is a state after a step what it was before, for a derivative too?"""
    detached, node, last = False, end, end
    while node is not begin and node.shows and node.shape == begin.shape and not node.why:
        detached = detached or node.name == "detach"
        last, node = node, next(node.inputs())
    if node is not begin or not detached:
        return node is begin
    # Detached, it is so from the second step on. That is the same if nothing else sees how it began.
    return begin not in tape.outputs and not any(begin in x.inputs() for x in tape.nodes if x is not last)


def _drawn(tape: Tape, before: dict[Node, int], timed: set[Node]) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """What drawing depends on, and what is drawn. All that is drawn comes first, step by step, so that the numbers are the loop's."""
    draws = [node for node in tape.nodes if node.draws]
    needed = {x for node in draws for x in node.inputs()}
    for node in reversed(tape.nodes):
        if node in needed and not node.draws:
            needed.update(node.inputs())
    for node in draws:
        if before.get(node) or any(x.draws for x in needed):
            raise Unsupported(f"{node.why}, and what it draws depends on a state or on what was drawn")
    return tuple(x for x in tape.nodes if x in needed and x in timed), tuple(draws)


def _reached(start: dict[Node, int], tape: Tape) -> dict[Node, int]:
    """Which states reach each node within a step."""
    found = dict(start)
    for node in tape.nodes:
        for x in node.inputs():
            if found.get(x):
                found[node] = found.get(node, 0) | found[x]
    return found


def _reaching(end: tuple[Node, ...], moving: list[int], tape: Tape) -> dict[Node, int]:
    """Which new states each node reaches within a step."""
    found: dict[Node, int] = {}
    for s in moving:
        found[end[s]] = found.get(end[s], 0) | 1 << s
    for node in reversed(tape.nodes):
        if found.get(node):
            for x in node.inputs():
                found[x] = found.get(x, 0) | found[node]
    return found


def _components(moving: list[int], sources: list[int]) -> list[tuple[int, ...]]:
    """States that reach one another in some steps. `sources`: which states reach each in one."""
    sources = list(sources)
    for middle in moving:
        for s in moving:
            if sources[s] >> middle & 1:
                sources[s] |= sources[middle]
    found: list[tuple[int, ...]] = []
    for s in moving:
        members = tuple(o for o in moving if o == s or (sources[s] >> o & 1 and sources[o] >> s & 1))
        if members[0] == s:
            found.append(members)
    return found


def _lines(delays: list[int], begin: Sequence[Node], end: Sequence[Node]) -> list[tuple[int, ...]]:
    """Delay lines of at least two states. `delays`: those that only keep something for one step."""
    after: dict[Node, int] = {}  # which state keeps next what this one held
    for s in delays:
        if end[s].shape == begin[s].shape:
            after.setdefault(end[s], s)
    heads = [s for s in delays if not any(begin[o] is end[s] and after.get(begin[o]) == s for o in delays)]
    found = []
    for s in heads:
        line = [s]
        while (follows := after.get(begin[line[-1]])) is not None:
            line.append(follows)
        if len(line) > 1:
            found.append(tuple(line))
    return found


def _in_order(units: Iterable[_Unit]) -> list[_Unit]:
    """Each after those that it needs."""
    sorter: graphlib.TopologicalSorter[_Unit] = graphlib.TopologicalSorter(dict.fromkeys(units, ()))
    inside = set(units)
    for unit in units:
        sorter.add(unit, *(x for x in unit.before if x in inside))
    return list(sorter.static_order())


def _fit(a: _Unit, b: _Unit) -> bool:
    """May these be one kernel? They may where all of it is pointwise over neurons of one shape; or one of them is, over the neurons of
    a component that holds products."""
    if a.line or b.line:
        return False
    if a.pointwise and b.pointwise:
        return a.shape == b.shape and bool(a.shape)
    return a.shape in b.rows if a.pointwise else b.pointwise and b.shape in a.rows


def _join(first: _Unit, second: _Unit) -> None:
    """One kernel of two, if nothing has to run between them."""
    if first is second or not _fit(first, second):
        return
    between = [x.now() for x in second.before if x.now() is not first and x.now() is not second]
    seen: set[_Unit] = set()
    while between:
        unit = between.pop()
        if unit is first:
            return
        if unit not in seen:
            seen.add(unit)
            between += [x.now() for x in unit.before if x.now() is not unit]
    first.nodes, first.states = [*first.nodes, *second.nodes], (*first.states, *second.states)
    first.before |= second.before
    first.pointwise, first.rows = first.pointwise and second.pointwise, first.rows | second.rows
    first.joined += second.joined
    second.single = first


def _staged(units: list[_Unit], place: dict[Node, int]) -> list[Stage]:
    """A stage for each unit with states, and one for all the others between two of these."""
    stages: list[Stage] = []
    for unit in units:
        nodes = tuple(sorted(unit.nodes, key=place.__getitem__))
        if unit.states or not stages or stages[-1].states:
            states = unit.states if unit.line else tuple(sorted(unit.states))
            stages.append(Stage(nodes, states, pointwise=unit.pointwise, alone=unit.joined == 1))
        else:
            stages[-1] = stages[-1]._replace(nodes=(*stages[-1].nodes, *nodes))
    return stages


def _closed(
    stages: list[Stage], tape: Tape, begin: Sequence[Node], end: Sequence[Node], timed: set[Node]
) -> tuple[Stage, ...]:
    """The stages with what goes in and what comes out of each."""
    used = {*tape.outputs[: len(tape.outputs) - len(end)]}  # as a result, or by another stage
    inputs = []
    for i, stage in enumerate(stages):
        needed = dict.fromkeys(x for node in stage.nodes for x in node.inputs())
        needed |= dict.fromkeys(end[s] for s in stage.states)
        constants = tuple(x for x in needed if made_of_nothing(x) and stage.states)  # a kernel has them in its text
        stages[i] = stage = stage._replace(nodes=(*constants, *stage.nodes))
        own = {*stage.nodes, *(begin[s] for s in stage.states)}
        inputs.append([x for x in needed if x not in own])
        used.update(inputs[-1])
    closed = []
    for stage, needed in zip(stages, inputs):
        before = tuple(begin[s] for s in stage.states)
        closed.append(
            stage._replace(
                begin=before,
                end=tuple(end[s] for s in stage.states),
                given=tuple(x for x in needed if x not in timed),
                timed=tuple(x for x in needed if x in timed),
                gives=tuple(x for x in (*before, *stage.nodes) if x in used),
            )
        )
    return tuple(closed)
