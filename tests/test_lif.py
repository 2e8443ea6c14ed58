"""lif and cuba_lif: what each choice does, one sentence a test. The platforms' own maps are in test_platforms.py and test_peer_*.py."""

import dataclasses

import pytest
import torch
from helpers import assert_equal
from torch.func import grad

import snn_functional as snf


X = torch.rand(40, 3, 4) * 0.6


def run(neuron, params, xs=X):
    recorded = snf.record(neuron)
    (spks, states), _ = snf.scan(recorded.step, params, recorded.init(params, xs[0]), xs)
    assert spks.any()
    return spks, states.mem


@pytest.mark.parametrize("reset_mechanism", ["subtract", "none"])
def test_late_it_is_leaky(reset_mechanism):
    choices = {"reset_mechanism": reset_mechanism}
    ours = run(snf.lif, snf.LifParams(0.9, reset_delay=True, detach_reset=True, **choices))
    assert_equal(ours, run(snf.leaky, snf.LeakyParams(0.9, **choices)))


@pytest.mark.parametrize("update, beta", [("decay", 0.9), ("relax", 0.125)])
def test_without_input_it_goes_to_rest_and_begins_there(update, beta):
    params = snf.LifParams(beta, leak=torch.tensor([-1.0, 0.5]), gain=0.0, reset_mechanism="none", update=update)
    start = snf.lif_init(params, torch.zeros(3, 2))
    assert_equal(start, snf.LifState(torch.tensor([-1.0, 0.5]).expand(3, 2)))
    _, state = snf.scan(snf.lif_step, params, snf.LifState(torch.zeros(3, 2)), torch.zeros(200, 3, 2))
    torch.testing.assert_close(state.mem, start.mem)


def test_decay_and_relax_are_one_line_written_in_two_ways():
    decay = snf.LifParams(beta=0.9, gain=0.2, leak=0.3)
    relax = snf.LifParams(beta=0.1, gain=2.0, leak=0.3, update="relax")
    torch.testing.assert_close(decay.kept, relax.kept)
    (spks, mem), (others, other) = run(snf.lif, decay), run(snf.lif, relax)
    assert_equal(spks, others)
    torch.testing.assert_close(mem, other, rtol=1e-4, atol=1e-5)


def test_a_late_reset_to_a_value_shows_the_peak():
    now = snf.LifParams(0.9, reset=-0.2, reset_mechanism="value")
    (spks, mem), (same, peaks) = run(snf.lif, now), run(snf.lif, with_(now, reset_delay=True))
    assert_equal(spks, same)
    assert (mem[spks > 0] == -0.2).all() and (peaks[spks > 0] > 1).all()
    assert_equal(mem[spks == 0], peaks[spks == 0])


@pytest.mark.parametrize("reset_mechanism", ["subtract", "value", "none"])
@pytest.mark.parametrize("reset_delay", [False, True])
def test_a_late_spike_is_the_spike_a_step_later(reset_mechanism, reset_delay):
    params = snf.LifParams(0.9, reset=-0.2, reset_mechanism=reset_mechanism, reset_delay=reset_delay)
    (spks, _), (late, _) = run(snf.lif, params), run(snf.lif, with_(params, spike_delay=True))
    assert_equal(late[1:], spks[:-1])
    assert not late[0].any()


@pytest.mark.parametrize("detach_reset", [False, True])
def test_at_the_threshold(detach_reset):
    xs = torch.tensor([0.25, 0.25, 0.5, 0.0])[:, None]
    for inclusive in (False, True):
        params = snf.LifParams(1.0, inclusive=inclusive, detach_reset=detach_reset)
        spks, state = snf.scan(snf.lif_step, params, snf.lif_init(params, xs[0]), xs)
        assert spks[:, 0].tolist() == [0, 0, float(inclusive), 0] and state.mem.item() == 1 - inclusive


def test_a_detached_reset_has_no_gradient():
    def last(x, detach_reset):
        params = snf.LifParams(0.9, detach_reset=detach_reset)
        return snf.scan(snf.lif_step, params, snf.lif_init(params, x), torch.stack([x, 0 * x]))[1].mem.sum()

    x = torch.tensor([1.5])
    torch.testing.assert_close(grad(last)(x, True), torch.tensor([0.9]))  # the decay alone
    assert (grad(last)(x, False) < 0.9).all()


def test_the_orders_of_the_current():
    def currents(current, **numbers):
        params = snf.CubaLifParams(0.5, 1.0, threshold=9.0, current=current, **numbers)
        xs = torch.tensor([1.0, 0, 0, 0])[:, None]
        neuron = snf.record(snf.cuba_lif)
        (_, states), _ = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)
        return states.mem[:, 0].diff(prepend=torch.zeros(1)).tolist()  # what the membrane has seen

    assert currents("new") == currents("before") == [1, 0.5, 0.25, 0.125]
    assert currents("kept") == [0.5, 0.25, 0.125, 0.0625]
    assert currents("old") == [0, 1, 0.5, 0.25]
    assert currents("new", w_in=2.0, gain=0.25) == [0.5, 0.25, 0.125, 0.0625]


def test_with_a_current_that_does_not_last_it_is_lif():
    for update, alpha in (("decay", 0.0), ("relax", 1.0)):
        numbers = {"beta": 0.3, "gain": 1.5, "leak": 0.25, "reset": -0.5, "update": update, "reset_mechanism": "value"}
        (spks, mem), (others, other) = (
            run(snf.lif, snf.LifParams(**numbers)),
            run(snf.cuba_lif, snf.CubaLifParams(alpha, **numbers)),
        )
        assert_equal(spks, others)
        torch.testing.assert_close(mem, other)


def test_a_readout_is_never_reset():
    params = snf.LifParams(0.9, gain=2.0, leak=0.5)
    neuron = snf.readout(snf.lif)
    mems, state = snf.scan(neuron.step, params, neuron.init(params, X[0]), X)
    assert_equal(mems, run(snf.lif, with_(params, reset_mechanism="none"))[1])
    assert_equal(state.mem, mems[-1])
    with pytest.raises(TypeError, match="readout reads `mem`"):
        snf.readout(snf.chain(snf.lif)).step((params,), (state,), X[0])


def test_immediate_reset_goes_to_the_value():
    params = snf.LifParams(0.9, reset=-0.25, reset_mechanism="value")
    (spks, mem), (same, other) = run(snf.lif, params), run(snf.immediate_reset(snf.lif), params)
    assert_equal(spks, same)
    torch.testing.assert_close(mem, other)


def test_its_leak_is_the_one_that_learning_reads():
    """OTTT lets its traces leak as the neuron does, whatever the update."""
    net = snf.chain(snf.linear, snf.lif)
    w, xs, targets = torch.randn(4, 5), torch.rand(20, 3, 5), torch.rand(20, 3, 4)
    rule = snf.learning.ottt(net.step, lambda spk, target: (spk - target).square().sum())
    grads = []
    for neuron in (snf.LifParams(0.75, gain=0.5), snf.LifParams(0.25, gain=2.0, update="relax")):
        params = (snf.Linear(w), neuron)
        grads.append(rule(params, net.init(params, xs[0]), xs, targets)[0][0].weight)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def with_(params, **choices):
    return dataclasses.replace(params, **choices)
