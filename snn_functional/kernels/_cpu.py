"""The C++ of a scan: the loop over time inside a block of neurons, forward and backward, around a printed program."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._build import load
from ._print import body, computed, keep, operand, stored
from ._program import Operand, Program


PRELUDE = Path(__file__).with_name("_cpu.cpp").read_text()
CACHE = 1 << 18  # bytes of scratch a block may take, about half of a core's L2
ROW = 64  # neurons a block is a multiple of: whole cache lines of every dtype
GRAIN = 1 << 15  # neuron-steps that are worth a thread
BIG = 1 << 22  # bytes of an output above which it is written past the cache, in huge pages


class Forward:
    """`(params, state, inputs) -> (outputs, last state)`, and a checkpoint of the state every so many steps if asked for."""

    def __init__(self, program: Program, counts: tuple[int, int, int], uniform: tuple[bool, ...]) -> None:
        self.program, self.counts, self.uniform = program, counts, uniform
        params, states, inputs = counts
        self.ys = [x.dtype for x in program.outputs[: len(program.outputs) - states]]
        self.ss = [leaf.dtype for leaf in program.leaves[params : params + states]]

    def __call__(
        self, leaves: Sequence[Tensor], lanes: torch.Size, T: int, reverse: bool, every: int
    ) -> tuple[list[Tensor], list[Tensor], list[Any]]:
        device = leaves[0].device if leaves else torch.device("cpu")
        ys = [torch.empty((T, *lanes), dtype=dtype, device=device) for dtype in self.ys]
        last = [torch.empty(lanes, dtype=dtype, device=device) for dtype in self.ss]
        points = (T + every - 1) // every if every else 0
        checkpoints = (
            [torch.empty((points, *lanes), dtype=dtype, device=device) for dtype in self.ss]
            if every
            else [None] * len(last)
        )
        width = sum(
            x.dtype.itemsize if hasattr(x.dtype, "itemsize") else x.element_size() for x in [*leaves, *ys, *last]
        )
        block = _block(lanes.numel(), max(width, 1))
        timed = [False] * (self.counts[0] + self.counts[1]) + [True] * (self.counts[2] + len(ys)) + [False] * len(last)
        timed += [True] * len(checkpoints)
        _run(
            self.function,
            [*leaves, *ys, *last, *checkpoints],
            timed,
            lanes,
            T,
            block,
            reverse,
            every,
            (width + 64) * block,
        )
        return ys, last, checkpoints if every else []

    @cached_property
    def function(self):
        return load(self.source)

    @property
    def source(self) -> str:
        program, (params, states, inputs) = self.program, self.counts
        outputs = len(self.ys)
        names = [leaf.name for leaf in program.leaves]
        types = [leaf.dtype for leaf in program.leaves]
        first_y = params + states + inputs
        first_s = first_y + outputs
        text = _open(program, self.uniform, params, states)
        for i in range(params + states, first_y):
            text += f"    {stored(types[i])}* tmp{i} = w.take<{stored(types[i])}>(n); bool ready{i} = false;\n"
        for j, dtype in enumerate(self.ys):
            text += f"    {stored(dtype)}* line{j} = w.take<{stored(dtype)}>(n);\n"
        text += "    for (i64 k = 0; k < c.T; ++k) {\n        const i64 t = c.at(k);\n"
        if states:
            text += "        if (c.every && k % c.every == 0) {\n"
            for s in range(states):
                kind = stored(self.ss[s])
                text += f"            put(({kind}*)c[{first_s + states + s}].data + (k / c.every) * c.lanes + lo, S{s}, n);\n"
            text += "        }\n"
        text += _rows(range(params + states, first_y), types)
        for j, dtype in enumerate(self.ys):
            kind = stored(dtype)
            text += f"        {kind}* row{j} = ({kind}*)c[{first_y + j}].data + t * c.lanes + lo;\n"
            text += f"        {kind}* __restrict Y{j} = c.stream ? line{j} : row{j};\n"
        text += _loop(program, names, types, self.uniform, params, states, inputs)
        for j, y in enumerate(program.outputs[:outputs]):
            text += f"            Y{j}[i] = {keep(operand(y), self.ys[j])};\n"
        for s, new in enumerate(program.outputs[outputs:]):
            text += f"            S{s}[i] = {keep(operand(new), self.ss[s])};\n"
        text += END
        for j in range(outputs):
            text += f"        if (c.stream) put(row{j}, line{j}, n);\n"
        text += "    }\n"
        for s in range(states):
            text += f"    put(({stored(self.ss[s])}*)c[{first_s + s}].data + lo, S{s}, n);\n"
        fresh = [(first_y + j, dtype, "c.T") for j, dtype in enumerate(self.ys)]
        fresh += [
            (first_s + states + s, dtype, "(c.every ? (c.T + c.every - 1) / c.every : 0)")
            for s, dtype in enumerate(self.ss)
        ]
        return _close(text, first_s + 2 * states, fresh)


class Backward:
    """`(params, first state, inputs, cotangents of the outputs and of the last state) -> gradients`.

    The states are computed again, segment by segment from the checkpoints, and stay in the cache: no trajectory is kept.
    `program` is the derivative of one step: its leaves are those of `forward` and the cotangents, its outputs the gradients that
    are wanted, in the order params, state, inputs; `wanted` says of which leaves (all floating states among them).
    """

    def __init__(self, forward: Program, program: Program, counts: tuple[int, int, int], outputs: list[int], uniform: tuple[bool, ...],
                 wanted: tuple[int, ...]) -> None:  # fmt: skip
        self.forward, self.program, self.counts, self.outputs = forward, program, counts, outputs
        self.uniform, self.wanted = uniform, wanted
        params, states, _ = counts
        self.types = [leaf.dtype for leaf in forward.leaves]
        self.moving = [s for s in range(states) if self.types[params + s].is_floating_point]

    def __call__(
        self, leaves: Sequence[Tensor], cotangents: Sequence[Tensor], checkpoints: Sequence[Tensor], lanes: torch.Size, T: int,
        reverse: bool, every: int,
    ) -> list[Tensor]:  # fmt: skip
        """The gradients of the wanted leaves: params over all neurons (summed over them where one number serves all)."""
        params, states, inputs = self.counts
        device = leaves[0].device
        sizes = sum(x.element_size() for x in [*leaves, *cotangents])
        held = sum(leaf.element_size() for leaf in leaves[params : params + states])
        points = (T + every - 1) // every
        width = 2 * sizes + 8 * len(self.wanted) + held * (every + 1 + (0 if checkpoints else points))
        block = _block(lanes.numel(), width)
        blocks = -(-lanes.numel() // block)
        gradients = []
        for i in self.wanted:
            if i < params and self.uniform[i]:
                gradients.append(torch.empty(blocks, dtype=torch.float64, device=device))
            else:
                shape = (T, *lanes) if i >= params + states else lanes
                gradients.append(torch.empty(shape, dtype=self.types[i], device=device))
        timed = [False] * (params + states) + [True] * (inputs + len(self.outputs)) + [False] * len(self.moving)
        given = list(checkpoints) or [None] * states
        timed += [True] * states + [i >= params + states for i in self.wanted]
        arguments = [*leaves, *cotangents, *given, *gradients]
        counts = (width + 64 * (len(arguments) + 4)) * block
        _run(self.function, arguments, timed, lanes, T, block, reverse, every, counts)
        return gradients

    @cached_property
    def function(self):
        return load(self.source)

    @property
    def source(self) -> str:
        params, states, inputs = self.counts
        types, moving, wanted = self.types, self.moving, self.wanted
        first_gy = params + states + inputs
        first_gs = first_gy + len(self.outputs)
        first_ck = first_gs + len(moving)
        first_g = first_ck + states
        program = self.program
        names = [leaf.name for leaf in program.leaves]
        cotangent_types = [program.leaves[first_gy + j].dtype for j in range(len(self.outputs))]
        text = _open(self.forward, self.uniform, params, states)
        for i in range(params + states, first_gy):
            text += f"    {stored(types[i])}* tmp{i} = w.take<{stored(types[i])}>(n); bool ready{i} = false;\n"
        for j, dtype in enumerate(cotangent_types):
            i = first_gy + j
            text += f"    {stored(dtype)}* tmp{i} = w.take<{stored(dtype)}>(n); bool ready{i} = false;\n"
        for m, s in enumerate(moving):
            kind = stored(types[params + s])
            text += f"    {kind}* __restrict G{s} = w.take<{kind}>(n); gather(G{s}, c[{first_gs + m}], c.shape, 0, lo, n);\n"
        for s in range(states):
            kind = stored(types[params + s])
            text += f"    {kind}* H{s} = w.take<{kind}>(n * c.every);\n"
            text += f"    {kind}* K{s} = c[{first_ck}].data ? ({kind}*)0 : w.take<{kind}>(n * ((c.T + c.every - 1) / c.every));\n"
        for i in wanted:
            if i < params:
                text += f"    {computed(types[i])}* __restrict A{i} = w.take<{computed(types[i])}>(n);\n"
                text += f"    for (i64 i = 0; i < n; ++i) A{i}[i] = 0;\n"
            elif i >= params + states:
                text += f"    {stored(types[i])}* line{i} = w.take<{stored(types[i])}>(n);\n"
        again = self.forward.only(range(len(self.forward.outputs) - states, len(self.forward.outputs)))
        advance = _rows(range(params + states, first_gy), types)
        advance += _loop(again, names, types, self.uniform, params, states, inputs)
        for s, new in enumerate(again.outputs):
            advance += f"            S{s}[i] = {keep(operand(new), types[params + s])};\n"
        advance += END
        if states:
            # Without checkpoints from the forward pass, they are made here first.
            text += f"    if (!c[{first_ck}].data) for (i64 k = 0; k < c.T; ++k) {{\n        const i64 t = c.at(k);\n"
            for s in range(states):
                kind = stored(types[params + s])
                text += f"        if (k % c.every == 0) std::memcpy((void*)(K{s} + k / c.every * n), (void*)S{s}, n * sizeof({kind}));\n"
            text += advance + "    }\n"
        text += "    for (i64 from = (c.T - 1) / c.every * c.every; from >= 0; from -= c.every) {\n"
        text += "    const i64 to = from + c.every < c.T ? from + c.every : c.T;\n"
        for s in range(states):
            kind = stored(types[params + s])
            source = f"(c[{first_ck}].data ? ({kind}*)c[{first_ck + s}].data + from / c.every * c.lanes + lo : K{s} + from / c.every * n)"
            text += f"    std::memcpy((void*)S{s}, (const void*){source}, n * sizeof({kind}));\n"
        if states:
            text += "    for (i64 k = from; k < to; ++k) {\n        const i64 t = c.at(k);\n"
            for s in range(states):
                kind = stored(types[params + s])
                text += f"        std::memcpy((void*)(H{s} + (k - from) * n), (void*)S{s}, n * sizeof({kind}));\n"
            text += "        if (k + 1 == to) break;\n" + advance + "    }\n"
        text += "    for (i64 k = to - 1; k >= from; --k) {\n        const i64 t = c.at(k);\n"
        text += _rows(range(params + states, first_gy), types)
        text += _rows(range(first_gy, first_gs), dict(enumerate(cotangent_types, first_gy)))
        for s in range(states):
            text += f"        const {stored(types[params + s])}* __restrict h{s} = H{s} + (k - from) * n;\n"
        for i in wanted:
            if i >= params + states:
                kind = stored(types[i])
                text += f"        {kind}* row{i} = ({kind}*)c[{first_g + wanted.index(i)}].data + t * c.lanes + lo;\n"
                text += f"        {kind}* __restrict Y{i} = c.stream ? line{i} : row{i};\n"
        held = [f"h{s}" for s in range(states)]
        text += _loop(program, names, types, self.uniform, params, states, inputs, held)
        reads = ""
        for j in range(len(self.outputs)):
            leaf = program.leaves[first_gy + j]
            reads += f"            const {computed(leaf.dtype)} {leaf.name} = read(X{first_gy + j}[i]);\n"
        for m, s in enumerate(moving):
            leaf = program.leaves[first_gs + m]
            reads += f"            const {computed(leaf.dtype)} {leaf.name} = read(G{s}[i]);\n"
        text = text.replace("/*cotangents*/\n", reads)
        for i, gradient in zip(wanted, program.outputs):
            if i < params:
                text += f"            A{i}[i] += {operand(gradient)};\n"
            elif i < params + states:
                text += f"            G{i - params}[i] = {keep(operand(gradient), types[i])};\n"
            else:
                text += f"            Y{i}[i] = {keep(operand(gradient), types[i])};\n"
        text += END
        for i in wanted:
            if i >= params + states:
                text += f"        if (c.stream) put(row{i}, line{i}, n);\n"
        text += "    }\n    }\n"
        fresh = []
        for g, i in enumerate(wanted):
            where = f"c[{first_g + g}].data"
            if i < params and self.uniform[i]:
                text += f"    double sum{i} = 0; for (i64 i = 0; i < n; ++i) sum{i} += A{i}[i]; ((double*){where})[index] = sum{i};\n"
            elif i < params:
                kind = stored(types[i])
                text += f"    for (i64 i = 0; i < n; ++i) (({kind}*){where})[lo + i] = {keep(f'A{i}[i]', types[i])};\n"
            elif i < params + states:
                text += f"    put(({stored(types[i])}*){where} + lo, G{i - params}, n);\n"
            else:
                fresh.append((first_g + g, types[i], "c.T"))
        return _close(text, first_g + len(wanted), fresh)


def _open(program: Program, uniform: tuple[bool, ...], params: int, states: int) -> str:
    """Params and states of the block, read into registers and scratch."""
    text = "static void one_block(const Call& c, i64 lo, i64 n, i64 index, Scratch& w) {\n    (void)index;\n"
    for i, leaf in enumerate(program.leaves[:params]):
        kind = stored(leaf.dtype)
        if uniform[i]:
            text += f"    const {computed(leaf.dtype)} {leaf.name} = read(*(const {kind}*)c[{i}].data);\n"
        else:
            text += f"    {kind}* P{i} = w.take<{kind}>(n); gather(P{i}, c[{i}], c.shape, 0, lo, n);\n"
    for s, leaf in enumerate(program.leaves[params : params + states]):
        kind = stored(leaf.dtype)
        text += f"    {kind}* __restrict S{s} = w.take<{kind}>(n); gather(S{s}, c[{params + s}], c.shape, 0, lo, n);\n"
    return text


def _rows(which, types) -> str:
    text = ""
    for i in which:
        text += (
            f"        const {stored(types[i])}* __restrict X{i} = row(tmp{i}, c[{i}], c.shape, t, lo, n, ready{i});\n"
        )
    return text


def _loop(
    program: Program, names, types, uniform, params: int, states: int, inputs: int, held: list[str] | None = None
) -> str:
    used = {x for step in program.lines for x in step.operands} | set(program.outputs)
    same: set[Operand] = {program.leaves[i] for i in range(params) if uniform[i]}
    before, lines = body(program, same, "        ")
    text = "        {\n" + before + "        #pragma GCC ivdep\n        for (i64 i = 0; i < n; ++i) {\n"
    for i in range(params + states + inputs):
        if program.leaves[i] not in used or (i < params and uniform[i]):
            continue
        source = (
            f"P{i}"
            if i < params
            else (held[i - params] if held else f"S{i - params}")
            if i < params + states
            else f"X{i}"
        )
        text += f"            const {computed(types[i])} {names[i]} = read({source}[i]);\n"
    return text + ("/*cotangents*/\n" if held is not None else "") + lines


END = "        }\n        }\n"


def _close(text: str, arguments: int, fresh: list[tuple[int, torch.dtype, str]]) -> str:
    text += '}\n\nextern "C" int run(const i64* a) {\n    const Call c(a);\n'
    for i, dtype, steps in fresh:
        text += (
            f"    if (c.stream && c[{i}].data) huge(c[{i}].data, {steps} * c.lanes * (i64)sizeof({stored(dtype)}));\n"
        )
    return f"#define ARGS {max(arguments, 1)}\n{PRELUDE}\n{text}    return over_blocks(c);\n}}\n"


def _block(lanes: int, width: int) -> int:
    """Neurons in a block: what fits the cache, and enough blocks for all threads."""
    fits = max(CACHE // width, ROW)
    share = -(-lanes // torch.get_num_threads())
    return max(ROW, min(fits, share) // ROW * ROW)


def _run(
    function, tensors, timed, lanes: torch.Size, T: int, block: int, reverse: bool, every: int, scratch: int
) -> None:
    tensors = [x if x is None else _solid(x) for x in tensors]
    sizes = [n for n in lanes if n > 1] or [1]
    count = lanes.numel()
    threads = min(torch.get_num_threads(), max(1, count * T // GRAIN))
    outputs = max((x.numel() * x.element_size() for x, t in zip(tensors, timed) if t and x is not None), default=0)
    call = [T, count, block, threads, reverse, every, scratch, outputs >= BIG, len(sizes), *sizes]
    for x, in_time in zip(tensors, timed):
        call += _layout(x, lanes, in_time) if x is not None else [0] * (3 + len(sizes))
    if function(call):
        raise MemoryError("a kernel had no memory for its scratch")


def _solid(x: Tensor) -> Tensor:
    """torch's forward mode has zeros without memory."""
    return x.new_zeros(()).expand(x.shape) if x._is_zerotensor() else x


def _layout(x: Tensor, lanes: torch.Size, in_time: bool) -> list[int]:
    """Where x stands: address, kind (contiguous, uniform or strided over the neurons), stride in time, strides."""
    time, shape, strides = 0, x.shape, x.stride()
    if in_time:
        time, shape, strides = strides[0] if len(x) > 1 else 0, shape[1:], strides[1:]
    missing = len(lanes) - len(shape)
    over = [0] * missing + [stride if n > 1 else 0 for n, stride in zip(shape, strides)]
    over = [stride for n, stride in zip(lanes, over) if n > 1] or [0]
    if not any(over):
        kind = 1
    else:
        expected, dense = 1, []
        for n in reversed([n for n in lanes if n > 1]):
            dense.append(expected)
            expected *= n
        kind = 0 if over == dense[::-1] else 2
    return [x.data_ptr(), kind, time, *over]
