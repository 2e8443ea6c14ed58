"""The faces without a reset beside the installed snnTorch 1.0.0: random arguments, shapes and inputs, forward and gradient."""

import inspect
import math
import warnings

import pytest
import torch
from helpers import law
from hypothesis import assume, given, strategies as st


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    snntorch = pytest.importorskip("snntorch")

from snn_functional import snn  # noqa: E402


pytestmark = pytest.mark.filterwarnings("ignore")
seeds = st.integers(0, 2**31)
sizes = st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 5))
numbers = st.floats(0.05, 0.98)


def agree(theirs, ours, x):
    """Outputs, and the gradients of a random mixture of them in the input and in every parameter that both have.

    A membrane within rounding of its threshold may fall on either side of it: such draws are left out by the caller.
    """
    outs = []
    for layer in (theirs, ours):
        v = x.clone().requires_grad_()
        out = layer(v)
        out = out if isinstance(out, tuple) else (out,)
        torch.manual_seed(0)
        sum((o * torch.randn(o.shape)).sum() for o in out).backward()
        outs.append((out, v.grad, {name: p.grad for name, p in layer.named_parameters()}))
    (a, a_x, a_p), (b, b_x, b_p) = outs
    close = lambda x, y: torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)
    for x, y in zip(a, b, strict=True):
        close(x, y)
    close(a_x, b_x)
    assert a_p.keys() == b_p.keys() | ({"tau"} & a_p.keys())
    for name, slope in a_p.items():
        if name in b_p and slope is not None:
            close(slope, b_p[name])


def clear(mem, threshold=1.0):
    return bool(((mem - threshold).abs() > 1e-4).all())


def theirs_beta(beta):
    """What snnTorch keeps where it is told beta."""
    return torch.exp(beta - 1) if isinstance(beta, torch.Tensor) else math.exp(beta - 1)


@law
@given(
    seed=seeds, size=sizes, beta=numbers, each=st.booleans(), threshold=numbers, steps=st.sampled_from([None, 1, 3, 20])
)
def test_state_leaky_has_snntorchs_numbers_at_its_real_decay(seed, size, beta, each, threshold, steps):
    torch.manual_seed(seed)
    beta = torch.rand(size[-1]) * beta if each else torch.tensor(beta)
    options = {"threshold": threshold, "learn_threshold": True, "kernel_truncation_steps": steps}
    theirs = snntorch.StateLeaky(beta, size[-1], **options)
    ours = snn.StateLeaky(theirs_beta(beta), size[-1], **options)
    x = torch.randn(size)
    assume(clear(theirs(x)[1], threshold))
    agree(theirs, ours, x)


@law
@given(seed=seeds, size=sizes, out=st.integers(1, 4), beta=numbers, bias=st.booleans(), output=st.booleans())
def test_linear_leaky_draws_and_computes_as_snntorch(seed, size, out, beta, bias, output):
    torch.manual_seed(seed)
    theirs = snntorch.LinearLeaky(torch.tensor(beta), size[-1], out, bias, output=output)
    torch.manual_seed(seed)
    ours = snn.LinearLeaky(theirs_beta(beta), size[-1], out, bias, output=output)
    x = torch.randn(size)
    mem = theirs(x)
    assume(clear(mem[1] if output else mem))
    agree(theirs, ours, x)


def test_linear_leakys_beta_learns_what_snntorchs_tau_learns():
    x = torch.randn(10, 3, 4)
    theirs = snntorch.LinearLeaky(torch.tensor(0.8), 4, 5, learn_beta=True)
    ours = snn.LinearLeaky(0.5, 4, 5, learn_beta=True)
    ours.load_state_dict(theirs.state_dict())
    agree(theirs, ours, x)
    decay = torch.exp(-1 / theirs.tau)
    torch.testing.assert_close(theirs.tau.grad, ours.beta.grad * decay / theirs.tau**2)
    assert theirs._parameters["beta"].grad is None and [n for n, _ in ours.named_parameters()][0] == "beta"


@law
@given(seed=seeds, size=sizes, d=st.integers(1, 3), n=st.integers(1, 3), query=st.booleans())
def test_associative_leaky_draws_and_computes_as_snntorch_over_short_times(seed, size, d, n, query):
    torch.manual_seed(seed)
    theirs = snntorch.AssociativeLeaky(size[-1], d, n, d * n, query)
    torch.manual_seed(seed)
    ours = snn.AssociativeLeaky(size[-1], d, n, d * n, query)
    theirs.threshold.fill_(0.1), ours.threshold.fill_(0.1)
    x = torch.randn(size[0] % 5 + 1, *size[1:])
    theirs.output = ours.to_q = None  # the membranes alone, to see which are near their threshold
    with torch.no_grad():
        q, theirs.use_q_projection = theirs.use_q_projection, False
        assume(clear(theirs(x), 0.1))
    theirs.use_q_projection, theirs.output = q, True
    ours.to_q = theirs.to_q
    agree(theirs, ours, x)


def test_associative_leaky_is_the_recurrence_where_snntorch_saturates():
    torch.manual_seed(0)
    theirs, x = snntorch.AssociativeLeaky(4, 2, 3, 6, False), torch.randn(60, 2, 4)
    v, k, a = theirs.to_v(x), theirs.to_k(x), torch.sigmoid(theirs.to_alpha(x))
    mem, mems = torch.zeros(2, 2, 3), []
    for t in range(60):
        mem = mem * a[t, :, None, :] + v[t, :, :, None] * k[t, :, None, :]
        mems.append(mem)
    right = torch.stack(mems).flatten(-2)
    theirs.output = False
    assert (theirs(x) - right).abs()[-20:].max() > 0.1
    ours = snn.AssociativeLeaky(4, 2, 3, 6, False)
    ours.load_state_dict(theirs.state_dict())
    ours.spike_grad = lambda u: u + 1.0  # the membranes
    torch.testing.assert_close(ours(x), right)


@law
@given(
    seed=seeds,
    size=sizes,
    hidden=st.integers(1, 4),
    beta=st.none() | st.floats(-0.2, 1.3),
    bias=st.booleans(),
    threshold=numbers,
    dense=st.booleans(),
    learn=st.booleans(),
    graded=st.sampled_from([1.0, 0.5]),
)
def test_leaky_parallel_draws_and_computes_as_snntorch(seed, size, hidden, beta, bias, threshold, dense, learn, graded):
    options = {"threshold": threshold, "weight_hh_enable": dense, "learn_beta": learn, "learn_threshold": True}
    options |= {"graded_spikes_factor": graded, "learn_graded_spikes_factor": True}
    torch.manual_seed(seed)
    theirs = snntorch.LeakyParallel(size[-1], hidden, beta, bias, **options)
    torch.manual_seed(seed)
    ours = snn.LeakyParallel(size[-1], hidden, beta, bias, **options)
    for (name, a), (other, b) in zip(theirs.rnn.named_parameters(), ours.rnn.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b) and a.requires_grad == b.requires_grad
    x = torch.randn(size)
    assume(clear(theirs.rnn(x)[0], threshold))
    # At a bound the clamp passes the gradient, as theirs does everywhere.
    agree(theirs, ours, x)


def test_leaky_parallel_of_a_beta_for_each_neuron_is_what_snntorch_documents():
    beta = torch.tensor([0.1, 0.5, 0.9])
    theirs, ours = snntorch.LeakyParallel(2, 3, beta), snn.LeakyParallel(2, 3, beta)
    assert not torch.allclose(theirs.rnn.weight_hh_l0.diag(), beta)
    assert torch.equal(ours.rnn.weight_hh_l0, beta.diag())


@law
@given(seed=seeds, size=sizes, beta=numbers, each=st.booleans(), delta=numbers, hidden=st.booleans())
def test_delta_leaky_is_snntorchs_bit_for_bit(seed, size, beta, each, delta, hidden):
    torch.manual_seed(seed)
    beta = torch.rand(size[-1]) if each else beta
    layers = [s.DeltaLeaky(delta, beta=beta, init_hidden=hidden, learn_beta=True) for s in (snntorch, snn)]
    x, slopes, all_spikes = torch.randn(size), [], []
    for layer in layers:
        v, mem, outs = x.clone().requires_grad_(), layer.reset_mem(), []
        for step in v.unbind(0):
            spk, mem = layer(step) if hidden else layer(step, mem)
            outs += [spk, *mem]
        sum((o * (i % 3 + 1)).sum() for i, o in enumerate(outs) if o.requires_grad).backward()
        slopes.append((v.grad, layer.beta.grad))
        all_spikes.append(outs)
    for a, b in zip(*all_spikes, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["StateLeaky", "LinearLeaky", "AssociativeLeaky", "LeakyParallel"])
def test_the_constructor_is_snntorchs(name):
    mine, theirs = (inspect.signature(getattr(library, name)).parameters.values() for library in (snn, snntorch))
    empty = inspect.Parameter.empty
    here = [p for p in mine if p.kind is not p.KEYWORD_ONLY]
    assert [p.name for p in here] == [p.name for p in theirs]
    assert all(
        p.default in (q.default, None) if q.default is empty else p.default == q.default for p, q in zip(here, theirs)
    )


def test_delta_leakys_constructor_is_its_threshold_then_leakys():
    mine = [p for p in inspect.signature(snn.DeltaLeaky).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert [p.name for p in mine] == ["delta_threshold", *inspect.signature(snntorch.Leaky).parameters]


def test_checkpoints_of_snntorch_load_and_give_the_same():
    x = torch.randn(9, 2, 4)
    pairs = [
        (snntorch.StateLeaky(0.9, 4), snn.StateLeaky(0.1, 4)),
        (snntorch.LinearLeaky(0.7, 4, 3), snn.LinearLeaky(0.1, 4, 3)),
        (snntorch.AssociativeLeaky(4, 2, 2, 4), snn.AssociativeLeaky(4, 2, 2, 4)),
        (snntorch.LeakyParallel(4, 3, 0.5), snn.LeakyParallel(4, 3)),
    ]
    for theirs, ours in pairs:
        ours.load_state_dict(theirs.state_dict())
        a, b = theirs(x[:5]), ours(x[:5])
        for one, other in zip(a, b) if isinstance(a, tuple) else [(a, b)]:
            torch.testing.assert_close(one, other)
    theirs, ours = snntorch.DeltaLeaky(0.3, beta=0.9), snn.DeltaLeaky(0.3, beta=0.1)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(x[0])[1][0], theirs(x[0], (None, None))[1][0]) and torch.equal(
        ours(x[0])[0], theirs(x[0], (None, None))[0]
    )
