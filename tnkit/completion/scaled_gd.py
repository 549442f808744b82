"""ScaledGD: gradient descent on Tucker factors, preconditioned so that its rate does not know the condition number.

    U_k ← U_k − (η/p) ∇_k (Ŭ_kᵀŬ_k + λI)⁻¹,      G ← G − (η/p) ∇_G ×_k (U_kᵀU_k + λI)⁻¹,

where p is the share observed, Ŭ_k = (⊗_{j≠k} U_j) G_(k)ᵀ, and ∇ are the gradients of ½‖P_Ω(X̂ − Y)‖². With λ = 0 it
starts from the leading eigenvectors of the unfoldings' Gram matrices without their diagonals; with λ > 0, ScaledGD(λ),
from small random factors, and a rank that is too large does no harm.

References: Tong, Ma, Prater-Bennette, Tripp, Chi 2022, "Scaling and scalability", JMLR 23, arXiv:2104.14526 (completion
with the spectral start); Tong, Ma, Chi 2021, arXiv:2005.08898; Xu, Shen, Chi, Ma 2023, arXiv:2302.01186 (λ, small
start).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionProblem, own_layout, register
from tnkit.completion.descent_method import DescentMethod
from tnkit.completion.factor_descent import fit_tensors, gradients, real_values
from tnkit.completion.observations import Observations
from tnkit.completion.unfolded import mode_spaces, zero_filled_core
from tnkit.errors import OptionError
from tnkit.formats import Layout
from tnkit.rng import normal

__all__ = ["ScaledGD"]

Tensors = tuple[Tensor, ...]


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledGD(DescentMethod):
    """Scaled gradient descent for Tucker; ScaledGD(λ) with `damping` above 0.

    Attributes:
        step: η.
        damping: λ as a share of the largest eigenvalue of what it damps at the end; 0 for none.
        small: the size of the random start where λ > 0, relative to the data.
        max_steps, tol, patience, holdout, max_rank, starts: as of `DescentMethod`.

    Raises:
        OptionError: numbers outside their ranges.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.fromfunction(lambda i, j, k: 1.0 + i * j + k, (12, 12, 12))
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.5
        >>> done = complete(x, "tucker", mask=mask, rank=2, method="scaled_gd")
        >>> bool(np.linalg.norm(done.filled - x) < 1e-2 * np.linalg.norm(x))
        True
    """

    step: float = 0.25
    damping: float = 0.0
    small: float = 0.1
    max_steps: int = 400
    tol: float = 1e-3
    patience: int = 20
    name: ClassVar[str] = "scaled_gd"
    only: ClassVar[str] = "tucker"
    refit: ClassVar[int] = 50
    summary: ClassVar[str] = "scaled gradient descent for Tucker, at a rate free of the condition number"

    def check(self) -> None:
        """Refuse a step, a damping or a start that cannot be."""
        if not (0 < self.step < 2 and self.damping >= 0 and self.small > 0):
            raise OptionError(f"{self!r}: step must be above 0 and below 2, damping at least 0, small above 0.")

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            OptionError: another format than Tucker.
        """
        layout = own_layout(self, problem)
        real_values(problem.observations, self.name)
        return fit_tensors(problem, layout, lambda obs: _Scaled(self, layout, obs, problem.rng), self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class _Scaled:
    method: ScaledGD
    layout: Layout
    obs: Observations
    rng: torch.Generator

    def start(self, ranks: tuple[int, ...], before: Tensors | None) -> Tensors:
        """Spectral, or small and random; where it was already at these ranks, from there."""
        if before is not None and self.layout.ranks_of(before) == ranks:
            return before
        if self.method.damping:
            factors = [
                normal((n, r), self.obs.values, self.rng) / n**0.5 for n, r in zip(self.obs.shape, ranks, strict=True)
            ]
            core = normal(ranks, self.obs.values, self.rng)
            size = (self.obs.n / self.obs.fraction) ** 0.5
            return (core * (self.method.small * size / float(core.norm())), *factors)
        factors = mode_spaces(self.obs, ranks, self.rng)
        return (zero_filled_core(self.obs, factors), *factors)

    def step(self, state: Tensors, number: int) -> Tensors:
        """One step on all tensors at once."""
        obs, method = self.obs, self.method
        w = 1.0 if obs.weights is None else obs.weights
        _, (by_core, *by_factors) = gradients(
            self.layout, state, obs.indices, lambda v: 0.5 * (w * (v - obs.values).square()).sum()
        )
        core, *factors = state
        grams = [f.mT @ f for f in factors]
        rate = method.step / obs.fraction
        moved = []
        for k, (factor, slope) in enumerate(zip(factors, by_factors, strict=True)):
            wide = core
            for j, gram in enumerate(grams):
                if j != k:
                    wide = torch.tensordot(gram, wide, dims=([1], [j])).movedim(0, j)
            moved.append(
                factor - rate * self.scaled(wide.movedim(k, 0).flatten(1) @ core.movedim(k, 0).flatten(1).mT, slope)
            )
        for k, gram in enumerate(grams):
            flat = by_core.movedim(k, 0).flatten(1)
            by_core = self.scaled(gram, flat.mT).mT.reshape(by_core.movedim(k, 0).shape).movedim(0, k)
        return (core - rate * by_core, *moved)

    def scaled(self, gram: Tensor, slope: Tensor) -> Tensor:
        """Slope (gram + λI)⁻¹."""
        top = gram.diagonal().sum().clamp_min(torch.finfo(gram.dtype).tiny)
        shift = max(self.method.damping, 1e-12) * top * torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
        solved: Tensor = torch.linalg.solve(gram + shift, slope.mT)
        return solved.mT

    def tensors(self, state: Tensors) -> Tensors:
        """The state is the network."""
        return state
