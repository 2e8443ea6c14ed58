"""`snntorch.functional.stdp_learner` over the pure rule, `snf.learning.stdp_step`.

The steps take one time step of spikes and the traces (None or a number where they begin), and give
`(trace_pre, trace_post, delta_w)`. Layers and arguments stay as they are, and no graph is built. Traces are shaped like the spikes.

Raises TypeError for a layer of another kind, ValueError for spikes that do not fit it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn, Tensor

from ...learning import stdp_step, StdpParams, StdpState
from .probe import InputMonitor, OutputMonitor


Trace = Tensor | float | None
Stepped = tuple[Tensor, Tensor, Tensor]
Function = Callable[[Tensor], Tensor]


def _same(weight: Tensor) -> Tensor:
    return weight


def stdp_linear_single_step(
    fc: nn.Linear, in_spike: Tensor, out_spike: Tensor, trace_pre: Trace, trace_post: Trace, tau_pre: float, tau_post: float,
    f_pre: Function = _same, f_post: Function = _same,
) -> Stepped:  # fmt: skip
    """STDP of a dense layer: `in_spike` [batch, in], `out_spike` [batch, out]; traces decay by 1 - 1/tau."""
    _is(fc, nn.Linear)
    return _step(fc, in_spike, out_spike, trace_pre, trace_post, 1 - 1 / tau_pre, 1 - 1 / tau_post, f_pre, f_post)


def mstdp_linear_single_step(
    fc: nn.Linear, in_spike: Tensor, out_spike: Tensor, trace_pre: Trace, trace_post: Trace, tau_pre: float, tau_post: float,
    f_pre: Function = _same, f_post: Function = _same,
) -> Stepped:  # fmt: skip
    """Reward-modulated STDP: the third result is each sample's eligibility [batch, out, in]; traces decay by exp(-1/tau)."""
    _is(fc, nn.Linear)
    each = torch.func.vmap(stdp_step, in_dims=(None, 0, 0))
    decays = math.exp(-1 / tau_pre), math.exp(-1 / tau_post)
    return _step(fc, in_spike, out_spike, trace_pre, trace_post, *decays, f_pre, f_post, each)


def mstdpet_linear_single_step(
    fc: nn.Linear, in_spike: Tensor, out_spike: Tensor, trace_pre: Trace, trace_post: Trace, tau_pre: float, tau_post: float,
    tau_trace: float, f_pre: Function = _same, f_post: Function = _same,
) -> Stepped:  # fmt: skip
    """As `mstdp_linear_single_step` for one sample: `in_spike` [in], `out_spike` [out], eligibility [out, in].

    `tau_trace` belongs to the trace of the eligibility, which is the caller's: trace * exp(-1/tau_trace) + eligibility / tau_trace.
    """
    _is(fc, nn.Linear)
    if in_spike.dim() != 1 or out_spike.dim() != 1:
        raise ValueError(
            f"mstdpet_linear_single_step takes one sample, spikes [in] and [out], but {tuple(in_spike.shape)} and "
            f"{tuple(out_spike.shape)} came. For a batch: mstdp_linear_single_step."
        )
    decays = math.exp(-1 / tau_pre), math.exp(-1 / tau_post)
    return _step(fc, in_spike, out_spike, trace_pre, trace_post, *decays, f_pre, f_post)


def stdp_conv2d_single_step(
    conv: nn.Conv2d, in_spike: Tensor, out_spike: Tensor, trace_pre: Trace, trace_post: Trace, tau_pre: float, tau_post: float,
    f_pre: Function = _same, f_post: Function = _same,
) -> Stepped:  # fmt: skip
    """STDP of a convolution: `in_spike` [batch, in, height, width], `out_spike` likewise; any stride, padding, dilation, groups."""
    _is(conv, nn.Conv2d)
    return _step(conv, in_spike, out_spike, trace_pre, trace_post, 1 - 1 / tau_pre, 1 - 1 / tau_post, f_pre, f_post)


def stdp_conv1d_single_step(
    conv: nn.Conv1d, in_spike: Tensor, out_spike: Tensor, trace_pre: Trace, trace_post: Trace, tau_pre: float, tau_post: float,
    f_pre: Function = _same, f_post: Function = _same,
) -> Stepped:  # fmt: skip
    """As `stdp_conv2d_single_step`, with spikes [batch, channels, length]."""
    _is(conv, nn.Conv1d)
    return _step(conv, in_spike, out_spike, trace_pre, trace_post, 1 - 1 / tau_pre, 1 - 1 / tau_post, f_pre, f_post)


class STDPLearner(nn.Module):
    """Watches a synapse and the neurons behind it, and changes its weight by STDP.

        learner = STDPLearner(net.fc, net.lif, tau_pre=2.0, tau_post=2.0)
        for x in xs:
            net(x)
        learner.step()                      fc.weight.grad -= what STDP adds to the weight: an optimizer may follow

    - `synapse`: an nn.Linear, Conv1d or Conv2d. `sn`: the layer whose output (or its first part, the spikes) it drives.
    - `tau_pre`, `tau_post`: time constants of the traces, in steps. `f_pre`, `f_post`: how a change depends on the weight.

    The traces go on from step() to step(), until `reset()`.

    Raises TypeError for a synapse of another kind.
    """

    def __init__(
        self, synapse: nn.Module, sn: nn.Module, tau_pre: float, tau_post: float, f_pre: Function = _same,
        f_post: Function = _same,
    ) -> None:  # fmt: skip
        super().__init__()
        _is(synapse, nn.Linear, nn.Conv1d, nn.Conv2d)
        self.tau_pre, self.tau_post = tau_pre, tau_post
        self.f_pre, self.f_post = f_pre, f_post
        self.synapse = synapse
        self.in_spike_monitor = InputMonitor(synapse, function_on_input=_spikes)
        self.out_spike_monitor = OutputMonitor(sn, function_on_output=_spikes)
        self.trace_pre: Any = None
        self.trace_post: Any = None

    def reset(self) -> None:
        """Forget what was recorded, and the traces."""
        self.in_spike_monitor.clear_recorded_data()
        self.out_spike_monitor.clear_recorded_data()
        self.trace_pre = self.trace_post = None

    def disable(self) -> None:
        """Record nothing until `enable()`."""
        self.in_spike_monitor.disable()
        self.out_spike_monitor.disable()

    def enable(self) -> None:
        """Record from now on."""
        self.in_spike_monitor.enable()
        self.out_spike_monitor.enable()

    def step(self, on_grad: bool = True, scale: float = 1.0) -> Tensor | None:
        """The change of the weight by all that was recorded since the last call, times `scale`.

        With `on_grad` it is subtracted from `synapse.weight.grad`, so that an optimizer's step adds it to the weight; else returned.

        Raises ValueError where nothing was recorded, or not as often for the neurons as for the synapse.
        """
        pres, posts = self.in_spike_monitor.records, self.out_spike_monitor.records
        if not pres or len(pres) != len(posts):
            raise ValueError(
                f"STDPLearner.step() found {len(pres)} recorded inputs of the synapse and {len(posts)} outputs of its neurons; "
                "expected as many of both: call net(x), enabled, and then step()."
            )
        weight = _weight(self.synapse)
        delta_w = torch.zeros_like(weight)
        decays = 1 - 1 / self.tau_pre, 1 - 1 / self.tau_post
        before, after = self.trace_pre, self.trace_post
        for pre, post in zip(pres, posts):
            before, after, change = _step(self.synapse, pre, post, before, after, *decays, self.f_pre, self.f_post)
            delta_w = delta_w + scale * change
        self.trace_pre, self.trace_post = before, after
        self.in_spike_monitor.clear_recorded_data()
        self.out_spike_monitor.clear_recorded_data()
        if not on_grad:
            return delta_w
        weight.grad = -delta_w if weight.grad is None else weight.grad - delta_w


@torch.no_grad()
def _step(
    layer: Any, in_spike: Tensor, out_spike: Tensor, trace_pre: Trace, trace_post: Trace, decay_pre: float, decay_post: float,
    f_pre: Function, f_post: Function, step: Any = stdp_step,
) -> Stepped:  # fmt: skip
    weight = _weight(layer).detach()
    synapse = F.linear if isinstance(layer, nn.Linear) else lambda x, weight: layer._conv_forward(x, weight, None)
    params = StdpParams(weight, decay_pre, decay_post, f_pre=f_pre, f_post=f_post, synapse=synapse)
    state = StdpState(_like(in_spike, trace_pre, weight), _like(out_spike, trace_post, weight))
    delta_w, state = step(params, state, (in_spike, out_spike))
    return state.trace_pre, state.trace_post, delta_w


def _like(spike: Tensor, trace: Trace, weight: Tensor) -> Tensor:
    if isinstance(trace, Tensor) and trace.dim():
        return trace
    return torch.as_tensor(0.0 if trace is None else trace).to(weight).expand(spike.shape)


def _spikes(out: Any) -> Tensor:
    return (out[0] if isinstance(out, tuple) else out).detach()


def _weight(layer: Any) -> nn.Parameter:
    return layer.weight


def _is(layer: Any, *kinds: type) -> None:
    if not isinstance(layer, kinds):
        names = " or ".join(f"nn.{kind.__name__}" for kind in kinds)
        raise TypeError(
            f"STDP here takes the layer {names}, not {type(layer).__name__}. For another synapse: snf.learning.stdp_step."
        )
