"""python benchmarks/streaming.py [--steps 100000]: what one step of an endless stream costs, early and late.

    leaky         1000 neurons, batch 1: `snf.leaky_step`
    network       784-256-10, batch 1, functionalized: 784 inputs, 256 Leaky, 10 Leaky
    module        the same network as a module with hidden states, called step by step

At each mark the median of the next 101 steps in microseconds, and the peak of the process's memory so far in MB. One thread, no
gradients; both are to stay where they are, whatever the number of steps.
"""

import argparse
import resource
import statistics
import time

import torch
from torch import nn

import snn_functional as snf
from snn_functional import snn


def leaky():
    params, x = snf.LeakyParams(0.9), torch.rand(1, 1000)
    return snf.leaky_step, params, snf.leaky_init(params, x), x


def net():
    torch.manual_seed(0)
    lif = lambda: snn.Leaky(beta=0.9, init_hidden=True)
    return nn.Sequential(nn.Linear(784, 256), lif(), nn.Linear(256, 10), lif())


def network():
    return *snf.functionalize(net()), torch.rand(1, 784)


def module():
    module = net()
    return (lambda params, state, x: (module(x), state)), None, None, torch.rand(1, 784)


@torch.no_grad()
def stream(step, params, state, x, marks):
    taken = []
    for n in range(max(marks) + 101):
        start = time.perf_counter()
        _, state = step(params, state, x)
        taken.append(time.perf_counter() - start)
        if len(taken) > 101:
            taken.pop(0)
        if n - 100 in marks:
            yield n - 100, statistics.median(taken) * 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    torch.set_num_threads(1)
    steps = parser.parse_args().steps
    for work in (leaky, network, module):
        for n, microseconds, megabytes in stream(*work(), sorted({10, 1000, steps})):
            print(f"{work.__name__:10} step {n:7d} {microseconds:7.1f} us {megabytes:7.1f} MB", flush=True)
