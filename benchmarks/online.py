"""python benchmarks/online.py [--neurons 64] [--batch 4] [--lengths 100 1000 10000]: memory and time of learning over long times.

The gradient of one spiking layer, Linear(64, 64) + leaky, batch 4, float32, one thread, a loss at every time step. Each number comes from
a process of its own: the peak of its memory (VmHWM) beyond what it held before, which includes inputs and a first short run.

    rtrl, eprop, ottt, sltt     snf.learning: one step at a time, nothing kept of the past but traces
    bptt                        tbptt(chunk=T): backpropagation through `scan`
    loop                        backpropagation through a plain Python loop, `.backward()`

"off" is the relative distance of the gradient of the weights from that of `loop` in float64: rtrl, eprop and ottt are exact here, to
rounding, sltt is an approximation. `--keep`: see keep.py.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from keep import keep, option


HERE = Path(__file__).parent
WHO = ["rtrl", "eprop", "ottt", "sltt", "bptt", "loop"]


def peak() -> float:
    """MB, the most that this process ever held."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def worker(who: str, T: int, batch: int, neurons: int) -> None:
    import torch

    import snn_functional as snf

    torch.set_num_threads(1)

    def world(T: int, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
        g = torch.Generator().manual_seed(0)
        net = snf.chain(snf.linear, snf.leaky)
        params = snf.Linear.random(neurons, neurons, generator=g), snf.LeakyParams(0.9)
        xs, targets = ((torch.rand(T, batch, neurons, generator=g) < rate).to(dtype) for rate in (0.3, 0.1))
        params = tuple(type(p)(*(getattr(p, leaf).to(dtype) for leaf in p.__leaves__)) for p in params)
        return params, net.init(params, xs[0]), xs, targets

    step = snf.chain(snf.linear, snf.leaky).step
    loss = lambda spk, target: (spk - target).square().mean()

    def loop(params: Any, state: Any, xs: Any, targets: Any) -> Any:
        leaves = [leaf.requires_grad_() for p in params for leaf in (getattr(p, name) for name in p.__leaves__)]
        total = torch.zeros((), dtype=xs.dtype)
        for x, target in zip(xs, targets):
            spk, state = step(params, state, x)
            total = total + loss(spk, target)
        total.backward()
        return (snf.Linear(*(leaf.grad for leaf in leaves[:2])), ...), None, state

    rules = {"bptt": lambda step, loss: snf.learning.tbptt(step, loss, chunk=T), "loop": lambda *_: loop}
    learn = rules.get(who, getattr(snf.learning, who, None))(step, loss)
    learn(*world(8))
    arguments = world(T)
    before = peak()
    start = time.perf_counter()
    (gradient, _), *_ = learn(*arguments)
    seconds, more = time.perf_counter() - start, peak() - before
    right = loop(*world(T, torch.float64))[0][0].weight
    print(json.dumps({"ms": seconds * 1e3, "MB": more, "off": float((gradient.weight - right).norm() / right.norm())}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    option(parser)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker[0], int(args.worker[1]), args.batch, args.neurons)
        return
    print(
        f"| Linear({args.neurons}, {args.neurons}) + leaky, batch {args.batch} |"
        + "".join(f" T={T} |" for T in args.lengths)
    )
    print("|---" * (len(args.lengths) + 1) + "|")
    rows = []
    for who in WHO:
        cells = []
        for T in args.lengths:
            command = [sys.executable, __file__, "--worker", who, str(T), "--batch", str(args.batch)]
            done = subprocess.run(
                [*command, "--neurons", str(args.neurons)], cwd=HERE.parent, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append(found | dict(row=f"T={T}", who=who))
            cells.append(f" {found['MB']:.1f} MB, {found['ms']:.0f} ms, off by {found['off']:.0e} |")
        print(f"| {who} |" + "".join(cells), flush=True)
    keep(args.keep, "online", rows, lambda row: row["row"], ("ms", "MB"))


if __name__ == "__main__":
    main()
