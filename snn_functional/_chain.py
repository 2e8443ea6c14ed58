"""`chain(...)`: layers one after the other, each a pure step, together one pure step. No module anywhere.

    net = chain(linear, leaky, linear, leaky)                   a Neuron(Params, State, init, step), as each of its layers
    params = (Linear(w1, b1), LeakyParams(0.9), Linear(w2, b2), LeakyParams(0.9))
    state = net.init(params, xs[0])                             ((), LeakyState, (), LeakyState)
    spks, state = scan(net.step, params, state, xs)

One step runs the layers in order, each on what the one before put out:

    x, state[l] = layer[l].step(params[l], state[l], x)         for l = 0, 1, ...

No layer looks back at a later one, so `scan` runs a piece of time through a whole layer before the next begins, as it does for any
step that is such a network: a product is one product for all steps, a neuron one kernel.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch

from ._functionalize import Functional, has_tensors
from ._functorch import intercepted
from ._names import columns
from ._neuron import name_of, Neuron
from ._scan._door import MISSING
from ._scan._loop import unchanged
from ._tree import described, tree_map


def chain(*layers: Neuron | Callable[[Any], Any]) -> Neuron:
    """The layers as one: its params and its state are tuples with an entry for each layer.

    A layer is

    - a `Neuron`: `leaky`, `linear`, `conv2d`, a modified one such as `refractory(leaky, 3)`, another chain;
    - a function of one step's input: `flatten`, `max_pool2d(2)`, `torch.relu`. Its params and its state are `()`;
    - an `nn.Module` with parameters, by `layer`, which gives it and its params.

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


@dataclasses.dataclass(frozen=True, repr=False)
class Chain:
    """The step of a chain: its layers in order, each on what the one before put out. `layers`: a `Neuron` each."""

    layers: tuple[Neuron, ...]

    @property
    def __layers__(self) -> tuple[Neuron, ...]:
        """By this a chain is known: the params are a tuple, one for each of these."""
        return self.layers

    def __repr__(self) -> str:
        return f"chain({', '.join(name_of(layer.step) for layer in self.layers)})"

    def __str__(self) -> str:
        return "\n".join([f"chain of {len(self.layers)} layers", *columns([*_rows("", self)])])

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, Any]:
        outputs, states = self.each(params, state, input)
        return outputs[-1], states

    def each(self, params: Any, state: Any, input: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """One step: what each layer puts out, and the new states."""
        outputs, states = [], []
        for layer, p, s in self._layers(params, state, input):
            input, s = layer.step(p, s, input)
            outputs.append(input)
            states.append(s)
        return tuple(outputs), tuple(states)

    def init(self, params: Any, input: Any = MISSING) -> tuple[Any, ...]:
        """Every layer at rest, shaped like what reaches it when `input` is the first step."""
        if input is MISSING:
            raise TypeError(
                f"{self!r}: init(params) came without an input: a state is shaped like what reaches its layer, net.init(params, xs[0])."
            )
        from ._scan._shapes import by_shapes  # with it come the kernels' readers, which an import shall not wait for

        return by_shapes(self._init, self, params, input)

    def _init(self, params: Any, input: Any) -> tuple[Any, ...]:
        states = []
        for layer, p, _ in self._layers(params, self.layers):
            states.append(layer.init(p, input))
            input, _ = layer.step(p, states[-1], input)
        return tuple(states)

    def _layers(self, params: Any, state: Any, input: Any = None) -> Any:
        for name, tree in (("params", params), ("state", state)):
            if not isinstance(tree, tuple) or len(tree) != len(self.layers):
                came = f"{len(tree)} came" if isinstance(tree, tuple) else f"{described(tree)} came"
                raise TypeError(
                    f"{self!r}: {name} is a tuple with an entry for each of {len(self.layers)} "
                    f"layers, () for a plain function, but {came}.{self._instead(name, params, state, input)}"
                )
        given = [("params", params, [layer.Params for layer in self.layers])]
        if not isinstance(state[0], Neuron):
            given.append(("state", state, [layer.State for layer in self.layers]))
        for name, trees, owns in given:
            for number, (tree, own) in enumerate(zip(trees, owns)):
                if hasattr(own, "__leaves__") and not isinstance(tree, own):
                    raise TypeError(
                        f"{self!r}: {name}[{number}] is a tree of {own.__name__}, but {described(tree)} came."
                        f"{self._instead(name, params, state, input)}"
                    )
        return zip(self.layers, params, state)

    def _instead(self, name: str, params: Any, state: Any, input: Any) -> str:
        """What to give in place of params or a state that are none."""
        if self._is("Params", state) and self._is("State", params):
            return " params and state are swapped: step(params, state, input)."
        if name == "state" and isinstance(state, torch.Tensor) and self._is("State", input):
            return " state and input are swapped: step(params, state, input), scan(step, params, state, xs)."
        return " At rest it is net.init(params, xs[0])." if name == "state" else ""

    def _is(self, kind: str, tree: Any) -> bool:
        """Can it be this chain's `Params`, or its `State`?"""
        if not isinstance(tree, tuple) or len(tree) != len(self.layers):
            return False
        owns = [getattr(layer, kind) for layer in self.layers]
        return all(isinstance(part, own) for part, own in zip(tree, owns) if isinstance(own, type))


def _rows(name: str, chain: Chain) -> Iterator[tuple[str, str, str]]:
    """Of each layer, those within a residual one too: its number, its name, and the fields of its trees."""
    for number, layer in enumerate(chain.layers):
        where = f"{name}.{number}" if name else f"{number}"
        inside = getattr(layer.step, "chain", layer.step)
        if isinstance(inside, Chain):
            yield where, type(layer.step).__name__.lower(), f"{len(inside.layers)} layers"
            yield from _rows(where, inside)
        else:
            trees = [tree for tree in (layer.Params, layer.State) if hasattr(tree, "__leaves__")]
            fields = (f"{tree.__name__}({', '.join(tree.__leaves__)})" for tree in trees)
            yield where, name_of(layer.step), "  ".join(fields)


def residual(*layers: Neuron | Callable[[Any], Any]) -> Neuron:
    """A chain of these layers around which its input goes, too; its params and its state are the chain's.

    output[t] = input[t] + chain(*layers)(input)[t]

        block = residual(linear, leaky)
        net = chain(linear, leaky, block, block, linear, leaky_integrator)      params: (..., (Linear(w), LeakyParams(0.9)), ...)

    Spikes around spikes give 0, 1 or 2, as in SEW-ResNet's "add" (Fang et al. 2021); with a neuron behind, `chain(residual(linear),
    leaky)`, currents are added. Raises ValueError where the layers change the shape.

    >>> net = chain(residual(linear, leaky))
    >>> params = ((Linear(torch.eye(3)), LeakyParams(beta=0.9)),)
    >>> xs = torch.full((5, 2, 3), 0.4)
    >>> scan(net.step, params, net.init(params, xs[0]), xs)[0][:, 0, 0]
    tensor([0.4000, 0.4000, 1.4000, 0.4000, 0.4000])
    """
    inner: Any = chain(*layers).step
    step = Residual(inner)
    return Neuron(tuple, tuple, inner.init, step)


@dataclasses.dataclass(frozen=True)
class Residual:
    """The step of `residual`."""

    chain: "Chain"

    @property
    def __layers__(self) -> tuple[Neuron, ...]:
        return self.chain.layers

    def __repr__(self) -> str:
        return f"residual{repr(self.chain).removeprefix('chain')}"

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, Any]:
        output, state = self.chain(params, state, input)
        return self.sum(input, output), state

    def sum(self, input: Any, output: Any) -> Any:
        """Of what came and what the layers made of it, at one step or at all."""
        if not isinstance(input, torch.Tensor) or not isinstance(output, torch.Tensor):
            kinds = f"{type(input).__name__} came and {type(output).__name__} was put out"
            raise TypeError(f"{self!r}: the input and the output are one tensor each, but {kinds}.")
        if input.shape != output.shape:
            raise ValueError(
                f"{self!r} adds its input {tuple(input.shape)} to its output {tuple(output.shape)}. Expected one shape; a layer that "
                "changes it stands before or behind."
            )
        return input + output


def every_layer(net: Neuron) -> Neuron:
    """The same chain, which puts out what each of its layers does, a tuple: to see the spikes within.

    Raises TypeError for what is no chain.

    >>> net = every_layer(chain(linear, leaky, linear, leaky))
    >>> params = (Linear(torch.eye(3)), LeakyParams(beta=0.9), Linear(torch.ones(1, 3)), LeakyParams(beta=0.9))
    >>> xs = torch.full((5, 2, 3), 0.4)
    >>> (_, hidden, _, spks), state = scan(net.step, params, net.init(params, xs[0]), xs)
    >>> hidden.shape, spks.shape
    (torch.Size([5, 2, 3]), torch.Size([5, 2, 1]))
    """
    if not isinstance(getattr(net, "step", None), Chain):
        raise TypeError(f"every_layer(net): net is a chain, every_layer(chain(linear, leaky)), but {net!r:.80} came.")
    step: Any = net.step
    return net._replace(step=EveryLayer(step))


@dataclasses.dataclass(frozen=True)
class EveryLayer:
    """The step of `every_layer`."""

    chain: Chain

    @property
    def __layers__(self) -> tuple[Neuron, ...]:
        return self.chain.layers

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, Any]:
        return self.chain.each(params, state, input)

    def __repr__(self) -> str:
        return f"every_layer({self.chain!r})"

    def __str__(self) -> str:
        return f"every_layer: {self.chain}"


@dataclasses.dataclass(frozen=True)
class Function:
    """A plain function as a step: nothing learned, nothing kept."""

    function: Callable[[Any], Any]
    __plain__: ClassVar[bool] = True  # by this it is known

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, Any]:
        if intercepted():  # who reads a step refuses what writes into a tensor that has views
            input = tree_map(lambda x: x.view_as(x), input)
        with unchanged(self.function, input):
            return self.function(input), state

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", None) or repr(self.function)


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
        raise TypeError(f"{call}: a class. Give one that is made, with its arguments: {layer.__name__}(...).")
    if isinstance(layer, Functional) or has_tensors(layer):
        raise TypeError(
            f"{call}: a module's tensors go into params and state. Give the two that layer(module) makes of it: norm, of_norm = "
            "layer(BatchNorm1d(64)); net = chain(linear, norm, leaky); params = (Linear(w), of_norm, LeakyParams(0.9))."
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
