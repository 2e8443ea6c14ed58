"""The walk through all that a step can reach: is it the same as one that was seen before, and what might it write to?

Three answers are possible for each value on the way:

    settled   It stays what it is (a number, torch's functions), or everything it consists of is looked at here (a plain function, a
              list, a frozen dataclass). Two steps of settled values with equal keys do the same.
    loose     It may change where nobody looks (an object with attributes, a `partial`, an array). What is known of it can still be put
              back after a reading. The step is read again at each call.
    opaque    Its state cannot even be seen (an iterator, a file, a clock). The step is not read at all.
"""

import collections
import types
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor

from ._held import contents, generators, Held, mapping, sequence


BUDGET = 20_000  # values; a step that reaches more is not looked through
CONSTANTS = {
    bool, int, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range, torch.dtype, torch.device, torch.Size,
    torch.layout, torch.memory_format,
}  # fmt: skip
Look = Callable[["Reach", Any, str], Hashable]
LOOKS: dict[type, Look] = {}  # by the exact type of a value; under `object` that for all others


def looks(*kinds: type) -> Callable[[Look], Look]:
    """Decorator: so are values of these types looked at, `(reach, value, what the user would call it) -> its part of the key`."""

    def register(look: Look) -> Look:
        LOOKS.update(dict.fromkeys(kinds, look))
        return look

    return register


class Reach:
    """- `key`: equal for roots that do the same, where nothing is loose.
    - `loose`, `opaque`: of the first such value, a reason that goes on "it ...".
    - `draws`: may it move a generator that everybody draws from, by more than torch's operations?
    - `tensors`: in the order in which they were met.
    """

    def __init__(self, roots: Iterable[tuple[str, Any]]) -> None:
        self.loose: str | None = None
        self.opaque: str | None = None
        self.draws = False
        self.tensors: list[Tensor] = []
        self.seen: dict[int, int] = {}
        self.alive: list[Any] = []  # all of them, so that no id is given twice
        self._writable: list[Callable[[], Held]] = []
        self.key: Hashable = tuple([self.look(x, name) for name, x in roots])

    def hold(self) -> list[Held]:
        """What all of it holds now."""
        return [*(generators() if self.draws else ()), *(make() for make in self._writable)]

    def holds(self, make: Callable[[], Held]) -> None:
        """Here is something that can be written to. `make` is called only if the step is to be read."""
        self._writable.append(make)

    def is_loose(self, reason: str, *, draws: bool = False) -> None:
        self.loose = self.loose or reason
        self.draws = self.draws or draws

    def is_opaque(self, reason: str) -> None:
        self.opaque = self.opaque or reason

    def look(self, x: Any, name: str) -> Hashable:
        kind = type(x)
        if kind is float:
            return (float, x.hex())  # -0.0 is not 0.0, and NaN is NaN
        if kind in CONSTANTS:
            return (kind, x)
        if id(x) in self.seen:
            return ("again", self.seen[id(x)])
        self.seen[id(x)] = len(self.seen)
        self.alive.append(x)
        if isinstance(x, Tensor):
            self.tensors.append(x)
            return (kind, x.dtype, x.shape, x.device)
        if len(self.seen) > BUDGET:
            self.is_opaque(f"reaches more than {BUDGET} values")
            return None
        return LOOKS.get(kind, LOOKS[object])(self, x, name)

    def items(self, x: Iterable[Any], name: str) -> tuple[Hashable, ...]:
        return tuple([self.look(part, f"{name}[{i}]") for i, part in enumerate(x)])


@looks(tuple, frozenset)
def look_at_tuple(reach: Reach, x: Any, name: str) -> Hashable:
    return (type(x), *reach.items(x, name))


@looks(list, set, collections.deque, bytearray)
def look_at_sequence(reach: Reach, x: Any, name: str) -> Hashable:
    reach.holds(lambda: sequence(name, x))
    return (type(x), *reach.items(list(x), name))


@looks(dict, collections.OrderedDict)
def look_at_mapping(reach: Reach, x: Any, name: str) -> Hashable:
    reach.holds(lambda: mapping(name, x))
    pairs = list(dict.items(x))
    return (
        type(x),
        reach.items([k for k, _ in pairs], name),
        tuple(reach.look(v, f"{name}[{k!r:.40}]") for k, v in pairs),
    )


@looks(types.MappingProxyType)
def _proxy(reach: Reach, x: Any, name: str) -> Hashable:
    return reach.look(dict(x), name)


@looks(types.CellType)
def _cell(reach: Reach, x: types.CellType, name: str) -> Hashable:
    return reach.look(contents(x), name)


def plain(x: Any) -> Hashable:
    """The key of a constant, or of a frozen value of this library that holds nothing else (a surrogate); None for anything else."""
    kind = type(x)
    if kind in CONSTANTS:
        return (kind, x)
    if kind is float:
        return (float, x.hex())
    parameters = getattr(kind, "__dataclass_params__", None) if kind.__module__ in SURROGATES else None
    if parameters is None or not parameters.frozen:
        return None
    parts = [plain(value) for value in vars(x).values()]
    return None if None in parts else (kind, *parts)


SURROGATES = ("snn_functional.surrogate",)


def a(x: Any) -> str:
    """What x is, with its article."""
    kind = type(x)
    known = kind.__module__ in ("builtins", "__main__")
    name = kind.__qualname__ if known else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[:1] in 'aeiouAEIOU' else 'a'} {name}"


def token(x: Any) -> Hashable:
    """Stands for x in a key, without keeping it alive; when x is gone it equals nothing but itself."""
    return weakref.ref(x)
