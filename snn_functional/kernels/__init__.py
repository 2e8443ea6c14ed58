"""From a pointwise step to one kernel over all of time, forward and backward. See README.md in this folder."""

import torch

from ._build import find, load as load, NoCompiler as NoCompiler, THREADS as THREADS
from ._convolution import convolution_of as convolution_of
from ._kernels import BACKENDS as BACKENDS, whole_rows as whole_rows
from ._lines import line_of as line_of, place as place
from ._lower import (
    alike as alike,
    elementwise as elementwise,
    made_of_nothing as made_of_nothing,
    pointwise as pointwise,
    program_of as program_of,
)
from ._network import events as events, Factors as Factors, factors as factors, Flow as Flow, Product as Product
from ._packed import packed as packed, unpacked as unpacked
from ._plan import (
    Later as Later,
    only_floats as only_floats,
    Plan as Plan,
    Products as Products,
    read as read,
    Source as Source,
)
from ._products import gradient as gradient
from ._program import being_read as being_read, Unsupported as Unsupported
from ._signature import (
    broadcasts as broadcasts,
    lane_axis as lane_axis,
    Role as Role,
    Signature as Signature,
    split as split,
)
from ._tape import (
    broadcast as broadcast,
    Form as Form,
    LEAF as LEAF,
    Node as Node,
    PART as PART,
    performed as performed,
    RESHAPES as RESHAPES,
    Tape as Tape,
)
from ._watch import Watch as Watch


OLDEST = (2, 4)  # of torch: before, derivatives cannot be read


def ready(device: str) -> None:
    """Raises Unsupported or NoCompiler where no kernel can be made for this type of device."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST:
        raise Unsupported(f"torch {torch.__version__} is older than {'.'.join(map(str, OLDEST))}, which kernels need")
    if device == "cpu":
        find()
    else:
        from . import _gpu  # which few need

        _gpu.ready()
