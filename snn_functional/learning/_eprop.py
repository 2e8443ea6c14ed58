"""Eligibility propagation: what a weight has done to its own neuron, times what this moment's loss says to that neuron.

    gradient of W_ji += sum_t L_j[t] e_ji[t]

e is the eligibility trace: the influence of the weight on the neuron that it leads to, carried forwards, through the neuron's own
states only. L is the learning signal: how this step's loss depends on the neuron, through the layers above it and in this step
only. Left out is what goes through other neurons' spikes in later steps. No neuron needs to know more than its own past and L, the
memory is O(batch x weights), and it does not grow with T.

Where the readout leaks, the paper filters the eligibility traces with the readout's leak. That is no case of its own: filter the spikes,
`filtered(neuron)`, before a readout that only multiplies, which is the same as to multiply first and leak then.

Source: Bellec et al. 2020, Nature Communications 11:3625, doi:10.1038/s41467-020-17236-y.
"""

import dataclasses
from typing import Any

from torch import Tensor

from ..kernels import Unsupported
from ._local import learn, local_cells, nothing
from ._rule import LearningState, Rule


@dataclasses.dataclass(frozen=True)
class eprop(Rule):
    """E-prop for a `chain` of `linear` layers, functions and pointwise neurons, of any depth; `recurrent(neuron)` with a `Linear` V too.

        net = chain(linear, filtered(recurrent(leaky)), linear)
        grads, losses, state = eprop(net.step, loss)(params, state, inputs, targets)

    Equal to backpropagation through time for one layer of neurons that does not feed back to itself, to rounding.

    Raises ValueError for other networks: neurons that see each other, convolutions, functions between a connection and its neuron.
    """

    def traces(self, params: Any, state: Any) -> Any:
        try:
            local_cells(self.network, params, state)
        except Unsupported as reason:
            raise ValueError(
                f"eprop(step, loss): {reason}. It takes a chain of linear layers, each before a pointwise neuron or "
                "recurrent(neuron), and functions before them. rtrl, sltt and tbptt take any step."
            ) from None
        return nothing(self.network, params, state)

    def learn(self, params: Any, learning: LearningState, x: Any, target: Any) -> tuple[Tensor, Any, Any, Any]:
        return learn(self, params, learning, x, target)


def aligned(x: Tensor, weight: Tensor, feedback: Tensor) -> Tensor:
    """`x` weight^T, whose gradient with respect to `x` comes back through `feedback` instead: feedback alignment.

    - `x`: [..., in]. `weight`, `feedback`: (out, in). Returns [..., out]. The weight's own gradient is as usual; feedback has none.

    Random feedback is the learning signal of random e-prop. Source: Lillicrap et al. 2016, Nature Communications 7:13276.
    """
    back = x @ feedback.detach().T
    return x.detach() @ weight.T + (back - back.detach())
