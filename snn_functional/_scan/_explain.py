"""How a step runs over time, as a value: it prints as text, and can be asserted on."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._tree import tree_paths
from ..kernels import NoCompiler, Node, PART, place, Unsupported
from ._fission import Stage
from ._known import FirstDiffers, prepare
from ._loop import Step, step_name
from ._networked import Networked
from ._stages import Staged


class Part(NamedTuple):
    """A stage of a step.

    - `how`: "once" over all of time, "kernel", "calls" (a kernel between products, step by step, as one operation for autograd), "loop",
      "delay" (states that only keep what they are given), "drawn" at each step.
    - `states`: the states that are fed back there, `"state[0].mem"`.
    - `operations`: what is done that is not pointwise (in a kernel, its products), by torch's names, each with the user's line.
    - `why`: of a loop, why it has no kernel.
    """

    how: str
    states: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    why: str | None = None

    def __str__(self) -> str:
        states, what = _row(self.states), _counted(self.operations) or "pointwise operations"
        inside = f", with {what}" if self.operations else ""
        return {
            "once": f"once over all of time: {what}",
            "kernel": f"one kernel: {states}{inside}",
            "calls": f"kernels, step by step: {states}{inside} between them",
            "loop": f"the loop: {states}, because {self.why}",
            "delay": f"kept for {'one step' if len(self.states) == 1 else f'up to {len(self.states)} steps'}: {states}",
            "drawn": f"drawn at each step: {what}",
        }[self.how]


class Explanation(str):
    """What `explain` says. As text it is the whole of it; as a value:

    - `kind`: "fused" (one kernel), "staged" (stage by stage, over a piece of time each), or "loop".
    - `stages`: a `Part` each, in order, where it is staged.
    - `reason`: why it is not one kernel, or not staged either.
    - `loose`: why the step is read again at each call, if it is.

        assert [part.how for part in explain(net.step, params, state, xs).stages] == ["once", "kernel", "once", "kernel"]
    """

    kind: str
    stages: tuple[Part, ...]
    reason: str | None
    loose: str | None

    def __new__(
        cls, text: str, kind: str, stages: Sequence[Part] = (), reason: str | None = None, loose: str | None = None
    ) -> "Explanation":
        again = f" The step is read again at each call, because it {loose}." if loose else ""
        self = super().__new__(cls, text + again)
        self.kind, self.stages, self.reason, self.loose = kind, tuple(stages), reason, loose
        return self

    def __repr__(self) -> str:
        return str(self)


def planned(step: Step[Any, Any, Any, Any], params: Any, state: Any, inputs: Any, length: int) -> Explanation:
    """How a step would run, which is not called but to be read."""
    name = step_name(step)
    try:
        what = prepare(step, params, state, inputs, length)
        if isinstance(what.known, Staged):
            return explain_stages(name, what.known, state, what.loose)
        what.derivatives()
        why = what.known.plan.failed if what.known.plan is not None else None
        if why is None:
            said = f"fused: {name} is pointwise, one kernel for all {length} steps."
            return Explanation(said, "fused", loose=what.loose)
    except FirstDiffers:
        said = f"fused: {name} is pointwise, one kernel for all steps but the first, which broadcasts the state."
        return Explanation(said, "fused")
    except (Unsupported, NoCompiler) as reason:
        why = str(reason)
    return Explanation(f"loop: {why}.", "loop", reason=why)


def explain_stages(name: str, step: Staged, state: Any, loose: str | None) -> Explanation:
    """Of a step in stages."""
    names = tree_paths(state, "state")
    parts = [_part(stage, core, names) for stage, core in zip(step.fission.stages, step.cores)]
    if step.fission.draws:
        parts.insert(0, Part("drawn", (), _operations(step.fission.draws)))
    if step.alone and parts[0].how == "kernel":
        said = f"fused: {name} is pointwise but for its products, {_counted(parts[0].operations)}, one kernel for all {step.T} steps."
        return Explanation(said, "fused", parts, loose=loose)
    lines = "".join(f"\n    {i} {part}" for i, part in enumerate(parts))
    return Explanation(f"layer by layer, {step.T} steps of {name}:{lines}", "staged", parts, step.why, loose)


def _part(stage: Stage, core: Any, names: Sequence[str]) -> Part:
    states = tuple(names[s] for s in stage.states)
    if not states:
        return Part("once", (), _operations(stage.nodes))
    if stage.delays:
        return Part("delay", states)
    why = core if isinstance(core, str) else core.plan and core.plan.failed
    how = "loop" if why else "calls" if isinstance(core, Networked) and not core.whole else "kernel"
    return Part(how, states, _operations(stage.nodes), why)


def _row(names: Sequence[str]) -> str:
    """In words; of a long row the ends."""
    return ", ".join(names) if len(names) < 9 else f"{', '.join(names[:2])}, ... {names[-1]} ({len(names)} states)"


def _counted(operations: Sequence[str]) -> str:
    """In words; what is the same in the same line said once."""
    return "; ".join(f"{n} times {x}" if n > 1 else x for x, n in Counter(operations).items())


def _operations(nodes: Sequence[Node]) -> tuple[str, ...]:
    return tuple(f"{node.name}{place(node.line)}" for node in nodes if node.why and node.name != PART)
