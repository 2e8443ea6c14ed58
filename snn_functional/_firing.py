"""Does a network live? Firing rates, a look at all that can be silently wrong, and weights that make it fire as often as it should.

firing_rates(spks)                            the share of steps with a spike: pure, with a gradient, a part of a loss
diagnose(step, params, state, inputs)         layer by layer: NaN, silence, gradients that end
with_rates(net, params, xs, rate=0.1)         params whose weights are scaled so that each layer fires that often
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._chain import Chain, EveryLayer, Residual
from ._lengths import check_lengths
from ._neuron import name_of, Neuron
from ._scan import scan
from ._scan._door import complete, MISSING
from ._tree import tree_leaves, tree_map, tree_paths
from .modifiers import masked
from .surrogate import Surrogate


def firing_rates(spks: Any, lengths: Tensor | None = None) -> Any:
    """How often the neurons of each layer fire: a tree of spikes [T, batch, ...] -> the same tree of rates (), spikes a neuron and step.

    - `lengths`: the steps of each sample [batch], of which alone the mean is taken; what is behind them is 0, as `masked` leaves it.

    >>> net = every_layer(chain(linear, leaky, linear, leaky))
    >>> params = (Linear(torch.eye(3)), LeakyParams(beta=0.9), Linear(torch.ones(1, 3)), LeakyParams(beta=0.9))
    >>> xs = torch.full((5, 2, 3), 0.4)
    >>> outputs, _ = scan(net.step, params, net.init(params, xs[0]), xs)
    >>> firing_rates({"hidden": outputs[1], "output": outputs[3]})
    {'hidden': tensor(0.2000), 'output': tensor(0.4000)}

    Their gradient is that of the spikes: `loss + sum((rate - 0.1) ** 2 for rate in firing_rates(outputs[1::2]))`.
    """

    def rate(spk: Tensor) -> Tensor:
        dtype = spk.dtype if spk.is_floating_point() else torch.get_default_dtype()
        if lengths is None:
            return spk.to(dtype).mean()
        check_lengths(f"firing_rates(spks {tuple(spk.shape)}, lengths)", lengths, len(spk), tuple(spk.shape[1:2]))
        return spk.to(dtype).sum() / (lengths.sum() * math.prod(spk.shape[2:]))

    return tree_map(rate, spks)


def word(rate: float) -> str | None:
    """What a rate says that nobody wants; else None."""
    return "never fires" if rate == 0 else "fires at every step" if rate == 1 else None


class Diagnosis(str):
    """What `diagnose` says. As text it is the whole of it; as a value:

    - `problems`: a line for each thing found; empty where all is well.
    - `rates`: spikes a neuron and step of each layer that fires, by its name, `"layer 1 (leaky)"`.
    """

    problems: tuple[str, ...]
    rates: dict[str, float]

    def __new__(cls, problems: list[str], rates: dict[str, float]) -> "Diagnosis":
        lines = [f"{name}: {rate:.4f} spikes a neuron and step" for name, rate in rates.items()]
        self = super().__new__(cls, "\n".join([*lines, *(problems or ["nothing wrong was seen"])]))
        self.problems, self.rates = tuple(problems), rates
        return self

    def __repr__(self) -> str:
        return str(self)


class _Seen(NamedTuple):
    """A layer over all of time, what came to it and what it put out."""

    name: str
    step: Callable[..., Any]
    params: Any
    state: Any
    inputs: Any
    outputs: Any


def diagnose(step: Any, params: Any, state: Any = MISSING, inputs: Any = MISSING) -> Diagnosis:
    """Runs these arguments of `scan`, a chain layer by layer, and says what is wrong with them that raises no error. Of a module that
    `module` made, and of a `train.Network`: `diagnose(model, xs)`.

    - NaN or infinite numbers in params, state or inputs, and the layer and step where they first come about;
    - a layer that never fires, or in which each neuron fires at every step;
    - a layer through which no gradient passes: its step has no surrogate, or it is far from where that has a slope.

    A step that is no chain is one layer. Nothing is changed; numbers are read, so not within a transform.

    >>> net = chain(linear, leaky)
    >>> params = (Linear(0.1 * torch.eye(3)), LeakyParams(beta=0.5, spike_grad=surrogate.Heaviside()))
    >>> xs = torch.full((5, 2, 3), 0.4)
    >>> diagnose(net.step, params, net.init(params, xs[0]), xs)
    layer 1 (leaky): 0.0000 spikes a neuron and step
    layer 1 (leaky) never fires: larger weights, or a lower threshold, as with_rates(net, params, xs) finds them
    layer 1 (leaky) passes no gradient: its spikes have no slope, as surrogate.atan()(mem - threshold) has, or it is 0 at every membrane
    """
    step, params, state, inputs = complete("diagnose", step, params, state, inputs)
    problems, rates, seen = [], {}, []
    for name, tree in (("params", params), ("state", state), ("inputs", inputs)):
        problems += [f"{path} {bad}" for path, x in zip(tree_paths(tree, name), tree_leaves(tree)) if (bad := _bad(x))]
    with torch.no_grad():
        run_layers("", step, params, state, inputs, seen)
    for layer in seen:
        spk, name = spikes_of(layer), layer.name
        if not problems:
            bad = next((bad for x in tree_leaves(layer.outputs) if (bad := _bad(x, True))), None)
            problems += [f"{name} is the first whose output {bad}"] if bad else []
        if spk is not None:
            rates[name] = float(share(layer, spk))
            if said := word(rates[name]):
                larger = ("larger", "lower") if rates[name] == 0 else ("smaller", "higher")
                problems.append(
                    f"{name} {said}: {larger[0]} weights, or a {larger[1]} threshold, as with_rates(net, params, xs) finds them"
                )
    if not any("NaN" in problem or "infinite" in problem for problem in problems):
        problems += [
            f"{layer.name} passes no gradient: its spikes have no slope, as surrogate.atan()(mem - threshold) has, or it is 0 at every "
            "membrane"
            for layer in seen
            if _ends_gradients(layer)
        ]
    return Diagnosis(problems, rates)


def run_layers(name: str, step: Any, params: Any, state: Any, xs: Any, seen: list[_Seen]) -> Any:
    """The outputs; every layer within is added to `seen`."""
    around = masked if isinstance(step, masked) else None
    inner = step.step if around else step
    x, valid = xs if around else (xs, None)
    chain = inner.chain if isinstance(inner, (EveryLayer, Residual)) else inner
    if not isinstance(chain, Chain):
        outputs, _ = scan(step, params, state, xs)
        seen.append(
            _Seen(f"layer {name} ({name_of(inner)})" if name else name_of(inner), step, params, state, xs, outputs)
        )
        return outputs
    y = x
    for i, (layer, p, s) in enumerate(zip(chain.layers, params, state)):
        one = around(layer.step) if around else layer.step
        y = run_layers(f"{name}.{i}" if name else f"{i}", one, p, s, (y, valid) if around else y, seen)
    return inner.sum(x, y) if isinstance(inner, Residual) else y


def _bad(x: Any, over_time: bool = False) -> str | None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or bool(x.isfinite().all()):
        return None
    what = "NaN" if bool(x.isnan().any()) else "infinite numbers"
    which = x.isnan() if what == "NaN" else ~x.isfinite()
    at = f", first at step {int(which.flatten(1).any(1).nonzero()[0])}" if over_time else ""
    return f"holds {what} in {int(which.sum())} of {x.numel()} places{at}"


def spikes_of(layer: _Seen) -> Tensor | None:
    """What it fires; None of a layer that does not."""
    spk = layer.outputs[0] if isinstance(layer.outputs, tuple) and layer.outputs else layer.outputs
    if not isinstance(spk, Tensor) or not bool(
        ((spk == 0) | (spk.abs() == 1) if spk.dtype != torch.bool else ~spk | spk).all()
    ):
        return None
    return spk if surrogates(layer.params) or (tree_leaves(layer.state) and bool(spk.any())) else None


def surrogates(params: Any) -> bool:
    """Do these params, or those within them, choose how spikes are differentiated?"""
    choices = {name: getattr(params, name) for name in getattr(params, "__choices__", ())}
    return any(name == "spike_grad" or isinstance(x, Surrogate) for name, x in choices.items()) or (
        hasattr(params, "inner") and surrogates(params.inner)
    )


def share(layer: _Seen, spk: Tensor) -> Tensor:
    fired = (spk != 0).to(torch.float64)
    if not isinstance(layer.step, masked):
        return fired.mean()
    valid = layer.inputs[1]
    return fired.sum() / (valid.sum() * math.prod(spk.shape[valid.dim() :]))


def _ends_gradients(layer: _Seen) -> bool:
    """Is the gradient by everything that comes into it 0, by the params where that is no floating tensor?"""
    floats = lambda tree: [x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.is_floating_point()]
    by_inputs = bool(floats(layer.inputs))
    wanted = layer.inputs if by_inputs else layer.params
    if not floats(wanted):
        return False
    if not floats(
        layer.outputs
    ):  # spikes as mem > 1, which nothing differentiates; other whole numbers may be meant so
        return spikes_of(layer) is not None

    def weighted(*leaves: Tensor) -> Tensor:
        given = iter(leaves)
        tree = tree_map(lambda x: next(given) if isinstance(x, Tensor) and x.is_floating_point() else x, wanted)
        args = (layer.params, layer.state, tree) if by_inputs else (tree, layer.state, layer.inputs)
        outputs = floats(scan(layer.step, *args)[0])
        # Numbers of all sizes and both signs, so that nothing cancels.
        return sum((torch.arange(x.numel(), device=x.device).to(x).cos().reshape(x.shape) * x).sum() for x in outputs)  # pyright: ignore

    leaves = floats(wanted)
    grads = torch.func.grad(weighted, tuple(range(len(leaves))))(*leaves)
    return not any(bool(g.any()) for g in grads)


@torch.no_grad()
def with_rates(net: Neuron, params: Any, xs: Tensor, rate: float = 0.1) -> Any:
    """Params of a chain whose neurons fire `rate` times a step on average, at inputs such as `xs` [T, batch, ...].

    From the first layer to the last, the connection in front of each layer that fires (the last `Linear`, `Conv2d` or module with a weight
    before it) is scaled by one number, found by bisection over runs from rest. For inputs of a given density:

        xs = (torch.rand(50, 64, 256) < 0.05).float()
        params = with_rates(net, params, xs, rate=0.1)

    Raises TypeError for what is no chain, ValueError for a rate outside (0, 1), for a layer that fires without a connection before it in
    its chain, and where no scale gives the rate.
    """
    if not isinstance(getattr(net, "step", None), (Chain, Residual)):
        if isinstance(getattr(getattr(net, "step", None), "step", None), (Chain, Residual)):
            around = type(net.step).__name__
            raise TypeError(
                f"with_rates(net, ...): net is a chain, but {net!r:.80} came. The params are those of the chain within, so they are scaled "
                f"there: params = with_rates(net, params, xs) of the chain, and then {around}(net) takes them."
            )
        raise TypeError(f"with_rates(net, ...): net is a chain, chain(linear, leaky), but {net!r:.80} came.")
    if not 0 < rate < 1:
        raise ValueError(f"with_rates(..., rate={rate}): expected spikes a neuron and step, above 0 and below 1.")
    return _scaled("", net.step, params, xs, rate)[0]


def _scaled(name: str, step: Any, params: Any, xs: Any, rate: float) -> tuple[Any, Any]:
    """The params with new weights, and what the layers then put out."""
    chain: Chain = step.chain if isinstance(step, Residual) else step
    params, reached = list(params), [xs]  # what comes to each layer
    weighted: int | None = None
    for i, layer in enumerate(chain.layers):
        where = f"{name}.{i}" if name else f"{i}"
        if isinstance(layer.step, (Chain, Residual)):
            params[i], out = _scaled(where, layer.step, params[i], reached[i], rate)
        else:
            weighted = i if _has_weight(params[i]) else weighted
            [out] = _through([layer], [params[i]], reached[i])
        if surrogates(params[i]) and isinstance(out, Tensor) and bool(((out == 0) | (out.abs() == 1)).all()):
            where = f"layer {where} ({name_of(layer.step)})"
            if weighted is None:
                raise ValueError(f"with_rates: no connection is in front of {where} in its chain.")
            part = slice(weighted, i + 1)
            params[weighted], outs = _fitted(chain.layers[part], params[part], reached[weighted], rate, where)
            reached[weighted + 1 :], out, weighted = outs[:-1], outs[-1], None
        reached.append(out)
    return tuple(params), step.sum(xs, reached[-1]) if isinstance(step, Residual) else reached[-1]


def _through(layers: Sequence[Neuron], params: Sequence[Any], xs: Any) -> list[Any]:
    """What each of these layers puts out, from rest."""
    outs = [xs]
    for layer, p in zip(layers, params):
        outs.append(scan(layer.step, p, layer.init(p, outs[-1][0]), outs[-1])[0])
    return outs[1:]


def _fitted(layers: Sequence[Neuron], params: Sequence[Any], xs: Any, rate: float, where: str) -> tuple[Any, list[Any]]:
    """The params of the first of these layers with which the last fires so often, and what each then puts out. The scale is found to a
    thousandth; a larger one is taken to fire more."""
    scaled = lambda log: tree_map(lambda leaf: leaf * 2.0**log, params[0])
    outs_at = lambda log: _through(layers, [scaled(log), *params[1:]], xs)
    rate_at = lambda log: float((outs_at(log)[-1] != 0).double().mean())
    high, most = -12.0, 0.0
    while (got := rate_at(high)) < rate:
        high, most = high + 1, max(most, got)
        if high > 16:
            raise ValueError(
                f"with_rates: {where} fires {most:.3g} times a step at most, whatever the scale, and not {rate}."
            )
    low = high - 1
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if rate_at(middle) < rate else (low, middle)
    return scaled(high), outs_at(high)


def _has_weight(params: Any) -> bool:
    return hasattr(params, "weight") or (
        isinstance(params, dict) and any(key.split(".")[-1] == "weight" for key in params)
    )
