"""Spiking neural networks for PyTorch in the JAX style: pure neurons, `scan` over time, on `torch.func`.

    import snn_functional as snf

    params = snf.LeakyParams(beta=0.9)
    state = snf.leaky_init(params, xs[0])
    spks, state = snf.scan(snf.leaky_step, params, state, xs)      # xs [T, batch, neurons]

This file is the one list of public names; each neuron adds its five through `neurons`. Rooms that the core does without, the faces
first of all, are loaded when they are asked for.
"""

import contextlib
import importlib.util
from typing import Any, TYPE_CHECKING

from . import _network as _network, _operators as _operators, surrogate as surrogate
from ._chain import chain as chain, every_layer as every_layer, residual as residual
from ._connections import Conv2d as Conv2d, conv2d as conv2d, Linear as Linear, linear as linear
from ._delays import (
    axonal_delay as axonal_delay,
    AxonalDelay as AxonalDelay,
    delay as delay,
    delayed_linear as delayed_linear,
    DelayedLinear as DelayedLinear,
)
from ._firing import diagnose as diagnose, firing_rates as firing_rates, with_rates as with_rates
from ._functionalize import (
    defunctionalize as defunctionalize,
    functionalize as functionalize,
    layer as layer,
    module as module,
)
from ._layers import avg_pool2d as avg_pool2d, flatten as flatten, max_pool2d as max_pool2d
from ._linear_scan import linear_scan as linear_scan
from ._names import show as _show
from ._neuron import admit as admit, at_rest as at_rest, Neuron as Neuron
from ._scan import explain as explain, scan as scan
from ._summary import summary as summary
from ._tree import (
    Leaf as Leaf,
    leaf as leaf,
    named_leaves as named_leaves,
    partition as partition,
    pytree as pytree,
    static as static,
    with_leaves as with_leaves,
)
from .modifiers import *
from .neurons import *


if TYPE_CHECKING:
    from . import (
        data as data,
        encode as encode,
        learning as learning,
        losses as losses,
        metrics as metrics,
        nir as nir,
        plot as plot,
        quant as quant,
        recordings as recordings,
        snn as snn,
        targets as targets,
        train as train,
    )

__version__ = "0.2.0"
ROOMS = (
    "data",
    "encode",
    "learning",
    "losses",
    "metrics",
    "nir",
    "platforms",
    "plot",
    "quant",
    "recordings",
    "snn",
    "targets",
    "train",
)


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return importlib.import_module(f".{name}", __name__)
    elsewhere = "" if name.startswith("_") or "__all__" not in globals() else _elsewhere(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{elsewhere}")


def _elsewhere(name: str) -> str:
    """In which room a name is that this one has not."""
    if importlib.util.find_spec(f".{name}", __name__):  # `from .. import kernels` asks here before it is loaded
        return ""
    for room in ROOMS:
        with contextlib.suppress(ImportError):  # of what a room needs and is not installed
            if name in importlib.import_module(f".{room}", __name__).__all__:
                return f". It is {room}.{name}: from {__name__} import {room}"
    return ""


_show(globals(), "modifiers", "neurons", "surrogate", *ROOMS, hide=["ROOMS"])
