"""The smallest tree for an error, or the best for a size: a search for the price of the error, then single ranks.

At a price μ the sweeps of a `TreeState` lower entries + μ error²; a larger price gives a smaller error. The price at
which what is asked is just kept is found by bisection, every step from the state of the last. What whole ranks leave
unused is then spent by single ranks: one is lowered, or one is raised and others are lowered, as the spectra of all
bonds say that it may hold, and the sweeps that follow decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log, sqrt

from tnkit.search.tree_state import TreeState

__all__ = ["Aim", "refined", "squeezed", "trimmed"]

_PRICES = 12  # that are tried at the most
_SWEEPS = 4  # at one price, at the most
_SETTLED = 2e-3  # fall of entries + μ error² below which sweeps at a price end
_USED = 0.995  # share of what is allowed, from which there is no use in another price
_TRIES = 40  # single ranks that are tried
_FOLLOW = 3  # sweeps after a change, as long as they may reach the error
_HOPE = 1.03  # times the allowed error² that a change of ranks may be estimated at: sweeps lower it


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
        return None if self.error2 is None else 1e-3 * min(self.error2, state.norm2)

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


def refined(state: TreeState, aim: Aim, *, price: float | None = None, reshape: bool = True) -> TreeState:
    """The best tree that sweeps find from a state, ranks and shape free.

    Args:
        state: where to begin; it is left as it is.
        aim: what is asked.
        price: the first μ.
        reshape: whether the tree may change.

    Returns:
        what keeps the aim; where nothing does, what is nearest to it.

    Cost:
        about 30 sweeps, each of some reads of the array.
    """
    low, high = 0.0, inf  # prices: too small, large enough
    begun = aim.error2 if aim.error2 else max(state.error2, 1e-2 * state.norm2)
    price = price or 0.5 * state.n_params / begun
    here = state.copy()
    here.floor2 = aim.floor2(here)
    best = here.copy()
    last: tuple[float, float] | None = None
    for _ in range(_PRICES):
        here = here.copy() if here.bonds else state.copy()  # a single node has nothing to change
        here.floor2 = aim.floor2(here)
        _settle(here, price, aim, reshape=reshape)
        if aim.score(here) < aim.score(best):
            best = here
        if aim.out_of_time():
            break
        over = aim.over(here)
        if over > 1.0:
            low = price
        else:
            high = price
        if low and high < inf:
            if high < 1.02 * low:
                break
            if aim.tight(here):
                break
            price = sqrt(low * high)
            if last is not None and (last[1] > 1) != (over > 1):
                # both ends are known: on the line between them in logarithms
                share = log(max(last[1], 1e-9)) / (log(max(last[1], 1e-9)) - log(max(over, 1e-9)))
                middle = last[0] * (_price_of(low, high, last[0]) / last[0]) ** min(max(share, 0.1), 0.9)
                price = min(max(middle, low * (high / low) ** 0.1), low * (high / low) ** 0.9)
        else:
            price *= min(max(over, 1 / 16), 16.0) ** 1.3 * (1.05 if over > 1 else 0.95)
        last = (low if over > 1 else high, over)
    return best


def _price_of(low: float, high: float, one: float) -> float:
    return high if one == low else low


def _settle(state: TreeState, price: float, aim: Aim, *, reshape: bool) -> None:
    before = inf
    for _ in range(_SWEEPS):
        state.sweep(price, reshape=reshape)
        now = state.n_params + price * state.error2
        if now > before * (1 - _SETTLED) or aim.out_of_time():
            return
        before = now


def trimmed(state: TreeState, aim: Aim, *, tries: int = _TRIES) -> TreeState:
    """Single ranks lowered, or traded, while the error is kept; the shape of the tree stays.

    Args:
        state: one that keeps the error, else it is given back.
        aim: with an error.
        tries: changes that are tried.
    """
    if aim.error2 is None or state.error2 > aim.error2:
        return state
    best = state.copy()
    best.floor2 = aim.floor2(best)
    best.sweep(None)
    failed: set[tuple[tuple[int, int], ...]] = set()
    for _ in range(tries):
        if aim.out_of_time():
            break
        change = _change(best, aim.error2, failed)
        if change is None:
            break
        tried = best.copy()
        ranks = {leg: cut.rank for leg, cut in best.known.items()} | dict(change)
        for leg, rank in sorted(change, key=lambda c: c[1] <= best.known[c[0]].rank):  # those that are raised first
            tried.fit_pair(leg, None, rank=rank)
        before = tried.error2
        for _ in range(_FOLLOW):
            tried.sweep(None)
            now = tried.error2
            if now <= aim.error2 or now - aim.error2 > 2 * (before - now):
                break
            before = now
        if tried.error2 <= aim.error2 and tried.n_params < best.n_params:
            best = tried
        else:
            failed.add(tuple(sorted(ranks.items())))
    return best


def _change(
    state: TreeState, allowed2: float, failed: set[tuple[tuple[int, int], ...]]
) -> tuple[tuple[int, int], ...] | None:
    """The change of one or two ranks that saves most, by what the spectra of the bonds say."""
    now, known = state.error2, {leg: cut for leg, cut in state.known.items() if leg in state.bonds}
    ranks = {leg: cut.rank for leg, cut in known.items()}
    lower: list[tuple[tuple[int, int], int, float]] = []  # ((bond, rank), entries, squared error)
    higher: list[tuple[tuple[int, int] | None, int, float]] = [(None, 0, 0.0)]
    for leg, cut in known.items():
        s2 = cut.s2.tolist()
        lost = 0.0
        for rank in range(cut.rank - 1, 0, -1):
            lost += s2[rank]
            if now + lost > allowed2 * _HOPE + (max(s2[cut.rank :], default=0.0) if len(known) > 1 else 0.0) * 8:
                break
            lower.append(((leg, rank), (cut.rank - rank) * cut.price, lost))
        gained = 0.0
        for rank in range(cut.rank, min(cut.rank + 4, len(s2))):
            gained += s2[rank]
            higher.append(((leg, rank + 1), (rank + 1 - cut.rank) * cut.price, gained))
    options = []
    for up, cost, gain in higher:
        for down, saved, lost in lower:
            if saved > cost and now + lost - gain <= allowed2 * _HOPE and (up is None or up[0] != down[0]):
                change = (down,) if up is None else (up, down)
                if tuple(sorted((ranks | dict(change)).items())) not in failed:
                    options.append((cost - saved, lost - gain, change))
    return min(options)[2] if options else None


def squeezed(state: TreeState, aim: Aim, *, rounds: int = 8) -> TreeState:
    """Pairs split otherwise, one at a time, where that saves entries within the error that is left.

    Args:
        state: one that keeps the error, else it is given back.
        aim: with an error.
        rounds: changes at the most; each looks at every bond.
    """
    if aim.error2 is None or state.error2 > aim.error2:
        return state
    best = state
    for _ in range(rounds):
        found = best
        for leg in best.bonds:
            tried = best.copy()
            tried.fit_pair(leg, None, allowed2=aim.error2, reshape=True)
            if tried.error2 <= aim.error2 and (tried.n_params, tried.error2) < (found.n_params, found.error2):
                found = tried
            if aim.out_of_time():
                return found
        if found.n_params >= best.n_params:
            break
        found.sweep(None)
        best = found
    return best
