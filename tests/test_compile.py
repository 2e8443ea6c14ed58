"""Scans under `torch.compile` and `torch.export`: one operation in the graph, the same numbers, the same gradients."""

import copy
import pickle

import pytest
import torch
from helpers import needs_torch
from torch import nn
from torch.func import grad, hessian, jvp, vmap

import snn_functional as snf
from snn_functional import chain, leaky, leaky_init, leaky_step, LeakyParams, LeakyState, Linear, linear, scan, snn
from snn_functional._tree import tree_leaves as leaves
from snn_functional.kernels import packed, unpacked


pytestmark = needs_torch("2.11", "a compiler that reads a step as the body of an operation")


@pytest.fixture(autouse=True)
def afresh():
    torch.compiler.reset()


class Graphs:
    """A backend that keeps the graphs that it is given, and their forward and backward of torch's operations."""

    def __init__(self):
        self.given, self.forward, self.backward = [], [], []

    def __call__(self, graph, inputs):
        from functorch.compile import make_boxed_func
        from torch._dynamo.backends.common import aot_autograd

        def keep(kept):
            return lambda traced, _: kept.append(traced) or make_boxed_func(traced.forward)

        self.given.append(graph)
        compiler = aot_autograd(fw_compiler=keep(self.forward), bw_compiler=keep(self.backward))
        return compiler(graph, inputs)


def kernels_in(graphs):
    return sum("snn_functional.scan" in str(node.target) for graph in graphs for node in graph.graph.nodes)


def size(graph):
    return len(graph.graph.nodes)


def compiled(function, backend="aot_eager", **more):
    return torch.compile(function, backend=backend, fullgraph=True, **more)


def dyadic(*shape):
    return torch.randint(-24, 25, shape) / 64


def spikes(T=9):
    return torch.randint(0, 9, (T, 4, 3)) / 8


def pointwise(T=9):
    params = LeakyParams(torch.tensor([0.5, 0.75, 0.875]))
    return leaky_step, params, leaky_init(params, torch.zeros(4, 3)), spikes(T)


def two_layers(T=9):
    net = chain(linear, leaky, linear, leaky)
    params = (Linear(dyadic(5, 3)), LeakyParams(0.5), Linear(dyadic(2, 5), dyadic(2)), LeakyParams(0.75))
    return net.step, params, net.init(params, torch.zeros(4, 3)), spikes(T)


def recurrent_step(params, state, x):
    w, v, neuron = params
    spk, mem = state
    spk, mem = leaky_step(neuron, mem, x @ w + spk @ v)
    return spk, (spk, mem)


def recurrent(T=9):
    params = dyadic(3, 5), dyadic(5, 5), LeakyParams(0.5)
    at_rest = torch.zeros(4, 5)
    return recurrent_step, params, (at_rest, leaky_init(params[2], at_rest)), spikes(T)


def sorting_step(params, state, x):
    state = (params * state + x).sort(-1).values
    return state.cumsum(-1), state


def looping(T=4):
    return sorting_step, torch.tensor(0.5), torch.zeros(4, 3), torch.randn(T, 4, 3)


KERNELS = {pointwise: 1, two_layers: 2, recurrent: 1, looping: 0}
WORLDS = pytest.mark.parametrize("world", KERNELS)


def same(found, expected):
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def total(tree):
    return sum((y * torch.linspace(0, 1, y.numel()).reshape(y.shape)).sum() for y in leaves(tree))


def loss_of(step):
    return lambda params, state, xs: total(scan(step, params, state, xs))


@WORLDS
def test_forward_and_backward(world):
    step, params, state, xs = world()
    wanted = [x.requires_grad_() for x in (*leaves(params), xs)]
    run = lambda params, state, xs: scan(step, params, state, xs)
    graphs = Graphs()
    found, expected = (f(params, state, xs) for f in (compiled(run, graphs), run))
    same(found, expected)
    same(torch.autograd.grad(total(found), wanted), torch.autograd.grad(total(expected), wanted))
    assert sum("snn_functional_scan" in str(node.target) for node in graphs.given[0].graph.nodes) == 1
    assert kernels_in(graphs.forward) == kernels_in(graphs.backward) == KERNELS[world]


@pytest.mark.slow
@WORLDS
def test_inductor(world):
    step, params, state, xs = world()
    wanted = [x.requires_grad_() for x in (*leaves(params), xs)]
    loss = loss_of(step)
    found, expected = (f(params, state, xs) for f in (compiled(loss, "inductor"), loss))
    same((found, *torch.autograd.grad(found, wanted)), (expected, *torch.autograd.grad(expected, wanted)))


TRANSFORMS = {
    "grad": lambda f: grad(f, argnums=(0, 2)),
    "vmap": lambda f: vmap(f, in_dims=(None, None, 0)),
    "vmap of grad": lambda f: vmap(grad(f), in_dims=(None, None, 0)),
    "jvp": lambda f: lambda p, s, x: jvp(lambda x: f(p, s, x), (x,), (torch.ones_like(x),)),
}


@pytest.mark.parametrize("world", [pointwise, *(pytest.param(x, marks=pytest.mark.slow) for x in [*KERNELS][1:])])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_compile_of_a_transform(world, name):
    step, params, state, xs = world()
    xs = torch.stack([xs, 0.5 * xs]) if "vmap" in name else xs
    of, graphs = TRANSFORMS[name](loss_of(step)), Graphs()
    same(compiled(of, graphs)(params, state, xs), of(params, state, xs))
    assert kernels_in(graphs.forward) >= KERNELS[world]


def test_second_order():
    step, params, state, xs = pointwise()
    choices = params.spike_grad, params.reset_mechanism
    with_beta = lambda beta: params.__rebuild__([beta, params.threshold], choices)
    of = hessian(lambda beta: loss_of(step)(with_beta(beta), state, xs).square())
    graphs = Graphs()
    same(compiled(lambda beta: of(beta), graphs)(params.beta), of(params.beta))
    assert kernels_in(graphs.forward)


def test_transform_of_a_compiled():
    """torch refuses it with `fullgraph=True` (pytorch#128711), and without runs what it was given as it is."""
    step, params, state, xs = pointwise()
    loss = loss_of(step)
    of = grad(torch.compile(loss, backend="aot_eager"), argnums=(0, 2))
    same(of(params, state, xs), grad(loss, argnums=(0, 2))(params, state, xs))


@pytest.mark.parametrize("world", [pointwise, two_layers, recurrent])
def test_another_length_is_one_more_graph(world):
    graphs = Graphs()
    step, params, state, _ = world()
    run = lambda xs: scan(step, params, state, xs)
    fast = compiled(run, graphs)
    for T in (17, 18, 40, 33, 300):
        xs = spikes(T)
        same(fast(xs), run(xs))
    assert len(graphs.given) == 2
    assert size(graphs.forward[1]) < 40


def test_backward_over_another_length():
    step, params, state, _ = two_layers()
    loss, graphs = lambda params, state, xs: scan(step, params, state, xs)[0].square().sum(), Graphs()
    fast = compiled(loss, graphs)
    for T in (20, 25, 40):
        xs = spikes(T).requires_grad_()
        same(*(torch.autograd.grad(f(params, state, xs), xs) for f in (fast, loss)))
    assert len(graphs.given) == 2


def test_a_step_with_all_that_it_holds():
    """A tensor that is learned, a number that changes, a list, a method."""

    class Holds:
        def __init__(self):
            self.gain, self.tau = torch.tensor(0.5, requires_grad=True), [0.5]

        def step(self, params, state, x):
            state = state * self.tau[0] + self.gain * x
            return state, state

    holds, xs = Holds(), torch.rand(6, 3)
    run = lambda xs: scan(holds.step, (), torch.zeros(3), xs)
    fast = compiled(run)
    for tau in (0.5, 0.25):
        holds.tau[0] = tau
        found, expected = fast(xs), run(xs)
        same(found, expected)
        same(*(torch.autograd.grad(total(x), holds.gain) for x in (found, expected)))


def test_options_of_scan():
    params, xs = LeakyParams(0.5), spikes()
    for run in (
        lambda xs: scan(leaky_step, params, LeakyState(torch.zeros(())), xs),  # the first step broadcasts it
        lambda xs: scan(leaky_step, params, LeakyState(torch.zeros(4, 3)), xs, reverse=True),
        lambda xs: scan(leaky_step, params, LeakyState(torch.zeros(4, 3)), xs, kind="fused"),
        lambda xs: scan(leaky_step, params, LeakyState(torch.zeros(4, 3)), xs, kind="loop"),
        lambda xs: scan(lambda p, s, x: (s + xs[0], s + p), xs[1], torch.zeros(4, 3), None, length=5),
    ):
        torch.compiler.reset()
        same(compiled(run)(xs), run(xs))


def test_a_draw_is_the_loops():
    def step(params, state, x):
        state = 0.5 * state + nn.functional.dropout(x, 0.5)
        return state, state

    def drawn(run):
        torch.manual_seed(0)
        return run(torch.ones(6, 40))

    run = lambda xs: scan(step, (), torch.zeros(40), xs)
    same(drawn(compiled(run)), drawn(run))


def test_a_large_face_and_a_chain_with_functions():
    face, xs = snn.Leaky(0.9, threshold=0.3), torch.rand(2, 3, 5000)
    same(compiled(lambda xs: face(xs[0], torch.zeros(3, 5000)))(xs), face(xs[0], torch.zeros(3, 5000)))
    net = chain(torch.relu, leaky, snf.flatten)
    params, xs = ((), LeakyParams(0.5), ()), torch.rand(6, 4, 3, 2)
    run = lambda xs: scan(net.step, params, net.init(params, xs[0]), xs)
    same(compiled(run)(xs), run(xs))


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad / (1 + ctx.saved_tensors[0].abs())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's compiler does so
def test_a_surrogate_of_ones_own():
    def step(params, state, x):
        state = params * state + x
        spk = Spike.apply(state - 1)
        return spk, state - spk

    beta, xs, graphs = torch.tensor(0.5, requires_grad=True), spikes(), Graphs()
    run = lambda beta: total(scan(step, beta, torch.zeros(4, 3), xs))
    found, expected = compiled(run, graphs)(beta), run(beta)
    same((found, *torch.autograd.grad(found, beta)), (expected, *torch.autograd.grad(expected, beta)))
    assert kernels_in(graphs.forward) == 1


def test_under_autocast():
    step, params, state, xs = two_layers()

    def run(xs):
        with torch.autocast("cpu", torch.bfloat16):
            return scan(step, params, state, xs)

    same(compiled(run)(xs), run(xs))


class Net(nn.Module):
    def __init__(self, recurrent=False):
        super().__init__()
        own = {"threshold": 0.3, "init_hidden": True}
        self.fc1, self.fc2 = nn.Linear(3, 6), nn.Linear(6, 5)
        self.lif1 = snn.RLeaky(0.9, linear_features=6, **own) if recurrent else snn.Leaky(0.9, learn_beta=True, **own)
        self.lif2 = snn.Synaptic(0.8, 0.7, output=True, **own)

    def forward(self, x):
        return self.lif2(self.fc2(self.lif1(self.fc1(x))))


class Run(nn.Module):
    """Over a whole sequence, from rest."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, xs):
        snn.utils.reset(self.net)
        return snn.run(self.net, xs)


@pytest.mark.parametrize("recurrent", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_run(recurrent):
    net = Net(recurrent)
    twin, graphs = copy.deepcopy(net), Graphs()
    fast = compiled(lambda xs: snn.run(net, xs), graphs)
    for _ in range(3):  # it goes on from where it is
        xs = torch.rand(9, 4, 3)
        found, expected = fast(xs), snn.run(twin, xs)
        same(found, expected)
        same((net.lif1._hidden, net.lif2._hidden), (twin.lif1._hidden, twin.lif2._hidden))
        same(*(torch.autograd.grad(total(y), list(of.parameters())) for y, of in ((found, net), (expected, twin))))
        for face in (net.lif1, net.lif2, twin.lif1, twin.lif2):
            face.detach_hidden()
    assert len(graphs.given) == 2  # one from rest, one that goes on
    assert kernels_in(graphs.forward) == kernels_in(graphs.backward) == 4


def test_faces_step_by_step(recwarn):
    net, graphs = Net(), Graphs()
    twin, fast = copy.deepcopy(net), compiled(net, graphs)
    for _ in range(3):
        snn.utils.reset(net), snn.utils.reset(twin)
        for x in torch.rand(5, 4, 3):
            same(fast(x), twin(x))
    assert len(graphs.given) == 2  # with a state, and without
    assert not [w for w in recwarn if "snn_functional" in w.filename]


def test_functionalized():
    step, params, state = snf.functionalize(Net())
    xs, graphs = torch.rand(9, 4, 3), Graphs()
    loss = loss_of(step)
    same(compiled(grad(loss), graphs)(params, state, xs), grad(loss)(params, state, xs))
    assert kernels_in(graphs.forward) == 4


class Over(nn.Module):
    """A step over time, which holds its own tensors."""

    def __init__(self, world):
        super().__init__()
        self.step, self.params, self.state, _ = world()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, xs):
        return scan(lambda p, s, x: self.step(p, s, self.gain * x), self.params, self.state, xs)[0]


@pytest.mark.parametrize("world", [pointwise, two_layers, recurrent])
def test_export(world, tmp_path):
    net = Over(world)
    programs = [torch.export.export(net, (spikes(T),)) for T in (9, 200)]
    assert size(programs[0].graph_module) == size(programs[1].graph_module) < 90
    assert kernels_in([programs[0].graph_module]) == KERNELS[world]
    xs = spikes()
    torch.export.save(programs[0], tmp_path / "net.pt2")
    same(torch.export.load(tmp_path / "net.pt2").module()(xs), net(xs))


@pytest.mark.parametrize("world", [pointwise, two_layers, recurrent, Run])
def test_export_of_any_length(world):
    net = world() if world is Run else Over(world)
    T = torch.export.Dim("T", min=3, max=1000)
    program = torch.export.export(net, (spikes(9),), dynamic_shapes=({0: T},))
    for xs in (spikes(5), spikes(77)):
        same(program.module()(xs), net(xs))


def test_a_kernel_as_text_is_the_kernel_and_nothing_else():
    plan = snf._scan._known.prepare(*pointwise(), None).known.plan
    kernel = plan.forward((False, True))
    again = unpacked(packed(kernel))
    assert again.kernel is kernel.kernel and again.numbers == kernel.numbers

    class Evil:
        def __reduce__(self):
            return print, ("run",)

    import base64
    import zlib

    with pytest.raises(pickle.UnpicklingError, match="no part of a kernel"):
        unpacked(base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode())
