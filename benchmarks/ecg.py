"""python benchmarks/ecg.py FOLDER [--neurons 64] [--epochs 80] [--peers]: which wave of a heartbeat is this? Asked at each of 1301 steps.

FOLDER has QTDB_train.mat and QTDB_test.mat: the QT database (PhysioNet), coded by level crossings by Yin et al. 2021
(doi:10.1038/s42256-021-00397-w, whose adaptive network gives 0.859): 618 and 141 recordings, 4 channels of -1, 0 and 1, six waves. They
are not part of this project.

A recurrent layer of adaptive neurons and six leaky readouts; all weights, decays and thresholds are learned, by Adam, in batches of 16.
Printed: the share of the test recordings' steps that are right, and the seconds of CPU time that an epoch takes. `--peers` times a
batch of the untrained network in Norse (its LSNNRecurrentCell, which is adaptive too) and snnTorch (RLeaky, which is not: it has no
adaptive neuron) as well, interleaved; ours takes longer as it learns to fire, so compare the epochs of training, too.
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
SLOPE = 25.0  # of the surrogate: with a flat one the gradient explodes over 1301 steps


def load(folder: Path, part: str) -> Any:
    """Time first: x [1301, N, 4], the number of the wave [1301, N]."""
    from scipy.io import loadmat

    found = loadmat(folder / f"QTDB_{part}.mat")
    x, y = torch.tensor(found["x"]).float(), torch.tensor(found["y"]).argmax(-1)
    return x.transpose(0, 1).contiguous(), y.T.contiguous()


def loss_of(scores: Any, y: Any) -> Any:
    return cross_entropy(scores.flatten(0, 1), y.flatten())


def network(neurons: int) -> Any:
    """What is learned, and `scores(learned, xs)` [T, batch, 6].

    A decay is learned as its logit: Adam's steps are all of one size, and 0.99 is near 1. A spike raises the threshold by `b` (1 - rho).
    """
    import snn_functional as snf

    net = snf.chain(snf.linear, snf.recurrent(snf.adaptive_leaky), snf.linear, snf.leaky_integrator)
    logit = lambda low, high, n: torch.logit(torch.exp(-1 / (low + (high - low) * torch.rand(n))))
    random = lambda n, m, gain: gain * snf.Linear.random(n, m).weight
    learned = dict(
        into=random(4, neurons, 2), bias=torch.zeros(neurons), V=random(neurons, neurons, 0.5), out=random(neurons, 6, 1),
        last=torch.zeros(6), beta=logit(5, 40, neurons), rho=logit(30, 300, neurons), b=torch.full((neurons,), 1.8),
        threshold=torch.ones(neurons), slow=logit(3, 20, 6),
    )  # fmt: skip

    def scores(p: Any, xs: Any) -> Any:
        rho = torch.sigmoid(p["rho"])
        cell = snf.AdaptiveLeakyParams(
            torch.sigmoid(p["beta"]),
            rho,
            p["b"] * (1 - rho),
            p["threshold"],
            spike_grad=snf.surrogate.FastSigmoid(SLOPE),
        )
        hidden = snf.RecurrentParams(cell, snf.Linear(p["V"]))
        slow = torch.sigmoid(p["slow"])
        params = (
            snf.Linear(p["into"], p["bias"]),
            hidden,
            snf.Linear(p["out"], p["last"]),
            snf.LeakyIntegratorParams(slow),
        )
        return snf.scan(net.step, params, net.init(params, xs[0]), xs)[0]

    return learned, scores


def train(options: Any) -> dict[str, Any]:
    torch.manual_seed(options.seed)
    (x, y), test = load(options.folder, "train"), load(options.folder, "test")
    params, scores = network(options.neurons)
    leaves = [leaf.requires_grad_() for leaf in params.values()]
    adam = torch.optim.Adam(leaves, lr=options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.epochs)
    best, seconds = 0.0, []
    for epoch in range(options.epochs):
        began = time.process_time()
        for batch in torch.randperm(x.shape[1]).split(options.batch):
            loss = loss_of(scores(params, x[:, batch]), y[:, batch])
            for leaf, grad in zip(leaves, torch.autograd.grad(loss, leaves)):
                leaf.grad = grad
            if torch.nn.utils.clip_grad_norm_(leaves, 1.0).isfinite():
                adam.step()  # 1301 steps back, a gradient may explode: that batch is left out
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


def batch_of(who: str, neurons: int, batch: int) -> Any:
    """`step(x, y)`: forward and backward of one batch, with as many neurons, in that library."""
    if who == "ours":
        learned, scores = network(neurons)
        leaves = [leaf.requires_grad_() for leaf in learned.values()]
        return lambda x, y: torch.autograd.grad(loss_of(scores(learned, x), y), leaves)
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
        init = lambda: (torch.zeros(batch, neurons), torch.zeros(batch, neurons), torch.zeros(batch, 6))

    def step(x: Any, y: Any) -> None:
        state, outs = init(), []
        for now in x.unbind(0):
            out, state = net(now, state)
            outs.append(out)
        loss_of(torch.stack(outs), y).backward()

    return step


def worker(who: str, folder: Path, neurons: int, batch: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = (part[:, :batch] for part in load(folder, "train"))
    step = batch_of(who, neurons, batch)
    step(x, y)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        step(x, y)
        print(time.process_time() - began, flush=True)


def peers(options: Any) -> dict[str, float]:
    """Seconds of CPU time of an epoch's batches, forward and backward, in each library."""
    workers, batches = {}, math.ceil(618 / options.batch)
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
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--worker")
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/benchmarks")
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker, options.folder, options.neurons, options.batch)
    torch.set_num_threads(1)
    found = train(options) if options.epochs else {}
    if options.peers:
        found["peers"] = peers(options)
    print(found)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ecg.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
