"""Whose functions and classes stay what they are, and give the same for the same arguments.

Everything else is looked through like the user's own code, or, where it cannot be, is not trusted: a clock, a file, the environment.
"""

import functools
import types
import weakref
from typing import Any

import torch


# Packages whose Python functions and classes are taken as they are.
PURE = frozenset(
    """snn_functional optree numpy math cmath operator _operator functools _functools itertools dataclasses reprlib typing
    typing_extensions types collections _collections _collections_abc abc _abc copy enum numbers contextlib fractions string""".split()
)
# torch's Python functions that only compute; others look at modes, seeds, threads, devices.
TORCH = (
    "torch.nn.functional",
    "torch.functional",
    "torch._tensor",
    "torch._jit_internal",
    "torch.special",
    "torch.autograd.function",
    "torch._functorch",
    "torch._C._nn",
    "torch._C._special",
    "torch._ops",
)
# Builtin functions that give the same for the same arguments, and write nowhere.
BUILTINS = frozenset(
    """abs all any ascii bin bool bytearray bytes callable chr classmethod complex dict divmod enumerate filter float format frozenset
    hash hex int isinstance issubclass iter len list map max min next object oct ord pow property range repr reversed round set slice
    sorted staticmethod str sum super tuple type zip __build_class__ NotImplemented Ellipsis""".split()
)
# They look up or change what is named by a string.
BY_NAME = frozenset("getattr setattr delattr hasattr vars dir globals locals __import__".split())


@functools.lru_cache(4096)
def pure(module: Any) -> bool:
    """Do Python functions and classes of this module stay what they are, and only compute?"""
    if not isinstance(module, str):  # some extensions' classes have a descriptor there
        return False
    root = module.partition(".")[0]
    if root == "torch":
        return module.startswith(TORCH)
    return root in PURE and not module.startswith("numpy.random")


@functools.lru_cache(4096)
def library(module: Any) -> bool:
    """Is it torch's or a trusted package's, so that its classes are not looked through?"""
    return isinstance(module, str) and module.partition(".")[0] in PURE | {"torch", "builtins"}


def operation(x: Any) -> bool:
    """Is it one of torch's operations, which only compute (those that draw are no scalar operations, and found out there)?"""
    if isinstance(x, types.BuiltinFunctionType) and x.__self__ is None:
        functions: Any = torch._C._VariableFunctions  # pyright: ignore[reportAttributeAccessIssue]
        return getattr(functions, x.__name__, None) == x
    module = getattr(x, "__module__", None)
    return isinstance(module, str) and module.startswith(TORCH)


def everybodys(x: Any) -> bool:
    """Is it, but for what it holds, a library's: one of its functions or classes, or an object of such a class?"""
    if isinstance(x, types.FunctionType):
        return x.__closure__ is None and pure(x.__globals__.get("__name__"))
    return library(x.__module__ if isinstance(x, (type, types.BuiltinFunctionType)) else type(x).__module__)


def written_in_python(cls: type) -> bool:
    """Was it made by a class statement, so that all that its instances hold is in their dictionaries, their slots and their base?"""
    if cls not in _written:
        _written[cls] = _looks_written(cls)
    return _written[cls]


_written: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def _looks_written(cls: type) -> bool:
    made, fixed = (
        cls.__flags__ & (1 << bit) for bit in (9, 8)
    )  # on the heap; immutable, as the types of extensions are
    if not made or fixed or cls.__base__ is None:
        return False
    own = vars(cls)
    slots = sum(isinstance(x, types.MemberDescriptorType) for x in own.values())
    slots += ("__dict__" in own) + ("__weakref__" in own)
    return cls.__basicsize__ - cls.__base__.__basicsize__ <= 8 * slots


DESCRIPTORS = (
    types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType, types.GetSetDescriptorType,
    types.MemberDescriptorType, types.ClassMethodDescriptorType,
)  # fmt: skip
