"""Transforms along modes, and the shrinkage of the slices between them: what tubal nuclear norms are made of.

Example:
    >>> import torch
    >>> from tnkit.completion.slices import dct, shrink_slices
    >>> t = torch.ones(4, 3, 2, dtype=torch.float64)
    >>> float(shrink_slices(t, (dct(2, t),), 0.0).sub(t).abs().max()) < 1e-12
    True
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["apply_transforms", "dct", "learnt", "shrink_matrix", "shrink_slices", "top_value"]


def dct(n: int, like: Tensor) -> Tensor:
    """The orthonormal DCT-II, (n, n)."""
    k = torch.arange(n, device=like.device, dtype=torch.float64)
    d = torch.cos(math.pi / n * (k[None, :] + 0.5) * k[:, None]) * (2 / n) ** 0.5
    d[0] = d[0] / 2**0.5
    matrix: Tensor = d.to(like.dtype)
    return matrix


def learnt(t: Tensor, mode: int) -> Tensor:
    """The orthonormal transform along a mode whose components carry most: (n, n), rows by falling singular value."""
    flat = t.movedim(mode, 0).flatten(1)
    vectors: Tensor = torch.linalg.eigh(flat @ flat.mT)[1]
    return vectors.flip(1).mT


def apply_transforms(t: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply the modes after the second by matrices."""
    for k, d in enumerate(matrices, start=2):
        t = torch.tensordot(t, d, dims=([k], [1])).movedim(-1, k)
    return t


def shrink_slices(t: Tensor, transforms: Sequence[Tensor], tau: float) -> Tensor:
    """The proximal map of τ‖·‖_TNN: singular values of the slices over the first two modes, transformed, less τ."""
    z = apply_transforms(t, transforms)
    z = shrink_matrix(z.reshape(*z.shape[:2], -1).permute(2, 0, 1), tau)
    back = z.permute(1, 2, 0).reshape(t.shape)
    return apply_transforms(back, [d.mT for d in transforms])


def shrink_matrix(z: Tensor, tau: float, spared: int = 0) -> Tensor:
    """Singular values of matrices (…, m, n) less τ, but for the first `spared`; by Gram matrix and eigenvalues."""
    tall = z.shape[-2] > z.shape[-1]
    z = z.mT if tall else z
    values, vectors = torch.linalg.eigh(z @ z.mT)
    sigma = values.clamp_min(0).sqrt()
    keep = torch.where(sigma > tau, 1 - tau / sigma.clamp_min(torch.finfo(z.dtype).tiny), 0.0)
    if spared:
        keep[..., -spared:] = 1.0
    left = int((keep > 0).sum(-1).max())
    first = z.shape[-2] - left
    vectors, keep = vectors[..., first:], keep[..., first:]
    scaled = vectors * keep[..., None, :]
    # the cheaper order of the product V diag(keep) Vᵀ Z
    few = 2 * left * z.shape[-1] < z.shape[-2] * (left + z.shape[-1])
    z = scaled @ (vectors.mT @ z) if few else (scaled @ vectors.mT) @ z
    return z.mT if tall else z


def top_value(z: Tensor) -> float:
    """The largest singular value of matrices (…, m, n)."""
    z = z.mT if z.shape[-2] > z.shape[-1] else z
    return float(torch.linalg.eigvalsh(z @ z.mT).amax().clamp_min(0).sqrt())
