"""A kernel as text, from which it is found or made again, in another process too: its programs and numbers, in base 64.

What is unpacked may have come with a file. So only the classes of this folder and torch's dtypes are: nothing that does anything when it is
made. (It is compiled and run, as all that a program of `torch.export` says.)
"""

import base64
import dataclasses
import functools
import io
import pickle
import zlib
from typing import Any

import torch

from ._convolution import Convolution
from ._kernels import backward_kernel, Bound, forward_kernel, network_backward_kernel
from ._network import Network, Product, Segment
from ._program import Const, Line, Program, Value
from ._signature import Role, Signature, Slots


def packed(kernel: Bound) -> str:
    if kernel.packed is None:
        make, *arguments = kernel.made
        text = io.BytesIO()
        _Pickler(text, 4).dump((make.__name__, arguments))
        kernel.packed = base64.b64encode(zlib.compress(text.getvalue())).decode()
    return kernel.packed


@functools.lru_cache(1000)
def unpacked(text: str) -> Bound:
    make, arguments = _Unpickler(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load()
    return {x.__name__: x for x in MAKERS}[make](*arguments)


MAKERS = (forward_kernel, backward_kernel, network_backward_kernel)
CLASSES = {
    (x.__module__, x.__name__): x
    for x in (
        Program, Line, Value, Const, Network, Segment, Product, Convolution, Signature, Slots, Role
    )
}  # fmt: skip


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        # As it is written, without what it has worked out.
        if type(obj) in CLASSES.values() and dataclasses.is_dataclass(obj):
            return type(obj), tuple(getattr(obj, field.name) for field in dataclasses.fields(obj))
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CLASSES:
            return CLASSES[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a kernel")
