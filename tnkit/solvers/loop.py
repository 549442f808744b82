"""The one iteration loop: best so far, stopping rules, time limit, progress, and Ctrl-C that loses nothing.

Example:
    >>> from tnkit.solvers import Control, iterate
    >>> halve = lambda x, step: (x / 2, x / 2)
    >>> out = iterate(halve, 1.0, Control(max_steps=100, tol=0.0, target=1e-3))
    >>> out.value, out.status.name, len(out.history)
    (0.0009765625, 'reached', 10)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Generic, Protocol, TypeVar

from tnkit.solvers.status import CONVERGED, INTERRUPTED, MAX_STEPS, REACHED, TIME_LIMIT, Status

__all__ = ["NO_LIMIT", "Control", "OutOfTime", "Outcome", "Progress", "StepInfo", "iterate"]

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class StepInfo:
    """One step of an iteration.

    Attributes:
        step: its number, from 1.
        error: the objective after it (a relative error unless the method says otherwise).
        elapsed_s: seconds since the start.
    """

    step: int
    error: float
    elapsed_s: float


class Progress(Protocol):
    """What is told of the progress: a callable that gets every step."""

    def __call__(self, info: StepInfo, /) -> None:
        """Hear of a step."""


class OutOfTime(Exception):
    """Raised inside a long step by `Control.check`; it ends the loop as the deadline does, with the best so far."""


@dataclass(frozen=True, slots=True)
class Control:
    """When to stop, and whom to tell.

    Attributes:
        max_steps: steps at the most.
        tol: stop when the error has fallen by less than this part of itself over `patience` steps; 0: never.
        patience: over how many steps.
        target: stop when the error is at or below this.
        deadline: stop when `time.monotonic()` passes this.
        progress: hears of every step.
    """

    max_steps: int = 200
    tol: float = 1e-6
    patience: int = 5
    target: float | None = None
    deadline: float = inf
    progress: Progress | None = None

    def within(self, time_limit_s: float | None) -> Control:
        """The same, with at most this many seconds from now."""
        return (
            self
            if time_limit_s is None
            else replace(self, deadline=min(self.deadline, time.monotonic() + time_limit_s))
        )

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def check(self) -> None:
        """For long steps, between their parts.

        Raises:
            OutOfTime: the deadline has passed; `iterate` takes it.
        """
        if self.out_of_time:
            raise OutOfTime


#: No deadline, nobody to tell.
NO_LIMIT = Control()


@dataclass(frozen=True, slots=True)
class Outcome(Generic[S]):
    """What an iteration leaves.

    Attributes:
        value: the best state.
        error: its objective.
        history: all steps.
        status: how it ended.
    """

    value: S
    error: float
    history: tuple[StepInfo, ...] = field(repr=False)
    status: Status


def iterate(
    step: Callable[[S, int], tuple[S, float]], start: S, control: Control, *, start_error: float = inf
) -> Outcome[S]:
    """Repeat a step on an immutable state until a rule says stop.

    Args:
        step: from a state and the step's number (from 1) to the next state and its error. It must not change the state
            that it is given, so that the best one survives an interruption in its middle.
        start: the first state.
        control: when to stop.
        start_error: of the first state, if it is known.

    Returns:
        The state of the smallest error. A step that raises KeyboardInterrupt or OutOfTime ends the loop with what there
        is; a step whose error is not finite ends it as well.
    """
    best, best_error = start, start_error
    state, history, begun = start, list[StepInfo](), time.monotonic()
    status = MAX_STEPS
    try:
        for number in range(1, control.max_steps + 1):
            state, error = step(state, number)
            if error < best_error or (number == 1 and not isfinite(best_error)):
                best, best_error = state, error
            info = StepInfo(number, error, time.monotonic() - begun)
            history.append(info)
            if control.progress is not None:
                control.progress(info)
            if control.target is not None and error <= control.target:
                status = REACHED
                break
            if not isfinite(error) or _settled(history, control):
                status = CONVERGED
                break
            if control.out_of_time:
                status = TIME_LIMIT
                break
    except KeyboardInterrupt:
        status = INTERRUPTED
    except OutOfTime:
        status = TIME_LIMIT
    return Outcome(best, best_error, tuple(history), status)


def _settled(history: list[StepInfo], control: Control) -> bool:
    if control.tol <= 0 or len(history) <= control.patience:
        return False
    before = min(info.error for info in history[: -control.patience])
    now = min(info.error for info in history[-control.patience :])
    return before - now <= control.tol * before
