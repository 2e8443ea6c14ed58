"""python benchmarks/scan.py [--device cpu] [--threads 1] [--repeat 15]: `scan` beside its rivals, and its own promises.

    layer       one LIF layer forward and backward by everybody (rivals.py), interleaved: a turn is 50 ms of each
    own         this library's kinds on a user's own neuron, per-sample gradients, memory, first results, cost a neuron-step

Milliseconds are medians over turns within one run, so that a machine that changes its speed slows all alike: read the ratios.
`benchmarks/peers.sh` installs the rivals; who is not installed, or raises, is named and left out. With `--device cuda` each run is
waited for, and memory and first results are not measured. Leaves a table and scan-DEVICE-THREADS.json in build/benchmarks; `--keep`:
see keep.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from keep import keep, option
from rivals import HOMES

import snn_functional as snf


HERE = Path(__file__).parent
LAYERS = [(100, 64, 1000), (500, 16, 256), (1000, 1, 64)]
LARGE = [(100, 256, 4096)]  # fills a GPU


def layers(sizes: list[tuple[int, int, int]], threads: int, repeat: int, device: str) -> list[dict[str, Any]]:
    workers = {name: worker for name in HOMES if (worker := start(name, threads, device))}
    rows = []
    for size in sizes:
        taken: dict[str, list[float]] = {name: [] for name in workers}
        for turn in range(repeat + 2):
            for name, worker in list(workers.items()):
                print(*size, file=worker.stdin, flush=True)
                answer = worker.stdout.readline()  # type: ignore[union-attr]
                if not answer:
                    print(f"{name} is left out from here on: it raised, or died")
                    del workers[name], taken[name]
                elif turn > 1:  # the first turns build, compile and warm up
                    taken[name].append(float(answer))
        rows += [row("layer", size, name, times) for name, times in taken.items()]
        show(rows[-len(taken) :])
    for worker in workers.values():
        worker.stdin.close()  # type: ignore[union-attr]
    return rows


def start(name: str, threads: int, device: str) -> subprocess.Popen[str] | None:
    home = HOMES[name]
    python = Path(sys.executable if home is None else HERE.parent / "build/peers" / home / "bin/python")
    if not python.exists():
        print(f"{name} is left out: it is not installed (benchmarks/peers.sh)")
        return None
    command = [str(python), "-W", "ignore", str(HERE / "rivals.py"), name, str(threads), device]
    worker = subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    if worker.stdout.readline() != "ready\n":  # type: ignore[union-attr]
        print(f"{name} is left out: it does not start")
        return None
    return worker


@snf.pytree
class Alif:
    """A user's own neuron: every number learned, for each neuron on its own."""

    beta: torch.Tensor
    rho: torch.Tensor
    jump: torch.Tensor
    threshold: torch.Tensor


def alif_step(params: Alif, state: Any, x: torch.Tensor) -> Any:
    mem, adapt = state
    level = params.threshold + adapt
    mem = params.beta * mem + x - snf.surrogate.fires(mem - level) * params.threshold
    spk = snf.surrogate.ATan()(mem - level)
    return spk, (mem, params.rho * adapt + params.jump * spk)


def own_neuron(repeat: int) -> list[dict[str, Any]]:
    T, batch, n = 100, 64, 1000
    x, w = torch.randn(T, batch, n) / 2, torch.randn(T, batch, n)
    params = Alif(torch.full((n,), 0.9), torch.full((n,), 0.95), torch.full((n,), 0.1), torch.ones(n))
    rest = torch.zeros(batch, n), torch.zeros(batch, n)

    def run(kind: str) -> Callable[[], object]:
        layer = lambda params, x: snf.scan(alif_step, params, rest, x, kind=kind)[0]
        return lambda: torch.func.vjp(layer, params, x)[1](w)

    runs = {"fused": run("fused"), "loop": run("loop")}
    return compare("own neuron, 2 states, gradients of params and input", (T, batch, n), runs, repeat)


def per_sample(repeat: int) -> list[dict[str, Any]]:
    T, batch, n = 100, 64, 1000
    x, params = torch.randn(T, batch, n) / 2, snf.LeakyParams(torch.full((n,), 0.9))

    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        return snf.scan(snf.leaky_step, params, snf.leaky_init(params, x[0]), x, kind="fused")[0].sum()

    one, each = torch.func.grad(loss), torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))
    runs = {"grad of the batch": lambda: one(params, x), "vmap(grad)": lambda: each(params, x)}
    return compare("per-sample gradients of a per-neuron beta", (T, batch, n), runs, repeat)


def flat(repeat: int) -> list[dict[str, Any]]:
    rows = []
    sizes = [(10, 1000, 1000), (100, 100, 1000), (1000, 100, 100), (10_000, 10, 100)]
    for size in [*sizes, (1000, 1, 1000), (100, 1, 10_000), (100, 100, 10_000), (10, 100, 100_000)]:
        x, w = torch.randn(size).div_(2).requires_grad_(), torch.randn(size)
        params, rest = snf.LeakyParams(0.9), snf.LeakyState(torch.zeros(size[1:]))

        def run(x: torch.Tensor = x, w: torch.Tensor = w, params: Any = params, rest: Any = rest) -> object:
            return torch.autograd.grad(snf.scan(snf.leaky_step, params, rest, x, kind="fused")[0], x, w)

        (found,) = compare("cost a neuron-step", size, {"fused": run}, max(3, repeat // 3), quiet=True)
        found["ns a neuron-step"] = found["ms"] * 1e6 / x.numel()
        rows.append(found)
        print(f"    T={size[0]} x {size[1] * size[2]} neurons: {found['ns a neuron-step']:.2f} ns a neuron-step")
    return rows


MEMORY = """
import resource, sys, torch, snn_functional as snf
torch.set_num_threads(1)
T, batch, n = map(int, sys.argv[1:])
params, rest = snf.LeakyParams(0.9), snf.LeakyState(torch.zeros(batch, n))
def run(x, w):
    spks, _ = snf.scan(snf.leaky_step, params, rest, x, kind="fused")
    return spks, torch.autograd.grad(spks, x, w)
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
x = torch.randn(20, batch, n, requires_grad=True)
run(x, torch.ones(20, batch, n))     # what is built and imported once is not counted
x = torch.randn(T, batch, n).requires_grad_()
w = torch.ones(()).expand(T, batch, n)
now = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
run(x, w)
print((peak() - now - 2 * x.numel() * 4) / (x.numel() * 4))
"""

FIRST = """
import sys, time, torch, snn_functional as snf
torch.set_num_threads(1)
def result(step):
    start = time.perf_counter()
    x = torch.randn(10, 8, requires_grad=True)
    snf.scan(step, torch.tensor(0.9), torch.zeros(8), x, kind="fused")[0].sum().backward()
    return time.perf_counter() - start
spike = snf.surrogate.ATan()
print(result(lambda p, s, x: (spike(p * s + x - 1), p * s + x)), result(lambda p, s, x: (spike(p * s - x - 1), p * s - x)))
"""


def memory() -> list[dict[str, Any]]:
    rows = []
    for size in [(100, 64, 4000), (10_000, 16, 160)]:
        share = float(python(MEMORY, *map(str, size)))
        rows.append(
            dict(work="memory beyond inputs, outputs and gradients", size=size, who="fused", percent=100 * share)
        )
        print(f"    T={size[0]}: {100 * share:.1f} % of the input's bytes")
    return rows


def first_results(out: Path) -> list[dict[str, Any]]:
    rows = []
    for name in ("nothing cached", "from the disk cache"):
        once, more = map(float, python(FIRST, SNN_FUNCTIONAL_CACHE=str(out / f"cache-{os.getpid()}")).split())
        rows.append(dict(work="first gradient of a new step", size=name, who="fused", first=once, second=more))
        print(f"    {name}: {once:.2f} s for the first step in a process, {more:.2f} s for another one")
    return rows


def python(program: str, *args: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, env=os.environ | env, check=True
    )
    return done.stdout


def compare(
    work: str, size: Any, runs: dict[str, Callable[[], object]], repeat: int, quiet: bool = False
) -> list[dict[str, Any]]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeat + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if turn > 1:
                taken[name].append((time.perf_counter() - start) * 1e3)
    rows = [row(work, size, name, times) for name, times in taken.items()]
    if not quiet:
        show(rows)
    return rows


def row(work: str, size: Any, who: str, times: list[float]) -> dict[str, Any]:
    quarters = statistics.quantiles(times, n=4)
    return dict(work=work, size=size, who=who, ms=statistics.median(times), low=quarters[0], high=quarters[2])


def show(rows: list[dict[str, Any]]) -> None:
    best = rows[0]["ms"]
    print(f"\n{rows[0]['work']}, [T, batch, neurons] = {list(rows[0]['size'])}")
    for r in rows:
        print(
            f"    {r['who']:18} {r['ms']:9.2f} ms  ({r['low']:.2f} to {r['high']:.2f})  {r['ms'] / best:7.1f}x",
            flush=True,
        )


def named(row: dict[str, Any]) -> str:
    size = row["size"] if isinstance(row["size"], str) else " x ".join(map(str, row["size"]))
    return size if row["work"] == "layer" else f"{row['work']}, {size}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/benchmarks")
    option(parser)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    card = f" on {torch.cuda.get_device_name()}" if options.device == "cuda" else ""
    print(
        f"torch {torch.__version__}{card}, {options.threads} thread(s), medians of {options.repeat} turns (and quartiles)"
    )
    sizes = LAYERS + LARGE * (options.device == "cuda")
    rows = layers(sizes, options.threads, options.repeat, options.device)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(options.threads)
    with torch.device(options.device):
        rows += own_neuron(options.repeat) + per_sample(options.repeat)
        print("\ncost a neuron-step, forward and backward")
        rows += flat(options.repeat)
    if options.device == "cpu":
        print("\nmemory of forward and backward beyond inputs, outputs and gradients")
        rows += memory()
        print("\ntime to the first gradient of a new step")
        rows += first_results(options.out)
    name = f"scan-{options.device}-{options.threads}"
    (options.out / f"{name}.json").write_text(json.dumps(rows, indent=1))
    shown = [r for r in rows if r["work"] != "cost a neuron-step"]
    keep(options.keep, name, shown, named, ("ms", "percent", "first", "second"), None, options.threads, options.device)
    print(f"\n{name}.json is in {options.out}")


if __name__ == "__main__":
    main()
