"""Scans under `torch.compile`: one operation in the graph, the same numbers, the same gradients."""

import copy
import subprocess
import sys

import pytest
import torch
from compiled import (
    Graphs,
    KERNELS,
    kernels_in,
    looping,
    Net,
    pointwise,
    recurrent,
    same,
    size,
    spikes,
    total,
    two_layers,
)
from helpers import needs_torch, OfTheOldKind
from torch import nn
from torch.func import grad, hessian, jvp, vmap

import snn_functional as snf
from snn_functional import chain, leaky, leaky_step, LeakyParams, LeakyState, linear, scan, snn
from snn_functional._scan import _stages
from snn_functional._tree import tree_leaves as leaves


pytestmark = needs_torch("2.13", "a compiler that reads a step as the body of an operation")
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
WORLDS = pytest.mark.parametrize("world", [slow(x) if x is two_layers else x for x in KERNELS])
AT_REST = LeakyState(torch.zeros(4, 3))


@pytest.fixture(autouse=True)
def afresh():
    torch.compiler.reset()


def compiled(function, backend="aot_eager", **more):
    return torch.compile(function, backend=backend, fullgraph=True, **more)


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
    "vmap of grad": lambda f: vmap(grad(f), in_dims=(None, None, 0)),
    "jvp of grad": lambda f: lambda p, s, x: jvp(lambda x: grad(f, argnums=2)(p, s, x), (x,), (torch.ones_like(x),)),
    "grad": lambda f: grad(f, argnums=(0, 2)),
    "vmap": lambda f: vmap(f, in_dims=(None, None, 0)),
    "jvp": lambda f: lambda p, s, x: jvp(lambda x: f(p, s, x), (x,), (torch.ones_like(x),)),
}


@pytest.mark.parametrize(
    "name, world",
    [
        ("vmap of grad", pointwise),
        *(slow(n, w) for n in TRANSFORMS for w in KERNELS if (n, w) != ("vmap of grad", pointwise)),
    ],
)
def test_compile_of_a_transform(name, world):
    step, params, state, xs = world()
    xs = torch.stack([xs, 0.5 * xs]) if "vmap" in name else xs
    of, graphs = TRANSFORMS[name](loss_of(step)), Graphs()
    same(compiled(of, graphs)(params, state, xs), of(params, state, xs))
    assert kernels_in(graphs.forward) >= KERNELS[world]


@pytest.mark.slow
def test_second_order():
    step, params, state, xs = pointwise()
    choices = params.spike_grad, params.reset_mechanism
    with_beta = lambda beta: params.__rebuild__([beta, params.threshold], choices)
    of = hessian(lambda beta: loss_of(step)(with_beta(beta), state, xs).square())
    graphs = Graphs()
    same(compiled(lambda beta: of(beta), graphs)(params.beta), of(params.beta))
    assert kernels_in(graphs.forward)


def test_transform_of_a_compiled(recwarn):
    """torch refuses it with `fullgraph=True` (pytorch#128711), and without runs what it was given as it is: all of it."""
    step, params, state, xs = pointwise()
    loss, graphs = loss_of(step), Graphs()
    of = grad(torch.compile(loss, backend=graphs), argnums=(0, 2))
    same(of(params, state, xs), grad(loss, argnums=(0, 2))(params, state, xs))
    assert not graphs.given and not recwarn


@pytest.mark.parametrize("world", [recurrent, slow(pointwise), slow(two_layers)])
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


def test_backward_over_another_length(monkeypatch):
    """In one piece, where stages would be run in pieces of time."""
    monkeypatch.setattr(_stages, "ROWS", 8)
    monkeypatch.setattr(_stages, "NUMBERS", 80)
    step, params, state, _ = two_layers()
    loss, graphs = lambda params, state, xs: scan(step, params, state, xs)[0].square().sum(), Graphs()
    fast = compiled(loss, graphs)
    for T in (20, 25, 40, 33):
        xs = spikes(T).requires_grad_()
        same(*(torch.autograd.grad(f(params, state, xs), xs) for f in (fast, loss)))
    assert len(graphs.given) == 2


@pytest.mark.slow
def test_another_batch_is_another_graph_for_all_lengths():
    graphs, params = Graphs(), LeakyParams(0.5)
    run = lambda xs: scan(leaky_step, params, LeakyState(torch.zeros(xs.shape[1], 3)), xs)
    fast = compiled(run, graphs)
    for xs in (torch.rand(T, batch, 3) for batch in (4, 5) for T in (17, 18, 19)):
        same(fast(xs), run(xs))
    assert len(graphs.given) == 3


class Holds:
    """A step with a tensor that is learned, a number that changes, a list, a method."""

    def __init__(self):
        self.gain, self.tau = torch.tensor(0.5, requires_grad=True), [0.5]

    def step(self, params, state, x):
        state = state * self.tau[0] + self.gain * x
        return state, state


def test_a_step_with_all_that_it_holds():
    holds, xs = Holds(), torch.rand(6, 3)
    run = lambda xs: scan(holds.step, (), torch.zeros(3), xs)
    fast = compiled(run)
    for tau in (0.5, 0.25):
        holds.tau[0] = tau
        found, expected = fast(xs), run(xs)
        same(found, expected)
        same(*(torch.autograd.grad(total(x), holds.gain) for x in (found, expected)))


@pytest.mark.slow
def test_options_of_scan():
    params = LeakyParams(0.5)

    def run(xs):
        return (
            scan(leaky_step, params, LeakyState(torch.zeros(())), xs),  # the first step broadcasts it
            scan(leaky_step, params, AT_REST, xs, reverse=True, kind="fused"),
            scan(leaky_step, params, AT_REST, xs[:2], kind="loop"),
            scan(lambda p, s, x: (s + xs[0], s + p), xs[1], AT_REST.mem, None, length=5),
            scan(lambda p, s, x: (p, s), xs[1], AT_REST.mem, xs),  # what it is given, it gives back
            scan(lambda p, s, x: ({"x": x}, x), (), AT_REST.mem, xs),
        )

    xs = spikes()
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


@pytest.mark.slow
def test_a_large_face_and_a_chain_with_functions():
    face, net = snn.Leaky(0.9, threshold=0.3), chain(torch.relu, leaky, snf.flatten)
    params = (), LeakyParams(0.5), ()

    def run(x, xs):
        return face(x, torch.zeros(1, 5000)), scan(net.step, params, net.init(params, xs[0]), xs)

    given = torch.rand(1, 5000), torch.rand(6, 4, 3, 2)
    same(compiled(run)(*given), run(*given))


# What a compiler must not get wrong.


def test_a_step_that_writes_is_refused_or_runs_uncompiled():
    written = []

    def step(params, state, x):
        written.append(x)
        return x * len(written), state

    run = lambda xs: scan(step, (), AT_REST.mem, xs)[0]
    with pytest.raises(torch._dynamo.exc.Unsupported, match="snn_functional.scan"):
        compiled(run)(spikes())
    assert not written
    found = torch.compile(run, backend="aot_eager")(spikes())
    assert len(written) == 9 and torch.equal(found[-1] / 9, written[-1])


@pytest.mark.slow
def test_a_network_that_counts_runs_uncompiled():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif, self.steps = snn.Leaky(0.5, threshold=0.3, init_hidden=True), 0

        def forward(self, x):
            self.steps += 1
            return self.lif(x) * self.steps

    net = Counts()
    twin, xs = copy.deepcopy(net), spikes()
    same(torch.compile(lambda xs: snn.run(net, xs), backend="aot_eager")(xs), snn.run(twin, xs))
    assert net.steps == twin.steps == 9


def test_a_step_that_no_compiler_reads_runs_uncompiled():
    def step(params, state, x):
        state = state + x if x.sum() > 6 else state - x
        return state, state

    xs, graphs = spikes(), Graphs()
    run = lambda xs: scan(step, (), AT_REST.mem, xs)
    same(torch.compile(run, backend=graphs)(xs), run(xs))
    params = LeakyParams(0.5)
    run = lambda xs: scan(leaky_step, params, AT_REST, xs, kind="checkpointed")
    same(torch.compile(run, backend=graphs)(xs), run(xs))
    assert not kernels_in(graphs.forward)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a loop that no compiler reads"):
        compiled(run)(xs)


def test_a_kernel_that_is_asked_for_and_not_there_is_an_error():
    step, params, state, xs = looping()
    with pytest.raises(Exception, match="aten.sort.default is not pointwise"):
        compiled(lambda xs: scan(step, params, state, xs, kind="fused"))(xs)


@pytest.mark.slow
def test_in_another_process_with_what_this_one_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    code = """
import torch, snn_functional as snf
run = lambda xs: snf.scan(snf.leaky_step, snf_params, snf.LeakyState(torch.zeros(3)), xs)[0].square().sum()
snf_params, xs = snf.LeakyParams(0.5), torch.ones(40, 3, requires_grad=True)
torch.compile(run, fullgraph=True)(xs).backward()
found = xs.grad.clone()
xs.grad = None
run(xs).backward()
print(torch.equal(found, xs.grad), torch._dynamo.utils.counters["inductor"].get("fxgraph_cache_hit"))
"""
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    ]
    assert [x.split() for x in said] == [["True", "None"], ["True", "2"]]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's compiler does so
def test_a_surrogate_of_ones_own():
    def step(params, state, x):
        state = params * state + x
        spk = OfTheOldKind.apply(state - 1)
        return spk, state - spk

    beta, xs, graphs = torch.tensor(0.5, requires_grad=True), spikes(), Graphs()
    run = lambda beta: total(scan(step, beta, torch.zeros(4, 3), xs))
    found, expected = compiled(run, graphs)(beta), run(beta)
    same((found, *torch.autograd.grad(found, beta)), (expected, *torch.autograd.grad(expected, beta)))
    assert kernels_in(graphs.forward) == 1


@pytest.mark.slow
def test_under_autocast():
    step, params, state, xs = two_layers()

    def run(xs):
        with torch.autocast("cpu", torch.bfloat16):
            return scan(step, params, state, xs)

    same(compiled(run)(xs), run(xs))


# Modules.


@pytest.mark.parametrize("recurrent", [False, slow(True)])
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


def test_a_face_in_a_step_keeps_its_state():
    """It is no pure step, and none that a compiler may take for one."""
    face = snn.Leaky(0.5, threshold=0.3, init_hidden=True)
    twin, given = copy.deepcopy(face), spikes()
    run = lambda face, xs: scan(lambda p, s, x: (face(x), s), (), (), xs)[0]
    same(torch.compile(run, backend="aot_eager")(face, given), run(twin, given))
    same(face._hidden, twin._hidden)


@pytest.mark.slow
def test_functionalized():
    step, params, state = snf.functionalize(Net())
    xs, graphs = torch.rand(9, 4, 3), Graphs()
    loss = loss_of(step)
    same(compiled(grad(loss), graphs)(params, state, xs), grad(loss)(params, state, xs))
    assert kernels_in(graphs.forward) == 4


@pytest.mark.slow
def test_a_module_over_a_tree():
    params = snf.Linear.random(3, 5), LeakyParams(0.5)
    model, graphs = snf.module(chain(linear, leaky), params), Graphs()
    xs = spikes()
    losses = [f(xs).square().sum() for f in (compiled(model, graphs), model)]
    same(*(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) for loss in losses))
    assert kernels_in(graphs.backward) == 1
