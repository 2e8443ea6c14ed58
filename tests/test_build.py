"""From text to function: the compiler that fails, the folder on disk that is damaged, full, somebody else's or gone.

Whatever happens, a kernel does what its text says, or there is none; and nothing is left behind.
"""

import ctypes
import gc
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from helpers import needs_kernels

import snn_functional as snf
from snn_functional.kernels import _build, _cache, _kernels
from snn_functional.kernels._build import load, NoCompiler


pytestmark = needs_kernels

SEVEN, EIGHT = (f'extern "C" void run(long long* a, long long*) {{ a[0] = {n}; }}\n' for n in (7, 8))


def value(function):
    out = (ctypes.c_int64 * 1)()
    function(out, out)
    return out[0]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Each test is a process that knows nothing yet. Nothing may be left where it builds."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before, _build._memory = _build._memory, _build.Memory()
    yield folder
    _build._memory = before
    assert not list(folder.iterdir())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("SNN_FUNCTIONAL_CACHE", str(folder))
    return folder


def forget():
    """As in another process: libraries that nobody has are unloaded, or the loader would know them again by their path."""
    _build._memory = _build.Memory()
    gc.collect()


def compiler(path, monkeypatch, script):
    """The environment's compiler is this script; `real` is one that works, and `log` has a line for each time that it was run."""
    log, real = path.with_name("log"), " ".join(_build.find()[:-1])
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo script 1.0; exit; fi\necho >> {log}\nreal="{real}"\n{script}\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    forget()
    return log


def of_somebody_else(path, monkeypatch):
    if os.geteuid() == 0:
        os.chown(path, 54321, -1)
    else:
        somebody = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: somebody)


# The folder on disk


def test_a_library_is_kept_and_found_again(cache, monkeypatch):
    assert value(load(SEVEN)) == 7 and load(SEVEN) is load(SEVEN)
    (library,) = cache.iterdir()
    assert library.stat().st_mode & 0o022 == 0 == cache.stat().st_mode & 0o022
    forget()
    monkeypatch.setattr(_build, "_compile", None)
    assert value(load(SEVEN)) == 7


@pytest.mark.parametrize(
    "damage",
    [lambda x: x[:4096], lambda x: b"", lambda x: x[:-1], lambda x: x + b"x", lambda x: x[:2000] + b"?" + x[2001:]],
    ids=["cut off", "empty", "a byte less", "a byte more", "a byte changed"],
)
def test_a_damaged_library_is_built_again(damage, cache, monkeypatch):
    load(SEVEN)
    (library,) = cache.iterdir()
    whole = library.read_bytes()
    library.unlink()  # not written over: this process has it loaded
    library.write_bytes(damage(whole))
    forget()
    assert value(load(SEVEN)) == 7 and list(cache.iterdir()) == [library]
    assert len(library.read_bytes()) == len(whole) and _cache.find(library.stem) == library


def test_a_library_of_another_system_is_built_again(cache, monkeypatch):
    load(SEVEN)
    (library,) = cache.iterdir()
    _cache.keep(library.stem, b"\x7fELF, but of a system that is not this one")
    forget()
    assert value(load(SEVEN)) == 7 and b"of a system" not in library.read_bytes()


def test_what_a_library_depends_on_is_in_its_name(cache, monkeypatch):
    *command, _ = _build.find()
    changes = {
        "_processor": lambda: "another",
        "FLAGS": [*_build.FLAGS, "-g0"],
        "_flags": lambda: [*_build.FLAGS, "-O1"],
        "find": lambda: (*command, "another version"),
    }
    load(SEVEN)
    load(EIGHT)
    for name, changed in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(_build, name, changed)
            forget()
            load(SEVEN)
    assert len(list(cache.iterdir())) == 6


def evil(cache, monkeypatch):
    """A library that is whole, under the name of another one."""
    load(EIGHT)
    (path,) = cache.iterdir()
    library = path.read_bytes()[: -_cache.CHECKSUM]
    path.unlink()
    load(SEVEN)
    (path,) = cache.iterdir()
    _cache.keep(path.stem, library)
    forget()
    assert value(load(SEVEN)) == 8  # it would be believed
    forget()
    return path


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o775, 0o757])
def test_a_folder_that_others_may_write_to_is_not_used(mode, cache, monkeypatch):
    evil(cache, monkeypatch)
    cache.chmod(mode)
    with pytest.warns(
        UserWarning, match=rf"others may write to .*cache \(mode {mode:o}; `chmod go-w` ends that\)"
    ) as seen:
        assert value(load(SEVEN)) == 7 and value(load(EIGHT)) == 8
    assert len(seen) == 1 and seen[0].filename == __file__
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("which", ["folder", "file"])
def test_what_belongs_to_somebody_else_is_not_used(which, cache, monkeypatch):
    path = evil(cache, monkeypatch)
    of_somebody_else(cache if which == "folder" else path, monkeypatch)
    with pytest.warns(UserWarning, match="belongs to user"):
        assert value(load(SEVEN)) == 7


@pytest.mark.parametrize("kind", ["a file that others may write to", "a link", "a pipe"])
def test_a_file_that_is_not_ours_alone_is_not_loaded(kind, cache, tmp_path, monkeypatch):
    path = evil(cache, monkeypatch)
    if kind == "a link":
        path.rename(tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")
    elif kind == "a pipe":
        path.unlink()
        os.mkfifo(path, 0o600)
    else:
        path.chmod(0o666)
    with pytest.warns(UserWarning, match="kernels are not kept on disk"):
        assert value(load(SEVEN)) == 7


def test_without_a_home_nothing_is_written_here(tmp_path, monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME", "SNN_FUNCTIONAL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    before = set(tmp_path.rglob("*"))
    with pytest.warns(UserWarning, match="the user has no home folder") as seen:
        assert value(load(SEVEN)) == 7
        monkeypatch.setenv("SNN_FUNCTIONAL_CACHE", "~/kernels")
        assert value(load(EIGHT)) == 8
    assert len(seen) == 1 and set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({"SNN_FUNCTIONAL_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"SNN_FUNCTIONAL_CACHE": "~/a"}, "/h/a"),
        ({"SNN_FUNCTIONAL_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/snn_functional"),
        ({"XDG_CACHE_HOME": "b"}, "/h/.cache/snn_functional"),
        ({}, "/h/.cache/snn_functional"),
    ],
)
def test_the_environment_names_the_folder(environment, expected, monkeypatch):
    for name in ("XDG_CACHE_HOME", "SNN_FUNCTIONAL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, text in ({"HOME": "/h"} | environment).items():
        monkeypatch.setenv(name, text)
    assert _cache.folder() == Path(expected)


def test_a_full_disk(cache, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert value(load(SEVEN)) == 7
    assert not list(cache.iterdir())


def test_a_folder_that_libraries_cannot_be_loaded_from(cache, monkeypatch):
    opened = _build._opened

    def noexec(path):
        if path.parent == cache:
            raise OSError(f"{path}: failed to map segment from shared object")
        return opened(path)

    monkeypatch.setattr(_build, "_opened", noexec)
    with pytest.warns(UserWarning, match="failed to map segment"):
        assert value(load(SEVEN)) == 7
    assert not list(cache.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SNN_FUNCTIONAL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="Not a directory"):
        assert value(load(SEVEN)) == 7


def test_a_folder_removed_while_the_process_lives_is_made_again(cache):
    load(SEVEN)
    shutil.rmtree(cache)
    assert value(load(EIGHT)) == 8 and value(load(SEVEN)) == 7
    assert len(list(cache.iterdir())) == 1


def test_what_a_killed_process_left_is_swept_up(cache, temporary):
    cache.mkdir()
    for parent, prefix in ((cache, _cache.UNFINISHED), (temporary, _build.TEMPORARY)):
        for name in "old", "new":
            path = parent / f"{prefix}{name}"
            path.mkdir() if parent == temporary else path.write_text("")
            if name == "old":
                os.utime(path, (time.time() - 2 * _cache.DAY,) * 2)
    load(SEVEN)
    assert len(list(cache.iterdir())) == 2 and not (cache / f"{_cache.UNFINISHED}old").exists()
    (left,) = temporary.iterdir()
    assert left.name == f"{_build.TEMPORARY}new"
    left.rmdir()


def test_no_temporary_folder(cache, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    load(SEVEN)
    forget()
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    assert value(load(SEVEN)) == 7  # needs none
    with pytest.raises(NoCompiler, match="No space left on device"):
        load(EIGHT)


# The compiler

JUNK = {
    "fails": ("echo boom >&2; exit 1", "failed: boom"),
    "fails without a word": ("exit 3", "failed: exit status 3"),
    "says what is not text": (r"printf '\377\376'; exit 1", "failed: "),
    "writes nothing": ("exit 0", "wrote no library that is whole"),
    "writes a text": ('while [ "$1" != -o ]; do shift; done; echo junk > "$2"', "wrote no library that is whole"),
    "writes half": (
        '$real "$@"; while [ "$1" != -o ]; do shift; done; head -c 4096 "$2" > "$2.half"; mv "$2.half" "$2"',
        "wrote no library that is whole",
    ),
    "writes no run": (
        'while [ "$1" != -o ]; do shift; done; echo "int f;" > "$2.cpp"; $real -shared -fPIC -o "$2" "$2.cpp"',
        "cannot be loaded: .*undefined symbol: run",
    ),
    "is stopped": ("kill -9 $$", "failed: exit status -9"),
}


@pytest.mark.parametrize("kind", JUNK)
def test_a_compiler_that_is_no_good_is_not_tried_again(kind, cache, tmp_path, monkeypatch):
    script, words = JUNK[kind]
    log = compiler(tmp_path / "cxx", monkeypatch, script)
    for source in (SEVEN, SEVEN, EIGHT, SEVEN):
        with pytest.raises(NoCompiler, match=words):
            load(source)
    # Once for the text and once for a kernel that does nothing; a library that cannot be loaded says nothing of another text's.
    assert len(log.read_text()) == 2
    assert not cache.exists() or not list(cache.iterdir())


def test_a_text_that_no_compiler_takes_says_nothing_of_others(cache, tmp_path, monkeypatch):
    log = compiler(tmp_path / "cxx", monkeypatch, 'exec $real "$@"')
    for _ in range(3):
        with pytest.raises(NoCompiler, match="kernel.cpp:1:.*error") as raised:
            load("this is no C++\n")
    assert "/temporary/" not in str(raised.value)
    assert len(log.read_text()) == 2
    assert value(load(SEVEN)) == 7


def gone(pid):
    """Does a process not run any more? One that nobody waited for stands as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_compiler_that_hangs_is_stopped_with_all_it_started(cache, tmp_path, monkeypatch):
    pids = tmp_path / "pids"
    log = compiler(tmp_path / "cxx", monkeypatch, f"sleep 1000 & echo $! $$ >> {pids}; wait")
    monkeypatch.setenv("SNN_FUNCTIONAL_COMPILE_SECONDS", "0.5")
    for source in (SEVEN, SEVEN, EIGHT):
        with pytest.raises(NoCompiler, match="cxx did not end within 0.5 s and was stopped"):
            load(source)
    found = pids.read_text().split()
    until = time.time() + 10
    while not all(map(gone, found)) and time.time() < until:
        time.sleep(0.01)
    assert len(found) == 4 and all(map(gone, found)) and len(log.read_text()) == 2


def test_a_compiler_that_hangs_over_everything_is_not_waited_for(cache, tmp_path, monkeypatch):
    compiler(tmp_path / "cxx", monkeypatch, "sleep 1000")
    monkeypatch.setattr(_build, "PATIENCE", 0.1)
    monkeypatch.setattr(_build, "SHORT", 0.3)
    _build._memory.compiler = (str(tmp_path / "cxx"), "script 1.0")
    for source in (SEVEN, EIGHT):
        with pytest.raises(
            NoCompiler, match=r"did not end within 0.3 s and was stopped \(it was asked for a kernel that"
        ):
            load(source)


def test_a_kernel_that_is_long_is_waited_for(cache, tmp_path, monkeypatch):
    log = compiler(tmp_path / "cxx", monkeypatch, 'case "$*" in *trial*) ;; *) sleep 1;; esac; exec $real "$@"')
    monkeypatch.setattr(_build, "PATIENCE", 0.1)
    assert value(load(SEVEN)) == 7 and len(log.read_text()) == 2


def test_a_compiler_that_hangs_when_asked_for_its_version_is_passed_over(cache, tmp_path, monkeypatch):
    path = tmp_path / "cxx"
    path.write_text("#!/bin/sh\nsleep 1000\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setattr(_build, "SHORT", 0.3)
    assert _build.find()[0] != str(path) and value(load(SEVEN)) == 7


def test_an_interrupt_stops_the_compiler(cache, tmp_path, monkeypatch):
    pids = tmp_path / "pids"
    compiler(tmp_path / "cxx", monkeypatch, f"echo $$ >> {pids}; sleep 1000")

    def interrupted(self, timeout):
        while not pids.exists() or not pids.read_text().strip():
            time.sleep(0.01)
        raise KeyboardInterrupt

    _build.find()
    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(SEVEN)
    assert gone(pids.read_text().strip())


@pytest.mark.parametrize(
    "command, words",
    [('g++ "', "CXX='g\\+\\+ \"' is no command \\(No closing quotation\\)"), ("'", "is no command")],
)
def test_a_command_with_an_open_quotation(command, words, monkeypatch):
    monkeypatch.setenv("CXX", command)
    for _ in range(2):
        with pytest.raises(NoCompiler, match=words):
            _build.find()
    with pytest.raises(NoCompiler, match=words):
        load(SEVEN)


@pytest.mark.parametrize("command", ["", "   ", "no-such-compiler"])
def test_no_command_is_passed_over(command, cache, monkeypatch):
    monkeypatch.setenv("CXX", command)
    assert value(load(SEVEN)) == 7
    forget()
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(
        NoCompiler, match=r"no C\+\+ compiler was found \(looked for .*c\+\+, g\+\+, clang\+\+; set CXX"
    ):
        load(EIGHT)


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_seconds_that_are_none(seconds, cache, monkeypatch):
    _build.find()
    monkeypatch.setenv("SNN_FUNCTIONAL_COMPILE_SECONDS", seconds)
    with pytest.raises(NoCompiler, match=f"SNN_FUNCTIONAL_COMPILE_SECONDS='{seconds}' is no number of seconds"):
        load(SEVEN)


def test_the_environment_says_how_fast_a_kernel_is_made(cache, tmp_path, monkeypatch):
    log = compiler(tmp_path / "cxx", monkeypatch, f'echo "$*" >> {tmp_path}/said; exec $real "$@"')
    levels = []
    for level in (None, "", "0", "3", "0"):
        monkeypatch.setenv("SNN_FUNCTIONAL_OPTIMIZE", level or "")
        if level is None:
            monkeypatch.delenv("SNN_FUNCTIONAL_OPTIMIZE")
        assert value(load(SEVEN)) == 7
    for command in (tmp_path / "said").read_text().splitlines():
        assert set(_build.FLAGS) <= set(command.split())
        levels.append([flag for flag in command.split() if flag.startswith("-O")][-1])
    assert levels == ["-O3", "-O0", "-O3"] and len(log.read_text()) == 3
    monkeypatch.setenv("SNN_FUNCTIONAL_OPTIMIZE", "fast")
    with pytest.raises(
        NoCompiler, match="SNN_FUNCTIONAL_OPTIMIZE='fast' is no level of optimization: give 0, 1, 2 or 3"
    ):
        load(EIGHT)


def test_the_processor_is_told_by_all_its_cores(monkeypatch):
    cores = "processor\t: {}\nBogoMIPS\t: {}\nFeatures\t: fp asimd\nCPU part\t: {}\n"
    text = cores.format(0, 1.5, "0xd05") + cores.format(1, 2.5, "0xd0a")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    found = _build._processor.__wrapped__().splitlines()
    assert found[1:] == ["CPU part : 0xd05", "CPU part : 0xd0a", "Features : fp asimd"]


# Threads, processes, and what is left


def test_threads_that_ask_for_one_text_build_it_once(cache, tmp_path, monkeypatch):
    log = compiler(tmp_path / "cxx", monkeypatch, 'exec $real "$@"')
    found = []
    threads = [threading.Thread(target=lambda: found.append(load(SEVEN))) for _ in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert len(set(map(id, found))) == 1 and len(found) == 8 and len(log.read_text()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process has mapped")
def test_a_function_that_nobody_has_is_unloaded(cache, monkeypatch):
    function = load(SEVEN)
    mapped = lambda: str(cache) in Path("/proc/self/maps").read_text()
    forget()
    assert mapped() and value(function) == 7
    del function
    gc.collect()
    assert not mapped()
    monkeypatch.setattr(_build, "REMEMBERED", 2)
    for n in range(4):
        with pytest.raises(NoCompiler):
            load(f"no C++ {n}\n")
    assert len(_build._memory.functions) == 2


@pytest.fixture
def anew(monkeypatch):
    """A scan, and its explanation, in a process that knows nothing and has not warned."""
    monkeypatch.setattr(snf._scan._kinds, "_warned", [])
    monkeypatch.setattr(_kernels, "_kernels", snf._identity.Registry(9))
    monkeypatch.setattr(snf._scan._known, "_known", snf._identity.Registry(9))
    params, x = snf.LeakyParams(0.9), torch.rand(20, 3) * 2
    world = snf.leaky_step, params, snf.leaky_init(params, x[0]), x
    return lambda kind="auto": snf.scan(*world, kind=kind)[0], lambda: snf.explain(*world)


def test_a_scan_with_a_compiler_that_hangs_is_the_loop(cache, tmp_path, monkeypatch, anew):
    log, (run, explain) = compiler(tmp_path / "cxx", monkeypatch, "sleep 1000"), anew
    monkeypatch.setenv("SNN_FUNCTIONAL_COMPILE_SECONDS", "0.3")
    with pytest.warns(UserWarning, match="did not end within 0.3 s") as seen:
        found = [run() for _ in range(3)]
    assert len(seen) == 1 and all(torch.equal(spks, run("loop")) for spks in found)
    assert explain().startswith("loop: ") and len(log.read_text()) == 2


def test_without_a_compiler_auto_warns_once_and_takes_the_loop(cache, tmp_path, monkeypatch, anew):
    run, explain = anew
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "")
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler was found") as seen:
        found = [run() for _ in range(2)]
    assert len(seen) == 1 and all(torch.equal(spks, run("loop")) for spks in found)
    assert explain().startswith("loop: no C++ compiler was found")


@pytest.mark.long
def test_processes_take_nothing_from_each_other(cache):
    """Neither the folder that the parent builds in, nor the lock that another of its threads holds, nor half a library."""
    program = """
import atexit, os, threading
from snn_functional.kernels import _build
with _build._private() as folder:
    held, over = threading.Event(), threading.Event()
    def hold():
        with _build._lock:
            held.set(), over.wait()
    thread = threading.Thread(target=hold)
    thread.start(), held.wait()
    children = []
    for _ in range(3):
        children.append(os.fork())
        if not children[-1]:
            _build.load('extern "C" void run() {}')
            atexit._run_exitfuncs()
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0] and folder.exists()
    over.set(), thread.join()
assert not folder.exists()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (library,) = cache.iterdir()
    assert _cache.find(library.stem) == library


def test_nothing_is_warned_of_where_all_is_well(cache, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(SEVEN)
        forget()
        load(SEVEN)
