"""Leaky whose threshold rises with its own spikes and decays back: the adaptive neuron (ALIF) of the LSNN.

    A[t]     = threshold + jump adapt[t]
    R[t]     = H(mem[t-1] - A[t-1])
    adapt[t] = rho adapt[t-1] + spk[t-1]
    mem[t]   = beta mem[t-1] + input[t] - R[t] threshold        "subtract"
               beta (1 - R[t]) mem[t-1] + input[t]              "zero"
               beta mem[t-1] + input[t]                         "none"
    spk[t]   = S(mem[t] - A[t])

A spike lowers the membrane and raises the threshold one step later. No gradient passes through R; through the spike in
adapt the surrogate's does, on which the LSNN's learning over long delays rests. The reset takes off the threshold alone, without what
was added to it.

Source: the ALIF neuron of Bellec et al. 2018, arXiv:1803.09574, in the form of Bellec et al. 2020,
doi:10.1038/s41467-020-17236-y (e-prop), where beta is called alpha, and jump beta. `adaptive_threshold` does the like for any neuron.
"""

from typing import Any

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["AdaptiveLeakyParams", "AdaptiveLeakyState", "adaptive_leaky_init", "adaptive_leaky_step", "adaptive_leaky"]


@pytree
class AdaptiveLeakyParams:
    """- `beta`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `rho`: share of the adaptation kept each step, exp(-1/tau) for tau steps, read as clamped to [0, 1]. () or (neurons,).
    - `jump`: what a spike adds to the threshold. () or (neurons,).
    - `threshold`: the neuron fires above it when it is not adapted; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold - jump adapt`.
    - `reset_mechanism`: "subtract", "zero" or "none".
    """

    beta: Leaf
    rho: Leaf = leaf(default=0.99)
    jump: Leaf = leaf(default=0.2)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="subtract", choices=("subtract", "zero", "none"))

    def level(self, state: Any) -> Tensor:
        """A[t], above which the membrane fires; modifiers that look at the spikes again ask for it."""
        return self.threshold + self.jump * state.adapt


@pytree
class AdaptiveLeakyState:
    """- `spk`: the last spikes. (batch, ..., neurons).
    - `adapt`: the spikes before them, each forgotten by rho a step. (batch, ..., neurons).
    - `mem`: membrane potential, in units of the input. (batch, ..., neurons).
    """

    spk: Tensor
    adapt: Tensor
    mem: Tensor


def adaptive_leaky_init(params: AdaptiveLeakyParams, input: Tensor) -> AdaptiveLeakyState:
    """No spikes, not adapted, and the membrane at rest (0), shaped like one time step of `input`."""
    return AdaptiveLeakyState(spk=at_rest(params, input), adapt=at_rest(params, input), mem=at_rest(params, input))


def adaptive_leaky_step(
    params: AdaptiveLeakyParams, state: AdaptiveLeakyState, input: Tensor
) -> tuple[Tensor, AdaptiveLeakyState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    mem, beta, threshold = state.mem, unit(params.beta), params.threshold
    reset = fires(mem - (threshold + params.jump * state.adapt))
    adapt = unit(params.rho) * state.adapt + state.spk.expand(input.shape)
    if params.reset_mechanism == "subtract":
        mem = beta * mem + input - reset * threshold
    elif params.reset_mechanism == "zero":
        mem = beta * ((1 - reset) * mem) + input
    else:
        mem = beta * mem + input
    spk = params.spike_grad(mem - (threshold + params.jump * adapt))
    return spk, AdaptiveLeakyState(spk, adapt, mem)


adaptive_leaky = Neuron(AdaptiveLeakyParams, AdaptiveLeakyState, adaptive_leaky_init, adaptive_leaky_step)
