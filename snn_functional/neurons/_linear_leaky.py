"""A linear map into leaky neurons without a reset: `state_leaky` with its weights.

    mem[t] = beta mem[t-1] + W input[t] + b
    spk[t] = S(mem[t] - threshold)

Source: the recurrence that `snntorch.LinearLeaky` 1.0.0 convolves; its beta is another one, `snn.StateLeaky` says which.
"""

from torch import Tensor

from .._connections import check_connection, Linear
from .._neuron import admit, at_rest, Neuron, unit, wired
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = ["LinearLeakyParams", "LinearLeakyState", "linear_leaky_init", "linear_leaky_step", "linear_leaky"]


@pytree
class LinearLeakyParams:
    """- `input`: `Linear(weight, bias)` from the input to the currents, weight (neurons, features).
    - `beta`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `threshold`: the neuron fires above it; in units of the current. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    """

    input: Linear
    beta: Leaf
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())

    def __check__(self) -> None:
        check_connection(self, "input", Linear)


@pytree
class LinearLeakyState:
    """- `mem`: membrane potential, in units of the current. (batch, ..., neurons)."""

    mem: Tensor


def linear_leaky_init(params: LinearLeakyParams, input: Tensor) -> LinearLeakyState:
    """The membrane at rest (0): (batch, ..., neurons) for an input (batch, ..., features)."""
    return LinearLeakyState(mem=at_rest(params, _current(params, input)))


def linear_leaky_step(
    params: LinearLeakyParams, state: LinearLeakyState, input: Tensor
) -> tuple[Tensor, LinearLeakyState]:
    """One time step: `input` (batch, ..., features), spikes (batch, ..., neurons)."""
    current = admit(params, state, _current(params, input))
    mem = unit(params.beta) * state.mem + current
    return params.spike_grad(mem - params.threshold), LinearLeakyState(mem)


def _current(params: LinearLeakyParams, input: Tensor) -> Tensor:
    return params.input(wired(params, None, input, axes=1, by="input"))


linear_leaky = Neuron(LinearLeakyParams, LinearLeakyState, linear_leaky_init, linear_leaky_step)
