"""The pages of the reference, from the docstrings: every public name, with its signature, and the fields of its trees.

A name's page is that of the file in which it is defined; `SUBJECTS` is the list. A file that is on no page stops the build.
"""

import ast
import dataclasses
import inspect
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from _markdown import cell, escaped, fenced, fields, markdown

import snn_functional as snf
from snn_functional._names import first_line


class Subject(NamedTuple):
    """A page. `rooms`: modules of the package whose public names are on it, by their path within."""

    page: str
    title: str
    rooms: tuple[str, ...]
    says: str = ""


SUBJECTS = [
    Subject("networks", "Time and networks", ("_scan", "_linear_scan", "_neuron", "_chain", "_firing", "_summary")),
    Subject("layers", "Layers and delays", ("_connections", "_layers", "_delays")),
    Subject("neurons", "Neurons", ("neurons",)),
    Subject("modifiers", "Modifiers", ("modifiers",)),
    Subject("surrogate", "Surrogate gradients", ("surrogate",)),
    Subject("trees", "Trees", ("_tree",)),
    Subject("modules", "Modules", ("_functionalize",), "Between pure steps and `torch.nn.Module`, both ways."),
    Subject("data", "Data, losses, metrics", ("encode", "recordings", "targets", "losses", "metrics", "quant")),
    Subject("learning", "Learning online", ("learning",)),
    Subject("platforms", "Platforms", ("platforms",)),
    Subject("nir", "NIR", ("nir",)),
    Subject("snn", "snnTorch's interface", ("snn",)),
    Subject(
        "train", "The training command", ("train", "data", "plot"), "What `python -m snn_functional train` is made of."
    ),
]
PACKAGE = "snn_functional"
ORDER = "Which goes inside which"  # of what a room's docstring says this stands beside its README
OWN = {"Leaf": "_tree", "Spike": "surrogate"}  # types, which do not know where they were made
OF_FACES = ("functional", "spikegen", "spikeplot", "utils", "backprop", "export_nir", "import_nir")


def home(name: str, value: Any, room: Any) -> str:
    """The file in which a public name is defined, within the package."""
    if name in OWN:
        return OWN[name]
    if isinstance(value, snf.Neuron):
        value = value.step
    module = getattr(value, "__module__", None)
    if not isinstance(module, str) or not module.startswith(PACKAGE):  # numbers and dictionaries
        holders = [m for m in sys.modules if m.startswith(room.__name__ + ".") and name in vars(sys.modules[m])]
        module = max(holders, key=lambda m: m.count("."), default=room.__name__)
    return module.removeprefix(PACKAGE + ".")


def public() -> dict[str, tuple[Any, str]]:
    """Every public name as a user writes it, `scan`, `encode.rate`, `snn.utils.reset`; its value and the file in which it is defined."""
    found = {}
    for name in dir(snf):
        value = getattr(snf, name)
        if not isinstance(value, types.ModuleType):
            found[name] = (value, home(name, value, snf))
        elif name not in ("neurons", "modifiers"):  # whose names are all at the top
            for inner in names_of(value):
                thing = getattr(value, inner)
                if not isinstance(thing, types.ModuleType):
                    found[f"{name}.{inner}"] = (thing, name)
    for room in OF_FACES:
        module = getattr(snf.snn, room)
        found |= {f"snn.{room}.{name}": (vars(module)[name], "snn") for name in names_of(module)}
    return found


def names_of(room: Any) -> list[str]:
    """A room's public names: those that it says, else the functions and classes that are defined in it."""
    if hasattr(room, "__all__"):
        return list(room.__all__)
    own = lambda value: str(getattr(value, "__module__", "")).startswith(room.__name__)
    made = lambda value: inspect.isroutine(value) or inspect.isclass(value)
    return [name for name, value in vars(room).items() if not name.startswith("_") and made(value) and own(value)]


def pages(readme: Callable[[str, str], str | None]) -> dict[str, str]:
    """The reference, by path. `readme`: the README of a room as it stands on a page, which that then begins with.

    Raises LookupError for public names that would be on no page, and for names without a docstring.
    """
    names = public()
    placed: dict[str, list[str]] = {subject.page: [] for subject in SUBJECTS}
    for name, (_, where) in names.items():
        subject = next(
            (s for s in SUBJECTS if any(where == room or where.startswith(room + ".") for room in s.rooms)), None
        )
        if subject is None:
            raise LookupError(f"{name} is public and defined in {where}, which is on no page of docs/_reference.py.")
        placed[subject.page].append(name)
    silent = [name for name, (value, _) in names.items() if undocumented(value)]
    if silent:
        raise LookupError(f"public names without a docstring: {', '.join(silent)}")
    made = {"reference/index.md": _index(placed, names)}
    targets = {name: f"{page}.md#{name}" for page, on_page in placed.items() for name in on_page}
    for subject in filter(lambda subject: placed[subject.page], SUBJECTS):
        write, at = _neurons if subject.page == "neurons" else _page, f"reference/{subject.page}.md"
        head = (text := readme(subject.rooms[0], at)) and _shortened(subject.title, text)
        text = write(subject, [(name, *names[name]) for name in placed[subject.page]], head)
        made[at] = _linked(text, targets)
    return made


def _shortened(title: str, readme: str) -> str:
    """A room's README as the head of its page: of its tables what each thing is and when to use it. Equations and params, which are below
    in full, are left out with the paragraph that explains how they are written."""
    parts = [part for part in re.split(r"\n{2,}", readme) if not part.startswith("# ")]
    made = [f"# {title}"]
    for part in parts:
        lines = part.splitlines()
        if len(lines) > 1 and re.fullmatch(r"[|\s:-]+", lines[1]):
            cells = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in lines]
            if len(cells[0]) > 2:
                named = [
                    re.sub(r"^ (\w+) $", r" [\1](#\1) ", row[0]) if i > 1 else row[0] for i, row in enumerate(cells)
                ]
                lines = [f"|{name}|{row[-1]}|" for name, row in zip(named, cells)]
                if len(made) > 2:
                    made.pop()
        made.append("\n".join(lines))
    return "\n\n".join(made)


def _linked(text: str, targets: dict[str, str]) -> str:
    """Names of ours between backticks as links, where no field or word of torch's is called so."""
    pieces = re.split(r"(^```.*?^```$|^#.*$|\[`[^`]+`\]\([^)]*\))", text, flags=re.M | re.S)
    sure = {name for name in targets if "." in name or "_" in name or name[0].isupper()}

    def link(match: re.Match[str]) -> str:
        return f"[{match[0]}]({targets[match[1]]})" if match[1] in sure else match[0]

    return "".join(piece if i % 2 else re.sub(r"`([\w.]+)`", link, piece) for i, piece in enumerate(pieces))


def undocumented(value: Any) -> bool:
    """Has it no docstring, or one that Python made up?"""
    if not (inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, snf.Neuron)):
        return False  # numbers and dictionaries are shown
    doc = (value.__doc__ or "").strip()
    return not doc or doc.startswith(f"{getattr(value, '__name__', '')}(")


def _index(placed: dict[str, list[str]], names: dict[str, tuple[Any, str]]) -> str:
    parts = [
        "# Reference",
        "Every public name of the library, made from its docstrings; `help(snf.leaky)` shows the same.",
    ]
    for subject in filter(lambda subject: placed[subject.page], SUBJECTS):
        rows = [
            f"| [`{name}`]({subject.page}.md#{name}) | {cell(about(name, names[name][0]))} |"
            for name in placed[subject.page]
        ]
        parts += [f"## [{subject.title}]({subject.page}.md)", "\n".join(["| | |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def about(name: str, value: Any) -> str:
    """A line about it."""
    if isinstance(value, snf.Neuron) and value.step.__module__.startswith(f"{PACKAGE}.neurons"):
        return first_line(value.__doc__)
    if hasattr(value, "__leaves__") and inspect.isclass(value):
        return f"fields: {', '.join(value.__leaves__ + value.__choices__)}"
    if name.endswith("_step") and inspect.isfunction(value) and not name.startswith("learning."):
        return f"one time step of `{name.removesuffix('_step')}`"
    if undocumented(value) or not (inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, snf.Neuron)):
        return f"{len(value)} entries" if isinstance(value, dict) else OTHER.get(name, repr(value))
    return first_line(value.__doc__)


OTHER = {
    "Leaf": "The type of a field of a `@pytree` that is a number of the tree, `beta: snf.Leaf`: built from a Python number or a "
    "tensor, kept as a floating tensor, () or one number for each neuron. It is what transforms, optimisers and `tree_map` see; every "
    "other field is a choice, a part of the tree's structure. `leaf(default=...)` gives it a default.",
    "surrogate.Spike": "The type of a surrogate: any function of a tensor that gives spikes of its shape.",
}


def _page(subject: Subject, things: list[tuple[str, Any, str]], head: str | None) -> str:
    parts = [head or f"# {subject.title}"]
    if subject.says:
        parts.append(subject.says)
    things = sorted(things, key=lambda thing: _rank(subject, *thing))
    room = None
    for name, value, where in things:
        top = where.split(".")[0]
        if top != room and not top.startswith("_"):
            room = top
            if len(subject.rooms) > 1:
                parts.append(f"## {room} {{ #{room} .room }}")
            doc = _written(sys.modules[f"{PACKAGE}.{room}"])
            if head and ORDER in doc:
                doc = doc[doc.index(ORDER) :]
            parts.append(markdown(doc))
        parts += entry(name, value)
    return "\n\n".join(parts) + "\n"


def _rank(subject: Subject, name: str, value: Any, where: str) -> tuple[Any, ...]:
    """As the files have it: by room, file and line."""
    module = sys.modules.get(getattr(value, "__module__", ""), sys.modules[f"{PACKAGE}.{where}"])
    names = list(vars(module))
    short = name.rpartition(".")[2]
    tree = subject.page == "modifiers" and hasattr(value, "__leaves__")  # behind what it belongs to
    line = names.index(short) if short in names else -1
    return subject.rooms.index(where.split(".")[0]), name.count("."), module.__name__, tree, line


def _written(room: Any) -> str:
    """A room's docstring as it stands in its file, without the lines that a table of the page has."""
    return ast.get_docstring(ast.parse(Path(room.__file__).read_text())) or ""


def _neurons(subject: Subject, things: list[tuple[str, Any, str]], head: str | None) -> str:
    """A table, then each neuron with what its file makes public."""
    neurons = {where: name for name, value, where in things if isinstance(value, snf.Neuron)}
    rows = [f"| [`{name}`](#{name}) | {cell(first_line(getattr(snf, name).__doc__))} |" for name in neurons.values()]
    parts = (
        [head]
        if head
        else [
            f"# {subject.title}",
            "Each is a [`Neuron`](networks.md#Neuron): `leaky.init(params, xs[0])`, `leaky.step(params, state, x)`, and a layer of a "
            "[`chain`](networks.md#chain).",
            "\n".join(["| neuron | |", "|---|---|", *rows]),
        ]
    )
    for where, name in neurons.items():
        parts += [f"## {name} {{ #{name} }}", markdown(sys.modules[f"{PACKAGE}.{where}"].__doc__)]
        of_file = [(n, value) for n, value, place in things if place == where and n != name]
        rank = lambda thing: (not inspect.isclass(thing[1]), inspect.isclass(thing[1]) and thing[0].endswith("State"))
        for other, value in sorted(of_file, key=rank):
            parts += entry(other, value, "###")
    return "\n\n".join(parts) + "\n"


def entry(name: str, value: Any, heading: str = "##") -> list[str]:
    """One name: its heading, which is a link's target, its signature, and what its docstring says."""
    parts = [f"{heading} {escaped(name)} {{ #{name} }}"]
    short = name.rpartition(".")[2]
    if isinstance(value, snf.Neuron):
        trees = [tree for tree in (value.Params, value.State) if hasattr(tree, "__leaves__")]
        made = ", ".join(f"`{tree.__name__}`" for tree in trees)
        return [*parts, f"A `Neuron`{f' of {made}' if made else ''}.", markdown(inspect.getdoc(value.step))]
    if inspect.isclass(value) and hasattr(value, "__leaves__"):
        return [*parts, *tree_of(value)]
    if inspect.isclass(value) or inspect.isroutine(value):
        doc = inspect.getdoc(value)
        head = sys.modules[value.__module__].__doc__ if short.endswith("_step") else None
        if head and (value.__doc__ or "").startswith(head.rstrip()):
            doc = value.__doc__[len(head.rstrip()) :].strip()
        return [*parts, fenced(signature(short, value), "py"), markdown(doc), *methods(value)]
    if isinstance(value, dict):
        return [*parts, fenced("\n".join(f"{key!r}: {entries!r}" for key, entries in value.items()), "text")]
    return [*parts, OTHER.get(name, f"`{value!r}`")]


def methods(value: Any) -> list[str]:
    """The public methods and properties of a class of ours that say something."""
    if not inspect.isclass(value) or issubclass(value, tuple):
        return []
    found = []
    for name, part in vars(value).items():
        function = part.fget if isinstance(part, property) else getattr(part, "__func__", part)
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
            call = name if isinstance(part, property) else signature(name, function)
            found.append(f"`.{' '.join(call.split())}`\n:   {escaped(first_line(function.__doc__))}")
    return found


def tree_of(tree: Any) -> list[str]:
    """A `@pytree` class: its fields, what each is built from when it is not given, and what it means."""
    rest, said = fields(tree.__doc__)
    rows = []
    for field in dataclasses.fields(tree):
        default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        choices = field.metadata.get("choices")
        kind = "choice" if field.metadata.get("static") else "leaf"
        meaning = said.get(field.name, "")
        if choices and not all(str(choice) in meaning for choice in choices):
            meaning += f" One of {', '.join(map(repr, choices))}."
        rows.append(f"| `{field.name}` | {cell(default)} | {kind} | {cell(meaning)} |")
    table = "\n".join(["| field | default | | |", "|---|---|---|---|", *rows])
    return [markdown(rest), table] if rest else [table]


def signature(name: str, value: Any) -> str:
    """A call, with one argument a line where it is long. Types without the modules in which they are defined."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return f"{name}(...)"
    arguments = [_plain(str(parameter)) for parameter in found.parameters.values()]
    kinds = [parameter.kind for parameter in found.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        arguments.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    back = (
        ""
        if found.return_annotation is found.empty or inspect.isclass(value)
        else " -> " + _plain(inspect.formatannotation(found.return_annotation))
    )
    line = f"{name}({', '.join(arguments)}){back}"
    if len(line) <= 88:
        return line
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), f"){back}"])


def _plain(text: str) -> str:
    text = re.sub(r"typing\.Annotated\[torch\.Tensor, '[^']*'\]", "Leaf", text)
    text = re.sub(r"<(?:class|function) '?([\w.]+)'?[^>]*>", r"\1", text)
    text = re.sub(r"<\S+ object at [^>]*>", "...", text)
    text = re.sub(r"~(?=[A-Z])", "", re.sub(r"'([A-Z]\w+)'(?=$|,|\])", r"\1", text))
    return re.sub(r"\b(?:snn_functional|torch|typing|collections|optree)(?:\.\w+)*\.(?=[A-Za-z_]+)", "", text)
