"""The truncated t-SVD: an SVD of every Fourier slice.

References: Kilmer & Martin 2011, doi:10.1016/j.laa.2010.09.020; Martin, Shafer & LaRue 2013, doi:10.1137/110841229.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.allowance import allowed2, floor2, known_error
from tnkit.decompose.base import Fit, Method, Problem
from tnkit.decompose.matrix_svd import rank_limit
from tnkit.formats.tubes import Slices, truncated_products
from tnkit.linalg import split
from tnkit.registry import METHODS

__all__ = ["TubalSVDMethod"]


@dataclass(frozen=True, slots=True)
class TubalSVDMethod(Method):
    """The truncated t-SVD, the best approximation of its tubal rank.

    Real arrays have conjugate slices at opposite frequencies: one of each pair is decomposed, and the factors are real.

    Example:
        >>> import torch, tnkit as tk
        >>> fit = tk.decompose(torch.arange(24.0).reshape(2, 3, 4), "tubal", rank=2)
        >>> fit.tensor.left.dtype, fit.rel_error < 1e-6
        (torch.float32, True)
    """

    name: ClassVar[str] = "tubal_svd"
    formats: ClassVar[tuple[str, ...]] = ("tubal",)
    summary: ClassVar[str] = "truncated t-SVD, a closed form: no approximation of this tubal rank is better"

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`. Cost: a Fourier transform, and an SVD of half the slices (all of a complex array)."""
        x = problem.x
        slices = Slices(x.shape[2:], real=not x.is_complex(), device=x.device)
        batches = slices.split(x)
        with torch.no_grad():
            parts = [torch.linalg.svd(batch.detach(), full_matrices=False) for batch in batches]
        error2 = allowed2(problem)
        limit2 = None if error2 is None else error2 * slices.count
        pairs, lost = truncated_products(parts, [1, slices.weight], rank_limit(problem), limit2)
        lost /= slices.count
        if x.requires_grad and torch.is_grad_enabled():
            pairs = [_differentiable(batch, pairs[k][0].shape[-1]) for k, batch in enumerate(batches)]
        (left_a, right_a), (left_b, right_b) = pairs
        tensors = (slices.join(left_a, left_b), slices.join(right_a, right_b))
        return Fit(tensors, known_error(problem, lost, lost > 100 * floor2(problem)))


def _differentiable(batch: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The same factors as part of the graph."""
    if not len(batch):
        return batch[:, :, :rank], batch[:, :rank]
    parts = [split(matrix, max_rank=rank) for matrix in batch]
    return torch.stack([p.basis for p in parts]), torch.stack([p.rest for p in parts])


METHODS.register("tubal_svd", TubalSVDMethod)
