"""Delays: spikes that arrive later than they were fired. Layers of a `chain`, and what a `recurrent` neuron feeds back through.

    delay(steps)                                    out[t] = x[t - steps]                       all neurons alike
    axonal_delay     AxonalDelay(delay)             out[t, i] = x[t - delay[i], i]              each neuron its own
    delayed_linear   DelayedLinear(weight, delay)   out[t, o] = sum_i weight[o, i] x[t - delay[o, i], i] + bias[o]

Before the first step there was nothing: x is 0 there, or what a state holds that goes on. The state is a delay line, a tuple of the
last inputs, the latest first: `steps` or `longest` tensors like an input. One step moves each a place on, which costs nothing, and
over all of time `scan` keeps one row of inputs of which each place is a view: a product with delays costs its products, one for each
place. Fed back, the line is in the neuron's kernel, which a compiler takes the longer for, the longer the line is.

Delays count in steps. How long the line is makes shapes, so that is a choice, a whole number; where on it a neuron listens is a number
of the tree, with an axis of `vmap` and a gradient as any other.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ._connections import _check, _check_bias, _floating, _uniform, check_weight
from ._functorch import readable
from ._neuron import at_least, Neuron, SPIKES
from ._tree import Leaf, leaf, pytree, replaced, static


Line = tuple[Tensor, ...]
SHARPEST = 0.01  # a width at which all but the nearest place has weight 0, also in half precision


def delay(steps: int) -> Neuron:
    """A layer that puts out what came `steps` steps ago: out[t] = x[t - steps], 0 before the first step.

    Its params are `()`, its state the last `steps` inputs. Takes one tensor of any shape.

        net = chain(linear, leaky, delay(5), linear, leaky)
        params = (Linear(w1), LeakyParams(0.9), (), Linear(w2), LeakyParams(0.9))

    Raises TypeError for steps that are no whole number, ValueError for a negative one.
    """
    if type(steps) is not int:
        raise TypeError(
            f"delay({steps!r}): expected a whole number of steps. Delays that are numbers of the tree, and may lie between "
            "two steps, are those of axonal_delay and delayed_linear."
        )
    if steps < 0:
        raise ValueError(f"delay({steps}): expected 0 steps or more. Nothing arrives before it was sent.")
    step = _Delay(steps)
    return Neuron(tuple, tuple, step.init, step)


@dataclasses.dataclass(frozen=True, repr=False)
class _Delay:
    """The step of `delay`."""

    steps: int

    def __repr__(self) -> str:
        return f"delay({self.steps})"

    def __call__(self, params: Any, state: Line, input: Tensor) -> tuple[Tensor, Line]:
        line = _shifted(repr(self), self.steps, state, input)
        return line[-1], line[:-1]

    def init(self, params: Any, input: Tensor) -> Line:
        """The line, empty."""
        return _empty(repr(self), self.steps, input)


@pytree
class AxonalDelay:
    """- `delay`: after how many steps a neuron's spikes arrive, read as clamped to [0, longest]. () or (neurons,). Between two whole
      numbers what arrives is interpolated: a spike arrives in two parts.
    - `longest`: the length of the line, a whole number.
    """

    delay: Leaf
    longest: int = static()

    def __check__(self) -> None:
        _check_delays(self)


def axonal_delay_init(params: AxonalDelay, input: Tensor) -> Line:
    """The line, empty: `longest` tensors of zeros like one time step of `input`."""
    return _empty("axonal_delay", params.longest, input)


def axonal_delay_step(params: AxonalDelay, state: Line, input: Tensor) -> tuple[Tensor, Line]:
    """One time step: out[i] = sum_k max(0, 1 - |k - delay[i]|) x[t - k, i], where one k has all of the weight if the delay is whole.

    The slope in a delay is the difference of two neighbours on the line. Raises ValueError where `delay` does not broadcast to the
    input's shape, or the state is another line's.
    """
    line = _shifted("axonal_delay", params.longest, state, input)
    _check_alike(params, line[0])
    delay = params.delay.clamp(0, params.longest)
    out = torch.relu(1 - delay) * line[0]
    for k in range(1, len(line)):
        out = out + torch.relu(1 - (k - delay).abs()) * line[k]
    return out, line[:-1]


@pytree
class DelayedLinear:
    """A linear layer each of whose weights acts with a delay of its own, learned with the weights.

        kernel[k, o, i] = weight[o, i] exp(-((k - delay[o, i]) / sigma)^2 / 2) / c[o, i]          k = 0 ... longest
        out[t, o]       = sum_k sum_i kernel[k, o, i] x[t - k, i] + bias[o]

    c makes each weight's Gaussian sum up to 1. Learning begins with a wide one, which sees all of the line; the one who trains narrows
    sigma from epoch to epoch, `dataclasses.replace(params, sigma=...)`, and runs the network on `params.rounded()` in the end. A sigma
    below 0.01 is read as 0.01, where each weight acts at the whole step next to its delay, and at no other. Then no gradient reaches
    the delays.

    - `weight`: (out, in).
    - `delay`: in steps, read as clamped to [0, longest]: (out, in); (in,) for delays of axons, (out, 1) for those of dendrites, or ().
      A delay that an update has driven off the line has no slope there: put it back, `delay.clamp(0, longest)`, after each update.
    - `longest`: the length of the line, a whole number: 24 for a kernel of 25.
    - `sigma`: the width of the Gaussian, in steps, shaped as `delay` may be. Not to be learned: leave it out of what is differentiated.
    - `bias`: (out,), or one number for all.

    Source: Hammouamri, Khalfaoui-Hassani and Masquelier 2024, arXiv:2306.17670, with one weight for each pair of neurons
    (`kernel_count=1`), as Thvnvtos/SNN-delays on GitHub has it; of the dilated convolution there SIG is |sigma| - 0.27, and a position P
    is the delay `longest - P - (longest + 1) // 2`. Its sum has 1e-7 added to it.
    """

    weight: Leaf
    delay: Leaf
    longest: int = static()
    sigma: Leaf = leaf(default=0.5)
    bias: Leaf = leaf(default=0.0)

    def __check__(self) -> None:
        check_weight(self)
        _check_bias(self)
        _check_delays(self)
        for name in ("delay", "sigma"):
            have, want = getattr(self, name).shape, self.weight.shape
            if len(have) > 2 or any(n not in (1, m) for n, m in zip(have[::-1], want[::-1])):
                raise ValueError(
                    f"DelayedLinear(weight {tuple(want)}, {name} {tuple(have)}): expected the shape of weight, (in,), (out, 1) or ()."
                )
            if have and torch.promote_types(getattr(self, name).dtype, self.weight.dtype) != self.weight.dtype:
                raise TypeError(
                    f"DelayedLinear(weight {self.weight.dtype}, {name} {getattr(self, name).dtype}): give {name}.to({self.weight.dtype})."
                )
        if readable(self.sigma) and bool((self.sigma < 0).any()):
            raise ValueError(f"DelayedLinear(sigma={float(self.sigma.min()):g}): a width is 0 or more.")

    def kernel(self) -> Tensor:
        """The weights over the line. (longest + 1, out, in)."""
        places = torch.arange(self.longest + 1, dtype=self.weight.dtype, device=self.weight.device)
        delay, sigma = self.delay.clamp(0, self.longest), self.sigma.clamp(min=SHARPEST)
        away = (places.reshape(-1, 1, 1) - delay) / sigma
        return torch.softmax(-0.5 * away * away, 0) * self.weight

    def rounded(self) -> "DelayedLinear":
        """Every weight with the whole delay next to its own, and with no other: what is run when learning is over."""
        delay = self.delay.clamp(0, self.longest).round()
        return replaced(self, delay=delay, sigma=torch.zeros_like(self.sigma))

    @classmethod
    def random(
        cls, inputs: int, outputs: int, longest: int, *, bias: bool = True, generator: Any = None, **place: Any
    ) -> "DelayedLinear":
        """Weights as `Linear.random` draws them, delays uniform over the line, and a Gaussian half as wide as the line, as in the paper.
        `place`: dtype, device."""
        weight, bias_ = _uniform((outputs, inputs), bias, generator, place)
        delay = torch.rand(outputs, inputs, generator=generator, **place) * longest
        return cls(weight, delay, longest, torch.full((), (longest + 1) / 2, **place), bias_)


def delayed_linear_init(params: DelayedLinear, input: Tensor) -> Line:
    """The line, empty: `longest` tensors of zeros like one time step of `input`."""
    return _empty("delayed_linear", params.longest, _floating(params, input))


def delayed_linear_step(params: DelayedLinear, state: Line, input: Tensor) -> tuple[Tensor, Line]:
    """One time step: `input` [..., in] and the line -> [..., out]. Spikes (bool, uint8) become floats."""
    input = _floating(params, input)
    _check(params, input, axes=1, features=-1)
    line = _shifted("delayed_linear", params.longest, state, input)
    weight = params.kernel().transpose(0, 1).flatten(1)
    linear, x, bias = torch.nn.functional.linear, torch.cat(line, -1), params.bias
    return linear(x, weight, bias) if bias.dim() else linear(x, weight) + bias, line[:-1]


axonal_delay = Neuron(AxonalDelay, tuple, axonal_delay_init, axonal_delay_step)
delayed_linear = Neuron(DelayedLinear, tuple, delayed_linear_init, delayed_linear_step)


def _empty(layer: str, longest: int, input: Any) -> Line:
    _check_input(layer, input)
    dtype = torch.get_default_dtype() if input.dtype in SPIKES else input.dtype
    return tuple(torch.zeros_like(input, dtype=dtype) for _ in range(longest))


def _shifted(layer: str, longest: int, state: Any, input: Any) -> Line:
    """All that is on the line now, the input first: one place more than the state has."""
    _check_input(layer, input)
    if not isinstance(state, tuple) or len(state) != longest or not all(isinstance(x, Tensor) for x in state):
        came = f"{len(state)} leaves" if isinstance(state, tuple) else f"a {type(state).__name__}"
        raise ValueError(
            f"{layer}: the state is a tuple of the last {longest} inputs, but {came} came. {layer}'s init(params, input) makes one."
        )
    own = next((x.dtype for x in state if x.dim()), torch.get_default_dtype())
    input = at_least(own, input)
    return (input, *(_place(layer, x, input) for x in state))


def _place(layer: str, x: Tensor, input: Tensor) -> Tensor:
    if x.shape == input.shape and x.dtype == input.dtype and x.device == input.device:
        return x
    fits = x.dim() <= input.dim() and all(n in (1, m) for n, m in zip(x.shape[::-1], input.shape[::-1]))
    if not fits or (x.dim() and (x.dtype != input.dtype or x.device != input.device)):
        raise ValueError(
            f"{layer}: the state holds inputs {tuple(x.shape)}, {x.dtype}, {x.device}, but {tuple(input.shape)}, {input.dtype}, "
            f"{input.device} came. A state that fits is made by init(params, input)."
        )
    return x.to(input.dtype).expand(input.shape)


def _check_input(layer: str, input: Any) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"{layer}: the input is one tensor, not {type(input).__name__}.")
    if not input.is_floating_point() and input.dtype not in SPIKES:
        raise TypeError(f"{layer}: the input is {input.dtype}; expected a floating tensor, or spikes as bool or uint8.")


def _check_delays(tree: Any) -> None:
    name = type(tree).__name__
    if type(tree.longest) is not int or tree.longest < 0:
        raise ValueError(
            f"{name}(longest={tree.longest!r}): expected the length of the delay line, a whole number of steps, 0 or more."
        )
    if readable(tree.delay) and tree.delay.numel():
        least, most = float(tree.delay.min()), float(tree.delay.max())
        if least < 0:
            raise ValueError(f"{name}(delay={least:g}): expected 0 steps or more. Nothing arrives before it was sent.")
        if most > tree.longest:
            longer = f"longest={math.ceil(most)}, or " if math.isfinite(most) else ""
            raise ValueError(
                f"{name}(delay={most:g}, longest={tree.longest}): it is longer than the line. Give {longer}"
                f"delay.clamp(0, {tree.longest})."
            )


def _check_alike(params: AxonalDelay, input: Tensor) -> None:
    have, want = params.delay.shape, input.shape
    if len(have) > len(want) or any(n not in (1, m) for n, m in zip(have[::-1], want[::-1])):
        raise ValueError(
            f"AxonalDelay.delay has shape {tuple(have)}, which does not broadcast to the input's {tuple(want)}."
        )
    if have and torch.promote_types(params.delay.dtype, input.dtype) != input.dtype:
        raise TypeError(
            f"AxonalDelay.delay is {params.delay.dtype} per neuron, but the input is {input.dtype} and would change its dtype: give "
            f"delay.to({input.dtype})."
        )
