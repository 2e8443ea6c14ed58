"""The step that `functionalize` makes of a module.

It holds a private copy of the module. A call puts the given tensors in the place of the copy's own, runs its forward, takes what that
left in the buffers and in the faces, and puts everything back: nothing of a call outlives it. `scan` takes it apart as it does any
step: products run once over all of time, faces are kernels.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn, Tensor

from .._functorch import intercepted, is_compiling, outside, put_back_later, transforms
from .._scan._loop import unchanged
from .._tree import tree_leaves, tree_map
from ._arguments import check_names
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
from ._has_state import HasState, layers
from ._memory import Memory, NATIVE, of_library, STATE
from ._passed import passed_on
from ._vmap import advice, Buffer, tried, ways_to_batch


class Functional:
    """What `functionalize` makes: `step(params, state, x) -> (out, state)`. Equal only to itself."""

    # No __dict__: what looks a step over for tensors of its own (`scan` does) shall not walk through a module.
    __slots__ = (
        "_module", "_explicit", "_params", "_state", "_faces", "_outside", "_places", "_kept", "_memory", "_lock", "_batched",
        "_one_step", "__weakref__",
    )  # fmt: skip

    def __init__(self, module: nn.Module, explicit: tuple[str, ...]) -> None:
        self._module, self._explicit = module, explicit
        own = {id(p): name for name, p in module.named_parameters()}
        self._params: dict[str, Tensor] = {name: p.detach() for name, p in module.named_parameters()}
        self._state: dict[str, Any] = {name: b.detach() for name, b in module.named_buffers() if id(b) not in own}
        self._faces, self._outside = faces(module), without_hidden(module)
        for keys, face in self._faces:
            self._state |= zip(keys, face.held())
            face.reset_hidden()
        names = {id(x): name for name, x in module.named_buffers()} | own
        modules = list(module.modules())
        tables = [(m, table) for m in modules for table in (m._parameters, m._buffers)]
        self._places: list[tuple[Any, str, str, Any]] = [
            (table, key, names[id(x)], x) for _, table in tables for key, x in table.items() if x is not None
        ]
        # A face never writes to its buffers. Any other module may: it gets copies, and what it leaves there is the new state.
        self._kept = [
            Buffer(names[id(x)], isinstance(m, nn.modules.batchnorm._NormBase), m._buffers, key)
            for m in modules
            for key, x in m._buffers.items()
            if x is not None and id(x) not in own and not (isinstance(m, HasState) and of_library(m))
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
        if self._hooked():
            from ..kernels import being_read, Unsupported

            if being_read():
                raise Unsupported("it has hooks, which look at each step")
        with unchanged(self, (params, input)):
            returned, new = self._within(params, state, input, lambda module, *given: module(input, *given))
        given = self._explicit
        if not given:
            return returned, new
        out = returned[: -len(given)] if isinstance(returned, tuple | list) else ()
        if not out and isinstance(self._module, HasState):  # a recurrent face, whose spikes are both
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
        seen to loop over time itself."""
        if (
            self._hooked() or self._explicit or not isinstance(inputs, Tensor) or intercepted()
        ):  # who looks on should see the scan alone
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

    def _hooked(self) -> bool:
        return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in self._module.modules())

    def _loops(self, first: Calls | None) -> TypeError:
        return loops_itself(f"scan({self!r}, ...)", self._module, first, 'scan(step, params, state, xs, kind="loop")')

    def _seen(self, x: Tensor, state: dict[str, Any]) -> tuple[Calls, dict[str, Any]]:
        """The calls that the module makes for this input, and the state after it."""

        def go(module: nn.Module) -> Calls:
            with watched(layers(module, HasState)) as calls:
                module(x)
            return calls

        params, state = tree_map(torch.clone, (self._params, state))  # a forward may write to its own
        return self._within(params, state, x, go)

    def _tried(self, x: Tensor) -> Calls | None:
        try:
            return self._seen(x, self._state)[0]
        except Exception:
            return None

    def _within(
        self, params: dict[str, Tensor], state: dict[str, Any], input: Any, go: Callable[..., Any]
    ) -> tuple[Any, dict[str, Any]]:
        """What `go(module, *states)` returns of the module with these tensors in it, and the state that it leaves there."""
        check_names(f"The step of {self!r}: params", params, self._params)
        check_names(f"The step of {self!r}: state", state, self._state, self._explicit)
        if is_compiling():
            return self._once(params, state, go, [x.name for x in self._kept], input)
        with self._lock:
            if "Vmap" not in transforms():
                return self._once(params, state, go)
            ways = ways_to_batch(self._batched, self._kept, state, self._explicit)
            once = lambda batched: self._once(params, state, go, batched, input)
            found, self._batched = tried(
                ways, once, lambda says: advice(self._module, self._kept, state, says), repr(self)
            )
            return found

    def _once(
        self, params: Any, state: Any, go: Callable[..., Any], batched: Iterable[str] = (), input: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """`go` of the module with these tensors in it; the buffers and states called `batched` made so, as all else together is."""
        tensors, new = params | state, dict(state)
        for name, norm, *_ in self._kept:
            # torch has no derivative by running statistics, and refuses those that seem to need one.
            tensors[name] = tensors[name].detach().clone() if norm else tensors[name].clone()
        if batched:
            every = [x for x in tree_leaves((params, state, input)) if isinstance(x, Tensor)]
            yes: Any = sum(x.new_zeros((), dtype=torch.uint8) for x in every) == 0
            for name in batched:
                tensors[name] = tree_map(lambda x: torch.where(yes, x, x), tensors[name])
        try:
            put_back_later(self._put, [tensors[name] for _, _, name, _ in self._places])
            for keys, face in self._faces:
                face.lend(face.neuron.State.__rebuild__([state[key] for key in keys], ()))
            watch = bool(self._outside) and not is_compiling()
            with remembering(self._outside, self._module) if watch else contextlib.nullcontext():
                try:
                    returned = go(self._module, *(tensors[name] for name in self._explicit if name in tensors))
                except (TypeError, AttributeError) as error:
                    if says := passed_on(self._module, error):
                        raise TypeError(says) from error
                    raise
            if not is_compiling() and (changed := [*self._memory.changed(), *self._replaced(tensors)]):
                raise self._remembers(changed)
            for buffer in self._kept:
                new[buffer.name] = buffer.table[buffer.key]
            for keys, face in self._faces:
                new |= zip(keys, face.held())
        finally:
            self._restore()
        return returned, new

    def _replaced(self, tensors: dict[str, Tensor]) -> list[str]:
        """Where a forward has put another tensor in the place of one that is not its to change."""
        kept = {x.name for x in self._kept}
        return [
            name for table, key, name, _ in self._places if name not in kept and table.get(key) is not tensors[name]
        ]

    def _remembers(self, changed: list[str]) -> Exception:
        return TypeError(
            f"functionalize: forward keeps something in {', '.join(changed)}. A pure step remembers nothing: make it a buffer that is "
            'there from the beginning (register_buffer("mem", torch.zeros(()))), an argument and a result of forward, or a local name.'
        )

    def _restore(self) -> None:
        put_back_later(self._put, [x for *_, x in self._places])
        for _, face in self._faces:
            face.take_back(None)
        if not is_compiling():
            self._memory.restore()

    def _put(self, tensors: list[Tensor]) -> None:
        for (table, key, *_), x in zip(self._places, tensors):
            table[key] = x

    def __repr__(self) -> str:
        return f"functionalize({type(self._module).__name__})"

    def __reduce__(self) -> Any:
        return Functional, (self._module, self._explicit)


def faces(module: nn.Module) -> list[tuple[tuple[str, ...], HasState]]:
    """The layers that hold their state, each with its states' names."""
    own = {f"{name}." if name else "": face for name, face in layers(module, HasState).items() if face.init_hidden}
    return [(tuple(prefix + field for field in face.neuron.State.__leaves__), face) for prefix, face in own.items()]
