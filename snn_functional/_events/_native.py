"""The calls into `_lists.cpp` and `_sums.cpp`, on tensors that stand in memory: no transform, no derivative."""

import ctypes
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import load, NoCompiler, THREADS


TEXTS = "_lists.cpp", "_sums.cpp"
KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
SAMPLED, LIST, PRODUCT, OUTER, PATCHES = range(5)
SLACK = 16  # entries that may be written behind a list
SAMPLE = 1 << 13  # numbers among which events are counted first
SURELY = 1.15  # times as many there as may be: these are surely too many
GRAIN = 1 << 18  # additions that are worth a thread: to wake one takes some 50 us


class Lists(NamedTuple):
    """Where the events of so many rows of so many columns are: those of `z`, from one row of which to the next are `step` numbers.

    `memory` holds, of each row, where its list begins, and how long it is; then the lists. `graded`: is any of them another number
    than 1? `total`: how many there are.
    """

    z: Tensor
    rows: int
    columns: int
    step: int
    memory: Tensor
    total: int = 0
    graded: bool = False

    def addresses(self) -> tuple[int, int, int, int]:
        at, row = self.memory.data_ptr(), 4 * self.rows
        return self.z.data_ptr(), at, at + row, at + 2 * row


@functools.cache
def _function() -> Any:
    run: Any = load(THREADS + "".join(Path(__file__).with_name(name).read_text() for name in TEXTS))
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
    """Are surely more than `most` of the numbers of z [rows, columns] events? Looks at a few of the rows."""
    n, columns = z.shape
    some = min(n, max(16, SAMPLE // columns))
    return _call(SAMPLED, z.dtype, (n, columns, z.stride(0), some), (z.data_ptr(),))[0] > SURELY * most * some * columns


def lists(z: Tensor, most: float) -> Lists | None:
    """The events of z [rows, columns], each row of which stands together; None where more than `most` of its numbers are some."""
    if crowded(z, most):
        return None
    n, columns = z.shape
    threads = _threads(n * columns)
    room = int(min(1.0, 2 * most) * -(-n // threads) * columns) + columns + SLACK
    if 2 * n + threads * room >= 1 << 31:
        return None
    found = Lists(z, n, columns, z.stride(0), torch.empty(2 * n + threads * room, dtype=torch.int32))
    full, total, graded = _call(LIST, z.dtype, (n, columns, z.stride(0), threads, room), found.addresses())
    return None if full or total > most * n * columns else found._replace(total=total, graded=bool(graded))


def patches(x: Tensor, y: Sequence[int], kernel: Sequence[int], how: Sequence[int], most: float) -> Lists | None:
    """The events in the patches of x [samples, height, width, channels] that each pixel of a convolution's result [height, width] = y sees.
    `how`: stride, padding, dilation, two each. None where they are too many, or graded."""
    if crowded(x.flatten(1), most):
        return None
    samples, height, width, channels = x.shape
    n, columns = samples * math.prod(y), math.prod(kernel) * channels
    threads = min(samples, _threads(x.numel()))
    room = int(min(1.0, 2 * most) * -(-samples // threads) * math.prod(y) * columns) + columns + SLACK
    if 2 * n + threads * room >= 1 << 31:
        return None
    found = Lists(x, n, columns, 0, torch.empty(2 * n + threads * room, dtype=torch.int32))
    numbers = (samples, height, width, channels, *y, *kernel, *how, threads, room)
    full, total, graded = _call(PATCHES, x.dtype, numbers, found.addresses())
    if full or graded or total > most * x.numel():
        return None
    return found._replace(total=total * math.prod(kernel))  # so many at most: those at the rim are in fewer patches


def product(events: Lists, n: int, w: Tensor, bias: Tensor | None) -> Tensor | None:
    """z [1 or groups, n, in] @ w [1 or groups, in, out] + bias [1 or groups, out]; None where a weight is not finite."""
    several, (_, columns, out) = events.rows // n, w.shape
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
    (_, n, out), columns = g.shape, events.columns
    groups = max(events.rows // n, len(g))
    shape = (groups, out, columns) if turned else (groups, columns, out)
    m = torch.empty(shape, dtype=g.dtype)
    m = m.mT if turned else m
    numbers = (groups, n, columns, out, *_how(events, n, out), _step(g), *g.stride()[1:], *m.stride())
    return None if _call(OUTER, g.dtype, numbers, (*events.addresses(), g.data_ptr(), m.data_ptr()))[0] else m


def _how(events: Lists, n: int, out: int) -> tuple[int, ...]:
    """Threads; are there values; rows from one group to the next, numbers from one row to the next."""
    return _threads(events.total * out), events.graded, n if events.rows > n else 0, events.step


def _threads(work: int) -> int:
    return max(1, min(torch.get_num_threads(), work // GRAIN))


def _step(x: Tensor) -> int:
    """From one group to the next; 0 where there is one for all."""
    return x.stride(0) if len(x) > 1 else 0
