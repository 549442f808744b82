"""Graphs by the ranks of all cuts: generic ranks, those that match, and the search over them."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

import tnkit as tk
from tests.search.planted import dense
from tnkit.search import DenseObjective, Graph, GreedyTN, MatchedSearch
from tnkit.search.clear_ranks import clear_ranks
from tnkit.search.cut_needs import needs, stands_out
from tnkit.search.graph import chain, ring
from tnkit.search.matched import generic_ranks, matched_graphs
from tnkit.solvers import Control


def over(shape: tuple[int, ...], bonds: dict[tuple[int, int], int]) -> Graph:
    return Graph(shape, [(k,) for k in range(len(shape))], bonds)


GRAPHS = {
    "all bonds": over((7,) * 4, dict.fromkeys(combinations(range(4), 2), 2)),
    "square with a diagonal": over((6, 7, 6, 7), {(0, 1): 2, (1, 2): 2, (2, 3): 2, (0, 3): 2, (0, 2): 2}),
    "square with a tail": over((5,) * 5, {(0, 1): 2, (1, 2): 3, (2, 3): 2, (0, 3): 3, (3, 4): 2}),
    "two triangles": over((6,) * 5, {(0, 1): 2, (1, 2): 2, (0, 2): 2, (2, 3): 2, (3, 4): 2, (2, 4): 2}),
    "unequal ring": ring((4, 9, 6, 8), (2, 3, 2, 2)),
    "shuffled ring": ring((5,) * 5, (2, 3, 2, 2, 2), order=(0, 3, 1, 4, 2)),
    "train": chain((5, 6, 7, 5), (2, 4, 3), order=(2, 0, 3, 1)),
}


def objective(x: torch.Tensor, eps: float) -> DenseObjective:
    gen = torch.Generator().manual_seed(0)
    return DenseObjective(x, float(x.norm()), eps=eps, max_params=None, rng=gen, control=Control())


@pytest.mark.parametrize("name", list(GRAPHS))
def test_generic_ranks_are_those_of_random_nodes(name: str) -> None:
    graph = GRAPHS[name]
    x, found = dense(graph), generic_ranks(graph)
    d = x.ndim
    for mask, rank in found.items():
        rows = [k for k in range(d) if mask >> k & 1]
        unfolded = x.permute(*rows, *(k for k in range(d) if k not in rows)).flatten(0, len(rows) - 1).flatten(1)
        assert int(torch.linalg.matrix_rank(unfolded)) == round(rank)


@pytest.mark.parametrize("name", list(GRAPHS))
def test_a_graph_is_among_the_first_that_match_its_own_ranks(name: str) -> None:
    graph = GRAPHS[name]
    ranks = {mask: round(rank) for mask, rank in generic_ranks(graph).items()}
    found = matched_graphs(graph.shape, ranks, ranks)
    assert [g.n_params for g in found] == sorted(g.n_params for g in found)
    order = [modes[0] for modes in graph.nodes]
    bonds = {(order[a], order[b]): r for (a, b), r in graph.ranks.items()}
    assert over(graph.shape, bonds).key in [g.key for g in found[:4]]
    for g in found:
        assert {mask: round(rank) for mask, rank in generic_ranks(g).items()} == ranks
    assert not [g for g in matched_graphs(graph.shape, ranks, ranks, below=100) if g.n_params >= 100]


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_ranks_that_stand_out_of_noise_are_the_planted_ones(noise: float) -> None:
    graph = GRAPHS["two triangles"]
    told = objective(dense(graph, noise=noise), 1.1e-3 if noise else 1e-4)
    low = needs(told)
    assert stands_out(told, low) == {mask: round(rank) for mask, rank in generic_ranks(graph).items()}


WEAK = over((6, 7, 6, 7, 6), {(0, 1): 2, (1, 2): 2, (2, 3): 3, (3, 4): 2, (0, 3): 2})


def weak(noise: float) -> torch.Tensor:
    """Of a graph that nodes of small singular values hide below an error of .1."""
    gen = torch.Generator().manual_seed(5)
    layout = WEAK.layout()
    shapes = layout.shapes(WEAK.bond_ranks())
    nodes = [torch.randn(s, generator=gen, dtype=torch.float64) * 0.1 + 0.5 for s in shapes]
    x = layout.build(nodes).to_dense()
    white = torch.randn(x.shape, generator=gen, dtype=torch.float64)
    return x / x.norm() + noise * white / white.norm()


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_ranks_far_below_eps_are_read_from_the_gap_or_the_noise(noise: float) -> None:
    x, planted = weak(noise), {mask: round(rank) for mask, rank in generic_ranks(WEAK).items()}
    low = needs(objective(x, 0.1))
    assert low != planted
    assert planted in clear_ranks(x, 1.0, 0.1)


def test_ranks_are_read_from_noise_that_leaves_no_gap() -> None:
    graph = GRAPHS["two triangles"]
    planted = {mask: round(rank) for mask, rank in generic_ranks(graph).items()}
    assert clear_ranks(dense(graph, noise=1e-2), 1.0, 0.1) == [planted]


def test_data_without_ranks_or_noise_of_one_level_tell_nothing() -> None:
    axes = torch.meshgrid(*[torch.linspace(0, 1, 6, dtype=torch.float64)] * 5, indexing="ij")
    smooth = 1 / (0.1 + sum(axes))
    gen = torch.Generator().manual_seed(0)
    rough = torch.randn((6,) * 5, generator=gen, dtype=torch.float64).cumsum(0).cumsum(3)
    for x in (smooth, rough):
        for ranks in clear_ranks(x, float(x.norm()), 1e-2):
            assert max(ranks.values()) < 36  # a level of its own, never all values


def test_a_graph_is_found_at_an_error_that_does_not_need_its_ranks() -> None:
    x = weak(0.0)
    found = tk.search(x, eps=1e-2, strategy="matched", rng=0)
    assert found.best.fit.n_params <= WEAK.n_params
    assert tk.error(x, found.best.fit.tensor) <= 1e-2 * (1 + 1e-9)


@pytest.mark.parametrize("name", ["all bonds", "square with a diagonal", "square with a tail", "two triangles"])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_planted_graphs_of_several_loops_are_found(name: str, noise: float) -> None:
    graph = GRAPHS[name]
    x = dense(graph, 3, noise)
    eps = 1.1e-3 if noise else 1e-4
    found = tk.search(x, eps=eps, strategy="matched")
    assert found.best.fit.n_params <= graph.n_params
    assert tk.error(x, found.best.fit.tensor) <= eps * (1 + 1e-9)


def test_modes_that_hang_on_a_loop_get_their_own_nodes() -> None:
    cores = ring((3,) * 4, (2, 2, 2, 2))
    core = dense(cores)
    gen = torch.Generator().manual_seed(1)
    x = core
    for k in range(4):
        factor = torch.randn(20, 3, generator=gen, dtype=torch.float64)
        x = torch.tensordot(x, factor, dims=([k], [1])).movedim(-1, k)
    found = tk.search(x, eps=1e-4, strategy=MatchedSearch())
    assert found.best.fit.n_params <= 4 * (20 * 3 + 3 * 4)


def test_where_nothing_matches_another_search_is_asked() -> None:
    x = torch.rand((5, 5, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(tk.BudgetError):
        tk.search(x, eps=0.2, strategy=MatchedSearch(candidates=0, otherwise=()))
    found = tk.search(x, eps=0.2, strategy=MatchedSearch(candidates=0, otherwise=(GreedyTN(),)))
    assert found.best.fit.rel_error <= 0.2
