"""A convolution as a product of rows: a row is all pixels of all channels of one sample, the matrix holds the weights, [out channels, the
rest]."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._tape import Node


class Convolution(NamedTuple):
    """- `taken`, `given`: channels, and pixels along each axis, of what it takes and gives. `weight`: the shape of its weights."""

    taken: tuple[int, ...]
    given: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __call__(self, z: Tensor, matrix: Tensor, transposed: bool) -> Tensor:
        """Rows [n, taken] to rows [n, given]; transposed: the other way."""
        x = z.reshape(-1, *(self.given if transposed else self.taken))
        more = self.missing if transposed else [0] * len(self.stride)
        how = self.stride, self.padding, self.dilation, transposed, more, self.groups
        return torch.ops.aten.convolution(x, matrix.reshape(self.weight), None, *how).flatten(1)

    @property
    def missing(self) -> list[int]:
        """Pixels at the rim that no window begins at, along each axis."""
        axes = zip(self.taken[1:], self.given[1:], self.weight[2:], self.stride, self.padding, self.dilation)
        return [n - ((m - 1) * step - 2 * rim + apart * (k - 1) + 1) for n, m, k, step, rim, apart in axes]

    def outer(self, z: Tensor, d: Tensor) -> Tensor:
        """The weights' gradient, of rows that it takes and of what flows back into those that it gives."""
        x, back = z.reshape(-1, *self.taken), d.reshape(-1, *self.given)
        how = self.stride, self.padding, self.dilation, False, [0] * len(self.stride), self.groups
        weight = z.new_zeros(()).expand(self.weight)  # its shape is asked for, no more
        return torch.ops.aten.convolution_backward(back, x, weight, None, *how, [False, True, False])[1].flatten(1)


def convolution_of(node: Node) -> Convolution | None:
    """None of what is none, and of one the other way round."""
    if node.name != "convolution" or node.args[6]:
        return None
    x, w, _, stride, padding, dilation, _, _, groups = node.args
    taken, given = tuple(x.shape[1:]), tuple(node.shape[1:])
    return Convolution(taken, given, tuple(w.shape), tuple(stride), tuple(padding), tuple(dilation), groups)
