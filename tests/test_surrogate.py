"""Every surrogate: an exact step forward, its documented slope backward, under every transform."""

import copy
import math
import pickle

import pytest
import torch
from helpers import UsersSpike
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import snn_functional as snf
from snn_functional import surrogate


def fast_sigmoid(u: Tensor, k: float = 25) -> Tensor:
    return 1 / (1 + k * u.abs()) ** 2


# The slope of each, written once more from the paper's formula.
SLOPES = {
    surrogate.ATan(): lambda u: 1 / (1 + (math.pi * u) ** 2),
    surrogate.ATan(3.0): lambda u: 1.5 / (1 + (1.5 * math.pi * u) ** 2),
    surrogate.Heaviside(): lambda u: (u > 0).double(),
    surrogate.FastSigmoid(): fast_sigmoid,
    surrogate.Sigmoid(): lambda u: 25 * torch.sigmoid(25 * u) * torch.sigmoid(-25 * u),
    surrogate.StraightThrough(): torch.ones_like,
    surrogate.Triangular(): lambda u: (1 - u.abs()).clamp(min=0),
    surrogate.Triangular(0.5): lambda u: (1 - 2 * u.abs()).clamp(min=0),
    surrogate.SpikeRateEscape(): lambda u: 25 * torch.exp(-u.abs()),
    surrogate.SpikeRateEscape(2.0, 5.0): lambda u: 5 * torch.exp(-2 * u.abs()),
    surrogate.LSO(): lambda u: torch.where(u > 0, 1.0, 0.1).double(),
    surrogate.SFS(): lambda u: fast_sigmoid(u) * (u.abs() < 1),
    surrogate.Custom(torch.erf): lambda u: 2 / math.sqrt(math.pi) * torch.exp(-(u**2)),
    surrogate.CustomSlope(lambda u, g, spk: g * (1 + spk)): lambda u: 1 + (u > 0).double(),
}
ALL = [*SLOPES, surrogate.SSO()]
SMOOTH = [s for s in ALL if not isinstance(s, surrogate.SSO)]
name = lambda s: type(s).__name__
u = torch.cat([torch.linspace(-3.01, 3.01, 41), torch.tensor([0.0, 1e-30, -1e-30, 40.0, -40.0])]).double()


@pytest.mark.parametrize("s", ALL, ids=name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_forward_is_an_exact_strict_step_in_the_inputs_dtype(s, dtype):
    if dtype == torch.float16 and torch.__version__ < "2.4":
        pytest.skip("torch before 2.4 has few float16 operations on the CPU")
    extremes = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, torch.finfo(dtype).max, torch.finfo(dtype).min])
    x = torch.cat([u, extremes.double()]).to(dtype)
    spk = s(x)
    assert spk.dtype == dtype
    assert torch.equal(spk, torch.tensor([1.0 if v > 0 else 0.0 for v in x.tolist()], dtype=dtype))


@pytest.mark.parametrize("s", SLOPES, ids=name)
def test_backward_is_the_formula(s):
    torch.testing.assert_close(grad(lambda u: s(u).sum())(u), SLOPES[s](u))


@pytest.mark.parametrize("s", SMOOTH, ids=name)
def test_every_transform_agrees_with_the_formula(s):
    slope = SLOPES[s](u)
    torch.testing.assert_close(vmap(grad(s))(u), slope)
    torch.testing.assert_close(jvp(s, (u,), (torch.ones_like(u),))[1], slope)
    torch.testing.assert_close(jacfwd(s)(u).diagonal(), slope)
    torch.testing.assert_close(jacrev(s)(u).diagonal(), slope)
    leaf = u.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(s(leaf).sum(), leaf)[0], slope)


@pytest.mark.parametrize("s", [s for s in SMOOTH if not isinstance(s, surrogate.CustomSlope)], ids=name)
def test_second_derivative_is_the_slopes_slope(s):
    # away from the kinks of the piecewise ones
    v = u[(u.abs() > 1e-3) & ((u.abs() - 1).abs() > 1e-3) & ((u.abs() - 0.5).abs() > 1e-3)]
    expected = vmap(grad(lambda x: SLOPES[s](x) + 0 * x))(v)
    torch.testing.assert_close(vmap(grad(grad(s)))(v), expected)
    torch.testing.assert_close(vmap(hessian(s))(v), expected)
    torch.testing.assert_close(vmap(jacfwd(grad(s)))(v), expected)


@pytest.mark.parametrize("s", SMOOTH, ids=name)
def test_slope_is_zero_where_the_membrane_is_not_finite(s):
    x = torch.tensor([math.inf, -math.inf, math.nan])
    assert torch.equal(grad(lambda x: s(x).sum())(x), torch.zeros(3))


@pytest.mark.parametrize("s", SMOOTH, ids=name)
def test_slope_is_finite_far_from_the_threshold(s):
    x = torch.tensor([1e30, -1e30, 1e4, -1e4, -3.6, -10.0])
    assert grad(lambda x: s(x).sum())(x).isfinite().all()


def test_stochastic_operator():
    s, x = surrogate.SSO(mean=0.1, variance=0.2), torch.cat([torch.full((2000,), 0.5), torch.full((2000,), -0.5)])
    slope = grad(lambda x: s(x).sum())(x)
    assert torch.equal(slope[:2000], torch.ones(2000))
    below = slope[2000:]
    assert -0.08 <= below.min() < -0.07 and 0.11 < below.max() <= 0.12 and abs(below.mean() - 0.02) < 0.01
    assert not torch.equal(grad(lambda x: s(x).sum())(x), slope)
    per_sample = vmap(grad(s), randomness="different")(x)
    assert torch.equal(per_sample[:2000], torch.ones(2000))
    assert jvp(s, (x,), (torch.ones_like(x),))[1][:2000].eq(1).all()


def test_a_surrogate_is_a_value():
    assert surrogate.ATan(2.0) == surrogate.atan(alpha=2) and hash(surrogate.ATan()) == hash(surrogate.ATan(2))
    assert surrogate.ATan(2.0) != surrogate.ATan(3.0) and surrogate.FastSigmoid() != surrogate.Sigmoid()
    for s in ALL[:-2]:
        assert copy.deepcopy(s) == s and pickle.loads(pickle.dumps(s)) == s


def test_snntorch_names_and_defaults():
    assert surrogate.atan() == surrogate.ATan(2.0)
    assert surrogate.fast_sigmoid(slope=25) == surrogate.FastSigmoid(25.0)
    assert surrogate.sigmoid(25) == surrogate.Sigmoid(25.0)
    assert surrogate.spike_rate_escape(beta=1, slope=25) == surrogate.SpikeRateEscape(1.0, 25.0)
    assert surrogate.heaviside() == surrogate.Heaviside()
    assert surrogate.straight_through_estimator() == surrogate.StraightThrough()
    assert surrogate.triangular(threshold=1) == surrogate.Triangular()
    assert surrogate.SFS(slope=25, B=1) == surrogate.SFS() and surrogate.LSO(slope=0.1) == surrogate.LSO()
    assert isinstance(surrogate.custom_surrogate(lambda u, g, s: g), surrogate.CustomSlope)


class UsersOwn(UsersSpike):
    @staticmethod
    def backward(ctx, g):
        (u,) = ctx.saved_tensors
        return g / (1 + (math.pi * u) ** 2)


def test_any_callable_is_taken_as_spike_grad():
    x = torch.rand(6, 4)
    loss = lambda x, s: snf.scan(snf.leaky_step, p(s), snf.leaky_init(p(s), x[0]), x)[0].sum()
    p = lambda s: snf.LeakyParams(0.9, spike_grad=s)
    torch.testing.assert_close(grad(loss)(x, UsersOwn.apply), grad(loss)(x, surrogate.ATan()))
    torch.testing.assert_close(
        vmap(grad(loss), (1, None))(x[..., None], UsersOwn.apply),
        vmap(grad(loss), (1, None))(x[..., None], surrogate.ATan()),
    )


def test_a_surrogate_without_shadow_says_so():
    class Forgot(surrogate.Surrogate):
        pass

    with pytest.raises(NotImplementedError, match="Forgot defines no `shadow"):
        Forgot()(torch.zeros(2))
