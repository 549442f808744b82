"""The exponent of the heavy tail of a weight's spectrum, on square parts, so that layers of any shape can be compared.

The eigenvalues of WᵀW of a well trained layer fall like a power law. A fit over the whole matrix depends on its aspect
ratio more than on its training, so squares of the full smaller side are cut from it, their eigenvalues are put
together, and Hill's estimator reads the exponent from the upper half: the smaller, the heavier the tail.

References:
    Hu et al., Eigenspectrum analysis of neural networks without aspect ratio bias, arXiv 2506.06280.
    Martin et al., doi:10.1038/s41467-021-24025-8; Hill (1975), doi:10.1214/aos/1176343247.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.errors import ShapeError

__all__ = ["heavy_tail_exponent"]

#: At most so many squares of a long matrix.
SQUARES = 8


def heavy_tail_exponent(matrix: Tensor, *, tail: float = 0.5) -> float:
    """Hill's estimate of the exponent of the eigenvalue density of WᵀW, over square parts of W.

    Args:
        matrix: (m, n), any float dtype.
        tail: share of the eigenvalues that counts as the tail.

    Returns:
        1 + k / Σ ln(λ_i / λ_k) over the k largest; infinite where these are all equal, NaN for fewer than four.

    Raises:
        ShapeError: no matrix.

    Cost:
        O(min(m, n)³) for each of at most eight squares.

    Example:
        >>> import torch
        >>> from tnkit.nn.heavy_tail import heavy_tail_exponent
        >>> heavy = torch.diag(torch.arange(1.0, 201.0) ** -1.0)  # eigenvalues k^-2: density exponent 1 + 1/2
        >>> round(heavy_tail_exponent(heavy), 1)
        1.5
    """
    if matrix.ndim != 2:
        raise ShapeError(f"heavy_tail_exponent takes a matrix (m, n); this one has shape {tuple(matrix.shape)}.")
    tall = matrix.detach().to(torch.float64)
    tall = tall if tall.shape[0] >= tall.shape[1] else tall.mT
    side = tall.shape[1]
    count = min(-(-tall.shape[0] // side), SQUARES)
    starts = [round(k * (tall.shape[0] - side) / max(count - 1, 1)) for k in range(count)]
    energy = torch.cat([torch.linalg.svdvals(tall[s : s + side]).square() for s in starts]).sort(descending=True)[0]
    energy = energy[energy > energy[:1] * torch.finfo(torch.float64).eps]
    k = int(len(energy) * tail)
    if k < 2:
        return float("nan")
    logs = (energy[:k] / energy[k]).log().mean()
    return float("inf") if float(logs) <= 0 else float(1.0 + 1.0 / logs)
