"""What modifiers share: they take a step or a neuron, and refuse what they cannot modify."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._functorch import is_compiling
from .._neuron import Neuron, refuse_swapped, text_of
from .._tree import replaced


Step = Callable[[Any, Any, Any], tuple[Any, Any]]


class Modifier:
    """Subclass it as a frozen dataclass whose first field is `step`, and give `__call__`.

    `Params`, `State`: the trees that it puts around those of the neuron, where it does; then also `rest`.
    """

    step: Step
    Params: ClassVar[Any] = None
    State: ClassVar[Any] = None
    _binary: ClassVar[bool] = True  # does it give spikes, 0 or 1, where the neuron does?
    _more: ClassVar[str] = ""  # what to do with what is no argument of it

    def __new__(cls, step: Any = None, *args: Any, **kwargs: Any) -> Any:
        if (args or kwargs) and not is_compiling():
            cls._count(1 + len(args) + len(kwargs))
        if not isinstance(step, Neuron):
            return super().__new__(cls)
        modified = cls(step.step, *args, **kwargs)
        init = step.init if cls.rest is Modifier.rest else _Init(modified, step.init)
        return Neuron(cls.Params or step.Params, cls.State or step.State, init, modified)

    @classmethod
    def _count(cls, came: int) -> None:
        """Refuses more arguments than it takes; what is wrong otherwise Python says."""
        code = getattr(cls.__init__, "__code__", None)
        if code is None or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
            return
        names = code.co_varnames[2 : code.co_argcount + code.co_kwonlyargcount]
        if came > 1 + len(names):
            raise TypeError(
                f"{cls.__name__}({', '.join(['neuron', *names])}): {came} arguments came. {cls._more}".rstrip()
            )

    def __post_init__(self) -> None:
        if not callable(self.step):
            raise TypeError(
                f"{name(self)}(...) takes a neuron or its step, {name(self)}(leaky) or {name(self)}(leaky_step), not "
                f"{type(self.step).__name__}."
            )

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, Any]:
        raise NotImplementedError(f"{name(self)} defines no `__call__`.")

    def rest(self, init: Callable[[Any, Any], Any], params: Any, input: Any) -> Any:
        """The state before the first step, `init` being that of the neuron inside."""
        return init(params, input)

    def opened(self, params: Any, state: Any = None) -> None:
        """Refuses trees that are not this modifier's own."""
        refuse_swapped(params, state)
        for tree, kind in ((params, self.Params), (state, self.State)):
            if kind is not None and tree is not None and not isinstance(tree, kind):
                raise TypeError(
                    f"{name(self)}: {kind.__name__}(inner, ...), around the tree of the neuron inside, was expected, but a "
                    f"{type(tree).__name__} came."
                )

    def reads(self, tree: Any, *fields: str) -> None:
        """Refuses a neuron without these fields, which this modifier reads."""
        for field in fields:
            if not hasattr(tree, field):
                inner = self.step
                raise TypeError(
                    f"{name(self)} reads `{field}`, which {type(tree).__name__} does not have."
                    + (f" It goes inside: {name(inner)}({name(self)}(neuron))." if isinstance(inner, Modifier) else "")
                )

    def spikes(self, output: Any) -> Tensor:
        """The output of the neuron inside. Refuses any but one tensor."""
        if not isinstance(output, Tensor):
            raise TypeError(
                f"{name(self)} modifies a step that gives its spikes alone, but {type(output).__name__} came. `record` goes "
                f"outside: record({name(self)}(neuron))."
            )
        return output

    def __repr__(self) -> str:
        step, *rest = (getattr(self, field.name) for field in dataclasses.fields(self))  # pyright: ignore
        return f"{name(self)}({', '.join([getattr(step, '__name__', repr(step)), *map(repr, rest)])})"

    def __str__(self) -> str:
        """Around a network its table, with a heading."""
        inside = text_of(self.step)
        if inside is None:
            return repr(self)
        own = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self)[1:])  # pyright: ignore
        return f"{name(self)}{f'({own})' if own else ''}: {inside}"


@dataclasses.dataclass(frozen=True)
class _Init:
    """The init of a modified neuron."""

    modified: Modifier
    init: Callable[[Any, Any], Any]

    def __call__(self, params: Any, input: Any) -> Any:
        return self.modified.rest(self.init, params, input)


def name(modifier: Any) -> str:
    return type(modifier).__name__


def size(spk: Tensor) -> Tensor:
    """|spk|: what a spike costs, whatever its sign. 1 for a spike of 1 or -1."""
    return torch.where(spk < 0, -spk, spk)


def emitted(spk: Tensor, state: Any) -> Any:
    """The state of a step that fires `spk` after all: a recurrent neuron remembers its spikes."""
    if isinstance(state, tuple):  # of a chain, whose last layer fires
        return (*state[:-1], *(emitted(spk, last) for last in state[-1:]))
    if hasattr(state, "inner"):
        state = replaced(state, inner=emitted(spk, state.inner))
    return replaced(state, spk=spk) if hasattr(state, "spk") else state
