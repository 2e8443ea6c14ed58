"""The states that a module's forward takes and returns, and the names under which its tensors go."""

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn, Tensor

from .._tree import tree_leaves
from ._has_state import HasState, TakesSequences
from ._memory import refuse_closures


class Arguments(NamedTuple):
    """The states that forward takes after its input. `rest`: the name of `*states`, if it has that. `needed`: those without default."""

    names: list[str]
    rest: str | None
    needed: int

    def has(self, name: str) -> bool:
        return name in self.names or (self.rest is not None and name.startswith(f"{self.rest}."))


def arguments(module: nn.Module) -> Arguments:
    kinds = inspect.Parameter
    every = list(inspect.signature(module.forward).parameters.values())
    if isinstance(module, HasState):
        variadic = any(p.kind is kinds.VAR_POSITIONAL for p in every)
        names = list(module.neuron.State.__leaves__) if variadic else [p.name for p in every[1:]]
        return Arguments([], None, 0) if module.init_hidden else Arguments(names, None, len(names))
    named = [p for p in every if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)][1:]
    rest = next((p.name for p in every if p.kind is kinds.VAR_POSITIONAL), None)
    return Arguments([p.name for p in named], rest, sum(p.default is kinds.empty for p in named))


def names_of(module: nn.Module, states: tuple[Any, ...]) -> tuple[str, ...]:
    """The names of these states. Raises TypeError for a module that is no step of time, and for states that do not fit it."""
    if not isinstance(module, nn.Module):
        hint = (
            " A neuron, a chain too, is pure already: scan(neuron.step, ...)."
            if hasattr(module, "step") or callable(module)
            else ""
        )
        raise TypeError(f"functionalize(module): module is an nn.Module, not {type(module).__name__}.{hint}")
    name = type(module).__name__
    for layer in module.modules():
        if isinstance(layer, TakesSequences):
            raise TypeError(
                f"functionalize({name}): a step is one time step, but {type(layer).__name__} takes whole sequences. It keeps no "
                "state, so it is a function of its parameters: torch.func.functional_call(layer, params, (xs,))."
            )
    for where, p in module.named_parameters():
        if hasattr(p, "full_tensor"):  # a DTensor, whose class is not loaded just to be looked for
            raise TypeError(
                f"functionalize({name}): its {where} is sharded (fully_shard), and a step takes whole tensors. Call the sharded module "
                "itself, or snn.run(module, xs); or functionalize it before it is sharded, and give the step each p.full_tensor()."
            )
    refuse_closures(module)
    names, rest, needed = arguments(module)
    if len(states) < needed or (len(states) > len(names) and rest is None):
        takes, given = ", ".join(["x", *names]), ", ".join(names[:needed] or names)
        raise TypeError(
            f"functionalize({name}): its forward takes ({takes}), but {len(states)} states came. Give what they are before the "
            f"first step, functionalize(module{given and ', '}{given}); a membrane at rest is torch.zeros(())"
            + (". Or make the face with init_hidden=True." if isinstance(module, HasState) else ".")
        )
    for i, state in enumerate(states):
        for leaf in tree_leaves(state) if state is not None else [None]:
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"functionalize({name}, ...): a state is a tensor or a tree of them, but state {i} holds {leaf!r}. At rest it "
                    "is torch.zeros(()), or layer.reset_mem() of a face."
                )
    return tuple([*names, *(f"{rest}.{i}" for i in range(len(states)))][: len(states)])


def check_names(where: str, given: Any, names: Iterable[str], more: Iterable[str] = ()) -> None:
    """Refuses what is no dictionary with exactly these names."""
    expected = {*names, *more}
    if not isinstance(given, dict):
        raise TypeError(
            f"{where} is a dictionary of tensors by name, as functionalize made it, not {type(given).__name__}."
        )
    if given.keys() != expected:
        missing, unknown = sorted(expected - given.keys()), sorted(given.keys() - expected)
        parts = [
            f"{what} {', '.join(which)}" for what, which in (("lacks", missing), ("has the unknown", unknown)) if which
        ]
        raise ValueError(f"{where} {' and '.join(parts)}. Expected the names that functionalize gave.")
