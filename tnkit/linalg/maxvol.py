"""maxvol: rows of a tall matrix whose square submatrix has (nearly) the largest volume.

Reference: Goreinov, Oseledets, Savostyanov, Tyrtyshnikov, Zamarashkin, How to find a good submatrix,
doi:10.1142/9789812836021_0015.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.errors import OptionError, ShapeError

__all__ = ["maxvol"]


def maxvol(a: Tensor, tol: float = 1.05, max_steps: int | None = None) -> tuple[Tensor, Tensor]:
    """Pivot rows and the coefficients that give every row from them.

    Args:
        a: (n, r), n >= r. It is orthonormalised first, so a rank-deficient matrix is fine.
        tol: stop once no coefficient exceeds it in absolute value; at least 1.
        max_steps: at most so many exchanges (default: 100 + 10 r).

    Returns:
        rows: (r,) int64, distinct.
        coefficients: (n, r) with `coefficients[rows]` the identity and `coefficients @ a[rows]` equal to `a`.

    Raises:
        ShapeError: not 2-D, or fewer rows than columns.
        OptionError: `tol` below 1.

    Cost:
        4 n r² for the start, 2 n r for each exchange (one number goes to the host in each).

    Example:
        >>> import torch
        >>> rows, c = maxvol(torch.tensor([[1.0], [4.0], [2.0]]))
        >>> rows.tolist(), [round(entry, 4) for entry in c.flatten().tolist()]
        ([1], [0.25, 1.0, 0.5])
    """
    if a.ndim != 2 or a.shape[0] < a.shape[1] or a.shape[1] == 0:
        raise ShapeError(f"maxvol needs a tall matrix (n, r) with n >= r >= 1; seen shape {tuple(a.shape)}.")
    if tol < 1:
        raise OptionError(f"maxvol: tol={tol} is below 1, which no choice of rows can promise. Use 1.0 or more.")
    n, r = a.shape
    q = torch.linalg.qr(a.detach(), mode="reduced").Q
    order = list(range(n))
    for i, p in enumerate(torch.linalg.lu_factor(q)[1].tolist()[:r]):  # row exchanges, counted from 1
        order[i], order[p - 1] = order[p - 1], order[i]
    rows = torch.tensor(order[:r], device=a.device)
    c = torch.linalg.solve(q[rows], q, left=False)
    for _ in range(100 + 10 * r if max_steps is None else max_steps):
        size = c.abs()
        i, j = divmod(int(size.argmax()), r)
        if float(size[i, j]) <= tol:
            break
        row = c[i].clone()
        row[j] -= 1
        c = torch.addr(c, c[:, j] / c[i, j], row, alpha=-1)  # the rank-1 update of the exchange
        rows[j] = i
    c[rows] = torch.eye(r, dtype=c.dtype, device=c.device)
    return rows, c
