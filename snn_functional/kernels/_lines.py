"""The user's own line in what is read of a step: what a message shows of it."""

import functools
import linecache
import os
import sys
from typing import Any

import torch


def users_line() -> tuple[str, int] | None:
    """The file and the line of the step that is being read: of the user's code in it, else of this library's."""
    frame: Any = sys._getframe(1)
    ours = None
    while frame is not None and frame.f_code.co_filename != READING:
        filename = frame.f_code.co_filename
        if _is_users(filename):
            return filename, frame.f_lineno
        if ours is None and _is_a_steps(filename):
            ours = filename, frame.f_lineno
        frame = frame.f_back
    return ours


def line_of(error: BaseException) -> str:
    """The user's line that raised it."""
    import traceback

    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    return place((frames[-1].filename, frames[-1].lineno or 0) if frames else None)


PACKAGE = os.path.dirname(os.path.dirname(__file__))
READING = os.path.join(PACKAGE, "_scan", "_reading.py")  # what is above is the call of `scan`, and not of the step
ROOMS = tuple(os.path.join(PACKAGE, room, "") for room in ("kernels", "_scan", "_identity", "snn", "_functionalize"))


@functools.cache
def _is_users(filename: str) -> bool:
    return not filename.startswith((PACKAGE, os.path.dirname(torch.__file__), "<string>", "<eval_with_key>"))


@functools.cache
def _is_a_steps(filename: str) -> bool:
    return filename.startswith(PACKAGE) and not filename.startswith(ROOMS)


def place(where: tuple[str, int] | None) -> str:
    """How a message shows a line."""
    if where is None:
        return ""
    filename, line = where
    text = linecache.getline(filename, line).strip()
    return f" ({os.path.basename(filename)}:{line}{': ' + text if text else ''})"
