"""benchmarks/uses: everything in its table runs here, with the right numbers; and its programs can tell right from wrong."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from helpers import sweep


sys.path.append(str(Path(__file__).parents[1] / "benchmarks/uses"))
import check  # noqa: E402
import of_snn_functional as ours  # noqa: E402
from programs import USES  # noqa: E402
from tried import attempt, told  # noqa: E402


@sweep("name", [*USES], of=("gradient", "ensemble", "rtrl", "hidden_state", "vmap_state", "export"))
def test_this_library(name):
    result = attempt("snn_functional", name)
    assert result["cell"] == "yes", result["tries"]


@pytest.mark.parametrize("name", ["gradient", "per_sample", "population", "ensemble", "jvp", "rtrl", "export"])
def test_wrong_numbers_are_seen(name):
    [way] = ours.ways()
    other = dataclasses.replace(way, by_hand=lambda params, xs: way.by_hand(params, 1.1 * xs))
    with pytest.raises(check.Wrong, match="is off by"):
        USES[name].programs[0][1](other)


@pytest.mark.parametrize("name", ["hidden_state", "vmap_state"])
def test_a_lost_state_is_seen(name, monkeypatch):
    [module] = ours.modules()
    forgetful = lambda what, module, saved: torch.stack([module.call(module.build(), x) for x in saved[1]])
    monkeypatch.setattr("lives.elsewhere", forgetful)
    monkeypatch.setattr("lives.vmap", lambda f: lambda x: None)  # passes, and no step was done
    with pytest.raises(check.Wrong, match="from another state"):
        USES[name].programs[0][1](module)


def test_whose_error_it_is():
    def fails(f):
        with pytest.raises(Exception) as caught:  # noqa: B017
            f()
        return told(caught.value)

    assert not fails(lambda: torch.func.grad(lambda tree: tree["a"])({"a": "a string"}))["ours"]
    mine = fails(lambda: check.same(torch.zeros(2), torch.zeros(2)))
    assert mine["ours"] and mine["where"].startswith("check.py:")
    assert not fails(lambda: check.same(torch.zeros(2), torch.ones(2)))["ours"]


def test_the_readme_has_these_rows():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert [f"| {use.title} | yes |" in readme for use in USES.values()] == [True] * len(USES)
