"""A spiking network and its training as pure functions on trees: the library, put to use.

    network = network_init(generator, (64, 128, 10), "leaky")        weights and neurons, one tree
    mems, spks = network_apply(network, xs)                          xs [T, batch, 64] -> mems [T, batch, 10]

    training = training_init(network, generator)                     all that changes while training, one tree
    training = next_epoch(training, samples)
    training = training_step(training, samples, recipe)              one batch, one update

`python -m snn_functional train` is a loop over the last line. The model it saves is a `Network` (`_network.py`):

    import snn_functional as snf
    network = torch.load("runs/digits/model.pt", weights_only=True)        # torch < 2.4: without weights_only
    mems, spks = snf.train.network_apply(network, xs)
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import snn_functional as snf

from ._adam import adam_init, adam_update, AdamState
from ._lengths import check_lengths
from ._names import show as _show
from ._network import (
    halved,
    Layer as Layer,
    layer_apply as layer_apply,
    Network as Network,
    network_apply as network_apply,
    NEURONS,
)
from ._tree import tree_leaves, tree_map
from .data import Samples
from .encode import direct, latency, rate


__all__ = [
    "accuracy",
    "choose",
    "encode",
    "Layer",
    "layer_apply",
    "loss",
    "Network",
    "network_apply",
    "network_init",
    "next_epoch",
    "Recipe",
    "scores",
    "Training",
    "training_init",
    "training_step",
]

# Where training begins: what a neuron has no usual value for, and where another one is better. Every leaf is learned, for each neuron on
# its own; the steps read decays as clamped to [0, 1].
BEGIN = {"alpha": 0.5, "beta": 0.9, "w": 0.0}
OF_ITS_OWN = {
    "alpha": {"alpha": 0.9, "beta": 0.5},
    "balanced_resonate_and_fire": {"omega": 0.25, "b_offset": 0.1, "dt": 1.0},
    "exponential_integrate_and_fire": {"delta_T": 0.3},
    "lapicque": {"R": snf.lapicque_params(beta=0.9, C=1.0).R, "C": 1.0},
    "rleaky": {"V": 0.1},
    "rsynaptic": {"V": 0.1},
}


def _begins(name: str, neuron: snf.Neuron) -> Any:
    """The params that a hidden layer of these neurons begins with; or, as a string, why it has none."""
    fields = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(neuron.Params)}
    if "spike_grad" not in fields:
        return "it does not fire"
    given = {
        **{field: BEGIN[field] for field, needed in fields.items() if needed and field in BEGIN},
        **OF_ITS_OWN.get(name, {}),
    }
    if lacks := [field for field, needed in fields.items() if needed and field not in given]:
        return f"it needs {' and '.join(lacks)}, of which there is no usual value"
    params = neuron.Params(**given)
    rest = max((float(leaf) for leaf in tree_leaves(neuron.init(params, torch.zeros(())))), key=abs)
    return (
        params if abs(rest) < 10 else f"it rests at {rest:g}: a cell in mV, which currents of some tenths do not move"
    )


_FOUND = {name: _begins(name, neuron) for name, neuron in NEURONS.items()}
HIDDEN = {name: params for name, params in _FOUND.items() if not isinstance(params, str)}
UNFIT = {name: why for name, why in _FOUND.items() if isinstance(why, str)}
READOUT = snf.LeakyIntegratorParams(beta=0.9)

ENCODERS = {
    "direct": lambda x, T, generator: direct(x, T),
    "rate": rate,
    "latency": lambda x, T, generator: latency(x, T, linear=True),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What decides every number of a run."""

    data: str
    hidden: tuple[int, ...] = (128,)
    conv: tuple[int, ...] = ()  # channels of convolutions before them
    neuron: str = "leaky"
    coding: str = "direct"
    steps: int = 10
    window: float | None = None  # ms a step, of recorded events
    epochs: int = 20
    batch: int = 64
    lr: float = 2e-3
    seed: int = 0


def network_init(
    generator: torch.Generator,
    sizes: Sequence[int],
    neuron: str,
    conv: Sequence[int] = (),
    image: tuple[int, int, int] | None = None,
) -> Network:
    """A network of `sizes` (inputs, hidden ..., classes), its weights uniform in +-1/sqrt(inputs), on the generator's device.

    `conv`: channels of convolutions before the hidden layers, 3x3, every other pixel, on inputs that are an `image` (C, H, W). Each of
    their channels has neurons of its own numbers.
    """
    device = generator.device

    def layer(connection: Any, neurons: int, params: Any, axes: int = 1) -> Layer:
        silent = torch.zeros(neurons, device=device)  # drawn biases leave small networks silent
        params = tree_map(lambda leaf: leaf.to(device).repeat(neurons, *[1] * (axes - 1)), params)
        return Layer(dataclasses.replace(connection, bias=silent), params)

    layers = []
    inputs, *others, classes = sizes
    shape = image if conv else None
    for channels in conv:
        assert shape is not None
        draw = snf.Conv2d.random(shape[0], channels, 3, stride=2, bias=False, generator=generator, device=device)
        layers.append(layer(draw, channels, HIDDEN[neuron], axes=3))
        shape = halved(shape, channels)
        inputs = math.prod(shape)
    for neurons, params in (*((n, HIDDEN[neuron]) for n in others), (classes, READOUT)):
        draw = snf.Linear.random(inputs, neurons, bias=False, generator=generator, device=device)
        layers.append(layer(draw, neurons, params))
        inputs = neurons
    return Network(tuple(layers[:-1]), layers[-1], image if conv else None)


def scores(mems: Tensor, lengths: Tensor | None = None) -> Tensor:
    """[T, batch, classes] -> [batch, classes]: the mean over time, where `lengths` [batch] are given over each sample's own steps.

    Of membranes, or of spikes, which makes it rates. What is behind a sample's end does not count, whatever it is.

        loss = cross_entropy(scores(spks, lengths), y)

    Raises TypeError for lengths that are no whole numbers, ValueError for one below 1 or beyond T, and for another number of them.

    >>> scores(torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]], [[5.0, 5.0]]]), torch.tensor([2]))
    tensor([[0.5000, 0.0000]])
    """
    if lengths is None:
        return mems.mean(0)
    if mems.dim() != 3:
        raise ValueError(f"scores(mems, lengths): expected mems [T, batch, classes], but {tuple(mems.shape)} came.")
    check_lengths("scores(mems, lengths)", lengths, len(mems), tuple(mems.shape[1:2]), least=1)
    valid = torch.arange(len(mems), device=mems.device)[:, None, None] < lengths[:, None]
    return mems.where(valid, mems.new_zeros(())).sum(0) / lengths[:, None]


def encode(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """A batch, time first: images [batch, pixels] by the recipe's coding; sequences [batch, T, features] are currents or counts already."""
    return x.transpose(0, 1).float() if x.dim() == 3 else ENCODERS[recipe.coding](x, recipe.steps, generator)


def loss(network: Network, xs: Tensor, y: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross entropy, and beside it what to count: correct answers, and spikes per neuron and step of each hidden layer times the batch."""
    mems, spks = network_apply(network, xs)
    score = scores(mems, lengths)
    # Smoothing leaves nothing to gain from ever larger scores: half the spikes, and on digits 98.4 % right instead of 97.8 %.
    error = torch.nn.functional.cross_entropy(score, y, label_smoothing=0.1)
    rates = [rate * len(y) for rate in snf.firing_rates(spks)]
    return error, torch.stack([error * len(y), (score.argmax(1) == y).sum(), *rates]).detach()


@snf.pytree
class Training:
    """Everything that changes from batch to batch, and so all that a checkpoint holds.

    - `network`: the params. `average`: their running mean over some 100 updates, which is what is tested and saved.
    - `adam`: the optimizer's state. `random`: the generator's state. uint8.
    - `epoch`: epochs begun. (). `order`: samples that this one has still to see, shuffled. int64.
    - `sums`: loss, correct answers and each hidden layer's spike rate, summed over the samples it has seen. (2 + layers,).
    """

    network: Network
    average: Network
    adam: AdamState
    random: Tensor
    epoch: Tensor
    order: Tensor
    sums: Tensor


def training_init(network: Network, generator: torch.Generator) -> Training:
    """Before the first epoch. Of the generator only the state is taken."""
    device = generator.device
    nothing, zeros = (
        torch.zeros(0, dtype=torch.int64, device=device),
        torch.zeros(2 + len(network.hidden), device=device),
    )
    return Training(network, network, adam_init(network), generator.get_state(), torch.zeros(()), nothing, zeros)


def next_epoch(training: Training, samples: Samples) -> Training:
    """All samples in a new order, and nothing counted."""
    generator = _generator(training)
    order = torch.randperm(len(samples.y), generator=generator, device=generator.device)
    return dataclasses.replace(
        training,
        random=generator.get_state(),
        epoch=training.epoch + 1,
        order=order,
        sums=torch.zeros_like(training.sums),
    )


def training_step(training: Training, samples: Samples, recipe: Recipe) -> Training:
    """One update, from the next `recipe.batch` samples in the epoch's order."""
    generator = _generator(training)
    x, y, lengths = choose(samples, training.order[: recipe.batch])
    xs = encode(x, recipe, generator)
    grads, (_, sums) = torch.func.grad_and_value(loss, has_aux=True)(training.network, xs, y, lengths)
    updates, adam = adam_update(grads, training.adam, recipe.lr)
    network = tree_map(torch.add, training.network, updates)
    share = (1 / adam.count).clamp(min=0.01)
    return dataclasses.replace(
        training,
        network=network,
        average=tree_map(lambda mean, new: mean + share * (new - mean), training.average, network),
        adam=adam,
        random=generator.get_state(),
        order=training.order[recipe.batch :],
        sums=training.sums + sums,
    )


@torch.no_grad()
def accuracy(network: Network, samples: Samples, recipe: Recipe) -> float:
    """Share of the samples whose class the network names. The chance in a coding comes from the recipe's seed, each time anew."""
    generator = torch.Generator(samples.x.device).manual_seed(recipe.seed)
    hits = 0
    for index in torch.arange(len(samples.y), device=samples.x.device).split(500):
        x, y, lengths = choose(samples, index)
        mems, _ = network_apply(network, encode(x, recipe, generator))
        hits += int((scores(mems, lengths).argmax(1) == y).sum())
    return hits / len(samples.y)


def choose(samples: Samples, index: Tensor) -> Samples:
    """The samples at those places."""
    return tree_map(lambda leaf: leaf[index], samples)


def _generator(training: Training) -> torch.Generator:
    generator = torch.Generator(training.order.device)
    generator.set_state(training.random.cpu())
    return generator


_show(globals())
