"""What the tests of products with events share: spikes, weights whose sums do not round, a count, and transforms."""

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp

from snn_functional import _events as events, snn
from snn_functional._events import _convolution, _native, _rules


DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.fixture
def counted(monkeypatch):
    """How often events were added up, by direction."""
    found = {"product": 0, "outer": 0}

    def watched(name):
        function = getattr(_native, name)

        def watch(*args):
            result = function(*args)
            found[name] += result is not None
            return result

        return watch

    for name in found:
        watch = watched(name)
        for module in (_rules, _convolution):
            monkeypatch.setattr(module, name, watch)
    return found


@pytest.fixture
def always(monkeypatch, counted):
    """However small the product, and however many the events."""
    monkeypatch.setattr(events, "SMALL", dict.fromkeys(DTYPES, -1))
    monkeypatch.setattr(events, "WIDE", (1, 1))
    monkeypatch.setattr(_convolution, "IMAGES", 1.0)
    for module in (events, _rules, _convolution):
        monkeypatch.setattr(module, "most", lambda dtype, out: 1.0)
    return counted


def spikes(*shape, density=0.1, graded=False, dtype=torch.float32):
    values = torch.randint(1, 5, shape) / 4 if graded else torch.ones(shape)
    return torch.where(torch.rand(shape) < density, values, torch.zeros(shape)).to(dtype)


def dyadic(*shape, dtype=torch.float32):
    """Multiples of 1/64: of these, every order of a sum gives the same bits."""
    return (torch.randint(-64, 65, shape) / 64).to(dtype)


def run_as_stepped(net, xs, counted, kinds):
    """Outputs and gradients of a module by `snn.run`, with so many products and outer products by events, are those step by step."""
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(dyadic(*p.shape) / 2)
    looped = torch.stack([net(x) for x in xs])
    looped.sum().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    snn.utils.reset(net)
    before = dict(counted)
    out = snn.run(net, xs)
    assert looped.any() and counted == {**before, "product": before["product"] + kinds}
    out.sum().backward()
    assert counted == {name: n + kinds for name, n in before.items()}
    assert_equal(out, looped)
    assert_allclose([p.grad for p in net.parameters()], expected)


TRANSFORMS = {
    "grad": lambda f: grad(f, (0, 1, 2)),
    "vjp": lambda f: lambda *args: vjp(f, *args)[1](torch.ones((), dtype=torch.float64)),
    "jvp": lambda f: lambda *args: jvp(f, args, optree.tree_map(torch.cos, args)),
    "jvp by bias": lambda f: lambda z, w, bias: jvp(lambda bias: f(z, w, bias), (bias,), (bias.cos(),)),
    "hessian": lambda f: hessian(f, (0, 1, 2)),
    "forward over forward": lambda f: jacfwd(jacfwd(f, (0, 1, 2)), (0, 1, 2)),
    "reverse over forward": lambda f: jacrev(jacfwd(f, (1, 2)), (0, 1)),
}
