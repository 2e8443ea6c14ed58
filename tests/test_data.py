"""Each data set is what it says, and what is not there says how to get it."""

import gzip
import re
import sys
from importlib.machinery import PathFinder

import numpy
import pytest
import torch

from snn_functional import data


def idx(values):
    values = torch.as_tensor(values, dtype=torch.uint8)
    shape = b"".join(n.to_bytes(4, "big") for n in values.shape)
    return bytes([0, 0, 8, values.dim()]) + shape + bytes(values.flatten().tolist())


@pytest.fixture
def idx_folder(tmp_path):
    """Four IDX files of 3 and 2 images 4x5, one of them plain, the others .gz."""
    for part, n in (("train", 3), ("t10k", 2)):
        images = torch.arange(n * 20).reshape(n, 4, 5) + 100
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(range(n))))
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(gzip.decompress(labels.with_suffix(".gz").read_bytes()))
    labels.with_suffix(".gz").unlink()
    return tmp_path


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data set of the system, and no aeon or sktime."""
    monkeypatch.delenv("SNN_DATA", raising=False)
    monkeypatch.setattr(data, "SYSTEM", str(tmp_path / "none"))
    monkeypatch.setattr(data, "find_spec", lambda name: None)


def test_digits():
    train, test, classes = data.load("digits")
    assert train.x.shape == (1437, 64) and test.x.shape == (360, 64) and classes == 10
    for x, y, lengths in (train, test):
        assert x.dtype is torch.float32 and y.dtype is torch.int64 and lengths is None
        assert x.min() == 0 and x.max() == 1 and x.is_contiguous()
    assert (test.y.bincount() - 36).abs().max() <= 1


def test_digits_are_split_always_alike_and_apart():
    train, test, _ = data.digits()
    again = data.digits()
    assert torch.equal(test.x, again.test.x) and torch.equal(train.y, again.train.y)
    assert test.y[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]  # this very split, whatever scikit-learn does next
    rows = lambda samples: {tuple(row) for row in samples.x.tolist()}
    assert not rows(train) & rows(test) and len(rows(train) | rows(test)) == 1797


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install scikit-learn.*pip install 'snn-functional\[demo\]'"):
        data.load("digits")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("by", ["root", "environment", "folder of its name"])
def test_idx_images(name, by, idx_folder, monkeypatch, nowhere):
    root = idx_folder
    if by == "environment":
        monkeypatch.setenv("SNN_DATA", str(idx_folder))
        root = None
    if by == "folder of its name":
        root = idx_folder / "above"
        root.mkdir()
        (root / name).symlink_to(idx_folder)
    train, test, classes = data.load(name, root)
    assert train.x.shape == (3, 20) and test.x.shape == (2, 20) and classes == 10
    assert torch.equal(train.x[1] * 255, torch.arange(20.0) + 120)
    assert train.y.tolist() == [0, 1, 2] and test.y.tolist() == [0, 1] and test.y.dtype is torch.int64


def test_the_systems_fashion_mnist_where_it_is(monkeypatch):
    monkeypatch.delenv("SNN_DATA", raising=False)
    try:
        train, test, _ = data.load("fashion-mnist")
    except FileNotFoundError:
        pytest.skip("needs Debian's dataset-fashion-mnist")
    assert train.x.shape == (60000, 784) and test.x.shape == (10000, 784)
    assert train.y.bincount().tolist() == [6000] * 10 and test.y.bincount().tolist() == [1000] * 10


def test_idx_images_that_are_not_there(nowhere, tmp_path):
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        data.load("fashion-mnist")
    with pytest.raises(FileNotFoundError, match="not in .*empty.*--root.*SNN_DATA") as error:
        data.load("mnist", tmp_path / "empty")
    assert "apt-get" not in str(error.value)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "not an IDX file"),
        (b"GIF89a", "begins with 47 49 46 38"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 5]), "not an IDX file of bytes"),
        (idx([1, 2, 3])[:-1], r"declares \[3\] bytes, 3 in all, but holds 2"),
        (idx([1, 2, 3]) + b"x", "but holds 4"),
    ],
)
def test_idx_refuses_what_is_none(content, says, idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        data.load("mnist", idx_folder)


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("train-labels-idx1-ubyte.gz", idx([0, 10, 1]), "train holds the label 10; mnist has the classes 0 to 9"),
        ("t10k-labels-idx1-ubyte", idx([0, 200]), "t10k holds the label 200"),
        ("train-labels-idx1-ubyte.gz", idx([[0], [1], [2]]), "declares 2 axes; expected 1"),
        ("train-images-idx3-ubyte.gz", idx([1, 2, 3]), "declares 1 axes; expected 3"),
        ("train-images-idx3-ubyte.gz", bytes([0, 0, 8, 0, 5]), "declares 0 axes; expected 3"),
        ("train-images-idx3-ubyte.gz", bytes([0, 0, 8, 255]) + b"\xff" * 1020, "declares 255 axes; expected 3"),
        ("train-images-idx3-ubyte.gz", idx(torch.zeros(0, 4, 5)), "nothing is in it; expected at least one sample"),
        ("t10k-images-idx3-ubyte.gz", idx(torch.zeros(2, 0, 5)), "nothing is in it"),
        ("t10k-images-idx3-ubyte.gz", bytes([0, 0, 8, 3, 0, 0, 0, 0]) + b"\xff" * 8, "nothing is in it"),
        ("t10k-images-idx3-ubyte.gz", idx(torch.zeros(2, 4, 4)), "have 20 pixels but t10k images 16"),
    ],
)
def test_idx_refuses_files_that_do_not_go_together(name, content, says, idx_folder):
    (idx_folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(ValueError, match=says):
        data.load("mnist", idx_folder)


def test_idx_notices_every_changed_bit_of_a_gz(idx_folder):
    """Or the bit is one of the archive's own notes, its date say, and the images are the same."""
    path = idx_folder / "train-images-idx3-ubyte.gz"
    whole, right = path.read_bytes(), data.load("mnist", idx_folder).train.x
    refused = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            assert torch.equal(data.load("mnist", idx_folder).train.x, right)
        except ValueError as error:
            refused += 1
            assert "not a whole .gz file" in str(error)
    assert refused > len(whole) - 10


def test_idx_refuses_a_broken_gz_and_parts_that_differ(idx_folder):
    path = idx_folder / "train-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    for broken in (whole[:-3], b"no gzip at all"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="not a whole .gz"):
            data.load("mnist", idx_folder)
    path.write_bytes(gzip.compress(idx([1, 2])))
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        data.load("mnist", idx_folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="train-labels-idx1-ubyte"):
        data.load("mnist", idx_folder)


TRAIN = "# a comment\n@problemName X\n@data\n1,2,3:0,0,6:b\n5,6:7,8:a\n"
TEST = "@data\n\n1:2:a\n"


@pytest.mark.parametrize("package", ["aeon", "sktime"])
def test_vowels(package, nowhere, monkeypatch, tmp_path):
    folder = tmp_path / package / "datasets" / "data" / "JapaneseVowels"
    folder.mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('not to be imported')")
    (folder / "JapaneseVowels_TRAIN.ts").write_text(TRAIN)
    (folder / "JapaneseVowels_TEST.ts").write_text(TEST)
    monkeypatch.setattr(data, "find_spec", lambda name: PathFinder.find_spec(name, [str(tmp_path)]))
    train, test, classes = data.load("vowels")
    assert classes == 2 and train.y.tolist() == [1, 0] and test.y.tolist() == [0]
    assert train.lengths.tolist() == [3, 2] and test.lengths.tolist() == [1]
    assert train.x.shape == (2, 3, 2) and test.x.shape == (1, 3, 2)
    assert not train.x[1, 2:].any() and not test.x[0, 1:].any()
    steps = torch.cat([train.x[0, :3], train.x[1, :2]])
    torch.testing.assert_close(steps.mean(0), torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(steps.std(0), torch.ones(2))
    raw = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 6.0], [5.0, 7.0], [6.0, 8.0]])
    torch.testing.assert_close(steps, (raw - raw.mean(0)) / raw.std(0))
    torch.testing.assert_close(test.x[0, 0], (torch.tensor([1.0, 2.0]) - raw.mean(0)) / raw.std(0))


@pytest.mark.parametrize(
    "train, test",
    [
        ("", TEST),
        ("@data\n1,2:x,y:b\n", TEST),
        ("@data\n1,2,3:4,5:b\n", TEST),
        (TRAIN, "@data\n1:2:c\n"),
        (TRAIN, "@data\n1:2:3:a\n"),
        (TRAIN.replace("7,8", "7,nan"), TEST),
        ("@data\n1,1,1:0,0,6:b\n1,1:7,8:a\n", TEST),
    ],
)
def test_vowels_that_are_damaged(train, test, tmp_path):
    (tmp_path / "JapaneseVowels_TRAIN.ts").write_text(train)
    (tmp_path / "JapaneseVowels_TEST.ts").write_text(test)
    with pytest.raises(
        ValueError,
        match=f"^{re.escape(str(tmp_path))} (does not hold the two files that aeon ships|holds NaN or infinity)",
    ):
        data._vowels_from(tmp_path)


def test_vowels_that_are_not_there(nowhere):
    with pytest.raises(FileNotFoundError, match="pip install --no-deps aeon"):
        data.load("vowels")


def test_the_real_vowels_where_they_are():
    try:
        train, test, classes = data.load("vowels")
    except FileNotFoundError:
        pytest.skip("needs aeon or sktime")
    assert train.x.shape == (270, 29, 12) and test.x.shape == (370, 29, 12) and classes == 9
    assert train.lengths.min() == 7 and test.lengths.max() == 29


ARRAYS = dict(
    x_train=numpy.random.default_rng(0).random((6, 2, 3), "float32"),
    y_train=numpy.array([0, 1, 2, 0, 1, 2]),
    x_test=numpy.zeros((2, 2, 3), "uint8") + 51,
    y_test=numpy.array([3, 1], "uint8"),
)
LENGTHS = dict(lengths_train=numpy.array([1, 2, 1, 2, 1, 2]), lengths_test=numpy.array([2, 1]))


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        numpy.savez(tmp_path / "mine.npz", **arrays)
        return str(tmp_path / "mine.npz")

    return save


def test_npz_images(save):
    train, test, classes = data.load(save(**ARRAYS))
    assert train.x.shape == (6, 6) and test.x.shape == (2, 6) and classes == 4 and train.lengths is None
    torch.testing.assert_close(test.x, torch.full((2, 6), 0.2))
    assert torch.equal(train.x[2], torch.from_numpy(ARRAYS["x_train"][2]).flatten()) and test.y.tolist() == [3, 1]


@pytest.mark.parametrize("dtype", ["float16", ">f4", "longdouble", "float64"])
def test_npz_floats_of_any_kind(dtype, save):
    x = (ARRAYS["x_train"] * 64).round() / 64
    train, _, _ = data.load(save(**{**ARRAYS, "x_train": x.astype(dtype), "y_train": ARRAYS["y_train"].astype(">i2")}))
    assert torch.equal(train.x, torch.from_numpy(x).flatten(1)) and train.y.tolist() == [0, 1, 2, 0, 1, 2]


def test_npz_of_few_samples_of_many_classes_that_holds_other_things_too(save):
    more = dict(names=numpy.array([None, "cat"]), y_train=ARRAYS["y_train"] + 997)
    train, _, classes = data.load(save(**{**ARRAYS, **more}))
    assert classes == 1000 and train.y.max() == 999


def test_npz_sequences(save):
    train, test, _ = data.load(save(**ARRAYS, **LENGTHS))
    assert (
        train.x.shape == (6, 2, 3) and train.lengths.tolist() == [1, 2, 1, 2, 1, 2] and test.lengths.tolist() == [2, 1]
    )


@pytest.mark.parametrize(
    "change, says",
    [
        ({"y_train": None}, r"lacks y_train: numpy.savez\("),
        ({"x_train": ARRAYS["y_train"]}, "x_train is int64; expected a floating type or uint8"),
        ({"x_train": ARRAYS["x_train"][:, 0, 0]}, r"x_train has shape \[6\]"),
        ({"x_train": ARRAYS["x_train"][:0], "y_train": ARRAYS["y_train"][:0]}, "at least one sample"),
        ({"x_train": ARRAYS["x_train"] * float("nan")}, "NaN"),
        ({"y_train": ARRAYS["y_train"][:5]}, r"y_train is int64 \[5\]; expected \[6\] integers"),
        ({"y_train": ARRAYS["y_train"] / 2}, "y_train is float64"),
        ({"y_test": numpy.array([0, -1])}, "y_test holds labels of -1 to 0; expected integers from 0"),
        ({"y_test": numpy.array([0, 2**63 + 5], "uint64")}, "y_test holds labels of 0 to 9223372036854775813"),
        ({"y_test": numpy.array([0, 2**63 - 1])}, "the label 9223372036854775807 makes 9223372036854775808 classes"),
        (
            {"y_train": numpy.arange(6) * 10**9},
            "5000000000 makes 5000000001 classes of 8 samples; expected labels that count",
        ),
        ({"x_train": numpy.full((6, 2, 3), 1e300)}, "a number that float32 cannot hold"),
        ({"x_train": numpy.zeros((6, 2, 3), [("a", "f4")])}, "expected a floating type"),
        ({"y_train": numpy.array(3)}, r"y_train is int64 \[\]"),
        ({"x_test": ARRAYS["x_test"][:, :1]}, r"x_train \[6, 6\] and x_test \[2, 3\]"),
        ({"lengths_train": LENGTHS["lengths_train"]}, "need lengths_train and lengths_test"),
        ({**LENGTHS, "lengths_test": numpy.array([3, 1])}, "integers of 1 to 2"),
        ({**LENGTHS, "lengths_test": numpy.array([0, 1])}, "integers of 1 to 2"),
        ({**LENGTHS, "x_train": ARRAYS["x_train"][:, 0]}, r"expected sequences, \[N, T, features\]"),
        ({"y_train": numpy.array([None] * 6)}, "cannot be read.*pickle"),
    ],
)
def test_npz_refuses(change, says, save):
    with pytest.raises(ValueError, match=says):
        data.load(save(**{name: array for name, array in {**ARRAYS, **change}.items() if array is not None}))


def test_npz_that_is_not_there_or_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mine.npz is not there: numpy.savez\("):
        data.load(str(tmp_path / "mine.npz"))
    (tmp_path / "mine.npz").write_bytes(b"text")
    with pytest.raises(ValueError, match="cannot be read as an .npz file"):
        data.load(str(tmp_path / "mine.npz"))


def test_an_unknown_name():
    with pytest.raises(
        ValueError, match="no data set is called 'cifar'.*digits, fashion-mnist, mnist, nmnist, shd, vowels.*npz"
    ):
        data.load("cifar")


def test_moving_keeps_what_is_not_there():
    moved = data.digits().to(torch.device("meta"))
    assert moved.train.x.device.type == "meta" and moved.test.y.device.type == "meta" and moved.train.lengths is None
