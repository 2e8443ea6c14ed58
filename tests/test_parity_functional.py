"""`snn.functional` beside the installed snnTorch 1.0.0: the same numbers, and what is different on purpose."""

import inspect
import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    snntorch = pytest.importorskip("snntorch")
    import snntorch.functional as theirs
    from snntorch.functional import quant as their_quant

from snn_functional import snn
from snn_functional.snn import functional as ours


pytestmark = pytest.mark.filterwarnings("ignore")
law = settings(max_examples=40, deadline=None, derandomize=True)
rate, reduction = st.floats(0, 1), st.sampled_from(["mean", "sum", "none"])
OPTIONS = {
    "ce_rate_loss": {},
    "ce_count_loss": {},
    "ce_max_membrane_loss": {},
    "mse_count_loss": {"correct_rate": rate, "incorrect_rate": rate},
    "mse_membrane_loss": {"on_target": st.floats(-2, 2), "off_target": st.floats(0, 2)},
    "mse_temporal_loss": {
        "on_target": st.integers(-3, 9),
        "off_target": st.integers(0, 9),
        "tolerance": st.integers(0, 4),
    },
    "ce_temporal_loss": {"inverse": st.sampled_from(["negate", "reciprocal"])},
}
POOLED = ["ce_count_loss", "mse_count_loss"]
# Equal to the last bit: sums over the batch are added up in another order in the others, and squares over time too.
EXACT_VALUE = {"mse_count_loss", "mse_temporal_loss"}
EXACT_GRADIENT = EXACT_VALUE | {"ce_rate_loss", "ce_count_loss", "ce_max_membrane_loss"}
every = pytest.mark.parametrize("name", OPTIONS)


def batch(name, T, B, C, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(T, B, C, generator=random)
    return x if "membrane" in name else (x > 0.3).float(), torch.randint(C, (B,), generator=random)


def both(name, options, x, y, exact=True):
    results = []
    for module in (theirs, ours):
        leaf = x.clone().requires_grad_()
        loss = getattr(module, name)(**options)(leaf, y.clone())
        (loss * torch.linspace(0.5, 1, loss.numel()).view(loss.shape)).sum().backward()
        results.append((loss.detach(), leaf.grad))
    (loss, gradient), (own, own_gradient) = results
    tight, loose = {"rtol": 0, "atol": 0}, {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(own, loss.reshape(own.shape), **tight if exact and name in EXACT_VALUE else loose)
    torch.testing.assert_close(own_gradient, gradient, **tight if exact and name in EXACT_GRADIENT else loose)


sizes = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 6), st.integers(0, 999))


@every
@law
@given(data=st.data(), sizes=sizes, reduction=reduction)
def test_losses(name, data, sizes, reduction):
    options = {key: data.draw(value, key) for key, value in OPTIONS[name].items()} | {"reduction": reduction}
    both(name, options, *batch(name, *sizes))


@pytest.mark.parametrize("name", [name for name in OPTIONS if name.startswith("ce")])
@law
@given(data=st.data(), sizes=sizes)
def test_weighted_losses(name, data, sizes):
    options = {key: data.draw(value, key) for key, value in OPTIONS[name].items()}
    options |= {"reduction": data.draw(st.sampled_from(["mean", "none"])), "weight": torch.rand(sizes[2]) + 0.1}
    both(name, options, *batch(name, *sizes), exact=False)


@pytest.mark.parametrize("name", POOLED)
@law
@given(data=st.data(), sizes=sizes, group=st.integers(1, 4), reduction=reduction)
def test_population_codes(name, data, sizes, group, reduction):
    T, B, C, seed = sizes
    options = {key: data.draw(value, key) for key, value in OPTIONS[name].items()} | {"reduction": reduction}
    x, y = batch(name, T, B, C * group, seed)[0], batch(name, *sizes)[1]
    both(name, options | {"population_code": True, "num_classes": C}, x, y)
    expected = theirs.accuracy_rate(x, y, population_code=True, num_classes=C)
    assert ours.accuracy_rate(x, y, population_code=True, num_classes=C).item() == expected


@law
@given(sizes=sizes)
def test_accuracies_and_sparsity(sizes):
    x, y = batch("", *sizes)
    assert ours.accuracy_rate(x, y).item() == theirs.accuracy_rate(x, y)
    assert ours.accuracy_temporal(x, y).item() == theirs.accuracy_temporal(x, y)
    assert torch.equal(ours.l1_rate_sparsity(0.3)(x), theirs.l1_rate_sparsity(0.3)(x))


@law
@given(sizes=sizes)
def test_spike_times_that_are_given(sizes):
    x, _ = batch("", *sizes)
    goal = torch.randint(-sizes[0], sizes[0], x.shape[1:])
    both("mse_temporal_loss", {"target_is_time": True}, x, goal)
    # One spike a neuron, and neurons that never share a step: the only trains whose second times are right in snnTorch.
    lone = torch.zeros(6, 1, 2)
    lone[[0, 2], 0, 0] = lone[[1, 3], 0, 1] = 1
    goals = torch.randint(6, (2, 1, 2))
    both("mse_temporal_loss", {"target_is_time": True, "multi_spike": True}, lone, goals)


@every
def test_constructors(name):
    parameters = [list(inspect.signature(getattr(m, name)).parameters.values()) for m in (theirs, ours)]
    assert [(p.name, p.default) for p in parameters[0]] == [(p.name, p.default) for p in parameters[1]]
    assert getattr(theirs, name)().__name__ == getattr(ours, name)().__name__


def test_every_name_of_these_modules_is_there():
    defined = lambda module: {n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__}
    for name in ("loss", "acc", "reg", "quant"):
        public = {n for n in defined(getattr(theirs, name)) if not n.startswith("_")}
        assert public and public <= set(vars(getattr(ours, name))), name
        assert name == "quant" or public <= set(vars(ours))


quantisers = st.fixed_dictionaries(
    {
        "num_bits": st.integers(1, 8),
        "threshold": st.sampled_from([0.5, 1, 2.3, 5]),
        "lower_limit": st.sampled_from([0, 0.2, 0.7]),
        "upper_limit": st.sampled_from([0, 0.2, 0.5]),
        "uniform": st.booleans(),
        "thr_centered": st.booleans(),
        "multiplier": st.sampled_from([None, 0.5, 0.9]),
    }
)


@law
@given(options=quantisers, seed=st.integers(0, 999))
def test_state_quant(options, seed):
    if options["uniform"]:
        options["multiplier"] = None
    x = torch.randn(300, generator=torch.Generator().manual_seed(seed)) * options["threshold"]
    x = [x.clone().requires_grad_() for _ in range(2)]
    their, own = their_quant.state_quant(**options)(x[0]), ours.quant.state_quant(**options)(x[1])
    # Uniform levels come from `torch.linspace`, whose last bit depends on the width of the processor's vectors.
    torch.testing.assert_close(own, their, rtol=0, atol=3e-7 * options["threshold"] if options["uniform"] else 0)
    own.square().sum().backward(), their.square().sum().backward()
    torch.testing.assert_close(x[1].grad, x[0].grad, rtol=0, atol=1e-6 * options["threshold"])


@pytest.mark.parametrize(
    "name, numbers, gain",
    [("Leaky", (0.9,), 1), ("Synaptic", (0.8, 0.7), 1), ("Lapicque", (0.9,), 9), ("Alpha", (0.9, 0.8, 0.1), 1)],
)
@pytest.mark.parametrize("uniform", [True, False])
def test_neurons_with_state_quant(name, numbers, gain, uniform):
    outputs = []
    for module, quant in ((snntorch, their_quant), (snn, ours.quant)):
        layer = getattr(module, name)(
            *numbers, state_quant=quant.state_quant(num_bits=4, uniform=uniform), init_hidden=True, output=True
        )
        x = (torch.rand(25, 3, 6, generator=torch.Generator().manual_seed(1)) * 1.5 * gain).requires_grad_()
        steps = [torch.stack(column) for column in zip(*(layer(step) for step in x.unbind()))]
        sum(step.square().sum() for step in steps).backward()
        outputs.append([*steps, x.grad])
    assert outputs[0][0].sum() > 0
    for a, b in zip(*outputs):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


# What differs on purpose. Each test says first what snnTorch 1.0.0 does.


X, Y = batch("", 6, 3, 4, seed=1)


def test_differs_losses_are_numbers():
    assert theirs.ce_rate_loss()(X, Y).shape == theirs.mse_membrane_loss()(X, Y).shape == (1,)
    assert ours.ce_rate_loss()(X, Y).shape == ours.mse_membrane_loss()(X, Y).shape == ()


def test_differs_dtype_is_the_outputs():
    assert theirs.ce_rate_loss()(X.double(), Y).dtype is torch.float32
    assert ours.ce_rate_loss()(X.double(), Y).dtype is torch.float64
    assert their_quant.state_quant()(X.double()).dtype is torch.float32
    assert ours.quant.state_quant()(X.double()).dtype is torch.float64


@pytest.mark.parametrize("name", ["ce_rate_loss", "ce_count_loss", "ce_max_membrane_loss"])
def test_differs_a_weighted_sum_is_a_sum(name):
    options = {"weight": torch.rand(4), "reduction": "sum"}
    each = getattr(theirs, name)(**options)(X, Y)
    assert each.shape == (3,)
    torch.testing.assert_close(getattr(ours, name)(**options)(X, Y), each.sum())


@pytest.mark.parametrize("name", ["mse_count_loss", "mse_membrane_loss", "mse_temporal_loss"])
def test_differs_a_weight_is_the_samples(name):
    options = {"weight": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    options |= {"on_target": 0, "off_target": 3} if "temporal" in name else {}
    with pytest.raises(RuntimeError, match="size of tensor"):
        getattr(theirs, name)(**options)(X, Y)
    each = getattr(theirs, name)(**options | {"weight": None, "reduction": "none"})(X, Y)
    expected = (each * options["weight"][Y][:, None]).mean()
    torch.testing.assert_close(getattr(ours, name)(**options)(X, Y), expected)
    # With as many samples as classes it runs, and weights classes by the samples' weights.
    square, y = batch(name, 6, 4, 4)
    assert not torch.isclose(getattr(theirs, name)(**options)(square, y), getattr(ours, name)(**options)(square, y))


def test_differs_default_temporal_targets():
    _, goal = theirs.SpikeTime()(X, Y.clone())
    assert (goal == 0).all()
    _, goal = ours.SpikeTime()(X, Y)
    assert torch.equal(goal, torch.where(torch.nn.functional.one_hot(Y, 4) == 1, 0.0, 5.0))


def test_differs_negative_off_target():
    zeros, y, options = torch.zeros(2, 1, 3), torch.tensor([0]), {"off_target": -0.5, "reduction": "none"}
    assert theirs.mse_membrane_loss(**options)(zeros, y).tolist() == [[1, 0, 0]]
    assert ours.mse_membrane_loss(**options)(zeros, y).tolist() == [[1, 0.25, 0.25]]


def test_differs_targets_that_vary_in_time():
    ys = torch.randint(4, (6, 3))
    with pytest.raises(RuntimeError, match="same number of dimensions"):
        theirs.mse_membrane_loss(time_var_targets=True)(X, ys)
    steps = [theirs.mse_membrane_loss()(x[None], y) for x, y in zip(X, ys)]
    torch.testing.assert_close(ours.mse_membrane_loss(time_var_targets=True)(X, ys), torch.cat(steps).mean())
    # One class a step for the whole batch runs there too.
    expected = theirs.mse_membrane_loss(time_var_targets=True)(X, ys[:, 0]).squeeze()
    torch.testing.assert_close(ours.mse_membrane_loss(time_var_targets=True)(X, ys[:, 0]), expected)


def test_differs_second_spike_times():
    spk = torch.zeros(6, 1, 2)
    spk[[1, 3], 0, 0] = spk[[3, 5], 0, 1] = 1
    options = {"target_is_time": True, "multi_spike": True}
    goal = torch.zeros(2, 1, 2)
    assert theirs.SpikeTime(**options)(spk, goal.clone())[0][:, 0].tolist() == [[1, 3], [5, 5]]
    assert ours.SpikeTime(**options)(spk, goal)[0][:, 0].tolist() == [[1, 3], [3, 5]]


def test_differs_gradient_of_times_that_coincide():
    """A neuron with no spike has all its times in the last step: there the last gradient overwrites the others, here they add."""
    gradients = []
    for module in (theirs, ours):
        spk = torch.zeros(4, 1, 1, requires_grad=True)
        times, _ = module.SpikeTime(target_is_time=True, multi_spike=True)(spk, torch.zeros(2, 1, 1))
        (times * torch.tensor([1.0, 10.0]).view(2, 1, 1)).sum().backward()
        gradients.append(spk.grad.flatten().tolist())
    assert gradients == [[0, 0, 0, -10], [0, 0, 0, -11]]


def test_differs_targets_stay_as_they_are():
    goals = [torch.full((3, 4), -1), torch.full((3, 4), -1)]
    for module, goal in zip((theirs, ours), goals):
        module.mse_temporal_loss(target_is_time=True)(X, goal)
    assert (goals[0] == 5).all() and (goals[1] == -1).all()


def test_differs_ce_rate_pools_its_population():
    code = {"population_code": True, "num_classes": 2}
    with pytest.raises(TypeError, match="not subscriptable"):
        theirs.ce_rate_loss(**code)(X, Y % 2)
    expected = theirs.ce_rate_loss()(X.view(6, 3, 2, 2).sum(-1), Y % 2).squeeze()
    torch.testing.assert_close(ours.ce_rate_loss(**code)(X, Y % 2), expected)


def test_differs_accuracies_are_tensors():
    assert not isinstance(theirs.accuracy_rate(X, Y), torch.Tensor)
    for accuracy in (ours.accuracy_rate(X, Y), ours.accuracy_temporal(X, Y)):
        assert accuracy.shape == () and accuracy.dtype is torch.float64 and f"{accuracy:.2f}"


@pytest.mark.parametrize("name", ["mse_count_loss", "accuracy_rate", "ce_count_loss"])
def test_differs_wrong_targets_and_empty_time_are_refused(name):
    def call(module, x, y):
        f = getattr(module, name)
        return f(x, y) if name.startswith("acc") else f()(x, y)

    for x, y in ((X, torch.tensor([0])), (X[:0], Y)) if name != "ce_count_loss" else ((X[:0], Y), (X, Y - 100 - Y)):
        call(theirs, x, y)
        with pytest.raises(ValueError, match=name):
            call(ours, x, y)


def test_differs_quantisers_are_values_and_keep_nan():
    their, own = their_quant.state_quant, ours.quant.state_quant
    assert their() != their() and own() == own()
    nan = torch.tensor([float("nan")])
    assert their()(nan).item() == -1 and own()(nan).isnan()
    far = torch.tensor([1e9])
    assert their(num_bits=3)(far).item() == -1 and own(num_bits=3)(far).item() == pytest.approx(1.2)
    their(multiplier=0.5)
    with pytest.raises(ValueError, match="equal steps have no multiplier"):
        own(multiplier=0.5)
