"""From aten's operations to scalar ones: the table of what is pointwise, and one walk along a graph."""

import math
from typing import Any

import torch
from torch import Tensor

from ._program import Const, Line, Operand, Program, Unsupported, Value


class Refusal(Exception):
    def __init__(self, operation: str) -> None:
        self.operation = operation


# aten name -> scalar operation; operands are converted to the result's dtype.
ARITHMETIC = {
    "mul": "mul", "div": "div", "true_divide": "div", "neg": "neg", "abs": "abs", "minimum": "min", "maximum": "max",
    "sqrt": "sqrt", "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "sin": "sin", "cos": "cos", "tan": "tan",
    "tanh": "tanh", "atan": "atan", "asin": "asin", "acos": "acos", "sinh": "sinh", "cosh": "cosh", "erf": "erf", "erfc": "erfc",
    "floor": "floor", "ceil": "ceil", "round": "round", "trunc": "trunc", "sign": "sign", "sgn": "sign", "atan2": "atan2",
    "fmod": "fmod", "exp2": "exp2", "log2": "log2",
}  # fmt: skip
COMPARISONS = {"gt": "gt", "ge": "ge", "lt": "lt", "le": "le", "eq": "eq", "ne": "ne"}
LOGICAL = {
    "logical_and": "and", "logical_or": "or", "logical_xor": "ne", "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "ne",
}  # fmt: skip
SAME = {"clone", "lift_fresh", "lift_fresh_copy", "positive", "resolve_conj"}
VIEWS = {"detach", "alias"}
SHAPES = {"expand", "view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "expand_copy", "view_copy"}
ZEROS = {"zeros", "zeros_like", "_efficientzerotensor", "new_zeros", "_new_zeros_with_same_feature_meta"}
FULL = {"full", "full_like", "scalar_tensor", "ones", "ones_like", "new_ones", "new_full"}
KEYWORDS = set("dtype layout device pin_memory memory_format non_blocking alpha rounding_mode min max".split())
CHECKS = {"is_same_size", "_has_same_storage_numel", "_assert_tensor_metadata"}


class Reader:
    """One walk along a graph, writing lines down."""

    def __init__(self, module: torch.fx.GraphModule, examples: list[Tensor]) -> None:
        self.module, self.examples = module, examples
        self.values: dict[torch.fx.Node, Operand] = {}
        self.lines: dict[tuple[Any, ...], Line] = {}
        self.viewed: set[Any] = set()  # tensors that stand in memory together with others of another shape
        self.root: dict[torch.fx.Node, torch.fx.Node] = {}  # of what is another name of the same tensor: that tensor

    def program(self) -> Program:
        leaves, outputs = [], ()
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                i = len(leaves)
                leaf = Value(f"a{i}", self.examples[i].dtype)
                leaves.append(leaf)
                self.values[node] = leaf
            elif node.op == "output":
                outputs = tuple(self._operand(value) for value in node.args[0])
            elif node.op == "get_attr":
                self.values[node] = self._constant(node)
            elif node.users or node.op != "call_function" or _in_place(_name(node)):
                self._call(node)
        return Program(tuple(leaves), tuple(self.lines.values()), outputs, self.module).only(range(len(outputs)))

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
        if not isinstance(value, Tensor):
            raise self._refusal(node)
        if name in SHAPES and node.args[0].meta["val"].shape not in ((), value.shape):  # type: ignore[union-attr]
            raise self._refusal(node)
        args = [self._operand(arg) if isinstance(arg, (torch.fx.Node, int, float, bool)) else arg for arg in node.args]
        if set(node.kwargs) - KEYWORDS:
            raise self._refusal(node)
        self.values[self._root(node)] = self._cast(self._lower(node, name, value.dtype, args), value.dtype)

    def _root(self, node: Any) -> Any:
        return self.root.get(node, node)

    def _lower(self, node: torch.fx.Node, name: str, dtype: torch.dtype, args: list[Any]) -> Operand:
        if name in SAME or name in SHAPES:
            return args[0]
        if name in ("_to_copy", "convert_element_type"):
            return self._cast(args[0], dtype)
        if name in ZEROS:
            return Const(0, dtype)
        if name in FULL:
            fill = (
                next((a for a in reversed(args) if isinstance(a, Const)), Const(1, dtype))
                if "ones" not in name
                else Const(1, dtype)
            )
            return self._cast(fill, dtype)
        if name in ("add", "sub"):
            scaled = args[1]
            if node.kwargs.get("alpha", 1) != 1:
                scaled = self._line("mul", dtype, scaled, Const(node.kwargs["alpha"], dtype))  # type: ignore[arg-type]
            return self._line(name, dtype, args[0], scaled)
        if name == "div" and node.kwargs.get("rounding_mode") == "floor":
            raise self._refusal(node)  # not the floor of the quotient, which is rounded
        if name == "div" and node.kwargs.get("rounding_mode"):
            return self._line(str(node.kwargs["rounding_mode"]), dtype, self._line("div", dtype, *args[:2]))
        if name == "mul" and dtype == torch.bool:
            return self._line("and", dtype, *args)
        if name in ARITHMETIC and len(args) <= 2:
            return self._line(ARITHMETIC[name], dtype, *args)
        if name in COMPARISONS:
            return self._line(COMPARISONS[name], self._common(node), *args, result=torch.bool)
        if name in LOGICAL and (dtype == torch.bool or name.startswith("logical")):
            return self._line(LOGICAL[name], torch.bool, *args)
        if name in ("logical_not", "bitwise_not") and dtype == torch.bool:
            return self._line("not", torch.bool, *args)
        if name == "where":
            return self._line("where", dtype, *args)
        if name == "copy":
            return self._cast(args[1], dtype)
        if name == "masked_fill":
            return self._line("where", dtype, args[1], args[2], args[0])
        if name == "pow":
            return self._power(dtype, args)
        if name in ("clamp", "clamp_min", "clamp_max", "relu"):
            return self._clamp(name, dtype, args, node.kwargs)
        if name == "reciprocal":
            return self._line("div", dtype, Const(1, dtype), args[0])
        if name == "rsqrt":
            return self._line("div", dtype, Const(1, dtype), self._line("sqrt", dtype, args[0]))
        if name == "sigmoid":
            grown = self._line("exp", dtype, self._line("neg", dtype, args[0]))
            return self._line("div", dtype, Const(1, dtype), self._line("add", dtype, Const(1, dtype), grown))
        if name == "nan_to_num":
            return self._nan_to_num(dtype, args)
        if name == "isnan":
            return self._line("ne", args[0].dtype, args[0], args[0], result=torch.bool)
        if name == "isinf":
            size = self._line("abs", args[0].dtype, args[0])
            return self._line("eq", args[0].dtype, size, Const(math.inf, args[0].dtype), result=torch.bool)
        raise self._refusal(node)

    def _line(self, op: str, dtype: torch.dtype, *operands: Operand, result: torch.dtype | None = None) -> Operand:
        """Write a line down, unless it stands there already or its value is known."""
        kept = 1 if op in ("mul", "div") else -1
        operands = tuple(
            x if op == "where" and i == 0 else self._cast(x, dtype, rounded=i != kept) for i, x in enumerate(operands)
        )
        if op == "and" and (x := self._finite(*operands)) is not None:
            return self._line("lt", x.dtype, self._line("abs", x.dtype, x), Const(math.inf, x.dtype), result=torch.bool)
        if op == "sub" and operands[0] == operands[1]:
            return Const(0, dtype)  # h - h.detach(): a surrogate's shadow, which never shows forward
        if op in ("add", "sub") and isinstance(operands[1], Const) and operands[1].value == 0:
            return operands[0]
        if op == "add" and isinstance(operands[0], Const) and operands[0].value == 0:
            return operands[1]
        if op == "mul" and isinstance(operands[1], Const) and operands[1].value == 1:
            return operands[0]
        key = (op, dtype, operands)
        if key not in self.lines:
            self.lines[key] = Line(Value(f"v{len(self.lines)}", result or dtype), op, operands, dtype)
        return self.lines[key].result

    def _finite(self, a: Operand, b: Operand) -> Operand | None:
        """The x of `(x == x) & (|x| != inf)`, which is one comparison."""
        made: dict[Any, Line] = {line.result: line for line in self.lines.values()}
        first, second = made.get(a), made.get(b)
        if first and second and first.op == "eq" and second.op == "ne" and first.operands[0] == first.operands[1]:
            size, bound = second.operands
            inner = made.get(size)
            if (
                inner
                and inner.op == "abs"
                and inner.operands == first.operands[:1]
                and bound == Const(math.inf, size.dtype)
            ):
                return first.operands[0]
        return None

    def _cast(self, x: Operand, dtype: torch.dtype, rounded: bool = True) -> Operand:
        # In half precision torch rounds a number (a Python one, a 0-d float32) to the tensor's dtype first, except where it is
        # what a tensor is multiplied with or divided by.
        half = dtype in (torch.float16, torch.bfloat16)
        if isinstance(x, Const):
            if not dtype.is_floating_point:
                return Const(bool(x.value) if dtype == torch.bool else int(x.value), dtype)
            return Const(
                torch.tensor(x.value, dtype=dtype, device="cpu").item() if half and rounded else x.value, dtype
            )
        if x.dtype == dtype or (half and not rounded and x.dtype == torch.float32):
            return x
        key = ("cast", dtype, (x,))
        if key not in self.lines:
            self.lines[key] = Line(Value(f"v{len(self.lines)}", dtype), "cast", (x,), dtype)
        return self.lines[key].result

    def _clamp(self, name: str, dtype: torch.dtype, args: list[Any], kwargs: Any) -> Operand:
        # As two selections, which vectorise and let NaN pass as torch's does.
        low = {"relu": Const(0, dtype), "clamp_max": None}.get(name, args[1] if len(args) > 1 else kwargs.get("min"))
        high = args[1] if name == "clamp_max" else (args[2] if len(args) > 2 else kwargs.get("max"))
        x = self._cast(args[0], dtype)
        for bound, op in ((low, "lt"), (high, "gt")):
            if bound is not None:
                bound = self._operand(bound)
                if isinstance(bound, Value):  # NaN in a bound is NaN in the result
                    x = self._line({"lt": "max", "gt": "min"}[op], dtype, x, bound)
                elif bound.value != bound.value:
                    return Const(math.nan, dtype)
                else:
                    x = self._line("where", dtype, self._line(op, dtype, x, bound, result=torch.bool), bound, x)
        return x

    def _power(self, dtype: torch.dtype, args: list[Any]) -> Operand:
        base, exponent = args
        if isinstance(exponent, Const) and exponent.value in (2, 3):
            square = self._line("mul", dtype, base, base)
            return square if exponent.value == 2 else self._line("mul", dtype, square, base)
        if isinstance(exponent, Const) and exponent.value in (0.5, 1, -1, -2):
            if exponent.value == 0.5:
                return self._line("sqrt", dtype, base)
            power = base if abs(exponent.value) == 1 else self._line("mul", dtype, base, base)
            return power if exponent.value > 0 else self._line("div", dtype, Const(1, dtype), power)
        return self._line("pow", dtype, base, exponent)

    def _nan_to_num(self, dtype: torch.dtype, args: list[Any]) -> Operand:
        x, given = args[0], [*args[1:], None, None, None]
        limits = torch.finfo(dtype)
        if given[0] is not None and given[0] == given[1] == given[2]:  # one number for all that is not finite
            finite = self._line("lt", dtype, self._line("abs", dtype, x), Const(math.inf, dtype), result=torch.bool)
            return self._line("where", dtype, finite, x, given[0])
        for op, other, default, fill in (
            ("ne", x, 0.0, given[0]),
            ("eq", Const(math.inf, dtype), limits.max, given[1]),
            ("eq", Const(-math.inf, dtype), limits.min, given[2]),
        ):
            fill = Const(default if fill is None else fill.value, dtype)
            x = self._line("where", dtype, self._line(op, dtype, args[0], other, result=torch.bool), fill, x)
        return x

    def _common(self, node: torch.fx.Node) -> torch.dtype:
        operands = [arg.meta["val"] if isinstance(arg, torch.fx.Node) else arg for arg in node.args[:2]]
        return torch.result_type(*operands)  # type: ignore[arg-type]

    def _operand(self, arg: Any) -> Operand:
        if isinstance(arg, torch.fx.Node):
            arg = self._root(arg)
            if arg not in self.values:
                raise Unsupported(f"{_name(arg)} is used as a number")
            return self.values[arg]
        if isinstance(arg, (Value, Const)):
            return arg
        if arg is None:
            return Const(0, torch.float32)
        return Const(arg, {bool: torch.bool, int: torch.int64, float: torch.get_default_dtype()}[type(arg)])

    def _refusal(self, node: torch.fx.Node) -> "Refusal":
        return Refusal(str(node.target))


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.startswith("__")


def _name(node: torch.fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    return getattr(packet, "__name__", str(packet))
