"""A progress line on standard error for long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tnkit.solvers import StepInfo

__all__ = ["listening"]


@contextmanager
def listening(progress: Any, *, label: str = "fitting") -> Iterator[Callable[[StepInfo], None] | None]:
    """What hears of the steps: nothing, the caller's function, or a line that is kept up to date.

    Args:
        progress: None or False, True, or a function of a `StepInfo`.
        label: the words in front of the line.
    """
    if progress is None or progress is False:
        yield None
    elif callable(progress):
        yield progress
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=None)

            def hear(info: StepInfo) -> None:
                bar.update(task, description=f"{label}: step {info.step}, error {info.error:.3g}", advance=1)

            yield hear
