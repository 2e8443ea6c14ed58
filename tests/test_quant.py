"""State quantisation: the nearest level, straight through."""

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from helpers import FUSED, law
from hypothesis import given, strategies as st
from torch.func import grad, hessian, jvp, vmap

import snn_functional as snf
from snn_functional import snn
from snn_functional.quant import state_quant, StateQuant


KINDS = [{}, {"uniform": False}, {"uniform": False, "thr_centered": False}]
every = pytest.mark.parametrize("kind", KINDS, ids=["uniform", "about-threshold", "about-zero"])

options = st.fixed_dictionaries(
    {
        "num_bits": st.integers(1, 8),
        "threshold": st.floats(0.1, 10),
        "lower_limit": st.floats(0, 1),
        "upper_limit": st.floats(0, 1),
    }
)


@every
@law
@given(options=options, seed=st.integers(0, 99))
def test_is_the_nearest_level(kind, options, seed):
    q = StateQuant(**options, **kind)
    levels = torch.tensor(q.levels, dtype=torch.float64)
    assert len(levels) == 2**q.num_bits and (levels.diff() >= 0).all()
    assert levels.min() >= q.low - 1e-9 and levels.max() <= q.high + 1e-9
    x = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 * q.threshold
    x = torch.cat([x, levels])
    y = q(x)
    assert set(y.tolist()) <= set(q.levels)
    torch.testing.assert_close((y - x).abs(), (levels - x[:, None]).abs().amin(1), rtol=0, atol=0)
    assert torch.equal(q(y), y)
    order = x.argsort()
    assert (y[order].diff() >= 0).all()


@every
@law
@given(options=options)
def test_single_precision_is_nearest_too(kind, options):
    q = StateQuant(**options, **kind)
    x = torch.linspace(q.low * 1.1, q.high * 1.1, 999)
    distance = (torch.tensor(q.levels, dtype=torch.float64) - x.double()[:, None]).abs().amin(1)
    torch.testing.assert_close((q(x) - x).abs().double(), distance, rtol=0, atol=1e-6 * q.threshold)
    assert q(x).dtype is torch.float32 and torch.equal(q(q(x)), q(x))


def test_uniform_levels_are_evenly_spaced_from_end_to_end():
    q = StateQuant(3, threshold=2, lower_limit=0.5, upper_limit=0.25)
    assert (q.low, q.high) == (-3.0, 2.5) == (q.levels[0], q.levels[-1])
    torch.testing.assert_close(torch.tensor(q.levels), torch.linspace(-3, 2.5, 8))
    assert q(torch.tensor([-1e30, 1e30, 2.5, -3.0])).tolist() == [-3.0, 2.5, 2.5, -3.0]


def test_other_levels_crowd_about_their_center():
    threshold = torch.tensor(StateQuant(4, uniform=False, threshold=2).levels)
    zero = torch.tensor(StateQuant(4, uniform=False, thr_centered=False, threshold=2).levels)
    for levels, center in ((threshold, 2.0), (zero, 0.0)):
        assert levels[0] == -2 and levels[-1] == pytest.approx(2.4)
        assert levels[levels < center].max() + levels.diff()[levels[1:] < center][-1] / 2 == pytest.approx(
            center, abs=1e-3
        )
        steps = levels.diff()
        left, right = steps[levels[1:] < center], steps[levels[:-1] > center]
        torch.testing.assert_close(left[1:] / left[:-1], torch.full_like(left[1:], 0.5), rtol=1e-2, atol=0)
        torch.testing.assert_close(right[:-1] / right[1:], torch.full_like(right[1:], 0.5), rtol=1e-2, atol=0)
    even = torch.tensor(StateQuant(4, uniform=False, multiplier=1.0, upper_limit=1.0).levels)
    for steps in (even[even < 1].diff(), even[even > 1].diff()):
        torch.testing.assert_close(steps, steps[:1].expand_as(steps))


def test_of_two_as_near_the_lower_is_taken():
    q = StateQuant(2, threshold=1.5, upper_limit=0.0)  # -1.5, -0.5, 0.5, 1.5
    assert q(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [-1.5, -0.5, 0.5]


@every
def test_gradient_passes_straight_through(kind):
    q, x = StateQuant(3, **kind), torch.randn(4, 5)
    assert torch.equal(grad(lambda x: (q(x) * x.detach()).sum())(x), x)
    assert torch.equal(jvp(q, (x,), (x,))[1], x)
    assert torch.equal(vmap(q)(x), q(x)) and torch.equal(vmap(vmap(q))(x), q(x))
    f = lambda x: q(x).sin()
    assert torch.equal(vmap(vmap(grad(f)))(x), q(x).cos())
    torch.testing.assert_close(vmap(vmap(hessian(f)))(x), -q(x).sin())
    assert torch.equal(torch.compile(q, fullgraph=True, backend="eager")(x), q(x))


@every
def test_what_is_not_finite(kind):
    q = StateQuant(4, **kind)
    x = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.3])
    y = q(x)
    assert y[0].isnan() and y[1:3].tolist() == pytest.approx([q.levels[-1], q.levels[0]])
    assert grad(lambda x: q(x)[1:].sum())(x).tolist() == [0, 0, 0, 1]


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_stays(kind, dtype):
    q, x = StateQuant(8, **kind), torch.randn(100).to(dtype)
    expected = q(x.double()).to(dtype) if dtype is torch.float64 else q(x.float()).to(dtype)
    assert q(x).dtype is dtype and torch.equal(q(x), expected)


@every
def test_is_a_value(kind):
    q = state_quant(5, threshold=2.0, **kind)
    assert q == StateQuant(num_bits=5, threshold=2.0, **kind) != StateQuant(5) and hash(q) == hash(copy.deepcopy(q))
    assert pickle.loads(pickle.dumps(q)) == q and dataclasses.replace(q, num_bits=3).levels != q.levels
    if hasattr(torch.serialization, "add_safe_globals"):
        file = io.BytesIO()
        torch.save(q, file)
        file.seek(0)
        assert torch.load(file, weights_only=True) == q


@every
def test_a_neuron_keeps_few_levels(kind):
    q = StateQuant(3, **kind)
    params, xs = snf.SynapticParams(0.8, 0.7), torch.rand(20, 3, 5)
    layer = snn.Synaptic(0.8, 0.7, state_quant=q, init_hidden=True, output=True)
    state = snf.synaptic_init(params, xs[0])
    for x in xs:
        spk, state = snf.quantize(snf.synaptic_step, q)(params, state, x)
        for kept in (state.mem, state.syn):
            assert len(kept.unique()) <= 8 and torch.equal(q(kept), kept)
        assert all(torch.equal(a, b) for a, b in zip(layer(x), (spk, state.syn, state.mem)))


@pytest.mark.parametrize("kind", [FUSED])
def test_uniform_levels_are_fused(kind):
    step = snf.quantize(snf.leaky_step, StateQuant(4))
    params, xs = snf.LeakyParams(0.9), torch.randn(12, 3, 5)
    state = snf.leaky_init(params, xs[0])

    def loss(xs, kind):
        spks, last = snf.scan(step, params, state, xs, kind=kind)
        return spks.sum() + last.mem.square().sum(), (spks, last.mem)

    fused, loop = (grad(loss, has_aux=True)(xs, k) for k in (kind, "loop"))
    torch.testing.assert_close(fused, loop, rtol=0, atol=0)
    other = snf.quantize(snf.leaky_step, StateQuant(4, uniform=False))
    assert "loop" in str(snf.explain(other, params, state, xs))


BAD = [
    *({"num_bits": bits} for bits in (0, 17, 4.0, True)),
    *({"threshold": threshold} for threshold in (0, float("inf"), float("nan"))),
    {"lower_limit": -2, "upper_limit": -1},
    {"multiplier": 0.9},
    {"multiplier": 0.0, "uniform": False},
    {"upper_limit": -0.5, "uniform": False},
]


@pytest.mark.parametrize("options", BAD, ids=str)
def test_refuses_options(options):
    with pytest.raises(ValueError, match=rf"StateQuant\(.*{next(iter(options))}="):
        StateQuant(**options)


def test_refuses_what_is_no_number():
    with pytest.raises(TypeError, match=r"threshold=tensor\(1.\).*threshold.item\(\)"):
        StateQuant(threshold=torch.tensor(1.0))
    with pytest.raises(TypeError, match="not torch.int64"):
        StateQuant()(torch.tensor(1))
    with pytest.raises(TypeError, match="not float"):
        StateQuant()(1.0)


def test_face():
    assert snn.functional.quant.state_quant is state_quant and snn.functional.quant.StateQuant is StateQuant
    fields = {f.name: f.default for f in dataclasses.fields(StateQuant) if f.init}
    assert list(fields.items()) == [
        ("num_bits", 8),
        ("uniform", True),
        ("thr_centered", True),
        ("threshold", 1),
        ("lower_limit", 0),
        ("upper_limit", 0.2),
        ("multiplier", None),
    ]
