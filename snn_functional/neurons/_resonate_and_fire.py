"""Resonate-and-fire: a damped oscillator that answers to inputs in its own rhythm, and fires when it swings high enough.

    R[t]           = H(mem[t-1] - threshold)
    r, m           = 0, threshold                               if R[t], "upright": z = i where the threshold is 1
                     real[t-1], 0                               if R[t], "zero"
                     real[t-1], mem[t-1] - threshold            if R[t], "subtract"
                     real[t-1], mem[t-1]                        else, and "none"
    real + i mem   = beta exp(i omega) (r + i m) + input[t]
    spk[t]         = S(mem[t] - threshold)

This is z' = (b + i omega) z with beta = exp(b), exact however long a step is; the input is a pulse at the end of the step, which moves
the real part. The imaginary part is the membrane. Time is in steps: a cycle takes 2 pi / omega of them, and to see it omega must be below
pi. The reset comes with the next step, and no gradient passes through R. Of two pulses a cycle apart the second finds the oscillation
where the first began, and adds to it; half a cycle apart they cancel.

Source: Izhikevich 2001, doi:10.1016/S0893-6080(01)00078-8, for "upright"; the other two are those of SpikingJelly 2.0.0, `RAFNode`
(v_reset=0.0 "zero", v_reset=None "subtract"), whose exp(b dt) and omega dt are this beta and omega.
"""

import torch
from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = [
    "ResonateAndFireParams",
    "ResonateAndFireState",
    "resonate_and_fire_init",
    "resonate_and_fire_step",
    "resonate_and_fire",
]


@pytree
class ResonateAndFireParams:
    """- `beta`: share of the oscillation kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `omega`: radians that it turns each step. () or (neurons,).
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "upright", "zero", "subtract" or "none".
    """

    beta: Leaf
    omega: Leaf = leaf(default=0.25)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="upright", choices=("upright", "zero", "subtract", "none"))


@pytree
class ResonateAndFireState:
    """- `real`: the part that the input moves, in its units. (batch, ..., neurons).
    - `mem`: the imaginary part, which fires, before the reset. (batch, ..., neurons).
    """

    real: Tensor
    mem: Tensor


def resonate_and_fire_init(params: ResonateAndFireParams, input: Tensor) -> ResonateAndFireState:
    """At rest (0), shaped like one time step of `input`."""
    return ResonateAndFireState(real=at_rest(params, input), mem=at_rest(params, input))


def resonate_and_fire_step(
    params: ResonateAndFireParams, state: ResonateAndFireState, input: Tensor
) -> tuple[Tensor, ResonateAndFireState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    real, mem, threshold = state.real, state.mem, params.threshold
    reset = fires(mem - threshold)
    if params.reset_mechanism == "upright":
        real, mem = (1 - reset) * real, (1 - reset) * mem + reset * threshold
    elif params.reset_mechanism == "zero":
        mem = (1 - reset) * mem
    elif params.reset_mechanism == "subtract":
        mem = mem - reset * threshold
    kept, cos, sin = unit(params.beta), torch.cos(params.omega), torch.sin(params.omega)
    real, mem = kept * (real * cos - mem * sin) + input, kept * (real * sin + mem * cos)
    return params.spike_grad(mem - threshold), ResonateAndFireState(real, mem)


resonate_and_fire = Neuron(ResonateAndFireParams, ResonateAndFireState, resonate_and_fire_init, resonate_and_fire_step)
