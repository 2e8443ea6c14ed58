"""Calls of an `autograd.Function`, which has a derivative that is not that of its operations. torch tells nobody of a call: it is seen on
Python's stack while it lasts, and in the graph when it is over."""

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def call_of_a_function(within: Any) -> Any:
    """The frame of the outermost call of an `autograd.Function` below the one that runs the code `within`; None outside of any."""
    frame, found = sys._getframe(1), None
    while frame is not None and frame.f_code is not within:
        found = frame if frame.f_code is _APPLY else found
        frame = frame.f_back
    return found


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    return _OWN.__get__(None, cls)(*args, **kwargs)


# From torch 2.14 on it is not written in Python, and has no frame: while a step is read, one that has stands for it.
_FUNCTION: Any = torch.autograd.Function
_OWN: Any = vars(_FUNCTION)["apply"]
_IN_PYTHON = hasattr(_OWN, "__func__")
_APPLY = _OWN.__func__.__code__ if _IN_PYTHON else _apply.__code__
_lock, _readers = threading.Lock(), [0]


@contextlib.contextmanager
def calls_seen() -> Iterator[None]:
    """A context in which calls are seen."""
    if _IN_PYTHON:
        yield
        return
    with _lock:
        _readers[0] += 1
        _FUNCTION.apply = classmethod(_apply)
    try:
        yield
    finally:
        with _lock:
            _readers[0] -= 1
            if not _readers[0]:
                _FUNCTION.apply = _OWN


def rules() -> set[type]:
    """Every `autograd.Function` that there is."""
    found, waiting = set[type](), [torch.autograd.Function]
    while waiting:
        new = {*waiting.pop().__subclasses__()} - found
        found |= new
        waiting += new
    return found


def rules_of_their_own(results: Sequence[Tensor]) -> list[type]:
    """The `autograd.Function`s that the results come through."""
    waiting, seen, found = [x.grad_fn for x in results if x.grad_fn is not None], set(), []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.append(type(node)._forward_cls)  # pyright: ignore[reportAttributeAccessIssue]
        waiting += [before for before, _ in node.next_functions if before is not None]
    return found
