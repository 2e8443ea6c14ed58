"""The door for `lengths`, how many of a batch's T steps each sample has: one check for all that take them."""

from typing import Any

import torch
from torch import Tensor

from ._functorch import readable


def check_lengths(call: str, lengths: Any, T: int, batch: tuple[int, ...] | None = None, least: int = 0) -> Tensor:
    """`lengths`, if they are a tensor of whole numbers from `least` to T, of the shape `batch` where that is known.

    Raises TypeError for what is none, ValueError for a shape or a number that does not fit. Numbers are looked at where that can be.
    """
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        came = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        help = {torch.bool: " It is a mask already.", "list": " Give torch.tensor(lengths)."}.get(came, "")
        if isinstance(lengths, Tensor) and lengths.is_floating_point():
            help = " Give lengths.long(), where they count steps."
        raise TypeError(f"{call}: lengths is a tensor of whole numbers [batch], but {came} came.{help}")
    if batch is not None and tuple(lengths.shape) != tuple(batch):
        raise ValueError(
            f"{call}: lengths is {tuple(lengths.shape)}; expected {tuple(batch)}, one a sample of [T, batch, ...] with time first."
        )
    if readable(lengths) and lengths.numel():
        low, high = int(lengths.min()), int(lengths.max())
        if high > T:
            raise ValueError(f"{call}: a length is {high}, but there are {T} steps.")
        if low < least:
            raise ValueError(f"{call}: a length is {low}; expected {least} to {T} steps.")
    return lengths
