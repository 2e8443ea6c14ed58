"""What a session shows of the library: `help`, `dir`, `print`, and the table of a network."""

import copy
import doctest
import inspect
import pickle
import pydoc
import re

import optree
import pytest
import torch
from alif import alif
from helpers import NEURONS

import snn_functional as snf


help_of = lambda thing: pydoc.render_doc(thing, renderer=pydoc.plaintext)
net = snf.chain(snf.linear, snf.leaky, snf.flatten, snf.residual(snf.linear, snf.refractory(snf.leaky, 3)))


@pytest.mark.parametrize("name", sorted(set(NEURONS) - {"alif"}))
def test_help_shows_the_equations(name):
    neuron = getattr(snf, name)
    of_neuron, of_step = help_of(neuron), help_of(neuron.step)
    equations = [line for line in inspect.getmodule(neuron.step).__doc__.splitlines() if line.startswith("    ")]
    assert equations and all(line in text for line in equations for text in (of_neuron, of_step))
    for tree in (neuron.Params, neuron.State):
        assert f"    {tree.__name__}(" in of_neuron and all(field in of_neuron for field in tree.__leaves__)
    assert "Built-in mutable sequence" not in of_neuron and "named tuple" not in of_neuron


def test_help_of_a_users_neuron_is_its_steps():
    step = lambda params, state, input: (input, state)
    step.__doc__ = "Passes its input on."
    mine = snf.Neuron(snf.LeakyParams, snf.LeakyState, snf.leaky_init, step)
    assert "    Passes its input on.\n" in help_of(mine) and "LeakyParams(beta, threshold=1.0" in help_of(mine)
    assert alif.__doc__.startswith(inspect.getdoc(alif.step) or "AlifParams(")


def test_help_of_what_is_made_of_neurons():
    assert "After a spike the neuron is held" in help_of(snf.refractory(snf.leaky, 3))
    assert "RefractoryState(inner, count)" in help_of(snf.refractory(snf.leaky, 3))
    assert "3.1  refractory(leaky_step, 3)" in help_of(net)


def test_the_class_has_a_docstring_of_its_own():
    assert snf.Neuron.__doc__.startswith("The contract") and "class Neuron(builtins.tuple)" in help_of(snf.Neuron)


def test_a_neuron_is_a_named_tuple_as_ever():
    for neuron in (snf.leaky, snf.refractory(snf.leaky, 3), net):
        for other in (copy.copy(neuron), copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
            assert type(other) is snf.Neuron and other.__doc__ == neuron.__doc__ and (neuron is net or other == neuron)
        assert optree.is_namedtuple(neuron) and not hasattr(neuron, "__dict__")
    names = optree.tree_map(lambda part: getattr(part, "__name__", "?"), snf.leaky)
    assert names == snf.Neuron("LeakyParams", "LeakyState", "leaky_init", "leaky_step")


@pytest.mark.parametrize("room", ["neurons", "modifiers"])
def test_a_room_lists_what_it_holds(room):
    room = getattr(snf, room)
    lines = {line.split()[0]: line for line in room.__doc__.splitlines() if line.startswith("    ") and line.split()}
    for name in dir(room):
        value = getattr(room, name)
        if isinstance(value, snf.Neuron) or (isinstance(value, type) and name.islower()):
            assert len(lines[name].split()) > 2 and lines[name].endswith("."), name


@pytest.mark.parametrize("room", ["", "neurons", "modifiers", "surrogate", *snf.ROOMS])
def test_dir_shows_public_names_alone(room):
    room = getattr(snf, room) if room else snf
    names = dir(room)
    assert names == sorted(room.__all__) and len(set(names)) == len(names)
    assert not {"Any", "Tensor", "torch", "importlib", "TYPE_CHECKING", "math", "ROOMS"} & set(names)
    for name in names:
        value = getattr(room, name)
        origin = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", "snn_functional")
        assert not name.startswith("_") and (origin.startswith("snn_functional") or name in ("Leaf", "Spike")), name


def test_a_star_import_is_the_public_names():
    space = {}
    exec("from snn_functional import *", space)
    assert set(space) - {"__builtins__"} == set(dir(snf))


def test_print_of_a_chain_is_a_table():
    lines = str(net).splitlines()
    assert lines[0] == "chain of 4 layers" and [line.split()[0] for line in lines[1:]] == [
        "0",
        "1",
        "2",
        "3",
        "3.0",
        "3.1",
    ]
    assert lines[2].split(maxsplit=2)[1:] == ["leaky", "LeakyParams(beta, threshold)  LeakyState(mem)"]
    assert repr(net) == "Neuron(chain(linear, leaky, flatten, residual(linear, refractory(leaky_step, 3))))"
    assert repr(snf.leaky) == str(snf.leaky) == "Neuron(leaky)"


def test_print_of_what_is_around_a_chain_is_its_table_with_a_heading():
    heading, table = str(net).split("\n", 1)
    assert str(snf.masked(net)) == f"masked: {heading}\n{table}" and repr(snf.masked(net)).startswith("Neuron(masked(")
    assert str(snf.masked(snf.every_layer(net))).splitlines()[0] == "masked: every_layer: chain of 4 layers"
    assert str(snf.sub_steps(net, 3)).splitlines()[0] == "sub_steps(count=3): chain of 4 layers"
    assert str(snf.refractory(snf.leaky, 3)) == "Neuron(refractory(leaky_step, 3))"
    assert str(snf.masked(net)) in help_of(snf.masked(net)).replace("\n    ", "\n")


MODIFIERS = [value for value in vars(snf.modifiers).values() if isinstance(value, type) and hasattr(value, "rest")]


@pytest.mark.parametrize("value", [*MODIFIERS, snf.avg_pool2d, snf.max_pool2d], ids=lambda value: value.__name__)
def test_help_of_a_class_shows_what_it_does_and_none_of_what_python_adds(value):
    said = help_of(value)
    assert all(line.strip() in said for line in inspect.getdoc(value).splitlines())
    assert (
        set(re.findall(r"__\w+__", said)) == {"__call__"}
        and "Method resolution order" not in said.partition("__call__")[2]
    )


def test_the_summarys_example_runs():
    names = {**vars(snf), "torch": torch}
    for example in doctest.DocTestFinder(recurse=False).find(snf.summary, globs=names):
        assert example.examples and not doctest.DocTestRunner().run(example).failed


def test_summary_as_a_value():
    net = snf.chain(snf.linear, snf.leaky, torch.relu, snf.residual(snf.linear, snf.refractory(snf.leaky, 3)))
    block = (snf.Linear(torch.eye(3)), snf.LeakyParams(0.9))
    params = (snf.Linear(torch.ones(3, 5), torch.zeros(3)), snf.LeakyParams(torch.full((3,), 0.9)), (), block)
    xs = torch.full((20, 2, 5), 0.1)
    told, shaped, ran = snf.summary(net, params), snf.summary(net, params, xs[0]), snf.summary(net, params, xs=xs)
    assert [row.layer.split()[0] for row in told.rows] == ["0", "1", "2", "3.0", "3.1"]
    assert [row.numbers for row in told.rows] == [18, 4, 0, 10, 2] and str(told).splitlines()[-1].split() == [
        "total",
        "34",
    ]
    assert not told.rows[1].state and told.rows[1].params == {"beta": (3,), "threshold": ()}
    assert shaped.rows[1].state == {"mem": (2, 3)} and shaped.rows[1].output == {"": (2, 3)}
    assert shaped.rows[1].rate is None and shaped.rows[4].state["inner.mem"] == (2, 3)
    spks, _ = snf.scan(snf.every_layer(net).step, params, net.init(params, xs[0]), xs)
    assert ran.rows[1].rate == pytest.approx(float(snf.firing_rates(spks[1]))) and ran.rows[1].rate > 0
    assert ran.rows[0].rate is None and repr(ran) == str(ran)


def test_a_summary_of_a_module_is_that_of_its_tree():
    net = snf.chain(snf.linear, snf.leaky)
    params = (snf.Linear(torch.eye(3)), snf.LeakyParams(0.9))
    xs = torch.rand(5, 2, 3)
    model = snf.module(net, params)
    assert snf.summary(model, xs=xs) == snf.summary(net, params, xs=xs) and snf.summary(model) == snf.summary(
        net, params
    )
    assert snf.summary(model, xs[0]).rows == snf.summary(net, params, xs[0]).rows
    assert snf.summary(snf.module(snf.masked(net), params)).rows == snf.summary(net, params).rows


def test_a_summary_says_what_it_took_for_one_step():
    net, params, xs = (
        snf.chain(snf.linear, snf.leaky),
        (snf.Linear(torch.eye(3)), snf.LeakyParams(0.9)),
        torch.rand(5, 2, 3),
    )
    last = lambda said: str(said).splitlines()[-1]
    assert last(snf.summary(net, params, xs=xs)) == "5 steps of input (2, 3)"
    assert last(snf.summary(net, params, xs=xs[:1])) == "1 step of input (2, 3)"
    rates = "a whole sequence [T, batch, ...]"
    one = last(snf.summary(net, params, xs))  # which a user may have meant otherwise
    assert one == f"one step of input (5, 2, 3); firing rates: summary(net, params, xs=xs), {rates}"
    model = snf.module(net, params)
    assert last(snf.summary(model, xs)) == f"one step of input (5, 2, 3); firing rates: summary(model, xs=xs), {rates}"


def test_a_summary_of_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match="net is a neuron or a chain"):
        snf.summary(snf.leaky_step, snf.LeakyParams(0.9))
    with pytest.raises(TypeError, match="Give one of them"):
        snf.summary(snf.leaky, snf.LeakyParams(0.9), torch.zeros(1, 3), xs=torch.zeros(2, 1, 3))
    with pytest.raises(
        TypeError, match=r"but the module Sequential came. A module of faces shows itself: print\(net\)"
    ):
        snf.summary(torch.nn.Sequential(snf.snn.Leaky(0.9)))
    with pytest.raises(
        TypeError, match=r"summary\(net, params\): params is a tuple of 1, .*\(LeakyParams,\); None came"
    ):
        snf.summary(snf.chain(snf.leaky))
    with pytest.raises(ValueError, match="the time axis is empty"):
        snf.summary(snf.leaky, snf.LeakyParams(0.9), xs=torch.zeros(0, 1, 3))
    model = snf.module(snf.leaky, snf.LeakyParams(0.9))
    for given in ((snf.LeakyParams(0.9),), (torch.zeros(1, 3), torch.zeros(1, 3))):
        with pytest.raises(TypeError, match=r"a module has its params. .* summary\(model, xs=xs\)"):
            snf.summary(model, *given)
