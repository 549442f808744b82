"""A function of integer indices as an array: its entries are asked for where they are needed, each once.

Example:
    >>> import numpy as np
    >>> from tnkit.sources import Entries
    >>> f = Entries(lambda i: 1.0 / (1 + i.sum(1)), (1000,) * 10)
    >>> f.at(np.array([[0] * 10, [1] * 10, [0] * 10])).round(3).tolist(), f.evaluations
    ([1.0, 0.091, 1.0], 2)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tnkit.arrays import as_tensor, engine_dtype, to_numpy
from tnkit.errors import DataError, DTypeError, OptionError, ShapeError
from tnkit.sources.base import SOURCE_KINDS, Asked, Source

__all__ = ["Entries"]

#: Entries that one call of the function is given at most.
BATCH = 2**18


class Entries(Source):
    """A function of indices, with a memory: what was asked once is not asked again.

    Args:
        function: from an int64 array (N, d) of indices, 0 … n_k − 1 in column k, to N numbers. It is called with as
            many rows at a time as possible; what it raises passes through.
        shape: (n_0 … n_{d−1}) of its domain. Products may exceed any machine integer.
        dtype: of the values, as torch or NumPy name it. By default that of the first value it gives; whole numbers are
            taken as float64.
        device: where the result is made, and where a torch function gets its indices.
        array: "numpy" or "torch": the kind of array that the function takes.

    Attributes:
        evaluations: distinct entries that the function was asked for.
        asked: entries that algorithms asked for, repetitions included; those beyond `evaluations` came from memory.

    Raises:
        OptionError: what is given is not callable, or an option is unknown.
        ShapeError: the shape is empty or has a mode below 1.

    Cost:
        about 100 bytes of memory for each distinct entry.

    Example:
        >>> import torch
        >>> f = Entries(lambda i: torch.sin(0.1 * i.sum(1)), (50, 50, 50), array="torch")
        >>> f.dtype, f.evaluations
        (torch.float32, 1)
    """

    kind: ClassVar[str] = "entries"

    def __init__(
        self,
        function: Callable[[Any], Any],
        shape: Sequence[int],
        *,
        dtype: torch.dtype | Any = None,
        device: torch.device | str = "cpu",
        array: str = "numpy",
    ) -> None:
        if not callable(function):
            raise OptionError(f"Entries needs a function of indices; {type(function).__name__} cannot be called.")
        _require_one_argument(function)
        if array not in ("numpy", "torch"):
            raise OptionError(f"Entries(array={array!r}) is unknown. Use 'numpy' or 'torch'.")
        self._function, self._array = function, array
        self._shape, self._device = _shape(shape), torch.device(device)
        self._pack = _packing(self._shape)
        self._known: dict[Hashable, complex | float] = {}
        self.asked = 0
        self._dtype = None if dtype is None else _engine(dtype)
        if self._dtype is None:
            self.at(np.zeros((1, len(self._shape)), dtype=np.int64))
            self.asked = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the domain."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self._dtype or torch.float64

    @property
    def device(self) -> torch.device:
        """Of the result."""
        return self._device

    @property
    def evaluations(self) -> int:
        """Distinct entries that the function was asked for."""
        return len(self._known)

    @classmethod
    def from_dense(cls, x: Tensor) -> Entries:
        """Look entries up in a tensor."""

        def look_up(indices: Tensor) -> Tensor:
            return x[tuple(indices.unbind(1))]

        return cls(look_up, tuple(x.shape), dtype=x.dtype, device=x.device, array="torch")

    def new(self, indices: NDArray[np.int64]) -> int:
        """How many distinct entries among these (N, d) indices the function has not been asked for."""
        return len({key for key in self._keys(indices) if key not in self._known})

    def at(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Values at (N, d) indices, as float64 or complex128.

        Raises:
            ShapeError: the function gives another number of values.
            DTypeError: it gives something else than numbers, or complex ones where real ones were announced.
            DataError: it gives NaN or infinite values.
        """
        keys = self._keys(indices)
        self.asked += len(keys)
        fresh = {key: row for row, key in enumerate(keys) if key not in self._known}
        order = list(fresh)
        rows = np.fromiter(fresh.values(), dtype=np.int64, count=len(order))
        for start in range(0, len(order), BATCH):
            values = self._call(indices[rows[start : start + BATCH]])
            self._known.update(zip(order[start : start + BATCH], values.tolist(), strict=True))
        wide = np.complex128 if self.dtype.is_complex else np.float64
        return np.array([self._known[key] for key in keys], dtype=wide)

    def dense(self) -> Tensor:
        """Every entry, for shapes that are small."""
        grid = np.indices(self._shape).reshape(len(self._shape), -1).T
        values = torch.from_numpy(self.at(np.ascontiguousarray(grid))).to(self._device, self.dtype)
        return values.reshape(self._shape)

    def __repr__(self) -> str:
        """Shape, dtype, and what was asked so far."""
        return f"Entries(shape={self._shape}, dtype={self.dtype}, evaluations={self.evaluations})"

    def _keys(self, indices: NDArray[np.int64]) -> list[Hashable]:
        packed = np.ascontiguousarray(np.stack([indices[:, a:b] @ w for a, b, w in self._pack], axis=1))
        if packed.shape[1] > 1:
            packed = packed.view(np.dtype((np.void, packed.itemsize * packed.shape[1])))
        found: list[Hashable] = packed[:, 0].tolist()
        return found

    def _call(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        given = np.ascontiguousarray(indices)
        raw = self._function(torch.from_numpy(given).to(self._device) if self._array == "torch" else given.copy())
        values = _numbers(raw, given.shape)
        if values.numel() != len(given) or values.shape[0] != len(given):
            raise ShapeError(
                f"The function got indices of shape {given.shape} and gave values of shape {tuple(values.shape)}. It "
                f"must give one number for each row, ({len(given)},). Write it with arrays: i[:, 0] is the first index."
            )
        if self._dtype is None:
            self._dtype = values.dtype
        if values.is_complex() and not self.dtype.is_complex:
            raise DTypeError(
                f"The function gave {values.dtype}, where {self.dtype} was expected. Give "
                f"tk.Entries(f, shape, dtype=torch.complex128)."
            )
        found = to_numpy(values.reshape(-1))
        bad: NDArray[np.int64] = np.flatnonzero(~np.isfinite(found))
        if len(bad):
            raise DataError(
                f"The function gave {found[bad[0]]} at index {tuple(given[bad[0]].tolist())} ({len(bad)} of "
                f"{len(given)} values are NaN or infinite). Every entry must be a finite number."
            )
        return found


def _numbers(raw: Any, asked: tuple[int, ...]) -> Tensor:
    try:
        return as_tensor(raw).tensor.detach()
    except DTypeError:
        kind = getattr(raw, "dtype", type(raw).__name__)
        raise DTypeError(f"The function gave values of dtype {kind}. It must give numbers.") from None
    except DataError:
        raise ShapeError(
            f"The function got indices of shape {asked} and gave {type(raw).__name__} {raw!s:.60}. It must give one "
            f"number for each row, an array of shape ({asked[0]},). Write it with arrays: i[:, 0] is the first index."
        ) from None


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        plain = tuple(n.__index__() for n in shape)
    except (TypeError, AttributeError):
        raise ShapeError(f"shape={shape!r} is not a sequence of whole numbers. Example: shape=(50, 50, 50).") from None
    if not plain or min(plain) < 1:
        raise ShapeError(f"shape={plain} needs at least one mode, each of size 1 or more. Example: shape=(50, 50, 50).")
    return plain


def _engine(dtype: Any) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return engine_dtype(dtype)
    try:
        return as_tensor(np.zeros(1, dtype=dtype)).tensor.dtype
    except TypeError:
        raise DTypeError(f"dtype={dtype!r} is not known. Example: dtype=torch.float64.") from None


def _packing(shape: tuple[int, ...]) -> list[tuple[int, int, NDArray[np.int64]]]:
    """Runs of modes whose product fits 62 bits, each with the weights that make one integer of its indices."""
    groups: list[tuple[int, int, NDArray[np.int64]]] = []
    start = 0
    while start < len(shape):
        stop, size = start + 1, shape[start]
        while stop < len(shape) and size * shape[stop] < 2**62:
            size *= shape[stop]
            stop += 1
        weights = [1]
        for n in shape[start + 1 : stop][::-1]:
            weights.insert(0, weights[0] * n)
        groups.append((start, stop, np.array(weights, dtype=np.int64)))
        start = stop
    return groups


def _require_one_argument(function: Callable[[Any], Any]) -> None:
    """Refuse f(i, j, k): all indices come in one array.

    Raises:
        OptionError: the function cannot be called with one argument.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some compiled functions do not tell
        return
    try:
        signature.bind(None)
    except TypeError:
        raise OptionError(
            f"The function takes {signature}; it is called with one array of indices (m, d), a row for each entry, and "
            f"gives m values. Write it so: lambda i: 1.0 / (1 + i[:, 0] + i[:, 1])."
        ) from None


def _from_callable(x: Any, asked: Asked) -> Source | None:
    """Functions; classes and modules that are arrays too are not taken."""
    if not callable(x) or isinstance(x, type | Tensor) or hasattr(x, "__array__") or hasattr(x, "__dlpack__"):
        return None
    if asked.shape is None:
        raise OptionError(
            "A function of indices needs the shape of its domain. Give shape=, for example "
            'tk.decompose(f, "tt", shape=(50, 50, 50), eps=1e-6).'
        )
    return Entries(x, asked.shape)


SOURCE_KINDS.register("entries", _from_callable)
