"""The documentation as a site of static pages, which needs no network to be built or read: `python docs/make.py`.

Needs the extra `docs`: `pip install -e '.[docs]'`. The pages are written to `build/docs/` as plain Markdown and made into `build/site/` by
mkdocs with `docs/mkdocs.yml`; open `build/site/index.html`. `--pages` stops before mkdocs, `--serve` shows them at
http://127.0.0.1:8000.

Hand-written are the pages in `docs/pages/`; READMEs are taken from where they are, notebooks with the outputs that they were committed
with, and the reference from docstrings. A link that leads nowhere, a public name without a docstring and a section that is no longer
there stop the build.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path


HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]  # this checkout's library, whatever is installed

import _reference  # noqa: E402
from _pages import Site  # noqa: E402


PAGES = ROOT / "build" / "docs"
READMES = {  # of the deep rooms: how it works
    "snn_functional/_scan/README.md": "how/scan.md",
    "snn_functional/kernels/README.md": "how/kernels.md",
    "snn_functional/_events/README.md": "how/events.md",
    "snn_functional/_identity/README.md": "how/identity.md",
    "snn_functional/nir/README.md": "how/nir.md",
    "snn_functional/snn/README.md": "how/snn.md",
    "docs/events.md": "start/events.md",
    "docs/from-snntorch.md": "start/from-snntorch.md",
    "docs/training.md": "start/in-your-script.md",
    "docs/uses.md": "uses.md",
    "docs/performance.md": "performance.md",
    "docs/fidelity.md": "fidelity.md",
    "docs/CHANGELOG.md": "changelog.md",
    "docs/CONTRIBUTING.md": "contributing.md",
}


WIDE = {
    "fidelity.md": "navigation, toc",
    "changelog.md": "toc",
    "how/snn.md": "toc",
    "performance.md": "toc",
    "uses.md": "toc",
}  # what stands beside a page leaves room for its tables


def sources() -> dict[str, str]:
    """Every file of the repository that is a page of the site, or has a place on one, and where."""
    found = {path: at for path, at in READMES.items() if (ROOT / path).exists()}
    found["README.md"] = "index.md"
    found |= {str(p.relative_to(ROOT)): f"notebooks/{p.stem}.md" for p in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    for path in sorted((HERE / "pages").rglob("*.md")):
        found[str(path.relative_to(ROOT))] = str(path.relative_to(HERE / "pages"))
    # A link to a room's or a neuron's source, which is there on a code host, too, leads to its place in the reference.
    found["snn_functional/__init__.py"] = "reference/index.md"
    for subject in _reference.SUBJECTS:
        for room in subject.rooms:
            place = f"reference/{subject.page}.md"
            alone = len(subject.rooms) == 1 or room.startswith("_")
            for path in (f"snn_functional/{room}.py", f"snn_functional/{room}/__init__.py"):
                if (ROOT / path).exists():
                    found[path] = place if alone else f"{place}#{room}"
    for room in ("neurons", "modifiers"):
        if (ROOT / "snn_functional" / room / "README.md").exists():
            found[f"snn_functional/{room}/README.md"] = f"reference/{room}.md"
        for name, (_, where) in _reference.public().items():
            if where.startswith(f"{room}.") and name == where.removeprefix(f"{room}._"):
                found[f"snn_functional/{where.replace('.', '/')}.py"] = f"reference/{room}.md#{name}"
    return found


def pages() -> dict[str, bytes]:
    """The site's pages and pictures, by path."""
    found = sources()
    site = Site(found)
    made = {}
    for path, at in found.items():
        if path.endswith(".ipynb"):
            made[at] = site.notebook(path, at)
        elif path != "README.md" and not at.startswith(
            "reference/"
        ):  # docs/pages/index.md has as much of it as a first page should
            made[at] = site.page(path, at)

    def readme(room: str, at: str) -> str | None:
        path = f"snn_functional/{room}/README.md"
        return site.page(path, at) if found.get(path) == at else None

    made |= _reference.pages(readme)
    made |= {at: f"---\nhide: [{parts}]\n---\n\n{made[at]}" for at, parts in WIDE.items()}
    style = {f"assets/{name}": (HERE / name).read_bytes() for name in ("extra.css", "iframe-worker.js")}
    return {at: text.encode() for at, text in made.items()} | site.assets | style


def config(made: dict[str, bytes]) -> str:
    """`docs/mkdocs.yml` without the pages that this checkout does not have; one that is in no line stops the build."""
    lines = (HERE / "mkdocs.yml").read_text().splitlines(keepends=True)
    page = re.compile(r" +- .*: (\S+\.md)\n")
    kept = [line for line in lines if not (named := page.fullmatch(line)) or named[1] in made]
    return "".join(kept).replace("../build/", "")


def write(made: dict[str, bytes], folder: Path = PAGES) -> None:
    """Writes what has changed, and removes what is no page any more."""
    for at, content in made.items():
        path = folder / at
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    for path in folder.rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in made:
            path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pages", action="store_true", help="write the Markdown alone")
    parser.add_argument("--serve", action="store_true", help="show the site on this machine")
    options = parser.parse_args()
    made = pages()
    write(made)
    (PAGES.parent / "mkdocs.yml").write_text(config(made))
    if options.pages:
        return 0
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "serve" if options.serve else "build",
        "-f",
        str(PAGES.parent / "mkdocs.yml"),
    ]
    return subprocess.run(command, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
