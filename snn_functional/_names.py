"""What is shown of a room, `__all__`, `dir()` and a docstring with a line for each thing that it holds, and of a thing with parts, a table.

Rooms re-export by `import x as x`, which type checkers read; at run time that leaves helpers and files among the names. So each room ends
with `show(globals())`.
"""

import inspect
import types
from collections.abc import Iterable, Sequence
from typing import Any


def show(room: dict[str, Any], *names: str, hide: Iterable[str] = ()) -> None:
    """Gives the room of these globals its `__dir__`, and its `__all__` where it has none: `names`, which may be modules, and all else that
    begins with no underscore, but for modules, for what a room of one file has from elsewhere, and for what is to `hide`."""
    hidden = {"Any", "TYPE_CHECKING", *hide}
    one_file = "__path__" not in room
    public = {
        name
        for name, value in room.items()
        if not name.startswith("_") and name not in hidden and not isinstance(value, types.ModuleType)
        if not one_file or getattr(value, "__module__", room["__name__"]) == room["__name__"]
    }
    room.setdefault("__all__", sorted({*public, *names}, key=str.lower))
    room["__dir__"] = lambda: [*room["__all__"]]


def with_lines(doc: str | None, lines: dict[str, str | None]) -> str | None:
    """A room's docstring, and behind it a line for each name. None where Python leaves docstrings out."""
    if doc is None:
        return None
    wide = max(map(len, lines))
    return "\n".join(
        [doc.rstrip(), "", *(f"    {name:{wide}}  {first_line(text)}" for name, text in lines.items()), ""]
    )


def columns(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Lines in which the cells of a column are equally wide, two spaces apart. `right`: columns of numbers."""
    wide = [max(map(len, column)) for column in zip(*rows)]
    fit = lambda i, cell: cell.rjust(wide[i]) if i in right else cell.ljust(wide[i])
    return ["  ".join(fit(i, cell) for i, cell in enumerate(row)).rstrip() for row in rows]


class Shown(type):
    """A metaclass: `help` and `dir` of the class show what it does, and none of what a dataclass or `object` adds to it."""

    def __dir__(cls) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("__") or name in ("__call__", "__doc__")]


def first_line(doc: str | None) -> str:
    """The first sentence of a docstring, or its first paragraph where that is one."""
    paragraph = " ".join(inspect.cleandoc(doc or "").partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".:") + "."
