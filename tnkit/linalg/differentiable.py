"""Gradients through a truncation that stay finite where singular values coincide.

Only the subspace matters to anything that is built from basis and rest together, so the derivative of the basis is
taken in the gauge in which it moves at right angles to itself. Divided differences then stand between kept and
discarded values only; two kept ones may be equal. Where a kept value equals a discarded one the subspace has no
derivative, and that part is 0.

Reference: first-order perturbation of invariant subspaces, Stewart & Sun, Matrix Perturbation Theory (1990), chapter V;
the adjoint is worked out here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tnkit.linalg.cut import Split

__all__ = ["moving_basis", "with_gradient"]


class _MovingBasis(torch.autograd.Function):
    """Gives `basis` back, with the derivative of the leading left subspace of `a`."""

    @staticmethod
    def forward(a: Tensor, basis: Tensor) -> Tensor:
        return basis.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        a, basis = ctx.saved_tensors
        r = basis.shape[1]
        u, s, vh = torch.linalg.svd(a, full_matrices=False)
        kept, lost = u[:, :r], u[:, r:]
        # the basis is the kept singular vectors turned by an orthogonal matrix: turn the gradient back
        turned = grad @ (basis.mH @ kept)
        inside = u.mH @ turned
        differences = s[:r] ** 2 - s[r:, None] ** 2  # (lost, kept)
        tied = differences <= torch.finfo(s.dtype).eps * s[0] ** 2 * max(a.shape)
        weights = inside[r:] * torch.where(tied, 0.0, 1.0 / torch.where(tied, 1.0, differences))
        right = s[:r, None] * vh[:r]
        result = lost @ (weights @ right) + kept @ (weights.mH @ (s[r:, None] * vh[r:]))
        if a.shape[0] > u.shape[1]:
            # directions outside the range of a: their singular values are 0
            outside = turned - u @ inside
            positive = s[:r] > torch.finfo(s.dtype).eps * s[0] * max(a.shape)
            inverse = torch.where(positive, 1.0 / torch.where(positive, s[:r], 1.0), 0.0)
            result = result + outside @ (inverse[:, None] * vh[:r])
        return result, None


def moving_basis(a: Tensor, basis: Tensor) -> Tensor:
    """`basis` as a differentiable function of `a`.

    Args:
        a: (m, n), part of a graph.
        basis: (m, r), orthonormal, spanning the r leading left singular vectors of `a`.

    Returns:
        The same values. Gradients are right for functions that depend on basis @ basisᴴ a and the like, not on which
        basis of the subspace was taken. Backward costs one thin SVD of `a`.

    Example:
        >>> import torch
        >>> a = torch.eye(4, 3, dtype=torch.float64, requires_grad=True)  # all singular values coincide
        >>> q = moving_basis(a, torch.eye(4, 3, dtype=torch.float64))
        >>> (q @ (q.mH @ a)).sum().backward()
        >>> bool(a.grad.isfinite().all())
        True
    """
    moved: Tensor = _MovingBasis.apply(a, basis)  # type: ignore[no-untyped-call]
    return moved


def with_gradient(a: Tensor, kernel: Callable[[Tensor], Split]) -> Split:
    """A left split of `a` whose basis and rest are part of its graph.

    Args:
        a: (m, n), part of a graph.
        kernel: finds the split, outside of the graph.
    """
    found = kernel(a)
    basis = moving_basis(a, found.basis)
    return replace(found, basis=basis, rest=basis.mH @ a)
