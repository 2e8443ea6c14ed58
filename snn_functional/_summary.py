"""A network as a table: what is in each layer, what it puts out, and how often it fires."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._chain import Chain, Residual
from ._firing import run_layers, share, spikes_of
from ._functionalize._module import Scanned
from ._neuron import name_of, Neuron
from ._tree import named_leaves, tree_leaves, tree_map


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

    def __new__(cls, rows: list[Row]) -> "Summary":
        self = super().__new__(cls, _table(rows))
        self.rows = tuple(rows)
        return self

    def __repr__(self) -> str:
        return str(self)


@torch.no_grad()
def summary(net: Any, params: Any = None, x: Any = None, *, xs: Any = None) -> Summary:
    """The layers of a chain, or the one neuron that `net` is, as a table: shapes, how many numbers, and how often each layer fires.

    - `net`, `params`: a neuron or a chain, and its tree; or a module that `module` made of them.
    - `x`: one step of input, `xs[0]` [batch, ...]: shapes of the states and outputs. Without it there are those of the params alone.
    - `xs`: instead of it a whole sequence [T, batch, ...], over which the network is run from rest: firing rates, too.

    Raises TypeError for what is no neuron.

    >>> net = chain(linear, leaky)
    >>> params = (Linear(torch.eye(3)), LeakyParams(beta=0.9))
    >>> summary(net, params, xs=torch.full((5, 2, 3), 0.4))
    layer      params                  numbers  state       output   rate
    0  linear  weight (3, 3), bias ()       10              (2, 3)
    1  leaky   beta (), threshold ()         2  mem (2, 3)  (2, 3)  0.200
    total                                   12
    """
    if isinstance(net, Scanned) and params is None:
        net, params = net.neuron, net.params
    if not isinstance(net, Neuron):
        raise TypeError(
            f"summary(net, params): net is a neuron or a chain, chain(linear, leaky), but {net!r:.80} came."
        )
    if x is not None and xs is not None:
        raise TypeError("summary(net, params): one step `x` and a sequence `xs` came. Give one of them.")
    if x is None and xs is None:
        return Summary([_row(name, layer, p, None, None, None) for name, layer, p in _layers("", net.step, params)])
    whole = tree_map(lambda leaf: leaf[None], x) if xs is None else xs
    seen: list[Any] = []
    run_layers("", net.step, params, net.init(params, tree_map(lambda leaf: leaf[0], whole)), whole, seen)
    rows = []
    for layer in seen:
        spk = None if xs is None else spikes_of(layer)
        rate = None if spk is None else float(share(layer, spk))
        rows.append(_row(layer.name, layer.step, layer.params, layer.state, layer.outputs, rate))
    return Summary(rows)


def _layers(name: str, step: Any, params: Any) -> Any:
    chain = step.chain if isinstance(step, Residual) else step
    if not isinstance(chain, Chain):
        return [(f"layer {name} ({name_of(step)})" if name else name_of(step), step, params)]
    of = [
        _layers(f"{name}.{i}" if name else f"{i}", layer.step, p)
        for i, (layer, p) in enumerate(zip(chain.layers, params))
    ]
    return sum(of, [])


def _row(name: str, step: Any, params: Any, state: Any, outputs: Any, rate: float | None) -> Row:
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
    wide = [max(len(line[i]) for line in cells) for i in range(6)]
    right = (2, 5)  # numbers
    lines = [
        "  ".join(cell.rjust(n) if i in right else cell.ljust(n) for i, (cell, n) in enumerate(zip(line, wide)))
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in lines)
