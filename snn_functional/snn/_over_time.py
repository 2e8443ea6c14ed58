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

import dis
import functools
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn, Tensor

from .._functorch import is_compiling
from .._identity import contents, generators, Held, library, Reach, restore
from .._tree import tree_flatten, tree_unflatten
from ._memory import of_library
from ._stateful import Stateful
from .utils import _layers


ROWS = 4096  # samples times steps in a piece of time; half and twice that were as fast, all at once or few were slower


class Loop(Exception):
    """The network runs as the loop, and is as it was. The message says why."""


def layer_by_layer(net: nn.Module, xs: Tensor) -> Any:
    """What `net` returns for each step of `xs`, stacked; its faces hold their last states. Raises Loop."""
    return _attempted(net, xs, keep=True)


def trial(net: nn.Module, xs: Tensor) -> str | None:
    """Why not layer by layer, as two steps show; None if nothing is in the way. The network is put back."""
    try:
        with torch.no_grad():
            _attempted(net, xs[:2].detach(), keep=False)
    except Loop as reason:
        return str(reason)
    return None


def _attempted(net: nn.Module, xs: Tensor, keep: bool) -> Any:
    if reason := obstacle(net) or _refused(net, xs):
        raise Loop(reason)
    before = Before(net)
    batch = xs.shape[1] if xs.dim() > 2 else 1
    try:
        # In pieces of time: what one layer leaves is still in the cache when the next one takes it up.
        pieces = [before.piece(net, x) for x in xs.split(max(1, ROWS // max(batch, 1)))]
        result = joined(torch.cat, pieces)
    except Exception as error:  # whatever it is: the loop will say it better, or do without
        before.put_back()
        if "view size is not compatible" in str(error) and net not in _in_order:
            _in_order.add(net)  # channels_last is not for this one
            return _attempted(net, xs, keep)
        reason = str(error) if isinstance(error, Loop) else _said(error)
        if isinstance(error, Loop) or "vmap" in str(error) or "view" in str(error):
            _loops.setdefault(net, {})[_form(net, xs)] = reason
        raise Loop(reason) from error
    if not keep:
        before.put_back()
    return result


_in_order: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # nets that look at how a convolution's result lies in memory
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


class Before:
    """A network as it is before all of time goes through it, to be compared with what it is then, and put back."""

    def __init__(self, net: nn.Module) -> None:
        self.faces = list(_layers(net).values())
        self.states = [face._hidden for face in self.faces]
        self.drawn = generators()
        # Running statistics go from step to step by the rule of their layer.
        ruled = {id(x): x for m in net.modules() if _rule(m) is _each_step for x in m.buffers(False)}
        self.statistics = [(x, x.detach().clone()) for x in ruled.values()]
        self.held: list[Held] = []
        self.written: list[tuple[Tensor, int, Tensor]] = []
        self.watchful = not all(_is_known(m) for m in net.modules())
        if not self.watchful:
            return
        reach = Reach([(type(net).__name__, net)])
        if reach.opaque:
            raise Loop(f"it {reach.opaque}")
        if looks := looks_at(net):
            raise Loop(f"its forward uses {looks}, which is another for all of time at once")
        self.held = [*reach.hold(), *(h for h in self.drawn if "torch" not in h.name and "CUDA" not in h.name)]
        tensors = {id(x): x for x in (*reach.tensors, *net.parameters(), *net.buffers()) if id(x) not in ruled}
        if any(x.is_inference() for x in tensors.values()):
            raise Loop("it holds a tensor of inference mode, of which nobody knows when it is written to")
        self.written = [(x, x._version, x.detach().clone()) for x in tensors.values()]

    def piece(self, net: nn.Module, x: Tensor) -> Any:
        """What the network returns for a piece of time. Raises Loop if anything that it reaches has changed, but for its faces' states."""
        given, version = (x.detach().clone(), x._version) if self.watchful else (x, 0)
        time = _Time(len(x), channels_last=net not in _in_order)
        try:
            returned = time.all_at_once(net, x)
        finally:
            if self.watchful and x._version != version:
                with torch.no_grad():
                    x[0].copy_(given[0]) if x.stride(0) == 0 else x.copy_(given)
                raise Loop("it writes into its input")
        time.check()
        self._check()
        return returned

    def _check(self) -> None:
        new = [face._hidden for face in self.faces]
        self._hide(self.states)
        changed = [x.name for x in self.held if not x.same()]
        self._hide(new)
        if changed:
            raise Loop(f"it changes {changed[0]}")
        if any(x._version != version for x, version, _ in self.written):
            raise Loop("it writes into a tensor that it holds")

    def put_back(self) -> None:
        self._hide(self.states)
        restore([*self.drawn, *self.held])
        with torch.no_grad():
            for x, version, number in self.written:
                if x._version != version:
                    x.copy_(number)
            for x, number in self.statistics:
                x.copy_(number)

    def _hide(self, states: list[Any]) -> None:
        for face, state in zip(self.faces, states):
            face._hidden = state


# What a tensor, or a module, answers otherwise while all of time goes through at once, or tells nobody that it was asked.
LOOKS_AT = frozenset(
    """requires_grad grad_fn is_leaf register_hook retain_grad is_contiguous stride as_strided storage_offset data data_ptr numpy
    storage untyped_storage _hidden state_dict load_state_dict manual_seed seed set_rng_state get_rng_state fork_rng checkpoint
    named_buffers""".split()
)


def looks_at(net: nn.Module) -> str | None:
    """The first such name in the code of the user's forwards, their methods and helpers."""
    seen: set[Any] = set()
    waiting: list[tuple[Any, nn.Module]] = [(m.forward, m) for m in net.modules() if not of_library(m)]
    while waiting:
        function, module = waiting.pop()
        function = getattr(function, "__func__", function)
        code = getattr(function, "__code__", None)
        if code is None or code in seen or library(function.__globals__.get("__name__")):
            continue
        seen.add(code)
        names = names_in(code)
        if found := sorted(names & LOOKS_AT):
            return found[0]
        if "an except clause" in names:
            return "an except clause"
        held = [getattr(module, name, None) for name in names] + [function.__globals__.get(name) for name in names]
        held += [contents(cell) for cell in function.__closure__ or ()]
        waiting += [(value, module) for value in held if isinstance(value, (types.FunctionType, types.MethodType))]
    return None


@functools.lru_cache(4096)
def names_in(code: types.CodeType) -> frozenset[str]:
    names = set(code.co_names) | {c for x in code.co_consts if isinstance(x, types.CodeType) for c in names_in(x)}
    if any(step.opname in ("CHECK_EXC_MATCH", "JUMP_IF_NOT_EXC_MATCH") for step in dis.get_instructions(code)):
        names.add("an except clause")
    return frozenset(names)


class _Time:
    """One piece of time."""

    def __init__(self, T: int, channels_last: bool) -> None:
        self.T, self.channels_last = T, channels_last
        self.seen: set[nn.Module] = set()
        self.outputs: list[tuple[Tensor, int]] = []  # of faces, whose states they may be
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
            self.outputs += [(y, y._version) for y in outputs if not y.is_inference()]
            return tuple(outputs), False

        outputs = _Layer.apply(scanned, self.clock, input_)
        return outputs if layer.output else outputs[0]

    def check(self) -> None:
        if any(y._version != version for y, version in self.outputs):
            raise Loop("it writes into what a layer returned, which may be the layer's state")

    def looked_at(self, layer: Stateful) -> None:
        """The network itself asks for a state, or sets it, which over all of time is not one state but many."""
        raise Loop(f"it looks at the state of a {type(layer).__name__} itself")

    @contextmanager
    def _within(self, net: nn.Module) -> Iterator[None]:
        modules = list(net.modules())
        if any(m._time is not None for m in modules if isinstance(m, Stateful)):
            raise Loop("it is run within its own forward")
        hidden: dict[nn.Module, Any] = {}
        try:
            for module in modules:
                if isinstance(module, Stateful):
                    module._time = self
                elif rule := _rule(module):
                    if rule is _each_step:  # its statistics are many, one a step: whoever asks for them meets nothing
                        hidden[module] = dict(module._buffers)
                        module._buffers.update(dict.fromkeys(module._buffers))
                    module.forward = functools.partial(self._call, module, rule, module.forward, hidden.get(module))
            yield
        finally:
            for module in modules:
                if isinstance(module, Stateful):
                    module._time = None
                elif isinstance(module.__dict__.get("forward"), functools.partial):
                    del module.forward
                if module in hidden:
                    module._buffers.update(hidden[module])

    def _call(self, module: nn.Module, rule: Any, forward: Any, buffers: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        plain = isinstance(x, Tensor) and x.dim() >= _axes(module) and not args and not kwargs
        if _rule(module, statistics=buffers is not None) is not rule:
            raise Loop(f"it switches a {type(module).__name__} between training and evaluation")
        if buffers is not None:
            if module in self.seen or not plain:
                raise Loop(f"a {type(module).__name__} is called twice in a step, or without a batch")
            self.seen.add(module)
        elif not plain:
            return forward(x, *args, **kwargs)

        def ruled(x: Tensor, constant: bool) -> tuple[tuple[Tensor, ...], bool]:
            if buffers is None:
                return rule(forward, self, x, constant)
            module._buffers.update(buffers)
            try:
                return rule(forward, self, x, constant)
            finally:
                buffers.update(module._buffers)
                module._buffers.update(dict.fromkeys(buffers))

        return _Layer.apply(ruled, self.clock, x)[0]


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


Rule = Callable[[Any, _Time, Tensor, bool], tuple[tuple[Tensor, ...], bool]]


def _folded(forward: Any, time: _Time, x: Tensor, constant: bool) -> tuple[tuple[Tensor, ...], bool]:
    if constant:
        return (forward(x),), True
    return (forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]),), False


def _channels_last(forward: Any, time: _Time, x: Tensor, constant: bool) -> tuple[tuple[Tensor, ...], bool]:
    # On CPUs convolutions, and the pooling behind them, are up to ten times as fast with the channels last; faces take either.
    if x.device.type != "cpu" or not time.channels_last:
        return _folded(forward, time, x, constant)
    last = lambda y: y.to(memory_format=torch.channels_last)
    return _folded(lambda y: last(forward(last(y))), time, x, constant)


def _each_step(forward: Any, time: _Time, x: Tensor, constant: bool) -> tuple[tuple[Tensor, ...], bool]:
    steps = [forward(step) for step in ([x] * time.T if constant else x.unbind(0))]
    # Of a constant input all steps are equal, but the running statistics have moved with each.
    return (steps[-1] if constant else torch.stack(steps),), constant


def _spread(forward: Any, time: _Time, x: Tensor, constant: bool) -> tuple[tuple[Tensor, ...], bool]:
    return _folded(forward, time, x.expand(time.T, *x.shape) if constant else x, False)


def _rule(module: nn.Module, statistics: bool = False) -> Rule | None:
    """How this layer is called with all of time, if not as it stands. `statistics`: are its running statistics hidden?"""
    kind = type(module)
    if "forward" in module.__dict__ and not isinstance(module.__dict__["forward"], functools.partial):
        return None
    if kind in _NORMS and (module.training or (module.running_mean is None and not statistics)):
        return _each_step
    if kind in _INSTANCES and module.training and module.track_running_stats:
        return _each_step
    if kind in _DRAWN:
        return _spread if module.training and not getattr(module, "inplace", False) else None
    if kind is nn.Conv2d:
        return _channels_last
    return _folded if kind in _PER_SAMPLE else None


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCES = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_DRAWN = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)
_STILL = (
    nn.Sequential, nn.Identity, nn.Flatten, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardtanh,
    nn.Softplus, nn.LayerNorm, nn.LSTMCell,
)  # fmt: skip


def _is_known(module: nn.Module) -> bool:
    """Does its forward, torch's or a face's own, write nowhere but where it is known to?"""
    if "forward" in module.__dict__ or getattr(module, "inplace", False):
        return False
    if isinstance(module, Stateful):
        return of_library(module) and all(
            library(getattr(f, "__module__", "")) for f in (module.spike_grad, module.state_quant) if f
        )
    return type(module) in (*_STILL, *_NORMS, *_INSTANCES, *_DRAWN, *_PER_SAMPLE)


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
