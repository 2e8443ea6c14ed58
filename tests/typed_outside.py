"""A user's program, as a type checker reads it where the library is installed: `tests/test_package.py` has pyright and mypy read it
there. An assertion that does not hold is an error."""

import torch
from torch import Tensor
from typing_extensions import assert_type

import snn_functional as snf


params = snf.LeakyParams(beta=0.9)
xs = torch.zeros(5, 1, 3)
spks, state = snf.scan(snf.leaky_step, params, snf.leaky_init(params, xs[0]), xs)
assert_type(spks, Tensor)
assert_type(state, snf.LeakyState)
assert_type(state.mem, Tensor)
net = snf.chain(snf.linear, snf.leaky)
assert_type(net, snf.Neuron)
print(snf.summary(net, (snf.Linear.random(3, 2), params), xs=xs).rows[1].rate)
