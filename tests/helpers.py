"""What the tests share: the list of neurons, worlds to run them in, and comparisons of trees."""

import dataclasses
import functools
import os
from typing import Any, NamedTuple

import optree
import pytest
import torch
from alif import alif
from hypothesis import settings

import snn_functional as snf


NEURONS = {k: v for k, v in vars(snf.neurons).items() if isinstance(v, snf.Neuron)} | {"alif": alif}

USUAL = {"alpha": 0.9, "beta": 0.8, "R": 5.0, "C": 1.0}  # 0.9 for a number that has neither a default nor a place here
TRIED = {  # choices that are another neuron's code, and are tried there
    "cuba_lif": ("reset_mechanism", "reset_delay", "spike_delay", "detach_reset", "inclusive"),
}
# The size of inputs and states, where it is not 1.
UNITS = {"adex": 100.0, "hodgkin_huxley": 40.0, "izhikevich": 40.0, "izhikevich_euler": 40.0}
# Those whose exp is rounded otherwise in a kernel than by torch.
ROUNDED = {"adex", "clif", "exponential_integrate_and_fire", "hodgkin_huxley"}

# The laws are asked of the definition. SNN_KIND=checkpointed asks them of the other kind that is equal to it bit for bit.
scan = functools.partial(snf.scan, kind=os.environ.get("SNN_KIND", "loop"))

EXAMPLES = int(os.environ.get("SNN_EXAMPLES", "5"))  # drawn of each law
law = settings(max_examples=EXAMPLES, deadline=None, derandomize=True)


class World(NamedTuple):
    """The arguments of `scan`: `scan(*world)`."""

    step: Any
    params: Any
    state: Any
    inputs: Any


@dataclasses.dataclass(frozen=True)
class Case:
    """A neuron, and one of its choices: the way it resets."""

    name: str
    neuron: snf.Neuron
    choices: dict[str, Any]
    pointwise = True

    def same(self, actual, expected):
        """Is it the same, however many run together, and in a kernel?"""
        assert_equal(actual, expected) if self.pointwise and not self.rounded else assert_allclose(actual, expected)

    @property
    def rounded(self):
        return self.name in ROUNDED

    def __str__(self):
        said = (value if isinstance(value, str) else option for option, value in self.choices.items() if value)
        return "-".join([self.name, *said])

    @property
    def spiking(self):
        return any(f.name == "spike_grad" for f in dataclasses.fields(self.neuron.Params))

    def params(self, *shape, dtype=torch.float32, **choices):
        """Each number up to 5 % below its usual value, drawn anew for every entry of `shape`."""
        numbers = {}
        for f in dataclasses.fields(self.neuron.Params):
            if not f.metadata.get("static"):
                usual = USUAL.get(f.name, 0.9) if f.default is dataclasses.MISSING else f.default
                numbers[f.name] = usual * (1 - torch.rand(shape, dtype=dtype) / 20)
        return self.neuron.Params(**numbers, **self.choices, **choices)

    def inputs(self, T=6, batch=3, n=4, dtype=torch.float32):
        """Currents that make some neurons fire."""
        return UNITS.get(self.name, 1) * (torch.randn(T, batch, n, dtype=dtype) / 2 + 0.3)

    def world(self, T=6, batch=3, n=4, dtype=torch.float32, **choices):
        """Parameters per neuron, a state on both sides of the threshold, and an input that makes some neurons fire."""
        params, inputs = self.params(n, dtype=dtype, **choices), self.inputs(T, batch, n, dtype)
        some = lambda x: UNITS.get(self.name, 1) * torch.randn_like(x)
        state = optree.tree_map(some, self.neuron.init(params, at(inputs, 0)))
        return World(self.neuron.step, params, state, inputs)

    def smooth(self, **sizes):
        """A world whose derivatives finite differences can see."""
        return self.world(**sizes, dtype=torch.float64, **({"spike_grad": steep} if self.spiking else {}))


@dataclasses.dataclass(frozen=True)
class Modified(Case):
    """A leaky within modifiers."""

    spiking = True

    @property
    def pointwise(self):
        return self.name not in NOT_POINTWISE

    def params(self, *shape, dtype=torch.float32, **choices):
        inner = Case("leaky", snf.leaky, self.choices).params(*shape, dtype=dtype, **choices)
        number = lambda usual: usual * (1 - torch.rand(shape, dtype=dtype) / 20)
        return MODIFIED[self.name][1](inner, number)

    def inputs(self, T=6, batch=3, n=4, dtype=torch.float32):
        inputs = super().inputs(T, batch, n, dtype)
        second = SECOND_INPUT.get(self.name)
        return (inputs, second(inputs)) if second else inputs


def halved(x):
    return 0.5 * x


@dataclasses.dataclass(frozen=True)
class HeldByInput:
    """`masked`, each neuron by itself, where its input says so: the laws give a step one tensor of numbers."""

    held: snf.masked

    def __call__(self, params, state, x):
        return self.held(params, state, (x, x > -0.2))


SECOND_INPUT = {
    "noisy": torch.randn_like,
    "escape_noise": torch.rand_like,
    "driven": lambda x: (torch.rand_like(x) < 0.3).to(x.dtype),
}
NOT_POINTWISE = ("inhibit", "recurrent-linear", "recurrent-delayed")
MODIFIED = {  # the neuron, its parameters around those of leaky
    "inhibit": (snf.inhibit(snf.leaky), lambda inner, number: inner),
    "quantize": (snf.quantize(snf.leaky, halved), lambda inner, number: inner),
    "immediate_reset": (snf.immediate_reset(snf.leaky), lambda inner, number: inner),
    "multi_spike": (snf.multi_spike(snf.leaky, 2), lambda inner, number: inner),
    "ternary": (snf.ternary(snf.leaky), lambda inner, number: inner),
    "escape_noise": (
        snf.escape_noise(snf.leaky),
        lambda inner, number: snf.EscapeNoiseParams(inner, number(0.3), number(0.8)),
    ),
    "driven": (snf.driven(snf.leaky), lambda inner, number: inner),
    "sub_steps": (snf.sub_steps(snf.leaky, 3), lambda inner, number: inner),
    "refractory": (snf.refractory(snf.leaky, 2), lambda inner, number: inner),
    "adaptive_threshold": (
        snf.adaptive_threshold(snf.leaky),
        lambda inner, number: snf.AdaptiveThresholdParams(inner, number(0.9), number(0.3)),
    ),
    "noisy": (snf.noisy(snf.leaky), lambda inner, number: snf.NoisyParams(inner, number(0.5))),
    "readout": (snf.readout(snf.leaky), lambda inner, number: inner),
    "record": (snf.record(snf.leaky), lambda inner, number: inner),
    "masked": (snf.leaky._replace(step=HeldByInput(snf.masked(snf.leaky_step))), lambda inner, number: inner),
    "recurrent": (snf.recurrent(snf.leaky), lambda inner, number: snf.RecurrentParams(inner, number(0.7))),
    "recurrent-linear": (
        snf.recurrent(snf.leaky),
        lambda inner, number: snf.RecurrentParams(inner, snf.Linear(*_weights(inner))),
    ),
    "recurrent-delayed": (
        snf.recurrent(snf.leaky, snf.delayed_linear),
        lambda inner, number: snf.RecurrentParams(
            inner, snf.DelayedLinear(_weights(inner)[0], number(1.5), 2, number(0.5), _weights(inner)[1])
        ),
    ),
    "filtered": (snf.filtered(snf.leaky), lambda inner, number: snf.FilteredParams(inner, number(0.8))),
    "nested": (
        snf.filtered(snf.recurrent(snf.refractory(snf.adaptive_threshold(snf.leaky), 1))),
        lambda inner, number: snf.FilteredParams(
            snf.RecurrentParams(snf.AdaptiveThresholdParams(inner, number(0.9), number(0.3)), number(0.7)), number(0.8)
        ),
    ),
}


def _weights(params):
    n = params.beta.shape[-1] if params.beta.dim() else 4
    return torch.randn(n, n, dtype=params.beta.dtype) / 2, torch.randn(n, dtype=params.beta.dtype) / 2


@dataclasses.dataclass(frozen=True)
class Wired(Case):
    """A neuron with weights between neurons: it keeps all laws but those of a pointwise one, to the rounding of its sums."""

    pointwise = False

    def params(self, *shape, dtype=torch.float32, **choices):
        weights = lambda *size: torch.randn(size, dtype=dtype) / 2
        numbers = WIRED[self.name][1](shape[-1] if shape else 4, weights)
        numbers = {k: torch.full((), x, dtype=dtype) if isinstance(x, float) else x for k, x in numbers.items()}
        return self.neuron.Params(**numbers, **self.choices, **choices)

    def inputs(self, T=6, batch=3, n=4, dtype=torch.float32):
        return torch.randn(T, batch, *WIRED[self.name][2](n), dtype=dtype)


WIRED = {  # the neuron, its parameters, the shape of its input
    "rleaky-linear": (
        snf.rleaky,
        lambda n, w: {"beta": 0.8, "threshold": 1.0, "V": snf.Linear(w(n, n), w(n))},
        lambda n: (n,),
    ),
    "rsynaptic-conv2d": (
        snf.rsynaptic,
        lambda n, w: {"alpha": 0.9, "beta": 0.8, "threshold": 1.0, "V": snf.Conv2d(w(n, n, 3, 1), w())},
        lambda n: (n, 3, 2),
    ),
    "slstm": (
        snf.slstm,
        lambda n, w: {
            "input": snf.Linear(w(4 * n, 3), w(4 * n)),
            "hidden": snf.Linear(w(4 * n, n), w()),
            "threshold": 0.1,
        },
        lambda n: (3,),
    ),
    "sconv2dlstm": (
        snf.sconv2dlstm,
        lambda n, w: {"gates": snf.Conv2d(w(4 * n, 2 + n, 1, 3), w(4 * n)), "threshold": 0.1},
        lambda n: (2, 1, 3),
    ),
    "linear_leaky": (
        snf.linear_leaky,
        lambda n, w: {"input": snf.Linear(w(n, 3), w(n)), "beta": 0.8, "threshold": 0.5},
        lambda n: (3,),
    ),
    "leaky_parallel": (
        snf.leaky_parallel,
        lambda n, w: {"input": snf.Linear(w(n, 3), w()), "beta": 0.8, "threshold": 0.3},
        lambda n: (3,),
    ),
    "leaky_parallel-dense": (
        snf.leaky_parallel,
        lambda n, w: {"input": snf.Linear(w(n, 3), w(n)), "beta": snf.Linear(w(n, n), w()), "threshold": 0.3},
        lambda n: (3,),
    ),
    "associative_leaky": (
        snf.associative_leaky,
        lambda n, w: {
            "value": snf.Linear(w(2, 3), w(2)),
            "key": snf.Linear(w(n, 3), w(n)),
            "decay": snf.Linear(w(n, 3), w()),
            "threshold": 0.1,
        },
        lambda n: (3,),
    ),
}


class OfTheOldKind(torch.autograd.Function):
    """A surrogate as most are written, without a word for torch.func."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent / (1 + 9 * ctx.saved_tensors[0] ** 2)


class UsersSpike(torch.autograd.Function):
    """What a user brings from elsewhere, all but its slope: an autograd.Function with a vmap rule."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u):
        return (u > 0).to(u.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)


def steep(u):
    return torch.sigmoid(4 * u)


def at(tree, *index):
    """A part of every leaf."""
    return optree.tree_map(lambda x: x[index], tree)


def _cases():
    for name, neuron in NEURONS.items():
        if any(f.type in (snf.Linear, snf.Conv2d) for f in dataclasses.fields(neuron.Params)):
            continue  # no numbers will do: it is among the wired
        options = {
            f.name: f.metadata["choices"] for f in dataclasses.fields(neuron.Params) if f.metadata.get("choices")
        }
        usual = {option: values[0] for option, values in options.items()}
        yield Case(name, neuron, usual)
        for option, values in options.items():  # each of the other choices by itself
            for value in () if option in TRIED.get(name, ()) else values[1:]:
                yield Case(name, neuron, usual | {option: value})


CASES = list(_cases())
WIRED_CASES = [
    Wired(name, neuron, {"reset_mechanism": "subtract"} if hasattr(neuron.Params, "reset_mechanism") else {})
    for name, (neuron, *_) in WIRED.items()
]
CASES = [*CASES, *(Modified(name, neuron, {}) for name, (neuron, _) in MODIFIED.items()), *WIRED_CASES]
each_pointwise = pytest.mark.parametrize("case", [case for case in CASES if case.pointwise], ids=str)
each_case = pytest.mark.parametrize("case", CASES, ids=str)
ONE_EACH = [  # one choice of each, for what takes long; of the modified ones three
    case
    for case in {case.name: case for case in reversed(CASES)}.values()
    if case.name not in MODIFIED or case.name in ("refractory", "adaptive_threshold", "record")
]
each_neuron = pytest.mark.parametrize("case", ONE_EACH, ids=str)


def sweep(argument, values, *, of):
    """Over all values, but only those called `of` outside the slow set: for what takes seconds each, and is one law for all."""
    named = [getattr(value, "name", value) for value in values]
    assert set(of) <= set(named), (of, named)
    marks = [() if name in of else pytest.mark.slow for name in named]
    return pytest.mark.parametrize(argument, [pytest.param(x, marks=m) for x, m in zip(values, marks)], ids=str)


def usual(cases, all_of=()):
    """Over all of these, but outside the slow set with one choice of each, and all choices of some: for what takes its time, and to
    which other choices are no matter."""
    marks = [() if x in ONE_EACH or x.name in all_of else pytest.mark.slow for x in cases]
    return pytest.mark.parametrize("case", [pytest.param(x, marks=m) for x, m in zip(cases, marks)], ids=str)


few_neurons = sweep("case", ONE_EACH, of=("leaky", "refractory", "slstm"))
some_neurons = sweep(
    "case", ONE_EACH, of=("leaky", "adaptive_leaky", "adlif", "izhikevich", "lif", "refractory", "slstm", "synaptic")
)


def needs_torch(version, why):
    numbers = lambda v: tuple(int(part) for part in v.split(".")[:2])
    old = numbers(torch.__version__) < numbers(version)
    return pytest.mark.skipif(old, reason=f"needs torch {version}: {why}")


needs_kernels = needs_torch("2.4", "before, make_fx reads no derivatives, and every scan is a loop")
FUSED = pytest.param("fused", marks=needs_kernels)


def assert_equal(actual, expected):
    """The same tree, bit for bit."""
    assert_allclose(actual, expected, rtol=0, atol=0)


def assert_allclose(actual, expected, **tolerance):
    """The same structure, dtypes, shapes and devices, and numbers that differ by rounding only. No NaN."""
    a, b = optree.tree_flatten(actual), optree.tree_flatten(expected)
    assert a[1] == b[1], f"the structures differ:\n    {a[1]}\n    {b[1]}"
    for path, x, y in zip(optree.tree_paths(expected), a[0], b[0]):
        torch.testing.assert_close(x, y, **tolerance, msg=lambda m, path=path: f"at {path}: {m}")


def dot(a, b):
    """The sum of the products of two trees' leaves."""
    return sum((x * y).sum() for x, y in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True))


def stacked(trees):
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


def flat(tree):
    """One vector of all the leaves, and the way back."""
    leaves, spec = optree.tree_flatten(tree)

    def back(vector):
        parts = vector.split([leaf.numel() for leaf in leaves])
        return optree.tree_unflatten(spec, [part.view(leaf.shape) for part, leaf in zip(parts, leaves)])

    return torch.cat([leaf.flatten() for leaf in leaves]), back


def mixture(world, **options):
    """`loss(params, state, inputs)`: a random linear mixture of everything that a scan returns, the last state too."""
    weights = optree.tree_map(torch.randn_like, scan(*world))
    return lambda *args, step=world.step, **more: dot(weights, scan(step, *args, **options, **more))


def backward(loss, arguments):
    """The gradients of `loss(*arguments)` by `.backward()`; zeros where no path leads."""
    arguments = optree.tree_map(lambda x: x.clone().requires_grad_(), arguments)
    loss(*arguments).backward()
    return optree.tree_map(lambda x: torch.zeros_like(x) if x.grad is None else x.grad, arguments)


def trace(function, leaves, exact=True):
    """The program of a function at tensors like these."""
    forms = [snf.kernels.Form(x.dtype, x.shape) for x in leaves]
    tape = snf.kernels.read(snf.kernels.Source(function), forms, derivative=not exact)
    return snf.kernels.program_of(tape, exact=exact, prefix="k")
