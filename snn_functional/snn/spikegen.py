"""`snntorch.spikegen`: encoders of inputs and of targets, under snnTorch's names. Thin names over `encode` and `targets`.

The numbers are snnTorch 1.0.0's, random draws included: they come from torch's global generator, or from `generator`.
Input and output are time first; outputs take the input's dtype and device. A ValueError where snnTorch raises a bare Exception.
"""

from typing import Any

import torch
from torch import Tensor

from .. import encode, targets as _targets
from .._functorch import readable
from ..targets import whole


Generator = torch.Generator | None


def rate(
    data: Tensor, num_steps: int = False, gain: Any = 1, offset: Any = 0, first_spike_time: int = 0, time_var_input: bool = False,
    *, generator: Generator = None,
) -> Tensor:  # fmt: skip
    """Spikes with probability `gain * data + offset`, clamped to [0, 1]; none before `first_spike_time`.

    `data` [batch, ...] is repeated for `num_steps`: `[num_steps, batch, ...]`. With `time_var_input`, `data` [T, batch, ...] is
    encoded as it is, `first_spike_time` silent steps come before it, and `num_steps` is not given.

    Raises TypeError where the probability is not a floating tensor, ValueError for NaN, and for a `num_steps` or a
    `first_spike_time` that do not fit.
    """
    _tensor(rate, data)
    whole(rate, "first_spike_time", first_spike_time, 0)
    if time_var_input:
        if num_steps:
            raise ValueError(
                f"rate(data, num_steps={num_steps}, time_var_input=True): the steps of data and first_spike_time make num_steps. "
                "Leave it out, or time_var_input where data has no axis of time."
            )
        spikes = encode.bernoulli(data * gain + offset, generator)
    else:
        if not num_steps:
            raise ValueError(
                "rate(data): expected num_steps, as in rate(data, num_steps=10), or time_var_input=True where data [T, batch, ...] "
                "has an axis of time."
            )
        whole(rate, "num_steps", num_steps, 1)
        whole(rate, "first_spike_time", first_spike_time, 0, num_steps - 1)
        chance = data.repeat(num_steps, *[1] * data.dim()) * gain + offset
        spikes = encode.bernoulli(chance, generator)[first_spike_time:]
    return torch.cat((spikes.new_zeros(first_spike_time, *spikes.shape[1:]), spikes)) if first_spike_time else spikes


def rate_conv(data: Tensor, *, generator: Generator = None) -> Tensor:
    """Spikes with probability `data`, clamped to [0, 1], in its shape: `encode.bernoulli`."""
    return encode.bernoulli(data, generator)


def delta(data: Tensor, threshold: float = 0.1, padding: bool = False, off_spike: bool = False) -> Tensor:
    """A spike where `data` [T, ...] has risen by `threshold`, with `off_spike` -1 where it has fallen: `encode.delta`."""
    return encode.delta(data, threshold, padding=padding, off_spike=off_spike)


def latency(
    data: Tensor, num_steps: int = False, threshold: float = 0.01, tau: float = 1, first_spike_time: int = 0,
    on_target: float = 1, off_target: float = 0, clip: bool = False, normalize: bool = False, linear: bool = False,
    interpolate: bool = False, bypass: bool = False, epsilon: float = 1e-7,
) -> Tensor:  # fmt: skip
    """`on_target` at the time of `latency_code`, rounded, `off_target` elsewhere: `[num_steps, batch, ...]`.

    - `clip`: what is below the threshold never fires.
    - `interpolate`: the value rises from `off_target` to `on_target` before the spike.
    - `bypass`: spikes after the last step are dropped. Without `num_steps`, the latest spike is the last step.

    Raises TypeError for `data` that is no tensor, ValueError for `data` outside [0, 1], for no `num_steps`, and for spikes after
    the last step; what takes a look at numbers is looked at on the CPU only.
    """
    x = _floating(latency, data)
    if readable(x) and not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(
            f"latency(data): data lies in [{x.min().item():.4g}, {x.max().item():.4g}]; expected [0, 1]. Scale it first: "
            "latency((data - data.min()) / (data.max() - data.min()), ...)."
        )
    if not num_steps and not bypass:
        raise ValueError(
            "latency(data): expected num_steps, as in latency(data, num_steps=10), or bypass=True to end with the latest spike."
        )
    times = _times(latency, x, num_steps, threshold, tau, first_spike_time, normalize, linear, epsilon).detach()
    T = num_steps or int(times.max().round()) + 1
    if not bypass and readable(times) and times.numel() and (latest := int(times.max().round())) > T - 1:
        raise ValueError(
            f"latency(data, num_steps={T}): the latest spike is due at step {latest}, the last step is {T - 1}. Give "
            "normalize=True or a smaller tau, or drop such spikes with bypass=True."
        )
    spikes = encode.spikes_at(times, T)
    if clip:
        spikes = spikes * ~(x < threshold)
    return _targets.levels(spikes, on_target, off_target, interpolate).to(x.dtype)


def latency_code(
    data: Tensor, num_steps: int = False, threshold: float = 0.01, tau: float = 1, first_spike_time: int = 0,
    normalize: bool = False, linear: bool = False, epsilon: float = 1e-7,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The spike times of `latency_code_linear` or `latency_code_log`, not rounded, and where `data` is below `threshold` (bool)."""
    x = _floating(latency_code, data)
    times = _times(latency_code, x, num_steps, threshold, tau, first_spike_time, normalize, linear, epsilon)
    return times.to(x.dtype), data < threshold


def latency_code_linear(
    data: Tensor, num_steps: int = False, threshold: float = 0.01, tau: float = 1, first_spike_time: int = 0,
    normalize: bool = False,
) -> Tensor:  # fmt: skip
    """`first_spike_time + tau (1 - data)`, with data read as at least `threshold`.

    With `normalize`, tau is such that a datum of 0 would fire at num_steps - 1. Raises ValueError for data above 1.
    """
    x = _floating(latency_code_linear, data)
    return _times(latency_code_linear, x, num_steps, threshold, tau, first_spike_time, normalize, True).to(x.dtype)


def latency_code_log(
    data: Tensor, num_steps: int = False, threshold: float = 0.01, tau: float = 1, first_spike_time: int = 0,
    normalize: bool = False, epsilon: float = 1e-7,
) -> Tensor:  # fmt: skip
    """`first_spike_time + tau log(data / (data - threshold))`, with data read as at least `threshold + epsilon`.

    With `normalize`, scaled so that the latest spike of all of `data` is at num_steps - 1: a datum's time depends on the batch.
    `encode.latency` has one code in every batch.
    """
    x = _floating(latency_code_log, data)
    return _times(latency_code_log, x, num_steps, threshold, tau, first_spike_time, normalize, False, epsilon).to(
        x.dtype
    )


def latency_interpolate(spike_time: Tensor, num_steps: int, on_target: float = 1, off_target: float = 0) -> Tensor:
    """What rises from `off_target` to `on_target` before each `spike_time` [...], one a neuron, rounded: `[num_steps, ...]`.

    `off_target` after the spike, and throughout where it comes later than the last step.
    """
    times = _floating(latency_interpolate, spike_time)
    return _targets.levels(encode.spikes_at(times, num_steps), on_target, off_target, interpolate=True)


def targets_convert(
    targets: Tensor, num_classes: int, code: str = "rate", num_steps: int = False, first_spike_time: int = 0,
    correct_rate: float = 1, incorrect_rate: float = 0, on_target: float = 1, off_target: float = 0,
    firing_pattern: str = "regular", interpolate: bool = False, epsilon: float = 1e-7, threshold: float = 0.01, tau: float = 1,
    clip: bool = False, normalize: bool = False, linear: bool = False, bypass: bool = False, *, generator: Generator = None,
) -> Tensor:  # fmt: skip
    """`targets_rate` or `targets_latency`, as `code` says: "rate" or "latency". Raises ValueError for another code."""
    shared: dict[str, Any] = {"num_steps": num_steps, "first_spike_time": first_spike_time, "epsilon": epsilon}
    shared |= {"on_target": on_target, "off_target": off_target, "interpolate": interpolate}
    if code == "rate":
        shared |= {"correct_rate": correct_rate, "incorrect_rate": incorrect_rate, "firing_pattern": firing_pattern}
        return targets_rate(targets, num_classes, **shared, generator=generator)
    if code == "latency":
        shared |= {"threshold": threshold, "tau": tau, "clip": clip, "normalize": normalize, "linear": linear}
        return targets_latency(targets, num_classes, **shared, bypass=bypass)
    raise ValueError(f"targets_convert(targets, num_classes, code={code!r}): expected 'rate' or 'latency'.")


def targets_rate(
    targets: Tensor, num_classes: int, num_steps: int = False, first_spike_time: int = 0, correct_rate: float = 1,
    incorrect_rate: float = 0, on_target: float = 1, off_target: float = 0, firing_pattern: str = "regular",
    interpolate: bool = False, epsilon: float = 1e-7, *, generator: Generator = None,
) -> Tensor:  # fmt: skip
    """`targets.rate`: the neuron of the right class fires at `correct_rate`, the others at `incorrect_rate`.

    `[num_steps, batch, num_classes]`; with the default rates and `first_spike_time=0` nothing varies in time, and the axis of
    time is left out. `epsilon` is not needed: no step is counted by a sum of roundings.

    Raises ValueError for rates outside [0, 1], for an `incorrect_rate` above the `correct_rate`, for no `num_steps` where time
    matters, for another `firing_pattern` and for labels outside 0 .. num_classes - 1.
    """
    if not 0 <= incorrect_rate <= correct_rate <= 1:
        raise ValueError(
            f"targets_rate(correct_rate={correct_rate}, incorrect_rate={incorrect_rate}): expected "
            "0 <= incorrect_rate <= correct_rate <= 1."
        )
    pattern = _pattern(targets_rate, firing_pattern)
    steady = correct_rate == 1 and incorrect_rate == 0
    if steady and first_spike_time == 0:
        return _targets.levels(_targets.one_hot(targets, num_classes), on_target, off_target)
    if not num_steps:
        raise ValueError(
            "targets_rate(targets, num_classes): expected num_steps, as in num_steps=10, where a rate or first_spike_time is given."
        )
    return _targets.rate(
        targets,
        num_classes,
        num_steps,
        correct_rate,
        incorrect_rate,
        first_spike_time=first_spike_time,
        on=on_target,
        off=off_target,
        pattern="regular" if steady else pattern,
        interpolate=interpolate,
        generator=generator,
    )


def target_rate_code(
    num_steps: int, first_spike_time: int = 0, rate: float = 1, firing_pattern: str = "regular", *, generator: Generator = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One neuron's spike train [num_steps] at `rate`, and the steps at which it fires (int64): `targets.rate_times`."""
    pattern = _pattern(target_rate_code, firing_pattern)
    times = _targets.rate_times(
        num_steps, rate, first_spike_time=first_spike_time, pattern=pattern, generator=generator
    )
    return _targets.train(times, num_steps), times


def rate_interpolate(
    spike_time: Tensor, num_steps: int, on_target: float = 1, off_target: float = 0, epsilon: float = 1e-7
) -> Tensor:
    """What rises from `off_target` to `on_target` before each of one neuron's spikes, at `spike_time` [n]: `[num_steps]`.

    Steps of num_steps and later are not reached. `epsilon` is not needed. Raises ValueError for a time that is no whole step.
    """
    _tensor(rate_interpolate, spike_time)
    whole(rate_interpolate, "num_steps", num_steps, 1)
    if readable(spike_time) and not bool(((spike_time >= 0) & (spike_time == spike_time.long())).all()):
        raise ValueError(
            "rate_interpolate(spike_time): expected whole steps of 0 and later: rate_interpolate(spike_time.round(), ...)."
        )
    spikes = _targets.train(spike_time.long(), num_steps, torch.float64)
    return _targets.levels(spikes, on_target, off_target, interpolate=True).to(torch.get_default_dtype())


def targets_latency(
    targets: Tensor, num_classes: int, num_steps: int = False, first_spike_time: int = 0, on_target: float = 1,
    off_target: float = 0, interpolate: bool = False, threshold: float = 0.01, tau: float = 1, clip: bool = False,
    normalize: bool = False, linear: bool = False, epsilon: float = 1e-7, bypass: bool = False,
) -> Tensor:  # fmt: skip
    """`latency(to_one_hot(targets, num_classes), ...)`: the right class fires first, the others last."""
    return latency(
        to_one_hot(targets, num_classes),
        num_steps,
        threshold,
        tau,
        first_spike_time,
        on_target,
        off_target,
        clip,
        normalize,
        linear,
        interpolate,
        bypass,
        epsilon,
    )


def to_one_hot(targets: Tensor, num_classes: int) -> Tensor:
    """1 at each target's class: `[batch, num_classes]`, in the default dtype: `targets.one_hot`."""
    return _targets.one_hot(targets, num_classes)


def to_one_hot_inverse(one_hot_targets: Tensor) -> Tensor:
    """1 where `one_hot_targets` is 0, and 0 elsewhere."""
    _tensor(to_one_hot_inverse, one_hot_targets)
    return (one_hot_targets == 0).to(one_hot_targets.dtype)


def from_one_hot(one_hot_label: Tensor) -> Tensor:
    """The class of each row, int64 [batch]; of a single row [num_classes], one class [1]: `targets.from_one_hot`."""
    _tensor(from_one_hot, one_hot_label)
    return _targets.from_one_hot(one_hot_label[None] if one_hot_label.dim() == 1 else one_hot_label)


def _times(
    function: Any, x: Tensor, num_steps: int, threshold: float, tau: float, first_spike_time: int, normalize: bool, linear: bool,
    epsilon: float = 1e-7,
) -> Tensor:  # fmt: skip
    """`latency_times` after `first_spike_time`, fitted to `num_steps` with `normalize`. Half precision gives float32."""
    if normalize and not num_steps:
        raise ValueError(
            f"{function.__name__}(data, normalize=True): expected the num_steps to fit to, as in num_steps=10."
        )
    if num_steps:
        whole(function, "num_steps", num_steps, 1)
    whole(function, "first_spike_time", first_spike_time, 0, num_steps - 1 if num_steps else None)
    if not tau > 0:
        raise ValueError(f"{function.__name__}(data, tau={tau}): expected a time constant above 0, in steps.")
    span = num_steps - 1 - first_spike_time
    tau = span if linear and normalize else tau
    times = encode.latency_times(x, threshold=threshold, tau=tau, linear=linear, epsilon=epsilon) + first_spike_time
    if linear or not normalize:
        return times
    since = times - first_spike_time
    return since * span / since.max() + first_spike_time


def _floating(function: Any, data: Any) -> Tensor:
    _tensor(function, data)
    return data if data.is_floating_point() else data.to(torch.get_default_dtype())


def _tensor(function: Any, data: Any) -> None:
    if not isinstance(data, Tensor):
        raise TypeError(
            f"{function.__name__} takes a tensor first, not {type(data).__name__}: give torch.as_tensor(data)."
        )


def _pattern(function: Any, pattern: Any) -> str:
    if not isinstance(pattern, str) or pattern.lower() not in _targets.PATTERNS:
        expected = ", ".join(map(repr, _targets.PATTERNS))
        raise ValueError(f"{function.__name__}(firing_pattern={pattern!r}): expected one of {expected}.")
    return pattern.lower()
