"""Leaky with a memory of its own spikes: each step, the last spikes come back as a current.

    R[t]   = H(mem[t-1] - threshold)
    mem[t] = beta mem[t-1] + input[t] + V(spk[t-1]) - R[t] threshold          "subtract"
             (1 - R[t]) (beta mem[t-1] + input[t] + V(spk[t-1]))              "zero": this step's input is lost too
             beta mem[t-1] + input[t] + V(spk[t-1])                           "none"
    spk[t] = S(mem[t] - threshold)

V is a number or tensor (each neuron to itself), or a connection: `Linear(weight, bias)` (all to all), `Conv2d(weight, bias)`. Of
a step with a tensor or `Linear`, `scan` makes one kernel; with `Conv2d`, kernels with the convolution between them.

Source: `snntorch.RLeaky` 1.0.0, bit for bit.
"""

from typing import Any

from torch import Tensor

from .._connections import check_connection, connect
from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["RLeakyParams", "RLeakyState", "rleaky_init", "rleaky_step", "rleaky"]


@pytree
class RLeakyParams:
    """- `beta`: share of the membrane kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `V`: what a spike feeds back in the next step: () or (neurons,), or a connection such as `Linear(weight, bias)`.
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "subtract", "zero" or "none".
    """

    beta: Leaf
    V: Any = leaf(default=1.0)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="subtract", choices=("subtract", "zero", "none"))

    def __check__(self) -> None:
        check_connection(self, "V")


@pytree
class RLeakyState:
    """- `spk`: the last spikes. (batch, ..., neurons).
    - `mem`: membrane potential, in units of the input. (batch, ..., neurons).
    """

    spk: Tensor
    mem: Tensor


def rleaky_init(params: RLeakyParams, input: Tensor) -> RLeakyState:
    """No spikes, and the membrane at rest (0), shaped like one time step of `input`."""
    return RLeakyState(spk=at_rest(params, input), mem=at_rest(params, input))


def rleaky_step(params: RLeakyParams, state: RLeakyState, input: Tensor) -> tuple[Tensor, RLeakyState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    threshold = params.threshold
    reset = fires(state.mem - threshold)
    mem = unit(params.beta) * state.mem + input + connect(params.V, state.spk.expand(input.shape))
    if params.reset_mechanism == "subtract":
        mem = mem - reset * threshold
    elif params.reset_mechanism == "zero":
        mem = mem - reset * mem
    spk = params.spike_grad(mem - threshold)
    return spk, RLeakyState(spk, mem)


rleaky = Neuron(RLeakyParams, RLeakyState, rleaky_init, rleaky_step)
