"""Real-time recurrent learning: the exact gradient, forwards in time.

    J[t] = D[t] J[t-1] + F[t]                              D = d state[t] / d state[t-1],  F = d state[t] / d params
    d loss[t] = d loss[t]/d state[t-1] J[t-1] + d loss[t]/d params

The influence J = d state / d params is carried along instead of the past. It is as large as state times params, for any step; where
no neuron's state reaches another's, all but one entry a neuron and weight are zero and the rest is carried alone (`_local.py`).

Source: Williams and Zipser 1989, doi:10.1162/neco.1989.1.2.270; for spiking neurons Zenke and Neftci 2021, doi:10.1109/JPROC.2020.3045625.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from .._tree import tree_flatten, tree_unflatten
from ._local import is_exact, learn, nothing
from ._rule import floating, LearningState, Rule


@dataclasses.dataclass(frozen=True)
class rtrl(Rule):
    """Equal to backpropagation through time, to rounding, in memory that does not grow with T.

        grads, losses, state = rtrl(leaky_step, loss)(params, state, inputs, targets)

    - any step: memory O(state x params), the batch included in the state. For small networks, recurrent ones too.
    - one pointwise neuron, or a `chain` with one: functions, `linear`, the neuron, and after it what has no state: memory
      O(batch x weights). Pointwise is what `explain` calls so: no neuron sees another.
    """

    def traces(self, params: Any, state: Any) -> Any:
        if is_exact(self.network, params, state):
            return nothing(self.network, params, state)
        return torch.cat([leaf.reshape(-1) for tree in (params, state) for leaf in floating(tree)[0]]).new_zeros(())

    def learn(self, params: Any, learning: LearningState, x: Any, target: Any) -> tuple[Tensor, Any, Any, Any]:
        if not isinstance(learning.traces, Tensor):
            return learn(self, params, learning, x, target)
        theta, to_params = _vector(params, learning.traces)
        memory, to_state = _vector(learning.state, learning.traces)

        form: list[Any] = []

        def after(theta: Tensor, memory: Tensor) -> tuple[Tensor, list[Tensor]]:
            """The new state, and the loss as one number more; and both as they came."""
            output, state = self.network(to_params(theta), to_state(memory), x)
            results, spec = tree_flatten((self.measured(output, target), state))
            form[:] = [spec]
            return torch.cat([_vector(state, theta)[0], results[0].reshape(1).to(theta.dtype)]), results

        if not len(theta):  # nothing to learn
            _, results = after(theta, memory)
            loss, state = tree_unflatten(form[0], results)
            return loss, state, to_params(theta), learning.traces
        before = learning.traces.expand(len(memory), len(theta))
        if len(theta) <= len(memory):
            every = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
            along = lambda direction, column: jvp(after, (theta, memory), (direction, column), has_aux=True)[1:]
            # What is drawn at random is drawn once, for all directions.
            sweep: Any = vmap(along, in_dims=(0, 1), out_dims=(1, 0), randomness="same")
            rows, results = sweep(every, before)
            results = [x[0] for x in results]
        else:
            pulled: Any = vjp(after, theta, memory, has_aux=True)
            new, back, results = pulled
            F, D = vmap(back)(torch.eye(len(new), dtype=theta.dtype, device=theta.device))
            rows = F + D @ before
        loss, state = tree_unflatten(form[0], results)
        return loss, state, to_params(rows[-1]), rows[:-1]


def _vector(tree: Any, like: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The floating leaves as one vector of `like`'s dtype, and the way back."""
    leaves, back = floating(tree)

    def tree_of(vector: Tensor) -> Any:
        parts = vector.split([leaf.numel() for leaf in leaves])
        return back([part.view(leaf.shape).to(leaf.dtype) for part, leaf in zip(parts, leaves)])

    return torch.cat([like.new_zeros(0), *(leaf.reshape(-1).to(like.dtype) for leaf in leaves)]), tree_of
