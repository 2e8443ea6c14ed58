"""Hodgkin-Huxley: the membrane of the squid's giant axon, whose spikes are made by two conductances.

    alpha_m = 0.1 (V + 40) / (1 - exp(-(V + 40) / 10))          beta_m = 4 exp(-(V + 65) / 18)             V = mem[t-1]
    alpha_h = 0.07 exp(-(V + 65) / 20)                          beta_h = 1 / (1 + exp(-(V + 35) / 10))
    alpha_n = 0.01 (V + 55) / (1 - exp(-(V + 55) / 10))         beta_n = 0.125 exp(-(V + 65) / 80)

    x[t]    = x_inf + (x[t-1] - x_inf) exp(-dt (alpha_x + beta_x))         for x = m, h, n; x_inf = alpha_x / (alpha_x + beta_x)
    G       = g_Na m[t]^3 h[t] + g_K n[t]^4 + g_L
    V_inf   = (g_Na m[t]^3 h[t] E_Na + g_K n[t]^4 E_K + g_L E_L + input[t]) / G
    mem[t]  = V_inf + (V - V_inf) exp(-dt G / C)
    spk[t]  = S(mem[t] - threshold) if mem[t-1] <= threshold, else 0

Exponential Euler: the gates, then the membrane, each as if the others stood still for dt ms. It is of first order in dt, and no step is too
long for it to stay finite. alpha_m and alpha_n, 0/0 at -40 and -55 mV, are written so that they and their derivatives are right
there too. There is no reset: a spike is the membrane's way up through the threshold. Units: mV, ms, uA/cm^2, mS/cm^2, uF/cm^2, the input
being a density of current. So that nothing overflows whatever comes, a gate is read as clamped to [0, 1], an input to a million either
way, and mem is kept within 200 mV of 0: no current that an axon bears brings it there.

Source: Hodgkin & Huxley 1952, doi:10.1113/jphysiol.1952.sp004764, with potentials as they are measured today: inside minus outside, at
rest -65 mV.
"""

import torch
from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = [
    "HodgkinHuxleyParams",
    "HodgkinHuxleyState",
    "hodgkin_huxley_init",
    "hodgkin_huxley_step",
    "hodgkin_huxley",
]


@pytree
class HodgkinHuxleyParams:
    """The paper's numbers. Each () or (neurons,).

    - `C`: capacitance, in uF/cm^2.
    - `g_Na`, `g_K`, `g_L`: the largest conductances of sodium and potassium, and that of the leak, in mS/cm^2.
    - `E_Na`, `E_K`, `E_L`: where they pull, in mV.
    - `threshold`: what the membrane crosses when it fires, in mV.
    - `dt`: a time step, in ms.
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`. The default is as wide as leaky's, in units of the 100 mV
      between rest and peak.
    """

    C: Leaf = leaf(default=1.0)
    g_Na: Leaf = leaf(default=120.0)
    g_K: Leaf = leaf(default=36.0)
    g_L: Leaf = leaf(default=0.3)
    E_Na: Leaf = leaf(default=50.0)
    E_K: Leaf = leaf(default=-77.0)
    E_L: Leaf = leaf(default=-54.387)
    threshold: Leaf = leaf(default=0.0)
    dt: Leaf = leaf(default=0.01)
    spike_grad: Spike = static(default=ATan(0.02))


@pytree
class HodgkinHuxleyState:
    """- `mem`: membrane potential, in mV.
    - `m`, `h`: how open the gates of sodium are, those that a spike opens and those that it shuts. - `n`: those of potassium. Shares.

    All (batch, ..., neurons).
    """

    mem: Tensor  # before `m`: where one name begins another, torch.export takes the shorter for it unless the longer comes first
    m: Tensor
    h: Tensor
    n: Tensor


def hodgkin_huxley_init(params: HodgkinHuxleyParams, input: Tensor) -> HodgkinHuxleyState:
    """At rest: the membrane at -65 mV and the gates where they stand still there, shaped like one time step of `input`."""
    mem = at_rest(params, input) - 65
    m, h, n = (opening / (opening + closing) for opening, closing in _rates(mem))
    return HodgkinHuxleyState(mem, m, h, n)


def hodgkin_huxley_step(
    params: HodgkinHuxleyParams, state: HodgkinHuxleyState, input: Tensor
) -> tuple[Tensor, HodgkinHuxleyState]:
    """One time step. `input`, in uA/cm^2, and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input).clamp(-1e6, 1e6)
    gates = []
    for gate, (opening, closing) in zip((state.m, state.h, state.n), _rates(state.mem)):
        still = opening / (opening + closing)
        gates.append(still + (unit(gate) - still) * torch.exp(-params.dt * (opening + closing)))
    m, h, n = gates
    sodium, potassium = params.g_Na * (m * m * m * h), params.g_K * (n * n * n * n)
    conductance = sodium + potassium + params.g_L
    still = (sodium * params.E_Na + potassium * params.E_K + params.g_L * params.E_L + input) / conductance
    mem = still + (state.mem - still) * torch.exp(-params.dt * conductance / params.C)
    mem = mem.clamp(-200, 200)
    spk = params.spike_grad(mem - params.threshold) * (1 - fires(state.mem - params.threshold))
    return spk, HodgkinHuxleyState(mem, m, h, n)


hodgkin_huxley = Neuron(HodgkinHuxleyParams, HodgkinHuxleyState, hodgkin_huxley_init, hodgkin_huxley_step)


def _rates(mem: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """How fast the gates m, h and n open and close at this membrane, per ms."""
    return (
        (_ramp((mem + 40) / 10), 4 * torch.exp(-(mem + 65) / 18)),
        (0.07 * torch.exp(-(mem + 65) / 20), 1 / (1 + torch.exp(-(mem + 35) / 10))),
        (0.1 * _ramp((mem + 55) / 10), 0.125 * torch.exp(-(mem + 65) / 80)),
    )


def _ramp(x: Tensor) -> Tensor:
    """x / (1 - exp(-x)), by its series near 0, where the quotient and its derivatives are 0/0 or lose their digits."""
    near = x.abs() < 0.1
    square = torch.where(near, x * x, 0.0)
    series = 1 + x / 2 + square * (1 / 12 - square * (1 / 720 - square / 30240))
    far = torch.where(near, 1.0, x)
    return torch.where(near, series, far / -torch.expm1(-far))
