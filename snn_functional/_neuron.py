"""What a neuron is: two trees and two pure functions, and the door in front of them.

    init(params, input) -> state                   at rest, shaped, typed and placed like one time step of input
    step(params, state, input) -> (spk, state)     one time step; exactly three arguments, always

`admit` is the first line of a step and `at_rest` of an init: what cannot be one time step is refused there.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TYPE_CHECKING

import torch
from torch import Tensor

from ._functorch import readable
from ._tree import described, tree_leaves


SPIKES = (torch.bool, torch.uint8)
HALF = (torch.float16, torch.bfloat16)


class Neuron(NamedTuple):
    """The contract, as a value: `leaky = Neuron(LeakyParams, LeakyState, leaky_init, leaky_step)`.

    `help(leaky)` shows what its step says, and the fields of its trees; `print` of a chain shows its layers.
    """

    Params: Any
    State: Any
    init: Callable[[Any, Any], Any]
    step: Callable[[Any, Any, Any], tuple[Any, Any]]

    def __repr__(self) -> str:
        return f"Neuron({name_of(self.step)})"

    def __str__(self) -> str:
        """A step that has a text of its own, as a chain has its table, is shown by it."""
        return text_of(self.step) or repr(self)

    if not TYPE_CHECKING:  # a type checker says it sooner

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Refuses: a bundle is not called, its functions are."""
            name = name_of(self.step)
            short = name if name.isidentifier() else "net"
            params = fields_of(self.Params) if hasattr(self.Params, "__leaves__") else "a tuple, one for each layer"
            raise TypeError(
                f"{name}(...): a neuron is a bundle and is not called itself. Its params are {params}. One step is {short}.step(params, "
                f"state, x), all of them scan({short}.step, params, {short}.init(params, xs[0]), xs); as an nn.Module, model = "
                f"module({short}, params), it is model(xs)."
            )


class _Doc:
    """The docstring of a class, and of each of its values another one: a tuple has no room for it, and is then all that a class of
    named tuples promises to `copy`, pickle and optree."""

    def __init__(self, of_class: str | None) -> None:
        self.of_class = of_class

    def __get__(self, neuron: Neuron | None, owner: type) -> str | None:
        return self.of_class if neuron is None else _described(neuron)


setattr(Neuron, "__doc__", _Doc(Neuron.__doc__))


def _described(neuron: Neuron) -> str:
    """Equations, shapes, units and source, which its step has, and its trees."""
    parts = [inspect.getdoc(neuron.step) or ""]
    parts.append(text_of(neuron.step) or "")
    for tree in (neuron.Params, neuron.State):
        if hasattr(tree, "__leaves__"):
            parts.append("\n".join([fields_of(tree), *(f"    {line}".rstrip() for line in _lines(tree))]))
    return "\n\n".join(filter(None, parts))


def _lines(tree: Any) -> list[str]:
    return (inspect.getdoc(tree) or "").splitlines()


def fields_of(tree: Any) -> str:
    """A tree's class as it is called: `LeakyParams(beta, threshold=1.0, ...)`."""
    fields = [
        field.name if field.default is dataclasses.MISSING else f"{field.name}={field.default!r}"
        for field in dataclasses.fields(tree)
    ]
    return f"{tree.__name__}({', '.join(fields)})"


def text_of(step: Any) -> str | None:
    """What a step says of itself where that is more than its name: a chain, and what is around one, its table of layers."""
    text = str(step)
    return None if text == repr(step) else text


def name_of(step: Any) -> str:
    """A step's name without its ending: `leaky`, `refractory(leaky_step, 3)`."""
    return (getattr(step, "__name__", None) or repr(step)).removesuffix("_step")


def at_rest(params: Any, input: Tensor) -> Tensor:
    """Zeros like one time step of `input`, in floating point: in the params' dtype where the input is in half precision. Refuses
    params that do not fit the input."""
    _check_input(params, input)
    dtype = torch.get_default_dtype() if input.dtype in SPIKES else _precision(params, input.dtype)
    _check_params(params, input, dtype)
    return torch.zeros_like(input, dtype=dtype)


def precise(params: Any, x: Tensor) -> Tensor:
    """`x` in the dtype of what is computed with it and these params. What is in half precision, as every product is under
    `torch.autocast`, is widened to the params'; half params keep it as it is."""
    dtype = _precision(params, x.dtype)
    return x if x.dtype is dtype else x.to(dtype)


def at_least(dtype: torch.dtype, x: Tensor) -> Tensor:
    """Spikes (bool, uint8) and half precision in this dtype, or a wider one; any other `x` as it is."""
    return x.to(torch.promote_types(x.dtype, dtype)) if x.dtype in (*SPIKES, *HALF) else x


def _precision(params: Any, dtype: torch.dtype) -> torch.dtype:
    """A membrane that adds up small currents stands still in half precision, so the input does not decide about its dtype."""
    if dtype in HALF:
        leaves = [leaf for leaf in tree_leaves(params) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        for leaf in [
            leaf for leaf in leaves if leaf.dim()
        ] or leaves:  # numbers change no dtype, unless there are only numbers
            dtype = torch.promote_types(dtype, leaf.dtype)
    return dtype


CLAMP_PASSES = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 14)


def unit(decay: Tensor) -> Tensor:
    """`decay` clamped to [0, 1]; the gradient passes at both bounds, as that of `clamp` did before torch 2.14."""
    if CLAMP_PASSES:
        return decay.clamp(0, 1)
    return torch.where(decay < 0, 0.0, torch.where(decay > 1, 1.0, decay))


def admit(params: Any, state: Any, input: Tensor) -> Tensor:
    """`input`, once it is known to be one time step of these trees. Spikes (bool, uint8) become floats, and half precision the params'.

    - `params`: every leaf broadcasts to the input's shape: () or `(neurons,)` or `(batch, 1)`, aligned from the right.
    - `state`: likewise, and of a dtype that can hold the input.

    Raises TypeError for dtypes and ValueError for shapes and devices that do not fit.
    """
    _check_input(params, input)
    if not hasattr(type(state), "__leaves__"):
        raise _no_tree("state", state)
    if state.__role__ == "Params":
        refuse_swapped(params, state)
    dtype = _precision(params, input.dtype)
    for name in state.__leaves__:
        leaf = getattr(state, name)
        if leaf.shape != input.shape or leaf.device != input.device:
            _check_place(state, name, leaf, input)
        if leaf.dtype is not dtype:
            dtype = _state_dtype(state, name, leaf, dtype)
    _check_params(params, input, dtype)
    return input if input.dtype is dtype else input.to(dtype)


def above_zero(params: Any, *names: str) -> None:
    """For `__check__`: what is divided by, and the length of a step, are above 0, where they can be looked at."""
    for name in names:
        x = getattr(params, name)
        if readable(x) and not bool((x > 0).all()):
            raise ValueError(f"{type(params).__name__}({name}={float(x.min()):g}): expected a number above 0.")


def wired(params: Any, state: Any, input: Tensor, axes: int, by: str) -> Tensor:
    """What `admit` is for neurons that weigh their input, by this connection in params: its last `axes` axes are not the state's, but all
    before them are.

    Spikes (bool, uint8) become floats, of the weight's dtype, as does what is in half precision beside a wider weight.

    Raises TypeError for dtypes, ValueError for an input of too few axes and for states of another batch; what does not fit the
    weights is refused by the connections.
    """
    refuse_swapped(params, state)
    _check_input(params, input)
    input = at_least(getattr(params, by).weight.dtype, input)
    if input.dim() < axes:
        raise ValueError(f"{_neuron_of(params)} takes an input of at least {axes} axes, but {tuple(input.shape)} came.")
    batch = input.shape[: input.dim() - axes]
    for name in () if state is None else state.__leaves__:
        leaf = getattr(state, name)
        given = leaf.shape[: max(leaf.dim() - axes, 0)]
        if given != batch and any(n not in (1, m) for n, m in zip(given[::-1], batch[::-1])):
            raise ValueError(
                f"{type(state).__name__}.{name} has shape {tuple(leaf.shape)}, which does not fit an input "
                f"{tuple(input.shape)}. A state that fits is made by {_init_of(params)}(params, input){IN_A_CHAIN}."
            )
        if leaf.dtype != input.dtype and leaf.dim():
            raise _cannot_hold(state, name, leaf, input.dtype)
    return input


def beside(params: Any, state: Any, like: Tensor) -> None:
    """What `admit` is for a modifier: its own leaves, those beside the trees of the neuron inside, fit `like`, one step of spikes."""
    _check_input(state if params is None else params, like)
    for name in () if state is None else state.__leaves__:
        leaf = getattr(state, name)
        if isinstance(leaf, Tensor):
            _check_place(state, name, leaf, like)
            _state_dtype(state, name, leaf, like.dtype)
    if params is not None:
        _check_params(params, like, like.dtype)


def refuse_swapped(params: Any, state: Any) -> None:
    """Raises TypeError for a state in the place of params and params in that of a state: trees are told by how their classes end."""
    if type(state).__name__.endswith("Params") and type(params).__name__.endswith("State"):
        raise TypeError(
            f"params and state are swapped: step(params, state, input), but a {type(params).__name__} came first, and then a "
            f"{type(state).__name__}."
        )


def pair_with_mask(input: Any) -> str:
    """What to do with a pair (x, valid) that came to a step that takes x."""
    masks = isinstance(input, tuple) and len(input) == 2 and getattr(input[1], "dtype", None) == torch.bool
    return " A pair (x, valid) is what masked(net) takes, of whatever net takes x." if masks else ""


def _check_input(params: Any, input: Any) -> None:
    if not hasattr(type(params), "__leaves__"):
        raise _no_tree("params", params)
    if not isinstance(input, Tensor):
        raise TypeError(
            f"The input to {_neuron_of(params)} is a tensor [batch, ..., neurons], not {type(input).__name__}.{pair_with_mask(input)}"
        )
    if not input.is_floating_point() and input.dtype not in SPIKES:
        raise TypeError(
            f"The input to {_neuron_of(params)} is {input.dtype}; expected a floating tensor, or spikes as bool or uint8: "
            "give input.float()."
        )


def _no_tree(which: str, came: Any) -> TypeError:
    made = fields_of(came) if hasattr(came, "__leaves__") else "LeakyParams(beta=0.9)"
    if which == "state":
        made = "leaky_init(params, input), neuron.init of any"
    return TypeError(f"A neuron's {which} is a tree, {made}, but {described(came)} came.")


def _check_params(params: Any, input: Tensor, dtype: torch.dtype) -> None:
    for name in params.__leaves__:
        leaf = getattr(params, name)
        if not isinstance(leaf, Tensor) or (leaf.dim() == 0 and leaf.device.type == "cpu"):
            continue
        _check_place(params, name, leaf, input)
        if leaf.dim() and leaf.dtype is not dtype and torch.promote_types(leaf.dtype, dtype) != dtype:
            raise TypeError(
                f"{type(params).__name__}.{name} is {leaf.dtype} per neuron, but the state is {dtype} and would change its "
                f"dtype: give {name}.to({dtype})."
            )


def _check_place(tree: Any, name: str, leaf: Tensor, input: Tensor) -> None:
    where = f"{type(tree).__name__}.{name}"
    have, want = leaf.shape, input.shape
    if have != want and (len(have) > len(want) or any(h not in (1, w) for h, w in zip(have[::-1], want[::-1]))):
        fits = f"() or a shape that fits from the right, like ({want[-1] if len(want) else 1},)"
        if len(have) == 1 and have[0] in want[:-1]:  # one number a channel, say
            fits += f" or {(have[0], *[1] * (len(want) - 1 - list(want).index(have[0])))}"
        if type(tree).__name__.endswith("Params"):
            help = "For many parameter sets at once: torch.func.vmap over params."
            if name == "V" and len(have) == 2 and have[0] == have[1] == want[-1]:
                help = "From all to all V is a connection: V=Linear(V)."
        else:
            help = f"A state that fits is made by {_init_of(tree)}(params, input){IN_A_CHAIN}."
        raise ValueError(
            f"{where} has shape {tuple(have)}, which does not broadcast to the input's {tuple(want)}. Expected {fits}. {help}"
        )
    if leaf.device != input.device and not (leaf.dim() == 0 and leaf.device.type == "cpu"):
        raise ValueError(
            f"{where} is on {leaf.device}, the input on {input.device}. Move one of them: "
            f"optree.tree_map(lambda leaf: leaf.to({str(input.device)!r}), {'params' if 'Params' in where else 'state'})."
        )


def _state_dtype(state: Any, name: str, leaf: Tensor, dtype: torch.dtype) -> torch.dtype:
    if dtype in SPIKES and leaf.is_floating_point():
        return leaf.dtype
    if leaf.is_floating_point() and (leaf.dim() == 0 or torch.promote_types(leaf.dtype, dtype) == leaf.dtype):
        return leaf.dtype if leaf.dim() else dtype
    raise _cannot_hold(state, name, leaf, dtype)


def _cannot_hold(state: Any, name: str, leaf: Tensor, dtype: torch.dtype) -> TypeError:
    return TypeError(
        f"{type(state).__name__}.{name} is {leaf.dtype} and cannot hold an input of {dtype}. Expected that dtype: "
        f"{_init_of(state)}(params, input) makes it{IN_A_CHAIN}."
    )


IN_A_CHAIN = ", in a chain by net.init(params, xs[0])"


def _neuron_of(tree: Any) -> str:
    """LeakyIntegratorState -> leaky_integrator: the neuron's name, for messages that show a call."""
    name = type(tree).__name__.removesuffix("Params").removesuffix("State")
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", name).lower()


def _init_of(tree: Any) -> str:
    """The call that makes a state: a modified neuron's is that of its bundle."""
    return "neuron.init" if hasattr(tree, "inner") else f"{_neuron_of(tree)}_init"
