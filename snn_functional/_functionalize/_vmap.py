"""Under `vmap`: which buffers come to differ between the samples only the forward knows, so it is tried."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from .._functorch import wrapping
from .._identity import generators, restore


class Buffer(NamedTuple):
    """`norm`: is it of a batch normalisation? `table[key]`: where it stands in the module."""

    name: str
    norm: bool
    table: dict[str, Any]
    key: str


def ways_to_batch(
    last: set[str] | None, buffers: Sequence[Buffer], state: dict[str, Any], states: Sequence[str]
) -> list[set[str]]:
    """Sets of names, in the order in which they are tried.

    `last`: what was right in the call before. `states`: those that forward takes.
    """
    floats = {x.name for x in buffers if state[x.name].is_floating_point()}
    every = {x.name for x in buffers} | set(states)
    ways = [last, floats, every, floats & {x.name for x in buffers if x.norm}]
    return [way for i, way in enumerate(ways) if way is not None and way not in ways[:i]]


def tried(
    ways: Sequence[set[str]], once: Callable[[set[str]], Any], advice: Callable[[list[str]], str], step: str
) -> tuple[Any, set[str]]:
    """`once(batched)` for the first set of names with which it runs; and that set.

    Where a buffer must be batched, since something batched is written into it, or must not be, since a number is read out of it, torch
    raises: whatever runs is right.
    """
    drawn, failed = generators() if len(ways) > 1 else [], []
    for batched in ways:
        try:
            return once(batched), batched
        except RuntimeError as error:
            if not any(says in str(error) for says in (*WRITES, *READS)):
                raise
            failed.append(error)
            restore(drawn)
    if not (help := advice([str(error) for error in failed])):
        raise failed[0]
    raise RuntimeError(f"The step of {step} under vmap {help}\ntorch says: {failed[0]}") from failed[0]


def advice(module: nn.Module, buffers: Sequence[Buffer], state: dict[str, Any], says: list[str]) -> str:
    """What to do about a forward that fails whichever buffers are batched: so said torch, each time."""
    reads, writes = (any(text in error for text in kind for error in says) for kind in (READS, WRITES))
    numbers = [x.name for x in buffers if not x.norm and state[x.name].numel() == 1]
    given = [name for name in numbers if "batched" in wrapping([state[name]])]
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
