"""Boxes of a memory-mapped array, read from its file: what is touched of a mapping counts as memory of the process.

A read through the mapping may bring in megabytes around every stretch, so boxes are read with `preadv`, a stretch at a
time. The file is found by the address in `/proc/self/maps` (where there is none, the mapping is used as it is).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_mapped"]

_STRETCH = 1 << 14  # bytes from which a stretch is read by itself
_SPAN = 1 << 22  # bytes that are read at a time where the stretches are shorter


@dataclass(frozen=True, slots=True)
class _Place:
    """A file and where in it an array begins."""

    path: Path
    offset: int


def read_mapped(array: np.ndarray[Any, Any], where: Sequence[slice]) -> np.ndarray[Any, Any] | None:
    """A box of a mapped array, as a copy; None where the array is no shared mapping of a file, or lies in it in steps.

    Args:
        array: of any kind.
        where: one slice for each axis, with plain starts and stops.

    Example:
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(folder + "/x.npy", np.arange(12).reshape(3, 4))
        ...     x = np.load(folder + "/x.npy", mmap_mode="r")
        ...     box = read_mapped(x, (slice(1, 3), slice(2, 4)))
        >>> box is None or box.tolist() == [[6, 7], [10, 11]]
        True
    """
    if not isinstance(array, np.memmap):
        return None
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    turned = array.transpose(order)
    if not turned.flags.c_contiguous:
        return None
    place = _place(turned)
    if place is None:
        return None
    box = _read(place, turned.shape, turned.dtype, [where[axis] for axis in order])
    return box.transpose(np.argsort(order))


def _place(array: np.ndarray[Any, Any]) -> _Place | None:
    address = array.__array_interface__["data"][0]
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                span, access, offset, device, inode, *path = line.split(maxsplit=5)
                first, last = (int(end, 16) for end in span.split("-"))
                if first <= address < last:
                    if access[3] != "s" or not path or address + array.nbytes > last:
                        return None
                    file = Path(path[0].rstrip("\n"))
                    seen = file.stat()
                    major, minor = (int(part, 16) for part in device.split(":"))
                    same = seen.st_ino == int(inode) and seen.st_dev == os.makedev(major, minor)
                    return _Place(file, int(offset, 16) + address - first) if same else None
    except OSError:
        return None
    return None


def _read(place: _Place, shape: Sequence[int], dtype: np.dtype[Any], where: Sequence[slice]) -> np.ndarray[Any, Any]:
    """A box of a C-ordered array in a file: full rows of one axis at a time, cut to the box in the axes after it."""
    box = np.empty([part.stop - part.start for part in where], dtype)
    inner = [prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape))]  # bytes of one index
    cut = [axis for axis, n in enumerate(shape) if box.shape[axis] < n]
    axis = max(cut, default=0)
    if box.shape[axis] * inner[axis] < _STRETCH:
        axis = max((k for k in range(axis) if inner[k] >= _STRETCH), default=0)
    rows = max(1, _SPAN // inner[axis])
    if axis == max(cut, default=0):
        rows = box.shape[axis]
    after = tuple(where[axis + 1 :])
    with place.path.open("rb", buffering=0) as stream:
        for index in product(*(range(n) for n in box.shape[:axis])):
            start = place.offset + sum((where[k].start + i) * inner[k] for k, i in enumerate(index))
            for row in range(0, box.shape[axis], rows):
                part = box[tuple(index)][row : row + rows]
                whole = part if part[:1].nbytes == inner[axis] else np.empty((len(part), *shape[axis + 1 :]), dtype)
                _fill(stream.fileno(), whole, start + (where[axis].start + row) * inner[axis])
                if whole is not part:
                    part[...] = whole[(slice(None), *after)]
    return box


def _fill(file: int, into: np.ndarray[Any, Any], offset: int) -> None:
    """Read until the array is full."""
    view = memoryview(into.reshape(-1).view(np.uint8).data)
    while len(view):
        got = os.preadv(file, [view], offset)
        if got == 0:
            raise OSError("the file is shorter than the array that is mapped from it")
        view, offset = view[got:], offset + got
