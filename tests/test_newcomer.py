"""The main job for who sees it the first time: what it says while it works, that it loses nothing, recordings and convolutions in it."""

import csv
import json
import sys
import types
from pathlib import Path

import numpy
import pytest
import recorded
import torch
from commands import refused, run, used_as_said
from test_recordings_files import real, SHARED

import snn_functional as snf
from snn_functional import __main__ as command, _folder, _progress, data, train
from snn_functional.kernels import _build


pytestmark = pytest.mark.long

TINY = ["train", "--hidden", "8", "--epochs", "1", "--steps", "2", "--batch", "256"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def seed_of(folder):
    return json.loads((folder / "metrics.json").read_text())["options"]["seed"]


# A second run.


def test_a_second_run_goes_to_a_folder_of_its_own(here, unseen, capsys):
    for seed in range(3):
        assert run(*TINY, "--seed", seed) == 0
    assert (
        "this run goes to runs/digits-3; the earlier one stays, --overwrite would replace it" in capsys.readouterr().out
    )
    folders = [here / "runs" / name for name in ("digits", "digits-2", "digits-3")]
    assert [seed_of(folder) for folder in folders] == [0, 1, 2] and set((here / "runs").iterdir()) == set(folders)

    assert run("train", "--resume", "--epochs", 2) == 0  # the last of them
    epochs = [len(json.loads((folder / "metrics.json").read_text())["history"]) for folder in folders]
    assert epochs == [1, 1, 2]

    assert run(*TINY, "--seed", 7, "--overwrite") == 0
    assert [seed_of(folder) for folder in folders] == [7, 1, 2]
    assert "give one of them" in refused(capsys, "train", "--resume", "--overwrite")


def test_a_run_that_saved_nothing_is_no_run(here, unseen, monkeypatch):
    def stop(*args):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(command, "training_step", stop)
        with pytest.raises(SystemExit):
            run(*TINY)
    assert run(*TINY) == 0 and [path.name for path in (here / "runs").iterdir()] == ["digits"]


# What it says.


def test_progress_without_a_terminal_is_a_line_now_and_then(unseen, capsys, monkeypatch):
    monkeypatch.setattr(_progress, "EVERY", 0.0)
    assert run(*TINY, "--batch", 500) == 0
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("epoch 1:")]
    assert [line.rpartition(" ")[0] for line in lines] == [f"epoch 1: {n} of 1437 samples, loss" for n in (500, 1000)]
    losses = [float(line.rpartition(" ")[2]) for line in lines]
    assert all(1 < loss < 3 for loss in losses) and losses[0] != losses[1] and err == ""


@pytest.mark.parametrize("there", [True, False])
def test_progress_on_a_terminal_is_a_bar_where_tqdm_is(there, unseen, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(_progress, "REFRESH", 0.0)
    monkeypatch.setattr(_progress, "EVERY", 0.0)
    if not there:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    else:
        pytest.importorskip("tqdm")
    assert run(*TINY) == 0
    out, err = capsys.readouterr()
    assert ("epoch 1:" in err and "preparing" in err) == there and ("epoch 1: 256 of 1437" in out) != there


def test_a_compiler_that_is_waited_for_is_said_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SNN_FUNCTIONAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(mode=0o700)
    with _progress.compiling_is_said():
        for number in range(2):
            _build.load(f"{_build.TRIVIAL}// {tmp_path} {number}\n")
    out = capsys.readouterr().out
    assert (
        out.startswith("compiling this network's kernels") and out.count("\n") == 1 and str(tmp_path / "cache") in out
    )
    _build.load(f"{_build.TRIVIAL}// {tmp_path} 2\n")
    assert capsys.readouterr().out == "" and _build.told is None


def test_csv_has_a_row_an_epoch_and_goes_on(here, unseen):
    run(*TINY, "--csv", "--out", "run")
    run("train", "--resume", "--epochs", 3, "--csv", "--out", "run")
    with open("run/metrics.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == json.loads((here / "run" / "metrics.json").read_text())["history"] and len(rows) == 3
    run(*TINY, "--overwrite", "--out", "run")
    assert not (here / "run" / "metrics.csv").exists()


def test_tensorboard_that_is_not_there_is_one_line(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    line = refused(capsys, *TINY, "--tensorboard")
    assert "pip install tensorboard" in line and "--csv takes nothing" in line and not list(here.iterdir())


class Writer:
    """In place of torch's, which is there where TensorBoard is."""

    made = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.rows, self.open = folder, purge_step, [], True
        self.made.append(self)

    def add_scalar(self, name, value, step):
        self.rows.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.open = False


def test_tensorboard_gets_a_row_an_epoch(here, unseen, monkeypatch):
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setattr(_folder, "import_tensorboard", lambda: Writer)
    run(*TINY, "--tensorboard", "--out", "run")
    run("train", "--resume", "--epochs", 2, "--tensorboard", "--out", "run")
    first, second = Writer.made
    row = json.loads((here / "run" / "metrics.json").read_text())["history"][1]
    assert (first.purge_step, second.purge_step) == (1, 2) and not first.open and first.folder == "run/tensorboard"
    assert second.rows == [
        ("loss/train", row["loss"], 2),
        ("accuracy/train", row["train_accuracy"], 2),
        ("accuracy/test", row["test_accuracy"], 2),
        ("spike rate", row["spike_rate"], 2),
    ]


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_itself(here, unseen):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(*TINY, "--tensorboard", "--out", "run")
    events = EventAccumulator(str(here / "run" / "tensorboard")).Reload()
    row = json.loads((here / "run" / "metrics.json").read_text())["history"][0]
    assert [(e.step, e.value) for e in events.Scalars("accuracy/test")] == [(1, pytest.approx(row["test_accuracy"]))]
    run(*TINY, "--overwrite", "--seed", 1, "--tensorboard", "--out", "run")
    (file,) = (here / "run" / "tensorboard").iterdir()  # the earlier run's is gone, this one's is not
    again = EventAccumulator(str(file)).Reload().Scalars("accuracy/test")
    assert len(again) == 1 and again[0].value != pytest.approx(row["test_accuracy"])
    run(*TINY, "--overwrite", "--out", "run")
    assert not list((here / "run" / "tensorboard").iterdir())


@pytest.mark.parametrize("neuron", ["leaky", "adaptive_leaky"])
def test_the_traces_thresholds_are_the_neurons_own(neuron):
    network = train.network_init(torch.Generator().manual_seed(0), (6, 5, 3), neuron)
    xs = 3 * torch.rand(20, 2, 6)
    spk, mem, threshold = _folder._first_layer(network, xs)
    assert spk.shape == mem.shape == threshold.shape == (20, 5) and spk.sum() > 5
    assert torch.equal(spk, (mem > threshold).float())
    assert (threshold == threshold[0]).all() == (neuron == "leaky")


# Convolutions and recordings.


def test_convolutions_learn_and_each_channel_has_neurons_of_its_own(here, capsys):
    call = ["train", "--conv", 6, 8, "--hidden", 16, "--steps", 5, "--epochs", 5, "--lr", 0.01]
    assert run(*call) == 0
    out = capsys.readouterr().out
    assert "1x8x8-6c-8c-16-10 leaky network" in out and float(out.split()[-1]) > 0.8
    folder = here / "runs" / "digits"
    kind = {"weights_only": True} if hasattr(torch.serialization, "add_safe_globals") else {}
    network = torch.load(folder / "model.pt", **kind)
    assert [tuple(layer.connection.weight.shape) for layer in network.hidden] == [(6, 1, 3, 3), (8, 6, 3, 3), (16, 32)]
    assert [tuple(layer.neuron.beta.shape) for layer in network.hidden] == [(6, 1, 1), (8, 1, 1), (16,)]
    assert all(layer.neuron.beta.unique().numel() > 1 for layer in network.hidden)
    test = data.load("digits").test
    mems, spks = snf.train.network_apply(network, snf.encode.direct(test.x, 5))
    assert [spk.shape[2:] for spk in spks] == [(6 * 16,), (8 * 4,), (16,)]
    hits = (snf.train.scores(mems).argmax(1) == test.y).double().mean()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert float(hits) == pytest.approx(metrics["test_accuracy"]) == pytest.approx(used_as_said(out, capsys), abs=1e-3)
    rates = [float(spk.mean()) for spk in spks]
    assert 0 < metrics["history"][-1]["spike_rate"] < 1 and all(0 < rate < 1 for rate in rates)
    for name in ("raster.png", "traces.png"):
        assert (folder / name).stat().st_size > 5000


def test_a_model_of_a_gpu_is_used_on_the_cpu():
    samples = data.Samples(torch.rand(3, 4), torch.zeros(3))
    training = types.SimpleNamespace(order=torch.zeros(0, device="meta"))
    run = types.SimpleNamespace(
        recipe=train.Recipe("mine.npz"),
        dataset=data.Dataset(samples, samples, 2),
        folder=Path("a"),
        training=training,
        root=None,
    )
    assert "map_location='cpu'" in command.how_to_load(run)
    training.order = torch.zeros(0)
    assert "map_location" not in command.how_to_load(run)


def test_a_convolutional_run_goes_on_bit_for_bit(here, unseen, capsys):
    call = ["train", "--conv", 2, "--hidden", 8, "--steps", 2, "--coding", "rate", "--batch", 256]
    run(*call, "--epochs", 2, "--out", "straight")
    run(*call, "--epochs", 1, "--out", "parts")
    assert "this run has --conv 2, not 4" in refused(capsys, "train", "--resume", "--conv", 4, "--out", "parts")
    run("train", "--resume", "--epochs", 2, "--out", "parts")
    leaves = [torch.load(here / name / "checkpoint.pt", weights_only=True)["leaves"] for name in ("straight", "parts")]
    assert all(torch.equal(a, b) for a, b in zip(*leaves))


def test_nmnist(here, unseen, capsys, monkeypatch):
    recorded.nmnist(here / "nmnist")
    call = ["train", "--data", "nmnist", "--root", "nmnist", "--epochs", 1]
    assert run(*call) == 0
    out = capsys.readouterr().out
    assert "nmnist: 24 samples to train on, 6 to test; 2x34x34-8c-16c-64-2 leaky network, direct coding, 6 steps" in out
    assert "snf.recordings.frames(events, window=10_000, size=(34, 34, 2))" in out and "[T, batch, 2, 34, 34]" in out
    assert "snf.train.scores(mems, lengths)" in out  # of these few both would be right
    assert used_as_said(out, capsys) == pytest.approx(float(out.split()[-1]), abs=1e-3)
    monkeypatch.setenv("SNN_DATA", str(here))
    dense = ["--hidden", 9, "--window", 20, "--epochs", 8, "--batch", 4, "--lr", 0.01]
    assert run("train", "--data", "nmnist", *dense) == 0
    out = capsys.readouterr().out
    assert "2312-9-2 leaky network, direct coding, 3 steps" in out and float(out.split()[-1]) == 1.0
    assert "window=20_000" in out and used_as_said(out, capsys) == 1.0
    train, test, classes = data.load("nmnist")
    assert (
        train.x.dtype is torch.uint8 and train.x.shape == (24, 6, 2312) and classes == 2 and train.x.sum() == 24 * 400
    )
    assert train.lengths.min() == 5 and train.lengths.max() == 6 and not train.x[train.lengths == 5][:, 5:].any()


def test_shd(here, unseen, capsys):
    pytest.importorskip("h5py")
    random = numpy.random.default_rng(0)
    for part, n in (("train", 24), ("test", 6)):
        labels = numpy.arange(n) % 2
        times = [numpy.sort(random.random(300)) * (0.4 + 0.01 * (i % 5)) for i in range(n)]
        units = [random.integers(0, 350, 300) + 350 * label for label in labels]
        recorded.shd(here / f"shd_{part}.h5", times, units, labels)
    call = [
        "train",
        "--data",
        "shd",
        "--root",
        ".",
        "--window",
        50,
        "--hidden",
        16,
        "--epochs",
        8,
        "--batch",
        4,
        "--lr",
        0.01,
    ]
    assert run(*call) == 0
    out = capsys.readouterr().out
    assert "24 samples to train on, 6 to test; 700-16-2 leaky network, direct coding, 9 steps" in out
    assert float(out.split()[-1]) == 1.0 == used_as_said(out, capsys)


@pytest.mark.parametrize(
    "argv, says",
    [
        (
            ["--data", "nmnist"],
            "nmnist is not here: give the folder or the file of its recordings as --root, or in SNN_DATA",
        ),
        (["--data", "nmnist", "--root", "none"], "none is not there; expected Train/0/"),
        (
            ["--data", "nmnist", "--root", "nmnist"],
            "nmnist: 60003.bs2: 7 bytes are not five an event: cut off after event 1",
        ),
        (["--data", "nmnist", "--root", "whole", "--window", "0.0001"], "give a longer --window"),
        (["--data", "nmnist", "--root", "whole", "--window", "0"], "argument --window: '0': expected a number above 0"),
        (["--data", "shd", "--root", "whole"], "whole holds no shd_train.h5 and shd_test.h5"),
        (["--window", "5"], "digits holds no recorded events, which a window divides into steps"),
        (
            ["--data", "mine.npz", "--conv", "3"],
            "mine.npz holds no images, whose pixels a convolution goes over: leave --conv out",
        ),
        (["--conv", "-3"], "argument --conv: '-3': expected an integer of at least 0"),
        (["--conv", "9223372036854775807"], "takes at least"),
    ],
)
def test_bad_data_and_options_get_one_line_and_leave_nothing(argv, says, here, capsys, monkeypatch):
    monkeypatch.delenv("SNN_DATA", raising=False)
    monkeypatch.setattr(data, "memory", lambda: 1e9)
    recorded.nmnist(here / "whole", 2, 2)
    (recorded.nmnist(here / "nmnist", 2, 4) / "60003.bs2").write_bytes(bytes(7))
    x, y = numpy.zeros((4, 3, 2), "float32"), numpy.array([0, 1, 0, 1])
    numpy.savez("mine.npz", x_train=x, y_train=y, x_test=x, y_test=y, lengths_train=y + 1, lengths_test=y + 1)
    before = set(here.rglob("*"))
    assert says in refused(capsys, "train", *argv)
    assert set(here.rglob("*")) == before


def test_more_events_than_a_count_holds(here, capsys):
    folder = recorded.nmnist(here / "nmnist", 2, 2)
    (folder / "1.bs2").write_bytes(recorded.aer(*((1, 1, t, 0) for t in range(300))))
    assert "300 events in one frame, which torch.uint8 cannot hold; give a smaller window" in refused(
        capsys, "train", "--data", "nmnist", "--root", "nmnist"
    )


@real
@pytest.mark.slow
def test_nine_of_ten_real_recordings_are_told_apart(unseen, capsys, monkeypatch):
    monkeypatch.setenv("SNN_FUNCTIONAL_OPTIMIZE", "3")
    assert run("train", "--data", "nmnist", "--root", SHARED) == 0
    assert float(capsys.readouterr().out.split()[-1]) >= 0.9
