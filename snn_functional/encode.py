"""Encoders: numbers in, spike trains out, time first. Pure functions; chance comes from a generator that is given.

    direct     xs[t] = x                              a constant current (direct current), not spikes; costs no memory
    rate       P(xs[t] = 1) = x                       a Bernoulli spike train, x in [0, 1]
    latency    xs[t] = 1 at t = t(x) alone            one spike, the earlier the larger x in [0, 1]

Each takes `x [batch, ...]` and gives `xs [T, batch, ...]`, what `scan` runs along. Numbers that vary in time already,
`x [T, batch, ...]`, become spikes of the same shape:

    bernoulli  P(xs[t] = 1) = x[t]                    the chance clamped to [0, 1]
    delta      xs[t] = 1 where x[t] - x[t-1] >= threshold

And the parts that latency codes are made of: `latency_times` x -> t(x), `spikes_at` t -> spikes, `ramp` spikes -> what rises
towards each of them.
"""

from typing import Any

import torch
from torch import Tensor

from ._functorch import readable
from ._names import show as _show


def direct(x: Tensor, T: int) -> Tensor:
    """`x` at each of `T` time steps: `[T, *x.shape]`, a view that repeats x in place (its stride in time is 0).

    Raises TypeError for an x that is not a tensor and ValueError for T < 1.
    """
    _check(direct, x, T, bounded=False)
    return x.expand(T, *x.shape)


def rate(x: Tensor, T: int, generator: torch.Generator | None = None) -> Tensor:
    """Spikes with probability `x` at each of `T` time steps, independently: `[T, *x.shape]`, in x's dtype.

    The numbers come from `generator`, on x's device, or from torch's global one. The mean over time tends to x; 0 never fires
    and 1 always does. No gradient passes.

    Raises TypeError for an x that is not a floating tensor, ValueError for T < 1 and for x outside [0, 1].

    >>> rate(torch.tensor([0.0, 0.5, 1.0]), 4, torch.Generator().manual_seed(0))
    tensor([[0., 0., 1.],
            [0., 1., 1.],
            [0., 0., 1.],
            [0., 1., 1.]])
    """
    _check(rate, x, T)
    return (torch.rand(T, *x.shape, dtype=x.dtype, device=x.device, generator=generator) < x).to(x.dtype)


def latency(
    x: Tensor, T: int, *, tau: float | None = None, threshold: float = 0.01, linear: bool = False, clip: bool = False
) -> Tensor:
    """One spike for each element of `x`, the larger the earlier: `[T, *x.shape]`, in x's dtype.

        t(x) = tau log(x / (x - threshold))           when a membrane charged by x, time constant tau, crosses the threshold
               tau (1 - x)                            `linear`

    with x read as at least `threshold` (1e-7 more in the logarithm), rounded to a step. Where `tau` is None it is fitted to T:
    T - 1 if `linear`, else what puts the latest possible spike at T - 1. Where it is given, spikes due later fire at T - 1 too.
    With `clip`, x below the threshold never fires. No gradient passes.

    These are the times of `snntorch.spikegen.latency` 1.0.0 with `normalize=True`, but for one thing: its logarithm is scaled by
    the latest spike *of the batch*. Here an x has one code in every batch; with an x at or below the threshold in the batch, the
    two agree.

    Raises TypeError for an x that is not a floating tensor, ValueError for T < 1, x outside [0, 1], tau <= 0 and a threshold
    outside (0, 1).

    >>> latency(torch.tensor([0.02, 0.5, 1.0]), 5, linear=True)
    tensor([[0., 0., 1.],
            [0., 0., 0.],
            [0., 1., 0.],
            [0., 0., 0.],
            [1., 0., 0.]])
    """
    _check(latency, x, T)
    if not 0 < threshold < 1:
        raise ValueError(f"latency(threshold={threshold}): expected a number between 0 and 1, as in threshold=0.01.")
    if tau is not None and not tau > 0:
        raise ValueError(f"latency(tau={tau}): expected a time constant above 0, in steps, or None to fit it to T.")

    unit = latency_times(x, threshold=threshold, linear=linear)
    latest = 1.0 if linear else latency_times(unit.new_tensor(threshold), threshold=threshold)
    at = unit * (T - 1) / latest if tau is None else tau * unit
    spikes = spikes_at(at.clamp(max=T - 1), T).to(x.dtype)
    return spikes * (x.to(at.dtype) >= threshold) if clip else spikes


def bernoulli(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Spikes with probability `x`, read as clamped to [0, 1], each on its own: in x's shape and dtype.

    For a rate that varies in time give x [T, batch, ...]. The numbers are those of `torch.bernoulli`, from `generator`, on x's
    device, or from torch's global one. No gradient passes.

    Raises TypeError for an x that is not a floating tensor, ValueError for NaN.
    """
    _check_floating(bernoulli, x)
    if readable(x) and bool(x.isnan().any()):
        raise ValueError(
            "bernoulli(x): x holds NaN; expected probabilities. Mend it first: bernoulli(x.nan_to_num(0.0))."
        )
    return torch.bernoulli(x.detach().clamp(0, 1), generator=generator)


def delta(x: Tensor, threshold: float = 0.1, *, padding: bool = False, off_spike: bool = False) -> Tensor:
    """A spike where `x` [T, ...] has risen by `threshold` or more since the step before: in x's shape and dtype.

    What came before x[0] is 0, or with `padding` x[0] itself, so that nothing fires at step 0. With `off_spike`, -1 where x has
    fallen by as much. No gradient passes. Source: `snntorch.spikegen.delta` 1.0.0.

    Raises TypeError for an x that is not a tensor of signed numbers, ValueError for one without a time axis and for a
    threshold below 0.

    >>> delta(torch.tensor([1.0, 2.0, 0.0, 2.0, 2.9]), 1.0, off_spike=True)
    tensor([ 1.,  1., -1.,  1.,  0.])
    """
    if not isinstance(x, Tensor) or x.dtype is torch.bool or not x.dtype.is_signed:
        came = f"{x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"delta(x): x is a tensor [T, ...] of signed numbers, not {came}: give x.float().")
    if x.dim() == 0 or not len(x):
        raise ValueError(f"delta(x): expected x [T, ...] with a step of time at least, and {list(x.shape)} came.")
    if not threshold >= 0:
        raise ValueError(f"delta(x, threshold={threshold}): expected the least change that counts, 0 or more.")
    change = x - torch.cat((x[:1] if padding else torch.zeros_like(x[:1]), x[:-1]))
    rises = (change >= threshold).to(x.dtype)
    return rises - (change <= -threshold).to(x.dtype) if off_spike else rises


def latency_times(
    x: Tensor, *, threshold: float = 0.01, tau: float = 1.0, linear: bool = False, epsilon: float = 1e-7
) -> Tensor:
    """When each element of `x` fires, in steps, not rounded: t(x) of `latency`. In x's shape; half precision gives float32.

        t(x) = tau log(x / (x - threshold))           with x read as at least threshold + epsilon
               tau (1 - x)                            `linear`, with x read as at least threshold

    The gradient passes, and is 0 where x is below the threshold. Source: `snntorch.spikegen.latency_code` 1.0.0.

    Raises TypeError for an x that is not a floating tensor, ValueError for NaN, for tau < 0, epsilon <= 0, a threshold
    outside (0, 1), and, `linear`, for an x above 1, whose time has passed.
    """
    _check_floating(latency_times, x)
    if not (0 < threshold < 1 and tau >= 0 and epsilon > 0):
        raise ValueError(
            f"latency_times(threshold={threshold}, tau={tau}, epsilon={epsilon}): expected a threshold between 0 and 1, "
            "a tau of at least 0 and an epsilon above 0."
        )
    if readable(x) and not bool((x <= (1 if linear else float("inf"))).all()):
        raise ValueError(
            f"latency_times(x, linear={linear}): x reaches {x.max().item():.4g}; expected {'at most 1' if linear else 'no NaN'}."
        )
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # in half precision x - threshold would be 0
    if linear:
        return (tau * (1 - x)).clamp(max=tau * (1 - threshold))
    x = x.clamp(min=threshold + epsilon)
    return tau * torch.log(x / (x - threshold))


def spikes_at(times: Tensor, T: int) -> Tensor:
    """One spike for each of `times`, rounded to a step: `[T, *times.shape]`, in their dtype; none for a time outside 0 .. T - 1.

    Integer times give spikes of the default dtype. Raises TypeError for times that are not a tensor, ValueError for T < 1.
    """
    _check(spikes_at, times, T, bounded=False)
    dtype = times.dtype if times.is_floating_point() else torch.get_default_dtype()
    at = times.round() if times.is_floating_point() else times
    return (torch.arange(T, device=times.device).view(T, *[1] * times.dim()) == at).to(dtype)


def ramp(spikes: Tensor) -> Tensor:
    """What rises from 0 to 1 before each of `spikes` [T, ...], a target for membranes: in their shape and dtype.

        x[t] = (t - a) / (b - a)       b = next spike, at t or later; a = the step after the last spike before t, or 0
               1                       at a spike
               0                       after the last one

    Whatever is not 0 is a spike. No gradient passes. Raises TypeError for spikes that are not a floating tensor.

    >>> ramp(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
    tensor([1.0000, 0.0000, 0.3333, 0.6667, 1.0000, 0.0000])
    """
    _check_floating(ramp, spikes)
    T = len(spikes)
    fired = spikes != 0
    t = torch.arange(T, device=spikes.device).view(T, *[1] * (spikes.dim() - 1))
    b = torch.where(fired, t, T).flip(0).cummin(0).values.flip(0)
    after = torch.where(fired, t + 1, 0).cummax(0).values
    a = torch.cat((torch.zeros_like(after[:1]), after[:-1]))
    rising = (t - a) * (b - a).clamp(min=1).to(spikes.dtype).reciprocal()  # and not one division: snnTorch's rounding
    return torch.where(fired, 1.0, torch.where(b < T, rising, 0.0)).to(spikes.dtype)


def _check(encoder: Any, x: Any, T: Any, bounded: bool = True) -> None:
    name = encoder.__name__
    if not isinstance(x, Tensor) or (bounded and not x.is_floating_point()):
        came = f"{x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}(x, T): x is a floating tensor [batch, ...], not {came}: give x.float() in [0, 1].")
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ValueError(
            f"{name}(x, T={T!r}): T counts the time steps, an integer of at least 1, as in {name}(x, T=10)."
        )
    if bounded and readable(x) and not bool(((x >= 0) & (x <= 1)).all()):
        low, high = x.min().item(), x.max().item()
        raise ValueError(
            f"{name}(x, T): x lies in [{low:.4g}, {high:.4g}]; expected [0, 1]. Scale it first: "
            f"{name}((x - x.min()) / (x.max() - x.min()), T)."
        )


def _check_floating(encoder: Any, x: Any) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        came = f"{x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{encoder.__name__}(x): x is a floating tensor, not {came}: give x.float().")


_show(globals())
