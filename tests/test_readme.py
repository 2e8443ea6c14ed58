"""The README's code runs, in order, as it stands; and what CI runs is the README's own command."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

import snn_functional as snf


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.fixture(scope="module")
def names():
    torch.manual_seed(0)
    space = {"__name__": "readme"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNN_FUNCTIONAL_OPTIMIZE", "1")  # it trains for seconds
        for i, block in enumerate(BLOCKS):
            exec(compile(block, f"README.md[{i}]", "exec"), space)
    return space


def test_first_screen(names):
    assert set(names["per_sample"].beta.shape) == {32}
    loss, xs = names["rate"], names["xs"]
    one = torch.func.grad(loss)(snf.LeakyParams(0.9), xs[:, 5])
    torch.testing.assert_close(names["per_sample"].beta[5], one.beta)


def test_second_screen(names):
    model = names["model"]
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert model.params[0].weight.grad.abs().sum() > 0
    assert names["spks"].shape == (100, 32, 64) and 0 < names["spks"].mean() < 1
    how = snf.explain(names["step"], names["weights"], (names["rest"],) * 2, names["xs"])
    assert "loop" not in {part.how for part in how.stages}


def test_the_kernels_readme_shows_what_is_printed():
    x, params = torch.zeros(3, 2, 8), snf.LeakyParams(0.9)
    plan = snf._scan._known.prepare(snf.leaky_step, params, snf.leaky_init(params, x[0]), x, 3).known.plan
    printed = plan.forward((True, True)).source + plan.backward((True, True), (2, 3)).source
    lines = {line.strip() for line in printed.splitlines()}
    text = (ROOT / "snn_functional/kernels/README.md").read_text()
    shown = [
        line.partition("//")[0].strip()
        for line in re.findall(r"^    (.*)$", text.partition("## The same program in Triton")[0], re.M)
    ]
    shown = [line for line in shown[shown.index("for (i64 i = 0; i < n; ++i) {") :] if line]
    assert len(shown) > 30 and set(shown) <= lines


def test_what_the_readme_shows_is_there():
    for target in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / target).is_file()


def test_ci_runs_the_readmes_test_command():
    command = re.search(r"^python3 -m venv .*-m pytest -n 2$", README, flags=re.M)
    found = subprocess.run(
        ["sed", "-n", r"s/^\(python3 -m venv .*-m pytest -n 2\)$/\1/p", "README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert command and found.stdout.strip() == command[0]
