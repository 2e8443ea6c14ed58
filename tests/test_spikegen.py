"""`snn.spikegen`: what snnTorch 1.0.0 documents, where it does something else or nothing; and what is refused."""

import pytest
import torch

from snn_functional import encode
from snn_functional.snn import spikegen


A = torch.tensor([0.2, 0.8])


def test_rate_scales_what_varies_in_time_too():
    x = torch.rand(5, 3)
    assert not spikegen.rate(x, gain=0, time_var_input=True).any()
    assert spikegen.rate(x, offset=1, time_var_input=True, first_spike_time=2).sum(1).tolist() == [0, 0, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_stays(dtype):
    x = torch.rand(3, 4).to(dtype)
    for spikes in (
        spikegen.rate(x, 5, first_spike_time=1),
        spikegen.rate(x, first_spike_time=2, time_var_input=True),
        spikegen.rate_conv(x),
        spikegen.delta(x, off_spike=True),
        spikegen.latency(x, 5, normalize=True),
        spikegen.latency(x, 5, normalize=True, interpolate=True, on_target=2),
        spikegen.latency_code(x, 5, normalize=True)[0],
        spikegen.latency_code_linear(x),
        spikegen.latency_interpolate(x, 5),
    ):
        assert spikes.dtype is dtype and spikes.isfinite().all()


def test_half_precision_has_the_spikes_of_float32():
    x = torch.tensor([0.0, 0.01, 0.02, 0.25, 1.0]).half()
    spikes = spikegen.latency(x, 20, normalize=True, first_spike_time=2)
    assert torch.equal(spikes.float(), spikegen.latency(x.float(), 20, normalize=True, first_spike_time=2))


def test_draws_from_its_generator_alone():
    draw = lambda generator: (
        spikegen.rate(torch.full((9,), 0.5), 4, generator=generator),
        spikegen.rate_conv(torch.full((9,), 0.5), generator=generator),
        *spikegen.target_rate_code(9, rate=0.5, firing_pattern="poisson", generator=generator),
        spikegen.targets_rate(A.long(), 2, 9, 0, 0.9, 0.5, firing_pattern="uniform", generator=generator),
        spikegen.targets_convert(A.long(), 2, "rate", 9, 0, 0.9, 0.5, firing_pattern="poisson", generator=generator),
    )
    before = torch.get_rng_state()
    first = draw(torch.Generator().manual_seed(3))
    assert all(map(torch.equal, first, draw(torch.Generator().manual_seed(3))))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert all(map(torch.equal, first, draw(None)))


def test_latency_at_levels_of_any_order_and_sign():
    spikes = spikegen.latency(A, 4, normalize=True, linear=True)
    assert torch.equal(spikegen.latency(A, 4, normalize=True, linear=True, off_target=-1), 2 * spikes - 1)
    assert torch.equal(spikegen.latency(A, 4, normalize=True, linear=True, on_target=0, off_target=1), 1 - spikes)
    rising = spikegen.latency(A, 4, normalize=True, linear=True, interpolate=True)
    falling = spikegen.latency(A, 4, normalize=True, linear=True, interpolate=True, on_target=0, off_target=1)
    torch.testing.assert_close(falling, 1 - rising)


def test_latency_interpolated_is_clipped_too():
    x = torch.tensor([0.001, 0.8])
    rising = spikegen.latency(x, 4, normalize=True, interpolate=True, clip=True)
    assert rising.sum(0).tolist() == [0, 1] and spikegen.latency(x, 4, normalize=True, interpolate=True)[3, 0] == 1


def test_an_interpolated_target_reaches_every_level():
    for on, off in [(0.7, 0.1), (1.3, 0.2), (0.9, 0.1), (1.1, 0.3)]:  # on - off + off rounds to more than on
        torch.testing.assert_close(spikegen.latency_interpolate(torch.tensor([2.0]), 4, on, off)[2].item(), on)


def test_what_comes_too_late_is_not_interpolated():
    assert not spikegen.latency_interpolate(torch.tensor([4.0, 4.4, 9.0]), 4).any()
    assert spikegen.rate_interpolate(torch.tensor([1, 7]), 5).tolist() == [0, 1, 0, 0, 0]
    assert spikegen.rate_interpolate(torch.tensor([7]), 5, 1, 0.5).tolist() == [0.5] * 5
    assert spikegen.rate_interpolate(torch.tensor([]), 3, off_target=0.5).tolist() == [0.5] * 3


def test_rate_interpolated_at_levels_of_any_order():
    times = torch.tensor([0, 4])
    assert spikegen.rate_interpolate(times, 5, 1, 1).tolist() == [1] * 5
    expected = 1 - spikegen.rate_interpolate(times, 5)
    torch.testing.assert_close(spikegen.rate_interpolate(times, 5, 0, 1), expected)


def test_nothing_that_is_given_changes():
    times, labels, hot = torch.tensor([0.4, 7.2]), torch.tensor([1, 0]), torch.tensor([[0.0, 1.0]])
    copies = times.clone(), labels.clone(), hot.clone()
    spikegen.latency_interpolate(times, 4)
    spikegen.targets_rate(labels, 2, 4, 2, 1, 0, 2, -1)
    spikegen.to_one_hot_inverse(hot)
    assert all(map(torch.equal, copies, (times, labels, hot)))


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("T", [4, 5, 9])
def test_targets_rate_at_any_rate_and_length(T, interpolate):
    labels = torch.tensor([4, 0])
    targets = spikegen.targets_rate(labels, 5, T, 1, 0.5, 0.25, 2, -1, interpolate=interpolate)
    assert targets.shape == (T, 2, 5)
    for rate, series in ((0.5, targets[:, 0, 4]), (0.25, targets[:, 0, 0])):
        spikes, times = spikegen.target_rate_code(T, 1, rate)
        expected = spikegen.rate_interpolate(times, T, 2, -1) if interpolate else spikes * 3 - 1
        assert torch.equal(series, expected)
    assert torch.equal(targets[:, 1, 0], targets[:, 0, 4]) and torch.equal(targets[:, 1, 4], targets[:, 0, 0])
    silent = spikegen.targets_rate(labels, 5, T, correct_rate=0.5)
    assert silent.sum(0).nonzero().tolist() == [[0, 4], [1, 0]]


def test_targets_rate_without_rates_interpolates_before_the_first_spike():
    targets = spikegen.targets_rate(torch.tensor([1]), 2, 5, first_spike_time=2, interpolate=True)
    assert targets[:, 0].T.tolist() == [[0] * 5, [0, 0.5, 1, 1, 1]]
    assert torch.equal(spikegen.targets_rate(torch.tensor([1]), 2, 5, 2, off_target=-1)[:2], -torch.ones(2, 1, 2))
    assert spikegen.targets_rate(torch.tensor([1]), 2, off_target=-1).tolist() == [[-1, 1]]


def test_targets_rate_without_rates_draws_nothing():
    targets = spikegen.targets_rate(torch.tensor([1]), 2, 5, first_spike_time=2, firing_pattern="uniform")
    assert targets[:, 0, 1].tolist() == [0, 0, 1, 1, 1]


def test_targets_convert_passes_on_what_latency_takes():
    options = dict(num_steps=4, on_target=2, off_target=-1, interpolate=True, normalize=True, epsilon=1e-6)
    labels = torch.tensor([1, 0])
    targets = spikegen.targets_convert(labels, 3, "latency", **options)
    assert torch.equal(targets, spikegen.targets_latency(labels, 3, **options)) and targets.max() == 2


def test_a_spike_due_at_the_end_is_none():
    # 1 / 0.07 * 7 = 100
    for rate in (k / 1000 for k in range(1, 1000, 7)):
        spikes, times = spikegen.target_rate_code(100, rate=rate)
        assert times.max() < 100 and spikes.sum() == len(times)
    assert len(spikegen.target_rate_code(100, rate=0.07)[1]) == 7


def test_from_one_hot_gives_classes_in_any_order():
    labels = torch.tensor([2, 0, 2, 1])
    assert torch.equal(spikegen.from_one_hot(spikegen.to_one_hot(labels, 4)), labels)
    assert spikegen.from_one_hot(torch.tensor([0, 0, 1])).tolist() == [2]


def test_the_documented_examples():
    a = torch.tensor([1, 2, 2.9, 3, 3.9])
    assert spikegen.delta(a, threshold=1).tolist() == [1, 1, 0, 0, 0]
    assert spikegen.delta(a, threshold=1, padding=True).tolist() == [0, 1, 0, 0, 0]
    times, below = spikegen.latency_code(torch.tensor([0.02, 0.5, 1]), 5, normalize=True, linear=True)
    torch.testing.assert_close(times, torch.tensor([3.92, 2, 0]))
    assert not below.any()
    assert torch.equal(spikegen.latency(A, 5, normalize=True, linear=True), encode.latency(A, 5, linear=True))
    targets = spikegen.targets_rate(torch.tensor([4]), 5, 5, 2, on_target=1.2, off_target=0.5)[:, 0, 4]
    torch.testing.assert_close(targets, torch.tensor([0.5, 0.5, 1.2, 1.2, 1.2]))
    assert spikegen.targets_convert(torch.tensor([4]), 5, num_steps=5, correct_rate=0.8, incorrect_rate=0.2).shape == (
        (5, 1, 5)
    )


BAD = {
    "rate of a list": (lambda: spikegen.rate([0.5], 3), TypeError, r"rate takes a tensor.*torch.as_tensor"),
    "rate of integers": (lambda: spikegen.rate(torch.tensor([1]), 3), TypeError, r"torch.int64: give x.float\(\)"),
    "rate of NaN": (lambda: spikegen.rate(A / 0 * 0, 3), ValueError, "NaN"),
    "rate without steps": (lambda: spikegen.rate(A), ValueError, r"num_steps=10.*time_var_input=True"),
    "rate of two lengths": (lambda: spikegen.rate(A, 3, time_var_input=True), ValueError, "Leave it out"),
    "rate, too late": (lambda: spikegen.rate(A, 3, first_spike_time=3), ValueError, r"first_spike_time=3.*0 .. 2"),
    "rate, too early": (lambda: spikegen.rate(A, 3, first_spike_time=-1), ValueError, "first_spike_time=-1"),
    "rate, half a step": (lambda: spikegen.rate(A, 2.5), ValueError, r"num_steps=2.5.*whole number"),
    "delta of bytes": (lambda: spikegen.delta(A.byte()), TypeError, r"torch.uint8: give x.float\(\)"),
    "delta of a number": (lambda: spikegen.delta(A[0]), ValueError, r"x \[T, ...\]"),
    "delta, threshold": (lambda: spikegen.delta(A, -1), ValueError, "threshold=-1"),
    "latency, range": (lambda: spikegen.latency(A * 9, 3), ValueError, r"\[1.8, 7.2\].*expected \[0, 1\]"),
    "latency of NaN": (lambda: spikegen.latency(A / 0 * 0, 3), ValueError, r"expected \[0, 1\]"),
    "latency without steps": (lambda: spikegen.latency(A), ValueError, "bypass=True"),
    "latency, too late": (lambda: spikegen.latency(A, 3, tau=200), ValueError, r"step 10, the last step is 2.*bypass"),
    "latency, threshold": (lambda: spikegen.latency(A, 3, 1.0), ValueError, "threshold=1.0"),
    "latency, epsilon": (lambda: spikegen.latency(A, 3, epsilon=0), ValueError, "epsilon=0"),
    "latency, tau": (lambda: spikegen.latency_code(A, 3, tau=0, linear=True, normalize=True), ValueError, "tau=0"),
    "latency, first": (lambda: spikegen.latency_code(A, 3, first_spike_time=3), ValueError, "0 .. 2"),
    "latency, fitted to nothing": (lambda: spikegen.latency_code_log(A, normalize=True), ValueError, "num_steps=10"),
    "latency of the past": (lambda: spikegen.latency_code_linear(A * 9), ValueError, "7.2; expected at most 1"),
    "code": (lambda: spikegen.targets_convert(A, 2, "time"), ValueError, "'rate' or 'latency'"),
    "targets, rates": (lambda: spikegen.targets_rate(A, 2, 3, 0, 0.2, 0.5), ValueError, "incorrect_rate <= correct"),
    "targets without steps": (lambda: spikegen.targets_rate(A.long(), 2, first_spike_time=2), ValueError, "num_steps"),
    "targets, first": (lambda: spikegen.targets_rate(A.long(), 2, 3, -1), ValueError, "first_spike_time=-1"),
    "targets, pattern": (lambda: spikegen.targets_rate(A, 2, firing_pattern="odd"), ValueError, "'odd'.*'poisson'"),
    "pattern": (lambda: spikegen.target_rate_code(3, firing_pattern=None), ValueError, "None.*'regular'"),
    "rates": (lambda: spikegen.target_rate_code(3, rate=1.5), ValueError, r"rate=1.5.*\[0, 1\]"),
    "half steps": (lambda: spikegen.rate_interpolate(A, 3), ValueError, r"whole steps.*round\(\)"),
    "labels, negative": (lambda: spikegen.to_one_hot(torch.tensor([0, -1]), 3), ValueError, r"label -1 .*0 .. 2"),
    "labels, large": (lambda: spikegen.to_one_hot(torch.tensor([3]), 3), ValueError, "label 3 came"),
    "labels, fractions": (lambda: spikegen.to_one_hot(A, 3), ValueError, "label 0.2"),
    "two classes": (lambda: spikegen.from_one_hot(torch.ones(2, 2)), ValueError, "a single 1 along"),
}


@pytest.mark.parametrize("call, error, message", BAD.values(), ids=BAD)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
