"""Random pointwise steps: expression trees over the operations that kernels know."""

import dataclasses
import random
from typing import Any

import torch
from torch import Tensor

from snn_functional import surrogate


EXACT = {  # the loop's bits are demanded
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1.5 + b.abs()),
    "min": torch.minimum,
    "max": torch.maximum,
    "where": lambda a, b: torch.where(a > b, a * 0.5, b),
    "neg": lambda a, b: -a + 0.25 * b,
    "clamp": lambda a, b: a.clamp(-0.7, 0.9) + b,
    "relu": lambda a, b: torch.relu(a) - 0.3 * b,
    "abs": lambda a, b: a.abs() - b,
    "spike": lambda a, b: a * (b > 0.1).to(a.dtype),
    "leaky_relu": lambda a, b: torch.nn.functional.leaky_relu(a, 0.1) + b,
    "detach": lambda a, b: a.detach() * b,
    "square": lambda a, b: a**2 * 0.3 - b,
    "floor": lambda a, b: a + 0.1 * torch.floor(3 * b),
    "lerp": lambda a, b: torch.where((a < 0) & ~(b > 0.5) | (a == b), a, 0.5 * b),
    "nothing": lambda a, b: a + (b - b),
    "zero": lambda a, b: 1 / (a + 0.0) if a.dim() > 1 else a - 0.0 * b,
    "rank": lambda a, b: a * b.dim() - b,
    "shadow": lambda a, b: b + (a - a.detach()),
}
SMOOTH = {  # within rounding
    "exp": lambda a, b: torch.exp(-a.abs()) * b,
    "tanh": lambda a, b: torch.tanh(a + b),
    "sigmoid": lambda a, b: torch.sigmoid(a) - b,
    "atan": lambda a, b: torch.atan(2 * a) + b,
    "sqrt": lambda a, b: torch.sqrt(1 + a * a) - b,
    "log": lambda a, b: torch.log(1.1 + a.abs()) * b,
    "sin": lambda a, b: torch.sin(a) * torch.cos(b),
    "rsqrt": lambda a, b: b * torch.rsqrt(1 + a * a),
    "pow": lambda a, b: (1.2 + a.abs()) ** 1.3 * 0.2 - b,
    "erf": lambda a, b: torch.erf(a) + b,
}
SURROGATES = [
    surrogate.ATan(),
    surrogate.FastSigmoid(5),
    surrogate.Sigmoid(4),
    surrogate.Triangular(),
    surrogate.Heaviside(),
]


@dataclasses.dataclass(frozen=True)
class Expressions:
    """A step: `lines` of an operation and the numbers of its two operands, and which values become states."""

    states: int
    inputs: int
    params: int
    lines: tuple[Any, ...] = dataclasses.field(repr=False)
    ends: tuple[Any, ...] = dataclasses.field(repr=False)
    fires: Any = dataclasses.field(repr=False)

    def __call__(self, params: Any, state: Any, input: Any) -> tuple[Any, Any]:
        values = [*params, *state, *input]
        for operation, a, b in self.lines:
            values.append(operation(values[a], values[b]))
        new = []
        for s, (a, b) in zip(state, self.ends):
            mixed = 0.5 * s + values[a] - 0.2 * values[b]
            new.append(mixed / (1 + mixed.abs()))
        return {"spk": self.fires(new[0] - 0.2), "value": values[-1] + 0 * input[0]}, tuple(new)


def RandomStep(seed: int, states: int, inputs: int, params: int, exact: bool = True) -> Expressions:
    """The same seed is the same step. Values stay bounded: each new state is squashed by what it is divided by."""
    rng = random.Random(seed)
    table = EXACT if exact else EXACT | SMOOTH
    count, lines = params + states + inputs, []
    for _ in range(rng.randint(2, 7)):
        lines.append((table[rng.choice(sorted(table))], rng.randrange(count), rng.randrange(count)))
        count += 1
    ends = tuple((rng.randrange(count), rng.randrange(count)) for _ in range(states))
    return Expressions(states, inputs, params, tuple(lines), ends, rng.choice(SURROGATES))


SPECIAL = (0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1.0, -1.0, 1e-40, 1e38, -1e38)


def leaves(
    step: Expressions, T: int, lanes: tuple[int, ...], dtype: torch.dtype, seed: int = 0, special: float = 0.0
) -> tuple[Any, Any, Any]:
    """Params of random broadcastable shapes, full states, inputs some of which are expanded or not contiguous.

    `special`: the share of numbers that are infinite, NaN, zeros of either sign, or at the ends of what the dtype holds.
    """
    rng, gen = random.Random(seed), torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        numbers = (torch.rand(shape, generator=gen, dtype=torch.float64) * 2 - 1).to(dtype)
        if not special:
            return numbers
        which = torch.randint(len(SPECIAL), shape, generator=gen)
        chosen = torch.rand(shape, generator=gen) < special
        return torch.where(chosen, torch.tensor(SPECIAL, dtype=torch.float64)[which].to(dtype), numbers)

    def broadcastable() -> Tensor:
        kept = lanes[rng.randint(0, len(lanes)) :]
        return draw(*(n if rng.random() < 0.7 else 1 for n in kept))

    def input(i: int) -> Tensor:
        how = 0 if i == 0 else rng.randint(0, 3)
        if how == 1:
            return draw(*lanes).expand(T, *lanes)
        if how == 2:
            return draw(*lanes, T).movedim(-1, 0)
        if how == 3:
            return draw(T, *lanes[:-1], 2 * lanes[-1])[..., ::2]
        return draw(T, *lanes)

    params = tuple(broadcastable() for _ in range(step.params))
    return params, tuple(draw(*lanes) for _ in range(step.states)), tuple(input(i) for i in range(step.inputs))
