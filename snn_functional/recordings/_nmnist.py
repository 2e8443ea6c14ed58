"""N-MNIST (Orchard et al. 2015, doi:10.3389/fnins.2015.00437): digits before a moving event camera of 34 x 34 pixels.

Five bytes an event: x; y; polarity in the highest bit and t[22:16]; t[15:8]; t[7:0], in microseconds. A y of 240 is no event: the
clock went over, and all that follows is 2^13 later.
"""

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import torch

from ._events import admit, Events, Recording, within


SIZE = (34, 34, 2)
CLASSES = 10
OVERFLOW, LATER = 240, 2**13
MOST_BYTES = 10_000_000  # of one recording; the longest has 0.05

_LAYOUT = (
    "expected Train/0/*.bin to Test/9/*.bin as its makers publish it, or N.bs2 beside two lists, train*.txt and test*.txt, of "
    "lines `N CLASS`"
)
_AGAIN = "take the file from its source again, or take it out"

Files = dict[str, Callable[[], bytes]]


def read_nmnist(path: str | Path) -> tuple[list[Recording], list[Recording]]:
    """The training and the test recordings of N-MNIST, or of a part of it, in a folder or a .zip.

    - as its makers publish it: `Train/CLASS/NAME.bin` and `Test/CLASS/NAME.bin`, or `Train.zip` and `Test.zip` in a folder;
    - as SLAYER's and other programs' small sets: `N.bs2` beside `train*.txt` and `test*.txt`, lists of lines `N CLASS`.

    The events' x and y are from 0 to 33, p is 0 or 1, t is in microseconds. Nothing is given of a set of which a part is damaged.

    Raises FileNotFoundError; and ValueError, which names the file and the place, for an archive or a recording that is damaged, cut
    off, empty, or of another format, for events outside the sensor or back in time, for recordings without a label.
    """
    path = Path(path)
    files = _files(path)
    lists = {part: [name for name in files if _is_list(name, part)] for part in ("train", "test")}
    if not any(lists.values()):
        return _by_folder(path, files)
    for part, names in lists.items():
        if len(names) != 1:
            raise ValueError(f"{path}: {len(names)} lists are called {part}*.txt; {_LAYOUT}")
    train, test = (_by_list(path, files, lists[part][0]) for part in ("train", "test"))
    if both := {r.name for r in train} & {r.name for r in test}:
        raise ValueError(
            f"{min(both)} is in both lists, {lists['train'][0]} and {lists['test'][0]}; expected it in one"
        )
    return train, test


def events_of(content: bytes, where: str) -> Events:
    """One file's events. Raises ValueError, which begins with `where`."""
    if not content:
        raise ValueError(f"{where}: the file is empty; {_AGAIN}")
    if len(content) % 5:
        raise ValueError(
            f"{where}: {len(content)} bytes are not five an event: cut off after event {len(content) // 5}, or no N-MNIST recording; "
            f"{_AGAIN}"
        )
    x, y, high, middle, low = torch.frombuffer(bytearray(content), dtype=torch.uint8).long().view(-1, 5).unbind(1)
    over = y == OVERFLOW
    t = ((high & 127) << 16 | middle << 8 | low) + LATER * over.cumsum(0)
    events = Events(x[~over], y[~over], t[~over], (high >> 7)[~over])
    within(events, SIZE, where)
    admit(events, where)
    small = torch.uint8  # 60,000 recordings are 250 million events
    return Events(events.x.to(small), y[~over].to(small), events.t.int(), (high >> 7)[~over].to(small))


def _files(path: Path) -> Files:
    """Each file's name, with / between folders, and how to read it."""
    if path.is_dir():
        names = [p for p in sorted(path.rglob("*")) if p.suffix in (".bin", ".bs2", ".txt")]
        files: Files = {p.relative_to(path).as_posix(): p.read_bytes for p in names}
        for part in ("Train.zip", "Test.zip"):
            if (path / part).is_file():
                files |= _archive(path / part)
        return files or _lone_archive(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; {_LAYOUT}, in a folder or a .zip")
    return _archive(path)


def _lone_archive(path: Path) -> Files:
    found = sorted(path.glob("*.zip"))
    if len(found) != 1:
        raise FileNotFoundError(f"{path} holds no N-MNIST: {_LAYOUT}, in a folder or a .zip")
    return _archive(found[0])


def _archive(path: Path) -> Files:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # whatever a damaged list of contents makes of Python's reader
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path} is not a whole .zip file ({_one_line(error)}); {_AGAIN}") from error

    def read(entry: zipfile.ZipInfo) -> bytes:
        try:
            if entry.file_size > MOST_BYTES:
                raise ValueError(f"{entry.file_size} bytes are more than a recording of N-MNIST has")
            return archive.read(entry)
        except Exception as error:
            raise ValueError(f"{path}: {entry.filename} cannot be read ({_one_line(error)}); {_AGAIN}") from error

    return {entry.filename: lambda entry=entry: read(entry) for entry in archive.infolist() if _regular(entry)}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _regular(entry: zipfile.ZipInfo) -> bool:
    return not entry.is_dir() and stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)


def _is_list(name: str, part: str) -> bool:
    file = PurePosixPath(name)
    return file.suffix == ".txt" and file.name.lower().startswith(part)


def _by_list(path: Path, files: Files, name: str) -> list[Recording]:
    """The recordings that a list names, which are beside it."""
    labels: dict[str, int] = {}
    text = files[name]().decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"{path}: {name} line {number}"
        if len(words) != 2 or not _is_name(words[0]) or words[1] not in map(str, range(CLASSES)):
            raise ValueError(
                f"{where}: {line.strip()[:40]!r}; expected a recording's name and its class, 0 to {CLASSES - 1}"
            )
        if labels.setdefault(words[0], int(words[1])) != int(words[1]):
            raise ValueError(
                f"{where}: {words[0]} has the class {labels[words[0]]} already; expected one label a recording"
            )
    if not labels:
        raise ValueError(f"{path}: {name} names no recording; expected lines `N CLASS`")
    recordings = []
    for stem, label in labels.items():
        file = str(PurePosixPath(name).with_name(f"{stem}.bs2"))
        if file not in files:
            raise ValueError(f"{path}: {file} is not there, but {name} names it; {_AGAIN} of the list")
        recordings.append(_recording(path, files, file, label))
    return recordings


def _is_name(word: str) -> bool:
    return word.isprintable() and "/" not in word and "\\" not in word


def _by_folder(path: Path, files: Files) -> tuple[list[Recording], list[Recording]]:
    """The recordings in folders that are called as their class."""
    parts: dict[str, list[Recording]] = {"train": [], "test": []}
    lost = None
    for name in files:
        *_, part, label, _ = ("", "", *PurePosixPath(name).parts)
        if not name.endswith((".bin", ".bs2")):
            continue
        if part.lower() in parts and len(label) == 1 and label in "0123456789":
            parts[part.lower()].append(_recording(path, files, name, int(label)))
        else:
            lost = lost or name
    if lost is not None:
        raise ValueError(
            f"{path}: {lost} has no label: it is in no folder of its class and there is no list; {_LAYOUT}"
        )
    for part, recordings in parts.items():
        if not recordings:
            raise ValueError(f"{path} holds no {part} recordings of N-MNIST; {_LAYOUT}")
    return parts["train"], parts["test"]


def _recording(path: Path, files: Files, name: str, label: int) -> Recording:
    where = f"{path}: {name}"
    return Recording(events_of(files[name](), where), label, where)
