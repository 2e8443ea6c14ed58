"""Adaptive exponential integrate-and-fire (AdEx): two variables and nine numbers, each of which can be measured.

    R[t]   = mem[t-1] > threshold                                                  it has fired
    mem, w = v_reset, w[t-1] + b  if R[t], else mem[t-1], w[t-1]
    mem[t] = mem + dt / C (g_L (E_L - mem) + g_L delta_T exp((mem - V_T) / delta_T) - w + input[t])
    w[t]   = w + dt / tau_w (a (mem - E_L) - w)
    spk[t] = S(mem[t] - threshold)

One Euler step of dt ms, both from where the membrane was, as the paper's authors and Brian 2 do it. Units are the paper's: mV, ms, pA, pF
and nS, so the input is in pA. The reset comes with the next step, so a recorded membrane shows its spike, and no gradient passes
through it: what was before a spike reaches what comes after by the adaptation alone. So that nothing overflows, the exponent
is read as 30 where it is larger, far beyond where a spike is inevitable, and mem is kept within 10,000 mV of 0: the last step of a spike
overshoots its peak by far.

    params, current = AdexParams(**adex_presets["tonic"]), adex_currents["tonic"]
    xs = torch.full((6000, 1), current)                                            600 ms

Source: Brette & Gerstner 2005, doi:10.1152/jn.00686.2005, whose numbers are the defaults. The presets are the eight firing patterns of
Naud et al. 2008, doi:10.1007/s00422-008-0264-7, with the numbers of Brian 2's example of it (Naud_et_al_2008_adex_firing_patterns.py),
where P. Mueller has corrected those that did not give the paper's figures.
"""

import torch
from torch import Tensor

from .._neuron import above_zero, admit, at_rest, Neuron
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = ["AdexParams", "AdexState", "adex_init", "adex_step", "adex", "adex_presets", "adex_currents"]


@pytree
class AdexParams:
    """The paper's names and numbers. Each () or (neurons,).

    - `C`: capacitance, in pF. - `g_L`, `E_L`: the leak's conductance, in nS, and where it pulls, in mV.
    - `V_T`: where the exponential takes over, in mV. - `delta_T`: how softly a spike sets in, in mV. Above 0.
    - `a`: what the membrane adds to the adaptation, in nS. - `tau_w`: the adaptation's time constant, in ms.
    - `b`: what a spike adds to the adaptation, in pA.
    - `v_reset`: the membrane after a spike, in mV. - `threshold`: the peak of a spike, in mV, above V_T.
    - `dt`: a time step, in ms.
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`. The default is as wide as leaky's, in units of the 100 mV
      between rest and peak.
    """

    C: Leaf = leaf(default=281.0)
    g_L: Leaf = leaf(default=30.0)
    E_L: Leaf = leaf(default=-70.6)
    V_T: Leaf = leaf(default=-50.4)
    delta_T: Leaf = leaf(default=2.0)
    a: Leaf = leaf(default=4.0)
    tau_w: Leaf = leaf(default=144.0)
    b: Leaf = leaf(default=80.5)
    v_reset: Leaf = leaf(default=-70.6)
    threshold: Leaf = leaf(default=20.0)
    dt: Leaf = leaf(default=0.1)
    spike_grad: Spike = static(default=ATan(0.02))

    def __check__(self) -> None:
        above_zero(self, "C", "delta_T", "tau_w", "dt")


@pytree
class AdexState:
    """- `w`: the adaptation, in pA. (batch, ..., neurons).
    - `mem`: membrane potential, in mV. (batch, ..., neurons).
    """

    w: Tensor
    mem: Tensor


def adex_init(params: AdexParams, input: Tensor) -> AdexState:
    """The membrane at E_L, not adapted, shaped like one time step of `input`."""
    return AdexState(w=at_rest(params, input), mem=at_rest(params, input) + params.E_L)


def adex_step(params: AdexParams, state: AdexState, input: Tensor) -> tuple[Tensor, AdexState]:
    """One time step. `input`, in pA, and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    fired = state.mem > params.threshold
    mem = torch.where(fired, params.v_reset, state.mem)
    w = torch.where(fired, state.w + params.b, state.w)
    above = mem - params.E_L
    onset = params.delta_T * torch.exp(((mem - params.V_T) / params.delta_T).clamp(max=30))
    mem = mem + params.dt / params.C * (params.g_L * (onset - above) - w + input)
    w = w + params.dt / params.tau_w * (params.a * above - w)
    mem = mem.clamp(-10_000, 10_000)
    return params.spike_grad(mem - params.threshold), AdexState(w, mem)


adex = Neuron(AdexParams, AdexState, adex_init, adex_step)


def _preset(C: int, g_L: int, E_L: int, a: int, tau_w: int, b: int, v_reset: int) -> dict[str, float]:
    given = {"C": C, "g_L": g_L, "E_L": E_L, "V_T": -50, "delta_T": 2, "a": a, "tau_w": tau_w, "b": b}
    return {name: float(x) for name, x in (given | {"v_reset": v_reset, "threshold": 0}).items()}


adex_presets = {  # the eight patterns of Naud et al. 2008
    "tonic": _preset(200, 10, -70, 2, 30, 0, -58),
    "adapting": _preset(200, 12, -70, 2, 300, 60, -58),
    "initial_burst": _preset(130, 18, -58, 4, 150, 120, -50),
    "regular_bursting": _preset(200, 10, -58, 2, 120, 100, -46),
    "delayed_accelerating": _preset(200, 12, -70, -10, 300, 0, -58),
    "delayed_regular_bursting": _preset(100, 10, -65, -10, 90, 30, -47),
    "transient": _preset(100, 10, -65, 10, 90, 100, -47),
    "irregular": _preset(100, 12, -60, -11, 130, 30, -48),
}

adex_currents = {  # and the step of current, in pA, that shows each
    "tonic": 500.0,
    "adapting": 500.0,
    "initial_burst": 400.0,
    "regular_bursting": 210.0,
    "delayed_accelerating": 300.0,
    "delayed_regular_bursting": 110.0,
    "transient": 180.0,
    "irregular": 160.0,
}
