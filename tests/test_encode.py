"""The encoders' laws: what a code is, where its chance comes from, what it refuses."""

import pytest
import torch
from helpers import law
from hypothesis import given, strategies as st

from snn_functional.encode import bernoulli, delta, direct, latency, latency_times, ramp, rate, spikes_at


ALL = pytest.mark.parametrize("encoder", [direct, rate, latency], ids=lambda f: f.__name__)


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_time_comes_first_and_the_dtype_stays(encoder, dtype):
    x = torch.rand(3, 4).to(dtype)
    xs = encoder(x, 5)
    assert xs.shape == (5, 3, 4) and xs.dtype is dtype
    assert encoder(x[0, 0], 1).shape == (1,)


def test_direct_costs_no_memory():
    x = torch.randn(3, 4)
    xs = direct(x, 1000)
    assert xs.stride() == (0, 4, 1) and xs.data_ptr() == x.data_ptr()
    assert all(torch.equal(step, x) for step in xs[::250])


def test_direct_passes_the_gradient():
    gradient = torch.func.grad(lambda x: direct(x, 7).sum())(torch.ones(2))
    assert torch.equal(gradient, torch.full((2,), 7.0))


def test_rate_has_x_as_its_mean():
    x = torch.rand(100)
    spikes = rate(x, 4000, torch.Generator().manual_seed(1))
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    assert (spikes.mean(0) - x).abs().max() < 5 * 0.5 / 4000**0.5
    ones = rate(torch.tensor([0.0, 1.0]), 1000, torch.Generator().manual_seed(1))
    assert torch.equal(ones.mean(0), torch.tensor([0.0, 1.0]))


def test_rate_is_independent_in_time():
    spikes = rate(torch.full((2000,), 0.5), 2, torch.Generator().manual_seed(1))
    assert abs((spikes[0] * spikes[1]).mean() - 0.25) < 5 * 0.5 / 2000**0.5


def test_rate_draws_from_its_generator_alone():
    x = torch.full((50,), 0.5)
    generator = torch.Generator().manual_seed(3)
    before = torch.get_rng_state()
    first, second = rate(x, 4, generator), rate(x, 4, generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(rate(x, 4, torch.Generator().manual_seed(3)), first) and not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(rate(x, 4), first)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("T", [1, 2, 10, 33])
def test_latency_is_one_spike_the_larger_the_earlier(linear, T):
    x = torch.linspace(0, 1, 50)
    spikes = latency(x, T, linear=linear)
    assert torch.equal(spikes.sum(0), torch.ones(50)) and set(spikes.unique().tolist()) <= {0.0, 1.0}
    at = spikes.argmax(0)
    assert (at[1:] <= at[:-1]).all() and at[-1] == 0 and at[0] == T - 1


def test_latency_has_snntorchs_times():
    # spikegen.latency(x, num_steps=10, normalize=True, linear=...) of snnTorch 1.0.0
    x = torch.tensor([0.0, 0.01, 0.0101, 0.012, 0.02, 0.3, 0.77, 1.0])
    assert latency(x, 10, linear=True).argmax(0).tolist() == [9, 9, 9, 9, 9, 6, 2, 0]
    assert latency(x, 10).argmax(0).tolist() == [9, 9, 4, 1, 1, 0, 0, 0]


def test_latency_of_x_is_the_same_in_every_batch():
    x = torch.rand(40)
    assert torch.equal(latency(x, 10)[:, 3:4], latency(x[3:4], 10))


def test_latency_with_a_time_constant():
    x = torch.tensor([0.2, 0.5, 1.0])
    assert latency(x, 10, tau=4, linear=True).argmax(0).tolist() == [3, 2, 0]
    assert latency(x, 3, tau=40, linear=True).argmax(0).tolist() == [2, 2, 0]


def test_latency_clip_silences_what_is_below_the_threshold():
    x = torch.tensor([0.0, 0.1, 0.3, 0.9])
    assert latency(x, 5, threshold=0.3, clip=True).sum(0).tolist() == [0, 0, 1, 1]


@ALL
@pytest.mark.parametrize("T", [0, -1, 2.0, True, None])
def test_refuses_no_steps(encoder, T):
    with pytest.raises(ValueError, match=rf"{encoder.__name__}\(x, T={T!r}\).*{encoder.__name__}\(x, T=10\)"):
        encoder(torch.rand(3), T)


@pytest.mark.parametrize("encoder", [rate, latency])
@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_refuses_x_outside_0_to_1(encoder, bad):
    with pytest.raises(ValueError, match=r"x lies in \[.*expected \[0, 1\]"):
        encoder(torch.tensor([0.5, bad]), 4)


def test_refuses_what_is_no_floating_tensor():
    with pytest.raises(TypeError, match=r"rate\(x, T\).*torch.uint8.*x.float\(\)"):
        rate(torch.zeros(2, dtype=torch.uint8), 4)
    with pytest.raises(TypeError, match="not list"):
        direct([1.0], 4)


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.0}, {"tau": 0.0}, {"tau": float("nan")}])
def test_latency_refuses_its_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        latency(torch.rand(3), 4, **options)


def test_bernoulli_clamps_and_varies_in_time():
    x = torch.rand(3, 200) * 3 - 1
    spikes = torch.stack([bernoulli(x, torch.Generator().manual_seed(i)) for i in range(500)])
    assert (spikes.mean(0) - x.clamp(0, 1)).abs().max() < 5 * 0.5 / 500**0.5
    assert torch.equal(spikes.unique(), torch.tensor([0.0, 1.0])) and spikes.shape == (500, 3, 200)


def test_bernoulli_draws_from_its_generator_alone():
    x = torch.full((50,), 0.5)
    before = torch.get_rng_state()
    first = bernoulli(x, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before) and 0 < first.sum() < 50
    torch.manual_seed(3)
    assert torch.equal(bernoulli(x), first)


@law
@given(
    seed=st.integers(0, 99), threshold=st.sampled_from([0.0, 0.5, 1.0]), padding=st.booleans(), off_spike=st.booleans()
)
def test_delta_is_its_definition(seed, threshold, padding, off_spike):
    torch.manual_seed(seed)
    x = torch.randint(-3, 4, (6, 2)) / 2
    before = x[0] if padding else torch.zeros(2)
    for now, spikes in zip(x, delta(x, threshold, padding=padding, off_spike=off_spike)):
        expected = (now - before >= threshold).float() - off_spike * (before - now >= threshold).float()
        assert torch.equal(spikes, expected)
        before = now


def test_delta_of_a_sum_of_its_spikes():
    spikes = torch.randint(-1, 2, (20, 3))
    assert torch.equal(delta(spikes.cumsum(0), 1, off_spike=True), spikes)


@pytest.mark.parametrize("linear", [False, True])
def test_latency_times_are_when_a_membrane_reaches_the_threshold(linear):
    x = torch.tensor([0.3, 0.4, 0.9, 1.0], dtype=torch.float64)
    times = latency_times(x, threshold=0.2, tau=7.0, linear=linear)
    reached = x * (1 - torch.exp(-times / 7.0))  # x charges a membrane with time constant tau
    torch.testing.assert_close(1 - times / 7.0 if linear else reached, x if linear else torch.full_like(x, 0.2))
    low = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    assert len(latency_times(low, threshold=0.2, tau=7.0, linear=linear).unique()) == 1


@pytest.mark.parametrize("linear", [False, True])
def test_latency_times_pass_the_gradient(linear):
    x = (torch.rand(5, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: latency_times(x, linear=linear), x)
    slopes = torch.func.vmap(torch.func.grad(lambda x: latency_times(x, linear=linear)))(torch.tensor([0.001, 0.5]))
    torch.testing.assert_close(slopes, torch.tensor([0.0, -1.0 if linear else 1 / 0.5 - 1 / 0.49]))


def test_spikes_at_their_times_alone():
    times = torch.tensor([[0.4, 1.6], [-1.0, 4.0]])
    spikes = spikes_at(times, 4)
    assert spikes.nonzero().tolist() == [[0, 0, 0], [2, 0, 1]] and spikes.shape == (4, 2, 2)
    assert torch.equal(spikes_at(times.round().long(), 4), spikes)


@law
@given(train=st.lists(st.booleans(), min_size=1, max_size=12))
def test_ramp_is_its_definition(train):
    expected, since = [], 0
    for t in range(len(train)):
        following = [b for b in range(t, len(train)) if train[b]]
        expected.append(0.0 if not following else 1.0 if train[t] else (t - since) / (following[0] - since))
        since = t + 1 if train[t] else since
    spikes = torch.tensor(train).double()
    torch.testing.assert_close(ramp(spikes), torch.tensor(expected, dtype=torch.float64))
    pair = torch.stack([spikes, 1 - spikes], 1)
    assert torch.equal(ramp(pair)[:, 0], ramp(spikes))
    assert torch.equal(torch.func.vmap(ramp, in_dims=1, out_dims=1)(pair), ramp(pair))


@pytest.mark.parametrize(
    "code",
    [
        delta,
        latency_times,
        ramp,
        lambda x: spikes_at(x * 5, 4),
        lambda x: latency(x, 4),
        lambda x: bernoulli(x.round()),
    ],
)
def test_codes_are_closed_under_transforms(code):
    x = torch.rand(6, 3)
    expected = torch.stack([code(column) for column in x.unbind(1)], -1)
    torch.testing.assert_close(torch.func.vmap(code, 1, -1, randomness="different")(x), expected)
    value, slope = torch.func.jvp(code, (x,), (torch.ones_like(x),))
    assert value.shape[-2:] == x.shape and (code is latency_times) == bool(slope.any())
    gradient = torch.func.grad(lambda x: code(x).sum())(x)
    assert (code is latency_times) == bool(gradient.any())


@pytest.mark.parametrize("code", [bernoulli, latency_times, ramp])
def test_codes_refuse_what_is_no_floating_tensor(code):
    with pytest.raises(TypeError, match=rf"{code.__name__}\(x\).*torch.int64.*x.float\(\)"):
        code(torch.tensor([1]))
    with pytest.raises(TypeError, match="not list"):
        code([0.5])


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.0}, {"tau": -1.0}, {"epsilon": 0.0}])
def test_latency_times_refuse_their_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        latency_times(torch.rand(3), **options)
    for linear in (False, True):
        with pytest.raises(ValueError, match="no NaN|at most 1"):
            latency_times(torch.tensor([float("nan")]), linear=linear)
