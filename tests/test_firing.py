"""Firing rates, what is silently wrong, and weights that make a network fire."""

import doctest

import pytest
import torch
from helpers import assert_allclose, law
from hypothesis import given, strategies as st
from torch.func import grad, vmap

import snn_functional as snf


NET = snf.chain(snf.linear, snf.leaky, snf.residual(snf.linear, snf.leaky), snf.linear, snf.leaky_integrator)


def params(*weights, **choices):
    first, second = weights or (snf.Linear.random(8, 6), snf.Linear.random(6, 6))
    leaky = snf.LeakyParams(0.9, **choices)
    return (first, leaky, (second, leaky), snf.Linear.random(6, 2), snf.LeakyIntegratorParams(0.9))


def seen(params, xs, net=NET):
    return snf.diagnose(net.step, params, net.init(params, xs[0]), xs)


XS = (torch.rand(12, 4, 8, generator=torch.Generator().manual_seed(0)) < 0.4).float()
ALIVE = params(snf.Linear(torch.eye(6, 8)), snf.Linear(0.5 * torch.eye(6)))


def test_the_examples_run():
    names = {"torch": torch, **vars(snf)}
    for function in (snf.firing_rates, snf.diagnose, snf.residual, snf.valid_steps, snf.chain, snf.every_layer):
        for example in doctest.DocTestFinder(recurse=False).find(function, globs=dict(names)):
            result = doctest.DocTestRunner().run(example)
            assert result.attempted and not result.failed, function


@law
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 99))
def test_a_rate_is_that_of_the_samples_own_steps(lengths, seed):
    torch.manual_seed(seed)
    spks = {
        "a": (torch.rand(7, len(lengths), 3, 2) < 0.3).double(),
        "b": (torch.rand(7, len(lengths), 5) < 0.3).double(),
    }
    valid = snf.valid_steps(torch.tensor(lengths), 7)
    spks = {key: x * valid.reshape(*valid.shape, *[1] * (x.dim() - 2)) for key, x in spks.items()}
    rates = snf.firing_rates(spks, torch.tensor(lengths))
    for key, x in spks.items():
        own = torch.cat([x[:n, i].flatten() for i, n in enumerate(lengths)])
        torch.testing.assert_close(rates[key], own.mean())
        torch.testing.assert_close(snf.firing_rates(x), x.mean())


def test_rates_have_the_spikes_gradient_under_transforms():
    net = snf.every_layer(snf.chain(snf.linear, snf.leaky))
    p = ALIVE[:2]
    rate = lambda p, x: snf.firing_rates(snf.scan(net.step, p, net.init(p, x[0]), x)[0][1])
    each = vmap(grad(rate), in_dims=(None, 1))(p, XS)
    assert each[0].weight.abs().sum() > 0
    torch.testing.assert_close(each[0].weight.mean(0), grad(rate)(p, XS)[0].weight)
    with pytest.raises(ValueError, match=r"spks \(12, 4, 8\), lengths\): lengths is \(3,\)"):
        snf.firing_rates(XS, torch.tensor([1, 2, 3]))


def test_a_network_that_lives_is_well():
    found = seen(ALIVE, XS)
    assert found.problems == () and found.endswith("nothing wrong was seen")
    assert list(found.rates) == ["layer 1 (leaky)", "layer 2.1 (leaky)"]
    spks, _ = snf.scan(snf.leaky_step, ALIVE[1], snf.leaky_init(ALIVE[1], XS[0, :, :6]), XS[..., :6])
    assert found.rates["layer 1 (leaky)"] == pytest.approx(float(spks.mean()))


@pytest.mark.parametrize("scale, said", [(1e-3, "never fires"), (None, "fires at every step")])
def test_a_silent_layer_and_one_that_always_fires_are_named(scale, said):
    second = snf.Linear(0.5 * torch.eye(6) * scale) if scale else snf.Linear(torch.eye(6), 100.0)
    found = seen(params(snf.Linear(torch.eye(6, 8)), second), XS)
    [problem] = [problem for problem in found.problems if "fires" in problem]
    assert problem.startswith(f"layer 2.1 (leaky) {said}: ") and found.rates["layer 2.1 (leaky)"] == (0 if scale else 1)


def test_nan_is_found_where_it_comes_from():
    xs = XS.clone()
    xs[3, 1, 2] = float("nan")
    assert seen(ALIVE, xs).problems[0] == "inputs holds NaN in 1 of 384 places"
    overflow = snf.chain(lambda x: x, lambda x: (x - 0.5) / (x - x), snf.leaky)
    [problem, *_] = seen(((), (), snf.LeakyParams(0.9)), XS, overflow).problems
    assert (
        problem
        == "layer 1 (<lambda>) is the first whose output holds infinite numbers in 384 of 384 places, first at step 0"
    )
    broken = (ALIVE[0].__rebuild__([ALIVE[0].weight * float("inf"), ALIVE[0].bias], ()), *ALIVE[1:])
    assert seen(broken, XS).problems[0].startswith("params[0].weight holds NaN")


def flat(u):
    return (u > 0).to(u.dtype)


def own_step(p, s, x):
    mem = 0.9 * s + x
    return (mem > 1).float(), mem * (mem <= 1)


def test_a_step_without_a_surrogate_is_found():
    own = snf.Neuron(tuple, torch.Tensor, lambda p, x: torch.zeros_like(x), own_step)
    net = snf.chain(snf.linear, snf.leaky, snf.linear, own)
    p = (ALIVE[0], ALIVE[1], ALIVE[2][0], ())
    found = seen(p, XS, net)
    [problem] = found.problems
    assert problem.startswith("layer 3 (own) passes no gradient: ") and "layer 3 (own)" in found.rates
    alone = snf.diagnose(own_step, (), torch.zeros(4, 8), XS)
    assert (
        alone.problems[0].startswith("own passes no gradient") and "as surrogate.atan()(mem - threshold) has" in alone
    )
    truth = lambda params, state, x: (state + x > 1, 0.9 * state + x)
    [problem] = snf.diagnose(truth, (), torch.zeros(4, 8), XS).problems
    assert problem.startswith("<lambda> passes no gradient")
    dead = seen(params(*(ALIVE[0], ALIVE[2][0]), spike_grad=flat), XS)
    assert [problem.partition(" passes")[0] for problem in dead.problems] == ["layer 1 (leaky)", "layer 2.1 (leaky)"]


def test_padding_is_not_counted():
    net, lengths = snf.masked(NET), torch.tensor([3, 12, 5, 1])
    inputs = XS + 1, snf.valid_steps(lengths, 12)
    found = snf.diagnose(net.step, ALIVE, net.init(ALIVE, (XS[0], inputs[1][0])), inputs)
    own = snf.every_layer(snf.chain(*NET.step.layers[:2]))
    outs = [
        snf.scan(own.step, ALIVE[:2], own.init(ALIVE[:2], XS[0, i]), XS[:n, i] + 1)[0][1] for i, n in enumerate(lengths)
    ]
    assert found.rates["layer 1 (leaky)"] == pytest.approx(float(torch.cat(outs).mean()))


@pytest.mark.parametrize("density, rate", [(0.05, 0.05), (0.05, 0.2), (0.3, 0.02)])
def test_weights_for_a_rate_at_a_density(density, rate):
    """On inputs that were not seen, in each layer."""
    g = torch.Generator().manual_seed(1)
    first, second = snf.Linear.random(200, 300, generator=g), snf.Linear.random(300, 300, generator=g)
    net = snf.chain(snf.linear, snf.leaky, snf.residual(snf.linear, snf.synaptic))
    wide = (first, snf.LeakyParams(0.9), (second, snf.SynapticParams(0.5, 0.9)))
    draw = lambda: (torch.rand(40, 32, 200, generator=g) < density).float()
    found = snf.with_rates(net, wide, draw(), rate)
    rates = seen(found, xs := draw(), net).rates
    assert len(rates) == 2 and all(abs(got / rate - 1) < 0.1 for got in rates.values()), rates
    assert_allclose(
        found[0].weight / wide[0].weight, (found[0].bias / wide[0].bias)[:, None].expand(300, 200), rtol=1e-4, atol=0
    )
    assert not all(abs(got / rate - 1) < 0.1 for got in seen(wide, xs, net).rates.values())


def test_weights_through_pooling_and_norms():
    norm, of_norm = snf.layer(torch.nn.BatchNorm2d(4))
    net = snf.chain(snf.conv2d, norm, snf.max_pool2d(2), snf.leaky, snf.flatten, snf.linear, snf.leaky_integrator)
    p = (
        snf.Conv2d.random(1, 4, 3),
        of_norm,
        (),
        snf.LeakyParams(0.9),
        (),
        snf.Linear.random(64, 2),
        snf.LeakyIntegratorParams(0.9),
    )
    xs = (torch.rand(20, 8, 1, 8, 8) < 0.2).float()
    found = snf.with_rates(net, p, xs, 0.1)
    assert abs(seen(found, xs, net).rates["layer 3 (leaky)"] - 0.1) < 0.01
    assert torch.equal(found[0].weight, p[0].weight) and not torch.equal(found[1]["weight"], of_norm["weight"])


def test_what_cannot_fire_so_is_refused():
    with pytest.raises(
        ValueError, match=r"layer 1 \(leaky\) fires .* times a step at most, whatever the scale, and not 0.9"
    ):
        snf.with_rates(snf.chain(snf.linear, snf.leaky), (snf.Linear.random(8, 6), ALIVE[1]), XS, 0.9)
    with pytest.raises(ValueError, match=r"no connection is in front of layer 0 \(leaky\)"):
        snf.with_rates(snf.chain(snf.leaky), (ALIVE[1],), XS)
    with pytest.raises(ValueError, match="rate=1.5"):
        snf.with_rates(NET, ALIVE, XS, 1.5)
    with pytest.raises(TypeError, match="net is a chain"):
        snf.with_rates(snf.leaky, ALIVE[1], XS)
    with pytest.raises(
        TypeError, match=r"params = with_rates\(net, params, xs\) of the chain, and then masked\(net\) takes them"
    ):
        snf.with_rates(snf.masked(NET), ALIVE, (XS, snf.valid_steps(torch.tensor([3]), 5)))
