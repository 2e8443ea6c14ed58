"""Recordings of different lengths as one batch."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ._events import Events, Recording


FRAMES = "(frames(one.events, window=10_000, size=(34, 34, 2)), one.label)"  # how a recording becomes a sample


def batch(recordings: Iterable[tuple[Any, Any]]) -> tuple[Tensor, Tensor, Tensor]:
    """Samples [T, ...], each with its label, as `(xs [T, batch, ...], y [batch], lengths [batch])`, padded with zeros at the end.

    The `collate_fn` of a DataLoader over any data set that gives (frames, label), a tonic one with `ToFrame` too:

        DataLoader(dataset, batch_size=64, collate_fn=batch)

    Arrays of numpy and tensors alike. Whole numbers become float32, as neurons take them; floating ones keep their dtype. `lengths`
    and y are int64.

    A network runs on padded zeros, too. What is behind a sample's end is left out by one of:

        scores = snf.train.scores(spks, lengths)                a mean over each sample's own steps [batch, classes], of spikes or membranes
        valid = snf.valid_steps(lengths, len(xs))               bool [T, batch]: `masked(net)` takes the pair (xs, valid), and puts out 0
        rates = snf.firing_rates(spks, lengths)

    The losses of `snf.losses` take no lengths. Those of counts are right on what `masked` puts out: `ce_count_loss(spks, y)`; for a mean
    over time it is `cross_entropy(snf.train.scores(spks, lengths), y)`, which needs no `masked`.

    Raises ValueError for no samples, for samples of different shapes, for a label that is missing.

    >>> xs, y, lengths = batch([(torch.ones(2, 5), 1), (torch.ones(4, 5), 0)])
    >>> xs.shape, y, lengths
    (torch.Size([4, 2, 5]), tensor([1, 0]), tensor([2, 4]))

    A spiking network and its loss, in which padding does not count:

    >>> from snn_functional import train
    >>> net = chain(linear, leaky)
    >>> params = (Linear(torch.eye(5)), LeakyParams(beta=0.9))
    >>> spks, _ = scan(net.step, params, net.init(params, xs[0]), xs)
    >>> loss = torch.nn.functional.cross_entropy(train.scores(spks, lengths), y)
    """
    samples, labels = [], []
    for number, entry in enumerate(recordings):
        if not isinstance(entry, (tuple, list)) or len(entry) != 2:
            help = ""
            if isinstance(entry, Recording):
                help = f". Of each: {FRAMES}"
            raise TypeError(
                f"batch: recording {number} is {type(entry).__name__}; expected (frames [T, ...], label){help}"
            )
        samples.append(_sample(entry[0], number))
        labels.append(_label(entry[1], number))
    if not samples:
        raise ValueError("batch: no recordings; expected at least one (frames [T, ...], label)")
    first = samples[0]
    for number, sample in enumerate(samples):
        if sample.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"batch: recording {number} is {tuple(sample.shape)} and recording 0 {tuple(first.shape)}; expected one shape behind "
                "the time"
            )
    lengths = [len(sample) for sample in samples]
    xs = first.new_zeros(max(lengths), len(samples), *first.shape[1:])
    for number, sample in enumerate(samples):
        xs[: len(sample), number] = sample
    return xs, torch.tensor(labels, device=first.device), torch.tensor(lengths, device=first.device)


def _sample(frames: Any, number: int) -> Tensor:
    if isinstance(frames, (Events, Recording, Mapping)) or getattr(getattr(frames, "dtype", None), "names", None):
        raise TypeError(f"batch: recording {number} is events; expected their frames [T, ...]: {FRAMES}")
    x = frames if isinstance(frames, Tensor) else torch.as_tensor(frames)
    if x.dim() < 1 or not len(x):
        raise ValueError(f"batch: recording {number} has shape {tuple(x.shape)}; expected [T, ...], at least one step")
    return x if x.is_floating_point() else x.float()


def _label(label: Any, number: int) -> int:
    try:
        value = int(label)
    except (TypeError, ValueError):
        value = -1
    if value < 0 or value != label:
        raise ValueError(f"batch: the label of recording {number} is {label!r}; expected a class, counted from 0")
    return value
