"""The Pareto front of structures: nothing on it is both larger and worse than something else on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tnkit.report import FitReport
from tnkit.solvers import CONVERGED, Status

__all__ = ["Candidate", "SearchResult", "pareto_front"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One structure that was tried.

    Attributes:
        label: its name, with what was chosen in it.
        fit: what it gave.
    """

    label: str
    fit: FitReport


@dataclass(frozen=True, slots=True, repr=False)
class SearchResult:
    """What a search gives.

    Attributes:
        front: candidates by size, each with a smaller error than all smaller ones.
        best: what was asked for at the least size (by eps), or the least error (by budget).
        tried: all candidates, in the order in which they were fitted.
        left_out: names that were not tried, with the reason.
        elapsed_s: seconds in all.
        status: how the search ended.
        evaluations: fits that were done; 0 where they are not counted.
        pruned: structures that bounds ruled out before a fit.
        bounds: (what, the least size it can have at the asked error), as far as the search has proved it.
    """

    front: tuple[Candidate, ...]
    best: Candidate
    tried: tuple[Candidate, ...]
    left_out: tuple[tuple[str, str], ...]
    elapsed_s: float
    status: Status = CONVERGED
    evaluations: int = 0
    pruned: int = 0
    bounds: tuple[tuple[str, int], ...] = ()

    def __repr__(self) -> str:
        """A table of all candidates; those on the front are marked."""
        marks = {id(c): "*" for c in self.front} | {id(self.best): "best"}
        rows = [("", "structure", "numbers", "error", "seconds")]
        for c in sorted(self.tried, key=lambda c: c.fit.n_params):
            f = c.fit
            rows.append((marks.get(id(c), ""), c.label, f"{f.n_params:,}", f"{f.rel_error:.3g}", f"{f.elapsed_s:.2f}"))
        widths = [max(len(row[k]) for row in rows) for k in range(5)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"left out: {name} ({reason})" for name, reason in self.left_out]
        lines += [f"{what}: at least {least:,} numbers at the asked error" for what, least in self.bounds]
        return "\n".join(lines)


def pareto_front(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Candidates by size, each with a smaller error than all before it."""
    front: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (c.fit.n_params, c.fit.rel_error)):
        if not front or c.fit.rel_error < front[-1].fit.rel_error:
            front.append(c)
    return tuple(front)
