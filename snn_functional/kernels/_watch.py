"""What a step asks its tensors for while it is read: shapes are theirs, numbers are not.

Around the step this mode sees every call on a tensor. Tensors that the step holds beside its arguments are exchanged for their
stand-ins, so that they are read, and differentiated, like arguments. What a stand-in cannot answer as the real tensor would (a number,
an address, strides, whether it is differentiated) is refused.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ._program import Refused


class Watch(TorchFunctionMode):
    """`standing`: by the id of a tensor that the step holds, what stands in for it. `device`: where the real ones are."""

    def __init__(self, standing: Mapping[int, Tensor], device: torch.device) -> None:
        super().__init__()
        self.standing, self.device = standing, device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.standing:
            args, kwargs = self._exchanged(args), self._exchanged(kwargs)
        name = func.__name__
        if name in ("__get__", "__set__", "__delete__"):
            name = func.__self__.__name__
            if func.__name__ != "__get__":
                raise Refused(f"it sets {name} of a tensor")
            if name not in ANSWERED and name not in VIEWS and name not in PLACES:
                raise Refused(f"it asks a tensor for {name}")
        if name in PLACES and isinstance(args[0] if args else None, Tensor):
            return self._placed(name, func, args)
        if name in MOVES:
            self._stays(name, args, kwargs)
        if name in REFUSED:
            raise Refused(f"it takes a number out of a tensor, by {name}")
        if name == "tensor_split" and any(isinstance(x, Tensor) for x in (*args[1:], *kwargs.values())):
            raise Refused("it takes numbers out of a tensor, by tensor_split")
        if name in GRAPH:
            raise Refused(f"it calls {name} of a tensor")
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) or result is None or name in ANSWERED:
            return result
        if isinstance(result, (tuple, list)) and all(isinstance(x, Tensor) for x in result):
            return result
        raise Refused(f"it asks a tensor for {name}")

    def _exchanged(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self.standing.get(id(x), x)
        if type(x) in (tuple, list):
            return type(x)([self._exchanged(part) for part in x])
        if type(x) is dict:
            return {k: self._exchanged(part) for k, part in x.items()}
        return x

    def _placed(self, name: str, func: Any, args: Any) -> Any:
        if name == "device":
            return self.device
        if name == "is_cuda":
            return self.device.type == "cuda"
        if name == "get_device":
            return -1 if self.device.type == "cpu" else self.device.index
        if self.device.type != "cpu":
            raise Refused(f"it asks a tensor for {name}")
        return func(*args)

    def _stays(self, name: str, args: Any, kwargs: Any) -> None:
        """A stand-in is on the CPU, wherever the real tensor is: to ask for its place must be to ask for no move."""
        places = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, (str, torch.device)) or type(x) is int]
        places += [name] if name in ("cpu", "cuda") else []
        for place in places:
            there = torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
            if there.type != self.device.type or there.index not in (None, self.device.index):
                raise Refused(f"it moves a tensor to {there}")


PLACES = {
    "device",
    "is_cuda",
    "is_cpu",
    "is_meta",
    "is_mps",
    "is_xpu",
    "is_mtia",
    "is_xla",
    "is_vulkan",
    "is_ipu",
    "is_maia",
    "get_device",
}
VIEWS = {"T", "mT", "H", "mH", "real", "imag"}
GRAPH = set(
    "requires_grad_ retain_grad register_hook register_post_accumulate_grad_hook backward __hash__ share_memory_ resize_ set_".split()
)
MOVES = {"cpu", "cuda", "to"}
REFUSED = set(
    "item tolist numpy __array__ __bool__ __float__ __int__ __index__ __complex__ __contains__ is_nonzero __dlpack__".split()
)
ANSWERED = set(
    """shape size dim ndim ndimension numel nelement dtype is_floating_point is_complex is_signed __len__ element_size itemsize nbytes
    layout is_sparse is_sparse_csr is_quantized is_nested is_mkldnn is_conj is_neg is_same_size result_type promote_types can_cast
    __repr__ __format__ names has_names""".split()
)
