"""The figures on the pages are what the benchmarks measured: no number is typed."""

import json
import re
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import figures  # noqa: E402
from keep import keep  # noqa: E402


PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in figures.pages()}
ALL = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "snn_functional").rglob("*.md")]
ALL.remove(ROOT / "docs/fidelity.md")  # made from the tests; its ms are those of neurons
MARKS = [(page, mark) for page, text in PAGES.items() for mark in figures.MARK.finditer(text)]
SPEED = re.compile(  # "some 20 seconds" is no measurement
    r"(?<!some )(?<!about )\b\d[\d.,]* (ms|µs|ns|[a-z]*seconds|minutes|times as|times the|times faster|of the loop's time)\b"
)
DATED = re.compile(r"\d{4}-\d\d-\d\d.*`python ", re.S)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_was_measured(page):
    assert figures.filled(PAGES[page]) == PAGES[page], "run `python benchmarks/figures.py`"


def test_the_picture_shows_what_was_measured():
    assert figures.digest() in figures.PICTURE.read_bytes(), "run `python benchmarks/figures.py`"


@pytest.mark.parametrize("page, mark", MARKS, ids=[f"{page}, {mark[3]}" for page, mark in MARKS])
def test_a_number_changed_by_hand_is_seen(page, mark):
    number = re.search(r"\d", mark[4])
    if number is None:
        pytest.skip("words alone")
    at = mark.start(4) + number.start()
    typed = PAGES[page][:at] + str((int(number[0]) + 1) % 10) + PAGES[page][at + 1 :]
    assert typed != PAGES[page] == figures.filled(typed)


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_figure_is_typed(path):
    """Outside what is made, a speed stands only beside the day and the command; and no table has columns of numbers."""
    text = re.sub(r"^```.*?^```", "", figures.MARK.sub("", path.read_text()), flags=re.M | re.S)
    for paragraph in re.split(r"\n\s*\n|\n(?=- )", text):
        assert not SPEED.search(paragraph) or DATED.search(paragraph), paragraph
        for row in re.findall(r"^\|.*\|$", paragraph, re.M):
            assert not re.search(r"\|[ *]*\d[\d.,]*x?[ *]*\|[ *]*\d", row), row


def test_no_number_begins_a_line():
    """There a comment would end the paragraph."""
    for page, text in PAGES.items():
        assert not re.search(r"^\s*(<!-- figure |<!-- -->[^\n])", text, re.M), page


@pytest.mark.parametrize("path", sorted(figures.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_say_what_they_were_measured_on(path):
    assert path.stat().st_size < 30_000
    for run in json.loads(path.read_text()):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", run["date"]) and run["machine"] and "torch" in run["versions"]
        program = re.fullmatch(r"python (benchmarks/\w+\.py)( .*)?", run["command"])
        assert program and "option(parser)" in (ROOT / program[1]).read_text() and run["rows"]


def test_a_row_that_is_measured_again_leaves_its_older_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/somewhere/benchmarks/a.py", "--rows", "b", "c", "--threads", "1", "--keep", str(tmp_path)]
    )
    measured = lambda ms, *rows: [
        {"at": row, "who": who, "ms": ms, "low": 0.1} for row in rows for who in ("x", "torch: y")
    ]
    tell = lambda *args: keep(tmp_path, "a", measured(*args), lambda one: one["at"], ("ms",), str.upper)
    tell(1.23456, "b", "c")
    tell(2.0, "b")
    old, new = json.loads((tmp_path / "a.json").read_text())
    assert old["rows"] == {"c": {"title": "C", "ms": {"x": 1.235, "torch: y": 1.235}}}
    assert new["rows"] == {"b": {"title": "B", "ms": {"x": 2.0, "torch: y": 2.0}}}
    assert new["command"] == "python benchmarks/a.py --threads 1" and set(new["versions"]) == {"torch"}
    tell(3.0, "c")
    assert [list(run["rows"]) for run in json.loads((tmp_path / "a.json").read_text())] == [["b"], ["c"]]


def test_a_place_without_an_end_is_refused():
    text = "takes <!-- figure networks-1: planning, ms, read --> 12 ms, and <!-- figure networks-1: planning, ms, found -->1<!-- -->"
    with pytest.raises(ValueError, match="is not followed by its end"):
        figures.filled(text)


def test_what_was_not_measured_is_no_figure():
    with pytest.raises(LookupError, match="networks-1.json has no row 'nowhere'"):
        figures.filled("takes <!-- figure networks-1: nowhere, ms, ours -->1<!-- --> ms")
