"""Data sets to train on: real, small, and read from where a package put them. Nothing is downloaded.

    digits           1797 images 8x8, 10 digits           inside scikit-learn
    fashion-mnist    70000 images 28x28, 10 garments      Debian's dataset-fashion-mnist, or IDX files of your own
    mnist            70000 images 28x28, 10 digits        IDX files of your own
    vowels           640 spoken vowels, 7 to 29 steps     inside aeon or sktime
    nmnist           digits as an event camera sees them  N-MNIST or a part of it, a folder or a .zip of your own
    shd              spoken digits as spikes              HDF5 files of your own
    FILE.npz         images or sequences of your own

    train, test, classes = load("digits")

What is not there raises FileNotFoundError (or ImportError for a missing reader) with the command that installs it.
"""

import gzip
import math
import os
import warnings
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._files import memory
from ._names import show as _show
from ._tree import tree_map
from .recordings import channels, frames, OneFrame, read_nmnist, read_shd, Recording
from .recordings._nmnist import SIZE as NMNIST
from .recordings._shd import UNITS as SHD_UNITS


SYSTEM = "/usr/share/datasets"

MOST_CLASSES = 10_000  # where the samples are fewer; a label far above their number is an identifier, not a count


class Samples(NamedTuple):
    """- `x`: images, [N, pixels], or sequences, [N, T, features], padded with zeros at the end. Floating; counts of events uint8.
    - `y`: the class of each, [N]. int64.
    - `lengths`: time steps of each sequence, [N], int64; None for images.
    """

    x: Tensor
    y: Tensor
    lengths: Tensor | None = None


class _Parts(NamedTuple):
    train: Samples
    test: Samples
    classes: int


class Dataset(_Parts):
    """`train, test, classes = dataset`: two sets of samples without a common one, and how many classes `y` counts.

    - `image`: what the pixels or features of a step are, (channels, height, width); None where they are no image.
    """

    image: tuple[int, int, int] | None

    def __new__(
        cls, train: Samples, test: Samples, classes: int, image: tuple[int, int, int] | None = None
    ) -> "Dataset":
        self = super().__new__(cls, train, test, classes)
        self.image = image
        return self

    def to(self, device: torch.device) -> "Dataset":
        """The same, on that device."""
        train, test = tree_map(lambda leaf: leaf.to(device), (self.train, self.test))
        return Dataset(train, test, self.classes, self.image)


def load(name: str, root: str | Path | None = None, window: float | None = None) -> Dataset:
    """The data set of that name, or the `.npz` file at that path. `root`: where the IDX files of the MNIST family lie, the
    recordings of nmnist or the HDF5 files of shd. `window`: of these, the milliseconds of a time step (default: 10).

    Raises ValueError for an unknown name; FileNotFoundError or ImportError for data that is not installed.
    """
    if not name.endswith(".npz") and name not in NAMES:
        raise ValueError(f"no data set is called {name!r}: give {', '.join(NAMES)}, or the path of an .npz file")
    if name in RECORDED:
        return NAMES[name](place_of(name, root), WINDOW if window is None else window)
    if window is not None:
        raise ValueError(f"{name} holds no recorded events, which a window divides into steps: leave it out")
    return npz(name) if name.endswith(".npz") else NAMES[name](root)


def digits() -> Dataset:
    """scikit-learn's `load_digits`, intensities in [0, 1]. Test: 360 of them, the same always, drawn class by class.

    The split is `train_test_split(..., test_size=0.2, random_state=0, stratify=y)`.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            "digits is part of scikit-learn, which is not installed: "
            "pip install scikit-learn (or pip install 'snn-functional[demo]')"
        ) from error
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x / 16, y, test_size=0.2, random_state=0, stratify=y)
    x_train, x_test, y_train, y_test = map(torch.from_numpy, parts)
    return Dataset(Samples(x_train.float(), y_train.long()), Samples(x_test.float(), y_test.long()), 10, (1, 8, 8))


def idx_images(name: str, package: str | None, root: str | Path | None = None) -> Dataset:
    """The MNIST family, intensities in [0, 1]: four IDX files, plain or .gz, split by their makers.

    They are looked for in `root`, else in the environment's SNN_DATA, else where the Debian `package` puts them;
    in each also in a folder called `name`.
    """
    system = f"{SYSTEM}/{name}" if package else None
    places = [root] if root is not None else list(filter(None, [os.environ.get("SNN_DATA"), system]))
    folders = [folder for place in places for folder in (Path(place), Path(place, name))]
    found = [folder for folder in folders if _idx_file(folder, "train-images-idx3-ubyte")]
    if not found:
        install = f"apt-get install {package}, or " if package else ""
        looked = f" (not in {', '.join(map(str, places))})" if places else ""
        raise FileNotFoundError(
            f"{name} is not here{looked}: {install}give the folder of its four IDX files, "
            f"train-images-idx3-ubyte.gz and so on, as --root or in the environment's SNN_DATA"
        )

    def samples(part: str) -> tuple[Samples, Any]:
        x, y = (
            read_idx(found[0], f"{part}-{kind}-ubyte", axes) for kind, axes in (("images-idx3", 3), ("labels-idx1", 1))
        )
        if len(x) != len(y):
            raise ValueError(f"{found[0]}: {part} holds {len(x)} images but {len(y)} labels")
        if y.max() > 9:
            raise ValueError(f"{found[0]}: {part} holds the label {int(y.max())}; {name} has the classes 0 to 9")
        return Samples(x.flatten(1).float() / 255, y.long()), (1, *x.shape[1:])

    (train, image), (test, _) = samples("train"), samples("t10k")
    if train.x.shape[1:] != test.x.shape[1:]:
        raise ValueError(
            f"{found[0]}: train images have {train.x.shape[1]} pixels but t10k images {test.x.shape[1]}; expected one size"
        )
    return Dataset(train, test, 10, image)


def read_idx(folder: Path, name: str, axes: int) -> Tensor:
    """One IDX file of bytes, `name` or `name.gz`, as a uint8 tensor of the shape it declares, which has so many axes.

    The format: 0, 0, 8 (unsigned bytes), the number of axes, each axis' length in 4 bytes, then the data.

    Raises OSError, and ValueError for a file that is damaged, empty, or not so.
    """
    path = _idx_file(folder, name)
    if path is None:
        raise FileNotFoundError(f"{folder} holds no {name}, plain or .gz")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole .gz file: {error}") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise ValueError(
            f"{path} is not an IDX file of bytes: it begins with {data[:4].hex(' ')}, expected 00 00 08 and axes"
        )
    if data[3] != axes:
        raise ValueError(f"{path} declares {data[3]} axes; expected {axes}")
    start = 4 + 4 * axes
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if len(data) - start != math.prod(shape):
        raise ValueError(f"{path} declares {shape} bytes, {math.prod(shape)} in all, but holds {len(data) - start}")
    if len(data) == start:
        raise ValueError(f"{path} declares {shape}: nothing is in it; expected at least one sample")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)[start:].reshape(shape)


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def vowels() -> Dataset:
    """JapaneseVowels: nine men say /ae/; 12 LPC cepstrum coefficients a step, 7 to 29 steps; who is it? 270 + 370 samples.

    The .ts files that aeon and sktime ship are read as they are, neither package is imported. Each coefficient is scaled to mean
    0 and variance 1 over the training steps. Padded with zeros to 29 steps; `lengths` says where each ends.

    Source: Kudo, Toyama & Shimbo 1999, Pattern Recognition Letters 20; by its makers split into train and test.
    """
    for package in ("aeon", "sktime"):
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            folder = Path(place, "datasets", "data", "JapaneseVowels")
            if (folder / "JapaneseVowels_TRAIN.ts").is_file():
                return _vowels_from(folder)
    raise FileNotFoundError("vowels is part of aeon (or of sktime), which is not installed: pip install --no-deps aeon")


def _vowels_from(folder: Path) -> Dataset:
    try:
        dataset = _read_vowels(folder)
        right = all(bool(part.x.isfinite().all()) for part in (dataset.train, dataset.test))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} does not hold the two files that aeon ships: {error}") from error
    if not right:
        raise ValueError(f"{folder} holds NaN or infinity, or a coefficient that is always the same")
    return dataset


def _read_vowels(folder: Path) -> Dataset:
    train, test = (_read_ts(folder / f"JapaneseVowels_{part}.ts") for part in ("TRAIN", "TEST"))
    mean, std = torch.cat(train[0]).mean(0), torch.cat(train[0]).std(0)
    names = sorted(set(train[1]))
    steps = max(len(x) for x in train[0] + test[0])

    def samples(xs: list[Tensor], labels: list[str]) -> Samples:
        padded = torch.stack([torch.cat([(x - mean) / std, x.new_zeros(steps - len(x), x.shape[1])]) for x in xs])
        return Samples(padded, torch.tensor([names.index(y) for y in labels]), torch.tensor([len(x) for x in xs]))

    return Dataset(samples(*train), samples(*test), len(names))


def _read_ts(path: Path) -> tuple[list[Tensor], list[str]]:
    """After a head of # and @ lines, one sequence a line: its features, each `value,value,...`, and its label, between colons."""
    xs, labels = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and line[0] not in "#@":
            *features, label = line.strip().split(":")
            xs.append(torch.tensor([[float(value) for value in feature.split(",")] for feature in features]).T)
            labels.append(label)
    return xs, labels


def npz(path: str | Path) -> Dataset:
    """Your own: `numpy.savez(path, x_train=, y_train=, x_test=, y_test=)`.

    - images: x [N, ...], flattened; floating in [0, 1], or uint8, which is divided by 255.
    - sequences: x [N, T, features], floating, with two more arrays, `lengths_train` and `lengths_test`, [N] of 1 to T.
    - y [N], integers that count classes from 0.

    Raises FileNotFoundError, and ValueError for a file that is not so.
    """
    try:
        import numpy
    except ImportError as error:
        raise ImportError(f"{path}: reading .npz takes numpy: pip install 'snn-functional[demo]'") from error
    try:
        with numpy.load(path) as file:
            names = [f"{name}_{part}" for name in ("x", "y", "lengths") for part in ("train", "test")]
            arrays = {name: file[name] for name in names if name in file.files}
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is not there: numpy.savez(path, x_train=, y_train=, x_test=, y_test=)"
        ) from None
    except Exception as error:
        raise ValueError(f"{path} cannot be read as an .npz file: {error}") from error
    missing = [name for name in ("x_train", "y_train", "x_test", "y_test") if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: numpy.savez(path, x_train=, y_train=, x_test=, y_test=)")
    train, test = (_npz_samples(path, arrays, part) for part in ("train", "test"))
    if train.x.shape[1:] != test.x.shape[1:] or (train.lengths is None) != (test.lengths is None):
        raise ValueError(
            f"{path}: x_train {list(train.x.shape)} and x_test {list(test.x.shape)} are not of one kind and size; "
            "sequences need lengths_train and lengths_test"
        )
    classes, samples = int(max(train.y.max(), test.y.max())) + 1, len(train.y) + len(test.y)
    if classes > max(samples, MOST_CLASSES):
        raise ValueError(
            f"{path}: the label {classes - 1} makes {classes} classes of {samples} samples; expected labels that count the "
            "classes from 0, as numpy.unique(numpy.concatenate([y_train, y_test]), return_inverse=True)[1] does"
        )
    x = arrays["x_train"]
    image = (
        None if train.lengths is not None or not 3 <= x.ndim <= 4 else x.shape[1:] if x.ndim == 4 else (1, *x.shape[1:])
    )
    return Dataset(train, test, classes, image)


def _npz_samples(path: str | Path, arrays: dict[str, Any], part: str) -> Samples:
    import numpy

    x, y, lengths = (arrays.get(f"{name}_{part}") for name in ("x", "y", "lengths"))
    assert x is not None and y is not None

    def expect(right: bool, what: str) -> None:
        if not right:
            raise ValueError(f"{path}: {what}")

    expect(x.dtype.kind == "f" or x.dtype == "uint8", f"x_{part} is {x.dtype}; expected a floating type or uint8")
    expect(x.ndim >= 2 and x.size > 0, f"x_{part} has shape {list(x.shape)}; expected [N, ...], at least one sample")
    expect(
        y.shape == x.shape[:1] and y.dtype.kind in "iu",
        f"y_{part} is {y.dtype} {list(y.shape)}; expected {list(x.shape[:1])} integers from 0",
    )
    expect(
        0 <= y.min() and y.max() < 2**63, f"y_{part} holds labels of {y.min()} to {y.max()}; expected integers from 0"
    )
    with numpy.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused
        values = torch.from_numpy(x.astype("float32")) / (255 if x.dtype == "uint8" else 1)
    expect(bool(values.isfinite().all()), f"x_{part} holds NaN or infinity, or a number that float32 cannot hold")
    labels = torch.from_numpy(y.astype("int64"))
    if lengths is None:
        return Samples(values.flatten(1), labels)
    expect(x.ndim == 3, f"x_{part} has shape {list(x.shape)} and lengths_{part}; expected sequences, [N, T, features]")
    expect(
        lengths.shape == y.shape and lengths.dtype.kind in "iu" and 1 <= lengths.min() <= lengths.max() <= x.shape[1],
        f"lengths_{part} is {lengths.dtype} {list(lengths.shape)}; expected {list(y.shape)} integers of 1 to {x.shape[1]}",
    )
    return Samples(values, labels, torch.from_numpy(lengths.astype("int64")))


def nmnist(path: str | Path, window: float) -> Dataset:
    """N-MNIST as `recordings.read_nmnist` finds it: the events of each pixel and polarity in every `window` ms, [N, T, 2 34 34]."""
    train, test = read_nmnist(path)
    to_frames = lambda each, where: frames(
        each.events, window=window * 1000, size=NMNIST, dtype=torch.uint8, where=where
    )
    return _recorded(train, test, to_frames, window * 1000, (NMNIST[2], NMNIST[1], NMNIST[0]))


def shd(folder: str | Path, window: float) -> Dataset:
    """The spikes of each of 700 units in every `window` ms, [N, T, 700], of `shd_train.h5` and `shd_test.h5`, or ssc_."""
    paths = [[Path(folder, f"{name}_{part}.h5") for part in ("train", "test")] for name in ("shd", "ssc")]
    found = next((pair for pair in paths if any(path.is_file() for path in pair)), None)
    if found is None:
        raise FileNotFoundError(f"{folder} holds no shd_train.h5 and shd_test.h5; give the folder of both as --root")
    train, test = (read_shd(path) for path in found)
    to_counts = lambda each, where: channels(
        each.events.t, each.events.x, window / 1000, SHD_UNITS, dtype=torch.uint8, where=where
    )
    return _recorded(train, test, to_counts, window / 1000, None, SHD_UNITS)


def _recorded(
    train: list[Recording],
    test: list[Recording],
    counts: Callable[[Recording, str], Tensor],
    window: float,
    image: tuple[int, int, int] | None,
    features: int = 0,
) -> Dataset:
    """Counts, padded to the longest of all."""
    features = math.prod(image) if image else features
    steps = max(float(each.events.t[-1]) / window + 2 for each in train + test)
    if (needs := steps * features * (len(train) + len(test))) > (has := memory()):
        raise ValueError(
            f"{len(train) + len(test)} recordings of up to {steps:.0f} steps take {needs / 1e9:.0f} GB, and this machine has "
            f"{has / 1e9:.0f} GB; give a longer --window"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OneFrame)  # of a few; of many it is refused
        both = [[counts(each, each.name).flatten(1) for each in part] for part in (train, test)]
    short = sum(len(x) == 1 for xs in both for x in xs)
    if 2 * short > len(train) + len(test):
        many = f"{short} of {len(train) + len(test)} recordings become one time step"
        raise ValueError(f"{many}; --window is in milliseconds, {WINDOW:g} by default: give a shorter one")
    longest = max(len(x) for xs in both for x in xs)

    def padded(xs: list[Tensor], recordings: list[Recording]) -> Samples:
        x = torch.zeros(len(xs), longest, features, dtype=torch.uint8)
        for row, each in zip(x, xs):
            row[: len(each)] = each
        return Samples(x, torch.tensor([each.label for each in recordings]), torch.tensor([len(each) for each in xs]))

    classes = 1 + max(each.label for each in train + test)
    if classes > max(len(train) + len(test), MOST_CLASSES):
        where = max(train + test, key=lambda each: each.label).name
        raise ValueError(
            f"{where} has the label {classes - 1}, which makes {classes} classes of {len(train) + len(test)} recordings; expected "
            "labels that count the classes from 0"
        )
    return Dataset(padded(both[0], train), padded(both[1], test), classes, image)


def place_of(name: str, root: str | Path | None) -> Path:
    """Where recordings are: `root`, or else the environment's SNN_DATA, or what is called `name` or `name.zip` there."""
    place = root if root is not None else os.environ.get("SNN_DATA")
    if not place:
        raise FileNotFoundError(
            f"{name} is not here: give the folder or the file of its recordings as --root, or in SNN_DATA"
        )
    found = [path for path in (Path(place, name), Path(place, f"{name}.zip")) if path.exists()]
    return found[0] if found else Path(place)


WINDOW = 10.0  # ms
RECORDED = ("nmnist", "shd")
NAMES: dict[str, Callable[..., Dataset]] = {
    "digits": lambda root: digits(),
    "fashion-mnist": lambda root: idx_images("fashion-mnist", "dataset-fashion-mnist", root),
    "mnist": lambda root: idx_images("mnist", None, root),
    "nmnist": nmnist,
    "shd": shd,
    "vowels": lambda root: vowels(),
}


_show(globals(), hide=["MOST_CLASSES", "NAMES", "NMNIST", "place_of", "RECORDED", "SHD_UNITS", "SYSTEM", "WINDOW"])
