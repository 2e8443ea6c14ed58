"""Convolutions with spikes: torch's own numbers, at another price."""

import math

import pytest
import torch
from helpers import assert_allclose, assert_equal, needs_kernels
from hypothesis import given, settings, strategies as st
from sparse import always, counted, dyadic, run_as_stepped, spikes, TRANSFORMS  # noqa: F401
from torch.func import grad, vmap

from snn_functional import _events as events, snn
from snn_functional._events import _convolution, _native, _rules


def convolved(x, w, bias=None, stride=1, padding=0, dilation=1):
    found = events.convolution(x, w, bias, [stride], [padding, padding], [dilation])
    return torch.nn.functional.conv2d(x, w, bias, stride, padding, dilation) if found is None else found


def images(*shape, **more):
    return spikes(*shape, density=0.3, **more)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    x=st.sampled_from([(3, 1, 5, 5), (2, 5, 8, 7), (1, 16, 4, 9), (4, 3, 6, 6)]), out=st.sampled_from([1, 17, 33]),
    kernel=st.sampled_from([(1, 1), (3, 3), (3, 2), (2, 4)]), stride=st.sampled_from([1, 2, 3]),
    padding=st.sampled_from([0, 1, 2]), dilation=st.sampled_from([1, 2]), last=st.booleans(), threads=st.sampled_from([1, 3]),
)  # fmt: skip
def test_the_numbers_are_the_dense_convolutions(x, out, kernel, stride, padding, dilation, last, threads):
    size = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x[2:], kernel)]
    if min(size) < 1:
        return
    w, bias = dyadic(out, x[1], *kernel), dyadic(out)
    x = images(*x)
    x = x.to(memory_format=torch.channels_last) if last else x
    how = _convolution.How((stride,) * 2, (padding,) * 2, (dilation,) * 2, kernel)
    g = dyadic(len(x), out, *size)
    before, small, limit = torch.get_num_threads(), _native.GRAIN, _convolution.most
    torch.set_num_threads(threads)
    _native.GRAIN, _convolution.most = 1, lambda *_: 9.0
    try:
        known = _convolution._seen(_rules.Events(), how, x, tuple(size), out)
        found = _convolution.Convolution.forward(_rules.Events(), how, x, w, bias)
        gradient = _convolution.Weights.forward(_rules.Events(), how, x[None], g[None])[0]
    finally:
        torch.set_num_threads(before)
        _native.GRAIN, _convolution.most = small, limit
    assert known is not None and known.rows == len(x) * math.prod(size)
    w.requires_grad_()
    expected = torch.nn.functional.conv2d(x, w, bias, stride, padding, dilation)
    assert_equal(found, expected.detach())
    assert_equal(gradient, torch.autograd.grad(expected, w, g)[0])


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("mapped", [None, (0, None, None), (None, 0, None), (0, 1, None), (None, None, 0)], ids=str)
def test_transforms_of_convolutions(always, name, mapped):
    double = {"dtype": torch.float64}
    args, shape = (
        [images(2, 2, 4, 3, **double), torch.randn(3, 2, 2, 2, **double), torch.randn(3, **double)],
        TRANSFORMS[name],
    )
    weights = torch.randn(2, 3, 5, 4, **double)
    cost = lambda f: lambda x, w, b: ((f(x, w, b, padding=1) + 0.1) ** 2 * weights).sum()
    every = lambda f: shape(cost(f))
    if mapped:
        args = [x if d is None else torch.stack([x, 2 * x.roll(1, 0)], d) for x, d in zip(args, mapped)]
        args[0] = (args[0] != 0).double()
        every = lambda f: vmap(shape(cost(f)), mapped)
    assert_allclose(every(convolved)(*args), every(torch.nn.functional.conv2d)(*args))
    assert (
        always["product"]
        or name == "forward over forward"
        or mapped
        and (mapped[1] is not None or mapped[2] is not None)
    )


def test_per_sample_gradients_of_a_convolution(always):
    x, w = images(4, 2, 3, 6, 6), dyadic(5, 3, 3, 3)
    gradient = lambda f: vmap(grad(lambda w, x: (f(x, w) ** 2).sum()), (None, 0))(w, x)
    assert_equal(gradient(convolved), gradient(torch.nn.functional.conv2d))
    assert always == {"product": 1, "outer": 1}


def test_convolutions_of_few_events(counted):
    x, w = spikes(32, 16, 16, 16, density=0.05), dyadic(32, 16, 3, 3).requires_grad_()
    expected = torch.nn.functional.conv2d(x, w, padding=1)
    found = convolved(x, w, padding=1)
    assert_equal(found, expected)
    assert_equal(torch.autograd.grad(found.sum(), w), torch.autograd.grad(expected.sum(), w))
    assert counted == {"product": 1, "outer": 1}
    for other in (2 * x, 1 - x):  # graded; many
        assert_equal(convolved(other, w), torch.nn.functional.conv2d(other, w))
    with torch.no_grad():
        w[0, 0, 0, 0] = math.inf
    torch.testing.assert_close(convolved(x, w), torch.nn.functional.conv2d(x, w), rtol=0, atol=0, equal_nan=True)
    assert counted == {"product": 1, "outer": 1}


@needs_kernels
def test_a_network_of_convolutions(always):
    lif = lambda: snn.Leaky(0.875, init_hidden=True)
    conv = lambda *sizes, **more: torch.nn.Conv2d(*sizes, **more)
    net = torch.nn.Sequential(
        conv(2, 6, 3, padding=1), lif(), torch.nn.MaxPool2d(2), conv(6, 5, 3, stride=2, bias=False), lif(),
        torch.nn.Flatten(), torch.nn.Linear(20, 4), lif(),
    )  # fmt: skip
    run_as_stepped(net, images(7, 3, 2, 12, 12), always, 3)
