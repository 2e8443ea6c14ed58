"""What is read from a spike train: times, pooled counts, accuracy. Pure functions of `spk_out [T, batch, ..., classes]`.

    spike_times          the steps of the first spikes, with a gradient
    pool                 a population code: neurons summed to one output a class
    accuracy_rate        share of the samples whose class fires most
    accuracy_temporal    share of the samples whose class fires first

The batch may have any number of axes, or none; `targets [batch, ...]` are the classes' indices.
"""

from typing import Any

import torch
from torch import Tensor

from ._functorch import readable
from ._names import show as _show


def spike_times(spk_out: Tensor, count: int = 1) -> Tensor:
    """The steps of the first `count` spikes of each neuron, in order: `[count, batch, ..., neurons]`, in spk_out's dtype.

        time[k]                  = the step of the neuron's spike k; T - 1 where it fires less often
        d time[k] / d spk_out[t] = -1 at t = time[k], else 0

    A spike is what is not 0. The slope says that more drive is an earlier spike; it is exact for no neuron.

    These are the times of `snntorch.functional.SpikeTime` 1.0.0, whose second and later ones are wrong wherever two neurons
    share a step (`MultiSpike` wipes the whole step).

    Raises TypeError for spikes that are no floating tensor, ValueError for an empty time axis and a count outside 1 ... T.

    >>> spike_times(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), 2)
    tensor([[1., 2.],
            [3., 3.]])
    """
    check_output("spike_times", spk_out, axes=1)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(spk_out):
        raise ValueError(
            f"spike_times(spk_out, count={count!r}): a neuron fires at most once in each of the {len(spk_out)} steps; "
            f"expected an integer from 1 to {len(spk_out)}."
        )
    at = _steps(spk_out, count)
    slope = -spk_out.gather(0, at)
    return at.to(spk_out.dtype) + (slope - slope.detach())


def pool(spk_out: Tensor, num_classes: int) -> Tensor:
    """A population code, summed: `[..., neurons] -> [..., num_classes]`, the first neurons to class 0, the next to class 1, ...

    Raises ValueError where `num_classes` does not divide the neurons.
    """
    neurons = spk_out.size(-1)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1 or neurons % num_classes:
        raise ValueError(
            f"num_classes={num_classes!r} for {neurons} outputs: a population code has the same number of neurons for each class, "
            f"so num_classes divides {neurons}."
        )
    return spk_out.unflatten(-1, (num_classes, neurons // num_classes)).sum(-1)


def accuracy_rate(
    spk_out: Tensor, targets: Tensor, population_code: bool = False, num_classes: int | bool = False
) -> Tensor:
    """The share of samples whose class fires most often, the first of equals: (), float64.

    With `population_code=True`, each of `num_classes` classes has a group of neurons (`pool`).
    `snntorch.functional.accuracy_rate` 1.0.0, which returns a numpy number.

    Raises as the losses do: see `snf.losses`.
    """
    name = "accuracy_rate"
    counts = pooled(name, check_output(name, spk_out, floating=False), population_code, num_classes).sum(0)
    return (counts.argmax(-1) == classes(name, counts, targets, len(spk_out))).double().mean()


def accuracy_temporal(spk_out: Tensor, targets: Tensor) -> Tensor:
    """The share of samples whose class fires first, the first of equals: (), float64.

    A silent neuron counts as firing in the last step. `snntorch.functional.accuracy_temporal` 1.0.0, which returns a numpy number.

    Raises as the losses do: see `snf.losses`.
    """
    first = _steps(check_output("accuracy_temporal", spk_out, floating=False), 1)[0]
    return (first.argmin(-1) == classes("accuracy_temporal", first, targets, len(spk_out))).double().mean()


def _steps(spk_out: Tensor, count: int) -> Tensor:
    T = len(spk_out)
    step = torch.arange(T, device=spk_out.device).view(T, *[1] * (spk_out.dim() - 1))
    at = torch.where(spk_out != 0, step, T - 1)
    return at.amin(0, keepdim=True) if count == 1 else at.sort(0).values[:count]


def check_output(name: str, out: Any, floating: bool = True, axes: int = 2) -> Tensor:
    """The network's output, if it is one: `[T, batch, ..., classes]`, T > 0."""
    if not isinstance(out, Tensor) or (floating and not out.is_floating_point()):
        came = f"{out.dtype}" if isinstance(out, Tensor) else type(out).__name__
        raise TypeError(
            f"{name}: the network's output is a floating tensor [T, batch, classes], not {came}. Stack its steps: torch.stack(spks)."
        )
    if out.dim() < axes or len(out) == 0:
        raise ValueError(
            f"{name}: the network's output has shape {tuple(out.shape)}; expected [T, batch, classes] with at least one time step."
        )
    return out


def pooled(name: str, out: Tensor, population_code: bool, num_classes: int | bool) -> Tensor:
    """`out`, or with `population_code` one output a class."""
    if population_code:
        if num_classes is False or num_classes is None:
            raise ValueError(
                f"{name}(population_code=True): say how many classes share the {out.size(-1)} outputs: num_classes=..."
            )
        return pool(out, num_classes)
    if num_classes and num_classes != out.size(-1):
        raise ValueError(
            f"{name}(num_classes={num_classes}): {out.size(-1)} outputs came, one a class. "
            f"For more neurons than classes: {name}(population_code=True, num_classes={num_classes})."
        )
    return out


def classes(name: str, scores: Tensor, targets: Any, T: int | None = None) -> Tensor:
    """`targets` as int64, if they are class indices [batch, ...] for `scores [batch, ..., classes]`, of outputs of `T` steps."""
    if (
        not isinstance(targets, Tensor)
        or targets.is_floating_point()
        or targets.is_complex()
        or targets.dtype == torch.bool
    ):
        came = f"{targets.dtype}" if isinstance(targets, Tensor) else type(targets).__name__
        raise TypeError(
            f"{name}: targets are class indices, an integer tensor [batch], not {came}. "
            "From one-hot or float labels: targets.argmax(-1), targets.long()."
        )
    if targets.shape != scores.shape[:-1]:
        turned = ""
        if scores.dim() > 1 and targets.shape == (T, *scores.shape[1:-1]):
            turned = " The outputs have the batch first: give outputs.transpose(0, 1)."
        raise ValueError(
            f"{name}: targets {tuple(targets.shape)} for outputs [T, {', '.join(map(str, scores.shape))}]; "
            f"expected one class index a sample, {tuple(scores.shape[:-1])}.{turned}"
        )
    C = scores.size(-1)
    if readable(targets) and targets.numel() and not (0 <= int(targets.min()) and int(targets.max()) < C):
        raise ValueError(
            f"{name}: targets lie in [{int(targets.min())}, {int(targets.max())}]; the {C} outputs are classes 0 to {C - 1}."
        )
    return targets.long()


_show(globals(), hide=["check_output", "classes", "pooled"])
