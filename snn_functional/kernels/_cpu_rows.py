"""What both directions of a scan whose step holds products are made of, in C++: rows of scratch, segments, products (`_products.cpp`)."""

import ctypes
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._cpu import BIG, CACHE, GRAIN, Kernel, lines_of, named
from ._groups import grouped, groups_of
from ._loops import NetworkLoop, Walk
from ._network import events, Network, Segment
from ._print import body, computed, free, keep, operand, stored
from ._signature import MATRIX, TIMED


PRODUCTS = Path(__file__).with_name("_products.cpp").read_text()
DENSE = 30  # of a hundred factors that are not zero: from there on a product takes less time than a sum of rows
TILE = 6  # rows of a product's tile; a block has some of these, so that a matrix is read for several rows at once
BLOCK = 48


class Target(NamedTuple):
    """Where a value of a step goes. `row`: a pointer to the block's, from which others may read it; or what it is added to."""

    row: str
    dtype: torch.dtype
    added: bool = False


class NetworkKernel(Kernel, NetworkLoop):
    """What both directions share. Of width 1 of the text, `W1` is how many neurons that is; `n1`, `lo1` and `lanes1` are a block, its
    place and all there is in neurons of that width, as `n`, `lo` and `lanes` are in rows."""

    gave: list[int]  # the arguments where is kept what each product gave
    fresh: Sequence[int] = ()  # arguments, beside those written a row at a time, whose memory is new

    suffixes = cached_property(lambda self: [self.suffix(w) if w else "" for w in self.arguments.widths])

    def suffix(self, width: int) -> str:
        return str(self.widths.index(width))

    def exact(self, matrix: int) -> str:
        """The type that products with it are summed in."""
        return computed(self.arguments.dtypes[self.matrices[matrix]])

    @property
    def switches(self) -> Any:
        return events()

    def place_of_matrix(self, x: Tensor) -> list[int]:
        return [len(x), x.stride(0), 2, *x.shape[1:], *x.stride()[1:]]

    def launch(self, numbers: tuple[float, ...], tensors: Sequence[Tensor | None], walk: Walk) -> None:
        groups, every = self.groups(tensors, walk.lanes), list(tensors)
        for i in self.matrices:
            if (x := tensors[i]) is not None:
                every[i] = grouped(x, groups, walk.lanes)
        super().launch(numbers, every, walk)

    def groups(self, tensors: Sequence[Tensor | None], lanes: torch.Size) -> int:
        return groups_of([x for i in self.matrices if (x := tensors[i]) is not None], lanes)

    def block(self, walk: Walk, groups: int = 1) -> int:
        """Rows in a block: what fits the second-level cache beside a panel, in whole tiles."""
        rows = max(1, walk.lanes.numel() // groups)
        fits = 4 * CACHE // max(self.width(walk), 1) // TILE * TILE
        share = -(-rows * groups // walk.threads)
        return min(max(TILE, min(fits, BLOCK)), -(-share // TILE) * TILE, rows)

    def _layout(self, tensors: Sequence[Tensor | None], walk: Walk) -> tuple[Any, int]:
        matrices = [tensors[i] for i in self.matrices]
        groups = max((len(x) for x in matrices if x is not None), default=1)
        count, block = walk.lanes.numel(), self.block(walk, groups)
        threads = min(walk.threads, max(1, count * walk.T * sum(self.widths) // GRAIN))
        places, largest = list[int](), 0
        for x, role, w in zip(tensors, self.arguments.roles, self.arguments.widths):
            if role is MATRIX and x is not None:
                places += self.place_of_matrix(x)
            else:
                places += self.place(x, role, torch.Size((*walk.lanes, w)))
            largest = max(largest, x.numel() * x.element_size()) if x is not None and role is TIMED else largest
        scratch = (self.width(walk) * block + 64 * (4 * len(tensors) + 2 * len(self.widths) + 64) + 255) // 256 * 256
        numbers = [walk.T, count, groups, block, threads, walk.reverse, walk.every, scratch, largest >= BIG]
        numbers += [*places, *self.widths, max(self.widths), events(), scratch * threads]
        panels = (
            len(x) * (x.shape[1] + 64) * (x.shape[2] + 64) * 8 + 256
            for m, _ in self.packed
            if (x := matrices[m]) is not None
        )
        return (ctypes.c_int64 * len(numbers))(*numbers), scratch * threads + sum(panels) + 512

    def row_bytes(self, network: Network) -> int:
        """Of scratch that the values of a step take, beside its leaves."""
        return sum(dtype.itemsize * w for dtype, w in network.values)

    @property
    def beside(self) -> int:
        """Bytes of scratch a row for products: the places of spikes, factors, a panel."""
        return 12 * max(self.widths) + 1024

    def before(self) -> str:
        at = len(self.widths)
        text = lines_of(
            4,
            (
                f"if (c.stream) huge(c[{i}].data, c.T * c.lanes * c.widths[{self.suffixes[i]}] * {self.arguments.dtypes[i].itemsize});"
                for i in self.fresh
            ),
        )
        text += f"    Matrix packs[{max(1, len(self.packed))}];\n    c.extra = packs;\n"
        text += f"    char* at = c.scratch + c.widths[{at + 2}];\n"
        for q, (m, transposed) in enumerate(self.packed):
            kind = self.kinds[self.matrices[m]]
            text += f"    at = pack<{self.exact(m)}, {kind}>(packs[{q}], at, c[{self.matrices[m]}], {str(transposed).lower()});\n"
        return text

    def more(self) -> str:
        return f"#define DENSE {DENSE}\n{PRODUCTS}\n"

    def start(self) -> str:
        """Sizes, params, and scratch for products."""
        text = self.head() + "    const i64 group = index / c.blocks();\n"
        text += "    const Matrix* const packs = (const Matrix*)c.extra;\n"
        size = "const i64 W{0} = c.widths[{0}], n{0} = n * W{0}, lo{0} = lo * W{0}, lanes{0} = lanes * W{0}; (void)lanes{0};"
        text += lines_of(4, (size.format(i) for i in range(len(self.widths))))
        most = f"c.widths[{len(self.widths)}]"
        text += f"    const bool events = c.widths[{len(self.widths) + 1}];\n"
        text += f"    int* const lists = w.take<int>(n * {most} + n + 16);\n"
        text += f"    double *const factors = w.take<double>(n * {most}), *const panel = w.take<double>(n * 64);\n"
        return text + self.opening(named("P", self.params))

    def step(
        self, network: Network, leaves: Sequence[str], targets: dict[int, list[Target]], letter: str, first: int
    ) -> tuple[str, str]:
        """A step in time: rows of scratch to be had before, and the text. `leaves`: where they are read; `targets`: of values;
        `first`: of the free numbers, among those of the call."""
        where, text, rows = dict(enumerate(leaves)), "", ""
        asked = {
            i for item in network.items for i in (item.reads if isinstance(item, Segment) else [network.factors[item]])
        }
        for item in network.items:
            if not isinstance(item, Segment):
                text += self.product(network, item, where)
                continue
            out: dict[int, list[Target]] = {}
            for v in item.writes:
                dtype, width = network.values[v]
                out[v] = list(targets.get(v, ()))
                if v in asked and all(x.added for x in out[v]):
                    out[v].append(Target(f"{letter}{v}", dtype))
                    kind = stored(dtype)
                    rows += f"    {kind}* __restrict {letter}{v} = w.take<{kind}>(n{self.suffix(width)});\n"
                where[v] = next((x.row for x in out[v] if not x.added), "")
            text += self.segment(item, first, where, out)
            first += len(item.program.free)
        for v in [v for v in targets if v < network.leaves]:  # what is given as it came
            dtype, width = network.values[v]
            n = f"n{self.suffix(width)}"
            value = f"{where[v]}" if self.number(v) else f"read({where[v]}[i])"
            for x in targets[v]:
                if (
                    not x.added and x.dtype is dtype and not self.number(v)
                ):  # as many loops would take a compiler minutes
                    text += (
                        f"        __builtin_memcpy((void*){x.row}, (const void*){where[v]}, {n} * sizeof(*{x.row}));\n"
                    )
                    continue
                put = f"{x.row}[i] += {value};" if x.added else f"{x.row}[i] = {keep(value, x.dtype)};"
                text += f"        for (i64 i = 0; i < {n}; ++i) {put}\n"
        return rows, text

    def number(self, value: int) -> bool:
        """Is this leaf one number for all?"""
        return value < len(self.params) and self.uniform[value]

    def product(self, network: Network, j: int, where: dict[int, str]) -> str:
        which, z, u = network.products[j], network.factors[j], network.leaves - len(network.products) + j
        kinds = [self.exact(which.matrix), *(stored(network.values[v][0]) for v in (u, z))]
        pack = f"packs[{self.packed.index((which.matrix, which.transposed))}]"
        line = f"({kinds[0]}*)factors, ({kinds[0]}*)panel"
        call = f"product<{', '.join(kinds)}>({where[u]}, {where[z]}, {pack}, group, n, events, lists, {line});"
        return f"        {self.due(network, j)}{call}\n"

    def due(self, network: Network, j: int) -> str:
        """The condition on which a product is done, if there is any."""
        return ""

    def given(self, network: Network, scratch: str) -> str:
        """Where stands what the products give at step t: where it is kept, or in scratch."""
        row = f"auto* const U{{0}} = c[{{2}}].data ? ({{3}}*)c[{{2}}].data + t * lanes{{1}} + lo{{1}} : {scratch};"
        given = enumerate(zip(network.given, self.gave))
        return lines_of(8, (row.format(j, self.suffix(w), c, stored(x)) for j, ((x, w), c) in given))

    def segment(self, item: Segment, first: int, where: dict[int, str], out: dict[int, list[Target]]) -> str:
        """The loop over the neurons of a block."""
        program = item.program
        numbers = {leaf: where[i] for leaf, i in zip(program.leaves, item.reads) if self.number(i)}
        before, lines = body(program, {*program.free, *numbers}, "        ")
        reads = [
            f"const {computed(leaf.dtype)} {leaf.name} = read({where[i]}[i]);"
            for leaf, i in zip(program.leaves, item.reads)
            if leaf in program.used and leaf not in numbers
        ]
        stores = [
            f"{x.row}[i] += {operand(value)};" if x.added else f"{x.row}[i] = {keep(operand(value), x.dtype)};"
            for value, v in zip(program.outputs, item.writes)
            for x in out[v]
        ]
        once = [f"const {computed(leaf.dtype)} {leaf.name} = {name};" for leaf, name in numbers.items()]
        n = f"n{self.suffix(item.width)}"
        return (
            f"        {{\n{free(program.free, first, '        ')}{lines_of(8, once)}{before}"
            f"        #pragma GCC ivdep\n        for (i64 i = 0; i < {n}; ++i) {{\n"
            f"{lines_of(12, reads)}{lines}{lines_of(12, stores)}        }}\n        }}\n"
        )

    def swapped(self, names: Sequence[tuple[str, str]]) -> str:
        return lines_of(8, (f"{{ auto* const old = {a}; {a} = {b}; {b} = old; }}" for a, b in names))

    def take(self, names: Sequence[str], like: Sequence[int], times: str = "") -> str:
        """Rows of scratch for the dtype and width of these arguments."""
        row = "{1}* {0} = w.take<{1}>(n{2}{3});"
        return lines_of(4, (row.format(x, self.kinds[i], self.suffixes[i], times) for x, i in zip(names, like)))

    def products_given(self, network: Network, letter: str, times: str = "") -> str:
        """Rows of scratch for what the products give."""
        row = "{1}* {0} = w.take<{1}>(n{2}{3});"
        given = ((f"{letter}{j}", stored(dtype), self.suffix(w), times) for j, (dtype, w) in enumerate(network.given))
        return lines_of(4, (row.format(*x) for x in given))
