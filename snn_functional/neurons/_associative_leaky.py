"""A memory of associations that leaks: a matrix of membranes, written to by outer products. No reset.

    a[t]   = sigmoid(decay(input[t]))                       what each column keeps, (n,)
    mem[t] = mem[t-1] diag(a[t]) + value(input[t]) key(input[t])^T              (d, n)
    spk[t] = S(mem[t] - threshold)

Source: `snntorch.AssociativeLeaky` 1.0.0, which sums over time divided by the product of all decays, and so saturates (wrong by 0.04
after 20 steps, by 0.7 after 50); here the recurrence is run, exact at any length. Linear attention with a gate: Yang et al. 2023,
arXiv:2312.06635.
"""

import torch
from torch import Tensor

from .._connections import check_connection, Linear
from .._neuron import admit, at_rest, Neuron, wired
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = [
    "AssociativeLeakyParams",
    "AssociativeLeakyState",
    "associative_leaky_init",
    "associative_leaky_step",
    "associative_leaky",
]


@pytree
class AssociativeLeakyParams:
    """- `value`: `Linear(weight, bias)` from the input to the rows, weight (d, features).
    - `key`: `Linear(weight, bias)` from the input to the columns, weight (n, features).
    - `decay`: `Linear(weight, bias)` from the input to what the columns keep, weight (n, features).
    - `threshold`: the neuron fires above it. () or (d, n).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    """

    value: Linear
    key: Linear
    decay: Linear
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())

    def __check__(self) -> None:
        for name in ("value", "key", "decay"):
            check_connection(self, name, Linear)


@pytree
class AssociativeLeakyState:
    """- `mem`: the matrix of membranes. (batch, ..., d, n)."""

    mem: Tensor


def associative_leaky_init(params: AssociativeLeakyParams, input: Tensor) -> AssociativeLeakyState:
    """The membranes at rest (0): (batch, ..., d, n) for an input (batch, ..., features)."""
    value, key, _ = project(params, input)
    return AssociativeLeakyState(mem=at_rest(params, value * key))


def associative_leaky_step(
    params: AssociativeLeakyParams, state: AssociativeLeakyState, input: Tensor
) -> tuple[Tensor, AssociativeLeakyState]:
    """One time step: `input` (batch, ..., features), spikes (batch, ..., d, n)."""
    value, key, decay = project(params, input)
    mem = state.mem * decay + admit(params, state, value * key)
    return params.spike_grad(mem - params.threshold), AssociativeLeakyState(mem)


def project(params: AssociativeLeakyParams, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is written, where, and what is kept: [..., d, 1], [..., 1, n], [..., 1, n]; for one step or for all of time."""
    input = wired(params, None, input, axes=1, by="value")
    value, key, decay = (layer(input).to(input.dtype) for layer in (params.value, params.key, params.decay))
    return value[..., :, None], key[..., None, :], torch.sigmoid(decay)[..., None, :]


associative_leaky = Neuron(
    AssociativeLeakyParams, AssociativeLeakyState, associative_leaky_init, associative_leaky_step
)
