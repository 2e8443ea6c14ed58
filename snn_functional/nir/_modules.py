"""Modules as nodes of NIR: torch's own layers, and faces."""

import copy
from typing import Any

import numpy as np
import torch

from .._functionalize._has_state import HasState
from ..modifiers import immediate_reset, recurrent, RecurrentParams
from ..neurons import leaky_step, LeakyParams, rleaky_step, rsynaptic_step, synaptic_step, SynapticParams
from ._graph import Node


def module(found: Any, where: str) -> Node | None:
    """A layer of torch's as a node; None for one that changes nothing.

    Raises ValueError for one that NIR has no words for.
    """
    nn = torch.nn
    if isinstance(found, nn.Identity) or (isinstance(found, nn.Dropout) and (not found.training or not found.p)):
        return None
    if isinstance(found, nn.Linear):
        numbers = {"weight": found.weight}
        return Node("Linear", numbers) if found.bias is None else Node("Affine", numbers | {"bias": found.bias})
    if isinstance(found, (nn.Conv1d, nn.Conv2d)) and found.padding_mode == "zeros":
        bias = found.weight.new_zeros(len(found.weight)) if found.bias is None else found.bias
        kind = "Conv1d" if isinstance(found, nn.Conv1d) else "Conv2d"
        one = lambda x: x[0] if kind == "Conv1d" and isinstance(x, tuple) else x
        numbers = {key: one(getattr(found, key)) for key in ("stride", "padding", "dilation", "groups")}
        return Node(kind, {"weight": found.weight, "bias": bias} | numbers)
    if (
        isinstance(found, nn.AvgPool2d)
        and not found.ceil_mode
        and found.count_include_pad
        and not found.divisor_override
    ):
        pair = lambda x: np.array([x, x] if isinstance(x, int) else list(x))
        sizes = {"kernel_size": found.kernel_size, "stride": found.stride, "padding": found.padding}
        return Node("AvgPool2d", {key: pair(x) for key, x in sizes.items()})
    if isinstance(found, nn.Flatten):
        if not found.start_dim:
            raise ValueError(f"{where}: {found!r} flattens the batch, too.")
        without = lambda axis: axis - 1 if axis > 0 else axis
        return Node("Flatten", {"start_dim": without(found.start_dim), "end_dim": without(found.end_dim)})
    raise ValueError(f"{where}: NIR has no words for {found!r:.80}.")


def face(layer: Any, where: str) -> tuple[Any, Any]:
    """A face as the step and the params of neurons that NIR has words for, if it has.

    Of RLeaky and RSynaptic what is fed back is added in another order, so their spikes are the same to rounding.

    Raises ValueError for switches that NIR does not have.
    """
    if layer.inhibition or layer.state_quant or (layer.graded and bool((layer.graded_spikes_factor != 1).any())):
        raise ValueError(f"{where}: NIR has no words for inhibition, state_quant or graded_spikes_factor.")
    step, params = layer._step(), layer.params()
    plain: dict[Any, Any] = {rleaky_step: (leaky_step, LeakyParams), rsynaptic_step: (synaptic_step, SynapticParams)}
    own = getattr(step, "step", step)
    if own not in plain:
        return step, params
    inner, kind = plain[own]
    if step is own:  # its "zero" takes the next step's input, too
        raise ValueError(
            f'{where}: its reset comes with the next step, which NIR cannot say. Give it reset_mechanism="zero", reset_delay=False.'
        )
    leaves = {key: getattr(params, key) for key in (*kind.__leaves__, *kind.__choices__)}
    return recurrent(immediate_reset(inner)), RecurrentParams(kind(**leaves), params.V)


def parts(step: Any, params: dict[str, Any], where: str) -> list[tuple[str, Any]]:
    """The layers of a functionalized module, with these params in them, by name; they stand in a row.

    Raises ValueError for a module with a forward of its own: only running it shows what leads to what.
    """
    module = copy.deepcopy(step._module)
    with torch.no_grad():
        for key, x in module.named_parameters():
            x.copy_(params[key])
    return _row("", module, where)


def _row(name: str, module: Any, where: str) -> list[tuple[str, Any]]:
    if isinstance(module, torch.nn.Sequential):
        return [
            found for key, part in module.named_children() for found in _row(f"{name}.{key}".strip("."), part, where)
        ]
    if isinstance(module, HasState) or not list(module.children()):
        return [(name, module)]
    raise ValueError(
        f"{where}: {type(module).__name__} has a forward of its own, and only running it shows which layer leads to which: "
        "snf.defunctionalize(module, params, state), and snn.export_nir.export_to_nir(module, x)."
    )
