"""`error` and `round`: of a format that is there already."""

from __future__ import annotations

from tnkit.api.request import eps_of
from tnkit.arrays import ArrayLike, as_tensor, require_finite
from tnkit.decompose import relative_error, sparse_error
from tnkit.errors import OptionError, ShapeError
from tnkit.formats import Format, RankLike
from tnkit.sources import SparseTensor, as_source

__all__ = ["error", "round"]


def error(x: ArrayLike, approximation: Format) -> float:
    """The true relative error ‖x − x̂‖/‖x‖ of a format, measured in blocks.

    That of a sparse array is found from its entries and the norm of the format, so it is true to 1 % from about 1e-6 on
    and an upper bound below, unless the array is small.

    Args:
        x: the array; sparse coordinates are not made dense.
        approximation: a format of the same shape.

    Raises:
        ShapeError: shapes differ.

    Example:
        >>> import numpy as np, tnkit as tk
        >>> x = np.ones((4, 5))
        >>> tk.error(x, tk.decompose(x, "lowrank", rank=1).tensor) < 1e-15
        True
    """
    sparse = as_source(x)
    if isinstance(sparse, SparseTensor):
        if sparse.shape != approximation.shape:
            raise ShapeError(f"x has shape {sparse.shape}, the {approximation.name} {approximation.shape}.")
        return sparse_error(sparse, approximation)[0]
    incoming = as_tensor(x)
    if tuple(incoming.tensor.shape) != approximation.shape:
        raise ShapeError(f"x has shape {tuple(incoming.tensor.shape)}, the {approximation.name} {approximation.shape}.")
    require_finite(incoming.tensor)
    return relative_error(incoming.tensor, approximation)


def round(value: Format, rank: RankLike | None = None, *, eps: float | None = None) -> Format:
    """The same tensor, nearly, with smaller ranks: what to do after sums and products, whose ranks have grown.

    Args:
        value: a format.
        rank: the ranks of the result, or upper limits of them where eps is given too; as for `decompose`.
        eps: relative Frobenius error of the result against `value`.

    Returns:
        The same kind of format. Trains, Tucker tensors, trees, structured matrices and tubal SVDs are rounded as they
        are; other formats by way of the dense tensor, where that fits the memory.

    Raises:
        OptionError: neither rank nor eps is given.
        RankError: a rank that the shape does not admit.
        MemoryLimitError: the dense tensor would be needed, and does not fit.

    Example:
        >>> import tnkit as tk
        >>> a = tk.random_format("tt", (8, 9, 10), rank=3, rng=0)
        >>> (a + a).ranks, tk.round(a + a, eps=1e-10).ranks
        ((6, 6), (3, 3))
    """
    if rank is None and eps is None:
        raise OptionError("Say how small or how exact: give rank= or eps=. Example: tk.round(a + b, eps=1e-10).")
    return value.round(rank, eps=eps_of(eps))
