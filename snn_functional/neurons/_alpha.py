"""Alpha: an input raises the membrane along an alpha function, the difference of two exponentials.

    R[t]       = H(mem[t-1] - threshold)
    tau        = log(alpha) / (log(beta) - log(alpha)) + 1
    E          = alpha syn_exc[t-1] + input[t]
    I          = beta syn_inh[t-1] - input[t]
    U          = tau (E + I)
    syn_exc[t], syn_inh[t], mem[t] = (1 - R[t]) (E, I, U)                                               "zero"
                                     E - R threshold, I - R (beta syn_inh[t-1] - input[t]), U + R syn_inh[t-1]    "subtract"
                                     E, I, U                                                            "none"
    spk[t]     = S(mem[t] - threshold)

An input at t shows in the membrane from t + 1. "subtract" is snnTorch 1.0.0's, number for number: it is not a subtraction
of the threshold, and on that step mem differs from tau (syn_exc + syn_inh). "zero" is the default there and here.

Source: `snntorch.Alpha` 1.0.0, bit for bit.
"""

import torch
from torch import Tensor

from .._functorch import readable
from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, fires, Spike


__all__ = ["AlphaParams", "AlphaState", "alpha_init", "alpha_step", "alpha"]


@pytree
class AlphaParams:
    """- `alpha`: share of the excitatory current kept each step, read as clamped to [0, 1]; above `beta`. () or (neurons,).
    - `beta`: share of the inhibitory current kept each step, read as clamped to [0, 1], below 1. () or (neurons,).
    - `threshold`: the neuron fires above it; in units of the input. () or (neurons,).
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    - `reset_mechanism`: "zero", "subtract" or "none".

    Raises ValueError where alpha <= beta or beta == 1: there is no alpha function then.
    """

    alpha: Leaf
    beta: Leaf
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())
    reset_mechanism: str = static(default="zero", choices=("subtract", "zero", "none"))

    def __check__(self) -> None:
        if not (readable(self.alpha) and readable(self.beta)):
            return
        if bool((self.alpha <= self.beta).any()):
            raise ValueError(f"alpha must be greater than beta. AlphaParams got alpha={self.alpha}, beta={self.beta}.")
        if bool((self.beta == 1).any()):
            raise ValueError(
                "beta cannot be 1 in AlphaParams: tau = log(alpha) / (log(beta) - log(alpha)) + 1 needs less."
            )


@pytree
class AlphaState:
    """- `syn_exc`: excitatory current. (batch, ..., neurons).
    - `syn_inh`: inhibitory current. (batch, ..., neurons).
    - `mem`: membrane potential. (batch, ..., neurons). All in units of the input.
    """

    syn_exc: Tensor
    syn_inh: Tensor
    mem: Tensor


def alpha_init(params: AlphaParams, input: Tensor) -> AlphaState:
    """Currents and membrane at rest (0), shaped like one time step of `input`."""
    return AlphaState(syn_exc=at_rest(params, input), syn_inh=at_rest(params, input), mem=at_rest(params, input))


def alpha_step(params: AlphaParams, state: AlphaState, input: Tensor) -> tuple[Tensor, AlphaState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    alpha, beta, threshold = unit(params.alpha), unit(params.beta), params.threshold
    reset = fires(state.mem - threshold)
    tau = torch.log(alpha) / (torch.log(beta) - torch.log(alpha)) + 1
    exc = alpha * state.syn_exc + input
    inh = beta * state.syn_inh - input
    mem = tau * (exc + inh)
    if params.reset_mechanism == "subtract":
        exc, inh, mem = exc - threshold * reset, inh - inh * reset, mem + state.syn_inh * reset
    elif params.reset_mechanism == "zero":
        exc, inh, mem = exc - exc * reset, inh - inh * reset, mem - mem * reset
    return params.spike_grad(mem - threshold), AlphaState(exc, inh, mem)


alpha = Neuron(AlphaParams, AlphaState, alpha_init, alpha_step)
