"""The triangle of a tall QR without its Q, in blocks of rows that stay in cache.

Reference: Demmel, Grigori, Hoemmen, Langou, Communication-optimal parallel and sequential QR, doi:10.1137/080731992
(here the flat tree); Röhrig-Zöllner, Thies, Basermann, arXiv:2102.00104.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["triangle"]


def triangle(tall: Tensor, block: int | None = None) -> Tensor:
    """R of the QR of a tall matrix, without Q.

    Args:
        tall: (n, m), n >= m, any strides.
        block: rows taken at a time (default: 16 m, at least 2048).

    Returns:
        (m, m) upper triangular, with Rᴴ R = tallᴴ tall to machine precision (backward stable).

    Cost:
        2 n m² flops; memory of two blocks.

    Example:
        >>> import torch
        >>> abs(triangle(torch.tensor([[3.0], [4.0]]))).tolist()
        [[5.0]]
    """
    n, m = tall.shape
    step = block or max(16 * m, 2048)
    r = tall[:0]
    for i in range(0, n, step):
        r = torch.linalg.qr(torch.cat([r, tall[i : i + step]]), mode="r").R
    return r
