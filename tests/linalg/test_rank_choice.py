import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnkit.errors import BudgetError, OptionError
from tnkit.linalg import choose_ranks

Cost = Callable[[tuple[int, ...]], int]


def chain(sizes: tuple[int, ...]) -> Cost:
    return lambda r: sum(a * n * b for a, n, b in zip((1, *r), sizes, (*r, 1), strict=True))


def tucker(sizes: tuple[int, ...]) -> Cost:
    return lambda r: math.prod(r) + sum(n * k for n, k in zip(sizes, r, strict=True))


def spectra(caps: tuple[int, ...], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    out = []
    for c in caps:
        s = np.arange(1, c + 1) ** -rng.uniform(0.5, 2) * rng.uniform(0.8, 1.2, c)
        s2 = np.sort(s**2)[::-1]
        out.append(s2 / s2.sum())
    return out


def error(s: list[np.ndarray], r: tuple[int, ...]) -> float:
    return float(sum(v[k:].sum() for v, k in zip(s, r, strict=True)))


def even(s: list[np.ndarray], limit: float) -> tuple[int, ...]:
    tail = [np.append(np.cumsum(v[::-1])[::-1], 0) for v in s]
    return tuple(max(1, int((t > limit / len(s)).sum())) for t in tail)


PROBLEMS = [
    ((20,) * 4, (20, 400, 20), chain),
    ((8,) * 6, (8, 64, 512, 64, 8), chain),
    ((145, 145, 200), (145, 145, 200), tucker),
    ((12,) * 6, (12,) * 6, tucker),
    ((50,) * 4, (50, 2500, 50), chain),
]


@pytest.mark.parametrize(("sizes", "caps", "kind"), PROBLEMS)
@pytest.mark.parametrize("limit", [1e-1, 1e-2, 1e-4])
def test_better_than_the_even_split(sizes: tuple[int, ...], caps: tuple[int, ...], kind: object, limit: float) -> None:
    cost = kind(sizes)
    s = spectra(caps, seed=len(sizes))
    base = even(s, limit)
    r = choose_ranks(s, cost, max_error2=limit)
    assert error(s, r) <= limit * (1 + 1e-12)
    assert cost(r) <= cost(base)
    r2 = choose_ranks(s, cost, max_cost=cost(base))
    assert cost(r2) <= cost(base)
    assert error(s, r2) <= error(s, base) * (1 + 1e-12)


def test_saves_a_fifth() -> None:
    saved = []
    for seed in range(3):
        for sizes, caps, kind in PROBLEMS:
            s = spectra(caps, seed=seed)
            saved.append(kind(sizes)(choose_ranks(s, kind(sizes), max_error2=1e-2)) / kind(sizes)(even(s, 1e-2)))
    assert float(np.mean(saved)) <= 0.8


@given(
    seed=st.integers(0, 10**6),
    caps=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple),
    limit=st.floats(0, 2),
    kind=st.sampled_from([chain, tucker]),
    budget=st.integers(0, 300),
)
def test_against_all_choices(seed: int, caps: tuple[int, ...], limit: float, kind: object, budget: int) -> None:
    sizes = (5,) * (len(caps) + (kind is chain))
    cost = kind(sizes)
    s = spectra(caps, seed)
    everything = list(itertools.product(*(range(1, c + 1) for c in caps)))
    r = choose_ranks(s, cost, max_error2=limit)
    assert error(s, r) <= limit * (1 + 1e-12) + 1e-15
    assert cost(r) == min(cost(q) for q in everything if error(s, q) <= limit * (1 - 1e-12) or q == caps)
    fits = [q for q in everything if cost(q) <= budget]
    if not fits:
        with pytest.raises(BudgetError, match="max_cost"):
            choose_ranks(s, cost, max_cost=budget)
        return
    r = choose_ranks(s, cost, max_cost=budget)
    assert cost(r) <= budget
    assert error(s, r) <= min(error(s, q) for q in fits) + 1e-12
    for b in range(len(caps)):
        up = (*r[:b], r[b] + 1, *r[b + 1 :])
        assert up[b] > caps[b] or cost(up) > budget
    both = choose_ranks(s, cost, max_error2=limit, max_cost=budget)
    assert cost(both) <= budget
    if any(error(s, q) <= limit * (1 - 1e-9) for q in fits):
        assert error(s, both) <= limit * (1 + 1e-12) + 1e-15


def test_budget_is_filled_when_nothing_is_gained() -> None:
    s = [np.array([1.0] + [0.0] * 9)] * 3
    cost = chain((4,) * 4)
    r = choose_ranks(s, cost, max_cost=120)
    assert cost(r) <= 120
    assert all(cost((*r[:b], r[b] + 1, *r[b + 1 :])) > 120 or r[b] == 10 for b in range(3))


def test_caps_floor_and_tensors() -> None:
    s = [torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)] * 2
    cost = chain((3, 3, 3))
    assert choose_ranks(s, cost, max_error2=0.0) == (3, 3)
    assert choose_ranks(s, cost, max_error2=0.0, caps=(2, 3)) == (2, 3)
    assert choose_ranks(s, cost, max_error2=9.0) == (1, 1)
    assert choose_ranks(s, cost, max_error2=9.0, floor=2) == (2, 2)
    assert choose_ranks([], lambda r: 5, max_error2=0.0) == ()
    with pytest.raises(OptionError):
        choose_ranks(s, cost)
    with pytest.raises(OptionError, match="caps"):
        choose_ranks(s, cost, max_error2=0.0, caps=(1,))
