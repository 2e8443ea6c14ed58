"""What the kernels of all backends are: two loops over time, the tensors that they take and give, and how these lie in memory."""

import enum
import math
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._functorch import in_memory
from ._network import Flow, Network
from ._program import Program
from ._signature import Role, Signature, Slots, TIMED


class Kind(enum.IntEnum):
    """How a tensor lies over the lanes; `_cpu.cpp` has the same numbers."""

    DENSE, UNIFORM, STRIDED = range(3)  # side by side, one number for all, or anything else


class Layout(NamedTuple):
    """`time`: stride from one time step to the next, 0 where nothing changes. `strides`: over the axes that `wide` names."""

    kind: Kind
    time: int
    strides: list[int]


def wide(lanes: torch.Size) -> list[int]:
    """The axes of the lanes that are longer than one. The others are not walked, so their strides do not matter."""
    return [axis for axis, n in enumerate(lanes) if n > 1]


def layout(shape: Sequence[int], strides: Sequence[int], role: Role, lanes: torch.Size) -> Layout:
    """Of a tensor that broadcasts to the lanes from the right."""
    time = 0
    if role is TIMED:
        time, shape, strides = strides[0] if shape[0] > 1 else 0, shape[1:], strides[1:]
    missing, axes = len(lanes) - len(shape), wide(lanes)
    over = [strides[d - missing] if d >= missing and shape[d - missing] > 1 else 0 for d in axes]
    dense = [math.prod(lanes[d + 1 :]) for d in axes]
    return Layout(Kind.UNIFORM if not any(over) else Kind.DENSE if over == dense else Kind.STRIDED, time, over)


class Walk(NamedTuple):
    """How a call goes through time and lanes. `every`: steps from one checkpoint of the state to the next, 0 for none. `checkpoints`: are
    there any, or has a backward to make its own? `threads`: what a CPU has; asked once, as blocks and memory depend on it."""

    lanes: torch.Size
    T: int
    reverse: bool
    every: int
    checkpoints: bool
    threads: int


def filled(given: Sequence[Tensor], places: Sequence[int]) -> list[Tensor | None]:
    """With None for what is not there."""
    return [*given, *[None] * (len(places) - len(given))]


class Loop:
    """A kernel. A backend prints it, and launches what it printed. `uniform`: which params are one number for all lanes."""

    # The results that change in time: by the numbers that they have in the text, which arguments they are.
    written: dict[Any, int]

    def __init__(self, signature: Signature, uniform: tuple[bool, ...], arguments: Slots) -> None:
        self.signature, self.uniform, self.arguments = signature, uniform, arguments
        self.params, self.states, self.inputs, self.matrices = signature.leaves.places
        self.known: dict[Any, Any] = {}  # what was worked out for tensors that lie as they did
        self.building = threading.Lock()

    def build(self) -> Any:
        """Builds what can be built before the first call. Raises NoCompiler."""

    def launch(self, numbers: tuple[float, ...], tensors: Sequence[Tensor | None], walk: Walk) -> None:
        """Fills those of the arguments that are results. Each checkpoint is None where there are none."""
        raise NotImplementedError


class NetworkLoop(Loop):
    """A kernel of whole rows, for steps that hold products."""

    @property
    def networks(self) -> list[Network]:
        """The steps that it holds, forward and back."""
        raise NotImplementedError

    @cached_property
    def widths(self) -> list[int]:
        """Those that there are, as the text numbers them."""
        values = (w for network in self.networks for _, w in network.values)
        return list(dict.fromkeys((*(w for w in self.arguments.widths if w), *values)))

    @cached_property
    def packed(self) -> list[tuple[int, bool]]:
        """Which matrices are taken, and which way round."""
        every = (network.products[j] for network in self.networks for j in network.items if isinstance(j, int))
        return list(dict.fromkeys((x.matrix, x.transposed) for x in every))


class ForwardLoop(Loop):
    """`(params, state, inputs) -> (outputs, last state)`, and what is kept for the backward, if asked for: a checkpoint of the state every
    so many steps, and what products gave. `program`: one step."""

    program: Any  # a Network, where the step holds products
    keeps = True  # can it keep what products give?

    def __init__(self, program: Program | Network, signature: Signature, uniform: tuple[bool, ...]) -> None:
        super().__init__(
            signature, uniform, signature.leaves + signature.results + signature.checkpoints + signature.gave
        )
        self.program = program
        *_, self.outputs, self.last, self.points, self.gave = self.arguments.places
        self.written = dict(enumerate(self.outputs))

    def __call__(
        self,
        numbers: tuple[float, ...],
        leaves: Sequence[Tensor],
        lanes: torch.Size,
        T: int,
        reverse: bool,
        every: int,
        keep: bool = False,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """`numbers`: those of the program at hand, which may be another than this kernel was printed from, with the same text. `keep`: what
        products give."""
        leaves, device = in_memory(leaves), leaves[0].device
        results = self.signature.results.empty(lanes, T, device)
        kept = self.signature.memory(lanes, T, every, keep and self.keeps, device)
        tensors = [*leaves, *results, *filled(kept, self.points + self.gave)]
        self.launch(numbers, tensors, Walk(lanes, T, reverse, every, bool(every), torch.get_num_threads()))
        outputs, last = self.signature.results.split(results)
        return outputs, last, kept


class BackwardLoop(Loop):
    """`(params, first state, inputs, cotangents of the outputs and of the last state) -> gradients`.

    The states are computed again, segment by segment from the checkpoints: no trajectory is kept. `program` is the derivative of one
    step, `forward`. Its leaves are those of `forward` and the cotangents; its outputs the gradients of the leaves `wanted`, in order,
    all floating states among them.
    """

    SUMS: torch.dtype

    def __init__(
        self, forward: Program, program: Program, signature: Signature, uniform: tuple[bool, ...], wanted: tuple[int, ...]
    ) -> None:  # fmt: skip
        self.gradients = signature.leaves.only(wanted)
        super().__init__(signature, uniform, signature.backward + signature.checkpoints + self.gradients)
        self.forward, self.program, self.wanted = forward, program.renamed(numbers="q"), wanted
        self.again = forward.only(signature.results.places[1])  # of a step, the states that it gives
        _, _, _, _, self.d_outputs, self.d_last, self.points, *own = self.arguments.places
        self.argument = dict(zip(wanted, sum(own, [])))  # of each wanted leaf: where its gradient goes
        # Of the wanted numbers that serve all lanes: what their gradients are summed in.
        types = signature.leaves.dtypes
        self.sums = {i: torch.promote_types(types[i], self.SUMS) for i in self.params if i in wanted and uniform[i]}
        self.written = {i: self.argument[i] for i in self.inputs if i in wanted}
        self.carried = [s for s, i in enumerate(self.states) if i in wanted]

    def __call__(
        self, numbers: tuple[float, ...], leaves: Sequence[Tensor], cotangents: Sequence[Tensor], checkpoints: Sequence[Tensor],
        lanes: torch.Size, T: int, reverse: bool, every: int,
    ) -> tuple[dict[int, Tensor], list[Flow]]:  # fmt: skip
        """The gradients of the wanted leaves: params over all lanes (in parts to be summed where one number serves all). Nothing flows into
        matrices, of which there are none.

        `numbers`: those of the forward program at hand, then those of its derivative.
        """
        walk = Walk(lanes, T, reverse, every, bool(checkpoints), torch.get_num_threads())
        takes, points = in_memory([*leaves, *cotangents]), checkpoints or [None] * len(self.points)
        shapes, sums = self.gradients.shapes(lanes, T), self.sum_shape(walk) if self.sums else ()
        gradients = [
            torch.empty(sums if i in self.sums else shape, dtype=self.sums.get(i, dtype), device=takes[0].device)
            for i, shape, dtype in zip(self.wanted, shapes, self.gradients.dtypes)
        ]
        self.launch(numbers, [*takes, *points, *gradients], walk)
        return dict(zip(self.wanted, gradients)), []

    def sum_shape(self, walk: Walk) -> Sequence[int]:
        """Of the gradient of a number that serves all lanes, before the caller sums it."""
        raise NotImplementedError
