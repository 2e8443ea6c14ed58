"""The user's own line in what is read of a step: what a message shows of it."""

import functools
import linecache
import os
import sys
from typing import Any

import torch


def users_line() -> tuple[str, int] | None:
    """The file and the line of the user's code that is being run, if there is one."""
    frame: Any = sys._getframe(1)
    while frame is not None and not _is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame else None


def line_of(error: BaseException) -> str:
    """The user's line that raised it."""
    import traceback

    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    return place((frames[-1].filename, frames[-1].lineno or 0) if frames else None)


@functools.cache
def _is_users(filename: str) -> bool:
    ours = os.path.dirname(os.path.dirname(__file__))
    mine = filename.startswith(tuple(os.path.join(ours, room) for room in ("kernels", "_scan", "_identity")))
    return not (mine or filename.startswith((os.path.dirname(torch.__file__), "<string>", "<eval_with_key>")))


def place(where: tuple[str, int] | None) -> str:
    """How a message shows a line."""
    if where is None:
        return ""
    filename, line = where
    text = linecache.getline(filename, line).strip()
    return f" ({os.path.basename(filename)}:{line}{': ' + text if text else ''})"
