"""Spike-timing-dependent plasticity by traces: what fired together, and in which order, tells how a weight changes.

    trace_pre[t]  = decay_pre  trace_pre[t-1]  + pre[t]
    trace_post[t] = decay_post trace_post[t-1] + post[t]
    delta_w[t]    = f_post(weight) post[t] x trace_pre[t] - f_pre(weight) trace_post[t] x pre[t]

x is the sum, over the batch and over all places that share a weight, of the products of what the weight connects: for a dense
layer y^T x. In general it is the gradient of `synapse`'s weight, so that the rule holds for whatever is linear in its weight.

A weight grows where a spike follows a trace (f_post) and shrinks where a spike comes too late (f_pre). Both spikes of one step
count in both terms. A decay is 1 - 1/tau for the forward Euler method, exp(-1/tau) for the exact solution.

    params = StdpParams(weight, decay_pre=0.5, decay_post=0.5)
    state = stdp_init(params, (pres[0], posts[0]))
    delta_ws, state = snf.scan(stdp_step, params, state, (pres, posts))          delta_ws [T, *weight.shape]

For each sample's own change, the eligibility of reward-modulated STDP: `torch.func.vmap(stdp_step, in_dims=(None, 0, 0))`.

Source: Morrison, Diesmann and Gerstner 2008 (traces); `snntorch.functional.stdp_learner` 1.0.0, to rounding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._tree import Leaf, leaf, pytree, static


def same(weight: Tensor) -> Tensor:
    """The weight itself: changes in proportion to it."""
    return weight


@pytree
class StdpParams:
    """- `weight`: what changes. For a dense synapse (post neurons, pre neurons).
    - `decay_pre`, `decay_post`: share of a trace kept each step. () or what broadcasts to the trace.
    - `f_pre`, `f_post`: how much a change depends on the weight, elementwise: `f(weight)` has its shape.
    - `synapse`: `synapse(pre, weight) -> post's shape`, linear in the weight.
    """

    weight: Tensor
    decay_pre: Leaf = leaf(default=0.5)
    decay_post: Leaf = leaf(default=0.5)
    f_pre: Callable[[Tensor], Tensor] = static(default=same)
    f_post: Callable[[Tensor], Tensor] = static(default=same)
    synapse: Callable[[Tensor, Tensor], Tensor] = static(default=torch.nn.functional.linear)


@pytree
class StdpState:
    """- `trace_pre`: like one time step of the presynaptic spikes. - `trace_post`: of the postsynaptic ones."""

    trace_pre: Tensor
    trace_post: Tensor


def stdp_init(params: StdpParams, spikes: tuple[Tensor, Tensor]) -> StdpState:
    """No spike yet: traces of 0, shaped like one time step of `(pre, post)`."""
    pre, post = spikes
    dtype = params.weight.dtype
    return StdpState(torch.zeros_like(pre, dtype=dtype), torch.zeros_like(post, dtype=dtype))


def stdp_step(params: StdpParams, state: StdpState, spikes: tuple[Tensor, Tensor]) -> tuple[Tensor, StdpState]:
    """One time step: the change of the weight (its shape), and the new traces. The weight itself stays.

    `spikes`: `(pre, post)`, [batch, ..., pre neurons] and [batch, ..., post neurons]; one sample without a batch will do.

    Raises ValueError for spikes that do not fit the traces, or each other through the synapse.
    """
    pre, post = (spike.to(params.weight.dtype) for spike in spikes)
    for name, spike, trace in (("pre", pre, state.trace_pre), ("post", post, state.trace_post)):
        if spike.shape != trace.shape:
            raise ValueError(
                f"stdp_step: {name} has shape {tuple(spike.shape)}, its trace {tuple(trace.shape)}. For another batch start "
                "anew: stdp_init(params, (pre, post))."
            )
    trace_pre = params.decay_pre * state.trace_pre + pre
    trace_post = params.decay_post * state.trace_post + post
    grows = params.f_post(params.weight) * _products(params, trace_pre, post)
    shrinks = params.f_pre(params.weight) * _products(params, pre, trace_post)
    return grows - shrinks, StdpState(trace_pre, trace_post)


def _products(params: StdpParams, pre: Tensor, post: Tensor) -> Tensor:
    """What each weight connects, multiplied and summed."""
    pair: Any = torch.func.vjp(lambda weight: params.synapse(pre, weight), params.weight)
    through, back = pair
    if through.shape != post.shape:
        raise ValueError(
            f"stdp_step: through the weight {tuple(params.weight.shape)}, pre {tuple(pre.shape)} reaches {tuple(through.shape)}, "
            f"but post has shape {tuple(post.shape)}."
        )
    return back(post)[0]
