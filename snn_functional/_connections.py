"""Connections: trees that map spikes to currents. What a recurrent neuron feeds back, and what an LSTM's gates are made of.

    V                     current = V spk                        a number or tensor, each neuron to itself
    Linear(weight, bias)  current = spk weight^T + bias          all to all
    Conv2d(weight, bias)  current = weight * spk + bias          along the last two axes, of odd kernels, same size out

Their tensors are leaves, so they get gradients, axes of `vmap` and a place in `state_dict`-like trees as any parameter does.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from ._tree import Leaf, leaf, pytree, refuse_number


@pytree
class Linear:
    """- `weight`: (out, in). - `bias`: (out,), or one number for all."""

    weight: Leaf
    bias: Leaf = leaf(default=0.0)

    def __check__(self) -> None:
        _check_bias(self)

    def __call__(self, x: Tensor) -> Tensor:
        """`x` [..., in] -> [..., out]. Raises ValueError and TypeError where x does not fit the weight."""
        _check(self, x, axes=1, features=-1)
        linear = torch.nn.functional.linear
        return linear(x, self.weight, self.bias) if self.bias.dim() else linear(x, self.weight) + self.bias


@pytree
class Conv2d:
    """- `weight`: (out, in, height, width), height and width odd. - `bias`: (out,), or one number for all."""

    weight: Leaf
    bias: Leaf = leaf(default=0.0)

    def __check__(self) -> None:
        _check_bias(self)

    def __call__(self, x: Tensor) -> Tensor:
        """`x` [batch, in, H, W] -> [batch, out, H, W]. Raises ValueError and TypeError where x does not fit the weight."""
        _check(self, x, axes=3, features=-3)
        bias, padding = self.bias, tuple(size // 2 for size in self.weight.shape[-2:])
        conv2d = functools.partial(torch.nn.functional.conv2d, x, self.weight, padding=padding)
        return conv2d(bias=bias) if bias.dim() else conv2d() + bias


def connect(V: Any, spk: Tensor) -> Tensor:
    """The current that `spk` makes through `V`: a tensor, or a connection."""
    return spk * V if isinstance(V, Tensor) else V(spk)


def check_connection(params: Any, name: str, kind: type | None = None) -> None:
    """Refuses, when params are built, what is neither a floating tensor without NaN nor a connection; or not of this `kind`."""
    value = getattr(params, name)
    if kind is None and not (callable(value) and hasattr(value, "__leaves__")):
        refuse_number(value, type(params), name)
    if kind is not None and not isinstance(value, kind):
        if isinstance(value, Tensor):
            refuse_number(value, type(params), name)
        raise TypeError(
            f"{type(params).__name__}({name}=...) takes a connection, {kind.__name__}(weight, bias), not {type(value).__name__}."
        )


def _check_bias(connection: Any) -> None:
    weight, bias = connection.weight, connection.bias
    if bias.dim() and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{type(connection).__name__}(weight {tuple(weight.shape)}, bias {tuple(bias.shape)}): expected a bias of shape "
            f"{tuple(weight.shape[:1])}, or a number."
        )


def _check(connection: Any, x: Tensor, axes: int, features: int) -> None:
    weight, name = connection.weight, type(connection).__name__
    if x.dim() < axes or x.shape[features] != weight.shape[1]:
        expected = "[..., in]" if axes == 1 else "[batch, in, H, W]"
        raise ValueError(
            f"{name}(weight {tuple(weight.shape)}) takes {expected} with in = {weight.shape[1]}, but {tuple(x.shape)} came."
        )
    if x.dtype != weight.dtype:
        raise TypeError(
            f"{name}(weight {weight.dtype}) cannot take {x.dtype}: give the connection the input's dtype, "
            f"optree.tree_map(lambda leaf: leaf.to({x.dtype}), params)."
        )
