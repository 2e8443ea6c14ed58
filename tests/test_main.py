"""The main job: what it shows, what it leaves, that it stops and goes on bit for bit, and what it refuses."""

import dataclasses
import io
import json
import math
import signal
import subprocess
import sys

import numpy
import optree
import pytest
import torch
from commands import refused, run, used_as_said
from helpers import assert_equal, Case, CASES, NEURONS, sweep, UNITS

import snn_functional as snf
from snn_functional import __main__ as command, _files, _folder, train
from snn_functional._adam import adam_init, adam_update
from snn_functional.data import load, Samples


pytestmark = pytest.mark.long

TINY = ["train", "--hidden", "16", "--epochs", "2", "--steps", "4"]


@pytest.fixture(autouse=True)
def trained_in_time(monkeypatch):
    """Kernels that compute for seconds are worth a compiler that takes twice as long."""
    monkeypatch.setenv("SNN_FUNCTIONAL_OPTIMIZE", "1")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leaves(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["leaves"]


def history(folder):
    rows = json.loads((folder / "metrics.json").read_text())["history"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_as_a_program_with_its_defaults_it_shows_and_leaves_everything(tmp_path):
    """The whole job, cut to 3 of its 30 epochs, where nothing is a terminal."""
    call = [sys.executable, "-W", "error", "-m", "snn_functional", "train", "--epochs", "3"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("compiling") <= 1  # said where a kernel is not on disk yet
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("compiling", "epoch 1:"))]
    title, header, *rows = lines[:5]
    files, how, *code, last = lines[5:]
    assert title.startswith("digits: 1437 samples to train on, 360 to test; 64-128-128-10 leaky network, direct coding")
    assert header.split()[0] == "epoch" and [row.split()[0] for row in rows] == ["1", "2", "3"]
    folder = tmp_path / "runs" / "digits"
    assert {path.name for path in folder.iterdir()} == set(_folder.FILES) and all(
        name in files for name in _folder.FILES
    )

    metrics = json.loads((folder / "metrics.json").read_text())
    assert last == f"test accuracy {metrics['test_accuracy']:.3f}" and metrics["test_accuracy"] > 0.92
    assert metrics["options"] == json.loads(json.dumps(dataclasses.asdict(dataclasses.replace(DIGITS, epochs=3))))
    assert metrics["torch"] == torch.__version__ and metrics["version"] == snf.__version__
    assert not metrics["interrupted"] and 0 < metrics["seconds"] < 60
    row = metrics["history"][2]
    assert row["epoch"] == 3 and 0 < row["loss"] < 1 and row["train_accuracy"] > 0.9 and 0 < row["spike_rate"] < 1
    for picture in folder.glob("*.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG" and picture.stat().st_size > 5000

    assert how == "to use the model:"
    code = "\n".join(line.strip() for line in code)
    used = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (used.returncode, used.stderr) == (0, "")
    assert used.stdout == f"tensor({metrics['test_accuracy']:.4f})\n"

    network = load_model(folder)
    hits = train.accuracy(network, load("digits").test, DIGITS)
    assert hits == metrics["test_accuracy"] == row["test_accuracy"]


DIGITS = command.RECIPES["digits"]


def load_model(folder):
    if hasattr(torch.serialization, "add_safe_globals"):
        return torch.load(folder / "model.pt", weights_only=True)
    return torch.load(folder / "model.pt")


@sweep("neuron", list(train.HIDDEN), of=("leaky", "adlif"))
def test_every_spiking_neuron_learns(neuron, here, unseen, capsys):
    assert run(*TINY, "--neuron", neuron, "--hidden", 64, "--epochs", 6, "--steps", 6, "--lr", 0.005) == 0
    assert float(capsys.readouterr().out.split()[-1]) > 0.8
    assert type(load_model(here / "runs" / "digits").hidden[0].neuron) is getattr(snf, neuron).Params


def test_every_neuron_that_fires_and_has_no_weights_can_be_chosen():
    mine = NEURONS.keys() - {"alif"}
    assert mine == train.HIDDEN.keys() | train.UNFIT.keys() and not train.HIDDEN.keys() & train.UNFIT.keys()
    of_numbers = {case.name for case in CASES if type(case) is Case and case.spiking and case.name not in UNITS} & mine
    assert of_numbers >= train.HIDDEN.keys() >= {"leaky", "adlif", "tc_lif"}
    assert all("no usual value" in train.UNFIT[name] for name in of_numbers - train.HIDDEN.keys())
    assert train.UNFIT["slstm"] == "it needs input and hidden, of which there is no usual value"
    assert all(type(params) is NEURONS[name].Params for name, params in train.HIDDEN.items())


@pytest.mark.parametrize("coding", train.ENCODERS)
def test_every_coding_learns(coding, here, unseen, capsys):
    assert run(*TINY, "--coding", coding, "--hidden", 64, "--epochs", 5, "--steps", 8) == 0
    out = capsys.readouterr().out
    assert float(out.split()[-1]) > 0.8 and abs(used_as_said(out, capsys) - float(out.split()[-1])) < 0.05


def test_the_seed_decides_all(here, unseen):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(*TINY, "--coding", "rate", "--out", name, "--seed", seed)
    assert_equal(leaves(here / "a"), leaves(here / "b"))
    assert history(here / "a") == history(here / "b") != history(here / "c")


def test_resumed_is_straight_bit_for_bit(here, unseen, capsys):
    options = [*TINY, "--coding", "rate", "--hidden", "16", "12", "--lr", "0.003"]
    run(*options, "--epochs", 3, "--out", "straight")
    run(*options, "--epochs", 1, "--out", "parts")
    run("train", "--resume", "--epochs", 2, "--out", "parts")
    assert run("train", "--resume", "--epochs", 3, "--out", "parts", "--coding", "rate", "--hidden", "16", "12") == 0
    assert_equal(leaves(here / "parts"), leaves(here / "straight"))
    assert_equal(load_model(here / "parts"), load_model(here / "straight"))
    assert history(here / "parts") == history(here / "straight") and len(history(here / "parts")) == 3

    capsys.readouterr()
    run("train", "--resume", "--out", "parts")
    assert "epoch  " not in (out := capsys.readouterr().out) and out.splitlines()[-1].startswith("test accuracy 0.")
    more = "python -m snn_functional train --resume --epochs 6 --out parts"
    said = f"this run is finished, it has its 3 epochs and its model; to go on, give it more: {more}"
    assert said in out.splitlines()
    assert run(*more.split()[3:]) == 0 and len(history(here / "parts")) == 6
    assert "is finished" not in capsys.readouterr().out


def test_ctrl_c_in_the_first_epoch(here, capsys, monkeypatch):
    run(*TINY, "--out", "straight")
    whole, calls = command.training_step, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole(*args)

    with monkeypatch.context() as patch:
        patch.setattr(command, "training_step", interrupted)
        assert run(*TINY, "--out", "parts") == 130
    assert history(here / "parts") == [] and int(restored(here / "parts").adam.count) == 4
    assert {path.name for path in (here / "parts").iterdir()} == set(_folder.FILES)
    run("train", "--resume", "--out", "parts")
    assert_equal(leaves(here / "parts"), leaves(here / "straight"))


@pytest.mark.parametrize("where", ["training_step", "accuracy", "next_epoch"])
def test_ctrl_c_keeps_what_was_trained_and_resume_goes_on_bit_for_bit(where, here, unseen, capsys, monkeypatch):
    options = [*TINY, "--coding", "rate"]
    run(*options, "--out", "straight")
    calls, whole = 0, getattr(command, where)
    last = {"training_step": 30, "accuracy": 2, "next_epoch": 2}[where]

    def interrupted(*args):
        nonlocal calls
        calls += 1
        if calls == last:
            raise KeyboardInterrupt
        return whole(*args)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(command, where, interrupted)
        assert run(*options, "--out", "parts") == 130
    out, err = capsys.readouterr()
    note, last = next(line for line in out.splitlines() if "interrupted" in line), out.splitlines()[-1]
    assert note.startswith("interrupted in epoch 2; --resume") and err == ""
    metrics = json.loads((here / "parts" / "metrics.json").read_text())
    assert last == f"test accuracy {metrics['test_accuracy']:.3f}" and metrics["interrupted"]
    assert int(restored(here / "parts").adam.count) == {"training_step": 29, "accuracy": 46, "next_epoch": 23}[where]

    assert run("train", "--resume", "--out", "parts") == 0
    assert_equal(leaves(here / "parts"), leaves(here / "straight"))
    assert history(here / "parts") == history(here / "straight")
    assert not json.loads((here / "parts" / "metrics.json").read_text())["interrupted"]


def restored(folder):
    """The `Training` in a checkpoint of a TINY run."""
    network = train.network_init(torch.Generator(), (64, 16, 10), "leaky")
    structure = optree.tree_structure(train.training_init(network, torch.Generator()))
    return optree.tree_unflatten(structure, leaves(folder))


@pytest.fixture
def heard():
    """A child that can be interrupted. Where the shell ignores Ctrl-C (a job in the background, nohup), so do its children, and the
    command rightly with them; a signal that is handled, though, is the default in a child.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_real_ctrl_c(tmp_path, heard):
    call = [sys.executable, "-m", "snn_functional", *TINY, "--epochs", "1000", "--out", "run"]
    with subprocess.Popen(call, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                if line.split()[0] == "3":
                    process.send_signal(signal.SIGINT)
                    break
            rest, errors = process.communicate(timeout=300)
        finally:
            process.kill()  # one that did not hear it would train on for a thousand epochs
    assert process.returncode == 130 and errors == ""
    assert "interrupted in epoch" in rest and rest.splitlines()[-1].startswith("test accuracy 0.")
    assert len(history(tmp_path / "run")) >= 3


def test_ctrl_c_before_training(here, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load", interrupt)
    assert run(*TINY) == 130 and capsys.readouterr().err == "interrupted\n"


def test_divergence_is_one_line_and_keeps_the_last_good_checkpoint(here, unseen, capsys, monkeypatch):
    whole, calls = command.training_step, 0

    def diverging(training, samples, recipe):
        nonlocal calls
        calls += 1
        return whole(training, samples, dataclasses.replace(recipe, lr=math.inf) if calls > 23 else recipe)

    monkeypatch.setattr(command, "training_step", diverging)
    assert run(*TINY, "--out", "run") == 1
    out, err = capsys.readouterr()
    assert (
        out.splitlines()[-1].startswith("training diverged: the loss is nan in epoch 2; try a lower --lr") and not err
    )
    assert int(restored(here / "run").adam.count) == 23


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--epochs", "0"], "argument --epochs: '0': expected an integer of at least 1"),
        (["--steps", "2.5"], "argument --steps: '2.5': expected an integer of at least 1"),
        (["--hidden", "16", "-3"], "argument --hidden: '-3': expected"),
        (["--hidden"], "argument --hidden: expected at least one argument"),
        (["--lr", "0"], "argument --lr: '0': expected a number above 0"),
        (["--lr", "nan"], "argument --lr: 'nan'"),
        (["--seed", "-1"], "argument --seed: '-1': expected an integer of at least 0"),
        (["--threads", "0"], "argument --threads: '0'"),
        (["--threads", "1000000"], "argument --threads: '1000000': expected at most"),
        (["--lr", "inf"], "argument --lr: 'inf': expected at most"),
        (
            ["--hidden", "9223372036854775807"],
            "network with --steps 10 --batch 64 takes at least 37262423028893 GB, and",
        ),
        (["--steps", "9223372036854775807"], "give fewer --hidden neurons, fewer --steps, or a smaller --batch"),
        (["--neuron", "lief"], "argument --neuron: no neuron is called 'lief': give adaptive_leaky, adlif, alpha, "),
        (
            ["--neuron", "izhikevich"],
            "argument --neuron: izhikevich makes no hidden layer of this command: it rests at -65: a cell in mV, which currents",
        ),
        (
            ["--neuron", "leaky_integrator"],
            "leaky_integrator makes no hidden layer of this command: it does not fire; in a script",
        ),
        (["--coding", "morse"], "argument --coding: invalid choice"),
        (["--data", "cifar"], "no data set is called 'cifar': give digits, fashion-mnist, mnist, nmnist, shd, vowels"),
        (["--data", "none.npz"], "none.npz is not there: numpy.savez("),
        (["--data", "mnist", "--root", "none"], "mnist is not here (not in none): give the folder"),
        (["--device", "quantum"], "--device quantum: torch"),
        (["--device", "meta"], "try --device cpu"),
        (["--resume"], "runs/digits/checkpoint.pt is not there; leave --resume out to begin"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
    ],
)
def test_bad_options_get_one_line_and_leave_nothing(argv, says, here, capsys):
    assert says in refused(capsys, "train", *argv)
    assert not list(here.iterdir())


def test_no_command_shows_the_help_and_a_bad_one_is_refused(capsys):
    assert run() == 0 and "train" in capsys.readouterr().out
    assert "invalid choice: 'test'" in refused(capsys, "test")


@pytest.mark.parametrize("package", ["matplotlib", "sklearn.datasets"])
def test_a_missing_package_is_one_line_before_training(package, here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'snn-functional[demo]'" in refused(capsys, *TINY)
    assert not list(here.iterdir())


def test_a_folder_that_is_not_ours_is_left_alone(here, unseen, capsys):
    (here / "mine").mkdir()
    (here / "mine" / "metrics.json").write_text('{"program": "another"}')
    (here / "file").write_text("text")
    for name in ("mine", "file"):
        assert f"--out {name}: is there already and holds no run of ours" in refused(capsys, *TINY, "--out", name)
    assert (here / "mine" / "metrics.json").read_text() == '{"program": "another"}'
    (here / "empty").mkdir()
    assert run(*TINY, "--out", "empty") == 0


def test_an_earlier_run_of_ours_is_replaced_where_it_is_asked_for_and_says_so(here, unseen, capsys):
    run(*TINY, "--out", "run", "--seed", 1)
    earlier = leaves(here / "run")
    (here / "run" / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert "--out run holds an earlier run: --resume goes on with it, --overwrite replaces it" in refused(
        capsys, *TINY, "--out", "run", "--seed", 2
    )
    assert_equal(leaves(here / "run"), earlier)
    run(*TINY, "--out", "run", "--seed", 2, "--overwrite")
    assert "the earlier run in run is replaced" in capsys.readouterr().out
    assert not torch.equal(leaves(here / "run")[0], earlier[0]) and (here / "run" / "notes.txt").read_text() == "mine"


def test_resume_refuses_what_would_be_another_run(here, unseen, capsys):
    run(*TINY, "--out", "run")
    capsys.readouterr()
    again = ["train", "--resume", "--out", "run"]
    assert "this run has --lr 0.002, not 0.5; leave --lr out" in refused(capsys, *again, "--lr", "0.5")
    assert "this run has --hidden 16, not 8 8" in refused(capsys, *again, "--hidden", "8", "8")
    assert "this run has --data digits, not mnist" in refused(capsys, *again, "--data", "mnist")
    assert "--epochs 1: this run has 2 already" in refused(capsys, *again, "--epochs", "1")
    (here / "run" / "checkpoint.pt").write_bytes(b"nonsense")
    assert "checkpoint.pt cannot be read as a checkpoint" in refused(capsys, *again)


class Runs:
    """What a pickle of foreign making could hold."""

    def __reduce__(self):
        return open, ("ran", "w")


def test_resume_runs_nothing_that_a_checkpoint_holds(here, capsys):
    content = io.BytesIO()
    torch.save({"leaves": Runs()}, content)
    (here / "run").mkdir()
    (here / "run" / "checkpoint.pt").write_bytes(_files.seal(content.getvalue()))
    assert "cannot be read as a checkpoint (UnpicklingError)" in refused(capsys, "train", "--resume", "--out", "run")
    assert not (here / "ran").exists()


def arrays(n=40, **more):
    """Two classes that differ in the mean of the first of three features."""
    random = numpy.random.default_rng(0)
    y = numpy.arange(n) % 2
    x = random.random((n, 5, 3), "float32") / 2
    x[:, :, 0] += y[:, None] / 2
    return dict(x_train=x, y_train=y, x_test=x[::3], y_test=y[::3], **more)


def test_images_of_your_own(here, unseen, capsys):
    numpy.savez(here / "mine.npz", **arrays())
    assert run("train", "--data", "mine.npz", "--hidden", 8, "--epochs", 30, "--batch", 8) == 0
    out = capsys.readouterr().out
    assert "15-8-2 leaky network" in out and float(out.split()[-1]) > 0.9
    assert (here / "runs" / "mine" / "model.pt").is_file()

    assert "x_train is read as images of 1x5x3 pixels; for sequences [N, T, features] save lengths_train" in out

    numpy.savez(here / "mine.npz", **arrays(n=41))
    assert "trained on 40 samples of shape [15], 2 classes" in refused(
        capsys, "train", "--data", "mine.npz", "--resume"
    )
    outside = arrays()
    numpy.savez(here / "mine.npz", **{**outside, "x_test": outside["x_test"] - 1})
    assert "expected [0, 1]" in refused(capsys, "train", "--data", "mine.npz", "--coding", "rate", "--out", "new")


def test_sequences_of_your_own(here, unseen, capsys):
    lengths = dict(lengths_train=numpy.full(40, 5), lengths_test=numpy.full(14, 5))
    numpy.savez(here / "mine.npz", **arrays(**lengths))
    assert run("train", "--data", "mine.npz", "--hidden", 8, "--epochs", 30, "--batch", 8) == 0
    out = capsys.readouterr().out
    assert "3-8-2 leaky network, direct coding, 5 steps" in out and float(out.split()[-1]) > 0.9
    assert "read as images" not in out and used_as_said(out, capsys) == pytest.approx(float(out.split()[-1]), abs=1e-3)
    for wrong in (["--coding", "rate"], ["--steps", "9"]):
        assert "leave --coding and --steps out" in refused(
            capsys, "train", "--data", "mine.npz", "--out", "new", *wrong
        )


def test_what_is_padded_is_never_read():
    network = train.network_init(torch.Generator().manual_seed(0), (3, 8, 4), "leaky")
    x, lengths = torch.randn(7, 2, 3), torch.tensor([4, 7])
    other = x.clone()
    other[4:, 0] = 99.0
    score = lambda x: train.scores(train.network_apply(network, x)[0], lengths)
    assert torch.equal(score(x), score(other))
    alone = train.network_apply(network, x[:4, :1])[0].mean(0)
    torch.testing.assert_close(score(x)[:1], alone)


def test_frames_go_into_a_network_as_they_are():
    generator = torch.Generator().manual_seed(0)
    frames, flat = (xs := torch.rand(7, 3, 2, 6, 4)), xs.flatten(2)
    for network in (
        train.network_init(generator, (48, 8, 4), "leaky"),
        train.network_init(generator, (48, 8, 4), "leaky", (3,), (2, 6, 4)),
    ):
        for got, want in zip(train.network_apply(network, frames), train.network_apply(network, flat)):
            assert_equal(got, want)


@pytest.mark.parametrize(
    "shape, says",
    [
        (
            (3, 48),
            r"\(3, 48\) came. Time comes first: snf.encode.direct\(x, T\) of images x \[batch, inputs\], xs\[:, None\] of one",
        ),
        (
            (7, 2, 6, 4),
            r"\(7, 2, 6, 4\) came. The batch is missing: xs\[:, None\] of one sample, or snf.recordings.batch\(",
        ),
        (
            (7, 3, 6, 4, 2),
            r"xs is \[T, batch, 48\] or \[T, batch, 2, 6, 4\], but \(7, 3, 6, 4, 2\) came. Frames of recordings are",
        ),
        ((7, 3, 47), r"\(7, 3, 47\) came"),
        ((48,), r"\(48,\) came"),
    ],
)
def test_what_is_no_sequence_of_the_networks_inputs_is_refused(shape, says):
    generator = torch.Generator().manual_seed(0)
    network = train.network_init(generator, (48, 8, 4), "leaky", (3,), (2, 6, 4))
    with pytest.raises(ValueError, match=rf"^network_apply\(network, xs\): .*{says}"):
        train.network_apply(network, torch.rand(shape))


def test_network_is_a_tree_whose_every_leaf_learns():
    generator = torch.Generator().manual_seed(0)
    network = train.network_init(generator, (6, 16, 8, 3), "synaptic")
    assert all(
        leaf.shape[:1] == (n,) for layer, n in zip(network.hidden, (16, 8)) for leaf in optree.tree_leaves(layer)
    )
    xs, y = torch.rand(20, 5, 6, generator=generator) * 3, torch.tensor([0, 1, 2, 1, 0])
    grads, (value, counted) = torch.func.grad_and_value(train.loss, has_aux=True)(network, xs, y, None)
    assert all(leaf.abs().sum() > 0 for leaf in optree.tree_leaves(grads)) and value.dim() == 0
    mems, spks = train.network_apply(network, xs)
    assert mems.shape == (20, 5, 3) and [spk.shape for spk in spks] == [(20, 5, 16), (20, 5, 8)]
    hits = (mems.mean(0).argmax(1) == y).sum()
    torch.testing.assert_close(counted, torch.stack([value * 5, hits, *(spk.mean() * 5 for spk in spks)]))


def test_an_epoch_sees_every_sample_once():
    samples = Samples(torch.rand(10, 4), torch.arange(10) % 2)
    recipe = train.Recipe("none", hidden=(5,), coding="rate", steps=2, batch=4)
    generator = torch.Generator().manual_seed(0)
    training = train.training_init(train.network_init(generator, (4, 5, 2), "leaky"), generator)
    orders, sizes = [], []
    for _ in range(2):
        training = train.next_epoch(training, samples)
        orders.append(training.order.tolist())
        while len(training.order):
            sizes.append(min(4, len(training.order)))
            before = training
            training = train.training_step(training, samples, recipe)
            assert training.order.tolist() == before.order.tolist()[4:]
            assert not torch.equal(training.random, before.random)  # the next batch is coded by other chance
    assert (
        all(sorted(order) == list(range(10)) for order in orders) and orders[0] != orders[1] and sizes == [4, 4, 2] * 2
    )
    assert int(training.epoch) == 2 and int(training.adam.count) == 6


def test_the_average_is_the_mean_of_the_first_updates():
    samples = Samples(torch.rand(12, 4), torch.arange(12) % 2)
    recipe = train.Recipe("none", hidden=(5,), steps=2, batch=4)
    generator = torch.Generator().manual_seed(0)
    training = train.next_epoch(
        train.training_init(train.network_init(generator, (4, 5, 2), "leaky"), generator), samples
    )
    networks = []
    while len(training.order):
        training = train.training_step(training, samples, recipe)
        networks.append(training.network)
    mean = optree.tree_map(lambda *each: torch.stack(each).mean(0), *networks)
    optree.tree_map(torch.testing.assert_close, training.average, mean)


def test_adam_is_torchs():
    params = {"a": torch.randn(3, 4), "b": (torch.randn(2),)}
    theirs = [x.clone().requires_grad_() for x in optree.tree_leaves(params)]
    adam, state = torch.optim.Adam(theirs, lr=0.05), adam_init(params)
    for _ in range(20):
        grads = optree.tree_map(lambda x: torch.randn_like(x), params)
        for x, grad in zip(theirs, optree.tree_leaves(grads)):
            x.grad = grad.clone()
        adam.step()
        updates, state = adam_update(grads, state, lr=0.05)
        params = optree.tree_map(torch.add, params, updates)
    for mine, x in zip(optree.tree_leaves(params), theirs):
        torch.testing.assert_close(mine, x.detach())
    assert int(state.count) == 20


def test_a_silent_layer_is_named(here, unseen, monkeypatch, capsys):
    dull = dataclasses.replace(train.HIDDEN["leaky"], threshold=torch.tensor(1e6))
    monkeypatch.setitem(train.HIDDEN, "leaky", dull)
    assert run("train", "--hidden", "16", "8", "--epochs", "1", "--steps", "4") == 0
    said = capsys.readouterr().out.splitlines()
    assert "hidden layer 1 never fires" in said and "hidden layer 2 never fires" in said
