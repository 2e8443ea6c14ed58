"""One walk along a graph of aten operations, writing a program: which nodes are other names of the same tensor, and what is in place.

What each operation does is in `_operations.py`, how it is written down in `_writer.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._operations import CHECKS, FIRST, lower, Refusal as Refusal, SHAPES, VIEWS
from ._program import Const, Operand, Program, Unsupported, Value
from ._writer import Writer


class Call(NamedTuple):
    """An operation of the graph, as its rule sees it."""

    name: str
    dtype: torch.dtype
    common: torch.dtype
    kwargs: Mapping[str, Any]
    exact: bool


class Reader:
    """The program of a graph that `make_fx` made; `prefix` is the letter of its free numbers."""

    def __init__(
        self, module: torch.fx.GraphModule, examples: list[Tensor], exact: bool = True, prefix: str = "k"
    ) -> None:
        self.module, self.examples = module, examples
        self.write = Writer(exact, prefix)
        self.values: dict[torch.fx.Node, Operand] = {}
        self.viewed: set[Any] = set()  # tensors that stand in memory together with others of another shape
        self.root: dict[torch.fx.Node, torch.fx.Node] = {}  # of what is another name of the same tensor: that tensor

    def program(self) -> Program:
        leaves, outputs = [], []
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                i = len(leaves)
                leaf = Value(f"a{i}", self.examples[i].dtype)
                leaves.append(leaf)
                self.values[node] = leaf
            elif node.op == "output":
                outputs = [self._argument(value) for value in node.args[0]]
            elif node.op == "get_attr":
                self.values[node] = self._constant(node)
            elif node.users or node.op != "call_function" or _in_place(_name(node)):
                self._call(node)
        return self.write.program(leaves, outputs, self.module)

    def _constant(self, node: torch.fx.Node) -> Const:
        tensor = getattr(self.module, str(node.target))
        if isinstance(tensor, Tensor) and tensor.numel() == 1 and tensor.dim() == 0 and not tensor.requires_grad:
            if all(getattr(user.target, "_opname", "").startswith("lift_fresh") for user in node.users):
                return Const(tensor.item(), tensor.dtype)
        raise Unsupported("it uses a tensor that is not among its arguments; give it in params")

    def _call(self, node: torch.fx.Node) -> None:
        name = _name(node)
        if name in VIEWS:
            self.root[node] = self._root(node.args[0])
            return
        if name in SHAPES:
            self.viewed |= {node, self._root(node.args[0])}
        if _in_place(name):
            if any(x in self.viewed for x in (node.args[0], self._root(node.args[0]))):
                raise Unsupported(f"it writes into a tensor that has views: {node.target}")
            # What it changes has a new value from here on, under all its names.
            name, self.root[node] = name[:-1], self._root(node.args[0])
            if self.root[node].op == "placeholder":
                raise Unsupported(f"it mutates its arguments: {node.target}")
        value = node.meta.get("val")
        dead = isinstance(value, Tensor) and value.device.type == "meta"  # torch's own bookkeeping in forward mode
        if name in CHECKS or dead:
            return
        if name == "getitem" and _name(node.args[0]) in FIRST:  # pyright: ignore[reportArgumentType]
            source: Any = node.args[0]
            self.values[node] = self.values[source] if node.args[1] == 0 else Const(0.0, torch.float32)
            return
        if name in FIRST:
            value = value[0]  # pyright: ignore[reportOptionalSubscript]
        if not isinstance(value, Tensor):
            raise Refusal(str(node.target))
        if name in SHAPES and node.args[0].meta["val"].shape not in ((), value.shape):  # type: ignore[union-attr]
            raise Refusal(str(node.target))
        operands = [arg.meta["val"] if isinstance(arg, torch.fx.Node) else arg for arg in node.args[:2]]
        given: list[Any] = [x for x in operands if isinstance(x, (Tensor, int, float, bool))]
        common = torch.result_type(*given) if len(given) == 2 else value.dtype
        call = Call(name, value.dtype, common, node.kwargs, self.write.exact)
        try:
            self.values[self._root(node)] = lower(self.write, call, *map(self._argument, node.args))
        except Refusal as refusal:
            raise Refusal(str(node.target), refusal.why) from None

    def _root(self, node: Any) -> Any:
        return self.root.get(node, node)

    def _argument(self, arg: Any) -> Any:
        """The operand of a node; anything else as it is."""
        if not isinstance(arg, torch.fx.Node):
            return arg
        arg = self._root(arg)
        if arg not in self.values:
            raise Unsupported(f"{_name(arg)} is used as a number")
        return self.values[arg]


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.startswith("__")


def _name(node: torch.fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    return getattr(packet, "__name__", str(packet))
