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
from ..surrogate import ATan
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
      Your own neuron needs none of them. Each of its numbers is learned with `learn_<number>=True`, and each of its choices is an
      argument; what snnTorch's switches need and it has not, a reset or a surrogate, is no argument.
    - `numbers`: the constructor's numbers and their defaults, where they are not simply the leaves of Params.
    - `signature`: a function with the constructor's arguments, where they are not simply the numbers and snnTorch's switches.
    """
    fields = {f.name: f.default for f in dataclasses.fields(neuron.Params)}
    derived = numbers is None
    if numbers is None:
        numbers = {leaf: fields[leaf] for leaf in neuron.Params.__leaves__}
    if signature is None:
        choices = {name: fields[name] for name in neuron.Params.__choices__}
        arguments = list(_usual(numbers, choices, tail, all_learnable=derived))
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
    usual = fields.get("spike_grad", dataclasses.MISSING)
    body["surrogate"] = staticmethod(ATan() if usual is dataclasses.MISSING else usual)
    body |= {"graded": "graded_spikes_factor" in tail, "__doc__": doc, "__module__": "snn_functional.snn"}
    body |= {state: _hidden_field(state) for state in states}
    body["init_" + neuron.step.__name__.removesuffix("_step")] = _init_states
    return type(name, (Stateful,), body)


def _usual(
    numbers: dict[str, Any], choices: dict[str, Any], tail: tuple[str, ...], all_learnable: bool
) -> Iterator[inspect.Parameter]:
    """The numbers, then snnTorch's switches in snnTorch's order; by name only, what snnTorch has no place for."""
    defaults = dict(numbers)
    learnable = [key for key in numbers if f"learn_{key}" in LEARNABLE]
    if "spike_grad" in choices:
        defaults |= {"spike_grad": None, "surrogate_disable": False}
    defaults |= {"init_hidden": False, "inhibition": False}
    defaults |= {f"learn_{key}": False for key in learnable}
    if "reset_mechanism" in choices:
        defaults["reset_mechanism"] = choices["reset_mechanism"]
    defaults |= {"state_quant": False, "output": False}
    defaults |= {key: TAIL[key] for key in tail}
    others = {key: x for key, x in choices.items() if key not in ("spike_grad", "reset_mechanism")}
    if all_learnable:
        others |= {f"learn_{key}": False for key in numbers if key not in learnable}
    for kind, arguments in ((POSITIONAL, defaults), (inspect.Parameter.KEYWORD_ONLY, others)):
        for key, x in arguments.items():
            yield inspect.Parameter(key, kind, default=inspect.Parameter.empty if x is dataclasses.MISSING else x)


POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
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
