"""What the faces of a net are called for within one call of the net, and what that tells: has it a memory, does it loop over time itself?

`run` and `functionalize` take a net for one step of time. Two kinds of nets are none, and are refused:

- one whose face with `init_hidden=False` is given no state at all: it is at rest at every step;
- one whose forward holds the time loop. It steps every face several times in a call, each time from where it was left, and either takes its
  input apart along the first axis, as many steps as that is long; or begins at rest in every call, so that nothing passes from one to
  the next. A forward that calls a face twice, or takes some small steps in each of time, does neither.

Only what has been seen is judged, in steps that were to be taken anyway; what cannot be told is no reason to refuse.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn, Tensor

from .._functorch import outside
from .._identity import generators, Reach, undone
from .._tree import tree_leaves
from ._arguments import arguments
from ._has_state import HasState, layers
from ._passed import as_a_step


class Call(NamedTuple):
    """One call of a face. `given`: came a state with it? `before`: the state it began with, None for at rest."""

    given: bool
    shape: torch.Size
    before: Any
    outputs: tuple[Tensor, ...]
    after: Any

    def follows(self, last: "Call") -> bool:
        """Does it go on from where `last` ended?"""
        if not self.given:
            return self.before is last.after
        return any(x is y for x in tree_leaves(self.before) for y in (*last.outputs, *tree_leaves(last.after)))


Calls = dict[str, list[Call]]


def without_hidden(net: nn.Module) -> dict[str, HasState]:
    """Its faces with `init_hidden=False`, by name."""
    return {name: face for name, face in layers(net, HasState).items() if not face.init_hidden}


@contextlib.contextmanager
def watched(faces: Mapping[str, HasState]) -> Iterator[Calls]:
    """The calls of these faces, as they are made."""
    calls: Calls = {name: [] for name in faces}
    outer = {name: face._watcher for name, face in faces.items()}
    try:
        for name, face in faces.items():
            face._watcher = lambda *call, own=calls[name]: own.append(Call(*call))
        yield calls
    finally:
        for name, face in faces.items():
            face._watcher = outer[name]


@contextlib.contextmanager
def remembering(faces: Mapping[str, HasState], net: nn.Module) -> Iterator[Calls]:
    """Around one step of many of the net. Raises TypeError after it for a face that got no state in it, and holds none."""
    with watched(faces) as calls:
        yield calls
    for name, face in faces.items():
        if calls[name] and not face.init_hidden and not any(call.given for call in calls[name]):
            states = ", ".join(face.neuron.State.__leaves__)
            passed = arguments(net).names
            step = f"\n{as_a_step(passed)}" if passed and name else ""  # that forward can be given them
            raise TypeError(
                f"Layer {name!r}, {type(face).__name__}(init_hidden=False), got no state: it would be at rest at every step. "
                f"Say init_hidden=True, or pass {states} through forward.{step}"
            )


def _several_steps(calls: Calls) -> bool:
    """Did every face that was called go on from itself, once or more?"""
    called = [own for own in calls.values() if own]
    return bool(called) and all(len(own) > 1 and all(b.follows(a) for a, b in zip(own, own[1:])) for own in called)


def holds_the_loop(
    first: Calls, x: Tensor, steps: Callable[[Tensor], Calls | None], second: Callable[[], Calls] | None
) -> bool:
    """Is a net that made these calls for `x` seen to loop over time itself?

    - `steps`: the calls that it makes for another x instead.
    - `second`: those for the next step after the first, where there is one.
    """
    if not _several_steps(first):
        return False
    return _along_the_first_axis(first, x, steps) or (second is not None and _forgets(first, second()))


def _along_the_first_axis(calls: Calls, x: Tensor, steps: Callable[[Tensor], Calls | None]) -> bool:
    """Did these calls step the faces once for each part of x?"""
    n = len(x) if x.dim() else 0
    if n < 2:
        return False
    called = [own for own in calls.values() if own]
    # Where the batch is still in front, it was not taken apart: as many small steps as there are samples are a coincidence.
    batched = lambda shape: len(shape) > 1 and shape[0] == n
    if any(len(own) != n or any(batched(call.shape) for call in own) for own in called):
        return False
    fewer = steps(x[: n - 1])
    return fewer is not None and all(len(own) in (0, n - 1) for own in fewer.values())


def _forgets(first: Calls, second: Calls) -> bool:
    """Did every face begin the second call at rest, though it had moved in the first?"""
    called = [name for name, own in first.items() if own]
    return all(
        second.get(name) and _at_rest(second[name][0].before) and not _at_rest(first[name][-1].after) for name in called
    )


def _at_rest(state: Any) -> bool:
    try:
        return state is None or not any(bool(x.any()) for x in tree_leaves(state))
    except RuntimeError:  # under a transform numbers cannot be read
        return False


@contextlib.contextmanager
def put_back(roots: Any) -> Iterator[bool]:
    """Around something that is only tried: what it changes of all that these roots reach, and of the generators that everybody draws
    from, is put back. Gives False where that cannot be; then nothing may be tried."""
    reach = Reach(roots)
    with undone([] if reach.opaque else [*generators(), *reach.hold()]):
        yield not reach.opaque


def on_a_copy(net: nn.Module, x: Tensor) -> Calls | None:
    """The calls that a copy of the net makes, from rest on; None where it fails."""
    try:
        with outside(), torch.no_grad(), put_back([(type(net).__name__, net)]) as allowed:
            if not allowed:
                return None
            twin = copy.deepcopy(net)
            faces = layers(twin, HasState)
            for face in faces.values():
                face.reset_hidden()
            with watched(faces) as calls:
                twin(x)
    except Exception:
        return None
    return calls


def takes_all_of_time(xs: Tensor, steps: Callable[[Tensor], Calls | None]) -> bool:
    """Does the net, which failed at one step, take the whole sequence, and step its faces as often as that is long?"""
    calls = steps(xs) if len(xs) > 1 else None
    return calls is not None and _several_steps(calls) and all(len(own) in (0, len(xs)) for own in calls.values())


def loops_itself(call: str, net: nn.Module, calls: Calls | None, otherwise: str) -> TypeError:
    """The refusal. `otherwise`: what to write where the step is meant to be several."""
    seen = ""
    if calls is not None:
        name, own = next((name, own) for name, own in calls.items() if own)
        seen = f" in one call it steps the {type(layers(net, HasState)[name]).__name__} {name!r} {len(own)} times."
    return TypeError(
        f"{call}: `net` takes one step; yours loops over time itself:{seen} Move the loop out of its forward:\n"
        "    self.lif = snn.Leaky(beta=0.9, init_hidden=True)               # each face keeps its own state\n"
        "    def forward(self, x): return self.lif(self.fc(x))              # one step x [batch, ...]: no loop, no mem\n"
        "    snn.utils.reset(net); spks = snn.run(net, xs)                  # xs [T, batch, ...]\n"
        f"Where one step of yours is meant to be several, write the loop: {otherwise}."
    )
