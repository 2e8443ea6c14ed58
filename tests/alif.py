"""A neuron of one's own, from public names alone: that of docs/CONTRIBUTING.md, nearly, which raises its threshold with every spike.

    R[t]     = H(mem[t-1] - threshold - adapt[t-1])
    mem[t]   = beta mem[t-1] + input[t] - R[t] threshold
    adapt[t] = rho adapt[t-1] + jump R[t]
    spk[t]   = S(mem[t] - threshold - adapt[t])

Source: Bellec et al. 2018, arXiv:1803.09574, with the reset of `leaky`.
"""

from torch import Tensor

import snn_functional as snf


@snf.pytree
class AlifParams:
    beta: snf.Leaf
    rho: snf.Leaf = snf.leaf(default=0.95)
    jump: snf.Leaf = snf.leaf(default=0.3)
    threshold: snf.Leaf = snf.leaf(default=1.0)
    spike_grad: snf.surrogate.Spike = snf.static(default=snf.surrogate.ATan())


@snf.pytree
class AlifState:
    mem: Tensor
    adapt: Tensor


def alif_init(params, input):
    return AlifState(mem=snf.at_rest(params, input), adapt=snf.at_rest(params, input))


def alif_step(params, state, input):
    input = snf.admit(params, state, input)
    reset = snf.surrogate.fires(state.mem - params.threshold - state.adapt)
    mem = params.beta * state.mem + input - reset * params.threshold
    adapt = params.rho * state.adapt + params.jump * reset
    return params.spike_grad(mem - params.threshold - adapt), AlifState(mem, adapt)


alif = snf.Neuron(AlifParams, AlifState, alif_init, alif_step)
