"""Split by eigenvalues of the smaller Gram matrix: one symmetric product, resolution √(machine eps)·σ₁.

Reference: Röhrig-Zöllner, Thies, Basermann, arXiv:2102.00104, section 3, for how this compares with Q-less QR.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.linalg.cut import Cut, Split, finish, gram_noise2, left_from_right, residual_noise2, rounding2
from tnkit.linalg.products import gram
from tnkit.registry import SPLIT_DRIVERS

__all__ = ["gram_eigen", "gram_split"]


def gram_split(a: Tensor, cut: Cut) -> Split:
    """Left split of `a` (m, n) through a aᴴ or aᴴ a, whichever is smaller.

    float32 data is first multiplied in float32 with float64 sums (resolution 1e-6 of the energy); if what is asked, or
    what turns out to be discarded, is below what that resolves, once more in float64.

    Cost: min(m, n)² max(m, n) to twice that for the product, 2 m n r for the projection.
    """
    rough = a.dtype in (torch.float32, torch.complex64)
    need = 100 * gram_noise2(a.dtype, cut.norm2, precise=False)
    if rough and (cut.max_rank < min(a.shape) if cut.tail2 is None else cut.tail2 >= need):
        done = _attempt(a, cut, precise=False, need=need)
        if done is not None:
            return done
    split = _attempt(a, cut, precise=True, need=-1.0)
    assert split is not None
    return split


def _attempt(a: Tensor, cut: Cut, *, precise: bool, need: float) -> Split | None:
    """The split, or None if it discards less than `need`: then this precision does not tell."""
    m, n = a.shape
    noise2 = gram_noise2(a.dtype, cut.norm2, precise=precise)
    s2, vectors = gram_eigen(a if m <= n else a.mT, precise=precise)
    rough = a.dtype in (torch.float32, torch.complex64)
    r = cut.rank(s2, noise2, rounding2(a.dtype, min(m, n), cut.norm2) if rough else 0.0)
    if r < min(m, n) and float(s2[r:].sum()) < need:
        return None
    basis = vectors[:, :r].to(a.dtype, copy=True, memory_format=torch.contiguous_format)
    if m > n:
        basis = left_from_right(a, basis.conj().resolve_conj())
    return finish(a, basis, s2, cut, "gram", trust2=max(100 * noise2, 64 * residual_noise2(a.dtype, cut.norm2)))


def gram_eigen(a: Tensor, *, precise: bool) -> tuple[Tensor, Tensor]:
    """Eigenvalues (descending, not negative) and eigenvectors of a aᴴ, both in float64."""
    values, vectors = torch.linalg.eigh(gram(a, precise=precise))
    return values.flip(0).clamp_min(0), vectors.flip(1)


SPLIT_DRIVERS.register("gram", gram_split)
