"""python benchmarks/ecg.py FOLDER [--neuron adlif ...] [--seeds 0 1 2]: which wave of a heartbeat is this? Asked at each of 1301 steps.

FOLDER has QTDB_train.mat and QTDB_test.mat: the QT database (PhysioNet), coded by level crossings by Yin et al. 2021
(doi:10.1038/s42256-021-00397-w, whose adaptive network gives 0.859): 618 and 141 recordings, 4 channels of -1, 0 and 1, six waves. They
are not part of this project.

A recurrent layer of one of five neurons, and six leaky integrators that read it out at every step. All weights and time constants are
learned by Adam, in batches of 16, under a learning rate that rises and falls once. A tenth of the training recordings is held back: the
network that is tested is that of the epoch which was best on these. The test recordings are looked at once, when all is done.
Printed: the share of the test recordings' steps that are right, and the seconds of CPU time, one thread.

    python benchmarks/ecg.py FOLDER --seeds 0 1 2 --neuron adlif brf se_adlif adaptive_leaky leaky

2026-11-28, 64 neurons, 40 epochs, one thread of a busy AMD EPYC, torch 2.13; mean and deviation of three seeds:

    neuron            test accuracy        each                     CPU time of a run
    adlif             0.874 +- 0.003       0.873 0.878 0.871        81 s
    brf               0.860 +- 0.004       0.862 0.863 0.855        79 s
    se_adlif          0.858 +- 0.013       0.866 0.865 0.844        79 s
    adaptive_leaky    0.821 +- 0.005       0.817 0.820 0.826        83 s
    leaky             0.818 +- 0.006       0.821 0.823 0.811        79 s

The learning rates and surrogates were chosen in a few runs of seed 0, by the recordings held back; nobody searched for long, so the last
digits say little about the neurons. `brf` is balanced_resonate_and_fire.

`--peers` times a batch of the untrained adaptive_leaky network in Norse (its LSNNRecurrentCell, which is adaptive too) and snnTorch
(RLeaky, which is not: it has no adaptive neuron) as well, interleaved; ours takes longer as it learns to fire, so compare the epochs of
training, too.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy, dropout


HERE = Path(__file__).parent


def load(folder: Path, part: str) -> Any:
    """Time first: x [1301, N, 4], the number of the wave [1301, N]."""
    from scipy.io import loadmat

    found = loadmat(folder / f"QTDB_{part}.mat")
    x, y = torch.tensor(found["x"]).float(), torch.tensor(found["y"]).argmax(-1)
    return x.transpose(0, 1).contiguous(), y.T.contiguous()


def loss_of(scores: Any, y: Any) -> Any:
    return cross_entropy(scores.flatten(0, 1), y.flatten())


class Between(NamedTuple):
    """A number between two bounds. It is learned as a logit: Adam's steps are all of one size, and a decay of 0.99 is near 1."""

    low: float
    high: float

    def drawn(self, n: int) -> Any:
        return torch.logit(torch.empty(n).uniform_(0.05, 0.95))

    def of(self, logit: Any) -> Any:
        return self.low + (self.high - self.low) * torch.sigmoid(logit)


class Steps(Between):
    """A time constant in steps, as the share that is kept in each."""

    def of(self, logit: Any) -> Any:
        return torch.exp(-1 / super().of(logit))


class Recipe(NamedTuple):
    """A neuron and how it is trained."""

    neuron: Any
    numbers: dict[str, Between]  # what is learned of it
    params: Callable[[dict[str, Any]], Any]
    current: Callable[[dict[str, Any]], Any]  # the factor of all that comes in, so that it is the membrane's at rest
    into: float  # the size of the first weights, from outside
    back: float  # and from one another
    lr: float


def recipe(name: str) -> Recipe:
    import snn_functional as snf

    slope = snf.surrogate.FastSigmoid
    wide, narrow = slope(5.0), slope(10.0)  # with a wide one, the gradient of the last two explodes over 1301 steps
    alpha, beta = Steps(5, 25), Steps(60, 300)
    level, zero = Between(0.5, 1.5), {"reset_mechanism": "zero"}  # which ends it at each spike
    made = {
        "adlif": lambda: Recipe(
            snf.adlif,
            dict(alpha=alpha, beta=beta, a=Between(0, 1), b=Between(0, 2)),
            lambda p: snf.AdlifParams(**p, spike_grad=wide),
            lambda p: 1,
            *(20.0, 1.0, 0.02),
        ),
        "se_adlif": lambda: Recipe(
            snf.se_adlif,
            dict(alpha=alpha, beta=beta, a=Between(0, 120), b=Between(0, 240)),
            lambda p: snf.SeAdlifParams(**p, spike_grad=wide),
            lambda p: 1,
            *(20.0, 1.0, 0.02),
        ),
        "brf": lambda: Recipe(
            snf.balanced_resonate_and_fire,
            dict(omega=Between(1, 30), b_offset=Between(0.05, 2)),
            lambda p: snf.BalancedResonateAndFireParams(**p, spike_grad=wide),
            lambda p: 30,
            *(2.0, 0.5, 0.02),
        ),
        "adaptive_leaky": lambda: Recipe(
            snf.adaptive_leaky,
            dict(beta=Steps(5, 40), rho=Steps(30, 300), jump=Between(0, 3.6), threshold=level),
            lambda p: snf.AdaptiveLeakyParams(**p | {"jump": p["jump"] * (1 - p["rho"])}, **zero, spike_grad=narrow),
            lambda p: 1 - p["beta"],
            *(20.0, 1.0, 0.02),
        ),
        "leaky": lambda: Recipe(
            snf.leaky,
            dict(beta=Steps(5, 40), threshold=level),
            lambda p: snf.LeakyParams(**p, **zero, spike_grad=narrow),
            lambda p: 1 - p["beta"],
            *(20.0, 1.0, 0.02),
        ),
    }
    return made[name]()


def network(how: Recipe, neurons: int, drop: float = 0.0) -> Any:
    """What is learned, and `scores(learned, xs)` [T, batch, 6]; `scores(learned, xs, True)` drops spikes of the hidden layer."""
    import snn_functional as snf

    hidden, readout = snf.chain(snf.linear, snf.recurrent(how.neuron)), snf.chain(snf.linear, snf.leaky_integrator)
    slow = Steps(2, 20)
    learned = {name: number.drawn(neurons) for name, number in how.numbers.items()}
    learned |= dict(
        into=how.into * snf.Linear.random(4, neurons).weight, bias=torch.zeros(neurons),
        V=how.back * torch.nn.init.orthogonal_(torch.empty(neurons, neurons)),
        out=snf.Linear.random(neurons, 6).weight, last=torch.zeros(6), slow=slow.drawn(6),
    )  # fmt: skip

    def scores(p: Any, xs: Any, training: bool = False) -> Any:
        numbers = {name: number.of(p[name]) for name, number in how.numbers.items()}
        factor = torch.as_tensor(how.current(numbers)).expand(neurons)
        weighed = lambda weight: snf.Linear(factor[:, None] * weight)
        into = snf.Linear(weighed(p["into"]).weight, factor * p["bias"])
        first = into, snf.RecurrentParams(how.params(numbers), weighed(p["V"]))
        spks = snf.scan(hidden.step, first, hidden.init(first, xs[0]), xs)[0]
        spks = dropout(spks, drop, training)
        kept = slow.of(p["slow"])
        last = snf.Linear((1 - kept)[:, None] * p["out"], (1 - kept) * p["last"]), snf.LeakyIntegratorParams(kept)
        return snf.scan(readout.step, last, readout.init(last, spks[0]), spks)[0]

    return learned, scores


def right(scores: Any, y: Any) -> float:
    return (scores.argmax(-1) == y).float().mean().item()


def train(options: Any, name: str, seed: int) -> dict[str, Any]:
    from tqdm import tqdm

    torch.manual_seed(seed)
    (x, y), how = load(options.folder, "train"), recipe(name)
    held, kept = torch.randperm(x.shape[1]).tensor_split([x.shape[1] // 10])
    params, scores = network(how, options.neurons, options.dropout)
    leaves, lr = [leaf.requires_grad_() for leaf in params.values()], options.lr or how.lr
    adam, batches = torch.optim.Adam(leaves, lr=lr), math.ceil(len(kept) / options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, lr, total_steps=options.epochs * batches, pct_start=0.1)
    best, chosen, best_epoch, left_out, loss, began = -1.0, params, 0, 0, torch.zeros(()), time.process_time()
    epochs = tqdm(range(1, options.epochs + 1), desc=f"{name}, seed {seed}", disable=None, leave=False)
    for epoch in epochs:
        for batch in kept[torch.randperm(len(kept))].split(options.batch):
            loss = loss_of(scores(params, x[:, batch], True), y[:, batch])
            for leaf, grad in zip(leaves, torch.autograd.grad(loss, leaves)):
                leaf.grad = grad
            if torch.nn.utils.clip_grad_norm_(leaves, 1.0).isfinite():
                adam.step()
            else:  # 1301 steps back, a gradient may explode: that batch is left out
                left_out += 1
            schedule.step()
        with torch.no_grad():
            found = right(scores(params, x[:, held]), y[:, held])
        if found > best:
            best, best_epoch, chosen = found, epoch, {name: leaf.detach().clone() for name, leaf in params.items()}
        epochs.set_postfix(loss=f"{loss.item():.3f}", held_back=f"{found:.4f}")
    seconds = time.process_time() - began
    x, y = load(options.folder, "test")
    with torch.no_grad():
        tested, last = right(scores(chosen, x), y), right(scores(params, x), y)
    print(
        f"    {name:14} seed {seed}: {tested:.4f} of the test steps right after epoch {best_epoch} ({last:.4f} at the end), "
        f"{best:.4f} of those held back; {seconds:.0f} s, {left_out} batches left out",
        flush=True,
    )
    return dict(neuron=name, seed=seed, test=tested, last=last, held_back=best, epoch=best_epoch, seconds=seconds)


def batch_of(who: str, neurons: int, batch: int) -> Any:
    """`step(x, y)`: forward and backward of one batch, with as many neurons, in that library."""
    if who == "ours":
        learned, scores = network(recipe("adaptive_leaky"), neurons)
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
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    names = ("adlif", "se_adlif", "brf", "adaptive_leaky", "leaky")
    parser.add_argument("--neuron", nargs="+", choices=names, default=["adlif"])
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--lr", type=float, help="at its highest; each neuron has its own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--worker")
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/benchmarks")
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker, options.folder, options.neurons, options.batch)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in options.neuron if options.epochs else ():
        found[name] = [train(options, name, seed) for seed in options.seeds]
        tests = [run["test"] for run in found[name]]
        spread = f" +- {statistics.stdev(tests):.4f}" if len(tests) > 1 else ""
        seconds = statistics.mean(run["seconds"] for run in found[name])
        print(f"{name:14} {statistics.mean(tests):.4f}{spread}, {seconds:.0f} s of CPU time")
    if options.peers:
        found["peers"] = peers(options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ecg.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
