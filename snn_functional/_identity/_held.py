"""Things that can be written to: what they hold now, whether they still do, and how to put it back."""

import array
import collections
import contextlib
import contextvars
import ctypes
import operator
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch


class Held(NamedTuple):
    """What something held when it was looked at. `name`: what the user would call it."""

    name: str
    same: Callable[[], bool]
    restore: Callable[[], None]


def restore(held: Sequence[Held]) -> list[str]:
    """Puts back what has changed. Gives the names of that."""
    changed = [x for x in held if not x.same()]
    for x in reversed(changed):
        x.restore()
    return [x.name for x in changed]


@contextlib.contextmanager
def undone(held: Sequence[Held]) -> Iterator[list[str]]:
    """Around something that is only tried. Gives a list, which after it has the names of what had changed."""
    changed: list[str] = []
    try:
        yield changed
    finally:
        changed += restore(held)


def mapping(name: str, x: dict[Any, Any]) -> Held:
    held = dict(x)

    def same() -> bool:
        return len(x) == len(held) and all(k in held and held[k] is v for k, v in dict.items(x))

    def restore() -> None:
        dict.clear(x)
        dict.update(x, held)

    return Held(name, same, restore)


def entries(name: str, x: dict[str, Any], names: tuple[str, ...]) -> Held:
    """Some entries of a namespace."""
    held = {n: x[n] for n in names if n in x}

    def restore() -> None:
        for n in names:
            if n in held:
                x[n] = held[n]
            else:
                x.pop(n, None)

    return Held(name, lambda: all(x.get(n, MISSING) is held.get(n, MISSING) for n in names), restore)


def attributes(name: str, x: types.FunctionType, names: tuple[str, ...]) -> Held:
    """What a function has that stands in no dictionary: its code, its defaults. The function itself is not kept alive."""
    held, alive = {n: getattr(x, n) for n in names}, weakref.ref(x)

    def same() -> bool:
        now = alive()
        return now is None or all(getattr(now, n) is value for n, value in held.items())

    def restore() -> None:
        for n, value in held.items():
            if getattr(alive(), n, value) is not value:
                setattr(alive(), n, value)

    return Held(name, same, restore)


def slots(name: str, x: Any, members: list[types.MemberDescriptorType]) -> Held:
    read = lambda member: read_slot(member, x)
    held = [read(member) for member in members]

    def restore() -> None:
        for member, value in zip(members, held):
            if read(member) is not value:
                member.__delete__(x) if value is MISSING else member.__set__(x, value)

    return Held(name, lambda: all(read(member) is value for member, value in zip(members, held)), restore)


def namespace(name: str, cls: type) -> Held:
    """A class's own attributes."""
    held = dict(vars(cls))

    def restore() -> None:
        for n in [n for n in vars(cls) if n not in held]:
            type.__delattr__(cls, n)
        for n, value in held.items():
            if vars(cls).get(n, MISSING) is not value:
                type.__setattr__(cls, n, value)

    same = lambda: len(vars(cls)) == len(held) and all(vars(cls).get(n, MISSING) is v for n, v in held.items())
    return Held(name, same, restore)


def cell(name: str, x: types.CellType) -> Held:
    held = contents(x)

    def restore() -> None:
        if held is MISSING:
            del x.cell_contents
        else:
            x.cell_contents = held

    return Held(name, lambda: contents(x) is held, restore)


def sequence(name: str, x: Any) -> Held:
    """A list, a deque, a set, a bytearray: anything with `clear`."""
    held = list(x)
    put = type(x).update if isinstance(x, set) else type(x).extend

    def same() -> bool:
        now = list(x)
        return len(now) == len(held) and all(a is b for a, b in zip(now, held))

    def restore() -> None:
        type(x).clear(x)
        put(x, held)

    return Held(name, same, restore)


def array_of_bytes(name: str, x: Any) -> Held:
    """numpy's arrays, `array.array`, ctypes: memory that can be written to."""
    view = lambda: memoryview(x).cast("B") if isinstance(x, (array.array, ctypes._SimpleCData)) else x.tobytes()
    held = bytes(view())

    def restore() -> None:
        if isinstance(x, (array.array, ctypes._SimpleCData)):
            memoryview(x).cast("B")[:] = held
        else:
            x[...] = sys.modules["numpy"].frombuffer(held, dtype=x.dtype).reshape(x.shape)

    return Held(name, lambda: bytes(view()) == held, restore)


def written(name: str, x: torch.Tensor) -> Held:
    """A tensor, which counts how often it was written to; one of inference mode does not."""
    held, versions = x.detach().clone(), [x._version]

    def restore() -> None:
        x.detach().copy_(held)
        versions[0] = x._version

    return Held(name, lambda: x._version == versions[0], restore)


def generator(
    name: str, get: Callable[[], Any], put: Callable[[Any], None], equal: Callable[[Any, Any], bool] | None = None
) -> Held:
    """The state of a generator of random numbers."""
    held, equal = get(), equal or _equal
    return Held(name, lambda: equal(get(), held), lambda: put(held))


def generators() -> list[Held]:
    """Those that everybody draws from: Python's, numpy's where it is loaded, torch's."""
    found = [
        generator("the state of Python's random generator", random.getstate, random.setstate, operator.eq),
        generator("the state of torch's random generator", torch.get_rng_state, torch.set_rng_state),
    ]
    if torch.cuda.is_initialized():
        # Of every device: what is tried may draw on any of them.
        every = torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all
        found.append(generator("the state of CUDA's random generator", *every))
    if drawn := getattr(sys.modules.get("numpy"), "random", None):
        found.append(generator("the state of numpy's random generator", drawn.get_state, drawn.set_state))
    return found


def variable(name: str, x: contextvars.ContextVar[Any]) -> Held:
    held = x.get(MISSING)
    return Held(name, lambda: x.get(MISSING) is held, lambda: x.set(held) and None)


def contents(x: types.CellType) -> Any:
    try:
        return x.cell_contents
    except ValueError:  # not filled yet
        return MISSING


def read_slot(member: types.MemberDescriptorType, x: Any) -> Any:
    try:
        return member.__get__(x)
    except AttributeError:
        return MISSING


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if hasattr(a, "tobytes"):
        return a.tobytes() == b.tobytes()
    return a == b


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Any = _Missing()
SEQUENCES = (list, set, collections.deque)
