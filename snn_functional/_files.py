"""Files that are whole or are not there, in a folder that one program at a time writes to.

    with held(folder, names):                             no other run writes here; what a killed one left is cleared away
        write(folder / "model.pt", content)               the old bytes or the new ones, whenever the power fails
    content = opened(seal(content))                       the same bytes, or ValueError if any of them changed

This file knows the operating system and nothing of training, and imports nothing but Python's own library.
"""

import contextlib
import hashlib
import math
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


DAY = 24 * 60 * 60.0
_SEAL = b"\nsha256 "
_SEALED = len(_SEAL) + 64


def write(path: Path, content: bytes) -> None:
    """Put `content` there: beside it, onto the disk, then moved over what was there, which is untouched if any of this fails.

    Raises OSError, whose text is one sentence that names the path.
    """
    # A name of its own, so that two programs that could not see each other's lock never write into one file.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else the name could reach the disk before the bytes do
        os.replace(unfinished, path)
        _settle(path.parent)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:  # after Ctrl-C too; where all went well nothing has this name
        with contextlib.suppress(OSError):
            unfinished.unlink()


def rewrite(path: Path) -> None:
    """The same bytes once more: so a program learns before its work whether there will be room for them after it. Raises OSError."""
    write(path, path.read_bytes())


def unfinished(folder: Path, names: Sequence[str]) -> list[Path]:
    """What a run that was killed while it wrote files of these names left behind there."""
    return [path for name in names for path in folder.glob(f".{name}.*unfinished") if path.is_file()]


@contextlib.contextmanager
def held(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """The folder, which is there, is this program's alone; dead runs' unfinished files of these names are deleted.

    The lock is the operating system's, on the folder itself: it leaves no file, and ends with the process however that ends.
    Where there is none (Windows, some network drives) two runs may hold one folder, and files a day old are taken for dead.

    Raises BlockingIOError if a run that is alive holds it.
    """
    with contextlib.ExitStack() as stack:
        alone = _lock(folder, stack)
        for path in unfinished(folder, names):
            with contextlib.suppress(OSError):  # a folder that cannot be written to says so when the run begins
                if alone or time.time() - path.stat().st_mtime > DAY:
                    path.unlink()
        yield


def memory() -> float:
    """Bytes of memory that this machine has; infinite where it does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def seal(content: bytes) -> bytes:
    """`content`, and a checksum of it at the end, where torch, which finds its way from the front, never reads it."""
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def opened(sealed: bytes) -> bytes:
    """What was sealed. Raises ValueError if it is not, to the bit, what `seal` gave."""
    content = sealed[:-_SEALED]
    if seal(content) != sealed:
        raise ValueError(
            "its checksum is missing or wrong: it was changed or cut short, or another version of this library wrote it"
        )
    return content


def _lock(folder: Path, stack: contextlib.ExitStack) -> bool:
    """Whether the folder could be locked, until the stack is closed."""
    if sys.platform == "win32":
        return False
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"--out {folder}: another run is writing there; wait until it ends, or give another --out"
        ) from None
    except OSError:  # a file system without locks
        return False
    return True


def _settle(folder: Path) -> None:
    """See to it that names that were moved in this folder are on the disk as well, where a folder can be opened at all."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):  # the new bytes are there already; some file systems refuse this
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
