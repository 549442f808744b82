"""What the convex methods share: candidates compared on held-out entries, the best of them fitted to everything.

A candidate is a solver of a fully given problem: observed values and where they are. Iterations run in the precision of
the values; the dense array is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem
from tnkit.completion.holdout_alike import split_alike
from tnkit.completion.observations import Observations
from tnkit.completion.similarity import uneven
from tnkit.completion.spatial import relative_error
from tnkit.errors import DTypeError, ShapeError
from tnkit.solvers import CONVERGED, INTERRUPTED, REACHED, TIME_LIMIT, Control, Outcome, Record, Status, iterate

__all__ = ["Solver", "checked", "compare_and_fit"]

S = TypeVar("S")


class Solver(Protocol[S]):
    """An iteration on states of its own."""

    def start(self) -> S:
        """The first state."""

    def step(self, state: S, number: int, /) -> tuple[S, float]:
        """The next one, and the relative change."""

    def dense(self, state: S, /) -> Tensor:
        """The completed array of a state."""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    x: Tensor
    status: Status


def checked(obs: Observations, name: str, least: int = 2, most: int | None = None) -> Observations:
    """The observations, if a method for dense real arrays can take them.

    Raises:
        DTypeError: complex values.
        ShapeError: too few or too many modes.
    """
    if obs.values.is_complex():
        raise DTypeError(f'method "{name}" takes real arrays; complete real and imaginary part apart, or use "als".')
    if obs.ndim < least or (most is not None and obs.ndim > most):
        modes = f"{least} and more modes" if most is None else f"{least} to {most} modes"
        raise ShapeError(f'method "{name}" takes arrays of {modes}; this one has shape {obs.shape}. Use "als".')
    return obs


def compare_and_fit(
    problem: CompletionProblem,
    makers: Mapping[str, Callable[[Tensor, Tensor], Solver[S]]],
    *,
    holdout: float,
    tol: float,
    max_steps: int,
    settle: Callable[[str], CompletionMethod] | None = None,
) -> CompletionFit:
    """Run every candidate without the held-out entries, and the best of them on all.

    Args:
        problem: of real values. Where it has entries aside, candidates are compared by them, and nothing is held out.
        makers: from observed values (0 elsewhere) and where they are, to a solver; the first is the default.
        holdout: share to hold out; 0 for none: the first candidate alone.
        tol: a run ends when the relative change of a step is below this.
        max_steps: of a run.
        settle: from the name of the best candidate to the method that makes it alone.
    """
    obs, record = problem.observations, Record(problem.control)
    control = replace(record.control, max_steps=max_steps, tol=0.0, target=tol)
    known, aside = obs, problem.aside
    if aside is None:
        held = split_alike(obs, holdout, problem.rng, kept=uneven(obs))
        known, aside = (obs, None) if held is None else (obs.take(~held), obs.take(held))
    best, best_error = next(iter(makers)), float("inf")
    found: _Found | None = None
    for name, make in makers.items() if aside is not None else ():
        assert aside is not None
        trial = _run(known, make, control)
        error = relative_error(trial.x, aside)
        if found is None or error < best_error:
            best, best_error, found = name, error, trial
        if trial.status in (INTERRUPTED, TIME_LIMIT):
            found = replace(found, status=trial.status)
            break
    if found is None or (known is not obs and found.status not in (INTERRUPTED, TIME_LIMIT)):
        found = _run(obs, makers[best], control)
    status = CONVERGED if found.status is REACHED else found.status
    heldout = None if aside is None else best_error
    settled = None if settle is None else settle(best)
    train = relative_error(found.x, obs)
    return CompletionFit(None, found.x, heldout, train, status, tuple(record.steps), settled=settled)


def _run(obs: Observations, make: Callable[[Tensor, Tensor], Solver[S]], control: Control) -> _Found:
    """One solver on observations of mean square 1; the last state is the answer."""
    scale = float(obs.values.square().mean().sqrt()) if bool(obs.values.any()) else 1.0
    scale = scale if 0 < scale < float("inf") else float(obs.values.abs().max())
    solver = make(obs.to_dense() / scale, obs.mask())
    last: list[S] = []

    def step(state: S, number: int) -> tuple[S, float]:
        after, change = solver.step(state, number)
        last[:] = [after]
        return after, change

    outcome: Outcome[S] = iterate(step, solver.start(), control)
    x = solver.dense(last[0] if last else outcome.value) * scale
    return _Found(x, outcome.status)
