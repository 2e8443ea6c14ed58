"""Step in, step out: each modifier against its equation, and under the laws of a step."""

import dataclasses
import pickle

import pytest
import torch
from torch.func import grad, vmap

import snn_functional as snf


X = torch.rand(30, 4, 6)
LEAKY, SYNAPTIC = snf.LeakyParams(0.9), snf.SynapticParams(0.8, 0.7)
HARD = lambda x: (x * 4).round() / 4


def trace(step):
    def recorded(params, state, x):
        spk, state = step(params, state, x)
        return (spk, state.mem), state

    return recorded


def run(step, params, x=X, neuron=snf.leaky):
    return snf.scan(trace(step), params, neuron.init(params, x[0]), x)[0]


def test_inhibit_lets_only_the_winner_fire():
    spk, mem = run(snf.inhibit(snf.leaky_step), LEAKY)
    free, _ = run(snf.leaky_step, LEAKY)
    assert spk.sum(-1).max() == 1 and free.sum(-1).max() > 1
    for t in range(30):
        for b in range(4):
            winner = int(mem[t, b].argmax())
            assert spk[t, b].sum() == float(mem[t, b, winner] > 1) == spk[t, b, winner]


def test_inhibit_resets_the_losers_too_and_breaks_ties_by_order():
    params = snf.LeakyParams(0.5)
    state = snf.LeakyState(torch.zeros(1, 3))
    spk, state = snf.inhibit(snf.leaky_step)(params, state, torch.tensor([[1.5, 2.0, 2.0]]))
    assert spk.tolist() == [[0, 1, 0]]
    _, state = snf.inhibit(snf.leaky_step)(params, state, torch.zeros(1, 3))
    assert state.mem.tolist() == [[-0.25, 0.0, 0.0]]


def test_inhibit_sends_the_gradient_to_the_winner_only():
    x = torch.tensor([[0.3, 0.6, 0.2]])
    g = grad(lambda x: snf.inhibit(snf.leaky_step)(LEAKY, snf.LeakyState(torch.zeros(1, 3)), x)[0].sum())(x)
    assert (g != 0).tolist() == [[False, True, False]]


def test_inhibit_along_another_axis():
    spk, _ = run(snf.inhibit(snf.leaky_step, dim=0), LEAKY)
    turned, _ = run(snf.inhibit(snf.leaky_step), LEAKY, X.transpose(1, 2))
    assert torch.equal(spk, turned.transpose(1, 2))


def test_quantize_rounds_every_state_and_fires_from_what_is_left():
    step = snf.quantize(snf.synaptic_step, HARD)
    state = snf.synaptic_init(SYNAPTIC, X[0])
    for x in X:
        _, plain = snf.synaptic_step(SYNAPTIC, state, x)
        spk, state = step(SYNAPTIC, state, x)
        assert torch.equal(state.syn, HARD(plain.syn)) and torch.equal(state.mem, HARD(plain.mem))
        assert torch.equal(spk, (state.mem > 1).float())


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_immediate_reset_is_the_textbook_neuron(reset):
    params = snf.LeakyParams(0.9, 0.8, reset_mechanism=reset)
    spks, mems = run(snf.immediate_reset(snf.leaky_step), params)
    mem = torch.zeros(4, 6)
    for t in range(30):
        mem = params.beta * mem + X[t]
        spk = (mem > params.threshold).float()
        mem = mem - spk * (params.threshold if reset == "subtract" else mem)
        assert torch.equal(spks[t], spk) and torch.equal(mems[t], mem)


def test_immediate_reset_fires_again_while_above_the_threshold():
    """Where snnTorch 1.0.0 gives the reset back and stays silent above its threshold (1, 0, 0, 0)."""
    x = torch.tensor([2.5, 0.0, 0.0, 0.0])[:, None]
    spk, mem = run(snf.immediate_reset(snf.leaky_step), LEAKY, x)
    assert spk[:, 0].tolist() == [1, 1, 0, 0]
    torch.testing.assert_close(mem[:, 0], torch.tensor([1.5, 0.35, 0.315, 0.2835]))


def test_immediate_reset_without_reset_changes_nothing():
    params = dataclasses.replace(LEAKY, reset_mechanism="none")
    assert torch.equal(run(snf.immediate_reset(snf.leaky_step), params)[0], run(snf.leaky_step, params)[0])


@pytest.mark.parametrize(
    "step", [snf.inhibit(snf.leaky_step), snf.immediate_reset(snf.leaky_step), snf.quantize(snf.leaky_step, HARD)]
)
def test_a_modified_step_keeps_the_laws(step):
    assert pickle.loads(pickle.dumps(snf.inhibit(snf.leaky_step))) == snf.inhibit(snf.leaky_step)
    assert hash(step) == hash(dataclasses.replace(step))
    whole, _ = run(step, LEAKY)
    each = vmap(lambda x: run(step, LEAKY, x)[0], 1, 1)(X)
    assert torch.equal(whole, each)
    loss = lambda x, kind: snf.scan(step, LEAKY, snf.leaky_init(LEAKY, x[0]), x, kind=kind)[0].sum()
    torch.testing.assert_close(vmap(grad(loss), (1, None), 1)(X, "loop"), grad(loss)(X, "loop"))
    torch.testing.assert_close(grad(loss)(X, "checkpointed"), grad(loss)(X, "loop"))
