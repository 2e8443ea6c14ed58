"""What to say to who uses a module, where it failed at an input of another dtype or place than its own numbers."""

import re
from typing import Any

from torch import nn, Tensor

from .._tree import tree_leaves


def misfit(error: Exception, module: nn.Module, xs: Any, call: str, name: str) -> Exception:
    """The error, and what helps, if it is about dtypes or devices and the input's is not the module's; else the error itself.

    - `call`: how the module is called with another input, {} for what that is: `"model(xs.to({}))"`.
    - `name`: what who calls it calls the module.
    """
    says = str(error).rstrip(". ") + "."
    own = next((x for x in (*module.parameters(), *module.buffers()) if x.is_floating_point()), None)
    given = [x for x in tree_leaves(xs) if isinstance(x, Tensor)]
    given = [x for x in given if len(given) == 1 or x.is_floating_point()]  # beside others a mask may be
    if own is None or type(error) not in (TypeError, ValueError, RuntimeError):
        return error
    for x in given:
        if x.device != own.device and re.search("device", says):
            return type(error)(
                f"{says} The input is on {x.device}, the module on {own.device}: give {call.format(repr(str(own.device)))}, or "
                f"{name}.to({str(x.device)!r})."
            )
        if x.dtype != own.dtype and re.search(DTYPES, says):
            either = f", or {name}.to({x.dtype})" if x.is_floating_point() else ""
            return type(error)(
                f"{says} The input is {x.dtype}, the module {own.dtype}: give {call.format(own.dtype)}{either}."
            )
    return error


DTYPES = r"dtype|scalar type|[Ii]nput type|torch\.(float|bfloat|u?int|bool|long)"
