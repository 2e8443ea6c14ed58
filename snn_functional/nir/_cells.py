"""Neurons of this library as those of NIR: which kind, with which numbers, and on which platforms.

    lif, cuba_lif, li, cuba_li      LIF or IF, CubaLIF, LI or I, CubaLI
    leaky, "zero"                   LIF: beta v + x, and 0 with the next step
    immediate_reset(leaky, synaptic), "zero"        LIF, CubaLIF: 0 at once
    leaky_integrator                LI, or I where beta is 1

NIR's neurons are reset to a value. What is reset otherwise, or does something else, is refused, with what can be said instead.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..modifiers import immediate_reset
from ..modifiers._modifier import Modifier
from ..neurons import (
    cuba_lif_step,
    CubaLIFParams,
    leaky_integrator_step,
    leaky_step,
    LeakyIntegratorParams,
    LeakyParams,
    lif_step,
    LIFParams,
    synaptic_step,
    SynapticParams,
)
from ._integrators import cuba_li_step, CubaLIParams, li_step, LIParams
from ._platforms import Platform


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
    at_once = isinstance(step, immediate_reset)
    inner = step.step if at_once else step
    leaves = {name: getattr(params, name) for name in getattr(params, "__leaves__", ())}
    choices = {name: getattr(params, name) for name in getattr(params, "__choices__", ())}
    rest = {"update": "decay", "current": "new", "reset_mechanism": "value", "spike_delay": False, "inclusive": False}
    if inner is leaky_integrator_step and isinstance(params, LeakyIntegratorParams) and not at_once:
        return _kind("LI", {**_like(params.beta), "beta": params.beta}, rest)
    if (inner is leaky_step and isinstance(params, LeakyParams)) or (
        inner is synaptic_step and isinstance(params, SynapticParams)
    ):
        name = "leaky" if inner is leaky_step else "synaptic"
        if params.reset_mechanism != "zero" or not (at_once or inner is leaky_step):
            raise ValueError(f"{where}: {_other_reset(name, params.reset_mechanism)}")
        leaves = _like(params.beta) | {"reset": torch.zeros(())} | leaves
        return _kind("LIF", leaves, rest | {"reset_delay": not at_once}) if inner is leaky_step else Cell(
            "CubaLIF", leaves | {"w_in": torch.ones(())}, rest | {"reset_delay": False}
        )
    if at_once:
        raise ValueError(f"{where}: immediate_reset goes around leaky or synaptic here; lif resets at once by itself.")
    for own, tree, kind in _KINDS:
        if inner is own and isinstance(params, tree):
            if kind.endswith("F") and choices["reset_mechanism"] == "none":
                raise ValueError(f"{where}: {_other_reset(kind, 'none')}")
            return _kind(kind, leaves, choices)
    if isinstance(step, Modifier):
        raise ValueError(f"{where}: NIR has no words for {step!r}.")
    return None


def _kind(kind: str, leaves: dict[str, Tensor], choices: dict[str, Any]) -> Cell:
    """Without a leak it is another kind of node."""
    whole = choices["update"] == "decay" and bool((leaves["beta"] == 1).all()) and not bool(leaves["leak"].any())
    return Cell({"LIF": "IF", "LI": "I"}.get(kind, kind) if whole else kind, leaves, choices)


def _like(beta: Tensor) -> dict[str, Tensor]:
    """What `lif` has beside."""
    return {"gain": beta.new_ones(()), "leak": beta.new_zeros(())}


def _other_reset(name: str, reset: str) -> str:
    if name == "synaptic" and reset == "zero":
        why = "its \"zero\" comes with the next step, and takes that step's current, too"
        way = 'immediate_reset(synaptic), or cuba_lif with reset_mechanism="value"'
    else:
        why = f"reset_mechanism {reset!r} is not NIR's, whose neurons go to a value when they fire"
        way = {"leaky": 'reset_mechanism="zero"', "synaptic": 'immediate_reset(synaptic), reset_mechanism="zero"'}.get(
            name, 'reset_mechanism="value"'
        )
        if reset == "none":
            way += ", or li, which does not fire"
    return f"{why}. Train it with {way}."


_KINDS: tuple[tuple[Any, Any, str], ...] = (
    (lif_step, LIFParams, "LIF"),
    (cuba_lif_step, CubaLIFParams, "CubaLIF"),
    (li_step, LIParams, "LI"),
    (cuba_li_step, CubaLIParams, "CubaLI"),
)
