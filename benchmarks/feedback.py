"""python benchmarks/feedback.py [--repeat 9]: layers that feed back through a convolution, beside the loop.

Forward and the gradient of all parameters by `torch.func.grad`, one thread, in turns, medians of CPU time in ms. `--keep`: see keep.py.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from events import medians
from keep import keep, option
from torch.func import grad

import snn_functional as snf


SIZES = [(20, 16, 2, 16, 28), (20, 8, 16, 32, 16), (50, 4, 1, 4, 8)]  # T, batch, channels in and within, pixels a side


def works(T: int, batch: int, inputs: int, channels: int, side: int) -> dict[str, dict[str, Callable[[], Any]]]:
    xs = (torch.rand(T, batch, inputs, side, side) < 0.1).float()
    gates = snf.Conv2d.random(inputs + channels, 4 * channels, 3, padding=1)
    within = snf.Conv2d.random(channels, channels, 3, padding=1)
    own = snf.chain(snf.conv2d, snf.recurrent(snf.leaky))
    return {
        "sconv2dlstm": both(snf.sconv2dlstm, snf.SConv2dLSTMParams(gates, threshold=0.1), xs),
        "recurrent leaky": both(
            own, (snf.Conv2d.random(inputs, channels, 3, padding=1), snf.RecurrentParams(snf.LeakyParams(0.9), within)), xs
        ),
    }  # fmt: skip


def both(neuron: Any, params: Any, xs: torch.Tensor) -> dict[str, Callable[[], Any]]:
    rest = neuron.init(params, xs[0])
    loss = lambda params, kind: snf.scan(neuron.step, params, rest, xs, kind=kind)[0].mean()
    return {"here": lambda: grad(loss)(params, "auto"), "loop": lambda: grad(loss)(params, "loop")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for size in SIZES:
        for name, ways in works(*size).items():
            ms = medians(ways, options.repeat)
            rows += [dict(row=f"{name}, {' x '.join(map(str, size))}", who=who, ms=ms[who]) for who in ms]
            print(
                f"{name:16} {size}: {ms['here']:7.1f} ms, the loop {ms['loop']:7.1f} ms, {ms['here'] / ms['loop']:.2f} of it"
            )
    keep(options.keep, "feedback", rows, lambda row: row["row"], ("ms",))


if __name__ == "__main__":
    main()
