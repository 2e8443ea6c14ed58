"""`torch.compile` around scans: one operation in the graph, the same numbers, the same gradients."""

import pytest
import torch
from helpers import needs_torch
from torch.func import grad, jvp, vmap

import snn_functional as snf
from snn_functional import chain, leaky, leaky_init, leaky_step, LeakyParams, Linear, linear, scan


pytestmark = needs_torch("2.11", "an operation that takes a step with all that it holds")


@pytest.fixture(autouse=True)
def afresh():
    torch.compiler.reset()


class Graphs:
    """A backend that keeps the graphs that it is given."""

    def __init__(self):
        self.given = []

    def __call__(self, graph, inputs):
        self.given.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)


def compiled(function, backend="aot_eager"):
    return torch.compile(function, backend=backend, fullgraph=True)


def dyadic(*shape):
    return torch.randint(-24, 25, shape) / 64


def pointwise():
    params = LeakyParams(torch.tensor([0.5, 0.75, 0.875]))
    xs = torch.rand(9, 4, 3)
    return leaky_step, params, leaky_init(params, xs[0]), xs


def two_layers():
    net = chain(linear, leaky, linear, leaky)
    params = (Linear(dyadic(5, 3)), LeakyParams(0.5), Linear(dyadic(2, 5), dyadic(2)), LeakyParams(0.75))
    xs = torch.randint(0, 9, (9, 4, 3)) / 8
    return net.step, params, net.init(params, xs[0]), xs


def recurrent_step(params, state, x):
    w, v, neuron = params
    spk, mem = state
    spk, mem = leaky_step(neuron, mem, x @ w + spk @ v)
    return spk, (spk, mem)


def recurrent():
    xs = torch.randint(0, 9, (9, 4, 3)) / 8
    params = dyadic(3, 5), dyadic(5, 5), LeakyParams(0.5)
    at_rest = torch.zeros(4, 5)
    return recurrent_step, params, (at_rest, leaky_init(params[2], at_rest)), xs


def sorting_step(params, state, x):
    state = (params * state + x).sort(-1).values
    return state.cumsum(-1), state


def looping():
    return sorting_step, torch.tensor(0.5), torch.zeros(4, 3), torch.randn(5, 4, 3)


WORLDS = pytest.mark.parametrize("world", [pointwise, two_layers, recurrent, looping])


def leaves(tree):
    return snf._tree.tree_leaves(tree)


def same(found, expected):
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def loss_of(step):
    def loss(params, state, xs):
        ys, last = scan(step, params, state, xs)
        return sum((y * torch.linspace(0, 1, y.numel()).reshape(y.shape)).sum() for y in (*leaves(ys), *leaves(last)))

    return loss


@WORLDS
def test_forward_and_backward(world):
    step, params, state, xs = world()
    wanted = [x.requires_grad_() for x in (*leaves(params), xs)]
    run = lambda params, state, xs: scan(step, params, state, xs)
    graphs = Graphs()
    found, expected = (f(params, state, xs) for f in (compiled(run, graphs), run))
    same(found, expected)
    assert sum("scan" in str(node.target) for node in graphs.given[0].graph.nodes) == 1
    total = lambda results: sum((y * y).sum() for y in leaves(results))
    same(torch.autograd.grad(total(found), wanted), torch.autograd.grad(total(expected), wanted))


@WORLDS
@pytest.mark.parametrize(
    "transformed",
    [
        lambda f: grad(f, argnums=(0, 2)),
        lambda f: vmap(f, in_dims=(None, None, 0)),
        lambda f: vmap(grad(f), in_dims=(None, None, 0)),
        lambda f: lambda p, s, x: jvp(lambda x: f(p, s, x), (x,), (torch.ones_like(x),)),
    ],
    ids=["grad", "vmap", "vmap-grad", "jvp"],
)
def test_compile_of_a_transform(world, transformed, request):
    step, params, state, xs = world()
    xs = torch.stack([xs, 0.5 * xs]) if "vmap" in request.node.callspec.id else xs
    of = transformed(loss_of(step))
    same(compiled(of)(params, state, xs), of(params, state, xs))


@WORLDS
def test_transform_of_a_compiled(world):
    """torch refuses it with `fullgraph=True` (pytorch#128711), and runs what it was given as it is without."""
    step, params, state, xs = world()
    loss = loss_of(step)
    of = grad(torch.compile(loss, backend="aot_eager"), argnums=(0, 2))
    same(of(params, state, xs), grad(loss, argnums=(0, 2))(params, state, xs))
