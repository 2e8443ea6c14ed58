"""The door of `scan`: what cannot be scanned is refused here, before anything is run."""

from typing import Any

import torch
from torch import Tensor

from .._tree import tree_leaves


def admit(step: Any, params: Any, state: Any, inputs: Any, length: int | None) -> int:
    """The number of steps. Raises TypeError or ValueError that shows what came, and what was expected."""
    if not callable(step):
        hint = " Give its step: scan(neuron.step, ...)." if hasattr(step, "step") else ""
        raise TypeError(
            f"scan(step, params, state, inputs): step is called at each time step, but came as {type(step).__name__}.{hint}"
        )
    xs = tree_leaves(inputs)
    for x in xs:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"scan(..., inputs): every leaf is a tensor [T, ...], but a {type(x).__name__} came: {x!r}."
            )
        if x.dim() == 0:
            raise ValueError(
                "scan(..., inputs): a 0-d tensor has no time axis. Expected [T, ...]; for T equal steps give x.expand(T)."
            )
    lengths = {len(x) for x in xs} | ({length} if length is not None else set())
    if not lengths:
        raise ValueError(
            "scan(..., inputs=None): without inputs the number of steps must be given: scan(..., None, length=T)."
        )
    if len(lengths) > 1:
        raise ValueError(
            f"scan(..., inputs): the time axes differ: {[tuple(x.shape) for x in xs]}"
            + (f" with length={length}" if length is not None else "")
            + ". Time comes first, [T, batch, ..., neurons], and T is the same everywhere."
        )
    (steps,) = lengths
    if steps < 1:
        raise ValueError(
            f"scan(..., inputs): the time axis is empty: {[tuple(x.shape) for x in xs]}. Expected at least one time step."
        )
    _one_device(params, state, inputs)
    return steps


def _one_device(params: Any, state: Any, inputs: Any) -> None:
    placed: dict[torch.device, str] = {}
    for name, tree in (("params", params), ("state", state), ("inputs", inputs)):
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor) and not (leaf.dim() == 0 and leaf.device.type == "cpu"):
                placed.setdefault(leaf.device, name)
    if len(placed) > 1:
        where = ", ".join(f"{name} on {device}" for device, name in placed.items())
        raise ValueError(
            f"scan(step, params, state, inputs): mixed devices: {where}. "
            "Move them to one: optree.tree_map(lambda leaf: leaf.to(device), tree)."
        )
