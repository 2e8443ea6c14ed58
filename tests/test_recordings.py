"""Events of any make become the counts that they are; what is none is refused, with the place."""

import re
import warnings
from pathlib import Path

import numpy
import pytest
import recorded
import torch

from snn_functional.recordings import _frames, batch, channels, DroppedEvents, Events, frames, ManyFrames, Recording


SIZE = (5, 4, 2)


def drawn(n=200, seed=0, last=997):
    random = numpy.random.default_rng(seed)
    t = numpy.sort(random.integers(3, last, n))
    return {"x": random.integers(0, 5, n), "y": random.integers(0, 4, n), "t": t, "p": random.integers(0, 2, n)}


def structured(events, order="xytp", names=None, **types):
    names = names or {}
    dtype = [(names.get(f, f), types.get(f, "i8")) for f in order if f in events]
    array = numpy.zeros(len(events["t"]), dtype)
    for f in order:
        if f in events:
            array[names.get(f, f)] = events[f]
    return array


def by_hand(events, window, start, T):
    counts = torch.zeros(T, 2, 4, 5)
    for x, y, t, p in zip(*(events[f].tolist() for f in "xytp")):
        if 0 <= (step := (t - start) // window) < T:
            counts[step, p, y, x] += 1
    return counts


def test_every_event_is_in_the_frame_of_its_time():
    events = drawn()
    first, last = events["t"][0], events["t"][-1]
    T = int(last - first) // 100 + 1
    counts = frames(events, window=100, size=SIZE)
    assert counts.dtype is torch.float32 and torch.equal(counts, by_hand(events, 100, first, T)) and counts.sum() == 200
    assert torch.equal(frames(events, window=100, size=SIZE, start=0), by_hand(events, 100, 0, int(last) // 100 + 1))
    assert torch.equal(frames(events, window=100, size=SIZE, dtype=torch.uint8), counts.to(torch.uint8))
    seconds = {**events, "t": events["t"] / 1024}  # which floats hold exactly
    assert torch.equal(frames(seconds, window=100 / 1024, size=SIZE), counts)


def test_an_event_on_an_edge_begins_a_frame_and_the_last_has_one():
    events = dict(x=[0, 1, 2], y=[0, 0, 0], t=[10, 20, 30], p=[0, 0, 0])
    assert frames(events, window=10, size=SIZE).nonzero()[:, [0, 3]].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert frames(events, bins=2, size=SIZE).nonzero()[:, [0, 3]].tolist() == [[0, 0], [1, 1], [1, 2]]
    assert frames({**events, "t": [5, 5, 5]}, bins=3, size=SIZE).sum((1, 2, 3)).tolist() == [3, 0, 0]
    assert frames(events, bins=2, size=SIZE, start=-10).nonzero()[:, [0, 3]].tolist() == [[1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize(
    "make",
    [
        lambda e: structured(e, "txyp", x="u1", y="u1", t="u4", p="?"),  # tonic's DVS Gesture
        lambda e: structured(e, "txyp", x="i2", y="i2", p="u1"),  # expelliarmus
        lambda e: structured(e, "txyp", {"t": "timestamp", "p": "polarity"}, x="i2", y="i2", p="i1"),  # dv-processing
        lambda e: structured(e, "pxyt", x="u2", y="u2", t="f8"),
        lambda e: {name: torch.from_numpy(value) for name, value in e.items()},
        lambda e: {name: value.tolist() for name, value in e.items()},
        lambda e: Events(*(torch.from_numpy(e[f]) for f in "xytp")),
        lambda e: Recording(Events(*(torch.from_numpy(e[f]) for f in "xytp")), 3, "here"),
    ],
    ids=["tonic", "expelliarmus", "dv", "floats", "tensors", "lists", "Events", "Recording"],
)
def test_fields_are_found_by_name(make):
    assert torch.equal(frames(make(drawn()), window=50, size=SIZE), frames(drawn(), window=50, size=SIZE))


def test_a_line_and_one_polarity():
    events = drawn()
    line = {f: events[f] for f in "xtp"}
    assert torch.equal(frames(line, window=50, size=(5, 1, 2)), frames(events, window=50, size=SIZE).sum(2))
    both = frames(events, window=50, size=(5, 4, 1))
    assert torch.equal(both, frames(events, window=50, size=SIZE).sum(1, keepdim=True))
    assert torch.equal(both, frames({f: events[f] for f in "xyt"}, window=50, size=(5, 4, 1)))


def test_what_is_dropped_is_said_once_and_only_then():
    events = drawn()
    with pytest.warns(
        DroppedEvents, match=r"frames\(window=100, whole=True\) leaves out events after the last whole window"
    ):
        whole = frames(events, window=100, size=SIZE, whole=True)
    assert torch.equal(whole, frames(events, window=100, size=SIZE)[: len(whole)]) and whole.sum() < 200
    with pytest.warns(DroppedEvents, match="before start=500"):
        frames(events, window=100, size=SIZE, start=500)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for seed in range(3):
            frames(drawn(seed=seed), bins=7, size=SIZE, whole=True)
    assert len(said) == 1 and said[0].filename == __file__


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(window=None), "give one of window="),
        (dict(bins=3), "give one of window="),
        (dict(window=0), "window=0; expected a time above 0"),
        (dict(window=float("nan")), "window=nan"),
        (dict(window=None, bins=2.5), r"bins=2.5; expected a whole number"),
        (
            dict(window=1e-9),
            r"would have \S+e\+11 time steps; its clock jumped, or window is in the unit of the times, in which this recording is \S+ long",
        ),
        (dict(size=34), r"size=34; expected \(width, height, polarities\), as \(34, 34, 2\)"),
        (dict(size=(5, 4)), r"size=\(5, 4\); expected \(width, height, polarities\)"),
        (dict(size=(4, 4, 2)), r"event \d+ is outside the sensor: x is 4, expected 0 to 3 of size \(4, 4, 2\)"),
        (dict(size=(5, 3, 2)), "y is 3, expected 0 to 2"),
        (dict(start=2000), "start=2000; expected a time that is not behind the last event"),
        (dict(window=None, bins=5000, whole=True), "bins of whole time steps, of which there are not enough"),
    ],
)
def test_frames_refuses(change, says):
    with pytest.raises(ValueError, match=says):
        frames(drawn(), **{"window": 100, "size": SIZE, **change})


def long(n, last, t=lambda t: t):
    """A recording of the size of N-MNIST's, in microseconds."""
    times = t(torch.linspace(0, last, n).long())
    return Events(torch.arange(n) % 34, torch.arange(n) % 34, times, torch.arange(n) % 2)


@pytest.mark.parametrize(
    "of, call, says",
    [
        (
            long(4000, 305_039),
            dict(window=1),
            r"window=1 makes 305,040 steps of 2 x 34 x 34 numbers \(2.8 GB\) of 4,000 events, nearly all of them empty. "
            r"window is in the unit of the times, in which this recording is 305_039 long; in microseconds, 10 ms are window=10_000\.$",
        ),
        (
            long(4000, 305_039, lambda t: t / 1e6),
            dict(window=1e-6),
            r".*in the unit of the times, in which this recording is 0.305 long; in seconds, 10 ms are window=0.01\.$",
        ),
        (
            long(4000, 305_039),
            dict(bins=305_000),
            r"bins=305000 makes 305,000 steps of .* empty. bins= is how many steps there are; how long each is, is window=, in the",
        ),
        (
            long(100_000, 305_039),
            dict(bins=20_000, size=(1280, 720, 2)),
            r"bins=20000 makes .*\(1.5e\+02 GB\), which takes 147 GB, and this machine has 25 GB",
        ),
    ],
)
def test_a_window_in_another_unit_and_what_no_memory_holds_are_refused(of, call, says, monkeypatch):
    monkeypatch.setattr(_frames, "memory", lambda: 25e9)
    monkeypatch.setattr(_frames, "_counts", None)  # it is known before anything of that size is made
    with pytest.raises(ValueError, match=f"^frames: {says}"):
        frames(of, **{"size": (34, 34, 2), **call})


def test_a_step_in_another_unit_is_refused_of_channels():
    says = "channels: dt=1 makes 305,040 steps of 700 numbers .* in microseconds, 10 ms are dt=10_000"
    with pytest.raises(ValueError, match=says):
        channels(torch.linspace(0, 305_039, 4000).long(), torch.arange(4000) % 700, 1, 700, dtype=torch.float64)
    with pytest.raises(ValueError, match="steps=500000 makes .* how long each is, is dt, in the unit of the times"):
        channels([0.1, 0.2], [1, 2], 0.1, 700, steps=500_000)


def test_thousands_of_empty_frames_that_fit_are_said():
    says = r"window=10 makes 30,504 steps .* \(0.071 GB\) of 4,000 events, nearly all of them empty; .* in microseconds, 10 ms are"
    with pytest.warns(ManyFrames, match=says):
        assert frames(long(4000, 305_039), window=10, size=(34, 34, 2), dtype=torch.uint8).sum() == 4000


def test_few_events_on_a_large_sensor_are_as_they_are():
    """The first events of a recording, or one of a still scene, in ten frames, and in a thousand."""
    few, size = Events(*torch.tensor([[1, 2, 1], [3, 4, 3], [0, 50, 99], [0, 1, 0]])), (1280, 720, 2)
    for call in (dict(window=10), dict(bins=10), dict(window=30)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = frames(few, size=size, dtype=torch.uint8, **call)
        assert made.sum() == 3 and made[0, 0, 3, 1] == 1 and made[-1, 0, 3, 1] == 1
        whole = torch.zeros_like(made)
        whole[[0, len(made) // 2, -1], [0, 1, 0], [3, 4, 3], [1, 2, 1]] = 1
        assert call == dict(window=30) or torch.equal(made, whole)


def test_what_is_counted_sparsely_is_what_is_counted_at_all_places(monkeypatch):
    events, size = drawn(), SIZE
    for dtype in (torch.float32, torch.uint8, torch.bool, torch.float64):
        plain = frames(events, window=100, size=size, dtype=dtype)
        monkeypatch.setattr(_frames, "_sparse", lambda numbers, events: True)
        assert torch.equal(frames(events, window=100, size=size, dtype=dtype), plain) and plain.any()
        monkeypatch.undo()


def test_a_thousand_frames_of_a_large_sensor_fit(monkeypatch):
    """Ten seconds at 10 ms of 1280 x 720 in bytes, where there are 8 GB."""
    monkeypatch.setattr(_frames, "memory", lambda: 8e9)
    monkeypatch.setattr(_frames, "_counts", lambda place, shape, dtype: shape)
    n = 200_000
    t = torch.linspace(0, 9_999_999, n).double().long()
    events = Events(torch.arange(n) % 1280, torch.arange(n) % 720, t, torch.arange(n) % 2)
    with pytest.warns(ManyFrames, match="1,000 steps of 2 x 720 x 1280 numbers"):
        assert frames(events, window=10_000, size=(1280, 720, 2), dtype=torch.uint8) == (1000, 2, 720, 1280)


def test_a_gigabyte_is_said(monkeypatch):
    assert len(frames(long(4000, 305_039), window=100, size=(34, 34, 2))) == 3051  # fine, and as it is
    monkeypatch.setattr(_frames, "SAID", 1e6)
    with pytest.warns(ManyFrames, match=r"window=1000 makes 306 steps of 2 x 34 x 34 numbers \(0.0028 GB\)") as said:
        assert len(frames(long(4000, 305_039), window=1000, size=(34, 34, 2))) == 306
    assert said[0].filename == __file__


def test_a_recording_is_shown_in_a_line():
    events = long(4000, 305_039)
    text = "4,000 events: x 0 to 33, y 0 to 33, t 0 to 305039, p 0 to 1"
    assert repr(events) == f"Events({text})" and str([events]) == f"[Events({text})]"
    assert repr(Recording(events, 3, "nmnist.zip: 1.bs2")) == f"Recording({text}; label 3; 'nmnist.zip: 1.bs2')"
    line = Events(torch.tensor([3, 699]), None, torch.tensor([0.125, 1 / 3]), None)
    assert repr(line) == "Events(2 events: x 3 to 699, t 0.125 to 0.333333)"
    assert repr(Events(*[torch.zeros(0)] * 4)) == "Events(0 events)"
    assert (
        repr(Events([1], None, "t", None)) == "Events(x list, y NoneType, t str, p NoneType)"
    )  # shown, whatever it holds
    assert repr(Recording(None, 3, "here")) == "Recording(NoneType; label 3; 'here')"


@pytest.mark.parametrize(
    "change, error, says",
    [
        (dict(t=[3, 9, 8]), ValueError, "time goes back at event 2, from 9 to 8; sort the events"),
        (dict(t=[3.0, float("nan"), 8.0]), ValueError, "event 1 has the time nan"),
        (dict(t=[3, 9]), ValueError, "every field has one entry an event, but 3 x, 3 y, 2 t, 3 p came"),
        (dict(t=None), ValueError, "events have a field 't'; the fields that came are x, y, p"),
        (dict(p=None), ValueError, r"give size=\(width, height, 1\)"),
        (dict(p=[-1, 1, 1]), ValueError, "event 0 is outside the sensor: p is -1.*made 0 and 1 by p > 0"),
        (dict(x=[0.5, 1, 2]), ValueError, "event 0 has x = 0.5; expected whole numbers"),
        (dict(x=[0, -1, 2]), ValueError, "event 1 is outside the sensor: x is -1"),
        (dict(x=[0, 2**62, 2]), ValueError, "event 1 is outside"),
        (dict(x=[[0], [1], [2]]), ValueError, r"the field x has shape \(3, 1\)"),
        (dict(x=["a", "b", "c"]), TypeError, "the field x holds no numbers"),
        (dict(x=numpy.array(["a", "b", "c"])), TypeError, "the field x is <U1; expected numbers"),
        (dict(x=[], y=[], t=[], p=[]), ValueError, "no events; leave this recording out"),
    ],
)
def test_what_is_no_events_is_refused(change, error, says):
    events = {**dict(x=[0, 1, 2], y=[0, 1, 2], t=[3, 5, 8], p=[0, 1, 1]), **change}
    with pytest.raises(error, match=f"^mine: {says}" if error is TypeError or "give" not in says else says):
        frames({f: v for f, v in events.items() if v is not None}, window=5, size=SIZE, where="mine")


def test_numbers_of_numpy_are_numbers():
    events, same = drawn(), frames(drawn(), window=100, size=SIZE)
    for window in (numpy.int64(100), numpy.float32(100), torch.tensor(100)):
        assert torch.equal(frames(events, window=window, size=numpy.array(SIZE)), same)
    assert torch.equal(frames(events, bins=numpy.int64(7), size=SIZE), frames(events, bins=7, size=SIZE))
    assert torch.equal(
        channels([0.0, 0.3], [0, 1], numpy.float64(0.1), numpy.int64(2)), channels([0.0, 0.3], [0, 1], 0.1, 2)
    )


def test_recordings_and_files_in_the_place_of_events_are_refused():
    one = Recording(Events(*(torch.from_numpy(drawn()[f]) for f in "xytp")), 3, "here")
    with pytest.raises(
        TypeError, match=r"list came. .* one after the other: \[frames\(one.events, ...\) for one in recordings\]"
    ):
        frames([one, one], window=5, size=SIZE)
    with pytest.raises(TypeError, match=r"str came. .* once it is read: train, test = read_nmnist\(path\)"):
        frames("nmnist.zip", window=5, size=SIZE)
    with pytest.raises(ValueError, match=r"of size \(2, 4, 5\); it is \(width, height, polarities\), in this order"):
        frames(one, window=5, size=(2, 4, 5))


def test_a_table_without_names_is_refused():
    with pytest.raises(TypeError, match=r"ndarray came. Of columns: dict\(x=a\[:, 0\]"):
        frames(numpy.zeros((3, 4)), window=5, size=SIZE)


def test_channels_counts_spikes_of_units():
    times, units = torch.tensor([0.0, 0.02, 0.0399, 0.04, 0.11]), torch.tensor([3, 0, 3, 3, 1])
    counts = channels(times, units, dt=0.02, size=4)
    assert counts.nonzero().tolist() == [[0, 3], [1, 0], [1, 3], [2, 3], [5, 1]] and counts.shape == (6, 4)
    assert torch.equal(
        channels(times.numpy().astype("float16"), units.numpy().astype("uint16"), 0.02, 4)[:2], counts[:2]
    )
    assert torch.equal(channels([0, 2, 3, 4, 11], units, dt=2, size=4), counts)
    assert channels(times, units, 0.02, 4, steps=9).shape == (9, 4)
    edges = torch.arange(50, dtype=torch.float64) * 0.1  # 0.3 / 0.1 is 2.9999999999999996
    assert torch.equal(channels(edges, torch.zeros(50), dt=0.1, size=1), torch.ones(50, 1))
    with pytest.warns(DroppedEvents, match=r"channels\(dt=0.02, steps=3\) leaves out spikes behind its steps"):
        assert torch.equal(channels(times, units, 0.02, 4, steps=3), counts[:3])


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(dt=0), "dt=0; expected a time above 0"),
        (dict(size=0), "size=0; expected how many units"),
        (dict(size=3), "event 1 is outside the sensor: x is 3, expected 0 to 2"),
        (dict(steps=0), "steps=0; expected a whole number"),
        (dict(times=[-0.5, 1.0]), "the first spike is at -0.5; expected times from 0 on"),
        (dict(times=[2.0, 1.0]), "time goes back at event 1"),
        (dict(units=[1]), "1 x, 2 t"),
        (dict(dt=1e-12), "would have 1e.12 time steps"),
    ],
)
def test_channels_refuses(change, says):
    with pytest.raises(ValueError, match=says):
        channels(**{"times": [0.5, 1.0], "units": [0, 3], "dt": 0.1, "size": 4, **change})


def test_batch_pads_at_the_end_and_takes_any_array():
    samples = [
        (numpy.ones((2, 3), "int16"), 1),
        (torch.full((4, 3), 2.0), torch.tensor(0)),
        (torch.ones(1, 3).bool(), numpy.int64(7)),
    ]
    xs, y, lengths = batch(samples)
    assert (
        xs.shape == (4, 3, 3)
        and xs.dtype is torch.float32
        and y.tolist() == [1, 0, 7]
        and lengths.tolist() == [2, 4, 1]
    )
    assert xs[:, :, 0].tolist() == [[1, 2, 1], [1, 2, 0], [0, 2, 0], [0, 2, 0]]
    loader = torch.utils.data.DataLoader(samples, batch_size=2, collate_fn=batch)
    assert [tuple(xs.shape) for xs, *_ in loader] == [(4, 2, 3), (1, 1, 3)]


@pytest.mark.parametrize(
    "samples, error, says",
    [
        ([], ValueError, "no recordings"),
        (
            [(torch.ones(2, 3), 1), (torch.ones(2, 4), 1)],
            ValueError,
            r"recording 1 is \(2, 4\) and recording 0 \(2, 3\)",
        ),
        ([(torch.ones(2, 3), None)], ValueError, "the label of recording 0 is None; expected a class"),
        ([(torch.ones(2, 3), -1)], ValueError, "the label of recording 0 is -1"),
        ([(torch.ones(2, 3), 0.5)], ValueError, "the label of recording 0 is 0.5"),
        ([(torch.ones(0, 3), 0)], ValueError, "at least one step"),
        ([torch.ones(2, 3)], TypeError, "recording 0 is Tensor; expected"),
        (
            [Recording(None, 3, "here")],
            TypeError,
            r"recording 0 is Recording; .* Of each: \(frames\(one.events, window=10_000, size=",
        ),
        (
            [(Events(*[torch.ones(3)] * 4), 3)],
            TypeError,
            r"recording 0 is events; expected their frames .*: \(frames\(one.events",
        ),
        ([(structured(drawn()), 3)], TypeError, "recording 0 is events; expected their frames"),
    ],
)
def test_batch_refuses(samples, error, says):
    with pytest.raises(error, match=says):
        batch(samples)


def test_the_page_says_what_is_so(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "events.md").read_text()
    monkeypatch.chdir(tmp_path)
    recorded.nmnist_zip(tmp_path)
    space = {"__name__": "page"}
    first, second, *_ = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    exec(compile(first, "docs/events.md", "exec"), space)
    assert (
        space["xs"].shape == (30, 2, 2, 34, 34)
        and space["lengths"].tolist() == [20, 30]
        and space["y"].tolist() == [3, 8]
    )
    exec(compile(second, "docs/events.md", "exec"), space)
    drawn, model = space["params"][0].weight, space["model"]
    assert space["xs"].shape == (6, 6, 2, 34, 34) and space["lengths"].tolist() == [6, 6, 6, 5, 6, 6]
    assert space["y"].tolist() == [1, 0] * 3 and not torch.equal(drawn, dict(model.named_parameters())["0.weight"])
    assert 0 <= float(capsys.readouterr().out.strip().removeprefix("tensor(").removesuffix(")")) <= 1


def test_numbers_of_numpy_and_of_torch_are_numbers():
    events = drawn()
    plain = frames(events, window=100, size=SIZE, start=0)
    for number in (numpy.int64, torch.tensor):
        assert torch.equal(frames(events, window=number(100), size=list(map(number, SIZE)), start=number(0)), plain)
