"""Sparse arrays: coordinates and values, zero everywhere else.

They come as `SparseTensor`, as (indices, values, shape), as torch's sparse tensors of any layout, or as SciPy's sparse
matrices and arrays. Nothing of the size of the whole array is ever made.

Example:
    >>> import torch
    >>> from tnkit.sources import SparseTensor
    >>> x = SparseTensor([[0, 1], [2, 0], [0, 1]], [1.0, 5.0, 3.0], shape=(3, 2))
    >>> x.indices.tolist(), x.values.tolist()
    ([[0, 1], [2, 0]], [4.0, 5.0])
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import prod
from operator import index
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tnkit.arrays import ArrayLike, as_tensor, check_dense_size, engine_dtype
from tnkit.errors import DataError, ShapeError
from tnkit.linalg.coordinates import add_rows_, group_rows
from tnkit.sources.base import SOURCE_KINDS, Asked, Source

__all__ = ["SparseTensor", "sparse_source"]

_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_LARGEST = 2**62


class SparseTensor(Source):
    """An array that is zero but for some entries.

    This is not `tk.Observations`: there an entry that is not given is unknown, here it is zero.

    Args:
        indices: (N, d) whole numbers from 0.
        values: (N,) numbers, all finite. Values of one position are added, and zeros are left out. They are computed
            in their dtype; half types in float32, whole numbers in float64.
        shape: of the whole array; the product of the sizes may be as large as you like.

    Attributes:
        indices: (nnz, d) int64, ascending, the first mode slowest, each position once.
        values: (nnz,) none of them zero.
        shape: of the whole array.

    Raises:
        ShapeError: arrays that do not fit each other, or a shape with no entries.
        DataError: indices out of range or not whole, or values that are NaN or infinite.

    Cost:
        one sort of N keys. Memory of a few times the coordinates.

    Example:
        >>> import numpy as np, tnkit as tk
        >>> x = tk.SparseTensor([[0, 0, 9], [7, 1, 3]], [1.0, 2.0], shape=(1000, 1000, 1000))
        >>> fit = tk.decompose(x, "tt", rank=2)
        >>> x.nnz, fit.rel_error < 1e-12
        (2, True)
    """

    kind: ClassVar[str] = "sparse"
    __slots__ = ("_indices", "_shape", "_values")

    def __init__(self, indices: ArrayLike, values: ArrayLike, shape: Sequence[int]) -> None:
        size = _checked_shape(shape)
        known = _checked_values(values)
        rows = _checked_indices(indices, size, known.device)
        if rows.shape[0] != known.shape[0]:
            raise ShapeError(f"{rows.shape[0]} indices but {known.shape[0]} values; give one value for each index.")
        self._indices, self._values = _merged(rows, known, size)
        self._shape = size

    @classmethod
    def _made(cls, indices: Tensor, values: Tensor, shape: tuple[int, ...]) -> SparseTensor:
        """From parts that are in order already."""
        made = object.__new__(cls)
        made._indices, made._values, made._shape = indices, values, shape
        return made

    @classmethod
    def from_dense(cls, x: Tensor) -> SparseTensor:
        """The entries of a tensor that are not zero.

        Raises:
            DataError: NaN or infinite values.
        """
        x = x.detach()
        indices = x.nonzero()
        values = x[tuple(indices.unbind(1))].to(engine_dtype(x.dtype)).resolve_conj().resolve_neg()
        _require_finite(values)
        return cls._made(indices, values, tuple(x.shape))

    @property
    def indices(self) -> Tensor:
        """(nnz, d) int64, sorted."""
        return self._indices

    @property
    def values(self) -> Tensor:
        """(nnz,)."""
        return self._values

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return self._shape

    @property
    def ndim(self) -> int:
        """The number of modes."""
        return len(self._shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the values: an engine dtype."""
        return self._values.dtype

    @property
    def device(self) -> torch.device:
        """Of the values."""
        return self._values.device

    @property
    def nnz(self) -> int:
        """The number of entries that are not zero."""
        return int(self._values.shape[0])

    @property
    def density(self) -> float:
        """The share of entries that are not zero."""
        return self.nnz / prod(self._shape)

    def with_values(self, values: Tensor) -> SparseTensor:
        """Other values at the same positions.

        Args:
            values: (nnz,).
        """
        return self._made(self._indices, values, self._shape)

    def with_indices(self, indices: Tensor, shape: tuple[int, ...]) -> SparseTensor:
        """The same values at other positions.

        Args:
            indices: (nnz, d) in the same order, the first mode slowest, each once.
            shape: of the whole array.
        """
        return self._made(indices, self._values, shape)

    def to_dense(self) -> Tensor:
        """The dense tensor.

        Raises:
            MemoryLimitError: it would not fit; nothing was allocated.
        """
        check_dense_size(self._shape, self.dtype, self.device, what="The dense form of this sparse array")
        dense = self._values.new_zeros(self._shape)
        dense[tuple(self._indices.unbind(1))] = self._values
        return dense

    def __repr__(self) -> str:
        """Shape, number and share of the entries, dtype and device."""
        share = f"{self.nnz:,} of {self.numel:,} entries, {100 * self.density:.3g} %"
        return f"SparseTensor(shape={self._shape}, {share}, {self.dtype}, {self.device})"


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        size = tuple(index(n) for n in shape)
    except (TypeError, ValueError):
        raise ShapeError(f"shape={shape!r} is not a sequence of sizes; give one whole number for each mode.") from None
    if not size or min(size) < 1 or max(size) >= _LARGEST:
        raise ShapeError(f"shape={size} is no shape of a sparse array; give sizes of 1 or more (below 2**62).")
    return size


def _checked_values(values: ArrayLike) -> Tensor:
    if isinstance(values, Tensor) and values.numel() == 0:
        return values.detach().reshape(-1).to(engine_dtype(values.dtype))
    if not isinstance(values, Tensor) and np.size(values) == 0:
        dtype = np.asarray(values).dtype
        return torch.from_numpy(np.zeros(0, dtype=dtype if dtype.kind in "fc" and dtype.itemsize <= 16 else float))
    known = as_tensor(values, name="values").tensor.detach()
    if known.ndim != 1:
        raise ShapeError(f"values of shape {tuple(known.shape)}: one number for each entry is needed, (N,).")
    _require_finite(known)
    return known


def _require_finite(values: Tensor) -> None:
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise DataError(
            f"The values of a sparse array hold {bad} NaN or infinite number{'s' * (bad > 1)}. Replace them, or use "
            "tk.complete(tk.Observations(indices, values, shape)) for entries that are unknown."
        )


def _checked_indices(indices: ArrayLike, shape: tuple[int, ...], device: torch.device) -> Tensor:
    d = len(shape)
    if isinstance(indices, Tensor):
        table = indices.detach()
        if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
            raise DataError(f"indices have dtype {table.dtype}; whole numbers are needed.")
    else:
        try:
            array = np.asarray(indices)
        except ValueError as error:
            raise ShapeError(f"indices could not be read as an array (N, {d}): {error}.") from None
        if array.size and array.dtype.kind not in "iu":
            raise DataError(f"indices have dtype {array.dtype}; whole numbers are needed.")
        table = torch.from_numpy(np.ascontiguousarray(array.astype(np.int64)))
    if table.numel() == 0 and (table.ndim != 2 or table.shape[1] != d):
        table = table.reshape(-1).new_zeros((0, d))
    if table.ndim != 2 or table.shape[1] != d:
        raise ShapeError(f"indices of shape {tuple(table.shape)} do not fit {d} modes; give (N, {d}).")
    table = table.to(device=device, dtype=torch.int64)
    sizes = torch.tensor(shape, dtype=torch.int64, device=device)
    outside = ((table < 0) | (table >= sizes)).any(dim=1)
    bad = int(outside.sum())
    if bad:
        first = tuple(table[outside][0].tolist())
        raise DataError(
            f"index {first} is outside of shape {shape} ({bad} of {len(table)} are). Mode k takes 0 … n_k - 1; "
            "negative indices do not count from the end here."
        )
    return table


def _merged(rows: Tensor, values: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Sorted, equal positions added, zeros left out."""
    groups = group_rows(rows, shape)
    values = values[groups.order]
    if groups.count < rows.shape[0]:
        order = torch.arange(values.shape[0], device=values.device)
        for part in (values.imag, values.real) if values.is_complex() else (values,):
            order = order[torch.argsort(part[order], stable=True)]  # one order of summation, however they were given
        order = order[torch.argsort(groups.target[order], stable=True)]
        total = values.new_zeros(groups.count)
        add_rows_(total, groups.target[order], values[order])
        values = total
        _require_finite(values)
    kept = values != 0
    return groups.rows[kept].contiguous(), values[kept].contiguous()


# --- other libraries' sparse arrays ---------------------------------------------------------------------------------


def sparse_source(x: Any, asked: Asked | None = None) -> SparseTensor | None:
    """What is sparse as a `SparseTensor`; None for anything else.

    Args:
        x: anything. Sparse are torch's tensors of a sparse layout, SciPy's sparse matrices and arrays, and tuples
            (indices, values, shape) of an array (N, d), an array (N,) and a tuple of d sizes.
        asked: what the caller said beside it; with a shape, (indices, values) is enough.

    Example:
        >>> import torch
        >>> sparse_source(torch.eye(3).to_sparse()).nnz
        3
    """
    if isinstance(x, Tensor):
        return _from_torch(x) if x.layout in _LAYOUTS else None
    if isinstance(x, tuple) and len(x) in (2, 3):
        shape = x[2] if len(x) == 3 else asked.shape if asked is not None else None
        arrays = getattr(x[0], "ndim", 0) == 2 and getattr(x[1], "ndim", 0) == 1  # no nested list: rows differ
        if arrays and isinstance(shape, tuple):
            return SparseTensor(x[0], x[1], shape)
    scipy_sparse = sys.modules.get("scipy.sparse")  # whoever has such an array has imported it
    if scipy_sparse is not None and scipy_sparse.issparse(x):
        coo = x.tocoo()
        coords = coo.coords if hasattr(coo, "coords") else (coo.row, coo.col)
        return SparseTensor(np.stack([np.asarray(c) for c in coords], axis=1), coo.data, coo.shape)
    return None


def _from_torch(x: Tensor) -> SparseTensor:
    coo = x.detach() if x.layout == torch.sparse_coo else x.detach().to_sparse()
    table, values = coo._indices().mT, coo._values()
    if values.ndim > 1:  # a hybrid tensor: its last modes are dense
        inner = values.shape[1:]
        flat = values.reshape(values.shape[0], -1)
        entry, place = flat.nonzero(as_tuple=True)
        columns = torch.unravel_index(place, inner)
        table, values = torch.cat([table[entry], torch.stack(columns, dim=1)], dim=1), flat[entry, place]
    return SparseTensor(table, values, tuple(x.shape))


SOURCE_KINDS.register("sparse", sparse_source)
