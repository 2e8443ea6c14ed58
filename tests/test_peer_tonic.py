"""tonic 1.7.0 beside `recordings`: its frames are ours, event for event, and its data sets go into a network."""

import re
from pathlib import Path

import numpy
import pytest
import recorded
import torch

import snn_functional as snf
from snn_functional.recordings import batch, DroppedEvents, frames


pytestmark = pytest.mark.filterwarnings("ignore")  # what its dependencies warn of

SIZE = (34, 34, 2)


@pytest.fixture(scope="module")
def ToFrame():
    pytest.importorskip("tonic", reason="tonic is installed with other peers, in an environment of their own")
    from tonic.transforms import ToFrame

    return ToFrame


def drawn(seed, dtype=(("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "i1")), last=307_000, n=4000):
    random = numpy.random.default_rng(seed)
    events = numpy.zeros(n, numpy.dtype(list(dtype)))
    events["t"] = numpy.sort(random.integers(random.integers(0, 900), last, n))
    events["x"], events["p"] = random.integers(0, 34, n), random.integers(0, 2, n)
    if "y" in events.dtype.names:
        events["y"] = random.integers(0, 34, n)
    return events


@pytest.mark.fidelity(
    model="frames",
    reference="tonic 1.7.0 ToFrame",
    compared="time_window, n_time_bins and include_incomplete, 40 drawn recordings, with and without y, one polarity",
    closely="equal",
    differs="a recording of exactly n windows: whole=False keeps its last event, include_incomplete=True does not; of both "
    "polarities size=(W, H, 1) makes a sum, ToFrame an error",
)
@pytest.mark.parametrize("seed", range(10))
def test_frames_are_tonics(seed, ToFrame):
    equal = lambda ours, theirs: numpy.array_equal(ours.numpy(), theirs)
    events = drawn(seed)
    for window in (1000, 10_000, 10_001, 100_000, 400_000):
        theirs = ToFrame(SIZE, time_window=window)(events)
        assert equal(frames(events, window=window, size=SIZE, whole=True), theirs)
        theirs = ToFrame(SIZE, time_window=window, include_incomplete=True)(events)
        assert equal(frames(events, window=window, size=SIZE), theirs)
    for bins in (1, 10, 37):
        assert equal(frames(events, bins=bins, size=SIZE, whole=True), ToFrame(SIZE, n_time_bins=bins)(events))
    line = drawn(seed, (("t", "i8"), ("x", "i8"), ("p", "?")))
    ours = frames(line, window=10_000, size=(34, 1, 2), whole=True)
    assert equal(ours, ToFrame((34, 1, 2), time_window=10_000)(line))
    events["p"] = 1  # of both polarities tonic makes no frames of one
    ours = frames(events, window=10_000, size=(34, 34, 1), whole=True)
    assert equal(ours, ToFrame((34, 34, 1), time_window=10_000)(events.copy()))


def test_what_differs_is_one_event_on_the_last_edge(ToFrame):
    events = drawn(0)
    events["t"][-1] = events["t"][0] + 310_000
    theirs = ToFrame(SIZE, time_window=10_000, include_incomplete=True)(events)
    ours = frames(events, window=10_000, size=SIZE)
    assert (
        len(theirs) == 31 and len(ours) == 32 and numpy.array_equal(ours[:31].numpy(), theirs) and ours[31].sum() == 1
    )
    with pytest.warns(DroppedEvents):
        assert frames(events, window=10_000, size=SIZE, whole=True).sum() == theirs.sum() == 3999


def test_a_data_set_with_tonics_transform_feeds_a_network(ToFrame):
    transform = ToFrame(SIZE, time_window=10_000)
    dataset = [(transform(drawn(seed, last=200_000 + 20_000 * seed)), seed % 10) for seed in range(4)]
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=batch)
    xs, y, lengths = next(iter(loader))
    assert xs.shape == (max(lengths), 4, 2, 34, 34) and y.tolist() == [0, 1, 2, 3] and lengths.diff().min() > 0
    net = snf.chain(snf.conv2d, snf.leaky, snf.flatten, snf.linear, snf.leaky_integrator)
    leaky, out = snf.LeakyParams(0.9), snf.LeakyIntegratorParams(0.9)
    params = (snf.Conv2d.random(2, 4, 3, stride=2), leaky, (), snf.Linear.random(4 * 17 * 17, 10), out)
    mems, _ = snf.scan(net.step, params, net.init(params, xs[0]), xs)
    assert mems.shape == (max(lengths), 4, 10)


def test_events_of_expelliarmus_are_read_by_name(tmp_path):
    Wizard = pytest.importorskip("expelliarmus").Wizard
    events = drawn(1, (("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "u1")), n=50)
    wizard = Wizard(encoding="dat")
    wizard.save(tmp_path / "a.dat", events)
    read = wizard.read(tmp_path / "a.dat")
    assert torch.equal(frames(read, window=9000, size=SIZE), frames(events, window=9000, size=SIZE))


def test_the_page_shows_a_data_set_of_tonics(ToFrame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorded.nmnist_zip(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "events.md").read_text()
    blocks = re.findall(r"```python( tonic)?\n(.*?)```", page, flags=re.S)
    space = {"__name__": "page"}
    for _, block in blocks:
        exec(compile(block, "docs/events.md", "exec"), space)
    assert [name for name, _ in blocks] == ["", "", " tonic"] and space["membranes"].shape[1:] == (2, 10)
    assert space["lengths"].tolist() == [len(space["dataset"][i][0]) for i in range(2)]
