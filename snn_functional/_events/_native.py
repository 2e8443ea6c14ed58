"""The calls into `_events.cpp`, on tensors that stand in memory: no transform, no derivative."""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import load


SOURCE = Path(__file__).with_name("_events.cpp").read_text()
KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
SAMPLED, LIST, PRODUCT, OUTER = range(4)
SLACK = 16  # entries that may be written behind a list
SAMPLE = 1 << 13  # numbers among which events are counted first
GRAIN = 1 << 18  # additions that are worth a thread: to begin and end one takes some 100 us


class Lists(NamedTuple):
    """Where the events of `z` [rows, columns] are. `memory` holds, of each row, where its list begins, and how long it is; then the lists.
    `graded`: is any of them another number than 1?"""

    memory: Tensor
    rows: int
    columns: int
    total: int
    graded: bool

    def addresses(self) -> tuple[int, int, int]:
        at, row = self.memory.data_ptr(), 4 * self.rows
        return at, at + row, at + 2 * row


@functools.cache
def _function() -> Any:
    run: Any = load(SOURCE)
    run.argtypes = [ctypes.c_void_p] * 3
    return run


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
    at = Lists(memory, n, columns, 0, False).addresses()
    full, total, graded = _call(LIST, z.dtype, (n, columns, z.stride(0), threads, room), (z.data_ptr(), *at))
    return None if full or total > most * n * columns else Lists(memory, n, columns, total, bool(graded))


def product(events: Lists, z: Tensor, w: Tensor, bias: Tensor | None) -> Tensor | None:
    """z [1 or groups, n, in] @ w [1 or groups, in, out] + bias [1 or groups, out]; None where a weight is not finite."""
    groups, n, (_, columns, out) = max(len(z), len(w), 0 if bias is None else len(bias)), z.shape[1], w.shape
    y = torch.empty(groups, n, out, dtype=z.dtype)
    threads = min(torch.get_num_threads(), 1 + events.total * out // GRAIN)
    of_bias = (0, 0, 0) if bias is None else (_step(bias), 0, bias.stride(1))
    numbers = (groups, n, columns, out, threads, events.graded, n if len(z) > 1 else 0, z.stride(1))
    strides = (_step(w), *w.stride()[1:], *of_bias, *y.stride())
    addresses = (
        z.data_ptr(), *events.addresses(), w.data_ptr(), 0 if bias is None else bias.data_ptr(), y.data_ptr(),
    )  # fmt: skip
    return None if _call(PRODUCT, z.dtype, numbers + strides, addresses)[0] else y


def outer(events: Lists, z: Tensor, g: Tensor, turned: bool) -> Tensor | None:
    """z [1 or groups, n, in] transposed @ g [1 or groups, n, out], [groups, in, out]; None where a number of g is not finite.

    `turned`: in memory it stands as [groups, out, in].
    """
    groups, n, (columns, out) = max(len(z), len(g)), z.shape[1], (z.shape[2], g.shape[2])
    m = (
        torch.empty(groups, out, columns, dtype=z.dtype).mT
        if turned
        else torch.empty(groups, columns, out, dtype=z.dtype)
    )
    threads = min(torch.get_num_threads(), 1 + events.total * out // GRAIN)
    numbers = (groups, n, columns, out, threads, events.graded, n if len(z) > 1 else 0, z.stride(1))
    strides = (_step(g), *g.stride()[1:], *m.stride())
    addresses = (z.data_ptr(), *events.addresses(), g.data_ptr(), m.data_ptr())
    return None if _call(OUTER, z.dtype, numbers + strides, addresses)[0] else m


def _step(x: Tensor) -> int:
    """From one group to the next; 0 where there is one for all."""
    return x.stride(0) if len(x) > 1 else 0
