"""A stricter world than the users': warnings are errors (pyproject), one thread, seeds, and fresh memory full of NaN.

Kernels are built once a run, for all its processes, and quickly: with the same numbers, but not to be fast. A test that is about what
the compiler makes of them asks for the fixture `optimized`.

Where there is a GPU, `SNN_DEVICE=cuda python -m pytest tests/test_neurons.py tests/test_transforms.py` makes every tensor there that a
test makes. Those that draw from a generator on the CPU, or look for NaN at the door, fail there: numbers on a GPU are not read.
"""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from snn_functional import _folder, _identity
from snn_functional._scan import _known
from snn_functional.kernels import _cache, _kernels


CACHE = "snn_functional-tests-"  # how the name of a run's folder of kernels begins

torch.set_num_threads(int(os.environ.get("SNN_THREADS", "1")))
if device := os.environ.get("SNN_DEVICE"):
    torch.set_default_device(device)


def pytest_configure(config):
    """One folder of kernels for this run, which the processes that it starts inherit, unless the user has named one."""
    os.environ.setdefault("SNN_FUNCTIONAL_OPTIMIZE", "0")
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # for programs that tests start: two threads that wait take twice the time
    if "SNN_FUNCTIONAL_CACHE" not in os.environ:
        folder = tempfile.mkdtemp(prefix=CACHE)
        os.environ["SNN_FUNCTIONAL_CACHE"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        _cache.sweep(Path(folder).parent, CACHE)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The quick set: of every test its first case, unless it is marked as slow, or as long."""
    seen = set()
    for item in items:
        name = item.nodeid.partition("[")[0]
        if name not in seen and not any(item.get_closest_marker(mark) for mark in ("slow", "long")):
            item.add_marker("quick")
        seen.add(name)


def pytest_collection_finish():
    """What is there before the first test stays: the collector, which some tests call, need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()


def pytest_collectstart(collector):
    """A module that draws while it is imported draws the same numbers, whatever is collected before it."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def optimized(monkeypatch):
    """Kernels are those that users get. What was built before is not known."""
    monkeypatch.delenv("SNN_FUNCTIONAL_OPTIMIZE")
    monkeypatch.setattr(_kernels, "_kernels", _identity.Registry(1000))
    monkeypatch.setattr(_known, "_known", _identity.Registry(1000))


@pytest.fixture
def unseen(monkeypatch):
    """No pictures, which take most of the time of a tiny run."""
    monkeypatch.setattr(_folder, "save_pictures", lambda *args: None)


def _largest(dtype):
    return True if dtype == torch.bool else torch.iinfo(dtype).max


@pytest.fixture(autouse=True)
def _nan_filled_memory(monkeypatch):
    """`torch.empty` and its kin give NaN (or the largest integer), so that an output nobody wrote cannot pass;
    a kernel's scratch, which is bytes, is NaN too."""

    def filled(make):
        def wrapper(*args, **kwargs):
            out = make(*args, **kwargs)
            if type(out) is torch.Tensor and out.device.type in ("cpu", "cuda") and out.numel():
                out.fill_(float("nan") if out.dtype.is_floating_point or out.dtype.is_complex else _largest(out.dtype))
            return out

        return wrapper

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, filled(getattr(torch, name)))
