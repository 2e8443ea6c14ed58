"""What is published: a wheel and an sdist, built here, installed into an empty venv, and read there by type checkers."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import snn_functional as snf


ROOT = Path(__file__).parents[1]
USED = """
import torch, snn_functional as snf
from snn_functional import nir, snn
assert "{where}" in snf.__file__ and snf.__version__ == "{version}"
net = snf.chain(snf.linear, snf.leaky)
params, xs = (snf.Linear.random(4, 3), snf.LeakyParams(0.9)), torch.ones(6, 2, 4)
spks, state = snf.scan(net.step, params, net.init(params, xs[0]), xs)
print(snf.explain(snf.leaky_step, params[1], snf.leaky_init(params[1], torch.zeros(2, 3)), torch.zeros(6, 2, 3)).kind)
"""


def run(*command, cwd):
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # which may be this checkout
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, env=outside)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_version_is_said_once():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    changes = re.search(r"^## (\S+)$", (ROOT / "docs/CHANGELOG.md").read_text(), re.M)[1]
    assert snf.__version__ == cited == changes


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, made of the sdist, which so has all that it needs; both by pip, which brings the build backend."""
    folder = tmp_path_factory.mktemp("dist")
    sources = folder / "sources"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, sources, ignore=ignored)
    run(sys.executable, "-m", "venv", folder / "builder", cwd=folder)
    pip = folder / "builder" / "bin" / "pip"
    run(pip, "install", "-q", "build", "hatchling", cwd=folder)
    run(folder / "builder/bin/python", "-m", "build", "--no-isolation", "-o", folder / "out", sources, cwd=folder)
    [wheel], [sdist] = (folder / "out").glob("*.whl"), (folder / "out").glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def venv(request, built, tmp_path_factory):
    """An empty venv into which this was installed; torch, and what else it needs, it sees of the one that runs the tests."""
    folder = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    [packages] = (folder / "venv").glob("lib/python*/site-packages")
    run(folder / "venv/bin/pip", "install", "-q", "hatchling", cwd=folder)
    install = ("install", "-q", "--no-deps", "--no-build-isolation", built[request.param == "sdist"])
    run(folder / "venv/bin/pip", *install, cwd=folder)
    needed = Path(sys.modules["torch"].__file__).parents[1]
    for path in needed.iterdir():  # but for this library, however it is installed there
        if "snn_functional" not in path.name and path.suffix != ".pth" and not (packages / path.name).exists():
            (packages / path.name).symlink_to(path)
    return python


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"snn_functional", f"snn_functional-{snf.__version__}.dist-info"}
    shipped = {name for name in names if name.startswith("snn_functional/")}
    tracked = run("git", "ls-files", "snn_functional", cwd=ROOT).split() if (ROOT / ".git").exists() else []
    assert set(tracked) <= shipped and "snn_functional/py.typed" in shipped
    assert any(name.endswith(".cpp") for name in shipped)


@pytest.mark.slow
def test_the_sdist_has_the_tests_and_the_documentation(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "tests/helpers.py",
        "docs/make.py",
        "notebooks/2-scan.ipynb",
    } <= names


@pytest.mark.slow
def test_it_is_used_from_an_empty_venv(venv, tmp_path):
    said = run(venv, "-c", USED.format(where=venv.parents[1], version=snf.__version__), cwd=tmp_path)
    assert said.strip() in ("fused", "loop")
    assert "train" in run(venv, "-m", "snn_functional", "--help", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("venv", ["wheel"], indirect=True)
@pytest.mark.parametrize("checker", ["pyright", "mypy"])
def test_its_types_are_seen_from_outside(venv, checker, tmp_path):
    pip = venv.parent / "pip"
    if checker == "mypy":
        run(pip, "install", "-q", "mypy", cwd=tmp_path)
    (tmp_path / "program.py").write_text((ROOT / "tests" / "typed_outside.py").read_text())
    options = {"pyright": ["--pythonpath", venv], "mypy": ["--strict", "--cache-dir", tmp_path / "cache"]}[checker]
    run(venv, "-m", checker, *options, "program.py", cwd=tmp_path)
    wrong = (tmp_path / "program.py").read_text().replace("assert_type(spks, Tensor)", "assert_type(spks, str)")
    (tmp_path / "program.py").write_text(wrong)
    with pytest.raises(AssertionError, match="str"):
        run(venv, "-m", checker, *options, "program.py", cwd=tmp_path)
