"""What a Python value is made of, as far as it decides what a step does: parts that can be replaced, and what else it looks up."""

import dataclasses
import dis
import functools
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def parts_of(x: Any) -> tuple[Any, ...] | None:
    """What x is made of, if that can be looked into and put together again."""
    if isinstance(x, types.FunctionType):
        if (x.__module__ or "").partition(".")[0] == "torch":
            return None
        cells = (_content(cell) for cell in x.__closure__ or ())
        globals_ = (x.__globals__[name] for name in globals_of(x))
        return (*cells, *globals_, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values())
    if isinstance(x, functools.partial):
        return (x.func, *x.args, *x.keywords, *x.keywords.values())
    if isinstance(x, tuple) and (type(x) is tuple or hasattr(x, "_fields")):
        return tuple(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type) and callable(x):
        return tuple(getattr(x, field.name) for field in dataclasses.fields(x))
    return None


def held_by(x: Any) -> tuple[Any, ...] | None:
    """What something holds that may hold something else tomorrow; None for what stays what it is, or is looked at once only:
    types, modules, functions of other languages."""
    if isinstance(x, (list, set, frozenset, tuple)) or type(x).__name__ == "deque":
        return tuple(x)
    if isinstance(x, dict):
        return (*x.keys(), *x.values())
    if isinstance(x, types.MethodType):
        return (x.__func__, x.__self__)
    if isinstance(x, (staticmethod, classmethod)):
        return (x.__func__,)
    if isinstance(x, property):
        return (x.fget,)
    if type(x).__module__ == "numpy" and hasattr(x, "tobytes"):
        return (str(x.dtype), x.shape, x.tobytes())
    if isinstance(x, (type, types.ModuleType, types.BuiltinFunctionType, types.FunctionType)) or type(
        x
    ).__module__.startswith("torch._"):
        return None
    slots = [name for cls in type(x).__mro__ for name in _slots(cls) if hasattr(x, name)]
    if slots or hasattr(x, "__dict__"):
        own = getattr(x, "__dict__", {})
        return (*own.keys(), *own.values(), *slots, *(getattr(x, name) for name in slots))
    return None


def _slots(cls: type) -> tuple[str, ...]:
    slots = () if foreign(cls.__module__) else vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def looked_up(x: Any, parts: tuple[Any, ...]) -> list[tuple[Any, str]]:
    """Namespaces and names that x reads beside its parts: a function in modules and classes, an object in its own class."""
    if isinstance(x, types.FunctionType):
        return [*_reached(parts, _attributes(x.__code__)), *((vars(x), name) for name in vars(x))]
    spaces = [vars(cls) for cls in type(x).__mro__ if not foreign(cls.__module__)]
    return [(space, name) for space in spaces for name in space if name == "__call__" or not name.startswith("__")]


def _reached(values: Iterable[Any], names: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    for value in values:
        if isinstance(value, types.ModuleType):
            spaces = [] if foreign(value.__name__) else [vars(value)]
        elif isinstance(value, type):
            spaces = [vars(cls) for cls in value.__mro__ if not foreign(cls.__module__)]
        else:
            continue
        for space in spaces:
            found = [name for name in names if name in space]
            yield from ((space, name) for name in found)
            yield from _reached([space[name] for name in found], tuple(name for name in names if name not in found))


@functools.cache
def foreign(module: str) -> bool:
    """Is it of a library, whose classes and modules stay what they are?"""
    return module.partition(".")[0] in {"snn_functional", "torch", "numpy", "optree", *sys.stdlib_module_names}


def rebuilt(x: Any, tensors: Iterator[Tensor], within: frozenset[int]) -> Any:
    if isinstance(x, Tensor):
        return next(tensors)
    parts = None if id(x) in within else parts_of(x)
    if parts is None:
        return x
    within = within | {id(x)}
    new = [rebuilt(part, tensors, within) for part in parts]
    if all(a is b for a, b in zip(parts, new)):
        return x
    if isinstance(x, types.FunctionType):
        count, names, defaults = len(x.__closure__ or ()), globals_of(x), len(x.__defaults__ or ())
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
    if isinstance(x, tuple):
        return type(x)(*new) if hasattr(x, "_fields") else tuple(new)
    return dataclasses.replace(x, **{field.name: part for field, part in zip(dataclasses.fields(x), new)})


def globals_of(function: types.FunctionType) -> list[str]:
    return [name for name in _names(function.__code__) if name in function.__globals__]


@functools.cache
def _names(code: types.CodeType) -> tuple[str, ...]:
    # Not `co_names`: there the names of attributes stand among those of globals.
    own = (x.argval for x in dis.get_instructions(code) if x.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    inner = (name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const))
    return tuple(dict.fromkeys((*own, *inner)))


@functools.cache
def _attributes(code: types.CodeType) -> tuple[str, ...]:
    inner = (name for const in code.co_consts if isinstance(const, types.CodeType) for name in _attributes(const))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
