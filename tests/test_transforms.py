"""What `torch.func` makes of spiking networks, in a line or two each, against loops over members and samples, and plain autograd.

Each part begins with its recipes. What they must agree with runs the plain loop over time, one member, sample or task at a time.
"""

import itertools

import optree
import pytest
import torch
from helpers import assert_allclose, at, backward, dot, flat, law, some_neurons, stacked, steep
from hypothesis import given, strategies as st
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn.functional import cross_entropy, log_softmax

import snn_functional as snf


tree_map = optree.tree_map
SIZES, ATAN = (5, 6, 3), snf.surrogate.ATan()


NET = snf.chain(snf.linear, snf.leaky, snf.linear, snf.leaky)


def leaky(beta, spike_grad=ATAN):
    return snf.LeakyParams(torch.as_tensor(beta, dtype=torch.float64), torch.ones((), dtype=torch.float64), spike_grad)


def network(spike_grad=ATAN, sizes=SIZES):
    """Neurons that fire now and then; float64, so that rounding flips no spike."""
    weights = lambda n, m: snf.Linear(torch.randn(m, n).double(), torch.randn(m).double() / 4)
    n, m, k = sizes
    return weights(n, m), leaky(0.8, spike_grad), weights(m, k), leaky(0.8, spike_grad)


def fire(params, xs, kind="auto"):
    """xs [T, ..., in] -> spks [T, ..., out]"""
    return snf.scan(NET.step, params, NET.init(params, xs[0]), xs, kind=kind)[0]


def loss(params, xs, labels, kind="auto"):
    """Which of the last neurons fires most? xs [T, ..., in], labels [...]."""
    return cross_entropy(fire(params, xs, kind).mean(0), labels)


def spikes(*shape, rate=0.5):
    return (torch.rand(shape) < rate).double()


def samples(count=4, T=7):
    return spikes(T, count, SIZES[0]), torch.randint(SIZES[2], (count,))


def entry(tree, i):
    return tree_map(lambda leaf: leaf[i], tree)


def each(tree):
    return [entry(tree, i) for i in range(len(optree.tree_leaves(tree)[0]))]


def autograd(loss, params, *args, create_graph=False):
    """The gradient by torch.autograd, of the plain loop over time."""
    leaves, spec = optree.tree_flatten(params)
    if not create_graph:
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    value = loss(optree.tree_unflatten(spec, leaves), *args, kind="loop")
    return optree.tree_unflatten(spec, torch.autograd.grad(value, leaves, create_graph=create_graph))


# Populations.


@some_neurons
def test_populations_of_every_neuron(case):
    """Populations, each with its input, times parameter sets: two vmaps, and the loop over both."""
    sets = [case.params(4, dtype=torch.float64) for _ in range(3)]
    worlds = [case.inputs(T=5, batch=2, n=4, dtype=torch.float64) for _ in range(2)]

    def run(params, xs, kind="auto"):
        return snf.scan(case.neuron.step, params, case.neuron.init(params, at(xs, 0)), xs, kind=kind)[0]

    weight = optree.tree_map(torch.randn_like, run(sets[0], worlds[0]))

    def loss(params, xs, kind="auto"):
        return dot(run(params, xs, kind), weight)

    nested = lambda f: vmap(vmap(f, (None, 0)), (0, None))(stacked(sets), stacked(worlds))
    looped = lambda f: stacked([stacked([f(params, xs) for xs in worlds]) for params in sets])
    case.same(nested(run), looped(lambda *args: run(*args, "loop")))
    assert_allclose(
        nested(grad(loss)), looped(lambda *args: backward(lambda p: loss(p, args[1], "loop"), (args[0],))[0])
    )


def test_networks_with_different_weights():
    nets = [network() for _ in range(4)]
    xs, labels = samples()
    together = vmap(fire, (0, None))(stacked(nets), xs)
    assert torch.equal(together, torch.stack([fire(net, xs, "loop") for net in nets])) and 0.1 < together.mean() < 0.9
    gradients = vmap(grad(loss), (0, None, None))(stacked(nets), xs, labels)
    assert_allclose(gradients, stacked([autograd(loss, net, xs, labels) for net in nets]))


def test_networks_times_populations_of_neurons():
    """The weights of a network are one axis, the leaks of its neurons another."""
    nets, betas = [network() for _ in range(2)], torch.linspace(0.3, 0.95, 5).double()
    xs, labels = samples()

    def of_beta(beta, net, kind="auto"):
        return loss((net[0], leaky(beta), net[2], leaky(beta)), xs, labels, kind)

    slopes = vmap(vmap(grad(of_beta), (0, None)), (None, 0))(betas, stacked(nets))
    expected = [backward(lambda *a: of_beta(*a, "loop"), (beta, net))[0] for net in nets for beta in betas]
    torch.testing.assert_close(slopes.flatten(), torch.stack(expected))


def sgd(params, gradient, lr=0.1):
    return tree_map(lambda p, g: p - lr * g, params, gradient)


def trained(loss, params, batches, make):
    """`params` after one step of the optimizer for each batch."""
    leaves, spec = optree.tree_flatten(tree_map(lambda leaf: leaf.clone().requires_grad_(), params))
    optimizer = make(leaves, lr=0.05)
    for batch in batches:
        optimizer.zero_grad()
        loss(optree.tree_unflatten(spec, leaves), *batch).backward()
        optimizer.step()
    return optree.tree_unflatten(spec, [leaf.detach() for leaf in leaves])


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_an_ensemble_trained_at_once(make):
    """The gradient of the sum of the losses is each one's own, and an elementwise optimizer never notices one more axis."""
    nets, batches = [network() for _ in range(8)], [samples() for _ in range(5)]
    all_losses = lambda nets, *batch: vmap(loss, (0, None, None))(nets, *batch).sum()
    together = trained(all_losses, stacked(nets), batches, make)
    assert_allclose(together, stacked([trained(lambda *a: loss(*a, "loop"), net, batches, make) for net in nets]))
    assert not torch.allclose(together[0].weight, stacked(nets)[0].weight, atol=1e-3)


# Per-sample gradients.


def per_sample(loss):
    """The gradient of each sample: xs [T, batch, ...], labels [batch] -> trees of [batch, ...]."""
    return vmap(grad(loss), (None, 1, 0))


def private(loss, params, xs, labels, max_norm, noise_multiplier, generator=None):
    """The gradient of differentially private SGD (Abadi et al. 2016): clip each sample's, add, add noise, divide."""
    gradients = per_sample(loss)(params, xs, labels)
    norms = [torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in optree.tree_leaves(gradients)]
    shares = (max_norm / torch.stack(norms).norm(dim=0)).clamp(max=1)
    noise = lambda p: noise_multiplier * max_norm * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return tree_map(lambda p, g: (torch.tensordot(shares, g, 1) + noise(p)) / len(shares), params, gradients)


@law
@given(T=st.integers(1, 9), count=st.integers(1, 5))
def test_per_sample_gradients_are_the_loop_over_samples(T, count):
    net = network()
    xs, labels = samples(count, T)
    gradients = per_sample(loss)(net, xs, labels)
    assert_allclose(gradients, stacked([autograd(loss, net, xs[:, i], labels[i]) for i in range(count)]))
    assert_allclose(tree_map(lambda g: g.mean(0), gradients), autograd(loss, net, xs, labels))


def test_a_private_step_clips_each_sample_by_the_norm_of_its_whole_tree():
    net, (xs, labels) = network(), samples(count=6)
    gradients = [autograd(loss, net, xs[:, i], labels[i]) for i in range(6)]
    norms = torch.stack([torch.linalg.vector_norm(flat(gradient)[0]) for gradient in gradients])
    bound = norms.median().item() + 1e-9  # half of them are clipped
    shares = tuple(min(1.0, bound / norm.item()) for norm in norms)
    assert 0 < sum(share < 1 for share in shares) < 6

    quiet = private(loss, net, xs, labels, bound, 0.0)
    assert_allclose(quiet, tree_map(lambda *g: sum(a * b for a, b in zip(shares, g)) / 6, *gradients))

    # One sample more or less moves the sum by no more than the bound, whoever it is.
    fewer = private(loss, net, xs[:, 1:], labels[1:], bound, 0.0)
    moved = tree_map(lambda a, b: 6 * a - 5 * b, quiet, fewer)
    assert torch.linalg.vector_norm(flat(moved)[0]) <= bound * (1 + 1e-9)


def test_the_noise_of_a_private_step_comes_from_the_generator_and_is_as_large_as_it_says():
    net, (xs, labels) = network(sizes=(SIZES[0], 400, SIZES[2])), samples()
    seeded = lambda seed: torch.Generator().manual_seed(seed)
    run = lambda noise, seed: flat(private(loss, net, xs, labels, 0.5, noise, seeded(seed)))[0]
    before = torch.get_rng_state()
    assert torch.equal(run(2.0, 1), run(2.0, 1)) and not torch.equal(run(2.0, 1), run(2.0, 2))
    assert torch.equal(torch.get_rng_state(), before)
    noise = (run(2.0, 1) - run(0.0, 1)) * 4  # of the sum over the batch of 4: 3600 numbers of standard deviation 1
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_the_spread_of_the_samples_gradients_is_the_noise_of_a_batch():
    """E |G_B|^2 = |G|^2 + tr(covariance) / B over batches of B, the gradient noise scale's ground (McCandlish et al. 2018, A.1)."""
    net, (xs, labels) = network(), samples(count=4)
    gradients = torch.cat([g.reshape(4, -1) for g in optree.tree_leaves(per_sample(loss)(net, xs, labels))], 1)
    whole, spread = gradients.mean(0).square().sum(), gradients.var(0, correction=0).sum()
    batches = list(itertools.product(range(4), repeat=2))  # all that can be drawn, with replacement
    norms = [flat(grad(loss)(net, xs[:, list(b)], labels[list(b)]))[0].square().sum() for b in batches]
    torch.testing.assert_close(torch.stack(norms).mean(), whole + spread / 2)


def fisher(params, xs):
    """Of one sample: E over labels y ~ p of score score^T, where score = d log p(y) / d params as one vector."""
    vector, tree = flat(params)
    log_p = lambda v: log_softmax(fire(tree(v), xs).mean(0), -1)
    scores = jacrev(log_p)(vector)
    return scores.T @ (log_p(vector).exp()[:, None] * scores)


def test_the_fisher_information_is_the_gauss_newton_matrix():
    """J^T (diag p - p p^T) J: for the softmax, the two are one. Scores in reverse mode, J in forward mode."""
    net, (xs, _) = network(), samples()
    together = vmap(fisher, (None, 1))(net, xs)
    vector, tree = flat(net)
    rates = lambda v, i: fire(tree(v), xs[:, i], "loop").mean(0)
    for i in range(4):
        p, J = rates(vector, i).softmax(-1), jacfwd(rates)(vector, i)
        torch.testing.assert_close(together[i], J.T @ (p.diag() - torch.outer(p, p)) @ J)


# Second order.


def hvp(loss, params, direction):
    """The Hessian times a direction, forward over reverse: a tree like params."""
    return jvp(grad(loss), (params,), (direction,))[1]


def random_like(tree):
    return tree_map(torch.randn_like, tree)


def test_hessian_vector_products():
    """Forward over reverse, reverse over reverse, and torch.autograd's double backward through the plain loop."""
    net, (xs, labels) = network(), samples()
    at = lambda params, kind="auto": loss(params, xs, labels, kind)
    v, u = random_like(net), random_like(net)
    product, other = each(vmap(lambda v: hvp(at, net, v))(stacked([v, u])))
    assert_allclose(product, grad(lambda params: dot(grad(at)(params), v))(net))
    tracked = tree_map(lambda leaf: leaf.clone().requires_grad_(), net)
    slope = autograd(at, tracked, create_graph=True)
    dot(slope, v).backward()
    assert_allclose(product, tree_map(lambda leaf: leaf.grad, tracked))
    torch.testing.assert_close(dot(u, product), dot(v, other))


def test_a_hessian_vector_product_is_the_slope_of_the_gradient():
    """Of a smooth spike, whose derivatives finite differences can see."""
    net, (xs, labels) = network(steep), samples()
    at = lambda params: loss(params, xs, labels)
    v = random_like(net)
    moved = lambda h: grad(at)(tree_map(lambda p, d: p + h * d, net, v))
    slope = tree_map(lambda a, b: (a - b) / 2e-5, moved(1e-5), moved(-1e-5))
    assert_allclose(hvp(at, net, v), slope, rtol=1e-5, atol=1e-7)


def adapt(loss, params, xs, labels, steps=3, lr=0.3):
    """The inner loop: a few steps of SGD on one task."""
    for _ in range(steps):
        params = sgd(params, grad(loss)(params, xs, labels), lr)
    return params


def maml(loss, params, tasks, queries):
    """The mean over tasks of the loss after adapting to each (Finn et al. 2017). Tasks are stacked: xs [tasks, T, batch, ...]."""
    return vmap(lambda task, query: loss(adapt(loss, params, *task), *query))(tasks, queries).mean()


def test_maml():
    net = network()
    tasks, queries = stacked([samples() for _ in range(3)]), stacked([samples() for _ in range(3)])
    together = grad(lambda params: maml(loss, params, tasks, queries))(net)

    params = tree_map(lambda leaf: leaf.clone().requires_grad_(), net)
    total = 0
    for task, query in zip(each(tasks), each(queries)):
        adapted = params
        for _ in range(3):
            adapted = sgd(adapted, autograd(loss, adapted, *task, create_graph=True), 0.3)
        total = total + loss(adapted, *query, kind="loop") / 3
    total.backward()
    assert_allclose(together, tree_map(lambda leaf: leaf.grad, params))
    first_order = tree_map(
        lambda g: g.mean(0), vmap(lambda task, query: grad(loss)(adapt(loss, net, *task), *query))(tasks, queries)
    )
    assert not torch.allclose(flat(together)[0], flat(first_order)[0])  # the inner loop's derivative is in it


def trained_loss(beta, net, train, held_out):
    """The loss on held-out data after training with this leak: a function of `beta`, as differentiable as any other."""
    with_beta = lambda ws: (ws[0], leaky(beta, steep), ws[1], leaky(beta, steep))
    ws = adapt(lambda ws, *batch: loss(with_beta(ws), *batch), (net[0], net[2]), *train)
    return loss(with_beta(ws), *held_out)


def test_the_hyper_gradient_of_beta_through_training():
    net, train, held_out = network(steep), samples(), samples()
    f = lambda beta: trained_loss(beta, net, train, held_out)
    beta = torch.tensor(0.8, dtype=torch.float64)
    slope = grad(f)(beta)
    torch.testing.assert_close(slope, (f(beta + 1e-5) - f(beta - 1e-5)) / 2e-5, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope, jvp(f, (beta,), (torch.ones_like(beta),))[1])


def implicit(train, held_out, w, beta):
    """d held_out(w*(beta), beta) / d beta, where w* minimises `train`: no step of the training is remembered."""
    d_w, d_beta = grad(held_out, (0, 1))(w, beta)
    adjoint = torch.linalg.solve(hessian(train)(w, beta), d_w)
    return d_beta - vjp(lambda beta: grad(train)(w, beta), beta)[1](adjoint)[0]


def test_the_implicit_hyper_gradient_of_beta():
    """Against the held-out loss of trainings that are begun anew, with a little more and a little less of beta."""
    xs, wanted = torch.rand(2, 12, 4, 3, dtype=torch.float64), torch.rand(2, 12, 4, dtype=torch.float64)

    def misfit(w, beta, i):
        currents = xs[i] @ w
        params = leaky(beta, steep)
        spks, _ = snf.scan(snf.leaky_step, params, snf.leaky_init(params, currents[0]), currents)
        return (spks - wanted[i]).square().mean()

    train = lambda w, beta: misfit(w, beta, 0) + w.square().sum()
    held_out = lambda w, beta: misfit(w, beta, 1)

    def minimised(beta, w):
        for _ in range(20):  # Newton's method
            w = w - torch.linalg.solve(hessian(train)(w, beta), grad(train)(w, beta))
        assert grad(train)(w, beta).abs().max() < 1e-12
        return w

    beta = torch.tensor(0.7, dtype=torch.float64)
    w = minimised(beta, torch.full((3,), 0.1, dtype=torch.float64))
    assert torch.linalg.eigvalsh(hessian(train)(w, beta)).min() > 0
    after = lambda beta: held_out(minimised(beta, w), beta)
    torch.testing.assert_close(
        implicit(train, held_out, w, beta), (after(beta + 1e-5) - after(beta - 1e-5)) / 2e-5, rtol=1e-6, atol=1e-9
    )
