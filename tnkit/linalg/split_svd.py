"""Split by the singular value decomposition of the whole matrix: the reference, for small ones."""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.linalg.cut import Cut, Split, finish, rounding2
from tnkit.linalg.products import wide_dtype
from tnkit.linalg.tall_qr import reduced_qr
from tnkit.linalg.tsqr import triangle
from tnkit.registry import SPLIT_DRIVERS

__all__ = ["safe_svd", "svd_split"]

_SMALL = 512


def safe_svd(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The reduced SVD (u, s, vh); where the default kernel does not converge, another one.

    Never full matrices. The remedies, in order: on CUDA the QR-iteration kernel; the transposed matrix (which takes
    other steps); a QR first.
    """
    try:
        return _reduced(a)
    except torch.linalg.LinAlgError:
        pass
    if a.is_cuda:
        u, s, vh = torch.linalg.svd(a, full_matrices=False, driver="gesvd")
        return u, s, vh
    try:
        v, s, uh = _reduced(a.mH)
        return uh.mH, s, v.mH
    except torch.linalg.LinAlgError:
        q, r = reduced_qr(a.mH if a.shape[0] < a.shape[1] else a)
        u, s, vh = _reduced(r)
        return (vh.mH, s, (q @ u).mH) if a.shape[0] < a.shape[1] else (q @ u, s, vh)


def _reduced(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The SVD; of small matrices in single precision in double, as vectors are orthonormal to 1e-6 only otherwise."""
    wide = wide_dtype(a.dtype)
    if a.dtype == wide or max(a.shape) > _SMALL:
        u, s, vh = torch.linalg.svd(a, full_matrices=False)
        return u, s, vh
    u, s, vh = torch.linalg.svd(a.to(wide), full_matrices=False)
    return u.to(a.dtype), s.to(torch.float32), vh.to(a.dtype)


def svd_split(a: Tensor, cut: Cut) -> Split:
    """Left split of `a` (m, n) by its SVD; a very tall or wide one is made square by a QR first.

    Cost: about 20 m n min(m, n), and memory of a few copies of `a`.
    """
    m, n = a.shape
    if n > 3 * m:
        u, s, _ = safe_svd(triangle(a.mT).mT)
    elif m > 3 * n:
        q, upper = reduced_qr(a)
        u, s, _ = safe_svd(upper)
        u = q @ u
    else:
        u, s, _ = safe_svd(a)
    s2 = s.to(torch.float64).square()
    noise2 = rounding2(a.dtype, min(m, n), cut.norm2)
    basis = u[:, : cut.rank(s2, least2=noise2)].clone(memory_format=torch.contiguous_format)
    return finish(a, basis, s2, cut, "svd", trust2=1e4 * noise2)


SPLIT_DRIVERS.register("svd", svd_split)
