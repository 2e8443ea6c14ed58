"""Events of any make become the counts that they are; what is damaged is refused with the file, the place and a way out."""

import sys
import warnings
import zipfile
from pathlib import Path

import numpy
import pytest
import torch

from snn_functional.recordings import batch, channels, DroppedEvents, Events, frames, read_nmnist, read_shd, Recording
from snn_functional.recordings._nmnist import events_of


SIZE = (5, 4, 2)
SHARED = Path(__file__).parents[2] / "shared" / "data" / "nmnist.zip"
real = pytest.mark.skipif(
    not SHARED.is_file(), reason="needs the 1,100 real recordings, shared/data/nmnist.zip beside this folder"
)


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
        (dict(window=1e-9), r"would have \S+e\+11 time steps; expected a window in the unit of the times"),
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
    ],
)
def test_batch_refuses(samples, error, says):
    with pytest.raises(error, match=says):
        batch(samples)


# N-MNIST.


def aer(*events):
    """Events (x, y, t, p) in N-MNIST's five bytes."""
    return b"".join(bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255]) for x, y, t, p in events)


EVENTS = (3, 4, 5, 1), (33, 0, 70000, 0), (0, 33, 300001, 1)


def test_five_bytes_an_event():
    x, y, t, p = events_of(aer(*EVENTS), "here")
    assert list(zip(x.tolist(), y.tolist(), t.tolist(), p.tolist())) == [*EVENTS]


def test_the_clock_goes_over():
    over = (0, 240, 0, 0)
    events = events_of(aer((1, 2, 8000, 0), over, (1, 2, 100, 0), over, over, (1, 2, 5, 1)), "here")
    assert events.t.tolist() == [8000, 8292, 3 * 8192 + 5] and len(events.x) == 3


@pytest.fixture
def small(tmp_path):
    """Two training recordings and a test one, as a small set has them."""
    folder = tmp_path / "nmnist"
    folder.mkdir()
    for name in ("1", "2", "60001"):
        (folder / f"{name}.bs2").write_bytes(aer(*EVENTS))
    (folder / "train1K.txt").write_text("#sample #class\n1\t5\n2 0\n\n")
    (folder / "test100.txt").write_text("60001 7\n")
    return folder


def zipped(folder, path, inside=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, inside + file.relative_to(folder).as_posix())
    return path


def labels(parts):
    return [[r.label for r in part] for part in parts]


def test_a_small_set_in_a_folder_or_a_zip(small, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    zipped(small, alone / "any.zip")
    for path in (
        small,
        str(small),
        zipped(small, tmp_path / "a.zip"),
        zipped(small, tmp_path / "b.zip", "nmnist/"),
        alone,
    ):
        parts = read_nmnist(path)
        assert labels(parts) == [[5, 0], [7]] and parts[1][0].events.t.tolist() == [5, 70000, 300001]
        assert frames(parts[0][0], window=10_000, size=(34, 34, 2)).shape == (30, 2, 34, 34)


def published(folder):
    for part, label in (("Train", 3), ("Train", 9), ("Test", 0)):
        (folder / part / str(label)).mkdir(parents=True)
        (folder / part / str(label) / "00002.bin").write_bytes(aer(*EVENTS))
    return folder


def test_the_whole_set_as_it_is_published(tmp_path):
    folder = published(tmp_path / "whole")
    archives = tmp_path / "archives"
    archives.mkdir()
    for part in ("Train", "Test"):
        zipped(folder / part, archives / f"{part}.zip", f"{part}/")
    for path in (folder, zipped(folder, tmp_path / "whole.zip", "N-MNIST/"), archives):
        assert labels(read_nmnist(path)) == [[3, 9], [0]]


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("2.bs2", b"", "2.bs2: the file is empty; take the file from its source again"),
        ("2.bs2", aer(*EVENTS)[:-2], "2.bs2: 13 bytes are not five an event: cut off after event 2"),
        (
            "2.bs2",
            aer((3, 34, 5, 1)),
            r"2.bs2: event 0 is outside the sensor: y is 34, expected 0 to 33 of size \(34, 34, 2\)",
        ),
        ("2.bs2", b"GIF89a, which is no event", "2.bs2: event 0 is outside the sensor: x is 71"),
        ("2.bs2", aer(*EVENTS[::-1]), "2.bs2: time goes back at event 1, from 300001 to 70000"),
        ("2.bs2", aer((0, 240, 0, 0)), "2.bs2: no events"),
        ("2.bs2", None, "2.bs2 is not there, but train1K.txt names it"),
        (
            "train1K.txt",
            b"1 5\n2 ten\n",
            "train1K.txt line 2: '2 ten'; expected a recording's name and its class, 0 to 9",
        ),
        ("train1K.txt", b"1 5\n2\n", "train1K.txt line 2: '2'"),
        ("train1K.txt", b"1 5\n2 10\n", "line 2: '2 10'"),
        ("train1K.txt", b"1 5\n1 6\n", "line 2: 1 has the class 5 already"),
        ("train1K.txt", b"\xff\x00 7", "line 1"),
        ("train1K.txt", b"# nothing\n", "train1K.txt names no recording"),
        ("train1K.txt", b"60001 7\n", "60001.bs2 is in both lists"),
        ("train1K.txt", b"../../other 1\n", "train1K.txt line 1: '../../other 1'; expected a recording's name"),
        ("train1K.txt", None, r"0 lists are called train\*.txt; expected Train/0/"),
        ("train2.txt", b"1 5\n", r"2 lists are called train\*.txt"),
    ],
)
def test_a_small_set_that_is_damaged(name, content, says, small, tmp_path):
    (small / name).unlink(missing_ok=True)
    if content is not None:
        (small / name).write_bytes(content)
    for path in (small, zipped(small, tmp_path / "set.zip")):
        with pytest.raises(ValueError, match=says) as error:
            read_nmnist(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_zip_that_is_damaged(small, tmp_path):
    """Every byte that is changed is noticed, or is one of the archive's own notes, and the events are the same."""
    path = zipped(small, tmp_path / "set.zip")
    whole, right = path.read_bytes(), read_nmnist(path)
    noticed = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            parts = read_nmnist(path)
            assert labels(parts) == labels(right)
            for one, other in zip(parts[0] + parts[1], right[0] + right[1]):
                assert all(torch.equal(a, b) for a, b in zip(one.events, other.events))
        except (ValueError, FileNotFoundError) as error:
            noticed += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert noticed > 0.4 * len(whole) / 3
    for cut in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="is not a whole .zip file"):
            read_nmnist(path)


def test_recordings_without_labels_and_nothing_at_all(tmp_path):
    folder = published(tmp_path / "whole")
    (folder / "00007.bin").write_bytes(aer(*EVENTS))
    with pytest.raises(
        ValueError, match="00007.bin has no label: it is in no folder of its class and there is no list"
    ):
        read_nmnist(folder)
    (folder / "00007.bin").unlink()
    (folder / "Test" / "0" / "00002.bin").unlink()
    with pytest.raises(ValueError, match="holds no test recordings"):
        read_nmnist(folder)
    with pytest.raises(FileNotFoundError, match="none is not there; expected Train/0/"):
        read_nmnist(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no N-MNIST"):
        read_nmnist(tmp_path / "empty")


@real
def test_the_real_recordings():
    parts = read_nmnist(SHARED)
    assert [len(part) for part in parts] == [1000, 100]
    assert sum(len(r.events.t) for part in parts for r in part) == 4_518_827  # as its makers' reader counts
    assert labels(parts)[0][:3] == [5, 0, 4] and len(frames(parts[0][0], window=10_000, size=(34, 34, 2))) == 31


# SHD.


@pytest.fixture
def h5(tmp_path):
    h5py = pytest.importorskip("h5py")

    def write(
        times=([0.0, 0.1, 0.5], [0.25]), units=([0, 699, 3], [7]), labels=(4, 19), leave_out=(), name="shd_train.h5"
    ):
        with h5py.File(tmp_path / name, "w") as file:
            for field, values, kind in (("times", times, "float16"), ("units", units, "uint16")):
                if f"spikes/{field}" not in leave_out:
                    data = file.create_dataset(f"spikes/{field}", (len(values),), h5py.vlen_dtype(numpy.dtype(kind)))
                    for i, value in enumerate(values):
                        data[i] = numpy.array(value, kind)
            if "labels" not in leave_out:
                file["labels"] = numpy.array(labels)
            file["extra/speaker"] = numpy.zeros(len(labels), "u2")
        return tmp_path / name

    return write


def test_shd(h5):
    one, two = read_shd(h5())
    assert one.label == 4 and two.label == 19 and one.events.x.tolist() == [0, 699, 3] and one.events.y is None
    torch.testing.assert_close(one.events.t, torch.tensor([0.0, 0.1, 0.5], dtype=torch.float64), rtol=1e-3, atol=0)
    counts = channels(one.events.t, one.events.x, dt=0.01, size=700)
    assert counts.shape == (51, 700) and counts.sum() == 3


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(leave_out=("labels",)), "lacks labels; expected spikes/times, spikes/units and labels"),
        (dict(leave_out=("spikes/times", "labels")), "lacks spikes/times, labels"),
        (dict(labels=(4,)), r"2 spikes/times, 2 spikes/units and 1 labels \(int64\)"),
        (dict(labels=(4.0, 5.0)), r"2 labels \(float64\); expected as many of each, and whole numbers"),
        (dict(labels=(4, -1)), "recording 1 has the label -1"),
        (dict(times=([0.0, 0.1, 0.5], [])), "recording 1: every field has one entry an event, but 1 x, 0 t came"),
        (dict(times=([], []), units=([], [])), "recording 0: no events"),
        (dict(times=([], []), units=([], []), labels=()), "0 spikes|recording 0|2 spikes/times"),
        (dict(times=([0.0, 0.5, 0.1], [0.25])), "recording 0: time goes back at event 2"),
        (dict(times=([0.0, 0.1, 0.5], [-0.25])), "recording 1: the first spike is at -0.25 s"),
        (dict(units=([0, 700, 3], [7])), "recording 0: event 1 is outside the sensor: x is 700, expected 0 to 699"),
    ],
)
def test_shd_that_is_damaged(change, says, h5):
    path = h5(**change)
    with pytest.raises(ValueError, match=says) as error:
        read_shd(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_shd_that_is_cut_off_or_is_none(h5, tmp_path):
    path = h5()
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:100], whole[: len(whole) // 2], whole[:-50]):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match="cannot be read as a whole HDF5 file.*take the file from its source again"
        ):
            read_shd(path)
    with pytest.raises(FileNotFoundError, match="none.h5 is not there"):
        read_shd(tmp_path / "none.h5")


def test_shd_without_h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"shd.h5: reading HDF5 takes h5py: pip install 'snn-functional\[events\]'"):
        read_shd("shd.h5")
