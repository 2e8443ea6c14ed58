"""Products of what was put together, or is taken apart, as products of the parts: all that a kernel knows is whole rows.

    cat([x, h]) @ W                       x @ W[:n] + h @ W[n:], of which the first is no business of the states
    (h @ W + x).chunk(4)[1]               h @ W[:, n : 2 n] + x[:, n : 2 n]

Neurons of the last axis are meant; sums are made in another order, as they are of products anyway. Of a convolution channels are meant:

    conv(cat([x, h], 1), W, bias)         conv(x, W[:, :n]) + conv(h, W[:, n:]) + bias
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import torch

from ..kernels import broadcast, convolution_of, elementwise, Factors, factors, Node, PART, RESHAPES, Tape
from ._rewritten import Rewriting


aten = torch.ops.aten
CUTS = {"split", "split_with_sizes", "chunk"}


def distributed(tape: Tape, states: Collection[Node]) -> Tape:
    """The same with whole rows, where that can be said; what cannot stays as it is."""
    if not any(node.name in ("cat", "slice", "convolution") or node.name in CUTS for node in tape.nodes):
        return tape
    return _Made(states).of(tape)


def sum_of(like: Node, a: Node, b: Node) -> Node:
    """a + b, as a part of the product `like`."""
    shape = broadcast(a.shape, b.shape)
    return Node("add", aten.add.Tensor, (a, b), {}, like.dtype, shape, like.dtype, like.line)


class _Made(Rewriting):
    def __init__(self, states: Collection[Node]) -> None:
        super().__init__(states)
        self.of_products = set[Node]()  # better taken apart before their products than after
        self.slices: dict[tuple[Node, int, int, int], Node] = {}

    def put(self, node: Node) -> Node:
        alike = (x in self.of_products for x in node.inputs() if x.shape == node.shape)
        if factors(node) or (elementwise(node) and any(alike)):
            self.of_products.add(node)
        return super().put(node)

    def take(self, node: Node) -> None:
        if node.rule or node.draws or not any(self.now(x) in self.reached for x in node.inputs()):
            self.keep(node)
        elif (whole := factors(node)) and (parts := self.parts(node, self.now(whole.factor))):
            self.place[node] = self.sum(node, whole, parts)
        elif node.name == "convolution" and whole and whole.added is not None:
            self.place[node] = self.sum(node, whole, [self.now(whole.factor)])
        elif (cut := self.cut(node)) and (whole := self.sliced(*cut)):
            self.place[node] = whole
        else:
            self.keep(node)

    def parts(self, node: Node, z: Node) -> list[Node] | None:
        """What the factor z of this product was put together of, if it was, along the neurons."""
        if convolution := convolution_of(node):
            axis, rank = 1, len(node.shape)
            if convolution.groups != 1:
                return None
        else:
            axis, rank = 1, 2
            while z.name in RESHAPES and next(z.inputs()).shape[-1:] == z.shape[-1:] and len(z.shape) == 2:
                inner = next(z.inputs())
                if inner.name == "cat" and len(inner.shape) != 2:
                    return None
                z = inner
        if z.name != "cat" or len(z.shape) != rank or len(z.args) < 2 or z.args[1] % rank != axis:
            return None
        # What is put together may be of other dtypes, and torch lets an empty part have another shape.
        others = lambda x: (len(x.shape), x.shape[:axis], x.shape[axis + 1 :])
        alike = all(x.dtype == z.dtype and others(x) == others(z) for x in z.args[0])
        return list(z.args[0]) if alike else None

    def sum(self, node: Node, whole: Factors, parts: list[Node]) -> Node:
        first, total, axis = 0, None, int(node.name == "convolution")  # of what the matrix takes
        for x in parts:
            matrix = self.now(whole.matrix)
            matrix = self.slice(matrix, axis, first, first + x.shape[1]) if len(parts) > 1 else matrix
            first += x.shape[1]
            each = self.product(node, x, matrix)
            total = each if total is None else self.put(sum_of(node, total, each))
        assert total
        return total if whole.added is None else self.put(sum_of(node, total, self.bias(node, self.now(whole.added))))

    def bias(self, node: Node, x: Node) -> Node:
        """What is added to a product, as it broadcasts to it."""
        if node.name != "convolution":
            return x
        return self.view(x, (x.shape[0], *[1] * (len(node.shape) - 2)))

    def product(self, like: Node, z: Node, matrix: Node) -> Node:
        if like.name == "convolution":
            shape = torch.Size((z.shape[0], matrix.shape[0], *like.shape[2:]))
            return self.put(dataclasses.replace(like, args=(z, matrix, None, *like.args[3:]), shape=shape))
        return self.whole(aten.mm.default, (z, matrix), like, (z.shape[0], matrix.shape[1]))

    def slice(self, x: Node, axis: int, first: int, end: int) -> Node:
        """Of what no state reaches: an operation as any other."""
        key = x, axis, first, end
        if key not in self.slices:
            shape = (*x.shape[:axis], end - first, *x.shape[axis + 1 :])
            self.slices[key] = self.whole(aten.slice.Tensor, key, x, shape)
        return self.slices[key]

    def cut(self, node: Node) -> tuple[Node, int, int, int] | None:
        """Is it some neurons of what? Along which axis, counted from behind, and which ones?"""
        if not node.shape.numel() or not node.shape:  # none at all
            return None
        if node.name == PART and next(node.inputs()).name in CUTS:
            whole = next(node.inputs())
            if whole.name == "chunk":
                return None
            x, sizes, axis = (*whole.args, 0)[:3]
            i = node.args[1]
            first = sum(sizes[:i]) if isinstance(sizes, (list, tuple)) else i * sizes
        elif node.name == "slice":
            x: Any
            x, axis, first, _, step = (*node.args, *(0, 0, None, 1)[len(node.args) - 1 :])
            if step != 1:
                return None
            axis, first = axis or 0, first or 0
            first = max(first + x.shape[axis], 0) if first < 0 else first
        else:
            return None
        rank = len(x.shape)
        axis = axis % rank - rank
        # The last one; or channels, of what has a batch in front and pixels behind.
        return (self.now(x), axis, first, first + node.shape[axis]) if axis in (-1, min(-1, 1 - rank)) else None

    def sliced(self, x: Node, axis: int, first: int, end: int) -> Node | None:
        """Some neurons of it, made anew; None where that cannot be said."""
        if len(x.shape) < -axis or x.shape[axis] == 1:
            return x
        if x not in self.reached and x not in self.of_products:
            return self.slice(x, len(x.shape) + axis, first, end)
        key = x, axis, first, end
        if key not in self.slices:
            new = self.remade(x, axis, first, end)
            if new is None:
                return None
            self.slices[key] = new
        return self.slices[key]

    def remade(self, x: Node, axis: int, first: int, end: int) -> Node | None:
        if x.rule or x.draws:
            return None
        if whole := factors(x):
            convolution = convolution_of(x)
            of_neurons = axis == 1 - len(x.shape) and convolution.groups == 1 if convolution else axis == -1
            if whole.matrix in self.reached or not of_neurons:
                return None
            new = self.product(x, whole.factor, self.slice(whole.matrix, 0 if convolution else 1, first, end))
            if whole.added is None:
                return new
            bias = self.sliced(whole.added, axis, first, end)
            return self.put(sum_of(x, new, bias)) if bias else None
        fits = lambda y: len(y.shape) < -axis or y.shape[axis] in (1, x.shape[axis])
        if not elementwise(x) or not all(map(fits, x.inputs())):
            return None
        args = []
        for y in x.args:
            y = self.sliced(y, axis, first, end) if isinstance(y, Node) else y
            if y is None:
                return None
            args.append(y)
        if any(isinstance(y, Node) for y in x.kwargs.values()):
            return None
        shape = list(x.shape)
        shape[axis] = end - first
        return self.put(dataclasses.replace(x, args=tuple(args), shape=torch.Size(shape)))
