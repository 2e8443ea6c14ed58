"""A component that holds products, cut at them: what is left is pointwise, over rows of neurons."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import (
    convolution_of,
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
    whole_rows,
)
from ._distributed import sum_of


class Networked(NamedTuple):
    """A component at given shapes, as `Prepared` is a step without products.

    - `taken`: the leaves of the kernel but for matrices: which one, and over which neurons of a row it goes: so many, or channels of so
      many pixels. `matrices`: which ones.
    - `rows`: the shape of what a row is one of: samples, mostly. `flat`: are states [rows, neurons], as the kernel has them? `outputs`,
      `last`: shapes of one step.
    """

    plan: Plan
    taken: tuple[tuple[int, torch.Size], ...]
    matrices: tuple[int, ...]
    T: int
    device: torch.device
    rows: torch.Size
    flat: bool
    outputs: tuple[torch.Size, ...]
    last: tuple[torch.Size, ...]

    @property
    def lanes(self) -> torch.Size:
        return torch.Size((self.rows.numel(),))

    @property
    def whole(self) -> bool:
        """Is it one kernel?"""
        return whole_rows(self.device.type, self.plan.products.each, self.plan.products.widths)

    def leaves(self, every: Sequence[Tensor]) -> list[Tensor]:
        """Those of the kernel, rows along one axis."""
        params, states, _ = self.plan.counts
        count, out = self.rows.numel(), []
        for n, (i, neurons) in enumerate(self.taken):
            x, w, whole = every[i], neurons.numel(), (*self.rows, *neurons)
            if n < params:
                out.append(x if self.flat else self.param(x, neurons))
            elif n < params + states:
                out.append(x if self.flat else x.reshape(count, w))
            else:
                T = x.shape[0]
                x = x if x.shape[1:] == whole else x.reshape(T, *[1] * (1 + len(whole) - x.dim()), *x.shape[1:])
                x = x.expand(T, *whole)
                out.append(x if self.flat else x.reshape(T, count, w))
        return [*out, *(every[i] if every[i].dim() == 2 else every[i].flatten(1) for i in self.matrices)]

    def param(self, x: Tensor, neurons: torch.Size) -> Tensor:
        """For all rows, where it is the same for these."""
        if x.dim() > len(neurons):
            return x.expand(*self.rows, *neurons).reshape(self.rows.numel(), -1)
        if len(neurons) == 1:
            return x
        return x.reshape(()) if x.numel() == 1 else x.expand(neurons).reshape(-1)

    def results(
        self, found: Sequence[Tensor], leaves: Any, params: int, states: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        outputs, last = list(found[: len(self.outputs)]), list(found[len(self.outputs) :])
        if self.flat:
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
    gives = tuple(cut.value(x, cut.neurons(x)) for x in (*outputs, *ends))
    us, zs = tuple(cut.us), tuple(cut.zs)
    if not us:
        raise Unsupported("it holds no product")
    leaves = [*cut.given.items(), *(((x, cut.neurons(x)), cut.new[x]) for x in cut.begin), *cut.timed.items()]
    number = {x: i for i, x in enumerate(tape.leaves)}
    matrices = tuple(number[x] for x in cut.matrices)
    whole = Tape((*(x for _, x in leaves), *us), tuple(cut.nodes), (*gives, *zs), cut=tape.cut)
    widths = (*(neurons.numel() for (_, neurons), _ in leaves), *(u.shape[-1] for u in us))
    given = tuple(x.shape[-1] for x in (*gives, *zs))
    products = Products(tuple(cut.products), tuple(x.dtype for x in cut.matrices), widths, given)
    plan = Plan(whole, (len(cut.given), states, len(cut.timed)), products=products)
    taken = tuple((number[x], neurons) for (x, neurons), _ in leaves)
    shapes = (tuple(x.shape for x in some) for some in (outputs, ends))
    return Networked(plan, taken, matrices, T, device, cut.rows, cut.flat, *shapes)


class _Cut:
    """What has been made of the nodes so far."""

    def __init__(self, tape: Tape, params: int, states: int) -> None:
        self.fixed, self.begin = tape.leaves[:params], tape.leaves[params : params + states]
        self.moving = set(tape.leaves[params + states :])
        # Neurons of a row: the last axis, or channels and pixels.
        self.axes = max((len(x.shape) - 1 for x in tape.nodes if x.name == "convolution"), default=1)
        shapes = {x.shape[: -self.axes] for x in self.begin if len(x.shape) >= self.axes}
        if len(shapes) != 1 or any(len(x.shape) < self.axes for x in self.begin):
            raise Unsupported("its states are not rows of neurons")
        (self.rows,) = shapes
        self.flat = len(self.rows) == 1 == self.axes
        self.count = self.rows.numel()
        self.new: dict[Node, Node] = {x: self.leaf(x, self.neurons(x)) for x in self.begin}
        self.given: dict[tuple[Node, torch.Size], Node] = {}
        self.timed: dict[tuple[Node, torch.Size], Node] = {}
        self.nodes: list[Node] = []
        self.us: list[Node] = []
        self.zs: list[Node] = []
        self.matrices: list[Node] = []
        self.products: list[Product] = []

    def leaf(self, like: Node, neurons: torch.Size, whole: bool = True) -> Node:
        shape = torch.Size((self.count, neurons.numel())) if whole else like.shape
        return Node(LEAF, None, (), {}, like.dtype, shape, like.dtype, like.line)

    def neurons(self, node: Node) -> torch.Size:
        """Those of a row, of what has all rows."""
        for axes in (self.axes, 1):
            if len(node.shape) >= axes and math.prod(node.shape[:-axes]) == self.count:
                return node.shape[-axes:]
        raise Unsupported(f"{node.target} has another number of rows{place(node.line)}")

    def value(self, x: Node, neurons: torch.Size) -> Node:
        """What it has become, for rows of such neurons. What comes from outside broadcasts to these."""
        w = neurons.numel()
        if x in self.new:
            found = self.new[x]
            if found.shape and found.shape[-1] != w and any(True for _ in x.inputs()):  # else a constant
                raise Unsupported(f"rows of {found.shape[-1]} and of {w} neurons meet without a product{place(x.line)}")
            return found
        kept = self.timed if x in self.moving else self.given
        if (x, neurons) not in kept:
            whole = (*self.rows, *neurons)
            if len(x.shape) > len(whole) or any(n not in (1, m) for n, m in zip(x.shape[::-1], whole[::-1])):
                raise Unsupported(f"shapes {list(x.shape)} and {list(whole)} do not go together")
            kept[x, neurons] = self.given_leaf(x, neurons)
        return kept[x, neurons]

    def given_leaf(self, x: Node, neurons: torch.Size) -> Node:
        if x in self.moving or (len(x.shape) > len(neurons) and not self.flat):
            return self.leaf(x, neurons)
        leaf = self.leaf(x, neurons, whole=False)
        if len(neurons) > 1:  # as `Networked.param` makes it
            return dataclasses.replace(leaf, shape=torch.Size(() if x.shape.numel() == 1 else (neurons.numel(),)))
        return leaf

    def take(self, node: Node) -> None:
        if not any(True for _ in node.inputs()) and not node.rule:  # a constant
            if node.why:
                raise Unsupported(node.why)
            flat = len(node.shape) > 1 and not self.flat
            self.add(node, dataclasses.replace(node, shape=torch.Size((1,))) if flat else node)
        elif parts := factors(node):
            self.product(node, parts)
        elif node.name in RESHAPES or node.name == "expand":
            self.new[node] = self.value(next(node.inputs()), self.neurons(node))
        elif not pointwise(node):
            raise Unsupported(node.why or f"{node.target} is not pointwise{place(node.line)}")
        else:
            neurons = self.neurons(node)
            of = lambda x: (
                self.value(x, neurons) if isinstance(x, Node) else [of(y) for y in x] if isinstance(x, list) else x
            )
            rule = (node.rule[0], tuple(map(of, node.rule[1]))) if node.rule else None
            kwargs = {k: of(x) for k, x in node.kwargs.items()}
            args, shape = tuple(map(of, node.args)), torch.Size((self.count, neurons.numel()))
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
        convolution = convolution_of(node)
        assert added is None or convolution is None  # `distributed` has made it an addition
        z = self.value(z, torch.Size(convolution.taken if convolution else matrix.shape[:1]))
        u = self.leaf(node, self.neurons(node))
        if matrix not in self.matrices:
            self.matrices.append(matrix)
        self.products.append(Product(self.matrices.index(matrix), convolution=convolution))
        self.us.append(u)
        self.zs.append(z)
        self.new[node] = u
        if added is not None:
            self.add(node, sum_of(node, u, self.value(added, matrix.shape[1:])))
