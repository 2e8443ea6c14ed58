"""What is right: the numbers of the library's own equation in plain torch, under plain autograd."""

from typing import Any

import torch
from torch import Tensor
from way import tensors, tree_map, Way


class Wrong(Exception):
    """It ran, and the numbers are not right."""


class Missing(Exception):
    """The library has nothing to call here."""


class Inapplicable(Missing):
    """The question does not arise."""


class Elsewhere(Exception):
    """An error of the other process."""

    def __init__(self, error: str, where: str, ours: bool) -> None:
        super().__init__(error)
        self.where, self.ours = where, ours


def same(actual: Any, expected: Any, what: str = "the result") -> None:
    """The same tensors, to rounding; and not all of them zero, which would show nothing."""
    a, b = tensors(actual), tensors(expected)
    if [x.shape for x in a] != [x.shape for x in b]:
        raise Wrong(f"{what} has shapes {[tuple(x.shape) for x in a]}, expected {[tuple(x.shape) for x in b]}")
    assert any(x.any() for x in b), "nothing to compare"
    for x, y in zip(a, b):
        if not (x - y).abs().max() <= 1e-4 * y.abs().max() + 1e-6:
            raise Wrong(f"{what} is off by {(x - y).abs().max():.2g}, of {y.abs().max():.2g}")


def loss(run: Any) -> Any:
    return lambda params, xs, rates: ((run(params, xs).mean(0) - rates) ** 2).mean()


def autograd(f: Any, params: Any, create_graph: bool = False) -> list[Tensor]:
    """The gradient of `f(params)` by plain autograd, for every tensor of params."""
    leaves = tensors(params)
    if not create_graph:
        params = tree_map(lambda p: p.detach().clone().requires_grad_(), params)
        leaves = tensors(params)
    grads = torch.autograd.grad(f(params), leaves, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads)]


def known(way: Way, *args: Any) -> list[Tensor]:
    return autograd(lambda p: loss(way.by_hand)(p, *args), way.params)


def stacked(trees: list[Any]) -> list[Tensor]:
    return [torch.stack(leaves) for leaves in zip(*map(tensors, trees))]


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    line = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).partition(". For more details")[0]
    return line if len(line) < 170 else f"{line[:160]} ..."
