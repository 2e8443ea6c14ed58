"""What a forward leaves behind in a module, beside its buffers and the states of its faces: seen, refused, and put back.

A pure step remembers nothing. What a module may keep from call to call stands in many places: attributes, buffers that were not
there before, lists and dictionaries, objects of the user's own, plain tensors that are written to. They are looked at after each call.
"""

import collections
import types
from collections.abc import Iterator
from typing import Any

from torch import nn, Tensor

from .._functorch import intercepted
from .._identity import foreign, Held, mapping, parts_of, restore, sequence, SEQUENCES, written
from ._has_state import HasState


STATE = {"_hidden", "_lent", "_watcher", "_stateless"}  # of a face, which is no memory but its state
NATIVE = set(vars(nn.Module()))


def of_library(module: nn.Module) -> bool:
    """Is its forward torch's, or a face's own? Then it keeps nothing but what can be made again."""
    return type(module).__module__.startswith("torch.") or (
        isinstance(module, HasState) and foreign(type(module).__module__)
    )


class Memory:
    """All such places in a module, as they are when this is made."""

    def __init__(self, module: nn.Module) -> None:
        self.attributes = [(m, dict(vars(m))) for m in module.modules()]
        self.users = [(m, held) for m, held in self.attributes if not of_library(m)]
        self.tables: list[tuple[nn.Module, Any, Any]] = [
            (m, t, dict(t)) for m, _ in self.users for t in (m._parameters, m._buffers, m._modules)
        ]
        self.reached: list[Held] = []
        self.tensors: list[Held] = []
        seen = {id(x) for x in (*module.parameters(), *module.buffers())}
        for m, _ in self.users:
            for name, x in vars(m).items():
                if name not in NATIVE | STATE:
                    self._look(f"{type(m).__name__}.{name}", x, seen)

    def changed(self) -> list[str]:
        """What is not as it was."""
        kept = [
            f"{type(m).__name__}.{name}"
            for m, held in self.users
            if not _same(vars(m), held)
            for name, x in vars(m).items()
            if not (name in held and held[name] is x or isinstance(m, HasState) and name in STATE)
        ]
        kept += [f"{type(m).__name__}.{name}" for m, table, held in self.tables for name in _new(table, held)]
        kept += [held.name for held in (*self.reached, *self._tensors()) if not held.same()]
        return list(dict.fromkeys(kept))

    def _tensors(self) -> list[Held]:
        return [] if intercepted() else self.tensors  # whoever reads a step sees for himself what is written to

    def restore(self) -> None:
        for module, held in self.attributes:
            if not _same(vars(module), held):
                vars(module).clear()
                vars(module).update(held)
        for _, table, held in self.tables:
            for name in _new(table, held):
                del table[name]
                if name in held:
                    table[name] = held[name]
        restore([*self.reached, *self._tensors()])

    def _look(self, name: str, x: Any, seen: set[int]) -> None:
        if id(x) in seen or isinstance(x, nn.Module):
            return
        seen.add(id(x))
        if isinstance(x, Tensor):
            if not x.is_inference():
                self.tensors.append(written(name, x))
            return
        if isinstance(x, dict):
            self.reached.append(mapping(name, x))
        elif isinstance(x, SEQUENCES):
            self.reached.append(sequence(name, x))
        for part in _parts(x):
            self._look(name, part, seen)


def _parts(x: Any) -> list[Any]:
    if isinstance(x, dict):
        return list(x.values())
    if isinstance(x, (list, tuple, collections.deque)):
        return list(x)
    plain = hasattr(x, "__dict__") and not isinstance(x, (type, types.ModuleType, types.FunctionType))
    return [vars(x)] if plain and not foreign(type(x).__module__) else []


def _same(now: dict[str, Any], held: dict[str, Any]) -> bool:
    return len(now) == len(held) and all(name in held and held[name] is x for name, x in now.items())


def _new(table: dict[str, Any], held: dict[str, Any]) -> list[str]:
    """Names that were not there, or stood for nothing."""
    return [name for name, x in table.items() if name not in held or (held[name] is None and x is not None)]


def refuse_closures(module: nn.Module) -> None:
    """Raises TypeError for an attribute that is a function with a module in its closure."""
    for m in module.modules():
        for name, x in vars(m).items():
            for within in _modules_within(x, set()):
                raise TypeError(
                    f"functionalize({type(module).__name__}): {type(m).__name__}.{name} is a function that holds a "
                    f"{type(within).__name__}. The step is made of a copy of the module, which the function would not see: make it "
                    "a method."
                )


def _modules_within(function: Any, seen: set[int]) -> Iterator[nn.Module]:
    if isinstance(function, types.FunctionType) and id(function) not in seen:
        seen.add(id(function))
        parts = parts_of(function) or ()
        yield from (x for x in parts if isinstance(x, nn.Module))
        for x in parts:
            yield from _modules_within(x, seen)
