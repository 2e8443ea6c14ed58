"""`snntorch.functional.loss`: each loss as an object made of its options, which `backprop` knows by its `__name__`.

loss_fn = ce_count_loss(population_code=True, num_classes=10)
loss = loss_fn(spk_out, targets)           # losses.ce_count_loss(spk_out, targets, population_code=True, num_classes=10)
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn, Tensor

from ... import losses


class LossFunctions:
    """A criterion: the options it was made with, as attributes, over a pure function of `snf.losses`, its `function`.

    For a criterion of your own, write a function `(spk_out, targets) -> loss`; nothing asks for this class.
    """

    function: Callable[..., Tensor]
    options: inspect.Signature = inspect.Signature()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = self.options.bind(*args, **kwargs)
        given.apply_defaults()
        losses.choose(type(self).__name__, **{k: v for k, v in given.arguments.items() if k in losses.CHOICES})
        self.__dict__.update(given.arguments)

    def __call__(self, spk_out: Tensor, targets: Tensor) -> Tensor:
        """The loss of outputs [T, batch, classes]; `targets` [batch]."""
        return self.function(spk_out, targets, **{name: getattr(self, name) for name in self.options.parameters})

    def __repr__(self) -> str:
        options = self.options.parameters.values()
        shown = [f"{p.name}={value!r}" for p in options if (value := getattr(self, p.name)) is not p.default]
        return f"{type(self).__name__}({', '.join(shown)})"


def criterion(function: Callable[..., Tensor]) -> type[LossFunctions]:
    """The face of a pure loss: its keyword-only options become the constructor's arguments, in their order."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    options = inspect.Signature([p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in parameters])
    name = function.__name__
    doc = f"`snntorch.functional.{name}`: called with (output, targets).\n\n{inspect.getdoc(function)}"
    body: dict[str, Any] = {"function": staticmethod(function), "options": options, "__signature__": options}
    body |= {"__name__": name, "__doc__": doc, "__module__": __name__}
    return type(name, (LossFunctions,), body)


ce_rate_loss = criterion(losses.ce_rate_loss)
ce_count_loss = criterion(losses.ce_count_loss)
ce_max_membrane_loss = criterion(losses.ce_max_membrane_loss)
mse_count_loss = criterion(losses.mse_count_loss)
mse_membrane_loss = criterion(losses.mse_membrane_loss)
mse_temporal_loss = criterion(losses.mse_temporal_loss)
ce_temporal_loss = criterion(losses.ce_temporal_loss)


class SpikeTime(nn.Module):
    """`snntorch.functional.SpikeTime`: called with (spk_out, targets), `(times, goals)` of `snf.losses.spike_time`."""

    def __init__(
        self, target_is_time: bool = False, on_target: Any = 0, off_target: Any = -1, tolerance: float = 0,
        multi_spike: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.target_is_time, self.on_target, self.off_target = target_is_time, on_target, off_target
        self.tolerance, self.multi_spike = tolerance, multi_spike

    def forward(self, spk_out: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        options = ("target_is_time", "on_target", "off_target", "tolerance", "multi_spike")
        return losses.spike_time(spk_out, targets, **{name: getattr(self, name) for name in options})
