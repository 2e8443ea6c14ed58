"""`read`: a graph of NIR as one pure step and its params."""

import json
from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from .._neuron import Neuron
from ..surrogate import ATan, Spike
from ._given import Given, seconds, Shape
from ._graph import Edge, flat, Graph, graph_of, Node, NOTE
from ._neurons import Dynamics, NEURONS
from ._nodes import Layer, layer_of, shape_wanted
from ._order import ordered, recurrent_edges
from ._platforms import platform_of
from ._step import edge_name, Exact, GraphStep, Placed


def read(
    source: Any,
    dt: float | None = None,
    platform: Any = None,
    *,
    recurrent: Collection[Edge] | None = None,
    before: str | None = None,
    spike_grad: Spike = ATan(),  # noqa: B008
    dtype: torch.dtype | None = None,
) -> tuple[Neuron, dict[str, Any]]:
    """A graph of NIR as `(neuron, params)`: one pure step for `scan`, and a tree of its numbers by the names of the nodes.

        neuron, params = snf.nir.read("braille.nir", dt=1e-4)
        state = neuron.init(params, xs[0])                                  xs [T, ..., *shape of the graph's Input]
        spks, state = snf.scan(neuron.step, params, state, xs)
        params["lif1"].threshold                                            a leaf: learn it, vmap over it

    - `source`: the path of a .nir file, or a graph of the library `nir`.
    - `dt`: a step in seconds. NIR does not say it: 1e-4, unless the file was written by `write`, which notes it.
    - `platform`: how the neurons go through a step: a name of `platforms`, or a `Platform` of your own. "norse", which is NIR by the
      letter (Euler's step, reset to a value), unless the file notes another.
    - `recurrent`: the edges that hand on what was put out at the step before. By default those that close a cycle (`step.recurrent` says
      which; README.md how they are found).
    - `before`: what a recurrent edge holds before the first step: "nothing", or "silence", what it hands on when no neuron fires: the
      bias of a line on its way. Norse and SpikingJelly have "nothing", which is the default unless the file notes it.
    - `spike_grad`: a surrogate for every neuron that fires, and for Threshold; NIR knows none.
    - `dtype`: of the params; torch's default dtype. A file in double precision is rounded once.

    With several inputs or outputs the step takes or gives a dictionary of them by name. Any axes may stand before those of the graph's
    shapes. Two edges to a node are a sum. The state is a dictionary, too: of every node with a state, and of every recurrent edge,
    "start -> end".

    Raises ValueError, with the node or the edge, for a graph that cannot be right or has nothing to give; see `flat`, `layer_of`,
    `recurrent_edges`. FileNotFoundError, ImportError without h5py.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"nir.read(dtype={dtype}): params are of a floating dtype, as torch.float64.")
    graph = graph_of(source)
    noted = _noted(graph)
    dt = seconds("read", noted.get("dt", 1e-4) if dt is None else dt)
    before = str(noted.get("before", "nothing")) if before is None else before
    if before not in ("nothing", "silence"):
        raise ValueError(f'nir.read(before={before!r}): before the first step there is "nothing" or "silence".')
    if recurrent is None and "recurrent" in noted:
        recurrent = [(start, end) for start, end in noted["recurrent"]]
    dynamics = Dynamics(dt, platform_of(noted.get("platform", "norse") if platform is None else platform), spike_grad)
    graph = flat(graph)
    nodes: dict[str, Node] = graph.nodes  # pyright: ignore[reportAssignmentType]
    late = {name for name, node in nodes.items() if node.kind == "Delay" and _is_late(node, dt)}
    back = _recurrent(nodes, graph.edges, late, recurrent)
    order = ordered(nodes, graph.edges, late, back)
    layers = _layers(nodes, graph.edges, order, late, back, dynamics, dtype or torch.get_default_dtype())
    place = {name: i for i, name in enumerate(order)}
    placed, params = [], {}
    for name in order:
        layer, node = layers[name], nodes[name]
        into = sorted((start for start, end in graph.edges if end == name), key=place.__getitem__)
        last = tuple(start for start in into if (start, name) in back)
        sources = tuple(start for start in into if start not in last)
        has_state = node.kind in (*NEURONS, "Delay")
        has_params = not isinstance(layer.params, tuple)
        own = (name, node.kind, layer.neuron, layer.shape, sources, last, name in late, has_params, has_state)
        placed.append(Placed(*own))
        if has_params:
            params[name] = layer.params
    for start, end in back:
        if edge_name(start, end) in nodes:
            raise ValueError(
                f"nir.read: a node is called {edge_name(start, end)!r}, which is the name, in the state, of what the edge from {start!r} "
                f"to {end!r} hands on. Rename the node."
            )
    step = GraphStep(tuple(placed), before == "silence", dt, dynamics.platform, tuple(_exact(nodes, dtype)))
    return Neuron(dict, dict, step.init, step), params


def noted(source: Any) -> dict[str, Any]:
    """What `write` noted with a graph: `dt`, `platform`, `before`, `recurrent`. Nothing of one that others wrote."""
    return _noted(graph_of(source))


def _noted(graph: Graph) -> dict[str, Any]:
    note = graph.metadata.get(NOTE, "{}")
    try:
        found = json.loads(note)
        float(found.get("dt", 0))
        [(start, end) for start, end in found.get("recurrent", ())]
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"nir.read: what the metadata of the graph hold under {NOTE!r} was noted by no nir.write: {note!r:.60}. Without it the graph "
            "can be read."
        ) from None
    return found


def _is_late(node: Node, dt: float) -> bool:
    delays = np.asarray(node.numbers.get("delay", 0.0))
    if delays.dtype.kind not in "iuf":  # refused by its layer, which knows its name
        return False
    return bool(delays.size) and float(delays.min()) > dt / 2


def _recurrent(
    nodes: dict[str, Node], edges: list[Edge], late: Collection[str], given: Collection[Edge] | None
) -> list[Edge]:
    if given is None:
        outputs = [name for name, node in nodes.items() if node.kind == "Output"]
        remember = [name for name, node in nodes.items() if node.kind in NEURONS]
        return recurrent_edges(list(nodes), edges, outputs, late, remember)
    found = [(str(start), str(end)) for start, end in given]
    for edge in found:
        if edge not in edges:
            raise ValueError(
                f"nir.read(recurrent={found}): {edge} is no edge of the graph. Its edges are {sorted(edges)}."
            )
    return found


def _layers(
    nodes: dict[str, Node],
    edges: list[Edge],
    order: list[str],
    late: Collection[str],
    back: Collection[Edge],
    dynamics: Dynamics,
    dtype: torch.dtype,
) -> dict[str, Layer]:
    """A layer for each node. Shapes go with the order, then what goes round is compared with what is expected."""
    found: dict[str, Layer] = {}
    for name in order:
        given = Given(name, nodes[name], dtype)
        came = {start: found[start].shape for start, end in edges if end == name and start in found}
        if nodes[name].kind == "Input" and given.numbers.get("shape") is None:
            wants = [shape_wanted(Given(end, nodes[end], dtype)) for start, end in edges if start == name]
            given.numbers["shape"] = max((shape for shape in wants if shape is not None), key=len, default=None)
            if given.numbers["shape"] is None:
                raise given.wrong("it has no shape, and what it leads to does not say it.")
        shape = _one_shape(given, came)
        found[name] = layer_of(given, shape, dynamics)
        if nodes[name].kind == "Threshold":
            found[name] = found[name]._replace(
                params=type(found[name].params)(found[name].params.threshold, dynamics.spike_grad)
            )
    for start, end in edges:
        if (start, end) in back or end in late:
            came = {name: found[name].shape for name, other in edges if other == end}
            shape = _one_shape(Given(end, nodes[end], dtype), came)
            found[end] = found[end]._replace(shape=layer_of(Given(end, nodes[end], dtype), shape, dynamics).shape)
    return found


def _one_shape(given: Given, came: dict[str, Shape | None]) -> Shape | None:
    shapes = {name: shape for name, shape in came.items() if shape is not None}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{shape} from {name!r}" for name, shape in sorted(shapes.items()))
        raise given.wrong(f"what leads to it is added up, but it gets {listed}.")
    return next(iter(shapes.values()), None)


def _exact(nodes: dict[str, Node], dtype: torch.dtype | None) -> Any:
    """What the params do not hold as exactly as the file: time constants, and what is rounded."""
    to = torch.get_default_dtype() if dtype is None else dtype
    for name, node in nodes.items():
        for key, x in node.numbers.items():
            if key in ("shape", "input_type") or not isinstance(x, (np.ndarray, np.generic)) or x.dtype.kind != "f":
                continue
            array = np.ascontiguousarray(x)
            if node.kind in NEURONS or array.dtype.itemsize > torch.finfo(to).bits // 8:
                yield Exact(name, key, array.dtype.str, tuple(np.shape(x)), array.tobytes())
