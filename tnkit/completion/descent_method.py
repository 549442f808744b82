"""What methods that iterate on the tensors of a format have in common: how long a run is, and by what it is judged.

Example:
    >>> from tnkit.completion import NonnegativeCP
    >>> NonnegativeCP(max_steps=50).steps.max_steps
    50
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tnkit.completion.base import CompletionMethod
from tnkit.completion.factor_descent import Steps

__all__ = ["DescentMethod"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DescentMethod(CompletionMethod):
    """The options of a method that runs `tnkit.completion.factor_descent.fit_tensors`.

    Attributes:
        max_steps: steps (or sweeps) of a run at the most.
        tol: a run ends when the held-out error falls by less than this share of itself over `patience` steps.
        patience: over how many.
        holdout: share of the entries held out, and given back for the last steps.
        max_rank: tried up to this where none is given.
        starts: at each rank at the most; there is another where held-out entries are met much worse than the others.

    Class attributes:
        refit: steps on all entries at the end.

    Raises:
        OptionError: numbers outside their ranges.
    """

    max_steps: int
    tol: float
    patience: int
    holdout: float = 0.1
    max_rank: int = 8
    starts: int = 1
    refit: ClassVar[int] = 20

    def __post_init__(self) -> None:
        self.steps.require(type(self).__name__)
        self.check()

    def check(self) -> None:
        """Refuse the method's own options outside their ranges."""

    @property
    def steps(self) -> Steps:
        """How long it runs."""
        return Steps(
            self.max_steps,
            self.tol,
            self.patience,
            self.holdout,
            self.max_rank,
            self.refit,
            starts=self.starts,
        )
