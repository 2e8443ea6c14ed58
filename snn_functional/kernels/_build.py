"""From C++ text to a function: built once by the system's compiler, kept on disk (`_cache.py`), loaded.

A library's name there is the hash of all that it depends on: text, flags, compiler, processor. It is built in a private temporary
folder, which is gone when it is loaded. Where the folder on disk cannot be used, it is loaded from there, and the process warns once.

Whatever goes wrong is NoCompiler, and is remembered: a text that failed is not tried again in this process, and after a
compiler that fails on a kernel that does nothing, no text is. The environment says:

    CXX                                the compiler; else c++, g++ or clang++
    SNN_FUNCTIONAL_COMPILE_SECONDS     how long it may take over one kernel, 120 if not given
    SNN_FUNCTIONAL_OPTIMIZE            how fast a kernel is made, from 0 to 3 as in -O3, 3 if not given: its numbers are the same
"""

import collections
import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ._cache import find as find_kept, keep, sweep


# What lets a compiler use all that this processor has: -march=native means something else, or nothing, to those for Arm.
NATIVE = {
    **dict.fromkeys(("x86_64", "amd64", "i386", "i686"), ["-march=native"]),
    **dict.fromkeys(("aarch64", "arm64", "armv7l", "armv8l"), ["-mcpu=native"]),
}
# No -ffast-math: spikes would flip and NaN break. The two -fno- flags only say that nobody reads errno or traps.
# Integers wrap around, as torch's do.
PORTABLE = "-O3 -std=c++17 -w -ffp-contract=off -fno-math-errno -fno-trapping-math -fwrapv".split()
LIBRARY = ["-shared"] if os.name == "nt" else ["-shared", "-fPIC", "-pthread"]
FLAGS = [*PORTABLE, *LIBRARY, *NATIVE.get(platform.machine().lower(), [])]

THREADS = Path(__file__).with_name("_threads.cpp").read_text()  # to stand in front of a text that has work for threads
PROCESS = os.getpid()  # that loads this; a forked child is another one

TRIVIAL = 'extern "C" void run(const long long*, const long long*) {}\n'
SECONDS = 120.0
PATIENCE = 4.0  # seconds after which it is looked whether the compiler hangs, or the kernel is long
SHORT = 6.0  # seconds for what takes any compiler a moment: its version, a kernel that does nothing
TEMPORARY = "snn_functional-build-"  # how a private folder's name begins
REMEMBERED = 1000  # functions and failures, the latest


class NoCompiler(Exception):
    """A text could not be made a function: there is no C++ compiler, it failed, or what it built cannot be loaded."""


class Unusable(NoCompiler):
    """The compiler is good for nothing."""


@dataclasses.dataclass
class Memory:
    """What this process knows: the compiler, or why there is none; functions, or why not, by hash; whether it warned."""

    compiler: tuple[str, ...] | str | None = None
    unusable: str = ""
    functions: collections.OrderedDict[bytes, Any] = dataclasses.field(default_factory=collections.OrderedDict)
    warned: bool = False


told: Callable[[], None] | None = None  # who wants to know that a compiler is about to be waited for
_memory = Memory()
_lock = threading.RLock()


def _new_lock() -> None:
    """In a forked child: the thread that held the lock does not exist there, and would never let go of it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def load(source: str) -> Callable[..., None]:
    """`run` of this source: takes pointers to arrays, first the numbers and the addresses of a call.

    The same text is the same function, and is built once, whoever asks, in however many threads. Raises NoCompiler.
    """
    key = hashlib.sha256(f"{os.environ.get('SNN_FUNCTIONAL_OPTIMIZE')}\0{source}".encode()).digest()
    with _lock:
        functions = _memory.functions
        if key not in functions:
            try:
                functions[key] = _function(source)
            except NoCompiler as error:
                functions[key] = str(error)
            except OSError as error:
                functions[key] = f"a kernel could not be built: {error}"
            if len(functions) > REMEMBERED:
                functions.popitem(last=False)
        functions.move_to_end(key)
        found = functions[key]
        if isinstance(found, str):
            raise NoCompiler(found)
        return found


def find() -> tuple[str, ...]:
    """The compiler's command and, last, its version. Looked for once in a process. Raises NoCompiler."""
    with _lock:
        if _memory.compiler is None:
            try:
                _memory.compiler = _find()
            except NoCompiler as error:
                _memory.compiler = str(error)
        if isinstance(_memory.compiler, str):
            raise NoCompiler(_memory.compiler)
        return _memory.compiler


def _find() -> tuple[str, ...]:
    given = os.environ.get("CXX", "")
    for name in (given, "c++", "g++", "clang++"):
        try:
            command = shlex.split(name, posix=os.name == "posix")
        except ValueError as error:
            raise NoCompiler(
                f"CXX={name!r} is no command ({error}), so there is no C++ compiler; one is, for example, CXX='g++ -B /usr/bin'"
            ) from None
        program = shutil.which(command[0]) if command else None
        if program:
            with contextlib.suppress(NoCompiler, OSError):
                status, version = _run([program, *command[1:], "--version"], min(_seconds(), SHORT))
                if status == 0:
                    return (os.path.abspath(program), *command[1:], version)
    looked_for = ", ".join(filter(None, (given, "c++", "g++", "clang++")))
    raise NoCompiler(f"no C++ compiler was found (looked for {looked_for}; set CXX, or install g++ or clang++)")


def _function(source: str) -> Any:
    """`run`, from the cache or built. Raises NoCompiler or OSError."""
    command = find()
    parts = [source, *_flags(), *command, os.path.realpath(command[0]), _processor()]
    name = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]
    trouble = None
    try:
        if path := find_kept(name):
            with contextlib.suppress(OSError):  # whole, but of another system: built again
                return _opened(path)
    except OSError as error:
        trouble = error
    with _private() as folder:
        built = _compiled(command, source, folder)
        if trouble is None:
            try:
                kept = keep(name, built.read_bytes())
                try:
                    return _opened(kept)
                except OSError:
                    kept.unlink()
                    raise
            except OSError as error:
                trouble = error
        try:
            function = _opened(built)
        except OSError as error:
            raise NoCompiler(f"what {command[0]} built cannot be loaded: {error}") from None
    if not _memory.warned:
        _memory.warned = True
        warnings.warn(
            f"kernels are not kept on disk: {trouble}. Each process builds its own, about a second each. Set SNN_FUNCTIONAL_CACHE to a "
            "folder that you alone can write to, from which libraries can be loaded.",
            stacklevel=_level(),
        )
    return function


def _level() -> int:
    """How many calls above the caller the user's own code is, for a warning to point at."""
    frame, level, ours = sys._getframe(1), 1, (__name__.partition(".")[0], "torch")
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ours:
        frame, level = frame.f_back, level + 1
    return level


def _compiled(command: tuple[str, ...], source: str, folder: Path) -> Path:
    """The library, in this folder. Raises NoCompiler."""
    if _memory.unusable:
        raise NoCompiler(_memory.unusable)
    if told is not None:
        told()
    try:
        return _compile(command, source, folder, _seconds(), lambda: _trial(command, folder))
    except Unusable as error:
        _memory.unusable = str(error)
        raise
    except NoCompiler as error:
        try:
            _trial(command, folder)
        except Unusable:
            _memory.unusable = str(error)
        raise


def _trial(command: tuple[str, ...], folder: Path) -> None:
    """Raises Unusable if a compiler fails on a kernel that does nothing."""
    apart = folder / "trial"
    try:
        apart.mkdir(exist_ok=True)
        _compile(command, TRIVIAL, apart, min(_seconds(), SHORT))
    except (NoCompiler, OSError) as error:
        raise Unusable(f"{error} (it was asked for a kernel that does nothing)") from None


def _compile(
    command: tuple[str, ...], source: str, folder: Path, seconds: float, doubt: Callable[[], None] | None = None
) -> Path:
    text, built, said = folder / "kernel.cpp", folder / "kernel.so", folder / "said"
    text.write_text(source, encoding="utf-8")
    built.unlink(missing_ok=True)
    math = [] if os.name == "nt" else ["-lm"]
    # The compiler's own files go the way of the folder, and its words into a file: a pipe may be held open by what it leaves running.
    with open(said, "wb") as words:
        status, _ = _run(
            [*command[:-1], *_flags(), "-o", str(built), str(text), *math],
            seconds,
            doubt,
            stdout=words,
            env=os.environ | {"TMPDIR": str(folder)},
        )
    words = said.read_text(encoding="utf-8", errors="replace").strip()[:2000].replace(f"{folder}{os.sep}", "")
    if status:
        raise NoCompiler(f"{command[0]} failed: {words or f'exit status {status}'}")
    if not built.is_file() or not _whole(built.read_bytes()):
        raise NoCompiler(f"{command[0]} ended well, but wrote no library that is whole")
    return built


def _run(
    command: Sequence[str],
    seconds: float,
    doubt: Callable[[], None] | None = None,
    stdout: Any = subprocess.PIPE,
    env: Any = None,
) -> tuple[int, str]:
    """A command's exit status and words. Raises NoCompiler where it takes too long: then it and all it started are killed.

    `doubt` is called once if it takes a while, and may raise.
    """
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=os.name == "posix",
    )
    try:
        try:
            words, _ = process.communicate(timeout=min(seconds, PATIENCE) if doubt else seconds)
        except subprocess.TimeoutExpired:
            if not doubt or seconds <= PATIENCE:
                raise
            doubt()
            words, _ = process.communicate(timeout=seconds - PATIENCE)
    except BaseException as error:  # an interrupt too: in its own session the compiler does not hear of it
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()
        if isinstance(error, subprocess.TimeoutExpired):
            raise NoCompiler(f"{command[0]} did not end within {seconds:g} s and was stopped") from None
        raise
    return process.returncode, (words or b"").decode(errors="replace")


def _flags() -> list[str]:
    """What the compiler is told. Raises NoCompiler if the environment gives no level of optimization."""
    given = os.environ.get("SNN_FUNCTIONAL_OPTIMIZE")
    if given and given not in ("0", "1", "2", "3"):
        raise NoCompiler(f"SNN_FUNCTIONAL_OPTIMIZE={given!r} is no level of optimization: give 0, 1, 2 or 3")
    return [*FLAGS, f"-O{given}"] if given else FLAGS  # of several levels the last one counts


def _seconds() -> float:
    """How long a compiler may take. Raises NoCompiler if the environment does not give a number of seconds."""
    given = os.environ.get("SNN_FUNCTIONAL_COMPILE_SECONDS") or SECONDS
    with contextlib.suppress(ValueError):
        if 0 < float(given) < 1e6:
            return float(given)
    raise NoCompiler(f"SNN_FUNCTIONAL_COMPILE_SECONDS={given!r} is no number of seconds; one is, for example, 120")


def _whole(library: bytes) -> bool:
    """Is all there that the loader would map? To touch what is missing kills the process (SIGBUS). Known of Linux on 64 bits only."""
    if sys.platform != "linux" or library[4:5] == b"\1":
        return bool(library)
    try:
        magic, start, size, count = struct.unpack_from("=4s28xQ14xHH", library)
        parts = [struct.unpack_from("=8xQ16xQ", library, start + i * size) for i in range(count)]
    except struct.error:
        return False
    return magic == b"\x7fELF" and bool(parts) and all(at + length <= len(library) for at, length in parts)


def _opened(path: Path) -> Any:
    """`run` of a library; this is unloaded when nobody has the function any more. Raises OSError."""
    library = ctypes.CDLL(str(path))
    if sys.platform != "win32":
        from _ctypes import dlclose

        weakref.finalize(library, dlclose, library._handle).atexit = False
    try:
        function = library["run"]  # as an attribute the library would keep it, and it the library
    except AttributeError as error:
        raise OSError(str(error)) from None
    if hasattr(library, "in_process"):
        library["in_process"](ctypes.c_int64(PROCESS))
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p]  # more may be given, as arrays
    return function


@contextlib.contextmanager
def _private() -> Iterator[Path]:
    """A folder that only this user can enter. Not tempfile's own: a forked child would remove its parent's when it ends."""
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY))
    sweep(folder.parent, TEMPORARY)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _processor() -> str:
    """What a library built for this processor may rely on. Where nobody tells, this computer's name, which a shared home does not share."""
    names = {
        "flags",
        "Features",
        "CPU implementer",
        "CPU part",
        "isa",
        "features",
        "cpu",
    }  # x86, Arm twice, RISC-V, Z, Power
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        found = {" ".join(line.split()) for line in lines if line.partition(":")[0].strip() in names}
        if found:
            return "\n".join([platform.machine(), *sorted(found)])
    return " ".join([platform.machine(), platform.processor(), platform.node()])
