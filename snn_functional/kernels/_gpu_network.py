"""The Triton of a scan whose step holds products: blocks of whole rows, each through all of time on its own (see `_network.py`)."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._functorch import in_memory
from ._gpu_rows import Forms, RowsKernel, STEP, Text
from ._loops import ForwardLoop, Walk
from ._network import Flow, Network
from ._print_triton import computed
from ._signature import Signature, split
from ._triton import looped


class Forward(RowsKernel, ForwardLoop):
    """The states are tiles that go through all steps."""

    keeps = False

    @property
    def networks(self) -> list[Network]:
        return [self.program]

    def launch(self, numbers: tuple[float, ...], tensors: Sequence[Any], walk: Walk) -> None:
        takes, others = split(tensors, self.signature.leaves)
        others = [x for x in others if x is not None]
        self.run(numbers, takes, self.signature.leaves, others, walk, walk.checkpoints)

    def source(self, forms: Forms, checkpoints: bool = False) -> str:
        slots = self.signature.leaves
        text, network = Text(self, slots, forms), self.program
        names = leaves_of(self)
        ys, new = self.signature.results.split(network.results)
        kinds = [(slots.dtypes[i], slots.widths[i]) for i in self.states]
        body = [STEP, "tl.debug_barrier()"]
        if checkpoints:
            body += ["point = tl.cast(k // every, tl.int64) * N", "due = k % every == 0"]
            body += [f"due{q} = in{q} & due" for q in dict.fromkeys(text.q(w) for _, w in kinds)]
            body += [text.store(f"p_{s} + point * {w}", f"s{s}", x, w, "due") for s, (x, w) in enumerate(kinds)]
        body += [f"a{i} = {text.value(i)}" for i in self.inputs]
        body += text.step(0, names, 0)
        for j, (v, c) in enumerate(zip(ys, self.outputs)):
            dtype, w = self.arguments.dtypes[c], self.arguments.widths[c]
            body.append(text.over_time(f"y{j}", text.result(network, v, names, dtype), dtype, w))
        body += advance("s", [text.result(network, v, names, x) for v, (x, _) in zip(new, kinds)])
        start = [f"s{s} = {text.value(i)}" for s, i in enumerate(self.states)]
        end = [text.store(f"l{s}", f"s{s}", x, w) for s, (x, w) in enumerate(kinds)]
        pointers = [*(f"y{j}" for j in range(len(ys))), *(f"l{s}" for s in range(len(kinds)))]
        pointers += [f"p_{s}" for s in range(len(kinds))] if checkpoints else []
        return text.kernel_of(pointers, [*start, *looped("for k in range(0, T):", body), *end])


class Backward(RowsKernel):
    """As for a pointwise step; two more things are written over time: what the `recorded` products take, and what flows back into what
    they give. The gradient of a matrix is made of these.

    - `again`: of a step, its states. `program`: what flows back; of its results, the first are the gradients of `wanted` (but for
      matrices), then come those of what the products `recorded` give.
    """

    def __init__(
        self, again: Network, program: Network, signature: Signature, uniform: tuple[bool, ...], wanted: tuple[int, ...],
        recorded: tuple[int, ...],
    ) -> None:  # fmt: skip
        super().__init__(signature, uniform, signature.backward)
        self.again, self.program, self.wanted, self.recorded = again, program, wanted, recorded
        self.flat = [i for i in wanted if i not in self.matrices]
        _, _, _, _, self.d_outputs, self.d_last = self.arguments.places
        self.carried = [s for s, i in enumerate(self.states) if i in wanted]
        self.result = dict(zip(self.flat, program.results))
        self.flowing = dict(zip(recorded, program.results[len(self.flat) :]))
        self.taken = list(dict.fromkeys(again.factors[j] for j in recorded))  # several products may take the same

    @property
    def networks(self) -> list[Network]:
        return [self.again, self.program]

    @functools.cached_property
    def forth(self) -> Forward:
        """Makes checkpoints."""
        return Forward(self.again, Signature(self.signature.leaves, self.signature.last), self.uniform)

    @functools.cached_property
    def given(self) -> list[int]:
        """The products of which what they gave is needed to go back."""
        first = self.again.leaves - len(self.again.products)
        return [j for j in self.again.items if isinstance(j, int) and first + j in self.program.seen]

    @functools.cached_property
    def sums(self) -> dict[int, torch.dtype]:
        """What is summed over time is not rounded to half precision before."""
        dtypes = self.arguments.dtypes
        return {i: torch.promote_types(dtypes[i], torch.float32) for i in self.flat if i in self.params}

    def __call__(
        self, numbers: tuple[float, ...], leaves: Sequence[Tensor], cotangents: Sequence[Tensor], checkpoints: Sequence[Tensor],
        lanes: torch.Size, T: int, reverse: bool, every: int,
    ) -> tuple[dict[int, Tensor], list[Flow]]:  # fmt: skip
        """The gradients of the wanted leaves but matrices: params over all lanes. And what flows into the matrices."""
        walk = Walk(lanes, T, reverse, every, bool(checkpoints), 0)
        takes, slots = in_memory([*leaves, *cotangents]), self.arguments
        device, again = takes[0].device, self.again
        if not checkpoints:
            checkpoints = self.forth(numbers[: len(again.numbers)], takes[: len(leaves)], *walk[:4])[2]
        empty = lambda kind, *lead: torch.empty((*lead, *lanes, kind[1]), dtype=kind[0], device=device)
        held = self.signature.checkpoints.empty(lanes, every, device)
        gave = [empty(again.given[j], every) for j in self.given]
        gradients = [
            empty((self.sums.get(i, slots.dtypes[i]), slots.widths[i]), *((T,) if i in self.inputs else ()))
            for i in self.flat
        ]
        taken = [empty(again.values[v], T) for v in self.taken]
        flows = [empty(again.given[j], T) for j in self.recorded]
        self.run(numbers, takes, slots, [*checkpoints, *held, *gave, *gradients, *taken, *flows], walk)
        of = dict(zip(self.taken, taken))
        into = [Flow(again.products[j], of[again.factors[j]], flow) for j, flow in zip(self.recorded, flows)]
        return dict(zip(self.flat, gradients)), into

    def source(self, forms: Forms, checkpoints: bool = False) -> str:
        slots, again, program = self.arguments, self.again, self.program
        text, states = Text(self, slots, forms), range(len(self.states))
        kinds = [(slots.dtypes[i], slots.widths[i]) for i in self.states]
        first = again.leaves - len(again.products)

        names = leaves_of(self)
        onward = [STEP, "held = tl.cast(k - since, tl.int64) * N", "tl.debug_barrier()"]
        onward += [text.store(f"h{s} + held * {w}", f"s{s}", x, w) for s, (x, w) in enumerate(kinds)]
        onward += [f"a{i} = {text.value(i)}" for i in self.inputs]
        onward += text.step(0, names, 0)
        for j in self.given:
            x, w = again.given[j]
            onward.append(text.store(f"r{j} + held * {w}", names[first + j], x, w))
        onward += [text.over_time(f"z{n}", names[v], *again.values[v]) for n, v in enumerate(self.taken)]
        onward += advance("s", [text.result(again, v, names, x) for v, (x, _) in zip(again.results, kinds)])

        # What the pullback takes: the step's leaves, what products gave, and what flows back.
        names = leaves_of(self) | {first + j: f"r_{j}" for j in self.given}
        names |= {again.leaves + n: f"a{i}" for n, i in enumerate(self.d_outputs)}
        names |= {again.leaves + len(self.d_outputs) + n: f"g{s}" for n, s in enumerate(self.carried)}
        back = ["k = since + until - 1 - i", STEP, "held = tl.cast(k - since, tl.int64) * N", "tl.debug_barrier()"]
        back += [f"s{s} = {text.load(f'h{s} + held * {w} + at{text.q(w)}', x, w)}" for s, (x, w) in enumerate(kinds)]
        for j in self.given:
            x, w = again.given[j]
            back.append(f"r_{j} = {text.load(f'r{j} + held * {w} + at{text.q(w)}', x, w)}")
        back += [f"a{i} = {text.value(i)}" for i in (*self.inputs, *self.d_outputs)]
        back += text.step(1, names, len(again.numbers))
        start, end = [], []
        for i, v in self.result.items():
            dtype, w = slots.dtypes[i], slots.widths[i]
            if i in self.params:
                wide = self.sums[i]
                start.append(f"sum{i} = tl.zeros({text.shape(w)}, {computed(wide)})")
                back.append(f"sum{i} += {text.result(program, v, names, wide)}")
                end.append(text.store(f"d{i}", f"sum{i}", wide, w))
            elif i in self.inputs:
                back.append(text.over_time(f"d{i}", text.result(program, v, names, dtype), dtype, w))
            else:
                end.append(text.store(f"d{i}", f"g{self.states.index(i)}", dtype, w))
        for n, (j, v) in enumerate(self.flowing.items()):
            x, w = again.given[j]
            back.append(text.over_time(f"e{n}", text.result(program, v, names, x), x, w))
        carried = [self.states[s] for s in self.carried]
        back += advance(
            "g", [text.result(program, self.result[i], names, slots.dtypes[i]) for i in carried], self.carried
        )
        start += [f"g{s} = {text.value(i)}" for s, i in zip(self.carried, self.d_last)]

        segment = ["since = (points - 1 - j) * every", "until = min(since + every, T)"]
        segment.append("point = tl.cast(points - 1 - j, tl.int64) * N")
        segment += [
            f"s{s} = {text.load(f'p_{s} + point * {w} + at{text.q(w)}', x, w)}" for s, (x, w) in enumerate(kinds)
        ]
        segment += [*looped("for k in range(since, until):", onward), "tl.debug_barrier()"]
        segment += looped("for i in range(since, until):", back)
        walk = ["points = (T + every - 1) // every", *looped("for j in range(points):", segment)]
        pointers = [*(f"p_{s}" for s in states), *(f"h{s}" for s in states), *(f"r{j}" for j in self.given)]
        pointers += [*(f"d{i}" for i in self.flat), *(f"z{n}" for n in range(len(self.taken)))]
        pointers += [f"e{n}" for n in range(len(self.recorded))]
        return text.kernel_of(pointers, [*start, *walk, *end])


def leaves_of(kernel: RowsKernel) -> dict[int, str]:
    """The names of a step's leaves, but for what products give."""
    names = [*(f"p{i}" for i in kernel.params), *(f"s{s}" for s in range(len(kernel.states)))]
    return dict(enumerate([*names, *(f"a{i}" for i in kernel.inputs)]))


def advance(letter: str, new: Sequence[str], places: Sequence[int] | None = None) -> list[str]:
    """What goes from one step to the next, all at once: they may change places."""
    names = [f"{letter}{s}" for s in (range(len(new)) if places is None else places)]
    return [*(f"next_{x} = {y}" for x, y in zip(names, new)), *(f"{x} = next_{x}" for x in names)]
