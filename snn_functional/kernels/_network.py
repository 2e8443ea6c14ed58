"""A step that holds products of matrices, as kernels see it: the pointwise rest, cut at the products.

    u = z @ matrix                          z: what the neurons of a row give, of which every neuron of u's row gets something

What is left without the products is pointwise: it has each `u` as a leaf, and gives each `z` as a result. So its derivatives are those
of a pointwise step, and the products come in again from outside: where u = z W, what flows back into z is what flows back into u,
times W transposed, and that into W is an outer product, which nobody needs before all of time is through.

Rows (samples) never meet. Neurons of a row stand side by side; several layers have several widths.
"""

import dataclasses
import os
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ._convolution import Convolution
from ._lines import place
from ._lower import program_of, Sums
from ._program import Program, Unsupported
from ._tape import Node, Tape


def events() -> bool:
    """Are products with spikes to be sums of rows? `SNN_FUNCTIONAL_EVENTS=0` says no, to compare."""
    return os.environ.get("SNN_FUNCTIONAL_EVENTS") != "0"


class Factors(NamedTuple):
    """What a product in a step is made of: factor @ matrix + added, all of them as they are."""

    factor: Node
    matrix: Node
    added: Node | None


def factors(node: Node) -> Factors | None:
    """None of what is no such product: of none at all, and of one that weighs its parts (`addmm(..., beta=0.5)`).

    Of a convolution the matrix is its weights, and what is added its bias, [channels]."""
    if node.name == "convolution":
        return None if node.args[6] else Factors(*node.args[:3])
    if node.rule or node.kwargs or node.name not in ("mm", "addmm"):
        return None
    *added, factor, matrix = node.args
    return Factors(factor, matrix, added[0] if added else None)


class Product(NamedTuple):
    """`z @ matrix`, or `z @ matrix^T`. `matrix`: which one. `convolution`: what it is, if the matrix holds weights of one."""

    matrix: int
    transposed: bool = False
    convolution: Convolution | None = None

    def back(self) -> "Product":
        """The one that a cotangent goes through."""
        return self._replace(transposed=not self.transposed)


class Flow(NamedTuple):
    """What the gradient of a matrix is made of: over time, what a product takes, and what flows back into what it gives."""

    product: Product
    factor: Tensor
    back: Tensor


class Segment(NamedTuple):
    """Pointwise lines over rows of one width. `reads`, `writes`: the values that are the program's leaves and outputs."""

    program: Program
    width: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """`leaves -> results`, segment by segment, with products between them.

    - `items`: in order; a number is a product.
    - `values`: the dtype and the width of each value, the leaves first, of which the last are what the products give.
    - `results`, `factors`: which value each result is, and what each product takes (-1 if none of the results needs it).
    """

    items: tuple[Segment | int, ...]
    values: tuple[tuple[torch.dtype, int], ...]
    results: tuple[int, ...]
    factors: tuple[int, ...]
    products: tuple[Product, ...]
    leaves: int

    @cached_property
    def text(self) -> str:
        """All that a kernel depends on."""
        items = [
            f"product {x}" if isinstance(x, int) else f"{x.width} {x.reads} -> {x.writes}\n{x.program.text}"
            for x in self.items
        ]
        rest = self.values, self.results, self.factors, self.products, self.leaves
        return "\n".join([*items, *map(str, rest)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @cached_property
    def given(self) -> tuple[tuple[torch.dtype, int], ...]:
        """Dtype and width of what each product gives."""
        return self.values[self.leaves - len(self.products) : self.leaves]

    @cached_property
    def seen(self) -> frozenset[int]:
        """The values that any of it is made of."""
        read = (x.reads if isinstance(x, Segment) else (self.factors[x],) for x in self.items)
        return frozenset(v for some in (*read, self.results) for v in some)

    @cached_property
    def numbers(self) -> tuple[float, ...]:
        """The free numbers of all segments."""
        return tuple(x for item in self.items if isinstance(item, Segment) for x in item.program.numbers)


def network_of(
    tape: Tape, widths: Sequence[int], given: Sequence[int], products: Sequence[Product], wanted: Sequence[int], *,
    exact: bool, prefix: str, seen: Collection[int] = (),
) -> Network:  # fmt: skip
    """- `tape`: what is left without the products. Its last leaves are what these give, its last outputs what these take.
    - `widths`, `given`: of each leaf and each output, how many neurons a row has.
    - `wanted`: which of the other outputs. `seen`: of which products what they give is wanted, too.

    Raises Unsupported where neurons of different widths meet without a product, or for what is not pointwise.
    """
    tape, rows = _rows(tape, given)
    count = len(products)
    first = len(tape.leaves) - count
    us, zs = tape.leaves[first:], tape.outputs[len(tape.outputs) - count :]
    results = tuple(tape.outputs[i] for i in wanted)
    tape = tape.giving((*results, *zs))
    check = Sums(not exact)
    for node in tape.nodes:
        if node.why:
            raise Unsupported(node.why)
        check.admit(node)
    width = _widths(tape, widths, rows)
    needed = _needed(tape, (*results, *(us[j] for j in seen)), us, zs)
    level = _levels(tape, us, zs)
    where = lambda x: (level[x], width[x])
    inside: dict[tuple[int, int], list[Node]] = {}
    for node in tape.nodes:
        if node in needed and width[node]:
            inside.setdefault(where(node), []).append(node)
    asked = {x for x in (*results, *(z for u, z in zip(us, zs) if u in needed))}
    for nodes in inside.values():
        own = set(nodes)
        asked |= {x for node in nodes for x in node.inputs() if x not in own}
    constants = [x for x in tape.nodes if not width[x]]
    number = {leaf: i for i, leaf in enumerate(tape.leaves)}
    values = [(x.dtype, width[x]) for x in tape.leaves]
    items: list[Segment | int] = []
    for depth in range(count + 1):
        for (at, w), nodes in sorted(inside.items()):
            if at == depth:
                items.append(_segment(nodes, w, asked, number, values, constants, exact, prefix))
        items += [j for j, (u, z) in enumerate(zip(us, zs)) if u in needed and level[z] == depth]
    return Network(
        tuple(items),
        tuple(values),
        tuple(number[x] for x in results),
        tuple(number.get(x, -1) for x in zs),
        tuple(products),
        len(tape.leaves),
    )


def _segment(
    nodes: list[Node], w: int, asked: set[Node], number: dict[Node, int], values: list[tuple[torch.dtype, int]],
    constants: list[Node], exact: bool, prefix: str,
) -> Segment:  # fmt: skip
    own = {*constants, *nodes}
    reads = tuple(dict.fromkeys(x for node in nodes for x in node.inputs() if x not in own))
    writes = tuple(node for node in nodes if node in asked)
    program = program_of(Tape(reads, (*constants, *nodes), writes), exact=exact, prefix=prefix, checked=True)
    taken = tuple(number[x] for x in reads)
    for node in writes:
        number[node] = len(values)
        values.append((node.dtype, w))
    return Segment(program, w, taken, tuple(number[x] for x in writes))


def _rows(tape: Tape, given: Sequence[int]) -> tuple[Tape, dict[Node, int]]:
    """With a row of its own for each output that is a constant, a gradient of 0 say."""
    found, constant = set(tape.leaves), set[Node]()
    for node in tape.nodes:
        if not any(x in found for x in node.inputs()):
            constant.add(node)
        else:
            found.add(node)
    if constant.isdisjoint(tape.outputs):
        return tape, {}
    rows: dict[tuple[Node, int], Node] = {}
    for x, w in zip(tape.outputs, given):
        if x in constant and (x, w) not in rows:
            rows[x, w] = Node("clone", torch.ops.aten.clone.default, (x,), {}, x.dtype, x.shape, x.dtype, x.line)
    outputs = tuple(rows.get((x, w), x) for x, w in zip(tape.outputs, given))
    return dataclasses.replace(tape, nodes=(*tape.nodes, *rows.values()), outputs=outputs), {
        row: w for (_, w), row in rows.items()
    }


def _widths(tape: Tape, widths: Sequence[int], rows: dict[Node, int]) -> dict[Node, int]:
    """How many neurons a row of each node has; 0 for what is the same for all of them."""
    found = dict(zip(tape.leaves, widths))
    for node in tape.nodes:
        of = {found[x] for x in node.inputs()} - {0}
        if len(of) > 1:
            wide = " and ".join(map(str, sorted(of)))
            raise Unsupported(f"{node.target} is of rows of {wide} neurons, which no product joins{place(node.line)}")
        found[node] = of.pop() if of else rows.get(node, 0)
    return found


def _needed(tape: Tape, results: Sequence[Node], us: Sequence[Node], zs: Sequence[Node]) -> set[Node]:
    """What the results are made of, through products too."""
    factor, needed, open_ = dict(zip(us, zs)), set[Node](), list(results)
    while open_:
        node = open_.pop()
        if node not in needed:
            needed.add(node)
            open_ += [factor[node]] if node in factor else node.inputs()
    return needed


def _levels(tape: Tape, us: Sequence[Node], zs: Sequence[Node]) -> dict[Node, int]:
    """How many products, one after another, each node comes after."""
    found: dict[Node, int] = dict.fromkeys(tape.leaves, 0)
    for _ in range(len(us) + 1):
        before = [found[u] for u in us]
        for node in tape.nodes:
            found[node] = max((found[x] for x in node.inputs()), default=0)
        for u, z in zip(us, zs):
            found[u] = found[z] + 1
        if before == [found[u] for u in us]:
            break
    return found
