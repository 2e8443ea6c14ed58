"""Feedback for any neuron: its last spikes come back as a current."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .._connections import check_connection, connect
from .._neuron import at_least, beside
from .._tree import pytree
from ._modifier import Modifier, Step


@pytree
class RecurrentParams:
    """- `inner`: the neuron's own params.
    - `V`: what a spike feeds back in the next step: () or (neurons,), or a connection such as `Linear(weight, bias)`.
    """

    inner: Any
    V: Any

    def __check__(self) -> None:
        check_connection(self, "V")


@pytree
class RecurrentState:
    """- `inner`: the neuron's own state. - `spk`: the last spikes. (batch, ..., neurons)."""

    inner: Any
    spk: Tensor


@dataclasses.dataclass(frozen=True, repr=False)
class recurrent(Modifier):
    """The neuron's last spikes are part of its input.

        the neuron gets input[t] + V(spk[t-1])

        neuron = recurrent(leaky)
        params = RecurrentParams(LeakyParams(0.9), Linear(weight))                     weight (neurons, neurons)
        spks, state = scan(neuron.step, params, neuron.init(params, xs[0]), xs)

    With a tensor V the step is pointwise if the neuron is. Takes any step whose output is one tensor, a chain too: then V leads from its
    output to its input. `rleaky` and `rsynaptic` are snnTorch's own: of these, only the rounding and the "zero" reset differ.
    Raises ValueError where V does not lead to the input's shape.
    """

    step: Step
    Params = RecurrentParams
    State = RecurrentState

    def rest(self, init: Any, params: Any, input: Any) -> Any:
        self.opened(params)
        inner = init(params.inner, input)
        spk = torch.zeros_like(self.spikes(self.step(params.inner, inner, input)[0]))
        self._sum(params, spk, input)
        return RecurrentState(inner, spk)

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        self.opened(params, state)
        output, inner = self.step(params.inner, state.inner, self._sum(params, state.spk, input, state))
        spk = self.spikes(output)
        beside(None, state, spk)
        return spk, RecurrentState(inner, spk)

    def _sum(self, params: Any, spk: Tensor, input: Any, state: Any = None) -> Tensor:
        if isinstance(input, tuple):
            raise TypeError(
                "recurrent: the input is one tensor, but a tuple came. `noisy` goes outside: noisy(recurrent(neuron))."
            )
        if isinstance(input, Tensor):
            input = at_least(spk.dtype, input)
        beside(params, state if isinstance(params.V, Tensor) else None, input)
        current = connect(params.V, spk)
        shape = current.shape
        if len(shape) > input.dim() or any(n not in (1, m) for n, m in zip(shape[::-1], input.shape[::-1])):
            raise ValueError(
                f"recurrent: V leads from spikes {tuple(spk.shape)} to {tuple(shape)}, the input is {tuple(input.shape)}. "
                "Expected the input's shape."
            )
        return input + current
