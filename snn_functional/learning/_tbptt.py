"""Gradients by backpropagation within a piece of time.

Truncated backpropagation through time: the gradient within a chunk, the state carried from chunk to chunk as a number.

    rule = tbptt(step, loss, chunk=20)
    grads, losses, state = rule(params, state, inputs, targets)          chunk >= T is backpropagation through time itself

Its step takes a chunk, of any length, where the other rules' take one moment:

    learning = rule.init(params, state)
    losses, learning = rule.step(params, learning, (xs, targets))        xs [chunk, batch, ..., neurons]

Memory grows with the chunk, not with T. Source: Williams and Peng 1990, doi:10.1162/neco.1990.2.4.490.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .._scan import scan
from .._scan._door import admit
from ._rule import gradients, LearningState, moments, Rule


@dataclasses.dataclass(frozen=True)
class tbptt(Rule):
    """- `chunk`: how many steps the gradient sees back, at most. T need not be a multiple: the last chunk is what is left."""

    chunk: int = dataclasses.field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.chunk, int) or self.chunk < 1:
            raise ValueError(f"tbptt(step, loss, chunk={self.chunk!r}): expected a number of steps, 1 or more.")

    @property
    def size(self) -> int:
        return self.chunk

    def over_time(self, params: Any, learning: LearningState, piece: Any) -> tuple[Tensor, LearningState]:
        return self.step(params, learning, piece)

    def learn(self, params: Any, learning: LearningState, x: Any, target: Any) -> tuple[Tensor, Any, Any, Any]:
        length = admit(self.network, params, learning.state, (x, target), None)

        def total(params: Any) -> Any:
            outputs, state = scan(self.network, params, learning.state, x, length=length)
            losses = [self.measured(*moment) for moment in moments((outputs, target), Tensor.unbind)]
            return torch.stack(losses).sum(), (torch.stack(losses), state)

        (grad,), _, (losses, state) = gradients(total, params)
        return losses, state, grad, ()


@dataclasses.dataclass(frozen=True)
class sltt(Rule):
    """Spatial learning through time: of the gradient only what passes through this moment, layer by layer, is kept.

        grad += d loss[t] / d params          with the state before t taken as a number

    It is `tbptt` of chunk 1, for any step: no traces, the least memory and time of all rules.

    Source: Meng et al. 2023, ICCV, arXiv:2302.14311 (SLTT; its K random moments are a choice of which steps to take).
    """

    def learn(self, params: Any, learning: LearningState, x: Any, target: Any) -> tuple[Tensor, Any, Any, Any]:
        def now(params: Any) -> Any:
            output, state = self.network(params, learning.state, x)
            return self.measured(output, target), state

        (grad,), loss, state = gradients(now, params)
        return loss, state, grad, ()
