"""Step in, step out: each modifier against its equation. The laws of a step they keep with the neurons: test_neurons.py."""

import abc
import copy
import dataclasses
import pickle
from typing import Any, Generic, Protocol, TypeVar

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, at, dot, MODIFIED, needs_kernels, needs_torch
from torch.func import grad

import snn_functional as snf
from snn_functional.modifiers._modifier import Modifier


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


# ------------------------------------------------------------------------------------------------ refractory


def refractory_in_a_loop(params, steps, xs):
    """By hand: a held neuron is skipped."""
    mem, count, spks, mems = torch.zeros(xs.shape[1:]), torch.zeros(xs.shape[1:]), [], []
    for x in xs:
        spk, after = snf.leaky_step(params, snf.LeakyState(mem), x)
        spk, mem = spk.clone(), mem.clone()
        for i in range(spk.numel()):
            if count.view(-1)[i] > 0:
                spk.view(-1)[i] = 0
                count.view(-1)[i] -= 1
            else:
                mem.view(-1)[i] = after.mem.view(-1)[i]
                count.view(-1)[i] = steps if spk.view(-1)[i] else 0
        spks.append(spk)
        mems.append(mem)
    return torch.stack(spks), torch.stack(mems)


@pytest.mark.parametrize("steps", [1, 3])
def test_refractory_holds_the_neuron_after_a_spike(steps):
    neuron = snf.record(snf.refractory(snf.leaky, steps))
    (spks, states), _ = snf.scan(neuron.step, LEAKY, neuron.init(LEAKY, X[0]), X)
    assert_equal((spks, states.inner.mem), refractory_in_a_loop(LEAKY, steps, X))
    times = spks[:, 0, 0].nonzero()[:, 0]
    assert len(times) > 2 and times.diff().min() > steps


def test_a_refractory_neuron_waits_above_its_threshold_or_with_an_immediate_reset_below_it():
    x = torch.tensor([1.25, 0.5, 0.5, 0.5])[:, None]
    mems = {}
    for neuron in (snf.leaky, snf.immediate_reset(snf.leaky)):
        held = snf.record(snf.refractory(neuron, 2))
        (_, states), _ = snf.scan(held.step, LEAKY, held.init(LEAKY, x[0]), x)
        mems[neuron] = states.inner.mem[:, 0]
    assert_allclose(mems[snf.leaky], torch.tensor([1.25, 1.25, 1.25, 0.625]))
    assert_allclose(mems[snf.immediate_reset(snf.leaky)], torch.tensor([0.25, 0.25, 0.25, 0.725]))


V = snf.Linear(torch.tensor([[0.0, 0.0], [0.3, 0.0]]))


@pytest.mark.parametrize(
    "neuron, params",
    [
        (snf.refractory(snf.rleaky, 3), snf.RLeakyParams(1.0, V)),
        (snf.refractory(snf.recurrent(snf.leaky), 3), snf.RecurrentParams(snf.LeakyParams(1.0), V)),
        (snf.recurrent(snf.refractory(snf.leaky, 3)), snf.RecurrentParams(snf.LeakyParams(1.0), V)),
    ],
    ids=["rleaky", "recurrent inside", "recurrent outside"],
)
def test_a_held_neuron_feeds_nothing_back(neuron, params):
    """Neuron 0 fires once; what it excites hears of it once, whichever of the two wraps the other."""
    x = torch.zeros(4, 1, 2)
    x[0, 0, 0] = 2.0
    (_, states), _ = snf.scan(snf.record(neuron.step), params, neuron.init(params, x[0]), x)
    while not hasattr(states, "mem"):
        states = states.inner
    assert_allclose(states.mem[:, 0, 1], torch.tensor([0.0, 0.3, 0.3, 0.3]))


def test_refractory_counts_as_far_as_its_dtype():
    assert torch.tensor(256.0).bfloat16() - 1 == 255
    with pytest.raises(ValueError, match="counts to 256 only"):
        snf.refractory(snf.leaky, 257).init(optree.tree_map(torch.Tensor.bfloat16, LEAKY), X[0].bfloat16())


# ------------------------------------------------------------------------------------------------ adaptive_threshold


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_adaptive_threshold_rises_with_each_spike(reset):
    params = snf.AdaptiveThresholdParams(snf.LeakyParams(0.9, reset_mechanism=reset), decay=0.95, jump=0.3)
    neuron = snf.record(snf.adaptive_threshold(snf.leaky))
    (spks, states), _ = snf.scan(neuron.step, params, neuron.init(params, X[0]), X)
    mem, adapt = torch.zeros(4, 6), torch.zeros(4, 6)
    for t, x in enumerate(X):
        mem, threshold = params.inner.beta * mem + x, params.inner.threshold + adapt
        spk = (mem > threshold).float()
        mem = mem - spk * {"subtract": threshold, "zero": mem, "none": 0 * mem}[reset]
        adapt = params.decay * adapt + params.jump * spk
        assert_equal((spks[t], states.inner.mem[t], states.adapt[t]), (spk, mem, adapt))
    assert 0 < spks.mean() < run(snf.leaky_step, params.inner)[0].mean()


def test_adaptive_threshold_without_a_jump_is_the_immediate_reset():
    params = snf.AdaptiveThresholdParams(snf.SynapticParams(0.8, 0.7), decay=0.9, jump=0.0)
    for inner in (snf.synaptic, snf.immediate_reset(snf.synaptic)):
        neuron = snf.adaptive_threshold(inner)
        spks, state = snf.scan(neuron.step, params, neuron.init(params, X[0]), X)
        plain = snf.immediate_reset(snf.synaptic)
        expected = snf.scan(plain.step, params.inner, plain.init(params.inner, X[0]), X)
        assert_equal((spks, state.inner), expected)


def test_the_gradient_of_adaptive_threshold_flows_through_its_spikes():
    neuron = snf.adaptive_threshold(snf.leaky)
    last = lambda x: snf.scan(neuron.step, params, neuron.init(params, x[0]), x)[1].adapt.sum()
    params = snf.AdaptiveThresholdParams(LEAKY, 0.95, 0.3)
    slope = params.jump * grad(lambda u: LEAKY.spike_grad(u).sum())(X[:1, 0, 0] - 1)
    assert_allclose(grad(last)(X[:1, 0, :1])[:, 0], slope)


# ------------------------------------------------------------------------------------------------ the others


def test_noisy_adds_the_noise_that_it_is_given():
    neuron, noise = snf.noisy(snf.leaky), torch.randn(X.shape, generator=torch.Generator().manual_seed(1))
    params = snf.NoisyParams(LEAKY, std=torch.rand(6))
    outputs = snf.scan(neuron.step, params, neuron.init(params, (X[0], noise[0])), (X, noise))
    assert_equal(outputs, snf.scan(snf.leaky_step, LEAKY, snf.leaky_init(LEAKY, X[0]), X + params.std * noise))
    assert not torch.equal(outputs[0], run(snf.leaky_step, LEAKY)[0])


def test_record_gives_every_state():
    neuron = snf.record(snf.synaptic)
    (spks, states), last = snf.scan(neuron.step, SYNAPTIC, neuron.init(SYNAPTIC, X[0]), X)
    state = snf.synaptic_init(SYNAPTIC, X[0])
    for t, x in enumerate(X):
        spk, state = snf.synaptic_step(SYNAPTIC, state, x)
        assert_equal((spks[t], at(states, t)), (spk, state))
    assert_equal(last, state)


@pytest.mark.parametrize(
    "V", [torch.rand(6) - 0.5, snf.Linear(torch.randn(6, 6) / 3, torch.randn(6) / 3)], ids=["each", "all"]
)
def test_recurrent_leaky_is_rleaky(V):
    double = lambda tree: optree.tree_map(torch.Tensor.double, tree)
    xs, neuron = X.double(), snf.recurrent(snf.leaky)
    one, other = double((snf.RecurrentParams(LEAKY, V), snf.RLeakyParams(0.9, V)))
    weights = torch.randn_like(xs)

    def spikes(neuron, params):
        return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)[0]

    assert_equal(spikes(neuron, one), spikes(snf.rleaky, other))
    g = grad(lambda p: dot(spikes(neuron, p), weights))(one)
    expected = grad(lambda p: dot(spikes(snf.rleaky, p), weights))(other)
    assert_allclose((g.V, g.inner.beta, g.inner.threshold), (expected.V, expected.beta, expected.threshold))


def test_feedback_is_drawn_as_a_linear_layer_is():
    drawn = lambda make, **how: make(generator=torch.Generator().manual_seed(1), dtype=torch.float64, **how)
    for how in ({}, {"bias": False}):
        params = drawn(lambda **how: snf.RecurrentParams.random(LEAKY, 6, **how), **how)
        assert params.inner is LEAKY
        assert_equal(params.V, drawn(lambda **how: snf.Linear.random(6, 6, **how), **how))
    assert params.V.weight.shape == (6, 6) and params.V.weight.dtype == torch.float64 and not params.V.bias.any()


def test_a_whole_network_may_be_recurrent():
    net = snf.recurrent(snf.chain(snf.linear, snf.leaky))
    w, v = torch.randn(5, 6), torch.randn(6, 5) / 2
    params = snf.RecurrentParams((snf.Linear(w), LEAKY), snf.Linear(v))
    spks, _ = snf.scan(net.step, params, net.init(params, X[0]), X)
    spk, state = torch.zeros(4, 5), snf.leaky_init(LEAKY, torch.zeros(4, 5))
    for t, x in enumerate(X):
        spk, state = snf.leaky_step(LEAKY, state, (x + spk @ v.T) @ w.T)
        assert_equal(spks[t], spk)
    assert spks.sum() > 0


def test_filtered_is_the_spikes_through_an_exponential():
    neuron, params = snf.filtered(snf.leaky), snf.FilteredParams(LEAKY, decay=0.8)
    traces, state = snf.scan(neuron.step, params, neuron.init(params, X[0]), X)
    spks = run(snf.leaky_step, LEAKY)[0]
    kernel = params.decay ** torch.arange(30)
    for t in range(30):
        assert_allclose(traces[t], (kernel[: t + 1].flip(0)[:, None, None] * spks[: t + 1]).sum(0))
    assert torch.equal(state.trace, traces[-1])


# ------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", MODIFIED)
def test_a_modified_neuron_is_a_value(name):
    neuron, _ = MODIFIED[name]
    twin = pickle.loads(pickle.dumps(neuron))
    assert twin == neuron == copy.deepcopy(neuron) and hash(twin) == hash(neuron)
    assert dataclasses.replace(neuron.step) == neuron.step
    assert "leaky_step" in repr(neuron.step) and repr(neuron.step).startswith(type(neuron.step).__name__)


def test_a_step_is_modified_as_its_neuron_is():
    assert snf.refractory(snf.leaky, 2).step == snf.refractory(snf.leaky_step, 2) != snf.refractory(snf.leaky_step, 3)
    assert snf.refractory(snf.leaky, steps=2) == snf.refractory(step=snf.leaky, steps=2)
    assert snf.inhibit(snf.leaky).init is snf.leaky_init and snf.inhibit(snf.leaky).State is snf.LeakyState
    assert snf.noisy(snf.leaky)[:2] == (snf.NoisyParams, snf.LeakyState)
    assert snf.refractory(snf.leaky, 2)[:2] == (snf.LeakyParams, snf.RefractoryState)


def test_a_modified_step_starts_from_numbers():
    """As any step does: the first one gives a state its shape."""
    zero = torch.zeros(())
    for name in ("refractory", "adaptive_threshold", "recurrent", "filtered"):
        neuron, around = MODIFIED[name]
        params = around(LEAKY, torch.tensor)
        state = neuron.State(snf.LeakyState(zero), zero)
        for kind in ("auto", "loop"):
            given = snf.scan(neuron.step, params, state, X, kind=kind)
            assert_equal(given, snf.scan(neuron.step, params, neuron.init(params, X[0]), X, kind="loop"))


@needs_kernels
def test_a_modified_neuron_is_a_layer():
    net = snf.chain(snf.linear, snf.refractory(snf.leaky, 2), snf.filtered(snf.leaky))
    params = (snf.Linear(torch.randn(5, 6)), LEAKY, snf.FilteredParams(LEAKY, 0.8))
    args = params, net.init(params, X[0]), X
    assert [part.how for part in snf.explain(net.step, *args).stages] == ["once", "kernel"]  # both in one
    assert_allclose(snf.scan(net.step, *args), snf.scan(net.step, *args, kind="loop"))


# ------------------------------------------------------------------------------------------------ refusals

REFUSED = {
    "no step": (lambda: snf.inhibit(LEAKY), TypeError, r"inhibit\(...\) takes a neuron or its step, inhibit\(leaky\)"),
    "a count that is none": (lambda: snf.refractory(snf.leaky, 0), ValueError, "steps=0.: expected a whole number"),
    "a count that is not whole": (lambda: snf.refractory(snf.leaky, 2.0), ValueError, "steps=2.0.: expected a whole number"),
    "inhibit after the reset": (
        lambda: snf.inhibit(snf.immediate_reset(snf.leaky)),
        ValueError,
        r"immediate_reset goes outside, immediate_reset\(inhibit\(neuron\)\)",
    ),
    "quantize after inhibit": (
        lambda: snf.quantize(snf.inhibit(snf.leaky), HARD),
        ValueError,
        r"inhibit goes outside, inhibit\(quantize\(neuron\)\)",
    ),
    "no membrane": (
        lambda: once(snf.inhibit(snf.refractory(snf.leaky, 2)), LEAKY),
        TypeError,
        r"reads `mem`, which RefractoryState does not have. It goes inside: refractory\(inhibit\(neuron\)\)",
    ),
    "no threshold": (
        lambda: once(snf.adaptive_threshold(snf.noisy(snf.leaky)), snf.AdaptiveThresholdParams(noisily, 0.9, 0.1), (X[0], X[0])),
        TypeError,
        r"reads `threshold`, which NoisyParams does not have. It goes inside: noisy\(adaptive_threshold\(neuron\)\)",
    ),
    "no choice of a reset": (
        lambda: once(snf.adaptive_threshold(snf.izhikevich), snf.AdaptiveThresholdParams(snf.IzhikevichParams(), 0.9, 0.1)),
        TypeError,
        "adaptive_threshold reads `reset_mechanism`, which IzhikevichParams does not have.$",
    ),
    "two outputs": (
        lambda: once(snf.refractory(snf.record(snf.leaky), 2), LEAKY),
        TypeError,
        r"gives its spikes alone, but tuple came. `record` goes outside: record\(refractory\(neuron\)\)",
    ),
    "params without a modifier's": (
        lambda: once(snf.filtered(snf.leaky), LEAKY),
        TypeError,
        r"FilteredParams\(inner, ...\), around the tree of the neuron inside, was expected, but a LeakyParams came",
    ),
    "a state without a modifier's": (
        lambda: snf.refractory(snf.leaky_step, 2)(LEAKY, snf.leaky_init(LEAKY, X[0]), X[0]),
        TypeError,
        r"RefractoryState\(inner, ...\), around the tree of the neuron inside, was expected, but a LeakyState came",
    ),
    "a network held": (
        lambda: once(snf.refractory(snf.chain(snf.leaky, snf.linear), 2), (LEAKY, snf.Linear(torch.randn(3, 6)))),
        ValueError,
        r"\(4, 6\) stands in the state of spikes \(4, 3\). In a network hold the layer: chain",
    ),
    "noise that is missing": (lambda: once(snf.noisy(snf.leaky), noisily), TypeError, "a pair of tensors .x, noise., not Tensor"),
    "noise of another dtype": (
        lambda: once(snf.noisy(snf.leaky), noisily, (X[0], X[0].double())),
        TypeError,
        "x is torch.float32, its noise torch.float64",
    ),
    "noise of whole numbers": (
        lambda: once(snf.noisy(snf.leaky), noisily, (X[0] > 0, X[0] > 0)),
        TypeError,
        "its noise torch.bool. Expected one floating dtype",
    ),
    "noise of another shape": (
        lambda: once(snf.noisy(snf.leaky), noisily, (X[0], X[0, 0])),
        ValueError,
        r"x has shape \(4, 6\), its noise \(6,\). Expected one shape: noise.expand_as\(x\)",
    ),
    "feedback of noise": (
        lambda: once(snf.recurrent(snf.noisy(snf.leaky)), snf.RecurrentParams(noisily, 0.5), (X[0], X[0])),
        TypeError,
        r"`noisy` goes outside: noisy\(recurrent\(neuron\)\)",
    ),
    "feedback to elsewhere": (
        lambda: once(snf.recurrent(snf.leaky), snf.RecurrentParams(LEAKY, snf.Linear(torch.randn(1, 6)[[0] * 5]))),
        ValueError,
        r"V leads from spikes \(4, 6\) to \(4, 5\), the input is \(4, 6\)",
    ),
    "feedback by what is none": (lambda: snf.RecurrentParams(LEAKY, "all"), TypeError, "RecurrentParams.V='all'.: V is a leaf"),
}  # fmt: skip
noisily = snf.NoisyParams(LEAKY, 0.1)


def once(neuron, params, input=X[0]):
    return neuron.step(params, neuron.init(params, input), input)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_modified_is_refused(case):
    call, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        call()


def test_a_silenced_spike_is_not_fed_back_from_within_a_chain():
    params, xs = snf.RecurrentParams(snf.LeakyParams(0.9), torch.tensor(2.0)), torch.full((8, 1, 1), 0.6)
    plain, chained = (
        snf.refractory(layer, 2) for layer in (snf.recurrent(snf.leaky), snf.chain(snf.recurrent(snf.leaky)))
    )
    right = snf.scan(plain.step, params, plain.init(params, xs[0]), xs)[0]
    found = snf.scan(chained.step, (params,), chained.init((params,), xs[0]), xs)[0]
    assert right.any() and torch.equal(found, right)


class Scaling(Protocol):
    def scale(self) -> float: ...


T = TypeVar("T")


@dataclasses.dataclass(frozen=True, repr=False)
class Scaled(Modifier, Scaling):
    step: Any
    factor: float = 2.0

    def scale(self):
        return self.factor

    def __call__(self, params, state, input):
        return self.step(params, state, self.scale() * input)


@dataclasses.dataclass(frozen=True, repr=False)
class OfABase(Scaled, abc.ABC, Generic[T]):
    pass


@dataclasses.dataclass(frozen=True, repr=False)
class OfAStart(Modifier):
    step: Any
    start: dataclasses.InitVar[float]

    def __post_init__(self, start):
        object.__setattr__(self, "factor", start)

    __call__, scale = Scaled.__call__, Scaled.scale


@dataclasses.dataclass(frozen=True, repr=False, init=False)
class OfSeveral(Modifier):
    step: Any
    factors: tuple[float, ...]

    def __init__(self, step, *factors):
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "factors", factors)

    def scale(self):
        return sum(self.factors)

    __call__ = Scaled.__call__


class OfNoDataclass(Modifier):
    def __init__(self, step, factor):
        self.step, self.factor = step, factor

    __call__, scale = Scaled.__call__, Scaled.scale


@pytest.mark.parametrize(
    "modified",
    [
        lambda: Scaled(snf.leaky),
        lambda: Scaled(snf.leaky, factor=2.0),
        lambda: OfABase(snf.leaky, 2.0),
        lambda: OfAStart(snf.leaky, 2.0),
        lambda: OfSeveral(snf.leaky, 1.0, 0.5, 0.5),
        lambda: OfNoDataclass(snf.leaky, 2.0),
    ],
)
def test_a_users_modifier_is_made_as_python_makes_it(modified):
    net, xs = modified(), torch.rand(5, 2, 3)
    assert isinstance(net, snf.Neuron)
    spks, _ = snf.scan(net.step, LEAKY, net.init(LEAKY, xs[0]), xs)
    assert torch.equal(spks, snf.scan(snf.leaky_step, LEAKY, snf.leaky.init(LEAKY, xs[0]), 2 * xs)[0]) and spks.any()


@needs_torch("2.6", "before, torch.compile reads no class that is made within it")
def test_a_modifier_is_made_within_compiled_code():
    def f(x):
        net = snf.refractory(snf.leaky, 3)
        return net.step(LEAKY, net.init(LEAKY, x), x)[0]

    x = torch.rand(2, 3) + 0.5
    assert torch.equal(torch.compile(f, backend="eager", fullgraph=True)(x), f(x)) and f(x).any()
