"""The options that iterative methods with several starts have in common, and the one check of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from tnkit.decompose.base import Method, Problem
from tnkit.decompose.rank_search import RankSearch, steps_of
from tnkit.errors import OptionError
from tnkit.solvers import Control

__all__ = ["Restarted", "check_options"]


def check_options(method: Method, *, least_starts: int = 1, kinds_of_start: Sequence[str] = ()) -> None:
    """Refuse options out of range: numbers of steps below 1, too few starts, other numbers below 0, unknown starts.

    Args:
        method: a frozen dataclass.
        least_starts: the smallest `starts`.
        kinds_of_start: what `start` may be, where there is such a field.

    Raises:
        OptionError: one is; it names the field, its value and what is allowed.

    Example:
        >>> from tnkit.decompose import CPALS
        >>> CPALS(max_steps=0)
        Traceback (most recent call last):
            ...
        tnkit.errors.OptionError: CPALS(max_steps=0): max_steps must be an integer of 1 or more.
    """
    who = type(method).__name__
    for option in fields(method):  # type: ignore[arg-type]
        name, value = option.name, getattr(method, option.name)
        if isinstance(option.default, bool):
            continue
        if isinstance(option.default, str):
            if name == "start" and value not in kinds_of_start:
                *others, last = (repr(kind) for kind in kinds_of_start)
                raise OptionError(f"{who}(start={value!r}) is unknown. Use {', '.join(others)} or {last}.")
            continue
        whole = isinstance(option.default, int)
        least = 1 if name.endswith("steps") else least_starts if name == "starts" else 0
        fits = isinstance(value, int) if whole else isinstance(value, (int, float))
        if not fits or isinstance(value, bool) or not value >= least:
            kind = "an integer of" if whole else "a number of"
            raise OptionError(f"{who}({name}={value!r}): {name} must be {kind} {least} or more.")


@dataclass(frozen=True, slots=True)
class Restarted(RankSearch):
    """A method that iterates from several starts until the error hardly falls.

    Attributes:
        max_steps: sweeps (or steps) for each start.
        tol: stop when the error falls by less than this, relative to itself, over five steps.
        starts: how many starts are tried.

    Class attributes:
        kinds_of_start: what the field `start` may be, where a method has one.
        least_starts: the smallest number of starts.
    """

    max_steps: int = 200
    tol: float = 1e-5
    starts: int = 6
    kinds_of_start: ClassVar[tuple[str, ...]] = ()
    least_starts: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse options out of range.

        Raises:
            OptionError: one is.
        """
        check_options(self, least_starts=self.least_starts, kinds_of_start=self.kinds_of_start)

    def control(self, problem: Problem, goal: float | None, *, quick: bool = False) -> Control:
        """When the fit of one start ends: the problem's own control, with the steps and the tolerance of the method.

        Args:
            problem: what is fitted.
            goal: a relative error at which to stop.
            quick: whether this is one of many attempts, which get fewer steps.
        """
        return steps_of(problem, max_steps=self.max_steps, tol=self.tol, goal=goal, quick=quick)
