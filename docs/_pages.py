"""Pages that stand elsewhere in the repository, READMEs, notebooks and the pages of `docs/`, as pages of the site.

A page may take in a part of another file, so that no text stands twice:

    <!-- include README.md "## Speed" -->            from this heading to the next of its rank
    <!-- include README.md to "## More" -->          from the beginning to this heading
    <!-- include snn_functional/neurons/README.md if it is there -->
"""

import base64
import json
import posixpath
import re
from pathlib import Path

from _markdown import fenced


ROOT = Path(__file__).resolve().parents[1]
INCLUDE = re.compile(r'^<!-- include (\S+)(?: (to )?"(.*)")?( if it is there)? -->$', re.M)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def split_code(text: str) -> list[str]:
    """Text, code, text, ...: code is never rewritten."""
    return re.split(r"(^```.*?^```$|`[^`\n]+`)", text, flags=re.M | re.S)


def part(path: str, heading: str, to: bool = False) -> str:
    """A section of a file; what comes before it with `to`. Raises LookupError where there is no such heading."""
    text = (ROOT / path).read_text()
    lines = text.splitlines()
    if heading not in lines:
        raise LookupError(f"{path} has no line {heading!r}, which a page of docs/ takes in.")
    start = lines.index(heading)
    if to:
        return "\n".join(lines[:start])
    rank = heading.split()[0]
    fence, end = False, len(lines)
    for i, line in enumerate(lines[start + 1 :], start + 1):
        fence ^= line.startswith("```")
        if not fence and re.match(rf"#{{1,{len(rank)}}} ", line):
            end = i
            break
    return "\n".join(lines[start:end])


class Site:
    """What is on it: `sources` says for each file of the repository that is a page where that is; `assets` collects pictures."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = sources
        self.assets: dict[str, bytes] = {}

    def page(self, path: str, at: str) -> str:
        """A file of Markdown, for the page `at`."""
        return self.read((ROOT / path).read_text(), path, at)

    def read(self, text: str, path: str, at: str) -> str:
        """Text of the file `path`: its links lead to pages of the site, its inclusions are there."""
        text = re.sub(r"^```python .*$", "```python", text, flags=re.M)  # what a block needs is for who runs it
        # Taken in first, each with the links of its own file; the rest then has only its own.
        parts = INCLUDE.split(text)
        made = [self.relinked(parts[0], path, at)]
        for i in range(1, len(parts), 5):
            other, to, heading, optional, rest = parts[i : i + 5]
            if (ROOT / other).exists() or not optional:
                taken = part(other, heading, bool(to)) if heading else (ROOT / other).read_text()
                made.append(self.relinked(taken, other, at))
            made.append(self.relinked(rest, path, at))
        return "".join(made)

    def relinked(self, text: str, path: str, at: str) -> str:
        found = split_code(text)
        # A link's text may be code, so what is between backticks is put back before links are looked for.
        held: list[str] = []

        def hold(code: str) -> str:
            held.append(code)
            return f"\0{len(held) - 1}\0"

        flat = "".join(hold(piece) if i % 2 else piece for i, piece in enumerate(found))
        flat = LINK.sub(lambda match: self.link(match, path, at), flat)
        return re.sub("\0(\\d+)\0", lambda match: held[int(match[1])], flat)

    def link(self, match: re.Match[str], path: str, at: str) -> str:
        """A link of the file `path` on the page `at`. What is no page is named without a link. Raises LookupError if it is nowhere."""
        picture, text, target = match.groups()
        if re.match(r"[a-z]+:", target):
            return match[0]
        name, _, anchor = target.partition("#")
        if not name:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        if not (ROOT / file).exists():
            raise LookupError(f"{path} links to {target}, which is not there.")
        if picture:
            self.assets[f"assets/{posixpath.basename(file)}"] = (ROOT / file).read_bytes()
            return f"![{text}]({relative(f'assets/{posixpath.basename(file)}', at)})"
        if file in self.sources:
            to, _, place = self.sources[file].partition("#")
            place = anchor or place
            return f"[{text}]({relative(to, at) if to != at or not place else ''}{'#' + place if place else ''})"
        return text

    def notebook(self, path: str, at: str) -> str:
        """Its text, code and what a run left: printed text, values and pictures."""
        parts = []
        for number, cell in enumerate(json.loads((ROOT / path).read_text())["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                parts.append(self.read(source, path, at))
                continue
            if cell["cell_type"] != "code":
                continue
            parts.append(fenced(source, "python"))
            for i, output in enumerate(cell.get("outputs", [])):
                data = output.get("data", {})
                if "image/png" in data:
                    name = f"assets/{Path(path).stem}-{number}-{i}.png"
                    self.assets[name] = base64.b64decode("".join(data["image/png"]))
                    parts.append(f"![what the cell above draws]({relative(name, at)})")
                elif text := "".join(output.get("text", data.get("text/plain", ""))):
                    parts.append(fenced(text, "text"))
        return "\n\n".join(parts) + "\n"


def relative(to: str, at: str) -> str:
    return posixpath.relpath(to, posixpath.dirname(at) or ".")
