"""The walls of the house, read from its imports, and the promises of its front page."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import snn_functional as snf


PACKAGE = Path(snf.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
module = lambda path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """Every module that a file names in an import, absolute, functions' own imports included."""
    found = set()
    package = module(path) if path.name == "__init__.py" else module(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, [base, node.module]))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


IMPORTS = {module(path): imports(path) for path in FILES}
OURS = {name: {i for i in found if i in IMPORTS and i != name} for name, found in IMPORTS.items()}


def test_no_circle():
    done = set()

    def visit(name, above):
        assert name not in above, f"{' -> '.join([*above, name])}"
        if name not in done:
            for below in OURS[name] - {"snn_functional"}:
                visit(below, [*above, name])
            done.add(name)

    for name in OURS:
        visit(name, [])


@pytest.mark.parametrize("name", [n for n in IMPORTS if not n.startswith("snn_functional.snn")])
def test_only_the_faces_use_modules(name):
    allowed = name.startswith("snn_functional._functionalize")  # which takes modules
    assert allowed or not any(i.startswith("torch.nn") and i != "torch.nn.functional" for i in IMPORTS[name])
    later = {"snn_functional": {"snn_functional.snn"}}  # what is loaded when it is asked for, no sooner
    later["snn_functional._functionalize._functional"] = {"snn_functional.snn._over_time"}
    assert {i for i in OURS[name] if i.startswith("snn_functional.snn")} <= later.get(name, set())


@pytest.mark.parametrize("name", [n for n in IMPORTS if "._scan" in n])
def test_scan_knows_no_neuron(name):
    assert not any("neurons" in i or "surrogate" in i for i in IMPORTS[name])


def test_neurons_do_not_know_scan():
    assert not any("_scan" in i for n in IMPORTS if ".neurons" in n for i in OURS[n])


@pytest.mark.parametrize(
    "private, owner",
    [("torch.utils._pytree", "_tree"), ("optree", "_tree"), ("torch.fx.experimental.proxy_tensor", "_trace")],
)
def test_what_torch_keeps_private_is_touched_once(private, owner):
    users = {
        n.rpartition(".")[2]
        for n, found in IMPORTS.items()
        if any(i == private or i.endswith("." + private) for i in found)
    }
    assert users <= ({owner} if owner else set())


def test_a_neuron_has_its_five_names_and_they_are_public():
    for name in dir(snf.neurons):
        neuron = getattr(snf.neurons, name)
        if isinstance(neuron, snf.Neuron):
            lower = {n.lower(): n for n in vars(snf)}
            trees = (lower[name.replace("_", "") + tree] for tree in ("params", "state"))
            five = (getattr(snf, n) for n in (*trees, name + "_init", name + "_step"))
            assert neuron == snf.Neuron(*five) and getattr(snf, name) is neuron


def test_every_public_name_has_a_docstring():
    from snn_functional import snn

    for namespace in (snf, snf.surrogate, snn, snn.utils):
        for name, value in vars(namespace).items():
            if not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value)):
                if value.__module__.startswith("snn_functional"):
                    assert (value.__doc__ or "").strip() and not value.__doc__.startswith(f"{value.__name__}("), name


def in_a_new_process(code):
    code = "import sys, torch; before = set(sys.modules); import snn_functional as snf; " + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.long
def test_importing_is_light():
    """No picture, data or array library comes with the import, no compiler, no face, and no room that the core does without:
    kernels too wait for the first step that may have one."""
    new = in_a_new_process("print(*set(sys.modules) - before)")
    heavy = {"matplotlib", "sklearn", "scipy", "pandas", "tqdm", "numpy", "aeon", "sktime", "triton"}
    assert not heavy & {name.partition(".")[0] for name in new}
    later = {*snf.ROOMS, "plot", "data", "train", "kernels", "_events"}
    assert not later & {name.split(".")[1] for name in new if name.startswith("snn_functional.")}
    of_scan = {name for name in new if name.startswith("snn_functional._scan.")}
    assert of_scan == {f"snn_functional._scan.{name}" for name in ("_door", "_kinds", "_loop")}
    assert {"snn_functional", "snn_functional.neurons", "optree"} <= set(new)


@pytest.mark.long
def test_functionalizing_loads_no_face():
    code = "snf.functionalize(torch.nn.Linear(2, 2)); print(*(name for name in sys.modules if name.startswith('snn_functional')))"
    new = in_a_new_process(code)
    assert "snn_functional._functionalize" in new and "snn_functional.snn" not in new


ASKED = """
import os, sys, torch  # once for all; each way to ask is a process that has not imported this library
for name in sys.argv[1:]:
    for code in (
        f"import snn_functional as snf; print('{name}' in dir(snf), snf.{name} is sys.modules['snn_functional.{name}'])",
        f"import snn_functional as snf; from snn_functional import {name}; print({name} is snf.{name})",
    ):
        if not os.fork():
            exec(code)
            sys.stdout.flush()
            os._exit(0)
        assert os.wait()[1] == 0, code
"""


@pytest.fixture(scope="module")
def asked():
    """What is said of each room."""
    command = [sys.executable, "-c", ASKED, *snf.ROOMS]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(snf.ROOMS, zip(*[iter(said)] * 3, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", snf.ROOMS)
def test_a_room_is_loaded_when_it_is_asked_for(name, asked):
    assert asked[name] == ("True",) * 3


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="module 'snn_functional' has no attribute 'spike'"):
        snf.spike  # noqa: B018


def test_the_rooms_that_messages_pass_over_are_there():
    from snn_functional.kernels._lines import ROOMS

    assert [room for room in ROOMS if not os.path.isdir(room)] == []
