"""Damped Gauss–Newton steps: fast near a solution, where alternating least squares crawls.

The step solves (JᴴJ + μD) δ = Jᴴ(x − x̂) with J = ∂x̂/∂θ; μ follows Nielsen's rule, as in Levenberg–Marquardt (Madsen,
Nielsen, Tingleff, Methods for non-linear least squares problems, 2004, section 3.2). The residual is formed, not a
difference of norms, so it converges to machine precision, and the error is the measured one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Linearised", "NewtonState", "newton_start", "newton_step"]

#: Below the one the gauge directions of a network make the matrix singular; above the other nothing moves.
LEAST_DAMPING, MOST_DAMPING = 1e-13, 1e12


@runtime_checkable
class Linearised(Protocol):
    """A fit of which the derivative is known."""

    norm: float

    def error(self, tensors: Sequence[Tensor]) -> float:
        """The measured relative error."""

    def linearise(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Jᴴ(x − x̂), JᴴJ, and for each parameter the size of the diagonal of its block."""

    def moved(self, tensors: Sequence[Tensor], delta: Tensor) -> tuple[Tensor, ...]:
        """The parameters after a step."""


@dataclass(frozen=True, slots=True, eq=False)
class NewtonState:
    """Where the iteration stands.

    Attributes:
        tensors: the parameters.
        error: relative error.
        damping: μ, as a share of the mean diagonal of a node's block.
        growth: what μ is multiplied by after a step that failed.
    """

    tensors: tuple[Tensor, ...]
    error: float
    damping: float = 1e-2
    growth: float = 2.0


def newton_start(problem: Linearised, tensors: Sequence[Tensor], damping: float = 1e-2) -> NewtonState:
    """The state of some parameters."""
    return NewtonState(tuple(tensors), problem.error(tensors), damping)


def newton_step(problem: Linearised, state: NewtonState, tries: int = 6) -> NewtonState:
    """One step that lowers the error, or the same parameters with more damping where none of some tries does.

    Cost: that of JᴴJ, then P³/3 and one dense tensor for each try, P the number of parameters.
    """
    slope, curvature, scale = problem.linearise(state.tensors)
    damping, growth = state.damping, state.growth
    for _ in range(tries):
        shifted = curvature + torch.diag_embed((scale * damping).to(curvature.dtype))
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            delta = torch.cholesky_solve(slope[:, None], factor)[:, 0]
            tensors = problem.moved(state.tensors, delta)
            error = problem.error(tensors)
            if error < state.error:
                gained = (state.error**2 - error**2) * problem.norm**2
                foreseen = float((delta.conj() * (scale * damping * delta + slope)).real.sum())
                ratio = gained / foreseen if foreseen > 0 else 1.0
                damping *= max(1 / 10, 1 - (2 * min(ratio, 1.5) - 1) ** 3)
                return NewtonState(tensors, error, max(damping, LEAST_DAMPING), 2.0)
        damping, growth = damping * growth, growth * 2
    return NewtonState(state.tensors, state.error, min(damping, MOST_DAMPING), growth)
