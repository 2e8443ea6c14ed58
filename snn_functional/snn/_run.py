"""`run(net, xs)`: a network of faces over a whole sequence, layer by layer instead of step by step.

A network that feeds forward may finish its first layer for all of time before it begins the second: one product or convolution a
layer, then one scan. Nothing is taken apart for it. The network is called once, with time folded into the batch [T * batch, ...]; a
face unfolds what reaches it, scans, and folds the spikes again. So any module will do, a Sequential or one with a forward
of its own, as long as samples of a batch do not meet in it; layers where they do (batch normalisation in training) are run
step by step by themselves. An input that is constant in time stays one step long until the first face.

What is not made of layers that are known to be so is rehearsed first: a copy of it, at random states, must do in three steps what
the loop does. Otherwise the loop it is.
"""

import copy
import dataclasses
import functools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn, Tensor

from .._functorch import outside, transforms
from .._tree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from ._calls import (
    along_the_first_axis,
    forgets,
    loops_itself,
    on_a_copy,
    remembering,
    several_steps,
    takes_all_of_time,
    watched,
)
from ._memory import of_library, STATE
from ._stateful import Stateful
from .utils import _layers


def run(net: nn.Module, xs: Tensor) -> Any:
    """What the loop returns, stacked over time, and what it leaves behind: the hidden state after the last step.

        spks = snn.run(net, xs)             spks = torch.stack([net(x) for x in xs])

    - `xs`: time first, [T, batch, ...]. For an input that is the same at every step give `x.expand(T, *x.shape)`.
    - `net`: any module that takes one step x [batch, ...], its faces with `init_hidden=True`. Its hidden state goes on from where it
      is: call `snn.utils.reset(net)` between batches, as for the loop.

    The same numbers as the loop's to the rounding of larger matrix products. Dropout draws a mask for each step, but layer by layer.
    A network that is recurrent across layers, or whose samples meet, or that has hooks, runs step by step; `explain` says so.

    Raises TypeError and ValueError for what is no sequence of tensors, TypeError for a face that has no state from one step to the next,
    and for a net whose own forward holds the time loop.
    """
    _admit(net, xs)
    if _obstacle(net, xs) is None:
        held = _held(net)
        try:
            return _layer_by_layer(net, xs)
        except _Meet:
            _put_back(held)
    begun = _first_steps(net, xs)
    return _joined(torch.stack, [*begun, *(net(x) for x in xs[len(begun) :].unbind(0))])


def _first_steps(net: nn.Module, xs: Tensor) -> list[Any]:
    """What the net returns in the first step, or in the first two. Raises TypeError for a net that is seen to take no steps of time."""
    faces, held = _layers(net), _held(net)
    refusal = functools.partial(loops_itself, "snn.run(net, xs)", net)
    otherwise = "torch.stack([net(x) for x in xs])"
    try:
        with remembering(faces) as first:
            returned = [net(xs[0])]
    except Exception as error:
        if takes_all_of_time(xs, lambda x: on_a_copy(net, x)):
            _put_back(held)
            raise refusal(None, otherwise) from error
        raise
    if several_steps(first):
        loops = along_the_first_axis(first, xs[0], lambda x: on_a_copy(net, x))
        if not loops and len(xs) > 1:
            with watched(faces) as second:
                returned.append(net(xs[1]))
            loops = forgets(first, second)
        if loops:
            _put_back(held)
            raise refusal(first, otherwise)
    return returned


def _held(net: nn.Module) -> dict[Stateful, Any]:
    return {layer: layer._hidden for layer in _layers(net).values()}


def _put_back(held: dict[Stateful, Any]) -> None:
    for layer, hidden in held.items():
        layer._hidden = hidden


ROWS = 4096  # samples times steps in a piece of time; half and twice that were as fast, all at once or few were slower


def explain(net: nn.Module, xs: Tensor) -> str:
    """How `run` would run this network on such a sequence, and why; the network is left as it is."""
    _admit(net, xs)
    reason = _obstacle(net, xs)
    return "layer by layer: each layer runs once over all of time." if reason is None else f"step by step: {reason}."


def _layer_by_layer(net: nn.Module, xs: Tensor) -> Any:
    # In pieces of time: what one layer leaves is still in the cache when the next one takes it up.
    batch = xs.shape[1]
    pieces = [_Time(len(x), batch).all_at_once(net, x) for x in xs.split(max(1, ROWS // max(batch, 1)))]
    return _joined(torch.cat, pieces)


class _Meet(Exception):
    """Steps or samples meet, so that layers cannot run one after the other. The message says where."""


@dataclasses.dataclass
class _Time:
    """Time, folded into the batch."""

    T: int
    batch: int
    seen: set[Any] = dataclasses.field(default_factory=set)

    def all_at_once(self, net: nn.Module, xs: Tensor) -> Any:
        constant = self.T > 1 and xs.stride(0) == 0
        with self._within(net):
            return tree_map(self.unfolded, net(xs[0] if constant else xs.flatten(0, 1)))

    def through(self, layer: Stateful, input_: Tensor) -> Any:
        """What the layer returns over all of time; its hidden state is the last one."""
        if layer in self.seen:
            raise _Meet(f"a {type(layer).__name__} is called twice in a step")
        self.seen.add(layer)
        outputs, layer._hidden = layer._scanned(self.unfolded(input_))
        outputs = tuple(x.flatten(0, 1) for x in outputs)
        return outputs if layer.output else outputs[0]

    def unfolded(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor) or not x.dim() or x.shape[0] not in (self.batch, self.T * self.batch):
            raise _Meet("the batch does not stay the first axis")
        constant = x.shape[0] == self.batch
        return x.expand(self.T, *x.shape) if constant else x.unflatten(0, (self.T, self.batch))

    @contextmanager
    def _within(self, net: nn.Module) -> Iterator[None]:
        replaced = []
        try:
            for module in net.modules():
                if isinstance(module, Stateful):
                    module._time = self
                elif otherwise := self._otherwise(module):
                    replaced.append((module, module.__dict__.get("forward")))
                    module.forward = functools.partial(otherwise, module.forward)
            yield
        finally:
            for layer in _layers(net).values():
                layer._time = None
            for module, own in replaced:
                del module.forward
                if own is not None:
                    module.forward = own

    def _otherwise(self, module: nn.Module) -> Any:
        """How this layer is called, if not as it stands."""
        if _statistics(module):
            return self._each_step
        if _random(module):
            return self._spread
        return _channels_last if type(module) is nn.Conv2d else None

    def _each_step(self, forward: Any, x: Tensor) -> Tensor:
        steps = [forward(step) for step in self.unfolded(x).unbind(0)]
        # Of a constant input all steps are equal, but the running statistics have moved with each.
        return steps[-1] if x.shape[0] == self.batch else torch.cat(steps)

    def _spread(self, forward: Any, x: Tensor) -> Tensor:
        return forward(self.unfolded(x).flatten(0, 1))


def _channels_last(forward: Any, x: Tensor) -> Tensor:
    # On CPUs convolutions, and the pooling behind them, are up to ten times as fast with the channels last; faces take either.
    if x.dim() != 4 or x.device.type != "cpu" or "Vmap" in transforms():
        return forward(x)
    return forward(x.to(memory_format=torch.channels_last)).to(memory_format=torch.channels_last)


def _statistics(module: nn.Module) -> bool:
    """Does it look at the other samples of a step?"""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.training and module.track_running_stats


def _random(module: nn.Module) -> bool:
    return module.training and isinstance(module, (nn.modules.dropout._DropoutNd, nn.RReLU))


def _admit(net: Any, xs: Any) -> None:
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"snn.run(net, xs): net is a module, not {type(net).__name__}. For a pure step: snf.scan(step, ...)."
        )
    if not isinstance(xs, Tensor):
        raise TypeError(f"snn.run(net, xs): xs is one tensor [T, batch, ...], not {type(xs).__name__}.")
    if xs.dim() == 0 or xs.shape[0] == 0:
        raise ValueError(
            f"snn.run(net, xs): xs has shape {tuple(xs.shape)}; expected [T, batch, ...] with at least one step. For T equal steps "
            "give x.expand(T, *x.shape)."
        )


def _obstacle(net: nn.Module, xs: Tensor) -> str | None:
    """Why not layer by layer."""
    if xs.dim() < 3:
        return f"xs {tuple(xs.shape)} has no axis for the batch beside time and features"
    modules = list(net.modules())
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules):
        return "the network has hooks, which look at each step"
    if any(isinstance(m, Stateful) and not m.init_hidden for m in modules):
        return "a layer has its state outside (init_hidden=False)"
    if all(_known(m) and not _unbatched(m, xs) for m in modules) and len(
        list(net.named_modules(remove_duplicate=False))
    ) == len(modules):
        return None
    key = (xs.shape[1:], xs.dtype, xs.device, *((id(m), tuple(_settings(m).items())) for m in modules))
    kept = _rehearsed.setdefault(net, {})
    if key not in kept:
        if len(kept) > 100:  # a setting that is a counter
            kept.clear()
        kept[key] = _rehearse(net, xs)
    return kept[key]


_rehearsed: weakref.WeakKeyDictionary[nn.Module, dict[Any, str | None]] = weakref.WeakKeyDictionary()

_PER_SAMPLE = (
    nn.Identity, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Softplus,
    nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.LSTMCell,  # inside a face, which runs it
)  # fmt: skip


def _known(module: nn.Module) -> bool:
    """Are samples kept apart, for sure? For subclasses nobody knows."""
    if isinstance(module, (nn.Flatten, nn.Sequential)):
        return type(module) is nn.Sequential or (type(module) is nn.Flatten and module.start_dim == 1)
    if isinstance(module, nn.LayerNorm):
        return type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    return (isinstance(module, Stateful) and of_library(module)) or type(module) in _PER_SAMPLE


def _unbatched(module: nn.Module, xs: Tensor) -> bool:
    """Would it take the axis of the batch for channels? Conv2d and the like do, of a step with one axis too few."""
    *_, axes, d = f"..{type(module).__name__}"
    return (
        d == "d" and axes.isdigit() and not type(module).__name__.startswith("BatchNorm") and xs.dim() < 3 + int(axes)
    )


def _settings(module: nn.Module) -> dict[str, Any]:
    """The plain values among its attributes, on which its forward may depend."""
    plain = (bool, int, float, str, type(None), torch.dtype)
    return {name: x for name, x in vars(module).items() if isinstance(x, plain) and name not in STATE}


def _rehearse(net: nn.Module, xs: Tensor) -> str | None:
    """Three steps both ways, from the same random states between spiking and not."""
    devices = [xs.device] if xs.device.type == "cuda" else []
    with outside(), torch.no_grad(), torch.random.fork_rng(devices):
        try:
            torch.manual_seed(0)
            given = torch.rand(4, *xs.shape[1:]).to(xs.device, xs.dtype) * 2
            slow = copy.deepcopy(net)
            for module in slow.modules():
                if isinstance(module, nn.modules.dropout._DropoutNd):
                    module.p = 0.0
            for p in slow.parameters():  # a gate that is zero, as it was made, hides what it will let through
                if p.is_floating_point():
                    p.copy_(torch.where(p == 0, torch.rand_like(p) + 0.1, p))
            slow(given[0])
            for layer in _layers(slow).values():
                layer._hidden = tree_map(lambda x, layer=layer: torch.randn_like(x) + layer.threshold, layer._hidden)
            fast = copy.deepcopy(slow)
            expected = _joined(torch.stack, [slow(x) for x in given[1:]])
        except Exception as error:
            return f"it cannot be rehearsed, {_brief(error)}"
        try:
            found = _Time(3, xs.shape[1]).all_at_once(fast, given[1:])
        except _Meet as reason:
            return str(reason)
        except Exception as error:
            return f"it is recurrent across layers, or samples meet in it: layer by layer it fails, {_brief(error)}"
    left = [_left(twin) for twin in (fast, slow)]
    pairs = list(zip(tree_leaves((found, left[0])), tree_leaves((expected, left[1]))))
    if any(a.shape != b.shape for a, b in pairs) or any(_apart(a, b) for a, b in pairs):
        return "it is recurrent across layers, or samples meet in it: layer by layer it gives something else"
    if any(_settings(a) != _settings(b) for a, b in zip(fast.modules(), slow.modules())):
        return "it counts its steps in an attribute"
    return None


def _left(twin: nn.Module) -> list[Any]:
    """What its forward left behind: hidden states, running statistics, and whatever it writes to."""
    return [layer._hidden for layer in _layers(twin).values()] + list(twin.parameters()) + list(twin.buffers())


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _apart(a: Tensor, b: Tensor) -> bool:
    apart = ~torch.isclose(a.double(), b.double(), rtol=1e-3, atol=1e-4)
    return int(apart.sum()) > apart.numel() // 100  # a rounding may tip a spike, but seldom does


def _joined(join: Any, parts: list[Any]) -> Any:
    columns = list(zip(*(tree_flatten(part)[0] for part in parts)))
    return tree_unflatten(tree_flatten(parts[0])[1], [join(column) for column in columns])
