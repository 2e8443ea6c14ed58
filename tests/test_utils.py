"""utils: what a dataset is divided into. (reset and state_dict are tested with the faces.)"""

import copy
import types

import numpy as np
import pytest
import torch
from helpers import law
from hypothesis import given, strategies as st

from snn_functional.snn.utils import data_subset, valid_split


KINDS = {"tensor": torch.arange, "array": np.arange, "list": lambda n: list(range(n))}


class Dataset:
    def __init__(self, n, data="tensor", targets="tensor"):
        self.data, self.targets = KINDS[data](n), KINDS[targets](n)
        self.root = "some/path"

    def __len__(self):
        return len(self.data)


def numbers(values):
    return [int(v) for v in values]


kinds = st.sampled_from(list(KINDS))


@law
@given(st.data(), kinds, kinds)
def test_a_subset_is_one_of_equal_parts(data, kind, other):
    n = data.draw(st.integers(1, 50))
    subset = data.draw(st.integers(1, n))
    parts = [data_subset(Dataset(n, kind, other), subset, idx) for idx in range(subset)]
    kept = [i for part in parts for i in numbers(part.data)]
    assert all(len(part) == n // subset for part in parts) and kept == list(range(n - n % subset))
    for part in parts:
        assert numbers(part.targets) == numbers(part.data)
        assert type(part.data) is type(KINDS[kind](n)) and type(part.targets) is type(KINDS[other](n))
        assert part.root == "some/path"


@law
@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 1000), kinds, kinds)
def test_a_split_is_a_partition(n, split, seed, kind, other):
    given = Dataset(n, kind, other), Dataset(3)
    train, val = valid_split(*given, split, seed)
    assert (train, val) == given
    assert len(val) == int(n * split) and len(train) == n - len(val)
    assert sorted(numbers(train.data) + numbers(val.data)) == list(range(n))
    assert numbers(val.data) == sorted(numbers(val.data))
    for part in (train, val):
        assert numbers(part.targets) == numbers(part.data)
        assert type(part.data) is type(KINDS[kind](n)) and type(part.targets) is type(KINDS[other](n))


def test_the_seed_alone_decides():
    split = lambda seed: numbers(valid_split(Dataset(40), Dataset(40), 0.25, seed)[0].data)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert split(1) == split(1) != split(2)
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


def test_it_is_snntorchs_choice():
    # snntorch 1.0.0: utils.valid_split(train, val, 0.3) of ten samples
    train, val = valid_split(Dataset(10), Dataset(10), 0.3)
    assert numbers(train.data) == np.random.default_rng(0).choice(10, 7, replace=False).tolist()
    assert numbers(val.data) == sorted(set(range(10)) - set(numbers(train.data)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_dataset_is_cut_but_what_it_held_is_not_touched(kind):
    """Scripts call it for what it does to the dataset, and for what it returns."""
    dataset = Dataset(10, kind, kind)
    held = dataset.data, dataset.targets
    before = copy.deepcopy(held)
    assert data_subset(dataset, 2) is dataset and len(dataset) == 5
    dataset.data[0] = 99
    assert [numbers(v) for v in held] == [numbers(v) for v in before]
    whole = Dataset(10)
    held = whole.data
    assert data_subset(whole, 1).data is held


bare = types.SimpleNamespace(data=[1, 2])


@pytest.mark.parametrize(
    "call, error, says",
    [
        (
            lambda: data_subset(bare, 2),
            TypeError,
            "`data` and `targets`.*SimpleNamespace lacks one. .*Subset or random_split",
        ),
        (lambda: data_subset(Dataset(9), 10), ValueError, "subset=10, idx=0.*9 samples make 1 to 9 parts"),
        (lambda: data_subset(Dataset(9), 0), ValueError, "subset=0"),
        (lambda: data_subset(Dataset(9), 3, 3), ValueError, "idx=3"),
        (lambda: data_subset(Dataset(9), 3, -1), ValueError, "idx=-1"),
        (lambda: data_subset(Dataset(9), 2.0), TypeError, "subset=2.0, idx=0.*integers"),
        (lambda: valid_split(bare, Dataset(2), 0.5), TypeError, "SimpleNamespace lacks one"),
        (lambda: valid_split(Dataset(9), Dataset(9), 1.5), ValueError, r"split=1.5.*between 0 and 1"),
        (lambda: valid_split(Dataset(9), Dataset(9), float("nan")), ValueError, "split=nan"),
        (lambda: (lambda ds: valid_split(ds, ds, 0.5))(Dataset(9)), ValueError, "are one object"),
    ],
)
def test_refuses(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_refuses_targets_of_another_number_and_leaves_the_dataset():
    dataset = Dataset(9)
    dataset.targets = dataset.targets[:8]
    for call in (lambda: data_subset(dataset, 3), lambda: valid_split(dataset, Dataset(9), 0.5)):
        with pytest.raises(ValueError, match="9 data, but 8 targets"):
            call()
    assert len(dataset.data) == 9 and len(dataset.targets) == 8
