"""A network as online rules see it: neurons, and the connections whose currents they get.

A `chain`'s layers in a row, nested chains opened; any other step is a row of one. A *cell* is a layer with state, together with the
connection in front of it and the one that feeds its own spikes back (`recurrent(neuron)` with a connection V).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._chain import Chain
from .._connections import conv2d_step, linear_step
from .._neuron import SPIKES
from .._scan import step_name
from .._scan._reading import obstacle
from .._tree import replaced, tree_leaves
from ..kernels import Unsupported


class Cell(NamedTuple):
    """Places in the row. `front`: of the connection in front, None where there is none; `between`: are functions in between?"""

    neuron: int
    front: int | None
    between: bool


def row(network: Any, tree: Any) -> list[Any]:
    """The entries of a chain's tree (params, state, gradients), those of nested chains among them."""
    if not isinstance(network, Chain):
        return [tree]
    return [part for layer, entry in zip(network.layers, tree) for part in row(layer.step, entry)]


def steps(network: Any) -> list[Any]:
    if not isinstance(network, Chain):
        return [network]
    return [step for layer in network.layers for step in steps(layer.step)]


def nested(network: Any, parts: Iterator[Any]) -> Any:
    """The way back from a row."""
    if not isinstance(network, Chain):
        return next(parts)
    return tuple(nested(layer.step, parts) for layer in network.layers)


def cells(network: Any, params: Any, state: Any) -> list[Cell]:
    """Raises Unsupported where a layer with parameters stands in front of a neuron, but is no connection of it."""
    found, waiting, between = [], [], False
    for i, (step, p, s) in enumerate(zip(steps(network), row(network, params), row(network, state))):
        if tree_leaves(s):
            for j in waiting[:-1] + [j for j in waiting[-1:] if steps(network)[j] not in (linear_step, conv2d_step)]:
                raise Unsupported(
                    f"layer {j}, {step_name(steps(network)[j])}, has parameters, and what they do to layer {i}, "
                    f"{step_name(step)}, is no current of one connection"
                )
            found.append(Cell(i, waiting[0] if waiting else None, between))
            waiting, between = [], False
        elif tree_leaves(p):
            waiting, between = [*waiting, i], False
        else:
            between |= bool(waiting)
    return found


def connections(parts: list[Any], cell: Cell) -> list[Any]:
    """What leads to a cell, of a row of params or of their gradients: the connection in front, the feedback."""
    ways = [] if cell.front is None else [parts[cell.front]]
    V = feedback(parts[cell.neuron])
    return ways if V is None else [*ways, V]


def walk(
    network: Any, params: Any, state: Any, x: Any, current: Callable[[int, Any, Tensor], Tensor]
) -> tuple[Any, Any, list[Any]]:
    """One step of the network: its output, its new state, and the input of every cell's neuron.

    `current(n, connection, pre)` is asked for what flows into the nth cell through each of its connections: the one in front, then its
    feedback. Spikes fed back are inputs here: no gradient reaches the neurons that fired them.
    """
    places = cells(network, params, state)
    fronts = {cell.front: n for n, cell in enumerate(places) if cell.front is not None}
    neurons = {cell.neuron: n for n, cell in enumerate(places)}
    states, arrived = [], []
    for i, (step, p, s) in enumerate(zip(steps(network), row(network, params), row(network, state))):
        if i in fronts:
            pre = x.to(p.weight.dtype) if x.dtype in SPIKES else x
            x = current(fronts[i], p, pre)
        else:
            V = feedback(p)
            if V is not None:
                x = x + current(neurons[i], V, fed_back(s).detach())
                p = with_feedback(p, torch.zeros((), dtype=x.dtype, device=x.device))
            if i in neurons:
                arrived.append(x)
            x, s = step(p, s, x)
        states.append(s)
    return x, nested(network, iter(states)), arrived


def feedback(params: Any) -> Any:
    """The connection V of a `recurrent` neuron, wherever it is wrapped; None where V is a number, or there is none."""
    while hasattr(params, "inner"):
        if hasattr(params, "V"):
            return None if isinstance(params.V, Tensor) else params.V
        params = params.inner
    return None


def fed_back(state: Any) -> Tensor:
    """The last spikes of a `recurrent` neuron."""
    while not hasattr(state, "spk"):
        state = state.inner
    return state.spk


def with_feedback(params: Any, V: Any) -> Any:
    """The same params, with another V where they have a connection there."""
    if feedback(params) is None:
        return params
    if hasattr(params, "V"):
        return replaced(params, V=V)
    return replaced(params, inner=with_feedback(params.inner, V))


def entwined(step: Any, params: Any, state: Any) -> str | None:
    """Why a step is not pointwise, so that neurons may depend on each other; None if it is. It is read, with an input over all neurons."""
    given = [leaf for leaf in tree_leaves(state) if leaf.dim()]
    leaves = given or [leaf for leaf in tree_leaves(params) if leaf.dim()]  # at rest a state has no shape yet
    try:
        lanes = torch.broadcast_shapes(*(leaf.shape for leaf in leaves)) if leaves else torch.Size((2,))
    except RuntimeError:
        return "its leaves are not all numbers of the same neurons"
    dtype = next((leaf.dtype for leaf in leaves if leaf.is_floating_point()), torch.get_default_dtype())
    device = leaves[0].device if leaves else torch.device("cpu")
    return obstacle(step, params, state, torch.zeros((), dtype=dtype, device=device).expand(lanes))
