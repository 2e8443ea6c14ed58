"""The platforms that no test can import, against their maps in plain numpy; the traces that four published; and what is refused.

Norse, snnTorch, SpikingJelly, sinabs, Spyx and jaxpike themselves are in test_peer_*.py.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_allclose, assert_equal, law, needs_kernels
from hypothesis import given, strategies as st
from torch.func import grad, vmap

import snn_functional as snf


platforms = snf.platforms
TRACES = Path(__file__).parents[2] / "shared" / "nir"
share, tau, threshold = st.floats(0.3, 0.95), st.floats(1.5, 50.0), st.sampled_from([0.25, 0.5, 1.0, 1.7])
seeds = st.integers(0, 2**16)


def drawn(seed, T=200, n=6):
    """Currents in float64, and coarse ones for half of the neurons, which meet thresholds exactly."""
    xs = np.random.default_rng(seed).normal(0.4, 0.8, (T, n))
    xs[:, ::2] = np.round(4 * xs[:, ::2]) / 4
    return xs


def double(x):
    return torch.as_tensor(x, dtype=torch.float64)


def run(neuron, params, xs):
    recorded, xs = snf.record(neuron), double(xs)
    (spks, states), _ = snf.scan(recorded.step, params, recorded.init(params, xs[0]), xs, kind="loop")
    return spks.numpy(), states.mem.numpy()


def loop(xs, step, *state):
    """`step(x, *state) -> (spike, membrane, *state)`, over time: spikes and membranes."""
    outputs = []
    for x in xs:
        spike, membrane, *state = step(x, *state)
        outputs.append((spike, membrane))
    return tuple(np.stack(column) for column in zip(*outputs))


def same(ours, theirs):
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-12, atol=1e-12)
    assert theirs[0].any()


@law
@given(seed=seeds, tau=tau, tau_syn=tau, threshold=threshold, most=st.sampled_from([None, 1, 2]))
@pytest.mark.fidelity(
    model="lif, cuba_lif (`platforms.rockpool`)",
    reference="Rockpool 3.0, the loop of `LIFTorch` in numpy",
    compared="spikes and membranes of 200 drawn steps, float64",
    closely="spikes equal, membranes to 1e-12",
    differs="no noise; ATan for its surrogate",
)
def test_rockpool(seed, tau, tau_syn, threshold, most):
    a, b, dt = np.exp(-1e-3 / (tau * 1e-3)), np.exp(-1e-3 / (tau_syn * 1e-3)), 1e-3

    def step(x, v, i):
        v, i = a * v, b * (i + x)
        v = v + i
        s = np.minimum((v > 0) * np.floor(v / threshold), most or np.inf)
        return s, v - s * threshold, v - s * threshold, i

    xs = drawn(seed)
    xs[0] += 9 * threshold
    numbers = {"dt": dt, "threshold": double(threshold), "most": most}
    ours = run(*platforms.rockpool(double(tau * dt), double(tau_syn * dt), **numbers), xs)
    same(ours, loop(xs, step, 0 * xs[0], 0 * xs[0]))
    assert ours[0].max() == most or not most and ours[0].max() > 2


@law
@given(seed=seeds, current_decay=share, voltage_decay=share, threshold=threshold)
@pytest.mark.fidelity(
    model="cuba_lif (`platforms.lava`)",
    reference="lava-dl, the CUBA neuron of its slayer in floating point, in numpy",
    compared="spikes of 200 drawn steps, float64",
    closely="equal",
    differs="its integers of 12 bits; its gradient, which passes through the reset; its voltage is that before the reset",
)
def test_lava(seed, current_decay, voltage_decay, threshold):
    def step(x, v, i):
        i = (1 - current_decay) * i + x
        v = (1 - voltage_decay) * v + i
        s = (v > threshold).astype(float)
        return s, v * (1 - s), v * (1 - s), i

    xs = drawn(seed)
    numbers = double(current_decay), double(voltage_decay)
    same(run(*platforms.lava(*numbers, threshold=double(threshold)), xs), loop(xs, step, 0 * xs[0], 0 * xs[0]))


def in_integers(xs, current_decay, voltage_decay, threshold, scale=1 << 12):
    """The loop of lava-dl's `leaky_integrator`, with its rounding towards 0."""
    shifted = lambda x: np.sign(x) * (np.abs(x) >> 12)
    du, dv = (np.round(x * 4096).astype(np.int64) for x in (current_decay, voltage_decay))
    u, v, spikes = np.zeros(xs.shape[1:], np.int64), np.zeros(xs.shape[1:], np.int64), []
    for x in xs:
        u = shifted(u * (4096 - du)) + (scale * x).astype(np.int64)
        v = shifted(v * (4096 - dv)) + u
        spikes.append(v >= scale * threshold + 0.01)
        v = v * ~spikes[-1]
    return np.stack(spikes)


@pytest.mark.fidelity(
    model="cuba_lif (`platforms.lava`)",
    reference="lava-dl, the same in its integers, in numpy",
    compared="number of spikes in 1200 neuron steps, decays of 1/8 and 1/4",
    closely="to 2 %",
    differs="rounding, after which spikes fall into other steps",
)
def test_lava_in_integers():
    xs = drawn(0) / 8
    spks, _ = run(*platforms.lava(0.125, 0.25), xs)
    theirs = in_integers(xs, 0.125, 0.25, 1.0)
    assert 200 < theirs.sum() and abs(theirs.sum() - spks.sum()) < 0.02 * theirs.sum()


@law
@given(seed=seeds, beta=share, alpha=share, threshold=threshold, kind=st.sampled_from(["simple", "value", "subtract"]))
@pytest.mark.fidelity(
    model="lif, cuba_lif (`platforms.snnax`)",
    reference="snnax, `SimpleLIF`, `LIF` and `LIFSoftReset` in numpy",
    compared="spikes of 200 drawn steps, float64",
    closely="equal",
    differs="where its reset to a value is detached, its gradient passes on; ATan for its surrogate",
)
def test_snnax(seed, beta, alpha, threshold, kind):
    a, b, reset = max(beta, 0.5), max(alpha, 0.5), -0.25
    fires = lambda v: (v >= threshold).astype(float)

    def simple(x, v):
        v = a * v + (1 - a) * x
        s = fires(v)
        return s, v - v * s, v - v * s

    def step(x, v, i, s):
        v = v - (s * threshold if kind == "subtract" else (v - reset) * s)
        v, i = a * v + (1 - a) * i, b * i + (1 - b) * x
        s = fires(v)
        return s, v, v, i, s

    xs = 3 * drawn(seed)
    xs[:50] += 3 * threshold
    if kind == "simple":
        same(run(*platforms.snnax(double(beta), threshold=double(threshold)), xs), loop(xs, simple, 0 * xs[0]))
    else:
        numbers = {"threshold": double(threshold), "reset": double(reset), "reset_mechanism": kind}
        spks, _ = run(*platforms.snnax(double(beta), double(alpha), **numbers), xs)
        theirs, _ = loop(xs, step, 0 * xs[0], 0 * xs[0], 0 * xs[0])
        np.testing.assert_array_equal(spks, theirs)
        assert theirs.any()


@law
@given(seed=seeds, tau=tau, threshold=threshold)
@pytest.mark.fidelity(
    model="lif (`platforms.nengo`)",
    reference="Nengo 4, the step of `LIF` in numpy, tau_ref 0",
    compared="spikes and membranes of 200 drawn steps, float64",
    closely="spikes equal, membranes to 1e-12",
    differs="no refractory time, no floor at 0; a spike is 1, not 1 / dt",
)
def test_nengo(seed, tau, threshold):
    def step(J, v):
        v = v - (J - v) * np.expm1(-1e-3 / (tau * 1e-3))
        s = (v > threshold).astype(float)
        return s, v * (1 - s), v * (1 - s)

    xs = np.abs(4 * threshold * drawn(seed))
    same(
        run(*platforms.nengo(double(tau * 1e-3), threshold=double(threshold)), xs),
        loop(xs, step, 0 * xs[0]),
    )


PUBLISHED = {  # of the graph tau = 2.5e-3, r = 1, threshold 0.1, dt = 1e-4; and the scale of the membrane there
    "norse": (lambda n: platforms.norse(n(2.5e-3), dt=1e-4, threshold=n(0.1)), 1),
    "nengo": (lambda n: platforms.nengo(n(2.5e-3), dt=1e-4, threshold=n(0.1)), 10),
    "rockpool": (lambda n: platforms.rockpool(n(2.5e-3), None, dt=1e-4, gain=n(0.04), threshold=n(0.1)), 1),
    "spyx": (lambda n: platforms.spyx(n(0.96), threshold=n(2.5)), 1 / 25),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.skipif(not TRACES.exists(), reason="the traces of the paper on NIR are not in ../shared/nir")
@pytest.mark.fidelity(
    model="lif (`platforms.norse`, `nengo`, `rockpool`, `spyx`)",
    reference="traces that the platforms published with NIR (Pedersen et al. 2024)",
    compared="input, voltage and spikes of 1000 steps of 0.1 ms",
    closely="spikes equal, voltage to 1e-7",
    differs="scales of the voltage",
)
def test_published_traces(name):
    make, scale = PUBLISHED[name]
    xs, voltage, spikes = np.loadtxt(TRACES / f"lif_{name}.csv", delimiter=",").T
    spks, mem = run(*make(double), xs[:, None])
    np.testing.assert_array_equal(spks[:, 0], spikes)
    np.testing.assert_allclose(mem[:, 0] * scale, voltage, atol=1e-7 * max(scale, 1))


# ------------------------------------------------------------------------------------------------ all of them


EACH = {
    "norse": lambda tau: platforms.norse(tau, dt=0.5),
    "norse with a current": lambda tau: platforms.norse(tau, 2 * tau, dt=0.5),
    "spikingjelly": platforms.spikingjelly,
    "spikingjelly without decay": lambda tau: platforms.spikingjelly(tau, decay_input=False),
    "sinabs": platforms.sinabs,
    "sinabs with a current": lambda tau: platforms.sinabs(tau, tau / 2),
    "rockpool": lambda tau: platforms.rockpool(tau, tau / 2, dt=0.5),
    "jaxpike": platforms.jaxpike,
    "nengo": lambda tau: platforms.nengo(tau, dt=0.5),
    "snntorch": lambda tau: platforms.snntorch(torch.exp(-1 / tau)),
    "spyx": lambda tau: platforms.spyx(torch.exp(-1 / tau), torch.exp(-2 / tau)),
    "lava": lambda tau: platforms.lava(1 / tau, 2 / tau),
    "snnax": lambda tau: platforms.snnax(torch.exp(-1 / tau), torch.exp(-2 / tau)),
}


@pytest.mark.parametrize("name", EACH)
def test_tau_is_learned_per_neuron(name):
    """Its gradient is that of finite differences where nothing fires, and vmap takes populations of it."""
    taus, xs = double([4.0, 9.0, 20.0]), double(drawn(0, T=12, n=3)) * 0.01

    def mean(tau):
        neuron, params = EACH[name](tau)
        params = dataclasses.replace(params, detach_reset=True)  # or a surrogate's slope would come by the reset
        return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs, kind="loop")[1].mem.sum()

    slope = grad(mean)(taus)
    for i, unit in enumerate(1e-5 * torch.eye(3, dtype=torch.float64)):
        np.testing.assert_allclose(slope[i], (mean(taus + unit) - mean(taus - unit)) / 2e-5, rtol=1e-5)
    assert slope.all()
    population = torch.stack([taus, taus + 1])
    assert_equal(vmap(mean)(population), torch.stack([mean(tau) for tau in population]))


@needs_kernels
@pytest.mark.parametrize("name", EACH)
def test_a_platform_is_one_kernel(name):
    neuron, params = EACH[name](torch.tensor([4.0, 9.0, 20.0]))
    xs = torch.rand(20, 2, 3)
    assert snf.explain(neuron.step, params, neuron.init(params, xs[0]), xs).kind == "fused"


@needs_kernels
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_several_spikes_in_a_kernel(reset):
    """The loop's bits, and its gradients to rounding."""
    neuron, params = platforms.sinabs(torch.tensor([4.0, 9.0, 20.0]), norm_input=False, most=3, reset_mechanism=reset)
    xs = 3 * torch.rand(20, 2, 3)
    run = lambda kind: lambda xs: snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs, kind=kind)
    spks, _ = run("loop")(xs)
    assert spks.unique().tolist() == [0, 1, 2, 3]
    assert_equal(run("fused")(xs), run("loop")(xs))
    slope = lambda kind: grad(lambda xs: (run(kind)(xs)[0] * xs.detach()).sum())(xs)
    assert_allclose(slope("fused"), slope("loop"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tau", [0.0, -1.0, torch.tensor([0.01, 0.0]), float("nan")])
@pytest.mark.parametrize("name", ["norse", "spikingjelly", "sinabs", "rockpool", "jaxpike", "nengo"])
def test_refuses_time_constants_that_are_none(name, tau):
    with pytest.raises(ValueError, match=rf"platforms.{name}\(tau=.*: expected a time constant above 0"):
        getattr(platforms, name)(tau)
    if name in ("norse", "sinabs", "rockpool"):
        with pytest.raises(ValueError, match=rf"platforms.{name}\(tau_syn=.*: expected a time constant above 0"):
            getattr(platforms, name)(10.0, tau)


@pytest.mark.parametrize("name", ["norse", "rockpool", "jaxpike", "nengo"])
def test_refuses_steps_of_no_length(name):
    for dt in (0.0, -1e-3, float("nan")):
        with pytest.raises(ValueError, match=rf"platforms.{name}\(dt={dt}\): expected a step longer than 0"):
            getattr(platforms, name)(1.0, dt=dt)


def test_refuses_what_is_no_number():
    with pytest.raises(TypeError, match=r"expected a number or a tensor, one number a neuron, but \[0.1, 0.2\] came"):
        platforms.norse([0.1, 0.2])
    with pytest.raises(
        ValueError, match=r"platforms.sinabs\(threshold=.*: expected a threshold above 0: it is counted how often"
    ):
        platforms.sinabs(10.0, threshold=0.0)
    platforms.sinabs(10.0, threshold=0.0, most=1)


def test_refuses_steps_that_overshoot():
    with pytest.raises(ValueError, match=r"norse\(tau=0.0001\): Euler steps of 0.001 overshoot.*Expected tau >= 0.001"):
        platforms.norse(tau=1e-4)
    with pytest.raises(ValueError, match=r"norse\(tau_syn=0.0001\): Euler"):
        platforms.norse(1e-2, 1e-4)
    with pytest.raises(ValueError, match=r"spikingjelly\(tau=0.5\): Euler steps of 1 overshoot"):
        platforms.spikingjelly(0.5)
    platforms.norse(tau=1e-3)


@pytest.mark.parametrize(
    "make, known",
    [
        (lambda: platforms.norse(reset_mechanism="zero"), "'value' and 'subtract'"),
        (lambda: platforms.norse(1e-2, 1e-2, reset_mechanism="subtract"), "'value'"),
        (lambda: platforms.snntorch(0.9, reset_mechanism="value"), "'subtract' and 'zero' and 'none'"),
        (lambda: platforms.spikingjelly(reset_mechanism="none"), "'value' and 'subtract'"),
        (lambda: platforms.sinabs(10.0, reset_mechanism="value"), "'subtract' and 'zero'"),
        (lambda: platforms.jaxpike(reset_mechanism="none"), "'subtract' and 'zero'"),
        (lambda: platforms.snnax(0.9, reset_mechanism="subtract"), "'value'"),
    ],
)
def test_refuses_resets_that_the_platform_does_not_have(make, known):
    with pytest.raises(ValueError, match=f"the platform has {known}"):
        make()


@pytest.mark.parametrize("most", [0, 1.5, True])
def test_refuses_numbers_of_spikes_that_are_none(most):
    with pytest.raises(ValueError, match=rf"platforms.sinabs\(most={most}\): expected a number of spikes"):
        platforms.sinabs(10.0, most=most)


def test_sinabs_without_tau_is_an_integrator():
    neuron, params = platforms.sinabs(None)
    xs = torch.full((8, 1), 0.25)
    spks, _ = snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)
    assert spks[:, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
