"""`stateful(neuron)`: an `nn.Module` with snnTorch's interface over a pure neuron.

What is derived, and from what:

    constructor        the numbers of Params (threshold last), then snnTorch's switches in snnTorch's order
    tensors            one buffer a number, or one `nn.Parameter` with learn_<number>=True
    forward, returns   the fields of State, in their order
    dynamics           the neuron's step, wrapped by a modifier for each switch that changes it
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .._neuron import Neuron
from ._stateful import call_of, Stateful


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
        f"`snntorch.{name}` over `{neuron.step.__name__}`.\n\n    {call_of(neuron.State)}\n\n"
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
