"""The C++ of a scan whose step holds products: blocks of whole rows, each through all of time on its own (see `_network.py`)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._functorch import in_memory
from ._cpu import AGAIN, BACK, lines_of, named, SEGMENTS, TIME, WalkBack
from ._cpu_rows import NetworkKernel, Target
from ._loops import filled, ForwardLoop, Walk
from ._network import Flow, Network
from ._signature import Signature, Slots, TIMED


class Forward(NetworkKernel, ForwardLoop):
    """As for a pointwise step; what the products give is scratch."""

    @property
    def networks(self) -> list[Network]:
        return [self.program]

    def width(self, walk: Walk) -> int:
        return 2 * self.arguments.bytes + self.row_bytes(self.program) + self.beside

    @property
    def source(self) -> str:
        S, N, network = named("S", self.states), named("N", self.states), self.program
        to = [f"({kind}*)c[{c}].data" for c, kind in enumerate(self.kinds)]
        targets: dict[int, list[Target]] = {}
        ys, new = self.signature.results.split(network.results)
        for v, row, c in [*zip(new, N, self.last), *zip(ys, named("Y", ys), self.outputs)]:
            targets.setdefault(v, []).append(Target(row, self.arguments.dtypes[c]))
        leaves = [*named("P", self.params), *S, *(f"X{i}" for i in self.inputs), *named("U", network.products)]
        rows, text = self.step(network, leaves, targets, "V", 0)
        due = "if (every && k == point * every)"
        points = zip(S, self.points, (self.suffixes[i] for i in self.states))
        return self.file(
            self.start() + self.gather(S, self.states) + self.take(N, self.states) + self.products_given(network, "Q"),
            self.temporaries(self.inputs) + self.lines_beside() + rows,
            TIME,
            lines_of(8, (f"{due} put({to[c]} + point * lanes{w} + lo{w}, {s}, n{w});" for s, c, w in points)),
            f"        {due} ++point;\n",
            self.rows(self.inputs, "k + 1 < T ? at(k + 1) : -1") + self.targets() + self.given(network, "Q{0}") + text,
            self.swapped([*zip(S, N)]) + self.streamed() + "    }\n",
            lines_of(
                4, (f"put({to[c]} + lo{w}, {s}, n{w});" for s, c in zip(S, self.last) for w in [self.suffixes[c]])
            ),
        )


class Backward(WalkBack, NetworkKernel):
    """As for a pointwise step, with two more things over time: `Z0` is what product 0 takes, recorded where the states are computed again
    (beside `R0`, what it gives, for a segment), and `YD0` what flows back into what it gives. The gradient of its matrix is made of these.

    - `again`: of a step, its states. `program`: what flows back; of its results, the first are the gradients of `wanted` (but for
      matrices), then come those of what the products `recorded` give.
    """

    def __init__(
        self, again: Network, program: Network, signature: Signature, uniform: tuple[bool, ...], wanted: tuple[int, ...],
        recorded: tuple[int, ...],
    ) -> None:  # fmt: skip
        places = signature.leaves.places
        flat = [i for i in wanted if i not in places[3]]
        self.gradients = signature.leaves.only(flat)
        # What flows back into a product often is what flows back into an input that is added to it.
        inputs = {v: i for v, i in zip(program.results, flat) if i in places[2]}
        flowing = dict(zip(recorded, program.results[len(flat) :]))
        self.shared = {
            j: inputs[v]
            for j, v in flowing.items()
            if v in inputs and again.given[j][0] == signature.leaves.dtypes[inputs[v]]
        }
        self.apart = tuple(j for j in recorded if j not in self.shared)
        # Several products may take the same: it is recorded once.
        self.factors = list(dict.fromkeys(again.factors[j] for j in recorded))
        of_z = [again.values[v] for v in self.factors]
        of_u = [again.given[j] for j in self.apart]
        records = Slots(
            tuple((TIMED, tuple(x for x, _ in of)) for of in (of_z, of_u)), tuple(w for _, w in of_z + of_u)
        )
        super().__init__(
            signature, uniform, signature.backward + signature.checkpoints + signature.gave + self.gradients + records
        )
        self.again, self.program, self.wanted, self.recorded = again, program, wanted, recorded
        _, _, _, _, self.d_outputs, self.d_last, self.points, self.gave, *own, self.zs, self.d_us = (
            self.arguments.places
        )
        self.argument = dict(zip(flat, sum(own, [])))
        types = signature.leaves.dtypes
        self.sums = {i: torch.float64 for i in self.params if i in wanted and uniform[i] and types[i].is_floating_point}
        self.written = {i: self.argument[i] for i in self.inputs if i in wanted}
        self.written |= {f"D{j}": c for j, c in zip(self.apart, self.d_us)}
        self.carried = [s for s, i in enumerate(self.states) if i in wanted]
        self.fresh = self.zs

    @property
    def networks(self) -> list[Network]:
        return [self.again, self.program]

    def width(self, walk: Walk) -> int:
        states = 3 + walk.every + (0 if walk.checkpoints else -(-walk.T // walk.every))
        us = sum(dtype.itemsize * w for dtype, w in self.again.given)
        sums = 8 * sum(self.arguments.widths[i] for i in self.params)
        beside = (
            2 * (self.arguments.bytes + self.row_bytes(self.again)) + self.row_bytes(self.program) + self.beside + sums
        )
        return beside + self.signature.checkpoints.bytes * states + us * walk.every

    def __call__(
        self, numbers: tuple[float, ...], leaves: Sequence[Tensor], cotangents: Sequence[Tensor], checkpoints: Sequence[Tensor],
        lanes: torch.Size, T: int, reverse: bool, every: int,
    ) -> tuple[dict[int, Tensor], list[Flow]]:  # fmt: skip
        """The gradients of the wanted leaves but matrices: params over all lanes (in parts to be summed where one number serves all). And
        what flows into the matrices."""
        walk = Walk(lanes, T, reverse, every, bool(checkpoints), torch.get_num_threads())
        takes, kept = in_memory([*leaves, *cotangents]), filled(checkpoints, self.points + self.gave)
        groups = self.groups(leaves, lanes)
        blocks = groups * -(-(lanes.numel() // groups) // self.block(walk, groups))
        gradients = [
            torch.empty((blocks,), dtype=self.sums[i]) if i in self.sums else torch.empty(shape, dtype=dtype)
            for i, shape, dtype in zip(self.argument, self.gradients.shapes(lanes, T), self.gradients.dtypes)
        ]
        kinds = [(self.arguments.dtypes[c], self.arguments.widths[c]) for c in (*self.zs, *self.d_us)]
        records = [torch.empty((T, *lanes, w), dtype=dtype) for dtype, w in kinds]
        self.launch(numbers, [*takes, *kept, *gradients, *records], walk)
        found = dict(zip(self.argument, gradients))
        flowing = dict(zip(self.apart, records[len(self.factors) :])) | {j: found[i] for j, i in self.shared.items()}
        taken = dict(zip(self.factors, records))
        again = self.again
        return found, [Flow(again.products[j], taken[again.factors[j]], flowing[j]) for j in self.recorded]

    @property
    def source(self) -> str:
        S, N, products = named("S", self.states), named("N", self.states), self.again.products
        G, new = [f"G{s}" for s in self.carried], [f"E{s}" for s in self.carried]
        leaves = [*named("P", self.params), *named("h", self.states), *(f"X{i}" for i in self.inputs)]
        U = named("U", products)
        first = len(self.again.numbers)
        remade, again = self.step(self.again, [*leaves, *U], self.states_to(N) | self.recording(), "V", 0)
        alone, once = self.step(self.again, [*leaves[: len(self.params)], *S, *leaves[len(self.params) + len(S) :], *U],
                                self.states_to(N), "O", 0)  # fmt: skip
        d_leaves = [*leaves, *U, *(f"X{i}" for i in self.d_outputs), *G, *named("F", products)]
        walked, back = self.step(self.program, d_leaves, self.gradients_to(new), "B", first)
        return self.file(
            self.start() + self.temporaries([*self.inputs, *self.d_outputs]) + self.gather(G, self.d_last),
            self.take(new, [self.states[s] for s in self.carried]) + self.accumulators() + self.lines_beside(),
            self.products_given(self.again, "R", " * every") + self.products_given(self.program, "F") + remade + walked,
            self.segments() + self.gather(S, self.states) + self.take(N, self.states) + alone,
            lines_of(4, (f"auto* {u} = R{j};" for j, u in enumerate(U))),
            TIME + self.kept() + self.rows(self.inputs, "-1") + once + self.swapped([*zip(S, N)]) + "    }\n    }\n",
            SEGMENTS + AGAIN + self.around() + self.recorded_rows(),
            self.rows(self.inputs, "k + 1 < to ? at(k + 1) : -1") + again + "    }\n",
            BACK + self.around() + self.rows(self.inputs, "-1") + self.rows(self.d_outputs, "k > 0 ? at(k - 1) : -1"),
            self.targets() + back + self.swapped([*zip(G, new)]) + self.streamed() + "    }\n    }\n",
            self.end(),
        )

    def states_to(self, names: Sequence[str]) -> dict[int, list[Target]]:
        targets: dict[int, list[Target]] = {}
        for v, name, i in zip(self.again.results, names, self.states):
            targets.setdefault(v, []).append(Target(name, self.arguments.dtypes[i]))
        return targets

    def recording(self) -> dict[int, list[Target]]:
        """What the recorded products take; beside the new states, if it is one of these."""
        targets: dict[int, list[Target]] = {}
        for j, (v, c) in enumerate(zip(self.factors, self.zs)):
            targets[v] = [Target(f"Z{j}", self.arguments.dtypes[c])]
        states = self.states_to(named("N", self.states))
        return {v: [*states.get(v, ()), *x] for v, x in targets.items()}

    def recorded_rows(self) -> str:
        row = "{1}* __restrict Z{0} = ({1}*)c[{2}].data + t * lanes{3} + lo{3};"
        return lines_of(8, (row.format(j, self.kinds[c], c, self.suffixes[c]) for j, c in enumerate(self.zs)))

    def gradients_to(self, new: Sequence[str]) -> dict[int, list[Target]]:
        names = [*self.argument, *(f"D{j}" if j in self.apart else None for j in self.recorded)]
        carried = {self.states[s]: name for s, name in zip(self.carried, new)}
        targets: dict[int, list[Target]] = {}
        for v, name in zip(self.program.results, names):
            if name is None:
                continue
            c = self.written.get(name)
            if name in carried:
                to = Target(carried[name], self.arguments.dtypes[name])
            else:
                to = (
                    Target(f"Y{name}", self.arguments.dtypes[c])
                    if c is not None
                    else Target(f"A{name}", torch.float32, True)
                )
            targets.setdefault(v, []).append(to)
        return targets

    def around(self) -> str:
        """And what the products of step k gave."""
        return super().around() + self.given(self.again, "R{0} + (k - from) * n{1}")

    def due(self, network: Network, j: int) -> str:
        return f"if (!c[{self.gave[j]}].data) " if network is self.again else ""
