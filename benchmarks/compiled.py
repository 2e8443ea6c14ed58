"""python benchmarks/compiled.py [--T 200] [--repeat 9] [--backend inductor]: what `torch.compile` takes, and what its graph takes then.

Forward and the gradient of all parameters, one thread. "compile" are seconds beyond those of a graph without a scan, compiled before;
"eager" and "compiled" are milliseconds, in turns, medians of CPU time. `--keep`: see keep.py.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from events import medians
from keep import keep, option
from torch import nn

import snn_functional as snf


class Over(nn.Module):
    """A scan from rest; the tree is the module's own parameters."""

    def __init__(self, neuron: Any, params: Any) -> None:
        super().__init__()
        self.inner = snf.module(neuron, params)

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        return self.inner(xs).mean()


def works(T: int) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    leak = lambda: snf.LeakyParams(0.9)
    deep = snf.Linear.random(256, 256), leak(), snf.Linear.random(256, 20), leak()
    own = snf.RLeakyParams(0.9, V=snf.Linear.random(256, 256))
    return {
        "LIF 64 x 1000": (Over(snf.leaky, leak()), torch.rand(T, 64, 1000)),
        "256-256-20, batch 64": (Over(snf.chain(snf.linear, snf.leaky, snf.linear, snf.leaky), deep), torch.rand(T, 64, 256)),
        "recurrent 64 x 256": (Over(snf.rleaky, own), torch.rand(T, 64, 256)),
        "LIF 16 x 64": (Over(snf.leaky, leak()), torch.rand(T, 16, 64)),
    }  # fmt: skip


def step(model: Any, xs: torch.Tensor) -> Callable[[], None]:
    return lambda: model(xs).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--T", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--backend", default="inductor")
    option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warm = torch.compile(nn.Linear(4, 4), fullgraph=True, backend=options.backend)
    warm(torch.rand(2, 4)).sum().backward()
    rows = []
    for name, (model, xs) in works(options.T).items():
        step(model, xs)()  # kernels are built, and the rest of the library is loaded
        fast = torch.compile(model, fullgraph=True, backend=options.backend)
        began = time.perf_counter()
        step(fast, xs)()
        seconds = time.perf_counter() - began
        ms = medians({"eager": step(model, xs), "compiled": step(fast, xs)}, options.repeat)
        ratio = ms["compiled"] / ms["eager"]
        rows += [dict(row=name, who="compile", s=seconds), *(dict(row=name, who=who, ms=ms[who]) for who in ms)]
        print(
            f"{name:24} compile {seconds:5.1f} s   eager {ms['eager']:7.2f} ms   compiled {ms['compiled']:7.2f} ms   {ratio:.2f}"
        )
    keep(options.keep, "compiled", rows, lambda row: row["row"], ("s", "ms"))


if __name__ == "__main__":
    main()
