"""Split by eigenvalues of the smaller Gram matrix: one symmetric product, resolution √(machine eps)·σ₁.

Reference: Röhrig-Zöllner, Thies, Basermann, arXiv:2102.00104, section 3, for how this compares with Q-less QR.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.linalg.cut import Cut, Split, finish, gram_noise2, left_from_right, residual_noise2, rounding2
from tnkit.linalg.products import gram, row_energies
from tnkit.registry import SPLIT_DRIVERS

__all__ = ["gram_eigen", "gram_split"]


def gram_split(a: Tensor, cut: Cut) -> Split:
    """Left split of `a` (m, n) through a aᴴ or aᴴ a, whichever is smaller.

    float32 data is first multiplied in float32 with float64 sums, which resolves 2e-8 to 1e-6 of the energy (see
    `gram_eigen`); if what is asked, or what turns out to be discarded, is below what that resolves, once more in
    float64.

    Cost: min(m, n)² max(m, n) to twice that for the product, 2 m n r for the projection.
    """
    rough = a.dtype in (torch.float32, torch.complex64)
    hopeful = cut.tail2 is None or cut.tail2 >= 100 * gram_noise2(a.dtype, cut.norm2, precise=False)
    whole = cut.tail2 is None and cut.max_rank == min(a.shape)  # all values are asked for: as exact as can be
    done = _attempt(a, cut, precise=False) if rough and hopeful and not whole else None
    split = done or _attempt(a, cut, precise=True)
    assert split is not None
    return split


def _attempt(a: Tensor, cut: Cut, *, precise: bool) -> Split | None:
    """The split, or None if the imprecise product does not tell what was asked or what is discarded."""
    m, n = a.shape
    s2, vectors, noise2 = gram_eigen(a if m <= n else a.mT, cut.norm2, precise=precise)
    single = a.dtype in (torch.float32, torch.complex64)
    if single and not precise and cut.tail2 is not None and cut.tail2 < 100 * noise2:
        return None
    r = cut.rank(s2, noise2, rounding2(a.dtype, min(m, n), cut.norm2) if single else 0.0)
    if single and not precise and r < min(m, n) and float(s2[r:].sum()) < 100 * noise2:
        return None
    basis = vectors[:, :r].to(a.dtype, copy=True, memory_format=torch.contiguous_format)
    if m > n:
        basis = left_from_right(a, basis.conj().resolve_conj())
    return finish(a, basis, s2, cut, "gram", trust2=max(100 * noise2, 64 * residual_noise2(a.dtype, cut.norm2)))


def gram_eigen(a: Tensor, norm2: float, *, precise: bool) -> tuple[Tensor, Tensor, float]:
    """Eigenvalues (descending, not negative) and eigenvectors of a aᴴ, both in float64, and the error of a tail.

    For float32 without `precise` that error is measured: sums of equal numbers all round the same way, and what that
    does to the diagonal is seen by comparing it with the energies of the rows.
    """
    g = gram(a, precise=precise)
    noise2 = gram_noise2(a.dtype, norm2, precise=precise)
    if not precise and a.dtype in (torch.float32, torch.complex64):
        noise2 += 4 * float((g.diagonal().real - row_energies(a)).abs().sum())
    values, vectors = torch.linalg.eigh(g)
    return values.flip(0).clamp_min(0), vectors.flip(1), noise2


SPLIT_DRIVERS.register("gram", gram_split)
