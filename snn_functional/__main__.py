"""The command line: `python -m snn_functional train` trains a spiking network on real data and shows it.

The network and its training are in `train.py`, what a run leaves in `_folder.py`; here are the options and the loop.
"""

import argparse
import contextlib
import dataclasses
import importlib
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from . import __version__, _checkpoint, _files, _folder
from ._firing import word
from ._terminal import at_least, Parser, say, sentence
from .data import Dataset, load, NAMES
from .train import (
    accuracy,
    encode,
    ENCODERS,
    HIDDEN,
    network_init,
    next_epoch,
    Recipe,
    Training,
    training_init,
    training_step,
)


# What each data set is trained with where the options do not say otherwise; `Recipe`'s own defaults are for your data.
RECIPES = {
    "digits": Recipe("digits", hidden=(128, 128), epochs=30),
    "fashion-mnist": Recipe("fashion-mnist", hidden=(256,), epochs=3, batch=128, lr=1e-3),
    "mnist": Recipe("mnist", hidden=(256,), epochs=3, batch=128, lr=1e-3),
    "vowels": Recipe("vowels", epochs=40, lr=5e-3),
}

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


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 where training diverged, 130 after Ctrl-C. What cannot be done raises SystemExit(2), after one line:
    bad options, bad data, a full disk. Then the last whole checkpoint is there still.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    command: Parser = args.parser
    try:
        # To the end of the block the folder is this run's alone.
        with contextlib.ExitStack() as held, _out_of_memory_is_one_line(command):
            try:
                run = prepare(args, held)
            except (ImportError, OSError, ValueError) as error:
                command.error(sentence(error))
            try:
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


def train(run: Run) -> int:
    """Train and show it; on Ctrl-C stop where it is, and keep that. Raises OSError for what cannot be written."""
    interrupted = False
    try:
        if len(run.history) < run.recipe.epochs:
            say(HEADER)
        while len(run.history) < run.recipe.epochs:
            row = train_epoch(run)
            if not math.isfinite(row["loss"]):
                say(f"training diverged: the loss is {row['loss']} in epoch {row['epoch']}; try a lower --lr")
                return 1
            save(run, [*run.history, row])
            run.history.append(row)
            say(TABLE.format(**row))
    except KeyboardInterrupt:
        interrupted = True
        save(run, run.history)
        say(f"interrupted in epoch {len(run.history) + 1}; --resume goes on from here")
    result = accuracy(run.training.average, run.dataset.test, run.recipe)
    _folder.save_model(run.folder, run.training.average)
    _folder.save_metrics(run.folder, run.recipe, run.history, result, interrupted)
    _folder.save_pictures(run.folder, run.training.average, run.dataset, run.recipe, run.history)
    say(f"{', '.join(_folder.FILES)} are in {run.folder}")
    say(f"test accuracy {result:.3f}")
    return 130 if interrupted else 0


def save(run: Run, history: list[_checkpoint.Row]) -> None:
    """A checkpoint. An earlier run's files go once this run has one, so that there is always one to go on from."""
    _checkpoint.save(run.folder, run.training, run.recipe, run.dataset, history)
    if run.replaces:
        _folder.forget_earlier(run.folder)
        run.replaces = False


def train_epoch(run: Run) -> _checkpoint.Row:
    """What is left of the epoch under way, or the next one, under a progress bar where there is a terminal; its row."""
    from tqdm import tqdm

    start, samples, epoch = time.perf_counter(), run.dataset.train, len(run.history) + 1
    if int(run.training.epoch) < epoch:
        run.training = next_epoch(run.training, samples)
    seen = len(samples.y) - len(run.training.order)
    with tqdm(
        total=len(samples.y), initial=seen, desc=f"epoch {epoch}", unit=" samples", leave=False, disable=None
    ) as bar:
        while left := len(run.training.order):
            run.training = training_step(run.training, samples, run.recipe)
            bar.update(left - len(run.training.order))
    loss, hits, *rates = (run.training.sums / len(samples.y)).tolist()
    spikes = sum(n * rate for n, rate in zip(run.recipe.hidden, rates)) / sum(run.recipe.hidden)
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
    for package in ("tqdm", "matplotlib"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise ImportError(f"{package} is not installed: pip install 'snn-functional[demo]'") from None
    generator = _generator(args.device)
    folder = Path(args.out or f"runs/{Path(args.data or 'digits').stem}")
    hold = lambda: held.enter_context(_files.held(folder, _folder.FILES))
    there = os.path.isdir(folder)  # False where the name itself is refused, unlike pathlib's
    if there:
        hold()  # before anything in it is read
    saved = _checkpoint.load(folder, generator.device) if args.resume else None
    recipe = recipe_of(args, saved["recipe"] if saved else RECIPES.get(args.data or "digits", Recipe(args.data)))

    dataset = load(recipe.data, args.root)
    sizes = (dataset.train.x.shape[-1], *recipe.hidden, dataset.classes)
    fit_to_memory(recipe, sizes, dataset, generator.device)
    recipe = fit_to_data(args, recipe, dataset)
    dataset = dataset.to(generator.device)
    generator.manual_seed(recipe.seed)
    history = saved["history"] if saved else []
    if recipe.epochs < len(history):
        raise ValueError(f"--epochs {recipe.epochs}: this run has {len(history)} already; give more, or none")
    training = training_init(network_init(generator, sizes, recipe.neuron), generator)
    if not there:
        _folder.make(folder)
        hold()
    replaces = False
    if saved:
        training = _checkpoint.restore(saved, training, dataset)
        _files.rewrite(folder / _checkpoint.NAME)
    elif replaces := _folder.claim(folder):
        say(f"the earlier run in {folder} is replaced, once this one has a checkpoint")
    say(
        f"{recipe.data}: {len(dataset.train.y)} samples to train on, {len(dataset.test.y)} to test; "
        f"{'-'.join(map(str, sizes))} {recipe.neuron} network, {recipe.coding} coding, {recipe.steps} steps; "
        f"seed {recipe.seed}, {generator.device}, threads {args.threads}"
    )
    return Run(recipe, dataset, folder, training, history, replaces)


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


def recipe_of(args: argparse.Namespace, recipe: Recipe) -> Recipe:
    """The recipe with the options that were given in place of its own. A run that goes on may change its epochs only."""
    names = [field.name for field in dataclasses.fields(Recipe)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.hidden is not None:
        given["hidden"] = tuple(args.hidden)
    for name, value in given.items():
        if args.resume and name != "epochs" and value != getattr(recipe, name):
            raise ValueError(
                f"--resume: this run has --{name} {_text(getattr(recipe, name))}, not {_text(value)}; leave --{name} out, "
                "or begin another run in another --out"
            )
    return dataclasses.replace(recipe, **given)


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


def fit_to_memory(recipe: Recipe, sizes: Sequence[int], dataset: Dataset, device: torch.device) -> None:
    """Raises ValueError for a run that this machine's memory cannot hold, before it takes the machine with it.

    A lower bound: the weights five times (their mean, Adam's two moments, the gradient), one batch's spikes.
    """
    if device.type != "cpu" or not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    x = dataset.train.x
    steps = x.shape[1] if x.dim() == 3 else recipe.steps
    weights = sum(inputs * neurons for inputs, neurons in zip(sizes, sizes[1:]))
    spikes = steps * min(recipe.batch, len(x)) * sum(sizes[1:])
    needs, has = 4 * (5 * weights + spikes), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needs > has:
        raise ValueError(
            f"a {'-'.join(map(str, sizes))} network with --steps {steps} --batch {recipe.batch} takes at least "
            f"{needs / 1e9:.0f} GB, and this machine has {has / 1e9:.0f} GB; {_SMALLER}"
        )


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


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


def _parser() -> argparse.ArgumentParser:
    count = at_least(int, 1, "an integer of at least 1")
    parser = Parser(
        prog="python -m snn_functional", description="Spiking neural networks for PyTorch in the JAX style."
    )
    parser.add_argument(
        "--version", action="version", version=f"snn-functional {__version__}, torch {torch.__version__}"
    )
    commands = parser.add_subparsers(dest="command", metavar="train")
    sub = commands.add_parser(
        "train",
        help="train a spiking network on real data and show it",
        description="Train a spiking network on real data and show it.",
        epilog="Defaults by data set: "
        + "; ".join(
            f"{r.data} --hidden {_text(r.hidden)} --steps {r.steps} --epochs {r.epochs} --batch {r.batch} --lr {r.lr}"
            for r in (*RECIPES.values(), Recipe("FILE.npz"))
        ),
        allow_abbrev=False,
    )
    sub.set_defaults(parser=sub)
    sub.add_argument("--data", help=f"{', '.join(NAMES)}, or the path of an .npz file (default: digits)")
    sub.add_argument(
        "--root", help="folder of the IDX files of fashion-mnist and mnist (default: the environment's SNN_DATA)"
    )
    sub.add_argument("--hidden", type=count, nargs="+", metavar="N", help="neurons in each hidden layer")
    sub.add_argument("--neuron", choices=list(HIDDEN), help="neuron of the hidden layers (default: leaky)")
    sub.add_argument("--coding", choices=list(ENCODERS), help="how an image becomes input over time (default: direct)")
    sub.add_argument("--steps", type=count, metavar="T", help="time steps")
    sub.add_argument("--epochs", type=count, metavar="N", help="passes over the training samples, in all")
    sub.add_argument("--batch", type=count, metavar="N", help="samples an update")
    sub.add_argument("--lr", type=at_least(float, 0, "a number above 0"), metavar="X", help="Adam's learning rate")
    sub.add_argument(
        "--seed", type=at_least(int, 0, "an integer of at least 0"), metavar="N", help="of all chance (default: 0)"
    )
    most = max(256, os.cpu_count() or 1)  # far more end the process while it makes them
    threads = at_least(int, 1, "an integer of at least 1", most)
    sub.add_argument("--threads", type=threads, default=1, metavar="N", help="CPU threads (default: 1)")
    sub.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    sub.add_argument("--out", metavar="DIR", help="folder for metrics, model and pictures (default: runs/DATA)")
    sub.add_argument("--resume", action="store_true", help="go on where the run in --out stopped, bit for bit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
