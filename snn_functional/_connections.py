"""Connections: trees that map spikes to currents. What a recurrent neuron feeds back, and what an LSTM's gates are made of.

    V                     current = V spk                        a number or tensor, each neuron to itself
    Linear(weight, bias)  current = spk weight^T + bias          all to all
    Conv2d(weight, bias)  current = weight * spk + bias          along the last two axes

Their tensors are leaves, so they get gradients, axes of `vmap` and a place in `state_dict`-like trees as any parameter does.
`linear` and `conv2d` are the same as layers of a `chain`, which remember nothing.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ._neuron import at_least, Neuron, pair_with_mask
from ._tree import described, Leaf, leaf, pytree, refuse_number, static


@pytree
class Linear:
    """- `weight`: (out, in). - `bias`: (out,), or one number for all. Drawn weights: `Linear.random(in, out)`."""

    weight: Leaf
    bias: Leaf = leaf(default=0.0)

    def __check__(self) -> None:
        check_weight(self)
        _check_bias(self)

    def __call__(self, x: Tensor) -> Tensor:
        """`x` [..., in] -> [..., out]. Raises ValueError and TypeError where x does not fit the weight, or that is not floating."""
        _check(self, x, axes=1, features=-1)
        linear = torch.nn.functional.linear
        return linear(x, self.weight, self.bias) if self.bias.dim() else linear(x, self.weight) + self.bias

    @classmethod
    def random(cls, inputs: int, outputs: int, *, bias: bool = True, generator: Any = None, **place: Any) -> "Linear":
        """Weights drawn as `torch.nn.Linear` draws them: uniform within 1 / sqrt(inputs). `place`: dtype, device."""
        return cls(*_uniform((outputs, inputs), bias, generator, place))


@pytree
class Conv2d:
    """- `weight`: (out, in / groups, height, width). - `bias`: (out,), or one number for all.
    - `stride`: pixels from one place of the kernel to the next, 1 or more.
    - `padding`: zeros around the image, a number for both axes; or "same", half of the kernel's reach on each side: at stride 1 the image
      keeps its size. For an odd kernel only.
    - `dilation`: pixels from one number of the kernel to the next, 1 or more.
    - `groups`: channels in and out are divided into so many, each of which sees its own alone.
    """

    weight: Leaf
    bias: Leaf = leaf(default=0.0)
    stride: int = static(default=1)
    padding: int | str = static(default="same")
    dilation: int = static(default=1)
    groups: int = static(default=1)

    def __check__(self) -> None:
        check_weight(self)
        _check_bias(self)
        for name in ("stride", "dilation", "groups"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"Conv2d({name}={value!r}): expected a whole number, 1 or more.")
        if len(self.weight) % self.groups:
            raise ValueError(
                f"Conv2d(weight {tuple(self.weight.shape)}, groups={self.groups}): the {len(self.weight)} channels that come out are not "
                "divided by the groups."
            )
        if not (self.padding == "same" or (isinstance(self.padding, int) and self.padding >= 0)):
            raise ValueError(f'Conv2d(padding={self.padding!r}): expected "same" or a number of pixels, 0 or more.')
        if self.padding == "same" and isinstance(self.weight, Tensor) and self.weight.dim() > 3:
            if not all(size % 2 for size in self.weight.shape[-2:]):
                raise ValueError(
                    f'Conv2d(weight {tuple(self.weight.shape)}, padding="same"): half of an even kernel is not the same on both '
                    "sides. Give the padding as a number: padding=0."
                )

    def __call__(self, x: Tensor) -> Tensor:
        """`x` [..., in, H, W] -> [..., out, H', W']. Raises ValueError and TypeError where x does not fit the weight, or that is not
        floating."""
        _check(self, x, axes=3, features=-3, groups=self.groups)
        same = self.padding == "same"
        padding = tuple(size // 2 * self.dilation for size in self.weight.shape[-2:]) if same else self.padding
        bias = self.bias if self.bias.dim() else None
        samples = x.flatten(0, -4) if x.dim() > 4 else x
        out = torch.nn.functional.conv2d(samples, self.weight, bias, self.stride, padding, self.dilation, self.groups)
        out = out if bias is not None else out + self.bias
        return out.unflatten(0, x.shape[:-3]) if x.dim() > 4 else out

    @classmethod
    def random(
        cls,
        inputs: int,
        outputs: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | str = "same",
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        generator: Any = None,
        **place: Any,
    ) -> "Conv2d":
        """Weights drawn as `torch.nn.Conv2d` draws them: uniform within 1 / sqrt(inputs / groups height width). `place`: dtype, device."""
        if type(groups) is not int or groups < 1 or inputs % groups:
            raise ValueError(
                f"Conv2d.random({inputs}, {outputs}, ..., groups={groups!r}): the channels are divided by the groups."
            )
        size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        numbers = _uniform((outputs, inputs // groups, *size), bias, generator, place)
        return cls(*numbers, stride, padding, dilation, groups)


def _no_state(params: Any, input: Tensor) -> tuple[()]:
    return ()


def linear_step(params: Linear, state: tuple[()], input: Tensor) -> tuple[Tensor, tuple[()]]:
    """`input` through the connection; there is no state. Spikes (bool, uint8) become floats."""
    return params(_floating(params, input)), state


def conv2d_step(params: Conv2d, state: tuple[()], input: Tensor) -> tuple[Tensor, tuple[()]]:
    """`input` through the connection; there is no state. Spikes (bool, uint8) become floats."""
    return params(_floating(params, input)), state


linear = Neuron(Linear, tuple, _no_state, linear_step)
conv2d = Neuron(Conv2d, tuple, _no_state, conv2d_step)


def _floating(connection: Any, spikes: Any) -> Tensor:
    """Spikes as floats, as the weight is, and what half products gave before as wide; anything else as it is, for `_check` to judge."""
    if not hasattr(connection, "weight"):
        swapped = " It is step(params, state, input), where the state is ()." if connection == () else ""
        raise TypeError(
            f"The params of a connection are a tree, Linear(weight), but {described(connection)} came.{swapped}"
        )
    if not isinstance(spikes, Tensor):
        raise TypeError(
            f"{type(connection).__name__}: the input is one tensor, not {type(spikes).__name__}. In a chain it is what the layer "
            "before puts out."
            + (" Of a list of steps give torch.stack(steps)." if isinstance(spikes, list) else pair_with_mask(spikes))
        )
    own = connection.weight.dtype
    wide = at_least(own, spikes) if own.is_floating_point else spikes
    return wide if wide.dtype is own else spikes


def _uniform(
    shape: tuple[int, ...], bias: bool, generator: Any, place: dict[str, Any]
) -> tuple[Tensor, Tensor | float]:
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    draw = lambda *size: (torch.rand(size, generator=generator, **place) * 2 - 1) * bound
    weight = draw(*shape)
    return weight, draw(shape[0]) if bias else torch.zeros((), **place)


def connect(V: Any, spk: Tensor) -> Tensor:
    """The current that `spk` makes through `V`: a tensor, or a connection. Raises TypeError for a V of whole numbers."""
    if not isinstance(V, Tensor):
        return V(spk)
    if not V.is_floating_point():
        raise _whole("V", V.dtype)
    return spk * V


def check_connection(params: Any, name: str, kind: type | None = None) -> None:
    """Refuses, when params are built, what is neither a floating tensor without NaN nor a connection; or not of this `kind`."""
    value = getattr(params, name)
    if kind is None and not (callable(value) and hasattr(value, "__leaves__")):
        refuse_number(value, type(params), name)
    if kind is not None and not isinstance(value, kind):
        if isinstance(value, Tensor):
            refuse_number(value, type(params), name)
        raise TypeError(
            f"{type(params).__name__}({name}=...) takes a connection, {kind.__name__}(weight, bias), not {type(value).__name__}."
        )


def check_weight(connection: Any) -> None:
    """Refuses, when params are built, a number for a weight: most often how many neurons there are."""
    weight, name = connection.weight, type(connection).__name__
    if isinstance(weight, Tensor) and not weight.dim():
        shape = "(out, in / groups, height, width)" if name == "Conv2d" else "(out, in)"
        sizes = "inputs, outputs, kernel_size" if name == "Conv2d" else "inputs, outputs"
        raise ValueError(
            f"{name}(weight, ...): a weight is a tensor {shape}, but a number came. Of sizes its numbers are drawn: {name}.random({sizes})."
        )


def _check_bias(connection: Any) -> None:
    weight, bias = connection.weight, connection.bias
    if bias.dim() and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{type(connection).__name__}(weight {tuple(weight.shape)}, bias {tuple(bias.shape)}): expected a bias of shape "
            f"{tuple(weight.shape[:1])}, or a number."
        )


def _check(connection: Any, x: Tensor, axes: int, features: int, groups: int = 1) -> None:
    weight, name = connection.weight, type(connection).__name__
    if weight.dim() != axes + 1:
        shape = "(out, in)" if axes == 1 else "(out, in / groups, H, W)"
        raise ValueError(f"{name}(weight {tuple(weight.shape)}): expected a weight {shape}.")
    inputs = weight.shape[1] * groups
    if x.dim() < axes or x.shape[features] != inputs:
        expected = "[..., in]" if axes == 1 else "[..., in, H, W]"
        several = f", groups={groups}" if groups > 1 else ""
        help = (_for_linear if axes == 1 else _for_conv2d)(tuple(x.shape), inputs)
        raise ValueError(
            f"{name}(weight {tuple(weight.shape)}{several}) takes {expected} with in = {inputs}, but {tuple(x.shape)} came.{help}"
        )
    if x.dtype == weight.dtype and weight.is_floating_point():
        return
    if not weight.is_floating_point():
        raise _whole(f"{name}.weight", weight.dtype)
    if not x.is_floating_point():
        floats = "input.float()" if weight.dtype == torch.float32 else f"input.to({weight.dtype})"
        raise TypeError(f"{name}(weight {weight.dtype}) cannot take {x.dtype}: give {floats}.")
    raise TypeError(
        f"{name}(weight {weight.dtype}) cannot take {x.dtype}: give input.to({weight.dtype}), or the connection in the input's dtype, "
        f"optree.tree_map(lambda leaf: leaf.to({x.dtype}), params)."
    )


def _for_linear(came: tuple[int, ...], inputs: int) -> str:
    """What to write, where the shape tells."""
    for axes in range(len(came) - 1, 1, -1):
        if math.prod(came[-axes:]) == inputs:
            flat = "flatten" if axes == 3 else f"functools.partial(flatten, axes={axes})"
            return f" Its last {axes} axes are made one by a layer in front, chain(..., {flat}, linear)."
    if len(came) == 1 and inputs and came[0] > inputs and came[0] % inputs == 0:
        return (
            f" These may be {came[0] // inputs} samples that a `flatten` in front made one: it takes three axes of each, [batch, channels, "
            "height, width]. Of images without channels: functools.partial(flatten, axes=2)."
        )
    return ""


def _for_conv2d(came: tuple[int, ...], inputs: int) -> str:
    """The axes by name, and what to write where the shape tells."""
    named = f" One step is [batch, channels, height, width], ({came[0] if came else 'batch'}, {inputs}, H, W)"
    if len(came) > 2 and came[-1] == inputs:
        return f"{named}: the channels came last, give x.movedim(-1, -3)."
    if len(came) > 2 and inputs == 1:
        return f"{named}: the channels are missing, give x.unsqueeze(-3)." if len(came) == 3 else f"{named}."
    if len(came) == 2:
        return f"{named}: of flat pixels give x.unflatten(-1, ({inputs}, H, W))."
    return f"{named}."


def _whole(where: str, dtype: torch.dtype) -> TypeError:
    """Weights that were cast to integers: what they were is lost, most of them are 0."""
    return TypeError(
        f"{where} is {dtype}: its numbers were cut to whole ones, and the fractions are lost. Take the params as they were before; "
        "where the input is of whole numbers, it is the input that is cast: input.float()."
    )
