"""Where a step can keep what it needs: ways to hold a number that may be changed between two calls, and ways to be impure."""

import array
import collections
import contextvars
import ctypes
import dataclasses
import functools
import itertools
import os
import queue
import random
import sys
import threading
import types
import weakref

import numpy as np
import torch

import snn_functional as snf


GAIN = 1.0


def out(gain, state, x):
    return gain * x + state, state + x


# A holder gives a step whose gain is 1, and a function that sets it.


def closure():
    gain = 1.0

    def put(value):
        nonlocal gain
        gain = value

    return lambda p, s, x: out(gain, s, x), put


def of_a_global():
    def put(value):
        global GAIN
        GAIN = value

    put(1.0)
    return lambda p, s, x: out(GAIN, s, x), put


def in_a_list():
    held = [1.0]
    return lambda p, s, x: out(held[0], s, x), lambda value: held.__setitem__(0, value)


def deep_in_a_dictionary():
    held = {"a": ({"gain": [1.0]},)}
    return lambda p, s, x: out(held["a"][0]["gain"][0], s, x), lambda value: held["a"][0]["gain"].__setitem__(0, value)


def in_a_deque():
    held = collections.deque([1.0])
    return lambda p, s, x: out(held[0], s, x), lambda value: held.__setitem__(0, value)


def of_an_object():
    held = types.SimpleNamespace(gain=1.0)
    return lambda p, s, x: out(held.gain, s, x), lambda value: setattr(held, "gain", value)


@dataclasses.dataclass
class Mutable:
    gain: float = 1.0

    def __call__(self, p, s, x):
        return out(self.gain, s, x)

    def method(self, p, s, x):
        return out(self.gain, s, x)


def of_a_mutable_dataclass():
    step = Mutable()
    return step, lambda value: setattr(step, "gain", value)


def of_a_method():
    held = Mutable()
    return held.method, lambda value: setattr(held, "gain", value)


def of_a_partial():
    step = functools.partial(lambda p, s, x, gain: out(gain, s, x), gain=1.0)
    return step, lambda value: step.keywords.update(gain=value)


class Slots:
    __slots__ = ("__gain",)

    def __init__(self):
        self.put(1.0)

    def put(self, value):
        self.__gain = value

    def __call__(self, p, s, x):
        return out(self.__gain, s, x)


def in_mangled_slots():
    step = Slots()
    return step, step.put


class Settings(dict):
    pass


def of_a_subclass_of_dict():
    held = Settings()
    held.gain = 1.0
    return lambda p, s, x: out(held.gain, s, x), lambda value: setattr(held, "gain", value)


def of_a_class():
    class Held:
        gain = 1.0

    return lambda p, s, x: out(Held.gain, s, x), lambda value: setattr(Held, "gain", value)


def of_a_base_class():
    class Base:
        gain = 1.0

    class Held(Base):
        def __call__(self, p, s, x):
            return out(self.gain, s, x)

    return Held(), lambda value: setattr(Base, "gain", value)


def of_a_property():
    class Held:
        def __init__(self):
            self.values = [1.0]

        gain = property(lambda self: self.values[-1])

    held = Held()
    return lambda p, s, x: out(held.gain, s, x), lambda value: held.values.append(value)


def made_when_asked_for():
    values = {"gain": 1.0}

    class Held:
        def __getattr__(self, name):
            return values[name]

    held = Held()
    return lambda p, s, x: out(held.gain, s, x), lambda value: values.update(gain=value)


def of_a_module():
    module = sys.modules["settings_of_a_test"] = types.ModuleType("settings_of_a_test")
    module.gain = 1.0
    return lambda p, s, x: out(module.gain, s, x), lambda value: setattr(module, "gain", value)


def of_a_module_imported_inside():
    module = sys.modules["settings_of_a_test"] = types.ModuleType("settings_of_a_test")
    module.gain = 1.0

    def step(p, s, x):
        import settings_of_a_test

        return out(settings_of_a_test.gain, s, x)

    return step, lambda value: setattr(module, "gain", value)


def by_a_computed_name():
    held = types.SimpleNamespace(gain=1.0)
    return lambda p, s, x: out(getattr(held, "ga" + "in"), s, x), lambda value: setattr(held, "gain", value)


def of_a_default():
    def step(p, s, x, gain=1.0):
        return out(gain, s, x)

    return step, lambda value: setattr(step, "__defaults__", (value,))


def of_the_function_itself():
    def step(p, s, x):
        return out(step.gain, s, x)

    step.gain = 1.0
    return step, lambda value: setattr(step, "gain", value)


def of_a_helper():
    def helper(x, gain=1.0):
        return gain * x

    return lambda p, s, x: (helper(x) + s, s + x), lambda value: setattr(helper, "__defaults__", (value,))


def in_an_array():
    held = array.array("d", [1.0])
    return lambda p, s, x: out(held[0], s, x), lambda value: held.__setitem__(0, value)


def in_an_array_of_numpys():
    held = np.ones(1)
    return lambda p, s, x: out(float(held[0]), s, x), lambda value: held.__setitem__(0, value)


def in_a_number_of_c():
    held = ctypes.c_double(1.0)
    return lambda p, s, x: out(held.value, s, x), lambda value: setattr(held, "value", value)


def in_a_context():
    held = contextvars.ContextVar("held", default=1.0)
    return lambda p, s, x: out(held.get(), s, x), held.set


def in_the_environment():
    os.environ["GAIN_OF_A_TEST"] = "1.0"
    step = lambda p, s, x: out(float(os.environ["GAIN_OF_A_TEST"]), s, x)
    return step, lambda value: os.environ.__setitem__("GAIN_OF_A_TEST", str(value))


def behind_a_weak_reference():
    held = Mutable()
    seen = weakref.ref(held)
    return lambda p, s, x: out(seen().gain, s, x), lambda value, held=held: setattr(held, "gain", value)


def of_an_operand():
    class Gain:
        def __rmul__(self, other):
            return other * GAIN

    gain = Gain()
    _, put = of_a_global()
    return lambda p, s, x: (x * gain + s, s + x), put


def of_a_tensor():
    held = torch.ones(())
    return lambda p, s, x: out(held, s, x), lambda value: held.fill_(value)


def of_a_tensor_of_an_object():
    held = types.SimpleNamespace(gain=torch.ones(()))
    return lambda p, s, x: out(held.gain, s, x), lambda value: setattr(held, "gain", torch.tensor(value))


def of_the_shape_of_a_tensor():
    held = {"w": torch.zeros(1, 2)}
    step = lambda p, s, x: out(float(held["w"].shape[0]), s, x)
    return step, lambda value: held.update(w=torch.zeros(int(10 * value), 2))


def whether_gradients_are_asked_for():
    held = [1.0]
    step = lambda p, s, x: out(held[0] * (1.0 if torch.is_grad_enabled() else 2.0), s, x)
    return step, lambda value: held.__setitem__(0, value)


def of_a_surrogate():
    class Own(snf.surrogate.Surrogate):
        gain = 1.0

        def shadow(self, u):
            return self.gain * u

    own = Own()
    return lambda p, s, x: (own(x - 0.5) + s * own.gain, s + x), lambda value: setattr(Own, "gain", value)


HOLDERS = {
    name: value
    for name, value in list(vars().items())
    if isinstance(value, types.FunctionType) and value.__module__ == __name__ and not value.__code__.co_argcount
}


# What is impure: each gives a new step. It adds some number that is another at each time step.

COUNT = 0


def list_that_counts():
    n = [0]

    def step(p, s, x):
        n[0] += 1
        return out(float(n[0]), s, x)

    return step


def cell_that_counts():
    n = 0

    def step(p, s, x):
        nonlocal n
        n += 1
        return out(float(n), s, x)

    return step


def global_that_counts():
    global COUNT
    COUNT = 0

    def step(p, s, x):
        global COUNT
        COUNT += 1
        return out(float(COUNT), s, x)

    return step


def object_that_counts():
    class Held:
        n = 0

        def __call__(self, p, s, x):
            self.n += 1
            return out(float(self.n), s, x)

    return Held()


def class_that_counts():
    class Held:
        n = 0

    def step(p, s, x):
        Held.n += 1
        return out(float(Held.n), s, x)

    return step


def slots_that_count():
    class Held:
        __slots__ = ("__n",)

        def __init__(self):
            self.__n = 0

        def __call__(self, p, s, x):
            self.__n += 1
            return out(float(self.__n), s, x)

    return Held()


def late_counter():
    """It does the same for some steps, and then something else."""
    n = [0]

    def step(p, s, x):
        n[0] += 1
        return out(1.0 if n[0] < 5 else 3.0, s, x)

    return step


def log_that_grows():
    log = []

    def step(p, s, x):
        log.append(None)
        return out(float(len(log)), s, x)

    return step


def deque_that_turns():
    held = collections.deque([1.0, 2.0, 3.0])

    def step(p, s, x):
        held.rotate()
        return out(held[0], s, x)

    return step


def default_that_counts():
    def step(p, s, x, n=[0]):  # noqa: B006
        n[0] += 1
        return out(float(n[0]), s, x)

    step.__defaults__ = ([0],)
    return step


def array_that_counts():
    n = np.zeros(1)

    def step(p, s, x):
        n[0] += 1
        return out(float(n[0]), s, x)

    return step


def number_of_c_that_counts():
    n = ctypes.c_int(0)

    def step(p, s, x):
        n.value += 1
        return out(float(n.value), s, x)

    return step


def iterator():
    numbers = iter(range(1, 1000))
    return lambda p, s, x: out(float(next(numbers)), s, x)


def counter_of_itertools():
    numbers = itertools.count()
    return lambda p, s, x: out(float(next(numbers)), s, x)


def drawn_from_pythons_generator():
    random.seed(3)
    return lambda p, s, x: out(random.random(), s, x)


def seldom_drawn_from_pythons_generator():
    random.seed(3)
    return lambda p, s, x: out(0.0 if random.random() < 0.3 else 1.0, s, x)


def drawn_from_a_generator_of_its_own():
    own = random.Random(5)
    return lambda p, s, x: out(own.gauss(0, 1), s, x)


def drawn_from_numpys_generator():
    np.random.seed(3)
    return lambda p, s, x: out(float(np.random.rand()), s, x)


def drawn_from_a_new_generator_of_numpys():
    own = np.random.default_rng(3)
    return lambda p, s, x: out(float(own.random()), s, x)


def drawn_from_torchs_generator():
    torch.manual_seed(3)
    return lambda p, s, x: out(torch.rand(()), s, x)


def drawn_from_a_generator_of_torchs():
    own = torch.Generator().manual_seed(3)
    return lambda p, s, x: out(torch.rand((), generator=own), s, x)


def attribute_made_in_the_step():
    def step(p, s, x):
        step.n = getattr(step, "n", 0) + 1
        return out(float(step.n), s, x)

    return step


def method_of_a_counter():
    following = itertools.count(1).__next__
    return lambda p, s, x: out(float(following()), s, x)


def lock_as_a_flag():
    lock = threading.Lock()
    return lambda p, s, x: out(2.0 if lock.acquire(blocking=False) else 1.0, s, x)


def module_with_a_hook():
    module, seen = torch.nn.Identity(), []
    module.register_forward_hook(lambda module, given, returned: seen.append(1))
    return lambda p, s, x: out(float(len(seen)), s, module(x))


def queue_that_empties():
    waiting = queue.SimpleQueue()
    for i in range(100):
        waiting.put(float(i))
    return lambda p, s, x: out(waiting.get(), s, x)


def cache_that_fills():
    @functools.lru_cache(None)
    def seen(key):
        return len(log)

    log = []

    def step(p, s, x):
        log.append(None)
        return out(float(seen(len(log) // 2)), s, x)

    return step


IMPURE = {
    name: value
    for name, value in list(vars().items())
    if isinstance(value, types.FunctionType)
    and value.__module__ == __name__
    and not value.__code__.co_argcount
    and name not in HOLDERS
}
