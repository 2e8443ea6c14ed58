"""STDP: the pure rule against its definition, pair by pair; the learner against the rule."""

import math

import pytest
import torch
from helpers import law, scan
from hypothesis import given, strategies as st
from torch import nn

import snn_functional as snf
from snn_functional import snn
from snn_functional.learning import stdp_init, stdp_step, StdpParams, StdpState
from snn_functional.snn.functional.stdp_learner import (
    mstdp_linear_single_step,
    mstdpet_linear_single_step,
    stdp_conv1d_single_step,
    stdp_conv2d_single_step,
    stdp_linear_single_step,
    STDPLearner,
)


half = lambda w: 0.5 - w


def spikes(*shape, dtype=torch.float64):
    return (torch.rand(shape) < 0.4).to(dtype)


def params_of(out=3, into=4, **choices):
    return StdpParams(torch.rand(out, into, dtype=torch.float64), 0.7, 0.4, **choices)


def run(params, pres, posts):
    return scan(stdp_step, params, stdp_init(params, (pres[0], posts[0])), (pres, posts))


@law
@given(st.integers(1, 7), st.integers(1, 3), st.booleans())
def test_the_change_is_the_sum_over_pairs_of_spikes(T, batch, weighted):
    """delta_w = sum over pairs (s <= t) of f_post decay_pre^(t-s) pre[s] post[t] - f_pre decay_post^(t-s) post[s] pre[t]."""
    params = params_of(f_pre=half) if weighted else params_of()
    pres, posts = spikes(T, batch, 4), spikes(T, batch, 3)
    delta_ws, _ = run(params, pres, posts)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    w = params.weight
    for t in range(T):
        for s in range(t + 1):
            grows = 0.7 ** (t - s) * posts[t].T @ pres[s]
            shrinks = 0.4 ** (t - s) * posts[s].T @ pres[t]
            expected += w * grows - (half(w) if weighted else w) * shrinks
    torch.testing.assert_close(delta_ws.sum(0), expected, rtol=1e-6, atol=1e-6)


def test_before_grows_and_after_shrinks():
    one, none = torch.ones(1, 1), torch.zeros(1, 1)
    params = StdpParams(one, 0.5, 0.5)
    causal, _ = run(params, torch.stack([one, none]), torch.stack([none, one]))
    late, _ = run(params, torch.stack([none, one]), torch.stack([one, none]))
    assert causal.flatten().tolist() == [0, 0.5] and late.flatten().tolist() == [0, -0.5]


CONVS = [
    (nn.Conv1d, dict(stride=2, padding=1)),
    (nn.Conv1d, dict(padding=1, padding_mode="circular")),
    (nn.Conv2d, dict(stride=(2, 1), padding=(0, 2))),
    (nn.Conv2d, dict(dilation=2)),
    (nn.Conv2d, dict(groups=2, padding="same")),
]


@pytest.mark.parametrize("Conv, options", CONVS)
def test_a_convolution_is_a_dense_layer_with_shared_weights(Conv, options):
    """Its matrix is had by passing a basis through it; the change of a shared weight is the sum over its places."""
    conv = Conv(2, 4, 3, **options, bias=False).double()
    shape = (2, *[6, 5][: len(conv.kernel_size)])
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    matrix = lambda weight: torch.func.functional_call(conv, {"weight": weight}, (basis,)).flatten(1).T
    ones = torch.ones_like(conv.weight)
    step = stdp_conv1d_single_step if Conv is nn.Conv1d else stdp_conv2d_single_step
    posts_shape = conv(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:]
    trace = dense = (None, None)
    for _ in range(3):
        pre, post = spikes(2, *shape), spikes(2, *posts_shape)
        *trace, delta_w = step(conv, pre, post, *trace, 2.0, 4.0, f_pre=torch.ones_like, f_post=torch.ones_like)
        fc = nn.Linear(pre[0].numel(), post[0].numel()).double()
        *dense, full = stdp_linear_single_step(
            fc, pre.flatten(1), post.flatten(1), *dense, 2.0, 4.0, f_pre=torch.ones_like, f_post=torch.ones_like
        )
        shared = torch.func.vjp(matrix, ones)[1](full)[0]
        torch.testing.assert_close(delta_w, shared)
        assert trace[0].shape == pre.shape


def test_the_rule_is_closed_under_torch_func():
    params = params_of(f_pre=half)
    pres, posts = spikes(5, 2, 4), spikes(5, 2, 3)
    summed, _ = run(params, pres, posts)
    auto, _ = snf.scan(stdp_step, params, stdp_init(params, (pres[0], posts[0])), (pres, posts))
    assert torch.equal(auto, summed)
    each, _ = torch.func.vmap(lambda pre, post: run(params, pre, post), in_dims=1)(pres, posts)
    torch.testing.assert_close(each.sum(0), summed)

    def loss(weight, decay):
        return run(StdpParams(weight, decay, 0.4, f_pre=half), pres, posts)[0].square().sum()

    at = params.weight, torch.tensor(0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, tuple(x.clone().requires_grad_() for x in at))
    assert torch.autograd.gradgradcheck(loss, tuple(x.clone().requires_grad_() for x in at))
    gradient = torch.func.grad(loss)(*at)
    direction = torch.rand(3, 4, dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda w: loss(w, at[1]), (at[0],), (direction,))
    torch.testing.assert_close(tangent, (gradient * direction).sum())


def test_params_and_state_are_trees():
    params = params_of()
    assert StdpParams.__leaves__ == ("weight", "decay_pre", "decay_post")
    state = stdp_init(params, (torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.uint8)))
    assert state.trace_pre.shape == (2, 4) and state.trace_post.dtype == torch.float64 and not state.trace_pre.any()
    doubled = torch.utils._pytree.tree_map(lambda x: 2 * x, state)
    assert isinstance(doubled, StdpState)
    delta_w, after = stdp_step(params, state, (torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.uint8)))
    assert delta_w.dtype == torch.float64 and after.trace_pre.dtype == torch.float64 and not state.trace_pre.any()
    assert snf.learning.stdp_step is stdp_step


def test_the_rule_refuses():
    params = params_of()
    state = stdp_init(params, (spikes(2, 4), spikes(2, 3)))
    with pytest.raises(
        ValueError, match=r"pre has shape \(5, 4\), its trace \(2, 4\).*stdp_init\(params, \(pre, post\)\)"
    ):
        stdp_step(params, state, (spikes(5, 4), spikes(5, 3)))
    wide = spikes(2, 4), spikes(2, 6)
    with pytest.raises(
        ValueError, match=r"weight \(3, 4\), pre \(2, 4\) reaches \(2, 3\), but post has shape \(2, 6\)"
    ):
        stdp_step(params, stdp_init(params, wide), wide)


# The faces.


def test_single_steps_are_the_rule_with_their_decays():
    fc = nn.Linear(4, 3).double()
    pre, post = spikes(2, 4), spikes(2, 3)
    start = torch.rand(2, 4, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    weight = fc.weight.detach()

    def rule(decays, pre, post, start):
        delta_w, state = stdp_step(StdpParams(weight, *decays, f_pre=half), StdpState(*start), (pre, post))
        return state.trace_pre, state.trace_post, delta_w

    float64 = lambda *numbers: tuple(torch.tensor(n, dtype=torch.float64) for n in numbers)
    euler, exact = float64(1 - 1 / 2.0, 1 - 1 / 3.0), float64(math.exp(-1 / 2.0), math.exp(-1 / 3.0))
    close = lambda a, b: all(torch.allclose(x, y) for x, y in zip(a, b, strict=True))
    assert close(stdp_linear_single_step(fc, pre, post, *start, 2.0, 3.0, half), rule(euler, pre, post, start))

    *traces, eligibility = mstdp_linear_single_step(fc, pre, post, *start, 2.0, 3.0, half)
    for i in range(2):
        one = rule(exact, pre[i], post[i], (start[0][i], start[1][i]))
        assert close((traces[0][i], traces[1][i], eligibility[i]), one)
        alone = mstdpet_linear_single_step(fc, pre[i], post[i], start[0][i], start[1][i], 2.0, 3.0, 5.0, half)
        assert close(alone, one)


@pytest.mark.parametrize("start", [None, 0.0, torch.tensor(0.0)])
def test_traces_begin_at_nothing_or_a_number(start):
    fc = nn.Linear(4, 3)
    pre, post = spikes(2, 4, dtype=torch.float32), spikes(2, 3, dtype=torch.float32)
    trace_pre, trace_post, delta_w = stdp_linear_single_step(fc, pre, post, start, start, 2.0, 2.0)
    assert torch.equal(trace_pre, pre) and torch.equal(trace_post, post) and not delta_w.any()
    trace_pre, _, _ = stdp_linear_single_step(fc, pre, post, 1.0, start, 2.0, 2.0)
    assert torch.equal(trace_pre, pre + 0.5)


def test_no_graph_is_built():
    pre, post = torch.ones(2, 4, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    for step in (stdp_linear_single_step, mstdp_linear_single_step):
        results = step(nn.Linear(4, 3), pre, post, None, None, 2.0, 2.0)
        assert not any(result.requires_grad for result in results)


def network():
    net = nn.Sequential(nn.Linear(4, 3), snn.Leaky(0.9, threshold=0.1, init_hidden=True))
    nn.init.constant_(net[0].bias, 0.2)
    return net


def test_the_learner_is_the_rule_over_what_passed():
    net, xs = network(), spikes(6, 2, 4, dtype=torch.float32)
    learner = STDPLearner(net[0], net[1], 2.0, 4.0, f_pre=half)
    before = net[0].weight.detach().clone()
    posts = torch.stack([net(x) for x in xs])
    assert posts.requires_grad and posts.sum() > 0
    params = StdpParams(before, 0.5, 0.75, f_pre=half)
    delta_ws, state = run(params, xs, posts.detach())
    delta_w = learner.step(on_grad=False, scale=2.0)
    torch.testing.assert_close(delta_w, 2 * delta_ws.sum(0))
    assert torch.equal(learner.trace_pre, state.trace_pre) and torch.equal(learner.trace_post, state.trace_post)
    assert torch.equal(net[0].weight, before) and net[0].weight.grad is None and not delta_w.requires_grad
    assert not learner.trace_post.requires_grad


def test_the_learner_feeds_an_optimizer():
    net, xs = network(), spikes(6, 2, 4, dtype=torch.float32)
    learner = STDPLearner(net[0], net[1], 2.0, 2.0)
    twin = STDPLearner(net[0], net[1], 2.0, 2.0)
    for x in xs:
        net(x)
    before = net[0].weight.detach().clone()
    delta_w = twin.step(on_grad=False)
    assert delta_w.any() and learner.step() is None and torch.equal(net[0].weight.grad, -delta_w)
    torch.optim.SGD([net[0].weight], lr=0.5).step()
    torch.testing.assert_close(net[0].weight.detach(), before + 0.5 * delta_w)
    net[0].weight.grad = torch.ones_like(before)
    net(xs[0])
    change = twin.step(on_grad=False)
    learner.step()
    torch.testing.assert_close(net[0].weight.grad, 1 - change)


def test_the_learner_takes_the_spikes_of_a_tuple_and_convolutions():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), snn.Leaky(0.9, threshold=0.1, init_hidden=True, output=True))
    learner = STDPLearner(net[0], net[1], 2.0, 2.0)
    for x in spikes(4, 2, 1, 5, 5, dtype=torch.float32):
        net(x)
    assert learner.step(on_grad=False).shape == (2, 1, 3, 3) and learner.trace_post.shape == (2, 2, 5, 5)


def test_the_learners_switches_and_reset():
    net, xs = network(), spikes(6, 2, 4, dtype=torch.float32)
    learner = STDPLearner(net[0], net[1], 2.0, 2.0)
    learner.disable()
    net(xs[0])
    with pytest.raises(ValueError, match=r"found 0 recorded inputs .* 0 outputs.*call net\(x\), enabled"):
        learner.step()
    learner.enable()
    net(xs[0])
    learner.in_spike_monitor.clear_recorded_data()
    with pytest.raises(ValueError, match="found 0 recorded inputs of the synapse and 1 outputs"):
        learner.step()
    learner.reset()
    net(xs[1])
    first = learner.step(on_grad=False)
    assert not first.any() and learner.trace_pre is not None
    learner.reset()
    snn.utils.reset(net)
    net(xs[1, :1])  # another batch size: the traces have gone
    learner.step()
    snn.utils.reset(net)
    net(xs[1])
    with pytest.raises(ValueError, match=r"pre has shape \(2, 4\), its trace \(1, 4\)"):
        learner.step()


@pytest.mark.parametrize(
    "call, error, says",
    [
        (
            lambda: STDPLearner(nn.Bilinear(2, 2, 2), snn.Leaky(0.9), 2.0, 2.0),
            TypeError,
            "nn.Linear or .* not Bilinear",
        ),
        (
            lambda: stdp_conv2d_single_step(nn.Conv1d(1, 1, 1), *[None] * 4, 2.0, 2.0),
            TypeError,
            "nn.Conv2d, not Conv1d. .*snf.learning.stdp_step",
        ),
        (
            lambda: stdp_linear_single_step(
                nn.Linear(4, 3), torch.ones(2, 4), torch.ones(2, 3), torch.ones(1, 4), 0.0, 2.0, 2.0
            ),
            ValueError,
            r"pre has shape \(2, 4\), its trace \(1, 4\)",
        ),
        (
            lambda: mstdpet_linear_single_step(
                nn.Linear(4, 3), torch.ones(2, 4), torch.ones(2, 3), None, None, 2, 2, 2
            ),
            ValueError,
            r"one sample.*\(2, 4\) and \(2, 3\) came. .*mstdp_linear_single_step",
        ),
    ],
)
def test_the_faces_refuse(call, error, says):
    with pytest.raises(error, match=says):
        call()
