"""python benchmarks/training.py [--threads 1] [--repeat 7]: a training step of whole networks, here and in snnTorch.

    dense       784-1000-10, batch 128, an image constant in time for 25 steps (the network of snnTorch's documentation page)
    spiking     the same network, T=100 steps of spikes (rate 0.2)
    conv        12C5-MP2-64C5-MP2-1024FC10, batch 128, T=50 steps of a constant image (snnTorch's tutorial 6)

Each is the same script with another import, so "loop" is what a moved script takes as it stands, and "run" what it takes after its
loop over time became `snn.run(net, xs)`. Forward, loss, backward and Adam's step; interleaved, medians. Losses are printed
beside the times: they must be equal. `benchmarks/peers.sh` installs snnTorch; without it, it is left out by name.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


HERE = Path(__file__).parent
WORKS = ["dense", "spiking", "conv"]
WHO = {"run": None, "loop": None, "snntorch": "build/peers/torch/bin/python"}


def network(snn: Any, work: str) -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    spike_grad = snn.surrogate.fast_sigmoid(slope=25)
    lif = lambda **more: snn.Leaky(beta=0.9, spike_grad=spike_grad, init_hidden=True, **more)
    if work == "conv":
        return nn.Sequential(
            nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), lif(), nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), lif(),
            nn.Flatten(), nn.Linear(64 * 4 * 4, 10), lif(output=True),
        )  # fmt: skip
    return nn.Sequential(nn.Linear(784, 1000), lif(), nn.Linear(1000, 10), lif(output=True))


def data(work: str) -> Any:
    import torch

    torch.manual_seed(1)
    labels = torch.randint(10, (128,))
    if work == "conv":
        image = torch.rand(128, 1, 28, 28)
        return image.expand(50, *image.shape), labels
    if work == "dense":
        image = torch.rand(128, 784)
        return image.expand(25, *image.shape), labels
    return (torch.rand(100, 128, 784) < 0.2).float(), labels


def worker(who: str, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    if who == "snntorch":
        import snntorch as snn
        from snntorch import surrogate, utils

        snn.surrogate, snn.utils = surrogate, utils
    else:
        from snn_functional import snn
    made: dict[str, Any] = {}
    print("ready", flush=True)
    for work in map(str.strip, sys.stdin):
        if work not in made:
            net = network(snn, work)
            made[work] = net, torch.optim.Adam(net.parameters(), lr=1e-3), *data(work)
        net, optimizer, xs, labels = made[work]
        times = []
        for _ in range(3):  # the first wakes up: memory that lay idle beside the others' turns
            start = time.perf_counter()
            snn.utils.reset(net)
            if who == "run":
                _, mems = snn.run(net, xs)
            else:
                mems = torch.stack([net(x)[1] for x in xs.unbind(0)])
            loss = torch.nn.functional.cross_entropy(mems.flatten(0, 1), labels.repeat(len(mems)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            times.append((time.perf_counter() - start) * 1e3)
        print(statistics.median(times[1:]), loss.item(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/benchmarks")
    parser.add_argument("--worker")
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker, options.threads)
    workers = {}
    for who, home in WHO.items():
        python = Path(sys.executable if home is None else HERE.parent / home)
        if not python.exists():
            print(f"{who} is left out: it is not installed (benchmarks/peers.sh)")
            continue
        command = [str(python), "-W", "ignore", __file__, "--worker", who, "--threads", str(options.threads)]
        workers[who] = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert workers[who].stdout.readline() == "ready\n"
    rows = []
    print(f"a training step, {options.threads} thread(s), medians of {options.repeat}")
    for work in WORKS:
        times: dict[str, list[float]] = {who: [] for who in workers}
        losses: dict[str, list[float]] = {who: [] for who in workers}
        for turn in range(options.repeat + 1):
            for who, process in workers.items():
                print(work, file=process.stdin, flush=True)
                ms, loss = map(float, process.stdout.readline().split())
                losses[who].append(loss)
                if turn:  # the first one builds and warms up
                    times[who].append(ms)
        for who in workers:
            rows.append(
                dict(work=work, who=who, threads=options.threads, ms=statistics.median(times[who]), losses=losses[who])
            )
            ratio = rows[-1]["ms"] / statistics.median(times["run"])
            print(
                f"    {work:8} {who:9} {rows[-1]['ms']:9.1f} ms  {ratio:6.2f}x   losses {losses[who][0]:.6f} ... {losses[who][-1]:.6f}"
            )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"training-{options.threads}.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
