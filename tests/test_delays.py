"""Delays against their equations, written out over all of time; alone, in a chain, and in what a neuron feeds back."""

import dataclasses

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, dot, needs_kernels
from hypothesis import given, settings, strategies as st
from torch.func import grad, jvp, vmap

import snn_functional as snf


T, B, N, OUT, LONGEST = 9, 3, 4, 5, 3
X = torch.rand(T, B, N, generator=torch.Generator().manual_seed(1))


def drawn(*shape, seed=2):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def before(xs, steps):
    """xs[t - steps], 0 before the first."""
    return torch.cat([torch.zeros_like(xs[:steps]), xs[: len(xs) - steps]])[: len(xs)] if steps else xs


def run(layer, params, xs=X, **options):
    return snf.scan(layer.step, params, layer.init(params, xs[0]), xs, **options)


# ------------------------------------------------------------------------------------------------ the equations


@pytest.mark.parametrize("steps", [0, 1, 4, 12])
@pytest.mark.parametrize("reverse", [False, True])
def test_delay_puts_out_what_came_so_many_steps_ago(steps, reverse):
    ways = [run(snf.delay(steps), (), reverse=reverse, kind=kind) for kind in ("auto", "loop")]
    turn = (lambda xs: xs.flip(0)) if reverse else lambda xs: xs
    for out, state in ways:
        assert_equal(out, turn(before(turn(X), steps)))
        latest = [*turn(X).flip(0), *[torch.zeros(B, N)] * steps][:steps]
        assert_equal(state, tuple(latest))


@pytest.mark.parametrize("kind", ["auto", "loop"])
def test_axonal_delay_is_each_neurons_own(kind):
    delay = torch.tensor([0.0, 1.0, 3.0, 2.0])
    out, _ = run(snf.axonal_delay, snf.AxonalDelay(delay, LONGEST), kind=kind)
    for i, steps in enumerate([0, 1, 3, 2]):
        assert_equal(out[..., i], before(X[..., i], steps))


def test_an_axonal_delay_between_two_steps_is_both_in_part():
    out, _ = run(snf.axonal_delay, snf.AxonalDelay(1.25, LONGEST))
    assert_allclose(out, 0.75 * before(X, 1) + 0.25 * before(X, 2))
    slope = grad(lambda delay: run(snf.axonal_delay, snf.AxonalDelay(delay, LONGEST))[0].sum())(torch.tensor(1.25))
    assert_allclose(slope, (before(X, 2) - before(X, 1)).sum())


@pytest.mark.parametrize("kind", ["auto", "loop"])
def test_delayed_linear_has_a_delay_for_each_weight(kind):
    """At a width of 0; by hand, weight by weight."""
    weight, delay = drawn(OUT, N) - 0.5, (drawn(OUT, N, seed=3) * 3.99).floor()
    params = snf.DelayedLinear(weight, delay, LONGEST, sigma=0.0, bias=drawn(OUT))
    out, _ = run(snf.delayed_linear, params, kind=kind)
    expected = params.bias.expand(T, B, OUT).clone()
    for o in range(OUT):
        for i in range(N):
            expected[..., o] += weight[o, i] * before(X[..., i], int(delay[o, i]))
    assert_allclose(out, expected)


@pytest.mark.parametrize("shape", [(), (N,), (OUT, 1)], ids=["one", "axons", "dendrites"])
def test_delays_of_axons_and_dendrites(shape):
    delay, weight = (drawn(*shape) * 3.99).floor(), drawn(OUT, N)
    out, _ = run(snf.delayed_linear, snf.DelayedLinear(weight, delay, LONGEST, sigma=0.0))
    full = snf.DelayedLinear(weight, delay.expand(OUT, N).clone(), LONGEST, sigma=torch.zeros(OUT, N))
    assert_allclose(out, run(snf.delayed_linear, full)[0])
    if shape == (N,):
        apart = snf.chain(snf.axonal_delay, snf.linear)
        assert_allclose(out, run(apart, (snf.AxonalDelay(delay, LONGEST), snf.Linear(weight)))[0])


def dcls(x, weight, P, SIG, size):
    """The dilated convolution with learnable spacings of the paper's program, version "gauss" with one weight a pair, padded as there.

    x [T, batch, in]; weight, P and SIG [out, in]; positions count from the middle of a kernel of this size."""
    places = torch.arange(size, dtype=x.dtype)[:, None, None]
    gauss = torch.exp(-0.5 * ((places - (P + size // 2)) / (SIG.abs() + 0.27)) ** 2)
    kernel = (weight * gauss / (gauss.sum(0) + 1e-7)).permute(1, 2, 0)
    x = torch.nn.functional.pad(x.permute(1, 2, 0), (size - 1, (size - 1) // 2))
    return torch.nn.functional.conv1d(x, kernel).permute(2, 0, 1)


@pytest.mark.parametrize("sigma", [3.0, 0.5])
@pytest.mark.fidelity(
    model="delayed_linear",
    reference="formula of Hammouamri et al. 2024 (DCLS, `gauss`), as a convolution over time",
    compared="currents and the gradients of weights and positions, 30 steps, kernel of 7, two widths",
    closely="to 1e-6",
    differs="no 1e-7 in the sum; delays count from the present, the program's positions from the middle of the kernel",
)
def test_delayed_linear_is_the_dilated_convolution_of_the_paper(sigma):
    xs, size = (drawn(30, B, N) < 0.3).double(), 7
    weight, P = drawn(OUT, N).double() - 0.5, (drawn(OUT, N, seed=3).double() - 0.5) * 5.9
    weights = drawn(30, B, OUT, seed=4).double()
    SIG = torch.full_like(P, sigma - 0.27)

    def ours(weight, P):
        params = snf.DelayedLinear(
            weight, 0.0, size - 1, sigma=torch.tensor(sigma).double(), bias=torch.zeros(()).double()
        )
        params = dataclasses.replace(params, delay=size - 1 - P - size // 2)
        return run(snf.delayed_linear, params, xs)[0]

    theirs = lambda weight, P: dcls(xs, weight, P, SIG, size)[:30]
    close = {"rtol": 1e-6, "atol": 1e-6}
    assert_allclose(ours(weight, P), theirs(weight, P), **close)
    grads = (grad(lambda w, P, f=f: dot(f(w, P), weights), argnums=(0, 1))(weight, P) for f in (ours, theirs))
    assert_allclose(*grads, **close)


def test_rounding_ends_the_learning_of_delays():
    params = snf.DelayedLinear.random(N, OUT, LONGEST, generator=torch.Generator().manual_seed(5))
    assert (params.kernel().abs() > 0).all()
    assert_allclose(params.kernel().sum(0), params.weight)
    whole = params.rounded()
    assert_equal((whole.kernel() != 0).sum(0), torch.ones(OUT, N, dtype=torch.int64))
    assert_equal(whole.kernel().sum(0), params.weight)
    assert_equal(whole.kernel().abs().argmax(0), params.delay.round().long())


def test_the_ends_of_the_line_hold_a_delay_that_has_left_it():
    params = snf.DelayedLinear(torch.ones(1, 1), 0.0, 2, sigma=0.0)
    off = lambda delay: _with_delay(params, torch.tensor(delay)).kernel()
    assert_equal(off(7.0), off(2.0))
    assert_equal(off(-7.0), off(0.0))


def _with_delay(params, delay):
    """As an update rebuilds a tree, or a transform: nothing is checked."""
    leaves, spec = optree.tree_flatten(params)
    return optree.tree_unflatten(spec, [leaves[0], delay, *leaves[2:]])


# ------------------------------------------------------------------------------------------------ in a chain


NET = snf.chain(
    snf.linear, snf.leaky, snf.delayed_linear, snf.leaky, snf.delay(2), snf.linear, snf.axonal_delay, snf.leaky
)  # fmt: skip


def network(dtype=torch.float32):
    g = torch.Generator().manual_seed(7)
    of = lambda tree: optree.tree_map(lambda x: x.to(dtype), tree)
    return of(
        (
            snf.Linear.random(N, 6, generator=g),
            snf.LeakyParams(0.9, 0.3),
            dataclasses.replace(snf.DelayedLinear.random(6, OUT, LONGEST, generator=g), sigma=torch.tensor(0.7)),
            snf.LeakyParams(0.8, 0.1),
            (),
            snf.Linear.random(OUT, N, generator=g),
            snf.AxonalDelay(torch.tensor([0.3, 1.0, 2.5, 3.0]), LONGEST),
            snf.LeakyParams(0.9, 0.2),
        )
    )


@needs_kernels
def test_a_delay_costs_no_step_of_its_own():
    params = network()
    said = snf.explain(NET.step, params, NET.init(params, X[0]), X)
    hows = [part.how for part in said.stages]
    assert hows == ["once", "kernel", "delay", "once", "kernel", "delay", "once", "delay", "kernel"]
    assert len(said.stages[3].operations) == LONGEST + 1 and "4 times mm" in said
    assert said.stages[2].states == tuple(f"state[2][{k}]" for k in range(LONGEST))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_chain_with_delays_is_its_loop(reverse):
    params, xs = network(torch.float64), 3 * X.double()
    state = optree.tree_map(lambda x: torch.rand_like(x) / 4, NET.init(params, xs[0]))
    weights = torch.randn(T, B, N, dtype=torch.float64)

    def loss(kind, params, state, xs):
        spks, last = snf.scan(NET.step, params, state, xs, reverse=reverse, kind=kind)
        return dot(spks, weights) + sum(x.square().sum() for x in optree.tree_leaves(last))

    ways = [snf.scan(NET.step, params, state, xs, reverse=reverse, kind=kind) for kind in ("auto", "loop")]
    assert ways[0][0].any()
    assert torch.equal(ways[0][0], ways[1][0])
    assert_allclose(*ways)
    args = params, state, xs
    grads = [grad(loss, argnums=(1, 2, 3))(kind, *args) for kind in ("auto", "loop")]
    assert all(x.any() for x in optree.tree_leaves(grads[1]))
    assert_allclose(*grads)
    tangents = optree.tree_map(torch.randn_like, args)
    assert_allclose(*(jvp(lambda *a, k=kind: loss(k, *a), args, tangents)[1] for kind in ("auto", "loop")))
    samples = lambda kind: vmap(
        grad(lambda p, s, x: loss(kind, p, optree.tree_map(lambda y: y[None], s), x[:, None])), in_dims=(None, 0, 1)
    )(*args)
    weights = weights[:, :1]
    assert_allclose(samples("auto"), samples("loop"))


def test_an_ensemble_of_delays():
    params = network()
    delays = drawn(2, OUT, 6) * LONGEST
    of = lambda delay: run(NET, (*params[:2], _with_delay(params[2], delay), *params[3:]))[0]
    assert_allclose(vmap(of)(delays), torch.stack([of(delay) for delay in delays]))


@settings(max_examples=5, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(1, T - 1), max_size=3, unique=True), kind=st.sampled_from(["auto", "loop"]))
def test_a_stream_with_delays_may_come_in_pieces(cuts, kind):
    params = network()
    state = start = NET.init(params, X[0])
    outs = []
    for piece in X.tensor_split(sorted(cuts)):
        out, state = snf.scan(NET.step, params, state, piece, kind=kind)
        outs.append(out)
    whole = snf.scan(NET.step, params, start, X)
    assert_allclose((torch.cat(outs), state), whole)


def test_spikes_are_delayed_whatever_they_are_kept_in():
    spikes = X > 0.5
    for layer, params in ((snf.delay(2), ()), (snf.axonal_delay, snf.AxonalDelay(2.0, 2))):
        assert_equal(run(layer, params, spikes)[0], before(spikes.float(), 2))
    out, state = run(snf.delay(2), (), X.bfloat16())
    assert out.dtype == torch.bfloat16 == state[0].dtype
    params = snf.DelayedLinear(drawn(OUT, N), drawn(OUT, N), 2)
    assert_allclose(run(snf.delayed_linear, params, spikes), run(snf.delayed_linear, params, spikes.float()))
    half = optree.tree_map(torch.Tensor.bfloat16, dataclasses.replace(params, sigma=torch.tensor(0.0)))
    assert half.kernel().isfinite().all() and (half.kernel() != 0).sum() == OUT * N


def test_a_line_may_begin_with_numbers():
    """As any state may: the first step gives it its shape."""
    for layer, params in ((snf.delay(2), ()), (snf.axonal_delay, snf.AxonalDelay(2.0, 2))):
        zero = (torch.zeros(()),) * 2
        for kind in ("auto", "loop"):
            assert_equal(snf.scan(layer.step, params, zero, X, kind=kind), run(layer, params, kind="loop"))


@needs_kernels
def test_a_users_own_delay_line_is_found_in_any_order():
    """The oldest first; two states that keep what a third held."""

    def step(w, state, x):
        oldest, older, old, again = state
        return (oldest + again) @ w, (older, old, x, old)

    state = tuple(drawn(B, N, seed=s) for s in range(4))
    args = step, drawn(N, N), state, X
    assert [part.how for part in snf.explain(*args).stages][0] == "delay"
    for reverse in (False, True):
        assert_allclose(snf.scan(*args, reverse=reverse), snf.scan(*args, reverse=reverse, kind="loop"))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_state_that_keeps_one_that_never_changes(reverse):
    """The one that stays is read by nothing else: it is an argument of the kernel all the same."""
    step = lambda p, state, x: (torch.relu(x - 0.5), (state[0], state[0]))
    args = step, (), (drawn(B, N), drawn(B, N, seed=3)), X
    assert_equal(snf.scan(*args, reverse=reverse), snf.scan(*args, reverse=reverse, kind="loop"))


# ------------------------------------------------------------------------------------------------ fed back


def test_a_spike_comes_back_when_it_is_due():
    """A step in any case, and as many more as the layer holds it."""
    neuron, xs = snf.recurrent(snf.leaky, snf.delay(3)), torch.zeros(12, 1, 1)
    params = snf.RecurrentParams(snf.LeakyParams(0.5), ())
    xs[1] = 1.2
    spks, _ = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)
    assert spks[:, 0, 0].nonzero()[:, 0].tolist() == [1]  # a current of 1 is no spike
    neuron, V = snf.recurrent(snf.leaky, snf.chain(snf.delay(3), snf.linear)), ((), snf.Linear(torch.full((1, 1), 1.6)))
    params = snf.RecurrentParams(snf.LeakyParams(0.5), V)
    spks, _ = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)
    assert spks[:, 0, 0].nonzero()[:, 0].tolist() == [1, 5, 9]


def test_recurrent_through_a_layer_without_memory_is_recurrent():
    V = snf.Linear(drawn(N, N) - 0.5)
    params = snf.RecurrentParams(snf.LeakyParams(0.9), V)
    assert_equal(run(snf.recurrent(snf.leaky, snf.linear), params)[0], run(snf.recurrent(snf.leaky), params)[0])


def test_delayed_recurrence_by_hand():
    V = snf.DelayedLinear(drawn(N, N) - 0.5, (drawn(N, N, seed=3) * 3.99).floor(), LONGEST, sigma=0.0)
    leaky, neuron = snf.LeakyParams(0.9, 0.5), snf.recurrent(snf.leaky, snf.delayed_linear)
    params = snf.RecurrentParams(leaky, V)
    state, spks = snf.leaky_init(leaky, X[0]), []
    for x in X:
        current = x.clone()
        for o in range(N):
            for i in range(N):
                t = len(spks) - 1 - int(V.delay[o, i])
                current[:, o] += V.weight[o, i] * (spks[t][:, i] if t >= 0 else 0)
        spk, state = snf.leaky_step(leaky, state, current)
        spks.append(spk)
    assert 0 < torch.stack(spks).mean() < 1
    assert_equal(run(neuron, params, kind="loop")[0], torch.stack(spks))


# ------------------------------------------------------------------------------------------------ refusals

W = torch.ones(OUT, N)
LEAK = snf.LeakyParams(0.9)
REFUSED = {
    "a delay of half a step": (lambda: snf.delay(1.5), TypeError, r"delay\(1.5\): expected a whole number of steps"),
    "a negative delay": (lambda: snf.delay(-1), ValueError, r"delay\(-1\): expected 0 steps or more"),
    "a negative delay of a neuron": (lambda: snf.AxonalDelay(torch.tensor([1.0, -2.0]), 3), ValueError, "delay=-2.: expected 0"),
    "a delay beyond the line": (lambda: snf.DelayedLinear(W, 3.5, 3), ValueError, r"longest=3.: it is longer.*Give longest=4"),
    "a delay for ever": (lambda: snf.AxonalDelay(float("inf"), 3), ValueError, r"longer than the line. Give delay.clamp\(0, 3\)"),
    "delays of double precision": (lambda: snf.DelayedLinear(W, W.abs().double(), 3), TypeError, r"give delay.to\(torch.float32\)"),
    "a wider delay": (lambda: run(snf.axonal_delay, snf.AxonalDelay(torch.ones(4).double(), 3)), TypeError, "would change its dtype"),
    "weights of one axis": (lambda: run(snf.delayed_linear, snf.DelayedLinear(W[0], 1.0, 3)), ValueError, r"weight \(4,\).: expected"),
    "no length": (lambda: snf.AxonalDelay(1.0, 2.0), ValueError, "longest=2.0.: expected the length"),
    "delays of other weights": (lambda: snf.DelayedLinear(W, torch.ones(3), 3), ValueError, r"delay \(3,\).: expected the shape of weight"),
    "whole numbers": (lambda: snf.AxonalDelay(torch.tensor([1, 2]), 3), TypeError, r"give delay.float\(\)"),
    "a negative width": (lambda: snf.DelayedLinear(W, 1.0, 3, sigma=-1.0), ValueError, "sigma=-1.: a width is 0 or more"),
    "another line": (lambda: snf.delay(3).step((), (X[0],), X[0]), ValueError, r"the last 3 inputs, but 1 leaves came"),
    "no line": (lambda: snf.delay(1).step((), X[0], X[0]), ValueError, "the last 1 inputs, but a Tensor came"),
    "another batch": (lambda: snf.delay(1).step((), (X[0, :2],), X[0]), ValueError, r"holds inputs \(2, 4\), torch.float32"),
    "another dtype": (lambda: snf.delay(1).step((), (X[0],), X[0].double()), ValueError, "but .*, torch.float64"),
    "whole input": (lambda: snf.delay(1).init((), X[0].long()), TypeError, "the input is torch.int64"),
    "two inputs": (lambda: snf.delay(1).init((), (X[0], X[0])), TypeError, "one tensor, not tuple"),
    "other neurons": (lambda: run(snf.axonal_delay, snf.AxonalDelay(torch.ones(3), 3)), ValueError, r"has shape \(3,\), which does not"),
    "other inputs": (lambda: run(snf.delayed_linear, snf.DelayedLinear(W, 1.0, 3), X[..., :3]), ValueError, "with in = 4"),
    "params of a layer that is not said": (
        lambda: run(snf.recurrent(snf.leaky), snf.RecurrentParams(LEAK, snf.AxonalDelay(1.0, 2))),
        TypeError,
        r"V is a AxonalDelay, the params of a layer. Say which: recurrent\(neuron, delayed_linear\)",
    ),
    "a tree for a layer": (lambda: snf.recurrent(snf.leaky, snf.Linear(W)), TypeError, "expected a layer, recurrent"),
    "a neuron held with its line": (
        lambda: snf.refractory(snf.recurrent(snf.leaky, snf.delay(2)), 2),
        ValueError,
        "recurrent goes outside: recurrent.refractory.neuron, steps., through",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_delay_is_refused(case):
    call, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        call()


def test_a_step_of_the_definition_moves_nothing():
    """A step only renames what it keeps: the tensors of the line are the same ones."""
    state = snf.delay(3).init((), X[0])
    _, after = snf.delay(3).step((), state, X[0])
    assert_equal(after[0], X[0])
    assert after[1] is state[0] and after[2] is state[1]


def test_delays_are_learned_as_the_width_is_narrowed():
    """Two inputs that arrive 1 and 7 steps late, from delays in the middle: the docstring's way to train."""
    xs = (drawn(30, 6, 2) < 0.2).float()
    target = before(xs[..., :1], 1) - before(xs[..., 1:], 7)
    learned = torch.tensor([[1.0, -1.0]]), torch.tensor([[4.0, 4.0]])
    params = snf.DelayedLinear(*learned, longest=8)
    rest = snf.delayed_linear.init(params, xs[0])

    def loss(weight, delay, sigma):
        leaves, spec = optree.tree_flatten(params)
        now = optree.tree_unflatten(spec, [weight, delay, sigma, *leaves[3:]])
        return (snf.scan(snf.delayed_linear.step, now, rest, xs)[0] - target).square().mean()

    for k in range(60):
        slopes = grad(loss, argnums=(0, 1))(*learned, torch.tensor(4 * 0.95**k))
        steps = (slopes[0], 10 * slopes[1].sign() * 0.93**k)
        learned = tuple((x - 0.03 * step).detach() for x, step in zip(learned, steps))
    found = dataclasses.replace(params, weight=learned[0], delay=learned[1].clamp(0, 8)).rounded()
    assert_equal(found.delay, torch.tensor([[1.0, 7.0]]))
    assert loss(found.weight, found.delay, found.sigma) < 0.05 * loss(*(params.weight, params.delay, params.sigma))
