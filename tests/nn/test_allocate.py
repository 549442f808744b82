"""Ranks under a budget: never passed, well used, and better spent than evenly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnkit.errors import BudgetError
from tnkit.nn import Ladder, allocate, allocate_uniform


def low_rank_ladder(m: int, n: int, decay: float, *, pivoted: bool) -> Ladder:
    r = np.arange(1, min(m, n) + 1)
    energy = np.exp(-decay * r)
    error = np.append(energy[::-1].cumsum()[::-1][1:], 0.0) / energy.sum()
    return Ladder.of(r * (m + n - r) if pivoted else r * (m + n), error, m * n)


ladders = st.lists(
    st.builds(low_rank_ladder, st.integers(1, 20), st.integers(1, 20), st.floats(0.01, 2.0), pivoted=st.booleans()),
    min_size=1,
    max_size=6,
)


@given(ladders=ladders, share=st.floats(0.0, 1.0))
def test_never_passed_and_nothing_more_would_fit(ladders: list[Ladder], share: float) -> None:
    least = sum(int(ladder.cost[0]) for ladder in ladders)
    dense = sum(int(ladder.cost[-1]) for ladder in ladders)
    budget = least + int(share * (dense - least))
    at = allocate(ladders, budget)
    used = sum(int(ladder.cost[k]) for ladder, k in zip(ladders, at, strict=True))
    assert used <= budget
    steps = [
        int(ladder.cost[k + 1] - ladder.cost[k])
        for ladder, k in zip(ladders, at, strict=True)
        if k + 1 < len(ladder.cost)
    ]
    assert all(used + step > budget for step in steps)
    uniform = allocate_uniform(ladders, budget)
    assert sum(int(ladder.cost[k]) for ladder, k in zip(ladders, uniform, strict=True)) <= budget


def test_the_whole_budget_leaves_everything_dense() -> None:
    two = [low_rank_ladder(8, 6, 0.5, pivoted=False), low_rank_ladder(5, 9, 0.5, pivoted=True)]
    assert [two[k].choice[at] for k, at in enumerate(allocate(two, 48 + 45))] == [-1, -1]


def test_greedy_is_no_worse_than_uniform_on_these() -> None:
    several = [low_rank_ladder(30, 30, decay, pivoted=False) for decay in (0.02, 0.1, 0.5, 1.0)]

    def error(at: list[int]) -> float:
        return sum(float(ladder.error[k]) for ladder, k in zip(several, at, strict=True))

    for budget in (600, 1200, 2400):
        assert error(allocate(several, budget)) <= error(allocate_uniform(several, budget)) + 1e-12


def test_break_even() -> None:
    ladder = low_rank_ladder(10, 10, 0.1, pivoted=False)
    assert ladder.cost.tolist() == [20, 40, 60, 80, 100]
    assert ladder.choice.tolist() == [0, 1, 2, 3, -1]


def test_a_step_that_pays_later_is_seen() -> None:
    late = Ladder.of(np.array([1, 2, 3, 4]), np.array([0.9, 0.89, 0.2, 0.1]), 10)
    steady = Ladder.of(np.array([1, 2, 3, 4]), np.array([0.9, 0.8, 0.7, 0.6]), 10)
    assert allocate([late, steady], 4) == [2, 0]
    assert allocate([late, steady], 3) == [0, 1]  # what pays later cannot be paid


def test_a_limit_on_the_error_and_a_fixed_row() -> None:
    cost, error = np.array([1, 2, 3, 4]), np.array([0.81, 0.36, 0.04, 0.01])
    assert Ladder.of(cost, error, 10, max_error=0.5).choice.tolist() == [2, 3, -1]
    assert Ladder.of(cost, error, 10, fixed=1).choice.tolist() == [1]
    assert Ladder.of(cost, error, 2, fixed=3).choice.tolist() == [-1]


def test_a_budget_that_cannot_be_met() -> None:
    with pytest.raises(BudgetError, match="at least 20 of 100"):
        allocate([low_rank_ladder(10, 10, 0.1, pivoted=False)], 19)
