"""Where an epoch is: a bar on a terminal, by tqdm where that is installed; elsewhere a line every ten seconds.

with Progress(epoch=1, samples=60_000, seen=0) as progress:
    progress.update(128, lambda: loss)          the loss is asked for when it is shown, which makes a GPU wait
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ._terminal import say
from .kernels import _build, _cache


EVERY = 10.0  # seconds between two lines
REFRESH = 0.5  # seconds between two losses on a bar
_bars: list[Any] = []  # on the terminal now


class Progress:
    """Of one epoch. `seen`: samples of it that an earlier run has seen."""

    def __init__(self, epoch: int, samples: int, seen: int) -> None:
        self.epoch, self.samples, self.seen = epoch, samples, seen
        self.bar: Any = _bar(epoch, samples, seen)
        self.shown, self.postfix = time.perf_counter(), ""

    def update(self, samples: int, loss: Callable[[], float]) -> None:
        """So many more were seen."""
        self.seen += samples
        due = time.perf_counter() - self.shown >= (EVERY if self.bar is None else REFRESH)
        if self.bar is not None:
            self.bar.set_postfix_str(self.postfix, refresh=False)
            self.bar.update(samples)
        if due and self.seen < self.samples:
            self.shown = time.perf_counter()
            if self.bar is not None:
                self.postfix = f"loss {loss():.4f}"
            else:
                say(f"epoch {self.epoch}: {self.seen} of {self.samples} samples, loss {loss():.4f}")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            _bars.remove(self.bar)
            self.bar.close()


def _bar(epoch: int, samples: int, seen: int) -> Any:
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    bar = tqdm(total=samples, initial=seen, desc=f"epoch {epoch}", unit=" samples", leave=False)
    bar.set_postfix_str("preparing" if epoch == 1 and not seen else "")
    _bars.append(bar)
    return bar


@contextlib.contextmanager
def compiling_is_said() -> Iterator[None]:
    """Once, when a compiler is first waited for."""

    def tell() -> None:
        _build.told = None
        for bar in _bars:
            bar.clear()
        say(f"compiling this network's kernels, some seconds; they are kept in {_cache.folder()} for the next time")

    _build.told = tell
    try:
        yield
    finally:
        _build.told = None
