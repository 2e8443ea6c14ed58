"""python benchmarks/figures.py [--check]: the figures on the pages, from what the benchmarks measured. None is typed.

    python benchmarks/networks.py --keep      measures, and writes what pages need into benchmarks/results/networks-1.json
    python benchmarks/figures.py              puts it into the pages, and draws benchmarks/scan.png; --check only says what is stale

On a page (any .md) stand, each between two comments that no reader sees:

    <!-- figures NAME -->...<!-- -->                     a table, one of TABLES; below it when, on what and by which command
    <!-- figure FILE: ROW, QUANTITY, WHO -->...<!-- -->  a number. ROW may match several rows: "low to high". "WHO / WHO": a ratio

`keep.py` says what a file of results holds.
"""

import argparse
import fnmatch
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from keep import RESULTS


ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "benchmarks/scan.png"
MARK = re.compile(r"(<!-- (figures?) ([^>]*?) -->)((?:(?!<!--).)*)(<!-- -->)", re.S)


class Table(NamedTuple):
    """Of the file `of`, those rows that match; a column: the quantity, and who: the best of several. The least in a row is bold."""

    of: str
    rows: tuple[str, ...]
    head: str
    columns: dict[str, tuple[str, ...]]
    bold: bool = True


ms = lambda **who: {name.replace("_", " "): ("ms", *whose.split(", ")) for name, whose in who.items()}
PEERS = {"JAX `lax.scan`": ("ms", "jax", "jax: hoisted")} | ms(
    Spyx="spyx", snnTorch="snntorch", Norse="norse", SpikingJelly="spikingjelly"
)
FEW = ms(here="ours", products="products") | PEERS
MANY = FEW | ms(sinabs="sinabs", jaxpike="jaxpike", plain_loop="plain loop")
WAYS = {"own step": "own step", "with a mask": "masked", "with hidden spikes put out": "recorded"}
WAYS = {name: ("ms", f"ours: {who}") for name, who in WAYS.items()}
WAYS |= {"`chain`": ("ms", "ours"), "`module`": ("ms", "ours: snn.run"), "plain loop": ("ms", "ours: loop")}
LAYER = {"fused": ("ms", "fused"), "`copy`": ("ms", "copy")}
LAYERS = ("[0-9]* x *[0-9]",)
BOUNDS = {"products", "`copy`"}  # what everybody has to do: not in the race
DENSITIES = {f"{share} %": ("times", f"{share} %") for share in (1, 2, 5, 13, 20, 30, 50)}
LIBRARIES = {"this library": "snn_functional", "snnTorch": "snntorch", "Norse": "norse"}
LIBRARIES |= {"SpikingJelly": "spikingjelly", "sinabs": "sinabs"}
NETWORKS = ("recurrent", "long", "wide", "feedforward", "inference")
OTHERS = ("sparse", "digits", "conv", "slstm", "relu", "small", "neurons")

TABLES = {
    "networks": Table("networks-1", NETWORKS, "network", FEW),
    "all networks": Table("networks-1", NETWORKS + OTHERS, "network", MANY),
    "own networks": Table("networks-1", ("own *",), "network", WAYS, bold=False),
    "layer": Table("scan-cpu-1", LAYERS, "T x batch x neurons", LAYER | PEERS | ms(plain_loop="loop")),
    "layer on a GPU": Table("scan-cuda-1", LAYERS, "T x batch x neurons", LAYER | {"JAX `lax.scan`": ("ms", "jax")}
        | {"SpikingJelly (Triton, by hand)": ("ms", "spikingjelly")} | ms(sinabs="sinabs", snnTorch="snntorch", plain_loop="loop")),
    "events": Table("events-1-float32", ("*",), "rows x in x out", DENSITIES, bold=False),
    "uses": Table("uses", ("*",), "", {name: ("cell", who) for name, who in LIBRARIES.items()}, bold=False),
}  # fmt: skip


def runs(name: str) -> list[dict[str, Any]]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def matching(name: str, pattern: str) -> list[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Run, row, numbers. Raises LookupError where a page asks for what was not measured."""
    rows = [(run, row, numbers) for run in runs(name) for row, numbers in run["rows"].items()]
    found = [row for row in rows if fnmatch.fnmatchcase(row[1], pattern)]
    if not found:
        raise LookupError(f"benchmarks/results/{name}.json has no row {pattern!r}, which a page shows.")
    return found


def number(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:.0f}" if x >= 9.95 else f"{x:#.2g}"


def inline(words: str) -> str:
    """`FILE: ROW, QUANTITY, WHO`, as it stands in a sentence."""
    name, _, rest = words.partition(": ")
    pattern, quantity, who = rest.rsplit(", ", 2)
    over, _, under = who.partition(" / ")
    found = [of[quantity][over] / (of[quantity][under] if under else 1) for _, _, of in matching(name, pattern)]
    return " to ".join(dict.fromkeys((number(min(found)), number(max(found)))))


def table(name: str) -> str:
    of, patterns, head, columns, bold = TABLES[name]
    lines = [f"| {head} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    shown = [found for pattern in patterns for found in matching(of, pattern)]
    for _, row, numbers in shown:
        cells = {}
        for heading, (quantity, *who) in columns.items():
            known = [numbers.get(quantity, {})[one] for one in who if one in numbers.get(quantity, {})]
            cells[heading] = min(known) if known else "-"
        least = min((x for at, x in cells.items() if bold and at not in BOUNDS and x != "-"), default=None)
        shown_as = [f"**{number(x)}**" if x == least and at not in BOUNDS else number(x) for at, x in cells.items()]
        lines.append(f"| {numbers.get('title', row)} | {' | '.join(shown_as)} |")
    who = {one.partition(":")[0] for _, *those in columns.values() for one in those}
    return "\n".join([*lines, "", *said([run for run, _, _ in shown], who | {"torch", "triton"})])


def said(of: list[dict[str, Any]], who: set[str]) -> list[str]:
    """When, on what, with which of these libraries and by which command: a line for each day and machine."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in of:
        groups.setdefault((run["date"], run["machine"], str(run["threads"])), []).append(run)
    lines = []
    for (date, on, threads), those in groups.items():
        known = {name: version for run in those for name, version in run["versions"].items() if name in who}
        commands = dict.fromkeys(f"`{run['command']}`" for run in those)
        thread = {"0": "", "1": ", one thread"}.get(threads, f", {threads} threads")
        named = ", ".join(f"{name} {version.partition('+')[0]}" for name, version in known.items())
        notes = dict.fromkeys(f" ({run['note']})" for run in those if "note" in run)
        lines.append(f"{date}, {on}{thread}; {named}; {', '.join(commands)}{''.join(notes)}.")
    return lines


def filled(text: str) -> str:
    """A page with the figures that were measured. Raises ValueError where a place for them has no end: text would be lost."""
    if text.count("<!-- figure") != len(MARK.findall(text)):
        raise ValueError("a comment `<!-- figure ... -->` is not followed by its end, `<!-- -->`.")
    fill = lambda mark: f"\n{table(mark[3])}\n" if mark[2] == "figures" else inline(mark[3])
    return MARK.sub(lambda mark: mark[1] + fill(mark) + mark[5], text)


def pages() -> list[Path]:
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "snn_functional").rglob("*.md")]
    return [path for path in sorted(found) if "<!-- figure" in path.read_text()]


def digest() -> bytes:
    """What the picture says of itself: which figures it shows."""
    shown = [(row, numbers) for _, row, numbers in matching("scan-cpu-1", *LAYERS)]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest().encode()


def draw(path: Path = PICTURE) -> None:
    import matplotlib.pyplot as plt

    shown = matching("scan-cpu-1", *LAYERS)
    figure, axes = plt.subplots(1, len(shown), figsize=(4 * len(shown), 3.4), layout="constrained")
    for ax, (_, row, found) in zip(axes, shown):
        who, taken = zip(*sorted(found["ms"].items(), key=lambda one: -one[1]))
        ax.barh(who, taken, color=[{"fused": "C1", "copy": "C7"}.get(one, "C0") for one in who])
        ax.set(xscale="log", xlabel="ms, forward and backward")
        ax.set_title("T={}, batch {}, {} neurons".format(*row.split(" x ")))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
    figure.savefig(path, dpi=120, metadata={"Source": digest().decode()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something is stale")
    check = parser.parse_args().check
    stale = [path for path in pages() if filled(path.read_text()) != path.read_text()]
    stale += [PICTURE] if not PICTURE.exists() or digest() not in PICTURE.read_bytes() else []
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            draw() if path == PICTURE else path.write_text(filled(path.read_text()))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
