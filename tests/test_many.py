"""Thousands of random steps against the loop, in bundles of a kernel each.

    SNN_STEPS=10000 python -m pytest -m slow tests/test_many.py -n 2

(ten thousand take about an hour on two cores; without SNN_STEPS it is a thousand). A bundle is some twenty steps side by side, over the
same lanes: random expressions, smooth ones too, with special numbers among theirs, in every dtype; held by closures, objects, partials
that change between two calls; beside states that stay, inputs that are passed on and leaves that nobody reads.
"""

import os
import random

import optree
import pytest
import torch
from helpers import needs_kernels
from holders import HOLDERS
from steps import leaves, RandomStep
from torch.func import grad

import snn_functional as snf


pytestmark = [needs_kernels, pytest.mark.slow]

SIZE = 20
STEPS = int(os.environ.get("SNN_STEPS", "1000"))
HALF = (torch.bfloat16, torch.float16)
LANES = [(1,), (7,), (3, 5), (2, 3, 4), (33,), (1, 1), (4, 1)]


@pytest.mark.parametrize("number", range(STEPS // SIZE))
def test_a_bundle_of_random_steps(number):
    rng = random.Random(number)
    exact, lanes, T = rng.random() < 0.7, rng.choice(LANES), rng.choice([1, 2, 5, 17, 40])
    dtype = rng.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])
    special = rng.choice([0.0, 0.0, 0.1, 0.3])
    reverse = rng.random() < 0.3
    parts = []
    for i in range(SIZE):
        counts = rng.randint(1, 3), rng.randint(1, 3), rng.randint(0, 3)
        step = RandomStep(number * SIZE + i, *counts, exact)
        parts.append((step, *leaves(step, T, lanes, dtype, number * SIZE + i, special)))
    holder, put = HOLDERS[rng.choice(sorted(HOLDERS))]()
    steps = [part[0] for part in parts]
    rest = torch.rand(9, generator=torch.Generator().manual_seed(number))

    def bundle(params, state, inputs):
        outs, news = [], []
        for step, p, s, x in zip(steps, params["parts"], state[0], inputs[0]):
            out, new = step(p, s, x)
            outs.append(out), news.append(new)
        held, _ = holder((), state[1], inputs[1])
        return (outs, held, inputs[2]), (news, 0.5 * state[1] + held, state[2])

    params = {"parts": [p for _, p, _, _ in parts], "unread": rest}
    state = [s for _, _, s, _ in parts], torch.zeros(lanes, dtype=dtype), rest
    inputs = [x for _, _, _, x in parts], torch.ones(T, *lanes, dtype=dtype), torch.rand(T, 2)
    run = lambda kind, *a: snf.scan(bundle, *a, kind=kind, reverse=reverse)
    for value in (1.0, 2.0):
        put(value)
        fast, slow = (optree.tree_leaves(run(kind, params, state, inputs)) for kind in ("auto", "loop"))
        bound = 0 if exact else {torch.float64: 1e-11, torch.float32: 1e-4}.get(dtype, 0.1)
        for a, b in zip(fast, slow, strict=True):
            torch.testing.assert_close(a, b, rtol=bound, atol=bound, equal_nan=True)
    said = snf.explain(bundle, params, state, inputs)
    assert said.startswith(("fused: ", "loop: "))
    # A bundle that were the loop for all its steps would test nothing.
    assert said.startswith("fused: ") or dtype in HALF and not exact or "holds" in said or "calls" in said, said
    if special or dtype in HALF:
        return
    expected = run("loop", params, state, inputs)
    weights = optree.tree_map(lambda x: torch.randn(x.shape, dtype=torch.float64).to(x.dtype), expected)

    def loss(p, s, x, kind):
        found = run(kind, p, s, x)
        return sum((a * b).sum() for a, b in zip(optree.tree_leaves(found), optree.tree_leaves(weights)))

    fast, slow = (optree.tree_leaves(grad(loss, (0, 1, 2))(params, state, inputs, kind)) for kind in ("auto", "loop"))
    rtol, atol = (1e-8, 1e-8) if dtype == torch.float64 else (2e-2, 2e-2)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol * max(1.0, float(b.abs().max())), equal_nan=True)
