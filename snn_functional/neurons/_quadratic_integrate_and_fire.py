"""Quadratic integrate-and-fire (QIF): beyond a critical membrane a spike makes itself.

    R[t]   = mem[t-1] > threshold                                                  it has fired
    mem    = v_reset if R[t], else mem[t-1]
    mem[t] = mem + (a (mem - v_rest) (mem - v_c) + input[t]) / tau
    spk[t] = S(mem[t] - threshold)

One Euler step of tau dv/dt = a (v - v_rest) (v - v_c) + input. Without input the membrane falls back to v_rest from below v_c, and runs
away from above it; a constant input above a (v_c - v_rest)^2 / 4 makes the neuron fire for ever. tau is in steps, all else in units of
the input, be it 1 or mV. The reset comes with the next step, so a recorded membrane shows its spike, and no gradient passes from before a
reset to after it. The membrane is kept within 10,000 of 0, where the square of one that an absurd input threw far away would overflow.

Source: Ermentrout & Kopell 1986, doi:10.1137/0146017; Latham et al. 2000, doi:10.1152/jn.2000.83.2.808; in the form and with the
numbers of `QIFNode` of SpikingJelly 2.0, which fires at the threshold too (here above it).
"""

import torch
from torch import Tensor

from .._neuron import above_zero, admit, at_rest, Neuron
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = [
    "QuadraticIntegrateAndFireParams",
    "QuadraticIntegrateAndFireState",
    "quadratic_integrate_and_fire_init",
    "quadratic_integrate_and_fire_step",
    "quadratic_integrate_and_fire",
]


@pytree
class QuadraticIntegrateAndFireParams:
    """Each () or (neurons,).

    - `tau`: the membrane's time constant, in steps.
    - `a`: how steep the parabola is, per unit of the input.
    - `v_rest`, `v_c`: where it is 0: the membrane at rest, and the critical one, in units of the input.
    - `v_reset`: the membrane after a spike. - `threshold`: the peak of a spike, above v_c.
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    """

    tau: Leaf = leaf(default=2.0)
    a: Leaf = leaf(default=1.0)
    v_rest: Leaf = leaf(default=0.0)
    v_c: Leaf = leaf(default=0.8)
    v_reset: Leaf = leaf(default=-0.1)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())

    def __check__(self) -> None:
        above_zero(self, "tau")


@pytree
class QuadraticIntegrateAndFireState:
    """- `mem`: membrane potential, in units of the input. (batch, ..., neurons)."""

    mem: Tensor


def quadratic_integrate_and_fire_init(
    params: QuadraticIntegrateAndFireParams, input: Tensor
) -> QuadraticIntegrateAndFireState:
    """The membrane at v_rest, shaped like one time step of `input`."""
    return QuadraticIntegrateAndFireState(mem=at_rest(params, input) + params.v_rest)


def quadratic_integrate_and_fire_step(
    params: QuadraticIntegrateAndFireParams, state: QuadraticIntegrateAndFireState, input: Tensor
) -> tuple[Tensor, QuadraticIntegrateAndFireState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    mem = torch.where(state.mem > params.threshold, params.v_reset, state.mem)
    drive = params.a * (mem - params.v_rest) * (mem - params.v_c) + input
    mem = (mem + drive / params.tau).clamp(-10_000, 10_000)
    return params.spike_grad(mem - params.threshold), QuadraticIntegrateAndFireState(mem)


quadratic_integrate_and_fire = Neuron(
    QuadraticIntegrateAndFireParams,
    QuadraticIntegrateAndFireState,
    quadratic_integrate_and_fire_init,
    quadratic_integrate_and_fire_step,
)
