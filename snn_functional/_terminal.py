"""The command line's lines: what is printed, what is read from an option, and errors, which are one readable line each."""

import argparse
import contextlib
import math
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn


def say(text: str) -> None:
    """Print a line at once, what this terminal cannot show as escapes. Raises OSError, in one sentence."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        # Python would try again to write what it still holds when it ends, and fail again.
        with contextlib.suppress(OSError, ValueError):
            number, nowhere = sys.stdout.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
        raise OSError(f"standard output cannot be written: {error.strerror}") from error


def sentence(error: Exception) -> str:
    """What went wrong, without Python's own way to put it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def _readable(message: str) -> str:
    """On one line, what is no character of a text as escapes, and what came in too long cut in the middle."""
    message = " ".join(message.split())
    message = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    message = re.sub(r"\S{161,}", lambda word: f"{word[0][:100]}...{word[0][-40:]}", message)
    return message if len(message) <= 600 else f"{message[:400]} ... {message[-180:]}"


class Parser(argparse.ArgumentParser):
    """Refuses with one line and status 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {_readable(message)}", file=sys.stderr)
        raise SystemExit(2)


def at_least(kind: Callable[[str], Any], least: int, what: str, most: int = 2**63 - 1) -> Callable[[str], Any]:
    """A type for argparse: a number in those bounds, 0 only where it counts."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if value > most:
            raise argparse.ArgumentTypeError(f"{text!r}: expected at most {most}")
        if not value >= least or (kind is float and value == 0):
            raise argparse.ArgumentTypeError(f"{text!r}: expected {what}")
        return value

    return parse
