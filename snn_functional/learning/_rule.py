"""An online learning rule is a step too, so `scan` streams it: memory does not grow with time, and no graph is kept.

    rule = rtrl(step, loss)                                    loss(output, target) -> scalar, of one time step
    grads, losses, state = rule(params, state, inputs, targets)          a whole sequence

    learning = rule.init(params, state)                        or piece by piece, the weights changing in between:
    for xs, ys in pieces:
        grads, losses, learning = rule(params, learning, xs, ys)
        params = tree_map(lambda p, g: p - lr * g, params, grads)
        learning = learning.forget()                           the gradient was used; state and traces stay

                                                               or step by step:
    loss, learning = rule.step(params, learning, (x, target))
    params = tree_map(lambda p, g: p - lr * g, params, learning.grad)
    learning = learning.forget()

The gradient is that of the sum of the losses over time. Sum or mean over the batch is the loss's own affair.

Rules are closed under `torch.func` (a rule can be differentiated: meta-learning). Outside of it nothing that autograd knows comes
in or leaves: params that require grad are taken as numbers.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._functorch import transforms
from .._neuron import Neuron
from .._scan import scan
from .._scan._door import admit
from .._tree import pytree, tree_flatten, tree_leaves, tree_map, tree_unflatten


Step = Callable[[Any, Any, Any], tuple[Any, Any]]
Loss = Callable[[Any, Any], Tensor]


@pytree
class LearningState:
    """- `state`: the network's. - `grad`: the gradient so far, a tree like params.
    - `traces`: what the rule carries from step to step; a 0-d zero stands for "nothing yet", of any shape.
    """

    state: Any
    grad: Any
    traces: Any

    def forget(self) -> "LearningState":
        """The same, the gradient back at zero."""
        return dataclasses.replace(self, grad=tree_map(torch.zeros_like, self.grad))


@dataclasses.dataclass(frozen=True)
class Rule:
    """What all rules share. A rule gives `traces` (at the beginning) and `learn` (one step).

    - `network`: the step that learns, `(params, state, x) -> (output, state)`.
    - `loss`: `(output, target) -> scalar`, of one time step.
    """

    network: Step
    loss: Loss

    def __post_init__(self) -> None:
        name = type(self).__name__
        for part, value in (("step", self.network), ("loss", self.loss)):
            if not callable(value) or isinstance(value, Neuron):
                hint = f" Give its step: {name}(neuron.step, loss)." if hasattr(value, "step") else ""
                raise TypeError(f"{name}(step, loss): {part} is called, but came as {type(value).__name__}.{hint}")

    def init(self, params: Any, state: Any) -> LearningState:
        """Before the first step: the network's state as it is given, no gradient, no traces.

        Raises TypeError for params that have no gradient, and what the rule says of networks that it does not take.
        """
        for leaf in tree_leaves(params):
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                what = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
                raise TypeError(
                    f"{type(self).__name__}: every leaf of params is a floating tensor, but {what} came. What is not learnt "
                    "belongs into the state, or into the step."
                )
        with without_graph():
            return LearningState(state, tree_map(torch.zeros_like, params), self.traces(params, state))

    def step(self, params: Any, learning: LearningState, input: Any) -> tuple[Tensor, LearningState]:
        """One time step, `input` is `(x, target)`: the loss, and what has been learnt."""
        if not isinstance(learning, LearningState):
            name = type(self).__name__
            raise TypeError(
                f"{name}.step(params, learning, (x, target)): learning is a LearningState, rule.init(params, state), not "
                f"{type(learning).__name__}."
            )
        x, target = input
        with without_graph():
            loss, state, grad, traces = self.learn(params, learning, x, target)
            return loss, LearningState(state, tree_map(torch.add, learning.grad, grad), traces)

    def __call__(self, params: Any, state: Any, inputs: Any, targets: Any) -> tuple[Any, Tensor, Any]:
        """`(grads, losses, state)`: the gradient of the summed losses, a tree like params; each step's loss [T]; the last state.

        - `state`: the network's; what the rule carries begins and ends with the call. Or a `LearningState`, which goes on: then the
          last one comes back, and `grads` are all since it was made, or made to forget. Only so a sequence may come in pieces.
        - `inputs`, `targets`: trees, time first. Raises as `scan` does for time axes that do not fit.
        """
        goes_on = isinstance(state, LearningState)
        learning, losses = state if goes_on else self.init(params, state), []
        admit(self.network, params, learning.state, (inputs, targets), None)
        for piece in moments((inputs, targets), lambda leaf: leaf.split(self.size)):
            some, learning = self.over_time(params, learning, piece)
            losses.append(some)
        return learning.grad, torch.cat(losses), learning if goes_on else learning.state

    @property
    def size(self) -> int:
        """How many steps are taken up at once: a view of each moment of a long sequence would cost more than what is learnt from."""
        return 100

    def over_time(self, params: Any, learning: LearningState, piece: Any) -> tuple[Tensor, LearningState]:
        """The losses of some steps, and what has been learnt."""
        return scan(self.step, params, learning, piece, kind="loop")

    def traces(self, params: Any, state: Any) -> Any:
        return ()

    def learn(self, params: Any, learning: LearningState, x: Any, target: Any) -> tuple[Tensor, Any, Any, Any]:
        """`(loss, state, gradient of this step, traces)`"""
        raise NotImplementedError

    def measured(self, output: Any, target: Any) -> Tensor:
        """The loss, once it is known to be one number."""
        loss = self.loss(output, target)
        if not isinstance(loss, Tensor) or loss.dim():
            came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(
                f"{type(self).__name__}: loss(output, target) is one number, a 0-d tensor, for each time step, but {came} came. "
                "Take its .sum() or .mean()."
            )
        if not loss.is_floating_point():
            raise TypeError(f"{type(self).__name__}: loss(output, target) is {loss.dtype}, which has no gradient.")
        return loss


def without_graph() -> Any:
    """A context that autograd does not see; within `torch.func.grad` and the like, which asked for it, it does."""
    asked = any(transform in ("Grad", "Jvp") for transform in transforms())
    return contextlib.nullcontext() if asked else torch.no_grad()


def floating(tree: Any) -> tuple[list[Tensor], Callable[[Any], Any]]:
    """The floating leaves, and the way back: the same tree with others in their place."""
    leaves, spec = tree_flatten(tree)

    def back(new: Any) -> Any:
        given = iter(new)
        return tree_unflatten(spec, [next(given) if leaf.is_floating_point() else leaf for leaf in leaves])

    return [leaf for leaf in leaves if leaf.is_floating_point()], back


def moments(tree: Any, cut: Callable[[Tensor], Any]) -> list[Any]:
    """The tree of each part that `cut` makes of the leaves' time axis."""
    leaves, spec = tree_flatten(tree)
    return [tree_unflatten(spec, moment) for moment in zip(*map(cut, leaves))]


def gradients(function: Callable[..., tuple[Tensor, Any]], *trees: Any) -> tuple[list[Any], Tensor, Any]:
    """Of `function(*trees) -> (number, rest)`: the gradients of the number by every tree (what is not floating stays), number, rest."""
    flat, form = [floating(tree) for tree in trees], []

    def of_leaves(*parts: list[Tensor]) -> Any:
        number, rest = function(*(back(part) for part, (_, back) in zip(parts, flat)))
        leaves, spec = tree_flatten(rest)
        form[:] = [spec]
        return number, (number, leaves)

    grad = torch.func.grad(of_leaves, argnums=tuple(range(len(trees))), has_aux=True)
    grads, (number, leaves) = grad(*(leaves for leaves, _ in flat))
    return [back(part) for part, (_, back) in zip(grads, flat)], number, tree_unflatten(form[0], leaves)
