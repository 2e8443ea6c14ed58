"""N-MNIST and SHD are read as they are; what is damaged is refused with the file, the place and a way out."""

import sys
import zipfile
from pathlib import Path

import pytest
import recorded
import torch
from recorded import aer

from snn_functional.recordings import channels, frames, read_nmnist, read_shd
from snn_functional.recordings._nmnist import events_of


SHARED = Path(__file__).parents[2] / "shared" / "data" / "nmnist.zip"
real = pytest.mark.skipif(
    not SHARED.is_file(), reason="needs the 1,100 real recordings, shared/data/nmnist.zip beside this folder"
)


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
    pytest.importorskip("h5py")
    usual = dict(times=([0.0, 0.1, 0.5], [0.25]), units=([0, 699, 3], [7]), labels=(4, 19))
    return lambda **change: recorded.shd(tmp_path / "shd_train.h5", **{**usual, **change})


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
