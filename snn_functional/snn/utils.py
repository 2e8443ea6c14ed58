"""`snntorch.utils`, scoped to the network it is given: nothing here reaches another one. And its two divisions of a dataset."""

from typing import Any

import torch
from torch import nn, Tensor

from .._functionalize._has_state import layers
from ._stateful import Stateful


def reset(net: nn.Module) -> None:
    """Forget the hidden states of every neuron layer in `net`, nested ones too; other networks keep theirs.

    Call it between batches: a state that goes on belongs to the graph of the steps before it, and once their backward is done, the next
    one raises "Trying to backward through the graph a second time". To go on from the state without its graph: `face.detach_hidden()`.

    snnTorch 1.0.0 looks at direct children only, and then resets all layers of that class, whoever's.
    """
    for layer in _layers(net).values():
        layer.reset_hidden()


def state_dict(net: nn.Module) -> dict[str, Tensor]:
    """`net.state_dict()` with the running hidden states beside it, under `<layer>.mem`, `<layer>.syn`, ...

    `net.load_state_dict(saved)` restores both, and the network goes on bit for bit:

        torch.save(snn.utils.state_dict(net), path)
        net.load_state_dict(torch.load(path, weights_only=True))
    """
    saved: dict[str, Any] = dict(net.state_dict())
    for name, layer in _layers(net).items():
        if (state := layer._alive()) is not None:
            for field in layer.neuron.State.__leaves__:
                saved[f"{name}.{field}" if name else field] = getattr(state, field).detach()
    return saved


def data_subset(dataset: Any, subset: int, idx: int = 0) -> Any:
    """Part `idx` of the `subset` equal parts of a dataset: its `data` and `targets`, from `idx * (N // subset)` on.

        mnist_train = snn.utils.data_subset(mnist_train, 10)        60000 samples -> the first 6000

    As in snnTorch, whose scripts count on it, the dataset itself is cut and returned: its two attributes are replaced. What they
    held (tensors, arrays or, as in CIFAR10's targets, lists) is left as it was. The N % subset last samples are in no part.

    Raises TypeError for a dataset without `data` and `targets` and for a `subset` or `idx` that is no integer, ValueError for parts
    that would be empty and for an idx outside 0 ... subset - 1.
    """
    data, targets = _held(dataset, "data_subset(dataset, subset)")
    n = len(data)
    if not all(isinstance(number, int) for number in (subset, idx)):
        raise TypeError(
            f"data_subset(dataset, subset={subset!r}, idx={idx!r}): both are integers, as in subset=10, idx=0."
        )
    if not (1 <= subset <= max(n, 1) and 0 <= idx < subset):
        raise ValueError(
            f"data_subset(dataset, subset={subset}, idx={idx}): {n} samples make 1 to {n} parts that are not empty, numbered from 0."
        )
    if subset > 1:
        part = range(n // subset * idx, n // subset * (idx + 1))
        dataset.data, dataset.targets = _take(data, part), _take(targets, part)
    return dataset


def valid_split(ds_train: Any, ds_val: Any, split: float, seed: int = 0) -> tuple[Any, Any]:
    """Move the share `split` of ds_train's samples, chosen at random by `seed`, into ds_val, whose own samples are replaced.

        mnist_train, mnist_val = snn.utils.valid_split(mnist_train, mnist_val, 0.1)     60000 -> 54000 and 6000

    As in snnTorch, both datasets themselves are changed and returned: their `data` and `targets` are replaced. The choice and the
    order are snnTorch's: `numpy.random.default_rng(seed).choice` for training, the others in their order for validation.

    Raises TypeError for a dataset without `data` and `targets`, ValueError for a split outside [0, 1] and for one object given
    twice.
    """
    import numpy as np

    call = "valid_split(ds_train, ds_val, split)"
    data, targets = _held(ds_train, call)
    if ds_val is ds_train:
        raise ValueError(f"{call}: ds_train and ds_val are one object; make two datasets, or copy.copy(ds_train).")
    if not 0 <= split <= 1:
        raise ValueError(f"valid_split(ds_train, ds_val, split={split}): expected a share between 0 and 1, as in 0.1.")
    n = len(data)
    train = np.random.default_rng(seed=seed).choice(n, size=n - int(n * split), replace=False)
    rest = np.ones(n, dtype=bool)
    rest[train] = False
    train, val = train.tolist(), rest.nonzero()[0].tolist()
    ds_val.data, ds_val.targets = _take(data, val), _take(targets, val)
    ds_train.data, ds_train.targets = _take(data, train), _take(targets, train)
    return ds_train, ds_val


def _held(dataset: Any, call: str) -> tuple[Any, Any]:
    try:
        data, targets = dataset.data, dataset.targets
    except AttributeError:
        raise TypeError(
            f"{call} divides a dataset's attributes `data` and `targets`, as torchvision's MNIST has them; "
            f"{type(dataset).__name__} lacks one. Any dataset is divided by torch.utils.data.Subset or random_split."
        ) from None
    if len(data) != len(targets):
        raise ValueError(f"{call}: {len(data)} data, but {len(targets)} targets.")
    return data, targets


def _take(values: Any, indices: Any) -> Any:
    """A copy of the values there. A tensor or an array takes a list of indices itself."""
    if isinstance(values, (list, tuple)):
        return type(values)(values[i] for i in indices)
    if isinstance(values, Tensor):
        return values[torch.tensor(list(indices), dtype=torch.int64, device=values.device)]
    return values[list(indices)]


def _layers(net: nn.Module) -> dict[str, Stateful]:
    return layers(net, Stateful)
