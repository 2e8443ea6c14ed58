"""A step as kernels see it: what was read of it, and the functions derived from it, each read when it is first needed.

    function(*params, *states, *inputs) -> (*outputs, *new states)          for one time step

A derivative of a scan over such a function is again a scan over such a function; these are the ones that the rules of
`snn_functional._scan._primitive` are written with:

    tangent       (params, d params), (states, d states), (inputs, d inputs) -> (outputs, d outputs), (states, d states)
    trajectory    the same step, giving the state it started from
    adjoint       params, (d states, d params), (inputs, states, d outputs) -> d inputs, (d states, d params); backwards

"d" of what is not floating does not exist. Parameters that are one number for all neurons are, in derivatives, one number a neuron:
the sum over neurons is taken outside the loop, once.

A plan keeps what was read and nothing of the step itself. Where the step is asked once more, for its first derivatives, it comes along
as a `Source`: any step that is the same will do. Higher derivatives are those of what was read.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._functorch import outside, without_hooks
from ._kernels import backward_kernel, Bound, forward_kernel
from ._lines import line_of
from ._lower import program_of
from ._program import Program, Unsupported
from ._recorder import record
from ._tape import Form, Tape


class Source(NamedTuple):
    """`function(*leaves, *extra)`: a step whose derivative is to be read. `extra`: leaves that it takes, but does not read.

    `around`: a context that notices if a reading changes anything.
    """

    function: Callable[..., Sequence[Tensor]]
    extra: tuple[Form, ...] = ()
    around: Callable[[], Any] = contextlib.nullcontext


Later = Callable[[], Source] | None  # the step, asked for where something of it has not been read yet


def read(source: Source, leaves: Sequence[Form], *, derivative: bool = False) -> Tape:
    """What the function does at leaves of these forms. Raises Unsupported, whatever goes wrong."""
    try:
        with outside(), without_hooks(), torch.device("cpu"), source.around():
            with torch.enable_grad() if derivative else contextlib.nullcontext():
                differentiable = torch.is_grad_enabled() and not derivative
                tape = record(source.function, (*leaves, *source.extra), differentiable)
        return tape.without(len(source.extra))
    except Unsupported:
        raise
    except Exception as error:  # the loop will say it better, or do without
        reason = (str(error).splitlines() or [""])[0]
        what = "its derivative" if derivative else "it"
        raise Unsupported(f"reading {what} fails{line_of(error)}: {type(error).__name__}: {reason}") from error


class Plan:
    """`counts`: of the leaves of the tape, how many are params, states and inputs. `exact`: are the loop's bits promised? Of a derivative
    they are not."""

    def __init__(self, tape: Tape, counts: tuple[int, int, int], exact: bool = True) -> None:
        self.tape, self.counts = tape, counts
        self.leaves = tuple(Form(leaf.dtype, leaf.shape) for leaf in tape.leaves)
        self.program: Program = program_of(tape, exact=exact, prefix="k")
        params, states, _ = counts
        self.outputs = len(tape.outputs) - states
        self.real = tuple(leaf.dtype.is_floating_point for leaf in self.leaves)
        self.types = tuple(x.dtype for x in tape.outputs)
        self.moving = [s for s in range(states) if self.real[params + s]]
        self.sensitive = [j for j in range(self.outputs) if self.types[j].is_floating_point]
        self.built = False  # was a kernel of its gradient built?
        self.failed: str | None = None  # why none can be
        self._made: dict[Any, Any] = {}

    def split(self, leaves: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """params, states, inputs"""
        params, states, _ = self.counts
        return list(leaves[:params]), list(leaves[params : params + states]), list(leaves[params + states :])

    def forward(self, uniform: tuple[bool, ...], device: str = "cpu") -> Any:
        key = "forward", device, uniform
        if key not in self._made:
            kernel = forward_kernel(device, self.program, self.counts, uniform)
            self._made[key] = Bound(kernel, self.program.numbers)
        return self._made[key]

    def backward(
        self, uniform: tuple[bool, ...], wanted: tuple[int, ...], device: str = "cpu", source: Later = None
    ) -> Any:
        """The kernel for the gradients of the wanted leaves; those of the states come with them."""
        params, states, _ = self.counts
        wanted = tuple(sorted({*wanted, *(params + s for s in self.moving)}))
        key = "backward", device, uniform, wanted
        if key not in self._made:
            floats = [i for i, real in enumerate(self.real) if real]
            program = self.pullback(source)[1].only([floats.index(i) for i in wanted])
            kernel = backward_kernel(device, self.program, program, self.counts, self.sensitive, uniform, wanted)
            self._made[key] = Bound(kernel, (*self.program.numbers, *program.numbers))
        return self._made[key]

    def pullback(self, source: Later = None) -> tuple[Tape, Program]:
        """`(*leaves, *d outputs, *d states) -> gradients of the floating leaves`"""
        if (known := self._made.get("pullback")) is not None:
            return known

        def make() -> tuple[Tape, Program]:
            function, extra, around = source() if source else Source(self.tape)
            count, cotangents = len(self.leaves), self.cotangents()

            def pullback(*given: Tensor) -> tuple[Tensor, ...]:
                leaves, rest = given[:count], given[count + len(cotangents) :]
                floats, only = only_floats(lambda *leaves: self._checked(function(*leaves, *rest)), leaves)
                return torch.func.vjp(only, *floats)[1](tuple(given[count : count + len(cotangents)]))

            tape = read(Source(pullback, extra, around), (*self.leaves, *cotangents), derivative=True)
            return tape, program_of(tape, exact=False, prefix="q", cotangents=len(cotangents))

        return self._once("pullback", make)

    def tangent(self, source: Later = None) -> "Plan":
        def make() -> Plan:
            function, extra, around = source() if source else Source(self.tape)
            parts = [(part, [x for x in part if x.dtype.is_floating_point]) for part in self.split(self.leaves)]
            forms = [form for part, moved in parts for form in (*part, *moved)]

            def tangent(*given: Tensor) -> tuple[Tensor, ...]:
                primals, tangents, at = [], [], 0
                for part, moved in parts:
                    primals += given[at : at + len(part)]
                    tangents += given[at + len(part) : at + len(part) + len(moved)]
                    at += len(part) + len(moved)
                step = lambda *leaves: self._checked(function(*leaves, *given[len(forms) :]))
                floats, rest = only_floats(step, primals)
                values = step(*primals)
                moves = [torch.zeros_like(x) for x in values if x.is_floating_point()]
                if moves and floats:  # else there is nothing to differentiate, which torch refuses
                    moves = list(torch.func.jvp(rest, floats, tuple(tangents))[1])
                before = len(self.sensitive)
                return (*values[: self.outputs], *moves[:before], *values[self.outputs :], *moves[before:])

            tape = read(Source(tangent, extra, around), forms, derivative=True)
            params, states, inputs = (len(part) + len(moved) for part, moved in parts)
            return Plan(tape, (params, states, inputs), exact=False)

        return self._once("tangent", make)

    def faithful(self, source: Later = None) -> bool:
        """Is the derivative of what was read that of the step? It is not where the step has a rule of its own, an `autograd.Function` or
        `no_grad`, that a reading does not see: then higher derivatives would be others."""
        if source is None:
            return True
        if self.tape.cut:
            return False

        def make() -> bool:
            own = self.pullback(source)[1]
            forms = [leaf.lane() for leaf in self.leaves]
            alone = Plan(read(Source(self.tape), forms, derivative=True), self.counts)
            other = alone.pullback()[1]
            return own.expressions() == other.expressions()

        return self._once("faithful", make)

    def trajectory(self) -> "Plan":
        start, states = self.counts[0], self.counts[1]
        outputs = (*self.tape.leaves[start : start + states], *self.tape.outputs[self.outputs :])
        return self._once("trajectory", lambda: Plan(self.tape.giving(outputs), self.counts))

    def adjoint(self, source: Later = None) -> "Plan":
        def make() -> Plan:
            given, states, inputs = self.split([form.lane() for form in self.leaves])
            cotangents = [form.lane() for form in self.cotangents()]
            d_outputs, d_states = cotangents[: len(self.sensitive)], cotangents[len(self.sensitive) :]
            d_given = [form for form in given if form.dtype.is_floating_point]
            pullback = self.pullback(source)[0]

            def adjoint(*leaves: Tensor) -> tuple[Tensor, ...]:
                it = iter(leaves)
                take = lambda like: [next(it) for _ in like]
                given_, d_states_, sums = take(given), take(d_states), take(d_given)
                inputs_, states_, d_outputs_ = take(inputs), take(states), take(d_outputs)
                gradients = iter(pullback(*given_, *states_, *inputs_, *d_outputs_, *d_states_))
                new = [next(gradients) for _ in d_given]
                before = [next(gradients) for _ in d_states]
                return (*gradients, *before, *(a + b for a, b in zip(sums, new)))

            forms = (*given, *d_states, *d_given, *inputs, *states, *d_outputs)
            counts = (len(given), len(d_states) + len(d_given), len(inputs) + len(states) + len(d_outputs))
            return Plan(read(Source(adjoint), forms, derivative=True), counts, exact=False)

        return self._once("adjoint", make)

    def cotangents(self) -> list[Form]:
        """Of the floating outputs and of the floating states."""
        where = [*self.sensitive, *(self.outputs + s for s in self.moving)]
        return [Form(self.tape.outputs[i].dtype, self.tape.outputs[i].shape) for i in where]

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _checked(self, results: Sequence[Tensor]) -> Sequence[Tensor]:
        """The results of a step that is read for a derivative: it must have gone the same way."""
        for x, node in zip(results, self.tape.outputs, strict=True):
            if x.shape != node.shape or x.dtype != node.dtype:
                raise Unsupported("where it is differentiated it gives something else")
        return results


def only_floats(function: Any, leaves: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Any]:
    """The floating leaves, and `function` from these alone to its floating results alone."""

    def floating(*floats: Tensor) -> tuple[Tensor, ...]:
        given = iter(floats)
        results = function(*(next(given) if leaf.is_floating_point() else leaf for leaf in leaves))
        return tuple(x for x in results if x.is_floating_point())

    return tuple(leaf for leaf in leaves if leaf.is_floating_point()), floating
