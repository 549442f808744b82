"""Slabs: an array that is read piece by piece, because it does not fit in memory or need not be there.

Anything with `shape`, `dtype` and slices that NumPy can read will do: memory-mapped files, zarr, dask and h5py arrays,
NumPy and torch arrays. Pieces are cut along the way the array is stored: along its chunks where it has chunks, along
the axis with the largest stride where it is one block of memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tnkit.arrays import HALF, as_tensor, check_dense_size, engine_dtype
from tnkit.errors import DataError, DTypeError, MemoryLimitError
from tnkit.sources.base import SOURCE_KINDS, Asked, Source
from tnkit.sources.mapped import read_mapped

__all__ = ["Slabs", "Where"]

#: A box of the array: one slice for each mode.
Where: TypeAlias = tuple[slice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Slabs(Source):
    """An array that is read box by box.

    Attributes:
        array: with `shape`, `dtype` and `array[slices]` that `np.asarray` reads.
        memory_limit: bytes that the work on it may take beside the result; None for no limit.
        factor: every entry is multiplied by this as it is read.

    Raises:
        DataError: a scalar, or an array without entries.
        DTypeError: the values are no numbers.

    Example:
        >>> import numpy as np
        >>> source = Slabs(np.arange(24.0).reshape(4, 6))
        >>> [tuple(source.read(where).shape) for where in source.boxes(12)]
        [(2, 6), (2, 6)]
    """

    array: Any
    memory_limit: int | None = None
    factor: float = 1.0
    kind: ClassVar[str] = "slabs"

    def __post_init__(self) -> None:
        """Refuse what has no entries, or none that are numbers."""
        if not self.shape:
            raise DataError("x is a scalar (0-d). A tensor needs at least one mode; give an array.")
        if 0 in self.shape:
            raise DataError(f"x of shape {self.shape} is empty. Give an array with at least one entry.")
        _torch_dtype(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return tuple(int(n) for n in self.array.shape)

    @property
    def dtype(self) -> torch.dtype:
        """In which it is computed: float32, float64, complex64 or complex128."""
        return _torch_dtype(self.array)

    @property
    def device(self) -> torch.device:
        """Where it is computed: the device of a torch tensor, else the CPU."""
        return self.array.device if isinstance(self.array, Tensor) else torch.device("cpu")

    @classmethod
    def from_dense(cls, x: Tensor) -> Slabs:
        """A tensor in memory, without a limit."""
        return cls(x.detach())

    def scaled(self, factor: float) -> Slabs:
        """The same array times a number."""
        return replace(self, factor=self.factor * factor)

    def read(self, where: Where) -> Tensor:
        """A box of the array, contiguous, in the dtype and on the device of the computation.

        Of a memory-mapped file the box is read from the file itself, so that no page of the mapping is touched.
        """
        if isinstance(self.array, Tensor):
            box = self.array[where].detach().resolve_conj().resolve_neg().to(self.dtype).contiguous()
        else:
            part = read_mapped(self.array, where) if isinstance(self.array, np.memmap) else None
            box = torch.from_numpy(_copied(self.array[where] if part is None else part)).to(self.dtype)
        return box if self.factor == 1.0 else box * self.factor

    def boxes(self, entries: int, whole: Collection[int] = ()) -> Iterator[Where]:
        """The array in boxes, each of at most so many entries where that is possible.

        Args:
            entries: the most that a box should hold.
            whole: axes that are not cut.

        Returns:
            boxes that cover the array once, in the order in which it is stored.
        """
        widths = self.widths(entries, whole)
        cuts = [[slice(i, min(i + w, n)) for i in range(0, n, w)] for n, w in zip(self.shape, widths, strict=True)]
        order = self.order()
        for chosen in product(*(cuts[axis] for axis in order)):
            yield tuple(chosen[order.index(axis)] for axis in range(len(order)))

    def widths(self, entries: int, whole: Collection[int] = ()) -> tuple[int, ...]:
        """The sides of the boxes that `boxes` cuts; more entries than asked for where `whole` leaves no choice."""
        sides = list(self.shape)
        for steps in (self.chunks(), (1,) * len(sides)):
            for axis in self.order():
                if axis in whole or prod(sides) <= entries:
                    continue
                fits = entries * sides[axis] // prod(sides)
                sides[axis] = min(sides[axis], max(fits // steps[axis] * steps[axis], steps[axis]))
        return tuple(sides)

    def order(self) -> list[int]:
        """The axes, the one along which the array is cut best first."""
        grid = [-(-n // c) for n, c in zip(self.shape, self.chunks(), strict=True)]
        strides = _strides(self.array)
        if strides is None:
            return sorted(range(len(grid)), key=lambda axis: (-grid[axis], axis))
        return sorted(range(len(grid)), key=lambda axis: (-abs(strides[axis]), axis))

    def chunks(self) -> tuple[int, ...]:
        """The sides of the chunks in which the array is stored; 1 where it is not in chunks."""
        found = getattr(self.array, "chunks", None)
        if not isinstance(found, Sequence) or len(found) != len(self.shape):
            return (1,) * len(self.shape)
        return tuple(max(1, int(max(c) if isinstance(c, Sequence) else c)) for c in found)


def _copied(part: Any) -> np.ndarray[Any, Any]:
    """A contiguous array with memory of its own, of a dtype that torch knows."""
    array = np.asarray(part)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64, order="C")
    if array.dtype.kind == "c" and array.dtype.itemsize > 16:
        return array.astype(np.complex128, order="C")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        return array.astype(np.float64, order="C")
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=not (array.base is None and array.flags.owndata))


def _strides(array: Any) -> tuple[int, ...] | None:
    """How far apart neighbours lie, of an array that is one block of memory."""
    if isinstance(array, Tensor):
        return tuple(array.stride())
    return tuple(array.strides) if isinstance(array, np.ndarray) else None


def _torch_dtype(array: Any) -> torch.dtype:
    if isinstance(array, Tensor):
        return engine_dtype(array.dtype)
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biufc":
        raise DTypeError(f"x has dtype {dtype}, which is not numeric. Convert it to a type of numbers.")
    if dtype == np.float16:
        return HALF[torch.float16]
    return as_tensor(np.zeros(1, dtype)).tensor.dtype


def _is_array(x: Any) -> bool:
    """Whether it has what `Slabs` needs, and is not sparse."""
    if isinstance(x, Tensor):
        return x.layout == torch.strided
    if isinstance(x, np.ndarray):
        return not isinstance(x, np.ma.MaskedArray)
    has_all = all(hasattr(x, name) for name in ("shape", "dtype", "__getitem__"))
    return has_all and not callable(x) and not hasattr(x, "nnz") and isinstance(x.shape, tuple)


def _read_in_slabs(x: Any, asked: Asked) -> Slabs | None:
    """Any array where a limit is given; without one, arrays that do not fit in memory are refused."""
    if not _is_array(x):
        return None
    if asked.memory_limit is not None:
        return Slabs(x, asked.memory_limit)
    if not isinstance(x, Tensor | np.ndarray) and hasattr(x, "chunks"):
        dtype = _torch_dtype(x)
        try:
            check_dense_size(x.shape, dtype, torch.device("cpu"), what=f"This {type(x).__name__}")
        except MemoryLimitError as error:
            size = str(error).partition(". ")[0]
            raise MemoryLimitError(f'{size}. Say memory_limit="2 GB", or such, to have it read in slabs.') from None
    return None


SOURCE_KINDS.register("slabs", _read_in_slabs)
