"""A kernel is kept for a step, and built anew when anything changes that the step looks up: no stale kernel, no stale gradient."""

import array
import contextvars
import dataclasses
import enum
import functools
import os
import sys
import threading
import types
import weakref

import pytest
import torch
from helpers import needs_kernels
from test_kernels import close, equal
from torch.func import grad

import snn_functional as snf
from snn_functional import surrogate
from snn_functional._identity import Reach


pytestmark = needs_kernels


def test_a_step_is_read_again_when_what_it_uses_changes():
    space = {"snf": snf, "factor": 2.0}
    exec("def scale(x): return factor * x\ndef step(p, s, x): return scale(x), s", space)
    x = torch.rand(4, 3)
    run = lambda: snf.scan(space["step"], None, torch.zeros(3), x, kind="fused")[0]
    assert torch.equal(run(), 2 * x)
    space["factor"] = 3.0
    assert torch.equal(run(), 3 * x)
    exec("def scale(x): return x - factor", space)
    assert torch.equal(run(), x - 3)
    results = [snf.scan(lambda p, s, x, i=i: (x * i, s), None, torch.zeros(3), x, kind="fused")[0] for i in (1.0, 2.0)]
    assert torch.equal(results[1], 2 * results[0])


def test_a_global_tensor_that_shares_its_name_with_a_field_is_not_used():
    space = {"mem": torch.zeros(2, 9)}
    exec("def step(p, s, x): return s.mem + x, s", space)
    args = None, snf.LeakyState(torch.ones(3)), torch.rand(4, 3)
    equal(lambda k: snf.scan(space["step"], *args, kind=k))


class Scale:
    """A step whose numbers change under the same name."""

    def __init__(self):
        self.factor, self.more = 2.0, [1.0]

    def __call__(self, params, state, x):
        return x * self.factor * self.more[0], state

    def step(self, params, state, x):
        return self(params, state, x)


def test_what_a_step_holds_is_looked_at_again():
    held, table = Scale(), {"k": 2.0}
    keyword = lambda k: lambda p, s, x, *, k=k: (x * k, s)
    args = None, torch.zeros(3), torch.rand(4, 3)
    for factor, more in ((2.0, 1.0), (3.0, 1.0), (3.0, 5.0)):
        held.factor, held.more[0], table["k"] = factor, more, factor
        for step in (held, held.step, lambda p, s, x: (x * table["k"], s), keyword(factor)):
            equal(lambda k, step=step: snf.scan(step, *args, kind=k))


class Gain:
    """Numbers that a step finds by name, and `set` that changes them all."""

    gain = 1.0

    def __call__(self, params, state, x):
        return x * GAIN, state

    def by_class(self, params, state, x):
        return x * self.gain, state


class InSlots:
    __slots__ = ("gain",)


@dataclasses.dataclass(frozen=True)
class OfItsClass:
    unit: float = 1.0

    def __call__(self, params, state, x):
        return self.scaled(x), state

    def scaled(self, x):
        return x * GAIN * self.unit


GAIN = 1.0
MODULE, SLOTS, TENSORS = types.ModuleType("numbers_of_mine"), InSlots(), [torch.tensor(1.0)]


def by_attribute(p, s, x):
    return x * by_attribute.gain, s


def by_default(p, s, x, gain=1.0):
    return x * gain, s


BY_NAME = {
    "a class's attribute": lambda p, s, x: (x * Gain.gain, s),
    "a module's attribute": lambda p, s, x: (x * MODULE.gain, s),
    "a slot": lambda p, s, x: (x * SLOTS.gain, s),
    "a global of a class's call": Gain(),
    "a class's attribute, of an instance": Gain().by_class,
    "a global of a value's method": OfItsClass(),
    "a function's attribute": by_attribute,
    "a default": by_default,
    "a number in a tensor": lambda p, s, x: (x * float(TENSORS[0]), s),
    "a branch on a tensor": lambda p, s, x: (x if TENSORS[0] == 1 else 2 * x, s),
    "a global in a chain": snf.record(snf.chain(lambda x: GAIN * x, snf.leaky)).step,
    "a global in a bundle in a partial": functools.partial(
        lambda layer, p, s, x: layer.step(p, s, x), snf.Neuron(tuple, tuple, tuple, lambda p, s, x: (x * GAIN, s))
    ),
}


@pytest.mark.parametrize("what", BY_NAME)
def test_what_a_step_finds_by_name_is_looked_at_again(what, monkeypatch):
    step, x = BY_NAME[what], torch.rand(4, 3)
    params, state = None, torch.zeros(3)
    if "chain" in what:
        params = ((), snf.LeakyParams(0.9))
        state = step.step.init(params, x[0])
    for gain in (1.0, 2.0, 1.0):
        monkeypatch.setattr(sys.modules[__name__], "GAIN", gain)
        monkeypatch.setattr(by_default, "__defaults__", (gain,))
        MODULE.gain = SLOTS.gain = Gain.gain = by_attribute.gain = gain
        TENSORS[0].fill_(gain)
        equal(lambda k: snf.scan(step, params, state, x, kind="auto" if k == "fused" else k))


@dataclasses.dataclass(frozen=True)
class Annealed(surrogate.Surrogate):
    def shadow(self, u):
        return surrogate.FastSigmoid(GAIN).shadow(u)


def annealed(u):
    return surrogate.FastSigmoid(GAIN)(u)


@pytest.mark.parametrize("spike_grad", [annealed, Annealed(), surrogate.Custom(lambda u: GAIN * u)])
@pytest.mark.parametrize("place", ["params", "a modifier's params"])
def test_a_surrogate_is_looked_at_again(place, spike_grad, monkeypatch):
    """It stands among the choices of the params, not in the step."""
    x, params, neuron = torch.rand(4, 3), snf.LeakyParams(0.9, spike_grad=spike_grad), snf.leaky
    if place != "params":
        neuron, params = snf.adaptive_threshold(neuron), snf.AdaptiveThresholdParams(params, 0.9, 0.1)
    state = neuron.init(params, x[0])
    for gain in (1.0, 25.0, 1.0):
        monkeypatch.setattr(sys.modules[__name__], "GAIN", gain)
        close(lambda k: grad(lambda x: snf.scan(neuron.step, params, state, x, kind=k)[0].sum())(x), 1e-6, 1e-7)


class Doubled:
    gain = property(lambda self: 2.0)
    of = staticmethod(abs)


COLOUR = enum.Enum("COLOUR", "RED")
LOOKS = {  # why a value is loose, and why it is opaque; neither: it is settled
    "containers": ((1, [2.0, {"k": frozenset({3})}], types.MappingProxyType({"k": 4})), None, None),
    "a closure": (lambda x, k=2.0: x * k, None, None),
    "a class": (Doubled, None, None),
    "a method": (surrogate.ATan().shadow, None, None),
    "a partial": (functools.partial(abs), "functools.partial", None),
    "an array": (array.array("d", [1.0]), "numbers can be changed", None),
    "a variable": (contextvars.ContextVar("held", default=1.0), "ContextVar", None),
    "a reference": (weakref.ref(Doubled), "weak reference", None),
    "a generator": (torch.Generator(), "torch.Generator", None),
    "the environment": (os.environ, "environment", None),
    "an enum": (COLOUR.RED, "COLOUR", None),
    "an object": (Doubled(), "object with attributes", None),
    "a lock": (threading.Lock(), None, "other threads"),
    "an iterator": (iter([1]), None, "cannot be looked at"),
}


@pytest.mark.parametrize("what", LOOKS)
def test_how_a_value_is_looked_at(what):
    value, loose, opaque = LOOKS[what]
    reach = Reach([("held", value)])
    for found, expected in ((reach.loose, loose), (reach.opaque, opaque)):
        assert found is None if expected is None else expected in found
    assert reach.key == Reach([("held", value)]).key


def test_what_is_known_of_a_chain_goes_when_its_layers_change_and_when_it_does():
    from snn_functional import _identity

    first, second = snf.chain(snf.leaky, snf.leaky), snf.chain(snf.leaky_integrator, snf.leaky)
    kinds = lambda net: [layer.Params for layer in net.step.layers]
    x, step = torch.rand(4, 3), first.step
    run = lambda net, step: snf.scan(
        step, tuple(p(0.9) for p in kinds(net)), net.init(tuple(p(0.9) for p in kinds(net)), x[0]), x
    )
    before = run(first, step)[0]
    assert id(step) in _identity._functions
    assert torch.equal(run(first, step)[0], before)
    object.__setattr__(step, "layers", second.step.layers)
    assert torch.equal(run(second, step)[0], run(second, second.step)[0])
    number, gone = id(step), weakref.ref(step)
    del first, step
    assert gone() is None and number not in _identity._functions
    mine = snf.leaky._replace(step=lambda p, s, x: snf.leaky_step(p, s, x))
    run(snf.chain(mine), own := snf.chain(mine).step)
    assert id(own) not in _identity._functions  # a function of the user's would be kept, too, and what it holds
