"""The Triton of a scan: the loop over time for a block of neurons, forward and backward, around a printed program.

A program instance holds `BLOCK` neurons (lanes), one or two a thread, and their state stays in registers for all T steps: the inputs are
read once and the outputs written once. How a tensor lies in memory is part of the text: dense over the lanes, one number for all,
or strided (then the place of each lane is computed once, before the loop, over as few axes as the strides allow), and whether it
moves in time (if not, it is read before the loop). Sizes and strides are numbers that the kernel is called with, so neither T nor
a shape is compiled in.

The backward computes the states again, segment by segment from the checkpoints, into a scratch of one segment that stays in the
GPU's cache, and walks back. A gradient of a param is summed in the lane's register and written once; the sum over lanes is the caller's.

Nothing here waits for the device, and memory comes from torch alone, so that a CUDA graph can capture a call. Triton is imported
by the printed file only, when the first kernel is made.
"""

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._loops import BackwardLoop, ForwardLoop, Kind, layout, Walk, wide
from ._print_triton import computed, free, HEADER, keep, Lines, read, rounded
from ._program import Operand, Program, Unsupported
from ._signature import Role, Signature, split, STATE
from ._triton import as_bits, bits, indices, kernel_text, load, looped, merged


WIDE = 1 << 15  # lanes that fill a GPU with blocks of four warps, two a thread; fewer are spread over smaller blocks
STAGES = 4  # steps that inputs are fetched ahead, through shared memory
SHARED = 192  # bytes of it for a lane: what every GPU has for a block of four warps


def ready() -> None:
    """Raises Unsupported where there is no Triton."""
    if not importlib.util.find_spec("triton"):
        raise Unsupported("there is no kernel for cuda without Triton (`pip install triton`)")


class Forward(ForwardLoop):
    def launch(self, numbers: tuple[float, ...], tensors: Sequence[Any], walk: Walk) -> None:
        leaves, _ = split(tensors, self.signature.leaves)
        forms, sizes = _forms(self.signature.leaves.roles, tuple([(x.shape, x.stride()) for x in leaves]), walk.lanes)
        key = forms, walk.checkpoints
        if key not in self.known:
            self.known[key] = load(self.source(*key))
        _launch(self.known[key], [x for x in tensors if x is not None], walk, [*sizes, *map(as_bits, numbers)])

    def source(self, forms: "Forms", checkpoints: bool) -> str:
        text = _Text(self.program, self.signature.leaves.roles, forms, len(self.program.free))
        lines = Lines([*text.still, *self.program.free])
        (y_dtypes, s_dtypes), (ys, new) = (
            self.signature.results.parts,
            self.signature.results.split(self.program.outputs),
        )
        body = [STEP, *(f"a{i} = s{s}" for s, i in enumerate(self.states))]
        if checkpoints:
            body += [
                "point = tl.cast(k // every, tl.int64) * N + lane",
                "due = mask & (tl.broadcast_to(k % every, [BLOCK]) == 0)",
            ]
            body += [f"tl.store(p{s} + point, {keep(f's{s}', dtype)}, mask=due)" for s, dtype in enumerate(s_dtypes)]
        body += text.reads(self.program)
        body += lines.in_loop(self.program)
        for j, (y, dtype) in enumerate(zip(ys, y_dtypes)):
            body.append(f"tl.store(y{j} + t * N + lane, {keep(lines.cast(y, dtype), dtype)}, mask=mask)")
        body += _advance(lines, new, s_dtypes)
        loop = looped(f"for k in tl.range(0, T, num_stages={text.stages}):", body)
        start = [*text.start(self.program), *free(self.program.free, 0), *lines.before]
        start += [f"s{s} = {text.value(i)}" for s, i in enumerate(self.states)]
        end = [f"tl.store(l{s} + lane, {keep(f's{s}', dtype)}, mask=mask)" for s, dtype in enumerate(s_dtypes)]
        names = [("y", self.outputs), ("l", self.last), *([("p", self.points)] if checkpoints else [])]
        return text.kernel([f"{x}{i}" for x, group in names for i in range(len(group))], [*start, *loop, *end])


class Backward(BackwardLoop):
    """The states of a segment are in memory, in a scratch `h0` that stays in the cache; checkpoints are made where there are none."""

    SUMS = torch.float32  # at least: what is summed is not rounded to half precision before

    @functools.cached_property
    def forth(self) -> Forward:
        """Makes checkpoints."""
        return Forward(self.again, Signature(self.signature.leaves, self.signature.last), self.uniform)

    def sum_shape(self, walk: Walk) -> Sequence[int]:
        return walk.lanes

    def launch(self, numbers: tuple[float, ...], tensors: Sequence[Any], walk: Walk) -> None:
        takes, points, gradients = split(tensors, self.signature.backward, self.points)
        if self.states and not walk.checkpoints:
            leaves, _ = split(takes, self.signature.leaves)
            points = self.forth(numbers[: len(self.again.free)], leaves, *walk[:4])[2]
        held = self.signature.checkpoints.empty(walk.lanes, walk.every, takes[0].device)
        forms, sizes = _forms(self.signature.backward.roles, tuple([(x.shape, x.stride()) for x in takes]), walk.lanes)
        if forms not in self.known:
            self.known[forms] = load(self.source(forms))
        tensors = [*takes, *points, *held, *gradients]
        _launch(self.known[forms], tensors, walk, [*sizes, *map(as_bits, numbers)])

    def source(self, forms: "Forms") -> str:
        types, again, program = self.arguments.dtypes, self.again.renamed("w"), self.program
        s_dtypes = self.signature.leaves.parts[1]
        text = _Text(program, self.signature.backward.roles, forms, len(again.free) + len(program.free))
        lines = Lines([*text.still, *again.free, *program.free])
        row = "row = tl.cast(k - since, tl.int64) * N + lane"

        onward = [STEP, row]
        onward += [f"tl.store(h{s} + row, {keep(f's{s}', dtype)}, mask=mask)" for s, dtype in enumerate(s_dtypes)]
        onward += [f"a{i} = s{s}" for s, i in enumerate(self.states)]
        onward += text.reads(again)
        onward += lines.in_loop(again)
        onward += _advance(lines, again.outputs, s_dtypes)

        back = ["k = since + until - 1 - i", STEP, row]
        back += [f"a{i} = {_here(f'h{s} + row', types[i])}" for s, i in enumerate(self.states)]
        back += [f"a{i} = g{s}" for s, i in zip(self.carried, self.d_last)]
        back += text.reads(program)
        back += lines.in_loop(program)
        start, end = [], []
        for i, gradient in zip(self.wanted, program.outputs):
            dtype, where = types[i], f"d{i} + lane"
            if i in self.params:
                wide, dtype = torch.promote_types(dtype, self.SUMS), self.sums[i] if self.uniform[i] else dtype
                start.append(f"sum{i} = tl.full([BLOCK], 0, {computed(wide)})")
                back.append(f"sum{i} += {lines.cast(gradient, wide)}")
                end.append(f"tl.store({where}, {keep(rounded(f'sum{i}', dtype), dtype)}, mask=mask)")
            elif i in self.states:
                g = f"g{self.states.index(i)}"
                back.append(f"{g} = {lines.cast(gradient, dtype)}")
                end.append(f"tl.store({where}, {keep(g, dtype)}, mask=mask)")
            else:
                value = keep(lines.cast(gradient, dtype), dtype)
                back.append(f"tl.store(d{i} + t * N + lane, {value}, mask=mask)")
        start += [f"g{s} = {text.value(i)}" for s, i in zip(self.carried, self.d_last)]

        segment = ["since = (points - 1 - j) * every", "until = min(since + every, T)"]
        if self.states:
            segment.append("point = tl.cast(points - 1 - j, tl.int64) * N + lane")
            segment += [f"s{s} = {_here(f'p{s} + point', dtype)}" for s, dtype in enumerate(s_dtypes)]
            segment += looped(f"for k in tl.range(since, until, num_stages={text.stages}):", onward)
            segment.append("tl.debug_barrier()")  # a row may be read by another thread than the one that wrote it
        segment += looped(f"for i in tl.range(since, until, num_stages={text.stages}):", back)
        segment.append("tl.debug_barrier()")
        walk = ["points = (T + every - 1) // every", *looped("for j in range(points):", segment)]
        pointers = [f"{x}{s}" for x in "ph" for s in range(len(self.states))] + [f"d{i}" for i in self.wanted]
        numbers = [*free(again.free, 0), *free(program.free, len(again.free))]
        return text.kernel(pointers, [*text.start(program, again), *numbers, *lines.before, *start, *walk, *end])


STEP = "t = tl.cast(first + k * by, tl.int64)"


class Form(NamedTuple):
    """What the text depends on of a tensor's layout."""

    over: Kind
    time_varying: bool


class Forms(NamedTuple):
    """Those of all tensors of a call, and over how many axes the strided ones are walked."""

    each: tuple[Form, ...]
    axes: int


class _Text:
    """What both loops have in common: the arguments, the place of each lane, and the reading of leaves."""

    def __init__(self, program: Program, roles: Sequence[Role], forms: Forms, free: int) -> None:
        self.leaves, self.forms, self.free = program.leaves, forms, free
        for leaf in self.leaves:
            computed(leaf.dtype)  # refuses what has no kernel
        known = [(leaf, role, form.time_varying) for leaf, role, form in zip(self.leaves, roles, forms.each)]
        self.still = [leaf for leaf, role, varying in known if role is not STATE and not varying]
        self.varying = [leaf for leaf, _, varying in known if varying]
        width = sum(leaf.dtype.itemsize for leaf in self.leaves if leaf not in self.still)
        self.stages = max(1, min(STAGES, SHARED // max(width, 1)))

    def start(self, *programs: Program) -> list[str]:
        """Where the lanes are, and the leaves that do not change in time."""
        text = ["lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)", "mask = lane < N"]
        text += indices(self.forms.axes, "lane")
        for i, form in enumerate(self.forms.each):
            if form.over is Kind.STRIDED:
                text.append(f"at{i} = " + " + ".join(f"i{d} * step{i}_{d}" for d in range(self.forms.axes)))
        used = [x for x in self.still if any(x in program.used for program in programs)]
        return text + [f"{x.name} = {self.value(self.leaves.index(x))}" for x in used]

    def reads(self, program: Program) -> list[str]:
        """The leaves that change in time, as far as they are used."""
        return [f"{x.name} = {self.value(self.leaves.index(x))}" for x in self.varying if x in program.used]

    def value(self, i: int) -> str:
        form, dtype = self.forms.each[i], self.leaves[i].dtype
        where = f"x{i} + t * time{i}" if form.time_varying else f"x{i}"
        if form.over is Kind.UNIFORM:
            return read(f"tl.broadcast_to(tl.load({where}), [BLOCK])", dtype)
        return _here(f"{where} + {'lane' if form.over is Kind.DENSE else f'at{i}'}", dtype)

    def kernel(self, pointers: list[str], body: list[str]) -> str:
        numbers = ["T", "N", "first", "by", "every", *(f"size{d}" for d in range(1, self.forms.axes))]
        for i, form in enumerate(self.forms.each):
            numbers += [f"time{i}"] if form.time_varying else []
            numbers += [f"step{i}_{d}" for d in range(self.forms.axes)] if form.over is Kind.STRIDED else []
        numbers += [f"free{i}: tl.int64" for i in range(self.free)]
        names = [*(f"x{i}" for i in range(len(self.forms.each))), *pointers, *numbers]
        return kernel_text(HEADER, names, body)


def _here(where: str, dtype: torch.dtype) -> str:
    return read(f"tl.load({where}, mask=mask)", dtype)


def _advance(lines: Lines, new: Sequence[Operand], dtypes: Sequence[torch.dtype]) -> list[str]:
    return [f"s{s} = {lines.cast(x, dtype)}" for s, (x, dtype) in enumerate(zip(new, dtypes))]


@functools.lru_cache(10_000)
def _forms(roles: tuple[Role, ...], tensors: tuple[Any, ...], lanes: torch.Size) -> tuple[Forms, tuple[int, ...]]:
    """How tensors of these shapes and strides lie, and the numbers that go with it, in the order of the kernel's arguments."""
    layouts = [layout(shape, strides, role, lanes) for role, (shape, strides) in zip(roles, tensors)]
    strided = [x for x in layouts if x.kind is Kind.STRIDED]
    axes = merged([lanes[d] for d in wide(lanes)], [x.strides for x in strided])
    numbers = [n for n, _ in axes[1:]]
    for x in layouts:
        numbers += [x.time] if x.time else []
        numbers += [steps[strided.index(x)] for _, steps in axes] if x.kind is Kind.STRIDED else []
    return Forms(tuple(Form(x.kind, x.time != 0) for x in layouts), len(axes)), tuple(numbers)


def _launch(kernel: Any, tensors: Sequence[Tensor], walk: Walk, numbers: Sequence[int]) -> None:
    lanes, T, reverse, every, *_ = walk
    count = lanes.numel()
    block, warps = (256, 4) if count >= WIDE else (32, 1)
    time = [T, count, T - 1 if reverse else 0, -1 if reverse else 1, every]
    with torch.cuda.device_of(tensors[0]):
        kernel[(-(-count // block),)](
            *map(bits, tensors), *time, *numbers, BLOCK=block, num_warps=warps, enable_fp_fusion=False
        )  # fmt: skip
