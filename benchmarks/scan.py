"""python benchmarks/scan.py [--threads 1] [--repeat 15]: the fused kind of `scan` beside the loop, on a LIF layer.

Milliseconds are medians over repeats that take turns within one run, so that a machine that changes its speed slows all alike;
read the ratios. `snntorch`, where it is installed, runs the same work with its own loop over `unbind`.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch

import snn_functional as snf


WORKS = [(100, 64, 1000), (500, 16, 256), (1000, 1, 64), (25, 128, 1000)]


def of_kind(kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
    params = snf.LeakyParams(beta=0.9)
    return lambda x: snf.scan(snf.leaky_step, params, snf.leaky_init(params, x[0]), x, kind=kind)[0]


def snntorch_loop() -> Callable[[torch.Tensor], torch.Tensor]:
    import snntorch

    layer = snntorch.Leaky(beta=0.9)

    def run(x: torch.Tensor) -> torch.Tensor:
        mem, spks = torch.zeros_like(x[0]), []
        for current in x.unbind(0):
            spk, mem = layer(current, mem)
            spks.append(spk)
        return torch.stack(spks)

    return run


def forward(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    with torch.no_grad():
        run(x)


def both_ways(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    x = x.detach().requires_grad_()
    run(x).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = {"fused": of_kind("fused"), "loop": of_kind("loop")}
    if importlib.util.find_spec("snntorch"):
        runs["snntorch"] = snntorch_loop()
    print(
        f"torch {torch.__version__}, {options.threads} thread(s), median of {options.repeat}, ms (and times the fused)"
    )
    for what in (forward, both_ways):
        for work in WORKS:
            x = torch.randn(*work) * 0.5
            taken: dict[str, list[float]] = {name: [] for name in (*runs, "copy")}
            for turn in range(options.repeat + 2):
                for name, run in runs.items():
                    start = time.perf_counter()
                    what(run, x)
                    taken[name].append(time.perf_counter() - start)
                start = time.perf_counter()
                x.clone()
                taken["copy"].append(time.perf_counter() - start)
                if turn == 1:  # the first two turns build and warm up
                    taken = {name: [] for name in taken}
            medians = {name: statistics.median(times) * 1e3 for name, times in taken.items()}
            cells = (f"{name} {ms:.2f} ({ms / medians['fused']:.1f}x)" for name, ms in medians.items())
            print(f"{what.__name__:10} T={work[0]:<5} batch={work[1]:<4} neurons={work[2]:<5}", *cells, sep="  ")


if __name__ == "__main__":
    main()
