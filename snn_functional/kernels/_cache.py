"""Where built kernels are kept: a folder on disk of which nothing is believed before it is looked at.

To load a library is to run what is in it, and to load one that was cut off kills the process. So a library is handed out only if

- it and its folder belong to the user or to root, and nobody else may write to them (where there are such owners: not on Windows);
- it is whole: its last 32 bytes are the checksum of what stands before them, which no loader minds.

It is written under another name, brought to the disk and moved into place: no process meets half a library, and two that build the
same one at once do not meet at all. The folder may be removed at any time; it is made again. The environment names it:

    SNN_FUNCTIONAL_CACHE    this folder; else $XDG_CACHE_HOME/snn_functional, else ~/.cache/snn_functional
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import time
from pathlib import Path


CHECKSUM = hashlib.sha256().digest_size
UNFINISHED = ".unfinished-"  # how a file's name begins while it is written
DAY = 86400  # seconds after which nobody is still at work on what is unfinished

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(
    os, "O_NONBLOCK", 0
)  # nor wait for a pipe that stands in a file's place


def folder() -> Path:
    """The folder that the environment names; it need not be there. Raises FileNotFoundError where the user has no home."""
    if own := os.environ.get("SNN_FUNCTIONAL_CACHE"):
        return Path(os.path.abspath(_home(own)))
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # the standard says that a relative one does not count
        cache = _home(os.path.join("~", ".cache"))
    return Path(cache, "snn_functional")


def find(name: str) -> Path | None:
    """The library of this name, None where there is none or it is damaged.

    Raises OSError, with the reason, where folder or file cannot be read or could have been written by somebody else.
    """
    place = folder()
    path = place / f"{name}.so"
    try:
        _trust(place, os.stat(place))
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | _NO_LINK)) as file:
            _trust(path, os.fstat(file.fileno()))
            content = file.read()
    except FileNotFoundError:
        return None
    return path if content[-CHECKSUM:] == _checksum(content[:-CHECKSUM]) else None


def keep(name: str, library: bytes) -> Path:
    """Puts a library into the folder, which is made if need be. Raises OSError, with the reason, where that cannot be."""
    place = folder()
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    _trust(place, os.stat(place))
    sweep(place, UNFINISHED)
    unfinished, path = place / f"{UNFINISHED}{secrets.token_hex(8)}", place / f"{name}.so"
    try:
        with open(unfinished, "xb", opener=lambda path, flags: os.open(path, flags | _NO_LINK, 0o644)) as file:
            file.write(library + _checksum(library))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    return path


def sweep(place: Path, prefix: str) -> None:
    """Removes what processes of this user left in a folder under such names when they were killed, a day ago or more."""
    for path in place.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if time.time() - status.st_mtime > DAY and (not hasattr(os, "geteuid") or status.st_uid == os.geteuid()):
                shutil.rmtree(path) if stat.S_ISDIR(status.st_mode) else path.unlink()


def _home(path: str) -> str:
    """`path` without its "~". Where nobody knows the home, Python leaves the "~" as the name of a folder right here."""
    full = os.path.expanduser(path)
    if path.startswith("~") and not os.path.isabs(full):
        raise FileNotFoundError("the user has no home folder")
    return full


def _trust(path: Path, status: os.stat_result) -> None:
    """Raises PermissionError if somebody else than the user and root can have written this."""
    if not hasattr(os, "geteuid"):
        return
    if status.st_uid not in (os.geteuid(), 0):
        raise PermissionError(
            f"{path} belongs to user {status.st_uid}, neither to this one ({os.geteuid()}) nor to root"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise PermissionError(f"others may write to {path} (mode {mode:o}; `chmod go-w` ends that)")
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        raise PermissionError(f"{path} is neither a folder nor a file")


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
