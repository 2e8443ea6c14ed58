"""A tape written anew, operation by operation: what `_turned.py` and `_distributed.py` are made of."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import torch

from ..kernels import Node, place, Tape


class Rewriting:
    """Subclass it, and give `take`.

    - `reached`: what depends on a state, of the old nodes and of the new ones. `nodes`: the new ones so far, in order.
    - `place`: what has become of an old node, where it is another one now.
    """

    def __init__(self, states: Collection[Node]) -> None:
        self.reached = set(states)
        self.place: dict[Node, Node] = {}
        self.nodes: list[Node] = []

    def of(self, tape: Tape) -> Tape:
        for node in tape.nodes:
            self.take(node)
        outputs = tuple(map(self.now, tape.outputs))
        return dataclasses.replace(tape, nodes=tuple(self.nodes), outputs=outputs).giving(outputs)

    def take(self, node: Node) -> None:
        """The next of the old ones."""
        raise NotImplementedError

    def now(self, x: Any) -> Any:
        """What an argument has become."""
        if isinstance(x, Node):
            return self.place.get(x, x)
        return type(x)(map(self.now, x)) if isinstance(x, (list, tuple)) else x

    def keep(self, node: Node) -> None:
        """The operation as it was, on what its arguments have become."""
        args, kwargs, like = self.now(node.args), {k: self.now(x) for k, x in node.kwargs.items()}, self.now(node.like)
        rule = (node.rule[0], self.now(node.rule[1])) if node.rule else None
        if (args, kwargs, rule, like) != (node.args, node.kwargs, node.rule, node.like):
            self.place[node] = dataclasses.replace(node, args=args, kwargs=kwargs, rule=rule, like=like)
        self.put(self.now(node))

    def put(self, node: Node) -> Node:
        if any(x in self.reached for x in node.inputs()):
            self.reached.add(node)
        self.nodes.append(node)
        return node

    def view(self, x: Node, shape: Sequence[int]) -> Node:
        new = torch.Size(shape)
        if x.shape == new:
            return x
        target = torch.ops.aten.view.default
        return self.put(Node("view", target, (x, list(new)), {}, x.dtype, new, x.dtype, x.line))

    def whole(self, target: Any, args: tuple[Any, ...], like: Node, shape: Sequence[int]) -> Node:
        """An operation that is not pointwise. `like`: has its dtypes and its line."""
        name, why = target.overloadpacket.__name__, f"{target} is not pointwise{place(like.line)}"
        return self.put(Node(name, target, args, {}, like.dtype, torch.Size(shape), like.common, like.line, why))
