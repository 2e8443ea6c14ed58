"""NIR, the exchange format of neuromorphic tools, with snnTorch's names: faces over `snn_functional.nir`, which see."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn, Tensor

from .._functionalize import module as module_of
from .._neuron import Neuron
from .._tree import tree_leaves
from ._stateful import Stateful


def export_to_nir(
    module: nn.Module,
    sample_data: Tensor,
    model_name: str = "snntorch",
    model_fwd_args: Sequence[Any] = (),
    ignore_dims: Sequence[int] = (),
    *,
    dt: float = 1e-4,
    platform: Any = None,
) -> Any:
    """A module of faces and layers of torch's as a `nir.NIRGraph`. Exact, or refused: see `snn_functional.nir.write`.

        net = nn.Sequential(nn.Linear(784, 10), snn.Leaky(beta=0.9, reset_mechanism="zero", init_hidden=True))
        graph = export_nir.export_to_nir(net, torch.rand(1, 784))

    - `sample_data`: one time step, the batch first. Which layer leads to which is seen by running a copy of the module with it: what a
      forward does between its layers (a sum, `x.flatten(1)`) is no node, and refused. `model_fwd_args`: what else forward takes.
    - `ignore_dims`: the axes of `sample_data` that are no part of a shape; the first, if there are none. `model_name` changes nothing.
    - `dt`: a step in seconds; snnTorch's 1e-4. `platform`: see `write`.

    Nodes have the names of the layers. Of RLeaky and RSynaptic what is fed back is added in another order than here, so their spikes are
    the same to rounding; everything else is exact.

    Raises ValueError for what NIR cannot say: a reset by subtraction, which is the default of `Leaky`, first of all. TypeError for what is
    no module. ImportError without the library `nir`.
    """
    from ..nir._draft import Draft
    from ..nir._graph import Node
    from ..nir._platforms import platform_of
    from ..nir._write import drawn

    if platform is not None:
        platform_of(platform)
    if not isinstance(module, nn.Module):
        raise TypeError(f"export_to_nir(module, sample_data): module is an nn.Module, not {type(module).__name__}.")
    ignored = {axis % sample_data.dim() for axis in ignore_dims or (0,)}
    shape = tuple(n for axis, n in enumerate(sample_data.shape) if axis not in ignored)
    draft = Draft(float(dt))
    draft.add("input", Node("Input", {"shape": shape}), ())
    calls, result = _calls(module, sample_data, model_fwd_args)
    made: list[tuple[Tensor, tuple[str, ...]]] = [(sample_data, ("input",))]
    for name, called, given, output in calls:
        sources = _made_by(made, given)
        if not sources:
            raise ValueError(
                f"export_to_nir: what goes into {name!r} is neither the input nor what a layer put out, but made of it between them: NIR "
                "has nodes for layers alone. Make it one: nn.Flatten() for x.flatten(1)."
            )
        leads = _layer(draft, name or "0", called, sources)
        made.append((tree_leaves(output)[0], leads))
    ends = [sources for x in tree_leaves(result) if isinstance(x, Tensor) and (sources := _made_by(made, x))]
    if not ends:
        raise ValueError("export_to_nir: what forward returns is not what one of its layers put out.")
    for number, sources in enumerate(ends):
        draft.add("output" if len(ends) == 1 else f"output_{number}", Node("Output", {}), sources)
    return drawn(draft, draft.platform(platform), shape, None)


def _calls(module: nn.Module, x: Tensor, args: Sequence[Any]) -> tuple[list[tuple[str, Any, Any, Any]], Any]:
    """Every call of a layer, in order: its name, the layer, what it got and what it put out; and what the module returned."""
    module = copy.deepcopy(module)
    calls: list[tuple[str, Any, Any, Any]] = []
    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, Stateful):
            layer.reset_hidden()
        inside = any(isinstance(module.get_submodule(up), Stateful) for up in _above(name))
        if not inside and (isinstance(layer, Stateful) or not list(layer.children())):
            hook = lambda layer, given, output, name=name: calls.append((name, layer, given[0], output))
            hooks.append(layer.register_forward_hook(hook))
    with torch.no_grad():
        result = module(x, *args)
    for hook in hooks:
        hook.remove()
    names = [name for name, *_ in calls]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"export_to_nir: {name!r} is called {names.count(name)} times in one forward. Give a module that takes one time step."
            )
    return calls, result


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(0 if name else 1, len(parts))]


def _made_by(made: list[tuple[Tensor, tuple[str, ...]]], x: Any) -> tuple[str, ...]:
    return next((names for tensor, names in reversed(made) if tensor is x), ())


def _layer(draft: Any, name: str, layer: Any, sources: tuple[str, ...]) -> tuple[str, ...]:
    from ..nir import _modules, _write

    where = f"export_to_nir: layer {name!r}"
    if isinstance(layer, Stateful):
        return _write.layer(draft, name, *_modules.face(layer, where), sources)
    node = _modules.module(layer, where)
    return draft.add(name, node, sources) if node else sources


class FromNIR(nn.Module):
    """What `import_from_nir` makes: a module that takes one time step, and a state from the step before, as snnTorch's does.

        out, state = net(x)                     at rest
        out, state = net(x, state)              and so on
        outs = net.over_time(xs)                all steps at once, by `scan`

    `neuron`: its pure step. `params`: its tree, as it is now. The numbers are parameters, under the names of the nodes.
    """

    def __init__(self, neuron: Neuron, params: Any) -> None:
        super().__init__()
        self.neuron = neuron
        self.scanned = module_of(neuron, params)

    @property
    def params(self) -> Any:
        return self.scanned.params

    def forward(self, x: Tensor, state: Any = None) -> tuple[Any, Any]:
        """One time step: what is put out, and the state after it."""
        params = self.params
        return self.neuron.step(params, self.neuron.init(params, x) if state is None else state, x)

    def over_time(self, xs: Any, state: Any = None, *, return_state: bool = False) -> Any:
        """All time steps of `xs` [T, batch, ...], from `state` on."""
        return self.scanned(xs, state, return_state=return_state)


def import_from_nir(graph: Any, *, dt: float | None = None, platform: Any = None) -> FromNIR:
    """A graph of NIR, a `nir.NIRGraph` or the path of a file, as a module that is called as snnTorch's is: `out, state = net(x, state)`.

    - `dt`: a step in seconds, 1e-4 unless the graph notes it. `platform`: whose steps the neurons go through, by default snnTorch's,
      unless the graph notes another.

    Every node of NIR is read, and r, v_leak, v_threshold and v_reset count as they stand, for each neuron: see `snn_functional.nir.read`,
    which gives the same without a module, and says what is refused.
    """
    from .. import nir

    noted = nir.noted(graph)
    return FromNIR(*nir.read(graph, dt, noted.get("platform", "snntorch") if platform is None else platform))


__all__ = ["export_to_nir", "FromNIR", "import_from_nir"]
