"""Synaptic with a memory of its own spikes: each step, the last spikes come back into the synapse.

    R[t]   = H(mem[t-1] - threshold)
    syn[t] = alpha syn[t-1] + input[t] + V(spk[t-1])
    mem[t] = beta mem[t-1] + syn[t] - R[t] threshold          "subtract"
             (1 - R[t]) (beta mem[t-1] + syn[t])              "zero": syn is kept
             beta mem[t-1] + syn[t]                           "none"
    spk[t] = S(mem[t] - threshold)

V is a number or tensor (each neuron to itself), or a connection: `Linear(weight, bias)` (all to all), `Conv2d(weight, bias)`. Of
a step with a tensor or `Linear`, `scan` makes one kernel; with `Conv2d`, kernels with the convolution between them.

Source: `snntorch.RSynaptic` 1.0.0, bit for bit.
"""

from typing import Any

from torch import Tensor

from .._connections import check_connection, connect
from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["RSynapticParams", "RSynapticState", "rsynaptic_init", "rsynaptic_step", "rsynaptic"]


@pytree
class RSynapticParams:
    """- `alpha`: share of the synaptic current kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `beta`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `V`: what a spike feeds back in the next step: () or (neurons,), or a connection such as `Linear(weight, bias)`.
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "subtract", "zero" or "none".
    """

    alpha: Leaf
    beta: Leaf
    V: Any = leaf(default=1.0)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="subtract", choices=("subtract", "zero", "none"))

    def __check__(self) -> None:
        check_connection(self, "V")


@pytree
class RSynapticState:
    """- `spk`: the last spikes. (batch, ..., neurons).
    - `syn`: synaptic current, in units of the input. (batch, ..., neurons).
    - `mem`: membrane potential, in units of the input. (batch, ..., neurons).
    """

    spk: Tensor
    syn: Tensor
    mem: Tensor


def rsynaptic_init(params: RSynapticParams, input: Tensor) -> RSynapticState:
    """No spikes, current and membrane at rest (0), shaped like one time step of `input`."""
    return RSynapticState(spk=at_rest(params, input), syn=at_rest(params, input), mem=at_rest(params, input))


def rsynaptic_step(params: RSynapticParams, state: RSynapticState, input: Tensor) -> tuple[Tensor, RSynapticState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    threshold = params.threshold
    reset = fires(state.mem - threshold)
    syn = unit(params.alpha) * state.syn + input + connect(params.V, state.spk.expand(input.shape))
    mem = unit(params.beta) * state.mem + syn
    if params.reset_mechanism == "subtract":
        mem = mem - reset * threshold
    elif params.reset_mechanism == "zero":
        mem = mem - reset * mem
    spk = params.spike_grad(mem - threshold)
    return spk, RSynapticState(spk, syn, mem)


rsynaptic = Neuron(RSynapticParams, RSynapticState, rsynaptic_init, rsynaptic_step)
