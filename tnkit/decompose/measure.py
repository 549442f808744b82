"""The true error of a format, measured against the array in parts, without a dense copy of the whole.

Example:
    >>> import torch
    >>> from tnkit.decompose import relative_error
    >>> from tnkit.formats import random_format
    >>> tt = random_format("tt", (4, 5, 6), 2, rng=0)
    >>> relative_error(tt.to_dense(), tt) < 1e-14
    True
"""

from __future__ import annotations

from math import inf, prod, sqrt

from torch import Tensor

from tnkit.formats import Format
from tnkit.linalg import energy

__all__ = ["relative_error"]

#: Entries of the dense array that are compared at a time.
BLOCK_ENTRIES = 2**20


def relative_error(x: Tensor, approximation: Format, *, norm: float | None = None) -> float:
    """‖x − x̂‖/‖x‖.

    Args:
        x: the array.
        approximation: of the same shape.
        norm: ‖x‖, if it is known.

    Returns:
        The relative Frobenius error; 0 if both are zero, inf if only `x` is. Cost: one contraction to the dense array,
        in blocks along the first mode.
    """
    x, approximation = x.detach(), approximation.detach()
    whole = sqrt(energy(x)) if norm is None else norm
    total = 0.0
    for start, stop in _blocks(approximation):
        whole_block = stop - start == approximation.shape[0]
        part = approximation if whole_block else approximation[start:stop]
        difference = part.to_dense().to(x.dtype) - x[start:stop]
        total += energy(difference)
    error = sqrt(total)
    if whole == 0.0:
        return 0.0 if error == 0.0 else inf
    return error / whole


def _blocks(value: Format) -> list[tuple[int, int]]:
    n = value.shape[0]
    rows = max(1, BLOCK_ENTRIES // max(1, prod(value.shape[1:])))
    if value.view() is not None or rows >= n:
        return [(0, n)]
    return [(start, min(n, start + rows)) for start in range(0, n, rows)]
