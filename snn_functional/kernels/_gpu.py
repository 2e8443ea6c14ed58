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
import hashlib
import importlib.util
import linecache
import math
import struct
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._functorch import solid
from ._print_triton import computed, free, HALF, HEADER, kept, Lines, read, rounded
from ._program import Program, Unsupported


WIDE = (
    1 << 15
)  # lanes that fill a GPU with blocks of four warps, two a thread; fewer are spread over more, smaller blocks
STAGES = 4  # steps that inputs are fetched ahead, through shared memory
SHARED = 192  # bytes of it for a lane: what every GPU has for a block of four warps


def ready() -> None:
    """Raises Unsupported where there is no Triton."""
    if not importlib.util.find_spec("triton"):
        raise Unsupported("there is no kernel for cuda without Triton (`pip install triton`)")


class Forward:
    """`(params, state, inputs) -> (outputs, last state)`, and a checkpoint of the state every so many steps if asked for."""

    def __init__(self, program: Program, counts: tuple[int, int, int], uniform: tuple[bool, ...]) -> None:
        params, states, inputs = counts
        self.program, self.counts, self.kernels = program, counts, {}
        self.ys = [x.dtype for x in program.outputs[: len(program.outputs) - states]]
        self.ss = [leaf.dtype for leaf in program.leaves[params : params + states]]
        self.timed = range(params + states, params + states + inputs)

    def __call__(
        self, numbers: tuple[float, ...], leaves: Sequence[Tensor], lanes: torch.Size, T: int, reverse: bool, every: int
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """`numbers`: those of the program at hand, which may be another than this kernel was printed from, with the same text."""
        leaves = solid(leaves)
        empty = functools.partial(torch.empty, device=leaves[0].device)
        ys = [empty((T, *lanes), dtype=dtype) for dtype in self.ys]
        last = [empty(lanes, dtype=dtype) for dtype in self.ss]
        points = [empty((-(-T // every), *lanes), dtype=dtype) for dtype in self.ss if every]
        forms, sizes = _forms(tuple([(x.shape, x.stride()) for x in leaves]), self.timed, lanes)
        key = forms, bool(every)
        if key not in self.kernels:
            self.kernels[key] = _load(self.source(*key))
        tensors = [*leaves, *ys, *last, *points]
        _launch(self.kernels[key], tensors, T, lanes, reverse, every, [*sizes, *map(_as_bits, numbers)])
        return ys, last, points

    def source(self, forms: "Forms", checkpoints: bool) -> str:
        params, states, _ = self.counts
        text = _Text(self.program, params, self.timed, forms, len(self.program.free))
        lines = Lines([*text.still, *self.program.free])
        body = [STEP, *(f"a{params + s} = s{s}" for s in range(states))]
        if checkpoints:
            body += [
                "point = tl.cast(k // every, tl.int64) * N + lane",
                "due = mask & (tl.broadcast_to(k % every, [BLOCK]) == 0)",
            ]
            body += [f"tl.store(p{s} + point, {kept(f's{s}', dtype)}, mask=due)" for s, dtype in enumerate(self.ss)]
        body += text.reads(self.timed, self.program)
        body += lines.moving(self.program)
        for j, (y, dtype) in enumerate(zip(self.program.outputs, self.ys)):
            body.append(f"tl.store(y{j} + t * N + lane, {kept(lines.cast(y, dtype), dtype)}, mask=mask)")
        body += _advance(lines, self.program.outputs[len(self.ys) :], self.ss)
        loop = _loop(f"for k in tl.range(0, T, num_stages={text.stages}):", body)
        start = [*text.start(self.program), *free(self.program.free, 0), *lines.before]
        start += [f"s{s} = {text.value(params + s)}" for s in range(states)]
        end = [f"tl.store(l{s} + lane, {kept(f's{s}', dtype)}, mask=mask)" for s, dtype in enumerate(self.ss)]
        pointers = [f"y{j}" for j in range(len(self.ys))] + [f"l{s}" for s in range(states)]
        pointers += [f"p{s}" for s in range(states) if checkpoints]
        return text.kernel(pointers, [*start, *loop, *end])


class Backward:
    """`(params, first state, inputs, cotangents of the outputs and of the last state) -> gradients`.

    `program` is the derivative of one step: its leaves are those of `forward` and the cotangents, its outputs the gradients that
    are wanted, in the order params, state, inputs; `wanted` says of which leaves (all floating states among them).
    """

    def __init__(self, forward: Program, program: Program, counts: tuple[int, int, int], outputs: list[int], uniform: tuple[bool, ...],
                 wanted: tuple[int, ...]) -> None:  # fmt: skip
        params, states, inputs = counts
        self.program, self.counts, self.uniform, self.wanted, self.kernels = (
            program.renamed(numbers="q"), counts, uniform, wanted, {}
        )  # fmt: skip
        self.types = [leaf.dtype for leaf in program.leaves]
        self.moving = [s for s in range(states) if self.types[params + s].is_floating_point]
        self.timed = range(params + states, params + states + inputs + len(outputs))
        self.again = forward.only(range(len(forward.outputs) - states, len(forward.outputs)))
        self.walk = Forward(self.again, counts, uniform)

    def __call__(
        self, numbers: tuple[float, ...], leaves: Sequence[Tensor], cotangents: Sequence[Tensor], checkpoints: Sequence[Tensor],
        lanes: torch.Size, T: int, reverse: bool, every: int,
    ) -> list[Tensor]:  # fmt: skip
        """The gradients of the wanted leaves: params over all neurons, for the caller to sum where one number serves many.

        `numbers`: those of the forward program at hand, then those of its derivative.
        """
        params, states, _ = self.counts
        leaves, cotangents = solid(leaves), solid(cotangents)
        if states and not checkpoints:
            checkpoints = self.walk(numbers[: len(self.again.free)], leaves, lanes, T, reverse, every)[2]
        empty = functools.partial(torch.empty, device=leaves[0].device)
        held = [empty((every, *lanes), dtype=x.dtype) for x in checkpoints]
        shapes = [(T, *lanes) if i >= params + states else lanes for i in self.wanted]
        gradients = [empty(shape, dtype=self._type(i)) for i, shape in zip(self.wanted, shapes)]
        forms, sizes = _forms(tuple([(x.shape, x.stride()) for x in (*leaves, *cotangents)]), self.timed, lanes)
        if forms not in self.kernels:
            self.kernels[forms] = _load(self.source(forms))
        tensors = [*leaves, *cotangents, *checkpoints, *held, *gradients]
        _launch(self.kernels[forms], tensors, T, lanes, reverse, every, [*sizes, *map(_as_bits, numbers)])
        return gradients

    def _type(self, i: int) -> torch.dtype:
        """What is still to be summed over all lanes is not rounded to half precision before."""
        dtype = self.types[i]
        return torch.float32 if i < self.counts[0] and self.uniform[i] and dtype in HALF else dtype

    def source(self, forms: "Forms") -> str:
        params, states, inputs = self.counts
        first_x, first_s = self.timed.start, self.timed.stop
        types, moving = self.types, self.moving
        held = types[params:first_x]
        again, program = self.again.renamed("w"), self.program
        text = _Text(program, params, self.timed, forms, len(again.free) + len(program.free))
        lines = Lines([*text.still, *again.free, *program.free])
        row = "row = tl.cast(k - since, tl.int64) * N + lane"

        onward = [STEP, row]
        onward += [f"tl.store(h{s} + row, {kept(f's{s}', dtype)}, mask=mask)" for s, dtype in enumerate(held)]
        onward += [f"a{params + s} = s{s}" for s in range(states)]
        onward += text.reads(range(first_x, first_x + inputs), again)
        onward += lines.moving(again)
        onward += _advance(lines, again.outputs, held)

        back = ["k = since + until - 1 - i", STEP, row]
        back += [f"a{params + s} = {_here(f'h{s} + row', dtype)}" for s, dtype in enumerate(held)]
        back += [f"a{first_s + m} = g{s}" for m, s in enumerate(moving)]
        back += text.reads(self.timed, program)
        back += lines.moving(program)
        start, end = [], []
        for i, gradient in zip(self.wanted, program.outputs):
            dtype, where = self._type(i), f"d{i} + lane"
            if i < params:
                wide = torch.float32 if dtype in HALF else dtype
                start.append(f"sum{i} = tl.full([BLOCK], 0, {computed(wide)})")
                back.append(f"sum{i} += {lines.cast(gradient, wide)}")
                end.append(f"tl.store({where}, {kept(rounded(f'sum{i}', dtype), dtype)}, mask=mask)")
            elif i < first_x:
                back.append(f"g{i - params} = {lines.cast(gradient, dtype)}")
                end.append(f"tl.store({where}, {kept(f'g{i - params}', dtype)}, mask=mask)")
            else:
                value = kept(lines.cast(gradient, dtype), dtype)
                back.append(f"tl.store(d{i} + t * N + lane, {value}, mask=mask)")
        start += [f"g{s} = {text.value(first_s + m)}" for m, s in enumerate(moving)]

        segment = ["since = (points - 1 - j) * every", "until = min(since + every, T)"]
        if states:
            segment.append("point = tl.cast(points - 1 - j, tl.int64) * N + lane")
            segment += [f"s{s} = {_here(f'p{s} + point', dtype)}" for s, dtype in enumerate(held)]
            segment += _loop(f"for k in tl.range(since, until, num_stages={text.stages}):", onward)
            segment.append("tl.debug_barrier()")  # a row may be read by another thread than the one that wrote it
        segment += _loop(f"for i in tl.range(since, until, num_stages={text.stages}):", back)
        segment.append("tl.debug_barrier()")
        walk = ["points = (T + every - 1) // every", *_loop("for j in range(points):", segment)]
        pointers = [f"{x}{s}" for x in "ph" for s in range(states)] + [f"d{i}" for i in self.wanted]
        numbers = [*free(again.free, 0), *free(program.free, len(again.free))]
        return text.kernel(pointers, [*text.start(program, again), *numbers, *lines.before, *start, *walk, *end])


STEP = "t = tl.cast(first + k * by, tl.int64)"


class Form(NamedTuple):
    """How a tensor lies: over the lanes, and whether it moves in time."""

    over: str
    moves: bool


class Forms(NamedTuple):
    """Those of all tensors of a call, and over how many axes the strided ones are walked."""

    each: tuple[Form, ...]
    axes: int


class _Text:
    """What kernels have in common: the arguments, the place of each lane, and the reading of leaves."""

    def __init__(self, program: Program, params: int, timed: range, forms: Forms, free: int) -> None:
        self.leaves, self.forms, self.free = program.leaves, forms, free
        for leaf in self.leaves:
            computed(leaf.dtype)  # refuses what has no kernel
        fixed = [i for i in timed if not forms.each[i].moves]
        self.still = [self.leaves[i] for i in (*range(params), *fixed)]
        width = sum(leaf.dtype.itemsize for leaf in self.leaves if leaf not in self.still)
        self.stages = max(1, min(STAGES, SHARED // max(width, 1)))

    def start(self, *programs: Program) -> list[str]:
        """Where the lanes are, and the leaves that do not change in time."""
        text = ["lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)", "mask = lane < N"]
        rest = "lane"
        for d in range(self.forms.axes - 1, 0, -1):
            text += [f"i{d} = {rest} % size{d}", f"r{d} = {rest} // size{d}"]
            rest = f"r{d}"
        if self.forms.axes:
            text.append(f"i0 = {rest}")
        for i, form in enumerate(self.forms.each):
            if form.over == "strided":
                text.append(f"at{i} = " + " + ".join(f"i{d} * step{i}_{d}" for d in range(self.forms.axes)))
        used = set().union(*map(_used, programs))
        return text + [f"{x.name} = {self.value(self.leaves.index(x))}" for x in self.still if x in used]

    def reads(self, which: Iterable[int], program: Program) -> list[str]:
        """The leaves that move in time, as far as they are used."""
        used = _used(program)
        moving = [i for i in which if self.forms.each[i].moves and self.leaves[i] in used]
        return [f"{self.leaves[i].name} = {self.value(i)}" for i in moving]

    def value(self, i: int) -> str:
        form, dtype = self.forms.each[i], self.leaves[i].dtype
        where = f"x{i} + t * time{i}" if form.moves else f"x{i}"
        if form.over == "one":
            return read(f"tl.broadcast_to(tl.load({where}), [BLOCK])", dtype)
        return _here(f"{where} + {'lane' if form.over == 'dense' else f'at{i}'}", dtype)

    def kernel(self, pointers: list[str], body: list[str]) -> str:
        numbers = ["T", "N", "first", "by", "every", *(f"size{d}" for d in range(1, self.forms.axes))]
        for i, form in enumerate(self.forms.each):
            numbers += [f"time{i}"] if form.moves else []
            numbers += [f"step{i}_{d}" for d in range(self.forms.axes)] if form.over == "strided" else []
        numbers += [f"free{i}: tl.int64" for i in range(self.free)]
        names = [*(f"x{i}" for i in range(len(self.forms.each))), *pointers, *numbers]
        # No argument is compiled in, or each T, and each address that 16 does not divide, would have a kernel of its own.
        text = f"@triton.jit(do_not_specialize=[*range({len(names)})])\n"
        text += f"def kernel({', '.join(names)}, BLOCK: tl.constexpr):\n"
        return HEADER + text + "".join(f"    {x}\n" for x in body)


def _used(program: Program) -> set[Any]:
    return {x for step in program.lines for x in step.operands} | set(program.outputs)


def _here(where: str, dtype: torch.dtype) -> str:
    return read(f"tl.load({where}, mask=mask)", dtype)


def _loop(head: str, body: list[str]) -> list[str]:
    return [head, *(f"    {text}" for text in body)]


def _advance(lines: Lines, states: Sequence[Any], types: Sequence[torch.dtype]) -> list[str]:
    return [f"s{s} = {lines.cast(new, dtype)}" for s, (new, dtype) in enumerate(zip(states, types))]


@functools.lru_cache(10_000)
def _forms(
    tensors: tuple[tuple[torch.Size, tuple[int, ...]], ...], timed: range, lanes: torch.Size
) -> tuple[Forms, tuple[int, ...]]:
    """How tensors of these shapes and strides lie, and the numbers that go with it, in the order of the kernel's arguments."""
    wide = [d for d, n in enumerate(lanes) if n > 1]
    sizes = [lanes[d] for d in wide]
    dense = [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]
    times, overs = [], []
    for i, (shape, strides) in enumerate(tensors):
        times.append(strides[0] if i in timed and shape[0] > 1 else 0)
        if i in timed:
            shape, strides = shape[1:], strides[1:]
        missing = len(lanes) - len(shape)
        overs.append([strides[d - missing] if d >= missing and shape[d - missing] > 1 else 0 for d in wide])
    each = tuple(
        Form("one" if not any(over) else "dense" if over == dense else "strided", time != 0)
        for over, time in zip(overs, times)
    )
    axes = _axes(sizes, [over for over, form in zip(overs, each) if form.over == "strided"])
    numbers, strided = [n for n, _ in axes[1:]], 0
    for form, time in zip(each, times):
        numbers += [time] if form.moves else []
        if form.over == "strided":
            numbers += [steps[strided] for _, steps in axes]
            strided += 1
    return Forms(each, len(axes)), tuple(numbers)


def _axes(sizes: list[int], rows: list[list[int]]) -> list[tuple[int, list[int]]]:
    """Sizes and strides, neighbouring axes made one where all rows walk them as one."""
    axes: list[tuple[int, list[int]]] = []
    for n, *steps in zip(sizes, *rows) if rows else ():
        if axes and axes[-1][1] == [n * step for step in steps]:
            axes[-1] = axes[-1][0] * n, steps
        else:
            axes.append((n, steps))
    return axes


def _launch(
    kernel: Any, tensors: Sequence[Tensor], T: int, lanes: torch.Size, reverse: bool, every: int, numbers: Sequence[int]
) -> None:
    count = lanes.numel()
    block, warps = (256, 4) if count >= WIDE else (32, 1)
    walk = [T, count, T - 1 if reverse else 0, -1 if reverse else 1, every]
    with torch.cuda.device_of(tensors[0]):
        kernel[(-(-count // block),)](
            *map(_bits, tensors), *walk, *numbers, BLOCK=block, num_warps=warps, enable_fp_fusion=False
        )  # fmt: skip


def _as_bits(number: float) -> int:
    return struct.unpack("q", struct.pack("d", number))[0]


def _bits(x: Tensor) -> Tensor:
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


@functools.cache
def _load(source: str) -> Any:
    """`kernel` of this source. Triton reads a kernel's text where Python's tracebacks do, so it need not stand in a file."""
    name = f"snn_functional_{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    file = f"<{name}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    module = types.ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module
    exec(compile(source, file, "exec"), module.__dict__)
    return module.kernel
