"""Networks as plain steps: in stages they give what the loop gives."""

import optree
import pytest
import torch
import torch.utils.checkpoint
from helpers import assert_allclose, assert_equal, EXAMPLES, law, needs_kernels, OfTheOldKind
from hypothesis import given, HealthCheck, settings, strategies as st
from networks import dyadic, Net, nets, SMOOTH
from torch.func import functional_call, grad, jvp, vmap

import snn_functional as snf
from snn_functional import _scan, kernels
from snn_functional._identity import Registry
from snn_functional.kernels import NoCompiler


@pytest.fixture
def no_kernels(monkeypatch):
    """Stages without kernels, each a loop of its own: thousands of networks need no compiler."""

    def ready(device):
        raise NoCompiler("not here")

    monkeypatch.setattr(kernels, "ready", ready)
    monkeypatch.setattr(_scan._kinds, "_warned", ["said"])
    monkeypatch.setattr(_scan._known, "_known", Registry(100))


def both(net, *, reverse=False):
    world = net.world()
    found = []
    for kind in ("auto", "loop"):
        torch.manual_seed(0)
        found.append((snf.scan(*world, kind=kind, reverse=reverse), torch.rand(3)))
    return found


many = settings(law, max_examples=12 * EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(net=nets(), reverse=st.booleans())
def test_a_network_gives_the_loops_bits(no_kernels, net, reverse):
    """And the generator stands where the loop leaves it."""
    fast, slow = both(net, reverse=reverse)
    assert_equal(fast, slow)


def loss(net, state, inputs, kind):
    def loss(params, state=state, inputs=inputs):
        torch.manual_seed(1)
        found = optree.tree_leaves(snf.scan(net, params, state, inputs, kind=kind))
        weights = [torch.arange(x.numel(), dtype=x.dtype).reshape(x.shape).cos() for x in found]
        return sum((w * x).sum() + 0.1 * (x**2).sum() for w, x in zip(weights, found))

    return loss


def ways(net, params, state, inputs, kind):
    f = loss(net, state, inputs, kind)
    ones = optree.tree_map(torch.ones_like, params)
    real = {"x": inputs["x"], "valid": inputs["valid"]}
    by_input = lambda x: f(params, state, real | {"x": x})
    yield grad(f, argnums=(0, 1))(params, state)
    yield grad(by_input)(inputs["x"])
    yield jvp(f, (params,), (ones,))


@settings(many, max_examples=6 * EXAMPLES)
@given(net=nets())
def test_a_networks_gradients_are_the_loops(no_kernels, net):
    _, params, state, inputs = net.world()
    for fast, slow in zip(ways(net, params, state, inputs, "auto"), ways(net, params, state, inputs, "loop")):
        assert_allclose(fast, slow)


@settings(many, max_examples=4 * EXAMPLES)
@given(net=nets(SMOOTH, most=4))
def test_a_networks_samples_populations_and_second_derivatives_are_the_loops(no_kernels, net):
    _, params, state, inputs = net.world()
    many = optree.tree_map(lambda x: torch.stack([x, 2 * x]), params)
    ones = optree.tree_map(torch.ones_like, params)

    def all_of(kind):
        f = loss(net, state, inputs, kind)
        sample = lambda p, x, v, s: grad(f)(
            p, optree.tree_map(lambda x: x[None] if x.dim() else x, s), {"x": x[:, None], "valid": v[:, None]}
        )
        axes = optree.tree_map(lambda x: 0 if x.dim() else None, state)
        return (
            vmap(grad(f))(many),
            vmap(sample, in_dims=(None, 1, 1, axes))(params, inputs["x"], inputs["valid"], state),
            jvp(grad(f), (params,), (ones,)),
            grad(lambda p: jvp(f, (p,), (ones,))[1])(params),
        )

    assert_allclose(all_of("auto"), all_of("loop"))


def two_layers(p, s, x):
    spk, first = snf.leaky_step(p["first"], s[0], x @ p["in"])
    out, second = snf.leaky_step(p["second"], s[1], spk @ p["out"])
    return out, (first, second)


def two(T=9, batch=4):
    g = torch.Generator().manual_seed(0)
    params = {
        "first": snf.LeakyParams(0.875), "second": snf.LeakyParams(0.875),
        "in": dyadic(6, 8, generator=g).float(), "out": dyadic(8, 3, generator=g).float(),
    }  # fmt: skip
    xs = dyadic(T, batch, 6, generator=g).float()
    return params, (snf.LeakyState(torch.zeros(batch, 8)), snf.LeakyState(torch.zeros(batch, 3))), xs


@needs_kernels
@pytest.mark.parametrize(
    "around", ["plain", "recorded", "masked", "wrapped", "state_at_rest", "branches_on_shapes", "reads_a_number"]
)
def test_a_wrapper_goes_layer_by_layer_too(around):
    params, state, xs = two()
    how = ["once", "kernel", "once", "kernel"]
    step = two_layers
    if around == "recorded":
        step = lambda p, s, x: (lambda y, new: ((y, new[0].mem), new))(*two_layers(p, s, x))
    if around == "wrapped":
        step = lambda p, s, x: two_layers(p, s, x)
    if around == "masked":
        valid = torch.arange(9)[:, None, None] < torch.tensor([9, 4, 1, 7])[:, None]
        xs = (xs, valid)

        def step(p, s, x):
            out, new = two_layers(p, s, x[0])
            return out, optree.tree_map(lambda new, old: torch.where(x[1], new, old), new, s)

    if around == "state_at_rest":
        state = optree.tree_map(lambda x: torch.zeros(()), state)
    if around == "branches_on_shapes":
        step = lambda p, s, x: two_layers(p, s, x if x.shape[-1] == 6 else x[..., :6])
    if around == "reads_a_number":
        step, how = lambda p, s, x: two_layers(p, s, x * float(x.sum() > -100)), []
    plan = snf.explain(step, params, state, xs)
    assert [part.how for part in plan.stages] == how, plan
    assert_equal(snf.scan(step, params, state, xs), snf.scan(step, params, state, xs, kind="loop"))


class Swallows(torch.autograd.Function):
    """Nothing is computed, but no gradient goes through."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, cotangent):
        return 0 * cotangent


@needs_kernels
@pytest.mark.parametrize("rule", [OfTheOldKind, Swallows])
def test_a_function_of_ones_own_keeps_its_derivative(rule):
    params, state, xs = two()

    def step(p, s, x):
        mem = 0.875 * s + x @ p["in"]
        spk = rule.apply(mem - 1)
        return spk @ p["out"], mem - spk.detach()

    def grads(kind):
        p = {k: params[k].clone().requires_grad_() for k in ("in", "out")}
        outputs, last = snf.scan(step, p, state[0].mem, xs, kind=kind)
        return torch.autograd.grad((outputs**2).sum() + last.sum(), list(p.values()))

    assert_allclose(grads("auto"), grads("loop"))
    assert snf.explain(step, params, state[0].mem, xs).kind == "staged"


class Pair(torch.autograd.Function):
    """Two results, and a derivative that is not theirs."""

    @staticmethod
    def forward(ctx, x):
        return x * 2, x * 3

    @staticmethod
    def backward(ctx, a, b):
        return 7 * a


class Noisy(OfTheOldKind):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return u * torch.rand(2)


def slope_of(slope):
    """A surrogate made anew, whose derivative has numbers of the step that it is made in."""

    class Sloped(OfTheOldKind):
        @staticmethod
        def backward(ctx, cotangent):
            return cotangent / (1 + slope * ctx.saved_tensors[0] ** 2)

    return Sloped.apply


def contiguous(x):
    """Another name of `x`, where it lies in order."""
    y = x.contiguous()
    y += 1
    return x


def seeded(x):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return x * torch.rand(2)


CUTS = torch.tensor([2])
STEPS = {
    "what was a state a step ago": lambda p, s, x: (s["b"] @ p, {"a": 0.5 * s["a"] + x @ p, "b": s["a"]}),
    "an input for two steps": lambda p, s, x: (s["b"] @ p, {"a": x, "b": s["a"]}),
    "states that change places": lambda p, s, x: (s["b"] @ p + x, {"a": s["b"], "b": s["a"] + x}),
    "a half of what a product gives": lambda p, s, x: (
        lambda a, b: (b, {"a": torch.cat([a, a], -1), "b": s["b"]})
    )(*((s["a"] + x) @ p).chunk(2, -1)),
    "where the greatest is": lambda p, s, x: (
        lambda y: (y.indices, {"a": 0.5 * s["a"] + y.values, "b": s["b"]})
    )(((s["a"] + x) @ p).max(-1, keepdim=True)),
    "one tensor under two names": lambda p, s, x: (contiguous(x @ p), {"a": s["a"] + x, "b": s["b"]}),
    "the bits of numbers": lambda p, s, x: ((x @ p).view(torch.int64), {"a": s["a"] + x, "b": s["b"]}),
    "a Function beside one without a gradient": lambda p, s, x: (
        sum(Pair.apply(x @ p)) + OfTheOldKind.apply(x @ p).detach(),
        {"a": s["a"] + x, "b": s["b"]},
    ),
    "a Function made of numbers of the step": lambda p, s, x: (
        slope_of(x.abs())(x @ p), {"a": s["a"] + x, "b": s["b"]}
    ),
    "a Function that draws": lambda p, s, x: (Noisy.apply(x @ p), {"a": s["a"] + x, "b": s["b"]}),
    "a draw in another order of memory": lambda p, s, x: (
        torch.nn.functional.dropout((x @ p).T, 0.5), {"a": s["a"] + x, "b": s["b"]}
    ),
    "a draw like a convolution": lambda p, s, x: (
        torch.rand_like(torch.conv2d(x[:, None, None], p[None, None, :1].expand(2, 1, 1, 2))),
        {"a": s["a"] + x, "b": s["b"]},
    ),
    "a seed that is put back": lambda p, s, x: (seeded(x) @ p, {"a": s["a"] + x, "b": s["b"]}),
    "a product with itself": lambda p, s, x: (
        torch.linalg.matrix_power(x[:2], 3) + (x @ p)[:2], {"a": s["a"] + x, "b": s["b"]}
    ),
    "what vmap has no rule for": lambda p, s, x: (
        torch.as_strided_scatter(x @ p, x[0], (2,), (1,), 0), {"a": s["a"] + x, "b": s["b"]}
    ),
    "places that a tensor names": lambda p, s, x: (
        torch.tensor_split(x @ p, CUTS)[1], {"a": s["a"] + x, "b": s["b"]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", STEPS)
@pytest.mark.parametrize("reverse", [False, True])
def test_an_odd_step_is_the_loop(no_kernels, which, reverse):
    g = torch.Generator().manual_seed(0)
    p, xs, a, b = (dyadic(*shape, generator=g) for shape in ((2, 2), (5, 3, 2), (3, 2), (3, 2)))

    def found(kind):
        torch.manual_seed(0)
        leaves = [x.clone().requires_grad_() for x in (p, xs, a, b)]
        outputs, last = snf.scan(
            STEPS[which], leaves[0], dict(zip("ab", leaves[2:])), leaves[1], kind=kind, reverse=reverse
        )
        real = [x for x in (outputs, *last.values()) if x.requires_grad]
        loss = sum((x * torch.arange(x.numel()).reshape(x.shape)).sum() for x in real)
        return (
            outputs,
            last,
            [x for x in torch.autograd.grad(loss, leaves, allow_unused=True) if x is not None],
            torch.rand(3),
        )

    assert_equal(found("auto"), found("loop"))


@needs_kernels
def test_neighbours_share_a_kernel_and_a_recurrent_layer_has_its_own():
    net = Net(("dense", "rectified", "synaptic", "dense", "recurrent", "dense", "leaky", "rectified"), 2, 5, 3)
    plan = snf.explain(*net.world())
    assert [part.how for part in plan.stages] == ["once", "kernel", "once", "kernel", "once", "kernel"]
    assert plan.stages[1].states == ("state['mem2']", "state['syn2']")
    assert "mm" in plan.stages[3].operations[0] and "networks.py" in plan.stages[3].operations[0]


@needs_kernels
@pytest.mark.parametrize("reverse", [False, True])
def test_what_only_waits_for_a_step_is_no_loop(reverse):
    w, xs = dyadic(3, 3, generator=torch.Generator().manual_seed(0)), torch.ones(5, 2, 3).double().cumsum(0)
    step = lambda p, s, x: (s @ p, x)
    assert [part.how for part in snf.explain(step, w, xs[0], xs).stages] == ["delay", "once"]
    fast, slow = (snf.scan(step, w, -xs[0], xs, kind=kind, reverse=reverse) for kind in ("auto", "loop"))
    assert_equal(fast, slow)


def test_an_input_that_is_constant_in_time_has_a_gradient_at_each_step():
    params, state, xs = two()
    constant = xs[0].expand(5, *xs[0].shape)
    total = lambda xs, kind: snf.scan(two_layers, params, state, xs, kind=kind)[0].sum()
    assert_allclose(grad(total)(constant, "auto"), grad(total)(constant, "loop"))


def test_draws_under_vmap_are_the_loops():
    step = lambda p, s, x: (torch.nn.functional.dropout(x @ p, 0.5), s + x)
    xs = torch.rand(3, 4, 2)
    for randomness in ("same", "different"):
        over = lambda kind, r=randomness: torch.func.vmap(
            lambda x: snf.scan(step, torch.eye(2), torch.zeros(2), x, kind=kind)[0], in_dims=1, randomness=r
        )
        found = []
        for kind in ("auto", "loop"):
            torch.manual_seed(0)
            found.append(over(kind)(xs))
        assert_equal(*found)


def test_hooks_of_a_functionalized_module_see_every_step():
    seen = []
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), snf.snn.Leaky(0.9, init_hidden=True))
    net[0].register_forward_hook(lambda *_: print("seen") or seen.append(1))
    step, params, state = snf.functionalize(net)
    assert snf.explain(step, params, state, torch.rand(4, 3, 2)).kind == "loop"


def test_outputs_are_memory_of_their_own():
    """What is passed on, twice or under another name, is not the caller's tensor."""

    def step(p, s, x):
        y = x @ p
        return (x, x, x.T, y, y.T, x.expand(2, *x.shape), y.expand(2, *x.shape)), (s[0] + 1, s[1].clone())

    xs, s = torch.rand(3, 2, 2), (torch.zeros(2), torch.zeros(2))
    outputs, last = snf.scan(step, torch.eye(2), s, xs)
    assert last[1].data_ptr() != s[1].data_ptr()
    assert_equal(outputs, snf.scan(step, torch.eye(2), s, xs, kind="loop")[0])
    before = xs.clone()
    for i, x in enumerate(outputs):
        others = [y.clone() for j, y in enumerate(outputs) if j != i]
        x.add_(1)
        assert_equal([y for j, y in enumerate(outputs) if j != i], others)
    assert_equal(xs, before)


def test_layers_that_do_not_fit_say_where():
    params, state, xs = two()
    params["out"] = torch.rand(7, 3)
    for run in (snf.scan, snf.explain):
        with pytest.raises(RuntimeError, match=r"4x8 and 7x3.*test_stages.py:\d+: out, second = snf.leaky_step"):
            run(two_layers, params, state, xs)


def test_images_of_a_network_of_modules():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3),
        torch.nn.MaxPool2d(2),
        torch.nn.BatchNorm2d(3),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 2),
    ).eval()
    weights = {k: v.detach().double() for k, v in (*net.named_parameters(), *net.named_buffers())}

    def step(p, s, x):
        spk, s = snf.leaky_step(p[1], s, functional_call(net, p[0], (x,)))
        return spk, s

    xs, params = (
        torch.rand(4, 3, 1, 6, 6, dtype=torch.float64),
        (weights, snf.LeakyParams(torch.tensor(0.9).double(), 0.1)),
    )
    state = snf.LeakyState(torch.zeros(3, 2, dtype=torch.float64))
    assert_allclose(snf.scan(step, params, state, xs), snf.scan(step, params, state, xs, kind="loop"))
    total = lambda p, kind: snf.scan(step, p, state, xs, kind=kind)[1].mem.sum()
    floats = {k: v for k, v in weights.items() if k.endswith(("weight", "bias"))}
    of = lambda kind: grad(lambda f: total((weights | f, params[1]), kind))(floats)
    assert_allclose(of("auto"), of("loop"))


def test_a_step_that_catches_what_it_is_refused_is_the_loop():
    def step(p, s, x):
        try:
            scale = float(x.max())
        except Exception:
            scale = 0.0
        return x * scale, s + x

    xs = torch.rand(4, 2, 3)
    assert snf.explain(step, (), xs[0], xs).kind == "loop"
    assert_equal(snf.scan(step, (), xs[0], xs), snf.scan(step, (), xs[0], xs, kind="loop"))


@pytest.mark.parametrize("reverse", [False, True])
def test_complex_numbers_conjugated_or_not(no_kernels, reverse):
    """torch leaves a conjugate for later, so that it lies in memory as what it is not."""

    def step(p, s, x):
        s = (0.5 * s + x @ p).conj()
        return s.imag + x.imag + p.real, s

    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.complex(dyadic(*shape, generator=g), dyadic(*shape, generator=g)).conj()
    p, xs, s = draw(2, 2), draw(5, 2, 2), draw(2, 2)
    assert snf.explain(step, p, s, xs).kind == "staged"

    def found(kind):
        leaves = [x.clone().requires_grad_() for x in (p, s, xs)]
        outputs, last = snf.scan(step, *leaves, kind=kind, reverse=reverse)
        return outputs, last, torch.autograd.grad((outputs**2).sum() + last.abs().sum(), leaves)

    assert_allclose(found("auto"), found("loop"))
    p = p.clone().conj()  # one that is still to be conjugated is no other tensor
    assert_allclose(snf.scan(step, p, s, xs), snf.scan(step, p, s, xs, kind="loop"))


def test_a_step_that_asks_for_inference_mode_gets_the_loops_answer():
    step = lambda p, s, x: (x @ p * (2 if torch.is_inference_mode_enabled() else 3), s + x)
    xs = torch.rand(4, 2, 3)
    for mode in (True, False):
        with torch.inference_mode(mode):
            fast, slow = (snf.scan(step, torch.eye(3), xs[0], xs, kind=kind) for kind in ("auto", "loop"))
        assert_equal(fast, slow)


@needs_kernels
@pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"),
    reason="what is saved while a step is read cannot be told from what it saves",
)
@pytest.mark.parametrize("last", ["a kernel", "an operation under vmap"])
def test_a_network_that_is_checkpointed(last):
    """A recomputation is stopped by an exception as soon as it has saved what the backward needs."""
    params, state, xs = two()

    def step(p, s, x):
        spk, first = snf.leaky_step(p["first"], s[0], x @ p["in"])
        out, second = snf.leaky_step(p["second"], s[1], spk @ p["out"])
        return (out if last == "a kernel" else (spk @ p["out"]).softmax(-1)), (first, second)

    def grads(kind):
        p = {k: params[k].clone().requires_grad_() for k in ("in", "out")}
        run = lambda a, b: snf.scan(step, params | {"in": a, "out": b}, state, xs, kind=kind)[0]
        outputs = torch.utils.checkpoint.checkpoint(run, *p.values(), use_reentrant=False)
        return torch.autograd.grad((outputs**2).sum(), list(p.values()))

    assert_allclose(grads("auto"), grads("loop"))
