"""`snn.spikeplot`: each picture and each film holds what it should, and nothing else in matplotlib is touched."""

import sys

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure

from snn_functional.snn import spikeplot as splt


PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def ax():
    return Figure(figsize=(4, 3)).subplots()


@pytest.fixture
def plt():
    """pyplot without a screen, its figures closed afterwards."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture
def settings_stay():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


def pixels(film, path):
    """The frames of the film's gif, as they are read back."""
    film.save(path, writer="pillow")
    with PIL.open(path) as gif:
        frames = []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(torch.tensor(list(gif.convert("L").tobytes())))
    return frames


def test_raster_has_a_dot_a_spike(ax):
    spikes = (torch.rand(20, 5) < 0.3).float().requires_grad_()
    dots = splt.raster(spikes, ax, s=3, c="red")
    assert ax.collections[0] is dots and dots.get_offsets().tolist() == spikes.nonzero().tolist()
    assert dots.get_sizes().tolist() == [3] and dots.get_facecolor().tolist() == [[1, 0, 0, 1]]
    assert splt.raster(spikes.bool()[:, 0], ax).get_offsets()[:, 0].tolist() == spikes[:, 0].nonzero()[:, 0].tolist()


def test_raster_numbers_the_neurons_of_an_image(ax):
    spikes = torch.zeros(4, 2, 3)
    spikes[1, 0, 2] = spikes[3, 1, 1] = 1
    dots = splt.raster(spikes, ax, s=1.5)
    assert dots.get_offsets().tolist() == [[1, 2], [3, 4]] and dots.get_sizes().tolist() == [1.5]


def test_animator_shows_each_step(ax, tmp_path, settings_stay):
    spikes = torch.eye(6).view(6, 2, 3)
    film = splt.animator(spikes.half().requires_grad_(), ax.figure, ax, interval=70, cmap="gray")
    (image,) = ax.images
    assert image.get_clim() == (0, 1) and image.get_cmap().name == "gray" and not ax.axison
    frames = pixels(film, tmp_path / "film.gif")
    assert len(frames) == 6 and len({tuple(frame.tolist()) for frame in frames}) == 6
    assert torch.equal(torch.tensor(image.get_array().data), spikes[-1])
    with PIL.open(tmp_path / "film.gif") as gif:
        assert gif.info["duration"] == 70


def test_animator_of_the_first_steps_as_a_page(ax):
    film = splt.animator(torch.rand(6, 2, 3), ax.figure, ax, 4)
    assert film.to_jshtml().count("data:image/png") == 4


def test_animator_leaves_other_axes_alone(plt, tmp_path):
    fig, (left, right) = plt.subplots(1, 2)
    plt.sca(right)
    pixels(splt.animator(torch.rand(2, 3, 3), fig, left), tmp_path / "film.gif")
    assert right.axison and not right.images and not left.axison and plt.gca() is right


@pytest.fixture
def spikes():
    return torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 1]]).float()


def lengths(ax):
    """The lengths of the bars, and the positions of their dots, which end them."""
    bars = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    assert all(start == 0 for start, _ in bars)
    assert list(ax.lines[0].get_xdata()) == [end for _, end in bars] and list(ax.lines[0].get_ydata()) == [1, 2, 3]
    return [end for _, end in bars]


def test_spike_count_has_a_bar_an_output(ax, spikes, settings_stay):
    assert splt.spike_count(spikes.requires_grad_(), ax.figure, ax, ["a", "b", "c"]) is None
    assert lengths(ax) == [3, 0, 3] and ax.get_xlim() == (0, 4)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"] and list(ax.get_yticks()) == [1, 2, 3]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Time Step", "Labels")


def test_spike_count_of_the_first_steps_in_seconds(ax, spikes):
    splt.spike_count(spikes, ax.figure, ax, ["a", "b", "c"], 2, gridshader=False, time_step=1e-3)
    assert lengths(ax) == [2, 0, 1] and ax.get_xlim() == (0, 2) and not ax.patches
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == "Time [s]" and "0.001" in [text.get_text() for text in ax.get_xticklabels()]


def test_spike_count_shades_every_other_interval(ax, spikes):
    splt.spike_count(torch.cat([spikes] * 5), ax.figure, ax, ["a", "b", "c"])
    ticks = [tick for tick in ax.get_xticks() if 0 < tick < 20]
    edges = [0, *ticks, 20]
    shades = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
    assert shades == list(zip(edges[1::2], edges[2::2])) and shades


def test_spike_count_as_a_film_ends_with_the_picture(ax, spikes, tmp_path, settings_stay):
    film = splt.spike_count(spikes, ax.figure, ax, ["a", "b", "c"], animate=True, interpolate=3, interval=50)
    assert len(pixels(film, tmp_path / "film.gif")) == 4 * 3 + 1
    assert lengths(ax) == [3, 0, 3] and list(ax.lines[1].get_xdata()) == [4, 4]
    film._func(0)
    assert lengths(ax) == [0, 0, 0] and list(ax.lines[1].get_xdata()) == [0, 0]
    film._func(7)
    assert lengths(ax) == [2, 0, 1] and list(ax.lines[1].get_xdata()) == [7 / 3, 7 / 3]


def test_spike_count_leaves_other_axes_alone(plt, spikes):
    fig, (left, right) = plt.subplots(1, 2)
    plt.sca(right)
    splt.spike_count(spikes, fig, left, ["a", "b", "c"])
    assert not right.lines and not right.collections and lengths(left) == [3, 0, 3] and plt.get_fignums() == [1]


def test_traces_have_a_panel_a_neuron(settings_stay):
    mem, fig = torch.randn(20, 5, requires_grad=True), Figure()
    assert splt.traces(mem, dim=(2, 2), titles=["one", "two"], fig=fig) is None
    assert [list(panel.lines[0].get_ydata()) for panel in fig.axes] == mem.T[:4].tolist()
    assert [panel.get_title() for panel in fig.axes] == ["one", "two", "", ""]
    assert len({panel.get_ylim() for panel in fig.axes}) == 1 and not any(panel.axison for panel in fig.axes)
    assert [panel.get_subplotspec().num1 for panel in fig.axes] == [0, 1, 2, 3]


def test_traces_with_spikes_and_fewer_neurons_than_panels():
    mem, fig = torch.randn(20, 2), Figure()
    spk = mem > 0.5
    splt.traces(mem, spk, spk_height=3, titles=[], fig=fig)
    assert len(fig.axes) == 2
    for panel, m, s in zip(fig.axes, mem.T, spk.T):
        assert panel.lines[0].get_ydata() == pytest.approx((m + 3 * s).tolist())


def test_traces_draw_into_the_current_figure(plt):
    fig = plt.figure()
    splt.traces(torch.rand(5, 9))
    assert plt.get_fignums() == [1] and len(fig.axes) == 9


def test_a_camera_takes_what_is_new(ax, tmp_path):
    (axis_line,) = ax.plot([0, 3], [0, 3])
    camera = splt.Camera(ax.figure)
    expected = [[axis_line], [], []]
    for i in range(3):
        expected[i] += ax.plot([i, i + 1], [0, 3], label=str(i))
        ax.legend(handles=[expected[i][-1]])
        *artists, legend = camera.snap()
        assert artists == expected[i] and [text.get_text() for text in legend.get_texts()] == [str(i)]
    assert camera.snap() == []
    assert len(pixels(camera.animate(interval=60), tmp_path / "film.gif")) == 4


BAD = {
    "raster of a list": (lambda fig, ax: splt.raster([1.0], ax), TypeError, r"torch.stack\(data\)"),
    "raster of a number": (lambda fig, ax: splt.raster(torch.tensor(1.0), ax), ValueError, "a step of time"),
    "animator of a batch": (
        lambda fig, ax: splt.animator(torch.ones(3, 2, 1, 4, 4), fig, ax),
        ValueError,
        r"\[T, height, width\].*\[3, 2, 1, 4, 4\] came.*\[:, 0, 0\]",
    ),
    "animator, steps": (lambda fig, ax: splt.animator(torch.ones(3, 2, 2), fig, ax, 4), ValueError, "has 3 steps"),
    "counts of a batch": (
        lambda fig, ax: splt.spike_count(torch.ones(3, 2, 2), fig, ax, ["a", "b"]),
        ValueError,
        r"\[3, 2, 2\] and 2 labels came",
    ),
    "labels": (lambda fig, ax: splt.spike_count(torch.ones(3, 2), fig, ax, ["a"]), ValueError, "1 labels came"),
    "frames": (
        lambda fig, ax: splt.spike_count(torch.ones(3, 2), fig, ax, ["a", "b"], interpolate=0.5),
        ValueError,
        "interpolate=0.5",
    ),
    "traces of a batch": (lambda fig, ax: splt.traces(torch.ones(3, 2, 2), fig=fig), ValueError, r"data\[:, 0\]"),
    "traces of others": (
        lambda fig, ax: splt.traces(torch.ones(3, 2), torch.ones(3), fig=fig),
        ValueError,
        r"data is \[3, 2\] and spk \[3\]",
    ),
}


@pytest.mark.parametrize("call, error, message", BAD.values(), ids=BAD)
def test_refuses(ax, call, error, message):
    with pytest.raises(error, match=message):
        call(ax.figure, ax)


def test_without_matplotlib_it_says_how_to_get_it(ax, spikes, monkeypatch):
    for part in ("animation", "pyplot"):
        monkeypatch.setitem(sys.modules, f"matplotlib.{part}", None)
    for call in (
        lambda: splt.animator(torch.rand(2, 3, 3), ax.figure, ax),
        lambda: splt.spike_count(spikes, ax.figure, ax, ["a", "b", "c"], animate=True),
        lambda: splt.Camera(ax.figure).animate(),
        lambda: splt.traces(spikes),
    ):
        with pytest.raises(ImportError, match=r"pip install 'snn-functional\[demo\]'"):
            call()
