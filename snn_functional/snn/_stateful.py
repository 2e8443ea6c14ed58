"""`stateful(neuron)`: an `nn.Module` with snnTorch's interface over a pure neuron.

What is derived, and from what:

    constructor        the numbers of Params (threshold last), then snnTorch's switches in snnTorch's order
    tensors            one buffer a number, or one `nn.Parameter` with learn_<number>=True
    forward, returns   the fields of State, in their order
    dynamics           the neuron's step, wrapped by a modifier for each switch that changes it

One step function serves explicit and hidden state, so the two cannot diverge. The state takes device, dtype and batch size from
the input; it is no buffer, never in `state_dict()`, and only a layer with `init_hidden=True` holds one between calls.
"""

import dataclasses
import inspect
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn, Tensor

from .._functorch import intercepted, is_compiling, left_behind
from .._neuron import Neuron
from .._scan import scan
from .._scan._loop import refused_function
from .._tree import tree_map
from ..modifiers import immediate_reset, inhibit, quantize
from ..surrogate import ATan, fires


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


class Stateful(nn.Module):
    """A layer of neurons with memory. `stateful` makes its subclasses. snnTorch's `SpikingNeuron` and `LIF`."""

    instances: Any = _Living()
    neuron: Neuron
    pointwise = True
    numbers: dict[str, Any]
    switches: inspect.Signature
    graded: bool
    threshold: Tensor
    graded_spikes_factor: Tensor
    _stateless = False  # with init_hidden=False: came the last call without a state?

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        given = self.switches.bind(*args, **kwargs)
        given.apply_defaults()
        options = given.arguments
        numbers = {name: options[name] for name in self.numbers}
        learned = {name for name in self.numbers if options.get(f"learn_{name}")}
        self.init_hidden = options["init_hidden"]
        self.output = options["output"]
        self.inhibition = options["inhibition"]
        self.state_quant = options["state_quant"]
        self.reset_delay = options.get("reset_delay", True)
        self.spike_grad = fires if options["surrogate_disable"] else options["spike_grad"] or ATan()
        self._reset_mechanism = options["reset_mechanism"]
        self._hidden: Any = None
        self._watcher: Any = None  # within `watched`: is told of every call
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
        if self._watcher is not None:
            given = any(x is not None for x in (*args, *kwargs.values()))
            begun = before if given or self._hidden is not None else None
            self._watcher(given, input_.shape, begun, outputs, state)
        if self.init_hidden:
            self._hidden = state
        return outputs if self.output or not self.init_hidden else outputs[0]

    def params(self, dtype: torch.dtype | None = None) -> Any:
        """This layer's Params, as they are now. With `dtype`, per-neuron numbers that would promote it are cast."""
        choices, Params = self._choices(), self.neuron.Params
        leaves = [self._leaf(name, dtype) for name in Params.__leaves__]
        return Params.__rebuild__(leaves, tuple(choices[name] for name in Params.__choices__))

    @property
    def reset_mechanism(self) -> str:
        """ "subtract", "zero", "none", or "clear" where the neuron has it. Setting it changes the dynamics from the next step."""
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

    def reset_mem(self) -> Any:
        """Forget the hidden state. Returns states at rest: zeros that broadcast to any input, a tuple if there are several."""
        self._hidden = None
        zeros = [torch.zeros(()) for _ in self.neuron.State.__leaves__]
        return tuple(zeros) if len(zeros) > 1 else zeros[0]

    def reset_hidden(self) -> None:
        """Forget the hidden state: the next input starts at rest."""
        self._hidden = None

    def detach_hidden(self) -> None:
        """Cut the hidden state from the graph, as truncated backpropagation does between chunks."""
        self._hidden = tree_map(torch.Tensor.detach, self._alive())

    def extra_repr(self) -> str:
        numbers = [f"{n}={_brief(getattr(self, n))}" for n in self.numbers if hasattr(self, n)]
        return ", ".join([*numbers, f"reset_mechanism={self.reset_mechanism!r}", f"init_hidden={self.init_hidden}"])

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

    def _admit(self, input_: Any) -> None:
        if not isinstance(input_, Tensor):
            raise TypeError(
                f"{type(self).__name__}(input_) takes a tensor [batch, ..., neurons], not {type(input_).__name__}."
            )
        if self.inhibition and input_.dim() > 2:
            raise ValueError(
                f"{type(self).__name__}(inhibition=True) takes (batch, neurons), but {tuple(input_.shape)} came. For other axes "
                "use the pure step: snf.inhibit(step, dim=...)."
            )

    def _keep(self, numbers: dict[str, Any], learned: set[str], options: dict[str, Any]) -> None:
        """Check the numbers by building Params from them once, then keep them as buffers or parameters."""
        params = self.neuron.Params(**numbers, reset_mechanism=self._reset_mechanism, spike_grad=self.spike_grad)
        self._register({name: getattr(params, name) for name in numbers}, learned)

    def _register(self, numbers: dict[str, Any], learned: set[str]) -> None:
        for name, value in numbers.items():
            # A copy: two layers made from one tensor must not share it.
            value = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.get_default_dtype())
            value = value.detach().clone()
            if name in learned:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def _choices(self) -> dict[str, Any]:
        return {"spike_grad": self.spike_grad, "reset_mechanism": self.reset_mechanism}

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
            held = self._hidden.mem
            if held.dim() and held.shape != self._shape(input_):
                raise ValueError(
                    f"{name}(init_hidden=True) holds the state of an input {tuple(held.shape)}, but {self._shape(input_)} came. "
                    "Between batches call snn.utils.reset(net), or this layer's reset_mem()."
                )
            return self._hidden
        given = dict(zip(State.__leaves__, args)) | kwargs
        given = {field: value for field, value in given.items() if value is not None}
        if len(args) > len(State.__leaves__) or not set(kwargs) <= set(State.__leaves__):
            raise TypeError(f"{name}: call it as {_call(State)}; got {len(args)} states and {sorted(kwargs)}.")
        if self.init_hidden and given:
            raise TypeError(
                f"{name}: `{next(iter(given))}` should not be passed as an argument while `init_hidden=True`."
            )
        if not given:
            return self._state(input_, (), {})
        if len(given) < len(State.__leaves__):
            raise TypeError(
                f"{name}: of the states only {sorted(given)} came. Call it as {_call(State)}, or with none: at rest."
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

    def _alive(self) -> Any:
        """The hidden state. Raises RuntimeError for one that a `vmap` has left here, with which nothing can be done any more."""
        if self._left_behind():
            raise RuntimeError(
                f"{type(self).__name__}(init_hidden=True) holds the state of a torch.func.vmap that is over. Forget it by "
                "snn.utils.reset(net). Within vmap begin and end with a reset, or take the state in and out: "
                "step, params, state = snf.functionalize(net)."
            )
        return self._hidden

    def _left_behind(self) -> bool:
        hidden = self._hidden
        if hidden is None or is_compiling():
            return False
        return any(left_behind(getattr(hidden, name)) for name in self.neuron.State.__leaves__)

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._left_behind():  # which nothing can be done to: whoever uses it will hear
            self._hidden = tree_map(fn, self._hidden)
        return super()._apply(fn, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles carry the state's numbers, never its graph, which cannot be copied.
        return self.__dict__ | {"_hidden": tree_map(torch.Tensor.detach, self._alive()), "_stateless": False}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "reset_mechanism_val"] = self.reset_mechanism_val

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        own = {key[len(prefix) :]: key for key in state_dict if key.startswith(prefix)}
        rest = dict(state_dict)
        if "reset_mechanism_val" in own:
            self.reset_mechanism = RESETS[int(rest.pop(own["reset_mechanism_val"]))]
        fields: tuple[str, ...] = self.neuron.State.__leaves__
        if set(fields) <= set(own):
            self._hidden = self.neuron.State(*(rest.pop(own[field]).detach().clone() for field in fields))
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
RESETS = ("subtract", "zero", "none", "clear")


def stateful(
    neuron: Neuron,
    name: str,
    *tail: str,
    numbers: dict[str, Any] | None = None,
    signature: Callable[..., None] | None = None,
) -> type[Stateful]:
    """The face of `neuron`, a subclass of `Stateful` called `name`.

    - `tail`: those of snnTorch's last arguments that this face has: "graded_spikes_factor", "learn_graded_spikes_factor",
      "reset_delay".
    - `numbers`: the constructor's numbers and their defaults, where they are not simply the leaves of Params.
    - `signature`: a function with the constructor's arguments, where they are not simply the numbers and snnTorch's switches.
    """
    fields = {f.name: f.default for f in dataclasses.fields(neuron.Params)}
    if numbers is None:
        numbers = {leaf: fields[leaf] for leaf in neuron.Params.__leaves__}
    if signature is None:
        arguments = list(_usual(numbers, fields["reset_mechanism"], tail))
    else:
        arguments = list(inspect.signature(signature).parameters.values())
    # Asked for by snnTorch 0.4's documentation beside inhibition; the batch size is read from the input.
    switches = inspect.Signature(
        [*arguments, inspect.Parameter("batch_size", inspect.Parameter.KEYWORD_ONLY, default=None)]
    )
    states = neuron.State.__leaves__
    doc = (
        f"`snntorch.{name}` over `{neuron.step.__name__}`.\n\n    {_call(neuron.State)}\n\n"
        f"With `init_hidden=True`: spk = layer(input_), and layer.{states[-1]} holds the membrane.\n\n"
        + (inspect.getdoc(neuron.Params) or "")
    )
    body: dict[str, Any] = {"neuron": neuron, "numbers": numbers, "switches": switches, "__signature__": switches}
    body |= {"graded": "graded_spikes_factor" in tail, "__doc__": doc, "__module__": "snn_functional.snn"}
    body |= {state: _hidden_field(state) for state in states}
    body["init_" + neuron.step.__name__.removesuffix("_step")] = _init_states
    return type(name, (Stateful,), body)


def _usual(numbers: dict[str, Any], reset_mechanism: Any, tail: tuple[str, ...]) -> Iterator[inspect.Parameter]:
    """The numbers, then snnTorch's switches in snnTorch's order."""
    defaults = {key: inspect.Parameter.empty if x is dataclasses.MISSING else x for key, x in numbers.items()}
    learnable = [key for key in defaults if f"learn_{key}" in LEARNABLE]
    defaults |= {"spike_grad": None, "surrogate_disable": False, "init_hidden": False, "inhibition": False}
    defaults |= {f"learn_{key}": False for key in learnable}
    defaults |= {"reset_mechanism": reset_mechanism, "state_quant": False, "output": False}
    defaults |= {key: TAIL[key] for key in tail}
    for key, value in defaults.items():
        yield inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=value)


LEARNABLE = ("learn_alpha", "learn_beta", "learn_threshold")
TAIL = {"graded_spikes_factor": 1.0, "learn_graded_spikes_factor": False, "reset_delay": True}


def _hidden_field(name: str) -> property:
    def get(self: Stateful) -> Any:
        return None if self._hidden is None else getattr(self._hidden, name)

    return property(get, doc=f"`{name}` of the hidden state; None before the first input and after a reset.")


def _init_states(self: Stateful, *shape: int) -> Any:
    """As `reset_mem()`. With a shape `(batch_size, *features)`, as in snnTorch before 0.4.4, zeros of it: `(spk, *states)`."""
    if not shape:
        return self.reset_mem()
    return tuple(torch.zeros(shape) for _ in {"spk", *self.neuron.State.__leaves__})


def _fitted(number: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or number.dim() == 0 or not dtype.is_floating_point or number.dtype == dtype:
        return number
    return number.to(dtype) if torch.promote_types(number.dtype, dtype) != dtype else number


def _call(State: Any) -> str:
    states = State.__leaves__
    return f"{', '.join(dict.fromkeys(('spk', *states)))} = layer(input_, {', '.join(states)})"


def _brief(number: Tensor) -> str:
    traced = intercepted() or is_compiling()
    return f"{number.item():.4g}" if number.numel() == 1 and not traced else f"{list(number.shape)}"
