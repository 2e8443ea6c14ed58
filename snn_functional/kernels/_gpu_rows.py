"""What both directions of a scan whose step holds products are made of, in Triton: tiles of rows, segments, products.

A program instance holds `BLOCK` rows, and every value of a step is a tile [BLOCK, neurons], in registers. What a product takes is
written down first, so that all threads can read all of it: `tl.dot` is given some columns of it at a time, and the rows of the matrix
that go with them, which stay in the GPU's cache. How many neurons a row has is part of the text; T, the number of rows and strides
are not.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._groups import grouped, groups_of
from ._loops import Kind, layout, NetworkLoop, Walk, wide
from ._network import Network, Segment
from ._print_triton import cast, computed, free, HEADER, keep, Lines, read, rounded
from ._signature import MATRIX, Slots, TIMED
from ._triton import as_bits, bits, indices, kernel_text, load, merged


BLOCK = 16  # rows of a program instance: what `tl.dot` takes at least
WARPS = 8  # of such an instance: with fewer, states of 256 neurons a row do not fit the registers
CHUNK = 16  # columns of a factor, at a time
STEP = "t = tl.cast(first + k * by, tl.int64)"
PRECISE = 'input_precision="ieee"'  # not rounded to ten bits before, as tensor cores would


class Forms(NamedTuple):
    """What the text depends on of how tensors lie: each of them (of matrices, None), and over how many axes rows are walked."""

    each: tuple[Kind | None, ...]
    axes: int


class RowsKernel(NetworkLoop):
    """What both directions share. Names in the text: `p0` a param, `s0` a state, `a0` any other leaf, by its argument's number."""

    def run(
        self, numbers: Sequence[float], takes: Sequence[Tensor], slots: Slots, others: Sequence[Tensor], walk: Walk,
        checkpoints: bool = False,
    ) -> None:  # fmt: skip
        """`takes`: the leaves, and what else is read, as `slots` says; `others`: dense memory, in the order of the text's arguments."""
        matrices = [takes[i] for i in self.matrices]
        groups = groups_of(matrices, walk.lanes)
        forms, sizes = _forms(slots, tuple((x.shape, x.stride()) for x in takes), walk.lanes)
        packs = [grouped(matrices[m], groups, walk.lanes) for m, _ in self.packed]
        packs = [(x.mT if transposed else x).contiguous() for x, (_, transposed) in zip(packs, self.packed)]
        leads = [x[0].numel() if len(x) > 1 else 0 for x in packs]
        key = forms, checkpoints
        if key not in self.known:
            self.known[key] = load(self.source(*key))
        tensors = [x for i, x in enumerate(takes) if i not in self.matrices]
        tensors += [*others, *packs, *self.scratch(walk, takes[0].device)]
        _launch(self.known[key], tensors, walk, groups, [*leads, *sizes, *map(as_bits, numbers)])

    def source(self, forms: Forms, checkpoints: bool = False) -> str:
        raise NotImplementedError

    def scratch(self, walk: Walk, device: torch.device) -> list[Tensor]:
        """What products take, so that all threads of an instance can read it."""
        return [torch.empty((*walk.lanes, w), dtype=dtype, device=device) for _, (dtype, w) in self.factors]

    @functools.cached_property
    def factors(self) -> list[tuple[str, tuple[torch.dtype, int]]]:
        """The names of such scratch, and of what it is."""
        found = {}
        for n, network in enumerate(self.networks):
            for j in network.items:
                if isinstance(j, int):
                    dtype, w = network.values[network.factors[j]]
                    found[f"f{n}_{network.factors[j]}"] = torch.promote_types(dtype, torch.float32), w
        return list(found.items())


class Text:
    """A kernel's lines, as they are written.

    - `before`: what stands before time. `still`: the names that do not change in time.
    """

    def __init__(self, kernel: RowsKernel, slots: Slots, forms: Forms) -> None:
        self.kernel, self.slots, self.forms = kernel, slots, forms
        self.before: list[str] = []
        self.still: set[str] = set()
        self.free = sum(len(network.numbers) for network in kernel.networks)
        for dtype in slots.dtypes:
            computed(dtype)  # refuses what has no kernel
        self.start()

    def q(self, width: int) -> int:
        return self.kernel.widths.index(width)

    def shape(self, width: int) -> str:
        return f"[BLOCK, {padded(width)}]"

    def start(self) -> None:
        """Where the rows are, and the params."""
        text = ["local = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)", "here = local < per"]
        text += ["group = tl.program_id(1).to(tl.int64)", "row = group * per + local"]
        text += indices(self.forms.axes, "row")
        for q, w in enumerate(self.kernel.widths):
            text.append(f"c{q} = tl.arange(0, {padded(w)})")
            text.append(f"in{q} = here[:, None] & (c{q} < {w})[None, :]")
            text.append(f"at{q} = row[:, None] * {w} + c{q}[None, :]")
        for i, kind in enumerate(self.forms.each):
            if kind is Kind.STRIDED:
                rows = " + ".join(f"i{d} * step{i}_{d}" for d in range(self.forms.axes)) or "row * 0"
                text.append(f"place{i} = ({rows})[:, None] + (c{self.q(self.slots.widths[i])} * column{i})[None, :]")
        for i in self.kernel.params:
            text.append(f"p{i} = {self.value(i)}")
            self.still.add(f"p{i}")
        self.before = text

    def value(self, i: int) -> str:
        """The expression of a tensor that the kernel takes, at step t if it moves in time."""
        w, dtype, kind = self.slots.widths[i], self.slots.dtypes[i], self.forms.each[i]
        where = f"x{i} + t * time{i}" if self.slots.roles[i] is TIMED else f"x{i}"
        if kind is Kind.UNIFORM:
            return read(f"tl.broadcast_to(tl.load({where}), {self.shape(w)})", dtype)
        return self.load(f"{where} + {f'at{self.q(w)}' if kind is Kind.DENSE else f'place{i}'}", dtype, w)

    def load(self, where: str, dtype: torch.dtype, width: int) -> str:
        return read(f"tl.load({where}, mask=in{self.q(width)}, other=0)", dtype)

    def store(self, where: str, x: str, dtype: torch.dtype, width: int, mask: str = "in") -> str:
        """At the rows of this memory, which is dense."""
        return f"tl.store({where} + at{self.q(width)}, {keep(x, dtype)}, mask={mask}{self.q(width)})"

    def over_time(self, name: str, x: str, dtype: torch.dtype, width: int) -> str:
        return self.store(f"{name} + t * N * {width}", x, dtype, width)

    def step(self, n: int, names: dict[int, str], first: int) -> list[str]:
        """The lines of step `n`. `names`: of its leaves; of all its values, when it has been written. `first`: of its free numbers."""
        network, text, written = self.kernel.networks[n], list[str](), set[int]()
        for place, item in enumerate(network.items):
            if isinstance(item, Segment):
                text += self.segment(network, item, f"n{n}_{place}", names, first)
                first += len(item.program.free)
            else:
                text += self.product(network, n, item, names, written)
        return text

    def segment(self, network: Network, item: Segment, name: str, names: dict[int, str], first: int) -> list[str]:
        program = item.program.renamed(f"{name}v", f"{name}k", [names[v] for v in item.reads])
        still = (x for x in program.leaves if x.name in self.still)
        lines = Lines([*still, *program.free], self.shape(item.width), f"{name}c")
        text = lines.in_loop(program)
        for x, v in zip(program.outputs, item.writes):
            names[v] = f"{name}w{v}"
            text.append(f"{names[v]} = {lines.cast(x, network.values[v][0])}")
        self.before += [*free(program.free, first, self.shape(item.width)), *lines.before]
        return text

    def product(self, network: Network, n: int, j: int, names: dict[int, str], written: set[int]) -> list[str]:
        """`written`: factors that stand in scratch already. The step begins with a barrier, so that nobody reads what it overwrites."""
        which, z, u = network.products[j], network.factors[j], network.leaves - len(network.products) + j
        (given, deep), (dtype, w) = network.values[z], network.values[u]
        matrix = self.slots.dtypes[self.kernel.matrices[which.matrix]]
        pack, name, chunk = (
            self.kernel.packed.index((which.matrix, which.transposed)),
            f"f{n}_{z}",
            min(CHUNK, padded(deep)),
        )
        kind, names[u] = computed(torch.promote_types(matrix, torch.float32)), f"u{n}_{j}"
        text = []
        if z not in written:
            text += [self.store(name, names[z], torch.promote_types(given, torch.float32), deep), "tl.debug_barrier()"]
            written.add(z)
        some = (
            f"tl.load({name} + row[:, None] * {deep} + d[None, :], mask=here[:, None] & (d < {deep})[None, :], other=0)"
        )
        these = f"m{pack} + group * lead{pack} + d[:, None] * {w} + c{self.q(w)}[None, :]"
        these = read(f"tl.load({these}, mask=(d < {deep})[:, None] & (c{self.q(w)} < {w})[None, :], other=0)", matrix)
        loop = [
            f"d = e + tl.arange(0, {chunk})",
            f"{names[u]} = tl.dot({some}, {these}, {names[u]}, {PRECISE}, out_dtype={kind})",
        ]
        text += [f"{names[u]} = tl.zeros({self.shape(w)}, {kind})", f"for e in range(0, {deep}, {chunk}):"]
        text += [f"    {x}" for x in loop]
        return [*text, f"{names[u]} = {rounded(names[u], dtype)}"] if rounded("", dtype) else text

    def result(self, network: Network, v: int, names: dict[int, str], dtype: torch.dtype) -> str:
        return cast(names[v], network.values[v][0], dtype)

    def kernel_of(self, pointers: Sequence[str], body: Iterable[str]) -> str:
        taken = [i for i, role in enumerate(self.slots.roles) if role is not MATRIX]
        packs = range(len(self.kernel.packed))
        names = [
            *(f"x{i}" for i in taken),
            *pointers,
            *(f"m{q}" for q in packs),
            *(name for name, _ in self.kernel.factors),
        ]
        names += ["T", "N", "per", "first", "by", "every", *(f"lead{q}" for q in packs)]
        names += [f"size{d}" for d in range(1, self.forms.axes)]
        for i in taken:
            names += [f"time{i}"] if self.slots.roles[i] is TIMED else []
            if self.forms.each[i] is Kind.STRIDED:
                names += [*(f"step{i}_{d}" for d in range(self.forms.axes)), f"column{i}"]
        names += [f"free{i}: tl.int64" for i in range(self.free)]
        return kernel_text(HEADER, names, [*self.before, *body])


def padded(width: int) -> int:
    """Sides of tiles are powers of two, and `tl.dot` takes no shorter ones."""
    return max(16, 1 << (width - 1).bit_length())


@functools.lru_cache(10_000)
def _forms(slots: Slots, tensors: tuple[Any, ...], lanes: torch.Size) -> tuple[Forms, tuple[int, ...]]:
    """How tensors of these shapes and strides lie, and the numbers that go with it, in the order of the kernel's arguments."""
    places = [
        None if role is MATRIX else layout(shape, strides, role, torch.Size((*lanes, w)))
        for role, w, (shape, strides) in zip(slots.roles, slots.widths, tensors)
    ]
    rows = wide(lanes)
    strided = [x for x in places if x is not None and x.kind is Kind.STRIDED]
    axes = merged([lanes[d] for d in rows], [x.strides[: len(rows)] for x in strided])
    numbers = [n for n, _ in axes[1:]]
    for x, role in zip(places, slots.roles):
        if x is None:
            continue
        numbers += [x.time] if role is TIMED else []
        if x.kind is Kind.STRIDED:
            numbers += [steps[strided.index(x)] for _, steps in axes] + [(*x.strides[len(rows) :], 0)[0]]
    return Forms(tuple(x and x.kind for x in places), len(axes)), tuple(numbers)


def _launch(kernel: Any, tensors: Sequence[Tensor], walk: Walk, groups: int, numbers: Sequence[int]) -> None:
    lanes, T, reverse, every, *_ = walk
    per = lanes.numel() // groups
    time = [T, lanes.numel(), per, T - 1 if reverse else 0, -1 if reverse else 1, every]
    with torch.cuda.device_of(tensors[0]):
        kernel[(-(-per // BLOCK), groups)](
            *map(bits, tensors), *time, *numbers, BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=False
        )  # fmt: skip
