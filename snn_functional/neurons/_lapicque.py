"""Lapicque's neuron: a resistor and a capacitor, integrated by forward Euler.

    R_[t]  = H(mem[t-1] - threshold)
    U[t]   = input[t] R (1 / (R C)) time_step + (1 - time_step / (R C)) mem[t-1]
    mem[t] = U[t] - R_[t] threshold                             "subtract"
             (1 - R_[t]) U[t]                                   "zero"
             U[t]                                               "none"
    spk[t] = S(mem[t] - threshold)

The decay 1 - time_step / (R C) is Euler's, not beta: with beta given it is 1 - log(1 / beta), which is 0.8946 at beta = 0.9
and negative (the membrane oscillates) below beta = 1/e. `lapicque(beta)` is therefore not `leaky(beta)`.

Source: `snntorch.Lapicque` 1.0.0, bit for bit, from the R and C that `lapicque_params` works out by its rules.
"""

from typing import Any

import torch
from torch import Tensor

from .._neuron import admit, at_rest, Neuron
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["LapicqueParams", "LapicqueState", "lapicque_params", "lapicque_init", "lapicque_step", "lapicque"]


@pytree
class LapicqueParams:
    """- `R`: resistance. () or (neurons,). - `C`: capacitance. () or (neurons,). R C is in steps where `time_step` is 1.
    - `time_step`: length of one Euler step, in the unit of R C. () or (neurons,).
    - `threshold`: the neuron fires above it. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "subtract", "zero" or "none".
    """

    R: Leaf
    C: Leaf
    time_step: Leaf = leaf(default=1.0)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="subtract", choices=("subtract", "zero", "none"))


@pytree
class LapicqueState:
    """- `mem`: membrane potential, in units of the input times R. (batch, ..., neurons)."""

    mem: Tensor


def lapicque_params(
    beta: Tensor | float | None = None,
    R: Tensor | float | None = None,
    C: Tensor | float | None = None,
    time_step: Tensor | float = 1.0,
    **others: Any,
) -> LapicqueParams:
    """The params for what is known: R and C, or beta and one of them, or beta alone (then R = 1).

        beta = exp(-time_step / (R C))

    gives the missing one, differentiably. `others` are the other fields of LapicqueParams. As in snnTorch, 0 and False count
    as not given; beta, R and C may also be tensors, per neuron.

    Raises ValueError when too little is given, or all three.
    """
    given = {name: _number(value) for name, value in dict(beta=beta, R=R, C=C).items() if _is_given(value)}
    if len(given) == 3:
        raise ValueError(
            "lapicque_params(beta=, R=, C=): all three were given, and beta = exp(-time_step / (R C)) ties them: leave one out."
        )
    if "beta" not in given and len(given) < 2:
        raise ValueError("Either beta or 2 of beta, R and C must be specified as an input argument.")
    dt = _number(time_step)
    if "beta" in given:
        log = torch.log(1 / given["beta"])
        if "C" in given:
            given["R"] = dt / (given["C"] * log)
        else:
            given.setdefault("R", torch.ones_like(log))
            given["C"] = dt / (given["R"] * log)
    return LapicqueParams(R=given["R"], C=given["C"], time_step=dt, **others)


def lapicque_init(params: LapicqueParams, input: Tensor) -> LapicqueState:
    """The membrane at rest (0), shaped like one time step of `input`."""
    return LapicqueState(mem=at_rest(params, input))


def lapicque_step(params: LapicqueParams, state: LapicqueState, input: Tensor) -> tuple[Tensor, LapicqueState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    R, C, dt, threshold = params.R, params.C, params.time_step, params.threshold
    reset = fires(state.mem - threshold)
    mem = input * R * (1 / (R * C)) * dt + (1 - dt / (R * C)) * state.mem
    if params.reset_mechanism == "subtract":
        mem = mem - reset * threshold
    elif params.reset_mechanism == "zero":
        mem = mem - reset * mem
    return params.spike_grad(mem - threshold), LapicqueState(mem)


def _number(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(float(value))


def _is_given(value: Any) -> bool:
    return isinstance(value, Tensor) or (value is not None and value is not False and value != 0)


lapicque = Neuron(LapicqueParams, LapicqueState, lapicque_init, lapicque_step)
