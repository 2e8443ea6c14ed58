"""What all Triton kernels have in common, but for their text: how one is made of it, and what it is called with. Triton is imported by
the text only, when the first kernel is made."""

import functools
import hashlib
import linecache
import struct
import sys
import types
from typing import Any

import torch
from torch import Tensor


def merged(sizes: list[int], rows: list[list[int]]) -> list[tuple[int, list[int]]]:
    """Sizes and strides, neighbouring axes made one where all rows walk them as one."""
    axes: list[tuple[int, list[int]]] = []
    for n, *steps in zip(sizes, *rows) if rows else ():
        if axes and axes[-1][1] == [n * step for step in steps]:
            axes[-1] = axes[-1][0] * n, steps
        else:
            axes.append((n, steps))
    return axes


def indices(axes: int, of: str) -> list[str]:
    """Lines that take the number `of` apart, into `i0`, `i1` and so on, one for each axis."""
    text, rest = list[str](), of
    for d in range(axes - 1, 0, -1):
        text += [f"i{d} = {rest} % size{d}", f"rest{d} = {rest} // size{d}"]
        rest = f"rest{d}"
    return [*text, f"i0 = {rest}"] if axes else text


def looped(head: str, body: list[str]) -> list[str]:
    return [head, *(f"    {text}" for text in body)]


def kernel_text(header: str, names: list[str], body: list[str]) -> str:
    """No argument is compiled in, or each T, and each address that 16 does not divide, would have a kernel of its own."""
    text = f"@triton.jit(do_not_specialize=[*range({len(names)})])\n"
    text += f"def kernel({', '.join(names)}, BLOCK: tl.constexpr):\n"
    return header + text + "".join(f"    {x}\n" for x in body)


def as_bits(number: float) -> int:
    return struct.unpack("q", struct.pack("d", number))[0]


def bits(x: Tensor) -> Tensor:
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


@functools.cache
def load(source: str) -> Any:
    """`kernel` of this source. Triton reads a kernel's text where Python's tracebacks do, so it need not stand in a file."""
    name = f"snn_functional_{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    file = f"<{name}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    module = types.ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module
    exec(compile(source, file, "exec"), module.__dict__)
    return module.kernel
