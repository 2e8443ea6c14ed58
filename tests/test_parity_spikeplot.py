"""`snn.spikeplot` beside the installed snnTorch 1.0.0: the same signatures, points, bars and lines."""

import importlib.util
import inspect
import sys
import types
import warnings

import matplotlib
import pytest
import torch

from snn_functional.snn import spikeplot


class Frame(dict):
    """As much of a pandas DataFrame as snnTorch uses, for where pandas is not installed: one column and its index."""

    index = property(lambda self: self["time"].index)


class Series(list):
    def __init__(self, values, index):
        super().__init__(values.tolist())
        self.index = index


matplotlib.use("agg")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("snntorch")
    without_pandas = pytest.MonkeyPatch()
    if importlib.util.find_spec("pandas") is None:
        pandas = types.ModuleType("pandas")
        pandas.Series, pandas.DataFrame = Series, Frame
        without_pandas.setitem(sys.modules, "pandas", pandas)
    from snntorch import spikeplot as theirs

    without_pandas.undo()

import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def _clean():
    with matplotlib.rc_context():
        yield
    plt.close("all")


@pytest.mark.parametrize("name", ["animator", "raster", "spike_count", "traces"])
def test_has_its_signature(name):
    parameters = inspect.signature(getattr(spikeplot, name)).parameters.values()
    ours = [(p.name, p.default) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert ours == [(p.name, p.default) for p in inspect.signature(getattr(theirs, name)).parameters.values()]


@pytest.mark.parametrize("shape", [(20, 5), (20,)])
def test_raster(shape):
    spikes, ax = (torch.rand(shape) < 0.3).float(), plt.subplots()[1]
    ours, snntorchs = (module.raster(spikes, ax, s=3, c="black") for module in (spikeplot, theirs))
    assert ours.get_offsets().tolist() == snntorchs.get_offsets().tolist()
    assert ours.get_sizes().tolist() == snntorchs.get_sizes().tolist()


def test_traces():
    mem, spk = torch.randn(20, 6), (torch.rand(20, 6) < 0.3).float()
    panels = []
    for module in (spikeplot, theirs):
        fig = plt.figure()
        module.traces(mem, spk, (2, 3), 4, list("abcdef"))
        panels.append(
            [
                (list(ax.lines[0].get_ydata()), ax.get_title(), ax.get_ylim(), ax.get_position().bounds)
                for ax in fig.axes
            ]
        )
    assert panels[0] == panels[1]


@pytest.mark.parametrize("time_step", [False, 0.5])
def test_spike_count(time_step):
    spikes, pictures = (torch.rand(20, 3) < 0.3).float(), []
    for module in (spikeplot, theirs):
        fig, ax = plt.subplots()
        module.spike_count(spikes, fig, ax, list("abc"), time_step=time_step)
        fig.canvas.draw()
        ticks = [text.get_text() for axis in (ax.get_xticklabels(), ax.get_yticklabels()) for text in axis]
        pictures.append(
            (
                [segment.tolist() for segment in ax.collections[0].get_segments()],
                ax.lines[0].get_xydata().tolist(),
                sorted((patch.get_x(), patch.get_width()) for patch in ax.patches),
                (ax.get_xlim(), ax.get_ylim(), ax.get_xlabel(), ax.get_ylabel()),
                [float(tick) if tick[0].isdigit() else tick for tick in ticks],
            )
        )
    assert pictures[0] == pictures[1]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # snnTorch's, which gives matplotlib tensors
def test_animator(tmp_path):
    frames, films = torch.rand(5, 3, 4), []
    for module in (spikeplot, theirs):
        fig, ax = plt.subplots()
        module.animator(frames, fig, ax, interval=70).save(tmp_path / "film.gif", writer="pillow")
        films.append((tmp_path / "film.gif").read_bytes())
    assert films[0] == films[1]
