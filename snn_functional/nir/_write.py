"""`write`: a network of this library as a graph of NIR. Exact, or refused."""

import functools
import importlib
import os
from typing import Any

import numpy as np
import torch

from .._chain import Chain, Function, Residual
from .._connections import Conv2d, conv2d_step, Linear, linear_step
from .._delays import _Delay as Delay, axonal_delay_step
from .._functionalize import Functional
from .._functionalize._has_state import HasState
from .._functionalize._module import Scanned
from .._functorch import readable
from .._layers import avg_pool2d, flatten
from .._neuron import Neuron
from .._tree import described, tree_leaves
from ..modifiers import recurrent
from ._cells import Cell, cell_of, of_type
from ._delay import DelayParams
from ._draft import Draft
from ._given import seconds, Shape
from ._graph import Node
from ._layers import Convolution, Flatten, Pool, Scale, Threshold
from ._modules import face, module, parts
from ._platforms import platform_of
from ._step import GraphStep


def write(
    neuron: Any,
    params: Any = None,
    path: str | os.PathLike[str] | None = None,
    dt: float | None = None,
    *,
    platform: Any = None,
    shape: Shape | None = None,
) -> Any:
    """A network and its params as a `nir.NIRGraph`, which is returned; with a `path`, in a file, too.

        net = snf.chain(snf.linear, snf.lif, snf.linear, snf.lif)
        snf.nir.write(net, params, "network.nir", dt=1e-4)
        neuron, params = snf.nir.read("network.nir")                        the same numbers, and the same spikes, bit for bit

    - `neuron`: a chain of `linear`, `conv2d`, `flatten`, `avg_pool2d`, `delay`, `residual`, of neurons whose dynamics are NIR's (`lif`,
      `cuba_lif`, `leaky` with the reset "zero", `leaky_integrator`, ...: see README.md), of `recurrent` around these; one of these alone; a
      functionalized module of these in a row; or what `read` gave. What `snf.module` made of these has its params: `write(model)`,
      `write(model, path="network.nir")`.
    - `dt`: a step in seconds: NIR says time constants, not shares of a step. 1e-4, or what the graph was read with.
    - `platform`: for whose reader; the neurons must go through their steps as it does. By default the first that does and resets
      to a value. Which it is, and dt, are noted in the file's metadata, where `read` finds them; another reader steps as it always does.
    - `shape`: of the input at one step, without the batch, where the first layer does not say it.

    Surrogates, and whether gradients pass through resets, are not written: NIR knows no gradients.

    Raises ValueError for what NIR cannot say, a reset by subtraction first of all, with the layer and what to do, and for an unknown
    platform; TypeError for what is no such network; ImportError without the library `nir`.
    """
    if platform is not None:
        platform_of(platform)
    neuron, params = _network(neuron, params)
    step = neuron.step if isinstance(neuron, Neuron) else neuron
    if not all(readable(x.detach().cpu()) for x in tree_leaves(params) if isinstance(x, torch.Tensor)):
        raise TypeError(
            "nir.write: within a transform of torch.func its params have no values to write. Write them outside of it."
        )
    if shape is not None and not (isinstance(shape, (tuple, list)) and all(type(n) is int for n in shape)):
        raise TypeError(f"nir.write(shape={shape!r}): expected the axes of one step without the batch, as (2, 34, 34).")
    if isinstance(step, GraphStep):
        draft, own, exact = _of_graph(step, params), step.dt, step.exact
        if dt is not None and dt != own:
            raise ValueError(
                f"nir.write(dt={dt:g}): the params are those of a graph that was read with dt={own:g}: they are shares of such a step."
            )
        found = draft.platform(_given(step, draft) if platform is None else platform)
    else:
        draft, exact = Draft(seconds("write", 1e-4 if dt is None else dt)), ()
        sources = draft.add("input", Node("Input", {"shape": shape}), ())
        sources = layer(draft, "" if isinstance(step, (Chain, Functional)) else "0", step, params, sources)
        draft.add("output", Node("Output", {}), sources)
        found = draft.platform(platform)
    return drawn(draft, found, shape, path, exact)


def _network(neuron: Any, params: Any) -> tuple[Any, Any]:
    """The neuron and its params, which a module has."""
    if isinstance(neuron, Scanned):
        if params is not None:
            raise TypeError(
                'nir.write(model): a module has its params. Give it alone, nir.write(model, path="network.nir"), or other params with '
                "what it runs: nir.write(model.neuron, params)."
            )
        return neuron.neuron, neuron.params
    if hasattr(neuron, "named_parameters"):
        raise TypeError(
            f"nir.write(neuron, params): {described(neuron)} came. Of a module of faces: snn.export_nir.export_to_nir(net, x). Or make it "
            "a pure step: step, params, state = snf.functionalize(net); nir.write(step, params)."
        )
    if params is None:
        raise TypeError("nir.write(neuron, params): the params are missing, of a chain a tuple, one for each layer.")
    return neuron, params


def drawn(draft: Draft, platform: Any, shape: Shape | None, path: Any, exact: Any = ()) -> Any:
    """The draft as a graph of the library `nir`, and in a file."""
    try:
        nir: Any = importlib.import_module("nir")
    except ImportError as error:
        raise ImportError(
            'nir.write(...): a graph is one of the library nir: pip install "snn-functional[nir]".'
        ) from error
    unfit = [name for name in draft.entries if not name or "/" in name or not name.strip(".")]
    if path is not None and unfit:
        raise ValueError(
            f"nir.write: a node is called {unfit[0]!r}, and in a file a name is not empty, has no / in it, and is no dots alone. Rename "
            "the layer."
        )
    nodes = {}
    for name, node in draft.nodes(platform, shape, exact).items():
        numbers = dict(node.numbers)
        if node.kind in ("Input", "Output"):
            numbers = {f"{node.kind.lower()}_type": numbers["shape"]}
        elif node.kind in ("Conv1d", "Conv2d"):
            numbers.setdefault("input_shape", None)
        nodes[name] = getattr(nir, node.kind)(**numbers)
    # Its own check of shapes is wrong for convolutions whose kernels are not square; they have been checked here.
    graph = nir.NIRGraph(nodes, draft.edges, metadata=draft.metadata(platform), type_check=False)
    if path is not None:
        nir.write(os.fspath(path), graph)
    return graph


def _given(step: GraphStep, draft: Draft) -> Any:
    """The platform that a graph was read with, if that says how NIR's neurons are reset; else `platform` refuses it."""
    return step.platform if step.platform.reset_mechanism == "value" else None


def layer(draft: Draft, name: str, step: Any, params: Any, sources: tuple[str, ...]) -> tuple[str, ...]:
    """Puts the layer with this step behind `sources`; what leads to the next.

    Raises ValueError for one that NIR cannot say.
    """
    where = f"nir.write: layer {name or '()'}"
    if isinstance(step, (Chain, Residual)):
        chain = step.chain if isinstance(step, Residual) else step
        into = sources
        if not isinstance(params, tuple) or len(params) != len(chain.layers):
            came = f"one of {len(params)}" if isinstance(params, tuple) else f"a {type(params).__name__}"
            raise TypeError(f"{where}: {step!r} has a tuple of {len(chain.layers)} params, but {came} came.")
        for number, (inner, p) in enumerate(zip(chain.layers, params)):
            into = layer(draft, f"{name}.{number}" if name else str(number), inner.step, p, into)
        return (*sources, *into) if isinstance(step, Residual) else into
    if isinstance(step, recurrent):
        return _recurrent(draft, name, step, params, sources)
    if isinstance(step, Function):
        node = _function(step.function, where)
        return draft.add(name, node, sources) if node else sources
    if isinstance(step, Functional):
        for key, part in parts(step, params, where):
            own = f"{name}.{key}" if name and key else name or key
            if isinstance(part, HasState):
                sources = layer(draft, own, *face(part, f"{where}.{key}"), sources)
            elif node := module(part, f"{where}.{key}" if key else where):
                sources = draft.add(own, node, sources)
        return sources
    if step in (linear_step, conv2d_step):
        of_type(params, Linear if step is linear_step else Conv2d, step, where)
        return draft.add(name, connection(params, where), sources)
    if isinstance(step, Delay) or step is axonal_delay_step:
        return draft.add(name, _delay(step, params, draft.dt, where), sources)
    cell = cell_of(step, params, where)
    if cell is None:
        raise ValueError(
            f"{where}: NIR has no words for {getattr(step, '__name__', repr(step))}. It has those for linear, conv2d, flatten, avg_pool2d, "
            "lif, cuba_lif, leaky, leaky_integrator and recurrent around a neuron."
        )
    return draft.add(name, cell, sources)


def _recurrent(draft: Draft, name: str, step: Any, params: Any, sources: tuple[str, ...]) -> tuple[str, ...]:
    if step.through is not None:
        raise ValueError(
            f"nir.write: layer {name}: {step!r} feeds back through a layer with a memory, whose delays begin at one step, and those of a "
            "cycle in NIR at none. Written is what feeds back through a connection, recurrent(neuron)."
        )
    back = f"{name}.V"
    out = layer(draft, name, step.step, params.inner, (*sources, back))
    V = params.V
    node = Node("Scale", {"scale": V}) if isinstance(V, torch.Tensor) else connection(V, f"nir.write: layer {back}")
    draft.back += [(back, end) for end, entry in draft.entries.items() if back in entry.sources]
    draft.add(back, node, out)
    bias = node.numbers.get("bias")
    draft.silence = draft.silence or (bias is not None and bool(bias.any()))
    return out


def connection(tree: Any, where: str) -> Node:
    """A connection as a node."""
    if not isinstance(tree, (Linear, Conv2d)):
        raise ValueError(f"{where}: NIR has no words for a {type(tree).__name__}.")
    bias = tree.bias.detach()
    if isinstance(tree, Linear):
        if not bias.dim() and not bias:
            return Node("Linear", {"weight": tree.weight})
        return Node("Affine", {"weight": tree.weight, "bias": bias.expand(len(tree.weight))})
    kernel = tree.weight.shape[-2:]
    same = tree.padding == "same"
    padding = [k // 2 * tree.dilation for k in kernel] if same else [tree.padding] * 2
    numbers = {"weight": tree.weight, "bias": bias.expand(len(tree.weight)), "groups": tree.groups}
    numbers |= {"stride": (tree.stride,) * 2, "dilation": (tree.dilation,) * 2}
    return Node("Conv2d", numbers | {"padding": "same" if same and tree.stride == 1 else tuple(padding)})


def _delay(step: Any, params: Any, dt: float, where: str) -> Node:
    steps = torch.tensor(float(step.steps)) if isinstance(step, Delay) else params.delay.detach()
    longest = step.steps if isinstance(step, Delay) else params.longest
    if bool((steps != steps.round()).any() or (steps < 0).any() or (steps > longest).any()):
        raise ValueError(
            f"{where}: a delay that is written is a whole number of steps, 0 to {longest}: give delay.round()."
        )
    return Node("Delay", {"delay": steps.double() * dt})


def _function(function: Any, where: str) -> Node | None:
    """A plain function of a chain as a node; None for one that changes nothing."""
    given = function.keywords if isinstance(function, functools.partial) and not function.args else {}
    if function is flatten or (
        isinstance(function, functools.partial) and function.func is flatten and given.keys() <= {"axes"}
    ):
        return Node("Flatten", {"start_dim": -given.get("axes", 3), "end_dim": -1})
    if isinstance(function, avg_pool2d):
        sizes = function.kernel_size, function.stride or function.kernel_size, function.padding
        return Node("AvgPool2d", dict(zip(("kernel_size", "stride", "padding"), (np.array([n, n]) for n in sizes))))
    if isinstance(function, torch.nn.Module):
        return module(function, where)
    raise ValueError(f"{where}: NIR has no words for {getattr(function, '__name__', function)!s:.80}.")


def _of_graph(step: GraphStep, params: Any) -> Draft:
    """What `read` gave, with these params."""
    draft = Draft(step.dt)
    draft.silence, draft.back = step.silence, list(step.recurrent)
    for node in step.nodes:
        own = params[node.name] if node.params else ()
        draft.add(node.name, _node(node, own), (*node.sources, *node.last))
    return draft


def _node(node: Any, params: Any) -> Node | Cell:
    step, name = node.neuron.step, f"nir.write: node {node.name!r}"
    if node.kind == "Input":
        return Node("Input", {"shape": node.shape})
    if node.kind == "Output":
        return Node("Output", {})
    if isinstance(step, Pool):
        sizes = {"kernel_size": step.kernel, "stride": step.stride, "padding": step.padding}
        return Node(node.kind, {key: np.array(x) for key, x in sizes.items()})
    if isinstance(step, Flatten):
        return Node("Flatten", {"start_dim": step.start, "end_dim": step.end})
    if isinstance(params, Linear):
        found = connection(params, name)
        return found
    if isinstance(params, Convolution):
        numbers = {"weight": params.weight, "bias": params.bias, "groups": params.groups}
        padding = "same" if params.same else tuple(n for n, _ in params.padding)
        numbers |= {"stride": params.stride, "padding": padding, "dilation": params.dilation}
        one = lambda x: x[0] if node.kind == "Conv1d" and isinstance(x, tuple) else x
        return Node(node.kind, {key: one(x) for key, x in numbers.items()})
    if isinstance(params, (Scale, Threshold, DelayParams)):
        numbers = getattr(params, node.kind.lower())
        return Node(node.kind, {node.kind.lower(): numbers.expand(node.shape) if node.shape else numbers})
    cell = cell_of(step, params, name)
    if cell is None:
        raise ValueError(f"{name}: a node between graphs that NIR's own library does not write.")
    return cell
