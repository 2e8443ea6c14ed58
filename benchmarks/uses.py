"""python benchmarks/uses.py [--errors] [--only LIBRARY ...]: what runs, here and in the other PyTorch libraries.

Every (library, use) pair runs in a process of its own (uses/programs.py has the programs, uses/of_*.py the libraries). "yes" means that
it ran and that its numbers are those of the library's own equation in plain torch under plain autograd. Another word in a cell is the
road that leads there instead, and what of it is the user's own work:

    own surrogate       with a spike function that the user wrote in place of the library's surrogates
    QPseudoSpike        with this surrogate of SpikingJelly, not with its default and the other usual ones
    params in a dict    the user takes the numbers out of the library's own tree of parameters
    autograd            with plain autograd, without torch.func; "only": a pure step, but not for torch.func
    broadcasting        without vmap, in one wide layer with an axis for the members
    by hand             written out by the user around the library's step or layers

What can always be done, a Python loop over members or samples, counts for nobody. `--errors` prints every error in full.
`benchmarks/peers.sh` installs the peers; who is not installed is named and left out. Leaves uses.json in build/benchmarks; `--keep`:
see keep.py.
"""

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from keep import keep, option


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "uses"))

LIBRARIES = {
    "snn_functional": ("this library", None),
    "snntorch": ("snnTorch 1.0", "torch"),
    "norse": ("Norse 1.1", "torch"),
    "spikingjelly": ("SpikingJelly 2.0", "torch"),
    "sinabs": ("sinabs 3.1", "torch"),
}
TIMEOUT = 600


def python(library: str) -> Path:
    home = LIBRARIES[library][1]
    return Path(sys.executable if home is None else HERE.parent / "build/peers" / home / "bin/python")


def ask(library: str, use: str) -> dict[str, Any]:
    command = [str(python(library)), "-W", "ignore", __file__, "--worker", library, use]
    failed = dict(library=library, use=use, cell="?", tries=[])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return failed | dict(stderr=f"not done after {TIMEOUT} s")
    if done.returncode or not done.stdout:
        return failed | dict(stderr=f"the process ended with {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]) | dict(stderr=done.stderr)


def table(results: dict[tuple[str, str], dict[str, Any]], libraries: list[str], uses: dict[str, Any]) -> str:
    """The table; the errors on the way to a plain yes, numbered; and the roads that were taken."""
    errors: list[str] = []
    roads = []
    lines = ["| | " + " | ".join(LIBRARIES[name][0] for name in libraries) + " |", "|---" * (len(libraries) + 1) + "|"]
    for use in uses:
        cells = [uses[use].title]
        for library in libraries:
            tries, numbers = results[library, use]["tries"], []
            plain = any(t["ok"] and not t["own"] for t in tries)
            for t in tries:
                remarks = [t["remark"], *(f"torch warns: {text}" for text in t["warnings"] if "performance" in text)]
                if t["ok"] and any(remarks):
                    roads.append(f"{use}, {LIBRARIES[library][0]}, {t['way']}: {'. '.join(filter(None, remarks))}")
                if not t["ok"] and (t["how"] == "yes" or not plain or t["ours"]):
                    text = f"{t['error']} ({t['where']})" if t["where"] else f"{t['way']}: {t['error']}"
                    text = f"OUR SCRIPT: {text}" if t["ours"] else text
                    errors.append(text) if text not in errors else None
                    numbers.append(errors.index(text) + 1)
            cells.append(" ".join([results[library, use]["cell"], *(f"[{n}]" for n in dict.fromkeys(numbers))]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"[{n}] {text}" for n, text in enumerate(errors, 1)), "", *roads])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--errors", action="store_true", help="print every error in full")
    parser.add_argument("--only", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--use", nargs="+")
    parser.add_argument("--out", type=Path, default=HERE.parent / "build/benchmarks")
    parser.add_argument("--worker", nargs=2, metavar=("LIBRARY", "USE"))
    option(parser)
    options = parser.parse_args()
    if options.worker:
        from tried import attempt

        print(json.dumps(attempt(*options.worker)))
        return
    from programs import USES

    uses = {name: use for name, use in USES.items() if options.use is None or name in options.use}
    libraries = []
    for library in options.only:
        if python(library).exists():
            libraries.append(library)
        else:
            print(f"{library} is left out: it is not installed (benchmarks/peers.sh)")
    results = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for library in libraries:
            for result in pool.map(lambda use: ask(library, use), uses):  # noqa: B023
                results[library, result["use"]] = result
            cells = [results[library, use]["cell"] for use in uses]
            print(
                f"{LIBRARIES[library][0]:20} " + ", ".join(f"{use} {cell}" for use, cell in zip(uses, cells)),
                flush=True,
            )
    print("\n" + table(results, libraries, uses))
    ours = [
        (r["library"], r["use"], t["way"], t["error"]) for r in results.values() for t in r["tries"] if t.get("ours")
    ]
    if ours:
        print("\nThe fault of these programs, not of a library:", *ours, sep="\n    ")
    if options.errors:
        for r in results.values():
            for t in r["tries"]:
                if not t["ok"]:
                    print(f"\n=== {r['library']}, {r['use']}, {t['how']}, {t['way']}\n{t['full']}")
            if r["cell"] == "?":
                print(f"\n=== {r['library']}, {r['use']}\n{r['stderr']}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "uses.json").write_text(json.dumps(list(results.values()), indent=1))
    told = [dict(row=use, who=library, cell=result["cell"]) for (library, use), result in results.items()]
    keep(options.keep, "uses", told, lambda row: row["row"], ("cell",), lambda use: uses[use].title, threads=0)


if __name__ == "__main__":
    main()
