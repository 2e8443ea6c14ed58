"""`snntorch.backprop`: one epoch of training in one call.

    loss = backprop.BPTT(net, loader, optimizer, criterion, num_steps=25, time_var=False)

- `BPTT`: one update a batch, after its last time step.
- `TBPTT`: one update every K steps; between them the graph is cut and the hidden states go on. What is left over at the end of a
  sequence, T mod K steps, is one more update.
- `RTRL`: TBPTT with K=1. (snnTorch's name; no sensitivities are carried forward.)

The arguments are those of snnTorch 1.0.0; called by position, those of 0.4.11 (without `time_first`) and of 0.4.6 to 0.4.10
(`net, dataloader, num_steps, optimizer, criterion, time_var, ...`) are understood too.

- `net`: gives `(spk, ..., mem)` for one time step; every neuron layer has `init_hidden=True`, the last one `output=True`.
- `dataloader`: pairs (data, targets); data [T, batch, ...], with `time_first=False` [batch, T, ...], with `time_var=False`
  [batch, ...], which is fed `num_steps` times.
- `criterion(outputs, targets)`: a scalar, from the outputs of the last K steps [K, batch, ...]: the membranes if its name (its
  `__name__`, or its class's) holds "membrane", else the spikes. With a true attribute `time_var_targets` it is given the same K
  steps of the targets [T, batch, ...].
- `regularization(outputs)`: is added to the loss; it is fed by the same rule.
- `K`: the steps between two updates; False for all of them.

Returns the epoch's mean loss: over the batches, and in each over its time steps. 0-d, without a graph.

Raises ValueError for `num_steps` with, and its lack without, time-varying data, for a K above `num_steps`, for layers without
`init_hidden`, time-varying targets of another length, and a loader without batches; TypeError for what is no optimizer, no
criterion, no pair of tensors, no `(spk, ..., mem)`, no scalar.

Source: snnTorch 1.0.0: with the same surrogate and criterion the same weights bit for bit, where it runs (#191 and others).
"""

import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn, Tensor

from .utils import _layers, reset


def _any_order(function: Any) -> Any:
    """Takes positional arguments in the order of any snnTorch since 0.4.6."""
    order = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        names = list(order)
        steps_first = len(args) > 2 and isinstance(args[2], int)
        if steps_first:
            names.insert(2, names.pop(names.index("num_steps")))
        seventh, eighth = (*args[6:8], None, None)[:2]  # time_first, regularization; before, regularization, device
        if steps_first or callable(seventh) or isinstance(eighth, (str, torch.device)):
            names.remove("time_first")
        if len(args) > len(names) or set(names[: len(args)]) & set(kwargs):
            return function(*args, **kwargs)  # Python's own error
        given = dict(zip(names, args)) | kwargs
        if steps_first and given.get("time_var", True):  # there num_steps goes with time-varying data too
            given["dataloader"] = _first(given["dataloader"], given.pop("num_steps"), given.get("time_first", True))
        return function(**given)

    return call


@_any_order
def TBPTT(
    net: nn.Module, dataloader: Iterable[Any], optimizer: Any, criterion: Any, num_steps: int | bool = False,
    time_var: bool = True, time_first: bool = True, regularization: Any = False, device: Any = "cpu", K: int | bool = 1,
) -> Tensor:  # fmt: skip
    """One epoch of backpropagation through time, truncated to `K` steps. The module's docstring tells the arguments."""
    _check(net, optimizer, criterion, num_steps, time_var, K)
    net.to(device)
    total, batches = torch.zeros((), device=device), 0
    for batch in dataloader:
        data, targets = (part.to(device) for part in _pair(batch))
        xs = (data if time_first else data.transpose(0, 1)).unbind(0) if time_var else (data,) * num_steps
        moving = getattr(criterion, "time_var_targets", False)
        if moving and len(targets) != len(xs):
            raise ValueError(
                f"The criterion has time_var_targets, so targets are time first, as many as the data's {len(xs)} steps; "
                f"{tuple(targets.shape)} came. For [batch, T, ...] give targets.transpose(0, 1)."
            )
        net.train()
        reset(net)
        chunk = K or len(xs)
        for start in range(0, len(xs), chunk):
            part = slice(start, start + chunk)
            goal = targets[part] if moving else targets
            loss = _update(net, xs[part], goal, optimizer, criterion, regularization)
            total = total + loss / (len(xs) / len(xs[part]))
        batches += 1
    if not batches:
        raise ValueError("The dataloader gave no batch. One that is an iterator is used up after an epoch.")
    return total / batches


def _without_K(function: Any) -> Any:
    """Has the arguments of `TBPTT`, but for K."""
    signature = inspect.signature(TBPTT)
    function.__signature__ = signature.replace(parameters=[p for n, p in signature.parameters.items() if n != "K"])
    return function


@_without_K
def BPTT(*args: Any, **kwargs: Any) -> Tensor:
    """One epoch of backpropagation through all of time. The module's docstring tells the arguments."""
    return TBPTT(*args, **kwargs, K=False)


@_without_K
def RTRL(*args: Any, **kwargs: Any) -> Tensor:
    """One epoch with an update at each time step: TBPTT with K=1. The module's docstring tells the arguments."""
    return TBPTT(*args, **kwargs, K=1)


def _update(net: nn.Module, xs: Any, targets: Tensor, optimizer: Any, criterion: Any, regularization: Any) -> Tensor:
    """One update by the steps `xs`; on return their graph is gone, but not the hidden states."""
    outputs = [_outputs(net(x)) for x in xs]
    loss = criterion(_fed(criterion, outputs), targets)
    if regularization:
        loss = loss + regularization(_fed(regularization, outputs))
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f'criterion(outputs, targets) gives one number, as with reduction="mean"; {came} came.')
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for layer in _layers(net).values():
        layer.detach_hidden()
    return loss.detach().reshape(())


def _fed(criterion: Any, outputs: list[tuple[Tensor, Tensor]]) -> Tensor:
    name = getattr(criterion, "__name__", type(criterion).__name__)
    spks, mems = zip(*outputs)
    return torch.stack(mems if "membrane" in name.lower() else spks)


def _outputs(out: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(out, (tuple, list)) or len(out) < 2:
        raise TypeError(
            f"net(x) gives (spk, ..., mem) for one time step, not {type(out).__name__}. Make its last layer with "
            "output=True: snn.Leaky(beta=0.9, init_hidden=True, output=True)."
        )
    return out[0], out[-1]


def _pair(batch: Any) -> Any:
    if not isinstance(batch, (tuple, list)) or [isinstance(part, Tensor) for part in batch] != [True, True]:
        came = [type(part).__name__ for part in batch] if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"The dataloader gives pairs of tensors (data, targets), not {came}.")
    return batch


def _first(dataloader: Iterable[Any], num_steps: Any, time_first: bool) -> Iterator[Any]:
    """The first `num_steps` of time-varying data."""
    axis = 0 if time_first else 1
    for batch in dataloader:
        data, targets = _pair(batch)
        if num_steps > data.size(axis):
            raise ValueError(f"num_steps={num_steps}, but the data {tuple(data.shape)} has {data.size(axis)} steps.")
        yield data.narrow(axis, 0, num_steps or data.size(axis)), targets


def _check(net: Any, optimizer: Any, criterion: Any, num_steps: Any, time_var: Any, K: Any) -> None:
    explicit = [name for name, layer in _layers(net).items() if not layer.init_hidden]
    if explicit:
        raise ValueError(f"Every neuron layer needs init_hidden=True, to go on from step to step; {explicit} lack it.")
    if not hasattr(optimizer, "zero_grad") or not callable(criterion):
        raise TypeError(
            f"Expected an optimizer and a criterion, but {type(optimizer).__name__} and {type(criterion).__name__} came: "
            "BPTT(net, dataloader, optimizer, criterion, num_steps=25, time_var=False)."
        )
    if num_steps and time_var:
        raise ValueError(
            f"num_steps={num_steps} came with time_var=True: the data's time axis tells the steps. Leave num_steps out, or "
            "give time_var=False for data [batch, ...] that is fed num_steps times."
        )
    if not time_var and (num_steps is True or not isinstance(num_steps, int) or num_steps < 1):
        raise ValueError(
            f"num_steps={num_steps!r}: data that is fed again at each step (time_var=False) needs a count."
        )
    if K is not False and (K is True or not isinstance(K, int) or K < 1):
        raise ValueError(f"K={K!r}: expected the number of steps between two updates, or False for all of them.")
    if num_steps and K > num_steps:
        raise ValueError(f"K={K} must be less than or equal to num_steps={num_steps}.")
