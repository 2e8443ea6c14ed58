"""LI and CubaLI: `lif` and `cuba_lif` that never fire, read at the membrane. With beta = 1, "decay", LI is NIR's I.

    li         mem as that of `lif`, with reset_mechanism "none"
    cuba_li    mem as that of `cuba_lif`, with reset_mechanism "none"

The output *is* the membrane after the step.
"""

from typing import Any

from torch import Tensor

from .._neuron import Neuron
from .._tree import Leaf, leaf, pytree, static
from ..neurons import cuba_lif_init, cuba_lif_step, CubaLIFParams, CubaLIFState, lif_init, lif_step, LIFParams, LIFState
from ..surrogate import fires


@pytree
class LIParams:
    """Numbers are () or (neurons,). `beta`, `gain`, `leak`, `update`: those of `LIFParams`."""

    beta: Leaf
    gain: Leaf = leaf(default=1.0)
    leak: Leaf = leaf(default=0.0)
    update: str = static(default="decay", choices=("decay", "relax"))


@pytree
class CubaLIParams:
    """Numbers are () or (neurons,). `alpha`, `beta`, `w_in`, `gain`, `leak`, `current`, `update`: those of `CubaLIFParams`."""

    alpha: Leaf
    beta: Leaf
    w_in: Leaf = leaf(default=1.0)
    gain: Leaf = leaf(default=1.0)
    leak: Leaf = leaf(default=0.0)
    current: str = static(default="new", choices=("new", "kept", "before", "old"))
    update: str = static(default="decay", choices=("decay", "relax"))


def li_init(params: LIParams, input: Tensor) -> LIFState:
    """The membrane at rest (`leak`), shaped like one time step of `input`."""
    return lif_init(_silent(LIFParams, params), input)


def li_step(params: LIParams, state: LIFState, input: Tensor) -> tuple[Tensor, LIFState]:
    """One time step: (mem, state). `input` has the shape of `state.mem`."""
    _, state = lif_step(_silent(LIFParams, params), state, input)
    return state.mem, state


def cuba_li_init(params: CubaLIParams, input: Tensor) -> CubaLIFState:
    """No current, and the membrane at rest (`leak`), shaped like one time step of `input`."""
    return cuba_lif_init(_silent(CubaLIFParams, params), input)


def cuba_li_step(params: CubaLIParams, state: CubaLIFState, input: Tensor) -> tuple[Tensor, CubaLIFState]:
    """One time step: (mem, state). `input` has the shape of `state.mem`."""
    _, state = cuba_lif_step(_silent(CubaLIFParams, params), state, input)
    return state.mem, state


def _silent(kind: Any, params: Any) -> Any:
    """The same numbers for the neuron that fires; its spikes, which nobody reads, have no gradient."""
    own = {"threshold": 0.0, "reset": 0.0}
    choices = {name: False for name in kind.__choices__} | {"spike_grad": fires, "reset_mechanism": "none"}
    of = lambda name, other: getattr(params, name) if hasattr(params, name) else other[name]
    return kind.__rebuild__([of(n, own) for n in kind.__leaves__], [of(n, choices) for n in kind.__choices__])


li = Neuron(LIParams, LIFState, li_init, li_step)
cuba_li = Neuron(CubaLIParams, CubaLIFState, cuba_li_init, cuba_li_step)
