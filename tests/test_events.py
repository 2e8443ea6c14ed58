"""Products with spikes: torch's own numbers, at another price."""

import itertools
import math

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, needs_kernels
from hypothesis import given, settings, strategies as st
from sparse import always, counted, DTYPES, dyadic, run_as_stepped, spikes, TRANSFORMS  # noqa: F401
from torch.func import functional_call, grad, jvp, vmap

import snn_functional as snf
from snn_functional import _events as events, snn
from snn_functional._events import _native, _rules


def dense(z, w, bias=None):
    return z @ w if bias is None else z @ w + bias


# ---- The numbers


sizes = st.sampled_from([1, 2, 15, 16, 17, 33, 64, 130, 257])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.sampled_from([1, 2, 7, 513, 1200]), inputs=sizes, out=sizes, density=st.sampled_from([0, 0.02, 0.3, 1]),
    graded=st.booleans(), dtype=st.sampled_from(DTYPES[:2]), seed=st.integers(0, 99), threads=st.sampled_from([1, 3]),
)  # fmt: skip
def test_the_numbers_are_the_dense_products(n, inputs, out, density, graded, dtype, seed, threads):
    """Bit for bit where rounding has no say, whatever the sizes are, however w lies in memory, in however many threads."""
    torch.manual_seed(seed)
    z, w, g = spikes(n, inputs, density=density, graded=graded, dtype=dtype), dyadic(inputs, out), dyadic(n, out)
    w, g, bias = w.to(dtype), g.to(dtype), dyadic(out, dtype=dtype)
    turned, apart = w.T.contiguous().T, torch.stack([w, w], dim=2)[:, :, 1]
    before, small = torch.get_num_threads(), _native.GRAIN
    torch.set_num_threads(threads)
    _native.GRAIN = 1
    try:
        known = _native.lists(z, 1.0)
        assert known.total == z.count_nonzero() and known.graded == bool(((z != 0) & (z != 1)).any())
        for matrix in (w, turned, apart):
            assert_equal(_native.product(known, n, matrix[None], None)[0], z @ w)
        assert_equal(_native.product(known, n, w[None], bias[None])[0], z @ w + bias)
        for rows, lies in itertools.product((g, g.T.contiguous().T), (False, True)):
            found = _native.outer(known, rows[None], lies)[0]
            assert_equal(found, z.T @ g)
            assert found.T.is_contiguous() if lies else found.is_contiguous()
    finally:
        torch.set_num_threads(before)
        _native.GRAIN = small


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_weights(always, dtype):
    z, w, g, bias = spikes(600, 40, dtype=dtype), *(torch.randn(s).to(dtype) for s in ((40, 70), (600, 70), (70,)))
    exact = lambda x: x.double()
    close = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {}
    assert_allclose(events.product(z, w), (exact(z) @ exact(w)).to(dtype), **close)
    assert_allclose(events.product(z, w, bias), (exact(z) @ exact(w) + exact(bias)).to(dtype), **close)
    assert_allclose(events.outer(z, g), (exact(z).T @ exact(g)).to(dtype), **close)
    assert always == {"product": 2, "outer": 1}


def test_axes_in_front(always):
    z, w, g = spikes(3, 4, 5, 20), dyadic(20, 6), dyadic(3, 4, 5, 6)
    assert_equal(events.product(z, w), z @ w)
    assert_equal(events.outer(z, g), z.mT @ g)
    assert_equal(events.outer(z.transpose(0, 1), g.transpose(0, 1)), z.transpose(0, 1).mT @ g.transpose(0, 1))
    assert_equal(events.product(z[:, 0, 0], w), z[:, 0, 0] @ w)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (5, 3, 0), (1, 1, 1)], ids=str)
def test_nothing_and_next_to_nothing(shape, always, monkeypatch):
    n, inputs, out = shape
    z, w, g = spikes(n, inputs), dyadic(inputs, out), dyadic(n, out)
    monkeypatch.setattr(events, "SMALL", dict.fromkeys(DTYPES, 0))
    assert_equal(events.product(z, w), z @ w)
    assert_equal(events.outer(z, g), z.T @ g)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("graded", [False, True])
def test_what_is_not_finite_is_seen_as_the_dense_product_sees_it(always, bad, graded):
    z, w, g = spikes(40, 20, graded=graded), dyadic(20, 6), dyadic(40, 6)
    w[3, 2], g[5, 4] = bad, bad
    z[:, 3], z[5] = 0, 0
    same = lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    same(events.product(z, w), z @ w)
    same(events.outer(z, g), z.T @ g)
    assert (z @ w).isnan().any() and always == {"product": 0, "outer": 0}
    z, w = spikes(40, 20), dyadic(20, 6)
    z[7, 2] = bad
    w[2, 1] = 0
    same(events.product(z, w), z @ w)
    assert always == {"product": 1, "outer": 0}


def test_a_negative_zero_is_no_event(always):
    z, w = torch.full((8, 20), -0.0), dyadic(20, 6)
    z[3, 4] = 1
    assert _native.lists(z, 1.0).total == 1
    assert_equal(events.product(z, w), z @ w)


# ---- When


def test_few_are_added_up_and_many_are_not(counted):
    w, bias = dyadic(512, 512).requires_grad_(), dyadic(512).requires_grad_()
    events.product(spikes(128, 512, density=0.05), w, bias).sum().backward()
    assert counted == {"product": 1, "outer": 1}
    events.product(spikes(128, 512, density=0.9), w, bias).sum().backward()
    events.product(spikes(16, 512, density=0.05), w, bias).sum().backward()
    assert counted == {"product": 1, "outer": 1}


def test_many_in_a_few_rows_only_are_found(counted):
    """Those that are counted first do not show them."""
    z = torch.zeros(1000, 512)
    w = dyadic(512, 512)
    z[:500] = 1
    assert_equal(events.product(z, w), z @ w)
    hidden = torch.zeros(100_000, 4)
    hidden[5_000:50_000] = 1
    assert _native.lists(hidden, 0.25) is None
    assert counted == {"product": 0, "outer": 0}


def test_they_are_sought_once_for_both_directions(always, monkeypatch):
    sought = []
    monkeypatch.setattr(_rules, "lists", lambda *args: sought.append(1) or _native.lists(*args))
    z, w = spikes(40, 20), dyadic(20, 6).requires_grad_()
    y = events.product(z, w)
    y.sum().backward(retain_graph=True)
    assert always == {"product": 1, "outer": 1} and len(sought) == 1
    y.sum().backward()  # whoever goes back again, seeks again: nothing is held in between
    assert len(sought) == 2
    assert_equal(w.grad, 2 * z.T @ torch.ones(40, 6))
    zs = spikes(5, 40, 20)
    vmap(grad(lambda w, z: events.product(z, w).sum()), (None, 0))(w.detach(), zs)
    assert always == {"product": 2, "outer": 3}
    assert len(sought) == 3


def test_what_was_written_over_is_refused(always):
    z, w = spikes(40, 20), dyadic(20, 6).requires_grad_()
    y = events.product(z, w)
    z.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_switch(always, monkeypatch):
    z, w = spikes(40, 20), dyadic(20, 6)
    monkeypatch.setenv("SNN_FUNCTIONAL_EVENTS", "0")
    assert_equal(events.product(z, w), z @ w)
    assert always["product"] == 0
    monkeypatch.setenv("SNN_FUNCTIONAL_EVENTS", "1")
    assert_equal(events.product(z, w), z @ w)
    assert always["product"] == 1


def test_without_a_compiler_it_is_torchs(always, monkeypatch):
    def none():
        raise snf.kernels.NoCompiler("not here")

    monkeypatch.setattr(_native, "_function", none)
    z, w = spikes(40, 20), dyadic(20, 6)
    assert_equal(events.product(z, w), z @ w)
    assert always["product"] == 0


@needs_kernels
def test_what_is_traced_is_torchs_product(always):
    from torch.fx.experimental.proxy_tensor import make_fx

    z, w = spikes(40, 20), dyadic(20, 6)
    name = lambda target: getattr(getattr(target, "overloadpacket", None), "__name__", "")
    graph = make_fx(lambda z, w: events.product(z, w))(z, w)
    assert "mm" in {name(node.target) for node in graph.graph.nodes}
    assert always["product"] == 0


# ---- Derivatives, and every transform


@pytest.mark.filterwarnings("ignore:Please use `torch.vmap`")  # torch's own, where its old vmap goes over gradients
def test_numerical_derivatives(always):
    double = {"dtype": torch.float64}
    z, w, bias = spikes(9, 6, density=0.4, graded=True, **double), torch.randn(6, 5, **double), torch.randn(5, **double)
    w, bias = w.requires_grad_(), bias.requires_grad_()
    by_weight = lambda w, bias: events.product(z, w, bias)
    checks = {
        "check_forward_ad": True,
        "check_batched_grad": not torch.__version__.startswith("2.0"),
    }  # whose old vmap no rule sees
    assert torch.autograd.gradcheck(by_weight, (w, bias), **checks)
    assert torch.autograd.gradgradcheck(lambda w, bias: events.product(z, w, bias).sin(), (w, bias))
    g = torch.randn(9, 5, **double).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: events.outer(z, g), (g,), **checks)
    assert torch.autograd.gradgradcheck(lambda g: events.outer(z, g).sin(), (g,))
    assert always["product"] and always["outer"]


def loss(product):
    return lambda z, w, bias: (product(z, w, bias).sin() * torch.arange(1.0, 1 + w.shape[-1], dtype=w.dtype)).sum()


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("mapped", [None, *itertools.product((None, 0, 1), (None, 0, 1), (None, 0))], ids=str)
def test_transforms(always, name, mapped):
    double = {"dtype": torch.float64}
    z, w = spikes(5, 4, density=0.4, graded=True, **double), torch.randn(4, 3, **double)
    args, shape = [z, w, torch.randn(3, **double)], TRANSFORMS[name]
    every = lambda product: shape(loss(product))
    if mapped and any(d is not None for d in mapped):
        args = [x if d is None else torch.stack([x, 2 * x.roll(1, 0)], d) for x, d in zip(args, mapped)]
        every = lambda product: vmap(shape(loss(product)), mapped)
        assert_allclose(
            grad(lambda *a: vmap(loss(events.product), mapped)(*a).sum(), (0, 1, 2))(*args),
            grad(lambda *a: vmap(loss(dense), mapped)(*a).sum(), (0, 1, 2))(*args),
        )
    assert_allclose(every(events.product)(*args), every(dense)(*args))
    # Torch turns forward mode off inside a Function's jvp, and with it the outer one of the two: there it is the dense product.
    assert always["product"] or name == "forward over forward"


@pytest.mark.parametrize("inner", [(0, 0, None), (0, None, None), (None, 0, None)], ids=str)
@pytest.mark.parametrize("outer", [(0, None, 0), (0, None, None), (None, None, 0), (None, 0, None)], ids=str)
def test_mapped_twice(always, inner, outer):
    args = spikes(2, 3, 5, 4), dyadic(2, 3, 4, 6), dyadic(2, 6)
    for axis, dims in ((1, inner), (0, outer)):  # what is not mapped has no such axis
        args = [x if d == 0 or (axis and i == 2) else x.select(axis, 0) for i, (x, d) in enumerate(zip(args, dims))]
    twice = lambda f: vmap(vmap(f, inner), outer)(*args)
    assert_equal(twice(events.product), twice(dense))
    gradient = lambda f: grad(lambda z, w, b: (f(z, w, b) ** 2).sum(), (1, 2))
    assert_equal(twice(gradient(events.product)), twice(gradient(dense)))
    assert always["product"] and always["outer"]


def test_gradients_lie_as_their_weights_do(always):
    weight = dyadic(6, 20).requires_grad_()
    (found,) = torch.autograd.grad(events.product(spikes(40, 20), weight.T).sum(), weight)
    assert found.is_contiguous()


# ---- Whole networks


def step(params, state, x):
    w_in, bias, w_out, leak = params
    spk, hidden = snf.leaky_step(leak, state[0], torch.nn.functional.linear(x, w_in, bias))
    out, last = snf.leaky_step(leak, state[1], spk @ w_out)
    return (out, spk), (hidden, last)


def world(T=12, batch=5, sizes=(20, 30, 4)):
    params = dyadic(sizes[1], sizes[0]) / 2, dyadic(sizes[1]) / 4, dyadic(*sizes[1:]) / 2, snf.LeakyParams(0.875)
    state = tuple(snf.LeakyState(torch.zeros(batch, n)) for n in sizes[1:])
    return params, state, spikes(T, batch, sizes[0], density=0.2)


@needs_kernels
@pytest.mark.parametrize("reverse", [False, True])
def test_a_network_is_the_loop(always, monkeypatch, reverse):
    run = lambda *args, **more: snf.scan(step, *args, reverse=reverse, **more)
    params, state, xs = world()
    slow = run(params, state, xs, kind="loop")
    assert slow[0][0].any() and always["product"] == 0
    fast = run(params, state, xs)
    assert always["product"] == 2
    monkeypatch.setenv("SNN_FUNCTIONAL_EVENTS", "0")
    assert_equal(fast, slow)
    assert_equal(run(params, state, xs), slow)
    assert always["product"] == 2


@needs_kernels
def test_a_networks_gradients_are_the_loops(always):
    params, state, xs = world()
    several = optree.tree_map(lambda x: torch.stack([x, x.roll(1, 0) if x.dim() else x]), params)
    run = lambda params, state, xs, **more: optree.tree_leaves(snf.scan(step, params, state, xs, **more))
    total = lambda params, xs, state=state, **more: sum((x**2).sum() for x in run(params, state, xs, **more))
    samples = lambda **more: vmap(grad(lambda p, x, s: total(p, x, s, **more)), (None, 1, 0))(params, xs, state)
    for way in (
        lambda **more: grad(total, (0, 1))(params, xs, **more),
        lambda **more: vmap(grad(lambda p: total(p, xs, **more)))(several),
        lambda **more: jvp(lambda p: total(p, xs, **more), (params,), (params,)),
    ):
        before = always["product"]
        assert_allclose(way(), way(kind="loop"))
        assert always["product"] > before
    before = always["outer"]
    assert_allclose(samples(), samples(kind="loop"))
    assert always["outer"] == before + 2


@needs_kernels
def test_modules_and_chains(always):
    lif = lambda: snn.Leaky(0.875, init_hidden=True)
    net = torch.nn.Sequential(torch.nn.Linear(20, 30), lif(), torch.nn.Linear(30, 4, bias=False), lif())
    xs = spikes(12, 5, 20, density=0.3)
    run_as_stepped(net, xs, always, 2)

    pure = snf.chain(snf.linear, snf.leaky)
    params = (snf.Linear(net[0].weight.detach(), net[0].bias.detach()), snf.LeakyParams(0.875))
    state = pure.init(params, xs[0])
    assert_equal(snf.scan(pure.step, params, state, xs), snf.scan(pure.step, params, state, xs, kind="loop"))
    assert always["product"] == 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functional_call(always, dtype):
    """A module that is not ours, mapped over its parameters: nothing here asks who calls."""
    layer = lambda params, z: events.product(z, params["weight"].mT, params["bias"])
    module = torch.nn.Linear(20, 6, dtype=dtype)
    params = {k: dyadic(3, *p.shape, dtype=dtype) for k, p in module.named_parameters()}
    z = spikes(7, 20, dtype=dtype)
    assert_equal(vmap(layer, (0, None))(params, z), vmap(lambda p: functional_call(module, p, (z,)))(params))
