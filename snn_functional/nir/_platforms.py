"""How a platform steps through the neurons of NIR, which says differential equations and no step.

    norse       v + dt/tau (v_leak - v + r x); above the threshold v_reset, at once: NIR by the letter, Euler's step
    snntorch    (1 - dt/tau) v + (dt/tau) r x; v_reset with the next step
    nengo       the exact step, 1 - exp(-dt/tau) of the way; v_reset at once
    spinnaker2  the same, but the threshold is subtracted
    rockpool, sinabs    exp(-dt/tau) v + (dt/tau) r x; a membrane at the threshold fires, too, and the threshold is subtracted at once
    spyx        (1 - dt/tau) v + (dt/tau) r x; it fires a step later, from the membrane as it was left; the threshold is subtracted then
    lava        (1 - dt/tau) v + (dt/tau) r x; it fires a step later, and v_reset

sinabs and Rockpool fire several times in one step where they are driven so hard; here it is once. The readers of snnTorch and sinabs leave
out r and v_leak, or refuse them; here they count.

Of I and IF, which have no time constant, a step counts as 1: v + r x. So it does in the readers of Norse and sinabs, and in the paper's
graph of N-MNIST. SpikingJelly's wants r = 1/dt, which is NIR by the letter: `integrate="dt"` is v + dt r x.

Source: the published traces of `paper/01_lif` in the NIR repository (Pedersen et al. 2024, doi:10.1038/s41467-024-52259-9).
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Platform:
    """What differs between the readers of a graph. One of your own: `dataclasses.replace(platforms["norse"], inclusive=True)`.

    - `decay`: of a membrane and of a current in one step: "euler", 1 - dt/tau, or "exact", exp(-dt/tau).
    - `share`: of the input that comes in: "euler", dt/tau, or "exact", 1 - exp(-dt/tau). With `update` "relax" it is as `decay`.
    - `integrate`: what I and IF add up at a step: "step", r x, or "dt", dt r x.
    - the others: choices of `lif` and `cuba_lif`, see there. `cuba_reset_delay`: `reset_delay` of CubaLIF, where that is another.
    """

    decay: str = "euler"
    share: str = "euler"
    integrate: str = "step"
    update: str = "relax"
    current: str = "new"
    reset_mechanism: str = "value"
    reset_delay: bool = False
    cuba_reset_delay: bool | None = None
    spike_delay: bool = False
    inclusive: bool = False
    detach_reset: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("decay", SHARES), ("share", SHARES), ("integrate", ("step", "dt"))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"Platform({name}={getattr(self, name)!r}): unknown choice. It is one of {', '.join(map(repr, allowed))}."
                )
        if self.update == "relax" and self.decay != self.share:
            raise ValueError(
                f'Platform(update="relax", decay={self.decay!r}, share={self.share!r}): what goes a share of the way has one share. Give '
                'both alike, or update="decay".'
            )

    def choice(self, name: str, kind: str) -> Any:
        """One of the choices of `lif`, or for "CubaLIF" of `cuba_lif`."""
        cuba = kind.startswith("Cuba") and name == "reset_delay" and self.cuba_reset_delay is not None
        return self.cuba_reset_delay if cuba else getattr(self, name)


SHARES = ("euler", "exact")
_EULER: dict[str, Any] = {"update": "decay"}
_EXPONENTIAL: dict[str, Any] = {"update": "decay", "decay": "exact", "current": "kept", "reset_mechanism": "subtract"}
_EXPONENTIAL["inclusive"] = True

platforms = {
    "norse": Platform(),
    "snntorch": Platform(**_EULER, reset_delay=True),
    "nengo": Platform(decay="exact", share="exact"),
    "spinnaker2": Platform(decay="exact", share="exact", reset_mechanism="subtract"),
    "rockpool": Platform(**_EXPONENTIAL),
    "sinabs": Platform(**_EXPONENTIAL),
    "spyx": Platform(**_EULER, reset_mechanism="subtract", spike_delay=True, reset_delay=True, cuba_reset_delay=False),
    "lava": Platform(**_EULER, spike_delay=True),
}


def platform_of(given: Any) -> Platform:
    """A platform by its name, a `Platform` as it is, or one of these knobs, a dictionary. Raises ValueError and TypeError for what is
    none of these."""
    if isinstance(given, Platform):
        return given
    if isinstance(given, dict):
        known = [field.name for field in dataclasses.fields(Platform)]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"platform={given!r}: unknown are {', '.join(unknown)}. There are {', '.join(known)}.")
        return Platform(**given)
    if not isinstance(given, str):
        raise TypeError(
            f"platform is a name, a nir.Platform or a dictionary of its knobs, but {type(given).__name__} came. Names are "
            f"{', '.join(platforms)}."
        )
    if given not in platforms:
        raise ValueError(f"platform={given!r} is not known. It is one of {', '.join(platforms)}, or a nir.Platform.")
    return platforms[given]
