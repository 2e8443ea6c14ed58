"""Products with events as operations, for tracers, who cannot count: there the lists of a tensor are made once forth and once back."""

from torch import Tensor

from ._rules import Events, Outer, Product


def _product(z: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    return Product.forward(Events(), z, w, bias)


def _shape_of_product(z: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    return z.new_empty(max(len(z), len(w), 1 if bias is None else len(bias)), z.shape[1], w.shape[2])


def _outer(z: Tensor, g: Tensor, turned: bool) -> Tensor:
    return Outer.forward(Events(), z, g, turned)


def _shape_of_outer(z: Tensor, g: Tensor, turned: bool) -> Tensor:
    groups, columns, out = max(len(z), len(g)), z.shape[2], g.shape[2]
    return g.new_empty(groups, out, columns).mT if turned else g.new_empty(groups, columns, out)


OPERATORS = {"product": (_product, _shape_of_product), "outer": (_outer, _shape_of_outer)}
