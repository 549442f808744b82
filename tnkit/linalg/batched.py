"""Truncated SVDs of many matrices of one size at once, all to one rank.

Example:
    >>> import torch
    >>> a = torch.eye(3).expand(2, 3, 3)
    >>> batched_spectra(a).shape, batched_split(a, 2)[0].shape
    (torch.Size([2, 3]), torch.Size([2, 3, 2]))
"""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.linalg.split import split

__all__ = ["batched_spectra", "batched_split"]


def batched_spectra(a: Tensor) -> Tensor:
    """Squared singular values of (B, m, n) matrices: (B, min(m, n)), descending, float64."""
    with torch.no_grad():
        values: Tensor = torch.linalg.svdvals(a.detach())
        return values.to(torch.float64).square()


def batched_split(a: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Orthonormal bases (B, m, r) and the rest (B, r, n), each matrix nearly basis @ rest.

    Args:
        a: (B, m, n).
        rank: at most min(m, n).

    Returns:
        both, differentiable in `a` also at equal singular values. Cost: B thin SVDs; of wide matrices, B triangles of a
        QR and their SVDs.
    """
    if a.requires_grad and torch.is_grad_enabled():
        parts = [split(matrix, max_rank=rank, driver="svd") for matrix in a]
        return torch.stack([p.basis for p in parts]), torch.stack([p.rest for p in parts])
    m, n = a.shape[-2:]
    if n > 2 * m:
        small = torch.linalg.qr(a.mH, mode="r").R.mH
        u = torch.linalg.svd(small, full_matrices=False)[0]
    else:
        u = torch.linalg.svd(a, full_matrices=False)[0]
    basis = u[..., :rank].contiguous()
    return basis, basis.mH @ a
