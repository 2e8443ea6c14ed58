"""One use tried on one library: every road, and where each one ends."""

import contextlib
import importlib
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch


HERE = Path(__file__).parent


def told(error: BaseException) -> dict[str, Any]:
    """The error's first line, where it was raised, and whether that is one of these files: then the fault is ours."""
    from check import Elsewhere, first_line, Missing, Wrong

    if isinstance(error, Elsewhere):
        return dict(error=str(error), where=error.where, ours=error.ours)
    if isinstance(error, Missing | Wrong):
        return dict(error=str(error), where="", ours=False)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(frame.filename).parent == HERE
    path = frame.filename.rpartition("site-packages/")[2]
    return dict(error=first_line(error), where=f"{Path(path).name if ours else path}:{frame.lineno}", ours=ours)


def attempt(library: str, name: str) -> dict[str, Any]:
    """{library, use, cell, tries}: the cell is the best road, and what of it is the user's own work.

    After a road with the user's own work comes the next one with the library as it is, if there is one.
    """
    from programs import USES

    use = USES[name]
    tries: list[dict[str, Any]] = []
    for how, program in use.programs:
        for subject in getattr(importlib.import_module(f"of_{library}"), use.of)():
            done = any(t["ok"] and (not t["own"] or subject.own) for t in tries)
            if use.safety or not (done or any(t["inapplicable"] for t in tries)):
                tries.append(dict(how=how, way=subject.name, own=subject.own, **_try(program, subject)))
    good = [t for t in tries if t["ok"]]
    if use.safety:
        bad = dict.fromkeys(t["own"] for t in tries if not t["ok"])
        cell = "yes" if not bad else "no" if "" in bad else f"not with {', '.join(bad)}"
    else:
        cell = " / ".join(dict.fromkeys(map(_cell, good))) or ("-" if tries[0]["inapplicable"] else "no")
    return dict(library=library, use=name, cell=cell, tries=tries)


def _cell(t: dict[str, Any]) -> str:
    if not t["own"]:
        return t["how"]
    return t["own"] if t["how"] == "yes" else f"{t['how']}, {t['own']}"


def _try(program: Any, subject: Any) -> dict[str, Any]:
    from check import Inapplicable

    torch.manual_seed(0)
    inapplicable = False
    with _warnings() as caught, contextlib.redirect_stdout(sys.stderr):
        try:
            result = dict(ok=True, remark=program(subject) or "")
        except Exception as error:
            inapplicable = isinstance(error, Inapplicable)
            result = dict(ok=False, remark="", full="".join(traceback.format_exception(error)), **told(error))
    return result | dict(inapplicable=inapplicable, warnings=sorted(caught))


@contextlib.contextmanager
def _warnings() -> Any:
    """Python's and, from what is written to stderr, those of torch's C++."""
    found: set[str] = set()
    with tempfile.TemporaryFile("w+") as file, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield found
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            found.update(line.partition("Warning: ")[2].strip() for line in file if "Warning: " in line)
            found.update(str(w.message).splitlines()[0] for w in caught)
