"""The Pareto front of structures: nothing on it is both larger and worse than something else on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tnkit.formats import Tensorized
from tnkit.network import drawn
from tnkit.registry import provider
from tnkit.report import FitReport
from tnkit.search.proofs import Proofs
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

    def drawing(self) -> str:
        """The network as text: a spanning tree of its nodes, the sizes of bonds and modes, and the bonds left over."""
        value = self.fit.tensor
        value = value.format if isinstance(value, Tensorized) else value
        topology = value.topology()
        free = [t.shape for t in value.tensors()]
        if len(free) != len(topology.inputs):  # fixed matrices hold no numbers
            return f"{value.name}: {topology}"
        return drawn(topology, topology.sizes(free))

    def plot(self) -> Any:
        """The network: nodes with their modes, bonds with their ranks, as a matplotlib Figure; `savefig` writes it.

        Raises:
            MissingExtraError: `tnkit.interop.matplotlib` is not imported.
        """
        return provider("plot:matplotlib", "plot")(self)


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
        eps: the relative error that was asked, if any.
        proofs: what no network of a kind can go below.
    """

    front: tuple[Candidate, ...]
    best: Candidate
    tried: tuple[Candidate, ...]
    left_out: tuple[tuple[str, str], ...]
    elapsed_s: float
    status: Status = CONVERGED
    evaluations: int = 0
    pruned: int = 0
    eps: float | None = None
    proofs: Proofs = field(default_factory=Proofs)

    @property
    def bounds(self) -> tuple[tuple[str, int], ...]:
        """(what, the least size it can have at the asked error), as far as the search has proved it."""
        return self.proofs.sizes

    @property
    def gap(self) -> float | None:
        """The share of the best's numbers (or of its error, where a size was asked) that any network could save.

        It is that of the widest kind that was bounded and of which the best is; 0 says that it is optimal in that kind.
        None where nothing was proved of its kind (it may split modes, or hold fixed matrices), or eps was not reached:
        `why` says so.
        """
        gaps = [gap for _, _, gap in self._gaps() if gap is not None]
        return max(gaps, default=None)

    def _gaps(self) -> list[tuple[str, float, float | None]]:
        """(what, its bound, what could be saved) by kind; None where the best is below, so it is of another kind."""
        fit = self.best.fit
        if self.eps is None:
            return [(what, least, _saved(fit.rel_error, least)) for what, least in self.proofs.errors]
        if fit.rel_error > self.allowed * (1 + 1e-9):
            return []
        return [(what, least, _saved(fit.n_params, least)) for what, least in self.proofs.sizes]

    @property
    def why(self) -> str:
        """Why the best is the best: what it won against, by how much, and how far it can be from the optimum."""
        best = self.best
        parts = [
            f"{best.label}: {best.fit.n_params:,} numbers at error {best.fit.rel_error:.3g}, {best.fit.status.name}"
        ]
        others = [c for c in self.tried if c.label != best.label]
        met = [c for c in others if c.fit.status.ok == best.fit.status.ok and c.fit.rel_error <= self.allowed]
        if met and self.allowed < float("inf"):
            second = min(met, key=lambda c: c.fit.n_params)
            ratio = second.fit.n_params / best.fit.n_params
            parts.append(f"next {second.label} with {second.fit.n_params:,} ({ratio:.2f} times as many)")
        elif others:
            second = min(others, key=lambda c: c.fit.rel_error)
            parts.append(f"next {second.label} with error {second.fit.rel_error:.3g}, {second.fit.n_params:,} numbers")
        parts.append(f"of {max(self.evaluations, len(self.tried))} that were fitted")
        return "; ".join([*parts, *self.told_gaps()])

    def told_gaps(self) -> list[str]:
        """What was proved, in words."""
        words = []
        for what, least, gap in self._gaps():
            if self.eps is None:
                needs, none = f"{what} of that size has error {least:.3g} or more", "none is better"
            else:
                needs, none = f"{what} needs {least:,}", "none is smaller"
            left = "the best is of another kind" if gap is None else f"at most {gap:.1%} to save" if gap else none
            words.append(f"{needs}: {left}")
        if not words and self.proofs.why_none:
            words.append(f"no bound was proved: {self.proofs.why_none}")
        elif not words:
            words.append("no gap is known: eps was not reached")
        return words

    @property
    def allowed(self) -> float:
        """The relative error that was asked; infinity where only a size was."""
        return self.eps if self.eps is not None else float("inf")

    def plot(self) -> Any:
        """The front: numbers against error, with all that was tried, as a matplotlib Figure; `savefig` writes it.

        Raises:
            MissingExtraError: `tnkit.interop.matplotlib` is not imported.
        """
        return provider("plot:matplotlib", "plot")(self)

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
        lines += [f"{what}: error {least:.3g} or more at the asked size" for what, least in self.proofs.errors]
        return "\n".join(lines)


def pareto_front(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Candidates by size, each with a smaller error than all before it."""
    front: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (c.fit.n_params, c.fit.rel_error)):
        if not front or c.fit.rel_error < front[-1].fit.rel_error:
            front.append(c)
    return tuple(front)


def _saved(found: float, least: float) -> float | None:
    """The share between a bound and what was found; None where that is below."""
    if found < least:
        return None
    return 1 - least / found if found else 0.0
