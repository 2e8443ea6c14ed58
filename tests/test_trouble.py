"""The command line when things go wrong: one readable line, status 2, and nothing lost that was there."""

import contextlib
import dataclasses
import errno
import io
import math
import shutil
import subprocess
import sys

import numpy
import pytest
import torch
from commands import ended

from snn_functional import __main__ as command, _folder


TINY = ["train", "--hidden", "8", "--epochs", "1", "--steps", "2", "--batch", "256"]
RESUME = ["train", "--resume", "--epochs", "2", "--out", "run"]
unix = pytest.mark.skipif(sys.platform == "win32", reason="needs limits and locks as Unix has them")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of its own, and no pictures, which take most of the time of a tiny run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_folder, "save_pictures", lambda *args: None)
    return tmp_path


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """The folder of a run that is copied where a test needs one."""
    folder = tmp_path_factory.mktemp("once") / "run"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(_folder, "save_pictures", lambda *args: None)
        assert command.main([*TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def earlier(run_once, here):
    """A run of an epoch in the folder `run`."""
    return shutil.copytree(run_once, here / "run")


def refused(capsys, *argv):
    """The one line that a call ends in, at the door or on its way."""
    return ended(capsys, *argv)[1]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed(*args):
    """In place of what a kill would end: no handler of the command may see it."""
    raise Killed


class Killed(BaseException):
    pass


# A full disk, and folders that cannot be written to.


@contextlib.contextmanager
def no_file_above(size):
    """The kernel's own limit: a disk that fills up, without a disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@unix
@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_a_disk_that_is_full_when_a_run_goes_on(size, earlier, capsys):
    """Said before an epoch's work is done, not after it."""
    before = contents(earlier)
    with no_file_above(size), pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "training_step", killed)
        assert "run/checkpoint.pt cannot be written: File too large\n" in refused(capsys, *RESUME)
    assert contents(earlier) == before
    assert command.main(RESUME) == 0


@unix
@pytest.mark.parametrize("where", ["training_step", "accuracy"])
def test_a_disk_that_fills_up_while_a_run_goes_on(where, earlier, capsys, monkeypatch):
    before, whole = contents(earlier), getattr(command, where)
    with contextlib.ExitStack() as stack:

        def fill(*args):
            stack.enter_context(no_file_above(10_000))
            return whole(*args)

        monkeypatch.setattr(command, where, fill)
        line = refused(capsys, *RESUME)
    assert "run/checkpoint.pt cannot be written: File too large; the last checkpoint is whole, --resume goes on" in line
    assert contents(earlier) == before


@unix
@pytest.mark.parametrize("size", [0, 10_000])
def test_a_disk_that_is_full_when_an_earlier_run_is_to_be_replaced(size, earlier, capsys):
    before = contents(earlier)
    with no_file_above(size):
        assert "cannot be written: File too large" in refused(
            capsys, *TINY, "--overwrite", "--seed", "1", "--out", "run"
        )
    assert contents(earlier) == before


@unix
def test_a_disk_that_is_full_when_a_new_run_would_save(here, capsys):
    with no_file_above(10_000):
        line = refused(capsys, *TINY, "--out", "run")
    assert "checkpoint.pt cannot be written: File too large; nothing was saved yet" in line
    assert set(contents(here / "run")) == {"metrics.json"}


@unix
def test_a_disk_that_is_full_after_ctrl_c(earlier, capsys, monkeypatch):
    before = contents(earlier)

    with contextlib.ExitStack() as stack:

        def interrupt(*args):
            stack.enter_context(no_file_above(10_000))
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "training_step", interrupt)
        assert "the last checkpoint is whole" in refused(capsys, *RESUME)
    assert contents(earlier) == before


def test_a_folder_that_goes_away(here, capsys, monkeypatch):
    whole = command.train_epoch

    def gone(run):
        shutil.rmtree("run")
        return whole(run)

    monkeypatch.setattr(command, "train_epoch", gone)
    line = refused(capsys, *TINY, "--out", "run")
    assert "checkpoint.pt cannot be written: No such file or directory; nothing was saved yet" in line


def test_places_that_are_no_folders(here, capsys):
    (here / "file").write_text("text")
    (here / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        assert f"--out {name}: is there already and holds no run of ours" in refused(capsys, *TINY, "--out", name)
    assert "Not a directory" in refused(capsys, *TINY, "--out", "file/run")
    (here / "run").mkdir()
    (here / "run" / "checkpoint.pt").mkdir()
    assert "run/checkpoint.pt is not there" in refused(capsys, *RESUME)
    assert "holds no run of ours" in refused(capsys, *TINY, "--out", "run")


def test_a_folder_in_the_place_of_a_file(earlier, capsys):
    (earlier / "checkpoint.pt").unlink()
    (earlier / "checkpoint.pt").mkdir()
    before = {path.name for path in earlier.iterdir()}
    assert "checkpoint.pt cannot be written: " in refused(capsys, *TINY, "--overwrite", "--out", "run")
    assert {path.name for path in earlier.iterdir()} == before


# An earlier run, and one that is alive.


@pytest.mark.parametrize("step", [1, 4])
def test_an_earlier_run_is_there_until_the_new_one_has_a_checkpoint(step, earlier, capsys, monkeypatch):
    before, calls, whole = contents(earlier), [], command.training_step

    def last(*args):
        calls.append(args)
        return killed() if len(calls) == step else whole(*args)

    with monkeypatch.context() as patch:
        patch.setattr(command, "training_step", last)
        with pytest.raises(Killed):
            command.main([*TINY, "--overwrite", "--seed", "1", "--out", "run"])
    assert contents(earlier) == before
    assert command.main(RESUME) == 0


def test_what_an_earlier_run_left_beside_the_checkpoint_goes_with_it(earlier, monkeypatch):
    (earlier / "notes.txt").write_bytes(b"mine")
    monkeypatch.setattr(_folder, "save_model", killed)
    with pytest.raises(Killed):
        command.main([*TINY, "--overwrite", "--seed", "1", "--out", "run"])
    assert set(contents(earlier)) == {"checkpoint.pt", "metrics.json", "notes.txt"}
    monkeypatch.undo()
    monkeypatch.chdir(earlier.parent)
    monkeypatch.setattr(_folder, "save_pictures", killed)
    with pytest.raises(Killed):
        command.main(["train", "--resume", "--seed", "1", "--out", "run"])
    assert set(contents(earlier)) == {"checkpoint.pt", "model.pt", "metrics.json", "notes.txt"}


def test_a_run_that_diverges_at_once_replaces_nothing(earlier, capsys, monkeypatch):
    before, whole = contents(earlier), command.training_step
    diverging = lambda training, samples, recipe: whole(training, samples, dataclasses.replace(recipe, lr=math.inf))
    monkeypatch.setattr(command, "training_step", diverging)
    assert command.main([*TINY, "--overwrite", "--out", "run"]) == 1 and "training diverged" in capsys.readouterr().out
    assert contents(earlier) == before


@unix
@pytest.mark.parametrize("argv", [RESUME, [*TINY, "--overwrite", "--out", "run"]])
def test_a_run_that_is_alive_has_its_folder_alone(argv, earlier, capsys):
    (earlier / ".checkpoint.pt.0a1b2c3d.unfinished").write_bytes(b"ha")
    before = contents(earlier)
    lock = (
        "import fcntl, os, sys; fcntl.flock(os.open('run', os.O_RDONLY), fcntl.LOCK_EX); print('held', flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert "--out run: another run is writing there; wait until it ends" in refused(capsys, *argv)
        assert contents(earlier) == before
        process.kill()
    assert command.main(argv) == 0
    assert set(contents(earlier)) == {"checkpoint.pt", "metrics.json", "model.pt"}


@unix
@pytest.mark.parametrize("argv", [RESUME, [*TINY, "--overwrite", "--out", "run"]])
def test_unfinished_files_of_a_dead_run_are_cleared_away(argv, earlier):
    for name in (".model.pt.unfinished", ".traces.png.0a1b2c3d.unfinished", ".notes.unfinished"):
        (earlier / name).write_bytes(b"ha")
    assert command.main(argv) == 0
    assert set(contents(earlier)) == {"checkpoint.pt", "metrics.json", "model.pt", ".notes.unfinished"}


def test_a_run_that_was_killed_at_its_first_file_left_an_empty_folder(here):
    (here / "run").mkdir()
    (here / "run" / ".metrics.json.0a1b2c3d.unfinished").write_bytes(b"ha")
    assert command.main([*TINY, "--overwrite", "--out", "run"]) == 0


# Checkpoints that are not what was written, or were written by somebody else.


def test_every_changed_byte_of_a_checkpoint_is_noticed(earlier, capsys):
    path = earlier / "checkpoint.pt"
    whole = path.read_bytes()
    random = numpy.random.default_rng(0)
    for place in [*random.choice(len(whole), 60, replace=False), *range(-75, 0, 5)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << random.integers(8)
        path.write_bytes(changed)
        assert "checkpoint.pt cannot be read as a checkpoint: its checksum is missing or" in refused(capsys, *RESUME)
    for cut in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], whole[:-73], whole + b"\n"):
        path.write_bytes(cut)
        assert "was changed or cut short" in refused(capsys, *RESUME)
    path.write_bytes((earlier / "model.pt").read_bytes())
    assert "cannot be read as a checkpoint" in refused(capsys, *RESUME)
    path.write_bytes(whole)
    assert command.main(RESUME) == 0


def change(at, **changes):
    return lambda saved: saved[at].update(changes)


def leaf(place, value):
    return lambda saved: saved["leaves"].__setitem__(place, value(saved["leaves"][place]))


# Places of leaves, from the end: what they are is tested with the first of each.
ORDER, EPOCH, RANDOM, COUNT = -2, -3, -4, 14


@pytest.mark.parametrize(
    "tamper, says",
    [
        (lambda saved: saved.pop("leaves"), "it does not hold leaves, recipe, samples and history"),
        (lambda saved: saved.update(more=1), "it does not hold leaves"),
        (lambda saved: saved["leaves"].pop(), "its leaves are not the "),
        (lambda saved: saved.update(leaves=5), "its leaves are not the "),
        (leaf(0, lambda old: "text"), "its leaves are not the "),
        (
            leaf(0, lambda old: old[:-1]),
            "leaf 0 is torch.float32 [7, 64], where this network's training has torch.float32 [8",
        ),
        (leaf(1, lambda old: old.double()), "leaf 1 is torch.float64 [8]"),
        (leaf(RANDOM, lambda old: old[:3]), "torch.uint8 [3]"),
        (leaf(RANDOM, lambda old: torch.full_like(old, 255)), "its generator's state is none"),
        (leaf(ORDER, lambda old: torch.tensor([1437])), "its order does not name each sample once, from 0 to 1436"),
        (leaf(ORDER, lambda old: torch.tensor([-1])), "its order does not name each sample once"),
        (leaf(ORDER, lambda old: torch.tensor([3, 3])), "its order does not name each sample once"),
        (leaf(ORDER, lambda old: torch.arange(1438)), "its order is torch.int64 [1438], where 1437 samples are"),
        (leaf(ORDER, lambda old: old.float()), "its order is torch.float32 [0]"),
        (leaf(EPOCH, lambda old: old + 7), "it counts 8.0 epochs and 6.0 updates after 1 rows"),
        (leaf(EPOCH, lambda old: old * math.nan), "it counts nan epochs"),
        (leaf(COUNT, lambda old: old - 7), "it counts 1.0 epochs and -1.0 updates"),
        (change("recipe", steps="9"), "its recipe is {"),
        (change("recipe", hidden=()), "its recipe is {"),
        (change("recipe", hidden=(9,)), "leaf 0 is torch.float32 [8, 64], where"),
        (change("recipe", hidden=(10**12,)), "GB; give fewer --hidden"),
        (change("recipe", hidden=tuple([8] * 60)), "its leaves are not the"),
        (change("recipe", neuron="x" * 5000), "its recipe is {"),
        (change("recipe", neuron=["leaky"]), "its recipe is {"),
        (change("recipe", coding="morse"), "its recipe is {"),
        (change("recipe", data=5), "its recipe is {"),
        (change("recipe", data="cifar"), "no data set is called 'cifar'"),
        (change("recipe", seed=-1), "its recipe is {"),
        (change("recipe", lr=math.nan), "its recipe is {"),
        (change("recipe", epochs=True), "its recipe is {"),
        (change("recipe", more=True), "its recipe is {"),
        (lambda saved: saved.update(recipe=None), "its recipe is None"),
        (lambda saved: saved.update(samples="none"), "was trained on none, but here are 1437 samples"),
        (lambda saved: saved.update(history="text"), "its history is not one row of numbers for each epoch"),
        (lambda saved: saved.update(history=[{}]), "its history is not"),
        (lambda saved: saved["history"][0].update(epoch=2), "its history is not"),
        (lambda saved: saved["history"][0].update(loss="low"), "its history is not"),
    ],
)
def test_a_checkpoint_that_was_tampered_with(tamper, says, earlier, capsys):
    """Sealed anew, as by one who knows how: then what is in it is looked at."""
    from snn_functional import _files

    path = earlier / "checkpoint.pt"
    saved = torch.load(io.BytesIO(_files.opened(path.read_bytes())), weights_only=True)
    tamper(saved)
    content = io.BytesIO()
    torch.save(saved, content)
    path.write_bytes(_files.seal(content.getvalue()))
    before = contents(earlier)
    assert says in refused(capsys, *RESUME)
    assert contents(earlier) == before


def test_a_checkpoint_of_other_data(here, earlier, capsys, monkeypatch):
    _, test, _ = command.load("digits")
    monkeypatch.setattr(command, "load", lambda name, root, window: train_on(test))
    assert "this run was trained on 1437 samples of shape [64], 10 classes, on cpu, but here are 360" in refused(
        capsys, *RESUME
    )


def train_on(samples):
    return command.Dataset(samples, samples, 10)


# Memory, standard output, and inputs of any length.


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
        ),
        RuntimeError("Storage size calculation overflowed with sizes=[9223372036854775807, 64]"),
        RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"),
    ],
)
def test_memory_that_is_not_there(error, earlier, capsys, monkeypatch):
    before = contents(earlier)

    def fail(*args):
        raise error

    monkeypatch.setattr(command, "training_step", fail)
    assert "there is not enough memory for this; give fewer --hidden" in refused(capsys, *RESUME)
    assert contents(earlier) == before


def test_an_error_of_our_own_is_not_taken_for_the_users(monkeypatch):
    def fail(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(command, "training_step", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        command.main([*TINY, "--overwrite", "--out", "run"])


class Closed(io.StringIO):
    """Standard output that nobody reads any more, from the line on that holds `last`."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def write(self, text):
        if self.last in text:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        return super().write(text)


@pytest.mark.parametrize(
    "last, says",
    [("digits:", "Broken pipe\n"), ("epoch ", "nothing was saved"), ("    1 ", "the last checkpoint is whole")],
)
def test_standard_output_that_is_closed(last, says, here, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Closed(last))
    with pytest.raises(SystemExit) as exit:
        command.main([*TINY, "--overwrite", "--out", "run"])
    err = capsys.readouterr().err
    assert exit.value.code == 2 and err.count("\n") == 1
    assert "standard output cannot be written: Broken pipe" in err and says in err
    if "whole" in says:
        assert (here / "run" / "checkpoint.pt").is_file()


def test_names_that_standard_output_cannot_show(here, monkeypatch):
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    assert command.main([*TINY, "--out", "caf\xe9 \udcff"]) == 0
    assert rb"are in caf\xe9 \udcff" in plain.buffer.getvalue()


LONG = "x" * 5000


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--data", LONG], "': give digits, fashion-mnist, mnist, nmnist, shd, vowels"),
        (["--data", f"{LONG}.npz"], "cannot be read as an .npz file: [Errno"),
        (["--data", "mnist", "--root", LONG], "name too long"),
        (["--data", "mnist", "--root", "a " * 5000], "name too long"),
        (["--out", LONG], "name too long"),
        (["--resume", "--out", LONG], "checkpoint.pt is not there"),
        (["--neuron", LONG], "': give adaptive_leaky, adlif, "),
        (["--epochs", "9" * 5000], "': expected an integer of at least 1"),
        (["--epochs", "9" * 500], "': expected at most 9223372036854775807"),
        (["--device", LONG], "cannot use it here; try --device cpu"),
        (["--hidden", *["7"] * 5000, "no"], "argument --hidden: 'no'"),
        ([f"--{LONG}"], "unrecognized arguments: --xxx"),
        (["w"] * 5000, "unrecognized arguments: w w"),
        (["--data", "a\x1b[31m\x07\u2028\nb"], r"'a\x1b[31m\x07\u2028\nb'"),
        (["--device", "\x1b[31m\udcff"], r"--device \x1b[31m\udcff: torch"),
    ],
)
def test_long_and_strange_inputs_are_cut_to_something_readable(argv, says, here, capsys):
    line = refused(capsys, "train", *argv)
    assert says.lower() in line.lower() and line[:-1].isprintable()
    assert not list(here.iterdir())
