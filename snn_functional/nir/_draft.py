"""A graph in the making: nodes in the order in which they are gone through, each with what leads to it, then NIR's numbers of them."""

import dataclasses
import json
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._tree import tree_leaves
from ..surrogate import ATan
from ._cells import Cell
from ._given import Given, Shape
from ._graph import Edge, Node, NOTE
from ._neurons import Dynamics, NEURONS
from ._nodes import layer_of
from ._order import recurrent_edges
from ._platforms import Platform, platform_of, platforms
from ._step import Exact


class Entry(NamedTuple):
    """- `what`: a neuron, or a node whose numbers are NIR's already. - `sources`: the nodes that lead to it."""

    what: Cell | Node
    sources: tuple[str, ...]


class Draft:
    """- `dt`: a step in seconds. - `silence`: what a recurrent edge holds before the first step, see `GraphStep`."""

    def __init__(self, dt: float) -> None:
        self.dt, self.silence = dt, False
        self.entries: dict[str, Entry] = {}
        self.back: list[Edge] = []  # the edges that hand on what was put out at the step before

    def add(self, name: str, what: Cell | Node, sources: tuple[str, ...]) -> tuple[str, ...]:
        """Puts a node in its place; it is what leads to the next."""
        if name in self.entries:
            raise ValueError(f"nir.write: two nodes are called {name!r}.")
        if len(set(sources)) < len(sources):
            twice = next(x for x in sources if sources.count(x) > 1)
            raise ValueError(f"nir.write: {twice!r} leads to {name!r} twice, which NIR has no edge for.")
        self.entries[name] = Entry(what, sources)
        return (name,)

    def platform(self, given: Any) -> Platform:
        """The platform that goes through the same steps: the one that is given, or the first that resets to a value.

        Raises ValueError where there is none, with the neuron.
        """
        cells = {name: entry.what for name, entry in self.entries.items() if isinstance(entry.what, Cell)}
        tried = [platform_of(given)] if given is not None else _to_value()
        for platform in tried:
            if not any(cell.misfit(platform) for cell in cells.values()):
                return platform
        of = {name: [cell.misfit(platform) for platform in tried] for name, cell in cells.items()}
        name, misfits = max(of.items(), key=lambda item: sum(x is not None for x in item[1]))
        if given is not None:
            raise ValueError(
                f"nir.write(platform={given!r}): node {name!r}: {next(filter(None, misfits))}. Without a platform the one that fits is "
                "noted in the file, where there is one."
            )
        if cells[name].choices.get("reset_mechanism") == "subtract":
            own = {key: x for key, x in cells[name].choices.items() if x != getattr(Platform(), key, x)}
            fit = [key for key, x in platforms.items() if not any(cell.misfit(x) for cell in cells.values())]
            way = repr(fit[0]) if fit else f"nir.Platform({', '.join(f'{key}={x!r}' for key, x in own.items())})"
            raise ValueError(
                f"nir.write: node {name!r} is reset by subtraction. NIR's neurons are reset to a value, and its file cannot say otherwise. "
                f'Train it with reset_mechanism="value", or, for a reader that subtracts, write it with platform={way}.'
            )
        raise ValueError(
            f"nir.write: node {name!r} goes through its steps as no platform does: {'; '.join(sorted(set(filter(None, misfits))))}."
        )

    def nodes(self, platform: Platform, shape: Shape | None, exact: tuple[Exact, ...] = ()) -> dict[str, Node]:
        """All nodes with NIR's numbers. `shape`: of the input, where the first node does not say it.

        Raises ValueError for numbers that are not read again as they are.
        """
        dynamics = Dynamics(self.dt, platform, ATan())
        found: dict[str, Node] = {}
        shapes: dict[str, Shape | None] = {}
        kept: dict[str, dict[str, np.ndarray]] = {}
        for x in exact:
            kept.setdefault(x.node, {})[x.name] = np.frombuffer(x.data, x.dtype).reshape(x.shape)
        for name, (what, sources) in self.entries.items():
            came = next((shapes[x] for x in sources if shapes.get(x) is not None), None)
            if isinstance(what, Node) and what.kind == "Input":
                came = own = what.numbers["shape"] or shape or self._wanted(name)
                found[name] = Node("Input", {"shape": np.array(own)})
                shapes[name] = tuple(int(n) for n in own)
                continue
            if isinstance(what, Node) and what.kind in ("Scale", "Threshold", "Delay") and came is not None:
                what = Node(what.kind, {key: x.expand(came) for key, x in what.numbers.items()})
            leaves = tuple(what.leaves.values()) if isinstance(what, Cell) else tree_leaves(what.numbers)
            floats = [x.dtype for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
            dtype = floats[0] if floats else torch.get_default_dtype()
            node = self._numbers(name, what, came, dynamics) if isinstance(what, Cell) else what
            wanted = {key: x.detach() for key, x in what.leaves.items()} if isinstance(what, Cell) else None
            if wanted is None and name in kept:
                wanted = _leaves(_read(name, node, came, dtype, dynamics).params)
            if name in kept and wanted is not None:
                node = _as_before(name, node, kept[name], wanted, came, dtype, dynamics)
            layer = _read(name, node, came, dtype, dynamics)
            if isinstance(what, Cell) and not _equal(_leaves(layer.params), what.leaves):
                way = "Shares of a step are within [0, 1], and a membrane keeps some of itself."
                if dtype == torch.float64:
                    way = "A share in double precision may have no time constant that gives it back: give it in torch.float32."
                raise ValueError(
                    f"nir.write: node {name!r}: its numbers would not be read again as they are: "
                    f"{', '.join(key for key, x in _leaves(layer.params).items() if not _same(x, what.leaves[key]))}. {way}"
                )
            found[name], shapes[name] = _arrays(node), layer.shape
            if node.kind == "Output":
                found[name] = Node("Output", {"shape": np.array(shapes[name])})
            if node.kind in ("Conv1d", "Conv2d") and came is not None:
                size = came[1:] if node.kind == "Conv2d" else came[1]
                found[name].numbers["input_shape"] = size
            if node.kind == "Flatten" and came is not None:
                start, end = (int(node.numbers[key]) % len(came) for key in ("start_dim", "end_dim"))
                ends = {"start_dim": start, "end_dim": -1 if end == len(came) - 1 else end}
                found[name].numbers.update(ends, input_type={"input": np.array(came)})
        return found

    @property
    def edges(self) -> list[Edge]:
        return [(start, name) for name, entry in self.entries.items() for start in entry.sources]

    def metadata(self, platform: Platform) -> dict[str, str]:
        """What is noted in the file: what `read` needs to give the same steps, as NIR has no word for it."""
        names = [key for key, x in platforms.items() if x == platform]
        noted: dict[str, Any] = {"dt": self.dt, "before": "silence" if self.silence else "nothing"}
        noted |= {"platform": names[0] if names else dataclasses.asdict(platform)}
        kinds = {name: entry.what.kind for name, entry in self.entries.items()}
        outputs = [name for name, kind in kinds.items() if kind == "Output"]
        late = {end for name, kind in kinds.items() if kind == "Delay" for end in [name] if self._late(name)}
        remember = [name for name, kind in kinds.items() if kind in NEURONS]
        if sorted(self.back) != recurrent_edges(list(kinds), self.edges, outputs, late, remember):
            noted["recurrent"] = sorted(self.back)
        return {NOTE: json.dumps(noted)}

    def _late(self, name: str) -> bool:
        what = self.entries[name].what
        return isinstance(what, Node) and float(np.min(np.asarray(what.numbers["delay"]))) > self.dt / 2

    def _wanted(self, name: str) -> Shape:
        """The shape of an input by what it leads to."""
        for what, sources in self.entries.values():
            if name in sources and isinstance(what, Node) and what.kind in ("Affine", "Linear"):
                return (what.numbers["weight"].shape[1],)
            if name in sources and isinstance(what, Cell):
                own = torch.broadcast_shapes(*(x.shape for x in what.leaves.values()))
                if own:
                    return tuple(own)
        raise ValueError(
            "nir.write: nothing says the shape of the input. Give it, without the batch: nir.write(..., shape=(2, 34, 34))."
        )

    def _numbers(self, name: str, cell: Cell, shape: Shape | None, dynamics: Dynamics) -> Node:
        doubles = {key: x.detach().double() for key, x in cell.leaves.items()}
        for key in {"alpha", "beta"} & doubles.keys() if cell.kind not in ("I", "IF") else ():
            share = doubles[key] if dynamics.platform.update == "relax" else 1 - doubles[key]
            if not bool(((share > 0) & (share <= 1)).all()):
                way = (
                    ""
                    if cell.kind.startswith("Cuba")
                    else " A whole layer without a leak is an IF: update='decay', beta=1, leak=0."
                )
                raise ValueError(
                    f"nir.write: node {name!r}: {key} says that a share of {float(share.min()):g} to {float(share.max()):g} is lost in a "
                    f"step. NIR has a time constant, for more than 0, and 1 at most.{way}"
                )
        try:
            own = torch.broadcast_shapes(*(x.shape for x in doubles.values()))
            fits = shape is None or torch.broadcast_shapes(own, shape) == torch.Size(shape)
        except RuntimeError:
            own, fits = tuple(max((x.shape for x in doubles.values()), key=len)), False
        if not fits:
            raise ValueError(f"nir.write: node {name!r}: its numbers are of {tuple(own)}, but it gets {shape}.")
        doubles = {key: x.expand(shape if shape is not None else own) for key, x in doubles.items()}
        return Node(cell.kind, dynamics.numbers(cell.kind, doubles))


def _to_value() -> list[Platform]:
    return [x for x in platforms.values() if x.reset_mechanism == "value"]


def _read(name: str, node: Node, shape: Shape | None, dtype: torch.dtype, dynamics: Dynamics) -> Any:
    return layer_of(Given(name, node, dtype), shape, dynamics)


def _leaves(params: Any) -> dict[str, Tensor]:
    return {name: getattr(params, name) for name in getattr(params, "__leaves__", ())}


def _equal(read: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return all(_same(x, wanted[key]) for key, x in read.items() if key in wanted)


def _same(x: Tensor, wanted: Tensor) -> bool:
    return torch.equal(*torch.broadcast_tensors(x, wanted.detach().to(x.dtype)))


GROUPS = (("tau", "r"), ("tau_mem", "r"), ("tau_syn", "w_in"))


def _as_before(
    name: str,
    node: Node,
    kept: dict[str, np.ndarray],
    wanted: dict[str, Tensor],
    shape: Shape | None,
    dtype: torch.dtype,
    dynamics: Dynamics,
) -> Node:
    """The node with the numbers that the file had, where they are still read as the params are."""
    whole = lambda key: np.broadcast_to(kept[key], np.shape(node.numbers[key]))  # a number for all is written one each
    for group in (*GROUPS, *((key,) for key in kept)):
        tried = {key: whole(key) for key in group if key in kept and key in node.numbers}
        changed = node._replace(numbers=node.numbers | tried)
        if tried and _equal(_leaves(_read(name, changed, shape, dtype, dynamics).params), wanted):
            node = changed
    return node


def _arrays(node: Node) -> Node:
    """Tensors as arrays, no wider than they need be."""
    numbers = dict(node.numbers)
    for key, x in numbers.items():
        if isinstance(x, Tensor):
            x = x.float() if x.dtype == torch.bfloat16 else x  # of which NumPy does not know
            array = x.detach().cpu().numpy()
            narrow = array.astype(np.float32) if array.dtype == np.float64 else array
            numbers[key] = np.array(narrow if np.array_equal(narrow, array) else array, order="C")
    return Node(node.kind, numbers)
