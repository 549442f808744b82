"""Closed forms for structured matrices: truncated SVDs of the matrix, of its blocks, or of its rearrangement.

References: Eckart & Young 1936, doi:10.1007/BF02288367 (low rank); Dao et al. 2022, arXiv:2204.00595, theorem 1, and Qiu et
al. 2024, arXiv:2406.06248 (Monarch and block TT: each block by itself); Van Loan & Pitsianis 1993,
doi:10.1007/978-94-015-8196-7_17 (Kronecker sums: low rank of the rearranged matrix).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tnkit.decompose.allowance import allowed2, exact_norm2, known_error
from tnkit.decompose.base import Fit, Method, Problem
from tnkit.decompose.one_rank import largest_rank, one_rank
from tnkit.linalg import batched_spectra, batched_split, split, tails
from tnkit.registry import METHODS

__all__ = ["MatrixSVD"]


@dataclass(frozen=True, slots=True)
class MatrixSVD(Method):
    """The best approximation of a matrix in low rank, block TT, Monarch or Kronecker form.

    Example:
        >>> import torch, tnkit as tk
        >>> tk.decompose(torch.eye(6), "kron", rank=1).rel_error < 1e-6
        True
    """

    name: ClassVar[str] = "matrix_svd"
    formats: ClassVar[tuple[str, ...]] = ("lowrank", "btt", "monarch", "kron")
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "the best approximation in closed form, by truncated SVDs"

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`. Cost: one split of the matrix, or thin SVDs of all blocks."""
        if problem.layout.name in ("btt", "monarch"):
            return _blocks(problem)
        if problem.layout.name == "kron":
            a, b, p, q = problem.x.shape
            rearranged = problem.x.permute(0, 2, 1, 3).reshape(a * p, b * q)
            left, right, error = _low_rank(problem, rearranged)
            return Fit((left.mT.reshape(-1, a, p).contiguous(), right.reshape(-1, b, q).contiguous()), error)
        left, right, error = _low_rank(problem, problem.x)
        return Fit((left.contiguous(), right.contiguous()), error)


def _low_rank(problem: Problem, matrix: Tensor) -> tuple[Tensor, Tensor, float | None]:
    rank, error2 = largest_rank(problem), allowed2(problem)
    done = split(matrix, max_rank=rank, tail2=error2, norm2=exact_norm2(problem), rng=problem.rng)
    return done.basis, done.rest, known_error(problem, done.discarded2, done.certain)


def _blocks(problem: Problem) -> Fit:
    """Block (j, k) of size l × i, each to the same rank."""
    el, j, k, i = problem.x.shape
    blocks = problem.x.permute(1, 2, 0, 3).reshape(j * k, el, i)
    s2 = batched_spectra(blocks).sum(0)
    rank = one_rank(problem, s2)
    basis, rest = batched_split(blocks, rank)
    left = basis.reshape(j, k, el, rank).permute(0, 2, 1, 3).contiguous()
    right = rest.reshape(j, k, rank, i).permute(1, 0, 2, 3).contiguous()
    return Fit((left, right), known_error(problem, float(tails(s2)[rank]), certain=True))


METHODS.register("matrix_svd", MatrixSVD)
