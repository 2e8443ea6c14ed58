"""A long short-term memory whose hidden state is a membrane that fires.

    i, f, g, o = hidden(mem[t-1]) + input(input[t])         four gates, [batch, 4 neurons] cut in four
    syn[t] = sigmoid(f) syn[t-1] + sigmoid(i) tanh(g)       the cell
    mem[t] = sigmoid(o) tanh(syn[t]) - R[t] threshold       "subtract"; R[t] = H(mem[t-1] - threshold)
             (1 - R[t]) sigmoid(o) tanh(syn[t])             "zero": syn is kept
             sigmoid(o) tanh(syn[t])                        "none"
    spk[t] = S(mem[t] - threshold)

Source: `snntorch.SLSTM` 1.0.0, whose cell is `torch.nn.LSTMCell`; but snnTorch forgets its state at every step unless the input has as
many features as there are neurons.
"""

from typing import Any

import torch
from torch import Tensor

from .._connections import check_connection, Linear
from .._neuron import Neuron, wired
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["SLSTMParams", "SLSTMState", "slstm_init", "slstm_step", "slstm"]


@pytree
class SLSTMParams:
    """- `input`: `Linear(weight, bias)` from the input to the gates, weight (4 neurons, features).
    - `hidden`: `Linear(weight, bias)` from the membrane to the gates, weight (4 neurons, neurons).
    - `threshold`: the neuron fires above it. The membrane lies in (-1, 1). () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "none", "subtract" or "zero".
    """

    input: Linear
    hidden: Linear
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="none", choices=("none", "subtract", "zero"))

    def __check__(self) -> None:
        check_connection(self, "input", Linear)
        check_connection(self, "hidden", Linear)


@pytree
class SLSTMState:
    """- `syn`: the cell. (batch, neurons).
    - `mem`: the membrane, which is the hidden state. (batch, neurons).
    """

    syn: Tensor
    mem: Tensor


def slstm_init(params: SLSTMParams, input: Tensor) -> SLSTMState:
    """Cell and membrane at rest (0): (batch, neurons) for an input (batch, features)."""
    input = wired(params, None, input, axes=1, by="input")
    rest = input.new_zeros(_shape(params, input))
    return SLSTMState(syn=rest, mem=rest.clone())


def slstm_step(params: SLSTMParams, state: SLSTMState, input: Tensor) -> tuple[Tensor, SLSTMState]:
    """One time step: `input` (batch, features), spikes (batch, neurons). Raises ValueError for a state of another width."""
    input = wired(params, state, input, axes=1, by="input")
    threshold, shape = params.threshold, _shape(params, input)
    syn, mem = widened(state, shape, "slstm_init")
    reset = fires(mem - threshold)
    i, f, g, o = (params.hidden(mem).to(mem.dtype) + params.input(input)).chunk(4, -1)
    syn = torch.sigmoid(f) * syn + torch.sigmoid(i) * torch.tanh(g)
    mem = torch.sigmoid(o) * torch.tanh(syn)
    if params.reset_mechanism == "subtract":
        mem = mem - reset * threshold
    elif params.reset_mechanism == "zero":
        mem = mem - reset * mem
    return params.spike_grad(mem - threshold), SLSTMState(syn, mem)


def _shape(params: SLSTMParams, input: Tensor) -> tuple[int, ...]:
    return (*input.shape[:-1], params.hidden.weight.shape[1])


def widened(state: Any, shape: tuple[int, ...], init: str) -> tuple[Tensor, Tensor]:
    """Cell and membrane, broadcast to `shape`. The weights tell how many neurons there are: a state of another width is refused."""
    for name in ("syn", "mem"):
        have = tuple(getattr(state, name).shape)
        if len(have) > len(shape) or any(n not in (1, m) for n, m in zip(have[::-1], shape[::-1])):
            raise ValueError(
                f"{type(state).__name__}.{name} has shape {have}, which does not fit these weights and this input: expected "
                f"{tuple(shape)}, or what broadcasts to it. A state that fits is made by {init}(params, input)."
            )
    return state.syn.expand(shape), state.mem.expand(shape)


slstm = Neuron(SLSTMParams, SLSTMState, slstm_init, slstm_step)
