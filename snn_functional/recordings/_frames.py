"""From events to counts at each time step, which are the input of a network."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from .._files import memory
from ._events import admit, DroppedEvents, Events, ManyFrames, OneFrame, within


def frames(
    events: Any,
    *,
    window: float | None = None,
    bins: int | None = None,
    size: tuple[int, int, int],
    start: float | None = None,
    whole: bool = False,
    dtype: torch.dtype = torch.float32,
    where: str = "frames",
) -> Tensor:
    """How many events each pixel has in each piece of time: [T, P, H, W], or [T, P, W] of events without y.

    - `events`: in order of time, any make that the room's first lines name.
    - `window`: how long a frame is, in the unit of t; T follows from the recording. Or `bins`: T itself, all frames equally long.
    - `size`: of the sensor, (W, H, P), the order of tonic's `sensor_size`. With P = 1 both polarities are counted together.
    - `start`: when the first frame begins (default: at the first event). Events before it are in no frame.
    - `whole`: only whole frames, as tonic's `ToFrame`, equal to it: what is behind the last whole window is dropped, but for a
      recording shorter than one; with `bins` a frame is span // bins long, and what is behind the last is dropped. Otherwise nothing
      is: the last window may be cut short by the recording's end, and bins reach to the last event.
    - `dtype`: of the counts. `where`: how messages begin.

    What is dropped is said once, as the warning `DroppedEvents`; how much it is, is the number of events less `frames.sum()`.

    Source: tonic 1.7.0's `ToFrame(time_window=)` and `ToFrame(n_time_bins=)`; `include_incomplete=True` is `whole=False` here, but
    for a recording of exactly n windows, whose last event tonic leaves out.

    Raises ValueError and TypeError for what is no events (see the room), events outside the sensor, a window or bins that are none;
    ValueError for what this machine's memory does not hold, and for more than 1 GB of which nearly all is empty, thousands of frames and
    more than there are events, as a window in another unit than the times makes them. Above 1 GB, or where so many are empty, it is
    said, as the warning `ManyFrames`; and as `OneFrame`, where a window is longer than the whole recording.

    >>> events = dict(x=[0, 1, 1], y=[0, 0, 1], t=[5, 9, 16], p=[1, 0, 1])
    >>> frames(events, window=10, size=(2, 2, 2)).sum((1, 2, 3))
    tensor([2., 1.])
    """
    window, bins, start = map(_as_python, (window, bins, start))
    size = tuple(map(_as_python, size)) if hasattr(size, "__iter__") else size
    if (window is None) == (bins is None):
        raise ValueError(f"{where}: give one of window= (how long a frame is) and bins= (how many there are)")
    if window is not None and not (isinstance(window, (int, float)) and 0 < window < math.inf):
        raise ValueError(f"{where}: window={window!r}; expected a time above 0, in the unit of t")
    if bins is not None and (type(bins) is not int or bins < 1):
        raise ValueError(f"{where}: bins={bins!r}; expected a whole number, 1 or more")
    if not isinstance(size, tuple) or len(size) != 3 or not all(type(n) is int and n > 0 for n in size):
        raise ValueError(f"{where}: size={size!r}; expected (width, height, polarities), as (34, 34, 2)")
    events = admit(events, where)
    events = _polarities(events, size[2], where)
    within(events, size, where)
    begin = events.t[0].item() if start is None else start
    step, T = _steps(events.t, begin, window, bins, whole, where)
    width, height, polarities = size
    pixel = events.x if events.y is None else events.y * width + events.x
    shape = (polarities, width) if events.y is None else (polarities, height, width)
    if events.p is not None:
        pixel = pixel + events.p * math.prod(shape[1:])
    _affordable(T, shape, dtype, events.t, where, **({"window": window} if window is not None else {"bins": T}))
    if window is not None:
        _divides(events.t, window, where, "window", "one frame on purpose is bins=1")
    inside = (step >= 0) & (step < T)
    if not bool(inside.all()):
        place = f"window={window}" if bins is None else f"bins={bins}"
        last = (
            "" if not whole else f"after the last whole {'window' if bins is None else 'bin'}, as tonic's ToFrame does"
        )
        first = "" if start is None else f"before start={start}"
        warnings.warn(
            f"{where}({place}, whole={whole}) leaves out events {' and '.join(filter(None, [first, last]))}; how many: their "
            "number less frames.sum()",
            DroppedEvents,
            stacklevel=2,
        )
        step, pixel = step[inside], pixel[inside]
    return _counts(step * math.prod(shape) + pixel, (T, *shape), dtype)


def channels(
    times: Any,
    units: Any,
    dt: float,
    size: int,
    *,
    steps: int | None = None,
    dtype: torch.dtype = torch.float32,
    where: str = "channels",
) -> Tensor:
    """How many spikes each unit has in each step: [T, size]. Step k is the time from k dt to (k + 1) dt.

    - `times`: of the spikes, in order, from 0 on, in any unit. (N,). `units`: which unit fired, whole numbers from 0. (N,).
    - `dt`: length of a step in the unit of `times`. `size`: how many units there are.
    - `steps`: T. Spikes behind it are dropped, which is said once, as the warning `DroppedEvents`. Default: up to the last spike.
    - `dtype`: of the counts. `where`: how messages begin.

    A time that is a floating number less than a millionth of a step before a step's begin belongs to that step: 0.3 is in step 3 of 0.1.

    Raises ValueError and TypeError as `frames` does.

    >>> channels([0.0, 0.25, 0.3], [2, 0, 0], dt=0.1, size=3)
    tensor([[0., 0., 1.],
            [0., 0., 0.],
            [1., 0., 0.],
            [1., 0., 0.]])
    """
    dt, size, steps = map(_as_python, (dt, size, steps))
    if not (isinstance(dt, (int, float)) and 0 < dt < math.inf):
        raise ValueError(f"{where}: dt={dt!r}; expected a time above 0, in the unit of the times")
    if type(size) is not int or size < 1:
        raise ValueError(f"{where}: size={size!r}; expected how many units there are, 700 for SHD")
    if steps is not None and (type(steps) is not int or steps < 1):
        raise ValueError(f"{where}: steps={steps!r}; expected a whole number, 1 or more")
    events = admit({"x": units, "t": times}, where)
    within(events, (size,), where)
    if events.t[0] < 0:
        raise ValueError(
            f"{where}: the first spike is at {events.t[0].item()}; expected times from 0 on: times - times[0]"
        )
    step = events.t // dt if _exact(events.t, dt) else (events.t / dt + 1e-6).floor()
    T = _enough(float(step[-1]) + 1, where, events.t, "dt") if steps is None else steps
    if steps is None:
        _divides(events.t, dt, where, "dt", "one step on purpose is steps=1")
    _affordable(T, (size,), dtype, events.t, where, **({"dt": dt} if steps is None else {"steps": steps}))
    inside = step < T
    if not bool(inside.all()):
        warnings.warn(
            f"{where}(dt={dt}, steps={steps}) leaves out spikes behind its steps; how many: their number less channels.sum()",
            DroppedEvents,
            stacklevel=2,
        )
    return _counts(step[inside].long() * size + events.x[inside], (T, size), dtype)


def _polarities(events: Events, polarities: int, where: str) -> Events:
    if polarities == 1:
        return events._replace(p=None)
    if events.p is None:
        raise ValueError(f"{where}: events without a field p have one polarity: give size=(width, height, 1)")
    return events


def _steps(
    t: Tensor, begin: float, window: float | None, bins: int | None, whole: bool, where: str
) -> tuple[Tensor, int]:
    """Each event's frame, and how many frames there are."""
    last = t[-1].item()
    if not (isinstance(begin, (int, float)) and math.isfinite(begin)) or last < begin:
        raise ValueError(f"{where}: start={begin!r}; expected a time that is not behind the last event, {last}")
    span = last - begin
    if bins is not None and whole:
        window = span // bins
        if window == 0:
            raise ValueError(
                f"{where}: bins={bins} of a recording {span} long: whole=True takes bins of whole time steps, of which there are not "
                "enough; leave whole out, or give fewer bins"
            )
        T = bins
    elif bins is not None:
        offset = t - begin
        if span == 0:
            return (offset.sign()).long(), bins
        step = offset * bins // span if _exact(t, begin) else (offset / span * bins).floor()
        return torch.where(offset < 0, -1.0, step.clamp(max=bins - 1)).long(), bins
    else:
        assert window is not None
        T = _enough(max(span // window, 1) if whole else span // window + 1, where, t, "window")
    if _exact(t, begin) and _exact(t, window):
        return (t - int(begin)).div(int(window), rounding_mode="floor"), T
    edges = begin + torch.arange(T + 1, dtype=torch.float64) * window
    step = torch.searchsorted(edges, t.double(), right=True) - 1
    return step if whole else step.clamp(max=T - 1), T  # the last edge may be rounded to the last event's time


def _exact(t: Tensor, number: float) -> bool:
    """Whether they can be compared as whole numbers."""
    return not t.is_floating_point() and float(number).is_integer()


MOST_STEPS = 10_000_000
FEW = 1_000  # frames, which somebody may well mean, however few events there are
MOST_EMPTY = 10_000_000  # numbers, of frames of which most are empty
SAID = 1e9  # bytes


def _enough(steps: float, where: str, t: Tensor, name: str) -> int:
    if steps > MOST_STEPS:
        raise ValueError(
            f"{where}: the recording would have {steps:.3g} time steps; its clock jumped, or {_in_unit(t, name, True)}"
        )
    return int(steps)


def _divides(t: Tensor, window: float, where: str, name: str, otherwise: str) -> None:
    """Says it where a window is longer than the whole recording; of a single moment any is."""
    if window > t[-1].item() - t[0].item() > 0:
        warnings.warn(
            f"{where}: {name}={_number(window)} is longer than a whole recording, which is one step then; {_in_unit(t, name, False)} "
            f"Or {otherwise}.",
            OneFrame,
            stacklevel=3,
        )


def _in_unit(t: Tensor, name: str, long: bool) -> str:
    """Which unit a window is in, with how long this recording is where that helps."""
    unit, ten_ms = ("seconds", "0.01") if t.is_floating_point() else ("microseconds", "10_000")
    span = f", in which this recording is {_number(t[-1].item() - t[0].item())} long" if long else ""
    return f"{name} is in the unit of the times{span}; in {unit}, 10 ms are {name}={ten_ms}."


def _as_python(number: Any) -> Any:
    """A number of numpy's, or a tensor of one, as Python's own."""
    return number.item() if hasattr(number, "item") and getattr(number, "shape", None) == () else number


def _affordable(T: int, shape: tuple[int, ...], dtype: torch.dtype, t: Tensor, where: str, **asked: float) -> None:
    """Refuses what would fill the memory, and what nobody means: a window that is in another unit than the times makes thousands of
    frames, nearly all of them empty. `asked`: how it was called, by its name."""
    [(name, value)] = asked.items()
    numbers = T * math.prod(shape)
    holds = numbers * torch.zeros((), dtype=dtype).element_size()
    if numbers <= MOST_EMPTY and holds <= SAID:
        return
    events, span = len(t), t[-1].item() - t[0].item()
    made = (
        f"{where}: {name}={value!r} makes {T:,} steps of {' x '.join(map(str, shape))} numbers ({holds / 1e9:.2g} GB)"
    )
    if name in ("bins", "steps"):
        long = f"in the unit of the times, in which this recording is {_number(span)} long"
        help = f"{name}= is how many steps there are; how long each is, is {'window=' if name == 'bins' else 'dt'}, {long}."
    else:
        help = _in_unit(t, name, True)
    if empty := T > max(events, FEW) and numbers > MOST_EMPTY:
        made += f" of {events:,} events, nearly all of them empty"
        if holds > SAID:
            raise ValueError(f"{made}. {help}")
    if (needs := holds + (0 if _sparse(numbers, events) else 8 * numbers)) > (has := memory()):
        raise ValueError(f"{made}, which takes {needs / 1e9:.3g} GB, and this machine has {has / 1e9:.3g} GB. {help}")
    if empty or holds > SAID:
        warnings.warn(f"{made}; {help}", ManyFrames, stacklevel=3)


def _number(x: float) -> str:
    """10_000 as it is written in Python, with the digits that tell of one that is not whole."""
    return f"{int(x):_}" if float(x).is_integer() and abs(x) < 1e15 else f"{x:.4g}"


def _sparse(numbers: int, events: int) -> bool:
    """Are they counted where there are some only? Counts of all, in int64, would take most of the memory."""
    return numbers > max(MOST_EMPTY, 8 * events)


def _counts(place: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    sparse = _sparse(math.prod(shape), len(place))
    if sparse:
        where, counts = place.unique(return_counts=True)
    else:
        where, counts = None, torch.bincount(place, minlength=math.prod(shape))
    if not dtype.is_floating_point and dtype != torch.bool and len(place) and counts.max() > torch.iinfo(dtype).max:
        raise ValueError(
            f"a pixel has {int(counts.max())} events in one frame, which {dtype} cannot hold; give a smaller window"
        )
    if where is None:
        return counts.to(dtype).reshape(shape)
    out = torch.zeros(math.prod(shape), dtype=dtype)
    out[where] = counts.to(dtype)
    return out.reshape(shape)
