"""Record: the steps of several loops in a row, counted through and timed from one start.

Example:
    >>> from tnkit.solvers import Control, Record, iterate
    >>> record = Record(Control(max_steps=2, tol=0.0))
    >>> for _ in range(2):
    ...     _ = iterate(lambda x, step: (x / 2, x / 2), 1.0, record.control)
    >>> [info.step for info in record.steps]
    [1, 2, 3, 4]
"""

from __future__ import annotations

from dataclasses import replace
from time import monotonic

from tnkit.solvers.loop import Control, StepInfo

__all__ = ["Record"]


class Record:
    """Hears every step of its `control`, and passes it on with its own number and time.

    Attributes:
        steps: so far.
        control: the one that was given, with the record in between.
    """

    def __init__(self, control: Control) -> None:
        self._progress, self._begun = control.progress, monotonic()
        self.steps: list[StepInfo] = []
        self.control = replace(control, progress=self)

    def __call__(self, info: StepInfo, /) -> None:
        """Hear of a step."""
        mine = StepInfo(len(self.steps) + 1, info.error, monotonic() - self._begun)
        self.steps.append(mine)
        if self._progress is not None:
            self._progress(mine)
