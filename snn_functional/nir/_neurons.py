"""NIR's neurons as `lif` and `cuba_lif`, and back: time constants in seconds as shares of a step. LI, CubaLI and I are their `readout`.

    NIR                                     here, update "relax"        update "decay"
    tau v' = (v_leak - v) + r x             beta = s(tau), gain = r     beta = d(tau), gain = r s'(tau)
    tau_syn I' = -I + w_in S                alpha = s(tau_syn), w_in    alpha = d(tau_syn), w_in s'(tau_syn)
    v' = r x                                "decay": beta = 1, gain = r, or r dt

with s, d and s' as the platform says: dt / tau or 1 - exp(-dt / tau), and 1 - s. They are computed in double precision and rounded once.
So what is written in double precision, as `numbers_of` does it, is read again bit for bit.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._neuron import Neuron
from ..modifiers import readout
from ..neurons import cuba_lif, CubaLifParams, lif, LifParams
from ..surrogate import Spike
from ._given import Given, Shape
from ._platforms import Platform


NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")
FIRING = ("reset_mechanism", "reset_delay", "spike_delay", "inclusive", "detach_reset")


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """- `dt`: a step in seconds. - `platform`: which step. - `spike_grad`: a surrogate for all that fires."""

    dt: float
    platform: Platform
    spike_grad: Spike

    def neuron(self, given: Given) -> tuple[Neuron, Any, Shape]:
        """The neuron, its params, and the shape of its neurons.

        Raises ValueError for a time constant that is not above 0, or below dt where the step is Euler's, and for mixed shapes.
        """
        kind = given.kind
        taus = {"CubaLI": ("tau_syn", "tau_mem"), "CubaLIF": ("tau_syn", "tau_mem"), "LI": ("tau",), "LIF": ("tau",)}
        names = [*taus.get(kind, ()), "r", *(("v_leak",) if kind in taus else ())]
        fires = kind.endswith("F")
        numbers = {name: given.doubles(name) for name in [*names, *(("v_threshold",) if fires else ())]}
        if fires:
            numbers["v_reset"] = given.doubles("v_reset", None)
            if numbers["v_reset"] is None:  # files before 0.2 do not have it
                numbers["v_reset"] = torch.zeros_like(numbers["v_threshold"])
        shape = given.same_shape(numbers)
        if kind in ("CubaLI", "CubaLIF"):
            w_in = given.doubles("w_in", None)
            numbers["w_in"] = (
                torch.ones(shape, dtype=torch.float64) if w_in is None else w_in if w_in.dim() else w_in.expand(shape)
            )
            given.same_shape(numbers)
        for name in taus.get(kind, ()):
            self._check_tau(given, name, numbers[name])
        leaves = self.leaves(kind, numbers)
        tree, neuron = _TREES[kind]
        leaves = {key: x.to(given.dtype).contiguous() for key, x in leaves.items()}
        return neuron, tree(**leaves, **self.choices(kind)), shape

    def leaves(self, kind: str, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
        """The leaves of the tree, of NIR's numbers in double precision."""
        relax = self.platform.update == "relax"
        found = {"leak": numbers["v_leak"]} if "v_leak" in numbers else {}
        if kind in ("I", "IF"):
            per = 1.0 if self.platform.integrate == "step" else self.dt
            found |= {"beta": torch.ones_like(numbers["r"]), "gain": numbers["r"] * per}
        else:
            tau = numbers["tau" if "tau" in numbers else "tau_mem"]
            found |= {"beta": self._beta(tau), "gain": numbers["r"] if relax else numbers["r"] * self._share(tau)}
        if "tau_syn" in numbers:
            tau, w_in = numbers["tau_syn"], numbers["w_in"]
            found |= {"alpha": self._beta(tau), "w_in": w_in if relax else w_in * self._share(tau)}
        if "v_threshold" in numbers:
            found |= {"threshold": numbers["v_threshold"], "reset": numbers["v_reset"]}
        return found

    def numbers(self, kind: str, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        """NIR's numbers of the leaves, in double precision: `leaves` backwards."""
        relax, found = self.platform.update == "relax", {}
        if kind in ("I", "IF"):
            found["r"] = leaves["gain"] / (1.0 if self.platform.integrate == "step" else self.dt)
        else:
            tau = self._tau(leaves["beta"])
            found["tau_mem" if "alpha" in leaves else "tau"] = tau
            found["r"] = leaves["gain"] if relax else leaves["gain"] / self._share(tau)
            found["v_leak"] = leaves["leak"]
        if "alpha" in leaves:
            found["tau_syn"] = tau = self._tau(leaves["alpha"])
            found["w_in"] = leaves["w_in"] if relax else leaves["w_in"] / self._share(tau)
        if "threshold" in leaves:
            found |= {"v_threshold": leaves["threshold"], "v_reset": leaves["reset"]}
        return found

    def choices(self, kind: str) -> dict[str, Any]:
        """The choices of the tree."""
        of = self.platform
        found: dict[str, Any] = {"update": "decay" if kind in ("I", "IF") else of.update}
        if kind.startswith("Cuba"):
            found["current"] = of.current
        if kind.endswith("F"):
            found |= {name: of.choice(name, kind) for name in FIRING} | {"spike_grad": self.spike_grad}
        return found

    def _check_tau(self, given: Given, name: str, tau: Tensor) -> None:
        if not bool((tau > 0).all()):
            raise given.wrong(f"{name} is a time constant in seconds, above 0, but {float(tau.min()):g} came.")
        euler = "euler" in (self.platform.decay, self.platform.share)
        if euler and bool((tau < self.dt * (1 - 1e-6)).any()):
            raise given.wrong(
                f"{name} = {float(tau.min()):g} s is shorter than a step, dt={self.dt:g} s, and Euler's step would overshoot. Read it with "
                f'dt={float(tau.min()):g} or less, or with an exact step, as that of platform="nengo".'
            )

    def _share(self, tau: Tensor) -> Tensor:
        return _shares(self.platform.share, tau, self.dt)

    def _beta(self, tau: Tensor) -> Tensor:
        if self.platform.update == "relax":
            return _shares(self.platform.decay, tau, self.dt)
        return torch.exp(-self.dt / tau) if self.platform.decay == "exact" else 1 - self.dt / tau

    def _tau(self, beta: Tensor) -> Tensor:
        relax, exact = self.platform.update == "relax", self.platform.decay == "exact"
        if exact:
            return -self.dt / (torch.log1p(-beta) if relax else torch.log(beta))
        return self.dt / (beta if relax else 1 - beta)


def _shares(how: str, tau: Tensor, dt: float) -> Tensor:
    return -torch.expm1(-dt / tau) if how == "exact" else (dt / tau).clamp(max=1)


_read_out: Callable[[Neuron], Any] = readout  # pyright: ignore[reportAssignmentType]
_TREES: dict[str, tuple[Callable[..., Any], Neuron]] = {
    "I": (LifParams, _read_out(lif)),
    "IF": (LifParams, lif),
    "LI": (LifParams, _read_out(lif)),
    "LIF": (LifParams, lif),
    "CubaLI": (CubaLifParams, _read_out(cuba_lif)),
    "CubaLIF": (CubaLifParams, cuba_lif),
}
