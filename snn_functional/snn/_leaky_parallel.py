"""`snn.LeakyParallel`: the weights of an nn.RNN, run by `scan`."""

from typing import Any

import torch
from torch import nn, Tensor

from .._connections import Linear
from .._neuron import unit
from .._scan import scan
from ..neurons import leaky_parallel, state_leaky
from ._parallel import Whole
from ._recurrent import _bias
from ._stateful import _fitted


class LeakyParallel(Whole):
    """`snntorch.LeakyParallel` over `leaky_parallel_step`: a recurrent network of rectified units that fire.

        spk = layer(input_)             [T, batch, input_size] -> [T, batch, hidden_size]; unbatched [T, input_size] too

    - `beta`: the decay, () or (hidden_size,), clamped to [0, 1] always, also while it is learned. None leaves the RNN's random
      weights, of any sign.
    - `weight_hh_enable`: False for each neuron to itself; True for a matrix between all, each row of which begins at beta.
    - `learn_beta`: learn the recurrent weights.
    - `rnn`: the weights, drawn and named as an nn.RNN's. Of `rnn.weight_hh_l0` only the diagonal is used, unless
      `weight_hh_enable`.

    Raises ValueError for a beta of another shape, for a `dropout`, which an RNN of one layer never applies, and for what is no
    sequence of `input_size`.
    """

    def __init__(
        self, input_size, hidden_size, beta=None, bias=True, threshold=1.0, dropout=0.0, spike_grad=None,
        surrogate_disable=False, learn_beta=False, learn_threshold=False, graded_spikes_factor=1.0,
        learn_graded_spikes_factor=False, weight_hh_enable=False, device=None, dtype=None,
    ):  # fmt: skip
        super().__init__(
            threshold, spike_grad, surrogate_disable, learn_threshold, graded_spikes_factor, learn_graded_spikes_factor
        )
        if dropout:
            raise ValueError(
                f"LeakyParallel(dropout={dropout}): an RNN of one layer drops nothing. Put nn.Dropout({dropout}) after the layer."
            )
        self.input_size, self.hidden_size, self.weight_hh_enable = input_size, hidden_size, weight_hh_enable
        rnn = nn.RNN(input_size, hidden_size, nonlinearity="relu", bias=bias, device=device, dtype=dtype)
        self.rnn: Any = nn.ParameterDict(rnn.named_parameters())  # torch.compile does not look into an RNN
        self._clamped = beta is not None
        weight = self.rnn.weight_hh_l0.requires_grad_(learn_beta)
        with torch.no_grad():
            if beta is not None:
                beta = state_leaky.Params(beta).beta
                if beta.shape not in ((), (1,), (hidden_size,)):
                    raise ValueError(
                        f"LeakyParallel(beta of shape {tuple(beta.shape)}): expected a number, or one for each neuron, "
                        f"({hidden_size},)."
                    )
                weight.copy_(beta.clamp(0, 1).reshape(-1, 1).expand(weight.shape))
            if not weight_hh_enable:
                weight.mul_(torch.eye(hidden_size, dtype=weight.dtype, device=weight.device))

    @property
    def beta(self) -> Tensor | None:
        """The decays in use, (hidden_size,); None where `weight_hh_enable` makes them a matrix."""
        if self.weight_hh_enable:
            return None
        beta = torch.diagonal(self.rnn.weight_hh_l0)
        return unit(beta) if self._clamped else beta

    def forward(self, input_: Tensor) -> Tensor:
        """`input_` [T, batch, input_size] or [T, input_size]: the spikes."""
        params = self.params()
        x = self._admit(input_, self.input_size, 2, params.input.weight.dtype)
        rest = leaky_parallel.State(x.new_zeros((), dtype=params.input.weight.dtype))
        return self._graded(scan(leaky_parallel.step, params, rest, x)[0])

    def params(self) -> Any:
        """The Params of `leaky_parallel_step`, as they are now."""
        rnn, beta = self.rnn, self.beta
        weight, recurrent = rnn.weight_ih_l0, rnn.weight_hh_l0
        bias = rnn.bias_ih_l0 + rnn.bias_hh_l0 if "bias_ih_l0" in rnn else _bias(None, weight)
        make: Any = Linear
        connections = [make.__rebuild__([weight, bias], ()), make.__rebuild__([recurrent, _bias(None, recurrent)], ())]
        leaves = [connections[0], connections[1] if beta is None else beta, _fitted(self.threshold, weight.dtype)]
        return leaky_parallel.Params.__rebuild__(leaves, (self.spike_grad,))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        rest = {
            key: x for key, x in state_dict.items() if key != prefix + "beta"
        }  # snnTorch's: the weights are in `rnn`
        super()._load_from_state_dict(rest, prefix, *args, **kwargs)
