"""What a step takes and gives: flat lists of tensors, each of which has a role. Nothing else counts where a part of a list begins."""

import enum
import functools
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


class Role(enum.Enum):
    """What a tensor is to a scan. `lanes` is the shape of one time step: all neurons of all samples."""

    PARAM = "broadcasts to the lanes from the right; the same at all time steps"
    STATE = "[*lanes]; what one time step gives to the next"
    TIMED = "[T, *lanes]; another one at each time step"
    MATRIX = "[..., in, out]; what a product takes, the same at all time steps, or one for each group of rows"


PARAM, STATE, TIMED, MATRIX = Role  # an enumeration's attributes are slow to look up


def lane_axis(role: Role) -> int:
    """Where the lanes begin. An axis that `vmap` maps is put there: more samples are more lanes."""
    return 1 if role is TIMED else 0


def broadcasts(role: Role) -> bool:
    """May it have fewer axes than the lanes?"""
    return role is PARAM or role is MATRIX


def split(items: Sequence[Any], *parts: Sized) -> list[Any]:
    """As many of the items as each part is long, and what is left."""
    return [items[cut] for cut in cuts(*map(len, parts))]


@functools.cache
def cuts(*sizes: int) -> list[slice]:
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return [*map(slice, ends, ends[1:]), slice(ends[-1], None)]


@dataclass(frozen=True)
class Slots:
    """The places of a flat list, in groups: a role, and the dtypes of the tensors that have it.

    `widths`: where products mix neurons, of each tensor how many neurons a row has; `lanes` are the rows then, and what has the role of
    STATE is [*lanes, width]. Empty where lanes are all there is.
    """

    groups: tuple[tuple[Role, tuple[torch.dtype, ...]], ...]
    widths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.dtypes)

    def __add__(self, other: "Slots") -> "Slots":
        return Slots(self.groups + other.groups, self.widths + other.widths)

    # Each is worked out once: a small scan takes less time than these would.
    parts = cached_property(lambda self: [dtypes for _, dtypes in self.groups])
    dtypes = cached_property(lambda self: tuple(dtype for part in self.parts for dtype in part))
    roles = cached_property(lambda self: tuple(role for role, dtypes in self.groups for _ in dtypes))
    floating = cached_property(lambda self: tuple(i for i, x in enumerate(self.dtypes) if x.is_floating_point))
    places = cached_property(lambda self: self.split(list(range(len(self)))))
    _cuts = cached_property(lambda self: cuts(*map(len, self.parts))[:-1])
    bytes = cached_property(
        lambda self: sum(self.widths[i] * x.itemsize if self.widths else x.itemsize for i, x in enumerate(self.dtypes))
    )  # of one lane at one time step

    def split(self, items: Sequence[Any]) -> list[Any]:
        """A list as long as this one, group by group."""
        return [items[cut] for cut in self._cuts]

    def only(self, places: Iterable[int]) -> "Slots":
        """Those at some places; a group may become empty."""
        wanted = set(places)
        parts = [tuple(self.dtypes[i] for i in part if i in wanted) for part in self.places]
        widths = tuple(w for i, w in enumerate(self.widths) if i in wanted)
        return Slots(tuple(zip((role for role, _ in self.groups), parts)), widths)

    def spread(self, floats: Iterable[Any]) -> list[Any]:
        """Values for the floating places, and None at the others."""
        values = iter(floats)
        return [next(values) if dtype.is_floating_point else None for dtype in self.dtypes]

    def shapes(self, lanes: torch.Size, T: int) -> list[Sequence[int]]:
        """Over all lanes, as a gradient is even of a param."""
        if self.widths:
            return [(*((T,) if role is TIMED else ()), *lanes, w) for role, w in zip(self.roles, self.widths)]
        timed = (T, *lanes)
        return [timed if role is TIMED else lanes for role in self.roles]

    def empty(self, lanes: torch.Size, T: int, device: torch.device) -> list[Tensor]:
        """Memory of these shapes."""
        return [torch.empty(x, dtype=y, device=device) for x, y in zip(self.shapes(lanes, T), self.dtypes)]


@dataclass(frozen=True)
class Signature:
    """`leaves` (params, states, inputs, matrices) -> `results` (outputs, new states)

    `kept`: products of which the backward may be told what they gave; `given`: of each its dtype and width. `always`: shall it be told
    that, however much it is?
    """

    leaves: Slots
    results: Slots
    kept: tuple[int, ...] = ()
    given: tuple[tuple[torch.dtype, int], ...] = ()
    always: bool = False

    @classmethod
    def of(
        cls,
        counts: Sequence[int],
        leaves: Sequence[torch.dtype],
        results: Sequence[torch.dtype],
        widths: tuple[Sequence[int], Sequence[int]] = ((), ()),
    ) -> "Signature":
        """`counts`: how many of the leaves are params, states and inputs; the others are matrices. `widths`: of leaves and results."""
        *taken, matrices = map(tuple, split(leaves, *map(range, counts)))
        outputs = tuple(results[: len(results) - counts[1]])
        return cls(
            Slots((*zip((PARAM, STATE, TIMED), taken), (MATRIX, matrices)), tuple(widths[0])),
            Slots(((TIMED, outputs), (STATE, taken[1])), tuple(widths[1])),
        )

    # The new states alone; what flows back into the floating results; what the backward is a function of; and what the forward keeps
    # for the backward, if there is to be one: the states at some of the time steps, and what products gave, at each.
    last = cached_property(lambda self: self.results.only(self.results.places[1]))
    cotangents = cached_property(lambda self: self.results.only(self.results.floating))
    backward = cached_property(lambda self: self.leaves + self.cotangents)
    checkpoints = cached_property(
        lambda self: Slots(((TIMED, self.leaves.parts[1]),), self.leaves.only(self.leaves.places[1]).widths)
    )
    gave = cached_property(
        lambda self: Slots(((TIMED, tuple(x for x, _ in self.given)),), tuple(w for _, w in self.given))
    )

    def memory(self, lanes: torch.Size, T: int, every: int, keep: bool, device: torch.device) -> list[Tensor]:
        """For the checkpoints, one every so many steps, and, if it is kept, for what products gave. None of it if `every` is 0."""
        if not every:
            return []
        points = self.checkpoints.empty(lanes, -(-T // every), device)
        return points + self.gave.empty(lanes, T, device) if keep or self.always else points
