"""Gated LIF (GLIF): three gates that say how it leaks, how it integrates and how it resets, to be learned with all else.

    decay  = 1 - alpha (1 - tau)
    mem[t] = decay mem[t-1] - (1 - alpha) linear_decay                             a leak of a share, or of an amount
             + (1 - beta (1 - conduct)) input[t]                                   a synapse that weighs, or does not
             - spk[t-1] (gamma decay mem[t-1] + (1 - gamma) v_subreset)            a reset to 0, or by an amount
    spk[t] = S(mem[t] - threshold)

A gate of 1 is the first, of 0 the second, and between them is some of both. A spike lowers the membrane one step later; the
surrogate's gradient passes through it, as in the paper. The paper learns numbers of which these are the sigmoids:

    GatedLifParams(alpha=torch.sigmoid(w), ...)

and a conduct for each time step, which is a factor of the input: give `xs * (1 - beta * (1 - conducts))` to a neuron of beta 0.

Source: Yao et al. 2022, arXiv:2210.13768; values and gradients of `gated_lif_step` of SpikingJelly 2.0, which fires at the threshold too
(here above it).
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = ["GatedLifParams", "GatedLifState", "gated_lif_init", "gated_lif_step", "gated_lif"]


@pytree
class GatedLifParams:
    """The defaults are where the paper's training begins, 16 steps long. Each () or (neurons,).

    - `alpha`, `beta`, `gamma`: the gates of the leak, of the synapse and of the reset, read as clamped to [0, 1].
    - `tau`: share of the membrane that the exponential leak keeps each step, read as clamped to [0, 1].
    - `linear_decay`: what the linear leak takes each step, in units of the input.
    - `conduct`: the factor of the input where the synapse's gate is open.
    - `v_subreset`: what a spike takes off the membrane where the reset's gate is closed, in units of the input.
    - `threshold`: the neuron fires above it; in units of the input.
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    """

    alpha: Leaf = leaf(default=0.5)
    beta: Leaf = leaf(default=0.5)
    gamma: Leaf = leaf(default=0.5)
    tau: Leaf = leaf(default=0.25)
    linear_decay: Leaf = leaf(default=0.5 / 32)
    conduct: Leaf = leaf(default=0.5)
    v_subreset: Leaf = leaf(default=0.5)
    threshold: Leaf = leaf(default=0.5)
    spike_grad: Spike = static(default=ATan())


@pytree
class GatedLifState:
    """- `spk`: the last spikes. (batch, ..., neurons).
    - `mem`: membrane potential, in units of the input. (batch, ..., neurons).
    """

    spk: Tensor
    mem: Tensor


def gated_lif_init(params: GatedLifParams, input: Tensor) -> GatedLifState:
    """No spikes and a membrane of 0, shaped like one time step of `input`."""
    return GatedLifState(spk=at_rest(params, input), mem=at_rest(params, input))


def gated_lif_step(params: GatedLifParams, state: GatedLifState, input: Tensor) -> tuple[Tensor, GatedLifState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    alpha, beta, gamma = unit(params.alpha), unit(params.beta), unit(params.gamma)
    kept = (1 - alpha * (1 - unit(params.tau))) * state.mem
    reset = gamma * kept + (1 - gamma) * params.v_subreset
    current = input * (1 - beta * (1 - params.conduct))
    mem = kept - (1 - alpha) * params.linear_decay + current - reset * state.spk
    spk = params.spike_grad(mem - params.threshold)
    return spk, GatedLifState(spk, mem)


gated_lif = Neuron(GatedLifParams, GatedLifState, gated_lif_init, gated_lif_step)
