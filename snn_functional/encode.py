"""Encoders: numbers in, spike trains out, time first. Pure functions; chance comes from a generator that is given.

    direct     xs[t] = x                              a constant current (direct current), not spikes; costs no memory
    rate       P(xs[t] = 1) = x                       a Bernoulli spike train, x in [0, 1]
    latency    xs[t] = 1 at t = t(x) alone            one spike, the earlier the larger x in [0, 1]

Each takes `x [batch, ...]` and gives `xs [T, batch, ...]`, what `scan` runs along.
"""

from typing import Any

import torch
from torch import Tensor

from ._functorch import readable


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

    def time(x: Tensor) -> Tensor:
        if linear:
            return 1 - x.clamp(min=threshold)
        x = x.clamp(min=threshold + 1e-7)
        return torch.log(x / (x - threshold))

    dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # in half precision x - threshold would be 0
    latest = 1.0 if linear else time(x.new_tensor(threshold))
    at = time(x) * (T - 1) / latest if tau is None else tau * time(x)
    at = at.round().clamp(max=T - 1)
    spikes = torch.arange(T, device=x.device).view(T, *[1] * x.dim()) == at
    return (spikes & (x >= threshold) if clip else spikes).to(dtype)


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
