"""Ranks under a budget: each layer offers a ladder of choices; the budget goes where it gains most per unit of cost.

The greedy walk goes along each ladder's non-increasing envelope of gain per cost, as far as it can be paid, which is
optimal for the relaxed problem. Gains are what the model's outputs feel (`tnkit.nn.sensitivity`) where that is known,
and otherwise shares of each layer's own energy (S²/ΣS²). A layer that would not be smaller stays dense.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnkit.errors import BudgetError
from tnkit.nn.specs import Floats, Ints

__all__ = ["Ladder", "allocate", "allocate_uniform"]


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """What a layer may become.

    Attributes:
        cost: (K + 1,) ascending, in the unit of the budget; the last is that of the dense layer.
        error: (K + 1,) squared error as a share of the energy, descending; the last is 0.
        choice: (K + 1,) row of the layer's RankGrid, or −1 for the dense layer.
    """

    cost: Ints
    error: Floats
    choice: Ints

    @staticmethod
    def of(
        cost: Ints,
        error: Floats,
        dense_cost: int,
        max_error: float | None = None,
        fixed: int | None = None,
        allowed: Ints | None = None,
    ) -> Ladder:
        """The undominated choices among all ranks and the dense layer.

        Args:
            cost: (K,) of each rank.
            error: (K,) squared error of each rank, as a share of the energy.
            dense_cost: of the layer as it is; ranks that cost as much or more are left out (break-even).
            max_error: ranks whose relative error is above are left out.
            fixed: the only row that is allowed; the dense layer takes its place if it is not smaller.
            allowed: rows that may be taken; None for all.

        Example:
            >>> import numpy as np
            >>> ladder = Ladder.of(np.array([4, 8, 12]), np.array([0.5, 0.1, 0.0]), dense_cost=10)
            >>> ladder.cost.tolist(), ladder.choice.tolist()
            ([4, 8, 10], [0, 1, -1])
        """
        rows = np.arange(len(cost)) if fixed is None else np.array([fixed])
        rows = rows[cost[rows] < dense_cost]
        rows = rows if allowed is None else np.intersect1d(rows, allowed)
        if max_error is not None:
            rows = rows[error[rows] <= max_error**2]
        rows = rows[np.lexsort((error[rows], cost[rows]))]
        best = np.minimum.accumulate(np.append(np.inf, error[rows]))[:-1]
        rows = rows[error[rows] < best]
        if fixed is not None and len(rows):
            return Ladder(cost[rows], error[rows], rows)
        return Ladder(np.append(cost[rows], dense_cost), np.append(error[rows], 0.0), np.append(rows, -1))


def allocate(ladders: Sequence[Ladder], budget: int, unit: str = "parameters") -> list[int]:
    """The position on each ladder such that the costs together stay within the budget.

    Args:
        ladders: one for each layer.
        budget: in the unit of the costs.
        unit: the word for it in messages.

    Returns:
        A position for each ladder.

    Raises:
        BudgetError: even the cheapest choices cost more.

    Example:
        >>> import numpy as np
        >>> steep = Ladder.of(np.array([1, 2, 3]), np.array([0.9, 0.1, 0.05]), dense_cost=9)
        >>> flat = Ladder.of(np.array([1, 2, 3]), np.array([0.9, 0.8, 0.7]), dense_cost=9)
        >>> allocate([steep, flat], budget=4)
        [1, 1]
    """
    left = budget - _require_possible(ladders, budget, unit)
    greedy, uniform = _greedy(ladders, left), allocate_uniform(ladders, budget, unit)
    return min(greedy, uniform, key=lambda at: sum(float(x.error[k]) for x, k in zip(ladders, at, strict=True)))


def _greedy(ladders: Sequence[Ladder], left: int) -> list[int]:
    """Again and again the step with the best gain per cost that still fits."""
    at = [0] * len(ladders)
    heap: list[tuple[float, int, int]] = []

    def push(k: int) -> None:
        """The next vertex of the ladder's envelope, of the part that can be paid."""
        ladder, here = ladders[k], at[k]
        top = int(np.searchsorted(ladder.cost, ladder.cost[here] + left, side="right"))
        if top > here + 1:
            extra = ladder.cost[here + 1 : top] - ladder.cost[here]
            rate = (ladder.error[here] - ladder.error[here + 1 : top]) / extra
            step = int(rate.argmax())
            heapq.heappush(heap, (-float(rate[step]), k, here + 1 + step))

    for k in range(len(ladders)):
        push(k)
    while heap:
        _, k, target = heapq.heappop(heap)
        extra = int(ladders[k].cost[target] - ladders[k].cost[at[k]])
        if extra <= left:
            left, at[k] = left - extra, target
        push(k)
    return at


def allocate_uniform(ladders: Sequence[Ladder], budget: int, unit: str = "parameters") -> list[int]:
    """The same share of its dense cost for each layer, as large as the budget allows: the baseline to compare with.

    Raises:
        BudgetError: even the cheapest choices cost more.
    """
    _require_possible(ladders, budget, unit)

    def chosen(share: float) -> list[int]:
        limits = [share * float(ladder.cost[-1]) for ladder in ladders]
        return [
            max(0, int(np.searchsorted(ladder.cost, x, side="right")) - 1)
            for ladder, x in zip(ladders, limits, strict=True)
        ]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        fits = sum(int(ladder.cost[k]) for ladder, k in zip(ladders, chosen(middle), strict=True)) <= budget
        low, high = (middle, high) if fits else (low, middle)
    full = chosen(1.0)
    return full if sum(int(ladder.cost[k]) for ladder, k in zip(ladders, full, strict=True)) <= budget else chosen(low)


def _require_possible(ladders: Sequence[Ladder], budget: int, unit: str) -> int:
    least = sum(int(ladder.cost[0]) for ladder in ladders)
    if least > budget:
        dense = sum(int(ladder.cost[-1]) for ladder in ladders)
        raise BudgetError(
            f"A budget of {budget:,} {unit} cannot be met: the layers in scope take at least {least:,} of {dense:,} "
            f"({least / max(dense, 1):.1%}). Give {least:,} or more, or loosen rank, keep and max_error of the layers."
        )
    return least
