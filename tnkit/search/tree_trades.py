"""Single ranks of a tree, lowered, raised or traded, until what is asked is used up; the shape of the tree stays.

Around a state the spectra of its pairs tell the error for every rank of each bond, all else as it is. The change of one
or two ranks that promises most is made, the sweeps that follow settle the rest, and what they find decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from tnkit.search.tree_state import TreeState

__all__ = ["Aim", "trimmed"]

_TRIES = 40  # changes that are tried at the most
_FOLLOW = 3  # sweeps after a change, as long as they may reach the error
_HOPE = 1.03  # times the allowed error² that a change may be estimated at: sweeps lower it
_RAISES = 4  # ranks by which one bond is raised at once
_USED = 0.995  # share of what is allowed, from which there is no use in another price

#: Bonds with new ranks.
Change: TypeAlias = "tuple[tuple[int, int], ...]"


@dataclass(frozen=True, slots=True)
class Aim:
    """What is asked of a tree.

    Attributes:
        error2: the squared error that is allowed, or None.
        max_params: entries that are allowed, or None.
        out_of_time: asked between sweeps.
    """

    error2: float | None
    max_params: int | None
    out_of_time: Callable[[], bool]

    def score(self, state: TreeState) -> tuple[float, float]:
        """To be least."""
        size, error2 = state.n_params, state.error2
        if self.error2 is None:
            return (error2 if self.max_params is None or size <= self.max_params else inf, size)
        return (size if error2 <= self.error2 else inf, error2)

    def floor2(self, state: TreeState) -> float | None:
        """The tails below which spectra need not be exact."""
        least = state.error2 if self.error2 is None else min(self.error2, state.norm2)
        return 1e-3 * least if least > 1e-12 * state.norm2 else None

    def kept(self, state: TreeState) -> bool:
        """Whether a state is within it."""
        return self.score(state)[0] < inf

    def tight(self, state: TreeState) -> bool:
        """Whether what is allowed is kept, and used."""
        used = self.over(state) if self.error2 is not None else 1.0 / self.over(state)
        return _USED < used <= 1.0

    def over(self, state: TreeState) -> float:
        """Above 1 where a larger price is wanted."""
        if self.error2 is not None:
            return state.error2 / max(self.error2, 1e-300)
        assert self.max_params is not None
        return self.max_params / state.n_params


def trimmed(state: TreeState, aim: Aim, *, tries: int = _TRIES) -> TreeState:
    """A smaller tree within the error, or a smaller error within the size.

    Args:
        state: one that keeps the aim, else it is given back.
        aim: what is asked.
        tries: changes that are tried.

    Cost:
        one to three sweeps for each.
    """
    if not aim.kept(state) or not state.bonds:
        return state
    best = state.copy()
    best.floor2 = aim.floor2(best)
    best.sweep(None)
    failed: set[Change] = set()
    for _ in range(tries):
        change = None if aim.out_of_time() else _change(best, aim, failed)
        if change is None:
            break
        tried = best.copy()
        for leg, rank in sorted(change, key=lambda c: c[1] <= best.known[c[0]].rank):  # those that are raised first
            tried.fit_pair(leg, None, rank=rank)
        _settle(tried, aim)
        if aim.score(tried) < aim.score(best):
            best = tried
        else:
            failed.add(_after(best, change))
    return best


def _settle(state: TreeState, aim: Aim) -> None:
    before = state.error2
    for _ in range(_FOLLOW):
        state.sweep(None)
        now = state.error2
        if aim.error2 is None or now <= aim.error2 or now - aim.error2 > 2 * (before - now):
            return
        before = now


def _after(state: TreeState, change: Change) -> Change:
    """All ranks with the change made."""
    return tuple(sorted(({leg: cut.rank for leg, cut in state.known.items()} | dict(change)).items()))


def _change(state: TreeState, aim: Aim, failed: set[Change]) -> Change | None:
    """The change of one or two ranks that promises most, by what the spectra of the bonds say."""
    now, size = state.error2, state.n_params
    lower: list[tuple[tuple[int, int] | None, int, float]] = [(None, 0, 0.0)]  # ((bond, rank), entries, error²)
    higher: list[tuple[tuple[int, int] | None, int, float]] = [(None, 0, 0.0)]
    most = inf if aim.error2 is None else 2.0 * aim.error2 - now
    for leg, cut in state.known.items():
        if leg not in state.bonds:
            continue
        s2, lost, gained = cut.s2.tolist(), 0.0, 0.0
        for rank in range(cut.rank - 1, 0, -1):
            lost += s2[rank]
            if lost > most:
                break
            lower.append(((leg, rank), (cut.rank - rank) * cut.price, lost))
        for rank in range(cut.rank, min(cut.rank + _RAISES, len(s2))):
            gained += s2[rank]
            higher.append(((leg, rank + 1), (rank + 1 - cut.rank) * cut.price, gained))
    best: tuple[float, float, Change] | None = None
    for up, cost, gain in higher:
        for down, saved, lost in lower:
            entries, error2 = size + cost - saved, now + lost - gain
            if aim.error2 is not None:
                good, value = entries < size and error2 <= aim.error2 * _HOPE, (float(entries), error2)
            else:
                assert aim.max_params is not None
                good, value = entries <= aim.max_params and error2 < now * (1 - 1e-6), (error2, float(entries))
            if good and (best is None or value < best[:2]) and (up is None or down is None or up[0] != down[0]):
                change = tuple(c for c in (up, down) if c is not None)
                if _after(state, change) not in failed:
                    best = (*value, change)
    return None if best is None else best[2]
