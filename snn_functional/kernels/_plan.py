"""A step as kernels see it: a flat pointwise function, and the functions derived from it, each read when it is first needed.

    function(*params, *states, *inputs) -> (*outputs, *new states)          for one neuron and one time step

A derivative of a scan over such a function is again a scan over such a function; these are the ones that the rules of
`snn_functional._scan._primitive` are written with:

    tangent       (params, d params), (states, d states), (inputs, d inputs) -> (outputs, d outputs), (states, d states)
    trajectory    the same step, giving the state it started from
    adjoint       params, (d states, d params), (inputs, states, d outputs) -> d inputs, (d states, d params); backwards

"d" of what is not floating does not exist. Parameters that are one number for all neurons are, in derivatives, one number a neuron:
the sum over neurons is taken outside the loop, once.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._functorch import outside
from ._kernels import BACKENDS as BACKENDS, backward_kernel, Bound, forward_kernel
from ._program import Program
from ._trace import trace


def lazily(make: Callable[[Any], Any]) -> Any:
    """A cached property made outside of all transforms: kept, a tensor must not belong to the one that asked first."""

    def made(self: Any) -> Any:
        with outside():
            return make(self)

    return cached_property(made)


@dataclasses.dataclass(eq=False)
class Plan:
    """`leaves` are examples: only their dtype, and whether they are 0-d, is looked at."""

    function: Callable[..., Sequence[Tensor]]
    leaves: tuple[Tensor, ...]
    counts: tuple[int, int, int]

    def __post_init__(self) -> None:
        self.program: Program = trace(self.function, self.leaves)
        self._forward: dict[Any, Any] = {}
        self._backward: dict[Any, Any] = {}
        params, states, _ = self.counts
        self.outputs = len(self.program.outputs) - states
        self.real = tuple(leaf.is_floating_point() for leaf in self.leaves)
        self.types = tuple(x.dtype for x in self.program.outputs)
        self.moving = [s for s in range(states) if self.real[params + s]]
        self.sensitive = [j for j in range(self.outputs) if self.types[j].is_floating_point]

    def split(self, leaves: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """params, states, inputs"""
        params, states, _ = self.counts
        return list(leaves[:params]), list(leaves[params : params + states]), list(leaves[params + states :])

    def forward(self, uniform: tuple[bool, ...], device: str = "cpu") -> Any:
        key = device, uniform
        if key not in self._forward:
            kernel = forward_kernel(device, self.program, self.counts, uniform)
            self._forward[key] = Bound(kernel, self.program.numbers)
        return self._forward[key]

    def backward(self, uniform: tuple[bool, ...], wanted: tuple[int, ...], device: str = "cpu") -> Any:
        """The kernel for the gradients of the wanted leaves; those of the states come with them."""
        params, states, _ = self.counts
        wanted = tuple(sorted({*wanted, *(params + s for s in self.moving)}))
        key = device, uniform, wanted
        if key not in self._backward:
            floats = [i for i, real in enumerate(self.real) if real]
            program = self.pullback.only([floats.index(i) for i in wanted])
            kernel = backward_kernel(device, self.program, program, self.counts, self.sensitive, uniform, wanted)
            self._backward[key] = Bound(kernel, (*self.program.numbers, *program.numbers))
        return self._backward[key]

    @lazily
    def pullback(self) -> Program:
        """`(*leaves, *d outputs, *d states) -> gradients of the floating leaves`"""
        return trace(self._pullback, [*self._full, *self._cotangents], exact=False)

    @lazily
    def tangent(self) -> "Plan":
        given, states, inputs = self.split(self._full)
        moved = [_real(part) for part in (given, states, inputs)]
        counts = tuple(len(part) + len(more) for part, more in zip((given, states, inputs), moved))

        def function(*leaves: Tensor) -> tuple[Tensor, ...]:
            primals, tangents, at = [], [], 0
            for part, more in zip((given, states, inputs), moved):
                primals += leaves[at : at + len(part)]
                tangents += leaves[at + len(part) : at + len(part) + len(more)]
                at += len(part) + len(more)
            floats, rest = _only_floats(self._typed, primals)
            moves = list(torch.func.jvp(rest, floats, tuple(tangents))[1])
            values = self._typed(*primals)
            reals = [x.is_floating_point() for x in values]
            before = sum(reals[: self.outputs])
            return (*values[: self.outputs], *moves[:before], *values[self.outputs :], *moves[before:])

        leaves = (*given, *moved[0], *states, *moved[1], *inputs, *moved[2])
        return Plan(function, leaves, counts)  # pyright: ignore[reportArgumentType]

    @lazily
    def trajectory(self) -> "Plan":
        _, states, _ = self.split(self.leaves)
        start = self.counts[0]

        def function(*leaves: Tensor) -> tuple[Tensor, ...]:
            return (*leaves[start : start + len(states)], *self.function(*leaves)[self.outputs :])

        return Plan(function, self.leaves, self.counts)

    @lazily
    def adjoint(self) -> "Plan":
        given, states, inputs = self.split(self._full)
        d_outputs, d_states = self._cotangents[: len(self.sensitive)], self._cotangents[len(self.sensitive) :]
        d_given = _real(given)
        pullback = self.pullback.function

        def function(*leaves: Tensor) -> tuple[Tensor, ...]:
            it = iter(leaves)
            take = lambda like: [next(it) for _ in like]
            given_, d_states_, sums = take(given), take(d_states), take(d_given)
            inputs_, states_, d_outputs_ = take(inputs), take(states), take(d_outputs)
            gradients = iter(pullback(*given_, *states_, *inputs_, *d_outputs_, *d_states_))
            new = [next(gradients) for _ in d_given]
            before = [next(gradients) for _ in d_states]
            return (*gradients, *before, *(a + b for a, b in zip(sums, new)))

        leaves = (*given, *d_states, *d_given, *inputs, *states, *d_outputs)
        counts = (len(given), len(d_states) + len(d_given), len(inputs) + len(states) + len(d_outputs))
        return Plan(function, leaves, counts)

    @lazily
    def _full(self) -> list[Tensor]:
        return [leaf.reshape(1) if leaf.dim() == 0 else leaf for leaf in self.leaves]

    @lazily
    def _cotangents(self) -> list[Tensor]:
        types = [self.types[j] for j in self.sensitive] + [self.types[self.outputs + s] for s in self.moving]
        return [torch.zeros(1, dtype=dtype, device="cpu") for dtype in types]

    def _typed(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """The step at one number a neuron, where a 0-d one stood that promotes nothing: nor must this one."""
        lane = next((leaf.dtype for leaf in self.leaves if leaf.dim() and leaf.is_floating_point()), None)
        given = [
            leaf.to(lane) if lane and like.dim() == 0 and like.is_floating_point() and like.dtype != lane else leaf
            for leaf, like in zip(leaves, self.leaves)
        ]
        return tuple(x.to(dtype) for x, dtype in zip(self.function(*given), self.types))

    def _pullback(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        given, cotangents = leaves[: len(self.leaves)], leaves[len(self.leaves) :]
        floats, function = _only_floats(self._typed, given)
        return torch.func.vjp(function, *floats)[1](tuple(cotangents))


def _real(leaves: Sequence[Tensor]) -> list[Tensor]:
    return [leaf for leaf in leaves if leaf.is_floating_point()]


def _only_floats(function: Any, leaves: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Any]:
    """The floating leaves, and `function` from these alone to its floating results alone."""

    def floating(*floats: Tensor) -> tuple[Tensor, ...]:
        given = iter(floats)
        results = function(*(next(given) if leaf.is_floating_point() else leaf for leaf in leaves))
        return tuple(x for x in results if x.is_floating_point())

    return tuple(_real(leaves)), floating
