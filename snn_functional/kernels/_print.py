"""Writing a program down in C++: one line of the program, one line of the text.

Half precision is computed in float and rounded after each operation, as torch does. Nothing here reorders or contracts, so a
step made of + - x / and comparisons gives the loop's bits.
"""

import math
from collections.abc import Sequence

import torch

from ._program import Const, Line, Operand, Program, rounded, Unsupported, Value


HALF = {torch.bfloat16: "bf16", torch.float16: "f16"}
STORED = HALF | {
    torch.float32: "float", torch.float64: "double", torch.bool: "uint8_t", torch.uint8: "uint8_t", torch.int8: "int8_t",
    torch.int16: "int16_t", torch.int32: "int32_t", torch.int64: "int64_t",
}  # fmt: skip

OPERATIONS = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "neg": "-{0}",
    "gt": "{0} > {1}", "ge": "{0} >= {1}", "lt": "{0} < {1}", "le": "{0} <= {1}", "eq": "{0} == {1}", "ne": "{0} != {1}",
    "and": "{0} & {1}", "or": "{0} | {1}", "not": "!{0}", "where": "{0} ? {1} : {2}", "cast": "({type})({0})",
    "min": "(({0} < {1}) | ({0} != {0})) ? {0} : {1}", "max": "(({0} > {1}) | ({0} != {0})) ? {0} : {1}",
    "abs": "{0} < 0 ? -{0} : {0}", "sign": "{0} > 0 ? ({type})1 : {0} < 0 ? ({type})-1 : ({type})0",
}  # fmt: skip
FLOATING = OPERATIONS | {"abs": "__builtin_fabs{f}({0})", "round": "__builtin_nearbyint{f}({0})"}
FLOATING |= {"exp": "exp_of({0})", "tanh": "tanh_of({0})"}
UNARY = """sqrt exp2 expm1 log log1p log2 sin cos tan sinh cosh asin acos atan erf erfc floor ceil trunc"""
FLOATING |= {name: f"__builtin_{name}{{f}}({{0}})" for name in UNARY.split()}
FLOATING |= {name: f"__builtin_{name}{{f}}({{0}}, {{1}})" for name in ("pow", "atan2", "fmod")}


def stored(dtype: torch.dtype) -> str:
    """The type in memory. A truth is a byte there: in a loop that loads a bool for more than one selection, gcc sees no vectors."""
    if dtype not in STORED:
        raise Unsupported(f"{dtype} has no kernel")
    return STORED[dtype]


def computed(dtype: torch.dtype) -> str:
    """The type in a register."""
    return "float" if dtype in HALF else "bool" if dtype == torch.bool else stored(dtype)


def keep(x: str, dtype: torch.dtype) -> str:
    """The expression that stores x."""
    return f"to_{HALF[dtype]}({x})" if dtype in HALF else f"({stored(dtype)})({x})"


def operand(x: Operand) -> str:
    if not isinstance(x, Const):
        return x.name
    if x.dtype == torch.bool:
        return "true" if x.value else "false"
    if not x.dtype.is_floating_point:
        return f"({stored(x.dtype)}){int(x.value)}"
    kind = "D" if x.dtype == torch.float64 else "F"
    value = rounded(float(x.value), torch.float64 if kind == "D" else torch.float32)
    if math.isnan(value) or math.isinf(value):
        return f"NAN_{kind}" if math.isnan(value) else f"({'-' if value < 0 else ''}INF_{kind})"
    return f"({value.hex()}{'' if kind == 'D' else 'f'})"


def line(step: Line) -> str:
    table = FLOATING if step.dtype.is_floating_point else OPERATIONS
    if step.op not in table:
        raise Unsupported(f"{step.op} of {step.dtype} has no kernel")
    template = table[step.op]
    if step.op == "cast" and step.operands[0].dtype == torch.bool:
        template = "{0} ? ({type})1 : ({type})0"  # as a conversion it would keep the loop from being vectorised
    f = "" if step.dtype == torch.float64 else "f"
    expression = template.format(*map(operand, step.operands), type=computed(step.dtype), f=f)
    exact = step.op in ("where", "neg", "abs", "min", "max") or not step.result.dtype.is_floating_point
    if step.result.dtype in HALF and not exact:
        expression = f"round_{HALF[step.result.dtype]}({expression})"
    return f"const {computed(step.result.dtype)} {step.result.name} = {expression};"


def free(numbers: Sequence[Value], first: int, indent: str) -> str:
    """The free numbers of a program, of which the call has the values from its `first` one on."""
    return "".join(
        f"{indent}const {computed(x.dtype)} {x.name} = ({computed(x.dtype)})c.free[{i}];\n"
        for i, x in enumerate(numbers, first)
    )


def body(program: Program, uniform: set[Operand], indent: str) -> tuple[str, str]:
    """The lines that are the same for all neurons, to stand before the loop, and those of each neuron.

    `uniform` are the leaves, and the free numbers, that are one number for all.
    """
    same, before, inside, seen = set(uniform), [], [], set()
    width = next((leaf.dtype for leaf in program.leaves if leaf.dtype.is_floating_point), torch.float32)
    mask = "double" if width == torch.float64 else "float"
    for step in program.lines:
        if all(x in same or isinstance(x, Const) for x in step.operands):
            same.add(step.result)
            before.append(line(step))
            continue
        for x in step.operands:
            if x in same and x not in seen and x.dtype == torch.bool:
                seen.add(x)
                before.append(f"const {mask} {operand(x)}_ = opaque<{mask}>({operand(x)});")
                inside.append(f"const bool {operand(x)} = {operand(x)}_ != 0;")
        inside.append(line(step))
    return "".join(f"{indent}{text}\n" for text in before), "".join(f"{indent}    {text}\n" for text in inside)
