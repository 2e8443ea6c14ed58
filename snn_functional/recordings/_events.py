"""Events of any make as four tensors, and the door in front of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


NAMES = {
    "x": ("x",),
    "y": ("y",),
    "t": ("t", "ts", "timestamp", "timestamps"),
    "p": ("p", "polarity", "pol"),
}


class DroppedEvents(UserWarning):
    """Some events are in no frame, as was asked for. To hear no more of it: `warnings.simplefilter("ignore", DroppedEvents)`."""


class ManyFrames(UserWarning):
    """One recording becomes more than a gigabyte, or thousands of frames of which nearly all are empty.

    To hear no more of it: `warnings.simplefilter("ignore", ManyFrames)`.
    """


class OneFrame(UserWarning):
    """A window is longer than a whole recording: it may be in another unit. To hear no more of it: `warnings.simplefilter("ignore",
    OneFrame)`."""


class Events(NamedTuple):
    """One entry an event, in order of time, each [N].

    - `x`, `y`: column and row; `y` is None where the sensor is a line. Whole numbers from 0.
    - `t`: time, in any unit; it never goes back.
    - `p`: polarity, 0 or 1; None where there is one.
    """

    x: Tensor
    y: Tensor | None
    t: Tensor
    p: Tensor | None

    def __repr__(self) -> str:
        """In a line: how many, and from where to where each field reaches."""
        return f"Events({_reach(self)})"


class Recording(NamedTuple):
    """- `events`: what was recorded. `label`: its class, counted from 0. `name`: where it was read, for messages."""

    events: Events
    label: int
    name: str

    def __repr__(self) -> str:
        """In a line, its thousands of numbers left out: a data set is a list of these."""
        held = _reach(self.events) if isinstance(self.events, Events) else type(self.events).__name__
        return f"Recording({held}; label {self.label}; {self.name!r})"


def _reach(events: Events) -> str:
    """4,681 events: x 0 to 33, y 0 to 33, t 937 to 305040, p 0 to 1"""
    try:
        reach = [
            f"{field} {_plain(value.min())} to {_plain(value.max())}"
            for field, value in zip(events._fields, events)
            if value is not None and len(value)
        ]
        return f"{len(events.t):,} events{': ' if reach else ''}{', '.join(reach)}"
    except (TypeError, ValueError, AttributeError, RuntimeError):  # fields of another make than the type says
        return ", ".join(f"{field} {type(value).__name__}" for field, value in zip(events._fields, events))


def _plain(value: Tensor) -> str:
    return f"{value.item():.6g}" if value.is_floating_point() else f"{value.item()}"


def admit(events: Any, where: str) -> Events:
    """`events` of any make, x, y and p as int64, t as int64 or float64, once they are known to be events.

    Raises TypeError for what has no named fields, ValueError for fields that are missing or do not fit each other, for times that
    go back, and for no events at all; the message begins with `where`.
    """
    get, names = _fields(events, where)
    found = {field: next((name for name in known if name in names), None) for field, known in NAMES.items()}
    for field in ("x", "t"):
        if found[field] is None:
            raise ValueError(f"{where}: events have a field {field!r}; the fields that came are {', '.join(names)}")
    values = {field: None if name is None else _tensor(get(name), name, where) for field, name in found.items()}
    lengths = {field: len(value) for field, value in values.items() if value is not None}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{n} {field}" for field, n in lengths.items())
        raise ValueError(f"{where}: every field has one entry an event, but {said} came")
    if not lengths["t"]:
        raise ValueError(f"{where}: no events; leave this recording out")
    for field in ("x", "y", "p"):
        value = values[field]
        if value is not None:
            values[field] = _whole(value, field, where)
    t = values["t"]
    assert t is not None and values["x"] is not None
    if t.is_floating_point() and not bool(t.isfinite().all()):
        raise ValueError(
            f"{where}: event {_first(~t.isfinite())} has the time {t[~t.isfinite()][0]}; expected a number"
        )
    if bool((back := t[1:] < t[:-1]).any()):
        event = _first(back) + 1
        raise ValueError(
            f"{where}: time goes back at event {event}, from {t[event - 1].item()} to {t[event].item()}; sort the events by time "
            "if they were mixed, otherwise the recording is damaged"
        )
    return Events(values["x"], values["y"], t, values["p"])


def within(events: Events, size: Sequence[int], where: str) -> None:
    """Refuses (ValueError) events outside a sensor of `size` (width, height, polarities)."""
    for field, value, most in zip(("x", "y", "p"), (events.x, events.y, events.p), size):
        if value is not None and bool((out := (value < 0) | (value >= most)).any()):
            event = _first(out)
            help = "; polarities of -1 and 1 are made 0 and 1 by p > 0" if field == "p" and value[event] == -1 else ""
            if len(size) == 3 and size[0] < 3 <= size[2]:
                help = "; it is (width, height, polarities), in this order"
            raise ValueError(
                f"{where}: event {event} is outside the sensor: {field} is {int(value[event])}, expected 0 to {most - 1} of size "
                f"{tuple(size)}{help}"
            )


def _fields(events: Any, where: str) -> tuple[Any, list[str]]:
    """How to get a field by its name, and which there are."""
    if isinstance(events, Recording):
        events = events.events
    dtype_names = getattr(getattr(events, "dtype", None), "names", None)
    if dtype_names:
        return lambda name: events[name], list(dtype_names)
    if isinstance(events, Mapping):
        return lambda name: events[name], [str(name) for name in events]
    fields = getattr(events, "_fields", None)
    if fields:
        return lambda name: getattr(events, name), [name for name in fields if getattr(events, name) is not None]
    help = "Of columns: dict(x=a[:, 0], y=a[:, 1], t=a[:, 2], p=a[:, 3])"
    if isinstance(events, (list, tuple)) and any(isinstance(one, Recording) for one in events):
        help = "Of a list of recordings, one after the other: [frames(one.events, ...) for one in recordings]"
    elif isinstance(events, (str, Path)):
        help = "Of a file, once it is read: train, test = read_nmnist(path), or tonic's readers"
    raise TypeError(
        f"{where}: events are a structured array, a dict of arrays or tensors, or Events, with fields x, y, t and p; "
        f"{type(events).__name__} came. {help}"
    )


def _tensor(value: Any, name: str, where: str) -> Tensor:
    """On the CPU, int64 or float64: numpy's unsigned and half types have no tensor of their own on every torch."""
    if not isinstance(value, Tensor):
        kind = getattr(getattr(value, "dtype", None), "kind", None)
        if kind is not None and kind not in "biuf":
            raise TypeError(f"{where}: the field {name} is {value.dtype}; expected numbers")
        try:
            value = (
                torch.from_numpy(value.astype("float64" if kind == "f" else "int64")) if kind else torch.tensor(value)
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{where}: the field {name} holds no numbers: {error}") from None
    value = value.detach().cpu()
    if value.dim() != 1 or value.is_complex():
        raise ValueError(
            f"{where}: the field {name} has shape {tuple(value.shape)}; expected one number an event, (N,)"
        )
    return value.double() if value.is_floating_point() else value.long()


def _whole(value: Tensor, field: str, where: str) -> Tensor:
    if not value.is_floating_point():
        return value
    if bool((bad := value != value.floor()).any()):  # NaN, too
        raise ValueError(
            f"{where}: event {_first(bad)} has {field} = {value[bad][0].item()}; expected whole numbers from 0"
        )
    return value.clamp(-(2.0**62), 2.0**62).long()


def _first(bad: Tensor) -> int:
    return int(bad.nonzero()[0])
