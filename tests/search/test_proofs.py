"""Bounds: what no network can go below, at an error or at a size, and what a result says of them."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch

import tnkit as tk
from tests.search.planted import dense
from tnkit.search.format_bounds import least_size
from tnkit.search.graph import Graph, ring, star
from tnkit.search.proofs import ONE_EACH, cheapest_network


@pytest.fixture
def rough() -> torch.Tensor:
    """Singular values that fall slowly."""
    i, j, k, m = np.ogrid[1:7, 1:6, 1:7, 1:5]
    noise = np.random.default_rng(0).normal(size=(6, 5, 6, 4))
    return torch.as_tensor(1 / (i + j + k * m) + 0.02 * noise)


def test_the_bound_of_all_networks_is_the_least_over_all_partitions() -> None:
    sizes, gen = (3, 4, 5, 2), np.random.default_rng(0)
    ranks = gen.integers(1, 6, size=(1, 16)).astype(float)
    every = list(range(4))

    def partitions(modes: list[int]) -> list[list[list[int]]]:
        if not modes:
            return [[]]
        first, rest = modes[0], modes[1:]
        found = []
        for k in range(len(rest) + 1):
            for others in combinations(rest, k):
                left = [m for m in rest if m not in others]
                found += [[[first, *others], *tail] for tail in partitions(left)]
        return found

    def cost(blocks: list[list[int]]) -> float:
        own = (np.prod([sizes[k] for k in block]) for block in blocks)
        up = (1.0 if len(b) == 4 else ranks[0, sum(1 << k for k in b)] for b in blocks)
        return float(sum(a * b for a, b in zip(own, up, strict=True)))

    assert cheapest_network(ranks, sizes)[0] == min(map(cost, partitions(every)))


@pytest.mark.parametrize("strategy", ["trees", "greedy", "random", "auto", "portfolio"])
@pytest.mark.parametrize("asked", [{"eps": 0.1}, {"budget": 120}])
def test_every_search_says_how_far_it_can_be_from_the_best(
    rough: torch.Tensor, strategy: str, asked: dict[str, float]
) -> None:
    limits = {} if strategy == "portfolio" else {"max_evaluations": 60}
    found = tk.search(rough, strategy=strategy, **limits, **asked)  # type: ignore[arg-type]
    if found.best.fit.status.ok:
        assert found.gap is not None
        assert 0 <= found.gap <= 1
        assert "any network" in found.why
        assert dict(found.proofs.sizes).get("any network", 0) <= found.best.fit.n_params
    else:
        assert "eps was not reached" in found.why
    assert dict(found.proofs.errors).get("any network", 0) <= found.best.fit.rel_error
    assert bool(found.proofs.sizes) == ("eps" in asked)
    assert bool(found.proofs.errors) == ("budget" in asked)


def test_a_planted_tucker_tensor_is_proved_to_be_the_best_tree_and_nearly_the_best_network() -> None:
    found = tk.search(dense(star((7,) * 4, (2, 2, 2, 2))), eps=1e-6, strategy="trees")
    bounds = dict(found.bounds)
    assert bounds["any tree"] == found.best.fit.n_params == 72
    assert bounds["any network"] == 4 * 14
    assert found.gap == pytest.approx(1 - 56 / 72)


def test_the_bound_of_all_networks_holds_for_loops() -> None:
    graph = ring((6,) * 4, (2, 2, 2, 2))
    found = tk.search(dense(graph), eps=1e-6, strategy="matched")
    bounds = dict(found.bounds)
    assert bounds["any network"] <= found.best.fit.n_params == graph.n_params < bounds["any tree"]


def test_why_says_where_there_is_no_bound() -> None:
    x = torch.rand((2,) * 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = tk.search(x, eps=0.3, strategy="greedy", max_evaluations=2)
    assert found.gap is None
    assert "no bound was proved" in found.why


def test_a_size_is_kept_by_trees_too(rough: torch.Tensor) -> None:
    for budget in (40, 100, 300):
        for strategy in ("trees", "packing", "auto"):
            assert tk.search(rough, budget=budget, strategy=strategy, time_limit_s=5).best.fit.n_params <= budget


def test_decompose_auto_says_it_too(rough: torch.Tensor) -> None:
    assert "any tree" in tk.decompose(rough, "auto", eps=0.1).why


@pytest.mark.parametrize("ranks", [(2, 3, 2, 3), (3, 3, 3, 3), (2, 2, 2, 2)])
def test_all_cuts_together_bound_rings_closely(ranks: tuple[int, ...]) -> None:
    graph = ring((7, 6, 7, 6), ranks)
    bounds = dict(tk.search(dense(graph), eps=1e-6, strategy="matched").bounds)
    assert bounds["any network"] <= bounds[ONE_EACH] <= graph.n_params
    assert bounds[ONE_EACH] >= 0.8 * graph.n_params


def test_the_bound_of_one_tensor_a_mode_is_that_of_all_their_ranks() -> None:
    """Against all ranks of the bonds up to 4, one by one."""
    shape, needed = (5, 6, 7), {1: 4, 2: 3, 3: 4}
    least = min(
        5 * a * b + 6 * a * c + 7 * b * c
        for a, b, c in product(range(1, 5), repeat=3)
        if a * b >= 4 and a * c >= 3 and b * c >= 4
    )
    every = Graph(shape, [(k,) for k in range(3)], {(0, 1): 2, (0, 2): 2, (1, 2): 2})
    bound = least_size(every.layout(), needed)
    assert 0.8 * least <= bound <= least
