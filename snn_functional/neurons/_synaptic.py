"""Synaptic: a leaky integrator of current feeds a leaky integrate-and-fire membrane.

    R[t]   = H(mem[t-1] - threshold)
    syn[t] = alpha syn[t-1] + input[t]
    mem[t] = beta mem[t-1] + syn[t] - R[t] threshold            "subtract"
             (1 - R[t]) (beta mem[t-1] + syn[t])                "zero": the current that arrives is lost to the membrane
             beta mem[t-1] + syn[t]                             "none"
    spk[t] = S(mem[t] - threshold)

The synaptic current is never reset. No gradient passes through R.

Source: `snntorch.Synaptic` 1.0.0, bit for bit.
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["SynapticParams", "SynapticState", "synaptic_init", "synaptic_step", "synaptic"]


@pytree
class SynapticParams:
    """- `alpha`: share of the synaptic current kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `beta`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "subtract", "zero" or "none".
    """

    alpha: Leaf
    beta: Leaf
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="subtract", choices=("subtract", "zero", "none"))


@pytree
class SynapticState:
    """- `syn`: synaptic current, in units of the input. (batch, ..., neurons).
    - `mem`: membrane potential, in units of the input. (batch, ..., neurons).
    """

    syn: Tensor
    mem: Tensor


def synaptic_init(params: SynapticParams, input: Tensor) -> SynapticState:
    """Current and membrane at rest (0), shaped like one time step of `input`."""
    return SynapticState(syn=at_rest(params, input), mem=at_rest(params, input))


def synaptic_step(params: SynapticParams, state: SynapticState, input: Tensor) -> tuple[Tensor, SynapticState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    threshold = params.threshold
    reset = fires(state.mem - threshold)
    syn = unit(params.alpha) * state.syn + input
    mem = unit(params.beta) * state.mem + syn
    if params.reset_mechanism == "subtract":
        mem = mem - reset * threshold
    elif params.reset_mechanism == "zero":
        mem = mem - reset * mem
    return params.spike_grad(mem - threshold), SynapticState(syn, mem)


synaptic = Neuron(SynapticParams, SynapticState, synaptic_init, synaptic_step)
