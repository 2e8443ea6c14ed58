"""A graph as one pure step: its nodes in their order, each on the sum of what leads to it."""

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._neuron import at_least, Neuron
from .._tree import tree_leaves
from ._delay import delay_step, delayed
from ._given import Shape
from ._platforms import Platform


class Placed(NamedTuple):
    """A node in its place.

    - `kind`: NIR's. - `neuron`: its step. - `shape`: of what it puts out at one step, without the batch; None where nothing says it.
    - `sources`: the nodes whose output of this step it gets. - `last`: those of which it gets that of the step before.
    - `early`: does it put out what was known before the step, as a delay does?
    """

    name: str
    kind: str
    neuron: Neuron
    shape: Shape | None
    sources: tuple[str, ...]
    last: tuple[str, ...]
    early: bool
    params: bool
    state: bool


class Exact(NamedTuple):
    """A number of a file that is more exact than the params hold it: it is written again, unless they have been changed."""

    node: str
    name: str
    dtype: str
    shape: Shape
    data: bytes


@dataclasses.dataclass(frozen=True, repr=False)
class GraphStep:
    """The step of a graph.

    - `nodes`: in the order in which they are gone through.
    - `silence`: does a recurrent edge hold, before the first step, what it hands on when no neuron fires? Else it holds nothing.
    - `dt`, `platform`: what the params are for. - `exact`: see `Exact`.

    Params and state are dictionaries by the nodes' names, without those that have none; the state also has what each recurrent edge hands
    on, under `"start -> end"`.
    """

    nodes: tuple[Placed, ...]
    silence: bool
    dt: float
    platform: Platform
    exact: tuple[Exact, ...] = ()

    @property
    def recurrent(self) -> tuple[tuple[str, str], ...]:
        """The edges that hand on what was put out at the step before."""
        return tuple((start, node.name) for node in self.nodes for start in node.last)

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """All edges."""
        return tuple((start, node.name) for node in self.nodes for start in (*node.sources, *node.last))

    def of_kind(self, kind: str) -> list[Placed]:
        """The nodes of a kind, by name."""
        return sorted((node for node in self.nodes if node.kind == kind), key=lambda node: node.name)

    def __repr__(self) -> str:
        kinds = [node.kind for node in self.nodes if node.kind not in ("Input", "Output", "Identity")]
        return f"nir({', '.join(kinds)})"

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, dict[str, Any]]:
        self._names("params", params, [node.name for node in self.nodes if node.params])
        held = [node.name for node in self.nodes if node.state] + [edge_name(*edge) for edge in self.recurrent]
        self._names("state", state, held)
        values, new = self._inputs(params, input), dict(state)
        for node in self.nodes:
            if node.early:
                values[node.name] = delayed(params[node.name], state[node.name], input)
        came = lambda node: _sum(
            [
                *(values[name] for name in node.sources),
                *(state[edge_name(name, node.name)] for name in node.last),
            ]
        )
        for node in self.nodes:
            if node.kind != "Input" and not node.early:
                p, s = params[node.name] if node.params else (), state[node.name] if node.state else ()
                values[node.name], s = node.neuron.step(p, s, came(node))
                if node.state:
                    new[node.name] = s
        for node in self.nodes:
            if node.early:  # what it is given may have come after what it gives
                _, new[node.name] = delay_step(params[node.name], state[node.name], came(node))
            for name in node.last:
                new[edge_name(name, node.name)] = values[name]
        return self._outputs(values), new

    def init(self, params: Any, input: Any) -> dict[str, Any]:
        """Every node at rest, shaped like what reaches it when `input` is the first step."""
        from .._scan._shapes import by_shapes  # with it come the kernels' readers, which an import shall not wait for

        return by_shapes(self._init, self, params, input)

    def _init(self, params: Any, input: Any) -> dict[str, Any]:
        self._names("params", params, [node.name for node in self.nodes if node.params])
        values, state = self._inputs(params, input), {}
        first = next(x for x in values.values())
        lead = first.shape[: first.dim() - len(self.of_kind("Input")[0].shape or ())]
        like = lambda shape: first.new_zeros((*lead, *(shape or ())))
        silent = {name: torch.zeros_like(x) for name, x in values.items()}
        shapes = {node.name: node.shape for node in self.nodes}
        for node in self.nodes:
            if node.early:
                values[node.name] = silent[node.name] = like(node.shape)
        for node in self.nodes:
            if node.kind == "Input":
                continue
            p = params[node.name] if node.params else ()
            if node.early:
                state[node.name] = node.neuron.init(p, values[node.name])
                continue
            came = _sum([*(values[name] for name in node.sources), *(like(shapes[name]) for name in node.last)])
            s = node.neuron.init(p, came)
            values[node.name], _ = node.neuron.step(p, s, came)
            if node.state:
                state[node.name], silent[node.name] = s, torch.zeros_like(values[node.name])
            else:
                none = [*(silent[name] for name in node.sources), *(like(shapes[name]) for name in node.last)]
                silent[node.name], _ = node.neuron.step(p, s, _sum(none))
        for start, end in self.recurrent:
            state[edge_name(start, end)] = silent[start] if self.silence else torch.zeros_like(values[start])
        return state

    def _inputs(self, params: Any, input: Any) -> dict[str, Tensor]:
        nodes = self.of_kind("Input")
        if len(nodes) == 1 and not isinstance(input, dict):
            given = {nodes[0].name: input}
        elif isinstance(input, dict) and input.keys() == {node.name for node in nodes}:
            given = input
        else:
            names = ", ".join(repr(node.name) for node in nodes)
            came = f"a dictionary of {', '.join(map(repr, input))}" if isinstance(input, dict) else type(input).__name__
            raise TypeError(f"{self!r}: the input is a dictionary of tensors, of {names}, but {came} came.")
        found = {}
        for node in nodes:
            x, shape = given[node.name], node.shape or ()
            if not isinstance(x, Tensor):
                raise TypeError(f"{self!r}: the input {node.name!r} is a tensor, not {type(x).__name__}.")
            if tuple(x.shape[x.dim() - len(shape) :]) != shape:
                whole = f"[..., {', '.join(map(str, shape))}]"
                raise ValueError(
                    f"{self!r}: the input {node.name!r} is {whole} at one step, but {tuple(x.shape)} came."
                )
            found[node.name] = at_least(self._dtype(params), x)
        return found

    def _dtype(self, params: Any) -> torch.dtype:
        leaves = [x for x in tree_leaves(params) if isinstance(x, Tensor) and x.is_floating_point()]
        return leaves[0].dtype if leaves else torch.get_default_dtype()

    def _outputs(self, values: dict[str, Tensor]) -> Any:
        names = [node.name for node in self.of_kind("Output")]
        return values[names[0]] if len(names) == 1 else {name: values[name] for name in names}

    def _names(self, what: str, tree: Any, names: list[str]) -> None:
        if not isinstance(tree, dict) or tree.keys() != set(names):
            came = f"{sorted(tree)}" if isinstance(tree, dict) else f"a {type(tree).__name__}"
            raise TypeError(
                f"{self!r}: {what} is a dictionary by the names of nodes, {sorted(names)}, but {came} came."
            )


def edge_name(start: str, end: str) -> str:
    """The key, in the state, of what an edge hands on from step to step."""
    return f"{start} -> {end}"


def _sum(came: list[Tensor]) -> Tensor:
    total = came[0]
    for x in came[1:]:
        total = total + x
    return total
