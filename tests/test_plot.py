"""Each picture has the artists it should, whatever tensors it is given."""

import sys

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure

from snn_functional import plot


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture
def new_figures():
    """pyplot without a screen, its figures closed afterwards."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_raster_has_a_dot_a_spike(ax):
    spikes = (torch.rand(20, 5) < 0.3).float().requires_grad_()
    assert plot.raster(spikes, ax) is ax
    (dots,) = ax.collections
    assert dots.get_offsets().tolist() == spikes.nonzero().tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time step", "neuron")
    assert ax.get_xlim() == (-0.5, 19.5) and ax.get_ylim() == (-0.5, 4.5)


def test_raster_of_one_neuron_of_none_and_of_booleans(ax):
    plot.raster(torch.tensor([0.0, 1.0, 1.0]), ax)
    plot.raster(torch.zeros(3, 2), ax)
    plot.raster(torch.ones(3, 2, dtype=torch.bool), ax, color="red", s=3)
    one, none, all = ax.collections
    assert one.get_offsets().tolist() == [[1, 0], [2, 0]] and len(none.get_offsets()) == 0
    assert len(all.get_offsets()) == 6 and all.get_sizes().tolist() == [3]


def test_traces_have_a_line_a_neuron_and_a_dot_a_spike(ax):
    mem = torch.randn(20, 3, requires_grad=True)
    spk = (mem > 0.5).float()
    assert plot.traces(mem, spk, ax, threshold=0.5, labels=["a", "b", "c"], linewidth=3) is ax
    *lines, threshold = ax.get_lines()
    assert [list(line.get_ydata()) for line in lines] == mem.T.tolist() and lines[0].get_linewidth() == 3
    assert list(threshold.get_ydata()) == [0.5, 0.5]
    (dots,) = ax.collections
    assert dots.get_offsets()[:, 1].tolist() == mem.detach()[spk.bool()].tolist()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b", "c"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time step", "membrane potential")


def test_traces_of_one_neuron(ax):
    plot.traces(torch.arange(4.0), ax=ax)
    (line,) = ax.get_lines()
    assert list(line.get_ydata()) == [0, 1, 2, 3] and not ax.collections and ax.get_legend() is None


def test_learning_curve_has_two_accuracies_and_a_loss(ax):
    history = [dict(epoch=i, loss=1 / i, train_accuracy=0.1 * i, test_accuracy=0.09 * i) for i in (1, 2, 3)]
    assert plot.learning_curve(history, ax) is ax
    train, test = ax.get_lines()
    assert list(train.get_ydata()) == [row["train_accuracy"] for row in history] and train.get_label() == "train"
    assert list(test.get_ydata()) == [row["test_accuracy"] for row in history] and test.get_label() == "test"
    (loss,) = ax.figure.axes[1].get_lines()
    assert list(loss.get_ydata()) == [1, 1 / 2, 1 / 3] and (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "accuracy")


def test_without_ax_each_picture_is_a_new_one(new_figures):
    assert plot.raster(torch.ones(3, 2)).figure is not plot.traces(torch.ones(3, 2)).figure
    assert plot.learning_curve([]).get_lines()


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"raster: expected \[T, neurons\].*\[5, 2, 3\] came.*\[:, 0\]"):
        plot.raster(torch.zeros(5, 2, 3))
    with pytest.raises(ValueError, match=r"mem is \[5, 2\] and spk \[5, 3\]"):
        plot.traces(torch.zeros(5, 2), torch.zeros(5, 3), Figure().subplots())
    with pytest.raises(ValueError, match="list came"):
        plot.raster([0.0, 1.0])


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'snn-functional\[demo\]'"):
        plot.raster(torch.zeros(2, 2))


def test_traces_have_a_threshold_a_neuron(ax):
    mem = torch.randn(20, 3)
    plot.traces(mem, ax=ax, threshold=torch.tensor([0.5, 0.7, 0.9], requires_grad=True))
    lines, dashed = ax.get_lines()[::2], ax.get_lines()[1::2]
    assert [list(line.get_ydata()) for line in dashed] == [pytest.approx([v] * 20) for v in (0.5, 0.7, 0.9)]
    assert [line.get_color() for line in lines] == [line.get_color() for line in dashed]
    moving = torch.rand(20, 3)
    plot.traces(mem, ax=(other := Figure().subplots()), threshold=moving)
    assert [list(line.get_ydata()) for line in other.get_lines()[1::2]] == moving.T.tolist()
    with pytest.raises(ValueError, match=r"mem is \[20, 3\] and the threshold \[4\]; expected a number, one a neuron"):
        plot.traces(mem, ax=ax, threshold=torch.ones(4))
