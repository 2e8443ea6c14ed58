"""`adlif` by the symplectic Euler method: the adaptation is taken from the membrane that this step has left, after its reset.

    U[t]     = alpha mem[t-1] + (1 - alpha) (input[t] - adapt[t-1])
    spk[t]   = S(U[t] - threshold)
    mem[t]   = (1 - H(U[t] - threshold)) U[t]
    adapt[t] = beta adapt[t-1] + (1 - beta) (a mem[t] + b spk[t])

A spike sets the membrane to 0 in the step in which it is fired, so `mem` in the state is never above the threshold. Time is in steps:
alpha = exp(-1/tau) for tau steps. No gradient passes through the reset; through the spike in the adaptation the surrogate's does. With
a > 0 the membrane is a damped oscillator. Without spikes it comes back to rest where -1 < a < (1 + alpha) (1 + beta) / ((1 - alpha)
(1 - beta)), and is then `adlif` with (1 - beta) a: what differs is the reset, and what the adaptation sees of it.

    RecurrentParams(SeAdlifParams(0.95, 0.99), Linear(weight))                     for recurrent(se_adlif)

Source: Baronig et al. 2025, doi:10.1038/s41467-025-60878-z, arXiv:2408.07517; program IGITUGraz/SE-adlif, `SEAdLIF`, whose a and b
are these, divided by a number q, 60 or 120.
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["SeAdlifParams", "SeAdlifState", "se_adlif_init", "se_adlif_step", "se_adlif"]


@pytree
class SeAdlifParams:
    """- `alpha`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `beta`: share of the adaptation kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `a`: the adaptation that a membrane of 1 ends up with; in units of the input, q a of the program. () or (neurons,).
    - `b`: the adaptation that spikes in every step end up with; in units of the input, q b of the program. () or (neurons,).
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `U - threshold`.
    """

    alpha: Leaf
    beta: Leaf = leaf(default=0.99)
    a: Leaf = leaf(default=30.0)
    b: Leaf = leaf(default=60.0)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    fires_from_state = False  # its membrane has been reset by then


@pytree
class SeAdlifState:
    """- `adapt`: the adaptation, a current: w in the paper. (batch, ..., neurons).
    - `mem`: membrane potential after the reset, in units of the input: u in the paper. (batch, ..., neurons).
    """

    adapt: Tensor
    mem: Tensor


def se_adlif_init(params: SeAdlifParams, input: Tensor) -> SeAdlifState:
    """Not adapted, and the membrane at rest (0), shaped like one time step of `input`."""
    return SeAdlifState(adapt=at_rest(params, input), mem=at_rest(params, input))


def se_adlif_step(params: SeAdlifParams, state: SeAdlifState, input: Tensor) -> tuple[Tensor, SeAdlifState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    alpha, beta = unit(params.alpha), unit(params.beta)
    mem = alpha * state.mem + (1 - alpha) * (input - state.adapt)
    above = mem - params.threshold
    spk = params.spike_grad(above)
    mem = mem * (1 - fires(above))
    adapt = beta * state.adapt + (1 - beta) * (params.a * mem + params.b * spk)
    return spk, SeAdlifState(adapt, mem)


se_adlif = Neuron(SeAdlifParams, SeAdlifState, se_adlif_init, se_adlif_step)
