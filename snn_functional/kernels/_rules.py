"""The table of rules: how each pointwise operation of aten is written down, by its name.

    @lowers("masked_fill")
    def _masked_fill(write, call, x, mask, value):
        return write.line("where", call.dtype, mask, value, x)

A rule is given a `Writer`, the call, and its positional arguments as operands, Python numbers or None; it gives the result's operand,
or a number. It raises `Refusal` where no formula has torch's bits in the dtype at hand. The rules are in `_operations.py` and
`_formulas.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from ._program import Operand
from ._writer import Writer


class Refusal(Exception):
    """This operation has no rule, or none that gives what torch gives. `why` goes on after its name."""

    def __init__(self, operation: str, why: str = "is not pointwise") -> None:
        super().__init__(f"{operation} {why}")
        self.operation, self.why = operation, why


FUSED = "rounds once or twice, depending on the processor"
PLACE = "depends on where in memory a number stands"


class Call(NamedTuple):
    """A call of an aten operation. `name` is without its overload; `dtype` the result's; `common` that of its first two operands, as
    `torch.result_type` says; `exact`: are torch's bits asked for? They are of a step, and not of its derivatives."""

    name: str
    dtype: torch.dtype
    common: torch.dtype
    kwargs: Mapping[str, Any]
    exact: bool


Number = Operand | float  # an argument that is one number for a neuron: known, or not
Rule = Callable[..., Number]

LOWER: dict[str, Rule] = {}
KEYWORDS: dict[str, frozenset[str]] = {}  # those that a rule reads; all others must be these:
HARMLESS = frozenset("dtype layout device pin_memory memory_format non_blocking".split())


def lower(write: Writer, call: Call, *args: Any) -> Operand:
    """The operand of what this call gives. Raises Refusal."""
    rule = LOWER.get(call.name)
    if rule is None or set(call.kwargs) - HARMLESS - KEYWORDS[call.name]:
        raise Refusal(call.name)
    try:
        return write.cast(rule(write, call, *args), call.dtype)
    except OverflowError as error:
        raise Refusal(call.name, f"takes a number too large for it: {error}") from None


def lowers(*names: str, keywords: str = "") -> Callable[[Rule], Rule]:
    """The rule of operations of these names, which reads these of their keywords."""

    def register(rule: Rule) -> Rule:
        for name in names:
            LOWER[name], KEYWORDS[name] = rule, frozenset(keywords.split())
        return rule

    return register


def inexact(call: Call, why: str) -> None:
    """Refuses an operation of which no formula has torch's bits. In a derivative, which is promised to rounding, it may stand."""
    if call.exact:
        raise Refusal(call.name, why)
