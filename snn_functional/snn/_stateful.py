"""`Stateful`: a layer of neurons with snnTorch's interface, over a pure step.

One step function serves explicit and hidden state, so the two cannot diverge. The state takes device, dtype and batch size from
the input; it is no buffer, never in `state_dict()`, and only a layer with `init_hidden=True` holds one between calls.
"""

import dataclasses
import difflib
import inspect
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn, Tensor

from .._functionalize._has_state import HasState
from .._functionalize._misfit import misfit
from .._functorch import intercepted, is_compiling
from .._neuron import HALF
from .._scan import scan
from .._scan._loop import refused_function
from ..modifiers import immediate_reset, inhibit, quantize
from ..surrogate import fires


class _Living:
    """The neuron layers alive in this process, in the order they were made. Nothing here keeps one alive, or reads the list."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[Any]] = []

    def append(self, layer: Any) -> None:
        self._made = [made for made in self._made if made() is not None] + [weakref.ref(layer)]

    def __iter__(self) -> Iterator[Any]:
        return iter([layer for made in self._made if (layer := made()) is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, i: int) -> Any:
        return list(self)[i]


class Stateful(HasState):
    """A layer of neurons with memory. `stateful` makes its subclasses. snnTorch's `SpikingNeuron` and `LIF`."""

    instances: Any = _Living()
    pointwise = True
    numbers: dict[str, Any]
    switches: inspect.Signature
    graded: bool
    graded_spikes_factor: Tensor
    surrogate: Any  # where none is given
    _rests_at_zero = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        given = self._bound(args, kwargs)
        options = given.arguments
        numbers = {name: options[name] for name in self.numbers}
        learned = {name for name in self.numbers if options.get(f"learn_{name}")}
        self.init_hidden = options["init_hidden"]
        self.output = options["output"]
        self.inhibition = options["inhibition"]
        self.state_quant = options["state_quant"]
        self.reset_delay = options.get("reset_delay", True)
        self.spike_grad = fires if options.get("surrogate_disable") else options.get("spike_grad") or self.surrogate
        self._reset_mechanism = options.get("reset_mechanism")
        choices = self.neuron.Params.__choices__
        self._others = {name: options[name] for name in choices if name in options and name not in SWITCHED}
        self._keep(numbers, learned, options)
        self.instances.append(self)
        factor = {"graded_spikes_factor": options.get("graded_spikes_factor", 1.0)}
        self._register(factor, {name for name in factor if options.get(f"learn_{name}")})

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> Any:
        """One step of `input_` [batch, ..., neurons]: `(spk, *states)`, or `spk` alone with `init_hidden` and no `output`.

        Without a state, and without `init_hidden`, it begins at rest; called so twice in a row it warns, once for each class of faces.
        """
        self._admit(input_)
        before = self._state(input_, args, kwargs)
        what, params = self._recording(input_.dtype, every=self.output or not self.init_hidden)
        try:
            large = input_.numel() >= LARGE and input_.device.type == "cpu"
            if large and not intercepted() and self._in_one_kernel():
                outputs, state = scan(_recorded(*what), params, before, input_[None])
                outputs = tuple(x.squeeze(0) for x in outputs)
            else:
                outputs, state = _record(*what, params, before, input_)
        except RuntimeError as error:
            if cure := refused_function(error):
                raise type(error)(f"{error}{cure}") from error
            raise
        except TypeError as error:
            said = self._of_dtypes(error, before, input_)
            if said is error:
                raise
            raise said from error
        if self._watcher is not None:
            given = any(x is not None for x in (*args, *kwargs.values()))
            begun = before if given or self._hidden is not None else None
            self._watcher(given, input_.shape, begun, outputs, state)
        if self.init_hidden:
            self.go_on(state)
        return outputs if self.output or not self.init_hidden else outputs[0]

    def params(self, dtype: torch.dtype | None = None) -> Any:
        """This layer's Params, as they are now. With `dtype`, per-neuron numbers that would promote it are cast."""
        choices, Params = self._choices(), self.neuron.Params
        leaves = [self._leaf(name, dtype) for name in Params.__leaves__]
        return Params.__rebuild__(leaves, tuple(choices[name] for name in Params.__choices__))

    @property
    def reset_mechanism(self) -> Any:
        """ "subtract", "zero", "none", or "clear" where the neuron has it; None for a neuron without such a choice. Setting it
        changes the dynamics from the next step."""
        return self._reset_mechanism

    @reset_mechanism.setter
    def reset_mechanism(self, value: str) -> None:
        dataclasses.replace(self.params(), reset_mechanism=value)  # refuses what is no choice
        self._reset_mechanism = value

    @property
    def reset_mechanism_val(self) -> Tensor:
        """The number that snnTorch's `state_dict` has for `reset_mechanism`; "clear", which it lacks, is 3."""
        return torch.tensor(RESETS.index(self.reset_mechanism))

    def fire(self, mem: Tensor) -> Tensor:
        """The spikes of this membrane."""
        spk = self.spike_grad(mem - self.threshold)
        return spk * self.graded_spikes_factor if self.graded else spk

    def mem_reset(self, mem: Tensor) -> Tensor:
        """1 where this membrane is reset in the next step."""
        return fires(mem - self.threshold)

    def extra_repr(self) -> str:
        numbers = [f"{n}={_brief(getattr(self, n))}" for n in self.numbers if hasattr(self, n)]
        reset = [] if self.reset_mechanism is None else [f"reset_mechanism={self.reset_mechanism!r}"]
        return ", ".join([*numbers, *reset, f"init_hidden={self.init_hidden}"])

    def held(self) -> list[Tensor]:
        """The leaves of the hidden state; at rest, a 0-d zero for each, or where the neuron rests elsewhere, one value a neuron."""
        if self._hidden is not None or self._rests_at_zero:
            return super().held()
        return list(vars(self._rest(self.params())).values())

    def reset_mem(self) -> Any:
        """Forget the hidden state. Returns states at rest that broadcast to any input, a tuple if there are several: zeros, for most."""
        zeros = super().reset_mem()
        if self._rests_at_zero:
            return zeros
        return tuple(x.detach() for x in self.held()) if isinstance(zeros, tuple) else self.held()[0].detach()

    def _rest(self, params: Any) -> Any:
        numbers = [getattr(params, name) for name in params.__leaves__]
        like = numbers[0] if numbers else torch.zeros(())
        return self.neuron.init(params, like.new_zeros(torch.broadcast_shapes(*(x.shape for x in numbers))))

    def _recording(self, dtype: torch.dtype, every: bool) -> tuple[tuple[Any, tuple[str, ...], bool], Any]:
        """What `_recorded` is to be made of to give what this layer returns, and its params."""
        factor = self.graded_spikes_factor if self.graded else None
        return (self._step(), self._beside() if every else (), self.graded), (self.params(dtype), factor)

    def _in_one_kernel(self) -> bool:
        """Is it worth asking? Weights, a winner or a user's quantiser are not pointwise."""
        return self.pointwise and not self.inhibition and not self.state_quant

    def _beside(self) -> tuple[str, ...]:
        """The states that are returned beside the spikes."""
        return tuple(name for name in self.neuron.State.__leaves__ if name != "spk")

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """The constructor's arguments. Raises TypeError for what it does not take."""
        try:
            given = self.switches.bind(*args, **kwargs)
        except TypeError as error:
            name, known = type(self).__name__, self.switches.parameters
            like = [x for key in kwargs if key not in known for x in difflib.get_close_matches(key, known, 1)]
            hint = f" Is it {', '.join(like)}?" if like else ""
            raise TypeError(f"{name}: {error}.{hint} It is {name}{self.switches}.") from None
        given.apply_defaults()
        return given

    def _of_dtypes(self, error: TypeError, before: Any, input_: Tensor) -> Exception:
        """The error, and what helps, if the input's dtype is not that of the states or of the numbers; else the error itself."""
        name, fields = type(self).__name__, vars(before)
        for field, x in fields.items() if str(error).startswith(type(before).__name__) else ():
            if x.dim() and input_.is_floating_point() and x.dtype != input_.dtype:
                cure = "snn.utils.reset(net) between batches" if self.init_hidden else f"{field}.to({input_.dtype})"
                return TypeError(
                    f"{name}: the state {field} is {x.dtype} and cannot hold an input of {input_.dtype}: give input_.to({x.dtype}), or "
                    f"{cure}."
                )
        return misfit(error, self, input_, f"{name}(input_.to({{}}))", "net")

    def _admit(self, input_: Any) -> None:
        if not isinstance(input_, Tensor):
            hint = " Give torch.from_numpy(input_)." if hasattr(input_, "__array__") else ""
            if isinstance(input_, tuple):
                hint = (
                    " Is it what another face returns, (spk, mem)? Give its spikes: spk, mem = layer(x); or make that one with "
                    "init_hidden=True and without output=True, which returns spk alone."
                )
            raise TypeError(
                f"{type(self).__name__}(input_) takes a tensor [batch, ..., neurons], not {type(input_).__name__}.{hint}"
            )
        if self.inhibition and input_.dim() > 2:
            raise ValueError(
                f"{type(self).__name__}(inhibition=True) takes (batch, neurons), but {tuple(input_.shape)} came. For other axes "
                "use the pure step: snf.inhibit(step, dim=...)."
            )

    def _keep(self, numbers: dict[str, Any], learned: set[str], options: dict[str, Any]) -> None:
        """Check the numbers by building Params from them once, then keep them as buffers or parameters."""
        params = self.neuron.Params(**numbers, **self._choices())
        self._register({name: getattr(params, name) for name in numbers}, learned)
        if self.pointwise and all(isinstance(getattr(params, name), Tensor) for name in params.__leaves__):
            self._rests_at_zero = not any(bool(x.any()) for x in vars(self._rest(params)).values())

    def _register(self, numbers: dict[str, Any], learned: set[str]) -> None:
        for name, value in numbers.items():
            value = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.get_default_dtype())
            register(self, name, value, name in learned)

    def _choices(self) -> dict[str, Any]:
        usual = {"spike_grad": self.spike_grad, "reset_mechanism": self.reset_mechanism}
        return {name: x for name, x in usual.items() if name in self.neuron.Params.__choices__} | self._others

    def _leaf(self, name: str, dtype: torch.dtype | None) -> Any:
        """What Params hold under this name: here a number, elsewhere a connection."""
        return _fitted(getattr(self, name), dtype)

    def _shape(self, input_: Tensor) -> tuple[int, ...]:
        """The shape of a membrane for this input."""
        return tuple(input_.shape)

    def _step(self) -> Callable[[Any, Any, Any], tuple[Tensor, Any]]:
        step = self.neuron.step
        if self.state_quant:
            step = quantize(step, self.state_quant)
        if self.inhibition:
            step = inhibit(step)
        if not self.reset_delay:
            step = immediate_reset(step)
        return step

    def _state(self, input_: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        State = self.neuron.State
        name = type(self).__name__
        if not args and not kwargs:
            if self._alive() is None:
                self._without_state()
                return self.neuron.init(self.params(input_.dtype), input_)
            held = self.held()[-1]
            rest = not self._rests_at_zero and held.shape == input_.shape[-held.dim() :]
            if held.dim() and held.shape != self._shape(input_) and not rest:
                raise ValueError(
                    f"{name}(init_hidden=True) holds the state of an input {tuple(held.shape)}, but {self._shape(input_)} came. "
                    "Between batches call snn.utils.reset(net), or this layer's reset_mem()."
                )
            return self._hidden
        given = dict(zip(State.__leaves__, args)) | kwargs
        given = {field: value for field, value in given.items() if value is not None}
        if len(args) > len(State.__leaves__) or not set(kwargs) <= set(State.__leaves__):
            raise TypeError(f"{name}: call it as {call_of(State)}; got {len(args)} states and {sorted(kwargs)}.")
        if self.init_hidden and given:
            raise TypeError(
                f"{name}: `{next(iter(given))}` should not be passed as an argument while `init_hidden=True`."
            )
        if not given:
            return self._state(input_, (), {})
        if len(given) < len(State.__leaves__):
            raise TypeError(
                f"{name}: of the states only {sorted(given)} came. Call it as {call_of(State)}, or with none: at rest."
            )
        if not is_compiling() and self._stateless:
            self._stateless = False
        return State(**given)

    def _without_state(self) -> None:
        """Warns where a face that keeps no state is given none twice in a row: whoever does that counts on a memory."""
        if self.init_hidden or self._watcher is not None or is_compiling():
            return
        name = type(self).__name__
        if self._stateless and name not in _warned:
            _warned.add(name)
            states = ", ".join(f"`{state}`" for state in self.neuron.State.__leaves__)
            warnings.warn(
                f"{name}(init_hidden=False) was called twice in a row without a state, and each time begins at rest: it forgets "
                f"its last step. Pass {states} from step to step, or make it with init_hidden=True.",
                stacklevel=_callers_level(),
            )
        self._stateless = True

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.reset_mechanism is not None:
            destination[prefix + "reset_mechanism_val"] = self.reset_mechanism_val

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        rest = dict(state_dict)
        if prefix + "reset_mechanism_val" in rest:
            self.reset_mechanism = RESETS[int(rest.pop(prefix + "reset_mechanism_val"))]
        super()._load_from_state_dict(rest, prefix, *args, **kwargs)


@dataclasses.dataclass(frozen=True)
class _recorded:
    """A step that gives what a face returns: its spikes, times a factor, and beside them these fields of its new state."""

    step: Any
    fields: tuple[str, ...]
    graded: bool

    def __call__(self, params: Any, state: Any, input: Any) -> Any:
        return _record(self.step, self.fields, self.graded, params, state, input)


def _record(step: Any, fields: tuple[str, ...], graded: bool, params: Any, state: Any, input: Any) -> Any:
    """One step of `_recorded(step, fields, graded)`, which need not be made: torch.compile of torch 2.11 cannot."""
    params, factor = params
    spk, state = step(params, state, input)
    return (spk * factor if graded else spk, *(getattr(state, name) for name in fields)), state


_warned: set[str] = set()  # the classes of faces whose users were warned: once each


def _callers_level() -> int:
    """For `warnings.warn` in the function that asks: how far up is the first line that is neither torch's nor this library's?"""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("torch", LIBRARY):
        level, frame = level + 1, frame.f_back
    return level


LIBRARY = __name__.partition(".")[0]
LARGE = 4096  # neurons in a step, from which on one kernel is faster than some twenty operations; measured on CPUs only
SWITCHED = ("spike_grad", "reset_mechanism")  # choices that snnTorch's switches make
RESETS = ("subtract", "zero", "none", "clear")


def register(layer: nn.Module, name: str, value: Tensor, learned: bool) -> None:
    """Give a layer a number. It is a copy: two layers made from one tensor must not share it."""
    value = value.detach().clone()
    if learned:
        layer.register_parameter(name, nn.Parameter(value))
    else:
        layer.register_buffer(name, value)


def _fitted(number: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or dtype in HALF or number.dim() == 0 or not dtype.is_floating_point or number.dtype == dtype:
        return number
    return number.to(dtype) if torch.promote_types(number.dtype, dtype) != dtype else number


def call_of(State: Any) -> str:
    states = State.__leaves__
    return f"{', '.join(dict.fromkeys(('spk', *states)))} = layer(input_, {', '.join(states)})"


def _brief(number: Tensor) -> str:
    traced = intercepted() or is_compiling()
    return f"{number.item():.4g}" if number.numel() == 1 and not traced else f"{list(number.shape)}"
