"""KLIF: a leaky neuron whose membrane is scaled by a number that is learned, and rectified, before it may fire.

    mem    = mem[t-1] - spk[t-1] threshold     "subtract"
             (1 - spk[t-1]) mem[t-1]           "zero"
             mem[t-1]                          "none"
    mem[t] = relu(k (beta mem + input[t]))
    spk[t] = S(mem[t] - threshold)

The slope of the surrogate and the height of the membrane are learned by k. A spike lowers the membrane at the beginning of the next step;
the surrogate's gradient passes through it, as in the paper. The paper's tau is 1 / (1 - beta), and its input is divided by tau: give it
divided, or leave that to the weights.

Source: Jiang & Zhang 2023, arXiv:2302.09238; values and gradients of `klif_step` of SpikingJelly 2.0 with `scale_reset=False`, which
fires at the threshold too (here above it).
"""

import torch
from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = ["KlifParams", "KlifState", "klif_init", "klif_step", "klif"]


@pytree
class KlifParams:
    """Each number () or (neurons,).

    - `beta`: share of the membrane kept each step, read as clamped to [0, 1].
    - `k`: the factor of the membrane; training begins at 1.
    - `threshold`: the neuron fires above it; in units of the input.
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "subtract", "zero" or "none".
    """

    beta: Leaf
    k: Leaf = leaf(default=1.0)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="subtract", choices=("subtract", "zero", "none"))


@pytree
class KlifState:
    """- `spk`: the last spikes. (batch, ..., neurons).
    - `mem`: scaled and rectified membrane potential, in units of the input. (batch, ..., neurons).
    """

    spk: Tensor
    mem: Tensor


def klif_init(params: KlifParams, input: Tensor) -> KlifState:
    """No spikes and the membrane at rest (0), shaped like one time step of `input`."""
    return KlifState(spk=at_rest(params, input), mem=at_rest(params, input))


def klif_step(params: KlifParams, state: KlifState, input: Tensor) -> tuple[Tensor, KlifState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    mem = state.mem
    if params.reset_mechanism == "subtract":
        mem = mem - state.spk * params.threshold
    elif params.reset_mechanism == "zero":
        mem = mem - state.spk * mem
    mem = torch.relu(params.k * (unit(params.beta) * mem + input))
    spk = params.spike_grad(mem - params.threshold)
    return spk, KlifState(spk, mem)


klif = Neuron(KlifParams, KlifState, klif_init, klif_step)
