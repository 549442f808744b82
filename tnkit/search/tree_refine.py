"""The smallest tree for an error, or the best for a size: a search for the price of the error.

At a price μ the sweeps of a `TreeState` lower entries + μ error²; a larger price gives a smaller error. The price at
which what is asked is just kept is found by bisection, every step from the state of the last. Prices reach the convex
hull of what is possible only; what is left is spent by single splits (`squeezed`) and ranks (`tree_trades`).
"""

from __future__ import annotations

from math import inf, log, sqrt

from tnkit.search.tree_state import TreeState
from tnkit.search.tree_trades import Aim

__all__ = ["refined", "squeezed"]

_PRICES = 12  # that are tried at the most
_SWEEPS = 4  # at one price, at the most
_SETTLED = 2e-3  # fall of entries + μ error² below which sweeps at a price end


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
