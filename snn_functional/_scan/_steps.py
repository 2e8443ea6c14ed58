"""When are two steps the same, and which tensors does a step use beside its arguments?

A kernel is kept under `key(step)`. A function is its code, its defaults, what its closure holds and what its global names stand for
now, attributes of modules and classes too, functions among these likewise. So a lambda made anew in every call of a loss is the same
step, and one whose helper was redefined is another. Tensors found on the way are no part of the key: they are `captured`, to be lifted
to params so that they too get gradients, and `rebuilt` puts others in their place.

What stays out of sight: what is looked up by a name that is computed, and what a library that is no part of the user's code does.
"""

import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from .._tree import tree_flatten
from ._objects import globals_of, held_by, looked_up, parts_of, rebuilt


class Step:
    """What is known of a step: `key`, a number that is equal for steps that do the same, and `captured` tensors."""

    def __init__(self, step: Any) -> None:
        self.step, self.captured, self.fixed = step, [], True
        self._names: dict[Any, Any] = {}
        self.key = _numbers.setdefault(self._key(step, frozenset()), len(_numbers))
        self.names = list(self._names.values())

    def rebuilt(self, tensors: Any) -> Any:
        """The step with these tensors in the place of the captured ones."""
        return rebuilt(self.step, iter(tensors), frozenset()) if self.captured else self.step

    def _key(self, x: Any, within: frozenset[int]) -> Any:
        if isinstance(x, Tensor):
            self.captured.append(x)
            return ("tensor", x.dtype, x.dim() == 0)
        if id(x) in within:
            return "again"
        parts = parts_of(x)
        if parts is not None:
            kind = x.__code__ if isinstance(x, types.FunctionType) else type(x)
            within = within | {id(x)}
            return (kind, *(self._key(part, within) for part in parts), *self._around(x, parts, within))
        if isinstance(x, float):
            return (float, x.hex())  # -0.0 is not 0.0
        if isinstance(x, (bool, int, str, bytes, type(None))):
            return (type(x), x)
        held = held_by(x)
        if held is None:
            return _Same(x)
        self.fixed = False
        within = within | {id(x)}
        return (type(x), *self._held_key(held, within), *self._around(x, (), within))

    def _held_key(self, held: Iterable[Any], within: frozenset[int]) -> Any:
        # The key of what can change under the same name is what it holds now; the tensors it holds are not lifted, but refused.
        captured = len(self.captured)
        keys = [self._key(part, within) for part in held]
        tensors = self.captured[captured:]
        del self.captured[captured:]
        return (*keys, *map(_Same, tensors))

    def _around(self, x: Any, parts: tuple[Any, ...], within: frozenset[int]) -> Any:
        """What x looks up elsewhere: a function in modules and classes, an object in its class."""
        found = looked_up(x, parts)
        read = [(space, name, space.get, space[name]) for space, name in found]
        if isinstance(x, types.FunctionType):
            read += [(x.__globals__, name, x.__globals__.get, x.__globals__[name]) for name in globals_of(x)]
            read.append((x, "__defaults__", functools.partial(getattr, x), x.__defaults__))
            self.fixed &= not (x.__closure__ or x.__kwdefaults__ or x.__dict__)
        self._names |= {(id(space), name): (look, name, value) for space, name, look, value in read}
        return self._held_key((space[name] for space, name in found), within)


def known(step: Any) -> Step:
    """The same, found quickly for a function that was seen before and whose names still stand for the same."""
    found = _known.get(id(step))
    if found and found.step is step and all(look(name) is value for look, name, value in found.names):
        return found
    found = Step(step)
    if found.fixed:
        if len(_known) > 1000:  # a lambda made anew in every call is kept by each
            _known.clear()
        _known[id(step)] = found
    return found


def chosen(form: Any, tree: Any) -> tuple[Any, ...]:
    """What the functions among the choices of a tree of this form do now: a surrogate of the user's own, say."""
    functions = _chosen.get(form)
    if functions is None:
        functions = _chosen[form] = [x for x in _choices(tree) if not _settled(Step(x))]
    found = map(known, functions)
    return tuple((what.key, *map(_Same, what.captured)) for what in found)


def _choices(tree: Any) -> Iterator[Any]:
    for name in getattr(tree, "__choices__", ()):
        yield getattr(tree, name)
    for child in tree_flatten(tree, is_leaf=lambda x: x is not tree)[0]:
        if child is not tree:
            yield from _choices(child)


def _settled(what: Step) -> bool:
    return what.fixed and not what.names and not what.captured


_known: dict[int, Step] = {}
_chosen: dict[Any, list[Any]] = {}
_numbers: dict[Any, int] = {}


class _Same:
    """Something that is only equal to itself, and is kept so that its address is not given to another."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.x is other.x

    def __hash__(self) -> int:
        return id(self.x)
