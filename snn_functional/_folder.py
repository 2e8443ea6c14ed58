"""What a run leaves in its folder, and how the next one finds it.

    checkpoint.pt         what `--resume` goes on from (`_checkpoint.py`)
    model.pt              a `Network`
    metrics.json          recipe, history, test accuracy, times, versions
    learning_curve.png, raster.png, traces.png
    metrics.csv           a row an epoch, where it was asked for
    tensorboard/          the same for TensorBoard, where it was asked for

Every file is whole or not there (`_files.py`), and an earlier run's are there until this one has something to put in their place.
"""

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import __version__, _checkpoint, _files, plot
from ._checkpoint import ROW, Row
from .data import Dataset
from .modifiers import record
from .train import choose, encode, layer_apply, Network, network_apply, Recipe, scores


FILES = (_checkpoint.NAME, "model.pt", "metrics.json", "learning_curve.png", "raster.png", "traces.png")
ASKED = ("metrics.csv",)
NAMES = (*FILES, *ASKED)
PROGRAM = "python -m snn_functional train"


def make(folder: Path) -> None:
    """A new folder. Raises OSError."""
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(
            f"--out {folder}: is there already and holds no run of ours, it is no folder; give a new one"
        )
    folder.mkdir(parents=True)


def holds_a_run(folder: Path) -> bool:
    """Whether a run of ours, with a checkpoint, is there: something to lose."""
    return _is_ours(folder) and (folder / _checkpoint.NAME).is_file()


def free(base: Path) -> Path:
    """`base`, or base-2, base-3 and so on: the first that holds no run."""
    return next(folder for folder in _numbered(base) if not holds_a_run(folder))


def latest(base: Path) -> Path:
    """The last of base, base-2, base-3 and so on that holds a run; `base` where none does."""
    found = base
    for folder in _numbered(base):
        if not holds_a_run(folder):
            return found
        found = folder
    raise AssertionError


def _numbered(base: Path) -> Iterator[Path]:
    return itertools.chain([base], (base.with_name(f"{base.name}-{n}") for n in itertools.count(2)))


def claim(folder: Path) -> bool:
    """Make the folder ours, with an empty `metrics.json` to show it. True if it holds an earlier run of ours, which stays as it is
    until `forget_earlier`.

    Raises OSError: FileExistsError for a folder that holds files but no run of ours.
    """
    if _is_ours(folder):
        _files.rewrite(folder / "metrics.json")
        return True
    if set(folder.iterdir()) - set(_files.unfinished(folder, NAMES)):
        raise FileExistsError(
            f"--out {folder}: is there already and holds no run of ours; give a new folder, or empty it"
        )
    _write_metrics(folder)
    return False


def forget_earlier(folder: Path) -> None:
    """Take away what an earlier run left beside the checkpoint, which is this run's already."""
    for name in set(NAMES) - {_checkpoint.NAME, "metrics.json"}:
        (folder / name).unlink(missing_ok=True)
    for path in (folder / "tensorboard").glob("events.out.tfevents.*"):
        path.unlink()
    _write_metrics(folder)


def _is_ours(folder: Path) -> bool:
    path = folder / "metrics.json"
    try:
        return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["program"] == PROGRAM
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def save_model(folder: Path, network: Network) -> None:
    content = io.BytesIO()
    torch.save(network, content)
    _files.write(folder / "model.pt", content.getvalue())


def save_metrics(folder: Path, recipe: Recipe, history: list[Row], test_accuracy: float, interrupted: bool) -> None:
    _write_metrics(
        folder,
        options=dataclasses.asdict(recipe),
        history=history,
        test_accuracy=test_accuracy,
        interrupted=interrupted,
        seconds=sum(row["seconds"] for row in history),
    )


def save_csv(folder: Path, history: list[Row]) -> None:
    """All epochs so far."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(ROW)
    table.writerows([row[name] for name in ROW] for row in history)
    _files.write(folder / "metrics.csv", text.getvalue().encode())


def import_tensorboard() -> Any:
    """torch's writer of its files. Raises ImportError without it."""
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    except ImportError as error:
        raise ImportError(
            "--tensorboard takes TensorBoard, which is not installed: pip install tensorboard (or pip install "
            "'snn-functional[tensorboard]'); --csv takes nothing"
        ) from error


class Board:
    """What TensorBoard shows of a run. There is no file before the first row: till then an earlier run's are there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.writer = folder / "tensorboard", None

    def write(self, row: Row) -> None:
        """An epoch, in place of any later one that a run before this wrote."""
        if self.writer is None:
            self.writer = import_tensorboard()(str(self.folder), purge_step=int(row["epoch"]))
        for name, tag in TAGS.items():
            self.writer.add_scalar(tag, row[name], int(row["epoch"]))
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


TAGS = {
    "loss": "loss/train",
    "train_accuracy": "accuracy/train",
    "test_accuracy": "accuracy/test",
    "spike_rate": "spike rate",
}


def _write_metrics(folder: Path, **metrics: Any) -> None:
    content = {"program": PROGRAM, "version": __version__, "torch": torch.__version__, **metrics}
    _files.write(folder / "metrics.json", (json.dumps(content, indent=2) + "\n").encode())


@torch.no_grad()
def save_pictures(folder: Path, network: Network, dataset: Dataset, recipe: Recipe, history: list[Row]) -> None:
    """The learning curve, and of the first test sample every hidden spike and the membranes that tell most."""
    from matplotlib.figure import Figure

    x, y, lengths = choose(dataset.test, torch.zeros(1, dtype=torch.int64, device=dataset.test.x.device))
    xs = encode(x, recipe, torch.Generator(x.device).manual_seed(recipe.seed))
    if lengths is not None:
        xs = xs[: int(lengths)]  # no padding in a picture
    mems, spks = network_apply(network, xs)
    answer = int(scores(mems, lengths).argmax())
    title = f"first test sample: class {int(y)}, the network says {answer}"

    def save(name: str, figure: Figure) -> None:
        content = io.BytesIO()
        figure.savefig(content, format="png")
        _files.write(folder / name, content.getvalue())

    curve = Figure(figsize=(6, 4), layout="constrained")
    plot.learning_curve(history, curve.subplots())
    save("learning_curve.png", curve)

    rasters = Figure(figsize=(7, 1 + 2.5 * len(spks)), layout="constrained")
    for i, (ax, spk) in enumerate(zip(rasters.subplots(len(spks), squeeze=False)[:, 0], spks)):
        plot.raster(spk[:, 0], ax).set_title(f"hidden layer {i + 1}")
    rasters.suptitle(title)
    save("raster.png", rasters)

    spk, mem, threshold = _first_layer(network, xs)
    busiest = spk.sum(0).argsort(descending=True)[:4]
    threshold = None if threshold is None else threshold[:, busiest]
    membranes = Figure(figsize=(7, 6), layout="constrained")
    top, bottom = membranes.subplots(2, 1)
    labels = [f"neuron {int(i)}" for i in busiest]
    plot.traces(mem[:, busiest], spk[:, busiest], top, threshold=threshold, labels=labels)
    dashed = "" if threshold is None else "; dashed: their thresholds"
    top.set_title(f"hidden layer 1: the four that fire most{dashed}")
    plot.traces(
        mems[:, 0], ax=bottom, labels=[f"class {i}" for i in range(dataset.classes)] if dataset.classes <= 10 else None
    )
    bottom.set_title("readout")
    membranes.suptitle(title)
    save("traces.png", membranes)


def _first_layer(network: Network, xs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of the first sample: its spikes, its membranes, and what they have to exceed, each [T, neurons]; None where that is no number."""
    layer = network.hidden[0]
    spk, states = layer_apply(layer, xs if network.image is None else xs.unflatten(-1, network.image), record)
    params: Any = layer.neuron
    level = params.level(states) if hasattr(params, "level") else getattr(params, "threshold", None)
    sample = lambda each: each.flatten(2)[:, 0]
    return sample(spk), sample(states.mem), None if level is None else sample(level + torch.zeros_like(states.mem))
