"""`snntorch.spikeplot`: rasters, traces and films of spikes, under snnTorch's names, on matplotlib's own animation.

    fig, ax = plt.subplots()
    film = splt.animator(spikes[:, 0], fig, ax)             # spikes [T, batch, height, width]
    film.save("spikes.gif")

Each draws into the figure or the axes it is given and nowhere else, changes no setting of matplotlib's, and shows nothing until
the user calls `plt.show()`. Tensors may require grad and be anywhere. Pictures with labels and limits are in `plot`.
"""

from collections.abc import Sequence
from typing import Any, TYPE_CHECKING

import torch
from torch import Tensor

from ..plot import matplotlib


if TYPE_CHECKING:
    from matplotlib.animation import ArtistAnimation, FuncAnimation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREY = "#007ACC", "#333F4B"


def raster(data: Tensor, ax: "Axes", **kwargs: Any) -> Any:
    """A dot for every spike of `data` [T, ...], one sample: at (step, neuron). Returns what `ax.scatter` does.

    Neurons in several axes, as [T, height, width], are numbered in their order in memory. `kwargs`: options of `ax.scatter`.

    Raises TypeError for data that are not a tensor, ValueError for data without an axis of time.
    """
    steps = _numbers(raster, data)
    step, neuron = steps.reshape(len(steps), -1).nonzero().unbind(1)
    return ax.scatter(step.tolist(), neuron.tolist(), **kwargs)


def animator(
    data: Tensor, fig: "Figure", ax: "Axes", num_steps: int = False, interval: float = 40, cmap: Any = "plasma"
) -> "FuncAnimation":
    """A film of `data` [T, height, width], one sample: a picture a step, `interval` milliseconds long, all on one scale of colours.

    `num_steps`: the first so many steps alone. Keep what is returned, until it is saved (`.save("film.gif")`) or shown
    (`.to_jshtml()`).

    Raises TypeError for data that are not a tensor, ValueError for another shape and for more steps than there are.
    """
    frames = _numbers(animator, data)
    if frames.dim() != 3:
        raise ValueError(
            f"animator(data, fig, ax): expected data [T, height, width], one sample; {list(frames.shape)} came. Of "
            "[T, batch, 1, height, width] give data[:, 0, 0]."
        )
    T = _steps(animator, frames, num_steps)
    image = ax.imshow(frames[0].numpy(), cmap=cmap, vmin=frames.min().item(), vmax=frames.max().item())
    ax.axis("off")

    def draw(step: int) -> list[Any]:
        image.set_data(frames[step].numpy())
        return [image]

    return matplotlib("animation").FuncAnimation(fig, draw, frames=T, interval=interval)


def spike_count(
    data: Tensor,
    fig: "Figure",
    ax: "Axes",
    labels: Sequence[str],
    num_steps: int = False,
    animate: bool = False,
    interpolate: int = 1,
    gridshader: bool = True,
    interval: float = 25,
    time_step: float = False,
) -> "FuncAnimation | None":
    """A bar for every output neuron of `data` [T, outputs], one sample, as long as its count of spikes.

    - `labels`: the outputs' names. `num_steps`: the first so many steps alone.
    - `animate`: a film, returned, in which the bars grow, with a line at the time. It begins before the first step and ends with
      the picture that is drawn without it; `interpolate` frames a step, `interval` milliseconds each.
    - `gridshader`: every other interval of the axis is shaded. `time_step`: seconds a step, to label the axis in seconds.

    Raises TypeError for data that are not a tensor, ValueError for another shape, for more steps than there are and for another
    number of labels.
    """
    counts = _numbers(spike_count, data)
    if counts.dim() != 2 or len(labels) != counts.shape[1]:
        raise ValueError(
            f"spike_count(data, fig, ax, labels): expected data [T, outputs], one sample, and a label for each output; "
            f"{list(counts.shape)} and {len(labels)} labels came. Of [T, batch, outputs] give data[:, 0]."
        )
    T = _steps(spike_count, counts, num_steps)
    if isinstance(interpolate, bool) or not isinstance(interpolate, int) or interpolate < 1:
        raise ValueError(f"spike_count(interpolate={interpolate!r}): expected the number of frames a step, 1 or more.")
    counts = torch.cat((counts.new_zeros(1, len(labels)), counts[:T].cumsum(0)))
    rows = range(1, len(labels) + 1)
    bars = ax.hlines(rows, 0, counts[T].tolist(), color=BLUE, alpha=0.5, linewidth=8)
    (dots,) = ax.plot(counts[T].tolist(), rows, "o", markersize=8, color=BLUE, alpha=0.6)
    _style_counts(ax, T, labels, time_step)
    if gridshader:
        _shade(ax)
    if not animate:
        return None
    line = ax.axvline(T, color="tab:orange", linewidth=3)

    def draw(frame: int) -> list[Any]:
        now = counts[frame // interpolate].tolist()
        bars.set_segments([[(0, row), (count, row)] for row, count in zip(rows, now)])
        dots.set_xdata(now)
        line.set_xdata([frame / interpolate] * 2)
        return [bars, dots, line]

    return matplotlib("animation").FuncAnimation(fig, draw, frames=T * interpolate + 1, interval=interval)


def traces(
    data: Tensor,
    spk: Tensor | None = None,
    dim: tuple[int, int] = (3, 3),
    spk_height: float = 5,
    titles: Sequence[str] | None = None,
    *,
    fig: "Figure | None" = None,
) -> None:
    """A panel for each of the first neurons of `data` [T, neurons], one sample: `dim` rows and columns, on one scale.

    `spk` [T, neurons]: their spikes, which stick out by `spk_height`. `titles`: of the panels. `fig`: where to draw, else
    pyplot's current figure, which is a new one where there is none.

    Raises TypeError for data that are not a tensor, ValueError for another shape.
    """
    lines = _numbers(traces, data)
    if lines.dim() != 2:
        raise ValueError(
            f"traces(data): expected data [T, neurons], one sample; {list(lines.shape)} came. Of [T, batch, neurons] give "
            "data[:, 0]."
        )
    if spk is not None:
        spikes = _numbers(traces, spk)
        if spikes.shape != lines.shape:
            raise ValueError(
                f"traces(data, spk): data is {list(lines.shape)} and spk {list(spikes.shape)}; expected one shape."
            )
        lines = lines + spk_height * spikes
    figure = matplotlib("pyplot").gcf() if fig is None else fig
    panel = None
    for i, line in enumerate(lines.unbind(1)[: dim[0] * dim[1]]):
        panel = figure.add_subplot(*dim, i + 1, sharey=panel)
        panel.plot(line.tolist())
        panel.axis("off")
        if titles and i < len(titles):
            panel.set_title(titles[i])


class Camera:
    """Films of what is drawn by hand: draw, `snap()`, draw the next picture, `snap()`, ..., then `animate()`.

    A snapshot holds what was added to the figure's axes since the one before, legends too.
    """

    def __init__(self, figure: "Figure") -> None:
        self._figure = figure
        self._photos: list[list[Any]] = []
        self._taken: set[Any] = set()

    def snap(self) -> list[Any]:
        """Take a snapshot; returns its artists."""
        photo: list[Any] = []
        for ax in self._figure.axes:
            legend = ax.get_legend()
            if legend is not None and legend not in self._taken:
                ax.add_artist(legend)  # else the next legend would replace it
            drawn = (ax.collections, ax.patches, ax.lines, ax.texts, ax.artists, ax.images, ax.tables)
            photo += [artist for artists in drawn for artist in artists if artist not in self._taken]
        self._taken.update(photo)
        self._photos.append(photo)
        return photo

    def animate(self, *args: Any, **kwargs: Any) -> "ArtistAnimation":
        """The film: `matplotlib.animation.ArtistAnimation(figure, snapshots, ...)`, options being its own."""
        return matplotlib("animation").ArtistAnimation(self._figure, self._photos, *args, **kwargs)


def _style_counts(ax: "Axes", T: int, labels: Sequence[str], time_step: float) -> None:
    ax.set_xlim(0, T)
    ax.set_yticks(range(1, len(labels) + 1), labels)
    ax.set_xlabel("Time [s]" if time_step else "Time Step", fontsize=15, fontweight="bold", color=GREY)
    ax.set_ylabel("Labels", fontsize=15, fontweight="bold", color=GREY)
    ax.tick_params(which="major", labelsize=12, color=GREY, labelcolor=GREY)
    for side in ("top", "right"):
        ax.spines[side].set_color("none")
    ax.spines["bottom"].set_position(("axes", -0.04))
    if time_step:
        ax.xaxis.set_major_formatter(lambda step, _: f"{step * time_step:g}")


def _shade(ax: "Axes") -> None:
    low, high = ax.get_xlim()
    edges = [low, *(float(tick) for tick in ax.get_xticks() if low < tick < high), high]
    for start, end in zip(edges[1::2], edges[2::2]):
        ax.axvspan(start, end, zorder=0, facecolor="lightgrey", alpha=0.7)


def _steps(function: Any, data: Tensor, num_steps: Any) -> int:
    if num_steps is False or num_steps is None:
        return len(data)
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or not 1 <= num_steps <= len(data):
        raise ValueError(
            f"{function.__name__}(data, num_steps={num_steps!r}): data has {len(data)} steps; give 1 to so many."
        )
    return num_steps


def _numbers(function: Any, data: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError(
            f"{function.__name__} takes a tensor [T, ...], not {type(data).__name__}: of a list of steps give torch.stack(data)."
        )
    if data.dim() == 0 or data.numel() == 0:
        raise ValueError(f"{function.__name__}(data): expected a step of time at least; {list(data.shape)} came.")
    return data.detach().to("cpu", torch.float32)
