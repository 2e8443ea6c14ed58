"""Online rules: what they share, and each against its definition, written out as a plain loop."""

import dataclasses
import functools
import gc
import pickle
from typing import Any

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, backward, dot, each_case, law, stacked
from hypothesis import given, strategies as st

import snn_functional as snf
from snn_functional.learning import aligned, eprop, ottt, rtrl, sltt, tbptt


double = functools.partial(torch.tensor, dtype=torch.float64)
normal = functools.partial(torch.randn, dtype=torch.float64)
uniform = functools.partial(torch.rand, dtype=torch.float64)
close = functools.partial(assert_allclose, rtol=1e-10, atol=1e-10)


def error(output, target):
    return (output - target).square().sum()


def linear(into, out):
    return snf.Linear(normal(out, into) / 2, normal(out) / 4)


def leaks(beta=0.9, **choices):
    return snf.LeakyParams(double(beta), double(1.0), **choices)


def loop(network, loss, params, state, inputs, targets):
    """The definition: the losses of each step, and the last state."""
    losses = []
    for x, target in zip(inputs, targets):
        output, state = network(params, state, x)
        losses.append(loss(output, target))
    return torch.stack(losses), state


def bptt(network, loss, params, state, inputs, targets):
    """And its gradient, by autograd through all of time."""
    return backward(lambda p: loop(network, loss, p, state, inputs, targets)[0].sum(), (params,))[0]


@dataclasses.dataclass(frozen=True)
class Network:
    neuron: Any
    params: Any
    into: tuple = (5,)
    out: int = 4

    def __iter__(self):
        """The arguments of a rule."""
        yield from self.world()

    def world(self, T=6, batch=3):
        xs, targets = 2 * uniform(T, batch, *self.into), uniform(T, batch, self.out)
        return self.params(), self.neuron.init(self.params(), xs[0]), xs, targets


each_number = lambda n: snf.SynapticParams(uniform(n) / 10 + 0.7, uniform(n) / 10 + 0.8, double(0.9))
adaptive = lambda: snf.AdaptiveLeakyParams(uniform(4) / 10 + 0.8, double(0.95), double(0.2), double(0.8))
NETWORKS = {
    "alone": Network(snf.synaptic, lambda: each_number(5), out=5),
    "layer": Network(snf.chain(snf.linear, snf.leaky), lambda: (linear(5, 4), leaks())),
    "readout": Network(
        snf.chain(torch.relu, snf.chain(snf.linear, snf.synaptic), snf.linear),
        lambda: ((), (linear(5, 4), each_number(4)), snf.Linear(normal(2, 4), normal(2))),
        out=2,
    ),
    "deep": Network(
        snf.chain(snf.linear, snf.leaky, torch.tanh, snf.linear, snf.leaky),
        lambda: (linear(5, 4), leaks(), (), linear(4, 3), leaks(0.8)),
        out=3,
    ),
    "conv": Network(
        snf.chain(snf.conv2d, snf.avg_pool2d(2), snf.leaky, snf.flatten, snf.linear),
        lambda: (snf.Conv2d(normal(2, 1, 3, 3), normal(2)), (), leaks(), (), linear(8, 3)),
        into=(1, 4, 4),
        out=3,
    ),
    "recurrent": Network(
        snf.chain(snf.linear, snf.recurrent(snf.leaky), snf.linear),
        lambda: (linear(5, 4), snf.RecurrentParams(leaks(), snf.Linear(normal(4, 4) / 2, double(0.0))), linear(4, 2)),
        out=2,
    ),
    "fed_back": Network(
        snf.chain(snf.linear, snf.filtered(snf.recurrent(snf.adaptive_leaky)), snf.linear, snf.recurrent(snf.leaky)),
        lambda: (
            linear(5, 4),
            snf.FilteredParams(snf.RecurrentParams(adaptive(), linear(4, 4)), double(0.8)),
            linear(4, 3),
            snf.RecurrentParams(leaks(), uniform(3)),
        ),
        out=3,
    ),
    "wired": Network(
        snf.rleaky, lambda: snf.RLeakyParams(double(0.9), snf.Linear(normal(4, 4) / 2, normal(4)), double(1.0)), (4,)
    ),
}
RULES = {
    "rtrl": rtrl,
    "eprop": eprop,
    "ottt": ottt,
    "sltt": sltt,
    "tbptt": functools.partial(tbptt, chunk=3),
}
TRIED = {
    "rtrl": ["alone", "readout", "deep", "wired"],
    "eprop": ["readout", "fed_back"],
    "ottt": ["recurrent", "conv"],
    "sltt": ["conv", "wired"],
    "tbptt": ["deep", "wired"],
}
each = pytest.mark.parametrize("rule, network", [(rule, network) for rule in RULES for network in TRIED[rule]])
chunks = lambda rule, *trees: [tree.split(3) if rule == "tbptt" else tree for tree in trees]


def made(rule, network):
    return RULES[rule](NETWORKS[network].neuron.step, error)


# What all rules share.


@each
def test_a_rule_runs_the_network(rule, network, monkeypatch):
    """The losses and the last state are the loop's, in however large pieces it is taken up; the gradient is a tree like params."""
    if rule != "tbptt":
        monkeypatch.setattr(RULES[rule], "size", 4)
    params, state, xs, targets = NETWORKS[network]
    grads, losses, last = made(rule, network)(params, state, xs, targets)
    expected = loop(NETWORKS[network].neuron.step, error, params, state, xs, targets)
    assert_allclose((losses, last), expected)
    assert_equal(optree.tree_map(torch.zeros_like, grads), optree.tree_map(torch.zeros_like, params))


@each
def test_step_by_step_is_the_whole(rule, network):
    """With all that is learnt written to a file and read again on the way."""
    params, state, xs, targets = NETWORKS[network]
    streaming = made(rule, network)
    learning, losses = streaming.init(params, state), []
    for x, target in zip(*chunks(rule, xs, targets)):
        loss, learning = streaming.step(params, learning, (x, target))
        learning = pickle.loads(pickle.dumps(learning))
        losses.append(loss)
    losses = torch.cat(losses) if rule == "tbptt" else torch.stack(losses)
    assert_equal((learning.grad, losses, learning.state), streaming(params, state, xs, targets))


@each
def test_in_pieces_it_is_the_whole(rule, network):
    """A learning state goes on where it was, and comes back; and it forgets no more than the gradient."""
    params, state, xs, targets = NETWORKS[network]
    learn = made(rule, network)
    grads, losses, last = learn(params, state, xs, targets)
    learning, found, total = learn.init(params, state), [], optree.tree_map(torch.zeros_like, params)
    for piece in zip(xs.split(3), targets.split(3)):
        some, piece_losses, learning = learn(params, learning, *piece)
        total = optree.tree_map(torch.add, total, some)
        found.append(piece_losses)
        learning = learning.forget()
    close((total, torch.cat(found), learning.state), (grads, losses, last))


@each
def test_no_graph_comes_in_or_is_left_and_nothing_is_written_to(rule, network):
    arguments = tuple(NETWORKS[network])
    expected = made(rule, network)(*arguments)
    known = optree.tree_map(lambda x: x.clone().requires_grad_(), arguments)
    before = [leaf._version for leaf in optree.tree_leaves(known)]
    weight = normal(arguments[3].shape[-1]).requires_grad_()
    results = RULES[rule](NETWORKS[network].neuron.step, error)(*known)
    close(results, expected)  # a product may be rounded in another way
    captured = RULES[rule](NETWORKS[network].neuron.step, lambda o, t: error(o * weight, t))(*known)
    assert not any(leaf.requires_grad for leaf in optree.tree_leaves((results, captured)))
    assert [leaf._version for leaf in optree.tree_leaves(known)] == before
    assert weight.grad is None and all(leaf.grad is None for leaf in optree.tree_leaves(known))


@each
def test_a_batch_adds_up(rule, network):
    """Each sample learns alone, under `vmap`: the gradients' sum is the batch's."""
    params, state, xs, targets = NETWORKS[network]
    learn = made(rule, network)
    grads, losses, last = learn(params, state, xs, targets)
    per_sample = torch.func.vmap(learn, in_dims=(None, 0, 1, 1), out_dims=(0, 1, 0))(params, state, xs, targets)
    close(optree.tree_map(lambda g: g.sum(0), per_sample[0]), grads)
    close((per_sample[1].sum(1), per_sample[2]), (losses, last))


@each
def test_a_population_of_learners(rule, network):
    """Networks with other weights, all at once, and each from a state of its own."""
    learn, worlds = made(rule, network), [tuple(NETWORKS[network]) for _ in range(2)]
    population = torch.func.vmap(learn)(*stacked(worlds))
    close(population, stacked([learn(*world) for world in worlds]))


@each
def test_memory_does_not_grow(rule, network):
    """Numbers alive when the loss is asked for, beside the losses themselves: the same early and late."""
    alive = []
    gc.freeze()  # what was there before is out of the collector's sight, so that counting is quick

    def counting(output, target):
        alive.append(sum(x.numel() for x in gc.get_objects() if type(x) is torch.Tensor and x.dim() > 1))
        return error(output, target)

    # One moment expanded in time, so that the sequence itself does not count.
    params, state, xs, targets = NETWORKS[network].world(T=1)
    xs, targets = (part.expand(12, *part.shape[1:]) for part in (xs, targets))
    RULES[rule](NETWORKS[network].neuron.step, counting)(params, state, xs, targets)
    period = len(alive) // 4
    assert sorted(alive[period : 2 * period]) == sorted(alive[-period:])


@each
def test_weights_may_change_after_any_step(rule, network):
    """Plain SGD, one update a step: the next gradient is taken at the new weights, what was carried stays."""
    params, state, xs, targets = NETWORKS[network]
    online = made(rule, network)
    learning = online.init(params, state)
    for x, target in zip(*chunks(rule, xs, targets)):
        _, after = online.step(params, learning, (x, target))
        _, twice = online.step(params, dataclasses.replace(learning, grad=after.grad), (x, target))
        close(twice.grad, optree.tree_map(lambda g, old: 2 * g - old, after.grad, learning.grad))
        params = optree.tree_map(lambda p, g: p - 0.01 * g, params, after.grad)
        learning = after.forget()
        assert not any(leaf.any() for leaf in optree.tree_leaves(learning.grad))


@pytest.mark.parametrize("rule, network", [("rtrl", "readout"), ("rtrl", "wired"), ("tbptt", "wired")])
def test_a_rule_can_be_differentiated(rule, network):
    """Where the gradient is exact, its derivative is the Hessian of the loop."""
    params, state, xs, targets = NETWORKS[network].world(T=3)
    direction = optree.tree_map(torch.randn_like, params)
    exact = made(rule, network)
    total = lambda p: loop(NETWORKS[network].neuron.step, error, p, state, xs, targets)[0].sum()
    expected = torch.func.grad(lambda p: dot(torch.func.grad(total)(p), direction))(params)
    close(torch.func.grad(lambda p: dot(exact(p, state, xs, targets)[0], direction))(params), expected)
    _, tangent = torch.func.jvp(lambda p: exact(p, state, xs, targets)[0], (params,), (direction,))
    close(tangent, expected)


# Each against its definition.


@law
@given(st.integers(1, 9), st.integers(1, 10), st.sampled_from(["deep", "wired"]))
def test_truncated_backpropagation_is_backpropagation_in_every_chunk(T, chunk, network):
    params, state, xs, targets = NETWORKS[network].world(T)
    step, expected = NETWORKS[network].neuron.step, optree.tree_map(torch.zeros_like, params)
    start = state
    for piece in zip(xs.split(chunk), targets.split(chunk)):
        expected = optree.tree_map(torch.add, expected, bptt(step, error, params, state, *piece))
        _, state = loop(step, error, params, state, *piece)
    grads, _, last = tbptt(step, error, chunk=chunk)(params, start, xs, targets)
    close((grads, last), (expected, state))


@pytest.mark.parametrize("name", NETWORKS)
def test_sltt_is_the_gradient_of_each_moment(name):
    params, state, xs, targets = NETWORKS[name]
    step = NETWORKS[name].neuron.step
    grads = sltt(step, error)(params, state, xs, targets)
    assert_allclose(grads, tbptt(step, error, chunk=1)(params, state, xs, targets))


@each_case
def test_rtrl_of_every_neuron_is_backpropagation(case):
    """Alone, whatever its choices, its input and its output: pointwise or wired."""
    step, params, state, xs = case.world(T=5, batch=2, n=3, dtype=torch.float64)
    output, _ = step(params, state, optree.tree_map(lambda x: x[0], xs))
    targets = optree.tree_map(lambda x: torch.rand(5, *x.shape, dtype=x.dtype), output)
    loss = lambda output, target: sum(map(error, optree.tree_leaves(output), optree.tree_leaves(target)))
    moments = [[optree.tree_map(lambda x, t=t: x[t], tree) for t in range(5)] for tree in (xs, targets)]
    close(rtrl(step, loss)(params, state, xs, targets)[0], bptt(step, loss, params, state, *moments))


@pytest.mark.parametrize("name", NETWORKS)
def test_rtrl_is_backpropagation(name):
    world, step = tuple(NETWORKS[name]), NETWORKS[name].neuron.step
    close(rtrl(step, error)(*world)[0], bptt(step, error, *world))


LAYERS = {
    "synaptic": (snf.synaptic, lambda n: each_number(n)),
    "alpha": (snf.alpha, lambda n: snf.AlphaParams(double(0.85), double(0.8), uniform(n) + 0.2)),
    "leaky-zero": (snf.leaky, lambda n: leaks(reset_mechanism="zero")),
    "rleaky": (snf.rleaky, lambda n: snf.RLeakyParams(double(0.9), uniform(n), double(1.0))),
}


@law
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 4), st.sampled_from(sorted(LAYERS)), st.booleans())
def test_one_layer_costs_its_weights_and_is_exact(T, batch, n, name, biased):
    """For rtrl and for eprop: what is local is all there is."""
    neuron, numbers = LAYERS[name]
    net = snf.chain(snf.linear, neuron)
    params = snf.Linear(normal(n, 3), normal(n) if biased else double(0.3)), numbers(n)
    xs, targets = normal(T, batch, 3), normal(T, batch, n)
    world = params, net.init(params, xs[0]), xs, targets
    expected = bptt(net.step, error, *world)
    close(rtrl(net.step, error)(*world)[0], expected)
    close(eprop(net.step, error)(*world)[0], expected)
    learning = rtrl(net.step, error).init(params, world[1])
    _, learning = rtrl(net.step, error).step(params, learning, (xs[0], targets[0]))
    _, ((weight, _),) = learning.traces[0]
    assert [e.shape for e in weight] == [(batch, n, 3)] * len(optree.tree_leaves(world[1]))


def test_a_state_at_rest_may_be_a_number():
    """As for `scan`, whose first step broadcasts it."""
    net = snf.chain(snf.linear, snf.leaky)
    params, _, xs, targets = NETWORKS["layer"]
    for name in RULES:
        rest = made(name, "layer")(params, ((), snf.LeakyState(double(0.0))), xs, targets)
        assert_equal(rest, made(name, "layer")(params, net.init(params, xs[0]), xs, targets))
    alone = rtrl(snf.rleaky_step, error), NETWORKS["wired"].params(), uniform(5, 3, 4), uniform(5, 3, 4)
    general, params, xs, targets = alone
    rest = general(params, snf.RLeakyState(double(0.0), double(0.0)), xs, targets)
    close(rest, general(params, snf.rleaky_init(params, xs[0]), xs, targets))


def test_trees_without_targets_and_without_inputs():
    def step(params, state, x):
        total = state["total"] + params["w"] * x["a"] + x["b"]
        return {"total": total, "count": state["count"]}, {"total": total, "count": state["count"] + 1}

    params, state = {"w": double(2.0)}, {"total": double(0.0), "count": torch.tensor(0)}
    xs = {"a": uniform(5), "b": uniform(5)}
    loss = lambda output, _: output["total"] * output["count"]
    _, losses, last = rtrl(step, loss)(params, state, xs, None)
    assert last["count"] == 5
    for rule in (rtrl(step, loss), tbptt(step, loss, chunk=9)):
        grads, _, _ = rule(params, state, xs, None)
        assert_allclose(grads["w"], (xs["a"].cumsum(0) * torch.arange(5)).sum())
    decay = lambda p, s, _: (p * s, p * s)
    for rule in (rtrl(decay, error), sltt(decay, error), tbptt(decay, error, chunk=2)):
        _, losses, last = rule(double(0.5), double(1.0), None, torch.zeros(3, dtype=torch.float64))
        assert last == 0.125 and losses.tolist() == [0.25, 0.0625, 0.015625]


# The papers.


def slope(params, u):
    """The surrogate's h', which the papers call psi, or sigma'."""
    return torch.func.grad(lambda u: params.spike_grad(u).sum())(u)


def test_ottt_is_its_paper():
    """Xiao et al. 2022: grad W[l] = sum_t g[l][t] a[l][t]^T, with a = lambda a + s, and g from layer to layer in this step only."""
    params, state, xs, targets = NETWORKS["deep"]
    first, one, _, second, two = params
    (grads, _, _), (instant, _, _) = (made(rule, "deep")(params, state, xs, targets) for rule in ("ottt", "sltt"))
    u1, u2 = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    a1, a2, n1, n2 = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    traced = [torch.zeros_like(x) for x in (first.weight, first.bias, second.weight, second.bias)]
    moment = [torch.zeros_like(x) for x in traced]
    for x, target in zip(xs, targets):
        u1 = one.beta * u1 - (u1 > one.threshold) * one.threshold + first(x)
        s1 = torch.tanh((u1 > one.threshold).double())
        u2 = two.beta * u2 - (u2 > two.threshold) * two.threshold + second(s1)
        s2 = (u2 > two.threshold).double()
        a1, n1, a2, n2 = one.beta * a1 + x, one.beta * n1 + 1, two.beta * a2 + s1, two.beta * n2 + 1
        g2 = 2 * (s2 - target) * slope(two, u2 - two.threshold)
        g1 = g2 @ second.weight * (1 - s1**2) * slope(one, u1 - one.threshold)
        for total, new in zip(traced, (g1.T @ a1, n1 * g1.sum(0), g2.T @ a2, n2 * g2.sum(0))):
            total += new
        for total, new in zip(moment, (g1.T @ x, g1.sum(0), g2.T @ s1, g2.sum(0))):
            total += new
    leaves = lambda grads: optree.tree_leaves((grads[0], grads[3]))
    close(leaves(grads), traced)
    close(leaves(instant), moment)
    close((grads[1], grads[4]), (instant[1], instant[4]))  # the neurons' numbers have no trace


@pytest.mark.parametrize("reset", ["subtract", "none"])
@pytest.mark.parametrize("network", ["layer", "conv"])
def test_ottt_of_one_layer_is_backpropagation(network, reset):
    """Where the neuron remembers no more than its leaky membrane; and what stands between is linear."""
    params, state, xs, targets = NETWORKS[network]
    params = tuple(
        dataclasses.replace(p, reset_mechanism=reset) if isinstance(p, snf.LeakyParams) else p for p in params
    )
    step = NETWORKS[network].neuron.step
    grads, expected = ottt(step, error)(params, state, xs, targets)[0], bptt(step, error, params, state, xs, targets)
    wires = lambda tree: [p for p in tree if isinstance(p, (snf.Linear, snf.Conv2d))]
    close(wires(grads), wires(expected))


def test_ottt_of_feedback():
    """What comes back is an input as any other, with its own trace; through the neurons that fired it goes no gradient."""
    params, state, xs, targets = NETWORKS["recurrent"]
    front, (neuron, V), out = params[0], (params[1].inner, params[1].V), params[2]
    grads, _, _ = made("ottt", "recurrent")(params, state, xs, targets)
    u, s, a = (torch.zeros(3, 4, dtype=torch.float64) for _ in range(3))
    expected = torch.zeros_like(V.weight)
    for x, target in zip(xs, targets):
        a = neuron.beta * a + s
        u = neuron.beta * u - s * neuron.threshold + front(x) + V(s)
        s = (u > neuron.threshold).double()
        g = 2 * (out(s) - target) @ out.weight * slope(neuron, u - neuron.threshold)
        expected += g.T @ a
    close(grads[1].V.weight, expected)


@pytest.mark.parametrize("jump", [0.0, 0.3], ids=["LIF", "ALIF"])
@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_eprop_is_its_paper(feedback, jump):
    """Bellec et al. 2020, for a recurrent layer and a leaky readout y[t] = kappa y[t-1] + W_out z[t].

    eps_v[t] = alpha eps_v[t-1] + z_pre                            eps_a[t] = psi[t-1] eps_v[t-1] + (rho - psi[t-1] beta) eps_a[t-1]
    e[t]     = psi[t] (eps_v[t] - beta eps_a[t])                   grad = sum_t (y - y*) B (kappa-filtered e)[t]
    """
    neuron = snf.AdaptiveLeakyParams(double(0.9), double(0.95), double(jump), double(0.7))
    front, V, out, kappa = linear(5, 4), snf.Linear(normal(4, 4) / 2, double(0.0)), normal(2, 4), double(0.8)
    B = out if feedback == "symmetric" else normal(2, 4)
    xs, targets = 2 * uniform(8, 3, 5), normal(8, 3, 2)
    if jump:
        cell, numbers = snf.adaptive_leaky, neuron
    else:
        cell, numbers = snf.leaky, snf.LeakyParams(double(0.9), double(0.7))
    net = snf.chain(snf.linear, snf.filtered(snf.recurrent(cell)))
    params = front, snf.FilteredParams(snf.RecurrentParams(numbers, V), kappa)
    half = lambda trace, target: (aligned(trace, out, B) - target).square().sum() / 2
    grads, _, _ = eprop(net.step, half)(params, net.init(params, xs[0]), xs, targets)

    v, a, z, y, psi = torch.zeros(5, 3, 4, dtype=torch.float64)
    y = y[:, :2]
    eps_v, eps_a, trace, total = torch.zeros(4, 3, 4, 10, dtype=torch.float64)  # of 5 inputs, the bias, 4 neurons
    for x, target in zip(xs, targets):
        pre = torch.cat([x, torch.ones(3, 1, dtype=torch.float64), z], dim=1)
        a = neuron.rho * a + z
        v = neuron.beta * v + front(x) + V(z) - z * neuron.threshold
        eps_a = psi[..., None] * eps_v + (neuron.rho - psi * jump)[..., None] * eps_a
        eps_v = neuron.beta * eps_v + pre[:, None, :]
        above = v - neuron.threshold - jump * a
        z, psi = (above > 0).double(), slope(neuron, above)
        trace = kappa * trace + psi[..., None] * (eps_v - jump * eps_a)
        y = kappa * y + z @ out.T
        total = total + ((y - target) @ B)[..., None] * trace
    weight, bias, fed = total.sum(0).split([5, 1, 4], dim=1)
    close((grads[0].weight, grads[0].bias, grads[1].inner.V.weight), (weight, bias[:, 0], fed))

    if feedback == "symmetric":  # the readout as a layer, which learns too
        net = snf.chain(*net.step.layers, snf.linear)
        params = *params, snf.Linear(out, double(0.0))
        error_ = lambda y, target: (y - target).square().sum() / 2
        grads = eprop(net.step, error_)(params, net.init(params, xs[0]), xs, targets)[0]
        close((grads[0].weight, grads[1].inner.V.weight), (weight, fed))
        assert grads[2].weight.any()


def inputs_only(state):
    """The same state, what was fired last taken as a number."""
    if not hasattr(state, "inner"):
        return state
    spk = {"spk": state.spk.detach()} if hasattr(state, "spk") else {}
    return dataclasses.replace(state, inner=inputs_only(state.inner), **spk)


@pytest.mark.parametrize("name", ["deep", "fed_back"])
def test_eprop_is_backpropagation_cut_between_neurons(name):
    """Of each layer: its own states carry derivatives from step to step; spikes fed back to others and other layers' states do not."""
    step = NETWORKS[name].neuron.step
    params, state, xs, targets = NETWORKS[name]
    grads, _, _ = eprop(step, error)(params, state, xs, targets)
    numbers = lambda tree: optree.tree_map(torch.detach, tree)
    stateful = [i for i, s in enumerate(state) if optree.tree_leaves(s)]
    for i in stateful:

        def cut(p, s, x, i=i):
            return step(
                p,
                tuple((inputs_only(part) if i == 1 else part) if j == i else numbers(part) for j, part in enumerate(s)),
                x,
            )

        expected = bptt(cut, error, params, state, xs, targets)
        close(grads[i - 1 : i + 1], expected[i - 1 : i + 1])
    assert not torch.allclose(grads[0].weight, bptt(step, error, params, state, xs, targets)[0].weight)


def test_aligned_goes_back_another_way():
    x, weight, feedback = normal(3, 4), normal(2, 4), normal(2, 4)
    out, back = torch.func.vjp(aligned, x, weight, feedback)
    assert_equal(out, x @ weight.T)
    g = torch.randn_like(out)
    close(back(g), (g @ feedback, g.T @ x, torch.zeros_like(feedback)))


def test_random_readouts_in_a_chain():
    """A layer of one's own, after the last neuron: any function of params."""
    B = normal(2, 4)
    readout = snf.Neuron(snf.Linear, tuple, lambda p, x: (), lambda p, s, x: (aligned(x, p.weight, B) + p.bias, s))
    net = snf.chain(snf.linear, snf.leaky, readout)
    params = linear(5, 4), leaks(), linear(4, 2)
    xs, targets = 2 * uniform(5, 3, 5), normal(5, 3, 2)
    world = params, net.init(params, xs[0]), xs, targets
    close(eprop(net.step, error)(*world)[0], bptt(net.step, error, *world))


# What is refused.

slstm = snf.SLSTMParams(linear(4, 16), linear(4, 16))
single = lambda *layers: snf.chain(*layers).step


@pytest.mark.parametrize(
    "rule, params, state, says",
    [
        (
            eprop(snf.slstm_step, error),
            slstm,
            snf.slstm_init(slstm, uniform(3, 4)),
            "slstm_step is not pointwise.*rtrl, sltt and tbptt",
        ),
        (
            eprop(single(snf.conv2d, snf.leaky), error),
            (snf.Conv2d(normal(1, 1, 3, 3)), leaks()),
            ((), snf.LeakyState(normal(1, 1, 4, 4))),
            "layer 0, conv2d_step, is not linear right before layer 1, leaky_step, .*shared",
        ),
        (
            eprop(single(snf.linear, torch.relu, snf.leaky), error),
            (linear(4, 4), (), leaks()),
            ((), (), snf.LeakyState(normal(3, 4))),
            "functions stand between them",
        ),
        (
            eprop(single(snf.linear, snf.linear, snf.leaky), error),
            (linear(4, 4), linear(4, 4), leaks()),
            ((), (), snf.LeakyState(normal(3, 4))),
            "layer 0, linear_step, has parameters, and what they do to layer 2",
        ),
        (eprop(single(snf.linear), error), (linear(4, 4),), ((),), "has no state"),
        (
            ottt(single(snf.linear, snf.synaptic), error),
            (linear(4, 4), snf.SynapticParams(0.9, 0.8)),
            ((), snf.SynapticState(normal(3, 4), normal(3, 4))),
            "layer 1, synaptic_step, has another memory than one membrane `mem`.*eprop takes",
        ),
        (
            ottt(single(snf.linear, snf.leaky), error),
            (linear(4, 4), snf.LeakyParams(torch.rand(4))),
            ((), snf.LeakyState(normal(3, 4))),
            "layer 1, leaky_step, has 4 leaks, and a trace of its input only one",
        ),
        (ottt(snf.leaky_step, error), leaks(), snf.LeakyState(normal(3, 4)), "no connection leads to a neuron"),
    ],
)
def test_a_rule_says_what_it_does_not_take(rule, params, state, says):
    with pytest.raises(ValueError, match=f"^{type(rule).__name__}.step, loss.: .*{says}"):
        rule.init(params, state)


def test_errors_show_the_call():
    with pytest.raises(
        TypeError, match=r"rtrl\(step, loss\): step is called, but came as Neuron. Give its step: rtrl\(neuron.step"
    ):
        rtrl(snf.leaky, error)
    with pytest.raises(TypeError, match=r"sltt\(step, loss\): loss is called, but came as int"):
        sltt(snf.leaky_step, 3)
    with pytest.raises(ValueError, match=r"chunk=0\): expected a number of steps, 1 or more"):
        tbptt(snf.leaky_step, error, chunk=0)
    params, state, xs, targets = NETWORKS["layer"]
    for rule in RULES:
        with pytest.raises(ValueError, match=r"loss\(output, target\) is one number.*but shape \(3, 4\) came"):
            RULES[rule](snf.chain(snf.linear, snf.leaky).step, torch.sub)(params, state, xs, targets)
        with pytest.raises(ValueError, match="the time axes differ"):
            made(rule, "layer")(params, state, xs, targets[:-1])
    for params, came in (({"n": torch.tensor(1)}, "torch.int64"), ({"n": 0.5}, "float")):
        with pytest.raises(TypeError, match=f"every leaf of params is a floating tensor, but {came} came"):
            rtrl(lambda p, s, x: (x, s), error).init(params, state)


def test_rules_are_values():
    assert rtrl(snf.leaky_step, error) == rtrl(snf.leaky_step, error) != eprop(snf.leaky_step, error)
    assert pickle.loads(pickle.dumps(tbptt(snf.leaky_step, error, chunk=3))) == tbptt(snf.leaky_step, error, chunk=3)


@pytest.mark.parametrize("weights", [2, 9])
def test_rtrl_of_a_step_that_draws_learns_from_what_it_drew(weights):
    """Fewer weights than states go forwards, more go backwards; the loss is linear in them, so their product with the gradient is it."""

    def step(p, s, x):
        s = p.sum() * (torch.rand(()) < 0.5).float() * x
        return s.sum(), s

    p, state, xs = torch.full((weights,), 1 / weights), torch.zeros(4), torch.ones(12, 4)
    for seed in range(4):
        torch.manual_seed(seed)
        grad, losses, _ = rtrl(step, lambda o, t: o)(p, state, xs, None)
        torch.testing.assert_close((p * grad).sum(), losses.sum())


def test_what_no_rule_can_learn_from():
    params, state = snf.LeakyParams(0.9), snf.LeakyState(torch.zeros(2))
    counted = rtrl(snf.leaky_step, lambda out, target: out.sum().long())
    with pytest.raises(TypeError, match="is torch.int64, which has no gradient"):
        counted(params, state, torch.rand(3, 2), torch.rand(3, 2))
    with pytest.raises(TypeError, match=r"learning is a LearningState, rule.init\(params, state\), not LeakyState"):
        rtrl(snf.leaky_step, lambda out, target: out.sum()).step(params, state, (torch.rand(2), None))
