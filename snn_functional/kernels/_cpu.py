"""The C++ of a scan: the loop over time inside a block of neurons, forward and backward, around a printed program."""

import ctypes
import os
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._build import load, THREADS
from ._loops import BackwardLoop, ForwardLoop, layout, Loop, Walk, wide
from ._print import body, computed, free, keep, operand, stored
from ._program import Operand, Program
from ._signature import Role, Signature, TIMED


PRELUDE = THREADS + Path(__file__).with_name("_cpu.cpp").read_text()
ROW = 64  # neurons a block is a multiple of: whole cache lines of every dtype
GRAIN = 1 << 17  # neuron-steps that are worth a thread: to wake one takes some 50 us
BIG = 1 << 22  # bytes of an output above which it is written past the cache, in huge pages


def _cache() -> int:
    """Bytes of scratch a block may take: an eighth of a core's second-level cache; the rows that stream through it want the rest."""
    try:
        size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (ValueError, OSError, AttributeError):
        size = 0
    return max(size, 1 << 19) // 8


CACHE = _cache()


@lru_cache(1000)
def _doubles(values: tuple[float, ...]) -> Any:
    return (ctypes.c_double * max(len(values), 1))(*values)


TIME = "    for (i64 k = 0, point = 0; k < T; ++k) {\n        const i64 t = at(k);\n"


def named(letter: str, like: Sequence[Any]) -> list[str]:
    return [f"{letter}{i}" for i in range(len(like))]


def lines_of(indent: int, texts: Iterable[str]) -> str:
    return "".join(f"{' ' * indent}{text}\n" for text in texts)


class Kernel(Loop):
    """A loop in C++: its calls, and what its text is made of. Of argument 3, `P3` is the row of a param in a block, `X3` that of what
    changes in time. `S0` is state 0. `Y0` is a row of an output: where it belongs, or, if it is to go past the cache, first in `line0`.
    """

    built: Any = None
    addresses = cached_property(lambda self: ctypes.c_int64 * (1 + len(self.arguments)))
    kinds = cached_property(lambda self: [stored(dtype) for dtype in self.arguments.dtypes])
    # What stands behind `n`, `lo` and `lanes` for an argument: nothing, where all arguments are over the same lanes.
    suffixes = cached_property(lambda self: [""] * len(self.arguments))

    @property
    def source(self) -> str:
        raise NotImplementedError

    def width(self, walk: Walk) -> int:
        """Bytes of scratch a neuron."""
        raise NotImplementedError

    def build(self) -> Any:
        if self.built is None:
            with self.building:  # by one thread, for all that ask
                if self.built is None:
                    run: Any = load(self.source)
                    run.argtypes, run.restype = [ctypes.c_void_p] * 3, None
                    self.built = run
        return self.built

    def block(self, walk: Walk) -> int:
        """Neurons in a block: what fits the cache, and enough blocks for all threads."""
        fits = max(CACHE // max(self.width(walk), 1), ROW)
        share = -(-walk.lanes.numel() // walk.threads)
        return max(ROW, min(fits, share + ROW - 1) // ROW * ROW)

    def launch(self, numbers: tuple[float, ...], tensors: Sequence[Tensor | None], walk: Walk) -> None:
        # All but the addresses is the same at the next call with these strides.
        key = (walk, self.switches, *(x if x is None else x.stride() for x in tensors))
        known = self.known.get(key)
        if known is None:
            if len(self.known) > 1000:
                self.known.clear()
            known = self.known[key] = self._layout(tensors, walk)
        layouts, size = known
        scratch = torch.empty(size, dtype=torch.uint8, device="cpu")
        addresses = self.addresses(scratch.data_ptr(), *(0 if x is None else x.data_ptr() for x in tensors))
        self.build()(layouts, addresses, _doubles(numbers))

    @property
    def switches(self) -> Any:
        """What else the layout of a call depends on."""
        return None

    def _layout(self, tensors: Sequence[Tensor | None], walk: Walk) -> tuple[Any, int]:
        """What a call needs to know beside addresses, as `Call` in `_cpu.cpp` reads it, and the bytes of scratch it takes."""
        count, block = walk.lanes.numel(), self.block(walk)
        threads = min(walk.threads, max(1, count * walk.T // GRAIN))
        places, largest = list[int](), 0
        for x, role in zip(tensors, self.arguments.roles):
            places += self.place(x, role, walk.lanes)
            largest = max(largest, x.numel() * x.element_size()) if x is not None and role is TIMED else largest
        scratch = (self.width(walk) + 64 * (len(tensors) + 4)) * block
        numbers = [walk.T, count, 1, block, threads, walk.reverse, walk.every, scratch, largest >= BIG, *places]
        return (ctypes.c_int64 * len(numbers))(*numbers), scratch * threads + 64

    def place(self, x: Tensor | None, role: Role, lanes: torch.Size) -> list[int]:
        """Where an argument lies over the lanes, as `Arg` in `_cpu.cpp` reads it."""
        if x is None:
            return [0, 0, 0]
        kind, time, strides = layout(x.shape, x.stride(), role, lanes)
        return [kind, time, len(strides), *(lanes[axis] for axis in wide(lanes)), *strides]

    def file(self, *phases: str) -> str:
        kinds = [(c, self.kinds[c]) for c in self.written.values()]
        fresh = (f"if (c.stream) huge(c[{c}].data, c.T * c.lanes * (i64)sizeof({kind}));" for c, kind in kinds)
        return (
            f"#define ARGS {max(len(self.arguments), 1)}\n{PRELUDE}\n{self.more()}{''.join(phases)}}}\n\n"
            'extern "C" void run(const i64* numbers, const i64* addresses, const double* free) {\n'
            f"    Call c(numbers, addresses, free);\n{lines_of(4, fresh)}{self.before()}    together(work, &c, c.threads);\n}}\n"
        )

    def more(self) -> str:
        """Functions that the text needs beside the prelude's."""
        return ""

    def before(self) -> str:
        """What a call does before its blocks begin."""
        return ""

    def head(self) -> str:
        text = "static void one_block(const Call& c, i64 lo, i64 n, i64 index, Scratch& w) {\n    (void)index;\n"
        text += "    const i64 T = c.T, lanes = c.lanes, every = c.every, reverse = c.reverse, stream = c.stream;\n"
        text += "    const auto at = [=](i64 k) { return reverse ? T - 1 - k : k; };\n"
        return text + "    (void)lanes, (void)every, (void)stream;\n"

    def opening(self, numbers: Sequence[str]) -> str:
        """The params of the block, read into registers, under these names, and scratch."""
        row = "bool ready{0} = false; const {1}* P{0} = row(w.take<{1}>(n{2}), c[{0}], 0, -1, lo{2}, n{2}, ready{0});"
        text = ""
        for i, name in zip(self.params, numbers):
            kind = self.kinds[i]
            number = f"const {computed(self.arguments.dtypes[i])} {name} = read(*(const {kind}*)c[{i}].data);"
            text += f"    {number if self.uniform[i] else row.format(i, kind, self.suffixes[i])}\n"
        return text

    def gather(self, names: Sequence[str], arguments: Sequence[int]) -> str:
        """What belongs to states, read into scratch that may be written."""
        text = "{1}* __restrict {0} = w.take<{1}>(n{3}); gather({0}, c[{2}], 0, lo{3}, n{3});"
        return lines_of(4, (text.format(name, self.kinds[i], i, self.suffixes[i]) for name, i in zip(names, arguments)))

    def temporaries(self, arguments: Iterable[int]) -> str:
        """Scratch for rows whose neurons do not stand together in memory."""
        row = "const Arg x{0} = c[{0}]; {1}* tmp{0} = w.take<{1}>(n{2}); bool ready{0} = false;"
        return lines_of(4, (row.format(i, self.kinds[i], self.suffixes[i]) for i in arguments))

    def rows(self, arguments: Iterable[int], next: str) -> str:
        """`next`: the time step after this one, whose rows are fetched ahead."""
        row = "const {1}* __restrict X{0} = row(tmp{0}, x{0}, t, {2}, lo{3}, n{3}, ready{0});"
        return lines_of(8, (row.format(i, self.kinds[i], next, self.suffixes[i]) for i in arguments))

    def lines_beside(self) -> str:
        line = "{1}* line{0} = w.take<{1}>(n{2});"
        return lines_of(4, (line.format(j, self.kinds[c], self.suffixes[c]) for j, c in self.written.items()))

    def targets(self) -> str:
        row = "{1}* row{0} = ({1}*)c[{2}].data + t * lanes{3} + lo{3};\n        {1}* __restrict Y{0} = stream ? line{0} : row{0};"
        return lines_of(8, (row.format(j, self.kinds[c], c, self.suffixes[c]) for j, c in self.written.items()))

    def streamed(self) -> str:
        return lines_of(8, (f"if (stream) put(row{j}, line{j}, n{self.suffixes[c]});" for j, c in self.written.items()))

    def stores(self, names: Sequence[str], values: Sequence[Operand], like: Sequence[int]) -> list[str]:
        """Values of a neuron put into rows, in the dtypes of these arguments."""
        return [f"{to}[i] = {keep(operand(x), self.arguments.dtypes[i])};" for to, x, i in zip(names, values, like)]

    def names(self, program: Program) -> list[str]:
        """Of the params, in its lines."""
        return [leaf.name for leaf, _ in zip(program.leaves, self.params)]

    def neurons(self, program: Program, states: Sequence[str], others: Sequence[str], stores: Sequence[str]) -> str:
        """The loop over the neurons of a block. `states`, `others`: where the states and the leaves after the inputs are read."""
        same: set[Operand] = {*program.free, *(program.leaves[i] for i in self.params if self.uniform[i])}
        before, lines = body(program, same, "        ")
        places = [*(f"P{i}" for i in self.params), *states, *(f"X{i}" for i in self.inputs), *others]
        reads = (
            f"const {computed(leaf.dtype)} {leaf.name} = read({place}[i]);"
            for leaf, place in zip(program.leaves, places)
            if leaf in program.used and leaf not in same
        )
        head = "        #pragma GCC ivdep\n        for (i64 i = 0; i < n; ++i) {\n"
        return f"        {{\n{before}{head}{lines_of(12, reads)}{lines}{lines_of(12, stores)}        }}\n        }}\n"


class Forward(Kernel, ForwardLoop):
    """All of time for one block of neurons after another, whose state stays in the cache."""

    def width(self, walk: Walk) -> int:
        return self.signature.leaves.bytes + self.signature.results.bytes

    @property
    def source(self) -> str:
        S, to = named("S", self.states), [f"({kind}*)c[{c}].data" for c, kind in enumerate(self.kinds)]
        ys, new = self.signature.results.split(self.program.outputs)
        stores = self.stores(named("Y", self.outputs), ys, self.outputs) + self.stores(S, new, self.last)
        due = "if (every && k == point * every)"
        return self.file(
            self.head() + self.opening(self.names(self.program)) + free(self.program.free, 0, "    "),
            self.gather(S, self.states) + self.temporaries(self.inputs) + self.lines_beside(),
            TIME,
            lines_of(8, (f"{due} put({to[c]} + point * lanes + lo, {s}, n);" for s, c in zip(S, self.points))),
            f"        {due} ++point;\n",
            self.rows(self.inputs, "k + 1 < T ? at(k + 1) : -1") + self.targets(),
            self.neurons(self.program, S, [], stores),
            self.streamed() + "    }\n",
            lines_of(4, (f"put({to[c]} + lo, {s}, n);" for s, c in zip(S, self.last))),
        )


SEGMENTS = """    for (i64 point = (T - 1) / every; point >= 0; --point) {
    const i64 from = point * every, to = from + every < T ? from + every : T;
"""
AGAIN = "    for (i64 k = from; k < to; ++k) {\n        const i64 t = at(k);\n"
BACK = "    for (i64 k = to - 1; k >= from; --k) {\n        const i64 t = at(k);\n"


class WalkBack(Kernel):
    """What a backward is made of, whatever a step is. `K0` are the checkpoints of state 0, `H0` its values in a segment, `h0` and `N0`
    those before and after a step, `G0` its gradient; `A0` sums the gradient of param 0. `argument`: where the gradient of each wanted
    leaf goes; `points`: the checkpoints."""

    argument: dict[int, int]
    points: list[int]

    def accumulators(self) -> str:
        """Of the gradients of params, which begin at 0."""
        zero = "{1}* __restrict A{0} = w.take<{1}>(n{2});\n    for (i64 i = 0; i < n{2}; ++i) A{0}[i] = 0;"
        wanted = (i for i in self.params if i in self.argument)
        return lines_of(4, (zero.format(i, computed(self.arguments.dtypes[i]), self.suffixes[i]) for i in wanted))

    def segments(self) -> str:
        """Where the states of a segment stand, and the checkpoints: those of the forward, or scratch for own ones."""
        made = f"c[{self.points[0]}].data"
        place = "{1}* H{0} = w.take<{1}>(n{3} * every);\n"
        place += "    {1}* K{0} = c[{2}].data ? ({1}*)c[{2}].data + lo{3} : w.take<{1}>(n{3} * points);"
        places = [place.format(s, self.kinds[c], c, self.suffixes[c]) for s, c in enumerate(self.points)]
        apart = f"const i64 apart{{0}} = {made} ? lanes{{0}} : n{{0}};"
        widths = dict.fromkeys(self.suffixes[c] for c in self.points)
        return (
            lines_of(4, ["const i64 points = (T + every - 1) / every;", *places, *map(apart.format, widths)])
            + f"    if (!{made}) {{\n"
        )

    def kept(self) -> str:
        """A checkpoint, where one is due."""
        put = "if (k == point * every) put(K{0} + point * n{1}, S{0}, n{1});"
        points = (put.format(s, self.suffixes[c]) for s, c in enumerate(self.points))
        return lines_of(8, [*points, "if (k == point * every) ++point;"])

    def around(self) -> str:
        """Where the states before and after step k stand."""
        before = "const {1}* __restrict h{0} = k == from ? K{0} + point * apart{2} : H{0} + (k - from - 1) * n{2};"
        after = "{1}* __restrict N{0} = H{0} + (k - from) * n{2};"
        states = [(s, self.kinds[i], self.suffixes[i]) for s, i in enumerate(self.states)]
        return lines_of(8, (place.format(*state) for place in (before, after) for state in states))

    def end(self) -> str:
        """The gradients of params and of the first state."""
        out = []
        for i, c in self.argument.items():
            kind, where, w = self.kinds[i], f"c[{c}].data", self.suffixes[i]
            if i in self.states:
                out.append(f"put(({kind}*){where} + lo{w}, G{self.states.index(i)}, n{w});")
            elif i in self.params and self.uniform[i]:
                out.append(f"double sum{i} = 0; for (i64 i = 0; i < n{w}; ++i) sum{i} += A{i}[i];")
                out.append(f"((double*){where})[index] = sum{i};")
            elif i in self.params:
                value = keep(f"A{i}[i]", self.arguments.dtypes[i])
                out.append(f"for (i64 i = 0; i < n{w}; ++i) (({kind}*){where})[lo{w} + i] = {value};")
        return lines_of(4, out)


class Backward(WalkBack, BackwardLoop):
    """The same blocks. The states of a segment are computed again and stay in the cache."""

    SUMS = torch.float64

    def __init__(self, forward: Program, program: Program, signature: Signature, *what: Any) -> None:
        # The state after a step is at hand when the step is walked back, so its derivative need not work it out again.
        super().__init__(forward, program.reusing(forward, len(signature.results.parts[0])), signature, *what)

    def width(self, walk: Walk) -> int:
        """With the states of a segment, and the checkpoints if the forward has not made them."""
        states = 2 + walk.every + (0 if walk.checkpoints else -(-walk.T // walk.every))
        return self.signature.backward.bytes + self.signature.checkpoints.bytes * states + 8 * len(self.wanted)

    def sum_shape(self, walk: Walk) -> Sequence[int]:
        return (-(-walk.lanes.numel() // self.block(walk)),)

    @property
    def source(self) -> str:
        return self.file(
            self._start(),
            self._checkpoints() if self.states else "",
            SEGMENTS,
            self._recompute() if self.states else "",
            self._walk_back() + "    }\n",
            self.end(),
        )

    def _start(self) -> str:
        """The leaves, the gradient of the last state, and sums."""
        return (
            self.head()
            + self.opening(self.names(self.forward))
            + free(self.forward.free, 0, "    ")
            + free(self.program.free, len(self.forward.free), "    ")
            + self.temporaries([*self.inputs, *self.d_outputs])
            + self.gather([f"G{s}" for s in self.carried], self.d_last)
            + self.accumulators()
            + self.lines_beside()
        )

    def _checkpoints(self) -> str:
        """The checkpoints, made here first if they do not come from the forward."""
        S = named("S", self.states)
        return (
            self.segments()
            + self.gather(S, self.states)
            + TIME
            + self.kept()
            + self.rows(self.inputs, "-1")
            + self.neurons(self.again, S, [], self.stores(S, self.again.outputs, self.states))
            + "    }\n    }\n"
        )

    def _recompute(self) -> str:
        """The states of a segment, from its checkpoint on."""
        stores = self.stores(named("N", self.states), self.again.outputs, self.states)
        return (
            AGAIN
            + self.around()
            + self.rows(self.inputs, "k + 1 < to ? at(k + 1) : -1")
            + self.neurons(self.again, named("h", self.states), [], stores)
            + "    }\n"
        )

    def _walk_back(self) -> str:
        """Through the segment, from its last step to its first."""
        to = {i: f"G{s}" for s, i in enumerate(self.states)} | {i: f"Y{i}" for i in self.inputs}
        stores = []
        for i, gradient in zip(self.wanted, self.program.outputs):
            stores += self.stores([to[i]], [gradient], [i]) if i in to else [f"A{i}[i] += {operand(gradient)};"]
        others = [*(f"X{i}" for i in self.d_outputs), *(f"G{s}" for s in self.carried), *named("N", self.states)]
        return (
            BACK
            + self.around()
            + self.rows(self.inputs, "-1")
            + self.rows(self.d_outputs, "k > 0 ? at(k - 1) : -1")
            + self.targets()
            + self.neurons(self.program, named("h", self.states), others, stores)
            + self.streamed()
            + "    }\n"
        )
