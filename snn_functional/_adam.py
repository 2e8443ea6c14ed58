"""Adam in optax's form: two pure functions over any tree of tensors.

    state = adam_init(params)
    updates, state = adam_update(grads, state, lr=1e-3)
    params = tree_map(torch.add, params, updates)

    mean[t]   = b1 mean[t-1] + (1 - b1) grad                   square[t] = b2 square[t-1] + (1 - b2) grad^2
    update[t] = -lr (mean[t] / (1 - b1^t)) / (sqrt(square[t] / (1 - b2^t)) + eps)

Source: Kingma & Ba 2015, arXiv:1412.6980; the defaults are theirs and `torch.optim.Adam`'s.
"""

from typing import Any

import torch
from torch import Tensor

from ._tree import pytree, tree_map


@pytree
class AdamState:
    """- `count`: updates made. (). `mean`, `square`: running moments of the gradient, trees like the params."""

    count: Tensor
    mean: Any
    square: Any


def adam_init(params: Any) -> AdamState:
    """No update made yet: zeros like `params`."""
    return AdamState(
        count=torch.zeros((), dtype=torch.float64),
        mean=tree_map(torch.zeros_like, params),
        square=tree_map(torch.zeros_like, params),
    )


def adam_update(
    grads: Any, state: AdamState, lr: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> tuple[Any, AdamState]:
    """`(updates, state)`: what to add to the params for these gradients, a tree like them."""
    count = state.count + 1
    mean = tree_map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, grads)
    square = tree_map(lambda s, g: b2 * s + (1 - b2) * g * g, state.square, grads)
    updates = tree_map(lambda m, s: -lr * (m / (1 - b1**count)) / ((s / (1 - b2**count)).sqrt() + eps), mean, square)
    return updates, AdamState(count, mean, square)
