"""A stricter world than the users': warnings are errors (pyproject), one thread, seeds, and fresh memory full of NaN.

Where there is a GPU, `SNN_DEVICE=cuda python -m pytest tests/test_neurons.py tests/test_transforms.py` makes every tensor there that a
test makes. Those that draw from a generator on the CPU, or look for NaN at the door, fail there: numbers on a GPU are not read.
"""

import os

import pytest
import torch


torch.set_num_threads(int(os.environ.get("SNN_THREADS", "1")))
if device := os.environ.get("SNN_DEVICE"):
    torch.set_default_device(device)


def pytest_collectstart(collector):
    """A module that draws while it is imported draws the same numbers, whatever is collected before it."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
