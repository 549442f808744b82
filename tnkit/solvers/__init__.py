"""The iteration loop, when it stops, and how it says that it ended."""

from tnkit.solvers.loop import NO_LIMIT, Control, Outcome, OutOfTime, Progress, StepInfo, iterate
from tnkit.solvers.record import Record
from tnkit.solvers.status import (
    CONVERGED,
    DIRECT,
    EPS_NOT_REACHED,
    FLOOR,
    INTERRUPTED,
    MAX_STEPS,
    REACHED,
    TIME_LIMIT,
    Status,
)

__all__ = [
    "CONVERGED",
    "DIRECT",
    "EPS_NOT_REACHED",
    "FLOOR",
    "INTERRUPTED",
    "MAX_STEPS",
    "NO_LIMIT",
    "REACHED",
    "TIME_LIMIT",
    "Control",
    "OutOfTime",
    "Outcome",
    "Progress",
    "Record",
    "Status",
    "StepInfo",
    "iterate",
]
