"""Current-based leaky integrate-and-fire: a synaptic current, which decays by itself, feeds the membrane of `lif`.

    syn = alpha syn + w_in input                                update "decay"
          syn + alpha (w_in input - syn)                        update "relax"
    the three parts of `lif`, with syn as its input

The membrane sees the current of this step: `current` "new". The platforms have three other orders, and theirs are:

    current "kept"      syn = alpha (syn + w_in input); the membrane sees it               sinabs, Rockpool
            "before"    the membrane sees syn + w_in input, and then it decays             Norse
            "old"       the membrane sees the syn of the step before                       snnax

In these two "relax" decays by subtraction: j - alpha j.

Source: the maps of Norse 1.1.0, SpikingJelly 2.0.0, sinabs 3.1.3 and Spyx 1.0.0, each compared in a test.
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike
from ._lif import Fires, spike_and_reset


__all__ = ["CubaLifParams", "CubaLifState", "cuba_lif_init", "cuba_lif_step", "cuba_lif"]


@pytree
class CubaLifParams(Fires):
    """Numbers are () or (neurons,); those of `LifParams`, and two more.

    - `alpha`: share of the current that is kept in a step; of an update "relax", the share that is lost. Read as clamped to [0, 1].
    - `beta`: the same of the membrane.
    - `w_in`: what the input is multiplied by, on its way to the current. - `gain`: the same of the current, on its way to the membrane.
    - `leak`, `threshold`, `reset`, `spike_grad`, `reset_mechanism`, `update`, `reset_delay`, `spike_delay`, `detach_reset`,
      `inclusive`: see `LifParams`.
    - `current`: which current the membrane sees: "new", "kept", "before" or "old".
    """

    alpha: Leaf
    beta: Leaf
    w_in: Leaf = leaf(default=1.0)
    gain: Leaf = leaf(default=1.0)
    leak: Leaf = leaf(default=0.0)
    threshold: Leaf = leaf(default=1.0)
    reset: Leaf = leaf(default=0.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="subtract", choices=("subtract", "value", "none"))
    current: str = static(default="new", choices=("new", "kept", "before", "old"))
    update: str = static(default="decay", choices=("decay", "relax"))
    reset_delay: bool = static(default=False, choices=(False, True))
    spike_delay: bool = static(default=False, choices=(False, True))
    detach_reset: bool = static(default=False, choices=(False, True))
    inclusive: bool = static(default=False, choices=(False, True))


@pytree
class CubaLifState:
    """- `syn`: synaptic current. - `mem`: membrane potential, in units of the threshold. (batch, ..., neurons)."""

    syn: Tensor
    mem: Tensor


def cuba_lif_init(params: CubaLifParams, input: Tensor) -> CubaLifState:
    """No current, and the membrane at rest (`leak`), shaped like one time step of `input`."""
    return CubaLifState(syn=at_rest(params, input), mem=at_rest(params, input) + params.leak)


def cuba_lif_step(params: CubaLifParams, state: CubaLifState, input: Tensor) -> tuple[Tensor, CubaLifState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    alpha, beta, leak = unit(params.alpha), unit(params.beta), params.leak
    relax, jump = params.update == "relax", params.w_in * input
    if params.current in ("kept", "before"):
        seen = state.syn + jump
        syn = seen - alpha * seen if relax else alpha * seen
        seen = syn if params.current == "kept" else seen
    else:
        syn = state.syn + alpha * (jump - state.syn) if relax else alpha * state.syn + jump
        seen = syn if params.current == "new" else state.syn

    def update(mem: Tensor) -> Tensor:
        if relax:
            return mem + beta * (leak - mem + params.gain * seen)
        return beta * (mem - leak) + leak + params.gain * seen

    spk, mem = spike_and_reset(params, state.mem, update)
    return spk, CubaLifState(syn, mem)


cuba_lif = Neuron(CubaLifParams, CubaLifState, cuba_lif_init, cuba_lif_step)
