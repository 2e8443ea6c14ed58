"""Under `vmap`: which buffers come to differ between the samples only the forward knows, so it is tried."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn, Tensor

from .._functorch import wrapping
from .._identity import generators, restore


class Buffer(NamedTuple):
    """`norm`: is it of a batch normalisation?"""

    name: str
    value: Tensor
    norm: bool


def tried(
    step: str,
    module: nn.Module,
    once: Callable[[set[str]], Any],
    buffers: Sequence[Buffer],
    states: Sequence[str],
    last: set[str] | None,
) -> tuple[Any, set[str]]:
    """`once(batched)` for the first set of names with which it runs; and that set.

    Where a buffer must be batched, since something batched is written into it, or must not be, since a number is read out of it, torch
    raises: whatever runs is right. What was right at the last call is tried first. `states`: the names of those that forward takes.
    """
    floats = {x.name for x in buffers if x.value.is_floating_point()}
    norms = {x.name for x in buffers if x.norm}
    every = {x.name for x in buffers} | set(states)
    ways: list[set[str]] = []
    for way in (last, floats, every, floats & norms):
        if way is not None and way not in ways:
            ways.append(way)
    drawn, failed = generators() if len(ways) > 1 else [], []
    for batched in ways:
        try:
            return once(batched), batched
        except RuntimeError as error:
            if not any(says in str(error) for says in (*WRITES, *READS)):
                raise
            failed.append(error)
            restore(drawn)
    advice = _advice([str(error) for error in failed], buffers, module)
    if not advice:
        raise failed[0]
    raise RuntimeError(f"The step of {step} under vmap {advice}\ntorch says: {failed[0]}") from failed[0]


def _advice(says: list[str], buffers: Sequence[Buffer], module: nn.Module) -> str:
    """What to do about a forward that fails whichever buffers are batched: so said torch, each time."""
    reads, writes = (any(text in error for text in kind for error in says) for kind in (READS, WRITES))
    numbers = [x for x in buffers if not x.norm and x.value.numel() == 1]
    given = [x.name for x in numbers if "batched" in wrapping([x.value])]
    cells = {type(m).__name__ for m in module.modules() if isinstance(m, nn.RNNCellBase)}
    if reads and given:
        return (
            f"reads a number out of a tensor that differs between the samples. Is it one of the buffers {', '.join(given)}, which "
            "come batched? One that counts steps is the same for all, so it stays out: in_dims of the state "
            f"dict.fromkeys(state, 0) | {{{given[-1]!r}: None}}."
        )
    if reads and writes:
        return (
            "reads a number out of one buffer, and writes what differs between the samples into another. Make those that count "
            "steps integers (torch.long), and those that gather samples floating: so they are told apart."
        )
    if writes and cells:
        return (
            f"has an {' or '.join(sorted(cells))} write into its state, which must be batched as its input is. Give it one, as a "
            "state that forward takes and returns: state.expand(batch, *state.shape) with in_dims 0."
        )
    return ""


# What torch says under vmap where something batched is written into what is not, and where a number is read out of what is batched.
WRITES = ("(self, *extra_args) is not possible", "doesn't match the broadcast shape")
READS = (".item() on a Tensor", "data-dependent control flow", "data pointer of Tensor that doesn't have storage")
