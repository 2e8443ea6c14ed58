"""Short-term plasticity (Tsodyks-Markram): spikes become currents that grow with use, or tire.

    u      = rho_f u[t-1]                              the share that a spike uses is forgotten,
    x      = 1 - rho_d (1 - x[t-1])                    and what is there to use recovers
    u[t]   = u + U (1 - u) input[t]                    a spike raises the share,
    out[t] = u[t] x input[t]                           gives that share of what is there,
    x[t]   = x - out[t]                                and uses it up

So long as no input is above 1, u and x stay within 0 and 1; several spikes in a step, which overshoot, are not of this model. Between
spikes this is exact, with rho = exp(-1 / tau) for tau steps. It is no neuron but what stands at the end of an axon: in a
chain before the weights, and with `filtered` around it where its current decays slowly.

    net = chain(short_term_plasticity, linear, leaky)
    net = chain(filtered(short_term_plasticity), linear, leaky)         FilteredParams(ShortTermPlasticityParams(), decay=0.95)

Source: Tsodyks, Pawelzik & Markram 1998, doi:10.1162/089976698300017502, in the form of Tsodyks & Wu 2013,
doi:10.4249/scholarpedia.3153, whose two examples are the presets. `stp_step` of Norse 1.1 is Euler's method, and a spike there meets
u and x of the step before: by some 1 / tau it is off.
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree


__all__ = [
    "ShortTermPlasticityParams",
    "ShortTermPlasticityState",
    "short_term_plasticity_init",
    "short_term_plasticity_step",
    "short_term_plasticity",
    "short_term_plasticity_presets",
]


@pytree
class ShortTermPlasticityParams:
    """The defaults are a depressing synapse, a step being a millisecond. Each () or (neurons,), read as clamped to [0, 1].

    - `U`: how much of the rest of the share a spike takes.
    - `rho_f`: share of u kept each step, exp(-1/tau_f): high values facilitate.
    - `rho_d`: share of what was used up that is still missing after a step, exp(-1/tau_d): high values depress.
    """

    U: Leaf = leaf(default=0.45)
    rho_f: Leaf = leaf(default=0.9801986733067553)
    rho_d: Leaf = leaf(default=0.9986675550469382)


@pytree
class ShortTermPlasticityState:
    """- `u`: share of what is there that the last spike used, decayed since. (batch, ..., neurons).
    - `x`: what is there to be used, 1 at rest. (batch, ..., neurons).
    """

    u: Tensor
    x: Tensor


def short_term_plasticity_init(params: ShortTermPlasticityParams, input: Tensor) -> ShortTermPlasticityState:
    """Rested: u is 0 and x is 1, shaped like one time step of `input`."""
    return ShortTermPlasticityState(u=at_rest(params, input), x=at_rest(params, input) + 1)


def short_term_plasticity_step(
    params: ShortTermPlasticityParams, state: ShortTermPlasticityState, input: Tensor
) -> tuple[Tensor, ShortTermPlasticityState]:
    """One time step: currents of the shape of `input`, which are spikes, or shares of one."""
    input = admit(params, state, input)
    u, x = unit(params.rho_f) * state.u, 1 - unit(params.rho_d) * (1 - state.x)
    u = u + unit(params.U) * (1 - u) * input
    current = u * x * input
    return current, ShortTermPlasticityState(u, x - current)


short_term_plasticity = Neuron(
    ShortTermPlasticityParams, ShortTermPlasticityState, short_term_plasticity_init, short_term_plasticity_step
)

short_term_plasticity_presets = {  # tau_f 50 and tau_d 750 ms, and the other way round; a step is a millisecond
    "depressing": {"U": 0.45, "rho_f": 0.9801986733067553, "rho_d": 0.9986675550469382},
    "facilitating": {"U": 0.15, "rho_f": 0.9986675550469382, "rho_d": 0.9801986733067553},
}
