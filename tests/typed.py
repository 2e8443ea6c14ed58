"""What a type checker knows of a user's program. Nothing runs it: `test_style.py` has it read by pyright, where an assertion that does
not hold is an error, and so is an `ignore` of an error that is not there."""

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import assert_type

import snn_functional as snf


params = snf.LeakyParams(beta=0.9)
xs = torch.zeros(5, 1, 3)
rest = snf.leaky_init(params, xs[0])

spks, state = snf.scan(snf.leaky_step, params, rest, xs, kind="checkpointed")
assert_type(spks, Tensor)
assert_type(state, snf.LeakyState)
assert_type(state.mem, Tensor)


class Weights(NamedTuple):
    hidden: Tensor
    neuron: snf.LeakyParams


class Seen(NamedTuple):
    spk: Tensor
    mem: Tensor


def step(
    params: Weights, state: tuple[snf.LeakyState, Tensor], x: dict[str, Tensor]
) -> tuple[Seen, tuple[snf.LeakyState, Tensor]]:
    spk, leaky = snf.leaky_step(params.neuron, state[0], x["current"] @ params.hidden)
    return Seen(spk, leaky.mem), (leaky, state[1] + spk)


seen, (last, count) = snf.scan(step, Weights(torch.eye(3), params), (rest, torch.zeros(1, 3)), {"current": xs})
assert_type(seen, Seen)
assert_type(last, snf.LeakyState)
assert_type(count, Tensor)

membranes, _ = snf.scan(lambda p, s, x: (s.mem, snf.leaky_step(p, s, x)[1]), params, rest, xs)
assert_type(membranes, Tensor)

snf.scan(snf.leaky_step, rest, rest, xs)  # pyright: ignore[reportArgumentType]
snf.scan(snf.leaky_step, params, params, xs)  # pyright: ignore[reportArgumentType]
snf.scan(snf.leaky_step, params, rest, [xs])  # pyright: ignore[reportArgumentType]
snf.scan(snf.leaky_step, params, rest, xs, kind="fast")  # pyright: ignore[reportArgumentType]
