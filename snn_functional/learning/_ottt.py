"""Online training through time: the gradient of this moment, and instead of this moment's input a trace of all inputs so far.

    a[t]       = lambda a[t-1] + x[t]                      of what comes through a connection, leaking as the neuron behind it
    gradient  += d loss[t] / d current[t]  (x)  a[t]       through the layers of this step only

A trace is as large as the input, so memory is O(neurons), as in a step without learning. A bias is the weight of an input that is
always 1, with the trace of that. Other numbers (beta, threshold) have no trace: theirs is the gradient of this moment.

Source: Xiao et al. 2022, NeurIPS, arXiv:2210.04195.
"""

import dataclasses
from typing import Any

from torch import Tensor

from .._neuron import unit
from .._scan import step_name
from .._tree import replaced, tree_map
from ..kernels import Unsupported
from ._cells import Cell, cells, connections, feedback, row, steps, walk
from ._rule import floating, gradients, LearningState, Rule


@dataclasses.dataclass(frozen=True)
class ottt(Rule):
    """OTTT for a `chain` of `linear`, `conv2d`, functions and leaky neurons, of any depth; `recurrent(neuron)` with a connection too.

        net = chain(conv2d, leaky, avg_pool2d(2), flatten, linear, leaky)
        grads, losses, state = ottt(net.step, loss)(params, state, inputs, targets)

    A leaky neuron is one with a single state, `mem`, and a single number `beta` for the layer: lambda. For connections before one layer of
    neurons that leak (and no more: reset "subtract" or "none") it is backpropagation through time, to rounding.

    Raises ValueError for neurons with other memories, or several leaks in a layer.
    """

    def traces(self, params: Any, state: Any) -> Any:
        try:
            places = _leaky_cells(self.network, params, state)
        except Unsupported as reason:
            raise ValueError(
                f"ottt(step, loss): {reason}. It takes a chain with a connection before leaky neurons. eprop takes any "
                "pointwise neurons, rtrl, sltt and tbptt any step."
            ) from None
        parts = row(self.network, params)
        return [[(way.weight.new_zeros(()),) * 2 for way in connections(parts, cell)] for cell in places]

    def learn(self, params: Any, learning: LearningState, x: Any, target: Any) -> tuple[Tensor, Any, Any, Any]:
        parts = row(self.network, params)
        leaks = [_leak(parts[cell.neuron]) for cell in cells(self.network, params, learning.state)]

        def now(params: Any) -> Any:
            new: list[list[Any]] = [[] for _ in learning.traces]

            def current(n: int, connection: Any, pre: Tensor) -> Tensor:
                a, one = learning.traces[n][len(new[n])]
                a, one = leaks[n] * a + pre.detach(), leaks[n] * one + 1
                new[n].append((a, one))
                traced = replaced(connection, bias=one * connection.bias)(a)
                return tree_map(Tensor.detach, connection)(pre) + (traced - traced.detach())

            output, state, _ = walk(self.network, params, learning.state, x, current)
            return self.measured(output, target), (state, new)

        (grad,), loss, (state, traces) = gradients(now, params)
        return loss, state, grad, traces


def _leaky_cells(network: Any, params: Any, state: Any) -> list[Cell]:
    places = cells(network, params, state)
    parts, states = row(network, params), row(network, state)
    if not any(connections(parts, cell) for cell in places):
        raise Unsupported("no connection leads to a neuron")
    for i, *_ in places:
        name, p, s = step_name(steps(network)[i]), _innermost(parts[i]), _innermost(states[i])
        memories = len(floating(states[i])[0]) - (feedback(parts[i]) is not None)
        if not hasattr(p, "beta") or not hasattr(s, "mem") or memories != 1:
            raise Unsupported(f"layer {i}, {name}, has another memory than one membrane `mem` with its leak `beta`")
        if getattr(p, "spike_delay", False):
            raise Unsupported(
                f"layer {i}, {name}, fires from the membrane of the step before, which this moment's input does not reach"
            )
        if p.beta.numel() != 1:
            raise Unsupported(f"layer {i}, {name}, has {p.beta.numel()} leaks, and a trace of its input only one")
    return places


def _leak(params: Any) -> Tensor:
    params = _innermost(params)
    return getattr(params, "kept", unit(params.beta)).reshape(())


def _innermost(tree: Any) -> Any:
    return _innermost(tree.inner) if hasattr(tree, "inner") else tree
