"""A leaky membrane that fires when it moves: its spikes are changes, up or down. No reset.

    mem[t] = beta mem[t-1] + input[t]
    spk[t] = S(|mem[t] - mem[t-1]| - delta_threshold)

Source: `snntorch.DeltaLeaky` 1.0.0, bit for bit where beta lies in [0, 1].
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = ["DeltaLeakyParams", "DeltaLeakyState", "delta_leaky_init", "delta_leaky_step", "delta_leaky"]


@pytree
class DeltaLeakyParams:
    """- `beta`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `delta_threshold`: the neuron fires when its membrane changes by more; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `|change| - delta_threshold`.
    """

    beta: Leaf
    delta_threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())


@pytree
class DeltaLeakyState:
    """- `mem`: membrane potential, in units of the input. (batch, ..., neurons)."""

    mem: Tensor


def delta_leaky_init(params: DeltaLeakyParams, input: Tensor) -> DeltaLeakyState:
    """The membrane at rest (0), shaped like one time step of `input`."""
    return DeltaLeakyState(mem=at_rest(params, input))


def delta_leaky_step(params: DeltaLeakyParams, state: DeltaLeakyState, input: Tensor) -> tuple[Tensor, DeltaLeakyState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    mem = unit(params.beta) * state.mem + input
    change = (mem - state.mem).abs()
    return params.spike_grad(change - params.delta_threshold), DeltaLeakyState(mem)


delta_leaky = Neuron(DeltaLeakyParams, DeltaLeakyState, delta_leaky_init, delta_leaky_step)
