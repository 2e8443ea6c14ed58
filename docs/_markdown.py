"""Docstrings, which are written for `help()`, as Markdown: their equations and examples stay as they stand, in monospace."""

import ast
import html
import inspect
import re
import textwrap


def markdown(doc: str | None) -> str:
    """A docstring as Markdown, paragraph by paragraph.

    - Indented: a block of code. As `py` if it is Python, which readers get coloured and no test runs (tests run `python`), else as text.
    - `>>>`: an example, which the tests run.
    - Columns at the margin (three spaces in a row): text as it stands.
    - `- `: a list, whose points may follow one another within a line.
    """
    blocks, code = [], []
    for paragraph in re.split(r"\n[ \t]*\n", inspect.cleandoc(doc or "")):
        if paragraph.startswith("    "):
            code.append(paragraph)
            continue
        blocks += _code(code)
        code = []
        blocks += _text(paragraph)
    return "\n\n".join(filter(None, [*blocks, *_code(code)]))


def _text(paragraph: str) -> list[str]:
    """The parts of a paragraph at the margin; a list and an indented block may begin without an empty line before them."""
    lines = paragraph.splitlines()
    if lines and lines[0].startswith(">>> "):
        return [fenced("\n".join(lines), "pycon")]
    parts: list[list[str]] = []
    kinds = []
    for line in lines:
        point = line.startswith("- ")
        deep = line.startswith("    ")
        kind = (
            "code" if deep and (not kinds or kinds[-1] != "list") else "list" if point or (line[:1] == " ") else "text"
        )
        if kind == "text" and re.search(r"\S {3,}\S", line):
            kind = "code"
        if kinds and kind == kinds[-1]:
            parts[-1].append(line)
        else:
            parts.append([line])
            kinds.append(kind)
    found = []
    for kind, part in zip(kinds, parts):
        if kind == "code":
            found += _code(["\n".join(part)])
        elif kind == "list":
            found.append("\n".join(_points(part)))
        else:
            found.append("\n".join(map(escaped, part)))
    return found


def _points(lines: list[str]) -> list[str]:
    """A list with a line for each point, which Markdown wants indented by four."""
    text = re.sub(r"\n +", " ", "\n".join(lines))
    return [escaped(line) for line in re.sub(r"(?<=[.;]) - (?=`)", "\n- ", text).splitlines()]


def _code(paragraphs: list[str]) -> list[str]:
    if not paragraphs:
        return []
    text = textwrap.dedent("\n\n".join(paragraphs))
    if text.startswith(">>> "):
        return [fenced(text, "pycon")]
    try:
        body = ast.parse(text).body
        language = (
            "py" if any(not isinstance(part, ast.Expr) or isinstance(part.value, ast.Call) for part in body) else "text"
        )
    except SyntaxError:
        language = "text"
    return [fenced(narrowed(text), language)]


def narrowed(text: str, most: int = 3) -> str:
    """Columns of notes far to the right come nearer: what is blank in every line, and wider than this, is cut to it."""
    lines = text.splitlines()
    wide = max(map(len, lines), default=0)
    blank = [all(line[i : i + 1] in ("", " ") for line in lines) for i in range(wide)]
    keep, run = [], 0
    for empty in blank:
        run = run + 1 if empty else 0
        keep.append(run <= most)
    begin = blank.index(False) if False in blank else 0
    return "\n".join("".join(c for i, c in enumerate(line) if i < begin or keep[i]) for line in lines)


def fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def escaped(line: str) -> str:
    """What Markdown or HTML would take for its own, outside of `code`."""
    parts = line.split("`")
    for i in range(0, len(parts), 2):
        text = html.escape(parts[i], quote=False)
        text = text if text.startswith("- ") else re.sub(r"^(\s*)([-+#>])(?=\s)", r"\1\\\2", text)
        parts[i] = re.sub(r"([*_])", r"\\\1", text)
    return "`".join(parts)


def cell(text: str) -> str:
    """Text within a table."""
    return escaped(" ".join(text.split())).replace("|", "\\|")


def fields(doc: str | None) -> tuple[str, dict[str, str]]:
    """What a tree's docstring says before and behind its list, and of each field: of "- `a`, `b`: text" both."""
    text = re.sub(r"\n  (?! )", " ", inspect.cleandoc(doc or ""))
    text = re.sub(r"(?<=[.;]) (?=`\w+`(?:, `\w+`)*: )", "\n- ", text)  # a point that a sentence begins, not a dash
    points = re.compile(
        r"(?:^|(?<=[.;] )|(?<=\n))- ((?:`\w+`(?:, | and )?)+):? *(.*?)(?=(?<=[.;]) - `|\n- |\n\n|\n(?! )|\Z)", re.S
    )
    said = {}
    for names, meaning in points.findall(text):
        said |= {name: " ".join(meaning.split()) for name in re.findall(r"`(\w+)`", names)}
    return points.sub("", text).strip(), said
