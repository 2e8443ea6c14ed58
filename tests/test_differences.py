"""The table of what differs from snnTorch: every row names a test, and the test is there."""

import ast
import functools
import re
from pathlib import Path

import pytest

import snn_functional as snf


HERE = Path(__file__).parent
ROWS = [
    line for line in (Path(snf.__file__).parent / "snn/README.md").read_text().splitlines() if line.startswith("| ")
]
ROWS = [line for line in ROWS if not line.startswith("| snnTorch 1.0.0 |")]


@functools.cache
def functions_of(file):
    return {n.name for n in ast.walk(ast.parse((HERE / file).read_text())) if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_every_row_is_tested(row):
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row.rpartition(" | ")[2])
    assert named
    for file, test in named:
        assert test in functions_of(file), f"{file} has no {test}"


def test_every_known_bug_is_accounted_for():
    """B1 to B23 of snnTorch 1.0.0, and T1 to T6 of its backprop."""
    text = "\n".join(ROWS)
    numbers = {f"B{i}" for i in range(1, 24)} | {f"T{i}" for i in range(1, 7)}
    assert {n for n in numbers if not re.search(rf"\b{n}\b", text)} == set()
