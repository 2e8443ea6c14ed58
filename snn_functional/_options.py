"""What `python -m snn_functional train` may be told, and what it does where it is not."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from . import __version__, _folder
from ._terminal import at_least, Parser
from .data import NAMES, WINDOW
from .train import ENCODERS, HIDDEN, Recipe, UNFIT


# What each data set is trained with where the options do not say otherwise; `Recipe`'s own defaults are for your data.
RECIPES = {
    "digits": Recipe("digits", hidden=(128, 128), epochs=30),
    "fashion-mnist": Recipe("fashion-mnist", hidden=(256,), epochs=3, batch=128, lr=1e-3),
    "mnist": Recipe("mnist", hidden=(256,), epochs=3, batch=128, lr=1e-3),
    "vowels": Recipe("vowels", epochs=40, lr=5e-3),
    "nmnist": Recipe("nmnist", hidden=(64,), conv=(8, 16), epochs=10, batch=32, lr=4e-3, window=WINDOW),
    "shd": Recipe("shd", hidden=(256,), epochs=20, lr=1e-3, window=WINDOW),
}


def parser() -> argparse.ArgumentParser:
    count = at_least(int, 1, "an integer of at least 1")
    whole = Parser(prog="python -m snn_functional", description="Spiking neural networks for PyTorch in the JAX style.")
    whole.add_argument(
        "--version", action="version", version=f"snn-functional {__version__}, torch {torch.__version__}"
    )
    commands = whole.add_subparsers(dest="command", metavar="train")
    sub = commands.add_parser(
        "train",
        help="train a spiking network on real data and show it",
        description="Train a spiking network on real data and show it.",
        epilog="Defaults by data set: "
        + "; ".join(
            f"{r.data} {f'--conv {_text(r.conv)} ' if r.conv else ''}--hidden {_text(r.hidden)} "
            f"{f'--window {r.window:g}' if r.window else f'--steps {r.steps}'} --epochs {r.epochs} --batch {r.batch} --lr {r.lr}"
            for r in (*RECIPES.values(), Recipe("FILE.npz"))
        ),
        allow_abbrev=False,
    )
    sub.set_defaults(parser=sub)
    sub.add_argument(
        "--data",
        help=f"{', '.join(NAMES)}, or the path of an .npz file (default: digits). It holds x_train, y_train, x_test and y_test: "
        "images [N, ...]; or sequences [N, T, features], and then also lengths_train and lengths_test, [N], how many of the T steps "
        "each sample has",
    )
    sub.add_argument(
        "--root",
        help="where fashion-mnist's and mnist's IDX files are (a folder), nmnist's recordings (a folder or a .zip), or "
        "shd_train.h5 and shd_test.h5 (a folder) (default: the environment's SNN_DATA)",
    )
    sub.add_argument("--hidden", type=count, nargs="+", metavar="N", help="neurons in each hidden layer")
    sub.add_argument(
        "--conv",
        type=at_least(int, 0, "an integer of at least 0"),
        nargs="+",
        metavar="C",
        help="channels of each convolution before them, 3x3, every other pixel; 0 for none",
    )
    sub.add_argument(
        "--neuron",
        type=_neuron,
        metavar="NAME",
        help=f"neuron of the hidden layers: {', '.join(HIDDEN)} (default: leaky)",
    )
    sub.add_argument("--coding", choices=list(ENCODERS), help="how an image becomes input over time (default: direct)")
    sub.add_argument("--steps", type=count, metavar="T", help="time steps")
    window = at_least(float, 0, "a number above 0")
    sub.add_argument(
        "--window", type=window, metavar="MS", help="milliseconds a time step of recorded events (default: 10)"
    )
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
    sub.add_argument(
        "--out", metavar="DIR", help="folder for metrics, model and pictures (default: runs/DATA, or runs/DATA-2 ...)"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace the earlier run in that folder")
    sub.add_argument("--csv", action="store_true", help="also write metrics.csv, a row an epoch")
    sub.add_argument("--tensorboard", action="store_true", help="also write for TensorBoard: tensorboard --logdir DIR")
    sub.add_argument("--resume", action="store_true", help="go on where the run in --out stopped, bit for bit")
    return whole


def _neuron(name: str) -> str:
    if name in UNFIT:
        raise argparse.ArgumentTypeError(
            f"{name} makes no hidden layer of this command: {UNFIT[name]}; in a script of your own it is a layer of snf.chain"
        )
    if name not in HIDDEN:
        raise argparse.ArgumentTypeError(f"no neuron is called {name!r}: give {', '.join(HIDDEN)}")
    return name


def recipe_of(args: argparse.Namespace, recipe: Recipe) -> Recipe:
    """The recipe with the options that were given in place of its own. A run that goes on may change its epochs only."""
    names = [field.name for field in dataclasses.fields(Recipe)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for name in {"hidden", "conv"} & set(given):
        given[name] = tuple(n for n in given[name] if n)
    if args.hidden is not None and args.conv is None and not args.resume:
        given["conv"] = ()  # a network of one's own, none of the recipe's
    for name, value in given.items():
        if args.resume and name != "epochs" and value != getattr(recipe, name):
            raise ValueError(
                f"--resume: this run has --{name} {_text(getattr(recipe, name))}, not {_text(value)}; leave --{name} out, "
                "or begin another run in another --out"
            )
    return dataclasses.replace(recipe, **given)


def _text(value: Any) -> str:
    return " ".join(map(str, value or (0,))) if isinstance(value, tuple) else str(value)


def folder_of(args: argparse.Namespace) -> Path:
    """The folder that the options name; without --out the first free of runs/DATA, runs/DATA-2 and so on, the last to go on from."""
    if args.resume and args.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite replaces it; give one of them")
    if args.out:
        return Path(args.out)
    base = Path(default_folder(args))
    return base if args.overwrite else _folder.latest(base) if args.resume else _folder.free(base)


def default_folder(args: argparse.Namespace) -> str:
    return f"runs/{Path(args.data or 'digits').stem}"
