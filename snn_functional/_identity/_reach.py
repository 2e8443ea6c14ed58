"""The walk through all that a step can reach: is it the same as one that was seen before, and what might it write to?

Three answers are possible for each value on the way:

    settled   It stays what it is (a number, torch's functions), or everything it consists of is looked at here (a plain function, a
              list, a frozen dataclass). Two steps of settled values with equal keys do the same.
    loose     It may change where nobody looks (an object with attributes, a `partial`, an array). What is known of it can still be put
              back after a reading. The step is read again at each call.
    opaque    Its state cannot even be seen (an iterator, a file, a clock). The step is not read at all.
"""

import array
import collections
import contextvars
import ctypes
import dataclasses
import enum
import functools
import operator
import os
import random
import sys
import types
import weakref
from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch import Tensor

from ._code import read as read_code
from ._held import (
    array_of_bytes,
    attributes,
    cell as held_cell,
    contents,
    entries,
    generator,
    Held,
    mapping,
    MISSING,
    namespace,
    read_slot,
    sequence,
    SEQUENCES,
    slots,
    variable,
)
from ._trusted import BUILTINS, BY_NAME, DESCRIPTORS, library, operation, pure


BUDGET = 20_000  # values; a step that reaches more is not looked through

CONSTANTS = (
    bool, int, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range, torch.dtype, torch.device, torch.Size,
    torch.layout, torch.memory_format,
)  # fmt: skip
BASES = {
    object, list, dict, tuple, set, frozenset, int, float, str, bytes, BaseException, Exception, collections.OrderedDict,
    collections.deque, ValueError, TypeError, RuntimeError, types.SimpleNamespace,
}  # fmt: skip
# What Python and `dataclasses` write into a class for themselves.
UNREAD = frozenset(
    """__dict__ __weakref__ __module__ __doc__ __annotations__ __annotate__ __annotate_func__ __annotations_cache__ __qualname__
    __dataclass_fields__ __dataclass_params__ __match_args__ __firstlineno__ __static_attributes__ __abstractmethods__ _abc_impl
    __parameters__ __orig_bases__ __slots__ __leaves__ __choices__ __rebuild__ _fields _field_defaults""".split()
)


class Reach:
    """- `key`: equal for roots that do the same, where nothing is loose.
    - `loose`, `opaque`: of the first such value, a reason that goes on "it ...".
    - `tensors`: in the order in which they were met.
    """

    def __init__(self, roots: Iterable[tuple[str, Any]]) -> None:
        self.loose: str | None = None
        self.opaque: str | None = None
        self.tensors: list[Tensor] = []
        self._writable: list[Any] = []  # makers of what `Held` says, called only if the step is to be read
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []
        self.key: Hashable = tuple([self._look(x, name) for name, x in roots])

    def hold(self) -> list[Held]:
        """What all of it holds now."""
        return [make() for make in self._writable]

    def _is_loose(self, reason: str) -> None:
        self.loose = self.loose or reason

    def _is_opaque(self, reason: str) -> None:
        self.opaque = self.opaque or reason

    def _look(self, x: Any, name: str) -> Hashable:
        kind = type(x)
        if kind is float:
            return (float, x.hex())  # -0.0 is not 0.0, and NaN is NaN
        if kind in CONSTANTS:
            return (kind, x)
        if id(x) in self._seen:
            return ("again", self._seen[id(x)])
        self._seen[id(x)] = len(self._seen)
        self._alive.append(x)
        if isinstance(x, Tensor):
            self.tensors.append(x)
            return (kind, x.dtype, x.shape, x.device)
        if len(self._seen) > BUDGET:
            self._is_opaque(f"reaches more than {BUDGET} values")
            return None
        look = LOOKS.get(kind)
        return look(self, x, name) if look else self._other(x, name)

    def _items(self, x: Iterable[Any], name: str) -> tuple[Hashable, ...]:
        return tuple([self._look(part, f"{name}[{i}]") for i, part in enumerate(x)])

    def _tuple(self, x: Any, name: str) -> Hashable:
        return (type(x), *self._items(x, name))

    def _sequence(self, x: Any, name: str) -> Hashable:
        self._writable.append(lambda: sequence(name, x))
        return (type(x), *self._items(list(x), name))

    def _mapping(self, x: Any, name: str) -> Hashable:
        self._writable.append(lambda: mapping(name, x))
        pairs = list(dict.items(x))
        return (
            type(x),
            self._items([k for k, _ in pairs], name),
            tuple(self._look(v, f"{name}[{k!r:.40}]") for k, v in pairs),
        )

    def _function(self, x: types.FunctionType, name: str) -> Hashable:
        module = x.__globals__.get("__name__")  # not __module__, which a decorator copies
        if pure(module):
            return x if x.__closure__ is None else self._trusted_closure(x, name)
        if library(module):
            self._is_loose(f"calls {module}.{x.__name__}, which may look at what it is not given")
            return (types.FunctionType, x.__code__)
        code = read_code(x.__code__)
        names = ("__code__", "__defaults__", "__kwdefaults__")
        self._writable.append(lambda: attributes(name, x, names))
        parts: list[Hashable] = []
        for free, cell in zip(x.__code__.co_freevars, x.__closure__ or ()):
            self._writable.append(lambda cell=cell, free=free: held_cell(free, cell))
            parts.append(self._along(contents(cell), code.paths.get(free, {()}), free))
        own = tuple(n for n in code.paths if n not in x.__code__.co_freevars)
        self._writable.append(lambda: entries(" or ".join(own[:3]), x.__globals__, own))
        for n in own:
            if n in x.__globals__:
                parts.append((n, self._along(x.__globals__[n], code.paths[n], n)))
            else:
                self._builtin_name(n, x)
        for module in code.imports:
            self._is_loose(f"imports {module} when it runs")
            if module in sys.modules:
                self._handed_on(sys.modules[module], module)
        self._writable.append(lambda: mapping(f"an attribute of {name}", x.__dict__))
        parts += [self._look(part, name) for part in (x.__defaults__, x.__kwdefaults__)]
        parts += [(n, self._look(value, f"{name}.{n}")) for n, value in list(x.__dict__.items())]
        return (types.FunctionType, x.__code__, *parts)

    def _trusted_closure(self, x: types.FunctionType, name: str) -> Hashable:
        """A function that a library made around something of the user's: `functools.wraps`, `torch.func.vmap(f)`."""
        cells = [(free, contents(cell)) for free, cell in zip(x.__code__.co_freevars, x.__closure__ or ())]
        return (types.FunctionType, x.__code__, *(self._look(value, free) for free, value in cells))

    def _builtin_name(self, name: str, function: types.FunctionType) -> None:
        space = function.__globals__.get("__builtins__", {})
        if name not in (space if isinstance(space, dict) else vars(space)):
            return
        if name in BY_NAME:
            self._is_loose(f"looks names up with {name}(...)")
            if name in ("globals", "__import__", "vars", "locals"):
                self._writable.append(lambda: mapping("a global name", function.__globals__))
        elif name not in BUILTINS and not isinstance(vars(__import__("builtins")).get(name), type):
            self._is_opaque(f"calls {name}(...)")

    def _along(self, x: Any, paths: Iterable[tuple[str, ...]], name: str) -> Hashable:
        """A value, where it is a module what is looked up in it alone."""
        if not isinstance(x, types.ModuleType):
            if isinstance(x, type) and not library(x.__module__) and not written_in_python(x):
                self._is_opaque(f"uses {x.__module__}.{x.__qualname__}, whose state cannot be looked at")
            return self._look(x, name)
        found: list[Hashable] = []
        for path in sorted(paths):
            if not path:
                self._handed_on(x, name)
            elif path[0] not in vars(x):
                if not library(x.__name__):
                    self._is_loose(f"looks up {name}.{path[0]}, which is made when it is asked for")
            else:
                where = f"{name}.{path[0]}"
                self._writable.append(lambda x=x, n=path[0], where=where: entries(where, vars(x), (n,)))
                found.append((path[0], self._along(vars(x)[path[0]], {path[1:]}, where)))
        return ("module", x.__name__, *found)

    def _handed_on(self, x: types.ModuleType, name: str) -> None:
        if x.__name__ not in ("torch.nn.functional", "math"):
            self._is_loose(f"hands the module {name} on")
        if not library(x.__name__):
            self._writable.append(lambda: mapping(name, vars(x)))

    def _method(self, x: types.MethodType, name: str) -> Hashable:
        return (types.MethodType, self._look(x.__func__, name), self._look(x.__self__, name))

    def _builtin(self, x: types.BuiltinFunctionType, name: str) -> Hashable:
        owner = x.__self__
        if operation(x):
            return x
        if owner is None or isinstance(owner, types.ModuleType):
            module = owner.__name__ if owner is not None else x.__module__
            if module == "builtins":
                if x.__name__ in BY_NAME:
                    self._is_loose(f"looks names up with {x.__name__}(...)")
                elif x.__name__ not in BUILTINS:
                    self._is_opaque(f"calls {x.__name__}(...)")
            elif (module or "").partition(".")[0] == "torch":
                self._is_loose(f"calls {x.__name__}, which may look at what it is not given")
            elif not pure(module):
                self._is_opaque(f"calls {module}.{x.__name__}")
            return x
        return (types.BuiltinFunctionType, x.__name__, self._look(owner, name))

    def _wrapped(self, x: Any, name: str) -> Hashable:
        return (type(x), self._look(x.__func__, name))

    def _property(self, x: property, name: str) -> Hashable:
        return (property, *(self._look(part, name) for part in (x.fget, x.fset, x.fdel)))

    def _partial(self, x: Any, name: str) -> Hashable:
        self._is_loose("holds a functools.partial, which can be changed")
        self._writable.append(lambda: mapping(name, x.keywords))
        return (type(x), self._look(x.func, name), self._look((x.args, x.keywords, x.__dict__), name))

    def _memory(self, x: Any, name: str) -> Hashable:
        self._is_loose(f"holds {_a(x)}, whose numbers can be changed")
        self._writable.append(lambda: array_of_bytes(name, x))
        return None

    def _same(self, x: Any, name: str) -> Hashable:
        return x

    def _variable(self, x: Any, name: str) -> Hashable:
        self._is_loose("holds a ContextVar")
        self._writable.append(lambda: variable(name, x))
        return self._look(x.get(None), name)

    def _reference(self, x: Any, name: str) -> Hashable:
        self._is_loose("holds a weak reference")
        return self._look(x(), name)

    def _drawn(self, x: random.Random, name: str) -> None:
        self._is_loose("holds a generator of random numbers")
        self._writable.append(lambda: generator(f"the state of {name}", x.getstate, x.setstate, operator.eq))

    def _environment(self, x: Any, name: str) -> Hashable:
        self._is_loose("reads the environment")
        self._writable.append(lambda: mapping("the environment", x._data))
        return None

    def _torchs_generator(self, x: torch.Generator, name: str) -> Hashable:
        self._is_loose("holds a torch.Generator")
        self._writable.append(
            lambda: generator(f"the state of {name}", x.get_state, lambda state: x.set_state(state) and None)
        )
        return None

    def _other(self, x: Any, name: str) -> Hashable:
        """Anything without an entry in the table: a class, or an instance of one."""
        kind = type(x)
        module = kind.__module__
        if isinstance(x, type):
            return self._class(x, name)
        if isinstance(x, types.ModuleType):
            return self._along(x, {()}, name)
        if isinstance(x, DESCRIPTORS) or isinstance(x, enum.Enum):
            if isinstance(x, enum.Enum):
                self._is_loose(f"holds {_a(x)}")
                return None
            if isinstance(x, types.MethodWrapperType):
                return (types.MethodWrapperType, x.__name__, self._look(x.__self__, name))
            return x
        if module.startswith("_cython") and str(getattr(x, "__module__", "")).startswith("numpy.random"):
            self._is_loose("calls a generator of random numbers")  # np.random.rand, of numpy's own generator or another
            return self._look(getattr(x, "__self__", None), name)
        if module.partition(".")[0] == "numpy":
            return self._numpys(x, name)
        if operation(x) and callable(x):  # torch.ops.aten.add
            return x if isinstance(x, Hashable) else None
        if module.startswith("snn_functional.") and (reach := getattr(kind, "__reach__", None)):
            # A step of this library that keeps what it holds to itself says what else it is made of.
            itself = kind if getattr(kind, "__reach_is_all__", False) else _token(x)
            return (itself, *(self._look(value, part) for part, value in reach(x)))
        if module.partition(".")[0] in CONCURRENT:
            self._is_opaque(f"holds {_a(x)}, which other threads can change")
            return None
        if isinstance(x, random.Random):
            self._drawn(x, name)
            return None
        if isinstance(x, ctypes._SimpleCData):
            return self._memory(x, name)
        return self._instance(x, name)

    def _class(self, x: type, name: str) -> Hashable:
        if library(x.__module__):
            return _token(x)
        if not written_in_python(x):
            self._is_opaque(f"uses {x.__module__}.{x.__qualname__}, whose state cannot be looked at")
            return None
        if not library(type(x).__module__):
            self._is_loose(f"uses the class {x.__qualname__}, which has a metaclass")
        parts: list[Hashable] = [_token(x)]
        for cls in x.__mro__:
            if library(cls.__module__) or (cls is not x and id(cls) in self._seen):
                continue
            if not written_in_python(cls):
                if cls not in BASES:
                    self._is_opaque(f"uses {cls.__module__}.{cls.__qualname__}, whose state cannot be looked at")
                continue
            self._seen.setdefault(id(cls), len(self._seen))
            self._writable.append(lambda cls=cls: namespace(cls.__qualname__, cls))
            for n, value in list(vars(cls).items()):
                if n not in UNREAD:
                    parts.append((n, self._look(value, f"{cls.__qualname__}.{n}")))
        return tuple(parts)

    def _numpys(self, x: Any, name: str) -> Hashable:
        if hasattr(x, "tobytes"):
            if not hasattr(x, "__setitem__") or isinstance(x, sys.modules["numpy"].generic):
                return (type(x), x.tobytes())
            if x.dtype.hasobject:
                self._is_opaque("holds an array of objects")
            return self._memory(x, name)
        if "random" in type(x).__module__:
            state = getattr(x, "bit_generator", x)
            state = getattr(x, "_bit_generator", state)
            self._is_loose("holds a generator of random numbers")
            read, write = lambda: state.state, lambda value: setattr(state, "state", value)
            self._writable.append(lambda: generator(f"the state of {name}", read, write))
            return None
        return x if callable(x) else self._instance(x, name)

    def _instance(self, x: Any, name: str) -> Hashable:
        kind = type(x)
        foreign = [cls for cls in kind.__mro__ if not written_in_python(cls) and cls not in BASES]
        if foreign or not (written_in_python(kind) or kind in BASES):
            self._is_opaque(f"holds {_a(x)}, whose state cannot be looked at")
            return None
        parameters = getattr(kind, "__dataclass_params__", None)
        frozen = parameters is not None and parameters.frozen or (isinstance(x, tuple) and hasattr(kind, "_fields"))
        if not frozen:
            self._is_loose(f"holds {_a(x)}, an object with attributes")
        if isinstance(x, torch.nn.Module) and any(vars(torch.nn.modules.module)[name] for name in EVERYWHERE):
            self._is_opaque("calls a module, and hooks are registered for all modules")
        parts: list[Hashable] = [self._look(kind, kind.__qualname__)]
        own = getattr(x, "__dict__", None)
        if own is not None:
            self._writable.append(lambda: mapping(name, own))
            unread = NATIVE if isinstance(x, torch.nn.Module) else ()
            parts += [(n, self._look(value, f"{name}.{n}")) for n, value in list(own.items()) if n not in unread]
        members = [
            m
            for cls in kind.__mro__
            for m in vars(cls).values()
            if isinstance(m, types.MemberDescriptorType) and written_in_python(cls)
        ]
        if members:
            self._writable.append(lambda: slots(name, x, members))
            parts += [self._look(read_slot(m, x), f"{name}.{m.__name__}") for m in members]
        if isinstance(x, dict):
            parts.append(self._mapping(x, name))
        elif isinstance(x, SEQUENCES):
            parts.append(self._sequence(x, name))
        elif isinstance(x, (tuple, frozenset)):
            parts.append(self._items(x, name))
        elif isinstance(x, (int, float, str, bytes)):
            parts.append(repr(x))
        return tuple(parts)


# What torch keeps in every module for itself: hooks, flags.
NATIVE = frozenset(name for name in vars(torch.nn.Module()) if "hooks" not in name) - {
    "_parameters",
    "_buffers",
    "_modules",
}
EVERYWHERE = [name for name in vars(torch.nn.modules.module) if name.startswith("_global_") and name.endswith("_hooks")]
CONCURRENT = ("threading", "queue", "multiprocessing", "asyncio", "concurrent", "subprocess", "socket")


@functools.lru_cache(4096)
def written_in_python(cls: type) -> bool:
    """Was it made by a class statement, so that all that its instances hold is in their dictionaries, their slots and their base?"""
    made, fixed = (
        cls.__flags__ & (1 << 9),
        cls.__flags__ & (1 << 8),
    )  # on the heap; immutable, as the types of extensions are
    if not made or fixed or cls.__base__ is None:
        return False
    own = vars(cls).values()
    slots = (
        sum(isinstance(x, types.MemberDescriptorType) for x in own)
        + ("__dict__" in vars(cls))
        + ("__weakref__" in vars(cls))
    )
    return cls.__basicsize__ - cls.__base__.__basicsize__ <= 8 * slots


def plain(x: Any) -> Hashable:
    """The key of a constant, or of a frozen value of this library that holds nothing else (a surrogate); None for anything else."""
    kind = type(x)
    if kind in CONSTANTS:
        return (kind, x)
    if kind is float:
        return (float, x.hex())
    if (
        kind.__module__ in SURROGATES
        and (parameters := getattr(kind, "__dataclass_params__", None))
        and parameters.frozen
    ):
        parts = [plain(value) for value in vars(x).values()]
        return None if None in parts else (kind, *parts)
    return None


SURROGATES = ("snn_functional.surrogate",)


def _a(x: Any) -> str:
    kind = type(x)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"


def _token(x: Any) -> Hashable:
    """Stands for x in a key, without keeping it alive; when x is gone it equals nothing but itself."""
    return weakref.ref(x)


LOOKS: dict[type, Any] = {
    tuple: Reach._tuple,
    frozenset: Reach._tuple,
    list: Reach._sequence,
    set: Reach._sequence,
    collections.deque: Reach._sequence,
    bytearray: Reach._sequence,
    dict: Reach._mapping,
    collections.OrderedDict: Reach._mapping,
    types.MappingProxyType: lambda self, x, name: self._look(dict(x), name),
    types.FunctionType: Reach._function,
    types.MethodType: Reach._method,
    types.BuiltinFunctionType: Reach._builtin,
    types.CellType: lambda self, x, name: self._look(contents(x), name),
    staticmethod: Reach._wrapped,
    classmethod: Reach._wrapped,
    property: Reach._property,
    functools.partial: Reach._partial,
    array.array: Reach._memory,
    contextvars.ContextVar: Reach._variable,
    weakref.ref: Reach._reference,
    torch.Generator: Reach._torchs_generator,
    type(os.environ): Reach._environment,
    type(MISSING): Reach._same,
    dataclasses.Field: Reach._same,
    types.GenericAlias: Reach._same,
}
for _lock in (type(__import__("threading").Lock()), type(__import__("threading").RLock())):
    LOOKS[_lock] = lambda self, x, name: self._is_opaque("holds a lock, which other threads can take")
