"""Feedback for any neuron: its last spikes come back as a current."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from .._connections import check_connection, connect, Linear
from .._names import Shown
from .._neuron import at_least, beside, Neuron
from .._tree import pytree
from ._modifier import Modifier, Step


@pytree
class RecurrentParams:
    """- `inner`: the neuron's own params.
    - `V`: what a spike feeds back in the next step: () or (neurons,), or a connection such as `Linear(weight, bias)`. Through a layer
      with a memory it is that layer's params.
    """

    inner: Any
    V: Any

    def __check__(self) -> None:
        if not isinstance(self.V, tuple) and not hasattr(self.V, "__leaves__"):
            check_connection(self, "V")

    @classmethod
    def random(
        cls, inner: Any, neurons: int, *, bias: bool = True, generator: Any = None, **place: Any
    ) -> "RecurrentParams":
        """`inner`, and a feedback from all to all of so many neurons, drawn as `Linear.random` draws it. `place`: dtype, device."""
        return cls(inner, Linear.random(neurons, neurons, bias=bias, generator=generator, **place))


@pytree
class RecurrentState:
    """- `inner`: the neuron's own state. - `spk`: the last spikes. (batch, ..., neurons).
    - `feedback`: the state of the layer that they go back through, where it has one.
    """

    inner: Any
    spk: Tensor
    feedback: Any = ()


@dataclasses.dataclass(frozen=True, repr=False)
class recurrent(Modifier, metaclass=Shown):
    """The neuron's last spikes are part of its input.

        the neuron gets input[t] + V(spk[t-1])

        neuron = recurrent(leaky)
        params = RecurrentParams(LeakyParams(0.9), Linear(weight))                     weight (neurons, neurons)
        params = RecurrentParams.random(LeakyParams(0.9), neurons)                     the same, drawn
        spks, state = scan(neuron.step, params, neuron.init(params, xs[0]), xs)

    What has a memory of its own stands beside the neuron, a layer of a chain, and V is its params: delays, of which the shortest is one
    step, as spk[t-1] is what goes in; a filter; a chain of layers.

        neuron = recurrent(leaky, delayed_linear)
        params = RecurrentParams(LeakyParams(0.9), DelayedLinear.random(neurons, neurons, longest=10))
        neuron = recurrent(leaky, chain(delay(4), linear))                             V = ((), Linear(weight)): 5 steps

    With a tensor V the step is pointwise if the neuron is. Takes any step whose output is one tensor, a chain too: then V leads from its
    output to its input. `rleaky` and `rsynaptic` are snnTorch's own: of these, only the rounding and the "zero" reset differ.
    Raises ValueError where V does not lead to the input's shape.
    """

    step: Step
    through: Neuron | None = None
    Params = RecurrentParams
    State = RecurrentState

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.through is not None and not isinstance(self.through, Neuron):
            raise TypeError(
                f"recurrent(neuron, through={self.through!r:.60}): expected a layer, recurrent(neuron, delayed_linear), whose params are V "
                "of RecurrentParams(inner, V)."
            )

    def __repr__(self) -> str:
        through = f", {getattr(self.through.step, '__name__', repr(self.through.step))}" if self.through else ""
        return f"recurrent({getattr(self.step, '__name__', repr(self.step))}{through})"

    def rest(self, init: Any, params: Any, input: Any) -> Any:
        self.opened(params)
        inner = init(params.inner, input)
        spk = torch.zeros_like(self.spikes(self.step(params.inner, inner, input)[0]))
        feedback = self.through.init(params.V, spk) if self.through else ()
        state = RecurrentState(inner, spk, feedback)
        self._sum(params, state, input)
        return state

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        self.opened(params, state)
        sum, feedback = self._sum(params, state, input)
        output, inner = self.step(params.inner, state.inner, sum)
        spk = self.spikes(output)
        beside(None, state, spk)
        return spk, RecurrentState(inner, spk, feedback)

    def _sum(self, params: Any, state: Any, input: Any) -> tuple[Tensor, Any]:
        """The neuron's input, and what the layer in between keeps."""
        if isinstance(input, tuple):
            raise TypeError(
                "recurrent: the input is one tensor, but a tuple came. `noisy` goes outside: noisy(recurrent(neuron))."
            )
        spk, feedback = state.spk, state.feedback
        if isinstance(input, Tensor):
            input = at_least(spk.dtype, input)
        beside(params, state if isinstance(params.V, Tensor) else None, input)
        if self.through:
            current, feedback = self.through.step(params.V, feedback, spk)
        elif isinstance(params.V, Tensor) or callable(params.V):
            current = connect(params.V, spk)
        else:
            raise TypeError(
                f"recurrent: V is a {type(params.V).__name__}, the params of a layer. Say which: recurrent(neuron, delayed_linear), say."
            )
        shape = current.shape
        if len(shape) > input.dim() or any(n not in (1, m) for n, m in zip(shape[::-1], input.shape[::-1])):
            raise ValueError(
                f"recurrent: V leads from spikes {tuple(spk.shape)} to {tuple(shape)}, the input is {tuple(input.shape)}. "
                "Expected the input's shape."
            )
        return input + current, feedback
