"""L-BFGS on all nodes of any network at once, with gradients by automatic differentiation.

Useful where alternating least squares crawls and the network is too large for Gauss–Newton steps.

Reference: Nocedal & Wright, Numerical Optimization, 2006, chapter 7 (L-BFGS, strong Wolfe line search); for tensors
Acar, Dunlavy, Kolda, doi:10.1002/cem.1335.

Example:
    >>> import torch, tnkit as tk
    >>> x = tk.random_format("tr", (5, 6, 7), 2, rng=0).to_dense()
    >>> tk.decompose(x, "tr", rank=2, method="quasi_newton").rel_error < 1e-4
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.als import ALS, least_squares, random_starts, svd_starts
from tnkit.decompose.base import Problem
from tnkit.decompose.descent import Trial, descend, ended, rounding_error
from tnkit.decompose.rank_search import RankSearch, steps_of
from tnkit.decompose.sweep import LeastSquares
from tnkit.errors import OptionError
from tnkit.registry import METHODS
from tnkit.solvers import CONVERGED, REACHED, Control, iterate

__all__ = ["QuasiNewton"]


@dataclass(frozen=True, slots=True)
class QuasiNewton(RankSearch):
    """L-BFGS from a few sweeps of alternating least squares, or from random tensors.

    Attributes:
        max_steps: steps of ten L-BFGS iterations each.
        tol: stop when the error falls by less than this, relative to itself, over five steps.
        starts: how many starts are tried; the best result is kept.
        start: "als" (some sweeps first) or "random".
        sweeps: how many sweeps "als" makes.
        memory: pairs of steps and gradients that are kept.
    """

    max_steps: int = 100
    tol: float = 1e-4
    starts: int = 2
    start: str = "als"
    sweeps: int = 10
    memory: int = 20
    name: ClassVar[str] = "quasi_newton"
    formats: ClassVar[tuple[str, ...]] = ("*",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "L-BFGS on all nodes of any network at once, by automatic differentiation"

    def __post_init__(self) -> None:
        """Refuse an unknown start.

        Raises:
            OptionError: it is none of the two, or a number is out of range.
        """
        if self.start not in ("als", "random"):
            raise OptionError(f"QuasiNewton(start={self.start!r}) is unknown. Use 'als' or 'random'.")
        if min(self.max_steps, self.starts, self.sweeps, self.memory) < 1 or self.tol < 0:
            raise OptionError(f"{self}: steps, starts, sweeps and memory must be 1 or more, tol 0 or more.")

    def solve(
        self,
        problem: Problem,
        ranks: tuple[int, ...],
        start: Sequence[Tensor] | None,
        goal: float | None,
        *,
        quick: bool = False,
    ) -> Trial:
        """See `RankSearch.solve`."""
        network = least_squares(problem)
        control = steps_of(problem, max_steps=self.max_steps, tol=self.tol, goal=goal, quick=quick)
        pool: list[Sequence[Tensor]] = [] if start is None else [start]
        if start is None:
            pool += svd_starts(problem, ranks) if self.start == "als" else []
            pool += random_starts(problem, ranks, max(0 if pool else 1, (1 if quick else self.starts) - len(pool)))
        best: Trial | None = None
        for first in pool:
            trial = Trial(tuple(first), network.error(first), CONVERGED)
            if self.start == "als":
                trial = descend(network, first, replace(control, max_steps=self.sweeps), newton=0, extrapolate=False)
            if not ended(trial.status) and trial.status is not REACHED:
                trial = minimise(network, trial.tensors, control, memory=self.memory)
            best = trial if best is None or trial.error < best.error else best
            exact = best.error <= 100 * rounding_error(problem.x.dtype)
            if ended(trial.status) or exact or best.status is REACHED:
                return replace(best, status=trial.status)
        assert best is not None
        return best

    def direct(self, problem: Problem) -> Trial | None:
        """As `ALS`."""
        return ALS().direct(problem)


def minimise(problem: LeastSquares, start: Sequence[Tensor], control: Control, *, memory: int = 20) -> Trial:
    """L-BFGS on ½‖x − x̂‖²/‖x‖²; each step of the loop is ten of its iterations."""
    parameters = [_real(t.detach().clone(memory_format=torch.contiguous_format)).requires_grad_() for t in start]
    optimizer = torch.optim.LBFGS(
        parameters,
        lr=1.0,
        max_iter=10,
        history_size=memory,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    complex_ = [t.is_complex() for t in start]

    def tensors() -> list[Tensor]:
        return [torch.view_as_complex(p) if c else p for p, c in zip(parameters, complex_, strict=True)]

    def loss() -> Tensor:
        optimizer.zero_grad()
        rest = (problem.x - problem.dense(problem.nodes(tensors()))) / problem.norm
        value: Tensor = 0.5 * (rest.conj() * rest).real.sum()
        value.backward()
        return value

    def step(state: tuple[Tensor, ...], number: int) -> tuple[tuple[Tensor, ...], float]:
        with torch.enable_grad():
            optimizer.step(loss)
        found = tuple(t.detach().clone() for t in tensors())
        return found, problem.error(found)

    first = tuple(t.detach() for t in start)
    goal = max(control.target or 0.0, rounding_error(problem.x.dtype))
    out = iterate(step, first, replace(control, target=goal), start_error=problem.error(first))
    status = CONVERGED if out.status is REACHED and control.target is None else out.status
    return Trial(out.value, out.error, status, out.history)


def _real(t: Tensor) -> Tensor:
    return torch.view_as_real(t) if t.is_complex() else t


METHODS.register(QuasiNewton.name, QuasiNewton)
