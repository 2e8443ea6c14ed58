"""Parametric leaky integrate-and-fire: the time constant is learned, through a sigmoid that keeps it above one step.

    1/tau  = sigmoid(w)
    R[t]   = H(mem[t-1] - threshold)
    v[t]   = (1 - R[t]) mem[t-1]                                "zero"
             mem[t-1] - R[t] threshold                          "subtract"
             mem[t-1]                                           "none"
    mem[t] = v[t] + (input[t] - v[t]) / tau                     gain "1/tau": the input is weighed, too
             v[t] - v[t] / tau + input[t]                       gain "one"
    spk[t] = S(mem[t] - threshold)

tau is in steps. One w of shape () is shared by the layer, as in the paper, one of shape (neurons,) is each neuron's own:

    PlifParams(w=-math.log(tau - 1))                            w = 0 is tau = 2, where the paper starts

`mem` is the membrane before its reset, which comes with the next step; no gradient passes through R.

Source: Fang et al. 2021, arXiv:2007.05785; `ParametricLIFNode` of SpikingJelly 2.0.0 (its decay_input=True is gain "1/tau", its
v_reset=0.0 "zero", v_reset=None "subtract", and its detach_reset=True the gradient here).
"""

import torch
from torch import Tensor

from .._neuron import admit, at_rest, Neuron
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["PlifParams", "PlifState", "plif_init", "plif_step", "plif"]


@pytree
class PlifParams:
    """- `w`: the logit of 1/tau. () or (neurons,).
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "zero", "subtract" or "none".
    - `gain`: of the input, "1/tau" or "one".
    """

    w: Leaf
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="zero", choices=("zero", "subtract", "none"))
    gain: str = static(default="1/tau", choices=("1/tau", "one"))


@pytree
class PlifState:
    """- `mem`: membrane potential before the reset, in units of the input. (batch, ..., neurons)."""

    mem: Tensor


def plif_init(params: PlifParams, input: Tensor) -> PlifState:
    """The membrane at rest (0), shaped like one time step of `input`."""
    return PlifState(mem=at_rest(params, input))


def plif_step(params: PlifParams, state: PlifState, input: Tensor) -> tuple[Tensor, PlifState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    mem, rate = state.mem, torch.sigmoid(params.w)
    reset = fires(mem - params.threshold)
    if params.reset_mechanism == "zero":
        mem = (1 - reset) * mem
    elif params.reset_mechanism == "subtract":
        mem = mem - reset * params.threshold
    mem = mem + (input - mem) * rate if params.gain == "1/tau" else mem - mem * rate + input
    return params.spike_grad(mem - params.threshold), PlifState(mem)


plif = Neuron(PlifParams, PlifState, plif_init, plif_step)
