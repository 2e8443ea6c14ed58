"""State quantisation: neurons whose state has few bits, trained through as if it had all of them.

    q(x)     = the level nearest to x, the lower of two that are as near
    dq/dx   := 1                                         straight through (Bengio et al. 2013, arXiv:1308.3432)

    step = snf.quantize(snf.leaky_step, StateQuant(num_bits=4))        # or snn.Leaky(beta, state_quant=StateQuant(num_bits=4))

Names, defaults and levels are those of `snntorch.functional.quant` 1.0.0. The numbers stay floating: what is modelled is the
precision of a device, nothing gets faster here.
"""

import dataclasses
import itertools
import math

import torch
from torch import Tensor

from ._names import show as _show
from ._tree import allow_loading


@dataclasses.dataclass(frozen=True)
class StateQuant:
    """A quantiser of 2^num_bits levels, as a value: called on a tensor, it gives one of its shape and dtype.

        low, high = -(1 + lower_limit) threshold, (1 + upper_limit) threshold
        center    = threshold, or 0 without `thr_centered`

        uniform       equal steps from low to high
        otherwise     from low to the center the steps shrink by `multiplier`, from there to high they grow by it; each side has a
                      share of the levels in proportion to its length, and the center itself is no level

    - `levels`: all of them, ascending; no argument.
    - `multiplier`: None takes 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.925 for 1 to 7 bits, and 0.95 above.

    NaN stays NaN, and where x is not finite the gradient is 0. Uniform levels are pointwise arithmetic, which `scan` fuses; the
    others are looked up in a table, and the scan is a loop.

    Raises TypeError for what is no number, ValueError for num_bits outside 1 to 16, a threshold that is not above 0, limits that
    leave no room, and a `multiplier` that is not above 0 or would not be used.

    >>> StateQuant(num_bits=2, upper_limit=0.0)(torch.tensor([-2.0, -0.5, 0.0, 0.4, 0.7]))
    tensor([-1.0000, -0.3333, -0.3333,  0.3333,  1.0000])
    """

    num_bits: int = 8
    uniform: bool = True
    thr_centered: bool = True
    threshold: float = 1
    lower_limit: float = 0
    upper_limit: float = 0.2
    multiplier: float | None = None
    levels: tuple[float, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("threshold", "lower_limit", "upper_limit", "multiplier"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) and not (name == "multiplier" and value is None):
                raise TypeError(f"StateQuant({name}={value!r}): expected a number; of a tensor, {name}.item().")
        if isinstance(self.num_bits, bool) or not isinstance(self.num_bits, int) or not 1 <= self.num_bits <= 16:
            raise ValueError(f"StateQuant(num_bits={self.num_bits!r}): expected an integer from 1 to 16.")
        if not (0 < self.threshold < math.inf and -math.inf < self.low < self.high < math.inf):
            raise ValueError(
                f"StateQuant(threshold={self.threshold}, lower_limit={self.lower_limit}, upper_limit={self.upper_limit}): levels "
                f"from {self.low:.4g} to {self.high:.4g}; expected a threshold above 0 and limits that leave room, as in "
                "lower_limit=0, upper_limit=0.2."
            )
        if not self.uniform and not self.low < (self.threshold if self.thr_centered else 0) <= self.high:
            raise ValueError(
                f"StateQuant(uniform=False, lower_limit={self.lower_limit}, upper_limit={self.upper_limit}): the center of the "
                f"levels is not between {self.low:.4g} and {self.high:.4g}; expected limits of at least 0."
            )
        if self.multiplier is not None and (self.uniform or not 0 < self.multiplier < math.inf):
            raise ValueError(
                f"StateQuant(multiplier={self.multiplier}, uniform={self.uniform}): equal steps have no multiplier, and others one "
                "above 0, as in uniform=False, multiplier=0.9."
            )
        object.__setattr__(self, "levels", _levels(self))

    @property
    def low(self) -> float:
        return -self.threshold - self.threshold * self.lower_limit

    @property
    def high(self) -> float:
        return self.threshold + self.threshold * self.upper_limit

    def __call__(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            came = f"{x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"StateQuant()(x): x is a floating tensor, not {came}.")
        # Half precision cannot tell 2^num_bits levels apart while it looks for the nearest.
        exact = x.detach().to(torch.promote_types(x.dtype, torch.float32)).clamp(self.low, self.high)
        below, above = self._around(exact)
        nearest = torch.where((above - exact).abs() < (below - exact).abs(), above, below)
        h = x.nan_to_num(0.0, 0.0, 0.0)
        return nearest.to(x.dtype) + (h - h.detach())

    def _around(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The levels on both sides of x, which lies between the first and the last."""
        last = 2**self.num_bits - 1
        if self.uniform:
            width = (self.high - self.low) / last
            k = ((x - self.low) / width).floor().clamp(0, last - 1)
            return self._level(k), self._level(k + 1)
        levels = torch.tensor(self.levels, dtype=x.dtype, device=x.device)
        k = torch.searchsorted(levels, x).clamp(1, last)
        # Gathered, because under vmap a number cannot be an index.
        below, above = (levels.gather(0, at.reshape(-1)).reshape(at.shape) for at in (k - 1, k))
        return torch.where(x.isnan(), x, below), above

    def _level(self, k: Tensor) -> Tensor:
        # Counted from the nearer end, so that both ends are exact.
        last = 2**self.num_bits - 1
        width = (self.high - self.low) / last
        return torch.where(k <= last // 2, self.low + k * width, self.high - (last - k) * width)


allow_loading(StateQuant)
state_quant = StateQuant

MULTIPLIERS = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.925)


def _levels(q: StateQuant) -> tuple[float, ...]:
    count = 2**q.num_bits
    if q.uniform:
        return tuple(q._level(torch.arange(count, dtype=torch.float64, device="cpu")).tolist())
    center = q.threshold if q.thr_centered else 0
    ratio = q.multiplier or (MULTIPLIERS[q.num_bits - 1] if q.num_bits <= len(MULTIPLIERS) else 0.95)
    below = math.floor(count * ((center - q.low) / (q.high - q.low)))
    lower = _geometric(q.low, center - q.low, [ratio**j for j in range(below)])
    upper = _geometric(center, q.high - center, [ratio**j for j in reversed(range(count - below))])
    return (*lower[:-1], *upper[1:])


def _geometric(start: float, length: float, steps: list[float]) -> list[float]:
    """`start`, and where one stands after each of the steps, scaled to cover `length`."""
    scale = sum(sorted(steps)) / length if steps else 1.0
    return list(itertools.accumulate((step / scale for step in steps), initial=start))


_show(globals(), hide=["MULTIPLIERS"])
