"""Exponential integrate-and-fire (EIF): a leaky membrane whose spike sets in exponentially.

    R[t]   = mem[t-1] > threshold                                                  it has fired
    mem    = v_reset if R[t], else mem[t-1]
    mem[t] = mem + (v_rest - mem + delta_T exp((mem - theta_rh) / delta_T) + input[t]) / tau
    spk[t] = S(mem[t] - threshold)

One Euler step of tau dv/dt = v_rest - v + delta_T exp((v - theta_rh) / delta_T) + input. A constant input above
theta_rh - delta_T - v_rest makes the neuron fire for ever; as delta_T goes to 0 it becomes the leaky one with its threshold at theta_rh.
tau is in steps, all else in units of the input, be it 1 or mV. The reset comes with the next step, so a recorded membrane shows its spike,
and no gradient passes from before a reset to after it. So that nothing overflows, the exponent is read as 30 where it is larger, far
beyond where a spike is inevitable, and the membrane is kept within 10,000 of 0.

Source: Fourcaud-Trocme et al. 2003, doi:10.1523/JNEUROSCI.23-37-11628.2003; in the form of `EIFNode` of SpikingJelly 2.0, which fires at
the threshold too (here above it), and whose default numbers fire without any input.
"""

import torch
from torch import Tensor

from .._neuron import above_zero, admit, at_rest, Neuron
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = [
    "ExponentialIntegrateAndFireParams",
    "ExponentialIntegrateAndFireState",
    "exponential_integrate_and_fire_init",
    "exponential_integrate_and_fire_step",
    "exponential_integrate_and_fire",
]


@pytree
class ExponentialIntegrateAndFireParams:
    """Each () or (neurons,).

    - `tau`: the membrane's time constant, in steps.
    - `delta_T`: how softly a spike sets in, in units of the input. Above 0.
    - `theta_rh`: the rheobase threshold, where the exponential takes over.
    - `v_rest`: where the leak pulls. - `v_reset`: the membrane after a spike. - `threshold`: the peak of a spike, above theta_rh.
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    """

    tau: Leaf = leaf(default=2.0)
    delta_T: Leaf = leaf(default=0.1)
    theta_rh: Leaf = leaf(default=0.5)
    v_rest: Leaf = leaf(default=0.0)
    v_reset: Leaf = leaf(default=0.0)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())

    def __check__(self) -> None:
        above_zero(self, "tau", "delta_T")


@pytree
class ExponentialIntegrateAndFireState:
    """- `mem`: membrane potential, in units of the input. (batch, ..., neurons)."""

    mem: Tensor


def exponential_integrate_and_fire_init(
    params: ExponentialIntegrateAndFireParams, input: Tensor
) -> ExponentialIntegrateAndFireState:
    """The membrane at v_rest, shaped like one time step of `input`."""
    return ExponentialIntegrateAndFireState(mem=at_rest(params, input) + params.v_rest)


def exponential_integrate_and_fire_step(
    params: ExponentialIntegrateAndFireParams, state: ExponentialIntegrateAndFireState, input: Tensor
) -> tuple[Tensor, ExponentialIntegrateAndFireState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    mem = torch.where(state.mem > params.threshold, params.v_reset, state.mem)
    onset = params.delta_T * torch.exp(((mem - params.theta_rh) / params.delta_T).clamp(max=30))
    mem = (mem + (params.v_rest - mem + onset + input) / params.tau).clamp(-10_000, 10_000)
    return params.spike_grad(mem - params.threshold), ExponentialIntegrateAndFireState(mem)


exponential_integrate_and_fire = Neuron(
    ExponentialIntegrateAndFireParams,
    ExponentialIntegrateAndFireState,
    exponential_integrate_and_fire_init,
    exponential_integrate_and_fire_step,
)
