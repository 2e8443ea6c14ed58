"""Sequences of different lengths in one batch."""

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._lengths import check_lengths
from .._names import Shown
from .._tree import tree_map
from ._modifier import Modifier, Step


def valid_steps(lengths: Tensor, T: int) -> Tensor:
    """The steps that each sample has, of `T`: bool [T, batch], True in the first `lengths` [batch] of them.

    Raises TypeError for lengths that are no whole numbers, ValueError for one below 0 or beyond T.

    >>> valid_steps(torch.tensor([1, 3]), 3)
    tensor([[ True,  True],
            [False,  True],
            [False,  True]])
    """
    check_lengths(f"valid_steps(lengths, T={T})", lengths, T)
    return torch.arange(T, device=lengths.device).reshape(T, *[1] * lengths.dim()) < lengths


@dataclasses.dataclass(frozen=True, repr=False)
class masked(Modifier, metaclass=Shown):
    """Where a sample is over, its state stands still and its output is 0: padding changes nothing, whatever numbers are in it.

        state[t]  = the step's  if valid, else state[t-1]
        output[t] = the step's  if valid, else 0                                    of an input (x, valid)

        net = masked(chain(linear, leaky, linear, leaky))
        inputs = xs, valid_steps(lengths, len(xs))                                  [T, batch, ...], bool [T, batch]
        spks, state = scan(net.step, params, net.init(params, (xs[0], inputs[1][0])), inputs)
        rates = spks.sum(0) / lengths[:, None]                                      a mean over each sample's own steps

    The last state is each sample's own last, so a sum over time is a sum over what is valid. `valid` may have a hole: a step that was
    not seen. Params and state are the neuron's, or the chain's. Takes any step; x may be any tree, output and state are trees whose
    leaves have the batch in front, as `valid` has it. Raises TypeError for an input that is no pair, ValueError for a leaf without
    the batch: running statistics of a normalization (evaluate it, `module.eval()`), which would count the padding.
    """

    step: Step

    _more: ClassVar[str] = (
        "Lengths are part of the input: inputs = xs, valid_steps(lengths, len(xs)), and scan(net.step, params, "
        "net.init(params, (xs[0], inputs[1][0])), inputs)."
    )

    def rest(self, init: Any, params: Any, input: Any) -> Any:
        x, valid = self._pair(input)
        state = init(params, x)
        tree_map(lambda leaf: self._kept(valid, leaf, leaf), state)
        return state

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, Any]:
        x, valid = self._pair(input)
        output, new = self.step(params, state, x)
        new = tree_map(lambda now, before: self._kept(valid, now, before), new, state)
        return tree_map(lambda leaf: self._kept(valid, leaf, torch.zeros_like(leaf)), output), new

    def _help(self, valid: Tensor, now: Tensor) -> str:
        if valid.dim() == 2 and now.dim() > 0 and now.shape[0] in valid.shape:
            turned = "" if valid.shape[1] == now.shape[0] else ".T"
            return f"One step of it is meant, [batch]: of a mask [{'batch, T' if turned else 'T, batch'}] that is mask{turned}[0]."
        if valid.dim() == 1 and now.dim() > 1:
            return (
                f"One step of valid is [batch], ({now.shape[0]},) here. Time comes first, as valid_steps(lengths, T) makes it; of a mask "
                "[batch, T] take mask.T, [T, batch]. What all samples share, running statistics say, cannot stand still for one."
            )
        return "Expected the batch in front of each. What all samples share, running statistics say, cannot stand still for one of them."

    def _pair(self, input: Any) -> tuple[Any, Tensor]:
        if not isinstance(input, tuple) or len(input) != 2 or getattr(input[1], "dtype", None) != torch.bool:
            came = type(input).__name__
            if isinstance(input, tuple) and len(input) == 2:
                came = f"a pair with valid of {getattr(input[1], 'dtype', type(input[1]).__name__)}"
            raise TypeError(
                f"masked: the input is a pair (x, valid) with a bool tensor valid [batch], not {came}. For each step "
                "valid_steps(lengths, T) makes one of lengths."
            )
        return input

    def _kept(self, valid: Tensor, now: Tensor, otherwise: Tensor) -> Tensor:
        if now.shape[: valid.dim()] != valid.shape:
            raise ValueError(
                f"masked: valid has shape {tuple(valid.shape)}, but a tensor of the state or output has {tuple(now.shape)}. "
                + self._help(valid, now)
            )
        return torch.where(valid.reshape(valid.shape + (1,) * (now.dim() - valid.dim())), now, otherwise)
