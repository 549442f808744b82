"""Fit given ranks by iteration: alternating least squares with extrapolation, then Gauss–Newton, from several starts.

The extrapolation of whole sweeps with restarts is that of Ang, Cohen, Gillis, Hien (doi:10.1137/19M1288395); it and the
change to Gauss–Newton steps where the network is small are what gets an iteration out of a swamp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from tnkit.decompose.gauss_newton import Linearised, NewtonState, newton_start, newton_step
from tnkit.decompose.race import SideBySide, race
from tnkit.decompose.sweep import is_sure
from tnkit.solvers import (
    CONVERGED,
    INTERRUPTED,
    REACHED,
    TIME_LIMIT,
    Control,
    Status,
    StepInfo,
    iterate,
)

__all__ = [
    "NEWTON_MOST",
    "NEWTON_QUICK",
    "Start",
    "Sweeps",
    "Trial",
    "descend",
    "descend_from",
    "ended",
    "go_on",
    "joined",
    "rounding_error",
]

#: Networks of at most this many parameters take Gauss–Newton steps, in a search for ranks and otherwise.
NEWTON_QUICK, NEWTON_MOST = 300, 1500
#: Operations, roughly, after which a small problem gets no further starts, and those that any step takes.
WORK, STEP = 1.5e10, 4e7
#: How many starts of a large problem go on to the end.
FINALISTS = 2
#: Sweeps in which the error must fall by this factor; if it does not, Gauss–Newton takes over.
BRISK, BRISK_SWEEPS = 0.3, 3


class Sweeps(Protocol):
    """Least-squares problems that can be swept: `LeastSquares`, or what a format has of its own.

    Gauss–Newton steps may take over where the problem is `Linearised` as well.
    """

    x: Tensor

    def error(self, tensors: Sequence[Tensor]) -> float:
        """The measured relative error."""

    def sweep(
        self, tensors: Sequence[Tensor], ridge: float = 0.0, *, regauge: bool = True
    ) -> tuple[tuple[Tensor, ...], float]:
        """Update every node once; the new parameters and the relative error.

        With `regauge` they may be turned to a better conditioned representation of the same tensor, which is then no
        neighbour of the one before.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What a fit at given ranks gave.

    Attributes:
        tensors: of the network.
        error: the relative error.
        status: how it ended.
        history: its steps.
    """

    tensors: tuple[Tensor, ...]
    error: float
    status: Status
    history: tuple[StepInfo, ...] = ()


#: Tensors, or what makes them; a trial if that took steps already, which count.
Start: TypeAlias = "Sequence[Tensor] | Callable[[], Sequence[Tensor] | Trial]"


def _made(start: Start) -> Trial:
    made = start() if callable(start) else start
    return made if isinstance(made, Trial) else Trial(tuple(made), inf, CONVERGED)


def joined(first: Trial, second: Trial) -> Trial:
    """One fit that went on from another: the steps of both are counted on."""
    steps, past = len(first.history), first.history[-1].elapsed_s if first.history else 0.0
    later = (StepInfo(steps + info.step, info.error, past + info.elapsed_s) for info in second.history)
    return replace(second, history=(*first.history, *later))


def go_on(problem: Sweeps, trial: Trial, control: Control, *, ridge: float = 0.0, newton: int = NEWTON_MOST) -> Trial:
    """`descend` from where a fit ended, if `control.max_steps` leaves it steps: those that were done count."""
    left = control.max_steps - len(trial.history)
    if left < 1:
        return trial
    return joined(trial, descend(problem, trial.tensors, replace(control, max_steps=left), ridge=ridge, newton=newton))


def rounding_error(dtype: torch.dtype) -> float:
    """The relative error at which a fit counts as exact and more iterations are no use."""
    return 8.0 * torch.finfo(dtype).eps


def ended(status: Status) -> bool:
    """Whether the user or the clock wants no more."""
    return status in (INTERRUPTED, TIME_LIMIT)


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    tensors: tuple[Tensor, ...]
    error: float
    before: tuple[Tensor, ...] | None = None
    turned: bool = False
    pace: float = 0.3
    most: float = 1.0
    errors: tuple[float, ...] = ()
    newton: NewtonState | None = None


def descend(
    problem: Sweeps,
    start: Sequence[Tensor],
    control: Control,
    *,
    ridge: float = 0.0,
    newton: int = NEWTON_MOST,
    extrapolate: bool = True,
) -> Trial:
    """Iterate from one start until a rule of `control` says stop.

    Args:
        problem: the array and the network.
        start: parameters; they are not changed.
        control: when to stop; the error is ‖x − x̂‖/‖x‖.
        ridge: see `LeastSquares.sweep`.
        newton: up to how many parameters Gauss–Newton steps may take over.
        extrapolate: whether sweeps start from extrapolated points; not where representations jump between sweeps.

    Returns:
        The best parameters, and their error: measured, or from inner products that tell it as well.
    """
    linear = problem if isinstance(problem, Linearised) and sum(t.numel() for t in start) <= newton else None
    floor = rounding_error(problem.x.dtype)
    goal = floor if control.target is None else max(control.target, floor)

    def step(state: _State, number: int) -> tuple[_State, float]:
        if linear is not None and state.newton is not None:
            moved = newton_step(linear, state.newton)
            return replace(state, tensors=moved.tensors, error=moved.error, newton=moved), moved.error
        state = _sweep(problem, state, ridge)
        slow = len(state.errors) > BRISK_SWEEPS and state.error > BRISK * state.errors[-1 - BRISK_SWEEPS]
        if linear is not None and slow:
            state = replace(state, newton=newton_start(linear, state.tensors))
        return state, state.error

    if control.out_of_time:  # a start that took all of it, and is better than nothing
        error = problem.error(start)
        if error < 1.0:
            return Trial(tuple(start), error, TIME_LIMIT)
    begin = _State(tuple(start), inf, pace=0.3 if extrapolate else 0.0)
    out = iterate(step, begin, replace(control, target=goal))
    best = out.value
    told = isfinite(best.error) and is_sure(best.error, problem.x.dtype)
    error = best.error if told else problem.error(best.tensors)
    if not isfinite(error):  # overflow on the way
        return Trial(tuple(start), problem.error(start), CONVERGED, out.history)
    status = out.status
    if status is REACHED and control.target is None:
        status = CONVERGED
    return Trial(best.tensors, error, status, out.history)


def _sweep(problem: Sweeps, state: _State, ridge: float) -> _State:
    """One sweep, from an extrapolated point where there is one; if it does not help from there it is a lost step.

    Two points lie on a line only in one representation, so sweeps turn theirs at first and after a lost step alone.
    """
    ahead, turn = state.tensors, not state.turned or state.pace == 0
    if state.before is not None and state.pace > 0:
        ahead = tuple(t + state.pace * (t - b) for t, b in zip(state.tensors, state.before, strict=True))
    tensors, error = problem.sweep(ahead, ridge, regauge=turn)
    if state.before is None or state.pace == 0:
        before = None if turn else state.tensors
        return replace(state, tensors=tensors, error=error, before=before, turned=True, errors=(*state.errors, error))
    if error <= state.error:
        pace, most = min(1.05 * state.pace, state.most), min(1.0, 1.01 * state.most)
        return _State(tensors, error, state.tensors, True, pace, most, (*state.errors, error))
    return replace(state, before=None, turned=False, pace=state.pace / 1.5, most=state.pace)


def descend_from(
    problem: Sweeps,
    starts: Iterable[Start],
    control: Control,
    *,
    ridge: float = 0.0,
    newton: int = NEWTON_MOST,
    first_steps: int = 12,
    agree: int = 3,
) -> Trial:
    """The best of several starts.

    A small problem goes through each start to its end, until one is exact, reaches the target, or `agree` of them end
    at the same best error. In a large one each start gets `first_steps`, and the best of them goes on; the second best
    as well, where that is little work. Where the problem sweeps fits side by side, they race instead.

    Args:
        problem: the array and the network.
        starts: tensors, or functions that make them when it is their turn; the first is the most promising.
        control: when to stop, for each start; its first steps count.
        ridge: see `LeastSquares.sweep`.
        newton: up to how many parameters Gauss–Newton steps may take over.
        first_steps: sweeps of each start of a large problem.
        agree: how many equal ends are enough.
    """
    pool = list(starts)
    first = _made(pool[0])
    pool[0] = lambda: first
    parameters = sum(t.numel() for t in first.tensors)
    small = parameters <= newton and problem.x.numel() <= 2**21
    if len(pool) > 1 and isinstance(problem, SideBySide) and parameters > newton:
        return _raced(problem, [_made(start).tensors for start in pool], control, ridge)
    if len(pool) > 1 and not small:
        heats: list[Trial] = []
        for start in pool:
            made = _made(start)
            short = replace(control, max_steps=min(len(made.history) + first_steps, control.max_steps))
            heats.append(go_on(problem, made, short, ridge=ridge, newton=newton))
            if ended(heats[-1].status) or heats[-1].status is REACHED:
                break
        best = min(heats, key=lambda t: t.error)
        if ended(heats[-1].status) or best.status is REACHED:
            return replace(best, status=heats[-1].status)
        ends: list[Trial] = []
        for heat in sorted(heats, key=lambda t: t.error)[:FINALISTS]:
            steps = sum(len(t.history) for t in ends) + control.max_steps - len(heat.history)
            if ends and (ended(ends[-1].status) or steps * float(100 * problem.x.numel() + STEP) > WORK):
                break
            ends.append(go_on(problem, heat, control, ridge=ridge, newton=newton))
        return min(ends, key=lambda t: t.error)
    done: list[Trial] = []
    for start in pool:
        if sum(len(t.history) for t in done) * float(parameters**3 + 100 * problem.x.numel() + STEP) > WORK:
            break
        done.append(go_on(problem, _made(start), control, ridge=ridge, newton=newton))
        best = min(done, key=lambda t: t.error if isfinite(t.error) else inf)
        last = done[-1].status
        if ended(last):
            return replace(best, status=last)
        if best.error <= 100 * rounding_error(problem.x.dtype) or best.status is REACHED:
            return best
        if sum(t.error <= best.error * (1 + 1e-4) for t in done) >= agree:
            return best
    return best


def _raced(problem: Sweeps, starts: Sequence[Sequence[Tensor]], control: Control, ridge: float) -> Trial:
    """The winner of a race of all starts."""
    assert isinstance(problem, SideBySide)
    floor = rounding_error(problem.x.dtype)
    goal = floor if control.target is None else max(control.target, floor)
    out = race(problem, starts, replace(control, target=goal), ridge=ridge)
    tensors, error = out.tensors[0], out.errors[0]
    if not (isfinite(error) and is_sure(error, problem.x.dtype)):
        error = problem.error(tensors)
    status = CONVERGED if out.status is REACHED and control.target is None else out.status
    return Trial(tensors, error, status, out.history)
