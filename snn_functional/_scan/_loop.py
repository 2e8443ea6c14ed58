"""The definition: a Python loop. Every faster kind answers to this file."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from .._functorch import intercepted, is_compiling
from .._tree import tree_flatten, tree_leaves, tree_unflatten


# The trees of params, state, one step's input and output. A tree of many steps is the same tree, its leaves with time in front.
P = TypeVar("P")
S = TypeVar("S")
X = TypeVar("X")
Y = TypeVar("Y")
Step = Callable[[P, S, X], tuple[Y, S]]


def loop(step: Step[P, S, X, Y], params: P, state: S, inputs: X, length: int, reverse: bool) -> tuple[Y, S]:
    """`output[t], state = step(params, state, input[t])` for every t, forwards or backwards."""
    # unbind, never x[t]: the backward of an index fills a whole [T, ...] tensor for every step.
    xs, tree = tree_flatten(inputs)
    slices: Sequence[Sequence[Tensor]] = list(zip(*(x.unbind(0) for x in xs))) if xs else [()] * length
    outputs, last = [], state
    for x in reversed(slices) if reverse else slices:
        first = not outputs
        with unchanged(step, (params, last, x) if first else ()):
            try:
                returned = step(params, last, tree_unflatten(tree, x))
            except RuntimeError as error:
                if cure := refused_function(error):
                    raise type(error)(f"{error}{cure}") from error
                if type(error) is RuntimeError and ("shape" in str(error) or "size" in str(error)):
                    from ..kernels import line_of

                    raise RuntimeError(f"{error}{line_of(error)}") from error  # which of its layers does not fit
                raise
            output, new = pair(returned, step)
        same_form(last, new, step, broadcast=first)
        outputs.append(output)
        last = new
    return _stack(outputs[::-1] if reverse else outputs, step), last


@contextmanager
def unchanged(step: Any, arguments: Any) -> Iterator[None]:
    """Refuses a step that writes into these tensors."""
    given = _versions(arguments)
    yield
    if _versions(arguments) != given:
        raise ValueError(
            f"scan: {step_name(step)} changed its arguments in place. A step is pure: return new tensors, "
            "mem = mem + x instead of mem += x."
        )


def refused_function(error: RuntimeError) -> str:
    """What to do about it, where torch refuses an `autograd.Function` under `torch.func`: most often a surrogate. Else nothing."""
    says = str(error)
    return CURE if any(missing in says for missing in LACKS) and CURE not in says else ""


LACKS = ("setup_context", "generate_vmap_rule", "implement the jvp function")  # what torch says that the Function lacks
CURE = """
Is it a surrogate gradient (spike_grad)? Give its slope alone, and it goes under every transform:
    spike_grad = snn_functional.surrogate.custom_surrogate(lambda u, grad, spikes: grad / (1 + (torch.pi * u) ** 2))
which is `CustomSlope`. Or write the Function as torch.func wants it, with generate_vmap_rule = True and these static methods:
    forward(u), without ctx; setup_context(ctx, inputs, output); backward(ctx, grad)"""


def _versions(tree: Any) -> list[int]:
    """How often each leaf was written to; an inference tensor does not count, and no compiler or reading knows."""
    if is_compiling() or intercepted():
        return []
    return [leaf._version for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf.is_inference()]


def _stack(outputs: list[Any], step: Any) -> Any:
    columns, tree = [], None
    for output in outputs:
        leaves, this = tree_flatten(output)
        if tree is not None and this != tree:
            raise ValueError(
                f"scan: {step_name(step)} changed the structure of its output between steps:\n    {tree}\n    {this}"
            )
        tree = this
        columns.append(leaves)
    assert tree is not None
    for leaf in columns[0]:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"scan: {step_name(step)} returned {leaf!r} ({type(leaf).__name__}) as an output; outputs are trees of tensors."
            )
    return tree_unflatten(tree, [torch.stack(column) for column in zip(*columns)])


def pair(returned: Any, step: Any) -> tuple[Any, Any]:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"scan: {step_name(step)} returned {type(returned).__name__}; a step returns (output, state).")
    return returned


def same_form(old: Any, new: Any, step: Any, broadcast: bool = False) -> None:
    olds, old_tree = tree_flatten(old)
    news, new_tree = tree_flatten(new)
    if old_tree != new_tree:
        raise ValueError(
            f"scan: {step_name(step)} changed the structure of its state:\n    from {old_tree}\n    to   {new_tree}\n"
            "A step returns (output, state), in this order."
        )
    for a, b in zip(olds, news):
        if not isinstance(b, Tensor):
            raise TypeError(
                f"scan: {step_name(step)} put {b!r} ({type(b).__name__}) into its state; states are trees of tensors."
            )
        if a.dtype is not b.dtype and not (broadcast and a.dim() == 0):
            raise TypeError(
                f"scan: {step_name(step)} changed the dtype of its state, from {_form(olds)} to {_form(news)}. "
                "Give state, params and inputs one dtype."
            )
        if a.shape != b.shape and not (broadcast and _broadcasts(a.shape, b.shape)):
            raise ValueError(
                f"scan: {step_name(step)} changed the shape of its state, from {_form(olds)} to {_form(news)}."
            )


def _broadcasts(small: torch.Size, large: torch.Size) -> bool:
    return len(small) <= len(large) and all(s in (1, n) for s, n in zip(small[::-1], large[::-1]))


def _form(leaves: Sequence[Tensor]) -> str:
    return "(" + ", ".join(f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}" for x in leaves) + ")"


def step_name(step: Any) -> str:
    return getattr(step, "__name__", None) or repr(step)
