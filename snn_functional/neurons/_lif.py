"""Leaky integrate-and-fire with a choice wherever the platforms differ: decay, input, resting potential, reset, and the time of both.

A step is three things in a row, of the membrane that the last one left:

    1. mem = beta (mem - leak) + leak + gain input              update "decay"
             mem + beta (leak + gain input - mem)               update "relax"
    2. spk = S(mem - threshold)
    3. mem = mem - spk threshold                                reset_mechanism "subtract"
             (1 - spk) mem + spk reset                          "value"
             mem                                                "none"

- "relax" goes the share beta of the way to where the membrane would come to rest: beta = dt / tau is Euler's step of
  tau v' = (leak - v) + gain input, and beta = 1 - exp(-dt / tau) the exact one for an input that stands still. What is rounded
  differs from "decay", and a platform's spikes are its own only in its own form.
- `reset_delay`: 3 falls into the next step. To a value it comes before that step's 1, so the spikes stay the same and the state shows the
  peak of the spike; subtraction comes after it, from a membrane that has decayed, as in `snntorch.Leaky`.
- `spike_delay`: a step begins with 2, and puts out the spike of the membrane as it was left; 3 follows at once, or, with `reset_delay`,
  as above. The spikes come a step later, as in Spyx.
- `inclusive`: a membrane that reaches the threshold exactly fires, too.
- `detach_reset`: no gradient passes from spk into 3, where H(mem - threshold) stands for it.

`snf.platforms` has the numbers and choices of ten platforms. beta = 1, "decay", is an integrator without a leak.

Source: the maps of Norse 1.1.0, snnTorch 1.0.0, SpikingJelly 2.0.0, sinabs 3.1.3, Spyx 1.0.0 and jaxpike 0.1.4, each compared in a test.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["LifParams", "LifState", "lif_init", "lif_step", "lif"]


class Fires:
    """What modifiers ask of the params of `lif` and `cuba_lif`."""

    spike_delay: bool
    reset_delay: bool
    reset_mechanism: str

    @property
    def fires_from_state(self) -> bool:
        """Are the spikes of a step those of the membrane that it leaves? Modifiers that look at the spikes again need that."""
        return not self.spike_delay and (self.reset_delay or self.reset_mechanism == "none")

    def fire(self, mem: Tensor) -> Tensor:
        """The spikes of a membrane."""
        return fire(self, mem)


@pytree
class LifParams(Fires):
    """Numbers are () or (neurons,); potentials are in units of the threshold.

    - `beta`: share of the membrane that is kept in a step; of an update "relax", the share that is lost. Read as clamped to [0, 1].
    - `gain`: what the input is multiplied by.
    - `leak`: the resting potential, where a membrane without input goes, and begins.
    - `threshold`: the neuron fires above it.
    - `reset`: the potential after a spike, where `reset_mechanism` is "value".
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "subtract", "value" or "none".
    - `update`: "decay" or "relax".
    - `reset_delay`, `spike_delay`: one step later. - `detach_reset`: without a gradient. - `inclusive`: fires at the threshold, too.
    """

    beta: Leaf
    gain: Leaf = leaf(default=1.0)
    leak: Leaf = leaf(default=0.0)
    threshold: Leaf = leaf(default=1.0)
    reset: Leaf = leaf(default=0.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="subtract", choices=("subtract", "value", "none"))
    update: str = static(default="decay", choices=("decay", "relax"))
    reset_delay: bool = static(default=False, choices=(False, True))
    spike_delay: bool = static(default=False, choices=(False, True))
    detach_reset: bool = static(default=False, choices=(False, True))
    inclusive: bool = static(default=False, choices=(False, True))

    @property
    def kept(self) -> Tensor:
        """The share of the membrane that is kept in a step, whatever the update."""
        return unit(self.beta) if self.update == "decay" else 1 - unit(self.beta)


@pytree
class LifState:
    """- `mem`: membrane potential, in units of the threshold. (batch, ..., neurons)."""

    mem: Tensor


def lif_init(params: LifParams, input: Tensor) -> LifState:
    """The membrane at rest (`leak`), shaped like one time step of `input`."""
    return LifState(mem=at_rest(params, input) + params.leak)


def lif_step(params: LifParams, state: LifState, input: Tensor) -> tuple[Tensor, LifState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    beta, leak, drive = unit(params.beta), params.leak, params.gain * input

    def update(mem: Tensor) -> Tensor:
        if params.update == "relax":
            return mem + beta * (drive + leak - mem)
        return beta * (mem - leak) + leak + drive

    spk, mem = spike_and_reset(params, state.mem, update)
    return spk, LifState(mem)


def fire(params: Any, mem: Tensor) -> Tensor:
    """S(mem - threshold), which is 1 at the threshold, too, where the params say `inclusive`."""
    above = mem - params.threshold
    spk = params.spike_grad(above)
    return spk + (above == 0).to(spk.dtype) if params.inclusive else spk


def spike_and_reset(params: Any, mem: Tensor, update: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The three parts of a step, in the order that the params say: the spikes, and the membrane that is left."""
    if not (params.reset_delay or params.spike_delay):
        mem = update(mem)
        spk = fire(params, mem)
        return spk, _lowered(params, mem, _cost(params, mem, spk))
    spk = fire(params, mem)
    cost = _cost(params, mem, spk)
    if params.reset_delay and params.reset_mechanism == "subtract":
        mem = _lowered(params, update(mem), cost)
    else:
        mem = update(_lowered(params, mem, cost))
    return spk if params.spike_delay else fire(params, mem), mem


def _cost(params: Any, mem: Tensor, spk: Tensor) -> Tensor:
    """The spikes that are paid for. Without a gradient they are H, as those of `leaky`."""
    if params.detach_reset:
        above = mem - params.threshold
        return (above >= 0).to(spk.dtype) if params.inclusive else fires(above)
    return spk


def _lowered(params: Any, mem: Tensor, spk: Tensor) -> Tensor:
    """The membrane after the reset."""
    if params.reset_mechanism == "subtract":
        return mem - spk * params.threshold
    if params.reset_mechanism == "value":
        return (1 - spk) * mem + spk * params.reset
    return mem


lif = Neuron(LifParams, LifState, lif_init, lif_step)
