"""Izhikevich: two variables and four numbers that fire as the known types of cortical neurons do.

    R[t]        = mem[t-1] > threshold                                           it has fired
    mem, rec    = c, recovery[t-1] + d  if R[t], else mem[t-1], recovery[t-1]
    mem         = mem + 1/2 (0.04 mem^2 + 5 mem + 140 - rec + input[t])          twice, half a millisecond each
    recovery[t] = rec + a (b mem[t] - rec)
    spk[t]      = S(mem[t] - threshold)

A step is a millisecond, mem in mV. This is the paper's own program, spike for spike: the membrane of a step in which the neuron fires
is where the last half step left it, far above the threshold, and the reset comes with the next step. No gradient passes through the
reset: what was before a spike reaches what comes after by the recovery alone. Where the quadratic term would run away, after inputs that
no neuron gets (beyond some 500), mem is kept within 10,000 mV of 0 after each half step, so that it stays finite whatever comes.

    params = IzhikevichParams(**izhikevich_presets["chattering"])

Source: Izhikevich 2003, doi:10.1109/TNN.2003.820440.
"""

import torch
from torch import Tensor

from .._neuron import admit, at_rest, Neuron
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = [
    "IzhikevichParams",
    "IzhikevichState",
    "izhikevich_init",
    "izhikevich_step",
    "izhikevich",
    "izhikevich_presets",
]


@pytree
class IzhikevichParams:
    """The paper's names; the defaults are a regular spiking neuron. Each () or (neurons,).

    - `a`: the rate of the recovery, per ms. - `b`: how much recovery a membrane calls for.
    - `c`: the membrane after a spike, in mV. - `d`: what a spike adds to the recovery.
    - `threshold`: the peak of a spike, in mV.
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`. The default is as wide as leaky's, in units of the 100 mV
      between rest and peak.
    """

    a: Leaf = leaf(default=0.02)
    b: Leaf = leaf(default=0.2)
    c: Leaf = leaf(default=-65.0)
    d: Leaf = leaf(default=8.0)
    threshold: Leaf = leaf(default=30.0)
    spike_grad: Spike = static(default=ATan(0.02))


@pytree
class IzhikevichState:
    """- `recovery`: the variable u of the paper. (batch, ..., neurons).
    - `mem`: membrane potential, in mV. (batch, ..., neurons).
    """

    recovery: Tensor
    mem: Tensor


def izhikevich_init(params: IzhikevichParams, input: Tensor) -> IzhikevichState:
    """Where the paper starts: mem -65, recovery b mem, shaped like one time step of `input`."""
    mem = at_rest(params, input) - 65
    return IzhikevichState(recovery=params.b * mem, mem=mem)


def izhikevich_step(params: IzhikevichParams, state: IzhikevichState, input: Tensor) -> tuple[Tensor, IzhikevichState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    fired = state.mem > params.threshold
    mem = torch.where(fired, params.c, state.mem)
    recovery = torch.where(fired, state.recovery + params.d, state.recovery)
    for _ in range(2):
        mem = mem + 0.5 * (0.04 * mem * mem + 5 * mem + 140 - recovery + input)
        mem = mem.clamp(-10_000, 10_000)
    recovery = recovery + params.a * (params.b * mem - recovery)
    return params.spike_grad(mem - params.threshold), IzhikevichState(recovery, mem)


izhikevich = Neuron(IzhikevichParams, IzhikevichState, izhikevich_init, izhikevich_step)

izhikevich_presets = {  # figure 2 of the paper
    "regular_spiking": {"a": 0.02, "b": 0.2, "c": -65.0, "d": 8.0},
    "intrinsically_bursting": {"a": 0.02, "b": 0.2, "c": -55.0, "d": 4.0},
    "chattering": {"a": 0.02, "b": 0.2, "c": -50.0, "d": 2.0},
    "fast_spiking": {"a": 0.1, "b": 0.2, "c": -65.0, "d": 2.0},
    "low_threshold_spiking": {"a": 0.02, "b": 0.25, "c": -65.0, "d": 2.0},
    "thalamo_cortical": {"a": 0.02, "b": 0.25, "c": -65.0, "d": 0.05},
    "resonator": {"a": 0.1, "b": 0.26, "c": -65.0, "d": 2.0},
}
