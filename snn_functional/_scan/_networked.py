"""A component that holds products, cut at them: what is left is pointwise, over rows of neurons."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import (
    Factors,
    factors,
    LEAF,
    Node,
    place,
    Plan,
    pointwise,
    Product,
    Products,
    RESHAPES,
    Tape,
    Unsupported,
)
from ._distributed import sum_of


class Networked(NamedTuple):
    """A component at given shapes, as `Prepared` is a step without products.

    - `taken`: the leaves of the kernel but for matrices: which one, and over how many neurons of a row it goes. `matrices`: which ones.
    - `rows`: the shape of what a row is one of: samples, mostly. `outputs`, `last`: shapes of one step.
    """

    plan: Plan
    taken: tuple[tuple[int, int], ...]
    matrices: tuple[int, ...]
    T: int
    device: torch.device
    rows: torch.Size
    outputs: tuple[torch.Size, ...]
    last: tuple[torch.Size, ...]

    @property
    def lanes(self) -> torch.Size:
        return torch.Size((self.rows.numel(),))

    def leaves(self, every: Sequence[Tensor]) -> list[Tensor]:
        """Those of the kernel, rows along one axis."""
        params, states, _ = self.plan.counts
        count, out = self.rows.numel(), []
        for n, (i, w) in enumerate(self.taken):
            x, whole = every[i], (*self.rows, w)
            if n < params:
                flat = x.dim() > 1 and len(self.rows) != 1
                out.append(x.expand(whole).reshape(count, w) if flat else x)
            elif n < params + states:
                out.append(x if len(self.rows) == 1 else x.reshape(count, w))
            else:
                x = (
                    x
                    if x.shape[1:] == whole
                    else x.reshape(x.shape[0], *[1] * (1 + len(whole) - x.dim()), *x.shape[1:])
                )
                x = x.expand(x.shape[0], *whole)
                out.append(x if len(self.rows) == 1 else x.reshape(x.shape[0], count, w))
        return [*out, *(every[i] for i in self.matrices)]

    def results(
        self, found: Sequence[Tensor], leaves: Any, params: int, states: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        outputs, last = list(found[: len(self.outputs)]), list(found[len(self.outputs) :])
        if len(self.rows) == 1:
            return outputs, last
        outputs = [x.reshape(x.shape[0], *shape) for x, shape in zip(outputs, self.outputs)]
        return outputs, [x.reshape(shape) for x, shape in zip(last, self.last)]


def networked(tape: Tape, params: int, states: int, T: int, device: torch.device) -> Networked:
    """- `tape`: leaves that are the same at every step (`params` of them), states, and what changes; it gives outputs, then states.

    Raises Unsupported for what is neither pointwise nor a product with a matrix that is the same at every step.
    """
    cut = _Cut(tape, params, states)
    for node in tape.nodes:
        cut.take(node)
    outputs, ends = tape.outputs[: len(tape.outputs) - states], tape.outputs[len(tape.outputs) - states :]
    gives = tuple(cut.value(x, x.shape[-1] if x.shape else 0) for x in (*outputs, *ends))
    us, zs = tuple(cut.us), tuple(cut.zs)
    if not us:
        raise Unsupported("it holds no product")
    leaves = [*cut.given.items(), *(((x, x.shape[-1]), cut.new[x]) for x in cut.begin), *cut.timed.items()]
    number = {x: i for i, x in enumerate(tape.leaves)}
    matrices = tuple(number[x] for x in cut.matrices)
    whole = Tape((*(x for _, x in leaves), *us), tuple(cut.nodes), (*gives, *zs), cut=tape.cut)
    widths = (*(w for (_, w), _ in leaves), *(u.shape[-1] for u in us))
    given = tuple(x.shape[-1] for x in (*gives, *zs))
    products = Products(tuple(cut.products), tuple(x.dtype for x in cut.matrices), widths, given)
    plan = Plan(whole, (len(cut.given), states, len(cut.timed)), products=products)
    taken = tuple((number[x], w) for (x, w), _ in leaves)
    return Networked(
        plan, taken, matrices, T, device, cut.rows, tuple(x.shape for x in outputs), tuple(x.shape for x in ends)
    )


class _Cut:
    """What has been made of the nodes so far."""

    def __init__(self, tape: Tape, params: int, states: int) -> None:
        self.fixed, self.begin = tape.leaves[:params], tape.leaves[params : params + states]
        self.moving = set(tape.leaves[params + states :])
        shapes = {x.shape[:-1] for x in self.begin if x.shape}
        if len(shapes) != 1 or any(not x.shape for x in self.begin):
            raise Unsupported("its states are not rows of neurons")
        (self.rows,) = shapes
        self.count = self.rows.numel()
        self.new: dict[Node, Node] = {x: self.leaf(x, x.shape[-1]) for x in self.begin}
        self.given: dict[tuple[Node, int], Node] = {}
        self.timed: dict[tuple[Node, int], Node] = {}
        self.nodes: list[Node] = []
        self.us: list[Node] = []
        self.zs: list[Node] = []
        self.matrices: list[Node] = []
        self.products: list[Product] = []

    def leaf(self, like: Node, w: int, whole: bool = True) -> Node:
        shape = torch.Size((self.count, w)) if whole else like.shape
        return Node(LEAF, None, (), {}, like.dtype, shape, like.dtype, like.line)

    def width(self, node: Node) -> int:
        """Of one that has all rows."""
        if not node.shape or math.prod(node.shape[:-1]) != self.count:
            raise Unsupported(f"{node.target} has another number of rows{place(node.line)}")
        return node.shape[-1]

    def value(self, x: Node, w: int) -> Node:
        """What it has become, for rows of `w` neurons. What comes from outside broadcasts to these."""
        if x in self.new:
            found = self.new[x]
            if found.shape and found.shape[-1] != w:
                raise Unsupported(f"rows of {found.shape[-1]} and of {w} neurons meet without a product{place(x.line)}")
            return found
        kept = self.timed if x in self.moving else self.given
        if (x, w) not in kept:
            whole = (*self.rows, w)
            if len(x.shape) > len(whole) or any(n not in (1, m) for n, m in zip(x.shape[::-1], whole[::-1])):
                raise Unsupported(f"shapes {list(x.shape)} and {list(whole)} do not go together")
            flat = len(x.shape) > 1 and len(self.rows) != 1
            kept[x, w] = self.leaf(x, w, whole=x in self.moving or flat)
        return kept[x, w]

    def take(self, node: Node) -> None:
        if not any(True for _ in node.inputs()) and not node.rule:  # a constant
            if node.why:
                raise Unsupported(node.why)
            flat = len(node.shape) > 1 and len(self.rows) != 1
            self.add(node, dataclasses.replace(node, shape=torch.Size((1,))) if flat else node)
        elif parts := factors(node):
            self.product(node, parts)
        elif node.name in RESHAPES or node.name == "expand":
            self.new[node] = self.value(next(node.inputs()), self.width(node))
        elif not pointwise(node):
            raise Unsupported(node.why or f"{node.target} is not pointwise{place(node.line)}")
        else:
            w = self.width(node)
            of = lambda x: self.value(x, w) if isinstance(x, Node) else [of(y) for y in x] if isinstance(x, list) else x
            rule = (node.rule[0], tuple(map(of, node.rule[1]))) if node.rule else None
            kwargs = {k: of(x) for k, x in node.kwargs.items()}
            args, shape = tuple(map(of, node.args)), torch.Size((self.count, w))
            self.add(node, dataclasses.replace(node, args=args, kwargs=kwargs, rule=rule, shape=shape))

    def add(self, node: Node, new: Node) -> None:
        self.new[node] = new
        self.nodes.append(new)

    def product(self, node: Node, parts: Factors) -> None:
        z, matrix, added = parts
        if matrix not in self.fixed:
            raise Unsupported(
                f"{node.target} is not a product with a matrix that is the same at every step{place(node.line)}"
            )
        inner, outer = matrix.shape
        z = self.value(z, inner)
        u = self.leaf(node, self.width(node))
        if matrix not in self.matrices:
            self.matrices.append(matrix)
        self.products.append(Product(self.matrices.index(matrix)))
        self.us.append(u)
        self.zs.append(z)
        self.new[node] = u
        if added is not None:
            self.add(node, sum_of(node, u, self.value(added, outer)))
