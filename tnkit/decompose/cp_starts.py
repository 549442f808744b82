"""Starts for CP: from a generalised eigenvalue problem, from the singular vectors of the unfoldings, at random.

Simultaneous diagonalisation: if r is at most two sides of a three-way tensor, two random mixtures S₁, S₂ of its
compressed slices are A D₁ Bᵀ and A D₂ Bᵀ, so that A holds the eigenvectors of S₁ S₂⁻¹ (Leurgans, Ross, Abel,
doi:10.1137/0614071; Sanchez & Kowalski, doi:10.1002/cem.1180040105). It is exact for exact data, and a start otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import prod

import torch
from torch import Tensor

from tnkit.linalg import split
from tnkit.rng import normal

__all__ = ["eigen_start", "random_start", "svd_start"]


def random_start(x: Tensor, rank: int, norm: float, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Normal factors whose dense tensor has about this norm."""
    scale = (norm / (x.numel() * rank) ** 0.5) ** (1.0 / x.ndim)
    return (x.new_ones(rank), *(normal((n, rank), x, rng) * scale for n in x.shape))


def svd_start(x: Tensor, rank: int, norm: float, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Leading left singular vectors of each unfolding, random columns where a mode has fewer."""
    factors = []
    for k, n in enumerate(x.shape):
        unfolded = x.movedim(k, 0).reshape(n, -1)
        basis = split(unfolded, max_rank=min(rank, *unfolded.shape), norm2=norm**2, rng=rng).basis
        more = normal((n, rank - basis.shape[1]), x, rng) / n**0.5
        factors.append(torch.cat([basis, more], dim=1) * (norm / rank**0.5) ** (1.0 / x.ndim))
    return (x.new_ones(rank), *factors)


def eigen_start(x: Tensor, rank: int, norm: float, rng: torch.Generator) -> tuple[Tensor, ...] | None:
    """Simultaneous diagonalisation; None if no grouping of the modes has two sides of at least the rank."""
    groups = _grouping(x.shape, rank)
    if groups is None:
        return None
    order = [k for group in groups for k in group]
    a, b, c = (prod(x.shape[k] for k in group) for group in groups)
    cube = x.permute(order).reshape(a, b, c)
    left = split(cube.reshape(a, -1), max_rank=rank, norm2=norm**2, rng=rng).basis
    if left.shape[1] < rank:
        return None
    cube = torch.tensordot(left.mH, cube, dims=1)  # (r, b, c)
    right = split(cube.movedim(1, 0).reshape(b, -1), max_rank=rank, norm2=norm**2, rng=rng).basis
    if right.shape[1] < rank:
        return None
    core = torch.tensordot(right.mH, cube, dims=([1], [1])).movedim(0, 1)  # (r, r, c)
    mixed = core.reshape(-1, c) @ normal((c, 2), x, rng)
    first, second = mixed[:, 0].reshape(rank, rank), mixed[:, 1].reshape(rank, rank)
    try:
        vectors = torch.linalg.eig(torch.linalg.lstsq(second.mT, first.mT).solution.mT).eigenvectors
        vectors = _real_basis(vectors) if not x.is_complex() else vectors
        rest = torch.linalg.solve(vectors, core.reshape(rank, -1))  # term t: b_t c_tᵀ
    except torch.linalg.LinAlgError:
        return None
    if not bool(torch.isfinite(torch.view_as_real(rest) if rest.is_complex() else rest).all()):
        return None
    u, s, vh = torch.linalg.svd(rest.reshape(rank, rank, c), full_matrices=False)
    sides = (left @ vectors, right @ u[:, :, 0].mT, (s[:, :1] * vh[:, 0]).mT)
    factors: dict[int, Tensor] = {}
    for group, side in zip(groups, sides, strict=True):
        factors |= dict(zip(group, _apart(side, [x.shape[k] for k in group]), strict=True))
    return (x.new_ones(rank), *(factors[k].contiguous() for k in range(x.ndim)))


def _grouping(shape: Sequence[int], rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Modes for the two sides of at least the rank, as small as may be, and the others (at least 2 in all)."""
    modes = [k for k, n in enumerate(shape) if n > 1]
    best: tuple[int, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] | None = None
    subsets = [s for m in range(1, len(modes)) for s in combinations(modes, m)]
    for a in subsets:
        for b in subsets:
            if set(a) & set(b) or a > b:
                continue
            rest = tuple(k for k in range(len(shape)) if k not in a and k not in b)
            sizes = [prod(shape[k] for k in group) for group in (a, b, rest)]
            if sizes[0] >= rank and sizes[1] >= rank and sizes[2] >= 2 and (best is None or sum(sizes[:2]) < best[0]):
                best = (sum(sizes[:2]), (a, b, rest))
    return None if best is None else best[1]


def _real_basis(vectors: Tensor) -> Tensor:
    """Real parts and imaginary parts of conjugated pairs of eigenvectors: a real basis of the same space."""
    parts = torch.where(vectors.imag.sum(0) < 0, vectors.imag, vectors.real)
    norms: Tensor = torch.linalg.vector_norm(parts, dim=0)
    return parts / norms.clamp_min(torch.finfo(parts.dtype).tiny)


def _apart(columns: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """For each column, read as a tensor of this shape, vectors whose product is nearly that tensor."""
    parts, rest = [], columns.mT  # (r, n_0 n_1 …)
    for n in shape[:-1]:
        u, _, _ = torch.linalg.svd(rest.reshape(rest.shape[0], n, -1), full_matrices=False)
        vector = u[:, :, 0]
        parts.append(vector.mT)
        rest = torch.bmm(vector.conj()[:, None, :], rest.reshape(rest.shape[0], n, -1))[:, 0]
    return [*parts, rest.mT]
