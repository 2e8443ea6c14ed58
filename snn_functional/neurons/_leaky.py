"""Leaky integrate-and-fire: one leak, one threshold, one reset.

    R[t]   = H(mem[t-1] - threshold)
    mem[t] = beta mem[t-1] + input[t] - R[t] threshold          "subtract"
             beta (1 - R[t]) mem[t-1] + input[t]                "zero"
             (1 - R[t]) (beta mem[t-1] + input[t])              "clear": this step's input is lost too
             beta mem[t-1] + input[t]                           "none"
    spk[t] = S(mem[t] - threshold)

A spike lowers the membrane one step later, and no gradient passes through R. The input is not scaled by 1 - beta.

Source: `snntorch.Leaky` 1.0.0, bit for bit. "clear" is what snnTorch 0.4 called "zero" (and what the 1.0.0 docstring prints).
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["LeakyParams", "LeakyState", "leaky_init", "leaky_step", "leaky"]


@pytree
class LeakyParams:
    """- `beta`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "subtract", "zero", "clear" or "none".
    """

    beta: Leaf
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="subtract", choices=("subtract", "zero", "none", "clear"))


@pytree
class LeakyState:
    """- `mem`: membrane potential, in units of the input. (batch, ..., neurons)."""

    mem: Tensor


def leaky_init(params: LeakyParams, input: Tensor) -> LeakyState:
    """The membrane at rest (0), shaped like one time step of `input`."""
    return LeakyState(mem=at_rest(params, input))


def leaky_step(params: LeakyParams, state: LeakyState, input: Tensor) -> tuple[Tensor, LeakyState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    mem, beta, threshold = state.mem, unit(params.beta), params.threshold
    reset = fires(mem - threshold)
    if params.reset_mechanism == "subtract":
        mem = beta * mem + input - reset * threshold
    elif params.reset_mechanism == "zero":
        mem = beta * ((1 - reset) * mem) + input
    elif params.reset_mechanism == "clear":
        mem = beta * mem + input
        mem = mem - reset * mem
    else:
        mem = beta * mem + input
    return params.spike_grad(mem - threshold), LeakyState(mem)


leaky = Neuron(LeakyParams, LeakyState, leaky_init, leaky_step)
