"""Neurons of this library as those of NIR: which kind, with which numbers, and on which platforms.

    lif, cuba_lif                                   LIF, or IF where nothing leaks; CubaLIF
    leaky, "zero"                                   LIF: beta v + x, and 0 with the next step
    immediate_reset(leaky, synaptic), "zero"        LIF, CubaLIF: 0 at once
    readout(lif, cuba_lif, leaky, synaptic)         LI, or I where nothing leaks; CubaLI
    leaky_integrator                                LI, or I

NIR's neurons are reset to a value. What is reset otherwise, or does something else, is refused, with what can be said instead.
"""

from typing import Any, NamedTuple

from torch import Tensor

from ..modifiers import immediate_reset, readout
from ..modifiers._modifier import Modifier
from ..neurons import (
    cuba_lif_step,
    CubaLifParams,
    leaky_integrator_step,
    leaky_step,
    LeakyIntegratorParams,
    LeakyParams,
    lif_step,
    LifParams,
    synaptic_step,
    SynapticParams,
)
from ._platforms import Platform, platforms


class Cell(NamedTuple):
    """- `kind`: NIR's. - `leaves`: those of the tree of `lif` or its kin. - `choices`: its choices."""

    kind: str
    leaves: dict[str, Tensor]
    choices: dict[str, Any]

    def misfit(self, platform: Platform) -> str | None:
        """What a platform does otherwise, in words; None where it goes through the same steps."""
        if self.kind in ("I", "IF"):
            asked = []
        else:
            asked = ["update", *(["current"] if self.kind.startswith("Cuba") else [])]
        if self.kind.endswith("F"):
            asked += ["reset_mechanism", "spike_delay", "inclusive"]
            if self.choices["reset_mechanism"] == "subtract":  # to a value, the spikes are the same
                asked += ["reset_delay"]
        for name in asked:
            there = platform.choice(name, self.kind)
            if self.choices[name] != there:
                return f"{name} is {self.choices[name]!r}, there {there!r}"
        return None


def cell_of(step: Any, params: Any, where: str) -> Cell | None:
    """The neuron with this step as one of NIR's; None for what is no neuron.

    Raises ValueError for one that NIR has no words for.
    """
    at_once, read = isinstance(step, immediate_reset), isinstance(step, readout)
    inner = step.step if isinstance(step, (immediate_reset, readout)) else step
    tree, kind = _KINDS.get(inner, (None, ""))
    if tree is not None:
        of_type(params, tree, step, where)
    if tree is None or (at_once and inner not in (leaky_step, synaptic_step)):
        if isinstance(step, Modifier):
            raise ValueError(f"{where}: NIR has no words for {step!r}.")
        return None
    leaves = {name: getattr(params, name) for name in params.__leaves__}
    choices = {name: getattr(params, name) for name in params.__choices__}
    if inner not in (
        lif_step,
        cuba_lif_step,
    ):  # snnTorch's: a share of the membrane is kept, and the input comes in whole
        one, none = params.beta.new_ones(()), params.beta.new_zeros(())
        leaves = {"gain": one, "leak": none, "reset": none} | ({"w_in": one} if "alpha" in leaves else {}) | leaves
        zero = "value" if at_once or inner is leaky_step else "late"
        reset = zero if choices.get("reset_mechanism") == "zero" else "none"
        choices = {"update": "decay", "current": "new", "reset_mechanism": reset, "reset_delay": not at_once}
        choices |= {"spike_delay": False, "inclusive": False}
    if read or inner is leaky_integrator_step:
        leaves = {name: x for name, x in leaves.items() if name not in ("threshold", "reset")}
        return _kind(kind.removesuffix("F"), leaves, choices)
    if choices["reset_mechanism"] not in ("value", "subtract"):
        raise ValueError(f"{where}: {_other_reset(inner, params.reset_mechanism)}")
    return _kind(kind, leaves, choices)


def of_type(params: Any, tree: Any, step: Any, where: str) -> None:
    """Raises TypeError for params that are another layer's."""
    if not isinstance(params, tree):
        called = getattr(step, "__name__", repr(step)).removesuffix("_step")
        raise TypeError(f"{where}: {called} has {tree.__name__}, but a {type(params).__name__} came.")


def _kind(kind: str, leaves: dict[str, Tensor], choices: dict[str, Any]) -> Cell:
    """Without a leak it is another kind of node."""
    whole = choices["update"] == "decay" and bool((leaves["beta"] == 1).all()) and not bool(leaves["leak"].any())
    return Cell({"LIF": "IF", "LI": "I"}.get(kind, kind) if whole else kind, leaves, choices)


def _other_reset(step: Any, reset: str) -> str:
    if step is synaptic_step and reset == "zero":
        why = 'its "zero" comes with the next step, and takes that step\'s current, too'
        way = 'immediate_reset(synaptic), or cuba_lif with reset_mechanism="value"'
    else:
        why = f"reset_mechanism {reset!r} is not NIR's, whose neurons go to a value when they fire"
        value = {
            leaky_step: 'reset_mechanism="zero"',
            synaptic_step: 'immediate_reset(synaptic), reset_mechanism="zero"',
        }
        way = value.get(step, 'reset_mechanism="value"')
        if reset == "none":
            way += ", or read it out, readout(lif), which does not fire"
        elif step is leaky_step or step is synaptic_step:
            lif, readers = ("lif", "LIF") if step is leaky_step else ("cuba_lif", "CubaLIF")
            there = [name for name, x in platforms.items() if x.choice("reset_mechanism", readers) == "subtract"]
            way += f". No reader goes through its steps as they are; for one that subtracts ({', '.join(there)}) train {lif} with its "
            way += "choices, as snf.platforms has them"
    return f"{why}. Train it with {way}."


_KINDS: dict[Any, tuple[Any, str]] = {
    lif_step: (LifParams, "LIF"),
    cuba_lif_step: (CubaLifParams, "CubaLIF"),
    leaky_step: (LeakyParams, "LIF"),
    synaptic_step: (SynapticParams, "CubaLIF"),
    leaky_integrator_step: (LeakyIntegratorParams, "LI"),
}
