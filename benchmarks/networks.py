"""python benchmarks/networks.py [--rows recurrent ...] [--repeat 9] [--threads 1]: whole networks, here and elsewhere.

Forward and backward of all weights (or forward alone, where the row says so), one process for each library, each pinned to the same
core and asked in turn; medians of CPU time, so read the ratios. All have the same spikes and the same weights, and the same membrane
but for where a reset stands and whether a spike counts in this step or in the next; the share of hidden neurons that fire a step is
printed for each. networks/works.py has the rows and their goals; ours.py, of_torch.py and of_jax.py have the networks, as each
library's documentation writes them.

    ours            scan of a chain, torch.func.grad       "own step": one plain step. "snn.run": faces, and .backward()
    ours: dense     the same with dense products           "loop": kind="loop"
    products        the dense products alone, torch's, once over all of time where that can be
    plain loop      a loop in plain torch, the input's product taken out of it
    jax             lax.scan of one plain step, jitted     "hoisted": what no state reaches taken out of the scan

`--rows density` is cost against density, the picture; `--rows planning` what it takes to read a network; without `--rows` all run.
`benchmarks/peers.sh` installs the peers; who is not installed, or raises, is named and left out. Not timed: SLSTM and the rectified
layer in SpikingJelly, Norse and sinabs (there is none); convolutions in JAX (XLA's on a CPU, inside a scan and differentiated, took
40 s a step, 44 times ours). Leaves networks-THREADS.json and .png in build/benchmarks; `--keep`: see keep.py.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "networks"))

from keep import keep, option  # noqa: E402
from works import DENSITIES, digits, ROWS, title  # noqa: E402


HOMES = {"snntorch": "torch", "norse": "torch", "spikingjelly": "torch", "sinabs": "torch"} | dict.fromkeys(
    ("jax", "spyx", "jaxpike"), "jax"
)


class Workers:
    """Processes by name, started when they are first asked."""

    def __init__(self, threads: int, out: Path) -> None:
        self.threads, self.images, self.running, self.missing = threads, out / "digits.npy", {}, set()
        import numpy as np

        np.save(self.images, digits())

    def start(self, who: str) -> Any:
        if who in self.running or who in self.missing:
            return self.running.get(who)
        home = HOMES.get(who.partition(":")[0])
        python = Path(sys.executable if home is None else HERE.parent / "build/peers" / home / "bin/python")
        if not python.exists():
            print(f"{who} is left out: it is not installed (benchmarks/peers.sh)")
            self.missing.add(who)
            return None
        threads = 2 if who.endswith("two threads") else self.threads
        command = [str(python), "-W", "ignore", str(HERE / "networks/worker.py"), who, str(threads), str(self.images)]
        worker = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(threads)
        )
        print(f"    {who}: {worker.stdout.readline().strip() or 'does not start'}, {threads} thread(s)", flush=True)  # type: ignore[union-attr]
        self.running[who] = worker
        return worker

    def ask(self, who: str, row: str) -> dict[str, Any]:
        worker = self.running[who]
        try:
            print(row, file=worker.stdin, flush=True)
            return json.loads(worker.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.missing.add(who)
            del self.running[who]
            return dict(error=f"the process ended with {worker.wait()}")

    def end(self) -> None:
        for worker in self.running.values():
            worker.stdin.close()


def environment(threads: int) -> dict[str, str]:
    flags = "" if threads > 1 else "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return os.environ | {
        "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
    }  # fmt: skip


def measure(name: str, workers: Workers, repeat: int) -> list[dict[str, Any]]:
    row = ROWS[name]
    asked = [who for who in row.who if workers.start(who)]
    print(f"\n{title(name)}", flush=True)
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in asked}
    for turn in range(repeat + 1):
        for who in list(found):
            answer = workers.ask(who, name)
            if "error" in answer:
                print(f"    {who} is left out: {answer['error']}")
                del found[who]
            elif turn:  # the first turn builds, compiles and warms up
                found[who].append(answer)
    rows = []
    for who, answers in found.items():
        ms, wall = (statistics.median(a[k] for a in answers) for k in ("ms", "wall"))
        low, _, high = statistics.quantiles((a["ms"] for a in answers), n=4)
        rows.append(dict(row=name, who=who, ms=ms, wall=wall, low=low, high=high, hidden=answers[0]["hidden"]))
    for r in rows:
        fires = "" if r["hidden"] is None else f"{100 * r['hidden']:5.1f} % of the hidden neurons fire a step"
        wall = f"   {r['wall']:8.2f} ms of time" if "two threads" in row.goals else ""
        print(
            f"    {r['who']:22} {r['ms']:9.2f} ms ({r['low']:.2f} to {r['high']:.2f}) {r['ms'] / rows[0]['ms']:7.2f}x  {fires}{wall}"
        )
    for line in judged(name, rows) if rows and rows[0]["who"] == row.who[0] else []:
        print("   ", line, flush=True)
    return rows


def judged(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """The row's goals: how many times as long as ours the best way of each library takes."""
    ours, lines = rows[0], []
    for who, goal in ROWS[name].goals.items():
        theirs = [r for r in rows[1:] if r["who"] in (who, f"{who}: hoisted", f"ours: {who}")]
        if not theirs:
            lines.append(f"goal {goal:.3g}x {who}: not measured")
            continue
        best = min(theirs, key=lambda r: r["ms"])
        ratio = ours["wall"] / best["wall"] if who == "two threads" else best["ms"] / ours["ms"]
        lines.append(f"goal {goal:.3g}x {best['who']}: {ratio:.3g}x, {'reached' if ratio >= goal else 'NOT REACHED'}")
    return lines


def planning(repeat: int) -> list[dict[str, Any]]:
    """ms to read a network of five layers into stages whose kernels are known, and to find it again."""
    import torch

    import snn_functional as snf
    from snn_functional._scan import _known

    sizes = (64, 48, 40, 32, 24, 10)
    connections = [snf.Linear.random(*pair, bias=False) for pair in zip(sizes, sizes[1:])]
    leak, xs = snf.LeakyParams(0.9), torch.rand(10, 4, sizes[0])
    params = tuple(part for connection in connections for part in (connection, leak))
    net = snf.chain(*(snf.linear, snf.leaky) * 5)
    state = net.init(params, xs[0])
    find = lambda: _known.prepare(net.step, params, state, xs, None)

    def read() -> None:
        _known._known._values.clear()
        find()

    rows = []
    for who, times, work in (("read", 1, read), ("found", 100, lambda: [find() for _ in range(100)])):
        work()
        taken = []
        for _ in range(repeat):
            gc.collect()
            began = time.process_time()
            work()
            taken.append(1e3 * (time.process_time() - began) / times)
        rows.append(dict(row="planning", who=who, ms=statistics.median(taken)))
    print(f"\nfive layers: read into stages in {rows[0]['ms']:.1f} ms, found again in {rows[1]['ms']:.3f} ms")
    return rows


def named(name: str) -> str:
    return name if name == "planning" else title(name).partition(": ")[2]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Each network by everybody, and cost against density."""
    import matplotlib.pyplot as plt

    names = [n for n in ("recurrent", "feedforward", "sparse", "conv") if any(r["row"] == n for r in rows)]
    dense = [n for n in ("recurrent", "sparse") if sum(r["row"].startswith(f"{n} ") for r in rows)]
    if not names and not dense:
        return
    figure, axes = plt.subplots(
        1, len(names) + len(dense), figsize=(4 * (len(names) + len(dense)), 3.8), layout="constrained"
    )
    axes = list(axes) if len(names) + len(dense) > 1 else [axes]
    for ax, name in zip(axes, names):
        mine = sorted((r for r in rows if r["row"] == name), key=lambda r: -r["ms"])
        colours = ["C1" if r["who"].startswith("ours") else "C7" if r["who"] == "products" else "C0" for r in mine]
        ax.barh([r["who"] for r in mine], [r["ms"] for r in mine], color=colours)
        ax.set(
            xscale="log", title=title(name).partition(": ")[2].partition(", T")[0], xlabel="ms, forward and backward"
        )
    for ax, name in zip(axes[len(names) :], dense):
        mine = [r for r in rows if r["row"] in (name, *(n for n in DENSITIES if n.startswith(f"{name} ")))]
        for who in ("ours", "ours: dense", "products", *ROWS[f"{name} 1%"].who[3:]):
            at = sorted((ROWS[r["row"]].density, r["ms"]) for r in mine if r["who"] == who)
            ax.plot(*zip(*at), "o-", label=who)
        ax.set(
            xscale="log",
            ylim=(0, None),
            xlabel="share of the input that is 1",
            ylabel="ms",
            title=title(name).partition(": ")[2][:40],
        )
        ax.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", nargs="+", default=[*ROWS, "planning"], choices=[*ROWS, "density", "planning"], metavar="ROW"
    )
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/benchmarks")
    option(parser)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cpu = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), platform.machine()
    )
    print(
        f"{cpu}, {options.threads} thread(s), medians of {options.repeat} turns (and quartiles), Python {platform.python_version()}"
    )
    workers = Workers(options.threads, options.out)
    names = [n for name in options.rows for n in (DENSITIES if name == "density" else [name])]
    path = options.out / f"networks-{options.threads}"
    kept = json.loads(path.with_suffix(".json").read_text()) if path.with_suffix(".json").exists() else []
    rows = [r for r in kept if r["row"] not in names]  # rows that are not asked for stay as they were
    for name in names:
        rows += planning(options.repeat) if name == "planning" else measure(name, workers, options.repeat)
        path.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    workers.end()
    told = [r for r in rows if r["row"] in names]
    keep(options.keep, path.name, told, lambda r: r["row"], ("ms", "wall"), named, options.threads)
    draw(rows, path.with_suffix(".png"))
    print(f"\n{path.name}.json and .png are in {options.out}")


if __name__ == "__main__":
    main()
