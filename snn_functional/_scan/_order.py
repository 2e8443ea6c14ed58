"""What is drawn into a tensor is drawn in the order in which that lies in memory: `empty_like(x)`, which dropout fills, lies as x does.

Stages lie otherwise than the tensors of one step do. So the numbers are the loop's only where all of this lies in the order of its axes.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from ..kernels import elementwise, LEAF, Node, PART, RESHAPES, Tape, Unsupported


ORDERED = {"mm", "addmm", "bmm", "baddbmm", "sum", "mean", "native_layer_norm"}  # whatever they are given
AS_GIVEN = {
    "convolution", "cat", "stack", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "native_batch_norm",
    "_native_batch_norm_legit_no_training", "_softmax", "_log_softmax",
}  # fmt: skip


def ordered(tape: Tape, params: int, states: int) -> tuple[int, ...]:
    """Which leaves must lie in the order of their axes, so that all that is drawn is drawn in that order. Raises Unsupported where that is
    not known."""
    begin, end = tape.leaves[params : params + states], tape.outputs[len(tape.outputs) - states :]
    seen: set[Node] = set()
    waiting = [x for node in tape.nodes if node.draws for x in node.like]
    while waiting:
        node = waiting.pop()
        if node in seen or len(node.shape) < 2:
            continue
        seen.add(node)
        if node in begin:  # from the second step on it is what the step made of it
            waiting.append(end[begin.index(node)])
        waiting += _decide(node)
    return tuple(i for i, leaf in enumerate(tape.leaves) if leaf in seen)


def _decide(node: Node) -> Iterable[Node]:
    """What must lie in order for this to do so."""
    if node.name == LEAF or node.name in ORDERED or (node.draws and not node.like):
        return ()
    if node.draws:
        return node.like
    whole = node.args[0] if node.name == PART else node
    if elementwise(node) or node.name in RESHAPES or whole.name in AS_GIVEN:
        return whole.inputs()
    if whole.name in ORDERED or not (any(True for _ in node.inputs()) or node.name.endswith("_like")):
        return ()
    raise Unsupported("it draws into a tensor that may lie in another order than that of its axes")


def in_order(leaves: Sequence[Tensor], first_input: int, which: Iterable[int]) -> bool:
    """Do these leaves lie so? An input: each step of it."""
    return all((leaves[i][0] if i >= first_input else leaves[i]).is_contiguous() for i in which)
