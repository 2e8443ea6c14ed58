"""When are two steps the same, and which tensors does a step use beside its arguments?

A kernel is kept under `key(step)`. A function is its code, its defaults, what its closure holds and what its global names stand for
now, functions among these likewise. So a lambda made anew in every call of a loss is the same step, and one whose helper
was redefined is another. Tensors found on the way are no part of the key: they are `captured`, to be lifted to
params so that they too get gradients, and `rebuilt` puts others in their place.
"""

import dataclasses
import dis
import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor


class Step:
    """What is known of a step: `key`, a number that is equal for steps that do the same, and `captured` tensors."""

    def __init__(self, step: Any) -> None:
        self.step, self.captured, self.names, self.fixed = step, [], [], True
        self.key = _numbers.setdefault(self._key(step, frozenset()), len(_numbers))

    def rebuilt(self, tensors: Any) -> Any:
        """The step with these tensors in the place of the captured ones."""
        return _rebuilt(self.step, iter(tensors), frozenset()) if self.captured else self.step

    def _key(self, x: Any, within: frozenset[int]) -> Any:
        if isinstance(x, Tensor):
            self.captured.append(x)
            return ("tensor", x.dtype, x.dim() == 0)
        if id(x) in within:
            return "again"
        parts = _parts(x)
        if parts is not None:
            if isinstance(x, types.FunctionType):
                self.names += [(x.__globals__, name, x.__globals__[name]) for name in _global(x)]
                self.fixed &= not x.__closure__
            kind = x.__code__ if isinstance(x, types.FunctionType) else type(x)
            within = within | {id(x)}
            return (kind, *(self._key(part, within) for part in parts))
        if isinstance(x, float):
            return (float, x.hex())  # -0.0 is not 0.0
        if isinstance(x, (bool, int, str, bytes, type(None))):
            return (type(x), x)
        held = _held(x)
        if held is None:
            return _Same(x)
        self.fixed = False
        return self._held_key(x, held, within | {id(x)})

    def _held_key(self, x: Any, held: tuple[Any, ...], within: frozenset[int]) -> Any:
        # The key of what can change under the same name is what it holds now; the tensors it holds are not lifted, but refused.
        captured = len(self.captured)
        key = (type(x), *(self._key(part, within) for part in held))
        tensors = self.captured[captured:]
        del self.captured[captured:]
        return (*key, *map(_Same, tensors))


def known(step: Any) -> Step:
    """The same, found quickly for a function that was seen before and whose names still stand for the same."""
    found = _known.get(id(step))
    if found and found.step is step and all(space.get(name) is value for space, name, value in found.names):
        return found
    found = Step(step)
    if isinstance(step, types.FunctionType) and found.fixed:
        _known[id(step)] = found
    return found


_known: dict[int, Step] = {}
_numbers: dict[Any, int] = {}


def _parts(x: Any) -> tuple[Any, ...] | None:
    """What x is made of, if that can be looked into and put together again."""
    if isinstance(x, types.FunctionType):
        if (x.__module__ or "").partition(".")[0] == "torch":
            return None
        cells = (_content(cell) for cell in x.__closure__ or ())
        globals_ = (x.__globals__[name] for name in _global(x))
        return (*cells, *globals_, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values())
    if isinstance(x, functools.partial):
        return (x.func, *x.args, *x.keywords, *x.keywords.values())
    if type(x) is tuple:
        return x
    if dataclasses.is_dataclass(x) and not isinstance(x, type) and callable(x):
        return tuple(getattr(x, field.name) for field in dataclasses.fields(x))
    return None


def _held(x: Any) -> tuple[Any, ...] | None:
    """What something holds that may hold something else tomorrow; None for what stays what it is, or is looked at once only:
    types, modules, functions of other languages."""
    if isinstance(x, (list, set, frozenset)) or type(x).__name__ == "deque":
        return tuple(x)
    if isinstance(x, dict):
        return (*x.keys(), *x.values())
    if isinstance(x, types.MethodType):
        return (x.__func__, x.__self__)
    if type(x).__module__ == "numpy" and hasattr(x, "tobytes"):
        return (str(x.dtype), x.shape, x.tobytes())
    if isinstance(x, (type, types.ModuleType, types.BuiltinFunctionType, types.FunctionType)) or type(
        x
    ).__module__.startswith("torch._"):
        return None
    if hasattr(x, "__dict__"):
        return (type(x), *vars(x).keys(), *vars(x).values())
    return None


def _rebuilt(x: Any, tensors: Iterator[Tensor], within: frozenset[int]) -> Any:
    if isinstance(x, Tensor):
        return next(tensors)
    parts = None if id(x) in within else _parts(x)
    if parts is None:
        return x
    within = within | {id(x)}
    new = [_rebuilt(part, tensors, within) for part in parts]
    if all(a is b for a, b in zip(parts, new)):
        return x
    if isinstance(x, types.FunctionType):
        count, names, defaults = len(x.__closure__ or ()), _global(x), len(x.__defaults__ or ())
        space = {**x.__globals__, **dict(zip(names, new[count:]))}
        keywords = new[count + len(names) + defaults :]
        cells = tuple(types.CellType(part) for part in new[:count])
        defaults = tuple(new[count + len(names) : len(new) - len(keywords)])
        function = types.FunctionType(x.__code__, space, x.__name__, defaults or None, cells or None)
        function.__kwdefaults__ = dict(zip(x.__kwdefaults__ or {}, keywords)) or None
        return function
    if isinstance(x, functools.partial):
        values = new[1 + len(x.args) + len(x.keywords) :]
        return functools.partial(new[0], *new[1 : 1 + len(x.args)], **dict(zip(x.keywords, values)))
    if type(x) is tuple:
        return tuple(new)
    return dataclasses.replace(x, **{field.name: part for field, part in zip(dataclasses.fields(x), new)})


def _global(function: types.FunctionType) -> list[str]:
    return [name for name in _names(function.__code__) if name in function.__globals__]


@functools.cache
def _names(code: types.CodeType) -> tuple[str, ...]:
    # Not `co_names`: there the names of attributes stand among those of globals.
    own = (x.argval for x in dis.get_instructions(code) if x.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    inner = (name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const))
    return tuple(dict.fromkeys((*own, *inner)))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


class _Same:
    """Something that is only equal to itself, and is kept so that its address is not given to another."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.x is other.x

    def __hash__(self) -> int:
        return id(self.x)
