"""Search over the whole domain for entries that are large: many starts, one coordinate at a time.

Used for |f| before there are pivots, and for |f| and |f − t| when an interpolation seems good enough. How many starts
are enough is read from where they end: with s ends that one climb alone has reached, about s of N further climbs would
end somewhere new (Good 1953, doi:10.1093/biomet/40.3-4.237, after Turing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["climb", "unseen"]

Array: TypeAlias = "NDArray[Any]"
Points: TypeAlias = "NDArray[np.int64]"

#: Modes up to this size are searched whole.
LINE = 12
#: Steps from a point that are tried in larger modes, beside places spread over the mode.
STEPS = np.array([-3, -1, 1, 3])


def climb(
    size: Callable[[Points], Array],
    starts: Points,
    shape: Sequence[int],
    rng: np.random.Generator,
    *,
    rounds: int = 8,
) -> tuple[Points, Array]:
    """From each start to a point where `size` is larger, mode by mode, until no mode helps.

    Args:
        size: of (N, d) points, real.
        starts: (S, d).
        shape: of the domain.
        rng: for the order of the modes and the places in large ones.
        rounds: passes over all modes at the most.

    Returns:
        (S, d) points and their sizes; climbs that meet end together.

    Cost:
        S · Σ min(n_k, 12) values in the first round, fewer in the others.
    """
    points, best = starts.copy(), size(starts)
    leader = np.arange(len(points))
    active = leader.copy()
    for number in range(rounds):
        before = best.copy()
        for mode in rng.permutation(len(shape)):
            places = _places(points[active, mode], shape[mode], number, rng)  # (S, L)
            lines = np.repeat(points[active][:, None], places.shape[1], axis=1)
            lines[:, :, mode] = places
            values = size(lines.reshape(-1, len(shape))).reshape(places.shape)
            top = values.argmax(axis=1)
            found = values[np.arange(len(active)), top]
            better = found > best[active]
            points[active[better], mode] = places[better, top[better]]
            best[active[better]] = found[better]
        _, first, group = np.unique(points[active], axis=0, return_index=True, return_inverse=True)
        met = active[first[group.reshape(-1)]]
        for old, new in zip(active, met, strict=True):
            leader[leader == old] = new
        active = np.unique(met)
        active = active[best[active] > before[active]]
        if not len(active):
            break
    return points[leader], best[leader]


def unseen(ends: Points) -> float:
    """The estimated probability that one more climb ends at a point that none of these has reached."""
    if not len(ends):
        return 1.0
    _, counts = np.unique(ends, axis=0, return_counts=True)
    return float((counts == 1).sum()) / len(ends)


def _places(now: NDArray[np.int64], n: int, number: int, rng: np.random.Generator) -> Points:
    """Where to look in a mode of size n: everywhere, or at places spread over it; later near each point as well."""
    if n <= LINE:
        return np.tile(np.arange(n), (len(now), 1))
    count = LINE if number == 0 else LINE - 2 * len(STEPS)
    spread = (rng.random((len(now), count)) + np.arange(count)) * (n / count)
    places = np.minimum(spread.astype(np.int64), n - 1)
    if number == 0:
        return places
    return np.concatenate([np.clip(now[:, None] + STEPS, 0, n - 1), places], axis=1)
