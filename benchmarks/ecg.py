"""python benchmarks/ecg.py FOLDER [--neurons 64] [--epochs 100] [--peers]: which wave of a heartbeat is this? Asked at each of 1301 steps.

FOLDER has QTDB_train.mat and QTDB_test.mat: the QT database (PhysioNet), coded by level crossings by Yin et al. 2021
(doi:10.1038/s42256-021-00397-w, whose adaptive network gives 0.859): 618 and 141 recordings, 4 channels of -1, 0 and 1, six waves. They
are not part of this project.

A recurrent layer of adaptive neurons and six leaky readouts; all weights, decays and thresholds are learned, by Adam, in batches of 64.
Printed: the share of the test recordings' steps that are right, and the seconds of CPU time that an epoch takes. `--peers` times a
batch in Norse (its LSNNRecurrentCell, which is adaptive too) and snnTorch (RLeaky, which is not: it has no adaptive neuron) as well,
interleaved.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy


HERE = Path(__file__).parent
BATCH = 64


def load(folder: Path, part: str) -> Any:
    """Time first: x [1301, N, 4], the number of the wave [1301, N]."""
    from scipy.io import loadmat

    found = loadmat(folder / f"QTDB_{part}.mat")
    x, y = torch.tensor(found["x"]).float(), torch.tensor(found["y"]).argmax(-1)
    return x.transpose(0, 1).contiguous(), y.T.contiguous()


def loss_of(scores: Any, y: Any) -> Any:
    return cross_entropy(scores.flatten(0, 1), y.flatten())


def network(neurons: int) -> Any:
    """The parameters, and `scores(params, xs)` [T, batch, 6]."""
    import snn_functional as snf

    net = snf.chain(snf.linear, snf.recurrent(snf.adaptive_leaky), snf.linear, snf.leaky_integrator)
    decay = lambda low, high, n: torch.exp(-1 / (low + (high - low) * torch.rand(n)))
    beta, rho, slow = decay(5, 40, neurons), decay(30, 300, neurons), decay(5, 30, 6)
    V = snf.Linear.random(neurons, neurons, bias=False)
    cell = snf.AdaptiveLeakyParams(
        beta, rho, 1.8 * (1 - rho), torch.ones(neurons), spike_grad=snf.surrogate.ATan(alpha=2.0)
    )
    params = (
        snf.Linear(snf.Linear.random(4, neurons).weight, torch.zeros(neurons)), snf.RecurrentParams(cell, V),
        snf.Linear(0.2 * snf.Linear.random(neurons, 6).weight, torch.zeros(6)), snf.LeakyIntegratorParams(slow),
    )  # fmt: skip

    def scores(params: Any, xs: Any) -> Any:
        return snf.scan(net.step, params, net.init(params, xs[0]), xs)[0]

    return params, scores


def train(options: Any) -> dict[str, Any]:
    import optree

    torch.manual_seed(options.seed)
    (x, y), test = load(options.folder, "train"), load(options.folder, "test")
    params, scores = network(options.neurons)
    leaves, form = optree.tree_flatten(params)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    adam = torch.optim.Adam(leaves, lr=options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.epochs)
    params, best, seconds = optree.tree_unflatten(form, leaves), 0.0, []
    for epoch in range(options.epochs):
        began = time.process_time()
        for batch in torch.randperm(x.shape[1]).split(BATCH):
            loss = loss_of(scores(params, x[:, batch]), y[:, batch])
            for leaf, grad in zip(leaves, torch.autograd.grad(loss, leaves)):
                leaf.grad = grad
            torch.nn.utils.clip_grad_norm_(leaves, 1.0)
            adam.step()
        schedule.step()
        seconds.append(time.process_time() - began)
        with torch.no_grad():
            right = (scores(params, test[0]).argmax(-1) == test[1]).float().mean().item()
        best = max(best, right)
        if epoch % 5 == 4 or epoch == options.epochs - 1:
            print(
                f"    epoch {epoch + 1:3}: loss {loss.item():.3f}, {right:.4f} of the test steps right, {seconds[-1]:.1f} s",
                flush=True,
            )
    return dict(
        neurons=options.neurons, epochs=options.epochs, last=right, best=best, seconds=statistics.median(seconds)
    )


def batch_of(who: str, neurons: int) -> Any:
    """`step(x, y)`: forward and backward of one batch, with as many neurons, in that library."""
    if who == "ours":
        import optree

        params, scores = network(neurons)
        leaves, form = optree.tree_flatten(params)
        leaves = [leaf.requires_grad_() for leaf in leaves]
        params = optree.tree_unflatten(form, leaves)
        return lambda x, y: torch.autograd.grad(loss_of(scores(params, x), y), leaves)
    if who == "norse":
        import norse.torch as norse

        net: Any = norse.SequentialState(
            norse.LSNNRecurrentCell(4, neurons), torch.nn.Linear(neurons, 6), norse.LICell()
        )
        init = lambda: None
    else:
        import snntorch as snn

        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.into, self.out = torch.nn.Linear(4, neurons), torch.nn.Linear(neurons, 6)
                self.hidden = snn.RLeaky(
                    torch.full((neurons,), 0.95), linear_features=neurons, learn_beta=True, learn_threshold=True
                )
                self.readout = snn.Leaky(torch.full((6,), 0.95), learn_beta=True, reset_mechanism="none")

            def forward(self, x: Any, state: Any) -> Any:
                spk, mem, slow = state
                spk, mem = self.hidden(self.into(x), spk, mem)
                slow = self.readout(self.out(spk), slow)[1]
                return slow, (spk, mem, slow)

        net = Net()
        init = lambda: (torch.zeros(BATCH, neurons), torch.zeros(BATCH, neurons), torch.zeros(BATCH, 6))

    def step(x: Any, y: Any) -> None:
        state, outs = init(), []
        for now in x.unbind(0):
            out, state = net(now, state)
            outs.append(out)
        loss_of(torch.stack(outs), y).backward()

    return step


def worker(who: str, neurons: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = (
        torch.randint(-1, 2, (1301, BATCH, 4)).float() * (torch.rand(1301, BATCH, 4) < 0.12),
        torch.randint(6, (1301, BATCH)),
    )
    step = batch_of(who, neurons)
    step(x, y)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        step(x, y)
        print(time.process_time() - began, flush=True)


def peers(options: Any) -> dict[str, float]:
    """Seconds of CPU time of an epoch's batches, forward and backward, in each library."""
    workers, batches = {}, math.ceil(618 / BATCH)
    for who, home in (("ours", None), ("norse", "torch"), ("snntorch", "torch")):
        python = Path(sys.executable if home is None else HERE.parent / "build/peers" / home / "bin/python")
        if not python.exists():
            print(f"{who} is left out: it is not installed (benchmarks/peers.sh)")
            continue
        command = [
            str(python),
            "-W",
            "ignore",
            __file__,
            str(options.folder),
            "--neurons",
            str(options.neurons),
            "--worker",
            who,
        ]
        workers[who] = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert workers[who].stdout.readline() == "ready\n", f"{who} does not start"
    taken: dict[str, list[float]] = {who: [] for who in workers}
    for _ in range(5):
        for who, process in workers.items():
            print("go", file=process.stdin, flush=True)
            taken[who].append(float(process.stdout.readline()))
    for process in workers.values():
        process.stdin.close()
    found = {who: batches * statistics.median(times) for who, times in taken.items()}
    for who, seconds in found.items():
        print(f"    {who:9} {seconds:7.2f} s an epoch of {batches} batches  {seconds / found['ours']:6.1f}x")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--worker")
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/benchmarks")
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker, options.neurons)
    torch.set_num_threads(1)
    found = train(options) if options.epochs else {}
    if options.peers:
        found["peers"] = peers(options)
    print(found)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ecg.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
