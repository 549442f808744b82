"""Status: how a computation ended, with a text that is the remedy.

Example:
    >>> from tnkit.solvers import MAX_STEPS
    >>> MAX_STEPS.ok, str(MAX_STEPS)
    (False, 'max_steps: stopped before it had settled; raise max_steps, or accept the error that is reported')
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CONVERGED",
    "DIRECT",
    "EPS_NOT_REACHED",
    "FLOOR",
    "INTERRUPTED",
    "MAX_STEPS",
    "REACHED",
    "TIME_LIMIT",
    "Status",
]


@dataclass(frozen=True, slots=True)
class Status:
    """How a computation ended.

    Attributes:
        name: one word, for programs.
        ok: whether what was asked was done.
        message: what happened and what to do about it.
    """

    name: str
    ok: bool
    message: str

    def __str__(self) -> str:
        """Name and message."""
        return f"{self.name}: {self.message}"


DIRECT = Status("direct", True, "a direct method; nothing to converge")
CONVERGED = Status("converged", True, "the error had settled")
REACHED = Status("reached", True, "the error that was asked for was reached")
MAX_STEPS = Status(
    "max_steps", False, "stopped before it had settled; raise max_steps, or accept the error that is reported"
)
TIME_LIMIT = Status(
    "time_limit", False, "the time was up; this is the best so far, give more time_limit_s for a better one"
)
INTERRUPTED = Status("interrupted", False, "interrupted from the keyboard; this is the best so far")
EPS_NOT_REACHED = Status(
    "eps_not_reached",
    False,
    "eps was not reached within the limits; allow larger ranks or a larger budget, or another format or method",
)
FLOOR = Status(
    "floor", False, "eps is below what this dtype resolves; it was met to that floor, use a wider dtype for more"
)
