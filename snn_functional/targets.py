"""Targets: class labels in, what the output neurons should do, time first. Pure functions; chance comes from a generator.

    one_hot       labels [...] -> [..., classes]               from_one_hot is its inverse
    rate_times    the steps at which one neuron fires at a given rate
    rate          labels [batch] -> [T, batch, classes]        the right class fires at one rate, the others at another
    latency       labels [batch] -> [T, batch, classes]        the right class fires first, the others last

Values other than 0 and 1, and ramps between spikes (`encode.ramp`), are targets for membranes.
"""

from typing import Any

import torch
from torch import Tensor

from . import encode
from ._functorch import readable
from ._names import show as _show


PATTERNS = ("regular", "uniform", "poisson")


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype | None = None) -> Tensor:
    """1 at each label's class, 0 elsewhere: `[*labels.shape, num_classes]`, in `dtype` or the default one.

    Raises TypeError for labels that are not a tensor, ValueError for labels that are not whole numbers in 0 .. num_classes - 1.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"one_hot(labels, num_classes): labels is a tensor of classes, not {type(labels).__name__}.")
    whole(one_hot, "num_classes", num_classes, 1)
    fits = (labels >= 0) & (labels < num_classes) & (labels == labels.long())
    if readable(fits) and not bool(fits.all()):
        raise ValueError(
            f"one_hot(labels, num_classes={num_classes}): the label {labels[~fits][0].item()} came; expected whole numbers in "
            f"0 .. {num_classes - 1}."
        )
    classes = torch.arange(num_classes, device=labels.device)
    return (labels[..., None] == classes).to(dtype or torch.get_default_dtype())


def from_one_hot(x: Tensor) -> Tensor:
    """The labels [...] (int64) that `one_hot` made `x` [..., classes] of.

    Raises TypeError for an x that is not a tensor, ValueError where not exactly one class is 1 and the others 0.
    """
    if not isinstance(x, Tensor) or x.dim() == 0:
        came = "a number" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"from_one_hot(x): x is a tensor [..., classes], not {came}.")
    on = x == 1
    if readable(x) and not bool(((on.sum(-1) == 1) & ((x == 0).sum(-1) == x.shape[-1] - 1)).all()):
        raise ValueError(
            "from_one_hot(x): expected a single 1 along the last axis and 0 elsewhere. Of scores: x.argmax(-1)."
        )
    return on.to(torch.uint8).argmax(-1)


def rate_times(
    T: int,
    rate: float = 1.0,
    *,
    first_spike_time: int = 0,
    pattern: str = "regular",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The steps in `first_spike_time` .. T - 1 at which one neuron fires at `rate` spikes a step: int64, one dimension.

        "regular"    every 1 / rate steps, from first_spike_time on
        "uniform"    as many as that, each anywhere: unordered, and two may meet in one step
        "poisson"    each step with probability `rate`

    The numbers come from `generator`, on its device, or from torch's global one. Source: `snntorch.spikegen.target_rate_code` 1.0.0.

    Raises ValueError for a rate outside [0, 1], for T < 1, for a first_spike_time outside 0 .. T - 1 and for another pattern.
    """
    whole(rate_times, "T", T, 1)
    whole(rate_times, "first_spike_time", first_spike_time, 0, T - 1)
    if not 0 <= rate <= 1:
        raise ValueError(f"rate_times(T, rate={rate}): expected a share of the steps, in [0, 1].")
    if pattern not in PATTERNS:
        raise ValueError(f"rate_times(T, pattern={pattern!r}): expected one of {', '.join(map(repr, PATTERNS))}.")
    device = generator.device if generator else None
    if rate == 0:
        return torch.zeros(0, dtype=torch.int64, device=device)
    if pattern == "poisson":
        chance = torch.full((T,), float(rate), device=device)
        chance[:first_spike_time] = 0
        return torch.bernoulli(chance, generator=generator).nonzero()[:, 0]
    times = torch.arange(first_spike_time, T, 1 / rate, device=device)
    if pattern == "uniform":
        times = torch.rand(len(times), generator=generator, device=device) * (T - first_spike_time) + first_spike_time
    times = times.long()
    return times[times < T]  # rounded, the last one may be T


def rate(
    labels: Tensor,
    num_classes: int,
    T: int,
    correct_rate: float = 1.0,
    incorrect_rate: float = 0.0,
    *,
    first_spike_time: int = 0,
    on: float = 1.0,
    off: float = 0.0,
    pattern: str = "regular",
    interpolate: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`on` where the neuron should fire, `off` elsewhere: `[T, *labels.shape, num_classes]`, in the default dtype.

    The neuron of the right class fires at `correct_rate`, every other one at `incorrect_rate`, at the steps of `rate_times`: one
    draw for each of the two, whatever the batch. With `interpolate` the target rises from `off` to `on` before each spike.
    Source: `snntorch.spikegen.targets_rate` 1.0.0, in what its documentation promises.

    Raises what `one_hot` and `rate_times` do.
    """
    right = one_hot(labels, num_classes).bool()
    series = []
    for share in (correct_rate, incorrect_rate):
        times = rate_times(T, share, first_spike_time=first_spike_time, pattern=pattern, generator=generator)
        series.append(levels(train(times, T, torch.float64), on, off, interpolate).view(T, *[1] * right.dim()))
    return torch.where(right, *(one.to(labels.device, torch.get_default_dtype()) for one in series))


def latency(labels: Tensor, num_classes: int, T: int, **options: Any) -> Tensor:
    """`encode.latency(one_hot(labels, num_classes), T, **options)`: the right class fires at step 0, the others at T - 1."""
    return encode.latency(one_hot(labels, num_classes), T, **options)


def levels(spikes: Tensor, on: float = 1.0, off: float = 0.0, interpolate: bool = False) -> Tensor:
    """`on` where `spikes` [T, ...] are, `off` elsewhere, or with `interpolate` rising from `off` to `on` (`encode.ramp`)."""
    if interpolate:
        return encode.ramp(spikes) * (on - off) + off
    return torch.where(spikes != 0, spikes.new_tensor(on), spikes.new_tensor(off))


def train(times: Tensor, T: int, dtype: torch.dtype | None = None) -> Tensor:
    """The spike train [T] of one neuron that fires at `times` (int64, any shape); those of T and later are not reached."""
    return torch.zeros(T, dtype=dtype, device=times.device).index_fill(0, times[times < T], 1)


def whole(function: Any, name: str, value: Any, least: int, most: int | None = None) -> None:
    """Refuse what is not a whole number in `least` .. `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        expected = f"{least} .. {most}" if most is not None else f"at least {least}"
        raise ValueError(f"{function.__name__}(..., {name}={value!r}): expected a whole number, {expected}.")


_show(globals(), hide=["PATTERNS", "whole"])
