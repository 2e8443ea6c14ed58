"""python benchmarks/networks.py [--threads 1] [--repeat 9]: a user's own network, read into stages by `scan`.

Two sizes, batch 64, the gradient of all params: 784-256-10 for T=25 steps, 32-128-4 for T=100. Weights lie on a dyadic grid, so that the
spikes are equal bit for bit; that is checked. Ways to write and run the same network:

    chain       snf.chain(linear, leaky, linear, leaky)
    own         one plain step: two products, two neurons
    masked      the same, its states kept where a sample is over
    recorded    the same, the hidden spikes put out as well
    loop        own, kind="loop"
    module      snn.run of the faces, and .backward()

Then what planning costs: a new network of five layers, and finding a known one. Interleaved, medians of the process's CPU time.
"""

import argparse
import gc
import statistics
import time
from typing import Any

import torch

import snn_functional as snf
from snn_functional import snn
from snn_functional._scan import _known


SIZES = {"784-256-10, T=25": ((784, 256, 10), 25), "32-128-4, T=100": ((32, 128, 4), 100)}
BATCH = 64


def weights(sizes: tuple[int, ...]) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda rows, columns: torch.randint(-16, 17, (rows, columns), generator=generator) / 64
    return [draw(*pair) for pair in zip(sizes, sizes[1:])]


def own(p: Any, s: Any, x: Any) -> Any:
    spk, first = snf.leaky_step(p[1], s[0], x @ p[0])
    out, second = snf.leaky_step(p[3], s[1], spk @ p[2])
    return out, (first, second)


def masked(p: Any, s: Any, x: Any) -> Any:
    x, valid = x
    out, new = own(p, s, x)
    keep = lambda new, old: snf.LeakyState(torch.where(valid, new.mem, old.mem))
    return out, tuple(map(keep, new, s))


def recorded(p: Any, s: Any, x: Any) -> Any:
    spk, first = snf.leaky_step(p[1], s[0], x @ p[0])
    out, second = snf.leaky_step(p[3], s[1], spk @ p[2])
    return (out, spk), (first, second)


def ways(sizes: tuple[int, ...], T: int) -> dict[str, Any]:
    (a, b), leak = weights(sizes), snf.LeakyParams(0.9375)
    xs = (torch.rand(T, BATCH, sizes[0]) < 0.1).float()
    valid = torch.arange(T)[:, None, None] < torch.randint(T // 2, T, (BATCH, 1))
    state = tuple(snf.LeakyState(torch.zeros(BATCH, n)) for n in sizes[1:])
    params, linked = (a, leak, b, leak), (snf.Linear(a.T.contiguous()), leak, snf.Linear(b.T.contiguous()), leak)
    chained = snf.chain(snf.linear, snf.leaky, snf.linear, snf.leaky)
    rest = ((), state[0], (), state[1])

    def gradient(step: Any, params: Any, state: Any, xs: Any, kind: str = "auto") -> Any:
        def loss(params: Any) -> Any:
            out, _ = snf.scan(step, params, state, xs, kind=kind)
            return (out[0] if isinstance(out, tuple) else out).mean()

        return lambda: torch.func.grad(loss)(params)

    net = torch.nn.Sequential(
        torch.nn.Linear(sizes[0], sizes[1], bias=False), snn.Leaky(0.9375, init_hidden=True, learn_beta=True),
        torch.nn.Linear(sizes[1], sizes[2], bias=False), snn.Leaky(0.9375, init_hidden=True, learn_beta=True),
    )  # fmt: skip
    with torch.no_grad():
        net[0].weight.copy_(a.T), net[2].weight.copy_(b.T)

    def module() -> None:
        snn.utils.reset(net)
        snn.run(net, xs).mean().backward()

    spikes = [
        snf.scan(own, params, state, xs)[0], snf.scan(own, params, state, xs, kind="loop")[0],
        snf.scan(chained.step, linked, rest, xs)[0], snf.scan(recorded, params, state, xs)[0][0], snn.run(net, xs),
    ]  # fmt: skip
    assert spikes[0].any() and all(torch.equal(x, spikes[0]) for x in spikes), "the spikes differ"
    return {
        "chain": gradient(chained.step, linked, rest, xs),
        "own": gradient(own, params, state, xs),
        "masked": gradient(masked, params, state, (xs, valid)),
        "recorded": gradient(recorded, params, state, xs),
        "module": module,
        "loop": gradient(own, params, state, xs, "loop"),
    }


def medians(works: dict[str, Any], repeat: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(repeat):
        for name, work in works.items():
            gc.collect()
            began = time.process_time()
            work()
            times[name].append(time.process_time() - began)
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def planning(repeat: int) -> tuple[float, float]:
    """ms to read a network of five layers into stages whose kernels are known, and to find it again."""
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

    found = medians({"read": read, "find": lambda: [find() for _ in range(100)]}, repeat)
    return found["read"], found["find"] / 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for title, (sizes, T) in SIZES.items():
        found = medians(ways(sizes, T), given.repeat)
        print(f"\n{title}, batch {BATCH}: ms, and times the chain")
        for name, ms in found.items():
            print(f"    {name:10} {ms:8.2f}   {ms / found['chain']:6.2f}")
    read, find = planning(given.repeat)
    print(f"\nfive layers: read into stages in {read:.1f} ms, found again in {find:.3f} ms")


if __name__ == "__main__":
    main()
