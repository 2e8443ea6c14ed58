"""`--keep` of a benchmark: what pages show of it, small and readable, in benchmarks/results. `figures.py` puts it into the pages.

A file is a list of runs: date, command, machine, threads, versions, and rows {row: {quantity: {who: number}}}, medians to four digits. A
row that is measured again leaves its older run. A "note" says of a run that `--keep` did not write where its figures are from.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


RESULTS = Path(__file__).resolve().parent / "results"


def option(parser: argparse.ArgumentParser) -> None:
    says = "write what pages show of this into benchmarks/results (or FOLDER); then `python benchmarks/figures.py`"
    parser.add_argument("--keep", nargs="?", const=RESULTS, type=Path, metavar="FOLDER", help=says)


def keep(
    folder: Path | None,
    name: str,
    measured: Iterable[dict[str, Any]],
    row: Callable[[dict[str, Any]], str],
    quantities: tuple[str, ...],
    title: Callable[[str], str] | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """What was measured, dictionaries of "who" and quantities, into `folder/name.json`; nothing if `folder` is None."""
    if folder is None:
        return
    rows: dict[str, Any] = {}
    for one in measured:
        here = rows.setdefault(row(one), {"title": title(row(one))} if title else {})
        for quantity in quantities:
            if (value := one.get(quantity)) is not None:
                here.setdefault(quantity, {})[one["who"]] = value if isinstance(value, str) else float(f"{value:.4g}")
    about = dict(
        date=str(datetime.date.today()),
        command=command(sys.argv),
        machine=machine(device),
        threads=threads,
        versions=versions(rows, device),
    )
    path = folder / f"{name}.json"
    runs = json.loads(path.read_text()) if path.exists() else []
    for run in runs:
        run["rows"] = {at: found for at, found in run["rows"].items() if at not in rows}
    runs = [run for run in runs if run["rows"]] + [about | {"rows": rows}]
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(written(runs))


def command(argv: list[str]) -> str:
    """What was asked, without where it is kept and which rows were: each row says itself."""
    words, left_out = [f"python benchmarks/{Path(argv[0]).name}"], False
    for word in argv[1:]:
        left_out = word in ("--keep", "--rows") or left_out and not word.startswith("--")
        words += [] if left_out else [word]
    return " ".join(words)


def written(runs: list[dict[str, Any]]) -> str:
    """JSON in which what has nothing inside is one line."""
    lines = json.dumps(runs, indent=1, ensure_ascii=False)
    return re.sub(r"\{[^{}]*\}", lambda flat: re.sub(r"\n\s*", " ", flat[0]), lines) + "\n"


def machine(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    return f"{cpu}, {os.cpu_count()} cores"


def versions(rows: dict[str, Any], device: str) -> dict[str, str]:
    """Of torch, and of the peers that were asked, in their own environments."""
    parts = [part for found in rows.values() for part in found.values() if isinstance(part, dict)]
    asked = {"torch", *["triton"] * (device == "cuda")} | {who.partition(":")[0] for part in parts for who in part}
    places = [*sys.path, *map(str, (RESULTS.parents[1] / "build/peers").glob("*/lib/python*/site-packages"))]
    found = {one.name.lower(): one.version for one in reversed([*importlib.metadata.distributions(path=places)])}
    return {name: found[name] for name in sorted(asked) if name in found}
