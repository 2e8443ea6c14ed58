"""A threshold that is soft: a neuron fires with a probability, the higher the nearer it is."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .._names import Shown
from .._neuron import above_zero, beside, precise, SPIKES
from .._tree import Leaf, leaf, pytree, static
from ._membrane import charged, inhibit, level, Lowers, outside, paid
from ._modifier import emitted, Step


@pytree
class EscapeNoiseParams:
    """- `inner`: the neuron's own params.
    - `width`: how soft the threshold is, in units of the membrane; above 0. () or what broadcasts to the spikes.
    - `rate`: at the threshold, spikes a step, of "exponential"; above 0. Likewise.
    - `escape`: "exponential" or "sigmoid".
    """

    inner: Any
    width: Leaf
    rate: Leaf = leaf(default=1.0)
    escape: str = static(default="exponential", choices=("exponential", "sigmoid"))

    def __check__(self) -> None:
        above_zero(self, "width", "rate")

    def probability(self, above: Tensor) -> Tensor:
        """Of a spike in one step, `above` being mem - threshold."""
        if self.escape == "sigmoid":
            return torch.sigmoid(above / self.width)
        # Beyond 30 widths it is 1 for any rate that is one; the exponential stays finite there.
        return -torch.expm1(-self.rate * torch.exp((above / self.width).clamp(max=30.0)))


@dataclasses.dataclass(frozen=True, repr=False)
class escape_noise(Lowers, metaclass=Shown):
    """The neuron fires by chance. The uniform numbers that decide are an input: the step stays pure, and the same numbers give the same
    spikes.

        U   = the membrane after the step without reset
        rho = rate exp((U - threshold) / width)                                     "exponential": spikes a step
        p   = 1 - exp(-rho)                                                         a spike in one step
              1 / (1 + exp(-(U - threshold) / width))                               "sigmoid"
        spk = 1 if uniform < p else 0                                               of an input (x, uniform)
        mem = U less the reset, as in `immediate_reset`

        neuron = escape_noise(leaky)
        params = EscapeNoiseParams(LeakyParams(0.9), width=0.2)
        inputs = xs, torch.rand(xs.shape, generator=generator)                      both [T, batch, ..., neurons]
        spks, state = scan(neuron.step, params, neuron.init(params, (xs[0], inputs[1][0])), inputs)

    The slope of a spike is that of its probability, dp/dU: no number is chosen for it, and for one spike it is the slope of the mean.
    It flows through the reset. Within a network the layer before draws: `chain(linear, lambda x: (x, torch.rand_like(x)),
    escape_noise(leaky))`. What a neuron would fire in a step is drawn from nothing else, so its own `spike_grad` is not used.

    Needs a state with `mem` and params with `threshold`, `spike_grad` and `reset_mechanism`. Raises TypeError where the input is no
    pair of tensors, ValueError where the two differ in shape. Source: the escape noise of Gerstner et al. 2014, Neuronal Dynamics,
    chapter 9.1 and eq. 9.8; the gradient of Ma, Yan and Tang 2023, doi:10.1016/j.patter.2023.100831 (noise-driven learning).
    """

    step: Step
    Params = EscapeNoiseParams

    def __post_init__(self) -> None:
        super().__post_init__()
        outside(self, inhibit)

    def rest(self, init: Any, params: Any, input: Any) -> Any:
        self.opened(params)
        return init(params.inner, self._pair(params, input)[0])

    def __call__(self, params: Any, state: Any, input: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
        self.opened(params)
        x, uniform = self._pair(params, input)
        state = charged(self, params.inner, state, x)
        p = params.probability(state.mem - level(params.inner, state))
        spk = (uniform < p).to(p.dtype) + (p - p.detach())
        return spk, emitted(spk, paid(params.inner, state, spk))

    def _pair(self, params: Any, input: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(input, tuple) or len(input) != 2 or not all(isinstance(x, Tensor) for x in input):
            raise TypeError(
                f"escape_noise: the input is a pair of tensors (x, uniform), not {type(input).__name__}: torch.rand_like(x) is one."
            )
        x, uniform = (precise(params, part) for part in input)
        beside(params, None, uniform)
        if uniform.dtype in SPIKES:
            raise TypeError(
                f"escape_noise: the uniform numbers are {uniform.dtype}. Expected a floating dtype: torch.rand."
            )
        if x.shape != uniform.shape:
            raise ValueError(
                f"escape_noise: x has shape {tuple(x.shape)}, the uniform numbers {tuple(uniform.shape)}. Expected one shape."
            )
        return x, uniform
