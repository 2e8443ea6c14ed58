"""Modifiers that say themselves what fires, each against its equation; the laws of a step they keep with the neurons: test_neurons.py."""

import dataclasses

import pytest
import torch
from helpers import assert_allclose, assert_equal, steep
from torch.func import grad

import snn_functional as snf


X = 1.2 * torch.randn(40, 4, 6, generator=torch.Generator().manual_seed(1)) + 0.5
LEAKY = snf.LeakyParams(0.9)


def run(neuron, params, inputs=X, **options):
    """Spikes and membranes."""
    recorded = snf.record(neuron)
    first = tuple(x[0] for x in inputs) if isinstance(inputs, tuple) else inputs[0]
    (spks, states), _ = snf.scan(recorded.step, params, recorded.init(params, first), inputs, **options)
    return spks, states.mem


# ------------------------------------------------------------------------------------------------ multi_spike


@pytest.mark.parametrize("reset", ["subtract", "none"])
def test_multi_spike_fires_as_often_as_the_threshold_goes_into_the_membrane(reset):
    params, xs = snf.LeakyParams(0.9, 0.8, reset_mechanism=reset), 2 * X
    spks, mems = run(snf.multi_spike(snf.leaky, 4), params, xs)
    mem = torch.zeros(4, 6)
    for t, x in enumerate(xs):
        mem = params.beta * mem + x
        spk = (mem / params.threshold).floor().clamp(0, 4)
        mem = mem - spk * params.threshold * (reset == "subtract")
        assert_equal((spks[t], mems[t]), (spk, mem))
    assert set(spks.unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_one_spike_at_most_is_the_immediate_reset():
    assert_equal(run(snf.multi_spike(snf.leaky, 1), LEAKY), run(snf.immediate_reset(snf.leaky), LEAKY))


def test_multi_spike_has_the_surrogate_at_each_multiple():
    once = lambda u: snf.multi_spike(snf.leaky, 3).step(LEAKY, snf.LeakyState(torch.zeros(1)), u)[0].sum()
    u, slope = torch.tensor([2.3]), grad(lambda u: LEAKY.spike_grad(u).sum())
    assert_allclose(grad(once)(u), slope(u - 1) + slope(u - 2) + slope(u - 3))


# ------------------------------------------------------------------------------------------------ ternary


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_ternary_fires_on_both_sides(reset):
    params, xs = snf.LeakyParams(0.9, 0.8, reset_mechanism=reset), X - 0.5
    spks, mems = run(snf.ternary(snf.leaky), params, xs)
    turned, below = run(snf.ternary(snf.leaky), params, -xs)
    assert_equal((-spks, -mems), (turned, below))
    mem = torch.zeros(4, 6)
    for t, x in enumerate(xs):
        mem = params.beta * mem + x
        spk = (mem > params.threshold).float() - (mem < -params.threshold).float()
        mem = {"subtract": mem - spk * params.threshold, "zero": mem * (spk == 0), "none": mem}[reset]
        assert_equal((spks[t], mems[t]), (spk, mem))
    assert set(spks.unique().tolist()) == {-1.0, 0.0, 1.0}


# ------------------------------------------------------------------------------------------------ escape_noise


def uniform(*shape, seed=3):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("escape", ["exponential", "sigmoid"])
@pytest.mark.fidelity(
    model="escape_noise",
    reference="interval distribution of Gerstner et al. 2014, chapter 9.2 (a product of survival and hazard, in steps)",
    compared="the times of the first spike of 100,000 leaky neurons at a steady current, both escape rates",
    closely="the share of each of 15 steps to 0.005",
    differs="nothing",
)
def test_the_first_spike_has_the_distribution_of_the_book(escape):
    n, T, drive = 100_000, 15, 0.15
    params = snf.EscapeNoiseParams(snf.LeakyParams(0.9), width=0.3, rate=0.4, escape=escape)
    spks, _ = run(snf.escape_noise(snf.leaky), params, (torch.full((T, n), drive), uniform(T, n)), kind="loop")
    first = torch.where(spks.any(0), spks.argmax(0), T)
    mem, survives, expected = 0.0, 1.0, []
    for _ in range(T):
        mem = 0.9 * mem + drive
        above = torch.tensor((mem - 1) / 0.3, dtype=torch.float64)
        hazard = float(above.sigmoid() if escape == "sigmoid" else 1 - (-0.4 * above.exp()).exp())
        expected.append(survives * hazard)
        survives *= 1 - hazard
    shares = torch.stack([(first == t).double().mean() for t in range(T)])
    assert_allclose(shares, torch.tensor(expected).double(), rtol=0, atol=0.005)
    assert max(expected) > 0.03


def test_escape_noise_resets_where_it_fires():
    params = snf.EscapeNoiseParams(snf.LeakyParams(0.9), width=0.3)
    numbers = uniform(*X.shape)
    spks, mems = run(snf.escape_noise(snf.leaky), params, (X, numbers))
    mem = torch.zeros(4, 6)
    for t, x in enumerate(X):
        mem = params.inner.beta * mem + x
        spk = (numbers[t] < params.probability(mem - 1)).float()
        mem = mem - spk
        assert_equal((spks[t], mems[t]), (spk, mem))
    assert spks.any() and (1 - spks).any()


@pytest.mark.parametrize("escape", ["exponential", "sigmoid"])
def test_the_slope_of_a_spike_is_that_of_its_mean(escape):
    params = snf.EscapeNoiseParams(LEAKY, width=0.3, rate=0.8, escape=escape)
    state, u = snf.LeakyState(torch.zeros(1)), torch.tensor([0.9], requires_grad=True)
    for number in (0.01, 0.99):  # it fires, or it does not
        spk = lambda u, x=number: snf.escape_noise(snf.leaky).step(params, state, (u, torch.tensor([x])))[0].sum()
        assert_allclose(grad(spk)(u), grad(lambda u: params.probability(u - 1).sum())(u))
    far = torch.tensor([-1e9, 1e9])
    assert_allclose(params.probability(far), torch.tensor([0.0, 1.0]))
    assert_equal(grad(lambda u: params.probability(u).sum())(far), torch.zeros(2))


# ------------------------------------------------------------------------------------------------ driven


def test_driven_by_its_own_spikes_a_neuron_is_itself():
    """With the spikes that reset it, the same membranes; and each spike is said beforehand."""
    for reset in ("subtract", "zero", "none"):
        params = dataclasses.replace(LEAKY, reset_mechanism=reset)
        spks, mems = run(snf.immediate_reset(snf.leaky), params)
        assert spks.any()
        assert_equal(run(snf.driven(snf.leaky), params, (X, spks)), (spks, mems))
        assert_equal(run(snf.driven(snf.leaky), params, (X, spks.bool())), (spks, mems))


@pytest.mark.fidelity(
    model="driven",
    reference="the likelihood of Pillow et al. 2008 in closed form: given the recorded past, a logistic regression",
    compared="the gradient of the log likelihood in the decay, a leaky neuron with a sigmoid, 40 steps",
    closely="to 1e-9",
    differs="nothing",
)
def test_the_likelihood_of_a_recording():
    """Given the recording the membrane is a sum of what came: of inputs and of thresholds paid, each decayed since."""
    xs = X.double()[:, 0, 0] / 4  # where no probability is so small that torch cuts its slope
    recorded = (uniform(40) < 0.15).double()

    def ours(beta):
        params = snf.LeakyParams(beta, torch.tensor(1.0).double(), spike_grad=steep)
        p, _ = run(snf.driven(snf.leaky), params, (xs[:, None], recorded[:, None]))
        return torch.nn.functional.binary_cross_entropy(p[:, 0], recorded)

    def closed(beta):
        t = torch.arange(40)
        power = torch.tril(beta ** (t[:, None] - t).clamp(min=0).double())
        U = power @ xs - torch.tril(power, -1) @ recorded  # less a threshold of 1 for each spike, decayed since
        return torch.nn.functional.binary_cross_entropy_with_logits(4 * (U - 1), recorded)

    beta = torch.tensor(0.9).double()
    assert_allclose((ours(beta), grad(ours)(beta)), (closed(beta), grad(closed)(beta)), rtol=1e-9, atol=1e-9)


def test_a_driven_neuron_remembers_the_recorded_spikes():
    neuron, params = snf.driven(snf.adaptive_leaky), snf.AdaptiveLeakyParams(0.9)
    recorded = (uniform(*X.shape) < 0.2).float()
    _, state = snf.scan(neuron.step, params, neuron.init(params, (X[0], recorded[0])), (X, recorded))
    assert_equal(state.spk, recorded[-1])


# ------------------------------------------------------------------------------------------------ sub_steps


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.fidelity(
    model="sub_steps",
    reference="the neuron itself on a finer grid, its input held, its spikes binned by `any`",
    compared="spikes and membranes of leaky and izhikevich, 40 steps of 1 and 3",
    closely="equal",
    differs="nothing",
)
def test_sub_steps_are_the_steps_of_a_finer_grid(count):
    for neuron, params, xs in ((snf.leaky, LEAKY, X / 2), (snf.izhikevich, snf.IzhikevichParams(), 10 * X)):
        spks, mems = run(snf.sub_steps(neuron, count), params, xs)
        fine, after = run(neuron, params, xs.repeat_interleave(count, 0))
        assert_equal(spks, fine.unflatten(0, (-1, count)).amax(1))
        assert_equal(mems, after.unflatten(0, (-1, count))[:, -1])
        assert spks.any()


def test_any_of_several_spikes_has_a_gradient():
    """To the small steps that did not fire, where none did; to no one where two did."""
    state, step = snf.LeakyState(torch.zeros(1)), snf.sub_steps(snf.leaky, 2).step
    params = snf.LeakyParams(1.0)
    slope = grad(lambda u: params.spike_grad(u).sum())
    u = torch.tensor([0.3])
    assert_allclose(grad(lambda x: step(params, state, x)[0].sum())(u), slope(u - 1) + 2 * slope(2 * u - 1))
    assert_equal(grad(lambda x: step(params, state, x)[0].sum())(torch.tensor([2.5])), torch.zeros(1))


# ------------------------------------------------------------------------------------------------ all of them


@snf.pytree
class ToValueParams:
    """A leaky neuron that is reset to a potential of its own."""

    beta: snf.Leaf
    threshold: snf.Leaf = snf.leaf(default=1.0)
    reset: snf.Leaf = snf.leaf(default=-0.5)
    spike_grad: snf.surrogate.Spike = snf.static(default=snf.surrogate.ATan())
    reset_mechanism: str = snf.static(default="value", choices=("value", "none"))


def to_value(params, state, x):
    mem = params.beta * state.mem + x
    spk = params.spike_grad(mem - params.threshold)
    if params.reset_mechanism == "value":
        mem = (1 - spk) * mem + spk * params.reset
    return spk, snf.LeakyState(mem)


def test_a_neuron_may_be_reset_to_a_potential_of_its_own():
    params, neuron = ToValueParams(0.9), snf.Neuron(ToValueParams, snf.LeakyState, snf.leaky_init, to_value)
    spks, mems = run(neuron, params)
    assert_equal(run(snf.immediate_reset(neuron), params), (spks, mems))
    assert_equal(run(snf.driven(neuron), params, (X, spks)), (spks, mems))
    assert torch.equal(mems[spks != 0], torch.full((int(spks.sum()),), -0.5))


def step(neuron, params, input=X[0]):
    return neuron.step(params, neuron.init(params, input), input)


ZERO = dataclasses.replace(LEAKY, reset_mechanism="zero")
NOISY = snf.EscapeNoiseParams(LEAKY, 0.3)
REFUSED = {
    "no spikes at all": (lambda: snf.multi_spike(snf.leaky, 0), ValueError, "most=0.: expected a whole number"),
    "several spikes to 0": (lambda: step(snf.multi_spike(snf.leaky, 2), ZERO), ValueError, 'paid for by subtraction: reset_mechanism="sub'),
    "no steps": (lambda: snf.sub_steps(snf.leaky, 1.0), ValueError, "count=1.0.: expected a whole number"),
    "a winner of several spikes": (
        lambda: snf.inhibit(snf.multi_spike(snf.leaky, 2)), ValueError, r"multi_spike goes outside, multi_spike\(inhibit\(neuron\)\)"
    ),
    "bits after the reset": (lambda: snf.quantize(snf.ternary(snf.leaky), torch.round), ValueError, r"ternary goes outside"),
    "no threshold": (lambda: step(snf.ternary(snf.leaky_integrator), snf.LeakyIntegratorParams(0.9)), TypeError, "reads `threshold`"),
    "a number missing": (lambda: step(snf.escape_noise(snf.leaky), NOISY), TypeError, r"pair of tensors \(x, uniform\), not Tensor"),
    "numbers of another shape": (
        lambda: step(snf.escape_noise(snf.leaky), NOISY, (X[0], X[0, 0])), ValueError, r"the uniform numbers \(6,\). Expected one shape"
    ),
    "numbers that are none": (
        lambda: step(snf.escape_noise(snf.leaky), NOISY, (X[0], X[0] > 0)), TypeError, "numbers are torch.bool. Expected a floating"
    ),
    "an escape that is none": (lambda: snf.EscapeNoiseParams(LEAKY, 0.3, escape="linear"), ValueError, "unknown choice"),
    "no recording": (lambda: step(snf.driven(snf.leaky), LEAKY), TypeError, r"pair of tensors \(x, recorded\), not Tensor"),
    "a recording of others": (
        lambda: step(snf.driven(snf.leaky), LEAKY, (X[0], X[0, :, :3])), ValueError, r"recording has shape \(4, 3\) in a step, .* \(4, 6\)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_fire_is_refused(case):
    call, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        call()
