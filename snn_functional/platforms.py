"""The leaky integrate-and-fire neuron of each platform: `lif` or `cuba_lif`, with its numbers and choices.

    neuron, params = snf.platforms.norse(tau=1e-2, dt=1e-3)
    spks, state = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)

Every function gives `(neuron, params)`, which go into `chain`, `scan` and `nir` as any others. Its numbers may be tensors, one a
neuron, and a gradient passes through it: what is learned may be tau.

    loss = lambda tau: f(*snf.platforms.norse(tau=tau), xs)
    torch.func.grad(loss)(torch.full((256,), 1e-2))

One step of each (v membrane, i current, x input, s spike, H the step function):

    norse          v += dt/tau (x + leak - v); s = H(v - threshold); v = reset                                  Euler
    snntorch       r = H(v - threshold); v = beta v + x - r threshold; s = H(v - threshold)                     a late reset
    spikingjelly   v += (x - (v - reset)) / tau; s = [v >= threshold]; v = reset                                tau in steps
    sinabs         v = a v + (1 - a) x; s = floor(v / threshold); v -= s threshold                              several spikes
    rockpool       i = b (i + x); v = a v + i; s = floor(v / threshold); v -= s threshold                       a = exp(-dt / tau)
    lava           i = (1 - di) i + x; v = (1 - dv) v + i; s = H(v - threshold); v = 0                          in integers there
    spyx           s = H(v - threshold); v = beta v + x - s threshold                                           a late spike
    jaxpike        v = a v + (1 - a) x; s = H(v - threshold); v -= s threshold                                  a = exp(-dt / tau)
    snnax          v = a v + (1 - a) i; i = b i + (1 - b) x; s = [v >= threshold]; v = reset                    the old current
    nengo          v += (1 - exp(-dt / tau)) (x - v); s = H(v - threshold); v = 0                               exact

Each docstring says what of the platform is not here. The platform's own names are kept where only it has the knob; everywhere
`tau`, `tau_syn` and `dt` are of the membrane, the current and one step, in one unit, and `spike_grad` is the platform's default
surrogate where `snf.surrogate` has its formula, else ATan.

Raises ValueError for a time constant that is not above 0, for an Euler step that is longer than the time constant, which overshoots, and
for a reset that the platform does not have.
"""

from typing import Any

import torch
from torch import Tensor

from ._functorch import readable
from ._names import show as _show
from ._neuron import Neuron
from .modifiers._several import several
from .neurons import cuba_lif, CubaLifParams, lif, LifParams
from .surrogate import ATan, FastSigmoid, Sigmoid, Spike, SpikeRateEscape


Number = Tensor | float
ATAN, SIGMOID, EXPONENTIAL = ATan(2.0), Sigmoid(4.0), SpikeRateEscape(2.0, 2.0)
FAST_SIGMOID, SUPERSPIKE = FastSigmoid(25.0), FastSigmoid(1.0)


def norse(
    tau: Number = 1e-2,
    tau_syn: Number | None = None,
    *,
    dt: float = 1e-3,
    leak: Number = 0.0,
    threshold: Number = 1.0,
    reset: Number = 0.0,
    reset_mechanism: str = "value",
    spike_grad: Spike = SUPERSPIKE,
) -> tuple[Neuron, Any]:
    """Norse 1.1.0, bit for bit: `lif_box_feed_forward_step`, or with `tau_syn` `lif_feed_forward_step`. Times in seconds there.

        v += dt/tau (x + leak - v); s = H(v - threshold); v = (1 - s) v + s reset                    LIFBox
        i += x; v += dt/tau (leak - v + i); i -= dt/tau_syn i; s and reset likewise                  LIF

    The reset is not detached. `reset_mechanism`: "value", or for LIFBox "subtract". Norse gives `tau_mem_inv`, 1 / tau. Its surrogate
    is 1 / (1 + |u|)^2, whatever its `alpha`.

    Not here: the recurrent `lif_step`, which is `recurrent(cuba_lif)` with `detach_reset`.
    """
    mechanism = _reset("norse", reset_mechanism, ("value", "subtract") if tau_syn is None else ("value",))
    numbers = {"beta": _euler("norse", "tau", tau, dt), "leak": leak, "threshold": threshold, "reset": reset}
    choices = {"reset_mechanism": mechanism, "spike_grad": spike_grad, "update": "relax"}
    if tau_syn is None:
        return lif, LifParams(**numbers, **choices)
    alpha = _euler("norse", "tau_syn", tau_syn, dt)
    return cuba_lif, CubaLifParams(alpha, **numbers, **choices, current="before")


def snntorch(
    beta: Number,
    *,
    threshold: Number = 1.0,
    reset_mechanism: str = "subtract",
    reset_delay: bool = True,
    spike_grad: Spike = ATAN,
) -> tuple[Neuron, Any]:
    """snnTorch 1.0.0, bit for bit: `Leaky`.

        r = H(v - threshold); v = beta v + x - r threshold; s = H(v - threshold)                     "subtract"
                              v = beta (1 - r) v + x                                                 "zero"

    `reset_mechanism`: "subtract", "zero" or "none". Without `reset_delay` the reset falls into the step of the spike; where a spike
    leaves the membrane above the threshold, snnTorch then gives the next reset back and loses that spike, and this fires again.

    `snf.leaky` is the same neuron with `reset_delay`, and `snf.synaptic` is `Synaptic`.
    """
    mechanism = _reset("snntorch", reset_mechanism, ("subtract", "zero", "none"))
    numbers = {"threshold": threshold, "spike_grad": spike_grad}
    choices = {"reset_mechanism": mechanism, "reset_delay": reset_delay, "detach_reset": reset_delay}
    return lif, LifParams(beta, **numbers, **choices)


def spikingjelly(
    tau: Number = 2.0,
    *,
    decay_input: bool = True,
    threshold: Number = 1.0,
    reset: Number = 0.0,
    reset_mechanism: str = "value",
    detach_reset: bool = False,
    spike_grad: Spike = SIGMOID,
) -> tuple[Neuron, Any]:
    """SpikingJelly 2.0.0: `LIFNode`, `lif_step`. `tau` in steps; bit for bit where it is a power of two, as by default, and `reset` 0.

        v = v + (x - (v - reset)) / tau                                                              decay_input
            v - (v - reset) / tau + x                                                                without
        s = [v >= threshold]; v = s reset + (1 - s) v

    The membrane rests at `reset`. `reset_mechanism="subtract"` is its `v_reset=None`: the rest is then 0, and v -= s threshold.
    Else the sums are rounded elsewhere (it divides, this multiplies by 1 / tau), by some 1e-7 of the membrane in float32: one that meets
    the threshold to a rounding may fire in one and not in the other.
    """
    mechanism = _reset("spikingjelly", reset_mechanism, ("value", "subtract"))
    rate = _euler("spikingjelly", "tau", tau, 1.0)
    if mechanism == "subtract":
        reset = 0.0
    given = {"leak": reset, "threshold": threshold, "reset": reset, "spike_grad": spike_grad}
    choices = {"reset_mechanism": mechanism, "detach_reset": detach_reset, "inclusive": True}
    if decay_input:
        return lif, LifParams(rate, update="relax", **given, **choices)
    return lif, LifParams(1 - rate, **given, **choices)


def sinabs(
    tau: Number | None,
    tau_syn: Number | None = None,
    *,
    norm_input: bool = True,
    most: int | None = None,
    threshold: Number = 1.0,
    reset_mechanism: str = "subtract",
    spike_grad: Spike = EXPONENTIAL,
) -> tuple[Neuron, Any]:
    """sinabs 3.1.3, bit for bit: `LIF`, times in steps. `tau=None` is `IAF`, which does not leak and takes the input whole.

        a = exp(-1 / tau)
        v = a v + (1 - a) x                                                                          norm_input
            a v + x                                                                                  without
        s = floor(v / threshold), from 0 to most; v -= s threshold

    `most` is the largest number of spikes in a step: None is its `MultiSpike`, 1 its `SingleSpike`, another its `MaxSpike`.
    With `tau_syn` x is a current i = b (i + x), b = exp(-1 / tau_syn). `reset_mechanism`: "subtract", or "zero", its
    `MembraneReset()`, which is detached. Its surrogate is as wide as the threshold: for another than 1, give
    `SpikeRateEscape(2 / threshold, 2 / threshold)`.

    Not here: `min_v_mem`.
    """
    mechanism = _reset("sinabs", reset_mechanism, ("subtract", "zero"))
    beta = torch.ones(()) if tau is None else _kept("sinabs", "tau", tau, 1.0)
    gain = 1 - beta if norm_input and tau is not None else 1.0
    numbers = {"gain": gain, "threshold": threshold, "spike_grad": spike_grad}
    choices = {"reset_mechanism": mechanism, "detach_reset": mechanism == "value", "inclusive": True}
    return _with_current("sinabs", beta, tau_syn, 1.0, most, numbers, choices)


def rockpool(
    tau: Number = 0.02,
    tau_syn: Number | None = 0.01,
    *,
    dt: float = 1e-3,
    most: int | None = None,
    gain: Number = 1.0,
    threshold: Number = 1.0,
    spike_grad: Spike = ATAN,
) -> tuple[Neuron, Any]:
    """Rockpool 3.0, `LIFTorch`. Times in seconds there.

        i = exp(-dt / tau_syn) (i + x); v = exp(-dt / tau) v + i; s = floor(v / threshold); v -= s threshold

    Its bias is an input. With `tau_syn=None` the membrane sees x itself, times `gain`: the map of the trace that the paper on NIR
    publishes has a gain of dt / tau. `most` is the largest number of spikes in a step.

    Not here: noise, and its two surrogates.
    """
    numbers = {"gain": gain, "threshold": threshold, "spike_grad": spike_grad}
    beta = _kept("rockpool", "tau", tau, dt)
    return _with_current("rockpool", beta, tau_syn, dt, most, numbers, {"inclusive": True})


def lava(
    current_decay: Number,
    voltage_decay: Number,
    *,
    threshold: Number = 1.0,
    spike_grad: Spike = ATAN,
) -> tuple[Neuron, Any]:
    """lava-dl (head d825ac5), the CUBA neuron of its slayer, in floating point. The decays are the shares that are lost in a step.

        i = (1 - current_decay) i + x; v = (1 - voltage_decay) v + i; s = H(v - threshold); v = (1 - s) v

    It computes in integers, of Loihi's width: decays are rounded to 1/4096, i and v towards 0 to 1/4096 (1/64 of a weight) after each
    step, so its spikes are these only while such roundings do not matter. It compares with >=, and a threshold that is a hundredth of
    a rounding higher. The gradient passes its reset as if there were none; here it does not. Its voltage is that before the reset.
    """
    alpha, beta = (1 - _number(x) for x in (current_decay, voltage_decay))
    return cuba_lif, CubaLifParams(alpha, beta, threshold=threshold, spike_grad=spike_grad, reset_mechanism="value")


def spyx(
    beta: Number,
    alpha: Number | None = None,
    *,
    threshold: Number = 1.0,
    spike_grad: Spike = FAST_SIGMOID,
) -> tuple[Neuron, Any]:
    """Spyx 1.0.0, `LIF` (its `IF` for beta = 1), or with `alpha` `CuBaLIF`. The spike is that of the membrane before the input.

    s = H(v - threshold); v = beta v + x - s threshold                                           LIF
    s = H(v - threshold); i = alpha i + x; v = beta (v - s threshold) + i                        CuBaLIF
    """
    choices = {"threshold": threshold, "spike_grad": spike_grad, "spike_delay": True}
    if alpha is None:
        return lif, LifParams(beta, **choices, reset_delay=True)
    return cuba_lif, CubaLifParams(alpha, beta, **choices)


def jaxpike(
    tau: Number = 20.0,
    *,
    dt: float = 1.0,
    threshold: Number = 1.0,
    reset_mechanism: str = "subtract",
    spike_grad: Spike = FAST_SIGMOID,
) -> tuple[Neuron, Any]:
    """jaxpike 0.1.4, `LIF`: an input of x drives the membrane to x. It learns log(tau).

    a = exp(-dt / tau); v = a v + (1 - a) x; s = H(v - threshold); v -= s threshold, or v = (1 - s) v

    `reset_mechanism`: "subtract" or "zero".
    """
    mechanism = _reset("jaxpike", reset_mechanism, ("subtract", "zero"))
    beta = _kept("jaxpike", "tau", tau, dt)
    return lif, LifParams(beta, 1 - beta, threshold=threshold, spike_grad=spike_grad, reset_mechanism=mechanism)


def snnax(
    beta: Number,
    alpha: Number | None = None,
    *,
    threshold: Number = 1.0,
    reset: Number = 0.0,
    reset_mechanism: str = "value",
    detach_reset: bool = True,
    spike_grad: Spike = ATAN,
) -> tuple[Neuron, Any]:
    """snnax (head b7a55c6), `SimpleLIF`, or with `alpha` `LIF` and, for "subtract", `LIFSoftReset` whose value is the threshold.

        a, b = beta and alpha, clamped to [1/2, 1]; its `decay_constants` are (beta, alpha)
        v = a v + (1 - a) x; s = [v >= threshold]; v = reset                                         SimpleLIF: a reset of 0
        v = a v + (1 - a) i; i = b i + (1 - b) x; s and reset likewise                               LIF

    Its LIF keeps the membrane as it fired and resets it in the next step: the same spikes. Where its reset to a value is detached, the
    gradient passes through the membrane as if there were no reset; here it ends there.
    """
    mechanism = _reset("snnax", reset_mechanism, ("value", "subtract") if alpha is not None else ("value",))
    a = _number(beta).clamp(0.5, 1)
    numbers = {"gain": 1 - a, "threshold": threshold, "reset": reset, "spike_grad": spike_grad}
    choices = {"reset_mechanism": mechanism, "detach_reset": detach_reset, "inclusive": True}
    if alpha is None:
        return lif, LifParams(a, **numbers, **choices)
    b = _number(alpha).clamp(0.5, 1)
    return cuba_lif, CubaLifParams(b, a, 1 - b, **numbers, **choices, current="old")


def nengo(
    tau: Number = 0.02,
    *,
    dt: float = 1e-3,
    threshold: Number = 1.0,
    spike_grad: Spike = ATAN,
) -> tuple[Neuron, Any]:
    """Nengo 4, `LIF` without a refractory time (`tau_ref=0`): exact for an input that stands still during a step. Times in seconds.

    v += (1 - exp(-dt / tau)) (x - v); s = H(v - threshold); v = 0

    Not here: a refractory time, which Nengo counts in parts of a step, and its floor, v >= 0. A spike is 1 here, 1 / dt there.
    """
    rate = -torch.expm1(-dt / _positive("nengo", "tau", tau))
    numbers = {"threshold": threshold, "spike_grad": spike_grad}
    return lif, LifParams(rate, **numbers, reset_mechanism="value", update="relax")


def _with_current(
    platform: str, beta: Tensor, tau_syn: Number | None, dt: float, most: int | None, numbers: Any, choices: Any
) -> tuple[Neuron, Any]:
    """lif, or, where the current has a time constant, cuba_lif with a current that decays with its input; several spikes a step."""
    if most is not None and (type(most) is not int or most < 1):
        raise ValueError(f"platforms.{platform}(most={most!r}): expected a number of spikes, 1 or more, or None.")
    if tau_syn is None:
        neuron, params = lif, LifParams(beta, **numbers, **choices)
    else:
        alpha = _kept(platform, "tau_syn", tau_syn, dt)
        neuron, params = cuba_lif, CubaLifParams(alpha, beta, **numbers, **choices, current="kept")
    many: Any = several  # given a neuron, it makes one
    return neuron if most == 1 else many(neuron, most), params


def _number(value: Number) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(float(value))


def _positive(platform: str, name: str, tau: Number) -> Tensor:
    given = _number(tau)
    if readable(given) and not bool((given > 0).all()):
        raise ValueError(f"platforms.{platform}({name}={tau!r}): expected a time constant above 0.")
    return given


def _kept(platform: str, name: str, tau: Number, dt: float) -> Tensor:
    """exp(-dt / tau)."""
    return torch.exp(-dt / _positive(platform, name, tau))


def _euler(platform: str, name: str, tau: Number, dt: float) -> Tensor:
    """dt / tau, by way of 1 / tau, as Norse has it."""
    given = _positive(platform, name, tau)
    if readable(given) and bool((given < dt).any()):
        raise ValueError(
            f"platforms.{platform}({name}={tau!r}): Euler steps of {dt:g} overshoot a shorter time constant. Expected {name} >= {dt:g}, "
            "in the unit of the step."
        )
    return dt * (1 / given if isinstance(tau, Tensor) else torch.tensor(1 / float(tau)))


def _reset(platform: str, given: str, known: tuple[str, ...]) -> str:
    if given not in known:
        raise ValueError(
            f"platforms.{platform}(reset_mechanism={given!r}): the platform has {' and '.join(map(repr, known))}."
        )
    return "value" if given == "zero" else given


_show(globals(), hide=["ATAN", "EXPONENTIAL", "FAST_SIGMOID", "SIGMOID", "SUPERSPIKE", "Number"])
