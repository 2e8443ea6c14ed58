"""Mixed precision: products may be half; what is carried from step to step, compared and decayed has the parameters' dtype."""

import dataclasses
import functools

import optree
import pytest
import torch
from helpers import (
    assert_allclose,
    assert_equal,
    at,
    CASES,
    each_case,
    FUSED,
    needs_torch,
    ONE_EACH,
    some_neurons,
    sweep,
    UNITS,
)
from torch import nn
from torch.func import grad

import snn_functional as snf
from snn_functional import snn


HALF = [torch.bfloat16, torch.float16]
half = functools.partial(torch.autocast, "cpu", torch.bfloat16)


def dtypes(*trees):
    return {x.dtype for x in optree.tree_leaves(trees)}


def cast(tree, dtype):
    return optree.tree_map(lambda x: x.to(dtype), tree)


@each_case
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_half_input_is_the_same_numbers_in_the_params_dtype(case, dtype):
    for params in (case.params(), case.params(4))[not case.pointwise :]:
        inputs = cast(case.inputs(), dtype)
        run = lambda inputs, params=params: snf.scan(
            case.neuron.step, params, case.neuron.init(params, at(inputs, 0)), inputs, kind="loop"
        )
        assert_equal(run(inputs), run(cast(inputs, torch.float32)))
        assert dtypes(run(inputs)) == {torch.float32}


@sweep("case", [case for case in ONE_EACH if case.pointwise], of=("leaky", "adlif", "lif", "refractory", "synaptic"))
@pytest.mark.parametrize("kind", [pytest.param("loop", marks=pytest.mark.slow), FUSED])
def test_a_slow_leak_beside_half_products(case, kind):
    """What half precision loses: small currents into a large membrane, for many steps. The products of a step are half, nothing else."""
    params = optree.tree_map(lambda x: 0.99 * torch.ones_like(x), case.params(1))
    if case.name == "alpha":  # which divides by the difference of its decays
        params = dataclasses.replace(params, alpha=0.995)
    if case.name == "balanced_resonate_and_fire":  # whose steps are short, or it grows without bounds
        params = dataclasses.replace(params, dt=0.01)
    one = torch.full((500, 1, 1), 0.012 * UNITS.get(case.name, 1))
    with half():
        inputs = torch.nn.functional.linear(one, torch.eye(1))
        rest = case.neuron.init(params, at(inputs, 0))
        found = snf.scan(case.neuron.step, params, rest, inputs, kind=kind)
    assert inputs.dtype == torch.bfloat16
    wide = cast(inputs, torch.float32)
    expected = snf.scan(case.neuron.step, params, case.neuron.init(params, at(wide, 0)), wide, kind=kind)
    assert_equal(found, expected)
    if case.name == "leaky" and case.choices["reset_mechanism"] == "subtract":
        assert found[0].sum() == 2


@some_neurons
def test_under_autocast_the_state_and_the_spikes_are_float32(case):
    """Also of a neuron whose own products are half: its numbers are off by their rounding."""
    world = case.world()
    with half():
        kept = snf.scan(*world, kind="loop")
        planned = snf.scan(*world)
        rest = case.neuron.init(world.params, at(world.inputs, 0))
    assert dtypes(kept, planned, rest) == {torch.float32}
    if case.pointwise:
        assert_equal(kept, snf.scan(*world, kind="loop"))


SUMS = needs_torch("2.4", "torch 2.0 adds up products of bfloat16 in bfloat16: over all of time they stand still")


@pytest.mark.parametrize(
    "kind", ["loop", pytest.param("checkpointed", marks=pytest.mark.slow), pytest.param("auto", marks=SUMS)]
)
@pytest.mark.parametrize("per_neuron", [False, True])
def test_a_chain_under_autocast(kind, per_neuron):
    net = snf.chain(snf.linear, snf.leaky, snf.linear, snf.leaky)
    beta = torch.full((1,), 0.99) if per_neuron else 0.99
    params = (
        snf.Linear(torch.tensor([[0.012]])),
        snf.LeakyParams(beta),
        snf.Linear(torch.ones(1, 1)),
        snf.LeakyParams(0.0, 0.5),
    )
    xs = torch.ones(500, 1, 1)

    def loss(params):
        spks, state = snf.scan(net.step, params, net.init(params, xs[0]), xs, kind=kind)
        return spks.sum(), (spks, state)

    expected, _ = grad(loss, has_aux=True)(params)
    with half():
        found, (spks, state) = grad(loss, has_aux=True)(params)
    assert spks.sum() == 2 and dtypes(spks, state, found) == {torch.float32}
    assert_allclose(found, expected, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("kind", ["loop", "auto"])
def test_products_follow_one_another_under_autocast(kind):
    net = snf.chain(snf.linear, snf.linear, snf.leaky)
    params = snf.Linear(torch.rand(4, 3)), snf.Linear(torch.rand(2, 4)), snf.LeakyParams(0.5)
    xs = torch.rand(5, 1, 3)
    with half():
        spks, state = snf.scan(net.step, params, net.init(params, xs[0]), xs, kind=kind)
        inputs = nn.functional.linear(nn.functional.linear(xs, params[0].weight), params[1].weight)
    expected = snf.scan(snf.leaky_step, params[2], snf.leaky_init(params[2], inputs[0].float()), inputs, kind="loop")
    assert_equal((spks, state[-1]), expected)


def test_what_is_read_under_autocast_is_not_run_without():
    world = next(case for case in CASES if case.name == "slstm").world()
    with half():
        snf.scan(*world)
    assert_allclose(snf.scan(*world), snf.scan(*world, kind="loop"), rtol=1e-5, atol=1e-5)


def test_half_params_stay_half_and_numbers_do_not_decide():
    x = torch.rand(3, 4).bfloat16()
    numbers, neurons = snf.LeakyParams(0.9), snf.LeakyParams(torch.full((4,), 0.9, dtype=torch.bfloat16))
    assert snf.leaky_init(neurons, x).mem.dtype == torch.bfloat16  # its threshold is a number
    assert snf.leaky_init(cast(numbers, torch.bfloat16), x).mem.dtype == torch.bfloat16
    assert snf.leaky_init(numbers, x).mem.dtype == torch.float32
    with pytest.raises(TypeError, match="LeakyState.mem is torch.bfloat16 and cannot hold an input of torch.float32"):
        snf.leaky_step(numbers, snf.LeakyState(x), x)


FACES = {
    "Leaky": lambda **k: snn.Leaky(0.99, **k),
    "Leaky per neuron": lambda **k: snn.Leaky(torch.full((1,), 0.99), **k),
    "Leaky without delay": lambda **k: snn.Leaky(0.99, reset_delay=False, **k),
    "Synaptic": lambda **k: snn.Synaptic(torch.zeros(1), 0.99, **k),
    "Lapicque": lambda **k: snn.Lapicque(0.99, **k),
    "Alpha": lambda **k: snn.Alpha(0.9, 0.8, threshold=0.01, **k),
    "RLeaky": lambda **k: snn.RLeaky(0.99, V=0.0, all_to_all=False, **k),
    "RLeaky linear": lambda **k: snn.RLeaky(0.99, linear_features=1, **k),
    "RSynaptic": lambda **k: snn.RSynaptic(0.0, 0.99, V=torch.zeros(1), all_to_all=False, **k),
    "SLSTM": lambda **k: snn.SLSTM(1, 1, threshold=0.0, **k),
    "DeltaLeaky": lambda **k: snn.DeltaLeaky(0.005, beta=0.99, **k),
}


@pytest.mark.parametrize("which", FACES)
def test_faces_under_autocast(which):
    """Step by step and by `run`: float32, and the spikes that float32 has at the rounded currents."""
    torch.manual_seed(0)
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.012)
    net = nn.Sequential(layer, FACES[which](init_hidden=True, output=True))
    xs = torch.ones(500, 1, 1)
    flat = lambda out: [out[0], *(out[1] if isinstance(out[1], tuple) else out[1:])]
    with half(), torch.no_grad():
        steps = [torch.stack(part) for part in zip(*(flat(net(x)) for x in xs))]
        held = net[1].held()
        snn.utils.reset(net)
        run = flat(snn.run(net, xs))
        snn.utils.reset(net)
        currents = layer(xs)
    assert currents.dtype == torch.bfloat16 and dtypes(steps, run, held) == {torch.float32}
    if which in ("RLeaky linear", "SLSTM"):  # whose own products are half
        return
    wide = [torch.stack(part) for part in zip(*(flat(net[1](x)) for x in currents.float()))]
    assert_equal(steps, wide)
    assert_allclose(run, wide)
    assert wide[0].sum() == 2 or which not in ("Leaky", "Leaky per neuron", "RLeaky", "Synaptic", "RSynaptic")


WHOLE = {
    "StateLeaky": lambda: snn.StateLeaky(0.99, 1),
    "StateLeaky parallel": lambda: snn.StateLeaky(torch.full((1,), 0.99), 1, kind="parallel"),
    "LinearLeaky": lambda: snn.LinearLeaky(0.99, 1, 1, bias=False),
    "LeakyParallel": lambda: snn.LeakyParallel(1, 1, beta=0.99, bias=False),
    "AssociativeLeaky": lambda: snn.AssociativeLeaky(1, 2, 2, use_q_projection=False),
    "AssociativeLeaky parallel": lambda: snn.AssociativeLeaky(1, 2, 2, use_q_projection=False, kind="parallel"),
}


@pytest.mark.parametrize("which", WHOLE)
def test_faces_of_whole_sequences_under_autocast(which):
    layer, xs = WHOLE[which](), torch.full((500, 1, 1), 0.012)
    expected = layer(xs)
    with half():
        for x in (xs, torch.nn.functional.linear(xs, torch.eye(1))):
            found = layer(x)
            assert dtypes(found) == {torch.float32}
            if isinstance(found, tuple):
                assert_allclose(found[1], expected[1], rtol=0.01, atol=1e-3)


@sweep("case", [case for case in CASES if not case.pointwise], of=("slstm", "rleaky-linear"))
def test_gradients_under_autocast_are_those_of_rounded_products(case):
    world = case.world()
    loss = lambda params: sum(
        x.square().mean() for x in optree.tree_leaves(snf.scan(world.step, params, *world[2:])[1])
    )
    with half():
        found = grad(loss)(world.params)
    assert dtypes(found) == {torch.float32} and all(x.isfinite().all() for x in optree.tree_leaves(found))
