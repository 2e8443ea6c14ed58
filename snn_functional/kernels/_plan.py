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
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._functorch import outside, without_hooks
from ._kernels import backward_kernel, forward_kernel
from ._lines import line_of
from ._lower import program_of
from ._program import Program, Unsupported
from ._recorder import record
from ._signature import Signature, split
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
        self.leaves = [Form(leaf.dtype, leaf.shape) for leaf in tape.leaves]
        self.program: Program = program_of(tape, exact=exact, prefix="k")
        self.signature = Signature.of(counts, [x.dtype for x in tape.leaves], [x.dtype for x in tape.outputs])
        self.built = False  # was a kernel of its gradient built?
        self.failed: str | None = None  # why none can be
        self._made: dict[Any, Any] = {}

    def forward(self, uniform: tuple[bool, ...], device: str = "cpu") -> Any:
        key = "forward", device, uniform
        if key not in self._made:
            self._made[key] = forward_kernel(device, self.program, self.signature, uniform)
        return self._made[key]

    def backward(
        self, uniform: tuple[bool, ...], wanted: tuple[int, ...], device: str = "cpu", source: Later = None
    ) -> Any:
        """The kernel for the gradients of the wanted leaves; those of the states come with them, because the walk back carries them."""
        key = "backward", device, uniform, wanted
        if key not in self._made:
            floating, states = self.signature.leaves.floating, self.signature.leaves.places[1]
            every = tuple(i for i in floating if i in wanted or i in states)
            program = self.pullback(source)[1].only([floating.index(i) for i in every])
            self._made[key] = backward_kernel(device, self.program, program, self.signature, uniform, every)
        return self._made[key]

    def pullback(self, source: Later = None) -> tuple[Tape, Program]:
        """`(*leaves, *d outputs, *d states) -> gradients of the floating leaves`"""

        def make() -> tuple[Tape, Program]:
            function, extra, around = source() if source else Source(self.tape)
            cotangents = self._cotangents()

            def pullback(*arguments: Tensor) -> tuple[Tensor, ...]:
                leaves, moves, rest = split(arguments, self.leaves, cotangents)
                floats, only = only_floats(lambda *leaves: self._checked(function(*leaves, *rest)), leaves)
                return torch.func.vjp(only, *floats)[1](tuple(moves))

            tape = read(Source(pullback, extra, around), (*self.leaves, *cotangents), derivative=True)
            return tape, program_of(tape, exact=False, prefix="q", cotangents=len(cotangents))

        return self._once("pullback", make)

    def tangent(self, source: Later = None) -> "Plan":
        def make() -> Plan:
            function, extra, around = source() if source else Source(self.tape)
            parts = [(part, _floating(part)) for part in self.signature.leaves.split(self.leaves)]
            forms = [form for part, d_part in parts for form in (*part, *d_part)]

            def tangent(*rest: Tensor) -> tuple[Tensor, ...]:
                primals, tangents = [], []
                for part, d_part in parts:
                    primal, d_primal, rest = map(tuple, split(rest, part, d_part))
                    primals += primal
                    tangents += d_primal
                step = lambda *leaves: self._checked(function(*leaves, *rest))
                floats, only = only_floats(step, primals)
                values = step(*primals)
                moves = [torch.zeros_like(x) for x in values if x.is_floating_point()]
                if moves and floats:  # else there is nothing to differentiate, which torch refuses
                    moves = list(torch.func.jvp(only, floats, tuple(tangents))[1])
                outputs, states = self.signature.results.split(values)
                d_outputs, d_states = self.signature.cotangents.split(moves)
                return (*outputs, *d_outputs, *states, *d_states)

            tape = read(Source(tangent, extra, around), forms, derivative=True)
            params, states, inputs = (len(part) + len(d_part) for part, d_part in parts)
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
            forms = [leaf.lane() for leaf in self.leaves]
            alone = Plan(read(Source(self.tape), forms, derivative=True), self.counts)
            ids: dict[Any, int] = {}
            return self.pullback(source)[1].expressions(ids) == alone.pullback()[1].expressions(ids)

        return self._once("faithful", make)

    def trajectory(self) -> "Plan":
        def make() -> Plan:
            _, before, _ = self.signature.leaves.split(self.tape.leaves)
            _, after = self.signature.results.split(self.tape.outputs)
            return Plan(self.tape.giving((*before, *after)), self.counts)

        return self._once("trajectory", make)

    def adjoint(self, source: Later = None) -> "Plan":
        def make() -> Plan:
            params, states, inputs = self.signature.leaves.split([form.lane() for form in self.leaves])
            d_outputs, d_states = self.signature.cotangents.split([form.lane() for form in self._cotangents()])
            d_params = _floating(params)
            parts = params, d_states, d_params, inputs, states, d_outputs
            pullback = self.pullback(source)[0]

            def adjoint(*leaves: Tensor) -> tuple[Tensor, ...]:
                p, dm, sums, x, m, dy, _ = split(leaves, *parts)  # y, m: outputs and states, of a step with p and x
                dp, dm, dx = split(pullback(*p, *m, *x, *dy, *dm), d_params, d_states)
                return (*dx, *dm, *(a + b for a, b in zip(sums, dp)))

            counts = len(params), len(d_states) + len(d_params), len(inputs) + len(states) + len(d_outputs)
            return Plan(read(Source(adjoint), sum(parts, []), derivative=True), counts, exact=False)

        return self._once("adjoint", make)

    def _cotangents(self) -> list[Form]:
        return [Form(x.dtype, x.shape) for x in _floating(self.tape.outputs)]

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
        values = iter(floats)
        return tuple(_floating(function(*(next(values) if leaf.is_floating_point() else leaf for leaf in leaves))))

    return tuple(_floating(leaves)), floating


def _floating(items: Iterable[Any]) -> list[Any]:
    """Tensors, forms or nodes of a tape."""
    return [x for x in items if x.dtype.is_floating_point]
