"""The fidelity ledger: which model was compared with what, how closely, and what differs. `python tests/ledger.py` writes
`docs/fidelity.md` from the tests themselves, so that no line stands there without a test behind it.

A test that compares with something which is not this library says so in one marker, in plain strings:

    @pytest.mark.fidelity(
        model="lif",
        reference="Norse 1.1.0, `LIFBoxCell`",
        compared="spikes, membranes and gradients of 200 drawn steps",
        closely="spikes equal, the rest to 1e-6",
        differs="nothing",
    )
"""

import ast
from pathlib import Path


COLUMNS = ("model", "reference", "compared", "closely", "differs")
HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "fidelity.md"
HEAD = """# Fidelity ledger

What the models here were compared with, how closely they agree, and what is different on purpose. Made by `python tests/ledger.py` from
the tests. Those of `test_parity_*.py` (`.ci/parity`) and `test_peer_*.py` (`.ci/peers`) run where the other library is installed, all
others in every run.

"""


def lines():
    """A line for each marker: read from the source, as a peer's tests are not collected where it is not installed."""
    for path in sorted(HERE.glob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            for mark in getattr(function, "decorator_list", ()):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fidelity":
                    said = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
                    assert set(said) == set(COLUMNS), (path.name, function.name, sorted(said))
                    yield (*(said[column] for column in COLUMNS), f"`{path.name}::{function.name}`")


def page():
    rows = [(*COLUMNS, "test"), ("---",) * (len(COLUMNS) + 1)]
    rows += sorted(lines(), key=lambda row: (row[0].lower(), row))
    return HEAD + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
