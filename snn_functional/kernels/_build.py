"""From C++ text to a function: built once by the system's compiler, kept on disk, loaded.

The name of a library is the hash of all it depends on: text, flags, compiler, processor. A library is written under another name
and moved into place, so processes that build the same one at once do not meet. Where the cache cannot be used (read-only,
unreadable) a temporary one is.

    SNN_FUNCTIONAL_CACHE    the cache's folder; else $XDG_CACHE_HOME/snn_functional, else ~/.cache/snn_functional
    CXX                     the compiler; else c++, g++ or clang++
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


# No -ffast-math: spikes would flip and NaN break. The two -fno- flags only say that nobody reads errno or traps.
# Integers wrap around, as torch's do.
FLAGS = """-O3 -march=native -std=c++17 -shared -fPIC -pthread -w -ffp-contract=off -fno-math-errno -fno-trapping-math
-fwrapv""".split()


class NoCompiler(Exception):
    """There is no C++ compiler, or it failed; the message has its words."""


def load(source: str) -> Callable[[Any, Any], None]:
    """`run` of this source: takes two arrays of integers, the numbers and the addresses of a call."""
    compiler = find()
    key = hashlib.sha256("\0".join([source, *FLAGS, *compiler, _processor()]).encode()).hexdigest()[:32]
    folder = _folder()
    library, function = folder / f"{key}.so", None
    for attempt in (0, 1):
        if not library.exists() or attempt:
            _compile(compiler, source, library)
        try:
            function = ctypes.CDLL(str(library)).run
            break
        except OSError:  # a damaged file: build it again, once
            if attempt:
                raise
    assert function is not None
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return function


@functools.cache
def find() -> tuple[str, ...]:
    """The compiler's command and its version. Raises NoCompiler."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        command = shlex.split(name)
        if shutil.which(command[0]):
            answer = subprocess.run([*command, "--version"], capture_output=True, text=True)
            if answer.returncode == 0:
                return (*command, answer.stdout)
    raise NoCompiler("no C++ compiler was found (set CXX, or install g++)")


def _compile(compiler: tuple[str, ...], source: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        text, built = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
        text.write_text(source)
        done = subprocess.run(
            [*compiler[:-1], *FLAGS, "-o", str(built), str(text), "-lm"], capture_output=True, text=True
        )
        if done.returncode:
            raise NoCompiler(f"{compiler[0]} failed: {done.stderr.strip()[:2000]}")
        os.replace(built, library)


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    except OSError:
        return platform.machine() + platform.processor()


@functools.cache
def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(os.environ.get("SNN_FUNCTIONAL_CACHE") or os.path.join(cache, "snn_functional"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="snn_functional-"))
