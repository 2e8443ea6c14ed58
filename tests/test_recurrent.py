"""Steps that hold products: one kernel, whose answer is the loop's under every transform."""

import optree
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_allclose, assert_equal, law, needs_kernels
from hypothesis import given, settings, strategies as st
from networks import dyadic, fed_back
from torch.func import grad, jvp, vjp, vmap

import snn_functional as snf
from snn_functional._scan import _primitive
from snn_functional.kernels import _kernels
from snn_functional.kernels._cpu_rows import NetworkKernel
from snn_functional.kernels._signature import Signature


SPIKE = snf.surrogate.ATan()
pytestmark = needs_kernels


@pytest.fixture(params=["whole rows", "calls one after another"], autouse=True)
def backend(request, monkeypatch):
    """The kernels of this processor, and what stands for them where there are none."""
    if request.param == "whole rows" and request.node.callspec.params.get("name") in IMAGES:
        pytest.skip("a convolution is a call on either")
    if request.param != "whole rows":
        monkeypatch.setattr(_kernels, "NETWORKS", {})
        monkeypatch.setattr(snf._scan._known, "_known", snf._identity.Registry(100))
    return request.param


def fire(mem, beta=0.875):
    spk = SPIKE(mem - 1)
    return spk, mem - spk


def feedback(p, s, x):
    spk, mem = fire(0.875 * s[0] + x @ p[0] + s[1] @ p[1])
    return spk, (mem, spk)


def biased(p, s, x):
    """`F.linear` with its bias, a leak for each neuron, one threshold for all."""
    mem = p[2] * s[0] + x @ p[0] + F.linear(s[1], p[1].T, p[3])
    spk = SPIKE(mem - p[4])
    return (spk, mem), (mem - spk * p[4], spk)


def low_rank(p, s, x):
    spk, mem = fire(0.875 * s[0] + x @ p[0] + (s[1] @ p[1]) @ p[2])
    return spk, (mem, spk)


def two_layers(p, s, x):
    """Which feed back to one another, of two widths."""
    a, mem = fire(0.875 * s[0] + x @ p[0] + s[3] @ p[1])
    b, other = fire(0.5 * s[1] + a @ p[2] + s[3] @ p[3])
    return (a, b), (mem, other, a, b)


def gated(p, s, x):
    """Products of what was put together, taken apart again."""
    i, f, o = F.linear(torch.cat([x, s[0]], -1), p[0].T, p[1]).chunk(3, -1)
    cell = torch.sigmoid(f) * s[1] + torch.tanh(i)
    mem = torch.sigmoid(o) * cell
    return mem, (mem, cell)


def masked(p, s, x):
    out, new = feedback(p, s, x)
    valid = x[..., :1] > 0
    return out, tuple(torch.where(valid, n, o) for n, o in zip(new, s))


def graded(p, s, x):
    """What goes through the matrix is no spike; the matrix is used twice, once the other way round."""
    mem = 0.5 * s[0] + x @ p[0] + torch.relu(s[0] - 0.25) @ p[1] - s[1] @ p[1].T
    spk, mem = fire(mem)
    return mem, (mem, spk)


def detached(p, s, x):
    """What a product gives reaches the state detached; a derivative of a derivative still needs it."""
    out = torch.tanh(s[0] @ p[1] + x @ p[0])
    mem = 0.5 * s[0] + out.detach()
    return out, (mem, s[1] + mem)


def images(p, s, x):
    """A convolution of the spikes, with a bias; a leak for each channel."""
    drive = F.conv2d(x, p[0], padding=1) + F.conv2d(s[1], p[1], p[3], padding=1)
    spk, mem = fire(p[2] * s[0] + drive)
    return (spk, F.max_pool2d(mem, 2)), (mem, spk)


def gated_images(p, s, x):
    """One convolution of what was put together, taken apart again."""
    i, f, o = F.conv2d(torch.cat([x, s[0]], 1), p[0], p[1], padding=(1, 2), dilation=(1, 2)).chunk(3, 1)
    cell = torch.sigmoid(f) * s[1] + torch.tanh(i)
    mem = torch.sigmoid(o) * cell
    return mem, (mem, cell)


def depthwise(p, s, x):
    """Each channel by itself; down to fewer pixels and back; and all of an image to all of it."""
    spk, mem = fire(0.875 * s[0] + F.conv2d(x, p[0], padding=1) + F.conv2d(s[1], p[1], padding=1, groups=len(p[1])))
    few = torch.tanh(F.conv2d(torch.where(mem > 9, torch.zeros_like(spk), spk), p[2], stride=2, padding=1))
    mem = mem - 0.5 * (few.flatten(1) @ p[3]).reshape(mem.shape)
    return spk, (mem, spk)


IMAGES = ("images", "gated_images", "depthwise")
CASES = {f.__name__: f for f in (feedback, biased, low_rank, two_layers, gated, masked, graded, detached)}
CASES |= {f.__name__: f for f in (images, gated_images, depthwise)}


ROUNDS = ("gated", "graded", "detached", "gated_images", "depthwise")
# their numbers leave the grid on which every order of a sum gives the same bits


def world(name, T=7, batch=5, n=6, inputs=4, m=3, dtype=torch.float64, seed=0, rows=None):
    g = torch.Generator().manual_seed(seed)
    if name in IMAGES:
        return world_of_images(name, T, batch, n % 4 + 1, inputs % 3 + 1, dtype, g)
    w = lambda *shape, scale=1.0: dyadic(*shape, generator=g, scale=scale).to(dtype)
    rest = lambda k: torch.zeros(*(rows if rows is not None else (batch,)), k, dtype=dtype)
    xs = (torch.rand(T, *(rows if rows is not None else (batch,)), inputs, generator=g) < 0.4).to(dtype)
    params, state = {
        "feedback": ((w(inputs, n), w(n, n)), (rest(n), rest(n))),
        "biased": (
            (w(inputs, n), w(n, n), torch.full((n,), 0.875, dtype=dtype), w(n), torch.tensor(1.0, dtype=dtype)),
            (rest(n), rest(n)),
        ),
        "low_rank": ((w(inputs, n), w(n, m), w(m, n)), (rest(n), rest(n))),
        "two_layers": ((w(inputs, n), w(m, n), w(n, m), w(m, m)), (rest(n), rest(m), rest(n), rest(m))),
        "gated": ((w(inputs + n, 3 * n), w(3 * n)), (rest(n), rest(n))),
        "masked": ((w(inputs, n), w(n, n)), (rest(n), rest(n))),
        "graded": ((w(inputs, n), w(n, n)), (rest(n), rest(n))),
        "detached": ((w(inputs, n), w(n, n)), (rest(n), rest(n))),
    }[name]
    return CASES[name], params, state, xs


def world_of_images(name, T, batch, c, inputs, dtype, g, height=5, width=4):
    w = lambda *shape, scale=1.0: dyadic(*shape, generator=g, scale=scale).to(dtype)
    xs = (torch.rand(T, batch, inputs, height, width, generator=g) < 0.4).to(dtype)
    params = {
        "images": (w(c, inputs, 3, 3), w(c, c, 3, 3), torch.full((c, 1, 1), 0.875, dtype=dtype), w(c)),
        "gated_images": (w(3 * c, inputs + c, 3, 3), w(3 * c)),
        "depthwise": (w(c, inputs, 3, 3), w(c, 1, 3, 3), w(2, c, 3, 3), w(12, c * height * width)),
    }[name]
    rest = torch.zeros(batch, c, height, width, dtype=dtype)
    return CASES[name], params, (rest, rest), xs


def weighed(found):
    """A cotangent of its own for every number."""
    waves = lambda x: torch.cos(1.7 * torch.arange(x.numel(), dtype=torch.float64)).to(x.dtype).reshape(x.shape)
    return sum((waves(x) * x).sum() for x in optree.tree_leaves(found))


def loss(step, xs, kind, **more):
    return lambda params, state, xs=xs: weighed(snf.scan(step, params, state, xs, kind=kind, **more))


every = pytest.mark.parametrize("name", CASES)


@every
def test_it_is_no_loop(name, backend):
    stages = snf.explain(*world(name)).stages
    how = "kernel" if backend == "whole rows" and name not in IMAGES else "calls"
    (core,) = [part for part in stages if part.states and part.operations]
    assert core.how == how and any("mm" in what or "convolution" in what for what in core.operations)


@every
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("T", [pytest.param(1, marks=pytest.mark.slow), 7, 40])
def test_values_and_gradients_are_the_loops(name, T, reverse):
    step, params, state, xs = world(name, T=T)
    fast, slow = (snf.scan(step, params, state, xs, kind=kind, reverse=reverse) for kind in ("auto", "loop"))
    (assert_allclose if name in ROUNDS else assert_equal)(fast, slow)
    fast, slow = (
        grad(loss(step, xs, kind, reverse=reverse), (0, 1, 2))(params, state, xs) for kind in ("auto", "loop")
    )
    assert_allclose(fast, slow)


sizes = st.sampled_from([1, 2, 8, 15, 16, 17, 33, 64, 65, 100])


@pytest.mark.parametrize(
    "backend", ["whole rows", pytest.param("calls one after another", marks=pytest.mark.slow)], indirect=True
)
@settings(law, max_examples=30)
@given(name=st.sampled_from([*CASES]), n=sizes, m=sizes, inputs=st.integers(1, 9), batch=st.sampled_from([1, 2, 5, 6, 7, 13, 49, 50]),
       dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 100))  # fmt: skip
def test_any_size(name, n, m, inputs, batch, dtype, seed):
    step, params, state, xs = world(name, T=5, batch=batch, n=n, m=m, inputs=inputs, dtype=dtype, seed=seed)
    fast, slow = (snf.scan(step, params, state, xs, kind=kind) for kind in ("auto", "loop"))
    close = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {}
    assert_allclose(fast, slow, **(close if name in ROUNDS else {"rtol": 0, "atol": 0}))
    assert_allclose(*(grad(loss(step, xs, kind), (0, 1))(params, state) for kind in ("auto", "loop")), **close)


@every
def test_under_plain_autograd(name):
    def of(kind):
        step, params, state, xs = world(name)
        leaves = [x.clone().requires_grad_() for x in (*params, *state, xs)]
        total = weighed(
            snf.scan(step, tuple(leaves[: len(params)]), tuple(leaves[len(params) : -1]), leaves[-1], kind=kind)
        )
        return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)

    assert_allclose(of("auto"), of("loop"))


def transforms(step, params, state, xs, kind):
    f = loss(step, xs, kind)
    gradient = grad(f, (0, 1))
    moved = optree.tree_map(
        lambda x: torch.cos(torch.arange(x.numel(), dtype=x.dtype)).reshape(x.shape), (params, state)
    )
    many = optree.tree_map(lambda x: torch.stack([x, 0.5 * x, -x]), params)
    one = lambda p, s, x: grad(lambda p: loss(step, x, kind)(p, s))(p)
    apart = optree.tree_map(lambda x: x[:, None], state)
    yield "jvp", jvp(lambda *a: snf.scan(step, *a, xs, kind=kind), (params, state), moved)
    yield (
        "vjp",
        vjp(lambda x: snf.scan(step, params, state, x, kind=kind)[0], xs)[1](snf.scan(step, params, state, xs)[0]),
    )
    yield "ensemble", vmap(lambda p: snf.scan(step, p, state, xs, kind=kind))(many)
    yield "of one matrix", vmap(lambda w: f((params[0], w, *params[2:]), state))(many[1])
    yield "gradients of an ensemble", vmap(gradient, (0, None))(many, state)
    yield "per sample", vmap(one, (None, 0, 1))(params, apart, xs[:, :, None])
    yield "samples of an ensemble", vmap(vmap(one, (None, 0, 1)), (0, None, None))(many, apart, xs[:, :, None])
    yield "forward over reverse", jvp(gradient, (params, state), moved)
    yield "reverse over reverse", grad(lambda p: weighed(gradient(p, state)))(params)
    yield "reverse over forward", grad(lambda p: jvp(f, (p, state), moved)[1])(params)
    yield (
        "second, per sample",
        vmap(lambda s, x: grad(lambda p: weighed(one(p, s, x)))(params), (0, 1))(apart, xs[:, :, None]),
    )


# The others are as these under a transform.
FEW = {"whole rows": ("two_layers", "gated", "detached")}
FEW["calls one after another"] = ("two_layers", "gated_images")


@pytest.mark.parametrize(
    "backend, name",
    [
        pytest.param(how, name, marks=() if name in FEW[how] else pytest.mark.slow)
        for how in FEW
        for name in CASES
        if how != "whole rows" or name not in IMAGES
    ],
    indirect=["backend"],
)
def test_every_transform(name):
    fast, slow = (transforms(*world(name, T=5, batch=3), kind) for kind in ("auto", "loop"))
    for (what, a), (_, b) in zip(fast, slow, strict=True):
        try:
            assert_allclose(a, b)
        except AssertionError as error:
            raise AssertionError(what) from error


@pytest.mark.parametrize("seed", [5, *(pytest.param(i, marks=pytest.mark.slow) for i in range(40) if i != 5)])
def test_random_steps_to_the_second_derivative(seed, backend):
    step, *args = fed_back(seed)
    moved = optree.tree_map(lambda x: torch.cos(torch.arange(x.numel()).to(x)).reshape(x.shape), tuple(args))

    def seconds(kind):
        f = lambda *args: weighed(snf.scan(step, *args, kind=kind))
        first = grad(f, (0, 1, 2))
        yield jvp(first, tuple(args), moved)[1]
        yield grad(lambda *args: jvp(f, args, moved)[1], (0, 1, 2))(*args)
        yield grad(lambda *args: weighed(first(*args)), (0, 1, 2))(*args)

    for a, b in zip(seconds("fused" if backend == "whole rows" else "auto"), seconds("loop"), strict=True):
        assert_allclose(a, b)


@pytest.mark.parametrize("rows", [(), (2, 3), (1,), (2, 1, 3)])
def test_rows_of_any_shape(rows):
    for name in ("feedback", "two_layers", "biased"):
        step, params, state, xs = world(name, rows=rows)
        assert [p for p in snf.explain(step, params, state, xs).stages if p.how == "loop"] == []
        assert_equal(*(snf.scan(step, params, state, xs, kind=kind) for kind in ("auto", "loop")))
        assert_allclose(*(grad(loss(step, xs, kind), (0, 1))(params, state) for kind in ("auto", "loop")))


def test_threads_and_events_leave_every_bit(backend, monkeypatch):
    if backend != "whole rows":
        pytest.skip("these are torch's products")
    asked = []  # for events, where a call is laid out
    layout = NetworkKernel._layout

    def laid_out(*args):
        numbers, size = layout(*args)
        asked.append(numbers[len(numbers) - 2])
        return numbers, size

    monkeypatch.setattr(NetworkKernel, "_layout", laid_out)
    step, params, state, xs = world("feedback", T=60, batch=50, n=40, dtype=torch.float32)
    of = lambda: (snf.scan(step, params, state, xs), grad(loss(step, xs, "auto"), 1)(params, state))
    once = of()
    assert set(asked) == {1}
    asked.clear()
    monkeypatch.setenv("SNN_FUNCTIONAL_EVENTS", "0")
    dense = of()
    assert set(asked) == {0}  # at the same shapes, too
    monkeypatch.delenv("SNN_FUNCTIONAL_EVENTS")
    try:
        torch.set_num_threads(2)
        two = of()
    finally:
        torch.set_num_threads(1)
    assert_equal(once, dense)
    assert_equal(once, two)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_weights_that_are_not_finite_are_seen_as_a_product_sees_them(value):
    step, params, state, xs = world("feedback", batch=8)
    params[1][2, 3] = value
    fast, slow = (snf.scan(step, params, state, xs, kind=kind) for kind in ("auto", "loop"))
    for a, b in zip(optree.tree_leaves(fast), optree.tree_leaves(slow)):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_half_precision_keeps_its_dtype():
    step, params, state, xs = world("feedback", dtype=torch.bfloat16, n=16)
    fast, slow = (snf.scan(step, params, state, xs, kind=kind) for kind in ("auto", "loop"))
    assert_equal(fast, slow)  # few bits are needed here
    assert_allclose(*(grad(loss(step, xs, kind), 0)(params, state) for kind in ("auto", "loop")), rtol=0.1, atol=0.5)


def test_a_gradient_does_not_keep_the_trajectory():
    """What is kept over time are checkpoints; what is recorded of a product lives for the backward only."""
    step, params, state, xs = world("feedback", T=400, batch=8, n=32, dtype=torch.float32)
    leaves = [x.clone().requires_grad_() for x in params]
    spks, _ = snf.scan(step, tuple(leaves), state, xs)
    kept, seen = 0, set()
    todo = [spks.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [n for n, _ in node.next_functions]
        for x in getattr(node, "saved_tensors", ()):
            kept += x.untyped_storage().nbytes() if x is not None and x.data_ptr() not in seen else 0
            seen.add(x.data_ptr() if x is not None else None)
    assert kept < 3 * spks.numel() * spks.element_size()


@every
def test_what_is_not_kept_is_worked_out_again(name, monkeypatch):
    """Little is kept of what products give, so that memory does not grow with T."""
    step, params, state, xs = world(name, T=40)
    of = lambda: grad(loss(step, xs, "auto"), (0, 1, 2))(params, state, xs)
    memory, kept = Signature.memory, []
    monkeypatch.setattr(Signature, "memory", lambda *args: kept.append(args[-2]) or memory(*args))
    with_it = of()
    assert any(kept) or name in IMAGES
    monkeypatch.setattr(_primitive, "KEEP", 0)
    kept.clear()
    assert_allclose(of(), with_it)
    assert kept and not any(kept)


def test_a_layer_alone_is_fused(backend):
    """Where all of it is in the kernel, that can be asked for."""
    g = torch.Generator().manual_seed(0)
    params = snf.RLeakyParams(0.875, V=snf.Linear(dyadic(6, 6, generator=g).float(), torch.zeros(6)))
    xs = torch.rand(7, 3, 6)
    state = snf.rleaky_init(params, xs[0])
    plan = snf.explain(snf.rleaky_step, params, state, xs)
    if backend != "whole rows":
        assert plan.kind == "staged"
        return
    assert plan.kind == "fused" and plan.reason is None and "addmm" in plan
    assert_allclose(*(snf.scan(snf.rleaky_step, params, state, xs, kind=kind) for kind in ("fused", "loop")))
    with pytest.raises(ValueError, match="has no kernel: .*mm.* is not pointwise .*in stages"):
        snf.scan(*world("feedback"), kind="fused")


WRITTEN = {  # s @ w
    "einsum": lambda s, w: torch.einsum("bi,ij->bj", s, w),
    "einsum, matrix first": lambda s, w: torch.einsum("ji,bj->bi", w, s),
    "turned": lambda s, w: (w.T @ s.T).T,
    "columns": lambda s, w: (w.T @ s[..., None])[..., 0],
    "bmm": lambda s, w: torch.bmm(s[None], w[None])[0],
    "tensordot": lambda s, w: torch.tensordot(s, w, 1),
    "inner": lambda s, w: torch.inner(s, w.T),
    "sample by sample": lambda s, w: vmap(lambda s: w.T @ s)(s),
}


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("how", WRITTEN)
def test_a_product_however_it_is_written(how, batch, n):
    def step(p, s, x):
        spk, mem = fire(0.875 * s[0] + x @ p[0] + WRITTEN[how](s[1], p[1]))
        return spk, (mem, spk)

    _, params, state, xs = world("feedback", batch=batch, n=n)
    said = snf.explain(step, params, state, xs)
    assert n == 1 or (said.kind != "loop" and "the loop" not in said), said  # of one neuron torch makes no product
    assert_equal(*(snf.scan(step, params, state, xs, kind=kind) for kind in ("auto", "loop")))
    assert_allclose(*(grad(loss(step, xs, kind), (0, 1))(params, state) for kind in ("auto", "loop")))


def test_a_step_of_one_sample_mapped_over_samples():
    """As it is written for JAX: `W @ s`."""

    def step(p, s, x):
        spk, mem = fire(0.875 * s[0] + p[0].T @ x + p[1].T @ s[1])
        return spk, (mem, spk)

    _, params, (rest, _), xs = world("feedback")
    of = lambda kind: vmap(lambda x: snf.scan(step, params, (rest[0], rest[0]), x, kind=kind), 1)(xs)
    assert "the loop" not in snf.explain(step, params, (rest[0], rest[0]), xs[:, 0])
    assert_equal(of("auto"), of("loop"))
    of = lambda kind: vmap(lambda x: grad(loss(step, x, kind))(params, (rest[0], rest[0])), 1)(xs)
    assert_allclose(of("auto"), of("loop"))


letters = st.permutations("abi")


@settings(law, max_examples=60)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 3]), min_size=3, max_size=3),
    matrix=st.booleans(),
    turn=letters,
    out=letters,
    first=st.booleans(),
)
def test_any_order_of_axes(sizes, matrix, turn, out, first):
    """The state's axes turned, a product that gives them in another order, turned back."""
    turn, out = "".join(turn), "".join(out)
    back = [out.index(letter) for letter in "abi"]
    names = ("ij" if matrix else "ji"), turn
    spec = ",".join(names if first else names[::-1]) + "->" + out.replace("i", "j")

    def step(p, s, x):
        w = p[0] if matrix else p[0].T
        turned = s.permute(*("abi".index(letter) for letter in turn))
        mem = torch.tanh(torch.einsum(spec, *((w, turned) if first else (turned, w))).permute(back)) + x
        return mem, mem

    g = torch.Generator().manual_seed(0)
    w = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)
    params, state, xs = (w(sizes[2], sizes[2]),), w(*sizes), w(4, *sizes)
    said = snf.explain(step, params, state, xs)
    assert sizes[2] == 1 or (said.kind != "loop" and "the loop" not in said), said
    assert_allclose(*(snf.scan(step, params, state, xs, kind=kind) for kind in ("auto", "loop")))
    assert_allclose(*(grad(loss(step, xs, kind), (0, 1))(params, state) for kind in ("auto", "loop")))


def weighed_parts(p, s, x):
    mem = torch.tanh(torch.addmm(p[1], torch.cat([x, s], -1), p[0], beta=0.5, alpha=2.0))
    return mem, mem


def promoted_parts(p, s, x):
    mem = torch.tanh(torch.cat([x.float(), s], -1) @ p[0])
    return mem, mem


def true_parts(p, s, x):
    mem = torch.tanh(torch.cat([x > 0, s], -1) @ p[0])
    return mem, mem


def an_empty_part(p, s, x):
    mem = torch.tanh(torch.cat([x, torch.zeros(0, dtype=x.dtype), s], -1) @ p[0])
    return mem, mem


def no_neurons(p, s, x):
    u = s @ p[0][x.shape[-1] :]
    whole, none = u.split([u.shape[-1], 0], -1)
    mem = torch.tanh(whole + p[1])
    return (mem, none, u[..., :1][..., :0]), mem


def some_from_behind(p, s, x):
    u = torch.cat([x, s], -1) @ p[0]
    mem = torch.tanh(torch.add(u, p[1], alpha=0.5))
    return (u[..., -2:], u[..., ::2]), torch.cat([mem[..., -3:], mem[..., :-3]], -1)


@pytest.mark.parametrize(
    "step",
    [weighed_parts, promoted_parts, true_parts, an_empty_part, no_neurons, some_from_behind],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("n", [1, 6])
def test_what_is_put_together_and_taken_apart_is_what_torch_makes_of_it(step, n):
    """Parts of other dtypes, with weights, without any neurons."""
    g = torch.Generator().manual_seed(0)
    w = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)
    params, state, xs = (w(4 + n, n), w(n)), w(3, n), w(5, 3, 4)
    assert_allclose(*(snf.scan(step, params, state, xs, kind=kind) for kind in ("auto", "loop")))
    assert_allclose(*(grad(loss(step, xs, kind), (0, 1))(params, state) for kind in ("auto", "loop")))


def test_what_meets_without_a_product_is_the_loop():
    """Rows of two widths, a sum over the neurons, a matrix that the states make."""
    w, s, xs = torch.eye(4).double(), torch.zeros(3, 4).double(), torch.ones(5, 3, 4).double()
    for step in (
        lambda p, s, x: (s, torch.relu(s @ p + x - s.sum(-1, keepdim=True))),
        lambda p, s, x: (s, s @ (p * s.sum()) + x),
        lambda p, s, x: (s, (p @ s.T + x.T).T),
    ):
        plan = snf.explain(step, w, s, xs)
        assert plan.kind == "loop" or "kernel" not in [part.how for part in plan.stages]
        assert_allclose(*(snf.scan(step, w, s, xs, kind=kind) for kind in ("auto", "loop")))
