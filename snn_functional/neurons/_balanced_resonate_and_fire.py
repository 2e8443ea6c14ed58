"""Balanced resonate-and-fire (BRF): an oscillator whose damping is measured from where it would run away, and that after a spike is
damped more and harder to fire for a while.

    p(omega) = (sqrt(1 - (dt omega)^2) - 1) / dt                the divergence boundary
    q[t]     = gamma q[t-1] + spk[t-1]                          the refractory period
    b[t]     = p(omega) - b_offset - q[t]
    mem[t]   = mem[t-1] + dt (b[t] mem[t-1] - omega imag[t-1] + input[t])
    imag[t]  = imag[t-1] + dt (omega mem[t-1] + b[t] imag[t-1])
    spk[t]   = S(mem[t] - threshold - q[t])

Euler's method lets an oscillation grow whose b is above p(omega); measured from there, by b_offset >= 0, it never does. There is no
reset. `mem` is the real part, which gets the input. Of the unit of time a step is `dt`: omega is in radians, b_offset, q and the input
are per unit. Where dt omega is beyond 1 there is no such b: the root is taken as 0.001 there, and the oscillation grows. It grows, too,
where dt (b_offset + q) is near 2. Gradients pass through all of it; the surrogate's reach the next steps by q.

Source: Higuchi et al. 2024, arXiv:2402.14603, in the order of its program (AdaptiveAILab/brf-neurons, `BRFCell`), whose layer takes
the absolute values of omega and b_offset first.
"""

from typing import Any

import torch
from torch import Tensor

from .._neuron import above_zero, admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = [
    "BalancedResonateAndFireParams",
    "BalancedResonateAndFireState",
    "balanced_resonate_and_fire_init",
    "balanced_resonate_and_fire_step",
    "balanced_resonate_and_fire",
]


@pytree
class BalancedResonateAndFireParams:
    """- `omega`: radians per unit of time; dt omega is below 1. () or (neurons,).
    - `b_offset`: the damping beyond the divergence boundary, per unit of time. () or (neurons,).
    - `gamma`: share of the refractory period kept each step, read as clamped to [0, 1]. () or (neurons,).
    - `threshold`: the neuron fires above it, when it is not refractory. () or (neurons,).
    - `dt`: the length of a step. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold - q`.
    """

    omega: Leaf = leaf(default=10.0)
    b_offset: Leaf = leaf(default=1.0)
    gamma: Leaf = leaf(default=0.9)
    threshold: Leaf = leaf(default=1.0)
    dt: Leaf = leaf(default=0.01)
    spike_grad: Spike = static(default=ATan())

    def __check__(self) -> None:
        above_zero(self, "dt")

    def level(self, state: Any) -> Tensor:
        """Above which the membrane fires; modifiers that look at the spikes again ask for it."""
        return self.threshold + state.q


@pytree
class BalancedResonateAndFireState:
    """- `spk`: the last spikes. (batch, ..., neurons).
    - `q`: the spikes before them, each forgotten by gamma a step. (batch, ..., neurons).
    - `imag`: the part of the oscillation that does not fire. (batch, ..., neurons).
    - `mem`: the part that does, and that the input moves. (batch, ..., neurons).
    """

    spk: Tensor
    q: Tensor
    imag: Tensor
    mem: Tensor


def balanced_resonate_and_fire_init(
    params: BalancedResonateAndFireParams, input: Tensor
) -> BalancedResonateAndFireState:
    """No spikes, and the oscillation at rest (0), shaped like one time step of `input`."""
    rest = lambda: at_rest(params, input)
    return BalancedResonateAndFireState(spk=rest(), q=rest(), imag=rest(), mem=rest())


def balanced_resonate_and_fire_step(
    params: BalancedResonateAndFireParams, state: BalancedResonateAndFireState, input: Tensor
) -> tuple[Tensor, BalancedResonateAndFireState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    dt, omega, imag, mem = params.dt, params.omega, state.imag, state.mem
    q = unit(params.gamma) * state.q + state.spk
    turned = dt * omega
    root = torch.sqrt((1 - turned * turned).clamp(min=1e-6))
    boundary = -turned * omega / (1 + root)  # (root - 1) / dt, which loses most digits where the root is near 1
    b = boundary - params.b_offset - q
    mem, imag = mem + dt * (b * mem - omega * imag + input), imag + dt * (omega * mem + b * imag)
    spk = params.spike_grad(mem - (params.threshold + q))
    return spk, BalancedResonateAndFireState(spk, q, imag, mem)


balanced_resonate_and_fire = Neuron(
    BalancedResonateAndFireParams,
    BalancedResonateAndFireState,
    balanced_resonate_and_fire_init,
    balanced_resonate_and_fire_step,
)
