"""GLIF, KLIF, CLIF and TC-LIF against loops of their papers' equations, which reset at the end of a step: values and gradients."""

import pytest
import torch
from helpers import assert_allclose, backward, dot

import snn_functional as snf


def glif(p, xs):
    """Yao et al. 2022, equations 5 to 9, with one conductance for all steps."""
    u = s = torch.zeros_like(xs[0])
    for x in xs:
        leak = u - p.alpha * (1 - p.tau) * u - (1 - p.alpha) * p.linear_decay
        weighed = x - p.beta * (1 - p.conduct) * x
        hard, soft = (1 - p.alpha * (1 - p.tau)) * u, p.v_subreset
        u = leak + weighed - s * p.gamma * hard - s * (1 - p.gamma) * soft
        s = p.spike_grad(u - p.threshold)
        yield s


def klif(p, xs):
    """Jiang & Zhang 2023, equations 10 to 12."""
    v = torch.zeros_like(xs[0])
    for x in xs:
        f = torch.relu(p.k * (p.beta * v + x))
        s = p.spike_grad(f - p.threshold)
        v = {"subtract": f - s * p.threshold, "zero": (1 - s) * f, "none": f}[p.reset_mechanism]
        yield s


def clif(p, xs):
    """Huang et al. 2024, equations 8 to 11."""
    u = m = torch.zeros_like(xs[0])
    tau = 1 / (1 - p.beta)
    for x in xs:
        u = (1 - 1 / tau) * u + x
        m = m * torch.sigmoid(u / tau)
        s = p.spike_grad(u - p.threshold)
        m = m + s
        u = u - s * (p.threshold + torch.sigmoid(m))
        yield s


def tc_lif(p, xs):
    """The order of the authors' program: the dendrite, the soma, the spike, both resets."""
    d = u = torch.zeros_like(xs[0])
    for x in xs:
        d = d - p.beta1 * u + x
        u = u + p.beta2 * d
        s = p.spike_grad(u - p.threshold)
        d, u = d - p.gamma * s, u - p.threshold * s
        yield s


PAPERS = {
    "gated_lif": (glif, {}),
    "klif-subtract": (klif, {"beta": 0.6, "k": 1.3}),
    "klif-zero": (klif, {"beta": 0.6, "k": 1.3, "reset_mechanism": "zero"}),
    "klif-none": (klif, {"beta": 0.6, "k": 0.8, "reset_mechanism": "none"}),
    "clif": (clif, {"beta": 0.6}),
    "tc_lif": (tc_lif, {"beta1": 0.4, "beta2": 0.6}),
}


@pytest.mark.parametrize("kind", ["auto", "loop"])
@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.fidelity(
    model="gated_lif, klif, clif, tc_lif",
    reference="equations of Yao et al. 2022, Jiang & Zhang 2023, Huang et al. 2024; the program of Zhang et al. 2023",
    compared="spikes and gradients of 40 drawn steps, float64",
    closely="spikes equal, gradients to rounding",
    differs="the reset is seen one step later (not of gated_lif)",
)
def test_it_is_the_papers(name, kind):
    paper, given = PAPERS[name]
    neuron = getattr(snf, name.partition("-")[0])
    usual = neuron.Params(**given)
    uneven = lambda x: x.double() * (1 - torch.rand(5, dtype=torch.float64) / 5)
    params = snf.with_leaves(usual, {name: uneven(x) for name, x in snf.named_leaves(usual).items()})
    xs = torch.randn(40, 3, 5, dtype=torch.float64) / 2 + 0.5
    weights, state = torch.randn_like(xs), neuron.init(params, xs[0])

    ours = lambda params, xs: snf.scan(neuron.step, params, state, xs, kind=kind)[0]
    theirs = lambda params, xs: torch.stack(list(paper(params, xs)))
    assert torch.equal(ours(params, xs), theirs(params, xs)) and 0.1 < theirs(params, xs).mean() < 0.9
    expected = backward(lambda *args: dot(theirs(*args), weights), (params, xs))
    assert_allclose(backward(lambda *args: dot(ours(*args), weights), (params, xs)), expected)


def run(neuron, params, xs):
    step = snf.record(neuron).step
    (spks, states), _ = snf.scan(step, params, neuron.init(params, xs[0]), xs)
    return spks, states


def test_the_gates_of_glif_at_their_ends_are_the_leaky_neurons():
    """All open: an exponential leak and a reset to 0. All closed: a linear leak and a reset by an amount."""
    xs = torch.rand(60, 2, 7, dtype=torch.float64)
    double = lambda x: torch.tensor(x, dtype=torch.float64)
    numbers = {"tau": 0.7, "linear_decay": 0.1, "conduct": 0.6, "v_subreset": 0.9, "threshold": 0.9}
    gated = lambda gate: snf.GatedLifParams(gate, gate, gate, **{k: double(x) for k, x in numbers.items()})
    leaky = lambda beta, reset: snf.LeakyParams(double(beta), double(0.9), reset_mechanism=reset)
    spks, states = run(snf.gated_lif, gated(double(1.0)), xs)
    expected, mems = run(snf.leaky, leaky(0.7, "zero"), 0.6 * xs)
    assert torch.equal(spks, expected) and spks.any()
    assert_allclose(states.mem, mems.mem)
    spks, states = run(snf.gated_lif, gated(double(0.0)), xs)
    expected, mems = run(snf.leaky, leaky(1.0, "subtract"), xs - 0.1)
    assert torch.equal(spks, expected) and spks.any()
    assert_allclose(states.mem, mems.mem)


def test_the_conduct_of_each_step_is_a_factor_of_the_input():
    xs, conducts = torch.rand(9, 2, 3), torch.rand(9, 1, 1)
    params = snf.GatedLifParams(beta=0.3)
    state = rest = snf.gated_lif_init(params, xs[0])
    for x, conduct in zip(xs, conducts):
        _, state = snf.gated_lif_step(snf.GatedLifParams(beta=0.3, conduct=conduct), state, x)
    factors = 1 - 0.3 * (1 - conducts)
    _, last = snf.scan(snf.gated_lif_step, snf.GatedLifParams(beta=0.0), rest, xs * factors)
    assert_allclose(last, state)


def test_clif_is_lowered_the_more_the_more_it_fires():
    spks, states = run(snf.clif, snf.ClifParams(beta=0.9), torch.full((40, 1), 1.3))
    alone, _ = run(snf.leaky, snf.LeakyParams(beta=0.9), torch.full((40, 1), 1.3))
    assert 0 < spks.sum() < alone.sum()
    assert states.complement[spks[:, 0].bool()][-1] > 1  # the last spike, and what is left of those before it


def test_the_slope_of_clif_is_finite_far_below_its_threshold():
    """Where exp(-mem) overflows."""
    xs = torch.tensor([0.5, -1e4, 1.2e4, -3e38])[:, None]
    of = lambda xs: sum(x.sum() for x in snf.named_leaves(run(snf.clif, snf.ClifParams(0.5), xs)[1]).values())
    assert torch.func.grad(of)(xs).isfinite().all()


def test_what_the_dendrite_of_tc_lif_was_given_outlives_a_leaky_membrane():
    xs = torch.zeros(100, 1, dtype=torch.float64)
    last = lambda neuron, params: lambda xs: run(neuron, params, xs)[1].mem[-1].sum()
    far = lambda *of: torch.func.grad(last(*of))(xs)[0].abs().item()  # the gradient that reaches the first input
    assert far(snf.tc_lif, snf.TcLifParams(0.02, 0.02)) > 0.05 > 1e-4 > far(snf.leaky, snf.LeakyParams(0.9))
