"""From a pointwise step to one kernel over all of time, forward and backward. See README.md in this folder."""

import threading

import torch

from . import _gpu
from ._build import find, NoCompiler as NoCompiler
from ._plan import BACKENDS as BACKENDS, Plan as Plan
from ._program import Unsupported as Unsupported


OLDEST = (2, 4)  # of torch: before, make_fx reads derivatives wrongly or not at all

lock = threading.RLock()  # reading and building happen once, one at a time


def ready(device: str) -> None:
    """Raises Unsupported or NoCompiler where no kernel can be made for this type of device."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST:
        raise Unsupported(f"torch {torch.__version__} is older than {'.'.join(map(str, OLDEST))}, which kernels need")
    find() if device == "cpu" else _gpu.ready()
