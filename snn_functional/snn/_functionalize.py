"""`functionalize(module)`: a module of faces and ordinary layers as a pure step, and the way back.

The step holds a private copy of the module. A call puts the given tensors in the place of the copy's own, runs its forward, takes what
that left in the buffers and in the faces, and puts everything back: nothing of a call outlives it. Over all of time it runs
layer by layer, where `snn.run` would.
"""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn, Tensor

from .._functorch import is_compiling, transforms
from .._scan import explain
from .._scan._loop import unchanged
from .._tree import tree_leaves
import threading
from ..kernels import Unsupported
lock = threading.RLock()
from ._memory import Memory, of_library, refuse_closures
from ._parallel import Whole
from ._run import _layer_by_layer, _Meet, _obstacle
from ._stateful import remembering, Stateful, without_hidden
from .utils import _layers


def functionalize(module: nn.Module, *states: Any) -> tuple["Functional", dict[str, Tensor], dict[str, Any]]:
    """`module` as `(step, params, state)`: a pure step, and two dictionaries of tensors by name.

        net = nn.Sequential(nn.Linear(784, 10), snn.Leaky(beta=0.9, init_hidden=True))
        step, params, state = snf.functionalize(net)
        spks, state = snf.scan(step, params, state, xs)                     # xs [T, batch, 784]
        loss = lambda params, xs: snf.scan(step, params, state, xs)[0].square().mean()
        grads = torch.func.grad(loss)(params, xs)

    - `params`: every parameter, as `module.named_parameters()` names them: a shared one once, frozen ones too.
    - `state`: what else a step may change: every buffer under its name, and the hidden state of every face with `init_hidden=True`
      as `snn.utils.state_dict` names it, `"1.mem"`. At rest it is a 0-d zero, which the first step makes as large as its input.
      Both are copies; `torch.save` and safetensors take them as they are, and `defunctionalize` writes them back.
    - `states`: for a forward that takes its states and returns them, `forward(x, mem1, mem2) -> (out, mem1, mem2)`, what they are
      before the first step (any trees of tensors): `functionalize(net, mem1, mem2)`. In `state` they have the names of forward's
      arguments (for a face with `init_hidden=False`: those of its states); the last values returned are the new ones.

    `step(params, state, x) -> (out, state)` gives what `module(x)` returns, `x` being one tensor or whatever forward takes. It is
    closed under `torch.func`. Training or evaluation is what `module` is in now; dropout draws from torch's generator (under `vmap`
    say `randomness="different"`). Threads that share a step take turns. It pickles where the module does.

    Raises TypeError for what is no module, for one that takes whole sequences, and for states missing or too many; ValueError for
    names that collide. The step raises ValueError for other names than these, and TypeError for a forward that remembers
    something in an attribute of its own, or that gives a face with `init_hidden=False` no state.
    """
    step = Functional(copy.deepcopy(module), _explicit(module, states))
    params, state, names = step._params, step._state, step._explicit
    if both := [name for name in names if name in params or name in state]:
        raise ValueError(
            f"functionalize({type(module).__name__}): {', '.join(both)} names an argument of forward and a tensor of the module "
            "alike. Rename one."
        )
    return step, dict(params), state | dict(zip(names, states))


def defunctionalize(module: nn.Module, params: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `params` and `state` back into `module`, in place: its parameters, its buffers, the hidden states of its faces.

        step, params, state = snf.functionalize(net)
        ...                                                     # train params, scan on from state
        snf.defunctionalize(net, params, state)                 # net goes on from here, bit for bit

    States that forward takes as arguments are not the module's: they are left out. All is checked before anything is written.

    Raises TypeError for what is no module, ValueError for names that are missing or unknown, and for another shape or dtype than the
    module's.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"defunctionalize(module, params, state): module is an nn.Module, not {type(module).__name__}.")
    call = f"defunctionalize({type(module).__name__}, params, state)"
    own, faces = dict(module.named_parameters()), _faces(module)
    buffers = {name: x for name, x in module.named_buffers() if all(x is not p for p in own.values())}
    hidden = [key for keys, _ in faces for key in keys]
    arguments, rest, _ = _arguments(module)
    inside = {k: x for k, x in state.items() if k in buffers or k in hidden or not _argument(k, arguments, rest)}
    _same_names(f"{call}: params", params, own)
    _same_names(f"{call}: state", inside, [*buffers, *hidden])
    written = [(name, x, params[name]) for name, x in own.items()] + [(k, x, inside[k]) for k, x in buffers.items()]
    for name, old, new in written:
        if new.shape != old.shape or new.dtype != old.dtype:
            raise ValueError(
                f"{call}: {name} is {new.dtype} {tuple(new.shape)}, but the module's is {old.dtype} {tuple(old.shape)}. Of an "
                "ensemble write one member back: optree.tree_map(lambda x: x[0], params)."
            )
    for key in hidden:
        x = inside[key]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            came = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{call}: the state {key} is a floating tensor, but {came} came.")
    with torch.no_grad():
        for _, old, new in written:
            old.copy_(new)
    for keys, face in faces:
        leaves = [inside[key].detach().clone() for key in keys]
        at_rest = not any(x.dim() or x for x in leaves)
        face._hidden = None if at_rest else face.neuron.State.__rebuild__(leaves, ())


class Functional:
    """What `functionalize` makes: `step(params, state, x) -> (out, state)`. Equal only to itself."""

    # No __dict__: what looks a step over for tensors of its own (`scan` does) shall not walk through a module.
    __slots__ = (
        "_module",
        "_explicit",
        "_params",
        "_state",
        "_faces",
        "_outside",
        "_places",
        "_kept",
        "_memory",
        "__weakref__",
    )

    def __init__(self, module: nn.Module, explicit: tuple[str, ...]) -> None:
        self._module, self._explicit = module, explicit
        own = {id(p): name for name, p in module.named_parameters()}
        self._params: dict[str, Tensor] = {name: p.detach() for name, p in module.named_parameters()}
        self._state: dict[str, Any] = {name: b.detach() for name, b in module.named_buffers() if id(b) not in own}
        self._faces, self._outside = _faces(module), without_hidden(module)
        for keys, face in self._faces:
            self._state |= zip(keys, _hidden(face))
            face.reset_hidden()
        names = {id(x): name for name, x in module.named_buffers()} | own
        modules = list(module.modules())
        tables = [(m, table) for m in modules for table in (m._parameters, m._buffers)]
        self._places: list[tuple[Any, str, str, Any]] = [
            (table, key, names[id(x)], x) for _, table in tables for key, x in table.items() if x is not None
        ]
        # A face never writes to its buffers. Any other module may: it gets copies, and what it leaves there is the new state.
        self._kept: list[tuple[Any, str, str, bool]] = [
            (m._buffers, key, names[id(x)], isinstance(m, nn.modules.batchnorm._NormBase))
            for m in modules
            for key, x in m._buffers.items()
            if x is not None and id(x) not in own and not (isinstance(m, Stateful) and of_library(m))
        ]
        self._memory = Memory(module)

    def __call__(self, params: dict[str, Tensor], state: dict[str, Any], input: Any) -> tuple[Any, dict[str, Any]]:
        given = [state[name] for name in self._explicit if name in state]
        with unchanged(self, (params, input)):
            returned, new = self._within(params, state, input, lambda module: module(input, *given))
        if not given:
            return returned, new
        out = returned[: -len(given)] if isinstance(returned, tuple | list) else ()
        if not out and isinstance(self._module, Stateful):  # a recurrent face, whose spikes are both
            out = returned[:1]
        if not out:
            came = f"{len(returned)} values" if isinstance(returned, tuple | list) else type(returned).__name__
            raise TypeError(
                f"The step of {self!r}: its forward takes {len(given)} states and returned {came}; "
                f"expected (out, {', '.join(self._explicit)})."
            )
        new |= zip(self._explicit, returned[-len(given) :])
        return (out[0] if len(out) == 1 else tuple(out)), new

    def over_time(
        self, params: dict[str, Tensor], state: dict[str, Any], inputs: Any, length: int, reverse: bool
    ) -> tuple[Any, dict[str, Any]]:
        """What `scan` of this step returns, layer by layer. Raises Unsupported, with the reason, where that would be something else."""
        if is_compiling():
            raise Unsupported("torch.compile is tracing")
        with lock:
            if reason := self._obstacle(inputs, reverse):
                raise Unsupported(reason)
            try:
                return self._within(params, state, inputs, lambda module: _layer_by_layer(module, inputs))
            except _Meet as reason:
                raise Unsupported(str(reason)) from None

    def plan(self, params: dict[str, Tensor], state: dict[str, Any], inputs: Any, length: int) -> str:
        """How `scan` runs this step."""
        with lock:
            reason = self._obstacle(inputs)
        if not reason:
            return "layer by layer: each layer runs once over all of time."
        how = explain(self.__call__, params, state, inputs, length=length)
        return how.replace("__call__", repr(self)) if how.startswith("fused") else f"loop: {reason}."

    def _obstacle(self, inputs: Any, reverse: bool = False) -> str | None:
        if reverse:
            return "it runs backwards in time"
        if self._explicit:
            return f"its states {', '.join(self._explicit)} are arguments of its forward"
        if not isinstance(inputs, Tensor):
            return "its input is not one tensor"
        return _obstacle(self._module, inputs)

    def _within(
        self, params: dict[str, Tensor], state: dict[str, Any], input: Any, go: Callable[[nn.Module], Any]
    ) -> tuple[Any, dict[str, Any]]:
        """What `go` returns of the module with these tensors in it, and the state that it leaves there."""
        _same_names(f"The step of {self!r}: params", params, self._params)
        _same_names(f"The step of {self!r}: state", state, self._state, self._explicit)
        tensors, new = params | state, dict(state)
        for _, _, key, normal in self._kept:
            # torch has no derivative by running statistics, and refuses those that seem to need one.
            tensors[key] = tensors[key].detach().clone() if normal else tensors[key].clone()
        if self._kept and (is_compiling() or "Vmap" in transforms()):
            # Where it is written to in place under vmap, a buffer must be batched as what is written.
            zero: Any = sum(x.new_zeros((), dtype=torch.uint8) for x in tree_leaves((params, state, input)))
            for _, _, key, _ in self._kept:
                tensors[key] = tensors[key] + zero.to(tensors[key].dtype)
        with contextlib.nullcontext() if is_compiling() else lock:
            try:
                for table, key, name, _ in self._places:
                    table[key] = tensors[name]
                for keys, face in self._faces:
                    face._hidden = face.neuron.State.__rebuild__([state[key] for key in keys], ())
                with remembering(self._outside) if self._outside and not is_compiling() else contextlib.nullcontext():
                    returned = go(self._module)
                if not is_compiling():
                    self._memory.refuse()
                for table, key, name, _ in self._kept:
                    new[name] = table[key]
                for keys, face in self._faces:
                    new |= zip(keys, _hidden(face))
            finally:
                self._restore()
        return returned, new

    def _restore(self) -> None:
        for table, key, _, x in self._places:
            table[key] = x
        if is_compiling():
            for _, face in self._faces:
                face._hidden = None
            return
        self._memory.restore()

    def __repr__(self) -> str:
        return f"functionalize({type(self._module).__name__})"

    def __reduce__(self) -> Any:
        return Functional, (self._module, self._explicit)


def _faces(module: nn.Module) -> list[tuple[tuple[str, ...], Stateful]]:
    """The faces that hold their state, each with its states' names."""
    layers = {f"{name}." if name else "": face for name, face in _layers(module).items() if face.init_hidden}
    return [(tuple(prefix + field for field in face.neuron.State.__leaves__), face) for prefix, face in layers.items()]


def _hidden(face: Stateful) -> list[Tensor]:
    """What it holds; at rest, a 0-d zero for each state."""
    fields = face.neuron.State.__leaves__
    if face._hidden is None:
        return [face.threshold.detach().new_zeros(()) for _ in fields]
    return [getattr(face._hidden, field) for field in fields]


def _arguments(module: nn.Module) -> tuple[list[str], str | None, int]:
    """The names of the states that forward takes after its input, that of `*states` if there is one, and how many it needs."""
    kinds = inspect.Parameter
    every = list(inspect.signature(module.forward).parameters.values())
    if isinstance(module, Stateful):
        variadic = any(p.kind is kinds.VAR_POSITIONAL for p in every)
        names = list(module.neuron.State.__leaves__) if variadic else [p.name for p in every[1:]]
        return ([], None, 0) if module.init_hidden else (names, None, len(names))
    named = [p for p in every if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)][1:]
    rest = next((p.name for p in every if p.kind is kinds.VAR_POSITIONAL), None)
    return [p.name for p in named], rest, sum(p.default is kinds.empty for p in named)


def _argument(name: str, arguments: list[str], rest: str | None) -> bool:
    return name in arguments or (rest is not None and name.startswith(f"{rest}."))


def _explicit(module: nn.Module, states: tuple[Any, ...]) -> tuple[str, ...]:
    """The names of these states."""
    if not isinstance(module, nn.Module):
        hint = (
            " A neuron is pure already: scan(neuron.step, ...)." if hasattr(module, "step") or callable(module) else ""
        )
        raise TypeError(f"functionalize(module): module is an nn.Module, not {type(module).__name__}.{hint}")
    name = type(module).__name__
    for layer in module.modules():
        if isinstance(layer, Whole):
            raise TypeError(
                f"functionalize({name}): a step is one time step, but {type(layer).__name__} takes whole sequences. It keeps no "
                "state, so it is a function of its parameters: torch.func.functional_call(layer, params, (xs,))."
            )
    refuse_closures(module)
    arguments, rest, needed = _arguments(module)
    if len(states) < needed or (len(states) > len(arguments) and rest is None):
        takes = ", ".join(["x", *arguments])
        given = ", ".join(arguments[:needed] or arguments)
        raise TypeError(
            f"functionalize({name}): its forward takes ({takes}), but {len(states)} states came. Give what they are before the "
            f"first step, functionalize(module{given and ', '}{given})"
            + (", or make the face with init_hidden=True." if isinstance(module, Stateful) else ".")
        )
    for i, state in enumerate(states):
        for leaf in tree_leaves(state) if state is not None else [None]:
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"functionalize({name}, ...): a state is a tensor or a tree of them, but state {i} holds {leaf!r}. At rest it "
                    "is torch.zeros(()), or layer.reset_mem() of a face."
                )
    return tuple([*arguments, *(f"{rest}.{i}" for i in range(len(states)))][: len(states)])


def _same_names(where: str, given: Any, names: Iterable[str], more: Iterable[str] = ()) -> None:
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
