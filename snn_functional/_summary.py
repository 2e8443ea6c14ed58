"""A network as a table: what is in each layer, what it puts out, and how often it fires."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._firing import run_layers, share, spikes_of
from ._functionalize._module import Scanned
from ._functionalize._trees import parts, refuse_other_trees
from ._names import columns
from ._network import Network
from ._neuron import Neuron
from ._scan._door import length_of
from ._tree import described, named_leaves, tree_leaves, tree_map


class Row(NamedTuple):
    """A layer. `params`, `state`, `output`: the shapes of their leaves, of one step, by name. `numbers`: how many are in params.
    `rate`: spikes a neuron and step, None of what does not fire or where no sequence was given."""

    layer: str
    params: dict[str, tuple[int, ...]]
    numbers: int
    state: dict[str, tuple[int, ...]]
    output: dict[str, tuple[int, ...]]
    rate: float | None


class Summary(str):
    """What `summary` says. As text it is the table; as a value it has `rows`, each with `layer`, `params`, `numbers`, `state`, `output` and
    `rate`."""

    rows: tuple[Row, ...]

    def __new__(cls, rows: list[Row], of: str = "") -> "Summary":
        self = super().__new__(cls, "\n".join([_table(rows), of]).rstrip())
        self.rows = tuple(rows)
        return self

    def __repr__(self) -> str:
        return str(self)


@torch.no_grad()
def summary(net: Any, params: Any = None, x: Any = None, *, xs: Any = None) -> Summary:
    """The layers of a chain, or the one neuron that `net` is, as a table: shapes, how many numbers, and how often each layer fires.

    - `net`, `params`: a neuron or a chain, and its tree. A module that `module` made of them has its params: `summary(model, x)`,
      `summary(model, xs=xs)`. So has a `train.Network`.
    - `x`: one step of input, `xs[0]` [batch, ...]: shapes of the states and outputs. Without it there are those of the params alone.
    - `xs`: instead of it a whole sequence [T, batch, ...], over which the network is run from rest: firing rates, too.

    The last line says what was taken for one step: `xs` given as `x` is one step with an axis more. Raises TypeError for what is no neuron,
    and for params that are not its own.

    >>> net = chain(linear, leaky)
    >>> params = (Linear(torch.eye(3)), LeakyParams(beta=0.9))
    >>> summary(net, params, xs=torch.full((5, 2, 3), 0.4))
    layer      params                  numbers  state       output   rate
    0  linear  weight (3, 3), bias ()       10              (2, 3)
    1  leaky   beta (), threshold ()         2  mem (2, 3)  (2, 3)  0.200
    total                                   12
    5 steps of input (2, 3)
    """
    call = "summary(net, params)"
    if isinstance(net, (Scanned, Network)):
        call = "summary(model)"
        if params is not None:
            if x is not None or not _is_input(params):
                raise TypeError(
                    "summary(model): a module has its params. Give one step of input, summary(model, xs[0]), or a whole sequence, "
                    "summary(model, xs=xs)."
                )
            x = params
        net, params = (net.neuron, net.params) if isinstance(net, Scanned) else net.chain()
    if not isinstance(net, Neuron):
        raise TypeError(
            "summary(net, params): net is a neuron or a chain, chain(linear, leaky), or what module makes of one, but "
            f"{described(net)} came."
            + (" A module of faces shows itself: print(net)." if hasattr(net, "named_parameters") else "")
        )
    if x is not None and xs is not None:
        raise TypeError(f"{call}: one step `x` and a sequence `xs` came. Give one of them.")
    refuse_other_trees(call, net, params)
    if x is None and xs is None:
        named = [(f"{path}  {name}" if path else name, tree) for path, name, tree in parts(net.step, params)]
        return Summary([_row(name, tree, None, None, None) for name, tree in named])
    if xs is not None:
        length_of(xs)
    whole = tree_map(lambda leaf: leaf[None], x) if xs is None else xs
    seen: list[Any] = []
    run_layers("", net.step, params, net.init(params, tree_map(lambda leaf: leaf[0], whole)), whole, seen)
    rows = []
    for layer in seen:
        spk = None if xs is None else spikes_of(layer)
        rate = None if spk is None else float(share(layer, spk))
        rows.append(_row(layer.name, layer.params, layer.state, layer.outputs, rate))
    one = ", ".join(str(tuple(leaf.shape[1:])) for leaf in tree_leaves(whole))
    T = len(tree_leaves(whole)[0])
    if xs is not None:
        return Summary(rows, f"{T} steps of input {one}" if T > 1 else f"1 step of input {one}")
    return Summary(
        rows, f"one step of input {one}; firing rates: {call[:-1]}, xs=xs), a whole sequence [T, batch, ...]"
    )


def _is_input(given: Any) -> bool:
    """Can it be one step of input, and no tree of params?"""
    return isinstance(given, Tensor) or (
        isinstance(given, tuple) and bool(given) and all(isinstance(x, Tensor) for x in given)
    )


def _row(name: str, params: Any, state: Any, outputs: Any, rate: float | None) -> Row:
    count = sum(leaf.numel() for leaf in tree_leaves(params) if isinstance(leaf, Tensor))
    named = name.removeprefix("layer ").replace(" (", "  ", 1).removesuffix(")") if name.startswith("layer ") else name
    return Row(named, _shapes(params), count, _shapes(state), _shapes(tree_map(lambda leaf: leaf[0], outputs)), rate)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in named_leaves(tree).items() if isinstance(leaf, Tensor)}


def _table(rows: list[Row]) -> str:
    said = lambda shapes: ", ".join(f"{name} {shape}".strip() for name, shape in shapes.items())
    cells = [("layer", "params", "numbers", "state", "output", "rate")]
    for row in rows:
        rate = "" if row.rate is None else f"{row.rate:.3f}"
        cells.append((row.layer, said(row.params), f"{row.numbers:,}", said(row.state), said(row.output), rate))
    cells.append(("total", "", f"{sum(row.numbers for row in rows):,}", "", "", ""))
    return "\n".join(columns(cells, right=(2, 5)))  # numbers
