"""Laws over all kinds of scan and all sorts of steps: no number but the loop's, and nothing that lives for ever."""

import functools
import gc
import random
import threading
import weakref

import numpy as np
import optree
import pytest
import torch
from helpers import EXAMPLES, needs_kernels, UsersSpike
from holders import HOLDERS, IMPURE
from hypothesis import given, HealthCheck, Phase, settings, strategies as st
from torch.func import grad

import snn_functional as snf
from snn_functional import kernels


pytestmark = needs_kernels

XS, S = torch.arange(1.0, 25.0).reshape(8, 3) / 7, torch.zeros(3)
QUIET = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)


def results(step, kind):
    """Values and gradients."""
    loss = lambda s, x: (lambda y, last: ((y * XS).sum() + (last * S.add(0.3)).sum(), (y, last)))(
        *snf.scan(step, (), s, x, kind=kind)
    )
    return snf.scan(step, (), S, XS, kind=kind), grad(loss, (0, 1), has_aux=True)(S, XS)


def assert_same(a, b):
    for x, y in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", HOLDERS)
def test_what_a_step_holds_may_change_between_two_calls(name):
    step, put = HOLDERS[name]()
    for value in (1.0, 5.0, 2.0, 5.0):
        put(value)
        assert_same(results(step, "auto"), results(step, "loop"))
    with torch.no_grad():
        assert_same(snf.scan(step, (), S, XS), snf.scan(step, (), S, XS, kind="loop"))


@QUIET
@given(
    st.lists(st.tuples(st.sampled_from(sorted(HOLDERS)), st.sampled_from([0.5, 1.0, 2.0, 3.0])), min_size=2, max_size=6)
)
def test_steps_that_hold_steps_may_change_too(changes):
    """Any of several holders within one step, changed in any order."""
    made = {name: HOLDERS[name]() for name, _ in changes}

    def step(p, s, x):
        spks = [inner(p, s, x)[0] for inner, _ in made.values()]
        return sum(spks), 0.5 * s + x

    for name, value in changes:
        made[name][1](value)
        assert_same(snf.scan(step, (), S, XS), snf.scan(step, (), S, XS, kind="loop"))


def outcome(step, kind):
    return snf.scan(step, (), S, XS, kind=kind), random.random(), float(np.random.rand()), float(torch.rand(()))


def seeded(make):
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    return make()


@pytest.mark.parametrize("name", IMPURE)
def test_a_step_that_is_not_pure_is_the_loop(name):
    expected = outcome(seeded(IMPURE[name]), "loop")
    assert_same(outcome(seeded(IMPURE[name]), "auto")[0], expected[0])
    step = seeded(IMPURE[name])
    said = snf.explain(step, (), S, XS)
    if name == "drawn_from_torchs_generator":  # which is drawn in the loop's order
        assert said.kind == "staged"
        return
    assert said.startswith("loop: ")
    # What was read is put back: the loop begins where it would have begun.
    found = outcome(step, "auto")
    assert_same(found[0], expected[0]) if found[1:] == expected[1:] else pytest.fail("a generator has moved")
    with pytest.raises(ValueError, match="has no kernel"):
        snf.scan(seeded(IMPURE[name]), (), S, XS, kind="fused")


DRAWN = [name for name in IMPURE if name.startswith(("drawn", "seldom"))]
OWN = ("drawn_from_a_generator_of_its_own", "drawn_from_a_new_generator_of_numpys", "drawn_from_a_generator_of_torchs")


@pytest.mark.parametrize("name", IMPURE)
def test_the_checkpointed_kind_draws_again_or_refuses(name):
    """p . grad = loss for a loss that is linear in p: else the backward has seen another step than the forward."""
    step = seeded(IMPURE[name])
    scaled = lambda p, s, x: (lambda y, s: (p * y, s))(*step((), s, x))

    def loss(p, kind):
        return snf.scan(scaled, p, S, XS, kind=kind)[0].sum()

    p = torch.tensor(1.5, requires_grad=True)
    if name not in DRAWN or name in OWN:
        with pytest.raises(ValueError, match="checkpointed.*Take|take kind"):
            loss(p, "checkpointed")
        return
    value = loss(p, "checkpointed")
    value.backward()
    torch.testing.assert_close(p.grad * p, value)
    expected = (
        lambda step: snf.scan(lambda p, s, x: (lambda y, s: (p * y, s))(*step((), s, x)), p, S, XS, kind="loop")
    )(seeded(IMPURE[name]))[0].sum()
    torch.testing.assert_close(value, expected)


def test_numbers_of_a_closure_are_one_kernel(monkeypatch):
    from snn_functional.kernels import _cpu

    built, load = [], _cpu.load
    monkeypatch.setattr(_cpu, "load", lambda text, *more: built.append(text) or load(text, *more))

    def loss(x, slope, kind):
        step = lambda p, s, x: (lambda m: (torch.sigmoid(slope * (m - 0.5)), m))(0.875 * s + x)
        return snf.scan(step, (), S, x, kind=kind)[0].sum()

    for slope in range(1, 11):
        assert_same(grad(loss)(XS, slope / 3, "fused"), grad(loss)(XS, slope / 3, "loop"))
    assert len(set(built)) == len(built) == 2  # forward, backward


class Own:
    def __init__(self):
        self.table, self.k = torch.ones(1000), 2.0

    def __call__(self, p, s, x):
        return x * self.k + s + 0 * self.table[0].detach() if False else x * self.k + s, s + x


def test_nothing_that_a_step_held_outlives_it():
    refs = []

    def closure():
        table = torch.ones(1000)
        return lambda p, s, x: (x * table.shape[0] + s, s + x), table

    def list_of_tensors():
        table = torch.ones(3)
        held = [table]
        return lambda p, s, x: (x * held[0] + s, s + x), table

    def choice():
        table = torch.tensor(2.0)
        fire = lambda u: (u > 0).to(u.dtype) + (u - u.detach()) * table
        params = snf.LeakyParams(0.9, spike_grad=fire)
        return lambda p, s, x: (lambda y, m: (y, m.mem))(*snf.leaky_step(params, snf.LeakyState(s), x)), table

    def nothing():
        step = lambda p, s, x: (x + s, s + x)
        return step, step

    def function():
        class Spike(UsersSpike):
            @staticmethod
            def backward(ctx, cotangent):
                return cotangent

        return lambda p, s, x: (Spike.apply(x @ torch.ones(3, 3)), s + x), Spike

    for _ in range(12):
        own = Own()
        for step, held in ((own, own.table), closure(), list_of_tensors(), choice(), nothing(), function()):
            refs.append(weakref.ref(held))
            x = XS.clone().requires_grad_()
            snf.scan(step, (), S, x)[0].sum().backward()
            snf.explain(step, (), S, XS)
            refs.append(weakref.ref(x))
    del own, step, held, x
    gc.collect()
    assert not [ref for ref in refs if ref() is not None]


def test_what_is_remembered_is_bounded():
    from snn_functional._scan import _known

    for i in range(60):
        space = {"k": float(i)}
        exec("def step(p, s, x): return x * k + s, s + x", space)
        snf.scan(space["step"], (), S[: 1 + i % 3], XS[:, : 1 + i % 3])
    assert len(_known._known) <= _known._known.size
    assert len(snf._identity._functions) < 1000


@pytest.mark.parametrize("holds", ["nothing", "a partial", "a module"])
def test_what_another_thread_draws_meanwhile_it_does_not_draw_again(holds, monkeypatch):
    """What a reading has changed is put back. Generators are left alone where the step cannot reach them."""
    drawn, record, layer = [], kernels._plan.record, torch.nn.Linear(3, 3)
    draw = lambda: drawn.append((torch.rand(()).item(), random.random(), np.random.rand()))

    def meanwhile(*args):
        thread = threading.Thread(target=draw)
        thread.start(), thread.join()
        return record(*args)

    monkeypatch.setattr(kernels._plan, "record", meanwhile)
    step = lambda p, s, x: (x * 0.8125 + s, s + x)
    if holds == "a partial":
        step = functools.partial(step)
    if holds == "a module":
        step = lambda p, s, x: (layer(x) + s, s + x)
    snf.scan(step, (), S, XS)
    draw()
    assert len(drawn) > 1
    assert all(len(set(column)) == len(drawn) for column in zip(*drawn))


def test_new_steps_in_many_threads_keep_apart():
    """Six threads, each with steps of its own that nobody has seen, all at once."""
    wrong, barrier = [], threading.Barrier(6)

    def work(number):
        barrier.wait()
        for i in range(25):
            gain = float(number * 100 + i)
            step = lambda p, s, x, gain=gain: (gain * x + s, s - x)
            found = snf.scan(step, (), S, XS)[0]
            if not torch.equal(found, snf.scan(step, (), S, XS, kind="loop")[0]):
                wrong.append(gain)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert not wrong


WIDE = torch.rand(7, 5)
SHAPES = {  # step, params, state, inputs
    "a weight that rides along": (
        lambda p, s, x: snf.leaky_step(p["lif"], s, x),
        {"lif": snf.LeakyParams(0.9), "fc": WIDE},
        snf.LeakyState(torch.zeros(2, 3)),
        torch.rand(6, 2, 3) * 2,
    ),
    "a wide one that broadcasts": (
        lambda p, s, x: snf.leaky_step(p["lif"], s, x),
        {"lif": snf.LeakyParams(0.9), "fc": torch.rand(50, 1, 3)},
        snf.LeakyState(torch.zeros(2, 3)),
        torch.rand(6, 2, 3) * 2,
    ),
    "an input that is passed on": (
        lambda p, s, x: (lambda y, s: ((y, x[1]), s))(*snf.leaky_step(p, s, x[0])),
        snf.LeakyParams(0.9),
        snf.LeakyState(torch.zeros(2, 3)),
        (torch.rand(6, 2, 3) * 2, torch.rand(6, 2)),
    ),
    "a state that stays": (
        lambda p, s, x: (lambda y, m: ((y, s[1]), (m, s[1])))(*snf.leaky_step(p, s[0], x)),
        snf.LeakyParams(0.9),
        (snf.LeakyState(torch.zeros(2, 3)), torch.rand(9)),
        torch.rand(6, 2, 3) * 2,
    ),
    "a state that is only read": (
        lambda p, s, x: (s[0] * s[1] + x, (0.5 * s[0] + x, s[1])),
        (),
        (torch.rand(2, 3), torch.rand(3)),
        torch.rand(6, 2, 3),
    ),
    "a param given out": (lambda p, s, x: ((p, s + x), s + x), torch.rand(4), torch.zeros(3), torch.rand(6, 3)),
    "nothing computed": (lambda p, s, x: ((x, s), s), (), torch.rand(3), torch.rand(6, 4)),
    "a state of one number a neuron": (
        lambda p, s, x: (x + s[1], (0.5 * s[0] + x, 0.5 * s[1] + p)),
        torch.rand(3),
        (torch.rand(2, 3), torch.rand(3)),
        torch.rand(6, 2, 3),
    ),
}
LOOPS = {
    "two populations": (
        lambda p, s, x: ((s[0] + x[0], s[1] + x[1]), (s[0] + x[0], s[1] + x[1])),
        (),
        (torch.zeros(3), torch.zeros(5)),
        (torch.ones(4, 3), torch.ones(4, 5)),
    ),
    "a trace for each sample": (
        lambda p, s, x: (lambda y, m: (y, (m, 0.9 * s[1])))(*snf.leaky_step(p, s[0], x)),
        snf.LeakyParams(0.9),
        (snf.LeakyState(torch.zeros(2, 3)), torch.ones(2)),
        torch.rand(6, 2, 3) * 2,
    ),
}


def floating(tree):
    return [leaf for leaf in optree.tree_leaves(tree)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", [*SHAPES, *LOOPS])
def test_leaves_of_many_shapes(name, reverse):
    step, params, state, inputs = (SHAPES | LOOPS)[name]
    kinds = ("fused", "loop") if name in SHAPES else ("auto", "loop")
    assert snf.explain(step, params, state, inputs).startswith("fused" if name in SHAPES else "loop")
    leaves, spec = optree.tree_flatten((params, state, inputs))
    expected = optree.tree_leaves(snf.scan(step, params, state, inputs, kind="loop", reverse=reverse))
    weights = [torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) for x in expected]

    def run(kind, *leaves):
        return optree.tree_leaves(snf.scan(step, *optree.tree_unflatten(spec, leaves), kind=kind, reverse=reverse))

    def loss(*leaves, kind):
        return sum((a * b).sum() for a, b in zip(run(kind, *leaves), weights))

    fast, slow = (run(kind, *leaves) for kind in kinds)
    for a, b in zip(fast, slow, strict=True):
        assert a.shape == b.shape and torch.equal(a, b)
    wrt = tuple(range(len(leaves)))
    fast, slow = (grad(lambda *x, kind=kind: loss(*x, kind=kind), wrt)(*leaves) for kind in kinds)
    assert_same(fast, slow)
    moves = tuple(torch.ones_like(x) for x in leaves)
    fast, slow = (torch.func.jvp(lambda *x, kind=kind: loss(*x, kind=kind), tuple(leaves), moves) for kind in kinds)
    assert_same(fast, slow)
    # A result is a tensor of its own, as the loop's is.
    out = run(kinds[0], *leaves)
    before = [leaf.clone() for leaf in leaves]
    for x in out[: len(optree.tree_leaves(snf.scan(step, params, state, inputs, kind="loop")[0]))]:
        x.add_(1)
    assert all(map(torch.equal, before, leaves))


TRANSFORMS = {
    "grad of another tensor": lambda f: grad(lambda q: q * f())(torch.tensor(1.0)),
    "vjp": lambda f: torch.func.vjp(lambda q: q * f(), torch.tensor(2.0))[1](torch.tensor(1.0))[0],
    "jvp": lambda f: torch.func.jvp(lambda q: q * f(), (torch.tensor(2.0),), (torch.tensor(1.0),))[1],
    "vmap over something else": lambda f: torch.func.vmap(lambda q: q * f())(torch.ones(3)),
    "hessian": lambda f: torch.func.hessian(lambda q: q * q * f())(torch.tensor(2.0)),
    "vmap of grad": lambda f: torch.func.vmap(grad(lambda q: q * q * f()))(torch.ones(3)),
    "an empty tree": lambda f: grad(lambda p: torch.tensor(1.0) * f())({}) or torch.zeros(()),
}


@pytest.mark.parametrize("kind", ["fused", "auto", "checkpointed"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_scan_of_which_nothing_is_transformed(name, kind):
    """A reservoir, a teacher, a washout: all its leaves come from outside."""
    params, xs = snf.LeakyParams(0.9), torch.rand(20, 2, 3) * 2
    state = snf.leaky_init(params, xs[0])
    run = lambda kind: snf.scan(snf.leaky_step, params, state, xs, kind=kind)[0].sum()
    assert_same(TRANSFORMS[name](lambda: run(kind)), TRANSFORMS[name](lambda: run("loop")))


class Rule(UsersSpike):
    """A surrogate of the user's, whose slope is no derivative of anything."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent / (1 + (3 * ctx.saved_tensors[0]) ** 2)

    @staticmethod
    def jvp(ctx, tangent):
        return tangent / (1 + (3 * ctx.saved_tensors[0]) ** 2)


def of_a_rule(p, s, x):
    s = 0.9 * s + x - Rule.apply(s - p) * p
    return s * s * p, s


def without_a_gradient(p, s, x):
    with torch.no_grad():
        lost = (s - p).clamp(min=0) ** 2
    return s * p, p * s + x - lost


@pytest.mark.parametrize("step", [of_a_rule, without_a_gradient])
def test_derivatives_of_ones_own_are_the_loops_to_any_order(step):
    def total(kind):
        def total(p):
            spks, last = snf.scan(step, p, S, XS, kind=kind)
            return (spks**2).sum() + (last**3).sum()

        return total

    p = torch.tensor(0.3)
    assert snf.explain(step, p, S, XS).startswith("fused")
    ways = [
        grad,
        lambda f: grad(grad(f)),
        torch.func.hessian,
        lambda f: lambda p: torch.func.jvp(grad(f), (p,), (p,))[1],
    ]
    ways.append(lambda f: grad(lambda p: torch.func.jvp(f, (p,), (p,))[1]))
    for way in ways:
        torch.testing.assert_close(way(total("auto"))(p), way(total("loop"))(p), rtol=1e-4, atol=1e-4)
    leaf = p.clone().requires_grad_()
    (first,) = torch.autograd.grad(total("auto")(leaf), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r'Take scan\(..., kind="loop"\)'):
        first.backward()


@pytest.mark.parametrize("T", [5, 40])
def test_torchs_old_vmap_goes_over_a_gradient(T):
    params, x = snf.LeakyParams(0.9), torch.rand(T, 2, 2, dtype=torch.float64)
    run = lambda x, kind: snf.scan(snf.leaky_step, params, snf.leaky_init(params, x[0]), x, kind=kind)[0]
    for kind in ("fused", "auto"):
        found, expected = (
            torch.autograd.functional.jacobian(lambda x, k=k: run(x, k), x, vectorize=True) for k in (kind, "loop")
        )
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_a_number_made_whole_and_back(dtype):
    x = torch.tensor([[1.0, -1.0, 300.0, 200.7, 3e9, -0.0, float("inf"), float("nan")]])
    step = lambda p, s, x: (x.to(dtype).float(), x.nan_to_num(0, 0, 0).clamp(0, 9).to(dtype).float() + s)
    for a, b in zip(snf.scan(step, (), x[0], x), snf.scan(step, (), x[0], x, kind="loop")):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


@functools.cache
def decay():
    return torch.exp(torch.tensor(-0.05))


def test_a_cache_in_a_step_keeps_no_stand_in():
    decay.cache_clear()
    step = lambda p, s, x: (s * decay() + x,) * 2
    for _ in range(2):
        assert_same(snf.scan(step, (), S, XS), snf.scan(step, (), S, XS, kind="loop"))
    assert float(decay()) == pytest.approx(0.951229)


ASKED = {
    "whether there is a gradient": lambda p, s, x: (x if p.grad is None else -x, s),
    "whether it is differentiated": lambda p, s, x: (x if p.requires_grad else -x, s),
    "an attribute": lambda p, s, x: (x * getattr(p, "scale", 1.0), s),
    "where it lies": lambda p, s, x: (x * (2.0 if p.is_contiguous() else 1.0), s),
}


@pytest.mark.parametrize("what", ASKED)
def test_what_a_stand_in_cannot_answer_is_the_loops_to_answer(what):
    p = torch.tensor(0.5, requires_grad=True)
    p.grad, p.scale = torch.ones(()), 4.0
    for q in (p, WIDE, torch.tensor(1.0)):
        assert_same(snf.scan(ASKED[what], q, S, XS), snf.scan(ASKED[what], q, S, XS, kind="loop"))


def of_a_patch(p, s, x):
    return torch.sigmoid(x) + s, s


def test_a_patched_function_is_another_step(monkeypatch):
    for function in (torch.sigmoid, torch.tanh, torch.sigmoid):
        monkeypatch.setattr(torch, "sigmoid", function)
        assert_same(snf.scan(of_a_patch, (), S, XS), snf.scan(of_a_patch, (), S, XS, kind="loop"))


def test_a_step_that_fails_is_not_kept():
    refs = []
    for i in range(3):
        table = torch.ones(3)
        refs.append(weakref.ref(table))

        def step(p, s, x, table=table, i=i):
            if x.shape[0] != 4 + i:  # no `assert`: what pytest makes of it reaches all of pytest, and so would the step
                raise AssertionError("four")
            return x * table, s

        with pytest.raises(AssertionError, match="four"):
            snf.scan(step, (), S, XS)
        del step, table
    gc.collect()
    assert not [ref for ref in refs if ref() is not None]
