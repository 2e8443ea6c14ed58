"""The adaptive leaky neuron of the spoken digits' leader boards: a slow current that the membrane and the spikes feed, and that works
against the input.

    adapt[t] = beta adapt[t-1] + a mem[t-1] + b spk[t-1]
    mem[t]   = alpha (mem[t-1] - threshold spk[t-1]) + (1 - alpha) (input[t] - adapt[t])
    spk[t]   = S(mem[t] - threshold)

A spike lowers the membrane one step later. Time is in steps: alpha = exp(-1/tau) for tau steps. The surrogate's gradient passes through
every spk, that of the reset, too. With a > 0 the membrane oscillates around its rest. Without spikes it comes back to rest only where
-(1 - beta) < a < (1 + alpha) (1 + beta) / (1 - alpha); beyond, it runs away.

RadLIF, the recurrent one, is `recurrent(adlif)` with a `Linear` for V.

Source: Bittar & Garner 2022, doi:10.3389/fnins.2022.865897, in the order of its program (idiap/sparch, `adLIFLayer`), which clamps
alpha to [exp(-1/5), exp(-1/25)], beta to [exp(-1/30), exp(-1/120)], a to [-1, 1] and b to [0, 2], has a threshold of 1, and starts from
random states. Here the ranges are the caller's, and the start is at rest.
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = ["AdlifParams", "AdlifState", "adlif_init", "adlif_step", "adlif"]


@pytree
class AdlifParams:
    """- `alpha`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `beta`: share of the adaptation kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `a`: what the membrane adds to the adaptation each step. () or (neurons,).
    - `b`: what a spike adds to the adaptation, in units of the input. () or (neurons,).
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    """

    alpha: Leaf
    beta: Leaf = leaf(default=0.98)
    a: Leaf = leaf(default=0.1)
    b: Leaf = leaf(default=0.5)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())


@pytree
class AdlifState:
    """- `spk`: the last spikes. (batch, ..., neurons).
    - `adapt`: the adaptation, a current: w in the paper. (batch, ..., neurons).
    - `mem`: membrane potential, in units of the input: u in the paper. (batch, ..., neurons).
    """

    spk: Tensor
    adapt: Tensor
    mem: Tensor


def adlif_init(params: AdlifParams, input: Tensor) -> AdlifState:
    """No spikes, not adapted, and the membrane at rest (0), shaped like one time step of `input`."""
    return AdlifState(spk=at_rest(params, input), adapt=at_rest(params, input), mem=at_rest(params, input))


def adlif_step(params: AdlifParams, state: AdlifState, input: Tensor) -> tuple[Tensor, AdlifState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    alpha, threshold = unit(params.alpha), params.threshold
    adapt = unit(params.beta) * state.adapt + params.a * state.mem + params.b * state.spk
    mem = alpha * (state.mem - threshold * state.spk) + (1 - alpha) * (input - adapt)
    spk = params.spike_grad(mem - threshold)
    return spk, AdlifState(spk, adapt, mem)


adlif = Neuron(AdlifParams, AdlifState, adlif_init, adlif_step)
