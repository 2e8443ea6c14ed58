"""A graph of NIR as plain values: nodes by name, each a kind and its arrays, and edges. From a file, or from an object of the library.

A file of NIR is HDF5: `/version`, and `/node` of

    type        "NIRGraph", or the kind of a node
    edges       [n, 2] names
    nodes       a group for each: its type, an array for each parameter, `metadata`

It is read by h5py alone: `nir.read` refuses graphs within a graph whose edges lead to "sub.node", which the first versions wrote.
"""

import contextlib
import importlib
import os
from typing import Any, NamedTuple

import numpy as np


Edge = tuple[str, str]
NOTE = "snn_functional"  # the key of what `write` notes in the metadata of a file


class Node(NamedTuple):
    """- `kind`: NIR's name of it, "LIF". - `numbers`: its parameters by NIR's names: arrays, numbers, or text ("same")."""

    kind: str
    numbers: dict[str, Any]


class Graph(NamedTuple):
    """- `nodes`: by name; a graph, too, may be one. - `edges`: from whom to whom, in the order in which they came.
    - `metadata`: what is noted with it."""

    nodes: "dict[str, Node | Graph]"
    edges: list[Edge]
    metadata: dict[str, Any]


def graph_of(source: Any) -> Graph:
    """The graph in a file, of an object of the library `nir`, or a dictionary as its `to_dict()` gives.

    Raises FileNotFoundError, ImportError without h5py, TypeError for what is none of these, ValueError for a file that holds no graph.
    """
    if isinstance(source, (str, os.PathLike)):
        return _of_file(os.fspath(source))
    if hasattr(source, "to_dict") and not hasattr(source, "nodes"):  # one node alone
        name = type(source).__name__
        return _closed(name, Node(name, _numbers(source.to_dict())))
    if hasattr(source, "nodes") and hasattr(source, "edges"):
        return _of_object(source)
    if isinstance(source, dict) and source.get("type") == "NIRGraph":
        return _of_dict(source, "the graph")
    raise TypeError(
        f"nir.read(source): expected the path of a .nir file or a nir.NIRGraph, but {type(source).__name__} came."
    )


def _of_file(path: str | bytes) -> Graph:
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError('nir.read(path): a .nir file is HDF5: pip install "snn-functional[nir]".') from error
    path = os.fsdecode(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"nir.read({path!r}): there is no such file.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"nir.read({path!r}): no HDF5 file, so no graph of NIR: {error}.") from error
    try:
        with file:
            names, node = ", ".join(sorted(file)) or "nothing", file.get("node")
            found = _loaded(node) if hasattr(node, "items") else {}
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # whatever h5py meets: it has no one word for it
        raise ValueError(f"nir.read({path!r}): a damaged file of HDF5: {error}. Get or write it anew.") from error
    if not isinstance(found.get("type"), str):
        raise ValueError(
            f"nir.read({path!r}): an HDF5 file, but no graph of NIR: it has no /node with a type in it, only {names}."
        )
    if found["type"] == "NIRGraph":
        return _of_dict(found, repr(path))
    return _closed(found["type"], Node(found["type"], _numbers(found)))


def _closed(name: str, node: Node) -> Graph:
    """A node alone, with an input and an output."""
    ends: dict[str, Node | Graph] = {"input": Node("Input", {"shape": None}), "output": Node("Output", {"shape": None})}
    return Graph(ends | {name: node}, [("input", name), (name, "output")], {})


def _loaded(group: Any) -> dict[str, Any]:
    """Of an HDF5 group all that is in it."""
    found: dict[str, Any] = {}
    for key, item in group.items():
        if not isinstance(key, str) or not (hasattr(item, "items") or hasattr(item, "shape")):
            raise OSError(f"{group.name}/{key} holds nothing")
        found[key] = _loaded(item) if hasattr(item, "items") else _text(item[()])
    return found


def _of_dict(data: dict[str, Any], where: str) -> Graph:
    for key in ("nodes", "edges"):
        if key not in data:
            raise ValueError(f"nir.read: {where} is a NIRGraph without {key}.")
    if not isinstance(data["nodes"], dict):
        raise ValueError(f"nir.read: the nodes of {where} are a dictionary by name, but {data['nodes']!r:.60} came.")
    nodes: dict[str, Node | Graph] = {}
    for name, node in data["nodes"].items():
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            raise ValueError(f"nir.read: node {name!r} of {where} has no type, a name as 'LIF'.")
        if node["type"] == "NIRGraph":
            nodes[name] = _of_dict(node, f"node {name!r}")
        else:
            nodes[name] = Node(node["type"], _numbers(node))
    return Graph(nodes, _pairs(data["edges"], where), _metadata(data.get("metadata")))


def _pairs(edges: Any, where: str) -> list[Edge]:
    found: list[Any] = [(None, None)]
    with contextlib.suppress(TypeError, ValueError):
        found = [(_text(start), _text(end)) for start, end in edges]
    if not all(isinstance(name, str) for edge in found for name in edge):
        raise ValueError(f"nir.read: the edges of {where} are pairs of names, but {edges!r:.60} came.")
    return found


def _of_object(graph: Any) -> Graph:
    nodes: dict[str, Node | Graph] = {}
    for name, node in graph.nodes.items():
        if hasattr(node, "nodes") and hasattr(node, "edges"):
            nodes[name] = _of_object(node)
            continue
        kind = type(node).__name__
        numbers = _numbers(node.to_dict())
        if kind in ("Input", "Output"):  # whose dictionaries differ between the versions
            shapes = getattr(node, "input_type" if kind == "Input" else "output_type") or {}
            numbers = {"shape": next(iter(shapes.values()), None)}
        nodes[name] = Node(kind, numbers)
    return Graph(nodes, [(str(a), str(b)) for a, b in graph.edges], _metadata(getattr(graph, "metadata", None)))


def _numbers(data: dict[str, Any]) -> dict[str, Any]:
    return {key: x for key, x in data.items() if key not in ("type", "metadata", "output_type")}


def _metadata(found: Any) -> dict[str, Any]:
    return {key: _text(x) for key, x in found.items()} if isinstance(found, dict) else {}


def _text(x: Any) -> Any:
    if isinstance(x, bytes):
        return x.decode()
    if isinstance(x, np.ndarray) and x.dtype == object and not x.ndim:
        return _text(x.item())
    return x


def flat(graph: Graph) -> Graph:
    """Graphs within the graph opened: what is in `sub` is called "sub.node".

    An edge to a graph leads to its input, one from a graph comes from its output; one to or from "sub.node" goes to the node itself.
    Inputs and outputs of graphs within become plain passages ("Identity"). Nodes that nothing leads to get an input of their own,
    `input_<name>`, as NIR's own library gives them. Passages are left out, where that makes no edge twice.

    Raises ValueError for an edge to a node that is not there, an edge twice, two nodes of one name, an edge to a graph with several inputs,
    and a graph without an output.
    """
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    _open(graph, "", nodes, edges)
    for edge in edges:
        if edges.count(edge) > 1:
            raise ValueError(
                f"nir.read: edge {_arrow(edge)} is there twice. For twice the current put a Scale of 2 between."
            )
        for name, kind in ((edge[1], "Input"), (edge[0], "Output")):
            if nodes[name].kind == kind:
                way = "nothing leads to an input" if kind == "Input" else "nothing comes from an output"
                raise ValueError(f"nir.read: edge {_arrow(edge)}: {name!r} is an {kind} of the graph, and {way}.")
    edges = _without_passages(nodes, edges)
    reached = {end for _, end in edges}
    for name, node in list(nodes.items()):
        if name not in reached and node.kind == "Output":
            raise ValueError(f"nir.read: no edge leads to the output {name!r}.")
        if name not in reached and node.kind != "Input":
            own = f"input_{name}"
            while own in nodes:
                own += "_"
            nodes[own] = Node("Input", {"shape": None})
            edges.append((own, name))
    if not any(node.kind == "Input" for node in nodes.values()):
        raise ValueError(
            f"nir.read: the graph has no Input node, and each of its nodes has something that leads to it: {_names(nodes)}."
        )
    if not any(node.kind == "Output" for node in nodes.values()):
        raise ValueError(f"nir.read: the graph has no Output node, so nothing to give. Its nodes are {_names(nodes)}.")
    return Graph(dict(nodes), edges, graph.metadata)


def _without_passages(nodes: dict[str, Node], edges: list[Edge]) -> list[Edge]:
    for name in [name for name, node in nodes.items() if node.kind == "Identity"]:
        into = [start for start, end in edges if end == name]
        out = [end for start, end in edges if start == name]
        through = [(start, end) for start in into for end in out]
        rest = [edge for edge in edges if name not in edge]
        if name not in into and len({*rest, *through}) == len(rest) + len(through):
            edges = rest + through
            del nodes[name]
    return edges


def _open(graph: Graph, prefix: str, nodes: dict[str, Node], edges: list[Edge]) -> None:
    for name, node in graph.nodes.items():
        whole = prefix + name
        if isinstance(node, Graph):
            _open(node, f"{whole}.", nodes, edges)
        elif whole in nodes:
            raise ValueError(f"nir.read: two nodes are called {whole!r}, one of them within a graph. Rename one.")
        else:
            nodes[whole] = node._replace(kind="Identity") if prefix and node.kind in ("Input", "Output") else node
    for start, end in graph.edges:
        what = f"edge {_arrow((prefix + start, prefix + end))}"
        edges.append((prefix + _resolved(graph, start, "Output", what), prefix + _resolved(graph, end, "Input", what)))


def _resolved(graph: Graph, name: str, end: str, what: str) -> str:
    """The name, within `graph`, of the node that an edge means by `name`."""
    if name in graph.nodes:
        node = graph.nodes[name]
        if not isinstance(node, Graph):
            return name
        ends = [key for key, inner in node.nodes.items() if not isinstance(inner, Graph) and inner.kind == end]
        if len(ends) != 1:
            has = f"has several, {', '.join(repr(f'{name}.{key}') for key in ends)}: name one" if ends else "has none"
            raise ValueError(f"nir.read: {what}: the graph {name!r} is meant by its {end}, but it {has}.")
        return f"{name}.{ends[0]}"
    for key in sorted(graph.nodes, key=len, reverse=True):
        inner = graph.nodes[key]
        if isinstance(inner, Graph) and name.startswith(f"{key}."):
            rest = name.removeprefix(f"{key}.")
            for candidate in (name, rest):  # in some files the nodes within have the whole name
                if candidate in inner.nodes:
                    return f"{key}.{_resolved(inner, candidate, end, what)}"
            return f"{key}.{_resolved(inner, rest, end, what)}"
    raise ValueError(f"nir.read: {what}: there is no node {name!r}. The nodes are {_names(graph.nodes)}.")


def _names(nodes: Any) -> str:
    return ", ".join(map(repr, sorted(nodes))) or "none"


def _arrow(edge: Edge) -> str:
    return f"{edge[0]!r} -> {edge[1]!r}"
