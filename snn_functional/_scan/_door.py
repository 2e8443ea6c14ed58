"""The door of `scan`: what cannot be scanned is refused here, before anything is run."""

import dataclasses
import inspect
import math
from typing import Any

import torch
from torch import Tensor

from .._functorch import is_compiling
from .._neuron import fields_of, Neuron
from .._tree import described, tree_leaves, tree_paths
from ._loop import step_name


class Missing:
    """In the place of an argument that was not given, where Python's own words would not say what to give."""

    def __repr__(self) -> str:
        return "<required>"


MISSING: Any = Missing()


def complete(call: str, step: Any, params: Any, state: Any, inputs: Any) -> tuple[Any, Any, Any, Any]:
    """The four arguments of a scan; of what has them itself, as a module that `module` made, all but the inputs are its own.

    Raises TypeError where one is missing, with how it is made.
    """
    if inputs is not MISSING:
        return step, params, state, inputs
    if hasattr(step, "arguments") and params is not MISSING:
        return step.arguments(params) if state is MISSING else step.arguments(params, state)
    if hasattr(step, "named_parameters"):
        way = "snn.explain(net, xs)" if call == "explain" else "step, params, state = functionalize(net)"
        raise TypeError(f"{call}(step, params, state, inputs): {described(step)} came. Of a module of faces: {way}.")
    came = 1 + sum(x is not MISSING for x in (params, state))
    raise TypeError(
        f"{call}(step, params, state, inputs): {came} of its 4 arguments came. At rest the state is {_at_rest(step)}: "
        f"{call}({step_name(step) if step_name(step).isidentifier() else 'net.step'}, params, {_at_rest(step)}, xs)."
    )


def _at_rest(step: Any, first: str = "xs[0]") -> str:
    """The call that makes the state of a step that is known by its name, or as a bundle."""
    name = step_name(step)
    if name.endswith("_step"):
        return f"{name.removesuffix('_step')}_init(params, {first})"
    return f"{'net' if hasattr(step, 'layers') or isinstance(step, Neuron) else 'neuron'}.init(params, {first})"


def admit(step: Any, params: Any, state: Any, inputs: Any, length: int | None) -> int:
    """The number of steps. Raises TypeError or ValueError that shows what came, and what was expected."""
    if not callable(step) or isinstance(step, Neuron):
        hint = " Give its step: scan(neuron.step, ...)." if hasattr(step, "step") else ""
        raise TypeError(
            f"scan(step, params, state, inputs): step is called at each time step, but came as {type(step).__name__}.{hint}"
        )
    if not is_compiling():
        _three_arguments(step)
    try:
        for place, (kind, tree) in enumerate((("Params", params), ("State", state))):
            _belongs(step, kind, place, tree)
    except TypeError as error:
        if swapped := _swapped(step, params, state, inputs):
            raise TypeError(
                f"scan({step_name(step)}, params, state, inputs): {swapped} came in each other's place."
            ) from error
        raise
    _tensors(step, "state", state)
    steps = length_of(inputs, length)
    _one_device(params, state, inputs)
    return steps


def length_of(inputs: Any, length: int | None = None) -> int:
    """The number of steps of these inputs. Raises TypeError or ValueError for what has no time axis, or several."""
    xs = tree_leaves(inputs)
    for x in xs:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"scan(..., inputs): every leaf is a tensor [T, ...], but {described(x)} came.{_instead(x)}"
            )
        if x.dim() == 0:
            raise ValueError(
                "scan(..., inputs): a 0-d tensor has no time axis. Expected [T, ...]; for T equal steps give x.expand(T)."
            )
    # One by one, and not as a set: to a compiler T may be a symbol.
    lengths = [*(x.shape[0] for x in xs), *([length] if length is not None else [])]
    if not lengths:
        raise ValueError(
            "scan(..., inputs=None): without inputs the number of steps must be given: scan(..., None, length=T)."
        )
    steps = lengths[0]
    if any(other != steps for other in lengths[1:]):
        turned = any(
            len(x.shape) > 1 and tuple(x.shape[1::-1]) == tuple(y.shape[:2])
            for x in xs
            for y in xs
            if x.shape[0] != y.shape[0]
        )
        raise ValueError(
            f"scan(..., inputs): the time axes differ: {[tuple(x.shape) for x in xs]}"
            + (f" with length={length}" if length is not None else "")
            + ". Time comes first, [T, batch, ..., neurons], and T is the same everywhere."
            + (" One of them has the batch first: give it as transpose(0, 1)." if turned else "")
        )
    if steps < 1:
        raise ValueError(
            f"scan(..., inputs): the time axis is empty: {[tuple(x.shape) for x in xs]}. Expected at least one time step."
        )
    return steps


def _three_arguments(step: Any) -> None:
    """Refuses what cannot be called with a step's arguments, where that is certain: by the code that is run. A signature may be that of
    another function, which it wraps."""
    if isinstance(step, type):
        raise TypeError(f"scan(step, params, state, inputs): step is a function, but the class {step.__name__} came.")
    if hasattr(step, "take_back"):  # a face
        raise _no_step(step, "input_, ...")
    called = (
        step
        if inspect.isfunction(step) or inspect.ismethod(step)
        else inspect.getattr_static(type(step), "__call__", None)
    )
    if hasattr(step, "named_parameters"):
        called = None if getattr(step, "_forward_pre_hooks", None) else getattr(type(step), "forward", None)
    code = getattr(getattr(called, "__func__", called), "__code__", None)
    if code is None or isinstance(called, (staticmethod, classmethod)):
        return
    own = called is not step or inspect.ismethod(step)  # self comes by itself
    least = code.co_argcount - len(getattr(called, "__defaults__", None) or ())
    most = math.inf if code.co_flags & inspect.CO_VARARGS else code.co_argcount
    if not least <= 3 + own <= most:
        raise _no_step(step, ", ".join(code.co_varnames[own : code.co_argcount]))


def _no_step(step: Any, takes: str) -> TypeError:
    module = hasattr(step, "named_parameters")
    hint = " Of a module make one: step, params, state = functionalize(module); or snn.run(module, inputs)."
    return TypeError(
        "scan(step, params, state, inputs): step is called as step(params, state, input), but "
        f"{getattr(step, '__name__', None) or type(step).__name__}({takes}) came.{hint if module else ''}"
    )


def _belongs(step: Any, kind: str, place: int, tree: Any) -> None:
    """Refuses the tree of another neuron, where the step says which is its own: by an annotation, or as a modifier does."""
    around = getattr(step, kind, None)
    own = around or annotation(step, place)
    name = kind.lower()
    if isinstance(own, type) and hasattr(own, "__leaves__") and not isinstance(tree, own):
        made = f"At rest it is {_at_rest(step, 'inputs[0]')}." if kind == "State" else f"Make one: {fields_of(own)}."
        raise TypeError(
            f"scan({step_name(step)}, params, state, inputs): {name} is a tree of {own.__name__}, but {described(tree)} came. {made}"
        )
    if isinstance(tree, type) and hasattr(tree, "__leaves__"):
        raise TypeError(
            f"scan({step_name(step)}, params, state, inputs): {name} is a tree of tensors, but {described(tree)} came. "
            f"Make one: {tree.__name__}(...)."
        )
    if hasattr(step, kind) and callable(getattr(step, "step", None)):
        _belongs(step.step, kind, place, tree.inner if around else tree)


def _swapped(step: Any, params: Any, state: Any, inputs: Any) -> str | None:
    """Which two arguments came in each other's place, where the step says which trees are its own."""
    own = [getattr(step, kind, None) or annotation(step, place) for place, kind in enumerate(("Params", "State"))]
    if not all(isinstance(kind, type) and hasattr(kind, "__leaves__") for kind in own):
        return None
    if isinstance(params, own[1]) and isinstance(state, own[0]):
        return "params and state"
    return "state and inputs" if isinstance(inputs, own[1]) and isinstance(state, Tensor) else None


def _tensors(step: Any, name: str, tree: Any) -> None:
    """Refuses a tree with a leaf that is no tensor."""
    for i, leaf in enumerate(tree_leaves(tree)):
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"scan({step_name(step)}, ...): {name} is a tree of tensors, but {tree_paths(tree, name)[i]} is {described(leaf)}."
                f"{_instead(leaf)}"
            )


def _instead(leaf: Any) -> str:
    """What to give instead of something that is no tensor."""
    if isinstance(leaf, (bool, int, float)):
        return f" Give torch.tensor({leaf!r})."
    if hasattr(leaf, "__array__"):
        return " Give torch.from_numpy(x)."
    if dataclasses.is_dataclass(leaf):
        return f" A dataclass of tensors is a tree with @snn_functional.pytree in place of @dataclass above {type(leaf).__name__}."
    if callable(leaf) and hasattr(leaf, "__name__"):
        return f" Call it: {leaf.__name__}(...)."
    return ""


def annotation(step: Any, place: int) -> Any:
    """The tree that a function says to take at this place; None where it does not say."""
    function = getattr(step, "__func__", step)
    code = getattr(function, "__code__", None)
    place += function is not step  # a method's first argument is given
    if code is None or code.co_argcount <= place:
        return None
    return function.__annotations__.get(code.co_varnames[place])


def _one_device(params: Any, state: Any, inputs: Any) -> None:
    placed: dict[torch.device, str] = {}
    for name, tree in (("params", params), ("state", state), ("inputs", inputs)):
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor) and not (leaf.dim() == 0 and leaf.device.type == "cpu"):
                placed.setdefault(leaf.device, name)
    if len(placed) > 1:
        where = ", ".join(f"{name} on {device}" for device, name in placed.items())
        raise ValueError(
            f"scan(step, params, state, inputs): mixed devices: {where}. "
            "Move them to one: optree.tree_map(lambda leaf: leaf.to(device), tree)."
        )
