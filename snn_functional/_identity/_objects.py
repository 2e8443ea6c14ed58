"""What objects and classes hold: the walk through everything that is no function."""

import array
import collections
import contextvars
import ctypes
import dataclasses
import enum
import operator
import os
import random
import sys
import threading
import types
import weakref
from collections.abc import Hashable
from typing import Any

import torch

from .._functorch import is_compiling
from ._functions import along
from ._held import array_of_bytes, generator, mapping, MISSING, namespace, read_slot, SEQUENCES, slots, variable
from ._reach import a, look_at_mapping, look_at_sequence, looks, Reach, token
from ._trusted import DESCRIPTORS, library, operation, written_in_python


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
# What torch keeps in every module for itself: hooks, flags.
OWN = ("_parameters", "_buffers", "_modules")
NATIVE = frozenset(name for name in vars(torch.nn.Module()) if "hooks" not in name and name not in OWN)
EVERYWHERE = [name for name in vars(torch.nn.modules.module) if name.startswith("_global_") and name.endswith("_hooks")]
CONCURRENT = ("threading", "queue", "multiprocessing", "asyncio", "concurrent", "subprocess", "socket")


@looks(array.array)
def _memory(reach: Reach, x: Any, name: str) -> Hashable:
    reach.is_loose(f"holds {a(x)}, whose numbers can be changed")
    reach.holds(lambda: array_of_bytes(name, x))
    return None


@looks(type(MISSING), dataclasses.Field, types.GenericAlias)
def _same(reach: Reach, x: Any, name: str) -> Hashable:
    return x


@looks(contextvars.ContextVar)
def _variable(reach: Reach, x: Any, name: str) -> Hashable:
    reach.is_loose("holds a ContextVar")
    reach.holds(lambda: variable(name, x))
    return reach.look(x.get(None), name)


@looks(weakref.ref)
def _reference(reach: Reach, x: Any, name: str) -> Hashable:
    reach.is_loose("holds a weak reference")
    return reach.look(x(), name)


def _drawn(reach: Reach, x: random.Random, name: str) -> None:
    reach.is_loose("holds a generator of random numbers")
    reach.holds(lambda: generator(f"the state of {name}", x.getstate, x.setstate, operator.eq))


@looks(type(os.environ))
def _environment(reach: Reach, x: Any, name: str) -> Hashable:
    reach.is_loose("reads the environment")
    reach.holds(lambda: mapping("the environment", x._data))
    return None


@looks(torch.Generator)
def _torchs_generator(reach: Reach, x: torch.Generator, name: str) -> Hashable:
    reach.is_loose("holds a torch.Generator")
    reach.holds(lambda: generator(f"the state of {name}", x.get_state, lambda state: x.set_state(state) and None))
    return None


@looks(object)
def _other(reach: Reach, x: Any, name: str) -> Hashable:
    """Anything without an entry in the table: a class, or an instance of one."""
    kind = type(x)
    module = kind.__module__
    if isinstance(x, type):
        return _class(reach, x, name)
    if isinstance(x, types.ModuleType):
        return along(reach, x, {()}, name)
    if isinstance(x, enum.Enum):
        reach.is_loose(f"holds {a(x)}", draws=True)
        return None
    if isinstance(x, types.MethodWrapperType):
        return (types.MethodWrapperType, x.__name__, reach.look(x.__self__, name))
    if isinstance(x, DESCRIPTORS):
        return x
    if module.startswith("_cython") and str(getattr(x, "__module__", "")).startswith("numpy.random"):
        # np.random.rand, of numpy's own generator or another
        reach.is_loose("calls a generator of random numbers", draws=True)
        return reach.look(getattr(x, "__self__", None), name)
    if module.partition(".")[0] == "numpy":
        return _numpys(reach, x, name)
    if operation(x) and callable(x):  # torch.ops.aten.add
        return x if isinstance(x, Hashable) else None
    if module.startswith("snn_functional.") and hasattr(kind, "__reach__"):
        # A step of this library that keeps what it holds to itself says what else it is made of.
        itself = kind if getattr(kind, "__reach_is_all__", False) else token(x)
        return (itself, *(reach.look(value, part) for part, value in kind.__reach__(x)))
    if module.partition(".")[0] in CONCURRENT:
        reach.is_opaque(f"holds {a(x)}, which other threads can change")
        return None
    if isinstance(x, random.Random):
        _drawn(reach, x, name)
        return None
    if isinstance(x, ctypes._SimpleCData):
        return _memory(reach, x, name)
    return _instance(reach, x, name)


def _class(reach: Reach, x: type, name: str) -> Hashable:
    if library(x.__module__):
        return token(x)
    if not written_in_python(x):
        reach.is_opaque(f"uses {x.__module__}.{x.__qualname__}, whose state cannot be looked at")
        return None
    if not library(type(x).__module__):
        reach.is_loose(f"uses the class {x.__qualname__}, which has a metaclass", draws=True)
    parts: list[Hashable] = [token(x)]
    for cls in x.__mro__:
        if library(cls.__module__) or (cls is not x and id(cls) in reach.seen):
            continue
        if not written_in_python(cls):
            if cls not in BASES:
                reach.is_opaque(f"uses {cls.__module__}.{cls.__qualname__}, whose state cannot be looked at")
            continue
        reach.seen.setdefault(id(cls), len(reach.seen))
        reach.holds(lambda cls=cls: namespace(cls.__qualname__, cls))
        for n, value in list(vars(cls).items()):
            if n not in UNREAD:
                parts.append((n, reach.look(value, f"{cls.__qualname__}.{n}")))
    return tuple(parts)


def _numpys(reach: Reach, x: Any, name: str) -> Hashable:
    if hasattr(x, "tobytes"):
        if not hasattr(x, "__setitem__") or isinstance(x, sys.modules["numpy"].generic):
            return (type(x), x.tobytes())
        if x.dtype.hasobject:
            reach.is_opaque("holds an array of objects")
        return _memory(reach, x, name)
    if "random" in type(x).__module__:
        state = getattr(x, "bit_generator", x)
        state = getattr(x, "_bit_generator", state)
        reach.is_loose("holds a generator of random numbers")
        read, write = lambda: state.state, lambda value: setattr(state, "state", value)
        reach.holds(lambda: generator(f"the state of {name}", read, write))
        return None
    return x if callable(x) else _instance(reach, x, name)


def _instance(reach: Reach, x: Any, name: str) -> Hashable:
    kind = type(x)
    foreign = [cls for cls in kind.__mro__ if not written_in_python(cls) and cls not in BASES]
    if foreign or not (written_in_python(kind) or kind in BASES):
        reach.is_opaque(f"holds {a(x)}, whose state cannot be looked at")
        return None
    parameters = getattr(kind, "__dataclass_params__", None)
    frozen = parameters is not None and parameters.frozen or (isinstance(x, tuple) and hasattr(kind, "_fields"))
    if not frozen:
        reach.is_loose(f"holds {a(x)}, an object with attributes")
    hooked = isinstance(x, torch.nn.Module) and any(vars(torch.nn.modules.module)[name] for name in EVERYWHERE)
    if hooked and not is_compiling():  # `torch.export` has some of its own
        reach.is_opaque("calls a module, and hooks are registered for all modules")
    parts: list[Hashable] = [reach.look(kind, kind.__qualname__)]
    own = getattr(x, "__dict__", None)
    if own is not None:
        reach.holds(lambda: mapping(name, own))
        unread = NATIVE if isinstance(x, torch.nn.Module) else ()
        parts += [(n, reach.look(value, f"{name}.{n}")) for n, value in list(own.items()) if n not in unread]
    members = [
        m
        for cls in kind.__mro__
        for m in vars(cls).values()
        if isinstance(m, types.MemberDescriptorType) and written_in_python(cls)
    ]
    if members:
        reach.holds(lambda: slots(name, x, members))
        parts += [reach.look(read_slot(m, x), f"{name}.{m.__name__}") for m in members]
    if isinstance(x, dict):
        parts.append(look_at_mapping(reach, x, name))
    elif isinstance(x, SEQUENCES):
        parts.append(look_at_sequence(reach, x, name))
    elif isinstance(x, (tuple, frozenset)):
        parts.append(reach.items(x, name))
    elif isinstance(x, (int, float, str, bytes)):
        parts.append(repr(x))
    return tuple(parts)


@looks(type(threading.Lock()), type(threading.RLock()))
def _lock(reach: Reach, x: Any, name: str) -> None:
    reach.is_opaque("holds a lock, which other threads can take")
