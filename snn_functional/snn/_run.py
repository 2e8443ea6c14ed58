"""`run(net, xs)`: a network of faces over a whole sequence, layer by layer instead of step by step.

A network that feeds forward may finish its first layer for all of time before it begins the second: one product or convolution a
layer, then one kernel. `scan` takes any pure step apart in this way. So `run` reads the network as such a step, over the tensors that
it holds now, and runs the stages; what the loop would leave in its faces and running statistics is put there. What is no pure step, it
runs as the loop.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn, Tensor

from .._functionalize._calls import (
    Calls,
    holds_the_loop,
    loops_itself,
    on_a_copy,
    remembering,
    takes_all_of_time,
    watched,
)
from .._functionalize._functional import Functional
from .._functionalize._has_state import TakesSequences
from .._functionalize._memory import NATIVE, STATE
from .._functionalize._misfit import misfit
from .._functionalize._passed import passed_on, takes_states
from .._functorch import is_compiling
from .._scan import scan
from .._scan._explain import Explanation, planned
from .._scan._fused import fused
from .._tree import tree_map
from ..kernels import NoCompiler, Unsupported
from .utils import _layers


def run(net: nn.Module, xs: Tensor) -> Any:
    """What the loop returns, stacked over time, and what it leaves behind: the hidden state after the last step.

        spks = snn.run(net, xs)             spks = torch.stack([net(x) for x in xs])

    - `xs`: time first, [T, batch, ...]. A batch of images or of features x [batch, ...] has no axis of time, and [batch, features] would be
      run as so many steps of one sample: give `x.expand(T, *x.shape)`, the same at every step, or spikes, `snn.spikegen.rate(x, T)`:

          spks = snn.run(net, images.expand(25, *images.shape))       images [batch, 1, 28, 28], 25 steps

    - `net`: any module that takes one step x [batch, ...], its faces with `init_hidden=True`. Its hidden state goes on from where it
      is: call `snn.utils.reset(net)` between batches, as for the loop. A state that goes on belongs to the graph of the steps before it,
      and a backward through these again is what torch refuses ("a second time"): reset it, or keep it and call `face.detach_hidden()`.

    The same numbers as the loop's, to the rounding of larger matrix products; what is drawn from torch's generator (dropout, noise) is what
    the loop draws. A network that branches on values, counts its steps, writes to what it holds or has hooks runs step by step;
    `explain` says so.

    Raises TypeError and ValueError for what is no sequence of tensors, TypeError for a face that has no state from one step to the next,
    for a forward that takes its states, `forward(x, mem)`, or holds the time loop itself, and for a layer that takes whole sequences.
    """
    _admit(net, xs)
    if is_compiling():
        if xs.shape[0] > 1 and not any(_counts(m) for m in net.modules()):
            return _compiled(net, xs)
        return _as_the_loop(net, xs)
    with _batch_is_no_time(net, xs):
        if _obstacle(net) is None:
            with contextlib.suppress(Unsupported, NoCompiler), _fitting(net, xs), _read(net) as live:
                return live.run(xs)
        return _as_the_loop(net, xs)


def _as_the_loop(net: nn.Module, xs: Tensor) -> Any:
    begun = _first_steps(net, xs)
    steps = [*begun, *(net(x) for x in xs[len(begun) :].unbind(0))]
    return tree_map(lambda *parts: torch.stack(parts), *steps)


def _counts(m: nn.Module) -> bool:
    """Does it write running statistics, which no operation of a graph may?"""
    return m.training and getattr(m, "track_running_stats", False)


def _compiled(net: nn.Module, xs: Tensor) -> Any:
    """`run`, as a compiler can read it: one step, in which layers find their states, then a scan."""
    first = net(xs[0])
    faces = [face for face in _layers(net).values() if face.init_hidden]

    def step(params: Any, state: Any, x: Tensor) -> tuple[Any, Any]:
        own = [face.lend(hidden) for face, hidden in zip(faces, state)]
        output = net(x)
        return output, tuple(face.take_back(hidden) for face, hidden in zip(faces, own))

    outputs, state = scan(step, (), tuple(face._hidden for face in faces), xs[1:])
    for face, hidden in zip(faces, state):
        face._hidden = hidden
    return tree_map(lambda x, rest: torch.cat([x[None], rest]), first, outputs)


class Live(Functional):
    """A net as a step over the tensors that it holds. It is read, and never run: what was read is."""

    __slots__ = ("_statistics", "_hidden")
    __reach_is_all__ = True  # made anew in each call; it is the same step if all of that is

    def __init__(self, net: nn.Module, hidden: dict[Any, Any]) -> None:
        self._hidden = hidden  # of each face, once this is done with
        super().__init__(net, ())
        # Running statistics change as the states of faces do. Another buffer is a parameter: who writes to it is no pure step.
        held = {name: table[key] for table, key, name, _ in self._places}
        self._kept = [buffer for buffer in self._kept if buffer.norm]
        changes = {x.name for x in self._kept} | {key for keys, _ in self._faces for key in keys}
        self._state = {name: held.get(name, x) for name, x in self._state.items() if name in changes}
        self._params = {name: x for name, x in held.items() if name not in changes}
        tables = {id(m._buffers) for m in net.modules() if m.training}
        self._statistics = [(x.table[x.key], x.name) for x in self._kept if id(x.table) in tables]

    def __reach__(self) -> Iterator[tuple[str, Any]]:
        """All that the net consists of, but its tensors: it may change between two calls."""
        for module in self._module.modules():
            yield "the class", type(module)
            for name, value in vars(module).items():
                if (name not in NATIVE or name == "training") and name not in STATE:
                    yield f"{type(module).__name__}.{name}", value

    def run(self, xs: Tensor) -> Any:
        """What the net returns over time; what it holds is then what it would be. Raises as `fused` does, and then nothing has changed."""
        outputs, state = fused(self, self._params, self._state, xs, None, False, stages=True)
        with torch.no_grad():
            for x, name in self._statistics:
                x.copy_(state[name])
        for keys, face in self._faces:
            if any(state[key] is not self._state[key] for key in keys):  # it was called
                self._hidden[face] = face.neuron.State.__rebuild__([state[key] for key in keys], ())
        return outputs

    def __admit__(self, inputs: Any) -> None:
        if len(inputs) > 1:  # of one step nothing can be told
            super().__admit__(inputs)

    def _loops(self, first: Calls | None) -> TypeError:
        return loops_itself("snn.run(net, xs)", self._module, first, OTHERWISE)

    def _remembers(self, changed: list[str]) -> Exception:
        return Unsupported(f"it changes {changed[0]}")

    def __repr__(self) -> str:
        return type(self._module).__name__


OTHERWISE = "torch.stack([net(x) for x in xs])"


@contextlib.contextmanager
def _read(net: nn.Module) -> Iterator[Live]:
    """The net as a step. Afterwards its faces are where that has run to; where they were, if it has not run."""
    hidden = _held(net)
    try:
        yield Live(net, hidden)
    finally:
        _put_back(hidden)


def _first_steps(net: nn.Module, xs: Tensor) -> list[Any]:
    """What the net returns in the first step, or in the first two. Raises TypeError for a net that is seen to take no steps of time."""
    faces, held = _layers(net), _held(net)
    refusal = functools.partial(loops_itself, "snn.run(net, xs)", net)
    returned: list[Any] = []
    try:
        with remembering(faces, net) as first:
            returned.append(net(xs[0]))
    except _BatchAsTime:
        _put_back(held)
        raise
    except Exception as error:
        if takes_all_of_time(xs, lambda x: on_a_copy(net, x)):
            said = refusal(None, OTHERWISE)
        else:
            said = _in_words(net, xs, error)
        if said is error:
            raise
        _put_back(held)
        raise said from error

    def second() -> Calls:
        with watched(faces) as calls:
            returned.append(net(xs[1]))
        return calls

    if holds_the_loop(first, xs[0], lambda x: on_a_copy(net, x), second if len(xs) > 1 else None):
        _put_back(held)
        raise refusal(first, OTHERWISE)
    return returned


@contextlib.contextmanager
def _fitting(net: nn.Module, xs: Tensor) -> Iterator[None]:
    """Adds to an error what helps, where the input's dtype or device is not the net's."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        if (said := _no_step_alone(net, error) or misfit(error, net, xs, "snn.run(net, xs.to({}))", "net")) is error:
            raise
        raise said from error


def _in_words(net: nn.Module, xs: Tensor, error: Exception) -> Exception:
    """An error of the first step, and what to do about it, where that can be told; else the error itself."""
    if says := passed_on(net, error):
        return TypeError(f"snn.run(net, xs): {says}")
    if said := _no_step_alone(net, error):
        return said
    if (said := misfit(error, net, xs, "snn.run(net, xs.to({}))", "net")) is not error:
        return said
    if type(error) not in SHAPES or on_a_copy(net, xs[0]) is not None or on_a_copy(net, xs) is None:
        return error
    return ValueError(
        f"snn.run(net, xs): xs is {tuple(xs.shape)}, [T, batch, ...], so each step is {tuple(xs.shape[1:])}, which the net does not take: "
        f"{error}. All of xs it takes for one step: is it a batch without an axis of time? For T equal steps give "
        "snn.run(net, xs.expand(T, *xs.shape)); as spikes snn.run(net, snn.spikegen.rate(xs, T))."
    )


SHAPES = (TypeError, ValueError, RuntimeError, IndexError, AssertionError)  # what an input of another shape ends in


def _no_step_alone(net: nn.Module, error: Exception) -> TypeError | None:
    """What to say of an error of a net that cannot be called with one step alone. Only the error tells: what a forward seems to lack may
    come from a hook or a decorator."""
    lacks = f"{getattr(net.forward, '__qualname__', None)}() missing "
    if (
        isinstance(error, TypeError)
        and str(error).startswith(lacks)
        and (says := takes_states("snn.run(net, xs)", net))
    ):
        return TypeError(says)
    return None


class _BatchAsTime(TypeError):
    """A layer that takes whole sequences got one step of a batch."""


@contextlib.contextmanager
def _batch_is_no_time(net: nn.Module, xs: Tensor) -> Iterator[None]:
    """Raises TypeError where a layer that takes whole sequences, [T, features] among them, is given one step [batch, features]. A sequence
    in each step, x[None] say, it may have."""
    layers = [m for m in net.modules() if isinstance(m, TakesSequences)] if xs.dim() > 2 else []

    def watch(layer: nn.Module, input_: Tensor) -> None:
        if input_.dim() == 2 and len(input_) == xs.shape[1]:
            says = f"each step is net(xs[t]), but {type(layer).__name__} takes whole sequences [T, batch, ...]. Where the layers beside it"
            cure = "do, too, call net(xs); else each in its turn: layer(snn.run(before, xs))."
            raise _BatchAsTime(f"snn.run(net, xs): {says} {cure}")

    try:
        for layer in layers:
            layer._watcher = watch
        yield
    finally:
        for layer in layers:
            vars(layer).pop("_watcher", None)


def _held(net: nn.Module) -> dict[Any, Any]:
    return {layer: layer._hidden for layer in _layers(net).values()}


def _put_back(held: dict[Any, Any]) -> None:
    for layer, hidden in held.items():
        layer._hidden = hidden


def explain(net: nn.Module, xs: Tensor) -> Explanation:
    """How `run` would run this network on such a sequence, and why: text, and a value as that of `snn_functional.explain`. The network is
    read, not run, and left as it is."""
    _admit(net, xs)
    reason = _obstacle(net)
    if reason is None:
        with _batch_is_no_time(net, xs), _read(net) as live:
            said = planned(live, live._params, live._state, xs, len(xs))
        _, kind, says = (said.reason or "").partition(f"{_BatchAsTime.__name__}: ")
        if kind:
            raise _BatchAsTime(says)
        if error := _no_step_alone(net, TypeError((said.reason or "").partition("TypeError: ")[2])):
            raise error
        if said.kind != "loop":
            return said
        reason = said.reason
    return Explanation(f"step by step: {reason}.", "loop", reason=reason)


def _obstacle(net: nn.Module) -> str | None:
    """What can be seen of a network without calling it."""
    if is_compiling():
        return "torch.compile is tracing"
    everywhere = nn.modules.module
    hooks = [everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks, everywhere._global_backward_hooks]
    hooks += [getattr(everywhere, "_global_backward_pre_hooks", {})]
    for m in net.modules():
        hooks += [m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks]
    if any(hooks):
        return "the network has hooks, which look at each step"
    left = any(face._left_behind() for face in _layers(net).values())
    return "a layer holds a state that a vmap has left behind" if left else None


def _admit(net: Any, xs: Any) -> None:
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"snn.run(net, xs): net is a module, not {type(net).__name__}. For a pure step: snf.scan(step, ...)."
        )
    if not isinstance(xs, Tensor):
        hint = " Give torch.stack(xs)." if isinstance(xs, (list, tuple)) else ""
        hint = " Give torch.from_numpy(xs), in the dtype of the net: .float()." if hasattr(xs, "__array__") else hint
        raise TypeError(f"snn.run(net, xs): xs is one tensor [T, batch, ...], not {type(xs).__name__}.{hint}")
    if xs.dim() == 0 or xs.shape[0] == 0:
        raise ValueError(
            f"snn.run(net, xs): xs has shape {tuple(xs.shape)}; expected [T, batch, ...] with at least one step. For T equal steps "
            "give x.expand(T, *x.shape)."
        )
