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
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._functorch import outside, untraced, without_hooks
from ._kernels import backward_kernel, forward_kernel, network_backward_kernel
from ._lines import line_of
from ._lower import program_of
from ._network import Network, network_of, Product
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
        with untraced(), outside(), without_hooks(), torch.device("cpu"), source.around():
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


class Products(NamedTuple):
    """The products of a step; its tape is then what is left without them (see `_network.py`).

    - `each`: in order. What they give are the last leaves of the tape, what they take its last outputs.
    - `matrices`: their dtypes. `widths`, `given`: of each leaf and each output of the tape, how many neurons a row has.
    """

    each: tuple[Product, ...] = ()
    matrices: tuple[torch.dtype, ...] = ()
    widths: tuple[int, ...] = ()
    given: tuple[int, ...] = ()


NONE = Products()


class Plan:
    """`counts`: of the leaves of the tape, how many are params, states and inputs. `exact`: are the loop's bits promised? Of a derivative
    they are not."""

    def __init__(self, tape: Tape, counts: tuple[int, int, int], exact: bool = True, products: Products = NONE) -> None:
        self.tape, self.counts, self.products = tape, counts, products
        self.leaves = [Form(leaf.dtype, leaf.shape) for leaf in tape.leaves]
        ends = len(tape.outputs) - len(products.each)
        dtypes = (
            [*(x.dtype for x in tape.leaves[: sum(counts)]), *products.matrices],
            [x.dtype for x in tape.outputs[:ends]],
        )
        self.program: Any  # a Network where there are products
        widths: tuple[Sequence[int], Sequence[int]] = (), ()
        if products.each:
            self.program = _network(tape, products, range(ends), exact=exact, prefix="k")
            # No product mixes the neurons of a matrix, so to say.
            widths = [*products.widths[: sum(counts)], *[0] * len(products.matrices)], products.given[:ends]
        else:
            self.program = program_of(tape, exact=exact, prefix="k")
        self.signature = Signature.of(counts, *dtypes, widths)
        if products.each:
            always = tuple(j for j, x in enumerate(products.each) if x.convolution)
            kept = always or tuple(range(len(products.each)))
            given = tuple(self.program.given[j] for j in kept)
            self.signature = dataclasses.replace(self.signature, kept=kept, given=given, always=bool(always))
        self.built = False  # was a kernel of its gradient built?
        self.failed: str | None = None  # why none can be
        self._made: dict[Any, Any] = {}

    @property
    def parts(self) -> list[list[Form]]:
        """The leaves of the tape: params, states, inputs, and what products give."""
        return split(self.leaves, *map(range, self.counts))

    @property
    def flowing(self) -> list[list[Form]]:
        """What flows back into the results of the tape: into outputs, states, and what products take."""
        after = len(self.products.each)
        cut = len(self.tape.outputs) - after - self.counts[1]
        parts = split(self.tape.outputs, range(cut), range(self.counts[1]))
        return [[Form(x.dtype, x.shape) for x in _floating(part)] for part in parts]

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
            _, states, _, matrices = self.signature.leaves.places
            every = tuple(i for i in self.signature.leaves.floating if i in wanted or i in states)
            # What flows back is what the pullback gives of the leaves; into a matrix, of what its products give.
            us = range(sum(self.counts), len(self.leaves))
            into = [i for i in every if i not in matrices]
            into += [u for u, product in zip(us, self.products.each) if matrices and matrices[product.matrix] in every]
            floating = [i for i, leaf in enumerate(self.leaves) if leaf.dtype.is_floating_point]
            of, (tape, program) = [floating.index(i) for i in into], self.pullback(source)
            if self.products.each:
                program = _network(tape, self._back(), of, exact=False, prefix="q")
                recorded = tuple(i - us[0] for i in into if i in us)
                ends = len(self.tape.outputs) - len(us)
                again = [*range(ends - self.counts[1], ends), *(ends + j for j in recorded)]
                seen = [u - us[0] for u in us if u in program.seen]
                forward = _network(self.tape, self.products, again, exact=True, prefix="k", seen=seen)
                self._made[key] = network_backward_kernel(
                    device, forward, program, self.signature, uniform, every, recorded
                )
            else:
                assert program
                self._made[key] = backward_kernel(
                    device, self.program, program.only(of), self.signature, uniform, every
                )
        return self._made[key]

    def _back(self) -> Products:
        """Those of the pullback: what flows into a factor is a product of what flows back into what that gave."""
        _, matrices, widths, given = self.products
        back = tuple(x.back() for x in self.products.each)
        flowing = (w for w, x in zip(given, self.tape.outputs) if floats(x))
        return Products(back, matrices, (*widths, *flowing), tuple(w for w, x in zip(widths, self.leaves) if floats(x)))

    def pullback(self, source: Later = None) -> tuple[Tape, Program | None]:
        """`(*leaves, *what flows back into the results) -> gradients of the floating leaves`"""

        def make() -> tuple[Tape, Program | None]:
            function, extra, around = self._source(source)
            cotangents = sum(self.flowing, [])

            def pullback(*arguments: Tensor) -> tuple[Tensor, ...]:
                leaves, moves, rest = split(arguments, self.leaves, cotangents)
                floats, only = only_floats(lambda *leaves: self._checked(function(*leaves, *rest)), leaves)
                return torch.func.vjp(only, *floats)[1](tuple(moves))

            tape = read(Source(pullback, extra, around), (*self.leaves, *cotangents), derivative=True)
            if self.products.each:
                return tape, None
            return tape, program_of(tape, exact=False, prefix="q", cotangents=len(cotangents))

        return self._once("pullback", make)

    def tangent(self, source: Later = None) -> "Plan":
        def make() -> Plan:
            function, extra, around = self._source(source)
            n = len(self.products.each)
            *given, us = self.parts
            # What a product gives moves as both of its factors do.
            parts = [*((part, _floating(part)) for part in given), (us, [*us, *us])]
            forms = [form for part, d_part in parts for form in (*part, *d_part)]

            def tangent(*rest: Tensor) -> tuple[Tensor, ...]:
                primals, tangents = [], []
                for part, d_part in parts:
                    primal, d_primal, rest = map(tuple, split(rest, part, d_part))
                    primals += primal
                    tangents += d_primal
                if n:
                    tangents[-2 * n :] = [a + b for a, b in zip(tangents[-2 * n : -n], tangents[-n:])]
                step = lambda *leaves: self._checked(function(*leaves, *rest))
                floats, only = only_floats(step, primals)
                values = step(*primals)
                moves = [torch.zeros_like(x) for x in values if x.is_floating_point()]
                if moves and floats:  # else there is nothing to differentiate, which torch refuses
                    moves = list(torch.func.jvp(only, floats, tuple(tangents))[1])
                outputs, states, zs = self._results(values)
                d_outputs, d_states, d_zs = split(moves, *self.flowing[:2])
                return (*outputs, *d_outputs, *states, *d_states, *zs, *d_zs, *zs)

            tape = read(Source(tangent, extra, around), forms, derivative=True)
            params, states, inputs = (len(part) + len(d_part) for part, d_part in parts[:3])
            return Plan(tape, (params, states, inputs), exact=False, products=self._moving(parts))

        return self._once("tangent", make)

    def _moving(self, parts: Sequence[tuple[Any, Any]]) -> Products:
        """The products of the tangent: z W, then dz W, then z dW."""
        each, matrices, widths, given = self.products
        if not each:
            return NONE
        of = split(widths, *map(range, self.counts))
        wide = [w for some, (part, _) in zip(of, parts) for w in (*some, *(w for w, x in zip(some, part) if floats(x)))]
        moved = tuple(x._replace(matrix=x.matrix + len(matrices)) for x in each)
        outputs, states, zs = ([*zip(*pair)] for pair in zip(self._results(given), self._results(self.tape.outputs)))
        ends = [w for part in (outputs, states) for some in (part, [x for x in part if floats(x[1])]) for w, _ in some]
        zs = [w for w, _ in zs] * 3
        return Products((*each, *each, *moved), (*matrices, *matrices), (*wide, *of[3]), (*ends, *zs))

    def faithful(self, source: Later = None) -> bool:
        """Is the derivative of what was read that of the step? It is not where the step has a rule of its own, an `autograd.Function` or
        `no_grad`, that a reading does not see: then higher derivatives would be others."""
        if source is None:
            return True
        if self.tape.cut:
            return False

        def make() -> bool:
            forms = [leaf.lane() for leaf in self.leaves]
            alone = read(Source(self.tape), forms, derivative=True)
            plan = Plan(alone, self.counts, products=self.products)
            both = (x.pullback(later)[0] for x, later in ((self, source), (plan, None)))
            ids: dict[Any, int] = {}
            first, second = (program_of(x, exact=False, prefix="q", checked=True).expressions(ids) for x in both)
            return first == second

        return self._once("faithful", make)

    def trajectory(self) -> "Plan":
        """The same, giving the states it began with, and what its products gave and took."""

        def make() -> Plan:
            _, before, _, us = split(self.tape.leaves, *map(range, self.counts))
            _, after, zs = self._results(self.tape.outputs)
            _, states, _, given = split(self.products.widths, *map(range, self.counts))
            _, ends, taken = self._results(self.products.given)
            products = self.products._replace(given=(*states, *given, *taken, *ends, *taken))
            return Plan(self.tape.giving((*before, *us, *zs, *after, *zs)), self.counts, products=products)

        return self._once("trajectory", make)

    def adjoint(self, source: Later = None) -> "Plan":
        """Backwards: what flows into the states is carried on, and what flows into params is summed."""

        def make() -> Plan:
            lanes = lambda parts: [[form.lane() for form in part] for part in parts]
            params, states, inputs, us = lanes(self.parts)
            d_outputs, d_states, d_zs = lanes(self.flowing)
            d_params, d_inputs = _floating(params), _floating(inputs)
            parts = params, d_states, d_params, inputs, states, us, d_outputs, d_zs
            pullback = self.pullback(source)[0]

            def adjoint(*leaves: Tensor) -> tuple[Tensor, ...]:
                p, dm, sums, x, m, u, dy, dz, _ = split(
                    leaves, *parts
                )  # y, m: outputs and states, of a step with p and x
                found = pullback(*p, *m, *x, *u, *dy, *dm, *dz)
                dp, dm, dx, du, _ = split(found, d_params, d_states, d_inputs, us)
                return (*dx, *du, *dm, *(a + b for a, b in zip(sums, dp)), *du)

            timed = inputs, states, us, d_outputs
            counts = len(params), len(d_states) + len(d_params), sum(map(len, timed))
            tape = read(Source(adjoint), sum(parts, []), derivative=True)
            return Plan(tape, counts, exact=False, products=self._flowing_back())

        return self._once("adjoint", make)

    def twice(self, inner: str, outer: str, source: Later = None) -> None:
        """Reads what a derivative of a derivative takes, each "Grad" or "Jvp". Raises Unsupported where there is no kernel for it."""
        first = (self.tangent(source),) if inner == "Jvp" else (self.adjoint(source), self.trajectory())
        for plan in first:
            plan.pullback() if outer == "Grad" else plan.tangent()

    def _flowing_back(self) -> Products:
        """The products of the adjoint."""
        if not self.products.each:
            return NONE
        params, states, inputs, us = split(self.products.widths, *map(range, self.counts))
        d_outputs, d_states, d_zs = (
            [w for w, x in zip(some, of) if floats(x)]
            for some, of in zip(self._results(self.products.given), self._results(self.tape.outputs))
        )
        d_params, d_inputs = (
            [w for w, x in zip(*pair) if floats(x)] for pair in ((params, self.parts[0]), (inputs, self.parts[2]))
        )
        widths = *params, *d_states, *d_params, *inputs, *states, *us, *d_outputs, *d_zs
        given = *d_inputs, *us, *d_states, *d_params, *us
        return Products(tuple(x.back() for x in self.products.each), self.products.matrices, widths, given)

    def _results(self, items: Sequence[Any]) -> list[Any]:
        """Outputs, states, and what products take."""
        return split(items, range(len(items) - self.counts[1] - len(self.products.each)), range(self.counts[1]))

    def _source(self, source: Later) -> Source:
        """The step, or what was read of it: where widths differ at the shapes that were read, for what it does to one neuron knows none."""
        return source() if source else Source(self.tape.perform if self.products.each else self.tape)

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


def _network(tape: Tape, products: Products, wanted: Sequence[int], **how: Any) -> Network:
    return network_of(tape, products.widths, products.given, products.each, wanted, **how)


def only_floats(function: Any, leaves: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Any]:
    """The floating leaves, and `function` from these alone to its floating results alone."""

    def floating(*floats: Tensor) -> tuple[Tensor, ...]:
        values = iter(floats)
        return tuple(_floating(function(*(next(values) if leaf.is_floating_point() else leaf for leaf in leaves))))

    return tuple(_floating(leaves)), floating


def _floating(items: Iterable[Any]) -> list[Any]:
    """Tensors, forms or nodes of a tape."""
    return [x for x in items if floats(x)]


def floats(x: Any) -> bool:
    return x.dtype.is_floating_point
