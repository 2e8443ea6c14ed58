"""The checkpoint: `Training`'s leaves, the recipe and the history, in one sealed file, from which `--resume` goes on.

It is read in three steps, and each may refuse it: are these the bytes that were written (`_files.opened`); do they hold what a
checkpoint holds (`load`); is it one of this network on these data (`restore`)? Only tensors and plain values are read, so
that nothing in such a file can run, and nothing that it says is believed before it is looked at.
"""

import dataclasses
import io
import math
import os
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import _files
from ._tree import tree_flatten, tree_unflatten
from .data import Dataset
from .train import ENCODERS, HIDDEN, Recipe, Training


NAME = "checkpoint.pt"
Row = dict[str, float]  # what an epoch came to
ROW = ("epoch", "loss", "train_accuracy", "test_accuracy", "spike_rate", "seconds")
_REFUSED = "--resume: the checkpoint is whole, but not one of this run: {}; begin another run in another --out"


def save(folder: Path, training: Training, recipe: Recipe, dataset: Dataset, history: list[Row]) -> None:
    """Put it there whole, in place of the one before. Raises OSError, and the one before is as it was."""
    content = io.BytesIO()  # given a path, torch's writer meets a full disk with a RuntimeError about positions
    leaves, _ = tree_flatten(training)
    torch.save(
        {"leaves": leaves, "recipe": dataclasses.asdict(recipe), "samples": _kind(dataset), "history": history}, content
    )
    _files.write(folder / NAME, _files.seal(content.getvalue()))


def load(folder: Path, device: torch.device) -> dict[str, Any]:
    """What `save` wrote, its recipe as a `Recipe`. Raises OSError or ValueError."""
    path = folder / NAME
    if not os.path.isfile(path):  # False where the name itself is refused, unlike pathlib's
        raise FileNotFoundError(f"--resume: {path} is not there; leave --resume out to begin, or say where with --out")
    try:
        content = _files.opened(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"--resume: {path} cannot be read as a checkpoint: {error}") from error
    try:
        saved = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # whatever a file that holds something else makes of torch's reader
        raise ValueError(f"--resume: {path} cannot be read as a checkpoint ({type(error).__name__})") from error
    if not isinstance(saved, dict) or set(saved) != {"leaves", "recipe", "samples", "history"}:
        _refuse("it does not hold leaves, recipe, samples and history")
    saved["recipe"] = _recipe(saved["recipe"])
    _check_history(saved["history"])
    return saved


def restore(saved: dict[str, Any], training: Training, dataset: Dataset) -> Training:
    """The saved leaves in the structure of a `training` that has just begun. Raises ValueError where they do not fit it."""
    if saved["samples"] != _kind(dataset):
        raise ValueError(f"--resume: this run was trained on {saved['samples']}, but here are {_kind(dataset)}")
    begun, structure = tree_flatten(training)
    leaves, epochs = saved["leaves"], len(saved["history"])
    if not isinstance(leaves, list) or len(leaves) != len(begun) or not all(isinstance(x, Tensor) for x in leaves):
        _refuse(f"its leaves are not the {len(begun)} tensors of this network's training")
    restored: Training = tree_unflatten(structure, leaves)
    _check_order(restored.order, len(dataset.train.y))
    # Of all leaves only the order's length changes while training.
    for place, leaf in enumerate(tree_flatten(dataclasses.replace(training, order=restored.order))[0]):
        if (leaves[place].shape, leaves[place].dtype) != (leaf.shape, leaf.dtype):
            _refuse(
                f"leaf {place} is {leaves[place].dtype} {list(leaves[place].shape)}, where this network's training has "
                f"{leaf.dtype} {list(leaf.shape)}"
            )
    if float(restored.epoch) not in (epochs, epochs + 1) or not 0 <= float(restored.adam.count) < math.inf:
        _refuse(
            f"it counts {float(restored.epoch)} epochs and {float(restored.adam.count)} updates after {epochs} rows"
        )
    try:
        torch.Generator(restored.order.device).set_state(restored.random.cpu())
    except RuntimeError as error:
        raise ValueError(_REFUSED.format("its generator's state is none")) from error
    return restored


def _recipe(fields: Any) -> Recipe:
    at_least = lambda least, value: type(value) is int and least <= value < 2**63
    try:
        recipe = Recipe(**fields)
        if (
            isinstance(recipe.data, str)
            and type(recipe.hidden) is tuple
            and len(recipe.hidden) > 0
            and all(at_least(1, value) for value in (*recipe.hidden, recipe.steps, recipe.epochs, recipe.batch))
            and type(recipe.conv) is tuple
            and all(at_least(1, value) for value in recipe.conv)
            and recipe.neuron in HIDDEN
            and recipe.coding in ENCODERS
            and type(recipe.lr) is float
            and 0 < recipe.lr < math.inf
            and at_least(0, recipe.seed)
            and (recipe.window is None or (type(recipe.window) is float and 0 < recipe.window < math.inf))
        ):
            return recipe
    except TypeError:  # other names than a recipe's, or a choice that no dict can look up
        pass
    _refuse(f"its recipe is {fields!r}")


def _check_history(history: Any) -> None:
    if not isinstance(history, list) or not all(
        isinstance(row, dict)
        and set(row) == set(ROW)
        and all(type(value) in (int, float) for value in row.values())
        and row["epoch"] == epoch
        for epoch, row in enumerate(history, start=1)
    ):
        _refuse("its history is not one row of numbers for each epoch")


def _check_order(order: Tensor, samples: int) -> None:
    if order.dtype != torch.int64 or order.dim() != 1 or len(order) > samples:
        _refuse(f"its order is {order.dtype} {list(order.shape)}, where {samples} samples are")
    if len(order) and (order.min() < 0 or order.max() >= samples or len(order.unique()) < len(order)):
        _refuse(f"its order does not name each sample once, from 0 to {samples - 1}")


def _refuse(what: str) -> NoReturn:
    raise ValueError(_REFUSED.format(what))


def _kind(dataset: Dataset) -> str:
    x = dataset.train.x
    return f"{len(x)} samples of shape {list(x.shape[1:])}, {dataset.classes} classes, on {x.device.type}"
