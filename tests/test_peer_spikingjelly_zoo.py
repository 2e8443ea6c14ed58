"""Neurons of the zoo beside the installed SpikingJelly 2.0: spikes and gradients, through its surrogate and ours of the same slope."""

import pytest
import torch
from helpers import assert_allclose, backward, dot

import snn_functional as snf


theirs = pytest.importorskip("spikingjelly.activation_based.functional.neuron")
surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate")
pytestmark = pytest.mark.filterwarnings("ignore")
ATAN = surrogate.ATan(alpha=2.0)  # the slope of ours


def qif(p, xs):
    v = torch.zeros_like(xs[0])
    for x in xs:
        spk, v = theirs.qif_step(x, v, 2.0, 1.0, 0.0, 0.8, 1.0, -0.1, ATAN, True)
        yield spk


def eif(p, xs):
    v = torch.zeros_like(xs[0])
    for x in xs:
        spk, v = theirs.eif_step(x, v, 2.0, 0.1, 0.5, 0.0, 1.0, 0.0, ATAN, True)
        yield spk


def gated_lif(p, xs):
    v = spk = torch.zeros_like(xs[0])
    gates = p.alpha, p.beta, p.gamma, p.tau, p.threshold, p.linear_decay, p.v_subreset, p.conduct
    for x in xs:
        spk, v = theirs.gated_lif_step(x, v, spk, *gates, ATAN)
        yield spk


def klif(p, xs):
    """Its tau is the number 2.5, and the input is given undivided; soft reset, or hard to 0."""
    v, hard = torch.zeros_like(xs[0]), 0.0 if p.reset_mechanism == "zero" else None
    for x in xs:
        spk, v = theirs.klif_step(x, v, p.k, 2.5, False, False, 1.0, hard, ATAN)
        yield spk


def clif(p, xs):
    v = m = torch.zeros_like(xs[0])
    for x in xs:
        spk, v, m = theirs.clif_step(x, v, m, 2.5, 1.0, ATAN)
        yield spk


THEIRS = {  # and the leaves that it differentiates: the others are plain numbers to it
    "quadratic_integrate_and_fire": (qif, {}, []),
    "exponential_integrate_and_fire": (eif, {}, []),
    "gated_lif": (
        gated_lif,
        {},
        ["alpha", "beta", "gamma", "tau", "threshold", "linear_decay", "v_subreset", "conduct"],
    ),
    "klif-subtract": (klif, {"beta": 0.6, "k": 1.3}, ["k"]),
    "klif-zero": (klif, {"beta": 0.6, "k": 1.3, "reset_mechanism": "zero"}, ["k"]),
    "clif": (clif, {"beta": 0.6}, []),
}


@pytest.mark.parametrize("kind", ["auto", "loop"])
@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.fidelity(
    model="quadratic_integrate_and_fire, exponential_integrate_and_fire, gated_lif, klif, clif",
    reference="SpikingJelly 2.0.0, `qif_step`, `eif_step`, `gated_lif_step`, `klif_step`, `clif_step`",
    compared="spikes and gradients of 40 drawn steps, float64",
    closely="spikes equal, gradients to rounding",
    differs="fires above the threshold, not at it; the first two with its `detach_reset=True`",
)
def test_it_is_spikingjellys(name, kind):
    them, given, learned = THEIRS[name]
    neuron = getattr(snf, name.partition("-")[0])
    usual = neuron.Params(**given)
    # From the decimals, not from their float32.
    exact = {name: torch.tensor(round(x.item(), 6), dtype=torch.float64) for name, x in snf.named_leaves(usual).items()}
    params = snf.with_leaves(usual, exact)
    xs = torch.randn(40, 3, 5, 1, 1, dtype=torch.float64) / 2 + 0.5
    weights, state = torch.randn_like(xs), neuron.init(params, xs[0])

    ours = lambda params, xs: snf.scan(neuron.step, params, state, xs, kind=kind)[0]
    other = lambda params, xs: torch.stack(list(them(params, xs)))
    assert torch.equal(ours(params, xs), other(params, xs)) and 0.1 < other(params, xs).mean() < 0.9
    slopes, of_xs = backward(lambda *args: dot(ours(*args), weights), (params, xs))
    expected, expected_xs = backward(lambda *args: dot(other(*args), weights), (params, xs))
    assert_allclose(of_xs, expected_xs)
    for leaf in learned:
        assert getattr(expected, leaf) != 0
        assert_allclose(getattr(slopes, leaf), getattr(expected, leaf))
