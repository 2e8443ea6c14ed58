"""The influence of weights on the neuron they lead to, and on no other: what e-prop carries, and all there is in a single layer.

A neuron with states s_k, its input z = W x, and D, J, P its step's derivatives with respect to state, input and own numbers, all
numbers for each neuron alone because the neuron is pointwise:

    e_k[b,i,j] = sum_m D_km[b,i] e_m[b,i,j] + J_k[b,i] x[b,j]              of a weight
    e_k[b,i]   = sum_m D_km[b,i] e_m[b,i]   + J_k[b,i]                     of a bias
    e_k[b,i]   = sum_m D_km[b,i] e_m[b,i]   + P_k[b,i]                     of a number of the neuron, summed to its shape at the end

    gradient  += d loss[t]/d params + sum_k d loss[t]/d s_k[t-1] e_k[t-1]
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from .._connections import Linear, linear_step
from .._scan import step_name
from .._tree import replaced
from ..kernels import Unsupported
from ._cells import Cell, cells, connections, entwined, feedback, nested, row, steps, walk, with_feedback
from ._rule import floating, gradients, LearningState, Rule


def local_cells(network: Any, params: Any, state: Any) -> list[Cell]:
    """The network's cells. Raises Unsupported where weights reach more of a cell than their own neuron."""
    places = cells(network, params, state)
    if not places:
        raise Unsupported(f"{step_name(network)} has no state")
    for i, front, between in places:
        step, p, s = (part[i] for part in (steps(network), row(network, params), row(network, state)))
        V, name = feedback(p), f"layer {i}, {step_name(step)}," if len(steps(network)) > 1 else step_name(step)
        if front is not None and (steps(network)[front] is not linear_step or between):
            what = "functions stand between them" if between else "its weights are shared between neurons"
            raise Unsupported(
                f"layer {front}, {step_name(steps(network)[front])}, is not linear right before {name} {what}"
            )
        if V is not None and not isinstance(V, Linear):
            raise Unsupported(f"{name} feeds back through {type(V).__name__}, not Linear")
        if reason := entwined(step, with_feedback(p, torch.zeros(())), s):
            raise Unsupported(f"{name} is not pointwise: {reason}")
    return places


def is_exact(network: Any, params: Any, state: Any) -> bool:
    """Is the local influence all there is?"""
    try:
        places = local_cells(network, params, state)
    except Unsupported:
        return False
    return len(places) == 1 and feedback(row(network, params)[places[0].neuron]) is None


def nothing(network: Any, params: Any, state: Any) -> list[Any]:
    """No influence yet: for every cell, of its numbers, and of the weight and the bias of each of its connections."""
    parts, states, traces = row(network, params), row(network, state), []
    for cell in cells(network, params, state):
        none = lambda s=states[cell.neuron]: [leaf.new_zeros(()) for leaf in floating(s)[0]]
        numbers = [none() for _ in floating(with_feedback(parts[cell.neuron], ()))[0]]
        traces.append((numbers, [(none(), none()) for _ in connections(parts, cell)]))
    return traces


def learn(rule: Rule, params: Any, learning: LearningState, x: Any, target: Any) -> tuple[Tensor, Any, Any, Any]:
    """One step of a rule whose influence is local."""
    network, state = rule.network, learning.state

    def now(params: Any, state: Any) -> Any:
        pres: list[list[Tensor]] = [[] for _ in learning.traces]

        def current(n: int, connection: Any, pre: Tensor) -> Tensor:
            pres[n].append(pre)
            return connection(pre)

        output, new, arrived = walk(network, params, state, x, current)
        return rule.measured(output, target), (new, arrived, pres)

    (grads, signals), loss, (new, arrived, pres) = gradients(now, params, state)
    grads, signals, traces = row(network, grads), row(network, signals), []
    for n, cell in enumerate(cells(network, params, state)):
        numbers, currents = learning.traces[n]
        signal = floating(signals[cell.neuron])[0]
        own, back = floating(with_feedback(grads[cell.neuron], ()))
        step, p, s = (part[cell.neuron] for part in (steps(network), row(network, params), row(network, state)))
        lanes = _lanes(s, arrived[n])
        # A number that does not go with the neurons is one that none of them reads.
        own = [g + _carried(signal, e, g) if _fits(g, lanes) else g for g, e in zip(own, numbers)]
        ways = iter([_learnt(way, signal, e) for way, e in zip(connections(grads, cell), currents)])
        if cell.front is not None:
            grads[cell.front] = next(ways)
        grads[cell.neuron] = with_feedback(back(own), next(ways, None))

        P, D, J = _slopes(step, p, s, arrived[n], through=bool(currents))
        numbers = [_moved(e, D, source) for e, source in zip(numbers, P)]
        traces.append((numbers, [_passed(e, D, J, pre) for e, pre in zip(currents, pres[n])]))
    return loss, new, nested(network, iter(grads)), traces


def _slopes(step: Any, params: Any, state: Any, z: Any, through: bool) -> tuple[Any, Any, Any]:
    """P[a][k], D[k][m], J[k]: the derivatives of new state k by number a, by state m, by the input z (if `through`), a neuron each."""
    numbers, to_params = floating(with_feedback(params, ()))
    memories, to_state = floating(state)
    felt = [*memories, *floating(z)[0]]
    lanes = _lanes(state, z)
    dtype = next((leaf.dtype for leaf in felt if leaf.dim()), felt[0].dtype)
    given = [leaf.to(dtype).expand(lanes) if _fits(leaf, lanes) else leaf for leaf in numbers]
    given += [leaf.to(dtype).expand(lanes) for leaf in (*memories, *([z] if through else []))]
    after, last = len(numbers), len(numbers) + len(memories)

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        p = with_feedback(to_params(leaves[:after]), torch.zeros((), dtype=dtype, device=leaves[0].device))
        _, new = step(p, to_state(leaves[after:last]), leaves[-1] if through else z)
        return tuple(floating(new)[0])

    # Of pointwise functions all neurons' derivatives are had at once, by a cotangent of ones.
    new, back, *_ = vjp(run, *given)
    ones = lambda k: tuple(torch.full_like(other, float(k == m)) for m, other in enumerate(new))
    slopes = [back(ones(k)) for k in range(len(new))]
    P = [[slope[a] if _fits(numbers[a], lanes) else slope[a].new_zeros(()) for slope in slopes] for a in range(after)]
    return P, [slope[after:last] for slope in slopes], [slope[last] for slope in slopes] if through else []


def _lanes(state: Any, z: Any) -> torch.Size:
    """The shape of the neurons: of their states and their input together."""
    return torch.broadcast_shapes(*(leaf.shape for leaf in (*floating(state)[0], *floating(z)[0])))


def _fits(number: Tensor, lanes: torch.Size) -> bool:
    shape = number.shape
    return len(shape) <= len(lanes) and all(a in (1, n) for a, n in zip(shape[::-1], lanes[::-1]))


def _moved(e: Sequence[Tensor], D: Sequence[Sequence[Tensor]], source: Sequence[Tensor]) -> list[Tensor]:
    """One step of an influence: D e + source."""
    moved = []
    for k, new in enumerate(source):
        for m, old in enumerate(e):
            new = torch.addcmul(new, D[k][m], old)
        moved.append(new)
    return moved


def _passed(e: tuple[Any, Any], D: Any, J: Any, pre: Tensor) -> tuple[Any, Any]:
    """The same, of the weight and the bias of a connection that `pre` comes through."""
    along = lambda column: [x.unsqueeze(-1) for x in column]
    source = [j * pre.unsqueeze(-2) for j in along(J)]
    return _moved(e[0], [along(line) for line in D], source), _moved(e[1], D, J)


def _carried(signal: Sequence[Tensor], e: Sequence[Tensor], like: Tensor) -> Tensor:
    """The gradient that reaches a number through the state, summed over all who share it."""
    total: Any = sum(L * trace for L, trace in zip(signal, e))
    return total.expand(torch.broadcast_shapes(total.shape, like.shape)).sum_to_size(like.shape).to(like.dtype)


def _learnt(grad: Any, signal: Sequence[Tensor], e: tuple[Any, Any]) -> Any:
    """A connection's gradient, with what reaches it through the state."""
    weight = grad.weight + _carried([L.unsqueeze(-1) for L in signal], e[0], grad.weight)
    return replaced(grad, weight=weight, bias=grad.bias + _carried(signal, e[1], grad.bias))
