"""A convolutional long short-term memory whose hidden state is a membrane that fires.

    i, f, o, g = gates(input[t], mem[t-1])                  one convolution of both, [batch, 4 channels, H, W] cut in four
    syn[t] = sigmoid(f) syn[t-1] + sigmoid(i) tanh(g)       the cell
    mem[t] = sigmoid(o) tanh(syn[t]) - R[t] threshold       "subtract"; R[t] = H(mem[t-1] - threshold)
             (1 - R[t]) sigmoid(o) tanh(syn[t])             "zero": syn is kept
             sigmoid(o) tanh(syn[t])                        "none"
    spk[t] = S(pool(mem[t]) - threshold)

Source: `snntorch.SConv2dLSTM` 1.0.0.
"""

from typing import Any

import torch
from torch import Tensor

from .._connections import check_connection, Conv2d
from .._neuron import Neuron, wired
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike
from ._slstm import widened


__all__ = ["SConv2dLSTMParams", "SConv2dLSTMState", "sconv2dlstm_init", "sconv2dlstm_step", "sconv2dlstm"]


@pytree
class SConv2dLSTMParams:
    """- `gates`: `Conv2d(weight, bias)`, weight (4 channels, in channels + channels, height, width).
    - `threshold`: the neuron fires above it. The membrane lies in (-1, 1). ().
    - `max_pool`, `avg_pool`: the membrane is pooled over windows of this size before it fires; 0 for not at all.
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "none", "subtract" or "zero".

    Raises ValueError for both kinds of pooling at once.
    """

    gates: Conv2d
    threshold: Leaf = leaf(default=1.0)
    max_pool: Any = static(default=0)
    avg_pool: Any = static(default=0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="none", choices=("none", "subtract", "zero"))

    def __check__(self) -> None:
        check_connection(self, "gates", Conv2d)
        if self.max_pool and self.avg_pool:
            raise ValueError(
                f"SConv2dLSTMParams(max_pool={self.max_pool}, avg_pool={self.avg_pool}): give one of them, not both."
            )

    def fire(self, mem: Tensor) -> Tensor:
        """The spikes of this membrane."""
        if self.max_pool:
            mem = torch.nn.functional.max_pool2d(mem, self.max_pool)
        elif self.avg_pool:
            mem = torch.nn.functional.avg_pool2d(mem, self.avg_pool)
        return self.spike_grad(mem - self.threshold)


@pytree
class SConv2dLSTMState:
    """- `syn`: the cell. (batch, channels, H, W).
    - `mem`: the membrane, which is the hidden state. (batch, channels, H, W).
    """

    syn: Tensor
    mem: Tensor


def sconv2dlstm_init(params: SConv2dLSTMParams, input: Tensor) -> SConv2dLSTMState:
    """Cell and membrane at rest (0): (batch, channels, H, W) for an input (batch, in channels, H, W)."""
    input = wired(params, None, input, axes=3, by="gates")
    rest = input.new_zeros(_shape(params, input))
    return SConv2dLSTMState(syn=rest, mem=rest.clone())


def sconv2dlstm_step(
    params: SConv2dLSTMParams, state: SConv2dLSTMState, input: Tensor
) -> tuple[Tensor, SConv2dLSTMState]:
    """One time step: `input` (batch, in channels, H, W), spikes (batch, channels, H / pool, W / pool).

    Raises ValueError for a state of other channels or another size.
    """
    input = wired(params, state, input, axes=3, by="gates")
    threshold, shape = params.threshold, _shape(params, input)
    syn, mem = widened(state, shape, "sconv2dlstm_init")
    reset = fires(mem - threshold)
    i, f, o, g = params.gates(torch.cat([input, mem], -3)).to(mem.dtype).chunk(4, -3)
    syn = torch.sigmoid(f) * syn + torch.sigmoid(i) * torch.tanh(g)
    mem = torch.sigmoid(o) * torch.tanh(syn)
    if params.reset_mechanism == "subtract":
        mem = mem - reset * threshold
    elif params.reset_mechanism == "zero":
        mem = mem - reset * mem
    return params.fire(mem), SConv2dLSTMState(syn, mem)


def _shape(params: SConv2dLSTMParams, input: Tensor) -> tuple[int, ...]:
    return (*input.shape[:-3], params.gates.weight.shape[0] // 4, *input.shape[-2:])


sconv2dlstm = Neuron(SConv2dLSTMParams, SConv2dLSTMState, sconv2dlstm_init, sconv2dlstm_step)
