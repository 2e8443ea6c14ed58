"""A network over all of time in one call: layer by layer instead of step by step.

The network is called once, under `vmap` over time. So every operation in it does at each step what it would do in the loop, whatever it
is: it sees the shapes of one step, other steps cannot reach it, what it draws is drawn for each step. What cannot be said for all steps
at once, a branch on values say, raises, and then the loop runs.

Only the layers that `vmap` must not, or need not, take apart get all of time in their hands, by the vmap rule of `_Layer`:

    a face                     one scan along the mapped axis
    convolutions and the like  one call, with time folded into the batch
    batch normalisation        in training, step by step: what it remembers goes from one to the next

A network that remembers anything but the states of its faces, running statistics and torch's generator is seen to do so, put back, and runs
as the loop.
"""

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn, Tensor

from .._functorch import is_compiling
from .._identity import generators, Held, Reach
from .._tree import tree_flatten, tree_unflatten
from ._memory import of_library
from ._stateful import Stateful
from .utils import _layers


ROWS = 4096  # samples times steps in a piece of time; half and twice that were as fast, all at once or few were slower


class Loop(Exception):
    """The network runs as the loop, and is as it was. The message says why."""


def layer_by_layer(net: nn.Module, xs: Tensor) -> Any:
    """What `net` returns for each step of `xs`, stacked; its faces hold their last states. Raises Loop."""
    if reason := obstacle(net) or _refused(net, xs):
        raise Loop(reason)
    drawn = generators()
    faces = list(_layers(net).values())
    states = [face._hidden for face in faces]
    batch = xs.shape[1] if xs.dim() > 2 else 1
    try:
        with _untouched(net, faces):
            # In pieces of time: what one layer leaves is still in the cache when the next one takes it up.
            pieces = [_Time(len(x)).all_at_once(net, x) for x in xs.split(max(1, ROWS // max(batch, 1)))]
        return joined(torch.cat, pieces)
    except Exception as error:  # whatever it is: the loop will say it better, or do without
        for face, state in zip(faces, states):
            face._hidden = state
        for held in drawn:
            held.restore()
        reason = str(error) if isinstance(error, Loop) else _said(error)
        if isinstance(error, Loop) or "vmap" in str(error):
            _loops.setdefault(net, {})[_form(net, xs)] = reason
        raise Loop(reason) from error


_loops: weakref.WeakKeyDictionary[nn.Module, dict[Any, str]] = weakref.WeakKeyDictionary()  # what was tried in vain


def _refused(net: nn.Module, xs: Tensor) -> str | None:
    """Why it was the loop when it was tried at such shapes. Nothing depends on that but time: the loop is always right."""
    known = _loops.get(net)
    return None if known is None else known.get(_form(net, xs))


def _form(net: nn.Module, xs: Tensor) -> Any:
    return xs.shape[1:], xs.dtype, xs.device, tuple(module.training for module in net.modules())


def _said(error: Exception) -> str:
    if "data-dependent control flow" in str(error):
        return "it branches on values, which differ from step to step"
    return f"all of time at once it fails, {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def obstacle(net: nn.Module) -> str | None:
    """What can be seen of a network without calling it."""
    if is_compiling():
        return "torch.compile is tracing"
    modules = list(net.modules())
    everywhere = nn.modules.module
    hooks = [everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks, everywhere._global_backward_hooks]
    hooks += [getattr(everywhere, "_global_backward_pre_hooks", {})]
    hooks += [
        h for m in modules for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
    ]
    if any(hooks):
        return "the network has hooks, which look at each step"
    if any(isinstance(m, Stateful) and not m.init_hidden for m in modules):
        return "a layer has its state outside (init_hidden=False)"
    return None


def joined(join: Any, parts: list[Any]) -> Any:
    columns = list(zip(*(tree_flatten(part)[0] for part in parts)))
    return tree_unflatten(tree_flatten(parts[0])[1], [join(column) for column in columns])


@contextmanager
def _untouched(net: nn.Module, faces: list[Stateful]) -> Iterator[None]:
    """Raises Loop if anything that the network reaches has changed, but for its faces' states. It is put back."""
    held: list[Held] = []
    written: list[tuple[Tensor, int, Tensor]] = []
    if not all(of_library(m) or type(m) is nn.Sequential for m in net.modules()):
        reach = Reach([(type(net).__name__, net)])
        if reach.opaque:
            raise Loop(f"it {reach.opaque}")
        # Running statistics are torch's own business, and go from step to step by the rule of their layer.
        own = {id(x) for m in net.modules() if of_library(m) for x in (*m.parameters(False), *m.buffers(False))}
        tensors = [x for x in reach.tensors if id(x) not in own and not x.is_inference()]
        written = [(x, x._version, x.detach().clone()) for x in tensors]
        held = [*reach.hold(), *(h for h in generators() if "torch" not in h.name and "CUDA" not in h.name)]
    states = [face._hidden for face in faces]
    changed: list[Held] = []
    try:
        yield
    finally:
        new = [face._hidden for face in faces]
        for face, state in zip(faces, states):
            face._hidden = state
        changed += [x for x in held if not x.same()]
        for x in reversed(changed):
            x.restore()
        moved = [(x, number) for x, version, number in written if x._version != version]
        with torch.no_grad():
            for x, number in moved:
                x.copy_(number)
        for face, state in zip(faces, new):
            face._hidden = state
    if changed:
        raise Loop(f"it changes {changed[0].name}")
    if moved:
        raise Loop("it writes into a tensor that it holds")


class _Time:
    """One piece of time."""

    def __init__(self, T: int) -> None:
        self.T = T
        self.seen: set[Stateful] = set()
        self.clock: Any = None  # the number of the step: what is mapped over time even where the input is not

    def all_at_once(self, net: nn.Module, xs: Tensor) -> Any:
        constant = self.T > 1 and xs.stride(0) == 0

        def step(x: Tensor, clock: Tensor) -> Any:
            self.clock = clock
            return net(x)

        every: Any = torch.func.vmap(step, in_dims=(None if constant else 0, 0), randomness="different")
        with self._within(net):
            return every(xs[0] if constant else xs, torch.arange(self.T, device=xs.device))

    def through(self, layer: Stateful, input_: Tensor) -> Any:
        """What the layer returns over all of time; its hidden state is the last one."""
        if layer in self.seen:
            raise Loop(f"a {type(layer).__name__} is called twice in a step")
        self.seen.add(layer)

        def scanned(x: Tensor, constant: bool) -> tuple[tuple[Tensor, ...], bool]:
            outputs, layer._hidden = layer._scanned(x.expand(self.T, *x.shape) if constant else x)
            return tuple(outputs), False

        outputs = _Layer.apply(scanned, self.clock, input_)
        return outputs if layer.output else outputs[0]

    def looked_at(self, layer: Stateful) -> None:
        """The network itself asks for a state, or sets it, which over all of time is not one state but many."""
        raise Loop(f"it looks at the state of a {type(layer).__name__} itself")

    @contextmanager
    def _within(self, net: nn.Module) -> Iterator[None]:
        replaced = []
        try:
            for module in net.modules():
                if isinstance(module, Stateful):
                    module._time = self
                elif rule := _rule(module):
                    replaced.append((module, module.__dict__.get("forward")))
                    module.forward = functools.partial(self._call, rule, module.forward, _axes(module))
            yield
        finally:
            for layer in _layers(net).values():
                layer._time = None
            for module, own in replaced:
                del module.forward
                if own is not None:
                    module.forward = own

    def _call(self, rule: Any, forward: Any, axes: int, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Tensor) or x.dim() < axes or args or kwargs:
            return forward(x, *args, **kwargs)
        return _Layer.apply(lambda x, constant: rule(forward, self.T, x, constant), self.clock, x)[0]


class _Layer(torch.autograd.Function):
    """`(rule, clock, x) -> outputs` of one step. All that it is, is its rule for all steps: `rule(xs, constant) -> (outputs, constant)`."""

    @staticmethod
    def forward(rule: Any, clock: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        raise Loop("a layer is called where time is not")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        rule, _, x = args
        if in_dims[1] is None:
            raise Loop("a layer is called under a vmap of the network's own")
        constant = in_dims[2] is None
        outputs, constant = rule(x if constant else x.movedim(in_dims[2], 0), constant)
        return outputs, (None if constant else 0,) * len(outputs)


Rule = Callable[[Any, int, Tensor, bool], tuple[tuple[Tensor, ...], bool]]


def _folded(forward: Any, T: int, x: Tensor, constant: bool) -> tuple[tuple[Tensor, ...], bool]:
    if constant:
        return (forward(x),), True
    return (forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]),), False


def _channels_last(forward: Any, T: int, x: Tensor, constant: bool) -> tuple[tuple[Tensor, ...], bool]:
    # On CPUs convolutions, and the pooling behind them, are up to ten times as fast with the channels last; faces take either.
    if x.device.type != "cpu":
        return _folded(forward, T, x, constant)
    last = lambda y: y.to(memory_format=torch.channels_last)
    return _folded(lambda y: last(forward(last(y))), T, x, constant)


def _each_step(forward: Any, T: int, x: Tensor, constant: bool) -> tuple[tuple[Tensor, ...], bool]:
    steps = [forward(step) for step in ([x] * T if constant else x.unbind(0))]
    # Of a constant input all steps are equal, but the running statistics have moved with each.
    return (steps[-1] if constant else torch.stack(steps),), constant


def _spread(forward: Any, T: int, x: Tensor, constant: bool) -> tuple[tuple[Tensor, ...], bool]:
    return _folded(forward, T, x.expand(T, *x.shape) if constant else x, False)


def _rule(module: nn.Module) -> Rule | None:
    """How this layer is called with all of time, if not as it stands."""
    if _statistics(module):
        return _each_step
    if module.training and isinstance(module, (nn.modules.dropout._DropoutNd, nn.RReLU)):
        return _spread
    if type(module) is nn.Conv2d:
        return _channels_last
    return _folded if type(module) in _PER_SAMPLE else None


def _statistics(module: nn.Module) -> bool:
    """Does it look at the other samples of a step?"""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.training and module.track_running_stats


_PER_SAMPLE = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip


def _axes(module: nn.Module) -> int:
    """How many axes one step must have for its first to be the batch."""
    digit = type(module).__name__[-2:-1]
    if type(module).__name__.startswith(("BatchNorm", "Dropout")) or not digit.isdigit():
        return 2
    return int(digit) + 2
