"""`snn.AssociativeLeaky`: the matrix memory, with the layers that write to it and read from it."""

import math
from typing import Any

from torch import nn, Tensor

from .._linear_scan import Kind, linear_scan
from .._scan import scan
from ..neurons import associative_leaky
from ..neurons._associative_leaky import project
from ._parallel import Whole
from ._recurrent import _connection
from ._stateful import _fitted


class AssociativeLeaky(Whole):
    """`snntorch.AssociativeLeaky` over `associative_leaky_step`: a memory of d_value x d_key membranes, exact at any length.

        y = layer(x)                    [T, batch, in_dim] -> [T, batch, d_value * d_key] spikes
                                        [T, batch, d_value * d_value] with `use_q_projection`: spikes (d, n) times queries (n, d)

    - `to_v`, `to_k`, `to_alpha`, `to_q`: the layers that make values, keys, decays (before the sigmoid) and queries of x.
    - `num_spiking_neurons`: d_value * d_key, and nothing else; may be left out.
    - `kind`: as in `linear_scan`.

    Raises ValueError for sizes that are not positive, or that contradict each other.
    """

    def __init__(self, in_dim, d_value, d_key, num_spiking_neurons=None, use_q_projection=True, *, kind: Kind = "auto"):
        super().__init__()
        for name, size in (("in_dim", in_dim), ("d_value", d_value), ("d_key", d_key)):
            if not size > 0:
                raise ValueError(f"AssociativeLeaky({name}={size}): {name} must be a positive integer.")
        if num_spiking_neurons not in (None, d_value * d_key):
            raise ValueError(
                f"AssociativeLeaky(num_spiking_neurons={num_spiking_neurons}): must equal d_value * d_key = {d_value * d_key}. It "
                "may be left out."
            )
        self.in_dim, self.d_value, self.d_key = in_dim, d_value, d_key
        self.kind: Kind = kind
        self.num_spiking_neurons, self.use_q_projection = d_value * d_key, use_q_projection
        self.to_v, self.to_k, self.to_alpha = (nn.Linear(in_dim, size) for size in (d_value, d_key, d_key))
        self.to_q = nn.Linear(in_dim, d_value * d_key) if use_q_projection else None

    @classmethod
    def from_num_spiking_neurons(cls, in_dim, num_spiking_neurons, use_q_projection=True):
        """A square memory, d_value = d_key. Raises ValueError where the number of neurons is no square."""
        side = math.isqrt(max(num_spiking_neurons, 0))
        if side < 1 or side * side != num_spiking_neurons:
            raise ValueError(
                f"AssociativeLeaky.from_num_spiking_neurons(num_spiking_neurons={num_spiking_neurons}): must be a perfect square, "
                "as 16 for d_value = d_key = 4."
            )
        return cls(in_dim, side, side, num_spiking_neurons, use_q_projection)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [T, batch, in_dim]."""
        x = self._admit(x, self.in_dim, 3, self.to_v.weight.dtype)
        params = self.params()
        if self.kind == "parallel":
            value, key, decay = project(params, x)
            spk = self.fire(linear_scan(decay, value * key, kind=self.kind))
        else:
            rest = associative_leaky.State(x.new_zeros((), dtype=self.to_v.weight.dtype))
            # What can be one kernel is one; the products run once over all of time.
            kind = "auto" if self.kind == "fused" else self.kind
            spk = self._graded(scan(associative_leaky.step, params, rest, x, kind=kind)[0])
        if self.to_q is not None:
            spk = spk @ self.to_q(x).unflatten(-1, (self.d_key, self.d_value))
        return spk.flatten(-2)

    def params(self) -> Any:
        """The Params of `associative_leaky_step`, as they are now."""
        leaves = [
            *map(_connection, (self.to_v, self.to_k, self.to_alpha)),
            _fitted(self.threshold, self.to_v.weight.dtype),
        ]
        return associative_leaky.Params.__rebuild__(leaves, (self.spike_grad,))
