"""The Khatri-Rao product: the Kronecker product column by column.

Reference: Kolda & Bader, Tensor decompositions and applications, doi:10.1137/07070111X, section 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tnkit.errors import ShapeError

__all__ = ["khatri_rao"]


def khatri_rao(matrices: Sequence[Tensor]) -> Tensor:
    """The columnwise Kronecker product; the row index of the first matrix runs slowest.

    Args:
        matrices: (n_k, r) each, all with the same r.

    Returns:
        (n_1 n_2 … n_d, r): row (i_1, …, i_d) is the product of the rows i_k. That is the order of `x.reshape(...)` of
        a row-major tensor, so a CP model is `(khatri_rao(factors) * weights).sum(1).reshape(shape)`.

    Raises:
        ShapeError: no matrices, not 2-D, or different numbers of columns.

    Cost:
        r times the product of the n_k, up to a factor of n/(n-1).

    Example:
        >>> import torch
        >>> khatri_rao([torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]])]).T
        tensor([[ 3.,  5.,  6., 10.]])
    """
    if not matrices:
        raise ShapeError("khatri_rao needs at least one matrix; none was given.")
    shapes = [tuple(m.shape) for m in matrices]
    if any(len(s) != 2 or s[1] != shapes[0][-1] for s in shapes):
        raise ShapeError(f"khatri_rao needs matrices (n_k, r) with one r for all; seen shapes {shapes}.")
    product = matrices[0]
    for matrix in matrices[1:]:
        product = (product[:, None, :] * matrix[None, :, :]).reshape(-1, matrix.shape[1])
    return product
