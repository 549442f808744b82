"""The true error of a format against a sparse array, without the dense one.

‖x − x̂‖² is what differs at the entries of x, and what x̂ holds elsewhere: ‖x̂‖² less its energy at the entries of x.
The second part is a difference of large numbers. Where it is below what they resolve, about 1e-7 of the norm, the
error is known as a bound only, unless the array is small enough to be compared entry by entry.
"""

from __future__ import annotations

from math import inf, sqrt

import torch
from torch import Tensor

from tnkit.decompose.measure import relative_error
from tnkit.formats import CP, Format, Tucker, operations
from tnkit.linalg import energy
from tnkit.linalg.products import wide_dtype
from tnkit.sources import SparseTensor

__all__ = ["sparse_error"]

#: Arrays of at most so many entries are compared entry by entry where that is needed.
DENSE = 2**22
#: Entries that are evaluated at a time.
BATCH = 2**18
#: Tucker cores of more entries are contracted slice by slice.
CORE = 2**12
#: Machine epsilons of the energies by which their difference may be wrong, and how many times that makes it certain.
ROUNDING, CERTAIN = 64.0, 200.0


def sparse_error(x: SparseTensor, approximation: Format) -> tuple[float, str]:
    """‖x − x̂‖/‖x‖, and how far that can be trusted.

    Args:
        x: the array.
        approximation: of the same shape.

    Returns:
        the relative error with "exact" (true to 1 %) or "bound" (no more than this). Both zero: 0; only `x` zero: inf.

    Cost:
        one evaluation at every entry of x, and the norm of the format.

    Example:
        >>> import torch
        >>> from tnkit.formats import CP
        >>> x = SparseTensor([[0, 0], [1, 1]], [3.0, 4.0], (10**6, 10**6))
        >>> factor = torch.zeros(10**6, 1, dtype=torch.float64).index_fill(0, torch.tensor([1]), 2.0)
        >>> sparse_error(x, CP(torch.ones(1, dtype=torch.float64), (factor, factor)))
        (0.6, 'exact')
    """
    value = approximation.detach()
    if x.nnz == 0:
        return (0.0 if float(operations.norm(value)) == 0.0 else inf), "exact"
    factor = float(x.values.abs().max())
    values = x.values.to(wide_dtype(x.dtype)) / factor
    value = value.to(torch.promote_types(value.dtype, torch.float64)) * (1.0 / factor)
    whole = sqrt(energy(values))
    if x.numel <= DENSE:
        return relative_error(x.with_values(values).to_dense(), value, norm=whole), "exact"
    differ2 = seen2 = 0.0
    for start in range(0, x.nnz, BATCH):
        there = _at(value, x.indices[start : start + BATCH])
        differ2 += energy(values[start : start + BATCH] - there)
        seen2 += energy(there)
    all2 = float(operations.norm(value)) ** 2
    noise2 = ROUNDING * torch.finfo(torch.float64).eps * max(all2, seen2, _terms2(value))
    lost2 = differ2 + max(all2 - seen2, 0.0)
    if lost2 >= CERTAIN * noise2:
        return sqrt(lost2) / whole, "exact"
    return sqrt(lost2 + noise2) / whole, "bound"


def _at(value: Format, indices: Tensor) -> Tensor:
    """Entries of a format; those of a sum of terms as products of rows."""
    if isinstance(value, Tucker) and value.core.numel() > CORE:
        return _tucker_at(value, indices)
    if not isinstance(value, CP):
        return value.at(indices)
    product = value.weights
    for factor, column in zip(value.factors, indices.unbind(1), strict=True):
        product = product * factor.index_select(0, column)
    return product.sum(-1)


def _tucker_at(value: Tucker, indices: Tensor) -> Tensor:
    """Entries of a Tucker format with a large core: what entries of one slice share is done once.

    Cost: core entries for each slice of the mode that has the fewest, and as many divided by its rank for each entry.
    """
    found = [torch.unique(column, return_inverse=True) for column in indices.unbind(1)]
    mode = min(range(value.ndim), key=lambda k: found[k][0].shape[0])
    rows, place = found[mode]
    others = [k for k in range(value.ndim) if k != mode]
    flat = value.core.movedim(mode, 0).reshape(value.core.shape[mode], -1)
    order = torch.argsort(place, stable=True)
    stops = torch.cumsum(torch.bincount(place), 0).tolist()
    out, start = value.core.new_empty(indices.shape[0]), 0
    for row, stop in zip(rows.tolist(), stops, strict=True):
        slab = value.factors[mode][row] @ flat  # (r r' …)
        step = max(1, CORE * 2**8 // max(1, slab.numel() // value.core.shape[others[0]])) if others else stop - start
        for first in range(start, stop, step):
            mine = order[first : min(first + step, stop)]
            part = slab.expand(mine.shape[0], -1)
            for number, k in enumerate(others):
                side = value.factors[k].index_select(0, indices[mine, k])
                if number == 0:
                    part = side @ slab.reshape(side.shape[1], -1)
                else:
                    part = torch.bmm(side[:, None, :], part.reshape(mine.shape[0], side.shape[1], -1))[:, 0]
            out[mine] = part[:, 0]
        start = stop
    return out


def _terms2(value: Format) -> float:
    """The energy that the terms of a sum would have if none cancelled another."""
    if not isinstance(value, CP):
        return 0.0
    sizes = value.weights.abs()
    for factor in value.factors:
        sizes = sizes * torch.linalg.vector_norm(factor, dim=0)
    return float(sizes.sum()) ** 2
