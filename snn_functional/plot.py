"""Pictures of spikes, of membranes and of learning. Each draws into `ax`, or into a new figure, and returns the Axes.

Tensors may require grad and be anywhere. matplotlib is imported when a picture is asked for; without it, ImportError says how to
get it.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, TYPE_CHECKING

import torch
from torch import Tensor

from ._names import show as _show


if TYPE_CHECKING:
    from matplotlib.axes import Axes


def raster(spikes: Tensor, ax: "Axes | None" = None, **scatter: Any) -> "Axes":
    """A dot for every spike. `spikes`: [T, neurons] or [T], of one sample. `scatter`: options of `Axes.scatter`.

    Raises ValueError for another shape.
    """
    spikes = _columns(raster, spikes)
    ax = _axes(ax)
    step, neuron = spikes.nonzero().unbind(1)
    ax.scatter(step.tolist(), neuron.tolist(), **{"s": 8, "marker": "|", "color": "black", **scatter})
    ax.set(xlabel="time step", ylabel="neuron", xlim=(-0.5, len(spikes) - 0.5), ylim=(-0.5, spikes.shape[1] - 0.5))
    return ax


def traces(
    mem: Tensor,
    spk: Tensor | None = None,
    ax: "Axes | None" = None,
    *,
    threshold: float | Tensor | None = None,
    labels: Sequence[str] | None = None,
    **line: Any,
) -> "Axes":
    """A line for every membrane, a dot where it fired, a dashed line at the threshold.

    `mem`: [T, neurons] or [T], of one sample. `spk`: its spikes, of the same shape. `threshold`: one of all; or of each neuron,
    (neurons,), or over time, of mem's shape, in the colour of its membrane. `labels`: a name for each neuron, for the legend.
    `line`: options of `Axes.plot`. Raises ValueError for another shape.
    """
    mem = _columns(traces, mem)
    ax = _axes(ax)
    steps = range(len(mem))
    own = _thresholds(threshold, mem) if isinstance(threshold, Tensor) and threshold.dim() else None
    for i, membrane in enumerate(mem.unbind(1)):
        (drawn,) = ax.plot(steps, membrane.tolist(), **{"label": labels[i] if labels else None, **line})
        if own is not None:
            ax.plot(steps, own[:, i].tolist(), linestyle="--", linewidth=1, color=drawn.get_color(), alpha=0.7)
    if spk is not None:
        spk = _columns(traces, spk)
        if spk.shape != mem.shape:
            raise ValueError(
                f"traces(mem, spk): mem is {list(mem.shape)} and spk {list(spk.shape)}; expected one shape."
            )
        step, neuron = spk.nonzero().unbind(1)
        ax.scatter(step.tolist(), mem[step, neuron].tolist(), s=12, color="black", zorder=3)
    if threshold is not None and own is None:
        ax.axhline(float(threshold), linestyle="--", linewidth=1, color="grey")
    if labels:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
    ax.set(xlabel="time step", ylabel="membrane potential")
    return ax


def learning_curve(history: Sequence[Mapping[str, float]], ax: "Axes | None" = None) -> "Axes":
    """Accuracy on the training and the test samples, and on a second axis the loss, after each epoch.

    `history`: a row an epoch, with `epoch`, `loss`, `train_accuracy` and `test_accuracy`, as `metrics.json` holds them.
    """
    ax = _axes(ax)
    epochs = [row["epoch"] for row in history]
    for name in ("train", "test"):
        ax.plot(epochs, [row[f"{name}_accuracy"] for row in history], marker=".", label=name)
    ax.set(xlabel="epoch", ylabel="accuracy")
    ax.legend(loc="center right")
    ax.locator_params(axis="x", integer=True)
    right = ax.twinx()
    right.plot(epochs, [row["loss"] for row in history], marker=".", linestyle=":", color="grey")
    right.set_ylabel("loss (dotted)")
    return ax


def _axes(ax: "Axes | None") -> "Axes":
    return matplotlib("pyplot").subplots()[1] if ax is None else ax


def matplotlib(part: str) -> Any:
    """`matplotlib.<part>`, or an ImportError that says how to get it."""
    try:
        return importlib.import_module(f"matplotlib.{part}")
    except ImportError as error:
        raise ImportError("pictures take matplotlib: pip install 'snn-functional[demo]'") from error


def _thresholds(threshold: Tensor, mem: Tensor) -> Tensor:
    threshold = threshold.detach().to("cpu", torch.float32)
    try:
        return threshold.expand(mem.shape) if threshold.shape != mem.shape[:1] else threshold[:, None].expand(mem.shape)
    except RuntimeError:
        raise ValueError(
            f"traces(mem, threshold=): mem is {list(mem.shape)} and the threshold {list(threshold.shape)}; expected a number, one a "
            "neuron, or mem's shape."
        ) from None


def _columns(function: Any, values: Any) -> Tensor:
    if not isinstance(values, Tensor) or values.dim() not in (1, 2):
        came = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{function.__name__}: expected [T, neurons] or [T], one sample; {came} came. Of [T, batch, neurons] give [:, 0]."
        )
    values = values.detach().to("cpu", torch.float32)
    return values if values.dim() == 2 else values[:, None]


_show(globals(), hide=["matplotlib"])
