"""python benchmarks/training.py [--seeds 3]: torch's own tools train as well as this library's, on scikit-learn's digits.

1. The loss of a convolutional network after 100 updates under `torch.autocast` (CPU, bfloat16), on all training images, beside float32's,
   and beside float32's from weights that are moved by a millionth: spikes are thresholds, so a rounding becomes another run, and this
   tells how far apart two runs are that nobody would call different.
2. The accuracy of `python -m snn_functional train`, and of the same network as `snf.module`, trained by AdamW with a cosine and clipping.

    torchrun --nproc-per-node 2 benchmarks/training.py

trains the module of 2 with DistributedDataParallel, each process with its half of each batch.
"""

import argparse
import contextlib
import os
import statistics

import torch
import torch.distributed as dist
from torch import nn, Tensor
from torch.nn.parallel import DistributedDataParallel

import snn_functional as snf
from snn_functional import data, train
from snn_functional.__main__ import RECIPES


CONV = snf.chain(snf.conv2d, snf.leaky, snf.max_pool2d(2), snf.conv2d, snf.leaky, snf.flatten, snf.linear, snf.leaky)
RECIPE = RECIPES["digits"]


def conv_loss(seed: int, half: bool = False, moved: float = 0.0, updates: int = 100) -> tuple[float, float]:
    """1-8-16-10 on images 8x8, ten steps of time, batch 64: the loss on all training images at the end, and the mean of all updates'."""
    generator = torch.Generator().manual_seed(seed)
    samples = data.load("digits").train
    params = (
        snf.Conv2d.random(1, 8, 3, generator=generator),
        snf.LeakyParams(0.9, 0.5),
        (),
        snf.Conv2d.random(8, 16, 3, generator=generator),
        snf.LeakyParams(0.9, 0.5),
        (),
        snf.Linear.random(256, 10, generator=generator),
        snf.LeakyParams(0.9),
    )
    model = snf.module(CONV, params)
    with torch.no_grad():
        for p in model.parameters():
            p *= 1 + moved * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=2e-3), []
    images = lambda x: x.reshape(1, -1, 1, 8, 8).expand(10, -1, -1, -1, -1)
    with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
        for _ in range(updates):
            x, y, _ = train.choose(samples, torch.randint(len(samples.y), (64,), generator=generator))
            optimizer.zero_grad()
            error = nn.functional.cross_entropy(model(images(x)).sum(0), y)
            error.backward()
            optimizer.step()
            losses.append(error.item())
        with torch.no_grad():
            at_the_end = nn.functional.cross_entropy(model(images(samples.x)).sum(0), samples.y).item()
    return at_the_end, statistics.mean(losses)


def as_train_does(seed: int) -> float:
    """The accuracy that `python -m snn_functional train` prints at its end."""
    dataset, recipe = data.load("digits"), RECIPE
    generator = torch.Generator().manual_seed(seed)
    state = train.training_init(train.network_init(generator, (64, *recipe.hidden, 10), recipe.neuron), generator)
    for _ in range(recipe.epochs):
        state = train.next_epoch(state, dataset.train)
        while len(state.order):
            state = train.training_step(state, dataset.train, recipe)
    return train.accuracy(state.average, dataset.test, recipe)


def as_a_script_does(seed: int) -> float:
    """The accuracy of the same network as a module. In a group of processes each takes its part of each batch."""
    dataset, recipe = data.load("digits"), RECIPE
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    generator = torch.Generator().manual_seed(seed)
    network = train.network_init(generator, (64, *recipe.hidden, 10), recipe.neuron)
    layers = *network.hidden, network.readout
    net = snf.chain(*(part for layer in layers for part in (snf.linear, train.NEURONS[type(layer.neuron)])))
    model: nn.Module = snf.module(net, tuple(part for layer in layers for part in (layer.connection, layer.neuron)))
    parallel = DistributedDataParallel(model) if size > 1 else model
    total = recipe.epochs * -(-len(dataset.train.y) // recipe.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    over_time = lambda x: train.encode(x, recipe, generator)
    for _ in range(recipe.epochs):
        for index in torch.randperm(len(dataset.train.y), generator=generator).split(recipe.batch):
            x, y, _ = train.choose(dataset.train, index[rank::size])
            optimizer.zero_grad()
            mems = parallel(over_time(x))
            nn.functional.cross_entropy(train.scores(mems), y, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        found: Tensor = train.scores(model(over_time(dataset.test.x))).argmax(1)
    return (found == dataset.test.y).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    show = lambda rights: f"{statistics.mean(rights):.4f}, of {', '.join(f'{x:.4f}' for x in rights)}"
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        rights = [as_a_script_does(seed) for seed in seeds]
        print(f"process {dist.get_rank()}: AdamW, cosine, clipping, DDP {show(rights)}")
        dist.destroy_process_group()
        return
    print("loss of float32; of float32 moved by 1e-6, and of autocast, beside it: after 100 updates; the mean of all")
    for seed in seeds:
        wide, moved, half = conv_loss(seed), conv_loss(seed, moved=1e-6), conv_loss(seed, half=True)
        print(*(f"{w:.4f} {m / w - 1:+8.2%} {h / w - 1:+8.2%}   " for w, m, h in zip(wide, moved, half)))
    print("accuracy, train            ", show([as_train_does(seed) for seed in seeds]))
    print("AdamW, cosine, clipping    ", show([as_a_script_does(seed) for seed in seeds]))


if __name__ == "__main__":
    main()
