"""The command line: `python -m snn_functional train` trains a spiking network on real data and shows it.

The network and its training are in `train.py`, what a run leaves in `_folder.py`; here are the options and the loop.
"""

import argparse
import dataclasses
import importlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from . import __version__, _folder
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
    """A run under way. Only `training` and `history` change."""

    recipe: Recipe
    dataset: Dataset
    folder: Path
    training: Training
    history: list[_folder.Row]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 where training diverged, 130 after Ctrl-C. Bad options raise SystemExit(2), after one line."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    command: _Parser = args.parser
    try:
        try:
            run = prepare(args)
        except (ImportError, OSError, ValueError) as error:
            command.error(str(error))
        return train(run)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def train(run: Run) -> int:
    """Train and show it; on Ctrl-C stop where it is, and keep that."""
    interrupted = False
    try:
        if len(run.history) < run.recipe.epochs:
            print(HEADER, flush=True)
        while len(run.history) < run.recipe.epochs:
            row = train_epoch(run)
            if not math.isfinite(row["loss"]):
                print(
                    f"training diverged: the loss is {row['loss']} in epoch {row['epoch']}; try a lower --lr",
                    flush=True,
                )
                return 1
            run.history.append(row)
            print(TABLE.format(**row), flush=True)
            _folder.save_checkpoint(run.folder, run.training, run.recipe, run.dataset, run.history)
    except KeyboardInterrupt:
        interrupted = True
        _folder.save_checkpoint(run.folder, run.training, run.recipe, run.dataset, run.history)
        print(f"interrupted in epoch {len(run.history) + 1}; --resume goes on from here", flush=True)
    result = accuracy(run.training.average, run.dataset.test, run.recipe)
    _folder.save_model(run.folder, run.training.average)
    _folder.save_metrics(run.folder, run.recipe, run.history, result, interrupted)
    _folder.save_pictures(run.folder, run.training.average, run.dataset, run.recipe, run.history)
    print(f"{', '.join(_folder.FILES)} are in {run.folder}")
    print(f"test accuracy {result:.3f}", flush=True)
    return 130 if interrupted else 0


def train_epoch(run: Run) -> _folder.Row:
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
    loss, hits, spikes = (run.training.sums / len(samples.y)).tolist()
    test = accuracy(run.training.average, run.dataset.test, run.recipe)
    seconds = time.perf_counter() - start
    return dict(epoch=epoch, loss=loss, train_accuracy=hits, test_accuracy=test, spike_rate=spikes, seconds=seconds)


def prepare(args: argparse.Namespace) -> Run:
    """The run that the options ask for, begun or taken up again. Raises ImportError, OSError or ValueError, in one line."""
    torch.set_num_threads(args.threads)
    for package in ("tqdm", "matplotlib"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise ImportError(f"{package} is not installed: pip install 'snn-functional[demo]'") from None
    try:
        generator = torch.Generator(args.device)
        torch.rand(1, generator=generator, device=args.device)
    except (RuntimeError, AssertionError):
        raise ValueError(
            f"--device {args.device}: torch {torch.__version__} cannot use it here; try --device cpu"
        ) from None
    folder = Path(args.out or f"runs/{Path(args.data or 'digits').stem}")
    saved = _folder.load_checkpoint(folder, generator.device) if args.resume else None
    recipe = recipe_of(args, saved["recipe"] if saved else RECIPES.get(args.data or "digits", Recipe(args.data)))

    dataset = load(recipe.data, args.root)
    recipe = fit_to_data(args, recipe, dataset)
    dataset = dataset.to(generator.device)
    sizes = (dataset.train.x.shape[-1], *recipe.hidden, dataset.classes)
    generator.manual_seed(recipe.seed)
    history = saved["history"] if saved else []
    if recipe.epochs < len(history):
        raise ValueError(f"--epochs {recipe.epochs}: this run has {len(history)} already; give more, or none")
    training = training_init(network_init(generator, sizes, recipe.neuron), generator)
    if saved:
        training = _folder.restore(saved, training, dataset)
    elif _folder.claim(folder):
        print(f"the earlier run in {folder} is replaced")
    print(
        f"{recipe.data}: {len(dataset.train.y)} samples to train on, {len(dataset.test.y)} to test; "
        f"{'-'.join(map(str, sizes))} {recipe.neuron} network, {recipe.coding} coding, {recipe.steps} steps; "
        f"seed {recipe.seed}, {generator.device}, threads {args.threads}",
        flush=True,
    )
    return Run(recipe, dataset, folder, training, history)


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


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(2)


def _at_least(kind: Callable[[str], Any], least: int, what: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (value >= least and value < 2**63) or (kind is float and value == 0):
            raise argparse.ArgumentTypeError(f"{text!r}: expected {what}")
        return value

    return parse


def _parser() -> argparse.ArgumentParser:
    count = _at_least(int, 1, "an integer of at least 1")
    parser = _Parser(
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
    sub.add_argument("--lr", type=_at_least(float, 0, "a number above 0"), metavar="X", help="Adam's learning rate")
    sub.add_argument(
        "--seed", type=_at_least(int, 0, "an integer of at least 0"), metavar="N", help="of all chance (default: 0)"
    )
    sub.add_argument("--threads", type=count, default=1, metavar="N", help="CPU threads (default: 1)")
    sub.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    sub.add_argument("--out", metavar="DIR", help="folder for metrics, model and pictures (default: runs/DATA)")
    sub.add_argument("--resume", action="store_true", help="go on where the run in --out stopped, bit for bit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
