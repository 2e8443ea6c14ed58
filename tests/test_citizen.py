"""Six ways to say a network, ten things that stand in a training script: every pair has the plain loop's numbers."""

import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from citizens import compile_, compile_and_backward, MANY, NOTES, table, THINGS
from helpers import needs_torch
from ways import FUNCTIONALIZED, plain, STEPS, WAYS


ROOT = Path(__file__).parents[1]


@pytest.fixture
def one_process():
    """A group of one, for what asks for a group; `tests/citizens.py` is run by two (test_processes.py)."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def cells():
    for name, thing in THINGS.items():
        for way in WAYS:
            marks = [needs_torch(thing.torch, f"{name}, or a scan that it sees")]
            if thing.cell in (compile_, compile_and_backward) and way in ("chain", FUNCTIONALIZED):
                marks.append(pytest.mark.slow)  # the other four show what a compiler does
            if thing.cell is compile_ and way in ("recurrent `chain`", "faces step by step"):
                marks.append(pytest.mark.slow)  # and these with their backward
            yield pytest.param(name, way, marks=marks, id=f"{name}-{way}".replace("`", ""))


# A compiler looks at .grad of each state, and hides its own warning where warnings are no errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("thing, way", list(cells()))
def test_cell(thing, way, request):
    if thing in MANY:
        request.getfixturevalue("one_process")
    THINGS[thing].cell(way)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@needs_torch("2.13", "a compiler that reads a step as the body of an operation")
@pytest.mark.parametrize("thing", list(THINGS)[:2])
@pytest.mark.parametrize("way", WAYS)
def test_inductor(thing, way):
    THINGS[thing].cell(way, "inductor")


@pytest.mark.parametrize("way", WAYS)
def test_the_numbers_say_something(way):
    spks, grads = plain(way)
    assert 0.1 < spks.mean() < 0.9 and all(g.abs().sum() > 1e-4 for g in grads)
    assert not torch.equal(plain(way, 5).spks, spks)


def test_the_readmes_table_is_this_one():
    found = re.search(
        r"<!-- tests/citizens.py -->\n(.*?)\n<!-- -->", (ROOT / "docs/training.md").read_text(), flags=re.S
    )
    assert found and found[1].strip() == table()
    used = {letter for thing in THINGS.values() for x in thing.instead.values() for letter in x.split(", ")}
    assert used == NOTES.keys()
    assert all(set(thing.instead) <= WAYS.keys() for thing in THINGS.values()) and STEPS in WAYS
