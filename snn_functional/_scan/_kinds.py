"""One kind of scan or another, and what becomes of it where there is no kernel.

All that is about kernels is loaded by the first step that may have one, because it is half of what `import snn_functional` would cost.
"""

import warnings
from typing import Any

import torch

from .._identity import generators, identify, undone
from .._tree import tree_map
from ._door import admit
from ._loop import loop, Step, step_name


def run(
    step: Step, params: Any, state: Any, inputs: Any, kind: str, reverse: bool, length: int | None
) -> tuple[Any, Any]:
    """What `scan` returns."""
    if kind in ("auto", "fused"):
        from ._fused import fused, NoCompiler, Several, Unsupported

        try:
            return fused(step, params, state, inputs, length, reverse, stages=kind == "auto")
        except Unsupported as reason:
            if kind == "fused":
                length = admit(step, params, state, inputs, length)
                once(step, params, state, inputs)  # an error of the user's step is raised as it is
                how = "in stages" if isinstance(reason, Several) else "as the loop"
                raise ValueError(
                    f'scan(kind="fused"): {step_name(step)} has no kernel: {reason}. With kind="auto" it runs {how}.'
                ) from reason.__cause__
        except NoCompiler as reason:
            if kind == "fused":
                raise
            _warn(str(reason))
    length = admit(step, params, state, inputs, length)
    if kind == "checkpointed":
        from ._checkpointed import checkpointed

        return checkpointed(step, params, state, inputs, length, reverse)
    return loop(step, params, state, inputs, length, reverse)


def once(step: Step, params: Any, state: Any, inputs: Any) -> None:
    """One step of the loop, for its errors; what it changes is put back, and where that cannot be it is not run."""
    what = identify(step, params, state, inputs)
    if what.opaque:
        return
    with undone([*generators(), *what.hold()]), torch.no_grad():
        first = tree_map(lambda x: x[:1], inputs)
        copied = lambda x: x.clone() if isinstance(x, torch.Tensor) else x  # a number in params, say
        loop(step, *(tree_map(copied, tree) for tree in (params, state, first)), 1, False)  # pyright: ignore


def _warn(reason: str) -> None:
    """Once for the process: what is wrong with one kernel is likely to be wrong with all."""
    if not _warned:
        _warned.append(reason)
        warnings.warn(f"scan: {reason}; every scan runs as the loop.", stacklevel=4)


_warned: list[str] = []
