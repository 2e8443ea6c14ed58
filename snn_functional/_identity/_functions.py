"""What a function calls and looks up: the walk through functions, methods and modules."""

import builtins
import functools
import sys
import types
from collections.abc import Hashable, Iterable
from typing import Any

import torch

from ._code import read as read_code
from ._held import attributes, cell as held_cell, contents, entries, mapping
from ._reach import looks, Reach
from ._trusted import BUILTINS, BY_NAME, library, operation, pure, written_in_python


@looks(types.FunctionType)
def _function(reach: Reach, x: types.FunctionType, name: str) -> Hashable:
    module = x.__globals__.get("__name__")  # not __module__, which a decorator copies
    if pure(module):
        return x if x.__closure__ is None else _trusted_closure(reach, x, name)
    if library(module):
        draws = not str(module).startswith("torch.nn.")
        reach.is_loose(f"calls {module}.{x.__name__}, which may look at what it is not given", draws=draws)
        return (types.FunctionType, x.__code__)
    code = read_code(x.__code__)
    names = ("__code__", "__defaults__", "__kwdefaults__")
    reach.holds(lambda: attributes(name, x, names))
    parts: list[Hashable] = []
    for free, cell in zip(x.__code__.co_freevars, x.__closure__ or ()):
        reach.holds(lambda cell=cell, free=free: held_cell(free, cell))
        parts.append(along(reach, contents(cell), code.paths.get(free, {()}), free))
    own = tuple(n for n in code.paths if n not in x.__code__.co_freevars)
    reach.holds(lambda: entries(" or ".join(own[:3]), x.__globals__, own))
    for n in own:
        if n in x.__globals__:
            parts.append((n, along(reach, x.__globals__[n], code.paths[n], n)))
        else:
            _builtin_name(reach, n, x)
    for module in code.imports:
        reach.is_loose(f"imports {module} when it runs", draws=True)
        if module in sys.modules:
            _handed_on(reach, sys.modules[module], module)
    reach.holds(lambda: mapping(f"an attribute of {name}", x.__dict__))
    parts += [reach.look(part, name) for part in (x.__defaults__, x.__kwdefaults__)]
    parts += [(n, reach.look(value, f"{name}.{n}")) for n, value in list(x.__dict__.items())]
    return (types.FunctionType, x.__code__, *parts)


def _trusted_closure(reach: Reach, x: types.FunctionType, name: str) -> Hashable:
    """A function that a library made around something of the user's: `functools.wraps`, `torch.func.vmap(f)`."""
    cells = [(free, contents(cell)) for free, cell in zip(x.__code__.co_freevars, x.__closure__ or ())]
    return (types.FunctionType, x.__code__, *(reach.look(value, free) for free, value in cells))


def _builtin_name(reach: Reach, name: str, function: types.FunctionType) -> None:
    space = function.__globals__.get("__builtins__", {})
    if name not in (space if isinstance(space, dict) else vars(space)):
        return
    if name in BY_NAME:
        reach.is_loose(f"looks names up with {name}(...)", draws=True)
        if name in ("globals", "__import__", "vars", "locals"):
            reach.holds(lambda: mapping("a global name", function.__globals__))
    elif name not in BUILTINS and not isinstance(vars(builtins).get(name), type):
        reach.is_opaque(f"calls {name}(...)")


def along(reach: Reach, x: Any, paths: Iterable[tuple[str, ...]], name: str) -> Hashable:
    """A value, where it is a module what is looked up in it alone."""
    if not isinstance(x, types.ModuleType):
        if isinstance(x, type) and not library(x.__module__) and not written_in_python(x):
            reach.is_opaque(f"uses {x.__module__}.{x.__qualname__}, whose state cannot be looked at")
        return reach.look(x, name)
    found: list[Hashable] = []
    for path in sorted(paths):
        if not path:
            _handed_on(reach, x, name)
        elif path[0] not in vars(x):
            if not library(x.__name__):
                reach.is_loose(f"looks up {name}.{path[0]}, which is made when it is asked for", draws=True)
        else:
            where = f"{name}.{path[0]}"
            reach.holds(lambda x=x, n=path[0], where=where: entries(where, vars(x), (n,)))
            found.append((path[0], along(reach, vars(x)[path[0]], {path[1:]}, where)))
    return ("module", x.__name__, *found)


def _handed_on(reach: Reach, x: types.ModuleType, name: str) -> None:
    if x.__name__ not in ("torch.nn.functional", "math"):
        reach.is_loose(f"hands the module {name} on", draws=True)
    if not library(x.__name__):
        reach.holds(lambda: mapping(name, vars(x)))


@looks(types.MethodType)
def _method(reach: Reach, x: types.MethodType, name: str) -> Hashable:
    return (types.MethodType, reach.look(x.__func__, name), reach.look(x.__self__, name))


@looks(types.BuiltinFunctionType)
def _builtin(reach: Reach, x: types.BuiltinFunctionType, name: str) -> Hashable:
    owner = x.__self__
    if operation(x):
        return x
    if owner is None or isinstance(owner, types.ModuleType):
        module = owner.__name__ if owner is not None else x.__module__
        if module == "builtins":
            if x.__name__ in BY_NAME:
                reach.is_loose(f"looks names up with {x.__name__}(...)", draws=True)
            elif x.__name__ not in BUILTINS:
                reach.is_opaque(f"calls {x.__name__}(...)")
        elif x is torch.is_inference_mode_enabled:  # which is off while a step is read
            reach.is_opaque("asks whether inference mode is on")
        elif (module or "").partition(".")[0] == "torch":
            reach.is_loose(f"calls {x.__name__}, which may look at what it is not given")
        elif not pure(module):
            reach.is_opaque(f"calls {module}.{x.__name__}")
        return x
    return (types.BuiltinFunctionType, x.__name__, reach.look(owner, name))


@looks(staticmethod, classmethod)
def _wrapped(reach: Reach, x: Any, name: str) -> Hashable:
    return (type(x), reach.look(x.__func__, name))


@looks(property)
def _property(reach: Reach, x: property, name: str) -> Hashable:
    return (property, *(reach.look(part, name) for part in (x.fget, x.fset, x.fdel)))


@looks(functools.partial)
def _partial(reach: Reach, x: Any, name: str) -> Hashable:
    reach.is_loose("holds a functools.partial, which can be changed")
    reach.holds(lambda: mapping(name, x.keywords))
    return (type(x), reach.look(x.func, name), reach.look((x.args, x.keywords, x.__dict__), name))
