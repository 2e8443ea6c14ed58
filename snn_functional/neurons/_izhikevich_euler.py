"""Izhikevich's neuron by Euler's method, at a step and with a parabola of one's own, as Norse and the program of 2004 have it.

    R[t]        = mem[t-1] > threshold                                           it has fired
    mem, rec    = c, recovery[t-1] + d  if R[t], else mem[t-1], recovery[t-1]
    mem[t]      = mem + dt (square mem^2 + slope mem + offset - rec + input[t])
    recovery[t] = rec + dt a (b mem - rec)
    spk[t]      = S(mem[t] - threshold)

A step is dt ms, mem in mV. `izhikevich` is the paper's of 2003: steps of a millisecond, the membrane's in two halves, the parabola
fixed. As there the reset comes with the next step, no gradient passes through it, and mem is kept within 10,000 mV of 0.

    params = IzhikevichEulerParams(**norse_izhikevich_presets["tonic_spiking"])

Source: Izhikevich 2004, doi:10.1109/TNN.2004.832719, whose twenty features are the presets; `izhikevich_feed_forward_step` and the numbers
of Norse 1.1, spike for spike. Norse starts "accomodation" at a recovery of -16, here it starts at b mem as all others do.
"""

import torch
from torch import Tensor

from .._neuron import above_zero, admit, at_rest, Neuron
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = [
    "IzhikevichEulerParams",
    "IzhikevichEulerState",
    "izhikevich_euler_init",
    "izhikevich_euler_step",
    "izhikevich_euler",
    "norse_izhikevich_presets",
]


@pytree
class IzhikevichEulerParams:
    """The defaults are a tonically spiking neuron. Each () or (neurons,).

    - `dt`: a time step, in ms: Norse's tau_inv times its dt.
    - `a`: the rate of the recovery, per ms. - `b`: how much recovery a membrane calls for.
    - `c`: the membrane after a spike, in mV. - `d`: what a spike adds to the recovery.
    - `square`, `slope`, `offset`: the parabola of the membrane, in 1 / (mV ms), 1 / ms and mV / ms: Norse's sq, mn and bias.
    - `v_start`: the membrane before the first step, in mV, which only the init reads.
    - `threshold`: the peak of a spike, in mV.
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`. The default is as wide as leaky's, in units of the 100 mV
      between rest and peak.
    """

    dt: Leaf = leaf(default=0.25)  # before `d`: where one name begins another, torch.export wants the longer first
    a: Leaf = leaf(default=0.02)
    b: Leaf = leaf(default=0.2)
    c: Leaf = leaf(default=-65.0)
    d: Leaf = leaf(default=6.0)
    square: Leaf = leaf(default=0.04)
    slope: Leaf = leaf(default=5.0)
    offset: Leaf = leaf(default=140.0)
    v_start: Leaf = leaf(default=-70.0)
    threshold: Leaf = leaf(default=30.0)
    spike_grad: Spike = static(default=ATan(0.02))

    def __check__(self) -> None:
        above_zero(self, "dt")


@pytree
class IzhikevichEulerState:
    """- `recovery`: the variable u of the paper. (batch, ..., neurons).
    - `mem`: membrane potential, in mV. (batch, ..., neurons).
    """

    recovery: Tensor
    mem: Tensor


def izhikevich_euler_init(params: IzhikevichEulerParams, input: Tensor) -> IzhikevichEulerState:
    """The membrane at v_start, the recovery at b times that, shaped like one time step of `input`."""
    mem = at_rest(params, input) + params.v_start
    return IzhikevichEulerState(recovery=params.b * mem, mem=mem)


def izhikevich_euler_step(
    params: IzhikevichEulerParams, state: IzhikevichEulerState, input: Tensor
) -> tuple[Tensor, IzhikevichEulerState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    fired = state.mem > params.threshold
    mem = torch.where(fired, params.c, state.mem)
    recovery = torch.where(fired, state.recovery + params.d, state.recovery)
    parabola = params.square * mem * mem + params.slope * mem + params.offset
    pull = params.a * (params.b * mem - recovery)
    mem = (mem + params.dt * (parabola - recovery + input)).clamp(-10_000, 10_000)
    recovery = recovery + params.dt * pull
    return params.spike_grad(mem - params.threshold), IzhikevichEulerState(recovery, mem)


izhikevich_euler = Neuron(IzhikevichEulerParams, IzhikevichEulerState, izhikevich_euler_init, izhikevich_euler_step)


def _preset(
    a: float, b: float, c: float, d: float, v_start: float, dt: float = 0.25, **more: float
) -> dict[str, float]:
    return {"a": a, "b": b, "c": c, "d": d, "v_start": v_start, "dt": dt, **more}


_CLASS_1 = _preset(0.02, -0.1, -55.0, 6.0, -60.0, slope=4.1, offset=108.0)

norse_izhikevich_presets = {
    "tonic_spiking": _preset(0.02, 0.2, -65.0, 6.0, -70.0),
    "phasic_spiking": _preset(0.02, 0.25, -65.0, 6.0, -64.0),
    "tonic_bursting": _preset(0.02, 0.2, -50.0, 2.0, -70.0),
    "phasic_bursting": _preset(0.02, 0.25, -55.0, 0.05, -64.0, dt=0.2),
    "mixed_mode": _preset(0.02, 0.2, -55.0, 4.0, -70.0),
    "spike_frequency_adaptation": _preset(0.01, 0.2, -65.0, 8.0, -70.0),
    "class_1_exc": _CLASS_1,
    "class_2_exc": _preset(0.2, 0.26, -65.0, 0.0, -64.0),
    "spike_latency": _preset(0.02, 0.2, -65.0, 6.0, -70.0),
    "subthreshold_oscillation": _preset(0.05, 0.26, -60.0, 0.0, -62.0),
    "resonator": _preset(0.1, 0.26, -60.0, -1.0, -62.0),
    "integrator": _CLASS_1,
    "rebound_spike": _preset(0.03, 0.25, -60.0, 4.0, -64.0, dt=0.2),
    "rebound_burst": _preset(0.03, 0.25, -52.0, 0.0, -64.0, dt=0.2),
    "threshold_variability": _preset(0.03, 0.25, -60.0, 4.0, -64.0),
    "bistability": _preset(0.1, 0.26, -60.0, 0.0, -61.0),
    "dap": _preset(1.0, 0.2, -60.0, -21.0, -70.0, dt=0.1),
    "accomodation": _preset(0.02, 1.0, -55.0, 4.0, -65.0, dt=0.5),  # spelled as Norse spells it
    "inhibition_induced_spiking": _preset(-0.02, -1.0, -60.0, 8.0, -63.8),
    "inhibition_induced_bursting": _preset(-0.026, -1.0, -45.0, -2.0, -63.8),
}
