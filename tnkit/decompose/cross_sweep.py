"""Rook search for pivots on one edge: only whole rows and columns that a pivot will need are asked for.

The residual of an edge is f − T P⁻¹ U over all combinations of its two sides. Its matrix is never evaluated: from a
start the search goes to the largest entry of its row, then of that column, and so on, until an entry is (to a factor)
the largest in both. The row and the column that it ends in are the new slices of the two nodes, should it be taken.

Reference: Núñez Fernández et al., arXiv:2407.02454, sections 3.3 and 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tnkit.decompose.cross_state import (
    Pivots,
    Points,
    Values,
    add_pivot,
    candidates,
    interpolation,
    unfolded,
)

__all__ = ["Pending", "Search", "grow_edge"]

Array: TypeAlias = "NDArray[Any]"

#: A pivot is taken where it is at least this part of the largest entry of its row and column.
RELAXED = 0.5
#: Residuals of so few entries are looked at whole.
SMALL_BLOCK = 64
#: Rows and columns that one search looks at.
LINES = 6


@dataclass(frozen=True, slots=True)
class Pending:
    """The largest residual that the last search on an edge found and did not take; its row and column are known.

    Attributes:
        point: where.
        residual: how large.
    """

    point: Points
    residual: float


@dataclass(frozen=True, slots=True)
class Search:
    """How an edge is searched.

    Attributes:
        tolerance: residuals above it become pivots.
        starts: random entries from the largest of which a search starts.
        cap: the largest rank.
        floor: residuals below it are rounding.
    """

    tolerance: float
    starts: int
    cap: int
    floor: float


class _Edge:
    """The residual of one edge while pivots are added to it."""

    def __init__(self, pivots: Pivots, f: Values, edge: int) -> None:
        self.pivots, self.f, self.edge = pivots, f, edge
        first, second = pivots.tree.edges[edge]
        self.rows, self.columns = candidates(pivots, first, edge), candidates(pivots, second, edge)
        self.left = interpolation(pivots, first, edge)  # (rows, r): T P⁻¹
        self.right = unfolded(pivots, second, edge).T  # (r, columns): f(pivot rows, columns)

    def row(self, i: int) -> Array:
        line: Array = self.f(self.rows[i] + self.columns) - self.left[i] @ self.right
        return line

    def column(self, j: int) -> Array:
        line: Array = self.f(self.rows + self.columns[j]) - self.left @ self.right[:, j]
        return line

    def entries(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> Array:
        guess: Array = np.einsum("kr,rk->k", self.left[i], self.right[:, j])
        return self.f(self.rows[i] + self.columns[j]) - guess

    def find(self, point: Points) -> tuple[int, int] | None:
        """Where a point stands in the residual's matrix."""
        first, second = self.pivots.tree.edges[self.edge]
        near, far = self.pivots.tree.inside[first, self.edge], self.pivots.tree.inside[second, self.edge]
        i = np.flatnonzero((self.rows == point * near).all(axis=1))
        j = np.flatnonzero((self.columns == point * far).all(axis=1))
        return (int(i[0]), int(j[0])) if len(i) and len(j) else None

    def taken(self, side: int) -> NDArray[np.int64]:
        """Rows (0) or columns (1) that are pivots'."""
        node = self.pivots.tree.edges[self.edge][side]
        t, axis = self.pivots.nodes[node], self.pivots.tree.edges_of[node].index(self.edge)
        own = [n for k, n in enumerate(t.shape) if k != axis]
        found = [place for place in self.pivots.places[node, self.edge] if place is not None]
        if not own or not found:
            return np.zeros(len(found), dtype=np.int64)
        places: NDArray[np.int64] = np.ravel_multi_index(tuple(np.array(found).T), own)
        return places

    def known(self, i: int, j: int) -> bool:
        """Whether the row or the column is a pivot's already: its residual is rounding then."""
        return bool(np.isin(i, self.taken(0)) or np.isin(j, self.taken(1)))

    def rook(self, i: int) -> tuple[int, int, float]:
        """From a row to an entry that is nearly the largest of its row and its column."""
        line = np.abs(self.row(i))
        j = int(line.argmax())
        along_row = True
        for _ in range(LINES):
            line = np.abs(self.column(j) if along_row else self.row(i))
            best = int(line.argmax())
            here = i if along_row else j
            if line[here] >= RELAXED * line[best]:
                return i, j, float(line[here])
            if along_row:
                i = best
            else:
                j = best
            along_row = not along_row
        return i, j, float(line[best])

    def take(self, i: int, j: int) -> None:
        """Add the pivot: one more column of the interpolation, and the others corrected by it."""
        point = self.rows[i] + self.columns[j]
        residual = self.column(j)
        step = (residual / residual[i])[:, None]
        self.right = np.concatenate([self.right, self.f(self.rows[i] + self.columns)[None]])
        self.left = np.concatenate([self.left - step * self.left[i], step], axis=1)
        self.pivots = add_pivot(self.pivots, self.f, self.edge, point)


def grow_edge(
    pivots: Pivots, f: Values, edge: int, search: Search, pending: Pending | None, rng: np.random.Generator
) -> tuple[Pivots, Pending | None]:
    """Add pivots to an edge while its residual exceeds the tolerance.

    Args:
        pivots: now.
        f: the values.
        edge: which.
        search: how.
        pending: what the last search on this edge left.
        rng: for the starts.

    Returns:
        the pivots, and what this search found below the tolerance.

    Cost:
        for each pivot one row and one column, a few random entries, and the lines that the search leaves again.
    """
    here = _Edge(pivots, f, edge)
    while len(here.pivots.points[edge]) < search.cap:
        i, j, size = _start(here, search.starts, pending, rng)
        if pending is None or size > max(search.tolerance, pending.residual):
            i, j, size = here.rook(i)
        elif size <= search.tolerance:
            return here.pivots, Pending(here.rows[i] + here.columns[j], size)
        pending = None
        if size <= max(search.tolerance, search.floor) or here.known(i, j):
            return here.pivots, Pending(here.rows[i] + here.columns[j], size)
        here.take(i, j)
    return here.pivots, None


def _start(here: _Edge, starts: int, pending: Pending | None, rng: np.random.Generator) -> tuple[int, int, float]:
    """The largest residual among some random entries, or all where they are few, and the pending one."""
    m, n = len(here.rows), len(here.columns)
    if m * n <= SMALL_BLOCK:
        i, j = np.divmod(np.arange(m * n), n)
    else:
        i, j = _random(m, here.taken(0), starts, rng), _random(n, here.taken(1), starts, rng)
    if pending is not None:
        place = here.find(pending.point)
        if place is not None:
            i, j = np.append(i, place[0]), np.append(j, place[1])
    size = np.abs(here.entries(i, j))
    best = int(size.argmax())
    return int(i[best]), int(j[best]), float(size[best])


def _random(size: int, taken: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places that are no pivot's, where there are such."""
    drawn = rng.integers(size, size=count)
    if len(taken) < size:
        for _ in range(4):
            again = np.isin(drawn, taken)
            drawn[again] = rng.integers(size, size=int(again.sum()))
    return drawn
