"""The door of `scan`: what cannot be scanned is refused here, before anything is run."""

from typing import Any

import torch
from torch import Tensor

from .._tree import tree_leaves
from ._loop import step_name


def admit(step: Any, params: Any, state: Any, inputs: Any, length: int | None) -> int:
    """The number of steps. Raises TypeError or ValueError that shows what came, and what was expected."""
    if not callable(step):
        hint = " Give its step: scan(neuron.step, ...)." if hasattr(step, "step") else ""
        raise TypeError(
            f"scan(step, params, state, inputs): step is called at each time step, but came as {type(step).__name__}.{hint}"
        )
    for place, (kind, tree) in enumerate((("Params", params), ("State", state))):
        _belongs(step, kind, place, tree)
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
    # One by one, and not as a set: to a compiler T may be a symbol.
    lengths = [*(x.shape[0] for x in xs), *([length] if length is not None else [])]
    if not lengths:
        raise ValueError(
            "scan(..., inputs=None): without inputs the number of steps must be given: scan(..., None, length=T)."
        )
    steps = lengths[0]
    if any(other != steps for other in lengths[1:]):
        turned = any(
            len(x.shape) > 1 and tuple(x.shape[1::-1]) == tuple(y.shape[:2])
            for x in xs
            for y in xs
            if x.shape[0] != y.shape[0]
        )
        raise ValueError(
            f"scan(..., inputs): the time axes differ: {[tuple(x.shape) for x in xs]}"
            + (f" with length={length}" if length is not None else "")
            + ". Time comes first, [T, batch, ..., neurons], and T is the same everywhere."
            + (" One of them has the batch first: give it as transpose(0, 1)." if turned else "")
        )
    if steps < 1:
        raise ValueError(
            f"scan(..., inputs): the time axis is empty: {[tuple(x.shape) for x in xs]}. Expected at least one time step."
        )
    _one_device(params, state, inputs)
    return steps


def _belongs(step: Any, kind: str, place: int, tree: Any) -> None:
    """Refuses the tree of another neuron, where the step says which is its own: by an annotation, or as a modifier does."""
    around = getattr(step, kind, None)
    own = around or _annotation(step, place)
    if isinstance(own, type) and hasattr(own, "__leaves__") and not isinstance(tree, own):
        raise TypeError(
            f"scan({step_name(step)}, params, state, inputs): {kind.lower()} is a tree of {own.__name__}, but "
            f"{'an' if type(tree).__name__[:1] in 'AEIOU' else 'a'} {type(tree).__name__} came."
        )
    if hasattr(step, kind) and callable(getattr(step, "step", None)):
        _belongs(step.step, kind, place, tree.inner if around else tree)


def _annotation(step: Any, place: int) -> Any:
    function = getattr(step, "__func__", step)
    code = getattr(function, "__code__", None)
    place += function is not step  # a method's first argument is given
    if code is None or code.co_argcount <= place:
        return None
    return function.__annotations__.get(code.co_varnames[place])


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
