"""What is timed: each row of the table, its sizes, its numbers, and its goals. Needs numpy alone, for all libraries read it.

All get the same spikes and the same weights. `mem = 0.9 mem + current - reset`, threshold 1, an arctangent's slope where the library has
one. Where a library weighs a current by 1 - 0.9, its weights are ten times as large.
"""

import dataclasses
import math
from typing import Any

import numpy as np


BETA = 0.9


@dataclasses.dataclass(frozen=True)
class Row:
    """- `kind`: which network. "recurrent", "feedforward", "conv", "slstm", "relu" (a rectified recurrent layer), "layer" (one of LIF).
    - `sizes`: its widths. - `density`: of the input's spikes, or "digits": real images, rate-coded.
    - `gains`: what a matrix as `torch.nn.Linear` draws it is multiplied by, so that the hidden neurons do fire.
    - `who`: who is asked, the first of them is what all are divided by. - `goals`: {who: times as long as ours takes}.
    - `gradient`: forward and backward, or forward alone.
    """

    kind: str
    sizes: tuple[int, ...]
    T: int
    batch: int
    density: Any
    who: tuple[str, ...]
    goals: dict[str, float]
    gains: tuple[float, ...] = (1.0, 1.0, 1.0)
    gradient: bool = True


OURS = ("ours", "ours: dense", "ours: loop")
TORCH = ("plain loop", "snntorch", "norse", "spikingjelly", "sinabs")
JAX = ("jax", "jax: hoisted", "spyx", "jaxpike")
EVERYBODY = (*OURS, "products", *TORCH, *JAX)
FIRST = (*EVERYBODY[:1], "ours: own step", "ours: two threads", *EVERYBODY[1:])
MODULE = ("ours", "ours: snn.run", *EVERYBODY[1:])
CONV = ("ours", "ours: snn.run", "ours: dense", "products", "snntorch", "norse", "spikingjelly", "sinabs")
WAYS = ("ours", "ours: own step", "ours: masked", "ours: recorded", "ours: snn.run", "ours: loop")

ROWS = {
    "recurrent": Row("recurrent", (140, 256, 20), 100, 64, 0.05, FIRST, gains=(4, 1, 2),
        goals={"jax": 2.5, "spyx": 1.5, "snntorch": 5, "products": 1, "two threads": 1.6}),
    "long": Row("recurrent", (140, 128, 20), 250, 128, 0.05, EVERYBODY, goals={"jax": 2}, gains=(4, 1, 2)),
    "wide": Row("recurrent", (140, 1024, 20), 100, 64, 0.05, EVERYBODY, goals={"jax": 2}, gains=(4, 1, 2)),
    "feedforward": Row("feedforward", (140, 256, 20), 100, 64, 0.05, EVERYBODY, goals={"jax": 2}, gains=(4, 2)),
    "digits": Row("feedforward", (784, 1000, 10), 100, 128, "digits", MODULE, goals={"snntorch": 2.5}, gains=(2, 2)),
    "sparse": Row("feedforward", (784, 1000, 10), 100, 128, 0.05, MODULE, goals={"snntorch": 4}, gains=(4, 2)),
    "conv": Row("conv", (12, 64, 1024, 10), 50, 128, 1.0, CONV, goals={"snntorch": 2.5}),
    "inference": Row("feedforward", (784, 1000, 10), 100, 128, 0.05, MODULE, goals={"products": 4}, gains=(4, 2), gradient=False),
    "slstm": Row("slstm", (64, 128), 100, 64, 1.0, ("ours", "ours: loop", "products", "snntorch", "jax", "jax: hoisted"),
        goals={"jax": 1}),
    "relu": Row("relu", (64, 128), 100, 64, 1.0, ("ours", "ours: loop", "products", "torch.nn.RNN", "snntorch", "jax"),
        goals={"torch.nn.RNN": 1}, gains=(4, 1)),
    "ensemble": Row("recurrent", (140, 256, 20), 100, 64, 0.05, ("ours: ensemble", "ours: eight times one"), gains=(4, 1, 2),
        goals={"eight times one": 1 / 1.2}),
    "samples": Row("recurrent", (140, 256, 20), 100, 64, 0.05, ("ours: per sample", "ours", "jax: per sample", "jax"),
        gains=(4, 1, 2), goals={"ours": 1 / 3}),
    "small": Row("feedforward", (64, 128, 10), 10, 64, 0.2, ("ours", "jax", "jax: hoisted", "snntorch"), goals={"jax": 1}, gains=(2, 2)),
    "neurons": Row("layer", (64,), 1000, 1, 1.0, ("ours", "jax", "spyx"), goals={"jax": 1}),
    "own 784-256-10": Row("feedforward", (784, 256, 10), 25, 64, 0.1, WAYS, goals={}),
    "own 32-128-4": Row("feedforward", (32, 128, 4), 100, 64, 0.1, WAYS, goals={}, gains=(2, 2)),
}  # fmt: skip
for density in (0.01, 0.02, 0.1, 0.2, 0.4):  # beside "recurrent" and "sparse", for the picture of cost against density
    for name, who in (("recurrent", "jax"), ("sparse", "snntorch")):
        gain = 4 * math.sqrt(0.05 / density)
        ROWS[f"{name} {density:.0%}"] = dataclasses.replace(
            ROWS[name], density=density, who=("ours", "ours: dense", "products", who), goals={},
            gains=(gain, *ROWS[name].gains[1:]),
        )  # fmt: skip
DENSITIES = [name for name in ROWS if name.endswith("%")]


def title(name: str) -> str:
    row = ROWS[name]
    sizes = "-".join(map(str, row.sizes))
    what = {
        "recurrent": f"{sizes}, the {row.sizes[1 % len(row.sizes)]} recurrent", "feedforward": sizes, "slstm": f"slstm {sizes}",
        "conv": "12C5-MP2-64C5-MP2-1024FC10", "relu": f"leaky_parallel {sizes}", "layer": f"{sizes} LIF neurons",
    }[row.kind]  # fmt: skip
    density = "rate-coded digits" if row.density == "digits" else f"{100 * row.density:.0f} % of the inputs spike"
    density = "" if row.density == 1.0 else f", {density}"
    does = {"ensemble": ", vmap(grad) of 8 of them", "samples": ", vmap(grad) over its samples"}.get(name, "")
    return f"{name}: {what}{does}, T={row.T}, batch {row.batch}{density}{'' if row.gradient else ', forward alone'}"


def drawn(name: str, images: str) -> dict[str, Any]:
    """The row's numbers: `xs` [T, batch, ...], `labels`, `weights`: a list of matrices [out, in]. `images`: a file of real ones."""
    row, draw = ROWS[name], np.random.RandomState(1)
    uniform = lambda gain, *shape: draw.uniform(-gain, gain, shape).astype("float32") / math.sqrt(math.prod(shape[1:]))
    labels = draw.randint(row.sizes[-1], size=row.batch)
    if row.kind == "conv":
        xs = np.broadcast_to(draw.rand(row.batch, 1, 28, 28).astype("float32"), (row.T, row.batch, 1, 28, 28))
        return dict(
            xs=xs, labels=labels, weights=[uniform(1, 12, 1, 5, 5), uniform(1, 64, 12, 5, 5), uniform(1, 10, 1024)]
        )
    if row.density == "digits":
        xs = draw.rand(row.T, row.batch, 784) < np.load(images)[: row.batch].reshape(row.batch, 784)
    elif row.density == 1.0:
        xs = draw.randn(row.T, row.batch, row.sizes[0]) / 2
    else:
        xs = draw.rand(row.T, row.batch, row.sizes[0]) < row.density
    n, m, *_ = (*row.sizes, 1)
    shapes = {
        "recurrent": [(m, n), (m, m), (row.sizes[-1], m)], "feedforward": [(m, n), (row.sizes[-1], m)], "layer": [],
        "slstm": [(4 * m, n), (4 * m, m)], "relu": [(m, n), (m, m)],
    }[row.kind]  # fmt: skip
    weights = [uniform(gain, *shape) for gain, shape in zip(row.gains, shapes)]
    return dict(xs=xs.astype("float32"), labels=labels, weights=weights)


def digits(count: int = 128) -> np.ndarray:
    """scikit-learn's digits, as MNIST's lie in their frame: 20 of 28 pixels. [count, 28, 28], intensities in [0, 1]."""
    from sklearn.datasets import load_digits

    small = load_digits().images[:count] / 16
    at = (np.arange(20) + 0.5) * 8 / 20 - 0.5  # each pixel of 20 x 20 lies between four of 8 x 8
    low = np.clip(np.floor(at).astype(int), 0, 6)
    part = np.clip(at - low, 0, 1)
    mix = np.zeros((20, 8))
    mix[np.arange(20), low] = 1 - part
    mix[np.arange(20), low + 1] = part
    return np.pad(mix @ small @ mix.T, ((0, 0), (4, 4), (4, 4))).astype("float32")
