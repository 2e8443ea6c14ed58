"""A rectified recurrent network whose units fire: a leaky membrane that cannot fall below 0, and has no reset.

    mem[t] = max(0, beta(mem[t-1]) + W input[t] + b)
    spk[t] = S(mem[t] - threshold)

beta is a number or tensor, each neuron's own decay, or a connection `Linear(weight)` between all membranes.

Source: `snntorch.LeakyParallel` 1.0.0, whose cell is `torch.nn.RNN(nonlinearity="relu")`.
"""

from typing import Any

import torch
from torch import Tensor

from .._connections import check_connection, connect, Linear
from .._neuron import admit, at_rest, Neuron, wired
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = ["LeakyParallelParams", "LeakyParallelState", "leaky_parallel_init", "leaky_parallel_step", "leaky_parallel"]


@pytree
class LeakyParallelParams:
    """- `input`: `Linear(weight, bias)` from the input to the currents, weight (neurons, features).
    - `beta`: what a membrane keeps each step: () or (neurons,), of any sign, or a connection such as `Linear(weight)`.
    - `threshold`: the neuron fires above it; in units of the current. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    """

    input: Linear
    beta: Any
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())

    def __check__(self) -> None:
        check_connection(self, "input", Linear)
        check_connection(self, "beta")


@pytree
class LeakyParallelState:
    """- `mem`: membrane potential, 0 or more, in units of the current. (batch, ..., neurons)."""

    mem: Tensor


def leaky_parallel_init(params: LeakyParallelParams, input: Tensor) -> LeakyParallelState:
    """The membrane at rest (0): (batch, ..., neurons) for an input (batch, ..., features)."""
    return LeakyParallelState(mem=at_rest(params, _current(params, input)))


def leaky_parallel_step(
    params: LeakyParallelParams, state: LeakyParallelState, input: Tensor
) -> tuple[Tensor, LeakyParallelState]:
    """One time step: `input` (batch, ..., features), spikes (batch, ..., neurons)."""
    current = admit(params, state, _current(params, input))
    mem = torch.relu(connect(params.beta, state.mem.expand(current.shape)) + current)
    return params.spike_grad(mem - params.threshold), LeakyParallelState(mem)


def _current(params: LeakyParallelParams, input: Tensor) -> Tensor:
    return params.input(wired(params, None, input, axes=1, by="input"))


leaky_parallel = Neuron(LeakyParallelParams, LeakyParallelState, leaky_parallel_init, leaky_parallel_step)
