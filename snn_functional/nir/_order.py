"""In which order the nodes of a graph are gone through at one step, and which edges hand on what was put out at the step before.

A graph of NIR may have cycles, and says nothing of steps. An edge is *recurrent* if it hands on the last step's output. These are chosen
so that the way from the inputs to the outputs is not delayed, and each cycle is:

1. Nodes that reach one another are a *part*. Its *heads* are those that something outside leads to; of several, those farthest from the
   outputs, all that are equally far.
2. The edges from within the part to its heads are recurrent.
3. What is left of the part may have cycles again: the same is done there.

So of `input -> lif -> output, lif -> w -> lif` it is `w -> lif`; of two populations that excite one another, both fed and both read out,
it is both ways. No name and no order of the file decides anything. `read(..., recurrent=[...])` says it otherwise.

A delay of at least one step puts out what it was given before, so a cycle through one needs no recurrent edge.
"""

import graphlib
from collections.abc import Collection, Iterable

from ._graph import Edge


def ordered(
    nodes: Iterable[str], edges: Collection[Edge], late: Collection[str], recurrent: Collection[Edge]
) -> list[str]:
    """The nodes, each behind those that it needs at the same step. `late`: those that need nothing of the same step; but for what goes in a
    circle they, too, stand behind what leads to them, whose shape may be theirs.

    Raises ValueError where a cycle is left.
    """
    needs: dict[str, list[str]] = {name: [] for name in sorted(nodes)}
    edges = [edge for edge in sorted(edges) if edge not in recurrent]
    circle_of = {name: i for i, part in enumerate(_parts(needs, edges)) for name in part}
    for start, end in edges:
        if end not in late or circle_of[start] != circle_of[end]:
            needs[end].append(start)
    try:
        return list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(map(repr, error.args[1]))
        raise ValueError(
            f"nir.read(recurrent={sorted(recurrent)}): within one step {circle} wait for one another. One of these edges hands on what "
            "was put out at the step before: name it, too."
        ) from None


def recurrent_edges(
    nodes: Collection[str],
    edges: Collection[Edge],
    outputs: Collection[str],
    late: Collection[str],
    remember: Collection[str],
) -> list[Edge]:
    """The edges that hand on the last step's output, as said above. `remember`: nodes that hold a state.

    Raises ValueError for a cycle without any node that remembers.
    """
    edges = [edge for edge in edges if edge[1] not in late]
    _no_circle_of_lines(nodes, edges, remember)
    return sorted(_cut(set(nodes), edges, edges, _distances(edges, outputs)))


def _cut(nodes: set[str], inner: Collection[Edge], all_edges: Collection[Edge], far: dict[str, int]) -> set[Edge]:
    found: set[Edge] = set()
    for part in _parts(nodes, inner):
        own = [edge for edge in inner if edge[0] in part and edge[1] in part]
        if not own:
            continue
        entered = {end for start, end in all_edges if end in part and start not in part} or part
        most = max(far.get(name, len(far)) for name in entered)
        heads = {name for name in entered if far.get(name, len(far)) == most}
        back = {edge for edge in own if edge[1] in heads}
        rest = [edge for edge in all_edges if edge not in back]
        found |= back | _cut(part, [edge for edge in own if edge not in back], rest, far)
    return found


def _distances(edges: Collection[Edge], outputs: Collection[str]) -> dict[str, int]:
    """How many edges lie between each node and the nearest output, where there is one."""
    found = dict.fromkeys(outputs, 0)
    ring = list(outputs)
    while ring:
        ring = [start for start, end in edges if end in ring and start not in found]
        found |= dict.fromkeys(ring, max(found.values()) + 1)
    return found


def _parts(nodes: Collection[str], edges: Collection[Edge]) -> list[set[str]]:
    """Nodes that reach one another, for as many as there are: Kosaraju's two walks."""
    after: dict[str, list[str]] = {name: [] for name in nodes}
    before: dict[str, list[str]] = {name: [] for name in nodes}
    for start, end in edges:
        if start in after and end in after:
            after[start].append(end)
            before[end].append(start)
    seen: set[str] = set()
    left: list[str] = []
    for name in sorted(nodes):
        left += _walk(name, after, seen)
    seen = set()
    return [part for name in reversed(left) if (part := set(_walk(name, before, seen)))]


def _walk(name: str, following: dict[str, list[str]], seen: set[str]) -> list[str]:
    """What is reached from `name` and not yet seen, each behind all that is reached from it."""
    if name in seen:
        return []
    seen.add(name)
    left, stack = [], [(name, iter(following[name]))]
    while stack:
        last, others = stack[-1]
        new = next((x for x in others if x not in seen), None)
        if new is None:
            left.append(last)
            stack.pop()
        else:
            seen.add(new)
            stack.append((new, iter(following[new])))
    return left


def _no_circle_of_lines(nodes: Collection[str], edges: Collection[Edge], remember: Collection[str]) -> None:
    forget = {name for name in nodes if name not in remember}
    own = [edge for edge in edges if edge[0] in forget and edge[1] in forget]
    for part in _parts(forget, own):
        if any(edge[0] in part and edge[1] in part for edge in own):
            raise ValueError(
                f"nir.read: {', '.join(map(repr, sorted(part)))} lead to one another, and none of them remembers anything: the graph does "
                "not say when it is that such a cycle hands on. Put a node with a state into it: a neuron, or a Delay of one step."
            )
