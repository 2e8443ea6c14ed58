"""What event cameras and silicon cochleas record, as networks take it: [T, batch, ...].

    train, test = read_nmnist("nmnist.zip")                                   a folder or a .zip: lists of `Recording`
    train = read_shd("shd_train.h5")                                          the same, of an HDF5 file (h5py)
    frames(events, window=10_000, size=(34, 34, 2))                           events -> counts [T, P, H, W]
    channels(times, units, dt=0.01, size=700)                                 events -> counts [T, units]
    xs, y, lengths = batch([(frames, label), ...])                            of different lengths, padded with zeros

Events are fields with names: a structured array of numpy as tonic, expelliarmus and dv-processing give them, a dict of arrays or
tensors, or `Events`. Fields are found by name, whatever their order and types:

    x       column, or unit               y     row; absent where the sensor is a line
    t       time, in any unit             p     polarity, 0 or 1; absent where there is one

`t` may be called ts, timestamp or timestamps, and `p` polarity or pol. Other codecs, downloads, and slicing are tonic's. What is
damaged, outside the sensor, or goes back in time is refused, with the place.
"""

from .._names import show as _show
from ._batch import batch as batch
from ._events import (
    DroppedEvents as DroppedEvents,
    Events as Events,
    ManyFrames as ManyFrames,
    OneFrame as OneFrame,
    Recording as Recording,
)
from ._frames import channels as channels, frames as frames
from ._nmnist import read_nmnist as read_nmnist
from ._shd import read_shd as read_shd


__all__ = [
    "batch",
    "channels",
    "DroppedEvents",
    "Events",
    "frames",
    "ManyFrames",
    "OneFrame",
    "read_nmnist",
    "read_shd",
    "Recording",
]

_show(globals())
