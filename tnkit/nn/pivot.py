"""The pivoted form of a rank-r matrix: r(m + n − r) numbers instead of r(m + n), exact, with no gauge left over.

A rank-r matrix equals P [I; C] B, where B holds r of its own rows and C says how the others follow from them. Good
pivots keep C bounded: partial-pivoting LU chooses them and maxvol swaps improve them until no entry of C exceeds
`bound`.

References:
    Goreinov et al., How to find a good submatrix (2010), doi:10.1142/9789812836021_0015.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.errors import ShapeError

__all__ = ["pivot_rows"]


def pivot_rows(basis: Tensor, *, bound: float = 1.1, max_steps: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of a tall matrix on which all its rows depend with small coefficients.

    Args:
        basis: (m, r) float matrix of full column rank, m >= r.
        bound: swaps go on while an entry of C exceeds this (> 1).
        max_steps: of swapping.

    Returns:
        (rows, others, C): `rows` (r,) and `others` (m − r,) are integer positions, and
        basis[others] = C @ basis[rows], C of shape (m − r, r) in the dtype of `basis`.

    Raises:
        ShapeError: not a tall matrix.

    Cost:
        O(m r²), and O(m r) for each swap.

    Example:
        >>> import torch
        >>> from tnkit.nn.pivot import pivot_rows
        >>> basis = torch.tensor([[1.0, 0.0], [4.0, 2.0], [0.0, 8.0]], dtype=torch.float64)
        >>> rows, others, c = pivot_rows(basis)
        >>> sorted(rows.tolist()), bool(torch.allclose(c @ basis[rows], basis[others]))
        ([1, 2], True)
    """
    if basis.ndim != 2 or basis.shape[0] < basis.shape[1] or basis.shape[1] < 1:
        raise ShapeError(
            f"pivot_rows takes a tall (m, r) matrix with m >= r >= 1; this one has shape {tuple(basis.shape)}."
        )
    m, r = basis.shape
    order = _lu_order(basis)
    if m == r:
        return order, order.new_empty(0), basis.new_empty(0, r)
    rows, others = order[:r].clone(), order[r:].clone()
    c = torch.linalg.solve(basis[rows], basis[others], left=False)  # C = L_others L_rows^-1
    swapped = False
    for _ in range(max_steps):
        i, j = divmod(int(c.abs().argmax()), r)
        if abs(float(c[i, j])) <= bound:
            break
        rows[j], others[i] = others[i].clone(), rows[j].clone()
        c = _swapped(c, i, j)
        swapped = True
    if swapped:  # one fresh solve takes the rounding of the updates away
        c = torch.linalg.solve(basis[rows], basis[others], left=False)
    return rows, others, c


def _lu_order(basis: Tensor) -> Tensor:
    """The row order that LU with partial pivoting chooses; the first r are the pivots."""
    swaps = (torch.linalg.lu_factor(basis)[1] - 1).tolist()
    order = list(range(basis.shape[0]))
    for i, j in enumerate(swaps):
        order[i], order[j] = order[j], order[i]
    return torch.tensor(order, device=basis.device)


def _swapped(c: Tensor, i: int, j: int) -> Tensor:
    """C after row i of the others has taken the place of pivot j (a rank-one update)."""
    column = c[:, j].clone()
    row = c[i].clone()
    column[i] = column[i] + 1.0
    row[j] = row[j] - 1.0
    return c - torch.outer(column, row) / c[i, j]
