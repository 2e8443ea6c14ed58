"""`functionalize(module)`: a module of faces and ordinary layers as a pure step, and the way back.

The step holds a private copy of the module. A call puts the given tensors in the place of the copy's own, runs its forward, takes what
that left in the buffers and in the faces, and puts everything back: nothing of a call outlives it. `scan` takes it apart as it does any
step: products run once over all of time, faces are kernels.
"""

import contextlib
import copy
import inspect
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn, Tensor

from .._functorch import intercepted, is_compiling, outside, transforms, wrapping
from .._identity import generators, restore
from .._scan._loop import unchanged
from .._tree import tree_leaves, tree_map
from ._calls import (
    Calls,
    holds_the_loop,
    loops_itself,
    put_back,
    remembering,
    takes_all_of_time,
    watched,
    without_hidden,
)
from ._memory import Memory, NATIVE, of_library, refuse_closures, STATE
from ._parallel import Whole
from ._stateful import Stateful
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
    something in an attribute of its own, or that gives a face with `init_hidden=False` no state; RuntimeError, with what helps, for
    one that reads numbers which differ between the samples of a `vmap`. `scan` raises TypeError for a forward that is seen to hold the
    time loop itself.
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
        "_lock",
        "_batched",
        "_one_step",
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
        self._lock = threading.RLock()  # threads take turns: there is one module, whose tensors are replaced
        self._batched: set[str] | None = None  # the buffers (and states) that were made batched under the last vmap
        self._one_step: set[Any] = set()  # the shapes of inputs that the module was seen to take for one step of time

    def __reach__(self) -> Iterator[tuple[str, Any]]:
        """What `scan` has to look at to know this step again: the code of the module's classes, and what is in their attributes. Its
        tensors are replaced in each call; they are the arguments."""
        for module in self._module.modules():
            if not of_library(module):
                yield type(module).__name__, type(module)
                for name, value in vars(module).items():
                    if name not in NATIVE | STATE:
                        yield f"{type(module).__name__}.{name}", value

    def __call__(self, params: dict[str, Tensor], state: dict[str, Any], input: Any) -> tuple[Any, dict[str, Any]]:
        with unchanged(self, (params, input)):
            returned, new = self._within(params, state, input, lambda module, *given: module(input, *given))
        given = self._explicit
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

    def __admit__(self, inputs: Any) -> None:
        """Asked by `scan` before it takes this step apart. Raises TypeError where the module, at random inputs of such a shape, is
        seen to loop over time itself.
        """
        if self._explicit or not isinstance(inputs, Tensor) or intercepted():  # who looks on should see the scan alone
            return
        if (key := (inputs.shape[1:], inputs.dtype)) in self._one_step:
            return
        first: Calls | None = None
        device = next((x.device for x in (*self._params.values(), *self._state.values())), inputs.device)
        with outside(), torch.no_grad(), put_back(self.__reach__()) as allowed:
            if not allowed:
                return
            # Numbers of all sizes, without a draw, which a transform around this might refuse.
            shape = (3, *inputs.shape[1:])
            numbers = torch.arange(math.prod(shape), device=device, dtype=torch.float64) * 0.618 % 1 * 2
            x, y, _ = xs = numbers.reshape(shape).to(inputs.dtype)
            try:
                first, state = self._seen(x, self._state)
                loops = holds_the_loop(first, x, self._tried, lambda: self._seen(y, state)[0])
            except Exception:  # a step that fails says so itself, when it is run
                loops = first is None and takes_all_of_time(xs, self._tried)
        if loops:
            raise self._loops(first)
        if len(self._one_step) > 100:
            self._one_step.clear()
        self._one_step.add(key)

    def _loops(self, first: Calls | None) -> TypeError:
        return loops_itself(f"scan({self!r}, ...)", self._module, first, 'scan(step, params, state, xs, kind="loop")')

    def _seen(self, x: Tensor, state: dict[str, Any]) -> tuple[Calls, dict[str, Any]]:
        """The calls that the module makes for this input, and the state after it."""

        def go(module: nn.Module) -> Calls:
            with watched(_layers(module)) as calls:
                module(x)
            return calls

        copies = tree_map(torch.clone, (self._params, state))  # what a forward writes to is none of this
        return self._within(*copies, x, go)

    def _tried(self, x: Tensor) -> Calls | None:
        try:
            return self._seen(x, self._state)[0]
        except Exception:
            return None

    def _within(
        self, params: dict[str, Tensor], state: dict[str, Any], input: Any, go: Callable[..., Any]
    ) -> tuple[Any, dict[str, Any]]:
        """What `go(module, *states)` returns of the module with these tensors in it, and the state that it leaves there."""
        _same_names(f"The step of {self!r}: params", params, self._params)
        _same_names(f"The step of {self!r}: state", state, self._state, self._explicit)
        if is_compiling():
            return self._once(params, state, go, [name for _, _, name, _ in self._kept], input)
        with self._lock:
            if "Vmap" not in transforms():
                return self._once(params, state, go)
            return self._under_vmap(params, state, input, go)

    def _under_vmap(
        self, params: dict[str, Tensor], state: dict[str, Any], input: Any, go: Callable[..., Any]
    ) -> tuple[Any, dict[str, Any]]:
        """As `_once`. Which buffers come to differ between the samples only the forward knows, so it is tried.

        Where a buffer must be batched, since something batched is written into it, or must not be, since a number is read out of it, torch
        raises: whatever runs is right. What was right once is tried first the next time.
        """
        floats = {name for _, _, name, _ in self._kept if torch.is_floating_point(state[name])}
        norms = {name for _, _, name, normal in self._kept if normal}
        every = {name for _, _, name, _ in self._kept} | set(self._explicit)
        ways: list[set[str]] = []
        for way in (self._batched, floats, every, floats & norms):
            if way is not None and way not in ways:
                ways.append(way)
        drawn, failed = generators() if len(ways) > 1 else [], []
        for batched in ways:
            try:
                returned = self._once(params, state, go, batched, input)
            except RuntimeError as error:
                if not any(says in str(error) for says in (*WRITES, *READS)):
                    raise
                failed.append(error)
                restore(drawn)
            else:
                self._batched = batched
                return returned
        advice = self._advice([str(error) for error in failed], state)
        if not advice:
            raise failed[0]
        raise RuntimeError(f"The step of {self!r} under vmap {advice}\ntorch says: {failed[0]}") from failed[0]

    def _advice(self, says: list[str], state: dict[str, Any]) -> str:
        """What to do about a forward that fails under vmap whichever buffers are batched: so said torch, each time."""
        reads, writes = (any(text in error for text in kind for error in says) for kind in (READS, WRITES))
        numbers = [name for _, _, name, normal in self._kept if not normal and state[name].numel() == 1]
        given = [name for name in numbers if "batched" in wrapping([state[name]])]
        cells = {type(m).__name__ for m in self._module.modules() if isinstance(m, nn.RNNCellBase)}
        if reads and given:
            return (
                f"reads a number out of a tensor that differs between the samples. Is it one of the buffers {', '.join(given)}, which "
                "come batched? One that counts steps is the same for all, so it stays out: in_dims of the state "
                f"dict.fromkeys(state, 0) | {{{given[-1]!r}: None}}."
            )
        if reads and writes:
            return (
                "reads a number out of one buffer, and writes what differs between the samples into another. Make those that count "
                "steps integers (torch.long), and those that gather samples floating: so they are told apart."
            )
        if writes and cells:
            return (
                f"has an {' or '.join(sorted(cells))} write into its state, which must be batched as its input is. Give it one, as a "
                "state that forward takes and returns: state.expand(batch, *state.shape) with in_dims 0."
            )
        return ""

    def _once(
        self,
        params: dict[str, Tensor],
        state: dict[str, Any],
        go: Callable[..., Any],
        batched: Iterable[str] = (),
        input: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        """`go` of the module with these tensors in it; the buffers and states called `batched` made so, as all else together is."""
        tensors, new = params | state, dict(state)
        for _, _, name, normal in self._kept:
            # torch has no derivative by running statistics, and refuses those that seem to need one.
            tensors[name] = tensors[name].detach().clone() if normal else tensors[name].clone()
        if batched:
            yes: Any = sum(x.new_zeros((), dtype=torch.uint8) for x in _tensors((params, state, input))) == 0
            for name in batched:
                tensors[name] = tree_map(lambda x: torch.where(yes, x, x), tensors[name])
        try:
            for table, key, name, _ in self._places:
                table[key] = tensors[name]
            for keys, face in self._faces:
                face._hidden = face.neuron.State.__rebuild__([state[key] for key in keys], ())
            with remembering(self._outside) if self._outside and not is_compiling() else contextlib.nullcontext():
                returned = go(self._module, *(tensors[name] for name in self._explicit if name in tensors))
            if not is_compiling():
                kept = {name for _, _, name, _ in self._kept}
                changed = self._memory.changed()
                changed += [
                    name
                    for table, key, name, _ in self._places
                    if name not in kept and table.get(key) is not tensors[name]
                ]
                if changed:
                    raise self._remembers(changed)
            for table, key, name, _ in self._kept:
                new[name] = table[key]
            for keys, face in self._faces:
                new |= zip(keys, _hidden(face))
        finally:
            self._restore()
        return returned, new

    def _remembers(self, changed: list[str]) -> Exception:
        return TypeError(
            f"functionalize: forward keeps something in {', '.join(changed)}. A pure step remembers nothing: make it a buffer that is "
            'there from the beginning (register_buffer("mem", torch.zeros(()))), an argument and a result of forward, or a local name.'
        )

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


# What torch says under vmap where something batched is written into what is not, and where a number is read out of what is batched.
WRITES = ("(self, *extra_args) is not possible", "doesn't match the broadcast shape")
READS = (".item() on a Tensor", "data-dependent control flow", "data pointer of Tensor that doesn't have storage")


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


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
