"""The command line: `python -m snn_functional train` trains a spiking network on real data and shows it.

The network and its training are in `train.py`, what a run leaves in `_folder.py`; here are the options and the loop.
"""

import argparse
import contextlib
import dataclasses
import importlib
import math
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from . import _checkpoint, _files, _folder
from ._firing import word
from ._network import halved
from ._options import default_folder, folder_of, parser, recipe_of, RECIPES as RECIPES
from ._progress import compiling_is_said, Progress
from ._terminal import Parser, say, sentence
from .data import Dataset, load, NMNIST, place_of
from .train import (
    accuracy,
    encode,
    network_init,
    next_epoch,
    Recipe,
    Training,
    training_init,
    training_step,
)


TABLE = "{epoch:>5}  {loss:>8.4f}  {train_accuracy:>9.4f}  {test_accuracy:>8.4f}  {spike_rate:>10.4f}  {seconds:>7.2f}"
HEADER = "epoch      loss  train acc  test acc  spike rate  seconds"


@dataclasses.dataclass
class Run:
    """A run under way. Only `training`, `history` and `replaces` change: whether an earlier run's files are still there."""

    recipe: Recipe
    dataset: Dataset
    folder: Path
    training: Training
    history: list[_checkpoint.Row]
    replaces: bool
    neurons: tuple[int, ...]  # of each hidden layer
    root: str | None = None
    csv: bool = False
    board: _folder.Board | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 where training diverged, 130 after Ctrl-C. What cannot be done raises SystemExit(2), after one line:
    bad options, bad data, a full disk. Then the last whole checkpoint is there still.
    """
    options = parser()
    args = options.parse_args(argv)
    if args.command is None:
        options.print_help()
        return 0
    command: Parser = args.parser
    try:
        # To the end of the block the folder is this run's alone.
        with contextlib.ExitStack() as held, _out_of_memory_is_one_line(command):
            try:
                run = prepare(args, held)
            except (ImportError, OSError, ValueError) as error:
                command.error(sentence(error) + _picked(args, str(error)))
            try:
                with compiling_is_said():
                    return train(run)
            except OSError as error:
                kept = (run.folder / _checkpoint.NAME).is_file()
                command.error(
                    f"{sentence(error)}; "
                    + ("the last checkpoint is whole, --resume goes on from it" if kept else "nothing was saved yet")
                )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _picked(args: argparse.Namespace, says: str) -> str:
    """Which run --resume took, where the options named none and the message does not, either."""
    if not args.resume or args.overwrite or args.out or (folder := str(folder_of(args))) in says:
        return ""
    return f"; it is the run in {folder}, the latest, and --out names another"


def train(run: Run) -> int:
    """Train and show it; on Ctrl-C stop where it is, and keep that. Raises OSError for what cannot be written."""
    interrupted, epochs = False, run.recipe.epochs
    try:
        if len(run.history) < epochs:
            say(HEADER)
        else:
            more = f"--resume --epochs {2 * epochs} --out {shlex.quote(str(run.folder))}"
            more += f" --root {shlex.quote(run.root)}" if run.root else ""
            say(
                f"this run is finished, it has its {epochs} epochs and its model; to go on, give it more: {_folder.PROGRAM} {more}"
            )
        while len(run.history) < run.recipe.epochs:
            row = train_epoch(run)
            if not math.isfinite(row["loss"]):
                say(f"training diverged: the loss is {row['loss']} in epoch {row['epoch']}; try a lower --lr")
                return 1
            save(run, [*run.history, row])
            run.history.append(row)
            say(TABLE.format(**row))
            if run.board is not None:
                run.board.write(row)
    except KeyboardInterrupt:
        interrupted = True
        save(run, run.history)
        say(f"interrupted in epoch {len(run.history) + 1}; --resume goes on from here")
    result = accuracy(run.training.average, run.dataset.test, run.recipe)
    _folder.save_model(run.folder, run.training.average)
    _folder.save_metrics(run.folder, run.recipe, run.history, result, interrupted)
    _folder.save_pictures(run.folder, run.training.average, run.dataset, run.recipe, run.history)
    files = [*_folder.FILES, *["metrics.csv"] * run.csv, *["tensorboard"] * (run.board is not None)]
    say(f"{', '.join(files)} are in {run.folder}")
    say(how_to_load(run))
    say(f"test accuracy {result:.3f}")
    return 130 if interrupted else 0


def save(run: Run, history: list[_checkpoint.Row]) -> None:
    """A checkpoint. An earlier run's files go once this run has one, so that there is always one to go on from."""
    _checkpoint.save(run.folder, run.training, run.recipe, run.dataset, history)
    if run.replaces:
        _folder.forget_earlier(run.folder)
        run.replaces = False
    if run.csv:
        _folder.save_csv(run.folder, history)


def how_to_load(run: Run) -> str:
    """The lines of Python that use the model again: as they are printed they run, on samples of the test set."""
    recipe, lengths = run.recipe, run.dataset.train.lengths is not None
    how = "" if run.training.order.device.type == "cpu" else ", map_location='cpu'"
    how += ", weights_only=True" if hasattr(torch.serialization, "add_safe_globals") else ""
    place = ", ".join(repr(each) for each in (recipe.data, run.root, recipe.window) if each is not None)
    if recipe.data == "nmnist":
        data = (
            f"_, test = snf.recordings.read_nmnist({str(place_of(recipe.data, run.root))!r})",
            f"frames = lambda events: snf.recordings.frames(events, window={1000 * (recipe.window or 0):_.15g}, size={NMNIST})",
            "xs, y, lengths = snf.recordings.batch((frames(one.events), one.label) for one in test[:100])",
        )
    elif lengths:
        data = f"x, y, lengths = snf.data.load({place}).test", "xs = x.transpose(0, 1).float()"
    else:
        more = ", linear=True" if recipe.coding == "latency" else ""
        data = f"x, y, _ = snf.data.load({place}).test", f"xs = snf.encode.{recipe.coding}(x, {recipe.steps}{more})"
    lines = (
        "import torch, snn_functional as snf",
        f"network = torch.load({str(run.folder / 'model.pt')!r}{how})",
        *data,
        f"mems, spks = snf.train.network_apply(network, xs)  # xs [T, batch, {_inputs(run.dataset)}], time first",
        f"answers = snf.train.scores(mems{', lengths' * lengths}).argmax(1)",
        "print((answers == y).float().mean())",
    )
    return "\n".join(["to use the model:", *(f"    {line}" for line in lines)])


def _inputs(dataset: Dataset) -> str:
    return ", ".join(
        map(str, dataset.image if dataset.train.lengths is not None and dataset.image else dataset.train.x.shape[-1:])
    )


def train_epoch(run: Run) -> _checkpoint.Row:
    """What is left of the epoch under way, or the next one, showing how far it is; its row."""
    start, samples, epoch = time.perf_counter(), run.dataset.train, len(run.history) + 1
    if int(run.training.epoch) < epoch:
        run.training = next_epoch(run.training, samples)
    seen = len(samples.y) - len(run.training.order)
    with Progress(epoch, len(samples.y), seen) as progress:
        while left := len(run.training.order):
            run.training = training_step(run.training, samples, run.recipe)
            now = len(run.training.order)
            progress.update(left - now, lambda now=now: float(run.training.sums[0]) / (len(samples.y) - now))
    loss, hits, *rates = (run.training.sums / len(samples.y)).tolist()
    spikes = sum(n * rate for n, rate in zip(run.neurons, rates)) / sum(run.neurons)
    for layer, rate in enumerate(rates, start=1):
        if said := word(round(rate, 6)):
            say(f"hidden layer {layer} {said}")
    test = accuracy(run.training.average, run.dataset.test, run.recipe)
    seconds = time.perf_counter() - start
    return dict(epoch=epoch, loss=loss, train_accuracy=hits, test_accuracy=test, spike_rate=spikes, seconds=seconds)


def prepare(args: argparse.Namespace, held: contextlib.ExitStack) -> Run:
    """The run that the options ask for, begun or taken up again, its folder locked until `held` is closed.

    Raises ImportError, OSError or ValueError, in one sentence.
    """
    torch.set_num_threads(args.threads)
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise ImportError("matplotlib is not installed: pip install 'snn-functional[demo]'") from None
    generator = _generator(args.device)
    folder = folder_of(args)
    hold = lambda: held.enter_context(_files.held(folder, _folder.NAMES))
    there = os.path.isdir(folder)  # False where the name itself is refused, unlike pathlib's
    if there:
        hold()  # before anything in it is read
        if not args.resume and not args.overwrite and _folder.holds_a_run(folder):
            raise ValueError(
                f"--out {folder} holds an earlier run: --resume goes on with it, --overwrite replaces it, a new --out keeps both"
            )
    saved = _checkpoint.load(folder, generator.device) if args.resume else None
    recipe = recipe_of(args, saved["recipe"] if saved else RECIPES.get(args.data or "digits", Recipe(args.data)))

    dataset = load(recipe.data, args.root, recipe.window)
    sizes = (dataset.train.x.shape[-1], *recipe.hidden, dataset.classes)
    images = conv_shapes(recipe, dataset)
    neurons = (*(math.prod(image) for image in images[1:]), *recipe.hidden)
    fit_to_memory(recipe, images, sizes, dataset, generator.device)
    recipe = fit_to_data(args, recipe, dataset)
    dataset = dataset.to(generator.device)
    generator.manual_seed(recipe.seed)
    history = saved["history"] if saved else []
    if recipe.epochs < len(history):
        raise ValueError(f"--epochs {recipe.epochs}: this run has {len(history)} already; give more, or none")
    network = network_init(generator, sizes, recipe.neuron, recipe.conv, dataset.image)
    training = training_init(network, generator)
    if args.tensorboard:
        _folder.import_tensorboard()
    if not there:
        _folder.make(folder)
        hold()
    replaces = False
    if saved:
        training = _checkpoint.restore(saved, training, dataset)
        _files.rewrite(folder / _checkpoint.NAME)
    elif replaces := _folder.claim(folder):
        say(f"the earlier run in {folder} is replaced, once this one has a checkpoint")
    elif args.out is None and folder.name != Path(default_folder(args)).name:
        say(f"this run goes to {folder}; the earlier one stays, --overwrite would replace it")
    if recipe.data.endswith(".npz") and dataset.image is not None:
        say(
            f"{recipe.data}: x_train is read as images of {'x'.join(map(str, dataset.image))} pixels; for sequences [N, T, features] "
            "save lengths_train and lengths_test, too, the steps of each"
        )
    say(
        f"{recipe.data}: {len(dataset.train.y)} samples to train on, {len(dataset.test.y)} to test; "
        f"{_layers(recipe, dataset)} {recipe.neuron} network, {recipe.coding} coding, {recipe.steps} steps; "
        f"seed {recipe.seed}, {generator.device}, threads {args.threads}"
    )
    board = held.enter_context(contextlib.closing(_folder.Board(folder))) if args.tensorboard else None
    return Run(recipe, dataset, folder, training, history, replaces, neurons, args.root, args.csv, board)


def conv_shapes(recipe: Recipe, dataset: Dataset) -> list[tuple[int, int, int]]:
    """The image that comes in, and that behind each convolution; empty without. Raises ValueError where there is no image."""
    if not recipe.conv:
        return []
    if dataset.image is None:
        raise ValueError(f"{recipe.data} holds no images, whose pixels a convolution goes over: leave --conv out")
    shapes = [dataset.image]
    for channels in recipe.conv:
        shapes.append(halved(shapes[-1], channels))
    return shapes


def _layers(recipe: Recipe, dataset: Dataset) -> str:
    """The network in short: 2x34x34-8c-16c-64-10, or 64-128-10."""
    first = "x".join(map(str, dataset.image or ())) if recipe.conv else str(dataset.train.x.shape[-1])
    return "-".join(map(str, (first, *(f"{n}c" for n in recipe.conv), *recipe.hidden, dataset.classes)))


def _generator(device: str) -> torch.Generator:
    """A generator there. Raises ValueError where torch can make none or draw nothing from it."""
    try:
        with warnings.catch_warnings():  # torch's about kinds of devices that are going
            warnings.simplefilter("ignore")
            generator = torch.Generator(device)
            torch.rand(1, generator=generator, device=device)
        return generator
    except (RuntimeError, AssertionError):
        raise ValueError(f"--device {device}: torch {torch.__version__} cannot use it here; try --device cpu") from None


def fit_to_data(args: argparse.Namespace, recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe for these data. Raises ValueError where they cannot be coded so."""
    x = dataset.train.x
    if x.dim() == 3:
        if recipe.coding != "direct" or (args.steps is not None and args.steps != x.shape[1]):
            raise ValueError(
                f"{recipe.data} holds sequences: they are the current at each of their {x.shape[1]} steps; "
                "leave --coding and --steps out"
            )
        return dataclasses.replace(recipe, steps=x.shape[1])
    for x in (dataset.train.x, dataset.test.x):
        encode(torch.stack([x.min(), x.max()]), recipe, torch.Generator())
    return recipe


def fit_to_memory(
    recipe: Recipe,
    images: Sequence[tuple[int, int, int]],
    sizes: Sequence[int],
    dataset: Dataset,
    device: torch.device,
) -> None:
    """Raises ValueError for a run that this machine's memory cannot hold, before it takes the machine with it.

    A lower bound: the weights five times (their mean, Adam's two moments, the gradient), one batch's spikes.
    """
    if device.type != "cpu":
        return
    x = dataset.train.x
    steps = x.shape[1] if x.dim() == 3 else recipe.steps
    convolved = [math.prod(image) for image in images[1:]]
    dense = (convolved[-1] if convolved else sizes[0], *sizes[1:])
    weights = sum(inputs * neurons for inputs, neurons in zip(dense, dense[1:]))
    weights += sum(9 * before[0] * after[0] for before, after in zip(images, images[1:]))
    spikes = steps * min(recipe.batch, len(x)) * (sum(convolved) + sum(sizes[1:]))
    needs, has = 4 * (5 * weights + spikes), _files.memory()
    if needs > has:
        raise ValueError(
            f"a {_layers(recipe, dataset)} network with --steps {steps} --batch {recipe.batch} takes at least "
            f"{needs / 1e9:.0f} GB, and this machine has {has / 1e9:.0f} GB; {_SMALLER}"
        )


_SMALLER = "give fewer --hidden neurons, fewer --steps, or a smaller --batch"


@contextlib.contextmanager
def _out_of_memory_is_one_line(command: Parser) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # What torch says on the CPU, on a GPU, and of sizes that no 64-bit number holds.
        signs = "allocate memory", "bad_alloc", "out of memory", "calculation overflow", "multiplication overflow"
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in signs):
            command.error(f"there is not enough memory for this; {_SMALLER}")
        raise


if __name__ == "__main__":
    sys.exit(main())
