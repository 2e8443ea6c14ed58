"""Leaky integrator: a membrane that never fires, for reading a network out.

    mem[t] = beta mem[t-1] + input[t]

The output *is* the membrane. It is `leaky` with `reset_mechanism="none"`, read at the membrane instead of at the spikes.

Source: the non-spiking readout of Bellec et al. 2018, arXiv:1803.09574, without their factor 1 - beta, as `snntorch.Leaky`.
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, pytree


__all__ = [
    "LeakyIntegratorParams",
    "LeakyIntegratorState",
    "leaky_integrator_init",
    "leaky_integrator_step",
    "leaky_integrator",
]


@pytree
class LeakyIntegratorParams:
    """- `beta`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,)."""

    beta: Leaf


@pytree
class LeakyIntegratorState:
    """- `mem`: membrane potential, in units of the input. (batch, ..., neurons)."""

    mem: Tensor


def leaky_integrator_init(params: LeakyIntegratorParams, input: Tensor) -> LeakyIntegratorState:
    """The membrane at rest (0), shaped like one time step of `input`."""
    return LeakyIntegratorState(mem=at_rest(params, input))


def leaky_integrator_step(
    params: LeakyIntegratorParams, state: LeakyIntegratorState, input: Tensor
) -> tuple[Tensor, LeakyIntegratorState]:
    """One time step: (mem, state). `input` has the shape of `state.mem`."""
    input = admit(params, state, input)
    mem = unit(params.beta) * state.mem + input
    return mem, LeakyIntegratorState(mem)


leaky_integrator = Neuron(LeakyIntegratorParams, LeakyIntegratorState, leaky_integrator_init, leaky_integrator_step)
