"""The adaptive leaky neurons against the programs of their papers, values and gradients, by plain autograd."""

import dataclasses

import pytest
import torch
from helpers import assert_allclose, backward, dot

import snn_functional as snf


def sparch(params, xs, back):
    """Bittar & Garner 2022, `adLIFLayer`; `RadLIFLayer` where spikes come back. Its threshold is 1."""
    u = w = s = torch.zeros_like(xs[0])
    for x in xs:
        w = params.beta * w + params.a * u + params.b * s
        u = params.alpha * (u - s) + (1 - params.alpha) * (x + s @ back.T - w)
        s = params.spike_grad(u - 1)
        yield s


def graz(params, xs, back):
    """Baronig et al. 2025, `SEAdLIF`; a and b are what the program calls q a and q b."""
    u = w = z = torch.zeros_like(xs[0])
    for x in xs:
        u = params.alpha * u + (1 - params.alpha) * (x + z @ back.T - w)
        z = params.spike_grad(u - params.threshold)
        u = u * (1 - z.detach())
        w = params.beta * w + (1 - params.beta) * (params.a * u + params.b * z)
        yield z


def of_the_adlif(number):
    return snf.AdlifParams(number(0.8), number(0.97), number(0.3), number(1.0), torch.ones(5, dtype=torch.float64))


def of_the_se_adlif(number):
    return snf.SeAdlifParams(number(0.8), number(0.97), number(20.0), number(60.0), number(1.0))


def compared(neuron, program, params, kind, recurrent):
    """Both sides' spikes, and the gradients of a mixture of them."""
    xs = 6 * torch.rand(60, 3, 5, dtype=torch.float64)
    back = torch.randn(5, 5, dtype=torch.float64) if recurrent else torch.zeros(5, 5, dtype=torch.float64)
    weights, around = torch.randn_like(xs), snf.recurrent(neuron)

    def spikes(params, xs, back):
        if not recurrent:
            return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs, kind=kind)[0]
        params = snf.RecurrentParams(params, snf.Linear(back))
        return snf.scan(around.step, params, around.init(params, xs[0]), xs, kind=kind)[0]

    papers = lambda *args: torch.stack(list(program(*args)))
    expected, found = papers(params, xs, back), spikes(params, xs, back)
    assert 0.02 < expected.mean() < 0.5
    assert torch.equal(found, expected)
    known = [name for name in params.__leaves__ if neuron is not snf.adlif or name != "threshold"]  # in sparch it is 1
    for of_ours, of_theirs in zip(*(gradients(f, weights, params, xs, back) for f in (spikes, papers))):
        if isinstance(of_ours, neuron.Params):
            of_ours, of_theirs = ([getattr(p, name) for name in known] for p in (of_ours, of_theirs))
        assert_allclose(of_ours, of_theirs)


def gradients(f, weights, *arguments):
    *found, of_back = backward(lambda *args: dot(f(*args), weights), arguments)
    return [*found, of_back] if arguments[-1].any() else found


def drawn(usual):
    return usual * (1 - torch.rand(5, dtype=torch.float64) / 5)


@pytest.mark.parametrize("recurrent", [False, True], ids=["adLIF", "RadLIF"])
@pytest.mark.parametrize("kind", ["auto", "loop"])
@pytest.mark.fidelity(
    model="adlif, recurrent(adlif)",
    reference="program of Bittar & Garner 2022 (idiap/sparch, `adLIFLayer`, `RadLIFLayer`), rewritten",
    compared="spikes and gradients of 60 drawn steps, float64",
    closely="spikes equal, gradients to rounding",
    differs="it starts at rest, not at random; alpha, beta, a and b have no ranges; the threshold is any, not 1",
)
def test_it_is_the_neuron_of_sparch(recurrent, kind):
    compared(snf.adlif, sparch, of_the_adlif(drawn), kind, recurrent)


@pytest.mark.parametrize("recurrent", [False, True], ids=["forward", "recurrent"])
@pytest.mark.parametrize("kind", ["auto", "loop"])
@pytest.mark.fidelity(
    model="se_adlif, recurrent(se_adlif)",
    reference="program of Baronig et al. 2025 (IGITUGraz/SE-adlif, `SEAdLIF`), rewritten",
    compared="spikes and gradients of 60 drawn steps, float64",
    closely="spikes equal, gradients to rounding",
    differs="a and b are the program's times its number q",
)
def test_it_is_the_neuron_of_graz(recurrent, kind):
    compared(snf.se_adlif, graz, of_the_se_adlif(drawn), kind, recurrent)


def test_without_spikes_they_are_one():
    """The adaptation of the one is that of the other a step ago."""
    xs = torch.randn(100, 3, 5, dtype=torch.float64) / 10
    late = of_the_se_adlif(drawn)
    soon = snf.AdlifParams(late.alpha, late.beta, (1 - late.beta) * late.a)
    recorded = lambda neuron, p: snf.scan(snf.record(neuron).step, p, neuron.init(p, xs[0]), xs)[0]
    (silent, a), (_, b) = recorded(snf.se_adlif, late), recorded(snf.adlif, soon)
    assert not silent.any() and b.mem.abs().max() > 0.05
    assert_allclose(a.mem, b.mem)
    assert_allclose(a.adapt[:-1], b.adapt[1:])


@pytest.mark.parametrize("times, stays", [(0.95, True), (1.05, False)])
def test_the_bounds_of_what_comes_back_to_rest(times, stays):
    alpha, beta = 0.6, 0.7
    double = lambda x: torch.tensor(x, dtype=torch.float64)
    xs = torch.zeros(600, 2, dtype=torch.float64)
    high = (1 + alpha) * (1 + beta) / (1 - alpha)
    a = times * double([high, -(1 - beta)])
    for params in (
        snf.AdlifParams(double(alpha), double(beta), a, threshold=double(1e300)),
        snf.SeAdlifParams(double(alpha), double(beta), a / (1 - beta), threshold=double(1e300)),
    ):
        neuron = snf.adlif if isinstance(params, snf.AdlifParams) else snf.se_adlif
        state = dataclasses.replace(neuron.init(params, xs[0]), mem=torch.full_like(xs[0], 1e-3))
        mem = snf.scan(neuron.step, params, state, xs, kind="loop")[1].mem.abs()
        assert ((mem < 1e-3) == stays).all() and mem.isfinite().all()


def test_it_tires_of_a_steady_current():
    xs = torch.full((600, 1), 3.0)
    for neuron, params in (
        (snf.adlif, snf.AdlifParams(0.9, a=0.0, b=0.2)),
        (snf.se_adlif, snf.SeAdlifParams(0.9, a=0.0)),
    ):
        spks, _ = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)
        gaps = spks[:, 0].nonzero()[:, 0].diff()
        assert gaps[-5:].float().mean() > 1.5 * gaps[0]
