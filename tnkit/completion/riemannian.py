"""Riemannian conjugate gradients on the manifold of Tucker tensors, or of tensor trains, of fixed ranks.

A point is kept with its tensors orthogonal towards a root (the core; the last core of a train). A tangent vector is a
change δ_k of each tensor with U_kᵀ δ_k = 0 outside the root; the blocks are then orthogonal to each other, and

    ⟨δ, δ'⟩ = Σ_k tr(δ_k S_k δ'_kᵀ),        gradient: δ_k = (I − U_k U_kᵀ) ∇_k S_k⁻¹,

with S_k the Gram matrix of the bond towards the root and ∇_k the plain gradient. A step: the exact line search of the
linearised problem, α = −⟨η, grad⟩ / ‖P_Ω η‖²; retraction by truncation of X + αη, whose ranks are at most doubled; the
old direction is carried over by projection; Polak–Ribière with restarts. Where no rank is given, ranks grow by one
from the last point, as the control set allows.

References: Kressner, Steinlechner, Vandereycken 2014, doi:10.1007/s10543-013-0455-z (Tucker); Steinlechner 2016,
doi:10.1137/15M1010506 (tensor trains, ranks by a control set).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionProblem, register
from tnkit.completion.descent_method import DescentMethod
from tnkit.completion.factor_descent import fit_tensors, one_of, real_values, values_at
from tnkit.completion.observations import Observations
from tnkit.completion.sweep import grown
from tnkit.completion.tangents import Geometry, geometry_of
from tnkit.completion.unfolded import mode_spaces, zero_filled_core
from tnkit.formats import Layout, random_tensors

__all__ = ["RiemannianCG"]

Tensors = tuple[Tensor, ...]


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class RiemannianCG(DescentMethod):
    """Conjugate gradients on the manifold of Tucker tensors ("tucker") or tensor trains ("tt").

    Attributes:
        max_steps, tol, patience, holdout, max_rank, starts: as of `DescentMethod`.

    Cost: a step takes some four evaluations of the format at the entries, and d decompositions at twice the ranks.

    Raises:
        OptionError: numbers outside their ranges.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.fromfunction(lambda i, j, k: 1.0 + i * j + k, (12, 12, 12))
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.5
        >>> done = complete(x, "tt", mask=mask, rank=2, method="riemannian")
        >>> bool(np.linalg.norm(done.filled - x) < 1e-3 * np.linalg.norm(x))
        True
    """

    max_steps: int = 250
    tol: float = 1e-2
    patience: int = 12
    max_rank: int = 10
    starts: int = 3
    name: ClassVar[str] = "riemannian"
    refit: ClassVar[int] = 30
    summary: ClassVar[str] = "Riemannian conjugate gradients for Tucker and tensor trains"

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            OptionError: another format than Tucker or tensor trains.
        """
        layout = one_of(problem, self, ("tucker", "tt"))
        real_values(problem.observations, self.name)
        geometry = geometry_of(layout)
        return fit_tensors(problem, layout, lambda part: _Descent(layout, geometry, part, problem.rng), self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """x: the point. gradient, direction: the last ones, carried over to x, or None before the first step."""

    x: Tensors
    gradient: Tensors | None = None
    direction: Tensors | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Descent:
    layout: Layout
    geometry: Geometry
    obs: Observations
    rng: torch.Generator

    def start(self, ranks: tuple[int, ...], before: Tensors | None) -> _State:
        """From smaller ranks with a little noise, from the unfoldings' eigenvectors, or at random for trains."""
        ranks = self.layout.ranks_of(random_tensors(self.layout, ranks, self.obs.values, self.rng))
        if before is not None:
            same = self.layout.ranks_of(before) == ranks
            tensors = before if same else grown(self.layout, before, ranks, 0.01, self.rng)
        elif self.layout.name == "tucker":
            factors = mode_spaces(self.obs, ranks, self.rng)
            tensors = (zero_filled_core(self.obs, factors), *factors)
        else:
            drawn = random_tensors(self.layout, ranks, self.obs.values, self.rng)
            found = values_at(self.layout, drawn, self.obs.indices)
            # the multiple of a random train that is nearest to the entries
            share = float((found * self.obs.values).sum() / found.square().sum().clamp_min(1e-30))
            size = float(found.square().mean().sqrt())
            share = share if abs(share) * size > 1e-3 else 1e-3 / max(size, 1e-30)
            tensors = (*drawn[:-1], drawn[-1] * share)
        return _State(self.geometry.rooted(tensors))

    def step(self, state: _State, number: int) -> _State:
        """One step along the conjugate direction."""
        obs, geometry, x = self.obs, self.geometry, state.x
        w = torch.ones_like(obs.values) if obs.weights is None else obs.weights

        def at_entries(tensors: Tensors) -> Tensor:
            return values_at(self.layout, tensors, obs.indices)

        values, rest_back = _values_and_pullback(at_entries, x)
        residual = w * (values - obs.values)
        gradient = geometry.tangent(x, rest_back(residual))
        square = geometry.inner(x, gradient, gradient)
        if float(square) <= 1e-30:
            return state
        direction = tuple(-g for g in gradient)
        if state.gradient is not None and state.direction is not None:
            old, along = state.gradient, state.direction  # carried over to x by the last step
            beta = float((square - geometry.inner(x, gradient, old)) / geometry.inner(x, old, old).clamp_min(1e-300))
            beta = max(0.0, beta)
            tried = tuple(-g + beta * a for g, a in zip(gradient, along, strict=True))
            if float(geometry.inner(x, tried, gradient)) < -0.1 * float(square):
                direction = tried
        moved = _along(at_entries, x, direction)
        bend = float((w * moved.square()).sum())
        alpha = -float((residual * moved).sum()) / max(bend, 1e-300)
        after = geometry.retract(x, tuple(alpha * d for d in direction))
        gradient, direction = (geometry.carried(x, tangent, after) for tangent in (gradient, direction))
        return _State(after, gradient, direction)

    def tensors(self, state: _State) -> Tensors:
        """The point."""
        return state.x


def _values_and_pullback(
    f: Callable[[Tensors], Tensor], x: Sequence[Tensor]
) -> tuple[Tensor, Callable[[Tensor], Tensors]]:
    leaves = tuple(t.detach().requires_grad_() for t in x)
    with torch.enable_grad():
        values = f(leaves)

    def pull(residual: Tensor) -> Tensors:
        return torch.autograd.grad(values, leaves, residual)

    return values.detach(), pull


def _along(f: Callable[[Tensors], Tensor], x: Sequence[Tensor], direction: Sequence[Tensor]) -> Tensor:
    """The derivative of f in a direction, by differentiating its pullback, which is linear, twice."""
    leaves = tuple(t.detach().requires_grad_() for t in x)
    with torch.enable_grad():
        values = f(leaves)
        dual = torch.zeros_like(values).requires_grad_()
        pulled = torch.autograd.grad(values, leaves, dual, create_graph=True)
        total = torch.stack([(p * d).sum() for p, d in zip(pulled, direction, strict=True)]).sum()
        (found,) = torch.autograd.grad(total, dual)
    return found
