"""The faces without a reset: a whole sequence in, [T, batch, features], a whole sequence out. Nothing is kept between calls.

Weights are applied to all of time in one product, then the recurrence is scanned: one kernel where there is one, or with
`kind="parallel"` by `linear_scan` in 2 log2(T) rounds.
"""

import warnings
from typing import Any

import torch
from torch import nn, Tensor

from .._functionalize._has_state import TakesSequences
from .._linear_scan import Kind, linear_scan, window
from .._neuron import at_least, precise, unit
from .._scan import scan
from ..neurons import state_leaky
from ..surrogate import ATan, fires
from ._recurrent import _connection
from ._stateful import _fitted, _recorded, register


SPK_AND_MEM = _recorded(state_leaky.step, ("mem",), graded=True)


class Whole(TakesSequences):
    """A layer that takes whole sequences."""

    threshold: Tensor
    graded_spikes_factor: Tensor

    def __init__(
        self,
        threshold: Any = 1.0,
        spike_grad: Any = None,
        surrogate_disable: bool = False,
        learn_threshold: bool = False,
        graded_spikes_factor: Any = 1.0,
        learn_graded_spikes_factor: bool = False,
    ) -> None:
        super().__init__()
        self.spike_grad = fires if surrogate_disable else spike_grad or ATan()
        self._number("threshold", threshold, learn_threshold)
        self._number("graded_spikes_factor", graded_spikes_factor, learn_graded_spikes_factor)

    def fire(self, mem: Tensor) -> Tensor:
        """The spikes of these membranes, times `graded_spikes_factor`."""
        return self._graded(self.spike_grad(mem - _fitted(self.threshold, mem.dtype)))

    def _graded(self, spk: Tensor) -> Tensor:
        return spk * _fitted(self.graded_spikes_factor, spk.dtype)

    def _number(self, name: str, value: Any, learned: bool) -> None:
        value = value if isinstance(value, Tensor) else torch.tensor(float(value))
        if not value.is_floating_point():
            raise TypeError(
                f"{type(self).__name__}({name}=...) takes a floating tensor, not {value.dtype}: give .float()."
            )
        register(self, name, value, learned)

    def _admit(self, input_: Any, features: int, axes: int, dtype: torch.dtype) -> Tensor:
        """The input, spikes (bool, uint8) as floats, and half precision in `dtype`. `axes`: how many it has at least."""
        name = type(self).__name__
        if not isinstance(input_, Tensor):
            raise TypeError(f"{name}(input_) takes a tensor [T, batch, {features}], not {type(input_).__name__}.")
        if self._watcher is not None:
            self._watcher(self, input_)
        if input_.dim() < axes or input_.shape[-1] != features:
            raise ValueError(
                f"{name}(input_) takes a whole sequence [T, batch, {features}], but {tuple(input_.shape)} came. Of single steps: "
                "layer(torch.stack(steps))."
            )
        if len(input_) == 0:
            raise ValueError(f"{name}(input_): the time axis of {tuple(input_.shape)} is empty.")
        x = at_least(dtype, input_)
        if x.is_floating_point() and x.dtype != dtype and any(p.dim() > 1 for p in self.parameters()):
            raise TypeError(
                f"{name}(input_): the input is {x.dtype}, the weights are {dtype}: give input_.to({dtype}), or net.to({x.dtype})."
            )
        return x

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        rest = {
            key: x for key, x in state_dict.items() if key != prefix + "reset_mechanism_val"
        }  # snnTorch's; no reset
        super()._load_from_state_dict(rest, prefix, *args, **kwargs)


class StateLeaky(Whole):
    """`snntorch.StateLeaky` over `state_leaky_step`: mem[t] = beta mem[t-1] + input[t], without a reset.

        spk, mem = layer(input_)        [T, batch, channels] each; with `output=False`, mem alone

    - `beta`: share of the membrane kept each step, read as clamped to [0, 1]; () or (channels,). It is learned as it is, with
      `learn_beta`. snnTorch 1.0.0 keeps exp(-(1 - beta)) instead, 0.9048 for 0.9: for its numbers give
      `beta=math.exp(-(1 - beta))`. Its checkpoints load with the decay they had.
    - `kernel_truncation_steps`: the membrane remembers the last so many inputs only.
    - `state_quant`: a function of the membrane, applied after the recurrence.
    - `kind`: as in `linear_scan`.

    Raises ValueError for a beta of another shape and for what is no sequence of `channels`.
    """

    beta: Tensor
    state_quant: Any

    def __init__(
        self, beta, channels, threshold=1.0, spike_grad=None, surrogate_disable=False, learn_beta=False,
        learn_threshold=False, state_quant=False, output=True, graded_spikes_factor=1.0, learn_graded_spikes_factor=False,
        kernel_truncation_steps=None, *, kind: Kind = "auto",
    ):  # fmt: skip
        spiking = (threshold, spike_grad, surrogate_disable, learn_threshold, graded_spikes_factor)
        super().__init__(*spiking, learn_graded_spikes_factor)
        plain = torch.as_tensor(graded_spikes_factor == 1.0).all()
        if not output and (spike_grad is not None or any(spiking[2:4]) or learn_graded_spikes_factor or not plain):
            warnings.warn(
                f"{type(self).__name__}(output=False) fires no spikes: what was said of them has no effect.",
                stacklevel=2,
            )
        if kernel_truncation_steps is not None and not kernel_truncation_steps >= 1:
            raise ValueError(
                f"{type(self).__name__}(kernel_truncation_steps={kernel_truncation_steps}): expected at least 1 step, or None "
                "for all."
            )
        self._number("beta", state_leaky.Params(beta).beta, learn_beta)
        if self.beta.shape not in ((), (1,), (channels,)):
            raise ValueError(
                f"{type(self).__name__}(beta of shape {tuple(self.beta.shape)}): expected a number, or one for each channel, "
                f"({channels},)."
            )
        self.channels, self.output, self.state_quant = channels, output, state_quant
        self.kernel_truncation_steps = kernel_truncation_steps
        self.kind: Kind = kind

    def forward(self, input_: Tensor) -> Any:
        """`input_` [T, batch, channels]: `(spk, mem)`, or mem alone."""
        return self._through(self._admit(input_, self.channels, 3, self.beta.dtype))

    def params(self, dtype: torch.dtype | None = None) -> Any:
        """The Params of `state_leaky_step`, as they are now. With `dtype`, per-neuron numbers that would promote it are cast."""
        leaves = [_fitted(self.beta, dtype), _fitted(self.threshold, dtype)]
        return state_leaky.Params.__rebuild__(leaves, (self.spike_grad,))

    def extra_repr(self) -> str:
        return f"channels={self.channels}, output={self.output}"

    def _through(self, currents: Tensor) -> Any:
        params, steps = self.params(currents.dtype), self.kernel_truncation_steps
        currents = precise(params, currents)
        if self.output and not (steps or self.state_quant or self.kind == "parallel"):
            rest = state_leaky.init(params, currents[0])
            factor = _fitted(self.graded_spikes_factor, currents.dtype)
            return scan(SPK_AND_MEM, (params, factor), rest, currents, kind=self.kind)[0]
        beta = unit(params.beta)
        mem = window(beta, currents, steps) if steps else linear_scan(beta, currents, kind=self.kind)
        mem = self.state_quant(mem) if self.state_quant else mem
        return (self.fire(mem), mem) if self.output else mem

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        rest = {key: x for key, x in state_dict.items() if key != prefix + "tau"}
        if prefix + "tau" in state_dict:  # snnTorch's: its beta is dead, its decay exp(-1 / tau)
            rest[prefix + "beta"] = torch.exp(-1 / state_dict[prefix + "tau"])
        super()._load_from_state_dict(rest, prefix, *args, **kwargs)


class LinearLeaky(StateLeaky):
    """`snntorch.LinearLeaky` over `linear_leaky_step`: the layer `linear`, an nn.Linear, then `StateLeaky`, whose arguments it has.

    spk, mem = layer(input_)        [T, batch, in_features] -> [T, batch, out_features] each; with `output=False`, mem alone
    """

    def __init__(
        self, beta, in_features, out_features, bias=True, device=None, dtype=None, threshold=1.0, spike_grad=None,
        surrogate_disable=False, learn_beta=False, learn_threshold=False, state_quant=False, output=True,
        graded_spikes_factor=1.0, learn_graded_spikes_factor=False, kernel_truncation_steps=None, *, kind: Kind = "auto",
    ):  # fmt: skip
        super().__init__(
            beta, out_features, threshold, spike_grad, surrogate_disable, learn_beta, learn_threshold, state_quant, output,
            graded_spikes_factor, learn_graded_spikes_factor, kernel_truncation_steps, kind=kind,
        )  # fmt: skip
        self.linear = nn.Linear(in_features, out_features, bias=bias, device=device, dtype=dtype)

    def forward(self, input_: Tensor) -> Any:
        """`input_` [T, batch, in_features]: `(spk, mem)`, or mem alone."""
        linear = self.linear
        return self._through(_connection(linear)(self._admit(input_, linear.in_features, 3, linear.weight.dtype)))
