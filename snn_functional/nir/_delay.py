"""Delay: what comes in comes out some steps later.

    output[t] = input[t - k]        k = delay / dt, for each neuron; nothing (0) before the first step

This is `axonal_delay` of whole steps, without a slope in the delay. What it puts out at a step does not depend on what it is given at that
step, for k of 1 or more: so a graph may go in a circle through it.

Source: NIR's node of that name, y(t) = x(t - tau), Pedersen et al. 2024, doi:10.1038/s41467-024-52259-9.
"""

from typing import Any

import torch
from torch import Tensor

from .._neuron import admit, at_rest, Neuron
from .._tree import Leaf, pytree, static


@pytree
class DelayParams:
    """- `delay`: in seconds, () or (neurons,). No gradient passes to it: it is counted in whole steps.
    - `dt`: a step in seconds. - `steps`: the lengths that there are, in steps, in ascending order: those that the delays may have.
    """

    delay: Leaf
    dt: float = static()
    steps: tuple[int, ...] = static()


@pytree
class DelayState:
    """- `last`: what came in at the last steps, the oldest first, as many as the longest delay has: (batch, ..., neurons) each."""

    last: Any


@pytree
class _Like:
    """What `admit` compares the input with."""

    last: Tensor


def delay_init(params: DelayParams, input: Tensor) -> DelayState:
    """Nothing has come in, shaped like one time step of `input`."""
    return DelayState(tuple(at_rest(params, input) for _ in range(params.steps[-1])))


def delay_step(params: DelayParams, state: DelayState, input: Tensor) -> tuple[Tensor, DelayState]:
    """One time step. `input` and the output have the shape of each of `state.last`."""
    last = state.last
    input = admit(params, _Like(last[-1] if len(last) else input), input)
    out = delayed(params, state, input)
    return out, DelayState((*last, input)[1:])


def delayed(params: DelayParams, state: DelayState, input: Tensor) -> Tensor:
    """What comes out at this step; where no delay is 0, whatever the input."""
    last = state.last
    ago = lambda steps: last[len(last) - steps] if steps else input
    shortest, *longer = params.steps
    out, before = ago(shortest), shortest
    for steps in longer:
        out = torch.where(params.delay > (before + steps) / 2 * params.dt, ago(steps), out)
        before = steps
    return out


delay = Neuron(DelayParams, DelayState, delay_init, delay_step)
