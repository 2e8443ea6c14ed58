"""Reading a step: from a function of tensors to a program.

    trace(function, leaves) -> Program        function(*leaves) -> tuple of tensors, everything pointwise

The function is run once by `make_fx` on examples of two neurons; the aten operations it calls are looked up in the table of
`_lower.py` and written down as the few scalar ones. Whatever is not pointwise (a sum, a matmul, a random number) is not in the
table: `Unsupported` names it, with the line of the user's code. A derivative is traced like anything else, as the function
`torch.func.vjp(step)` or `torch.func.jvp(step)`, so nothing here knows calculus, and nothing knows a neuron.

This file is the only one that touches `make_fx`.
"""

import contextlib
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .._functorch import outside
from .._tree import tree_leaves
from ._lower import Reader, Refusal
from ._program import Program, Unsupported


def trace(function: Callable[..., Sequence[Tensor]], leaves: Sequence[Tensor], exact: bool = True) -> Program:
    """The program of `function` at leaves like these: their dtypes, and whether they are 0-d."""
    with outside(), torch.device("cpu"):
        # Distinct numbers in distinct tensors: one tensor given twice would be one input.
        examples = [_example(i, leaf) for i, leaf in enumerate(leaves)]
        try:
            module = _make_fx(lambda *args: list(function(*args)), examples)
        except Unsupported:
            raise
        except Exception as error:
            # What fails on two neurons is often an operation over all of them, some lines before.
            if found := _found(_changes_shape, function, examples):
                raise Unsupported(f"{found[0]} is not pointwise{found[1]}") from error
            reason = (str(error).splitlines() or [""])[0]
            raise Unsupported(
                f"on single neurons it fails{_line_of(error)}: {type(error).__name__}: {reason}"
            ) from error
        try:
            return Reader(module, examples, exact).program()
        except (TypeError, OverflowError, KeyError) as error:
            raise Unsupported(f"it cannot be read: {type(error).__name__}: {error}") from error
        except Refusal as refusal:
            name = refusal.operation
            found = _found(lambda func, args, result: str(func) == name, function, examples)
            raise Unsupported(f"{name} {refusal.why}{found[1] if found else ''}") from None


def _found(which: Callable[..., bool], function: Callable[..., Any], examples: list[Tensor]) -> tuple[str, str] | None:
    """The first such operation, and the user's line that calls it: the function is run once more."""
    finder = _Finder(which)
    with contextlib.suppress(Exception), finder:
        function(*examples)
    return finder.found


class _Finder(TorchDispatchMode):
    def __init__(self, which: Callable[..., bool]) -> None:
        super().__init__()
        self.which, self.found = which, None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.found is None and self.which(func, args, result):
            frame = sys._getframe(1)
            while frame is not None and not _is_users(frame.f_code.co_filename):
                frame = frame.f_back
            self.found = str(func), _place(frame.f_code.co_filename, frame.f_lineno) if frame else ""
        return result


def _changes_shape(func: Any, args: Any, result: Any) -> bool:
    shapes = [x.shape for x in tree_leaves(args) if isinstance(x, Tensor)]
    whole = torch.broadcast_shapes(*shapes)
    return len(whole) > 0 and isinstance(result, Tensor) and result.shape != whole


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
    from torch.fx.experimental.proxy_tensor import make_fx

    def closed(*args: Tensor) -> Any:
        with _Closed():
            return function(*args)

    with torch.enable_grad():
        return make_fx(closed)(*examples)


class _Closed(TorchFunctionMode):
    """Refuses to read a number out of a tensor: another may stand there tomorrow, where the kernel would keep this one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in NUMBERS:
            raise Unsupported(f"it takes a number out of a tensor, by {func.__name__}")
        return func(*args, **(kwargs or {}))


NUMBERS = {getattr(Tensor, name) for name in "item tolist numpy __array__ __bool__ __float__ __int__ __index__".split()}


def _example(i: int, leaf: Tensor) -> Tensor:
    shape = (2,) if leaf.dim() else ()
    if not leaf.is_floating_point():
        return torch.ones(shape, dtype=leaf.dtype)
    return torch.full(shape, 0.3 + 0.01 * i, dtype=leaf.dtype)
