"""A scan whose step holds products, as calls one after another: each segment a pointwise kernel, each product torch's own.

For what has no kernel of whole rows: a GPU, and products that are convolutions. Autograd sees one operation and no step of it; going
back the states are computed again from checkpoints, as in the kernels, and a matrix gets its gradient from all of time at once. Nothing
here waits for the device.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._functorch import in_memory
from ._kernels import segment_kernel
from ._loops import ForwardLoop, Loop, Walk
from ._network import Flow, Network, Segment
from ._products import product
from ._signature import Signature


class Step:
    """One time step of a network. `uniform`: of its first leaves, which are one number for all rows."""

    def __init__(self, network: Network, uniform: Sequence[bool], device: str) -> None:
        self.network = network
        self.kernels: dict[int, tuple[Any, slice]] = {}  # of each segment, and where its free numbers are
        known, at = dict(enumerate(uniform)), 0
        for i, item in enumerate(network.items):
            if isinstance(item, Segment):
                end = at + len(item.program.free)
                of = tuple(known.get(v, False) for v in item.reads)
                self.kernels[i], at = (segment_kernel(device, item.program, of), slice(at, end)), end

    def build(self) -> None:
        for kernel, _ in self.kernels.values():
            kernel.build()

    def __call__(
        self, numbers: tuple[float, ...], leaves: Sequence[Tensor], matrices: Sequence[Tensor], walk: Walk, into: dict[int, Tensor]
    ) -> dict[int, Tensor]:  # fmt: skip
        """Its values, by number. `leaves`: but for what products give. `into`: where some of the values are to be."""
        network, found = self.network, dict(enumerate(leaves))
        for i, item in enumerate(network.items):
            if not isinstance(item, Segment):
                each = network.products[item]
                found[len(leaves) + item] = product(each, found[network.factors[item]], matrices[each.matrix])
                continue
            kernel, free = self.kernels[i]
            lanes = torch.Size((*walk.lanes, item.width))
            for v in item.writes:
                fresh = v not in into
                found[v] = torch.empty(lanes, dtype=network.values[v][0], device=leaves[0].device) if fresh else into[v]
            tensors = [*(found[v] for v in item.reads), *(found[v][None] for v in item.writes)]
            kernel.launch(numbers[free], tensors, Walk(lanes, 1, False, 0, False, walk.threads))
        for v, place in into.items():  # what no segment writes: a leaf, what a product gives
            if found[v] is not place:
                place.copy_(found[v])
        return found


class Forward(ForwardLoop):
    def __init__(self, device: str, program: Network, signature: Signature, uniform: tuple[bool, ...]) -> None:
        super().__init__(program, signature, uniform)
        self.step = Step(program, uniform, device)

    def build(self) -> None:
        self.step.build()

    def launch(self, numbers: tuple[float, ...], tensors: Sequence[Any], walk: Walk) -> None:
        params, now, inputs, matrices, outputs, last, points = self.arguments.split(tensors)
        ys, new = self.signature.results.split(self.program.results)
        for k, t in enumerate(_times(walk)):
            if walk.every and k % walk.every == 0:
                for whole, state in zip(points, now):
                    whole[k // walk.every].copy_(state)
            places = {v: y[t] for v, y in zip(ys, outputs)}
            found = self.step(numbers, [*params, *now, *(x[t] for x in inputs)], matrices, walk, places)
            for v, y in zip(ys, outputs):
                if y[t].data_ptr() != places[v].data_ptr():  # the same output twice
                    y[t].copy_(places[v])
            now = [found[v] for v in new]
        for whole, state in zip(last, now):
            whole.copy_(state)


class Backward(Loop):
    """- `again`: of a step, its states. `program`: what flows back; of its results, the first are the gradients of `wanted` (but for
    matrices), then come those of what the products `recorded` give.
    """

    def __init__(
        self, device: str, again: Network, program: Network, signature: Signature, uniform: tuple[bool, ...],
        wanted: tuple[int, ...], recorded: tuple[int, ...],
    ) -> None:  # fmt: skip
        super().__init__(signature, uniform, signature.backward)
        self.again, self.program, self.recorded = again, program, recorded
        self.once, self.back = Step(again, uniform, device), Step(program, uniform, device)
        self.result = dict(zip((i for i in wanted if i not in self.matrices), program.results))
        self.flowing = dict(zip(recorded, program.results[len(self.result) :]))

    def build(self) -> None:
        self.once.build()
        self.back.build()

    def __call__(
        self, numbers: tuple[float, ...], leaves: Sequence[Tensor], cotangents: Sequence[Tensor], checkpoints: Sequence[Tensor],
        lanes: torch.Size, T: int, reverse: bool, every: int,
    ) -> tuple[dict[int, Tensor], list[Flow]]:  # fmt: skip
        """The gradients of the wanted leaves but matrices: params over all lanes (or summed, where one number serves all). And what flows
        into the matrices."""
        walk = Walk(lanes, T, reverse, every, bool(checkpoints), torch.get_num_threads())
        *parts, d_outputs, back = self.arguments.split(in_memory([*leaves, *cotangents]))
        params, _, inputs, matrices = parts
        of_again, of_back = numbers[: len(self.again.numbers)], numbers[len(self.again.numbers) :]
        over_time = lambda network, v: torch.empty(
            (T, *lanes, network.values[v][1]), dtype=network.values[v][0], device=leaves[0].device
        )
        taken = {v: over_time(self.again, v) for v in {self.again.factors[j]: 0 for j in self.recorded}}
        of_inputs = [v for i, v in self.result.items() if i in self.inputs]
        written = {v: over_time(self.program, v) for v in (*of_inputs, *self.flowing.values())}
        sums: dict[int, Tensor] = {}
        points = checkpoints or self._points(of_again, parts, walk)
        times = _times(walk)
        for first in reversed(range(0, T, every)):
            steps, now = [], [whole[first // every] for whole in points]
            for t in times[first : first + every]:
                given = [*params, *now, *(x[t] for x in inputs)]
                found = self.once(of_again, given, matrices, walk, {v: z[t] for v, z in taken.items()})
                steps.append((t, [found.get(v, given[0]) for v in range(self.again.leaves)]))
                now = [found[v] for v in self.again.results[: len(now)]]
            for t, given in reversed(steps):
                flows = [*given, *(x[t] for x in d_outputs), *back]
                found = self.back(of_back, flows, matrices, walk, {v: whole[t] for v, whole in written.items()})
                back = [found[v] for i, v in self.result.items() if i in self.states]
                for i, v in self.result.items():
                    if i in self.params:
                        sums[i] = sums.get(i, 0) + self._summed(i, found[v])
        gradients = {i: sums[i] if i in sums else written[v] for i, v in self.result.items() if i not in self.states}
        gradients |= zip((i for i in self.result if i in self.states), back)
        dtypes = self.signature.leaves.dtypes
        gradients = {i: x if i in self.params and self.uniform[i] else x.to(dtypes[i]) for i, x in gradients.items()}
        flow = lambda j: Flow(self.again.products[j], taken[self.again.factors[j]], written[self.flowing[j]])
        return gradients, [flow(j) for j in self.recorded]

    def _points(self, numbers: tuple[float, ...], parts: Sequence[Any], walk: Walk) -> list[list[Tensor]]:
        """The states that segments begin with."""
        params, now, inputs, matrices = parts
        points = [[state] for state in now]
        for k, t in enumerate(_times(walk)[: (walk.T - 1) // walk.every * walk.every], 1):
            found = self.once(numbers, [*params, *now, *(x[t] for x in inputs)], matrices, walk, {})
            now = [found[v] for v in self.again.results[: len(now)]]
            if k % walk.every == 0:
                for several, state in zip(points, now):
                    several.append(state)
        return points

    def _summed(self, i: int, x: Tensor) -> Tensor:
        """What a param gets of one step."""
        return (
            x.sum(dtype=torch.float64)
            if self.uniform[i]
            else x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
        )


def _times(walk: Walk) -> list[int]:
    return list(range(walk.T))[:: -1 if walk.reverse else 1]
