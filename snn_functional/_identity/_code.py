"""What a function's bytecode looks up: which names, and through which attributes of them."""

import dis
import functools
import types
from collections.abc import Iterator
from typing import NamedTuple


class Code(NamedTuple):
    """- `paths`: of each name that is looked up among the globals or in the closure, the chains of attributes that follow it:
      `torch.nn.functional.relu(x) + torch.pi` has {"torch": {("nn", "functional", "relu"), ("pi",)}}; () where it is used as it is.
    - `imports`: modules that it imports when it runs.
    """

    paths: dict[str, set[tuple[str, ...]]]
    imports: set[str]


LOADS = (
    "LOAD_GLOBAL",
    "LOAD_NAME",
    "LOAD_DEREF",
    "LOAD_CLASSDEREF",
    "LOAD_FROM_DICT_OR_DEREF",
    "LOAD_FROM_DICT_OR_GLOBALS",
)
STORES = ("STORE_GLOBAL", "STORE_NAME", "DELETE_GLOBAL", "DELETE_NAME")
ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR")
BETWEEN = ("PUSH_NULL", "EXTENDED_ARG", "CACHE", "NOP", "PRECALL", "COPY_FREE_VARS")


@functools.lru_cache(4096)
def read(code: types.CodeType) -> Code:
    """Its own lookups, and those of the functions that are defined within."""
    paths: dict[str, set[tuple[str, ...]]] = {}
    imports: set[str] = set()
    for name, path in _chains(code):
        paths.setdefault(name, set()).add(path)
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            imports.add(step.argval)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            inner = read(const)
            imports |= inner.imports
            for name, more in inner.paths.items():
                paths.setdefault(name, set()).update(more)
    return Code(paths, imports)


def _chains(code: types.CodeType) -> Iterator[tuple[str, tuple[str, ...]]]:
    name, path = None, ()
    for step in dis.get_instructions(code):
        if name is not None and step.opname in ATTRIBUTES:
            path = (*path, step.argval)
            continue
        if step.opname in BETWEEN:
            continue
        if name is not None:
            yield name, path
        name, path = (step.argval, ()) if step.opname in (*LOADS, *STORES) else (None, ())
    if name is not None:
        yield name, path
