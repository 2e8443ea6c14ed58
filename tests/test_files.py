"""Files are whole or not there, whatever ends the process that writes them."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys

import pytest

from snn_functional import _files


SELF = importlib.util.find_spec("snn_functional._files").origin
NAMES = ("model.pt", "metrics.json")
unix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals, limits and locks as Unix has them")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"whole")
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_written_over_what_was_there(folder):
    _files.write(folder / "model.pt", b"new")
    _files.write(folder / "metrics.json", b"")
    assert contents(folder) == {"model.pt": b"new", "metrics.json": b""}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_the_old_bytes_and_nothing_else(failing, error, folder, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(type(error)) as raised:
        _files.write(folder / "model.pt", b"new")
    if isinstance(error, OSError):
        assert str(raised.value) == f"{folder / 'model.pt'} cannot be written: No space left on device"
    assert contents(folder) == {"model.pt": b"whole"}


@unix
def test_a_disk_that_takes_no_more(folder):
    with no_file_above(1000), pytest.raises(OSError, match="model.pt cannot be written: File too large$"):
        _files.write(folder / "model.pt", b"x" * 2000)
    assert contents(folder) == {"model.pt": b"whole"}


@contextlib.contextmanager
def no_file_above(size):
    """The kernel's own limit: a disk that fills up, without a disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("path", ["none/model.pt", "model.pt/model.pt"])
def test_a_place_that_is_none(path, folder):
    with pytest.raises(OSError, match="model.pt cannot be written: "):
        _files.write(folder / path, b"new")
    assert contents(folder) == {"model.pt": b"whole"}


KILLED = """
import importlib.util, os, pathlib, signal, sys
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
with files.held(pathlib.Path(sys.argv[2]), ["model.pt"]):
    os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    files.write(pathlib.Path(sys.argv[2], "model.pt"), b"new")
"""


@unix
def test_a_kill_between_writing_and_moving(folder):
    call = [sys.executable, "-S", "-c", KILLED, SELF, str(folder)]
    assert subprocess.run(call, cwd=folder).returncode == -signal.SIGKILL
    left = set(contents(folder)) - {"model.pt"}
    assert (folder / "model.pt").read_bytes() == b"whole" and len(left) == 1 and left.pop().endswith(".unfinished")
    with _files.held(folder, NAMES):
        assert contents(folder) == {"model.pt": b"whole"}


def leave(folder):
    for name in (".model.pt.unfinished", ".metrics.json.0a1b2c3d.unfinished"):  # the first as earlier versions left it
        (folder / name).write_bytes(b"ha")
    (folder / ".notes.txt.unfinished").write_bytes(b"another program's")
    (folder / "model.pt.unfinished").write_bytes(b"the user's")
    return {"model.pt", ".notes.txt.unfinished", "model.pt.unfinished"}


@unix
def test_what_dead_runs_left_goes_and_nothing_else(folder):
    kept = leave(folder)
    with _files.held(folder, NAMES):
        assert set(contents(folder)) == kept


@unix
def test_what_a_living_run_writes_is_left_alone_until_it_ends(folder):
    with _files.held(folder, NAMES):
        kept = leave(folder)
        before = contents(folder)
        with pytest.raises(BlockingIOError, match=r"another run is writing there; wait until it ends"):
            with _files.held(folder, NAMES):
                pass
        assert contents(folder) == before
    with _files.held(folder, NAMES):
        assert set(contents(folder)) == kept
    with _files.held(folder, NAMES):
        pass


def test_without_locks_only_what_is_a_day_old_is_dead(folder, monkeypatch):
    monkeypatch.setattr(_files, "_lock", lambda *args: False)
    kept = leave(folder)
    old = folder / ".model.pt.unfinished"
    os.utime(old, (old.stat().st_atime, old.stat().st_mtime - _files.DAY - 1))
    with _files.held(folder, NAMES):
        assert set(contents(folder)) == kept | {".metrics.json.0a1b2c3d.unfinished"}


@unix
def test_a_file_system_without_locks(folder, monkeypatch):
    import fcntl

    def none(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    with contextlib.ExitStack() as stack:
        assert _files._lock(folder, stack) is False


def test_a_seal_breaks_at_any_change():
    sealed = _files.seal(b"some content \x00\xff")
    assert _files.opened(sealed) == b"some content \x00\xff" and _files.opened(_files.seal(b"")) == b""
    for place in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[place] ^= 1 << bit
            with pytest.raises(ValueError, match="checksum is missing or wrong"):
                _files.opened(bytes(changed))
        for cut in (sealed[:place], sealed[place + 1 :], sealed + sealed[: place + 1]):
            with pytest.raises(ValueError, match="checksum is missing or wrong"):
                _files.opened(cut)
