"""python benchmarks/delays.py [--batch 32] [--longest 24] [--rate 0.05]: what a layer with learned delays costs, forward and backward.

Two layers of 140-256-256 spiking neurons, 100 steps, float32, one thread: the first sees the input, the second the first one's spikes.
Milliseconds of CPU time, and the MB that a process holds at most beyond what it held before, each from a process of its own.
`--keep`: see keep.py.

    scan        chain(delayed_linear, leaky, delayed_linear, leaky): a product for each place of the line, over all of time
    loop        the same step by step, the definition
    conv1d      the delays as one convolution over time a layer, then `scan` of leaky: what the program of the paper does
    no delays   chain(linear, leaky, linear, leaky)
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from keep import keep, option


WHO = ["scan", "loop", "conv1d", "no delays"]


def peak() -> float:
    """MB, the most that this process ever held."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def worker(who: str, batch: int, longest: int, rate: float, repeats: int) -> None:
    import optree
    import torch

    import snn_functional as snf

    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    sizes = [(140, 256), (256, 256)]
    layers = [snf.DelayedLinear.random(*size, longest, generator=g) for size in sizes]
    if who == "no delays":
        layers = [snf.Linear.random(*size, generator=g) for size in sizes]
    layer = snf.linear if who == "no delays" else snf.delayed_linear
    net = snf.chain(layer, snf.leaky, layer, snf.leaky)
    params = (layers[0], snf.LeakyParams(0.9, 0.3), layers[1], snf.LeakyParams(0.9, 0.3))
    leaves, spec = optree.tree_flatten(params)

    def convolved(params: Any, xs: Any) -> Any:
        for layer, leaky in zip(params[::2], params[1::2]):
            x = torch.nn.functional.pad(xs.permute(1, 2, 0), (longest, 0))
            currents = torch.nn.functional.conv1d(x, layer.kernel().flip(0).permute(1, 2, 0), layer.bias).permute(
                2, 0, 1
            )
            xs = snf.scan(snf.leaky_step, leaky, snf.leaky_init(leaky, currents[0]), currents)[0]
        return xs

    def run(T: int) -> float:
        xs = (torch.rand(T, batch, 140, generator=g) < rate).float()
        given = [leaf.clone().requires_grad_() for leaf in leaves]
        params: Any = optree.tree_unflatten(spec, given)
        start = time.process_time()
        if who == "conv1d":
            spks = convolved(params, xs)
        else:
            kind = "loop" if who == "loop" else "auto"
            spks = snf.scan(net.step, params, net.init(params, xs[0]), xs, kind=kind)[0]
        spks.mean().backward()
        return 1e3 * (time.process_time() - start)

    run(3)
    before = peak()
    times = sorted(run(100) for _ in range(repeats))
    print(json.dumps({"who": who, "ms": times[len(times) // 2], "MB": peak() - before}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--longest", type=int, default=24)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--who", choices=WHO)
    option(parser)
    given = parser.parse_args()
    if given.who:
        worker(given.who, given.batch, given.longest, given.rate, given.repeats)
    else:
        rows = []
        for who in WHO:
            command = [sys.executable, __file__, *sys.argv[1:], "--who", who]
            rows.append(json.loads(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout))
            print(f"{who:10}{rows[-1]['ms']:9.0f} ms{rows[-1]['MB']:9.0f} MB", flush=True)
        keep(given.keep, "delays", rows, lambda row: f"batch {given.batch}", ("ms", "MB"))
