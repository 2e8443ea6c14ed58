"""`snn.spikegen` beside the installed snnTorch 1.0.0: the same signatures, numbers and random draws; gradients where one passes."""

import inspect
import warnings

import pytest
import torch
from helpers import law
from hypothesis import assume, given, strategies as st

from snn_functional.snn import spikegen


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("snntorch")
    from snntorch import spikegen as theirs

NAMES = [name for name, value in vars(theirs).items() if inspect.isfunction(value) and not name.startswith("_")]
PATTERNS = ["regular", "uniform", "poisson"]
seeds = st.integers(0, 2**16)
sizes = st.lists(st.integers(1, 4), min_size=1, max_size=3)
steps = st.integers(1, 25)
shares = st.floats(0, 1, width=32)
heights = st.sampled_from([(1, 0), (1.5, 0.25), (2, 1), (0.75, 0.5)])  # on and off, of which snnTorch rounds nothing


@st.composite
def unit(draw):
    """Numbers in [0, 1], some of them at 0, at 1 and beside the threshold of 0.01."""
    torch.manual_seed(draw(seeds))
    x = torch.rand(draw(sizes))
    return torch.where(torch.rand(x.shape) < 0.3, torch.tensor([0.0, 1.0, 0.01, 0.0101])[torch.randint(4, x.shape)], x)


def both(name, *args, **kwargs):
    """What the two give after the same seed. They leave the generator in the same state."""
    results, states = [], []
    for module in (spikegen, theirs):
        torch.manual_seed(5)
        results.append(getattr(module, name)(*args, **kwargs))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    return results


def same(name, *args, **kwargs):
    torch.testing.assert_close(*both(name, *args, **kwargs), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_has_its_signature(name):
    parameters = list(inspect.signature(getattr(spikegen, name)).parameters.values())
    ours = [(p.name, p.default) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert ours == [(p.name, p.default) for p in inspect.signature(getattr(theirs, name)).parameters.values()]
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} <= {"generator"}


@law
@given(x=unit(), T=steps, gain=st.floats(-2, 3), offset=st.floats(-1, 1), first=st.integers(0, 24))
def test_rate(x, T, gain, offset, first):
    same("rate", x, T, gain, offset, min(first, T - 1))
    same("rate", x, first_spike_time=first, time_var_input=True)
    same("rate_conv", x * gain + offset)
    same("rate_conv", (x * gain + offset).movedim(0, -1))


def test_rate_of_integers_that_gain_makes_fractions():
    same("rate", torch.arange(256, dtype=torch.uint8), 5, gain=1 / 255)


@law
@given(x=unit(), threshold=st.floats(0, 1), padding=st.booleans(), off_spike=st.booleans(), whole=st.booleans())
def test_delta(x, threshold, padding, off_spike, whole):
    same("delta", (x * 9).long() if whole else x, threshold, padding, off_spike)


@law
@given(
    x=unit(),
    T=steps,
    threshold=st.sampled_from([0.01, 0.3, 0.9]),
    tau=st.floats(0.1, 20),
    first=st.integers(0, 24),
    normalize=st.booleans(),
    linear=st.booleans(),
    weights=seeds,
)
def test_latency_code_and_its_gradient(x, T, threshold, tau, first, normalize, linear, weights):
    first = min(first, T - 1)
    same("latency_code", x, T, threshold, tau, first, normalize, linear)
    name = "latency_code_linear" if linear else "latency_code_log"
    same(name, x, T, threshold, tau, first, normalize)

    torch.manual_seed(weights)
    weight = torch.randn(x.shape)
    x = torch.where((x - threshold).abs() < 1e-5, 0.5, x)  # at a kink either slope is right
    gradients = [
        torch.autograd.grad((getattr(m, name)(y, T, threshold, tau, first, normalize) * weight).sum(), y)[0]
        for m in (spikegen, theirs)
        for y in [x.clone().requires_grad_()]
    ]
    torch.testing.assert_close(*gradients)


@law
@given(
    x=unit(),
    T=st.integers(1, 25) | st.just(False),
    tau=st.floats(0.1, 20),
    first=st.integers(0, 24),
    levels=heights,
    clip=st.booleans(),
    normalize=st.booleans(),
    linear=st.booleans(),
    whole=st.booleans(),
)
def test_latency(x, T, tau, first, levels, clip, normalize, linear, whole):
    x = x.round().long() if whole else x
    first = min(first, T - 1) if T else first
    same("latency", x, T, 0.01, tau, first, *levels, clip, normalize and bool(T), linear, bypass=True)


@law
@given(x=unit(), T=steps, levels=heights, linear=st.booleans())
def test_latency_interpolated(x, T, levels, linear):
    same("latency", x, T, 0.01, 1, 0, *levels, normalize=True, linear=linear, interpolate=True)
    times = (x * (T - 1)).round()
    same("latency_interpolate", times, T, *levels)


@law
@given(
    T=steps,
    first=st.integers(0, 24),
    rate=shares | st.sampled_from([0, 1, 0.1, 0.3, 0.7]),
    pattern=st.sampled_from(PATTERNS),
    levels=heights,
)
def test_target_rate_code_and_its_interpolation(T, first, rate, pattern, levels):
    first = min(first, T - 1)
    last = torch.arange(first, T, 1 / rate)[-1:].long() if rate else torch.zeros(1)
    assume(pattern != "regular" or last < T)  # else snnTorch is out of bounds
    (spikes, times), (their_spikes, their_times) = both("target_rate_code", T, first, rate, pattern.upper())
    torch.testing.assert_close((spikes, times), (their_spikes, their_times.long()), rtol=0, atol=0)
    same("rate_interpolate", times, T, *levels)


@law
@given(seed=seeds, classes=st.integers(1, 8), T=steps, first=st.integers(1, 24), levels=heights)
def test_targets_rate_of_the_default_rates(seed, classes, T, first, levels):
    torch.manual_seed(seed)
    labels = torch.randint(classes, (5,))
    same("targets_convert", labels, classes)
    same("targets_rate", labels, classes, T, 0, 1, 0, *levels)
    same("targets_rate", labels.float(), classes, T, 0, 1, 0, *levels[::-1])
    levels = (levels[0], 0) if T == 1 else levels
    same("targets_convert", labels, classes, "rate", T + 1, min(first, T), 1, 0, *levels)


@law
@given(
    seed=seeds,
    classes=st.integers(1, 8),
    first=st.integers(0, 7),
    rates=st.tuples(shares, shares),
    pattern=st.sampled_from(PATTERNS),
    levels=heights,
)
def test_targets_rate_interpolated_where_there_are_as_many_steps_as_classes(
    seed, classes, first, rates, pattern, levels
):
    # with any other number of steps, or not interpolated, snnTorch fails or gives five axes
    torch.manual_seed(seed)
    first, (low, high) = min(first, classes - 1), sorted(rates)
    assume(high < 1 or low > 0)
    for rate in rates:
        last = torch.arange(first, classes, 1 / rate)[-1:].long() if rate else torch.zeros(1)
        assume(pattern != "regular" or last < classes)
    labels = torch.randint(classes, (5,))
    same("targets_rate", labels, classes, classes, first, high, low, *levels, pattern, interpolate=True)


@law
@given(seed=seeds, classes=st.integers(1, 8), T=st.integers(2, 25), levels=heights, linear=st.booleans())
def test_targets_latency(seed, classes, T, levels, linear):
    torch.manual_seed(seed)
    labels = torch.randint(classes, (5,))
    options = dict(normalize=True, linear=linear)
    same("targets_latency", labels, classes, T, 0, *levels, **options)
    same("targets_latency", labels, classes, T, 0, *levels, interpolate=True, **options)
    same("targets_convert", labels, classes, "latency", T, **options)


@law
@given(seed=seeds, classes=st.integers(1, 8))
def test_one_hot(seed, classes):
    torch.manual_seed(seed)
    labels = torch.randint(classes, (5,))
    same("to_one_hot", labels, classes)
    same("to_one_hot_inverse", spikegen.to_one_hot(labels, classes))
    same("to_one_hot_inverse", torch.randint(-1, 3, (3, 4)))
    same("from_one_hot", spikegen.to_one_hot(torch.arange(classes), classes))
    same("from_one_hot", spikegen.to_one_hot(labels, classes)[0])
