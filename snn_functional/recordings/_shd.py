"""SHD and SSC (Cramer et al. 2022, doi:10.1109/TNNLS.2020.3044364): spoken digits and commands as spikes of 700 cochlear units.

HDF5: `spikes/times` (seconds) and `spikes/units`, an array a recording, and `labels`.
"""

import importlib
from pathlib import Path
from typing import Any

import torch

from ._events import admit, Recording, within


UNITS = 700
_AGAIN = "take the file from its source again"


def read_shd(path: str | Path) -> list[Recording]:
    """The recordings in one of the HDF5 files of SHD or SSC, `shd_train.h5` say: events of t, in seconds, and x, the unit, 0 to 699.

    Nothing is given of a file of which a part is damaged.

    Raises ImportError without h5py; FileNotFoundError; and ValueError, which names the file and the recording, for what is no HDF5
    file, is cut off, has no spikes or labels in it, spikes of other units or spikes that go back in time.
    """
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError(f"{path}: reading HDF5 takes h5py: pip install 'snn-functional[events]'") from error
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; expected an HDF5 file of SHD or SSC, as shd_train.h5")
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in ("spikes/times", "spikes/units", "labels") if not _is_data(h5py, file, name)]
            if missing:
                raise ValueError(
                    f"{path} lacks {', '.join(missing)}; expected spikes/times, spikes/units and labels of SHD or SSC"
                )
            times, units, labels = file["spikes/times"][()], file["spikes/units"][()], file["labels"][()]
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a whole HDF5 file ({error}); {_AGAIN}") from error
    if not len(times) == len(units) == len(labels) > 0 or labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(
            f"{path}: {len(times)} spikes/times, {len(units)} spikes/units and {len(labels)} labels ({labels.dtype}); expected as many "
            "of each, and whole numbers as labels"
        )
    return [_recording(f"{path}: recording {i}", *each) for i, each in enumerate(zip(times, units, labels))]


def _is_data(h5py: Any, file: Any, name: str) -> bool:
    return name in file and isinstance(file[name], h5py.Dataset) and len(file[name].shape) >= 1


def _recording(where: str, times: Any, units: Any, label: Any) -> Recording:
    events = admit({"x": units, "t": times}, where)
    within(events, (UNITS,), where)
    if events.t[0] < 0:
        raise ValueError(f"{where}: the first spike is at {events.t[0].item()} s; expected times from 0 on")
    if label < 0:
        raise ValueError(f"{where} has the label {label}; expected a class, counted from 0")
    return Recording(events._replace(t=events.t.to(torch.float64)), int(label), where)
