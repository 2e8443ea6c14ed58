"""The tables of neurons and of modifiers: every one is there, with the params that it has, and the equations are what the steps compute."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch
from helpers import assert_allclose, CASES, NEURONS

import snn_functional as snf
from snn_functional.modifiers._modifier import Modifier


PACKAGE = Path(snf.__file__).parent
OURS = {name: neuron for name, neuron in NEURONS.items() if hasattr(snf.neurons, name)}
MODIFIERS = {k: v for k, v in vars(snf.modifiers).items() if inspect.isclass(v) and issubclass(v, Modifier)}
NOT_RUN = (
    "hodgkin_huxley",
    "sconv2dlstm",
)  # one is a differential equation there, the other a convolution of two inputs

FUNCTIONS = {
    name: getattr(torch, name) for name in ("abs", "cos", "exp", "log", "relu", "sigmoid", "sin", "sqrt", "tanh")
}
FUNCTIONS |= {"H": lambda u: (u > 0).to(u.dtype), "S": lambda u: (u > 0).to(u.dtype)}
FUNCTIONS |= {"outer": lambda a, b: a[..., :, None] * b[..., None, :], "four": lambda gates: gates.chunk(4, -1)}


def rows(room, width=4):
    """The rows of the table, by the names in their first cells."""
    found = {}
    for line in (PACKAGE / room / "README.md").read_text().splitlines():
        if line.startswith("| ["):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == width and all(cells), line
            name = re.fullmatch(r"\[(\w+)\]\((\w+\.py)\)", cells[0])
            assert name and name[1] not in found, line
            found[name[1]] = (name[2], *cells[1:])
    return found


def written(field):
    """A field of params as the table has it: its name, and its default if there is one, to six digits."""
    default = field.default
    if default is dataclasses.MISSING:
        return field.name
    said = f"{default:g}" if isinstance(default, float) else f'"{default}"' if isinstance(default, str) else default
    return f"{field.name}={said}"


def params_of(neuron):
    """Its own params. All that fire have `spike_grad=ATan()`, which is said above the table."""
    usual = lambda f: f.name == "spike_grad" and f.default == snf.surrogate.ATan()
    return ", ".join(f"`{written(f)}`" for f in dataclasses.fields(neuron.Params) if not usual(f))


def arguments_of(modifier):
    """What it is called with beside the neuron, and the params that it puts around those of the neuron."""
    own = ", ".join(f"`{written(f)}`" for f in dataclasses.fields(modifier) if f.name != "step")
    around = ""
    if modifier.Params:
        fields = ", ".join(written(f) for f in dataclasses.fields(modifier.Params))
        around = f"`{modifier.Params.__name__}({fields})`"
    return "; ".join(filter(None, [own, around])) or "those of the neuron"


@pytest.mark.parametrize("room, all, params", [("neurons", OURS, params_of), ("modifiers", MODIFIERS, arguments_of)])
def test_the_table_has_every_one_with_the_params_that_it_has(room, all, params):
    table = rows(room)
    assert list(table) == sorted(all)
    for name, (file, equation, given, _) in table.items():
        what = all[name]
        source = inspect.getsourcefile(what if room == "modifiers" else what.step)
        assert Path(source) == PACKAGE / room / file, name
        assert given == params(what), name
        assert re.fullmatch(r"`[^`|]+`", equation), name


@pytest.mark.parametrize("name", OURS)
def test_every_number_of_a_neuron_is_in_its_equation_or_explained(name):
    _, equation, _, when = rows("neurons")[name]
    for f in dataclasses.fields(OURS[name].Params):
        if not f.metadata.get("static") and name not in NOT_RUN:
            assert re.search(rf"\b{f.name}\b", equation) or f"`{f.name}`" in when, f.name


def runnable(equation):
    """`beta mem + I` as Python: a space between two factors is a product."""
    text = re.sub(r"(?<=[\w)]) +(?=[\w(])", "*", equation.strip("`").replace("^", "**").replace(", twice", " @ 2"))
    for statement in text.split("; "):
        once, _, times = statement.partition(" @ ")
        yield from [once] * int(times or 1)


@pytest.mark.parametrize("name", [name for name in OURS if name not in NOT_RUN])
def test_the_equation_is_what_the_step_computes(name):
    """With the default choices, from states on both sides of the threshold. What would overflow is kept within 10,000 by the step."""
    torch.manual_seed(0)
    equation = rows("neurons")[name][1]
    case = next(case for case in CASES if case.name == name)
    step, params, state, inputs = case.world(T=8, batch=1, n=16, dtype=torch.float64)
    choices = {f.name: f.default for f in dataclasses.fields(params) if f.metadata.get("choices")}
    params = dataclasses.replace(params, **choices)
    numbers = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    for key, value in numbers.items():
        if f"{key}(" in equation and isinstance(value, torch.Tensor):  # a connection of each neuron to itself
            numbers[key] = lambda x, value=value: value * x
    for x in inputs:
        names = FUNCTIONS | numbers | vars(state) | {"I": x}
        for statement in runnable(equation):
            exec(statement, names)
        names |= {"mem": names["mem"].clamp(-10_000, 10_000)} if "mem" in names else {}
        out, state = step(params, state, x)
        assert_allclose(names["out"] if "out = " in equation else names["spk"], out)
        assert_allclose(type(state)(**{f.name: names[f.name] for f in dataclasses.fields(state)}), state)


def test_the_front_page_leads_there():
    text = (PACKAGE.parent / "README.md").read_text()
    for room in ("neurons", "modifiers"):
        assert f"(snn_functional/{room}/README.md)" in text
