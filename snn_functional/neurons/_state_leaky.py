"""Leaky without a reset: a membrane that only leaks, and spikes that leave it as it is.

    mem[t] = beta mem[t-1] + input[t]
    spk[t] = S(mem[t] - threshold)

No step asks whether the last one fired, so the membrane is linear in the input: `linear_scan(beta, inputs)` gives it for all of time,
in parallel. It is `leaky` with `reset_mechanism="none"`.

Source: the recurrence that `snntorch.StateLeaky` 1.0.0 convolves; its beta is another one, `snn.StateLeaky` says which.
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = ["StateLeakyParams", "StateLeakyState", "state_leaky_init", "state_leaky_step", "state_leaky"]


@pytree
class StateLeakyParams:
    """- `beta`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    """

    beta: Leaf
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())


@pytree
class StateLeakyState:
    """- `mem`: membrane potential, in units of the input. (batch, ..., neurons)."""

    mem: Tensor


def state_leaky_init(params: StateLeakyParams, input: Tensor) -> StateLeakyState:
    """The membrane at rest (0), shaped like one time step of `input`."""
    return StateLeakyState(mem=at_rest(params, input))


def state_leaky_step(params: StateLeakyParams, state: StateLeakyState, input: Tensor) -> tuple[Tensor, StateLeakyState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    mem = unit(params.beta) * state.mem + input
    return params.spike_grad(mem - params.threshold), StateLeakyState(mem)


state_leaky = Neuron(StateLeakyParams, StateLeakyState, state_leaky_init, state_leaky_step)
