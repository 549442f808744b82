"""Small dense building blocks: positive semidefinite solves, orthonormal bases, square roots.

Reference for Cholesky-QR twice: Yamamoto, Nakatsukasa, Yanagisawa, Fukaya, doi:10.1553/etna_vol44s306.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.errors import ShapeError
from tnkit.linalg.products import gram
from tnkit.linalg.tall_qr import reduced_qr

__all__ = ["orthonormal", "solve_gram", "sqrt_psd"]


def solve_gram(gram: Tensor, rhs: Tensor, ridge: float | Tensor = 0.0) -> Tensor:
    """Solve (gram + ridge I) x = rhs for positive semidefinite, possibly singular, matrices.

    Cholesky first; where that fails or is close to failing, a little of the mean eigenvalue is added to the diagonal,
    10⁰, 10² and 10⁴ machine epsilons of it; where that fails too, the pseudo-inverse by eigenvalues.

    Args:
        gram: (..., n, n) Hermitian positive semidefinite.
        rhs: (..., n, k).
        ridge: added to the diagonal: a number, or a tensor that broadcasts with the batch axes.

    Returns:
        (..., n, k). For a singular matrix and a right side in its range, a solution with a residual of the order of
        rounding.

    Raises:
        ShapeError: not square, or sizes that do not match.

    Cost:
        n³/3 + 2 n² k for each; one check on the host for each attempt.

    Example:
        >>> import torch
        >>> solve_gram(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.tensor([[2.0], [2.0]])).flatten().tolist()
        [1.0, 0.5]
    """
    n = gram.shape[-1]
    if gram.ndim < 2 or gram.shape[-2] != n or rhs.ndim < 2 or rhs.shape[-2] != n:
        raise ShapeError(
            f"solve_gram needs gram (..., n, n) and rhs (..., n, k); seen {tuple(gram.shape)} and {tuple(rhs.shape)}."
        )
    if n == 0:
        return rhs.clone()
    shift = torch.as_tensor(ridge, dtype=gram.real.dtype, device=gram.device)
    eye = torch.eye(n, dtype=gram.dtype, device=gram.device)
    matrix = gram + shift[..., None, None] * eye
    epsilon = torch.finfo(gram.dtype).eps
    mean = matrix.diagonal(dim1=-2, dim2=-1).real.mean(-1).detach().clamp_min(torch.finfo(gram.dtype).tiny)
    for level in (0.0, 1.0, 1e2, 1e4):
        jitter = (level * epsilon * mean)[..., None, None] * eye
        factor, info = torch.linalg.cholesky_ex(matrix + jitter if level else matrix)
        pivots = factor.detach().diagonal(dim1=-2, dim2=-1).real.square()
        sound = (info == 0) & (pivots.amin(-1) > 0.25 * n * epsilon * pivots.amax(-1) * (level == 0))
        if bool(sound.all()):
            solved: Tensor = torch.cholesky_solve(rhs, factor)
            return solved
    vectors: Tensor
    values, vectors = torch.linalg.eigh(matrix)
    keep = values > n * epsilon * values.abs().amax(-1, keepdim=True)
    inverse = torch.where(keep, 1 / torch.where(keep, values, torch.ones_like(values)), torch.zeros_like(values))
    return vectors @ (inverse[..., None] * (vectors.mH @ rhs))


def orthonormal(a: Tensor) -> Tensor:
    """An orthonormal basis that contains the columns of a tall matrix.

    Cholesky-QR twice (products only, fast on every device); Householder QR where the columns are too dependent for it.

    Args:
        a: (m, k), m >= k.

    Returns:
        (m, k) with orthonormal columns, also for rank-deficient or zero `a`; they span at least the range of `a`.

    Raises:
        ShapeError: not 2-D, or more columns than rows.

    Cost:
        8 m k².

    Example:
        >>> import torch
        >>> q = orthonormal(torch.tensor([[1.0, 1.0], [0.0, 2.0], [0.0, 0.0]]))
        >>> torch.allclose(q.mT @ q, torch.eye(2), atol=1e-6)
        True
    """
    if a.ndim != 2 or a.shape[0] < a.shape[1]:
        raise ShapeError(f"orthonormal needs a tall matrix (m, k) with m >= k; seen shape {tuple(a.shape)}.")
    m, k = a.shape
    if k == 0 or m < 4 * k or not a.is_floating_point():
        return reduced_qr(a)[0]
    epsilon, single = torch.finfo(a.dtype).eps, a.dtype == torch.float32
    q: Tensor = a
    for bound in (1e3 * k * epsilon, 0.5):  # the second time q is nearly orthonormal already, and sums must be exact
        g = gram(q.mT, precise=True).to(a.dtype) if bound == 0.5 and single else q.mT @ q
        factor, info = torch.linalg.cholesky_ex(g)
        pivots = factor.diagonal().square()
        if not bool((info == 0) & (pivots.amin() > bound * pivots.amax())):
            return reduced_qr(a)[0]
        q = torch.linalg.solve_triangular(factor.mT, q, upper=True, left=False)
    return q


def sqrt_psd(g: Tensor) -> Tensor:
    """The Hermitian square root of a positive semidefinite matrix.

    Args:
        g: (..., n, n) Hermitian; eigenvalues below zero (rounding) count as zero.

    Returns:
        (..., n, n) Hermitian `s` with s @ s = g.

    Cost:
        about 12 n³.

    Example:
        >>> import torch
        >>> sqrt_psd(torch.tensor([[4.0, 0.0], [0.0, 9.0]])).diagonal().tolist()
        [2.0, 3.0]
    """
    values, vectors = torch.linalg.eigh(g)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()[..., None, :].to(g.dtype)) @ vectors.mH
    return root
