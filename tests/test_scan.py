"""The contract of `scan` and `explain`, on steps that are no neuron of ours. The neurons' laws are in test_neurons.py."""

import dataclasses
import functools
import inspect
import itertools
import re
import warnings

import optree
import pytest
import torch
from helpers import FUSED, needs_kernels, sweep
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import snn_functional as snf


KINDS = ["loop", "checkpointed", FUSED]
FAST = ["checkpointed", FUSED]


def affine(params, state, x):
    """Two states (one an integer clock), two inputs, a tree of outputs: nothing neuronal about it."""
    (a, b), (h, clock), (u, v) = params, state, x
    h = a * h + b * u / (1 + (b * u).abs()) - v
    return {"h": h, "twice": (2 * h, clock)}, (h, clock + 1)


def case(T=7, n=3):
    params = (torch.tensor(0.9), torch.rand(n))
    state = (torch.rand(n), torch.zeros((), dtype=torch.int64))
    return params, state, (torch.rand(T, n), torch.rand(T, n))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 16, 17, 63])
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_the_plain_loop(kind, T, reverse):
    params, state, xs = case(T)
    outputs, last = snf.scan(affine, params, state, xs, kind=kind, reverse=reverse)
    order, h, hs, clocks = range(T), state, {}, {}
    for t in reversed(order) if reverse else order:
        out, h = affine(params, h, (xs[0][t], xs[1][t]))
        hs[t], clocks[t] = out["h"], out["twice"][1]
    assert torch.equal(outputs["h"], torch.stack([hs[t] for t in order]))
    assert torch.equal(outputs["twice"][0], 2 * outputs["h"])
    assert outputs["twice"][1].tolist() == [int(clocks[t]) for t in order]
    assert torch.equal(last[0], h[0]) and last[1] == T


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("T", [1, 2, 7])
@pytest.mark.parametrize("kind", FAST)
def test_derivatives_are_the_loops(kind, T, reverse):
    params, state, xs = optree.tree_map(lambda x: x.double() if x.is_floating_point() else x, case(T))
    weights = torch.rand(T, 3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)

    def loss(kind):
        def f(params, h, xs):
            out, (last, _) = snf.scan(affine, params, (h, state[1]), xs, kind=kind, reverse=reverse)
            return (out["h"] * weights[0]).sum() + (out["twice"][0] ** 2).sum() + (last * weights[1]).sum()

        return f

    def same(transform):
        fast, slow = (optree.tree_leaves(transform(loss(k))(params, state[0], xs)) for k in (kind, "loop"))
        assert len(fast) == len(slow)
        for a, b in zip(fast, slow):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    every = (0, 1, 2)
    same(lambda f: grad(f, every))
    same(lambda f: lambda *a: jvp(f, a, optree.tree_map(torch.cos, a)))
    same(lambda f: jacfwd(jacrev(f, every), every))
    same(lambda f: jacrev(jacrev(f, every), every))
    same(lambda f: jacrev(jacfwd(f, every), every))
    same(
        lambda f: (
            lambda p, h, x: vmap(grad(f, every), (None, 0, 0))(
                p, torch.stack([h, -h]), optree.tree_map(lambda v: torch.stack([v, 2 * v]), x)
            )
        )
    )
    same(
        lambda f: (
            lambda p, h, x: vmap(vmap(grad(f), (0, None, None)), (None, 0, None))(
                optree.tree_map(lambda v: torch.stack([v, v / 2]), p), torch.stack([h, -h]), x
            )
        )
    )


@pytest.mark.parametrize("kind", KINDS)
def test_plain_autograd_and_twice(kind):
    params, state, xs = optree.tree_map(lambda x: x.double().requires_grad_() if x.is_floating_point() else x, case(6))
    leaves = [x for x in optree.tree_leaves((params, state, xs)) if x.requires_grad]

    def run(*leaves):
        it = iter(leaves)
        p, s, x = optree.tree_map(lambda v: next(it) if v.requires_grad else v, (params, state, xs))
        out, last = snf.scan(affine, p, s, x, kind=kind)
        return out["h"], out["twice"][0], last[0]

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_without_inputs(kind):
    step = lambda p, s, x: (s * 2, s * p + (1 if x is None else float("nan")))
    out, last = snf.scan(step, torch.tensor(0.5), torch.zeros(2), None, length=3, kind=kind)
    assert out[:, 0].tolist() == [0.0, 2.0, 3.0] and last.tolist() == [1.75, 1.75]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_may_return_what_it_was_given(kind):
    step = lambda p, s, x: ((x, s), s)
    s, x = torch.rand(2, requires_grad=True), torch.rand(5, 2, requires_grad=True)
    (xs, ss), last = snf.scan(step, None, s, x, kind=kind)
    assert torch.equal(xs, x) and torch.equal(last, s)
    ((xs * torch.arange(10).view(5, 2)).sum() + ss.sum() + last.sum()).backward()
    assert torch.equal(x.grad, torch.arange(10.0).view(5, 2)) and torch.equal(s.grad, torch.full((2,), 6.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_may_return_no_output(kind):
    out, last = snf.scan(lambda p, s, x: (None, s + x), None, torch.zeros(2), torch.ones(4, 2), kind=kind)
    assert out is None and last.tolist() == [4.0, 4.0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_may_broadcast_the_state(kind):
    params = snf.LeakyParams(0.9)
    xs = torch.rand(5, 3, 7, dtype=torch.float64)
    whole = snf.scan(snf.leaky_step, params, snf.leaky_init(params, xs[0]), xs, kind=kind)
    small = snf.scan(snf.leaky_step, params, snf.LeakyState(0.0), xs, kind=kind)
    assert torch.equal(whole[0], small[0]) and torch.equal(whole[1].mem, small[1].mem)


def test_a_constant_input_is_expanded_without_a_copy():
    params, x = snf.LeakyParams(0.9), torch.rand(3, 7)
    xs = x.expand(20, 3, 7)
    spks, _ = snf.scan(snf.leaky_step, params, snf.leaky_init(params, x), xs)
    copied, _ = snf.scan(snf.leaky_step, params, snf.leaky_init(params, x), xs.clone())
    assert torch.equal(spks, copied) and spks.sum() > 0


def kept(kind, T, n=100):
    """Bytes that autograd keeps between forward and backward."""
    total = 0

    def pack(x):
        nonlocal total
        total += x.numel() * x.element_size()
        return x

    params = snf.LeakyParams(torch.tensor(0.9, requires_grad=True))
    xs = torch.rand(n).expand(T, n)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        snf.scan(
            lambda p, s, x: (None, snf.leaky_step(p, s, x)[1]), params, snf.leaky_init(params, xs[0]), xs, kind=kind
        )
    return total


def test_checkpointed_keeps_the_square_root_of_the_states():
    state = 400
    inputs = lambda T: T * state  # an expanded input is kept by reference; the hook counts it as if it were copied
    assert kept("loop", 400) > 400 * state
    assert kept("checkpointed", 400) - inputs(400) <= 25 * state
    assert kept("checkpointed", 1600) - inputs(1600) <= 2.2 * (kept("checkpointed", 400) - inputs(400))


def captured_cases():
    x, p = torch.rand(5, 3), snf.LeakyParams(0.9)
    w = torch.rand(3)
    with_weight = lambda w, kind: snf.scan(
        lambda p, s, x: snf.leaky_step(p, s, w * x), p, snf.leaky_init(p, x[0]), x, kind=kind
    )[0].sum()
    return {
        "backward": lambda kind: with_weight(w.clone().requires_grad_(), kind),
        "grad": lambda kind: grad(with_weight)(w, kind),
        "jvp": lambda kind: jvp(lambda w: with_weight(w, kind), (w,), (w,)),
        "vmap": lambda kind: vmap(lambda w: with_weight(w, kind))(torch.rand(2, 3)),
        "vmap of grad": lambda kind: vmap(grad(lambda w: with_weight(w, kind)))(torch.rand(2, 3)),
    }


@pytest.mark.parametrize("how", captured_cases())
def test_checkpointed_refuses_a_captured_tensor_whose_gradient_it_would_lose(how):
    run = captured_cases()[how]
    run("loop")
    with pytest.raises(ValueError, match="not one of its arguments, so its gradient would be lost"):
        run("checkpointed")


def test_checkpointed_takes_captured_constants_and_frozen_ones():
    w, x, p = torch.rand(3, requires_grad=True), torch.rand(5, 3), snf.LeakyParams(0.9)
    step = lambda p, s, x: snf.leaky_step(p, s, w * x)
    with torch.no_grad():
        a, _ = snf.scan(step, p, snf.leaky_init(p, x[0]), x, kind="checkpointed")
        assert torch.equal(a, snf.scan(step, p, snf.leaky_init(p, x[0]), x)[0])


def running_mean(params, state, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred, state


@needs_kernels
def test_explain_raises_where_scan_does():
    params, xs = snf.LeakyParams(0.9), torch.rand(5, 3)
    wrong = snf.inhibit(snf.refractory(snf.leaky, 2))
    for step, state, says in (
        (wrong.step, wrong.init(params, xs[0]), "inhibit reads"),
        (lambda p, s, x: (x @ s, s), torch.zeros(2, 2), "shapes"),
    ):
        for run in (snf.scan, snf.explain):
            with pytest.raises((TypeError, RuntimeError), match=says):
                run(step, params, state, xs)


@needs_kernels
def test_explain_says_what_auto_takes():
    params, state, xs = case(7)
    assert snf.explain(affine, params, state, xs) == "fused: affine is pointwise, one kernel for all 7 steps."
    said = snf.explain(running_mean, params, state, xs[0])
    assert said.kind == "staged" and "x.mean(-1, keepdim=True)" in said.stages[0].operations[0]
    weight = torch.rand(3, 4)
    dense = lambda p, s, x: snf.leaky_step(p, s, x @ weight)
    said = snf.explain(dense, P, snf.leaky_init(P, X[0] @ weight), X)
    assert [part.how for part in said.stages] == ["once", "kernel"] and said.stages[1].states == ("state.mem",)
    assert said.reason.startswith("aten.mm.default is not pointwise (test_scan.py:") and "x @ weight" in said
    back = lambda p, s, x: (s, torch.tanh(s @ torch.ones(3, 3) + x))
    said = snf.explain(back, (), X[0], X)
    assert said.kind == "loop" and said.startswith("loop: aten.mm.default is not pointwise (test_scan.py:")
    with pytest.raises(ValueError, match="the time axes differ"):
        snf.explain(affine, params, state, (xs[0], xs[1][:3]))
    with pytest.raises(
        ValueError, match=r'running_mean has no kernel: aten.mean.dim .* With kind="auto" it runs in stages'
    ):
        snf.scan(running_mean, params, state, xs[0], kind="fused")
    assert torch.equal(
        snf.scan(running_mean, params, state, xs[0])[0], snf.scan(running_mean, params, state, xs[0], kind="loop")[0]
    )


@dataclasses.dataclass
class Plain:
    """No tree, to which no transform looks."""

    mem: torch.Tensor


def test_what_is_no_tree_in_params_runs_and_is_explained():
    """As the loop has it: numbers and objects come to the step as they are."""
    scaled = lambda p, s, x: (s, p[0] * p[1].mem * s + x)
    params = 0.5, Plain(torch.tensor(0.5))
    assert torch.equal(snf.scan(scaled, params, X[0], X)[1], snf.scan(scaled, params, X[0], X, kind="loop")[1])
    assert snf.explain(scaled, params, X[0], X).kind == "loop"


P, X = snf.LeakyParams(0.9), torch.rand(5, 3)
S = snf.leaky_init(P, X[0])
step = snf.leaky_step
BAD = {
    "an unknown kind": (
        lambda k: snf.scan(step, P, S, X, kind="fast"),
        ValueError,
        r"scan\(kind='fast'\): unknown kind",
    ),
    "a bundle for a step": (lambda k: snf.scan(snf.leaky, P, S, X, kind=k), TypeError, r"scan\(neuron.step, ...\)"),
    "an input that is no tensor": (
        lambda k: snf.scan(step, P, S, [1.0, 2.0], kind=k),
        TypeError,
        "every leaf is a tensor",
    ),
    "no time axis": (lambda k: snf.scan(step, P, S, X.sum(), kind=k), ValueError, "0-d tensor has no time axis"),
    "an empty time axis": (
        lambda k: snf.scan(step, P, S, X[:0], kind=k),
        ValueError,
        r"time axis is empty: \[\(0, 3\)\]",
    ),
    "two lengths": (
        lambda k: snf.scan(step, P, S, (X, X[:2]), kind=k),
        ValueError,
        r"time axes differ: \[\(5, 3\), \(2, 3\)\]",
    ),
    "another length": (lambda k: snf.scan(step, P, S, X, length=4, kind=k), ValueError, "with length=4"),
    "neither inputs nor length": (
        lambda k: snf.scan(step, P, S, None, kind=k),
        ValueError,
        r"scan\(..., None, length=T\)",
    ),
    "no steps": (lambda k: snf.scan(step, P, S, None, length=0, kind=k), ValueError, "time axis is empty"),
    "two devices": (
        lambda k: snf.scan(step, P, S, X.to("meta"), kind=k),
        ValueError,
        "mixed devices: state on cpu, inputs on meta",
    ),
    "another neuron's params": (
        lambda k: snf.scan(snf.leaky_step, snf.SynapticParams(0.5, 0.8), S, X, kind=k),
        TypeError,
        "scan\\(leaky_step, params, state, inputs\\): params is a tree of LeakyParams, but a SynapticParams came",
    ),
    "another neuron's state": (
        lambda k: snf.scan(snf.refractory(snf.leaky, 2).step, P, S, X, kind=k),
        TypeError,
        "state is a tree of RefractoryState, but a LeakyState came",
    ),
    "another neuron's params inside": (
        lambda k: snf.scan(snf.record(snf.inhibit(snf.synaptic)).step, P, S, X, kind=k),
        TypeError,
        "scan\\(synaptic_step, .*: params is a tree of SynapticParams, but a LeakyParams came",
    ),
    "a network's state for that of a rule": (
        lambda k: snf.scan(snf.learning.sltt(snf.leaky_step, lambda spk, y: spk.sum()).step, P, S, (X, X), kind=k),
        TypeError,
        "state is a tree of LearningState, but a LeakyState came",
    ),
    "a class for params": (
        lambda k: snf.scan(step, snf.LeakyParams, S, X, kind=k),
        TypeError,
        r"LeakyParams, but the class LeakyParams came. Make one: LeakyParams\(beta, threshold=1.0",
    ),
    "a class for a state": (
        lambda k: snf.scan(step, P, snf.LeakyState, X, kind=k),
        TypeError,
        r"the class LeakyState came. At rest it is leaky_init\(params, inputs\[0\]\)",
    ),
    "an init for a state": (
        lambda k: snf.scan(step, P, snf.leaky_init, X, kind=k),
        TypeError,
        r"but the function leaky_init came. At rest it is leaky_init\(params, inputs\[0\]\)",
    ),
    "a class for one's own params": (
        lambda k: snf.scan(affine, snf.LeakyParams, X[0], (X, X), kind=k),
        TypeError,
        r"params is a tree of tensors, but the class LeakyParams came. Make one: LeakyParams\(...\)",
    ),
    "a number for a state": (
        lambda k: snf.scan(affine, P, (X[0], 0.0), (X, X), kind=k),
        TypeError,
        r"but state\[1\] is 0.0. Give torch.tensor\(0.0\)",
    ),
    "a dataclass that is no tree for a state": (
        lambda k: snf.scan(affine, P, Plain(X[0]), (X, X), kind=k),
        TypeError,
        "state is a Plain. A dataclass of tensors is a tree with @snn_functional.pytree in place of @dataclass above Plain",
    ),
    "an array": (
        lambda k: snf.scan(step, P, S, X.numpy(), kind=k),
        TypeError,
        r"but a ndarray came. Give torch.from_numpy\(x\)",
    ),
    "a step of two arguments": (
        lambda k: snf.scan(snf.leaky_init, P, S, X, kind=k),
        TypeError,
        r"called as step\(params, state, input\), but leaky_init\(params, input\) came",
    ),
    "a module for a step": (
        lambda k: snf.scan(torch.nn.Linear(3, 3), P, S, X, kind=k),
        TypeError,
        r"Linear\(input\) came. Of a module make one: step, params, state = functionalize\(module\)",
    ),
    "a face for a step": (
        lambda k: snf.scan(snf.snn.Leaky(0.9), P, S, X, kind=k),
        TypeError,
        r"Leaky\(input_, ...\) came. Of a module make one",
    ),
    "a class for a step": (
        lambda k: snf.scan(snf.snn.Leaky, P, S, X, kind=k),
        TypeError,
        "step is a function, but the class Leaky came",
    ),
    "the state before the output": (
        lambda k: snf.scan(lambda p, s, x: snf.leaky_step(p, s, x)[::-1], P, S, X, kind=k),
        ValueError,
        r"\(LeakyState\[\(\)\], \[\*\]\)\)\n.*\nA step returns \(output, state\), in this order",
    ),
    "a step without a pair": (
        lambda k: snf.scan(lambda p, s, x: x, P, S, X, kind=k),
        TypeError,
        r"returns \(output, state\)",
    ),
    "another structure": (
        lambda k: snf.scan(lambda p, s, x: (x, (s, s)), P, X[0], X, kind=k),
        ValueError,
        "changed the structure of its state",
    ),
    "another dtype": (
        lambda k: snf.scan(lambda p, s, x: (x, s.double()), P, X[0], X, kind=k),
        TypeError,
        r"from \(float32\[3\]\) to \(float64\[3\]\)",
    ),
    "another shape": (
        lambda k: snf.scan(lambda p, s, x: (x, torch.cat([s, s])), P, X[0], X, kind=k),
        ValueError,
        r"from \(float32\[3\]\) to \(float32\[6\]\)",
    ),
    "a number as output": (
        lambda k: snf.scan(lambda p, s, x: (1.0, s), P, X[0], X, kind=k),
        TypeError,
        r"returned 1.0 \(float\) as an output",
    ),
    "a number as state": (
        lambda k: snf.scan(lambda p, s, x: (x, 1.0), P, X[0], X, kind=k),
        TypeError,
        r"put 1.0 \(float\) into its state",
    ),
    "a step that mutates": (
        lambda k: snf.scan(lambda p, s, x: (x, s.add_(x)), P, torch.zeros(3), X, kind=k),
        ValueError,
        "changed its arguments in place",
    ),
}


@pytest.mark.parametrize("kind", [*KINDS, "auto"])
@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_at_the_door(what, kind):
    call, error, says = BAD[what]
    versions = [x._version for x in (X, S.mem, P.beta)]
    with pytest.raises(error, match=says):
        call(kind)
    assert versions == [x._version for x in (X, S.mem, P.beta)]


@needs_kernels
def test_the_examples_in_the_docstrings_run():
    import doctest

    names = {"torch": torch, **vars(snf)}
    for function in (snf.scan, snf.explain, snf.partition, snf.module):
        examples = doctest.DocTestFinder(recurse=False).find(function, globs=names)
        runner = doctest.DocTestRunner()
        results = [runner.run(example) for example in examples]
        assert sum(r.attempted for r in results) > 0 and not sum(r.failed for r in results)


def test_no_index_into_time():
    """x[t] in the loop would cost a whole [T, ...] tensor a step in the backward: the graph has one unbind instead."""
    x = torch.rand(50, 3, requires_grad=True)
    spks, _ = snf.scan(step, P, S, x, kind="loop")
    seen, todo = set(), [spks.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    kinds = [re.sub(r"\d*$", "", type(node).__name__) for node in seen]
    assert kinds.count("UnbindBackward") == 1 and not {"SelectBackward", "IndexBackward"} & set(kinds)


@needs_kernels
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3)], ids=str)
def test_lanes_lie_in_memory_as_the_inputs_do(order):
    """A scan of channels-last inputs gives channels-last outputs, as a pointwise operation does, and the same numbers."""
    shape, back = (2, 3, 4, 5), [order.index(i) for i in range(4)]
    lies = lambda x: x.permute(0, *(1 + i for i in order)).contiguous().permute(0, *(1 + i for i in back))
    x, w = torch.randn(6, *shape), torch.randn(6, *shape)
    for beta in (torch.tensor(0.9), torch.rand(3, 1, 1), torch.rand(5), torch.rand(shape)):
        rest = snf.LeakyState(torch.randn(shape))

        def run(x, kind, beta=beta, rest=rest):
            f = lambda beta, mem, x: snf.scan(snf.leaky_step, snf.LeakyParams(beta), snf.LeakyState(mem), x, kind=kind)
            (spks, last), pull = torch.func.vjp(f, beta, rest.mem, x)
            return spks, last.mem, *pull((w, snf.LeakyState(w[0])))

        fast = run(lies(x), "fused")
        assert fast[0].stride() == lies(x).stride() and fast[1].stride() == lies(x).stride()[1:]
        for a, b in zip(fast, run(x, "loop")):
            torch.testing.assert_close(a, b)
        assert torch.equal(fast[0], run(x, "loop")[0])


@sweep("order", ["".join(order) for order in itertools.product("fr", repeat=3)], of=("frr", "ffr"))
def test_third_derivatives_are_the_loops_or_refused(order):
    """`order`: forward or reverse mode, the outermost first."""
    step = lambda p, s, x: (torch.tanh(p * s + x), torch.sin(p * s) + x)
    s, x = torch.rand(3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    D = lambda f: lambda p: jvp(f, (p,), (one,))[1]
    loss = lambda kind: lambda p: (snf.scan(step, p, s, x, kind=kind)[0] ** 2).sum()
    outer, middle, inner = ({"f": D, "r": grad}[mode] for mode in order)
    third = lambda kind: outer(middle(inner(loss(kind))))(0.7 * one)
    torch.testing.assert_close(third("auto"), third("loop"))
    if order.count("f") < 2:
        torch.testing.assert_close(third("checkpointed"), third("loop"))
    else:
        with pytest.raises(ValueError, match="two forward-mode transforms are active"):
            third("checkpointed")


OF_LEAKY = snf.LeakyParams(0.9)


def leaky_of(*args):
    return snf.leaky_step(*args)


def without_params(step):
    @functools.wraps(step)  # by which its signature is the other's
    def wrapped(*args):
        return step(*args[1:])

    return wrapped


class Cell(torch.nn.Module):
    def init_hidden(self, batch):
        return torch.zeros(batch)

    def forward(self, params, state, input):
        return snf.leaky_step(params, state, input)


class Static:
    @staticmethod
    def __call__(params, state, input):
        return snf.leaky_step(params, state, input)


class Signed:
    __signature__ = inspect.Signature()

    def __call__(self, *args):
        return snf.leaky_step(*args)


class Parted(torch.nn.Module):
    """A pre-hook gives it what its forward takes."""

    def __init__(self):
        super().__init__()
        self.register_forward_pre_hook(lambda module, args: (args,))

    def forward(self, given):
        return snf.leaky_step(*given)


class Named(Static):
    named_parameters = ()


@pytest.mark.parametrize(
    "step",
    [leaky_of, without_params(lambda state, input: snf.leaky_step(OF_LEAKY, state, input)), Cell(), Static(), Signed(), Parted(), Named()],
)  # fmt: skip
def test_a_step_is_not_judged_by_what_it_looks_like(step):
    xs = torch.rand(5, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of them has no kernel
        spks, state = snf.scan(step, OF_LEAKY, snf.leaky.init(OF_LEAKY, xs[0]), xs)
    expected = snf.scan(snf.leaky_step, OF_LEAKY, snf.leaky.init(OF_LEAKY, xs[0]), xs)
    assert torch.equal(spks, expected[0]) and torch.equal(state.mem, expected[1].mem)


def test_a_class_that_holds_the_params_is_as_good_as_any_object():
    class Own:
        beta = torch.tensor(0.9)

    xs = torch.rand(5, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mems, _ = snf.scan(lambda params, mem, x: (params.beta * mem + x,) * 2, Own, torch.zeros(2, 3), xs)
    assert torch.equal(mems[0], xs[0]) and torch.equal(mems[1], 0.9 * xs[0] + xs[1])


def test_what_is_no_step_is_named_by_its_class_however_it_shows_itself():
    class Odd:
        def __repr__(self):
            raise RuntimeError

        def __call__(self, x):
            return x

    with pytest.raises(TypeError, match=r"but Odd\(x\) came"):
        snf.scan(Odd(), OF_LEAKY, snf.leaky.init(OF_LEAKY, torch.rand(2, 3)), torch.rand(5, 2, 3))
