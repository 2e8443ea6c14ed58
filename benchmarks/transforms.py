"""python benchmarks/transforms.py [--device cpu] [--threads 1] [--repeat 7]: what transforms cost, against Python loops.

    populations     the spikes of 1,000 LIF populations of 100 neurons, each with its own leak and threshold, T=200
    slopes          the same, and each population's gradient
    samples         per-sample gradients of a 784-256-10 network, T=25, batch 64; "batch" is the one gradient of the whole batch,
                    "private" clips each sample's and adds them
    ensemble        the gradients of 8 such networks on one batch
    small ensemble  of 8 networks 64-64-10, T=25, batch 32
    maml            the meta-gradient through 3 steps of SGD on each of 16 tasks, 20-40-5, T=50, 10 samples a task

"vmap" is one call for all members; "loop" is a Python loop over them, each run by fused scans; "plain" is the same loop, each run by
the plain Python loop over time. Where loops take long they run over a part of the members, and their time is multiplied:
that number is printed. All give the same numbers: float64 is asserted first, float32 is timed. Interleaved, medians, and ratios to the
first of each.

Per-sample gradients are large, and half of their time is spent on pages that the system hands out and takes back. With the environment
variable THP_MEM_ALLOC_ENABLE=1 torch asks for large ones. `--keep`: see keep.py.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optree
import torch
from keep import keep, option
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy

import snn_functional as snf


HERE = Path(__file__).parent
NET = snf.chain(snf.linear, snf.leaky, snf.linear, snf.leaky)

tree_map: Any = optree.tree_map


def entry(tree: Any, i: int) -> Any:
    return tree_map(lambda leaf: leaf[i], tree)


def stacked(trees: Any) -> Any:
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)


def network(sizes: tuple[int, int, int]) -> Any:
    n, m, k = sizes
    return snf.Linear.random(n, m), snf.LeakyParams(0.9), snf.Linear.random(m, k), snf.LeakyParams(0.9)


def samples(T: int, batch: int, sizes: tuple[int, int, int]) -> Any:
    spikes = torch.rand(T, batch, sizes[0]) < 0.2
    return spikes.to(torch.get_default_dtype()), torch.randint(sizes[2], (batch,))


def loss(params: Any, xs: Any, labels: Any, kind: str = "auto") -> Any:
    spks, _ = snf.scan(NET.step, params, NET.init(params, xs[0]), xs, kind=kind)
    return cross_entropy(spks.mean(0), labels)


Work = dict[str, tuple[int, Callable[[], Any]]]  # who: how often its time counts, and what it does


def of_members(f: Callable[..., Any], members: Any, count: int, every: dict[str, int]) -> Work:
    """`f(member, kind)` for all members at once, and for each in turn; `every`: of how many members a loop takes one."""
    part = {who: [entry(members, i) for i in range(0, count, every[who])] for who in ("loop", "plain")}
    return {
        "vmap": (1, lambda: vmap(lambda member: f(member, "auto"))(members)),
        "loop": (every["loop"], lambda: [f(member, "auto") for member in part["loop"]]),
        "plain": (every["plain"], lambda: [f(member, "loop") for member in part["plain"]]),
    }


def populations(gradient: bool) -> Work:
    members = snf.LeakyParams(0.65 + 0.3 * torch.rand(1000), 0.5 + torch.rand(1000))
    xs = torch.rand(200, 100)

    def fire(params: Any, kind: str) -> Any:
        return snf.scan(snf.leaky_step, params, snf.leaky_init(params, xs[0]), xs, kind=kind)[0]

    rate = lambda params, kind: fire(params, kind).mean()
    slope = lambda params, kind: grad(rate)(params, kind)
    return of_members(slope if gradient else fire, members, 1000, {"loop": 1, "plain": 50})


def per_sample() -> Work:
    sizes = 784, 256, 10
    params, (xs, labels) = network(sizes), samples(25, 64, sizes)
    each = lambda: vmap(grad(loss), (None, 1, 0))(params, xs, labels)

    def private() -> Any:
        gradients = each()
        norms = [torch.linalg.vector_norm(g.reshape(64, -1), dim=1) for g in optree.tree_leaves(gradients)]
        shares = (1 / torch.stack(norms).norm(dim=0)).clamp(max=1)
        return tree_map(lambda g: torch.tensordot(shares, g, 1) / 64, gradients)

    alone = lambda kind, every: [grad(loss)(params, xs[:, i], labels[i], kind) for i in range(0, 64, every)]
    return {
        "batch": (1, lambda: grad(loss)(params, xs, labels)),
        "vmap": (1, each),
        "private": (1, private),
        "loop": (1, lambda: alone("auto", 1)),
        "plain": (16, lambda: alone("loop", 16)),
    }


def ensemble(sizes: tuple[int, int, int], batch: int) -> Work:
    members, (xs, labels) = stacked([network(sizes) for _ in range(8)]), samples(25, batch, sizes)
    gradient = lambda params, kind: grad(loss)(params, xs, labels, kind)
    return of_members(gradient, members, 8, {"loop": 1, "plain": 2})


def maml() -> Work:
    sizes = 20, 40, 5
    params = network(sizes)
    tasks = stacked([(samples(50, 10, sizes), samples(50, 10, sizes)) for _ in range(16)])

    def adapted(params: Any, task: Any, kind: str) -> Any:
        train, test = task
        for _ in range(3):
            params = tree_map(lambda p, g: p - 0.1 * g, params, grad(loss)(params, *train, kind))
        return loss(params, *test, kind)

    return of_members(lambda task, kind: grad(adapted)(params, task, kind), tasks, 16, {"loop": 1, "plain": 4})


WORKS: dict[str, Callable[[], Work]] = {
    "populations": lambda: populations(gradient=False),
    "slopes": lambda: populations(gradient=True),
    "samples": per_sample,
    "ensemble": lambda: ensemble((784, 256, 10), 64),
    "small ensemble": lambda: ensemble((64, 64, 10), 32),
    "maml": maml,
}


def check(name: str) -> None:
    """Every loop gives what vmap gives, member by member; in float64, so that no spike hangs on rounding."""
    torch.set_default_dtype(torch.float64)
    work = WORKS[name]()
    torch.set_default_dtype(torch.float32)
    together = work["vmap"][1]()
    for who in ("loop", "plain"):
        every, run = work[who]
        for i, expected in enumerate(run()):
            pairs = zip(optree.tree_leaves(entry(together, i * every)), optree.tree_leaves(expected), strict=True)
            for a, b in pairs:
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--works", nargs="*", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/benchmarks")
    option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    finish = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    rows = []
    print(f"{options.device}, {options.threads} thread(s), medians of {options.repeat}")
    for name in options.works:
        torch.manual_seed(0)
        with torch.device(options.device):
            check(name)
            work = WORKS[name]()
        times: dict[str, list[float]] = {who: [] for who in work}
        for turn in range(options.repeat + 1):
            for who, (every, run) in work.items():
                start = time.perf_counter()
                run()
                finish()
                if turn:  # the first one warms up
                    times[who].append((time.perf_counter() - start) * 1e3 * every)
        for who, (every, _) in work.items():
            ms = statistics.median(times[who])
            ratio = statistics.median(a / b for a, b in zip(times[who], next(iter(times.values()))))
            rows.append(dict(work=name, who=who, threads=options.threads, ms=ms, ratio=ratio, every=every))
            part = f"   1 of {every} members, times {every}" if every > 1 else ""
            print(f"    {name:15} {who:8} {ms:10.1f} ms {ratio:8.2f}x{part}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"transforms-{options.device}-{options.threads}"
    (options.out / f"{name}.json").write_text(json.dumps(rows, indent=1))
    keep(options.keep, name, rows, lambda r: r["work"], ("ms", "ratio"), None, options.threads, options.device)


if __name__ == "__main__":
    main()
