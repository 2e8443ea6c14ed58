"""Fitting without a line of library code: candidates under vmap, search, gradients, and a body that a spiking network moves.

The recipes of notebook 7, on tiny sizes; the loop over candidates is the definition.
"""

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, backward, flat, FUSED, law, stacked
from hypothesis import given, strategies as st
from torch.func import grad, vmap

import snn_functional as snf


each_kind = pytest.mark.parametrize("kind", ["loop", FUSED])
double = dict(dtype=torch.float64)


def nth(tree, i):
    return optree.tree_map(lambda x: x[i], tree)


def one_by_one(function, candidates, *args):
    return stacked([function(nth(candidates, i), *args) for i in range(len(optree.tree_leaves(candidates)[0]))])


def around(mean, std, n):
    return optree.tree_map(lambda m, s: m + s * torch.randn(n, *m.shape, dtype=m.dtype), mean, std)


def search(loss, mean, rounds, n=64, best=8):
    """The cross-entropy method: the mean and spread of the best are where the next round is drawn."""
    std = optree.tree_map(torch.ones_like, mean)
    for _ in range(rounds):
        candidates = around(mean, std, n)
        elite = nth(candidates, vmap(loss)(candidates).argsort()[:best])
        mean, std = optree.tree_map(lambda x: x.mean(0), elite), optree.tree_map(lambda x: x.std(0), elite)
    return mean


# A neuron: two free numbers, a sigmoid for the leak and an exponential for the threshold.


def params_of(free):
    return snf.LeakyParams(free["beta"].sigmoid(), free["threshold"].exp())


def free_of(beta, threshold):
    beta, threshold = torch.tensor(beta, **double), torch.tensor(threshold, **double)
    return {"beta": beta.logit(), "threshold": threshold.log()}


def currents(T=60):
    return torch.rand(T, **double)


def with_mem(params, state, x):
    spk, state = snf.leaky_step(params, state, x)
    return (spk, state.mem), state


def run(free, xs, kind="loop"):
    params = params_of(free)
    return snf.scan(with_mem, params, snf.leaky_init(params, xs[0]), xs, kind=kind)[0]


def smooth(xs, kind="loop"):
    params = snf.LeakyIntegratorParams(torch.tensor(0.8, **double))
    return snf.scan(snf.leaky_integrator_step, params, snf.leaky_integrator_init(params, xs[0]), xs, kind=kind)[0]


def distance(free, xs, recorded, kind="loop"):
    spk, mem = run(free, xs, kind)
    return (smooth(spk, kind) - smooth(recorded[0], kind)).square().mean() + (mem - recorded[1]).square().mean()


TRUTH = free_of(0.85, 1.4)


def some_candidates(n):
    return around(free_of(0.7, 1.0), {"beta": 1.0, "threshold": 0.5}, n)


@each_kind
def test_candidates_at_once_are_the_candidates_one_by_one(kind):
    candidates, xs = some_candidates(5), currents(30)
    recorded = run(TRUTH, xs)
    spk, mem = vmap(run, (0, None, None))(candidates, xs, kind)
    expected_spk, expected_mem = one_by_one(run, candidates, xs)
    assert 0 < spk.mean() < 1
    assert_equal(spk, expected_spk)
    assert_allclose(mem, expected_mem)
    for function in (distance, grad(distance)):
        at_once = vmap(function, (0, None, None, None))(candidates, xs, recorded, kind)
        assert_allclose(at_once, one_by_one(function, candidates, xs, recorded))


@each_kind
def test_candidates_times_recordings(kind):
    candidates, xs = some_candidates(4), torch.stack([currents() for _ in range(3)])
    recorded = vmap(run, (None, 0))(TRUTH, xs)
    every = vmap(vmap(distance, (0, None, None, None)), (None, 0, 0, None))(candidates, xs, recorded, kind)
    expected = [one_by_one(distance, candidates, xs[i], nth(recorded, i)) for i in range(3)]
    assert_allclose(every, torch.stack(expected))


def test_search_comes_nearer():
    xs = currents(30)
    recorded, start = run(TRUTH, xs), free_of(0.5, 1.0)
    far = lambda free: distance(free, xs, recorded, "auto")
    found = search(far, start, rounds=10, n=256, best=32)
    assert far(found) < far(start) / 4
    assert abs(run(found, xs)[0].sum() - recorded[0].sum()) <= 1


# Gradients: of what is smooth. A spiking neuron is, as soon as recorded spikes reset it and not its own.


def driven_step(params, state, seen):
    x, fired = seen
    mem = params.beta * state.mem + x - fired * params.threshold
    return mem, snf.LeakyState(mem)


def driven(free, xs, spk):
    before = torch.cat([torch.zeros_like(spk[:1]), spk[:-1]])
    params = params_of(free)
    return snf.scan(driven_step, params, snf.leaky_init(params, xs[0]), (xs, before))[0]


def integrate(free, xs):
    params = snf.LeakyIntegratorParams(free["beta"].sigmoid())
    outputs, _ = snf.scan(snf.leaky_integrator_step, params, snf.leaky_integrator_init(params, xs[0]), xs)
    return free["gain"].exp() * outputs


def descend(loss, start, steps=60):
    """L-BFGS, on torch.func's gradients."""
    vector, tree = flat(start)
    vector = vector.clone()
    optimizer = torch.optim.LBFGS(
        [vector], max_iter=steps, line_search_fn="strong_wolfe", tolerance_grad=1e-14, tolerance_change=1e-18
    )

    def closure():
        free = tree(vector)
        vector.grad = flat(grad(loss)(free))[0]
        return loss(free)

    optimizer.step(closure)
    return tree(vector)


@pytest.mark.parametrize("beta, gain", [(0.5, 0.3), (0.95, 2.0)])
def test_gradients_recover_a_leaky_integrator_from_its_trace(beta, gain):
    truth = {"beta": torch.tensor(beta, **double).logit(), "gain": torch.tensor(gain, **double).log()}
    xs = currents()
    seen = integrate(truth, xs)
    start = {"beta": torch.tensor(1.0, **double), "gain": torch.tensor(0.0, **double)}
    found = descend(lambda free: (integrate(free, xs) - seen).square().mean(), start)
    assert_allclose(found, truth, rtol=0, atol=1e-6)


@law
@given(st.floats(0.1, 0.97), st.floats(0.5, 2.0))
def test_driven_by_its_own_spikes_a_neuron_is_itself(beta, threshold):
    free, xs = free_of(beta, threshold), currents()
    spk, mem = run(free, xs)
    assert_allclose(driven(free, xs, spk), mem)


def test_the_gradient_past_recorded_spikes_is_exact():
    xs = currents()
    spk, mem = run(TRUTH, xs)
    loss = lambda free: (driven(free, xs, spk) - mem).square().mean()
    guess, h = free_of(0.7, 1.0), 1e-6
    moved = lambda name, by: {**guess, name: guess[name] + by}
    slope = {name: (loss(moved(name, h)) - loss(moved(name, -h))) / (2 * h) for name in guess}
    assert_allclose(grad(loss)(guess), slope, rtol=1e-6, atol=1e-9)


def test_driven_by_recorded_spikes_gradients_recover_a_spiking_neuron():
    xs = currents()
    spk, mem = run(TRUTH, xs)
    assert 3 < spk.sum() < 57
    found = descend(lambda free: (driven(free, xs, spk) - mem).square().mean(), free_of(0.5, 0.5))
    assert_allclose(found, TRUTH, rtol=0, atol=1e-6)
    assert_equal(run(found, xs)[0], spk)


# A body and a network are one step.


def cart_pole(body, force, dt=0.02):
    x, speed, angle, spin = body
    push = (force + 0.05 * spin**2 * angle.sin()) / 1.1
    turn = (9.8 * angle.sin() - push * angle.cos()) / (0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1))
    thrust = push - 0.05 * turn * angle.cos() / 1.1
    return x + dt * speed, speed + dt * thrust, angle + dt * spin, spin + dt * turn


def balance(weights, state, _):
    body, hidden, drive = state
    seen = torch.stack(body, -1) * body[0].new_tensor([0.5, 0.5, 5.0, 2.0])
    spk, hidden = snf.leaky_step(snf.LeakyParams(0.8), hidden, seen @ weights["in"] + weights["bias"])
    drive = 0.8 * drive + spk @ weights["out"]
    return (*body, spk), (cart_pole(body, 10 * drive.tanh()), hidden, drive)


def play(weights, starts, length):
    hidden = snf.LeakyState(starts.new_zeros(len(starts), len(weights["out"])))
    state = (starts.unbind(-1), hidden, starts.new_zeros(len(starts)))
    return snf.scan(balance, weights, state, None, length=length)[0]


def fall(weights, starts, length=100):
    _, _, angle, _, _ = play(weights, starts, length)
    return angle.abs().clamp(max=1).mean()


def network(n, scale=0.0):
    draw = lambda *shape: scale * torch.randn(shape, **double)
    return {"in": draw(4, n), "bias": draw(n), "out": draw(n)}


def some_starts(games):
    return 0.4 * torch.rand(games, 4, **double) - 0.2


def test_networks_with_bodies_at_once_are_the_networks_one_by_one():
    networks, starts = stacked([network(6, 1.0) for _ in range(4)]), some_starts(3)
    at_once = vmap(lambda weights: play(weights, starts, 25))(networks)
    expected = one_by_one(lambda weights: play(weights, starts, 25), networks)
    assert 0 < expected[-1].mean() < 1
    assert_equal(at_once[-1], expected[-1])
    assert_allclose(at_once, expected)


def test_the_slope_goes_through_body_and_network():
    weights, starts = network(6, 1.0), some_starts(3)
    assert_allclose(grad(fall)(weights, starts, 25), backward(lambda w: fall(w, starts, 25), (weights,))[0])


def test_search_balances_the_pole():
    still, starts, others = network(8), some_starts(4), some_starts(20)
    found = search(lambda weights: fall(weights, starts), still, rounds=8)
    assert fall(still, others) > 0.5
    assert fall(found, others) < 0.15
