"""Recordings in the formats of N-MNIST and SHD, small, and different enough to be told apart."""

import shutil

import numpy


def aer(*events):
    """Events (x, y, t, p) in N-MNIST's five bytes."""
    return b"".join(bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255]) for x, y, t, p in events)


def nmnist(folder, train=24, test=6):
    """Class 1 has its events at the right, class 0 at the left."""
    folder.mkdir()
    random = numpy.random.default_rng(0)
    for name, first, n in (("train", 1, train), ("test", 60001, test)):
        lines = []
        for i in range(first, first + n):
            label, many = i % 2, 400
            t = numpy.sort(random.integers(0, 50_000 + 1000 * (i % 7), many))
            x, y, p = random.integers(17 * label, 17 * label + 17, many), random.integers(0, 34, many), t % 2
            (folder / f"{i}.bs2").write_bytes(aer(*zip(x.tolist(), y.tolist(), t.tolist(), p.tolist())))
            lines.append(f"{i} {label}\n")
        (folder / f"{name}.txt").write_text("#sample #class\n" + "".join(lines))
    return folder


def nmnist_zip(folder):
    """The same as the one file `nmnist.zip` in that folder, for which the page of recordings asks."""
    inside = nmnist(folder / "unpacked")
    shutil.make_archive(str(folder / "nmnist"), "zip", inside)
    shutil.rmtree(inside)


def shd(path, times, units, labels, leave_out=()):
    """An HDF5 file of these; h5py is there."""
    import h5py

    with h5py.File(path, "w") as file:
        for field, values, kind in (("times", times, "float16"), ("units", units, "uint16")):
            if f"spikes/{field}" not in leave_out:
                data = file.create_dataset(f"spikes/{field}", (len(values),), h5py.vlen_dtype(numpy.dtype(kind)))
                for i, value in enumerate(values):
                    data[i] = numpy.array(value, kind)
        if "labels" not in leave_out:
            file["labels"] = numpy.array(labels)
        file["extra/speaker"] = numpy.zeros(len(labels), "u2")
    return path
