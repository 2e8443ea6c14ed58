"""What a run leaves in its folder, and how the next one finds it.

    checkpoint.pt         the leaves of `Training`, the recipe, the history: what `--resume` goes on from
    model.pt              a `Network`
    metrics.json          recipe, history, test accuracy, times, versions
    learning_curve.png, raster.png, traces.png

Every file is written beside its name and then moved there, so that none is ever half written.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import snn_functional as snf

from . import plot
from ._tree import tree_flatten, tree_unflatten
from .data import Dataset
from .train import choose, encode, layer_apply, Network, network_apply, Recipe, scores, Training


FILES = ("checkpoint.pt", "model.pt", "metrics.json", "learning_curve.png", "raster.png", "traces.png")
PROGRAM = "python -m snn_functional train"
Row = dict[str, float]


def claim(folder: Path) -> bool:
    """Make the folder ours, with an empty `metrics.json` to show it. True if an earlier run of ours was replaced.

    Raises FileExistsError for a folder that holds files but no run of ours.
    """
    earlier = _is_ours(folder)
    if not earlier and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"--out {folder}: is there already and holds no run of ours; give a new folder, or empty it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES if earlier else ():
        (folder / name).unlink(missing_ok=True)
    _write_metrics(folder)
    return earlier


def _is_ours(folder: Path) -> bool:
    try:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["program"] == PROGRAM
    except (OSError, ValueError, KeyError, TypeError):
        return False


def save_checkpoint(folder: Path, training: Training, recipe: Recipe, dataset: Dataset, history: list[Row]) -> None:
    content = {
        "leaves": tree_flatten(training)[0],
        "recipe": dataclasses.asdict(recipe),
        "samples": _kind(dataset),
        "history": history,
    }
    _write(folder / "checkpoint.pt", lambda path: torch.save(content, path))


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any]:
    """What `save_checkpoint` wrote: tensors and plain values only, so nothing in it can run. Raises OSError or ValueError."""
    path = folder / "checkpoint.pt"
    if not path.is_file():
        raise FileNotFoundError(f"--resume: {path} is not there; leave --resume out to begin, or say where with --out")
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        return {**saved, "recipe": Recipe(**saved["recipe"])}
    except Exception as error:
        raise ValueError(f"--resume: {path} cannot be read as a checkpoint ({type(error).__name__})") from error


def restore(saved: dict[str, Any], training: Training, dataset: Dataset) -> Training:
    """The saved leaves in the structure of a `training` that has just begun. Raises ValueError where the data are other ones."""
    if saved["samples"] != _kind(dataset):
        raise ValueError(f"--resume: this run was trained on {saved['samples']}, but here are {_kind(dataset)}")
    return tree_unflatten(tree_flatten(training)[1], saved["leaves"])


def _kind(dataset: Dataset) -> str:
    x = dataset.train.x
    return f"{len(x)} samples of shape {list(x.shape[1:])}, {dataset.classes} classes, on {x.device.type}"


def save_model(folder: Path, network: Network) -> None:
    _write(folder / "model.pt", lambda path: torch.save(network, path))


def save_metrics(folder: Path, recipe: Recipe, history: list[Row], test_accuracy: float, interrupted: bool) -> None:
    _write_metrics(
        folder,
        options=dataclasses.asdict(recipe),
        history=history,
        test_accuracy=test_accuracy,
        interrupted=interrupted,
        seconds=sum(row["seconds"] for row in history),
    )


def _write_metrics(folder: Path, **metrics: Any) -> None:
    content = {"program": PROGRAM, "version": snf.__version__, "torch": torch.__version__, **metrics}
    _write(
        folder / "metrics.json", lambda path: path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    )


@torch.no_grad()
def save_pictures(folder: Path, network: Network, dataset: Dataset, recipe: Recipe, history: list[Row]) -> None:
    """The learning curve, and of the first test sample every hidden spike and the membranes that tell most."""
    from matplotlib.figure import Figure

    x, y, lengths = choose(dataset.test, torch.zeros(1, dtype=torch.int64, device=dataset.test.x.device))
    xs = encode(x, recipe, torch.Generator(x.device).manual_seed(recipe.seed))
    mems, spks = network_apply(network, xs)
    answer = int(scores(mems, lengths).argmax())
    title = f"first test sample: class {int(y)}, the network says {answer}"

    def save(name: str, figure: Figure) -> None:
        _write(folder / name, lambda path: figure.savefig(path, format="png"))

    curve = Figure(figsize=(6, 4), layout="constrained")
    plot.learning_curve(history, curve.subplots())
    save("learning_curve.png", curve)

    rasters = Figure(figsize=(7, 1 + 2.5 * len(spks)), layout="constrained")
    for i, (ax, spk) in enumerate(zip(rasters.subplots(len(spks), squeeze=False)[:, 0], spks)):
        plot.raster(spk[:, 0], ax).set_title(f"hidden layer {i + 1}")
    rasters.suptitle(title)
    save("raster.png", rasters)

    hidden, states = layer_apply(network.hidden[0], xs, snf.record)
    spk, mem = hidden[:, 0], states.mem[:, 0]
    busiest = spk.sum(0).argsort(descending=True)[:4]
    membranes = Figure(figsize=(7, 6), layout="constrained")
    top, bottom = membranes.subplots(2, 1)
    plot.traces(mem[:, busiest], spk[:, busiest], top, labels=[f"neuron {int(i)}" for i in busiest])
    top.set_title("hidden layer 1: the four that fire most")
    plot.traces(
        mems[:, 0], ax=bottom, labels=[f"class {i}" for i in range(dataset.classes)] if dataset.classes <= 10 else None
    )
    bottom.set_title("readout")
    membranes.suptitle(title)
    save("traces.png", membranes)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    write(unfinished)
    os.replace(unfinished, path)
