"""Complementary LIF (CLIF): a leaky neuron that a spike lowers the more, the more it has fired.

    mem           = mem[t-1] - spk[t-1] (threshold + sigma(complement[t-1]))
    mem[t]        = beta mem + input[t]
    spk[t]        = S(mem[t] - threshold)
    complement[t] = complement[t-1] sigma((1 - beta) mem[t]) + spk[t]

sigma is the logistic function. The complement is a second path for gradients in time, which the leak does not shorten: it decays the
less, the higher the membrane. A spike lowers the membrane at the beginning of the next step; the surrogate's gradient passes through
it and through the complement, as in the paper, whose tau is 1 / (1 - beta).

Source: Huang et al. 2024, arXiv:2402.04663; values and gradients of `clif_step` of SpikingJelly 2.0, which fires at the threshold too
(here above it).
"""

import torch
from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = ["ClifParams", "ClifState", "clif_init", "clif_step", "clif"]


@pytree
class ClifParams:
    """- `beta`: share of the membrane kept each step, read as clamped to [0, 1]; the paper's is 0.5. () or (neurons,).
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    """

    beta: Leaf
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())


@pytree
class ClifState:
    """- `spk`: the last spikes. (batch, ..., neurons).
    - `complement`: the complementary potential, a count of spikes that are being forgotten. (batch, ..., neurons).
    - `mem`: membrane potential, in units of the input. (batch, ..., neurons).
    """

    spk: Tensor
    complement: Tensor
    mem: Tensor


def clif_init(params: ClifParams, input: Tensor) -> ClifState:
    """No spikes and both potentials at 0, shaped like one time step of `input`."""
    return ClifState(spk=at_rest(params, input), complement=at_rest(params, input), mem=at_rest(params, input))


def clif_step(params: ClifParams, state: ClifState, input: Tensor) -> tuple[Tensor, ClifState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    beta, threshold = unit(params.beta), params.threshold
    mem = state.mem - state.spk * (threshold + _sigma(state.complement))
    mem = beta * mem + input
    spk = params.spike_grad(mem - threshold)
    complement = state.complement * _sigma((1 - beta) * mem) + spk
    return spk, ClifState(spk, complement, mem)


def _sigma(x: Tensor) -> Tensor:
    """The logistic function. That of torch rounds a number otherwise at the end of a row than within it, so that a neuron would not be
    the same in a batch and alone; its exponential does not. From -30 down, where it is 1e-13, it is a constant: no slope is 0 times inf."""
    return 1 / (1 + torch.exp(-x.clamp(min=-30)))


clif = Neuron(ClifParams, ClifState, clif_init, clif_step)
