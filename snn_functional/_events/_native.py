"""The calls into `_events.cpp`, on tensors that stand in memory: no transform, no derivative."""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import load, NoCompiler


KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
SAMPLED, LIST, PRODUCT, OUTER = range(4)
SLACK = 16  # entries that may be written behind a list
SAMPLE = 1 << 13  # numbers among which events are counted first
GRAIN = 1 << 18  # additions that are worth a thread: to begin and end one takes some 100 us


class Lists(NamedTuple):
    """Where the events of `z` [rows, columns] are. `memory` holds, of each row, where its list begins, and how long it is; then the lists.
    `graded`: is any of them another number than 1?"""

    z: Tensor
    memory: Tensor
    total: int
    graded: bool

    def addresses(self) -> tuple[int, int, int, int]:
        at, row = self.memory.data_ptr(), 4 * len(self.z)
        return self.z.data_ptr(), at, at + row, at + 2 * row


@functools.cache
def _function() -> Any:
    run: Any = load(Path(__file__).with_name("_events.cpp").read_text())
    run.argtypes = [ctypes.c_void_p] * 3
    return run


def can() -> bool:
    """Is there what they are built with?"""
    try:
        return bool(_function())
    except NoCompiler:
        return False


def _call(what: int, kind: torch.dtype, numbers: Sequence[int], addresses: Sequence[int]) -> Any:
    found = _THREE()
    _function()(_array((what, KINDS[kind], *numbers)), _array(addresses), found)
    return found


_THREE = ctypes.c_int64 * 3


def _array(numbers: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def crowded(z: Tensor, most: float) -> bool:
    """Are surely more than `most` of the numbers of z [rows, columns] events? Looks at a few of the rows: a third too many there are."""
    n, columns = z.shape
    some = min(n, max(8, SAMPLE // columns))
    return _call(SAMPLED, z.dtype, (n, columns, z.stride(0), some), (z.data_ptr(),))[0] > 4 / 3 * most * some * columns


def lists(z: Tensor, most: float) -> Lists | None:
    """The events of z [rows, columns], each row of which stands together; None where more than `most` of its numbers are some."""
    if crowded(z, most):
        return None
    n, columns = z.shape
    threads = max(1, min(torch.get_num_threads(), n * columns // GRAIN))
    room = int(min(1.0, 2 * most) * -(-n // threads) * columns) + columns + SLACK
    size = 2 * n + threads * room
    if size >= 1 << 31:
        return None
    memory = torch.empty(size, dtype=torch.int32)
    found = Lists(z, memory, 0, False)
    full, total, graded = _call(LIST, z.dtype, (n, columns, z.stride(0), threads, room), found.addresses())
    return None if full or total > most * n * columns else Lists(z, memory, total, bool(graded))


def product(events: Lists, n: int, w: Tensor, bias: Tensor | None) -> Tensor | None:
    """z [1 or groups, n, in] @ w [1 or groups, in, out] + bias [1 or groups, out]; None where a weight is not finite."""
    several, (_, columns, out) = len(events.z) // n, w.shape
    groups = max(several, len(w), 0 if bias is None else len(bias))
    y = torch.empty(groups, n, out, dtype=w.dtype)
    of_bias = (0, 0, 0) if bias is None else (_step(bias), 0, bias.stride(1))
    numbers = (groups, n, columns, out, *_how(events, n, out), _step(w), *w.stride()[1:], *of_bias, *y.stride())
    addresses = (*events.addresses(), w.data_ptr(), 0 if bias is None else bias.data_ptr(), y.data_ptr())
    return None if _call(PRODUCT, w.dtype, numbers, addresses)[0] else y


def outer(events: Lists, g: Tensor, turned: bool) -> Tensor | None:
    """z [1 or groups, n, in] transposed @ g [1 or groups, n, out], [groups, in, out]; None where a number of g is not finite.

    `turned`: in memory it stands as [groups, out, in].
    """
    (_, n, out), columns = g.shape, events.z.shape[1]
    groups = max(len(events.z) // n, len(g))
    shape = (groups, out, columns) if turned else (groups, columns, out)
    m = torch.empty(shape, dtype=g.dtype)
    m = m.mT if turned else m
    numbers = (groups, n, columns, out, *_how(events, n, out), _step(g), *g.stride()[1:], *m.stride())
    return None if _call(OUTER, g.dtype, numbers, (*events.addresses(), g.data_ptr(), m.data_ptr()))[0] else m


def _how(events: Lists, n: int, out: int) -> tuple[int, ...]:
    """Threads; are there values; rows from one group to the next, numbers from one row to the next."""
    threads = min(torch.get_num_threads(), 1 + events.total * out // GRAIN)
    return threads, events.graded, n if len(events.z) > n else 0, events.z.stride(0)


def _step(x: Tensor) -> int:
    """From one group to the next; 0 where there is one for all."""
    return x.stride(0) if len(x) > 1 else 0
