"""Choose the ranks of several bonds together: one error budget, or one size budget, for the whole tensor.

Giving each of d-1 cuts the same share eps/√(d-1) wastes what a cut does not use and ignores that a unit of rank costs
more at one bond than at another. Here the sum of the discarded energies is one budget, and it is spent where it saves
most parameters.

With the price p_b of one unit of rank at bond b held fixed, the best choice is to keep the singular values with the
largest s²/p_b: one sort. Prices depend on the ranks, so this is repeated to a fixed point from several starts, then
local exchanges (raise one bond, lower others) follow while they save, and where few choices are left they are all
tried (branch and bound), which is exact for monotone costs.

Example:
    >>> import numpy as np
    >>> spectra = [np.array([4.0, 1.0, 0.1]), np.array([4.0, 0.05, 0.01])]
    >>> choose_ranks(spectra, lambda r: 10 * r[0] + r[0] * r[1] + 10 * r[1], max_error2=0.2)
    (2, 1)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tnkit.errors import BudgetError, OptionError

__all__ = ["choose_ranks"]

Array: TypeAlias = "NDArray[np.float64]"
Ranks: TypeAlias = "tuple[int, ...]"

_EXHAUSTIVE = 3000  # evaluations of the cost that the exact search may take
_ROUNDS = 12  # fixed-point rounds of the prices
_STEPS = (1, 2, 4, 8, 16)
_MANY = 8  # bonds beyond which the exchanges look at fewer choices


def choose_ranks(
    spectra: Sequence[Tensor | Array],
    cost: Callable[[Ranks], int],
    *,
    max_error2: float | None = None,
    max_cost: int | None = None,
    caps: Sequence[int] | None = None,
    floor: int = 1,
) -> Ranks:
    """Ranks for all bonds under one budget of error, of size, or of both.

    Args:
        spectra: for each bond its squared singular values, descending. The error of a choice is taken as the sum over
            bonds of the discarded energies, which bounds the error of a sequential truncation (TT, Tucker, trees).
        cost: ranks -> size, not falling in any rank.
        max_error2: the energy that all bonds together may discard.
        max_cost: the largest size.
        caps: the largest rank of each bond (default: the number of values in its spectrum).
        floor: the least rank of each bond.

    Returns:
        - `max_error2` alone: ranks of small cost with error <= max_error2. If the caps do not admit that error, the
          smallest ranks that reach the caps' error.
        - `max_cost` alone: ranks of small error with cost <= max_cost, at which no bond can grow by one within it.
        - both: the first if it fits the size, else the second.

    Raises:
        OptionError: neither budget is given, or caps and spectra do not match.
        BudgetError: even the floor costs more than `max_cost`.

    Cost:
        a few sorts of all values and some hundred calls of `cost`.
    """
    if max_error2 is None and max_cost is None:
        raise OptionError("choose_ranks needs max_error2= or max_cost= (or both); neither was given.")
    if caps is not None and len(caps) != len(spectra):
        raise OptionError(f"choose_ranks got {len(spectra)} spectra and {len(caps)} caps; give one cap for each bond.")
    problem = _Problem(spectra, cost, caps, floor)
    if not spectra:
        return ()
    ranks: Ranks | None = None
    if max_error2 is not None:
        ranks = problem.least_cost(max_error2)
        if max_cost is None or problem.cost(ranks) <= max_cost:
            return ranks
    assert max_cost is not None
    if problem.cost(problem.low) > max_cost:
        raise BudgetError(
            f"choose_ranks: the least ranks {problem.low} already take {problem.cost(problem.low)}, "
            f"more than max_cost={max_cost}. Give a larger budget."
        )
    return problem.least_error(max_cost)


def _values(spectrum: Tensor | Array) -> Array:
    array = spectrum.detach().cpu().numpy() if isinstance(spectrum, torch.Tensor) else np.asarray(spectrum)
    return np.maximum(array.astype(np.float64), 0.0)


class _Problem:
    """The spectra, their tails and a remembered cost."""

    def __init__(
        self,
        spectra: Sequence[Tensor | Array],
        cost: Callable[[Ranks], int],
        caps: Sequence[int] | None,
        floor: int,
    ) -> None:
        self.s2 = [_values(s) for s in spectra]
        self.tails: list[list[float]] = [np.append(np.cumsum(s[::-1])[::-1], 0.0).tolist() for s in self.s2]
        self.falling = [[-t for t in tail] for tail in self.tails]  # ascending, for bisection
        sizes = [len(s) for s in self.s2]
        self.high: Ranks = tuple(min(n, c) for n, c in zip(sizes, sizes if caps is None else caps, strict=True))
        self.low: Ranks = tuple(min(floor, h) for h in self.high)
        self._raw_cost = cost
        self._known: dict[Ranks, int] = {}

    def cost(self, ranks: Ranks) -> int:
        if ranks not in self._known:
            self._known[ranks] = self._raw_cost(ranks)
        return self._known[ranks]

    def error(self, ranks: Ranks) -> float:
        return sum([t[r] for t, r in zip(self.tails, ranks, strict=True)])

    def lowest(self, bond: int, allowance: float) -> int:
        """The least rank of a bond whose tail is within the allowance."""
        if allowance < 0:
            return self.high[bond]
        rank = bisect_left(self.falling[bond], -allowance)
        return min(max(rank, self.low[bond]), self.high[bond])

    # -- prices and greedy paths

    def prices(self, ranks: Ranks) -> Array:
        """What one more unit of rank costs at each bond (a central difference over an eighth of the rank)."""
        out = np.ones(len(ranks))
        for b, r in enumerate(ranks):
            step = max(1, r // 8)
            up, down = min(r + step, self.high[b]), max(r - step, self.low[b])
            if up > down:
                out[b] = (self.cost(_put(ranks, b, up)) - self.cost(_put(ranks, b, down))) / (up - down)
        return np.maximum(out, 1e-9)

    def order(self, prices: Array) -> NDArray[np.int64]:
        """The bonds to raise by one, in the order of energy gained for the price."""
        ratio, bond = [], []
        for b, s in enumerate(self.s2):
            part = s[self.low[b] : self.high[b]]
            ratio.append(part / prices[b])
            bond.append(np.full(len(part), b))
        return np.concatenate(bond)[np.argsort(-np.concatenate(ratio), kind="stable")]

    def at(self, order: NDArray[np.int64], steps: int) -> Ranks:
        counts = np.bincount(order[:steps], minlength=len(self.s2))
        return tuple(low + int(c) for low, c in zip(self.low, counts, strict=True))

    def first(self, order: NDArray[np.int64], passed: Callable[[Ranks], bool]) -> int:
        """The least number of steps for which the (monotone) test holds, len(order) + 1 if none does."""
        below, above = -1, len(order) + 1
        while above - below > 1:
            middle = (below + above) // 2
            if middle <= len(order) and passed(self.at(order, middle)):
                above = middle
            else:
                below = middle
        return above

    def candidates(self, start: Ranks, pick: Callable[[NDArray[np.int64]], Ranks]) -> Iterator[Ranks]:
        """The fixed-point rounds: prices at the ranks, ranks by the prices."""
        prices = self.prices(start)
        seen: set[Ranks] = set()
        for _ in range(_ROUNDS):
            ranks = pick(self.order(prices))
            yield ranks
            if ranks in seen:
                return
            seen.add(ranks)
            prices = np.sqrt(prices * self.prices(ranks))

    # -- least cost under an error

    def least_cost(self, max_error2: float) -> Ranks:
        limit = max(max_error2, self.error(self.high))
        even = tuple(self.lowest(b, limit / len(self.s2)) for b in range(len(self.s2)))

        def pick(order: NDArray[np.int64]) -> Ranks:
            return self.at(order, min(self.first(order, lambda r: self.error(r) <= limit), len(order)))

        pool = {even if self.error(even) <= limit else self.high}
        for start in (even, self.low, self.high):
            pool.update(self.trim(r, limit) for r in self.candidates(start, pick) if self.error(r) <= limit)
        best = min(pool, key=self.cost)
        for start in sorted(pool, key=self.cost)[: 3 if len(self.s2) <= _MANY else 1]:
            best = min(best, self.exchange(start, limit), key=self.cost)
        return self.enumerate_cost(best, limit)

    def trim(self, ranks: Ranks, limit: float) -> Ranks:
        """Lower bonds while the error allows, the largest saving first."""
        while True:
            slack = limit - self.error(ranks)
            options = [
                _put(ranks, b, low)
                for b in range(len(ranks))
                if (low := self.lowest(b, self.tails[b][ranks[b]] + slack)) < ranks[b]
            ]
            options = [r for r in options if self.error(r) <= limit]
            if not options:
                return ranks
            ranks = min(options, key=self.cost)

    def exchange(self, ranks: Ranks, limit: float) -> Ranks:
        """Raise one bond, lower others, while it saves."""
        for _ in range(200):
            best = ranks
            for b in range(len(ranks)):
                for step in _STEPS:
                    up = min(ranks[b] + step, self.high[b])
                    if up > ranks[b]:
                        best = min(best, self.lower_others(_put(ranks, b, up), b, limit), key=self.cost)
            if self.cost(best) >= self.cost(ranks):
                return ranks
            ranks = best
        return ranks

    def lower_others(self, ranks: Ranks, kept: int, limit: float) -> Ranks:
        """Spend what the raised bond frees on the others: on each in turn first (for many bonds: on the best one)."""
        slack = limit - self.error(ranks)
        lowered = [
            _put(ranks, c, self.lowest(c, self.tails[c][ranks[c]] + slack)) for c in range(len(ranks)) if c != kept
        ]
        lowered = [r for r in lowered if r != ranks and self.error(r) <= limit]
        if len(ranks) > _MANY:
            lowered = sorted(lowered, key=self.cost)[:1]
        return min((self.trim(r, limit) for r in lowered), key=self.cost, default=ranks)

    def enumerate_cost(self, best: Ranks, limit: float) -> Ranks:
        """Try all choices that can still beat `best`, if they are few: exact for a monotone cost."""
        d = len(best)
        rest = [limit - sum(self.tails[c][self.high[c]] for c in range(d) if c != b) for b in range(d)]
        least = tuple(self.lowest(b, rest[b]) for b in range(d))
        most = []
        for b in range(d):
            up = least[b]
            while (
                up < self.high[b]
                and up - least[b] <= _EXHAUSTIVE
                and (self.cost(_put(least, b, up + 1)) < self.cost(best))
            ):
                up += 1
            most.append(up)
        widths = [m - low + 1 for m, low in zip(most, least, strict=True)]
        if float(np.prod(widths, dtype=np.float64)) / max(widths) > _EXHAUSTIVE:
            return best
        last = int(np.argmax(widths))
        free = [b for b in range(d) if b != last]
        stack = [(least, 0)]
        while stack:
            ranks, depth = stack.pop()
            if self.cost(ranks) >= self.cost(best):
                continue
            if depth == len(free):
                used = sum(self.tails[b][ranks[b]] for b in free)
                full = _put(ranks, last, self.lowest(last, limit - used))
                if self.error(full) <= limit and self.cost(full) < self.cost(best):
                    best = full
                continue
            b = free[depth]
            stack.extend((_put(ranks, b, r), depth + 1) for r in range(most[b], least[b] - 1, -1))
        return best

    # -- least error under a cost

    def least_error(self, max_cost: int) -> Ranks:
        def pick(order: NDArray[np.int64]) -> Ranks:
            return self.at(order, max(self.first(order, lambda r: self.cost(r) > max_cost) - 1, 0))

        pool = {self.low}
        for start in (self.low, self.high):
            pool.update(self.candidates(start, pick))
        filled = {self.fill(r, max_cost) for r in sorted(pool, key=self.error)[:6]}
        ranks = min(filled, key=self.error)
        return self.enumerate_error(self.trade(ranks, max_cost), max_cost)

    def grown(self, ranks: Ranks, bond: int, max_cost: int) -> int:
        """The largest rank of a bond within the cost."""
        below, above = ranks[bond], self.high[bond] + 1
        while above - below > 1:
            middle = (below + above) // 2
            if self.cost(_put(ranks, bond, middle)) <= max_cost:
                below = middle
            else:
                above = middle
        return below

    def fill(self, ranks: Ranks, max_cost: int) -> Ranks:
        """Raise bonds until none can grow by one within the cost, the best gain for the price first."""
        for _ in range(64):
            here = self.cost(ranks)
            best, score = None, -1.0
            for b, r in enumerate(ranks):
                if r < self.high[b] and self.cost(up := _put(ranks, b, r + 1)) <= max_cost:
                    gain = self.s2[b][r] / max(self.cost(up) - here, 1e-9)
                    if gain > score:
                        best, score = up, gain
            if best is None:
                return ranks
            ranks = best
        by_gain = sorted(range(len(ranks)), key=lambda b: -self.tails[b][ranks[b]])
        for b in by_gain:
            ranks = _put(ranks, b, self.grown(ranks, b, max_cost))
        return ranks

    def trade(self, ranks: Ranks, max_cost: int) -> Ranks:
        """Lower one bond, raise others with what that frees, while the error falls."""
        for _ in range(200):
            best = ranks
            for b in range(len(ranks)):
                for step in _STEPS:
                    down = max(ranks[b] - step, self.low[b])
                    if down == ranks[b]:
                        continue
                    lowered = _put(ranks, b, down)
                    for c in range(len(ranks)):
                        if c != b:
                            raised = _put(lowered, c, self.grown(lowered, c, max_cost))
                            best = min(best, raised, key=self.error)
                    best = min(best, self.fill(lowered, max_cost), key=self.error)
            if self.error(best) >= self.error(ranks) * (1 - 1e-14):
                return self.fill(ranks, max_cost)
            ranks = best
        return self.fill(ranks, max_cost)

    def enumerate_error(self, best: Ranks, max_cost: int) -> Ranks:
        """Try all choices within the cost, if they are few."""
        d = len(best)
        most = [self.grown(self.low, b, max_cost) for b in range(d)]
        widths = [m - low + 1 for m, low in zip(most, self.low, strict=True)]
        if float(np.prod(widths, dtype=np.float64)) / max(widths) > _EXHAUSTIVE / 8:
            return best
        last = int(np.argmax(widths))
        free = [b for b in range(d) if b != last]
        stack = [(self.low, 0)]
        error = self.error(best)
        while stack:
            ranks, depth = stack.pop()
            if self.cost(ranks) > max_cost:
                continue
            if depth == len(free):
                full = _put(ranks, last, self.grown(ranks, last, max_cost))
                if self.error(full) < error:
                    best, error = full, self.error(full)
                continue
            b = free[depth]
            stack.extend((_put(ranks, b, r), depth + 1) for r in range(self.low[b], most[b] + 1))
        return self.fill(best, max_cost)


def _put(ranks: Ranks, bond: int, rank: int) -> Ranks:
    return (*ranks[:bond], rank, *ranks[bond + 1 :])
