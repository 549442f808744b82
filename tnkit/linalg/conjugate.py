"""Conjugate gradients for a positive definite system that is given by its products.

Reference: Hestenes, Stiefel 1952, doi:10.6028/jres.049.044.

Example:
    >>> import torch
    >>> a, b = torch.tensor([[4.0, 1.0], [1.0, 3.0]]), torch.tensor([1.0, 2.0])
    >>> x = conjugate_gradients(lambda v: a @ v, b, lambda r: r / a.diagonal(), max_steps=10, tol=1e-6)
    >>> torch.allclose(a @ x, b)
    True
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients"]


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    precondition: Callable[[Tensor], Tensor],
    *,
    max_steps: int,
    tol: float,
    start: Tensor | None = None,
) -> Tensor:
    """A x = b, of any shape.

    Args:
        product: A x.
        b: the right side.
        precondition: about A⁻¹ r; symmetric and positive definite.
        max_steps: at the most.
        tol: it ends when the residual is below this share of `b`, by norm.
        start: x to begin with; zero by default.

    Cost: a product and a preconditioning a step.
    """
    x = torch.zeros_like(b) if start is None else start
    r = b if start is None else b - product(x)
    z = precondition(r)
    along, size, enough = z, float((r * z).sum()), tol * float(b.norm())
    for _ in range(max_steps):
        if size <= 0 or float(r.norm()) <= enough:
            break
        image = product(along)
        alpha = size / max(float((along * image).sum()), 1e-300)
        x, r = x + alpha * along, r - alpha * image
        z = precondition(r)
        after = float((r * z).sum())
        along, size = z + (after / size) * along, after
    return x
