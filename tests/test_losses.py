"""Losses and metrics: each against its definition, written with loops; their laws; the faces over them."""

import inspect
import math
import pickle

import pytest
import torch
from helpers import law
from hypothesis import given, strategies as st
from torch.func import grad, jvp, vmap

import snn_functional as snf
from snn_functional import losses
from snn_functional.metrics import accuracy_rate, accuracy_temporal, pool, spike_times
from snn_functional.snn import functional as SF


T, B, C = 7, 5, 4
SPK = (torch.rand(T, B, C, generator=torch.Generator().manual_seed(0)) > 0.6).float()
MEM = torch.randn(T, B, C, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 3, 1, 1, 2])
WEIGHT = torch.tensor([1.0, 0.5, 2.0, 0.25])

SIGNATURES = {  # of snnTorch 1.0.0, in order
    "ce_rate_loss": "population_code=False, num_classes=False, reduction='mean', weight=None",
    "ce_count_loss": "population_code=False, num_classes=False, reduction='mean', weight=None",
    "ce_max_membrane_loss": "reduction='mean', weight=None",
    "mse_count_loss": "correct_rate=1, incorrect_rate=0, population_code=False, num_classes=False, reduction='mean', weight=None",
    "mse_membrane_loss": "time_var_targets=False, on_target=1, off_target=0, reduction='mean', weight=None",
    "mse_temporal_loss": "target_is_time=False, on_target=0, off_target=-1, tolerance=0, multi_spike=False, reduction='mean', "
    "weight=None",
    "ce_temporal_loss": "inverse='negate', reduction='mean', weight=None",
}
TEMPORAL = {"mse_temporal_loss", "ce_temporal_loss"}
every = pytest.mark.parametrize("name", SIGNATURES)


def out(name):
    return MEM if "membrane" in name else SPK


def ce(scores, y):
    return math.log(sum(math.exp(s) for s in scores)) - scores[y]


def first(train, T):
    return next((t for t, s in enumerate(train) if s), T - 1)


# One sample's losses: a number, or one a class. xs[t][c], y the class.
DEFINITIONS = {
    "ce_rate_loss": lambda xs, y: sum(ce(x, y) for x in xs) / len(xs),
    "ce_count_loss": lambda xs, y: ce([sum(train) for train in zip(*xs)], y),
    "ce_max_membrane_loss": lambda xs, y: ce([max(train) for train in zip(*xs)], y),
    "mse_count_loss": lambda xs, y: [
        (sum(train) - len(xs) * (c == y)) ** 2 / len(xs) for c, train in enumerate(zip(*xs))
    ],
    "mse_membrane_loss": lambda xs, y: [
        sum((u - (c == y)) ** 2 for u in train) / len(xs) for c, train in enumerate(zip(*xs))
    ],
    "mse_temporal_loss": lambda xs, y: [
        ((first(train, len(xs)) - (len(xs) - 1) * (c != y)) / len(xs)) ** 2 for c, train in enumerate(zip(*xs))
    ],
    "ce_temporal_loss": lambda xs, y: ce([-first(train, len(xs)) for train in zip(*xs)], y),
}


@every
@law
@given(T=st.integers(1, 6), B=st.integers(1, 4), C=st.integers(1, 5), seed=st.integers(0, 99))
def test_is_its_definition(name, T, B, C, seed):
    random = torch.Generator().manual_seed(seed)
    xs = torch.randn(T, B, C, dtype=torch.float64, generator=random)
    xs = xs if "membrane" in name else (xs > 0.3).double()
    y = torch.randint(C, (B,), generator=random)
    expected = torch.tensor([DEFINITIONS[name](xs[:, b].tolist(), int(y[b])) for b in range(B)], dtype=torch.float64)
    torch.testing.assert_close(getattr(losses, name)(xs, y, reduction="none"), expected)


@every
def test_reductions_and_weights(name):
    loss, x = getattr(losses, name), out(name)
    each = loss(x, Y, reduction="none")
    assert each.shape == ((B, C) if name.startswith("mse") else (B,))
    torch.testing.assert_close(loss(x, Y), each.mean())
    torch.testing.assert_close(loss(x, Y, reduction="sum"), each.sum())
    w = WEIGHT[Y].view(B, *[1] * (each.dim() - 1))
    torch.testing.assert_close(loss(x, Y, reduction="none", weight=WEIGHT), each * w)
    torch.testing.assert_close(loss(x, Y, reduction="sum", weight=WEIGHT), (each * w).sum())
    mean = (each * w).sum() / w.sum() if name == "ce_temporal_loss" else (each * w).mean()
    torch.testing.assert_close(loss(x, Y, weight=WEIGHT), mean)


@every
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_is_closed_under_transforms(name, weight):
    f = lambda x, y: getattr(losses, name)(x, y, reduction="sum", weight=weight)
    x = out(name)
    whole = grad(f)(x, Y)
    assert whole.abs().sum() > 0
    torch.testing.assert_close(vmap(grad(f), (1, 0), 1)(x, Y), whole)
    torch.testing.assert_close(vmap(f, (1, 0))(x, Y).sum(), f(x, Y))
    direction = torch.randn_like(x)
    torch.testing.assert_close(jvp(lambda x: f(x, Y), (x,), (direction,))[1], (whole * direction).sum())
    leaf = x.clone().requires_grad_()
    f(leaf, Y).backward()
    torch.testing.assert_close(leaf.grad, whole)


@pytest.mark.parametrize("name", sorted(SIGNATURES.keys() - TEMPORAL))
def test_gradient_is_the_derivative(name):
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    f = lambda x: getattr(losses, name)(x, torch.tensor([3, 0]), weight=WEIGHT.double())
    assert torch.autograd.gradcheck(f, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (x,))


@every
def test_any_batch_axes(name):
    loss, x = getattr(losses, name), out(name)
    more = torch.stack([x, x.flip(0)], 2)
    y = torch.stack([Y, Y.flip(0)], 1)
    each = loss(more, y, reduction="none", weight=WEIGHT)
    for b in range(B):
        for i in range(2):
            torch.testing.assert_close(loss(more[:, b, i], y[b, i], reduction="none", weight=WEIGHT), each[b, i])


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_follows_the_output(name, dtype):
    assert getattr(losses, name)(out(name).to(dtype), Y).dtype is dtype
    assert getattr(losses, name)(out(name), Y.to(torch.uint8)).equal(getattr(losses, name)(out(name), Y))
    assert getattr(losses, name)(out(name), Y, weight=WEIGHT).shape == ()


@every
def test_compiles_whole(name):
    compiled = torch.compile(getattr(losses, name), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(out(name), Y), getattr(losses, name)(out(name), Y))


@pytest.mark.parametrize("name", ["ce_rate_loss", "ce_count_loss", "mse_count_loss"])
def test_population_code_sums_each_group(name):
    spk, y, code = SPK.view(T, B, C)[:, :, [0, 2, 1, 3]], Y % 2, {"population_code": True, "num_classes": 2}
    groups = torch.stack([spk[..., :2].sum(-1), spk[..., 2:].sum(-1)], -1)
    assert torch.equal(pool(spk, 2), groups)
    loss = getattr(losses, name)
    if name == "mse_count_loss":
        n = torch.tensor([[int(T * 0.7 * 2), int(T * 0.1 * 2)], [int(T * 0.1 * 2), int(T * 0.7 * 2)]])[y]
        expected = ((groups.sum(0) - n) ** 2).mean() / T
        torch.testing.assert_close(loss(spk, y, correct_rate=0.7, incorrect_rate=0.1, **code), expected)
    else:
        for options in ({}, {"weight": WEIGHT[:2]}):
            assert torch.equal(loss(spk, y, **code, **options), loss(groups, y, **options))
    with pytest.raises(ValueError, match=r"num_classes=3 for 4 outputs.*divides 4"):
        loss(spk, y, population_code=True, num_classes=3)
    with pytest.raises(ValueError, match=r"say how many classes share the 4 outputs"):
        loss(spk, y, population_code=True)
    with pytest.raises(ValueError, match=rf"{name}\(population_code=True, num_classes=2\)"):
        loss(spk, y, num_classes=2)
    assert loss(spk, Y, num_classes=4) == loss(spk, Y)


def test_mse_membrane_targets_that_vary_in_time():
    f = losses.mse_membrane_loss
    ys = torch.randint(C, (T, B))
    steps = torch.stack([f(MEM[t : t + 1], ys[t], on_target=1.5, off_target=-0.5, weight=WEIGHT) for t in range(T)])
    options = {"time_var_targets": True, "on_target": 1.5, "off_target": -0.5, "weight": WEIGHT}
    torch.testing.assert_close(f(MEM, ys, **options), steps.mean())
    assert torch.equal(f(MEM, ys[:, 0], **options), f(MEM, ys[:, :1].expand(T, B), **options))
    with pytest.raises(ValueError, match=r"targets \(5,\).*mse_membrane_loss|mse_membrane_loss.*targets"):
        f(MEM, ys[:5, :2], **options)


def test_mse_membrane_off_target_may_be_negative():
    """Where snnTorch 1.0.0 clamps it to 0."""
    each = losses.mse_membrane_loss(torch.zeros(2, 1, 3), torch.tensor([1]), off_target=-0.5, reduction="none")
    assert each.tolist() == [[0.25, 1.0, 0.25]]


def times_of(train, count):
    T = len(train)
    return ([t for t, s in enumerate(train) if s] + [T - 1] * count)[:count]


@law
@given(
    trains=st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=6, max_size=6), min_size=1, max_size=5),
    data=st.data(),
)
def test_spike_times_are_those_of_each_neuron(trains, data):
    count = data.draw(st.integers(1, 6))
    spk = torch.tensor(trains).T
    times = spike_times(spk, count)
    assert times.T.tolist() == [times_of(train, count) for train in trains] and times.dtype is torch.float32
    cotangent = torch.randn(times.shape)
    expected = torch.zeros_like(spk)
    for n, train in enumerate(trains):
        for k, t in enumerate(times_of(train, count)):
            expected[t, n] -= cotangent[k, n]
    torch.testing.assert_close(grad(lambda s: (spike_times(s, count) * cotangent).sum())(spk), expected)
    assert torch.equal(vmap(lambda s: spike_times(s, count), 1, 1)(spk), times)
    tangent = torch.randn_like(spk)
    torch.testing.assert_close(
        (jvp(lambda s: spike_times(s, count), (spk,), (tangent,))[1] * cotangent).sum(), (expected * tangent).sum()
    )


def test_second_spikes_are_right_where_neurons_share_a_step():
    """Where snnTorch 1.0.0 gives (5, 5): it wipes the step of the first spike for all neurons."""
    spk = torch.zeros(6, 1, 2)
    spk[[1, 3], 0, 0] = spk[[3, 5], 0, 1] = 1
    assert spike_times(spk, 2)[:, 0].tolist() == [[1, 3], [3, 5]]


def test_spike_times_refuses():
    for count in (0, 8, 1.0, True):
        with pytest.raises(ValueError, match=rf"count={count!r}.*integer from 1 to 7"):
            spike_times(SPK, count)
    with pytest.raises(TypeError, match="torch.bool"):
        spike_times(SPK > 0)


def test_mse_temporal_goals():
    goals = lambda y=Y, **options: losses.spike_time(SPK, y, **options)[1]
    right = torch.nn.functional.one_hot(Y, C)
    assert torch.equal(goals(), torch.where(right == 1, 0.0, T - 1.0))
    assert torch.equal(goals(on_target=-2, off_target=3), torch.where(right == 1, T - 2.0, 3.0))
    several = goals(on_target=(1, 2), off_target=torch.tensor([-2, -1]), multi_spike=True)
    assert torch.equal(
        several, torch.stack([torch.where(right == 1, 1.0, T - 2.0), torch.where(right == 1, 2.0, T - 1.0)])
    )
    times = torch.tensor([0, -1, 2, 3])
    assert torch.equal(goals(times, target_is_time=True), torch.tensor([0.0, 6.0, 2.0, 3.0]).expand(B, C))
    assert times.tolist() == [0, -1, 2, 3]
    assert goals(torch.zeros(2, C), target_is_time=True, multi_spike=True).shape == (2, B, C)
    assert goals(torch.zeros(3), target_is_time=True, multi_spike=True).shape == (3, B, C)


def test_mse_temporal_with_several_spikes():
    f = losses.mse_temporal_loss
    goal = torch.randint(T, (2, B, C))
    each = ((spike_times(SPK, 2) - goal) / T) ** 2
    torch.testing.assert_close(f(SPK, goal, target_is_time=True, multi_spike=True), each.mean())
    several = {"on_target": (1, 2), "off_target": (4, 5), "multi_spike": True}
    goal = losses.spike_time(SPK, Y, **several)[1]
    each = ((spike_times(SPK, 2) - goal) / T) ** 2 * WEIGHT[Y][:, None]
    torch.testing.assert_close(f(SPK, Y, weight=WEIGHT, **several), each.mean())


def test_tolerance_takes_near_times_for_their_goal():
    times, goal = losses.spike_time(SPK, Y, on_target=1, off_target=3)
    near, _ = losses.spike_time(SPK, Y, on_target=1, off_target=3, tolerance=2)
    assert torch.equal(near, torch.where((times - goal).abs() < 2, goal, times)) and not torch.equal(near, times)
    f = lambda s: losses.mse_temporal_loss(s, Y, on_target=1, off_target=3, tolerance=2, reduction="sum")
    silent = (times - goal).abs() < 2
    assert ((grad(f)(SPK) != 0).any(0) == ~silent).all()

    total = lambda s: losses.spike_time(s, Y, on_target=1, off_target=3, tolerance=2)[0].sum()
    assert torch.equal(grad(total)(SPK), grad(lambda s: spike_times(s).sum())(SPK))


def test_ce_max_membrane_reaches_one_step_of_several_that_are_as_high():
    g = grad(losses.ce_max_membrane_loss)(torch.ones(3, 1, 2), torch.tensor([0]))
    assert ((g != 0).sum(0) == 1).all()


def test_temporal_gradient_makes_the_class_fire_earlier():
    """A step down the gradient raises the spikes of a class that comes too late, and lowers those of one that comes too early."""
    g = grad(lambda s: losses.mse_temporal_loss(s, Y))(SPK)
    late, early = spike_times(SPK)[0] > 0, spike_times(SPK)[0] < T - 1
    right = torch.nn.functional.one_hot(Y, C).bool()
    assert (g.sum(0)[right & late] < 0).all() and (g.sum(0)[~right & early] > 0).all()


def test_l1_rate_sparsity():
    assert torch.equal(losses.l1_rate_sparsity(SPK, 0.25), 0.25 * SPK.sum())
    assert torch.equal(grad(losses.l1_rate_sparsity)(SPK), torch.full_like(SPK, 1e-5))


@law
@given(seed=st.integers(0, 99), T=st.integers(1, 5), B=st.integers(1, 6))
def test_accuracies_are_their_definitions(seed, T, B):
    random = torch.Generator().manual_seed(seed)
    spk, y = torch.rand(T, B, 4, generator=random) > 0.6, torch.randint(2, (B,), generator=random)
    most = [max(range(4), key=lambda c: (spk[:, b, c].sum(), -c)) for b in range(B)]
    soonest = [min(range(4), key=lambda c: (first(spk[:, b, c].tolist(), T), c)) for b in range(B)]
    group = [int(spk[:, b, 2:].sum() > spk[:, b, :2].sum()) for b in range(B)]
    share = lambda guess: sum(g == int(c) for g, c in zip(guess, y)) / B
    for x in (spk, spk.float()):
        assert accuracy_rate(x, y).item() == share(most)
        assert accuracy_temporal(x, y).item() == share(soonest)
        assert accuracy_rate(x, y, population_code=True, num_classes=2).item() == share(group)
        assert vmap(accuracy_rate, (1, 0))(x, y).mean().item() == pytest.approx(share(most))


ALL = {name: getattr(losses, name) for name in SIGNATURES} | {
    "accuracy_rate": accuracy_rate,
    "accuracy_temporal": accuracy_temporal,
}


@pytest.mark.parametrize("name", ALL)
def test_refuses_what_is_no_output_or_no_target(name):
    f, x = ALL[name], SPK
    for bad, message in [
        (x[:0], r"shape \(0, 5, 4\).*at least one time step"),
        (x[0, 0], r"shape \(4,\).*\[T, batch, classes\]"),
    ]:
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            f(bad, Y)
    with pytest.raises(TypeError, match=rf"{name}: .*not list.*torch.stack\(spks\)"):
        f([x], Y)
    for bad, came in [(Y.float(), "torch.float32"), (Y > 0, "torch.bool"), ([0, 1], "list")]:
        with pytest.raises(TypeError, match=rf"{name}: targets are class indices.*not {came}"):
            f(x, bad)
    for bad in (Y[:1], Y[:, None], torch.nn.functional.one_hot(Y, C), torch.tensor(0)):
        with pytest.raises(ValueError, match=rf"{name}: targets .*one class index a sample, \(5,\)"):
            f(x, bad)
    for bad in (4, -1, -100):
        with pytest.raises(ValueError, match=rf"{name}: targets lie in \[.*{bad}.*classes 0 to 3"):
            f(x, torch.tensor([0, 1, 2, 3, bad]))


@every
def test_refuses_options(name):
    f = getattr(losses, name)
    with pytest.raises(TypeError, match=rf"{name}: the network's output is a floating tensor.*torch.int64"):
        f(SPK.long(), Y)
    with pytest.raises(ValueError, match=rf"{name}\(reduction='avg'\): expected one of 'mean', 'sum', 'none'"):
        f(SPK, Y, reduction="avg")
    for bad in (torch.ones(3), [1, 1, 1, 1], torch.ones(1)):
        with pytest.raises(ValueError, match=rf"{name}\(weight=...\): expected a tensor \(4,\)"):
            f(SPK, Y, weight=bad)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"on_target": (5, 10), "off_target": (-2, -1)}, "with multi_spike=True two sequences"),
        ({"on_target": (5, 10), "multi_spike": True}, "two sequences of as many"),
        ({"tolerance": -1}, "tolerance=-1"),
        ({"target_is_time": True}, r"steps \(5,\) do not broadcast to \(5, 4\)"),
        ({"target_is_time": True, "weight": WEIGHT}, "a weight belongs to a class"),
        ({"on_target": range(9), "off_target": range(9), "multi_spike": True}, "at most once in each of the 7 steps"),
    ],
)
def test_mse_temporal_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        losses.mse_temporal_loss(SPK, Y, **options)


def test_others_refuse():
    with pytest.raises(ValueError, match=r"mse_count_loss\(correct_rate=1.5, incorrect_rate=0\)"):
        losses.mse_count_loss(SPK, Y, correct_rate=1.5)
    with pytest.raises(ValueError, match=r"inverse='log'.*'negate', 'reciprocal'"):
        losses.ce_temporal_loss(SPK, Y, inverse="log")
    with pytest.raises(TypeError, match="l1_rate_sparsity"):
        losses.l1_rate_sparsity(3.0)


@every
def test_face_is_the_pure_loss_with_snntorchs_constructor(name):
    Face = getattr(SF, name)
    parameters = inspect.signature(Face).parameters.values()
    assert ", ".join(f"{p.name}={p.default!r}" for p in parameters) == SIGNATURES[name]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) and Face is getattr(SF.loss, name)
    face = Face(reduction="sum", weight=WEIGHT)
    assert face.__name__ == Face.__name__ == name and face.reduction == "sum" and face.weight is WEIGHT
    assert isinstance(face, SF.LossFunctions)
    expected = getattr(losses, name)(out(name), Y, reduction="sum", weight=WEIGHT)
    assert torch.equal(face(out(name), Y), expected)
    assert torch.equal(pickle.loads(pickle.dumps(face))(out(name), Y), expected)
    assert repr(Face(reduction="none")) == f"{name}(reduction='none')"
    with pytest.raises(ValueError, match=rf"{name}\(reduction='avg'\)"):
        Face(reduction="avg")
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        Face(mean=True)


def test_other_faces():
    assert SF.accuracy_rate is SF.acc.accuracy_rate is snf.metrics.accuracy_rate
    assert SF.accuracy_temporal is SF.acc.accuracy_temporal is snf.metrics.accuracy_temporal
    sparsity = SF.l1_rate_sparsity(0.5)
    assert sparsity.__name__ == "l1_rate_sparsity" and sparsity.Lambda == 0.5 and sparsity(SPK) == 0.5 * SPK.sum()
    assert str(inspect.signature(SF.reg.l1_rate_sparsity)) == "(Lambda: float = 1e-05) -> None"
    options = {"on_target": 1, "off_target": 3, "tolerance": 2}
    for a, b in zip(SF.SpikeTime(**options)(SPK, Y), losses.spike_time(SPK, Y, **options)):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="inverse='log'"):
        SF.ce_temporal_loss("log")
