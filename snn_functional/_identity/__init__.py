"""When are two steps the same? See README.md in this folder.

what = identify(step, params, state, inputs)
what.key            equal for steps that do the same at trees of the same form; None where that cannot be known
what.loose          why it is not known, if so: then the step is read again at each call
what.opaque         why it must not even be read, if so: then it runs as the loop
what.tensors        all tensors that the step can reach beside its arguments
what.hold()         what all that it reaches holds now, to be compared after a reading, and put back (generators apart)
"""

import sys
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._tree import tree_flatten_one_level
from . import _objects as _objects  # and with it how everything else than containers is looked at
from ._code import read as read_code
from ._held import (
    contents as contents,
    generators as generators,
    Held as Held,
    mapping as mapping,
    restore as restore,
    sequence as sequence,
    SEQUENCES as SEQUENCES,
    undone as undone,
    written as written,
)
from ._reach import plain, Reach as Reach
from ._registry import Registry as Registry
from ._trusted import everybodys, library as library


class Identity(NamedTuple):
    key: Hashable
    loose: str | None
    opaque: str | None
    tensors: list[Tensor]
    hold: Callable[[], list[Held]]


def identify(step: Any, *trees: Any) -> Identity:
    """What is known of a step with the choices of these trees."""
    choices: list[tuple[str, Any]] = []
    outlines = tuple([_outline(tree, choices) for tree in trees])
    known = _of_step(step)
    if not choices:
        return known._replace(key=(known.key, outlines))
    reach = Reach(choices)
    return Identity(
        (known.key, outlines, reach.key),
        known.loose or reach.loose,
        known.opaque or reach.opaque,
        [*known.tensors, *reach.tensors],
        lambda: [*known.hold(), *reach.hold()],
    )


def _of_step(step: Any) -> Identity:
    entry = _functions.get(id(step))
    if entry and entry[0]() is step and all(held.same() for held in entry[1]):
        return entry[2]
    reach = Reach([(getattr(step, "__name__", "the step"), step)])
    found = Identity(reach.key, reach.loose, reach.opaque, reach.tensors, reach.hold)
    if not (reach.loose or reach.opaque or reach.tensors) and _may_be_kept(step, reach):
        number = id(step)
        gone = lambda _, kept=_functions: kept.pop(number, None)
        _functions[number] = weakref.ref(step, gone), reach.hold(), found._replace(hold=_again(weakref.ref(step)))
    return found


def _may_be_kept(step: Any, reach: Reach) -> bool:
    """Of a function at the top of a module are kept values that stand there as well, of a chain of this library's neurons what stays
    anyway. Of a closure they would outlive it."""
    if type(step) is types.FunctionType:
        return not step.__closure__
    return type(step).__weakrefoffset__ != 0 and all(map(everybodys, reach.alive))


def _again(step: Any) -> Callable[[], list[Held]]:
    return lambda: Reach([("step", step())]).hold()


_functions: dict[int, tuple[Any, list[Held], Identity]] = {}  # as long as each lives


def _outline(tree: Any, choices: list[tuple[str, Any]]) -> Hashable:
    """The structure of a tree: its classes and names. The choices in it that are more than plain values go to `choices`."""
    kind = type(tree)
    if kind in PLAIN:
        return None
    names = getattr(kind, "__leaves__", None)
    if names is not None:
        parts: list[Hashable] = [kind]
        for name in kind.__choices__:
            parts.append(_choice(kind, getattr(tree, name), choices, name))
        for name in names:
            part = getattr(tree, name)
            parts.append(None if type(part) in PLAIN else _outline(part, choices))
        return tuple(parts)
    if kind is tuple or kind is list:
        return (kind, *[_outline(part, choices) for part in tree])
    if kind is dict:
        return (kind, *[(_choice(kind, key, choices), _outline(part, choices)) for key, part in tree.items()])
    if tree is None:
        return "none"
    children, data = tree_flatten_one_level(tree)
    if children is None:
        return None
    return (kind, _choice(kind, data, choices), *[_outline(part, choices) for part in children])


def _choice(kind: type, value: Any, choices: list[tuple[str, Any]], name: str = "") -> Hashable:
    key = plain(value)
    if key is None:
        choices.append((f"{kind.__name__}.{name}" if name else kind.__name__, value))
    return key


PLAIN = (Tensor, torch.nn.Parameter)


def foreign(module: str) -> bool:
    """Is it of a library, or of Python's own, so that its objects are not the user's to look through?"""
    return library(module) or module.partition(".")[0] in sys.stdlib_module_names


def parts_of(function: types.FunctionType) -> list[Any]:
    """What a function holds in its closure, its defaults and the global names that it reads."""
    names = [name for name in read_code(function.__code__).paths if name in function.__globals__]
    cells = [contents(cell) for cell in function.__closure__ or ()]
    return [*cells, *(function.__globals__[name] for name in names), *(function.__defaults__ or ())]
