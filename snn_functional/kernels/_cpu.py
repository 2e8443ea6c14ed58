"""The C++ of a scan: the loop over time inside a block of neurons, forward and backward, around a printed program."""

import ctypes
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._functorch import solid
from ._build import load
from ._print import body, computed, free, keep, operand, stored
from ._program import Operand, Program


PRELUDE = Path(__file__).with_name("_cpu.cpp").read_text()
ROW = 64  # neurons a block is a multiple of: whole cache lines of every dtype
GRAIN = 1 << 18  # neuron-steps that are worth a thread: to begin and end one takes some 100 us
BIG = 1 << 22  # bytes of an output above which it is written past the cache, in huge pages


def _cache() -> int:
    """Bytes of scratch a block may take: an eighth of a core's second-level cache; the rows that stream through it want the rest."""
    try:
        size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (ValueError, OSError, AttributeError):
        size = 0
    return max(size, 1 << 19) // 8


CACHE = _cache()


def empty(size: Any, dtype: torch.dtype) -> Tensor:
    """On the CPU, whatever the user's default device is."""
    return torch.empty(size, dtype=dtype, device="cpu")


class Kernel:
    """A printed kernel and its calls. `source` is the text; `_call` hands tensors to what was built from it."""

    def __init__(self) -> None:
        self._layouts: dict[Any, tuple[Any, int]] = {}
        self._function: Any = None
        self._building = threading.Lock()

    @property
    def source(self) -> str:
        raise NotImplementedError

    @property
    def function(self) -> Any:
        if self._function is None:
            with self._building:  # by one thread, for all that ask
                if self._function is None:
                    run: Any = load(self.source)
                    run.argtypes, run.restype = [ctypes.c_void_p] * 3, None
                    self._function = run
        return self._function

    def _call(self, free: tuple[float, ...], tensors: Sequence[Any], timed: Sequence[bool], lanes: torch.Size, T: int, block: int,
              reverse: bool, every: int, width: int) -> None:  # fmt: skip
        """`free`: the program's free numbers. `timed`: which tensors have time as their first axis. `width`: bytes of scratch a neuron."""
        threads = min(torch.get_num_threads(), max(1, lanes.numel() * T // GRAIN))
        key = (T, lanes, block, threads, reverse, every, *(x if x is None else x.stride() for x in tensors))
        if key not in self._layouts:
            if len(self._layouts) > 1000:
                self._layouts.clear()
            self._layouts[key] = _layout(tensors, timed, lanes, T, block, threads, reverse, every, width)
        numbers, size = self._layouts[key]
        scratch = empty(size, dtype=torch.uint8)
        addresses = [scratch.data_ptr(), *(0 if x is None else x.data_ptr() for x in tensors)]
        self.function(numbers, (ctypes.c_int64 * len(addresses))(*addresses), _doubles(free))


@lru_cache(1000)
def _doubles(values: tuple[float, ...]) -> Any:
    return (ctypes.c_double * max(len(values), 1))(*values)


def _layout(tensors: Sequence[Any], timed: Sequence[bool], lanes: torch.Size, T: int, block: int, threads: int, reverse: bool,
            every: int, width: int) -> tuple[Any, int]:  # fmt: skip
    """What a call needs to know beside addresses, as `Call` in `_cpu.cpp` reads it, and the bytes of scratch it takes."""
    sizes = [n for n in lanes if n > 1] or [1]
    outputs = max((x.numel() * x.element_size() for x, t in zip(tensors, timed) if t and x is not None), default=0)
    scratch = (width + 64 * (len(tensors) + 4)) * block
    numbers = [T, lanes.numel(), block, threads, reverse, every, scratch, outputs >= BIG, len(sizes), *sizes]
    for x, in_time in zip(tensors, timed):
        numbers += _place(x, lanes, in_time) if x is not None else [0] * (2 + len(sizes))
    return (ctypes.c_int64 * len(numbers))(*numbers), scratch * threads + 64


def _place(x: Tensor, lanes: torch.Size, in_time: bool) -> list[int]:
    """How x stands: its kind (contiguous, uniform or strided over the neurons), its stride in time, its strides."""
    time, shape, strides = 0, x.shape, x.stride()
    if in_time:
        time, shape, strides = strides[0] if len(x) > 1 else 0, shape[1:], strides[1:]
    missing = len(lanes) - len(shape)
    over = [0] * missing + [stride if n > 1 else 0 for n, stride in zip(shape, strides)]
    over = [stride for n, stride in zip(lanes, over) if n > 1] or [0]
    dense, expected = [], 1
    for n in reversed([n for n in lanes if n > 1]):
        dense.append(expected)
        expected *= n
    kind = 1 if not any(over) else 0 if over == dense[::-1] else 2
    return [kind, time, *over]


def _block(lanes: int, width: int) -> int:
    """Neurons in a block: what fits the cache, and enough blocks for all threads."""
    fits = max(CACHE // max(width, 1), ROW)
    share = -(-lanes // torch.get_num_threads())
    return max(ROW, min(fits, share + ROW - 1) // ROW * ROW)


class Forward(Kernel):
    """`(params, state, inputs) -> (outputs, last state)`, and a checkpoint of the state every so many steps if asked for."""

    def __init__(self, program: Program, counts: tuple[int, int, int], uniform: tuple[bool, ...]) -> None:
        super().__init__()
        self.program, self.counts, self.uniform = program, counts, uniform
        params, states, inputs = counts
        self.ys = [x.dtype for x in program.outputs[: len(program.outputs) - states]]
        self.ss = [leaf.dtype for leaf in program.leaves[params : params + states]]
        self.timed = [False] * (params + states) + [True] * (inputs + len(self.ys)) + [False] * states + [True] * states
        self.width = sum(_bytes(dtype) for dtype in [*(leaf.dtype for leaf in program.leaves), *self.ys, *self.ss])

    def __call__(
        self, numbers: tuple[float, ...], leaves: Sequence[Tensor], lanes: torch.Size, T: int, reverse: bool, every: int
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """`numbers`: those of the program at hand, which may be another than this kernel was printed from, with the same text."""
        leaves = solid(leaves)
        ys = [empty((T, *lanes), dtype=dtype) for dtype in self.ys]
        last = [empty(lanes, dtype=dtype) for dtype in self.ss]
        points = [empty((-(-T // every), *lanes), dtype=dtype) for dtype in self.ss] if every else []
        block = _block(lanes.numel(), self.width)
        self._call(numbers, [*leaves, *ys, *last, *(points or [None] * len(last))], self.timed, lanes, T, block, reverse, every,
                   self.width)  # fmt: skip
        return ys, last, points

    @property
    def source(self) -> str:
        program, (params, states, inputs) = self.program, self.counts
        types = [leaf.dtype for leaf in program.leaves]
        first_y = params + states + inputs
        first_s = first_y + len(self.ys)
        text = _open(program, self.uniform, params) + free(program.free, 0, "    ")
        text += _states(types, params, states)
        text += _temporary(range(params + states, first_y), types)
        for j, dtype in enumerate(self.ys):
            text += f"    {stored(dtype)}* line{j} = w.take<{stored(dtype)}>(n);\n"
        text += TIME
        for s, dtype in enumerate(self.ss):
            kind, i = stored(dtype), first_s + states + s
            text += (
                f"        if (every && k == point * every) put(({kind}*)c[{i}].data + point * lanes + lo, S{s}, n);\n"
            )
        text += "        if (every && k == point * every) ++point;\n"
        text += _rows(range(params + states, first_y), types, "k + 1 < T ? at(k + 1) : -1")
        for j, dtype in enumerate(self.ys):
            text += _goes_to(first_y + j, j, dtype)
        text += _loop(program, self.uniform, self.counts, [f"S{s}" for s in range(states)])
        for j, y in enumerate(program.outputs[: len(self.ys)]):
            text += f"            Y{j}[i] = {keep(operand(y), self.ys[j])};\n"
        for s, new in enumerate(program.outputs[len(self.ys) :]):
            text += f"            S{s}[i] = {keep(operand(new), self.ss[s])};\n"
        text += END
        for j in range(len(self.ys)):
            text += f"        if (stream) put(row{j}, line{j}, n);\n"
        text += "    }\n"
        for s in range(states):
            text += f"    put(({stored(self.ss[s])}*)c[{first_s + s}].data + lo, S{s}, n);\n"
        return _close(text, first_s + 2 * states, [(first_y + j, dtype) for j, dtype in enumerate(self.ys)])


class Backward(Kernel):
    """`(params, first state, inputs, cotangents of the outputs and of the last state) -> gradients`.

    The states are computed again, segment by segment from the checkpoints, and stay in the cache: no trajectory is kept.
    `program` is the derivative of one step: its leaves are those of `forward` and the cotangents, its outputs the gradients of
    the leaves `wanted` (all floating states among them), in order. The state after the step is at hand, and not worked out again.
    """

    def __init__(self, forward: Program, program: Program, counts: tuple[int, int, int], outputs: list[int], uniform: tuple[bool, ...],
                 wanted: tuple[int, ...]) -> None:  # fmt: skip
        super().__init__()
        self.forward, self.counts, self.outputs, self.uniform, self.wanted = forward, counts, outputs, uniform, wanted
        params, states, inputs = counts
        self.program = program = program.given(forward, len(forward.outputs) - states).renamed(numbers="q")
        self.types = [leaf.dtype for leaf in forward.leaves]
        self.moving = [s for s in range(states) if self.types[params + s].is_floating_point]
        self.timed = [False] * (params + states) + [True] * (inputs + len(outputs)) + [False] * len(self.moving)
        self.timed += [True] * states + [i >= params + states for i in wanted]
        self.held = sum(_bytes(dtype) for dtype in self.types[params : params + states])
        self.width = sum(_bytes(leaf.dtype) for leaf in program.leaves) + 8 * len(wanted) + self.held

    def __call__(
        self, numbers: tuple[float, ...], leaves: Sequence[Tensor], cotangents: Sequence[Tensor], checkpoints: Sequence[Tensor],
        lanes: torch.Size, T: int, reverse: bool, every: int,
    ) -> list[Tensor]:  # fmt: skip
        """The gradients of the wanted leaves: params over all neurons (in parts to be summed where one number serves all).

        `numbers`: those of the forward program at hand, then those of its derivative.
        """
        params, states, _ = self.counts
        leaves, cotangents = solid(leaves), solid(cotangents)
        width = self.width + self.held * (every + (0 if checkpoints else -(-T // every)))
        block = _block(lanes.numel(), width)
        gradients = []
        for i in self.wanted:
            if i < params and self.uniform[i]:
                gradients.append(empty(-(-lanes.numel() // block), dtype=torch.float64))
            else:
                shape = (T, *lanes) if i >= params + states else lanes
                gradients.append(empty(shape, dtype=self.types[i]))
        given = list(checkpoints) or [None] * states
        self._call(
            numbers, [*leaves, *cotangents, *given, *gradients], self.timed, lanes, T, block, reverse, every, width
        )
        return gradients

    @property
    def source(self) -> str:
        params, states, inputs = self.counts
        types, wanted, program = self.types, self.wanted, self.program
        first_x, first_gy = params + states, params + states + inputs
        first_gs = first_gy + len(self.outputs)
        first_ck = first_gs + len(self.moving)
        first_g = first_ck + states
        kinds = [stored(dtype) for dtype in types[params:first_x]]
        cotangents = {first_gy + j: program.leaves[first_gy + j].dtype for j in range(len(self.outputs))}
        again = self.forward.only(range(len(self.forward.outputs) - states, len(self.forward.outputs)))

        text = _open(self.forward, self.uniform, params)
        text += free(self.forward.free, 0, "    ") + free(program.free, len(self.forward.free), "    ")
        text += _temporary(range(first_x, first_gy), types) + _temporary(cotangents, cotangents)
        for m, s in enumerate(self.moving):
            text += f"    {kinds[s]}* __restrict G{s} = w.take<{kinds[s]}>(n); gather(G{s}, c[{first_gs + m}], c.shape, 0, lo, n);\n"
        for i in wanted:
            if i < params:
                text += f"    {computed(types[i])}* __restrict A{i} = w.take<{computed(types[i])}>(n);\n"
                text += f"    for (i64 i = 0; i < n; ++i) A{i}[i] = 0;\n"
            elif i >= first_x:
                text += f"    {stored(types[i])}* line{i} = w.take<{stored(types[i])}>(n);\n"

        new = lambda to: "".join(
            f"            {to}{s}[i] = {keep(operand(x), types[params + s])};\n" for s, x in enumerate(again.outputs)
        )
        if states:
            # Without checkpoints from the forward pass, they are made here first.
            text += "    const i64 points = (T + every - 1) / every;\n"
            for s, kind in enumerate(kinds):
                text += f"    {kind}* H{s} = w.take<{kind}>(n * every);\n"
                text += f"    {kind}* K{s} = c[{first_ck + s}].data ? ({kind}*)c[{first_ck + s}].data + lo : w.take<{kind}>(n * points);\n"
            text += f"    const i64 apart = c[{first_ck}].data ? lanes : n;\n    if (!c[{first_ck}].data) {{\n"
            text += _states(types, params, states) + TIME
            for s in range(states):
                text += f"        if (k == point * every) put(K{s} + point * n, S{s}, n);\n"
            text += "        if (k == point * every) ++point;\n"
            text += _rows(range(first_x, first_gy), types, "-1")
            text += (
                _loop(again, self.uniform, self.counts, [f"S{s}" for s in range(states)])
                + new("S")
                + END
                + "    }\n    }\n"
            )

        text += "    for (i64 point = (T - 1) / every; point >= 0; --point) {\n"
        text += "    const i64 from = point * every, to = from + every < T ? from + every : T;\n"
        before = "".join(
            f"        const {kind}* __restrict h{s} = k == from ? K{s} + point * apart : H{s} + (k - from - 1) * n;\n"
            for s, kind in enumerate(kinds)
        )
        after = "".join(f"        {kind}* __restrict N{s} = H{s} + (k - from) * n;\n" for s, kind in enumerate(kinds))
        h = [f"h{s}" for s in range(states)]
        if states:
            text += "    for (i64 k = from; k < to; ++k) {\n        const i64 t = at(k);\n" + before + after
            text += _rows(range(first_x, first_gy), types, "k + 1 < to ? at(k + 1) : -1")
            text += _loop(again, self.uniform, self.counts, h) + new("N") + END + "    }\n"

        text += "    for (i64 k = to - 1; k >= from; --k) {\n        const i64 t = at(k);\n" + before + after
        text += _rows(range(first_x, first_gy), types, "-1")
        text += _rows(cotangents, cotangents, "k > 0 ? at(k - 1) : -1")
        for i in wanted:
            if i >= first_x:
                text += _goes_to(first_g + wanted.index(i), i, types[i])
        others = [f"X{first_gy + j}" for j in range(len(self.outputs))] + [f"G{s}" for s in self.moving]
        text += _loop(program, self.uniform, self.counts, h, [*others, *(f"N{s}" for s in range(states))])
        for i, gradient in zip(wanted, program.outputs):
            if i < params:
                text += f"            A{i}[i] += {operand(gradient)};\n"
            else:
                to = f"G{i - params}" if i < first_x else f"Y{i}"
                text += f"            {to}[i] = {keep(operand(gradient), types[i])};\n"
        text += END
        for i in wanted:
            if i >= first_x:
                text += f"        if (stream) put(row{i}, line{i}, n);\n"
        text += "    }\n    }\n"
        for g, i in enumerate(wanted):
            where = f"c[{first_g + g}].data"
            if i < params and self.uniform[i]:
                text += f"    double sum{i} = 0; for (i64 i = 0; i < n; ++i) sum{i} += A{i}[i];\n    ((double*){where})[index] = sum{i};\n"
            elif i < params:
                kind = stored(types[i])
                text += f"    for (i64 i = 0; i < n; ++i) (({kind}*){where})[lo + i] = {keep(f'A{i}[i]', types[i])};\n"
            elif i < first_x:
                text += f"    put(({stored(types[i])}*){where} + lo, G{i - params}, n);\n"
        return _close(
            text, first_g + len(wanted), [(first_g + g, types[i]) for g, i in enumerate(wanted) if i >= first_x]
        )


TIME = "    for (i64 k = 0, point = 0; k < T; ++k) {\n        const i64 t = at(k);\n"
END = "        }\n        }\n"


def _open(program: Program, uniform: tuple[bool, ...], params: int) -> str:
    """The params of the block, read into registers and scratch."""
    text = "static void one_block(const Call& c, i64 lo, i64 n, i64 index, Scratch& w) {\n    (void)index;\n"
    text += "    const i64 T = c.T, lanes = c.lanes, every = c.every, reverse = c.reverse, stream = c.stream;\n"
    text += "    const auto at = [=](i64 k) { return reverse ? T - 1 - k : k; };\n"
    text += "    (void)lanes, (void)every, (void)stream;\n"
    for i, leaf in enumerate(program.leaves[:params]):
        kind = stored(leaf.dtype)
        if uniform[i]:
            text += f"    const {computed(leaf.dtype)} {leaf.name} = read(*(const {kind}*)c[{i}].data);\n"
        else:
            text += f"    bool ready{i} = false; const {kind}* P{i} = row(w.take<{kind}>(n), c[{i}], c.shape, 0, -1, lo, n, ready{i});\n"
    return text


def _states(types: Sequence[torch.dtype], params: int, states: int) -> str:
    """The first state of the block, read into scratch."""
    text = ""
    for s in range(states):
        kind, i = stored(types[params + s]), params + s
        text += f"    {kind}* __restrict S{s} = w.take<{kind}>(n); gather(S{s}, c[{i}], c.shape, 0, lo, n);\n"
    return text


def _temporary(which: Iterable[int], types: Any) -> str:
    return "".join(
        f"    const Arg x{i} = c[{i}]; {stored(types[i])}* tmp{i} = w.take<{stored(types[i])}>(n); bool ready{i} = false;\n"
        for i in which
    )


def _rows(which: Iterable[int], types: Sequence[torch.dtype] | Mapping[int, torch.dtype], next: str) -> str:
    return "".join(
        f"        const {stored(types[i])}* __restrict X{i} = row(tmp{i}, x{i}, c.shape, t, {next}, lo, n, ready{i});\n"
        for i in which
    )


def _goes_to(argument: int, name: int, dtype: torch.dtype) -> str:
    """Where a row of an output is written: in place, or beside it first, to be streamed past the cache."""
    kind = stored(dtype)
    return (
        f"        {kind}* row{name} = ({kind}*)c[{argument}].data + t * lanes + lo;\n"
        f"        {kind}* __restrict Y{name} = stream ? line{name} : row{name};\n"
    )


def _loop(
    program: Program,
    uniform: tuple[bool, ...],
    counts: tuple[int, int, int],
    held: list[str],
    others: Sequence[str] = (),
) -> str:
    """The loop over the neurons of a block, its reads and the program's lines. `held`: where the states stand before the step."""
    params, states, inputs = counts
    used = {x for step in program.lines for x in step.operands} | set(program.outputs)
    same: set[Operand] = {*program.free, *(program.leaves[i] for i in range(params) if uniform[i])}
    before, lines = body(program, same, "        ")
    text = "        {\n" + before + "        #pragma GCC ivdep\n        for (i64 i = 0; i < n; ++i) {\n"
    places = [f"P{i}" for i in range(params)] + held + [f"X{params + states + i}" for i in range(inputs)] + [*others]
    for leaf, place in zip(program.leaves, places):
        if leaf in used and leaf not in same:
            text += f"            const {computed(leaf.dtype)} {leaf.name} = read({place}[i]);\n"
    return text + lines


def _close(text: str, arguments: int, fresh: list[tuple[int, torch.dtype]]) -> str:
    text += (
        '}\n\nextern "C" void run(const i64* numbers, const i64* addresses, const double* free) {\n'
        "    const Call c(numbers, addresses, free);\n"
    )
    for i, dtype in fresh:
        text += f"    if (c.stream) huge(c[{i}].data, c.T * c.lanes * (i64)sizeof({stored(dtype)}));\n"
    return f"#define ARGS {max(arguments, 1)}\n{PRELUDE}\n{text}    over_blocks(c);\n}}\n"


def _bytes(dtype: torch.dtype) -> int:
    return empty((), dtype=dtype).element_size()
