"""`chain(...)`: layers one after the other, each a pure step, together one pure step. No module anywhere.

    net = chain(linear, leaky, linear, leaky)                   a Neuron(Params, State, init, step), as each of its layers
    params = (Linear(w1, b1), LeakyParams(0.9), Linear(w2, b2), LeakyParams(0.9))
    state = net.init(params, xs[0])                             ((), LeakyState, (), LeakyState)
    spks, state = scan(net.step, params, state, xs)

One step runs the layers in order, each on what the one before put out:

    x, state[l] = layer[l].step(params[l], state[l], x)         for l = 0, 1, ...

No layer looks back at a later one, so over time they may run in any order that keeps theirs. `scan` runs a piece of time through a
whole layer before the next begins: a layer without state is one call on all steps (by `vmap` over time, if it is a function of the
user's), a pointwise one is one kernel.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._connections import conv2d_step, linear_step
from ._functorch import is_compiling, transforms
from ._layers import avg_pool2d, flatten, max_pool2d
from ._neuron import Neuron
from ._scan import explain, scan, step_name
from ._scan._loop import unchanged
from ._tree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from .kernels import Unsupported


def chain(*layers: Neuron | Callable[[Any], Any]) -> Neuron:
    """The layers as one: its params and its state are tuples with an entry for each layer.

    A layer is

    - a `Neuron`: `leaky`, `linear`, `conv2d`, a modified one such as `refractory(leaky, 3)`, another chain;
    - a function of one step's input: `flatten`, `max_pool2d(2)`, `torch.relu`. Its params and its state are `()`. What it draws from
      torch's generator is drawn at each step; from numpy's or Python's, once for many.

    Raises TypeError for what is neither: a step without its bundle, a tree or a module of parameters.

        >>> net = chain(linear, leaky)
        >>> params = (Linear(torch.eye(3)), LeakyParams(beta=0.9))
        >>> xs = torch.full((5, 2, 3), 0.4)
        >>> spks, state = scan(net.step, params, net.init(params, xs[0]), xs)
        >>> spks[:, 0, 0]
        tensor([0., 0., 1., 0., 0.])
    """
    if not layers:
        raise TypeError("chain(): expected at least one layer, as in chain(linear, leaky).")
    step = Chain(tuple(_layer(layer) for layer in layers))
    return Neuron(tuple, tuple, step.init, step)


@dataclasses.dataclass(frozen=True)
class Chain:
    """The step of a chain. `layers`: a `Neuron` each."""

    layers: tuple[Neuron, ...]

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, Any]:
        states = []
        for layer, p, s in self._layers(params, state):
            input, s = layer.step(p, s, input)
            states.append(s)
        return input, tuple(states)

    def init(self, params: Any, input: Any) -> tuple[Any, ...]:
        """Every layer at rest, shaped like what reaches it when `input` is the first step."""
        states = []
        for layer, p, _ in self._layers(params, self.layers):
            states.append(layer.init(p, input))
            input, _ = layer.step(p, states[-1], input)
        return tuple(states)

    def over_time(self, params: Any, state: Any, inputs: Any, length: int, reverse: bool) -> tuple[Any, Any]:
        """What `scan`'s loop returns, layer by layer."""
        if is_compiling():
            raise Unsupported("torch.compile is tracing")
        outputs, pieces = [], _pieces(inputs, length)
        for piece, steps in reversed(pieces) if reverse else pieces:
            states = []
            for layer, p, s in self._layers(params, state):
                piece, s = _lifted(layer, p, s, piece, steps, reverse)
                states.append(s)
            outputs.append(piece)
            state = tuple(states)
        return _joined(outputs[::-1] if reverse else outputs), state

    def plan(self, params: Any, state: Any, inputs: Any, length: int) -> str:
        """A line for each layer: how it runs over time."""
        if is_compiling():
            raise Unsupported("torch.compile is tracing")
        lines = [f"layer by layer, {length} steps:"]
        x = tree_map(lambda x: x[0], inputs)
        for number, (layer, p, s) in enumerate(self._layers(params, state)):
            if tree_leaves(s):
                how = explain(layer.step, p, s, tree_map(lambda x: x.expand(length, *x.shape), x))
            else:
                how = f"{_name(layer)} has no state: one call over all of time."
            lines.append(f"    {number} {how}".replace("\n", "\n    "))
            x, _ = layer.step(p, s, x)
        return "\n".join(lines)

    def _layers(self, params: Any, state: Any) -> Any:
        for name, tree in (("params", params), ("state", state)):
            if not isinstance(tree, tuple) or len(tree) != len(self.layers):
                came = f"{len(tree)} came" if isinstance(tree, tuple) else f"a {type(tree).__name__} came"
                raise TypeError(
                    f"chain({', '.join(map(_name, self.layers))}): {name} is a tuple with an entry for each of {len(self.layers)} "
                    f"layers, () for a plain function, but {came}."
                )
        given = [("params", params, [layer.Params for layer in self.layers])]
        if state is not self.layers:
            given.append(("state", state, [layer.State for layer in self.layers]))
        for name, trees, owns in given:
            for number, (tree, own) in enumerate(zip(trees, owns)):
                if hasattr(own, "__leaves__") and not isinstance(tree, own):
                    raise TypeError(
                        f"chain({', '.join(map(_name, self.layers))}): {name}[{number}] is a tree of {own.__name__}, but "
                        f"{type(tree).__name__} came."
                    )
        return zip(self.layers, params, state)


@dataclasses.dataclass(frozen=True)
class Function:
    """A plain function as a step: nothing learned, nothing kept."""

    function: Callable[[Any], Any]

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, Any]:
        with unchanged(self.function, input):
            return self.function(input), state


def _nothing(params: Any, input: Any) -> tuple[()]:
    return ()


def _layer(layer: Any) -> Neuron:
    if isinstance(layer, Neuron):
        return layer
    call = f"chain(..., {getattr(layer, '__name__', type(layer).__name__)}, ...)"
    if hasattr(layer, "__leaves__") or hasattr(layer, "__choices__"):
        raise TypeError(
            f"{call}: a tree belongs into params. The layer is the bundle: chain(linear, ...), not chain(Linear(w), ...)."
        )
    if isinstance(layer, type):
        raise TypeError(f"{call}: a class. Give {layer.__name__}().")
    if any(True for tensors in ("parameters", "buffers") if hasattr(layer, tensors) for _ in getattr(layer, tensors)()):
        raise TypeError(
            f"{call}: a module with parameters or buffers is no pure function. functionalize(module) makes it a step."
        )
    if isinstance(layer, torch.nn.Module) and any(getattr(m, "inplace", False) for m in layer.modules()):
        raise TypeError(f"{call}: it writes into its input, which is what the layer before put out. Say inplace=False.")
    if not callable(layer):
        raise TypeError(f"{call}: a layer is a Neuron, such as leaky, or a function of one step's input.")
    if _arguments(layer) == 3:
        raise TypeError(
            f"{call}: a layer with parameters is a bundle, chain(..., leaky, ...): its step alone does not know a state at rest."
        )
    return Neuron(tuple, tuple, _nothing, Function(layer))


def _arguments(function: Any) -> int | None:
    """How many it must be given; None where it does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _name(layer: Neuron) -> str:
    step = layer.step
    return step_name(step.function if isinstance(step, Function) else step).removesuffix("_step")


ROWS = 4096  # samples times steps in a piece of time: what one layer leaves is still in the cache when the next takes it up


def _pieces(inputs: Any, length: int) -> list[tuple[Any, int]]:
    """The inputs cut along time, and how many steps each piece has."""
    xs, tree = tree_flatten(inputs)
    size = max(1, ROWS // max([1, *(x.shape[1] for x in xs if x.dim() > 2)]))
    if not xs or length <= size:
        return [(inputs, length)]
    return [(tree_unflatten(tree, piece), len(piece[0])) for piece in zip(*(x.split(size) for x in xs))]


def _joined(pieces: list[Any]) -> Any:
    if len(pieces) == 1:
        return pieces[0]
    columns = zip(*(tree_leaves(piece) for piece in pieces))
    return tree_unflatten(tree_flatten(pieces[0])[1], [torch.cat(column) for column in columns])


def _lifted(layer: Neuron, params: Any, state: Any, inputs: Any, steps: int, reverse: bool) -> tuple[Any, Any]:
    """A layer over a piece of time."""
    if tree_leaves(state):
        return scan(layer.step, params, state, inputs, length=steps, reverse=reverse)
    if layer.step is conv2d_step:
        inputs = _channels_last(inputs)
    once = lambda x: layer.step(params, state, x)[0]
    # Under vmap a step sees views of all steps at once: whether it writes to them is seen here.
    with unchanged(layer.step.function if isinstance(layer.step, Function) else layer.step, inputs):
        return _stateless(layer, once, params, state, inputs, steps, reverse), state


def _stateless(
    layer: Neuron, once: Callable[[Any], Any], params: Any, state: Any, inputs: Any, steps: int, reverse: bool
) -> Any:
    """What a layer without state puts out over a piece of time."""
    vmap: Any = torch.func.vmap
    constant = all(x.stride(0) == 0 for x in tree_leaves(inputs))
    first = tree_map(lambda x: x[:1], inputs) if constant else inputs
    over = lambda outputs: tree_map(lambda x: x.expand(steps, *x.shape[1:]), outputs)
    if _any_axes(layer.step):
        return over(once(first))
    tries = [(inputs, "different")] if tree_leaves(inputs) else []
    if tries and constant:  # so is what comes out, unless it is drawn
        tries.insert(0, (first, "error"))
    for taken, randomness in tries:
        with contextlib.suppress(RuntimeError, ValueError):
            return over(vmap(once, randomness=randomness)(taken))
    # What vmap cannot follow, a branch on a number say, is called step by step.
    each = lambda p, s, x: (layer.step(p, s, x)[0], s)
    return scan(each, params, state, inputs, kind="loop", reverse=reverse, length=steps)[0]


def _any_axes(step: Any) -> bool:
    """Does it take time as one more leading axis?"""
    step = step.function if isinstance(step, Function) else step
    return step in (linear_step, conv2d_step, flatten) or isinstance(step, (max_pool2d, avg_pool2d))


def _channels_last(x: Tensor) -> Tensor:
    # On CPUs convolutions, and the pooling behind them, are up to ten times as fast with the channels last.
    if x.dim() < 4 or x.device.type != "cpu" or x.stride(0) == 0 or "Vmap" in transforms():
        return x
    return x.flatten(0, -4).to(memory_format=torch.channels_last).unflatten(0, x.shape[:-3])
