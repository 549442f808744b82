"""How much squared error a problem allows, and below which number rounding decides."""

from __future__ import annotations

from math import sqrt

from tnkit.arrays import machine_eps
from tnkit.decompose.base import Problem

__all__ = ["allowed2", "floor2", "known_error"]


def floor2(problem: Problem) -> float:
    """The squared error that rounding leaves; less is never asked of a kernel."""
    return (8.0 * machine_eps(problem.x.dtype) * problem.norm) ** 2


def allowed2(problem: Problem) -> float | None:
    """The squared error to aim at: eps less the rounding that the dense result will add; None without eps."""
    asked = problem.error2_allowed
    return None if asked is None else max(asked * (1 - 1e-6) - floor2(problem), floor2(problem))


def known_error(problem: Problem, lost2: float, certain: bool) -> float | None:
    """The relative error of a squared one that is true to 1 %, else None: it has to be measured."""
    if not certain or lost2 < 100.0 * floor2(problem):
        return None
    return sqrt(lost2) / problem.norm
