"""The rank that each cut needs at the asked error."""

from __future__ import annotations

from tnkit.search.objective import Objective

__all__ = ["needs"]


def needs(objective: Objective) -> dict[int, int]:
    """For each set of modes (a bit mask without the last mode) the rank that its unfolding needs at eps."""
    assert objective.cuts is not None
    assert objective.eps is not None
    allowed2 = objective.eps**2 * objective.cuts.norm2 * 1.001
    found = {}
    for mask in range(1, (objective.cuts.full + 1) // 2):
        tails = objective.cuts.tails(mask)
        found[mask] = max(1, next(r for r, tail in enumerate(tails) if tail <= allowed2))
    return found
