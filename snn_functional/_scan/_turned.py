"""Products of states however they are written, as rows times a matrix.

    W @ s, einsum("ij,bj->bi", W, s), (W @ s.T).T, bmm(s[None], W[None])[0]          s @ M

A kernel knows `rows @ matrix` alone. What is between, turned axes and axes of one, is followed here and never done: for each tensor it is
known of which rows it is another sight. Where something else than a product looks at turned rows, all stays as it was read.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch

from ..kernels import Node, RESHAPES, Tape
from ._rewritten import Rewriting


aten = torch.ops.aten
TURNS = {"permute", "transpose", "t", "clone", "select", *RESHAPES}
PRODUCTS = {"mm", "bmm", "mv"}


class Sight(NamedTuple):
    """Rows as they look: for each axis, which axes of the rows it is made of, in order; none for one that was put in."""

    rows: Node
    axes: tuple[tuple[int, ...], ...]

    @property
    def straight(self) -> bool:
        """Is it in memory what the rows are?"""
        walked = [a for axis in self.axes for a in axis if self.rows.shape[a] > 1]
        return walked == sorted(walked)


class _Turned(Exception):
    """Something looks at turned rows."""


def turned(tape: Tape, states: Collection[Node]) -> Tape:
    """The same with products of rows, if there are some that are written otherwise."""
    if not any(node.name in ("bmm", "mv", "t", "permute", "transpose") for node in tape.nodes):
        return tape
    try:
        return _Made(states).of(tape)
    except _Turned:
        return tape


class _Made(Rewriting):
    def __init__(self, states: Collection[Node]) -> None:
        super().__init__(states)
        self.sights: dict[Node, Sight] = {}

    def sight(self, x: Node) -> Sight:
        return self.sights.get(x) or Sight(self.place.get(x, x), tuple((a,) for a in range(len(x.shape))))

    def now(self, x: Any) -> Any:
        """For an operation that looks at it."""
        if not isinstance(x, Node) or x not in self.sights:
            return super().now(x)
        if not self.sights[x].straight:
            raise _Turned
        return self.view(self.sights[x].rows, x.shape)

    def take(self, node: Node) -> None:
        inputs = list(node.inputs())
        reached = [x for x in inputs if x in self.reached]
        if reached:
            self.reached.add(node)
        if len(reached) == 1 and not node.rule:
            axes = self.axes(node, self.sight(reached[0])) if node.name in TURNS else None
            if axes is not None:
                self.sights[node] = Sight(self.sight(reached[0]).rows, axes)
                return
            if node.name in PRODUCTS and (product := self.product(node, *inputs)):
                self.sights[node] = product
                return
        self.keep(node)

    def axes(self, node: Node, sight: Sight) -> tuple[tuple[int, ...], ...] | None:
        """How the rows look after such an operation; None where that cannot be said."""
        axes, rank, how = list(sight.axes), len(sight.axes), node.args[1:]
        if node.name == "clone":  # of rows as they are it is what was asked for
            return None if sight.straight and sight.rows.shape == node.shape else sight.axes
        if node.name == "permute":
            return tuple(axes[a] for a in how[0])
        if node.name in ("transpose", "t"):
            a, b = how if how else (0, rank - 1)
            axes[a], axes[b] = axes[b], axes[a]
            return tuple(axes)
        if node.name == "select" and next(node.inputs()).shape[how[0]] != 1:
            return None
        return _walked([a for axis in axes for a in axis], sight.rows.shape, node.shape)

    def product(self, node: Node, a: Node, b: Node) -> Sight | None:
        """Rows @ matrix, as this product looks; None where it is none of rows with a matrix that no state makes."""
        first = a in self.reached
        if (first and b in self.reached) or node.kwargs:
            return None
        rows, axes = self.sight(a if first else b)
        matrix = self.now(b if first else a)
        if node.name == "bmm":
            if a.shape[0] != 1:
                return None
            batch, *axes = axes
            axes[0 if first else 1] = (*batch, *axes[0 if first else 1])
            matrix = self.view(matrix, matrix.shape[1:])
        *free, taken = axes if first else axes[::-1]
        last = len(rows.shape) - 1
        if any(rows.shape[n] > 1 for n in taken if n != last) or (last not in taken and rows.shape[last] > 1):
            return None
        free = tuple(n for axis in free for n in axis)
        if not first:
            matrix = self.whole(aten.t.default, (matrix,), matrix, matrix.shape[::-1])
        count, shape = math.prod(rows.shape[:-1]), (*rows.shape[:-1], matrix.shape[1])
        flat = self.view(rows, (count, rows.shape[-1]))
        done = self.view(self.whole(aten.mm.default, (flat, matrix), node, (count, shape[-1])), shape)
        new = [free, (last,)] if node.name != "mv" else [(*free, last)]
        new = new if first else new[::-1]
        return Sight(done, (*([()] if node.name == "bmm" else []), *new))


def _walked(axes: list[int], sizes: Sequence[int], shape: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
    """The axes one after another, put together to this shape; None where one would have to be taken apart."""
    found, rest = [], list(axes)
    for n in shape:
        axis, size = [], 1
        while rest and size * sizes[rest[0]] <= n and (size < n or sizes[rest[0]] == 1):
            size *= sizes[rest[0]]
            axis.append(rest.pop(0))
        if size != n:
            return None
        found.append(tuple(axis))
    if rest and any(sizes[a] > 1 for a in rest):
        return None
    if rest and not found:  # a row of one neuron became a number
        return None
    return (*found[:-1], (*found[-1], *rest)) if rest else tuple(found)
