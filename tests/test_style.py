"""The linter, the formatter and the type checker: few rules, all on, no warning left."""

import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["pyright", "--pythonpath", sys.executable, "--warnings"],
    ],
    ids=lambda command: " ".join(command[:2]).split(" --")[0],
)
def test_style(command):
    pytest.importorskip(command[0], reason=f"{command[0]} comes with the extra `test`")
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
