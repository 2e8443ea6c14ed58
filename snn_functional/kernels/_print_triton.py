"""Writing programs down in Triton: `_print.py` in another language, with the same rules.

Half precision is computed in float32 and rounded where torch rounds. bfloat16 is read, rounded and written as bits: what a
conversion does differs between GPUs, and in Triton's interpreter. Functions that are not exact are libdevice's, as torch's are.
"""

import math
from collections.abc import Iterable

import torch

from ._program import Const, Line, Operand, Program, rounded as nearest, Unsupported, Value


HEADER = """import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def from_bf16(bits):
    return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def round_bf16(x):
    bits = x.to(tl.int32, bitcast=True)
    even = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return tl.where(x != x, float("nan"), even.to(tl.float32, bitcast=True))


@triton.jit
def to_bf16(x):
    return (x.to(tl.int32, bitcast=True) >> 16).to(tl.int16)


"""

ROUNDED = {torch.bfloat16: "round_bf16({0})", torch.float16: "({0}).to(tl.float16).to(tl.float32)"}
COMPUTED = {
    torch.bfloat16: "tl.float32", torch.float16: "tl.float32", torch.float32: "tl.float32", torch.float64: "tl.float64",
    torch.bool: "tl.int1", torch.uint8: "tl.uint8", torch.int8: "tl.int8", torch.int16: "tl.int16", torch.int32: "tl.int32",
    torch.int64: "tl.int64",
}  # fmt: skip

OPERATIONS = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "neg": "-{0}", "abs": "tl.abs({0})",
    "gt": "{0} > {1}", "ge": "{0} >= {1}", "lt": "{0} < {1}", "le": "{0} <= {1}", "eq": "{0} == {1}", "ne": "{0} != {1}",
    "and": "{0} & {1}", "or": "{0} | {1}", "not": "~{0}", "where": "tl.where({0}, {1}, {2})", "cast": "{0}.to({type})",
    "min": "tl.where(({0} < {1}) | ({0} != {0}), {0}, {1})", "max": "tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})",
    "sign": "tl.where({0} > 0, 1, tl.where({0} < 0, -1, 0)).to({type})",
}  # fmt: skip
BOOLEAN = OPERATIONS | {"add": "{0} | {1}"}
FLOATING = OPERATIONS | {
    "div": "tl.div_rn({0}, {1})", "sqrt": "tl.sqrt_rn({0})", "floor": "tl.floor({0})", "ceil": "tl.ceil({0})",
    "round": "libdevice.rint({0})",
}  # fmt: skip
FLOATING |= {name: f"libdevice.{name}({{0}})" for name in """exp exp2 expm1 log log1p log2 sin cos tan tanh sinh cosh asin acos atan
erf erfc trunc""".split()}  # fmt: skip
FLOATING |= {name: f"libdevice.{name}({{0}}, {{1}})" for name in ("pow", "atan2", "fmod")}
DOUBLE = FLOATING | {"div": "{0} / {1}", "sqrt": "tl.sqrt({0})"}  # IEEE for float64 by itself


def computed(dtype: torch.dtype) -> str:
    """The type in a register."""
    if dtype not in COMPUTED:
        raise Unsupported(f"{dtype} has no kernel")
    return COMPUTED[dtype]


def read(pointer: str, dtype: torch.dtype) -> str:
    """The expression of what lies there, in its computed type."""
    if dtype == torch.bfloat16:
        return f"from_bf16({pointer})"
    return f"{pointer}.to(tl.float32)" if dtype == torch.float16 else pointer


def rounded(x: str, dtype: torch.dtype) -> str:
    return ROUNDED[dtype].format(x) if dtype in ROUNDED else x


def keep(x: str, dtype: torch.dtype) -> str:
    """The expression that is stored for x, which is rounded already."""
    return f"to_bf16({x})" if dtype == torch.bfloat16 else x


def cast(x: str, have: torch.dtype, want: torch.dtype) -> str:
    """The expression of x, as another type is in a register."""
    return x if have == want else rounded(f"{x}.to({computed(want)})", want)


def free(numbers: Iterable[Value], first: int, shape: str = "[BLOCK]") -> list[str]:
    """The free numbers of a program. They are arguments by value, so that a CUDA graph holds them, and no memory has to: the bits of a
    float64 as an integer, because Triton takes every floating argument for a float32."""
    bits = "tl.cast(free{0}, tl.int64).to(tl.float64, bitcast=True)"
    return [
        f"{x.name} = tl.broadcast_to({bits.format(i)}.to({computed(x.dtype)}), {shape})"
        for i, x in enumerate(numbers, first)
    ]


class Lines:
    """Programs written into one kernel: what stands before the loop over time because time does not change it, and the rest.

    Every value is a block of one shape, a number that is the same for all lanes too: in a register of each thread it is so anyway.
    `constants`: how their names begin.
    """

    def __init__(self, still: Iterable[Operand], shape: str = "[BLOCK]", constants: str = "c") -> None:
        self.still, self.shape, self.prefix = set(still), shape, constants
        self.before: list[str] = []
        self.constants: dict[tuple[str, str], str] = {}

    def operand(self, x: Operand) -> str:
        if not isinstance(x, Const):
            return x.name
        # Every constant has a type of its own, or a float64 program would compute with float32 ones.
        key = computed(x.dtype), _literal(x)
        if key not in self.constants:
            self.constants[key] = f"{self.prefix}{len(self.constants)}"
            self.before.append(f"{self.constants[key]} = tl.full({self.shape}, {key[1]}, {key[0]})")
        return self.constants[key]

    def in_loop(self, program: Program) -> list[str]:
        """The lines that stand in the loop."""
        inside = []
        for step in program.lines:
            text = self._line(step)
            if all(x in self.still or isinstance(x, Const) for x in step.operands):
                self.still.add(step.result)
                self.before.append(text)
            else:
                inside.append(text)
        return inside

    def cast(self, x: Operand, dtype: torch.dtype) -> str:
        return cast(self.operand(x), x.dtype, dtype)

    def _line(self, step: Line) -> str:
        table = FLOATING if step.dtype.is_floating_point else BOOLEAN if step.dtype == torch.bool else OPERATIONS
        table = DOUBLE if step.dtype == torch.float64 else table
        if step.op not in table:
            raise Unsupported(f"{step.op} of {step.dtype} has no kernel")
        text = table[step.op].format(*map(self.operand, step.operands), type=computed(step.dtype))
        exact = step.op in ("where", "neg", "abs", "min", "max")
        return f"{step.result.name} = {text if exact else rounded(text, step.result.dtype)}"


def _literal(x: Const) -> str:
    if not x.dtype.is_floating_point:
        return str(bool(x.value) if x.dtype == torch.bool else int(x.value))
    value = nearest(float(x.value), torch.float64 if x.dtype == torch.float64 else torch.float32)
    return repr(value) if math.isfinite(value) else f'float("{value}")'
