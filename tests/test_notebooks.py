"""The notebooks run, and what is committed of them is what a run from top to bottom leaves.

Here they run in process, without a kernel, and shorter where they look at SNN_FAST. Their outputs are made by

    python tests/test_notebooks.py            needs nbclient and ipykernel
"""

import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest


matplotlib.use("Agg")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

PATH = re.compile(r"(?<![\w.:/~<-])/\w[\w.-]*/\w|\b[A-Z]:\\")  # /one/two or C:\, but not a/b, https://, </b>
NEEDS = {"9-neurons-and-platforms": "nir"}  # what the library itself does without
SHOWN = ("text/plain", "text/html", "text/markdown", "image/svg+xml")


def test_the_notebooks_are_found():
    assert {path.stem[:2] for path in NOTEBOOKS} >= {"1-", "2-"}


SLOW = ("7-fitting-a-neuron",)  # it trains longest, by what others show, too


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in NOTEBOOKS]
)
def test_notebook_runs(path, monkeypatch):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem], reason=f"pip install {NEEDS[path.stem]}")
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("SNN_FAST", "1")
    monkeypatch.setenv("SNN_FUNCTIONAL_OPTIMIZE", "1")  # some train for seconds
    names = {"__name__": "__main__"}
    try:
        with matplotlib.rc_context():
            for i, cell in enumerate(nbformat.read(path, as_version=4).cells):
                if cell.cell_type == "code":
                    exec(compile(cell.source, f"{path.name}[{i}]", "exec"), names)
            for number in plt.get_fignums():
                plt.figure(number).canvas.draw()
    finally:
        plt.close("all")


@each_notebook
def test_notebook_was_run_from_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr", output


@each_notebook
def test_notebook_names_no_path_of_a_machine(path):
    for cell in nbformat.read(path, as_version=4).cells:
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts += [output.get("text", ""), *(str(output.get("data", {}).get(kind, "")) for kind in SHOWN)]
        for text in texts:
            assert not PATH.search(text), text


@pytest.mark.parametrize("text, found", [("/etc/hosts", 1), ('"C:\\a"', 1), ("a/b/c, 1 / 2, https://a.org/b/c", 0)])
def test_a_path_is_known_when_seen(text, found):
    assert bool(PATH.search(text)) == found


def refresh(path):
    """Run a notebook in a kernel of its own and keep its outputs, and nothing that tells when or where."""
    import nbclient

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": path.parent}}, coalesce_streams=True).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = str(number), {}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in NOTEBOOKS:
        refresh(path)
