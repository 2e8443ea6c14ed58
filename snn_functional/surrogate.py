"""Surrogate gradients: an exact step forward, a smooth slope backward.

    S(u)     = 1 if u > 0 else 0           with u = mem - threshold, strictly greater
    dS/du   := h'(u)                       the slope of a smooth function h, the surrogate's `shadow`

A surrogate is a *value*: a frozen dataclass with one method, `shadow`. It computes `S(u) + (h(u) - h(u).detach())`:
the bracket is exactly 0 forward, and autograd takes the slope of h, to any order and in any mode, under every
`torch.func` transform and under `torch.compile`. Spikes have the input's dtype. Where u is not finite the slope is 0.

    spk = ATan(alpha=2.0)(mem - threshold)

Its number is a number of the call, not of the kernel that `scan` builds: one that changes with every update is the same kernel. One
that is learned is a tensor in the closure of a step of one's own; then it has a gradient:

    slope = torch.tensor(25.0)
    step = lambda p, s, x: leaky_step(dataclasses.replace(p, spike_grad=FastSigmoid(slope)), s, x)

Names and defaults are those of `snntorch.surrogate` 1.0.0, whose lower-case factories are here as aliases
(`atan`, `fast_sigmoid`, ...). Four of its slopes were not what its papers say; they are right here, and their docstrings
say what differs: `Triangular`, `SpikeRateEscape`, `LSO`, `SFS`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from typing_extensions import dataclass_transform

from ._names import show as _show
from ._tree import allow_loading


T = TypeVar("T")
Spike = Callable[[Tensor], Tensor]


@dataclass_transform(frozen_default=True)
def _value(cls: type[T]) -> type[T]:
    cls = dataclasses.dataclass(frozen=True)(cls)
    allow_loading(cls)
    return cls


def fires(u: Tensor) -> Tensor:
    """1 where u > 0, else 0 (NaN too), in u's dtype. Constant: no gradient passes."""
    return (u > 0).to(u.dtype)


class Surrogate:
    """Subclass it as a frozen dataclass and give `shadow`, a function whose slope stands in for the step's."""

    def __call__(self, u: Tensor) -> Tensor:
        # Only finite u reach the shadow, so that an unbounded one (u itself, say) still cancels exactly.
        h = self.shadow(u.nan_to_num(0.0, 0.0, 0.0))
        return fires(u) + (h - h.detach())

    def shadow(self, u: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no `shadow(u)`, the function whose slope it uses.")


@_value
class ATan(Surrogate):
    """h' = alpha/2 / (1 + (pi/2 alpha u)^2). Fang et al. 2021, arXiv:2007.05785; the default, as in snnTorch 1.0."""

    alpha: float = 2.0

    def shadow(self, u: Tensor) -> Tensor:
        return torch.atan(math.pi / 2 * self.alpha * u) * (1 / math.pi)


@_value
class Heaviside(Surrogate):
    """h' = 1 if u > 0 else 0: gradient only through neurons that fired. snnTorch's default before 0.6."""

    def shadow(self, u: Tensor) -> Tensor:
        return torch.relu(u)


@_value
class FastSigmoid(Surrogate):
    """h' = 1 / (1 + slope |u|)^2. Zenke & Ganguli 2018, arXiv:1705.11146."""

    slope: float = 25.0

    def shadow(self, u: Tensor) -> Tensor:
        return u / (1 + self.slope * u.abs())


@_value
class Sigmoid(Surrogate):
    """h' = slope sigma(slope u) (1 - sigma(slope u)). Zenke & Ganguli 2018, arXiv:1705.11146.

    Finite for every u; snnTorch 1.0.0's formula is NaN below u = -88.7 / slope.
    """

    slope: float = 25.0

    def shadow(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.slope * u)


@_value
class StraightThrough(Surrogate):
    """h' = 1. Bengio et al. 2013, arXiv:1308.3432."""

    def shadow(self, u: Tensor) -> Tensor:
        return u


@_value
class Triangular(Surrogate):
    """h' = max(0, 1 - |u| / threshold). Esser et al. 2016, arXiv:1603.08270; Bellec et al. 2018, arXiv:1803.09574.

    snnTorch 1.0.0 gives +threshold below and -threshold above, which is no triangle and has the wrong sign.
    """

    threshold: float = 1.0

    def shadow(self, u: Tensor) -> Tensor:
        c = u.clamp(-self.threshold, self.threshold)
        return c - c * c.abs() / (2 * self.threshold)


@_value
class SpikeRateEscape(Surrogate):
    """h' = slope exp(-beta |u|). Shrestha & Orchard 2018, arXiv:1810.08646.

    snnTorch 1.0.0 has |u - 1|, which puts the peak one unit above the threshold.
    """

    beta: float = 1.0
    slope: float = 25.0

    def shadow(self, u: Tensor) -> Tensor:
        # where, not clamp: torch versions differ in clamp's slope at the bound, and here the bound is the peak.
        zero = torch.zeros_like(u)
        above = -torch.expm1(-self.beta * torch.where(u > 0, u, zero))
        below = torch.expm1(self.beta * torch.where(u > 0, zero, u))
        return self.slope / self.beta * (above + below)


@_value
class SSO(Surrogate):
    """Stochastic spike operator: h' = 1 if u > 0, else a fresh uniform number from [mean - 1/2, mean + 1/2) variance.

    Drawn from torch's global generator at each call; under `vmap` say `randomness="different"` (or "same").
    """

    mean: float = 0.0
    variance: float = 0.2

    def shadow(self, u: Tensor) -> Tensor:
        noise = (torch.rand_like(u) - 0.5 + self.mean) * self.variance
        return torch.where(u > 0, torch.ones_like(noise), noise) * (u - u.detach())


@_value
class LSO(Surrogate):
    """Leaky spike operator: h' = 1 if u > 0 else slope.

    snnTorch's `LSO` raises in 1.0.0 and ran the stochastic operator before.
    """

    slope: float = 0.1

    def shadow(self, u: Tensor) -> Tensor:
        return torch.nn.functional.leaky_relu(u, self.slope)


@_value
class SFS(Surrogate):
    """Sparse fast sigmoid: h' = 1 / (1 + slope |u|)^2 where |u| < B, else 0. Perez-Nieves & Goodman 2021, arXiv:2105.08810.

    snnTorch 1.0.0 keeps the gradient where u > B instead, away from the threshold.
    """

    slope: float = 25.0
    B: float = 1.0

    def shadow(self, u: Tensor) -> Tensor:
        return FastSigmoid(self.slope).shadow(u.clamp(-self.B, self.B))


@_value
class Custom(Surrogate):
    """h' = the slope of a function of your own: `Custom(torch.erf)`. `function` maps a tensor to one of its shape."""

    function: Callable[[Tensor], Tensor]

    def shadow(self, u: Tensor) -> Tensor:
        return self.function(u)


@_value
class CustomSlope(Surrogate):
    """h' = a formula of your own, in snnTorch's form: `function(input_, grad_input, spikes)`, linear in `grad_input`.

    The formula is a constant to higher derivatives; `Custom` is not.
    """

    function: Callable[[Tensor, Tensor, Tensor], Tensor]

    def shadow(self, u: Tensor) -> Tensor:
        return self.function(u, torch.ones_like(u), fires(u)).detach() * (u - u.detach())


atan = ATan
heaviside = Heaviside
fast_sigmoid = FastSigmoid
sigmoid = Sigmoid
straight_through_estimator = StraightThrough
triangular = Triangular
spike_rate_escape = SpikeRateEscape
custom_surrogate = CustomSlope


_show(globals(), "Spike", hide=["T"])
