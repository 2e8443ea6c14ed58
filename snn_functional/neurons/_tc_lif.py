"""Two-compartment LIF (TC-LIF): a dendrite that remembers, and a soma that fires.

    d, s        = dendrite[t-1] - spk[t-1] gamma, mem[t-1] - spk[t-1] threshold
    dendrite[t] = d - beta1 s + input[t]
    mem[t]      = s + beta2 dendrite[t]
    spk[t]      = S(mem[t] - threshold)

Neither leaks: the two drive each other, the soma holding the dendrite back, so that gradients reach far in time. A spike lowers both at
the beginning of the next step; the surrogate's gradient passes through it. The paper's beta1 is negative, here it is the size;
its program learns numbers of which beta1 and beta2 are the sigmoids: TcLifParams(torch.sigmoid(c1), torch.sigmoid(c2)).

Source: Zhang et al. 2023, arXiv:2308.13250, and the authors' program, github.com/ZhangShimin1/TC-LIF.
"""

from torch import Tensor

from .._neuron import admit, at_rest, Neuron, unit
from .._tree import Leaf, leaf, pytree, static
from ..surrogate import ATan, Spike


__all__ = ["TcLifParams", "TcLifState", "tc_lif_init", "tc_lif_step", "tc_lif"]


@pytree
class TcLifParams:
    """Each () or (neurons,). The defaults are the program's.

    - `beta1`: share of the soma that is taken off the dendrite each step, read as clamped to [0, 1].
    - `beta2`: share of the dendrite that is added to the soma each step, read as clamped to [0, 1].
    - `gamma`: what a spike takes off the dendrite, in units of the input.
    - `threshold`: the neuron fires above it; in units of the input.
    - `spike_grad`: a surrogate, or any callable on `mem - threshold`.
    """

    beta1: Leaf = leaf(default=0.5)
    beta2: Leaf = leaf(default=0.5)
    gamma: Leaf = leaf(default=0.5)
    threshold: Leaf = leaf(default=1.0)
    spike_grad: Spike = static(default=ATan())


@pytree
class TcLifState:
    """- `spk`: the last spikes. (batch, ..., neurons).
    - `dendrite`: the potential of the dendrite, in units of the input. (batch, ..., neurons).
    - `mem`: that of the soma. (batch, ..., neurons).
    """

    spk: Tensor
    dendrite: Tensor
    mem: Tensor


def tc_lif_init(params: TcLifParams, input: Tensor) -> TcLifState:
    """No spikes and both potentials at rest (0), shaped like one time step of `input`."""
    return TcLifState(spk=at_rest(params, input), dendrite=at_rest(params, input), mem=at_rest(params, input))


def tc_lif_step(params: TcLifParams, state: TcLifState, input: Tensor) -> tuple[Tensor, TcLifState]:
    """One time step. `input` and the spikes have the shape of `state.mem`."""
    input = admit(params, state, input)
    mem = state.mem - state.spk * params.threshold
    dendrite = state.dendrite - state.spk * params.gamma - unit(params.beta1) * mem + input
    mem = mem + unit(params.beta2) * dendrite
    spk = params.spike_grad(mem - params.threshold)
    return spk, TcLifState(spk, dendrite, mem)


tc_lif = Neuron(TcLifParams, TcLifState, tc_lif_init, tc_lif_step)
