"""python benchmarks/events.py [--threads 1] [--repeat 9] [--dtype float32]: what a product with spikes costs, against their density.

    product     rows x in x out: z @ w, the lists included
    outer       z^T @ g, the weight's gradient, with the lists that the product made
    step        both through autograd, as the library chooses by counting: never much slower than dense

and the same of convolutions, samples x channels x size x out channels x kernel. Each beside torch's dense operation, in turns; medians
of the process's CPU time. Leaves a table and events-THREADS-DTYPE.json and .png in build/benchmarks; `--keep`:
see keep.py.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from keep import keep, option

from snn_functional import _events
from snn_functional._events import _convolution, _native


HERE = Path(__file__).parent
DENSITIES = [0.005, 0.01, 0.02, 0.05, 0.1, 0.13, 0.2, 0.3, 0.5, 1.0]
PRODUCTS = [(12800, 784, 1000), (6400, 256, 256), (6400, 700, 256), (12800, 1000, 10)]
CONVOLUTIONS = [(1600, 12, 12, 64, 5), (800, 64, 16, 64, 3)]


def medians(works: dict[str, Callable[[], Any]], repeat: int) -> dict[str, float]:
    """Milliseconds, in turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeat + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            if turn:  # the first one builds and warms up
                times[name].append(1e3 * (time.process_time() - began))
    return {name: statistics.median(found) for name, found in times.items()}


def spikes(shape: tuple[int, ...], density: float, dtype: torch.dtype) -> torch.Tensor:
    return (torch.rand(shape) < density).to(dtype)


def backward(function: Callable[..., Any], *args: Any) -> Callable[[], None]:
    """Forward and the weight's gradient."""
    cotangent = torch.rand_like(function(*args))
    return lambda: torch.autograd.grad(function(*args), args[1], cotangent)[0]


def product(size: tuple[int, ...], density: float, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    n, inputs, out = size
    z, w, g = spikes((n, inputs), density, dtype), torch.randn(inputs, out).to(dtype), torch.randn(n, out).to(dtype)
    known = _native.lists(z, 1.0)
    leaf = w.clone().requires_grad_()
    return {
        "product": lambda: _native.product(_native.lists(z, 1.0), n, w[None], None),
        "dense product": lambda: z @ w,
        "outer": lambda: _native.outer(known, g[None], False),
        "dense outer": lambda: z.T @ g,
        "step": backward(_events.product, z, leaf),
        "dense step": backward(torch.mm, z, leaf),
    }


def convolution(size: tuple[int, ...], density: float, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    samples, channels, side, out, kernel = size
    x = spikes((samples, channels, side, side), density, dtype).to(memory_format=torch.channels_last)
    w = torch.randn(out, channels, kernel, kernel).to(dtype).requires_grad_()
    bare, conv = w.detach(), torch.nn.functional.conv2d
    g = torch.randn_like(conv(x, bare))
    how = _convolution.How((1, 1), (0, 0), (1, 1), (kernel, kernel))
    arguments = x.permute(0, 2, 3, 1), tuple(g.shape[2:]), how.kernel, (1, 1, 0, 0, 1, 1), 1.0
    known = _native.patches(*arguments)
    matrix, rows = bare.permute(2, 3, 1, 0).reshape(1, -1, out), g.permute(0, 2, 3, 1).reshape(1, -1, out)

    def chosen(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        found = _events.convolution(x, w, None, (1,), (0,), (1,))
        return conv(x, w) if found is None else found

    return {
        "product": lambda: _native.product(_native.patches(*arguments), known.rows, matrix, None),
        "dense product": lambda: conv(x, bare),
        "outer": lambda: _native.outer(known, rows, False),
        "dense outer": lambda: _convolution._back(g, x, bare, how, 1),
        "step": backward(chosen, x, w),
        "dense step": backward(conv, x, w),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/benchmarks")
    option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype, rows = getattr(torch, options.dtype), []
    print(f"times as fast as dense, {options.dtype}, {options.threads} thread(s), medians of {options.repeat}")
    for sizes, works in ((PRODUCTS, product), (CONVOLUTIONS, convolution)):
        for size in sizes:
            title = " x ".join(map(str, size))
            print(f"\n{title}\n{'density':>11} {'product':>9} {'outer':>9} {'step':>9}   ms of the step")
            for density in DENSITIES:
                ms = medians(works(size, density, dtype), options.repeat)
                rows.append({"work": works.__name__, "size": size, "density": density, "ms": ms})
                times = [ms[f"dense {name}"] / ms[name] for name in ("product", "outer", "step")]
                print(f"{density:11.1%} " + " ".join(f"{x:8.2f}x" for x in times) + f"   {ms['step']:.2f}")
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.out / f"events-{options.threads}-{options.dtype}"
    name.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    keep(options.keep, name.name, faster(rows), lambda row: row["row"], ("times",), None, options.threads)
    draw(rows, name.with_suffix(".png"))


def faster(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Times as fast as the dense operation: a row for each work and direction, against the density."""
    found = []
    for row in rows:
        title = "{} x {} x {}" if row["work"] == "product" else "{0} images of {1} x {2} x {2}, {3} of {4} x {4}"
        title = title.format(*row["size"])
        for direction, name in (("forward", "product"), ("weight", "outer")):
            times = row["ms"][f"dense {name}"] / row["ms"][name]
            found.append(dict(row=f"{title}, {direction}", who=f"{100 * row['density']:g} %", times=times))
    return found


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    sizes = [*PRODUCTS, *CONVOLUTIONS]
    figure, axes = plt.subplots(2, -(-len(sizes) // 2), figsize=(12, 6.4), layout="constrained")
    for ax, size in zip(axes.flat, sizes):
        mine = [row for row in rows if tuple(row["size"]) == size]
        for name, colour in (("product", "C0"), ("outer", "C1"), ("step", "C2")):
            times = [row["ms"][f"dense {name}"] / row["ms"][name] for row in mine]
            label = {"product": "z w, lists and all", "outer": "zᵀ g", "step": "both, chosen by counting"}[name]
            ax.plot([row["density"] for row in mine], times, "o-", color=colour, label=label, markersize=3)
        ax.axhline(1, color="C7", linewidth=1)
        ax.set(xscale="log", yscale="log", title=" x ".join(map(str, size)), xlabel="density", ylabel="times dense")
    axes.flat[0].legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
