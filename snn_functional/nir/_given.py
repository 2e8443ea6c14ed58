"""The parameters of one node, as they came: taken by name, and what is missing, unknown or of a wrong shape refused with the node."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._graph import Node


Shape = tuple[int, ...]


def seconds(call: str, dt: Any) -> float:
    """The length of a step. Raises ValueError for what is none."""
    try:
        found = float(dt)
    except (TypeError, ValueError):
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError(f"nir.{call}(dt={dt!r}): a step is longer than 0 seconds, and a number, as 1e-4.")
    return found


class Given:
    """The parameters of the node `name`, of which each is asked for once."""

    def __init__(self, name: str, node: Node, dtype: torch.dtype) -> None:
        self.name, self.kind, self.numbers, self.dtype = name, node.kind, dict(node.numbers), dtype

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.kind})"

    def wrong(self, says: str) -> ValueError:
        return ValueError(f"nir.read: {self}: {says}")

    def take(self, key: str, *default: Any) -> Any:
        """The parameter as it came. Raises ValueError where there is none, and no default."""
        if key not in self.numbers and not default:
            has = ", ".join(sorted(self.numbers)) or "nothing"
            raise self.wrong(f"it has no {key}. It has {has}.")
        return self.numbers.pop(key, *default)

    def floats(self, key: str, *default: Any) -> Tensor:
        """The parameter as a tensor."""
        value = self.take(key, *default)
        if not isinstance(value, Tensor):
            try:
                array = np.array(value)
                wide = (
                    array.dtype.kind in "biu" or not array.ndim or array.dtype.itemsize > 8 or not array.dtype.isnative
                )
                if value is None or array.dtype.kind not in "biufc":
                    raise TypeError
                value = torch.from_numpy(array.astype(np.float64) if wide and array.dtype.kind != "c" else array)
            except (TypeError, ValueError):
                raise self.wrong(f"{key} holds no numbers, but {value!r:.60}.") from None
        if value.is_complex() or bool(value.isnan().any()):
            raise self.wrong(f"{key} holds {'NaN' if not value.is_complex() else 'complex numbers'}.")
        return value.detach().to(self.dtype)

    def doubles(self, key: str, *default: Any) -> Any:
        """The parameter as a tensor in double precision; the default, where there is none, as it is."""
        if default and key not in self.numbers:
            return default[0]
        dtype, self.dtype = self.dtype, torch.float64
        try:
            return self.floats(key)
        finally:
            self.dtype = dtype

    def whole(self, key: str, axes: int, *default: Any, least: int = 0) -> Shape:
        """The parameter as whole numbers, one for each axis."""
        value = self.take(key, *default)
        found = np.array(value).reshape(-1)
        if found.dtype.kind not in "iuf" or len(found) not in (1, axes) or (found % 1 != 0).any():
            raise self.wrong(f"{key} is a whole number, or {axes}, but {value!r} came.")
        if (found < least).any():
            raise self.wrong(f"{key} is {least} or more, but {value!r} came.")
        return tuple(int(n) for n in found) * (axes if len(found) == 1 else 1)

    def sizes(self, key: str) -> Shape | None:
        """The parameter as a shape of any length; None where there is none."""
        value = self.take(key, None)
        if isinstance(value, dict):  # of the library, by the name of a port
            value = next(iter(value.values()), None)
        if value is None:
            return None
        found = np.array(value).reshape(-1)
        if found.size and (found.dtype.kind not in "iuf" or (found % 1 != 0).any() or (found < 0).any()):
            raise self.wrong(f"{key} is whole numbers, 0 or more, but {value!r:.60} came.")
        return tuple(int(n) for n in found)

    def same_shape(self, tensors: dict[str, Tensor]) -> Shape:
        """The one shape of these parameters."""
        shapes = {key: tuple(x.shape) for key, x in tensors.items()}
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
            raise self.wrong(f"its parameters are of one shape, that of its neurons, but came as {listed}.")
        return next(iter(shapes.values()))

    def fits(self, own: Shape, shape: Shape | None) -> Shape | None:
        """The shape of what is put out by a node of `own` shape, () for any, that gets `shape`."""
        if shape is None or own == shape:
            return own or shape
        if own:
            raise self.wrong(f"it is of {own}, but gets {shape}.")
        return shape

    def done(self) -> None:
        """Refuses what nobody asked for."""
        if self.numbers:
            raise self.wrong(f"it has parameters that NIR does not give it: {', '.join(sorted(self.numbers))}.")
