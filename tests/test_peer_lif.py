"""`snf.platforms` against the installed Norse 1.1.0, snnTorch 1.0.0, SpikingJelly 2.0.0 and sinabs 3.1.3: drawn numbers, choices and
inputs, forward and gradient. Skipped where they are not installed; `.ci/peers` installs them in a virtual environment of their own.

Half of the inputs are quarters, so that membranes meet thresholds exactly. Surrogates are the platforms' own, of the same formula.
"""

import importlib

import pytest
import torch
from helpers import assert_equal
from hypothesis import given, settings, strategies as st

import snn_functional as snf


pytestmark = [pytest.mark.filterwarnings("ignore")]  # of the peers
platforms = snf.platforms
law = settings(max_examples=20, deadline=None, derandomize=True)
share, threshold = st.floats(0.3, 1.0), st.sampled_from([0.25, 0.5, 1.0, 1.7])
level = st.sampled_from([0.0, -0.3, 0.25])
common = {"seed": st.integers(0, 2**16), "dtype": st.sampled_from([torch.float32, torch.float64])}


def peer(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: .ci/peers")


def world(seed, dtype, scale=1.0, coarse=True, T=60, n=6):
    """Inputs [T, n], which are learned, a function that makes numbers of this dtype, and weights of spikes and membranes."""
    torch.manual_seed(seed)
    xs = 0.8 * torch.randn(T, n, dtype=dtype) + 0.4
    if coarse:
        xs[:, ::2] = (4 * xs[:, ::2]).round() / 4
    number = lambda x: torch.as_tensor(x, dtype=dtype).clone().requires_grad_()
    return (scale * xs).requires_grad_(), number, torch.randn(2, T, n, dtype=dtype)


def ours(neuron, params, xs):
    recorded = snf.record(neuron)
    (spks, states), _ = snf.scan(recorded.step, params, recorded.init(params, xs[0]), xs, kind="loop")
    return spks, states.mem


def theirs(step, xs, *state):
    """`step(x, *state) -> (spike, membrane, *state)`, over time."""
    outputs = []
    for x in xs.unbind():
        spike, membrane, *state = step(x, *state)
        outputs.append((spike, membrane))
    return tuple(torch.stack(column) for column in zip(*outputs))


def same(mine, other, learned, weights, exact=True, gradient=torch.float64):
    """The same spikes and membranes, bit for bit where `exact`, and the same gradients of a mixture of them, to the rounding of this
    dtype or the inputs'."""
    assert_equal(mine[0], other[0])
    if exact:
        assert_equal(mine[1], other[1])
    precise = mine[0].dtype == torch.float64
    torch.testing.assert_close(mine[1], other[1], **dict.fromkeys(("rtol", "atol"), 1e-12 if precise else 1e-5))
    close = {"rtol": 1e-9, "atol": 1e-9} if precise and gradient == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
    gradients = [
        torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, outputs)), learned) for outputs in (mine, other)
    ]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, **close)
        assert b.any()


@law
@given(tau=share, leak=level, reset=level, threshold=threshold, subtract=st.booleans(), **common)
@pytest.mark.fidelity(
    model="lif (`platforms.norse`)",
    reference="Norse 1.1.0, `lif_box_feed_forward_step`",
    compared="spikes, membranes and gradients (inputs, tau, threshold) of 60 drawn steps",
    closely="forward bit for bit, gradients to rounding",
    differs="nothing",
)
def test_norse_lif_box(tau, leak, reset, threshold, subtract, seed, dtype):
    peer("norse")
    box, resets = (importlib.import_module(f"norse.torch.functional.{name}") for name in ("lif_box", "reset"))
    xs, number, weights = world(seed, dtype, scale=2.0)
    tau, leak, reset, threshold = (number(x) for x in (0.02 * tau + 1e-3, leak, reset, threshold))
    method = resets.reset_subtract if subtract else resets.reset_value
    p = box.LIFBoxParameters(1 / tau, leak, threshold, reset, "super", torch.tensor(100.0), method)

    def step(x, v):
        z, state = box.lif_box_feed_forward_step(x, box.LIFBoxFeedForwardState(v), p, 1e-3)
        return z, state.v, state.v

    numbers = {"leak": leak, "threshold": threshold, "reset": reset}
    made = platforms.norse(tau, **numbers, reset_mechanism="subtract" if subtract else "value")
    start = torch.zeros_like(xs[0]) + leak
    same(ours(*made, xs), theirs(step, xs, start), (xs, tau, threshold), weights)


@law
@given(tau=share, tau_syn=share, leak=level, reset=level, threshold=threshold, **common)
@pytest.mark.fidelity(
    model="cuba_lif (`platforms.norse`)",
    reference="Norse 1.1.0, `lif_feed_forward_step`",
    compared="spikes, membranes and gradients (inputs, both tau, threshold) of 60 drawn steps",
    closely="forward bit for bit, gradients to rounding",
    differs="nothing",
)
def test_norse_lif(tau, tau_syn, leak, reset, threshold, seed, dtype):
    peer("norse")
    norse = importlib.import_module("norse.torch.functional.lif")
    xs, number, weights = world(seed, dtype)
    tau, tau_syn = number(0.02 * tau + 1e-3), number(0.01 * tau_syn + 1e-3)
    leak, reset, threshold = number(leak), number(reset), number(threshold)
    p = norse.LIFParameters(1 / tau_syn, 1 / tau, leak, threshold, reset, "super", torch.tensor(100.0))

    def step(x, v, i):
        z, state = norse.lif_feed_forward_step(x, norse.LIFFeedForwardState(v, i), p, 1e-3)
        return z, state.v, state.v, state.i

    made = platforms.norse(tau, tau_syn, leak=leak, threshold=threshold, reset=reset)
    start = torch.zeros_like(xs[0])
    same(ours(*made, xs), theirs(step, xs, start + leak, start), (xs, tau, tau_syn, threshold), weights)


@law
@given(
    beta=share,
    threshold=threshold,
    mechanism=st.sampled_from(["subtract", "zero", "none"]),
    delay=st.booleans(),
    seed=common["seed"],
)
@pytest.mark.fidelity(
    model="lif (`platforms.snntorch`)",
    reference="snnTorch 1.0.0, `Leaky`",
    compared="spikes, membranes and gradients (inputs, beta) of 60 drawn steps, float32",
    closely="forward bit for bit, gradients to rounding",
    differs="without `reset_delay`, where a spike leaves the membrane above the threshold; not drawn",
)
def test_snntorch(beta, threshold, mechanism, delay, seed):
    snntorch = peer("snntorch")
    xs, number, weights = world(seed, torch.float32, scale=1.0 if delay else threshold / 4)
    beta, threshold = number(beta), number(threshold).detach()
    layer = snntorch.Leaky(beta, threshold, reset_mechanism=mechanism, reset_delay=delay)
    layer.beta = beta  # which is a parameter or a buffer there, and cut off

    def step(x, mem):
        spk, mem = layer(x, mem)
        return spk, mem, mem

    made = platforms.snntorch(beta, threshold=threshold, reset_mechanism=mechanism, reset_delay=delay)
    if mechanism == "none" and not delay:
        return  # the membrane would stay above the threshold
    other = theirs(step, xs, torch.zeros_like(xs[0]))
    same(ours(*made, xs), other, (xs, beta), weights)


@law
@given(
    tau=st.sampled_from([1.0, 2.0, 4.0, 16.0, 1.5, 3.0, 10.0]),
    decay_input=st.booleans(),
    reset=st.sampled_from([None, 0.0, -0.25]),
    threshold=threshold,
    detach=st.booleans(),
    **common,
)
@pytest.mark.fidelity(
    model="lif (`platforms.spikingjelly`)",
    reference="SpikingJelly 2.0.0, `functional.lif_step`",
    compared="spikes, membranes and gradients (inputs) of 60 drawn steps",
    closely="forward bit for bit where tau is a power of two and the reset 0, else spikes equal, membranes to 1e-5; gradients to rounding",
    differs="it divides by tau, so a membrane that a rounding puts at the threshold may fire in one and not in the other",
)
def test_spikingjelly(tau, decay_input, reset, threshold, detach, seed, dtype):
    peer("spikingjelly")
    functional = importlib.import_module("spikingjelly.activation_based.functional.neuron")
    surrogate = importlib.import_module("spikingjelly.activation_based.surrogate")
    exact = tau in (1.0, 2.0, 4.0, 16.0) and not reset
    xs, number, weights = world(seed, dtype, coarse=exact)

    def step(x, v):
        s, v = functional.lif_step(x, v, tau, decay_input, threshold, reset, surrogate.Sigmoid(4.0), detach)
        return s, v, v

    given = {"reset_mechanism": "subtract"} if reset is None else {"reset": number(reset).detach()}
    made = platforms.spikingjelly(
        number(tau).detach(),
        decay_input=decay_input,
        threshold=number(threshold).detach(),
        detach_reset=detach,
        **given,
    )
    start = torch.zeros_like(xs[0]).detach() + (reset or 0.0)
    same(ours(*made, xs), theirs(step, xs, start), (xs,), weights, exact)


@law
@given(
    tau=st.one_of(st.none(), st.floats(1.0, 50.0)),
    tau_syn=st.one_of(st.none(), st.floats(1.0, 50.0)),
    norm=st.booleans(),
    most=st.sampled_from([None, 1, 3]),
    threshold=st.sampled_from([0.25, 0.5, 1.0, 2.0]),  # spikes are float32 there, and so is what they cost
    zero=st.booleans(),
    **common,
)
@pytest.mark.fidelity(
    model="lif, cuba_lif (`platforms.sinabs`)",
    reference="sinabs 3.1.3, `LIF` and `IAF` with `MultiSpike`, `MaxSpike` and `SingleSpike`",
    compared="spikes, membranes and gradients (inputs, tau) of 60 drawn steps",
    closely="forward bit for bit, gradients to rounding",
    differs="no lower bound of the membrane",
)
def test_sinabs(tau, tau_syn, norm, most, threshold, zero, seed, dtype):
    peer("sinabs")
    lif = importlib.import_module("sinabs.layers.functional.lif")
    activation = importlib.import_module("sinabs.activation")
    xs, number, weights = world(seed, dtype, scale=0.5 if tau is None else 2.0)
    norm = norm and tau is not None
    given = [None if x is None else number(x) for x in (tau, tau_syn)]
    alphas = [torch.ones((), dtype=dtype) if given[0] is None else torch.exp(-1.0 / given[0])]
    alphas.append(None if given[1] is None else torch.exp(-1.0 / given[1]))
    start = torch.zeros_like(xs[0]).detach()
    spike_fn = {None: activation.MultiSpike, 1: activation.SingleSpike}.get(most) or activation.MaxSpike(most)

    def step(x, v, i):
        spikes, state = lif.lif_forward_single(
            x,
            *alphas,
            {"v_mem": v, "i_syn": i},
            threshold,
            spike_fn,
            activation.MembraneReset() if zero else activation.MembraneSubtract(),
            activation.SingleExponential(),
            None,
            norm,
        )
        return spikes.to(dtype), state["v_mem"], state["v_mem"], state["i_syn"]

    made = platforms.sinabs(
        *given,
        norm_input=norm,
        most=most,
        threshold=number(threshold).detach(),
        reset_mechanism="zero" if zero else "subtract",
        spike_grad=snf.surrogate.SpikeRateEscape(2 / threshold, 2 / threshold),
    )
    learned = [xs, *(x for x in given if x is not None)]
    same(ours(*made, xs), theirs(step, xs, start, start), learned, weights, gradient=torch.float32)  # of its spikes
