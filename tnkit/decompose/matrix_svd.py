"""Closed forms by the SVD of a matrix: low rank, blocks of low rank, sums of Kronecker products.

References: Eckart & Young 1936, doi:10.1007/BF02288367; Van Loan & Pitsianis 1993, doi:10.1007/978-94-015-8196-7_17;
Dao et al. 2022, arXiv:2204.00595 (Monarch, block by block).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.allowance import allowed2, floor2, known_error
from tnkit.decompose.base import Fit, Method, Problem
from tnkit.formats.tubes import truncated_products
from tnkit.linalg import Split, choose_driver, split
from tnkit.registry import METHODS

__all__ = ["MatrixSVD", "rank_limit"]


@dataclass(frozen=True, slots=True)
class MatrixSVD(Method):
    """The truncated SVD, which is the best approximation there is.

    Low rank: of the matrix. Kronecker sums: of the matrix whose rows are the left factors' entries. Block TT and
    Monarch: of every block, all of one rank.

    Attributes:
        exact: never sketch. A sketch of a spectrum that falls slowly leaves the error some tenths of a percent above
            the least there is, for a fraction of the time.

    Example:
        >>> import torch, tnkit as tk
        >>> tk.decompose(torch.arange(12.0).reshape(3, 4), "lowrank", eps=1e-5, method="matrix_svd").tensor.ranks
        (2,)
    """

    exact: bool = False

    name: ClassVar[str] = "matrix_svd"
    formats: ClassVar[tuple[str, ...]] = ("lowrank", "kron", "btt", "monarch")
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "truncated SVD, a closed form: no approximation of these ranks is better"

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`. Cost: as `tnkit.linalg.split`; for block TT an SVD of every block."""
        x = problem.x
        if problem.layout.name in ("btt", "monarch"):
            return _blocks(problem)
        if problem.layout.name == "lowrank":
            left, right, part = _two_factors(problem, x, exact=self.exact)
            tensors = (left, right)
        else:
            a, b, p, q = x.shape
            left, right, part = _two_factors(problem, x.permute(0, 2, 1, 3).reshape(a * p, b * q), exact=self.exact)
            tensors = (left.mT.reshape(-1, a, p), right.reshape(-1, b, q))
        return Fit(tuple(t.contiguous() for t in tensors), known_error(problem, part.discarded2, part.certain))


def rank_limit(problem: Problem) -> int:
    """The largest rank of the only bond that ranks and size allow."""
    (cap,) = problem.max_ranks
    size = problem.target.max_params
    if size is None:
        return cap
    one = problem.layout.n_params((1,))
    return max(1, min(cap, size // one))  # every entry stands on the bond


def _two_factors(problem: Problem, matrix: Tensor, *, exact: bool) -> tuple[Tensor, Tensor, Split]:
    """(m, r), (r, n) and the split they come from."""
    m, n = matrix.shape
    rank, tail2, norm2 = rank_limit(problem), allowed2(problem), problem.norm**2
    part = split(
        matrix,
        max_rank=rank,
        tail2=tail2,
        norm2=norm2,
        side="left" if m <= n else "right",
        driver=choose_driver((m, n), matrix.dtype, max_rank=rank, tail2=tail2, norm2=norm2)[0] if exact else "auto",
        rng=problem.rng,
    )
    if part.side == "left":
        return part.basis, part.rest, part
    return part.rest, part.basis.mH, part


def _blocks(problem: Problem) -> Fit:
    """Rows (l, j), columns (k, i): block (j, k) is a matrix (l, i)."""
    el, j, k, i = problem.x.shape
    batch = problem.x.permute(1, 2, 0, 3).reshape(j * k, el, i)
    u, s, vh = torch.linalg.svd(batch.detach(), full_matrices=False)
    ((left, right),), lost = truncated_products([(u, s, vh)], [1], rank_limit(problem), allowed2(problem))
    if batch.requires_grad and torch.is_grad_enabled():
        parts = [split(block, max_rank=left.shape[-1]) for block in batch]
        left, right = torch.stack([p.basis for p in parts]), torch.stack([p.rest for p in parts])
    tensors = (
        left.reshape(j, k, el, -1).permute(0, 2, 1, 3).contiguous(),
        right.reshape(j, k, -1, i).permute(1, 0, 2, 3).contiguous(),
    )
    return Fit(tensors, known_error(problem, lost, lost > 100 * floor2(problem)))


METHODS.register("matrix_svd", MatrixSVD)
