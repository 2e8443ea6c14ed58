"""snnTorch's layers that are no neurons: a learned size for each neuron's spikes, and batch normalization through time."""

from typing import Any

import torch
from torch import nn, Tensor


class GradedSpikes(nn.Module):
    """Spikes of a learned size, one for each neuron: y = x * weights.

    - `size`: the number of neurons. `weights`: (size, 1), as in snnTorch's checkpoints.
    - `constant_factor`: where all weights start; None (or False) draws them from U(0.5, 1.5), with `generator` if given.

    `x`: [..., size], each neuron (feature) times its own weight; a column [..., size, 1] is taken too.

    Raises ValueError for any other shape, and for a size below 1.

    Source: snnTorch 1.0.0, which multiplies the samples of a batch [batch, size] instead of its neurons, or fails, and reads
    `constant_factor=0` as None.
    """

    def __init__(self, size: int, constant_factor: float | None, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(
                f"GradedSpikes(size={size}): expected the number of neurons, as in GradedSpikes(100, 1.0)."
            )
        self.size = size
        if constant_factor is None or constant_factor is False:
            weights = torch.rand(size, 1, generator=generator) + 0.5
        else:
            weights = torch.ones(size, 1) * constant_factor
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., size], times the weights."""
        weights = self.weights.to(x.dtype) if x.is_floating_point() else self.weights
        if x.shape[-1:] == (self.size,):
            return x * weights.squeeze(1)
        if x.shape[-2:] == (self.size, 1):
            return x * weights
        raise ValueError(
            f"GradedSpikes(size={self.size}) takes spikes [..., {self.size}], but {tuple(x.shape)} came. Neurons on another axis "
            "go last: layer(x.movedim(axis, -1)).movedim(-1, axis)."
        )


class BatchNormTT(nn.ModuleList):
    """What `BatchNormTT1d` and `BatchNormTT2d` make: a list with a layer for each time step. It is not called itself."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Raises NotImplementedError, as a ModuleList does, that shows the call of one step's layer."""
        kind = type(self[0]).__name__.replace("BatchNorm", "BatchNormTT") if len(self) else "BatchNormTT"
        raise NotImplementedError(
            f"{kind} holds {len(self)} layers, one for each time step, and cannot be called itself: with bn = {kind}(features, "
            f"time_steps={len(self)}), call bn[t](x) in step t, or for norm, x in zip(bn, xs): norm(x)."
        )


def BatchNormTT1d(
    input_features: int, time_steps: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
) -> BatchNormTT:
    """Batch normalization through time: `time_steps` layers `nn.BatchNorm1d(input_features)`, one for each step, without bias.

        norms = snn.BatchNormTT1d(100, num_steps)
        for norm, x in zip(norms, xs):                      xs [T, batch, features] (or [T, batch, features, length])
            spk, mem = lif(norm(fc(x)), mem)

    Raises ValueError for fewer than one step.

    Source: Kim and Panda 2020, arXiv:2010.01729; snnTorch 1.0.0.
    """
    return _through_time(nn.BatchNorm1d, input_features, time_steps, eps, momentum, affine)


def BatchNormTT2d(
    input_features: int, time_steps: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
) -> BatchNormTT:
    """As `BatchNormTT1d`, of `nn.BatchNorm2d`: for images, xs [T, batch, channels, height, width]."""
    return _through_time(nn.BatchNorm2d, input_features, time_steps, eps, momentum, affine)


def _through_time(Norm: Any, features: int, time_steps: int, eps: float, momentum: float, affine: bool) -> BatchNormTT:
    if time_steps < 1:
        raise ValueError(
            f"BatchNormTT(input_features, time_steps={time_steps}): expected a layer for each step, 1 or more."
        )
    norms = BatchNormTT(Norm(features, eps=eps, momentum=momentum, affine=affine) for _ in range(time_steps))
    for norm in norms:
        norm.register_parameter("bias", None)
    return norms
