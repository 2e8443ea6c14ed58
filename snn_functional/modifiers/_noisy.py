"""Noise on the input of any neuron, in the open."""

import dataclasses
from typing import Any

from torch import Tensor

from .._names import Shown
from .._neuron import beside, precise, SPIKES
from .._tree import Leaf, pytree
from ._modifier import Modifier, Step


@pytree
class NoisyParams:
    """- `inner`: the neuron's own params. - `std`: the size of the noise, in units of the input. () or what broadcasts to it."""

    inner: Any
    std: Leaf


@dataclasses.dataclass(frozen=True, repr=False)
class noisy(Modifier, metaclass=Shown):
    """The input of the neuron plus noise, which is an input too: the step stays pure, and the same noise gives the same spikes.

        the neuron gets x + std noise, of an input (x, noise)

        neuron = noisy(leaky)
        params = NoisyParams(LeakyParams(0.9), std=0.2)
        inputs = xs, torch.randn(xs.shape, generator=generator)            both [T, batch, ..., neurons]
        spks, state = scan(neuron.step, params, neuron.init(params, (xs[0], inputs[1][0])), inputs)

    Within a network the layer before draws: `chain(linear, lambda x: (x, torch.randn_like(x)), noisy(leaky))`.

    The state is the neuron's own. Raises TypeError where the input is no pair of tensors of one floating dtype (x may be spikes as bool or
    uint8), ValueError where their shapes differ.
    """

    step: Step
    Params = NoisyParams

    def rest(self, init: Any, params: Any, input: Any) -> Any:
        return init(params.inner, self._sum(params, input))

    def __call__(self, params: Any, state: Any, input: tuple[Tensor, Tensor]) -> tuple[Any, Any]:
        return self.step(params.inner, state, self._sum(params, input))

    def _sum(self, params: Any, input: Any) -> Tensor:
        self.opened(params)
        if not isinstance(input, tuple) or len(input) != 2 or not all(isinstance(x, Tensor) for x in input):
            raise TypeError(f"noisy: the input is a pair of tensors (x, noise), not {type(input).__name__}.")
        x, noise = (precise(params, part) for part in input)
        beside(params, None, noise)
        if x.dtype in SPIKES:
            x = x.to(noise.dtype)
        if x.dtype != noise.dtype or noise.dtype in SPIKES:
            raise TypeError(f"noisy: x is {x.dtype}, its noise {noise.dtype}. Expected one floating dtype.")
        if x.shape != noise.shape:
            raise ValueError(
                f"noisy: x has shape {tuple(x.shape)}, its noise {tuple(noise.shape)}. Expected one shape: noise.expand_as(x)."
            )
        return x + params.std * noise
