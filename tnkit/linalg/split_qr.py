"""Split by a Q-less QR of the tall orientation and the SVD of the small R: all singular values, exact to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.linalg.cut import Cut, Split, finish, left_from_right, rounding2
from tnkit.linalg.split_svd import safe_svd
from tnkit.linalg.tsqr import triangle
from tnkit.registry import SPLIT_DRIVERS

__all__ = ["qr_split"]


def qr_split(a: Tensor, cut: Cut) -> Split:
    """Left split of `a` (m, n) with all singular values to machine precision.

    Cost: about 4 min(m, n)² max(m, n), and 2 m n r for the projection.
    """
    m, n = a.shape
    noise2 = rounding2(a.dtype, min(m, n), cut.norm2)
    u, s, _ = safe_svd(triangle(a.mT).mT if m <= n else triangle(a).mH)
    s2 = s.to(torch.float64).square()
    basis = u[:, : cut.rank(s2, least2=noise2)].clone(memory_format=torch.contiguous_format)
    if m > n:
        basis = left_from_right(a, basis)
    return finish(a, basis, s2, cut, "qr", trust2=1e4 * noise2)


SPLIT_DRIVERS.register("qr", qr_split)
