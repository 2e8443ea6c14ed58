"""The targets' laws: what each neuron should do, and what is refused."""

import pytest
import torch
from helpers import law
from hypothesis import given, strategies as st

from snn_functional import encode, targets


PATTERNS = pytest.mark.parametrize("pattern", targets.PATTERNS)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_one_hot_and_back(shape):
    labels = torch.randint(4, shape)
    hot = targets.one_hot(labels, 4)
    assert hot.shape == (*shape, 4) and hot.dtype is torch.float32 and (hot.sum(-1) == 1).all()
    assert torch.equal(hot.argmax(-1), labels) and torch.equal(targets.from_one_hot(hot), labels)
    assert targets.one_hot(labels, 4, torch.bool).dtype is torch.bool


def test_one_hot_is_closed_under_vmap():
    labels = torch.randint(4, (3, 5))
    hot = torch.func.vmap(lambda y: targets.one_hot(y, 4))(labels)
    assert torch.equal(hot, targets.one_hot(labels, 4))
    assert torch.equal(torch.func.vmap(targets.from_one_hot)(hot), labels)


@law
@given(T=st.integers(1, 40), rate=st.floats(0.01, 1), first=st.integers(0, 39))
def test_a_regular_rate_is_a_spike_each_1_over_rate(T, rate, first):
    first = min(first, T - 1)
    times = targets.rate_times(T, rate, first_spike_time=first)
    gaps = times.diff()
    assert times[0] == first and times[-1] < T and T - times[-1] <= 1 / rate + 1
    assert ((gaps - 1 / rate).abs() <= 1).all()


@PATTERNS
def test_every_pattern_has_its_rate(pattern):
    generator = torch.Generator().manual_seed(0)
    times = targets.rate_times(4000, 0.25, first_spike_time=2000, pattern=pattern, generator=generator)
    assert abs(len(times) - 500) < 100 and times.min() >= 2000 and times.max() < 4000
    assert abs(times.float().mean() - 3000) < 150
    assert len(targets.rate_times(5, 0.0, pattern=pattern)) == 0
    assert (pattern == "regular") == bool((times.diff() == 4).all())


@PATTERNS
def test_rate_gives_the_right_class_one_series_and_the_others_another(pattern):
    labels = torch.tensor([[2, 0], [1, 1]])
    draw = lambda **options: targets.rate(
        labels, 3, 30, 0.8, 0.2, pattern=pattern, generator=torch.Generator().manual_seed(1), **options
    )
    spikes = draw()
    right, other = spikes[:, 0, 0, 2], spikes[:, 0, 0, 0]
    assert spikes.shape == (30, 2, 2, 3) and right.sum() > 2 * other.sum() > 0
    expected = torch.where(targets.one_hot(labels, 3).bool(), right.view(30, 1, 1, 1), other.view(30, 1, 1, 1))
    assert torch.equal(spikes, expected)
    assert torch.equal(draw(on=2.0, off=-1.0), spikes * 3 - 1)
    torch.testing.assert_close(draw(interpolate=True), encode.ramp(spikes))


def test_latency_fires_the_right_class_first():
    spikes = targets.latency(torch.tensor([2, 0]), 3, 6)
    assert spikes.argmax(0).tolist() == [[5, 5, 0], [0, 5, 5]] and (spikes.sum(0) == 1).all()


def test_levels_and_trains():
    train = targets.train(torch.tensor([3, 1, 3, 7]), 5)
    assert train.tolist() == [0, 1, 0, 1, 0]
    assert targets.levels(train, 0.5, -2.0).tolist() == [-2, 0.5, -2, 0.5, -2]
    assert targets.levels(train, 3.0, 1.0, interpolate=True).tolist() == [1, 3, 1, 3, 1]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: targets.one_hot([1], 3), TypeError, "not list"),
        (
            lambda: targets.one_hot(torch.tensor([1]), 0),
            ValueError,
            r"num_classes=0\): expected a whole number, at least 1",
        ),
        (
            lambda: targets.one_hot(torch.tensor([0.5]), 3),
            ValueError,
            "label 0.5 came; expected whole numbers in 0 .. 2",
        ),
        (lambda: targets.from_one_hot(torch.tensor([[2.0, 1.0]])), ValueError, r"x.argmax\(-1\)"),
        (lambda: targets.from_one_hot(torch.tensor(1)), TypeError, "a number"),
        (lambda: targets.rate_times(0), ValueError, "T=0"),
        (lambda: targets.rate_times(3, 2.0), ValueError, r"rate=2.0.*\[0, 1\]"),
        (lambda: targets.rate_times(3, first_spike_time=3), ValueError, r"first_spike_time=3.*0 .. 2"),
        (lambda: targets.rate_times(3, pattern="odd"), ValueError, "'odd'.*'regular', 'uniform', 'poisson'"),
        (lambda: targets.rate(torch.tensor([5]), 3, 4), ValueError, "label 5"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
