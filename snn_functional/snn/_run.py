"""`run(net, xs)`: a network of faces over a whole sequence, layer by layer instead of step by step.

A network that feeds forward may finish its first layer for all of time before it begins the second: one product or convolution a
layer, then one scan. How that is done, and how it is known to be what the loop does, is in `_over_time.py`; else the loop it is.
"""

import contextlib
import functools
from typing import Any

import torch
from torch import nn, Tensor

from .._functorch import outside
from ._calls import Calls, holds_the_loop, loops_itself, on_a_copy, remembering, takes_all_of_time, watched
from ._over_time import joined, layer_by_layer, Loop, trial
from ._stateful import Stateful
from .utils import _layers


def run(net: nn.Module, xs: Tensor) -> Any:
    """What the loop returns, stacked over time, and what it leaves behind: the hidden state after the last step.

        spks = snn.run(net, xs)             spks = torch.stack([net(x) for x in xs])

    - `xs`: time first, [T, batch, ...]. For an input that is the same at every step give `x.expand(T, *x.shape)`.
    - `net`: any module that takes one step x [batch, ...], its faces with `init_hidden=True`. Its hidden state goes on from where it
      is: call `snn.utils.reset(net)` between batches, as for the loop.

    The same numbers as the loop's to the rounding of larger matrix products. What is drawn from torch's generator (dropout, noise) is
    drawn for each step, but layer by layer, so it is other numbers.
    A network that is recurrent across layers, that branches on values, counts its steps or has hooks, runs step by step; `explain` says so.

    Raises TypeError and ValueError for what is no sequence of tensors, TypeError for a face that has no state from one step to the next,
    and for a net whose own forward holds the time loop.
    """
    _admit(net, xs)
    with contextlib.suppress(Loop):
        return layer_by_layer(net, xs)
    begun = _first_steps(net, xs)
    return joined(torch.stack, [*begun, *(net(x) for x in xs[len(begun) :].unbind(0))])


def _first_steps(net: nn.Module, xs: Tensor) -> list[Any]:
    """What the net returns in the first step, or in the first two. Raises TypeError for a net that is seen to take no steps of time."""
    faces, held = _layers(net), _held(net)
    refusal = functools.partial(loops_itself, "snn.run(net, xs)", net)
    returned: list[Any] = []
    otherwise = "torch.stack([net(x) for x in xs])"
    try:
        with remembering(faces) as first:
            returned.append(net(xs[0]))
    except Exception as error:
        if takes_all_of_time(xs, lambda x: on_a_copy(net, x)):
            _put_back(held)
            raise refusal(None, otherwise) from error
        raise

    def second() -> Calls:
        with watched(faces) as calls:
            returned.append(net(xs[1]))
        return calls

    if holds_the_loop(first, xs[0], lambda x: on_a_copy(net, x), second if len(xs) > 1 else None):
        _put_back(held)
        raise refusal(first, otherwise)
    return returned


def _held(net: nn.Module) -> dict[Stateful, Any]:
    return {layer: layer._hidden for layer in _layers(net).values()}


def _put_back(held: dict[Stateful, Any]) -> None:
    for layer, hidden in held.items():
        layer._hidden = hidden


def explain(net: nn.Module, xs: Tensor) -> str:
    """How `run` would run this network on such a sequence, and why. Two steps are tried; the network is left as it is."""
    _admit(net, xs)
    with outside():
        reason = trial(net, xs)
    if reason is not None:
        return f"step by step: {reason}."
    return "layer by layer: each layer runs once over all of time."


def _admit(net: Any, xs: Any) -> None:
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"snn.run(net, xs): net is a module, not {type(net).__name__}. For a pure step: snf.scan(step, ...)."
        )
    if not isinstance(xs, Tensor):
        raise TypeError(f"snn.run(net, xs): xs is one tensor [T, batch, ...], not {type(xs).__name__}.")
    if xs.dim() == 0 or xs.shape[0] == 0:
        raise ValueError(
            f"snn.run(net, xs): xs has shape {tuple(xs.shape)}; expected [T, batch, ...] with at least one step. For T equal steps "
            "give x.expand(T, *x.shape)."
        )
