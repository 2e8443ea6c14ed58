"""A scan whose step holds products, as calls one after another: each segment a pointwise kernel, each product torch's own.

For what has no kernel of whole rows: products that are convolutions, and rows too wide for a GPU. Autograd sees one operation and no step
of it; going back the states are computed again from checkpoints, as in the kernels, and a matrix gets its gradient from all of time at
once. What a convolution gives is kept for that, as to convolve once more would take longest of all. Nothing here waits for the device.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._functorch import in_memory
from ._kernels import segment_kernel
from ._loops import ForwardLoop, Loop, Walk
from ._network import Flow, Network, Product, Segment
from ._products import product
from ._signature import Signature


NOTHING: dict[int, Tensor] = {}


class Joint(NamedTuple):
    """Products that are done as one. `summed`: only the sum of what they give is asked for; else all take the same."""

    each: tuple[int, ...]
    which: Product
    summed: bool

    def matrix(self, network: Network, matrices: Sequence[Tensor]) -> Tensor:
        parts = [matrices[network.products[j].matrix] for j in self.each]
        if len(parts) == 1:
            return parts[0]
        lead = torch.broadcast_shapes(*(x.shape[:-2] for x in parts))
        columns = self.summed == self.which.transposed and not self.which.convolution
        axis = -1 if columns else -2  # a convolution's channels that it gives stand in front
        return torch.cat([x.expand(*lead, *x.shape[-2:]) for x in parts], axis)

    def __call__(self, found: dict[int, Tensor], matrix: Tensor, network: Network) -> Sequence[Tensor]:
        zs, first = [found[network.factors[j]] for j in self.each], network.leaves - len(network.products)
        if len(zs) == 1:
            return [product(self.which, zs[0], matrix)]
        if self.summed:
            total = product(self.which, torch.cat(zs, -1), matrix)
            return [total, *[total.new_zeros(()).expand(total.shape)] * (len(zs) - 1)]
        return product(self.which, zs[0], matrix).split([network.values[first + j][1] for j in self.each], -1)


def _joint(network: Network, each: Sequence[int], summed: bool) -> list[Joint]:
    """`each`: products that take the same, or that are summed. They are one if they differ in the channels, or columns, alone."""
    alike: dict[Any, list[int]] = {}
    for j in each:
        _, transposed, c = network.products[j]
        alone = (j,) if c is not None and (c.groups != 1 or summed != transposed) else ()
        key = transposed, alone, c and c._replace(given=(0, *c.given[1:]), weight=(0, *c.weight[1:]))
        alike.setdefault(key, []).append(j)
    found = []
    for some in alike.values():
        which = network.products[some[0]]
        if c := which.convolution:
            out = sum(more.weight[0] for j in some if (more := network.products[j].convolution))
            c = c._replace(given=(out, *c.given[1:]), weight=(out, *c.weight[1:]))
            which = which._replace(convolution=c)
        found.append(Joint(tuple(some), which, summed))
    return found


class Step:
    """One time step of a network.

    - `uniform`: of its first leaves, which are one number for all rows. `summed`: products of which only the sum is asked for.
    """

    def __init__(
        self, network: Network, uniform: Sequence[bool], device: str, summed: Sequence[Sequence[int]] = ()
    ) -> None:
        self.network, self.first = network, network.leaves - len(network.products)
        self.items: list[
            tuple[Any, Any]
        ] = []  # a segment, its kernel and where its free numbers are; or a product, and which
        self.joints: list[Joint] = []
        known, at, run = dict(enumerate(uniform)), 0, list[int]()
        for item in (*network.items, None):
            if isinstance(item, int):
                run.append(item)
                continue
            for joint in self._joints(run, summed):
                self.items.append((joint, len(self.joints)))
                self.joints.append(joint)
            run = []
            if isinstance(item, Segment):
                end = at + len(item.program.free)
                of = tuple(known.get(v, False) for v in item.reads)
                self.items.append((item, (segment_kernel(device, item.program, of), slice(at, end))))
                at = end

    def _joints(self, run: list[int], summed: Sequence[Sequence[int]]) -> list[Joint]:
        """Products with no segment between them."""
        if any(self.network.factors[j] - self.first in run for j in run):  # one after another
            return [Joint((j,), self.network.products[j], False) for j in run]
        found, left = [], list(run)
        for group in summed:
            if set(group) <= set(left):
                found += _joint(self.network, group, True)
                left = [j for j in left if j not in group]
        factors: dict[int, list[int]] = {}
        for j in left:
            factors.setdefault(self.network.factors[j], []).append(j)
        return found + [joint for some in factors.values() for joint in _joint(self.network, some, False)]

    def build(self) -> None:
        for item, of in self.items:
            if isinstance(item, Segment):
                of[0].build()

    def prepared(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """For all steps of a call."""
        return [joint.matrix(self.network, matrices) for joint in self.joints]

    def __call__(
        self, numbers: tuple[float, ...], leaves: Sequence[Tensor], matrices: Sequence[Tensor], walk: Walk, into: dict[int, Tensor],
        known: dict[int, Tensor] = NOTHING,
    ) -> dict[int, Tensor]:  # fmt: skip
        """Its values, by number. `leaves`: but for what products give, some of which may be `known`. `into`: where values are to be."""
        network, found = self.network, dict(enumerate(leaves)) | known
        for item, of in self.items:
            if isinstance(item, Joint):
                us = [self.first + j for j in item.each]
                if any(u not in found for u in us):
                    found.update(zip(us, item(found, matrices[of], network)))
                continue
            kernel, free = of
            lanes = torch.Size((*walk.lanes, item.width))
            for v in item.writes:
                dtype = network.values[v][0]
                found[v] = into[v] if v in into else torch.empty(lanes, dtype=dtype, device=leaves[0].device)
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
        params, now, inputs, matrices, outputs, last, points, gave = self.arguments.split(tensors)
        matrices = self.step.prepared(matrices)
        ys, new = self.signature.results.split(self.program.results)
        kept = {self.step.first + j: whole for j, whole in zip(self.signature.kept, gave) if whole is not None}
        for k, t in enumerate(_times(walk)):
            if walk.every and k % walk.every == 0:
                for whole, state in zip(points, now):
                    whole[k // walk.every].copy_(state)
            places = {v: y[t] for v, y in zip(ys, outputs)}
            more = {u: whole[t] for u, whole in kept.items()}
            given = [*params, *now, *(x[t] for x in inputs)]
            found = self.step(numbers, given, matrices, walk, places | more)
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
        self.again, self.program, self.wanted, self.recorded = again, program, wanted, recorded
        # Of products that take the same, what flows back to that is a sum.
        factors: dict[int, list[int]] = {}
        for j, v in enumerate(again.factors):
            factors.setdefault(v, []).append(j)
        self.once = Step(again, uniform, device)
        self.back = Step(program, uniform, device, [some for v, some in factors.items() if v >= 0])
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
        params, states, inputs, matrices = parts
        once, through = self.once.prepared(matrices), self.back.prepared(matrices)
        of_again, of_back = numbers[: len(self.again.numbers)], numbers[len(self.again.numbers) :]
        over_time = lambda network, v: torch.empty(
            (T, *lanes, network.values[v][1]), dtype=network.values[v][0], device=leaves[0].device
        )
        taken = {v: over_time(self.again, v) for v in dict.fromkeys(self.again.factors[j] for j in self.recorded)}
        of_inputs = [v for i, v in self.result.items() if i in self.inputs]
        written = {v: over_time(self.program, v) for v in (*of_inputs, *self.flowing.values())}
        sums: dict[int, Tensor] = {}
        kept = dict(zip((self.once.first + j for j in self.signature.kept), checkpoints[len(states) :]))
        points = checkpoints[: len(states)] or self._points(of_again, parts, once, walk)
        times = _times(walk)
        for first in reversed(range(0, T, every)):
            steps, now = [], [whole[first // every] for whole in points]
            for t in times[first : first + every]:
                given = [*params, *now, *(x[t] for x in inputs)]
                known = {u: whole[t] for u, whole in kept.items()}
                found = self.once(of_again, given, once, walk, {v: z[t] for v, z in taken.items()}, known)
                steps.append((t, [found.get(v, given[0]) for v in range(self.again.leaves)]))
                now = [found[v] for v in self.again.results[: len(now)]]
            for t, given in reversed(steps):
                flows = [*given, *(x[t] for x in d_outputs), *back]
                found = self.back(of_back, flows, through, walk, {v: whole[t] for v, whole in written.items()})
                back = [found[v] for i, v in self.result.items() if i in self.states]
                for i, v in self.result.items():
                    if i in self.params:
                        sums[i] = sums.get(i, 0) + self._summed(i, found[v])
        gradients = {i: sums[i] if i in sums else written[v] for i, v in self.result.items() if i not in self.states}
        gradients |= zip((i for i in self.result if i in self.states), (x.clone() for x in back))  # it may be what came
        dtypes = self.signature.leaves.dtypes
        gradients = {i: x if i in self.params and self.uniform[i] else x.to(dtypes[i]) for i, x in gradients.items()}
        flow = lambda j: Flow(self.again.products[j], taken[self.again.factors[j]], written[self.flowing[j]])
        return gradients, [flow(j) for j in self.recorded]

    def _points(
        self, numbers: tuple[float, ...], parts: Sequence[Any], matrices: Sequence[Tensor], walk: Walk
    ) -> list[list[Tensor]]:
        """The states that segments begin with."""
        params, now, inputs, _ = parts
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
