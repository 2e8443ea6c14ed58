"""Linear recurrences in parallel over time: the loop is their definition."""

import pytest
import torch
from helpers import assert_allclose, law
from hypothesis import given, strategies as st
from torch.func import grad, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import snn_functional as snf
from snn_functional._linear_scan import window


def slow(a, b, h0=0.0):
    """The definition."""
    a, h, hs = a.expand(b.shape), torch.as_tensor(h0, dtype=b.dtype).expand(b.shape[1:]), []
    for a_t, b_t in zip(a.unbind(0), b.unbind(0)):
        h = a_t * h + b_t
        hs.append(h)
    return torch.stack(hs)


T, B, N = 11, 3, 4
SHAPES = [(), (N,), (B, 1), (1, B, N), (T, 1, 1), (T, B, N)]
any_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
draw = lambda *shape: torch.randn(shape, dtype=torch.float64)


@law
@given(
    seed=st.integers(0, 2**31),
    T=st.integers(1, 40),
    lanes=st.lists(st.integers(1, 3), max_size=2),
    of_a=st.integers(0, 7),
    start=st.sampled_from([None, "number", "row", "all"]),
    kind=st.sampled_from(["parallel", "auto", "loop"]),
)
def test_linear_scan_is_the_loop(seed, T, lanes, of_a, start, kind):
    torch.manual_seed(seed)
    b = draw(T, *lanes)
    a = draw(*(n if of_a >> i & 1 else 1 for i, n in enumerate(b.shape)))
    h0 = {"number": 0.3, "row": draw(*lanes[-1:]), "all": draw(*lanes)}.get(start)
    found = snf.linear_scan(a, b, h0, kind=kind)
    torch.testing.assert_close(found, slow(a, b, 0.0 if h0 is None else h0), rtol=1e-9, atol=1e-9)


@any_shape
def test_derivatives_are_the_loops_and_those_of_finite_differences(shape):
    arguments = a, b, h0 = draw(*shape), draw(T, B, N), draw(N)
    weights = draw(T, B, N)
    fast = lambda *args: (snf.linear_scan(*args, kind="parallel") * weights).sum()
    right = lambda *args: (slow(*args) * weights).sum()
    assert_allclose(grad(fast, (0, 1, 2))(*arguments), grad(right, (0, 1, 2))(*arguments))
    direction = tuple(torch.randn_like(x) for x in arguments)
    assert_allclose(jvp(fast, arguments, direction), jvp(right, arguments, direction))
    leaves = [x[:3].requires_grad_() if x.dim() == 3 else x.requires_grad_() for x in (a, b, h0)]
    run = lambda *args: snf.linear_scan(*args, kind="parallel")
    assert torch.autograd.gradcheck(run, leaves) and torch.autograd.gradgradcheck(run, leaves)


def test_per_sample_gradients_go_through():
    a, b = draw(N), draw(T, B, N)
    loss = lambda a, b: (snf.linear_scan(a, b, kind="parallel") ** 2).sum()
    each = vmap(grad(loss), in_dims=(None, 1))(a, b)
    torch.testing.assert_close(each, torch.stack([grad(loss)(a, b[:, i]) for i in range(B)]))


@pytest.mark.parametrize("a", [0.0, 1e-3, 0.5, 0.999, 1.0, -0.9])
def test_it_is_exact_over_long_times(a):
    """A cumulative product of decays is 0 by then, or saturates what is divided by it."""
    b = torch.randn(3000, 5)
    found = snf.linear_scan(a, b, 1.0, kind="parallel")
    right = slow(torch.tensor(a).double(), b.double(), 1.0)
    assert (found.double() - right).abs().max() < 1e-5 * right.abs().max()


def test_it_takes_a_logarithm_of_rounds():
    class Count(TorchDispatchMode):
        rounds = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.rounds += func in (torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor)
            return func(*args, **(kwargs or {}))

    def rounds(T):
        with Count() as count:
            snf.linear_scan(torch.rand(T, 2), torch.rand(T, 2), kind="parallel")
        return count.rounds

    assert rounds(2048) - rounds(1024) == rounds(64) - rounds(32) <= 5


@law
@given(seed=st.integers(0, 2**31), T=st.integers(1, 30), steps=st.integers(1, 40))
def test_window_is_the_sum_of_the_last_inputs(seed, T, steps):
    torch.manual_seed(seed)
    a, b = torch.rand(2, dtype=torch.float64), draw(T, 3, 2)
    right = [sum(a**j * b[t - j] for j in range(min(steps, t + 1))) for t in range(T)]
    torch.testing.assert_close(window(a, b, steps), torch.stack(right))


BAD_SCANS = {
    "a list": (lambda: snf.linear_scan(0.5, [1.0]), TypeError, "b is a floating tensor .* not list"),
    "integers": (lambda: snf.linear_scan(0.5, torch.arange(3)), TypeError, "not torch.int64"),
    "no time": (lambda: snf.linear_scan(0.5, torch.tensor(1.0)), ValueError, "time first"),
    "no step": (lambda: snf.linear_scan(0.5, torch.rand(0, 2)), ValueError, "at least one time step"),
    "a too large": (
        lambda: snf.linear_scan(torch.rand(2, 2), torch.rand(5, 3)),
        ValueError,
        r"a has shape \(2, 2\), which does not broadcast to \(5, 3\)",
    ),
    "h0 with time": (
        lambda: snf.linear_scan(0.5, torch.rand(5, 3), torch.rand(5, 3)),
        ValueError,
        r"h0 has shape \(5, 3\), which does not broadcast to \(3,\), the shape of b at one time step",
    ),
    "a that widens": (
        lambda: snf.linear_scan(torch.rand(3).double(), torch.rand(5, 3)),
        TypeError,
        r"a is torch.float64 and b torch.float32: give a.to\(torch.float32\)",
    ),
    "a kind": (lambda: snf.linear_scan(0.5, torch.rand(5, 3), kind="paralel"), ValueError, "unknown kind"),
}


@pytest.mark.parametrize("bad", BAD_SCANS)
def test_linear_scan_refuses(bad):
    call, error, says = BAD_SCANS[bad]
    with pytest.raises(error, match=says):
        call()
