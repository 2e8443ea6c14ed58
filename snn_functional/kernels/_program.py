"""Reading a step: what it does to one neuron in one time step, as a straight line of scalar operations.

    trace(function, leaves) -> Program        function(*leaves) -> tuple of tensors, everything pointwise

The function is run once by `make_fx` on examples of two neurons; the aten operations it calls are looked up in the table below
and written down as the table's few scalar ones. Whatever is not pointwise (a sum, a matmul, a random number) is not in the table:
`Unsupported` names it, with the line of the user's code. A derivative is traced like anything else, as the function
`torch.func.vjp(step)` or `torch.func.jvp(step)`, so nothing here knows calculus, and nothing knows a neuron.

This file is the only one that touches `make_fx`.
"""

import contextlib
import dataclasses
import linecache
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .._functorch import outside


class Unsupported(Exception):
    """This step has no scalar program; the message says which operation, and where it stands."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A number of the program: a leaf or the result of a line, of a dtype."""

    name: str
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True)
class Const:
    """A number known when the program is written."""

    value: float | int | bool
    dtype: torch.dtype


Operand = Value | Const


@dataclasses.dataclass(frozen=True)
class Line:
    """`result = op(*operands)`; arithmetic is done in `dtype`, which for comparisons is not the result's (bool)."""

    result: Value
    op: str
    operands: tuple[Operand, ...]
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True)
class Program:
    """`leaves -> outputs`."""

    leaves: tuple[Value, ...]
    lines: tuple[Line, ...]
    outputs: tuple[Operand, ...]
    function: Callable[..., Sequence[Tensor]] = dataclasses.field(compare=False, repr=False)

    def only(self, wanted: Sequence[int]) -> "Program":
        """The program of some of the outputs: lines that these do not need are dropped."""
        outputs = tuple(self.outputs[i] for i in wanted)
        needed, lines = set(outputs), []
        for line in reversed(self.lines):
            if line.result in needed:
                needed |= set(line.operands)
                lines.append(line)
        function = lambda *leaves: [self.function(*leaves)[i] for i in wanted]
        return Program(self.leaves, tuple(lines[::-1]), outputs, function)

    def given(self, other: "Program", first: int) -> "Program":
        """The same, with what `other` gives from its output `first` on as further leaves: no line works that out again."""
        ids: dict[Any, int] = {}
        number = lambda key: ids.setdefault(key, len(ids))

        def numbered(program: Program) -> dict[Operand, int]:
            known: dict[Operand, int] = {leaf: number(leaf) for leaf in program.leaves}
            for line in program.lines:
                operands = tuple(known[x] if isinstance(x, Value) else x for x in line.operands)
                known[line.result] = number((line.op, line.dtype, operands))
            return known

        theirs, mine = numbered(other), numbered(self)
        new = [Value(f"b{i}", x.dtype) for i, x in enumerate(other.outputs[first:])]
        known = {theirs[x]: leaf for x, leaf in zip(other.outputs[first:], new) if isinstance(x, Value)}
        place: dict[Operand, Operand] = {x: known[i] for x, i in mine.items() if i in known and x not in self.leaves}
        swap = lambda operands: tuple(place[x] if x in place else x for x in operands)
        lines = tuple(dataclasses.replace(x, operands=swap(x.operands)) for x in self.lines if x.result not in place)
        whole = Program((*self.leaves, *new), lines, swap(self.outputs), self.function)
        return whole.only(range(len(self.outputs)))


def trace(function: Callable[..., Sequence[Tensor]], leaves: Sequence[Tensor]) -> Program:
    """The program of `function` at leaves like these: their dtypes, and whether they are 0-d."""
    with outside():
        # Distinct numbers in distinct tensors: one tensor given twice would be one input.
        examples = [_example(i, leaf) for i, leaf in enumerate(leaves)]
        try:
            module = _make_fx(lambda *args: list(function(*args)), examples)
        except Unsupported:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise Unsupported(f"it cannot be traced{_line_of(error)}: {type(error).__name__}: {reason}") from error
        try:
            return _Reader(module, examples).program()
        except (TypeError, OverflowError, KeyError) as error:
            raise Unsupported(f"it cannot be read: {type(error).__name__}: {error}") from error
        except _Refusal as refusal:
            finder = _Finder(refusal.operation)
            with contextlib.suppress(Exception), finder:
                function(*examples)
            raise Unsupported(f"{refusal.operation} is not pointwise{finder.found}") from None


class _Refusal(Exception):
    def __init__(self, operation: str) -> None:
        self.operation = operation


class _Finder(TorchDispatchMode):
    """Runs a step once more, to find the line that calls an operation."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation, self.found = operation, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) == self.operation and not self.found:
            frame = sys._getframe(1)
            while frame is not None and not _is_users(frame.f_code.co_filename):
                frame = frame.f_back
            if frame is not None:
                self.found = _place(frame.f_code.co_filename, frame.f_lineno)
        return func(*args, **(kwargs or {}))


def _line_of(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    return _place(frames[-1].filename, frames[-1].lineno or 0) if frames else ""


def _is_users(filename: str) -> bool:
    ours = os.path.dirname(os.path.dirname(__file__))
    mine = filename.startswith(os.path.join(ours, "kernels")) or filename.startswith(os.path.join(ours, "_scan"))
    return not (mine or filename.startswith((os.path.dirname(torch.__file__), "<string>", "<eval_with_key>")))


def _place(filename: str, line: int) -> str:
    text = linecache.getline(filename, line).strip()
    return f" ({os.path.basename(filename)}:{line}{': ' + text if text else ''})"


def _make_fx(function: Callable[..., Any], examples: list[Tensor]) -> torch.fx.GraphModule:
    from torch._decomp import get_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    names = [name for name in DECOMPOSED.split() if hasattr(torch.ops.aten, name)]
    table: Any = get_decompositions([getattr(torch.ops.aten, name) for name in names])
    with torch.enable_grad():
        return make_fx(function, decomposition_table=table)(*examples)


def _example(i: int, leaf: Tensor) -> Tensor:
    shape = (2,) if leaf.dim() else ()
    if not leaf.is_floating_point():
        return torch.ones(shape, dtype=leaf.dtype)
    return torch.full(shape, 0.3 + 0.01 * i, dtype=leaf.dtype)


DECOMPOSED = """leaky_relu leaky_relu_backward elu elu_backward celu softplus softplus_backward silu silu_backward mish hardtanh
hardtanh_backward hardsigmoid hardsigmoid_backward hardswish hardswish_backward relu6 gelu gelu_backward sigmoid_backward
tanh_backward threshold_backward threshold log_sigmoid_forward log_sigmoid_backward logit lerp heaviside addcmul addcdiv
rsub softshrink hardshrink xlogy frac"""

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


class _Reader:
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
            return Const(torch.tensor(x.value, dtype=dtype).item() if half and rounded else x.value, dtype)
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

    def _refusal(self, node: torch.fx.Node) -> "_Refusal":
        return _Refusal(str(node.target))


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.startswith("__")


def _name(node: torch.fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    return getattr(packet, "__name__", str(packet))
