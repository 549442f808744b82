"""Graphs: keys, bounds of cuts, the exact tree search, the integer program."""

from itertools import permutations

import numpy as np
import pytest
import torch

import tnkit as tk
from tnkit.search import Graph
from tnkit.search.from_cuts import smallest_graph
from tnkit.search.graph import chain, ring, star
from tnkit.search.objective import DenseObjective, Trial, moved
from tnkit.search.tree_bounds import cheapest_trees
from tnkit.solvers import Control


def objective(x: torch.Tensor, eps: float | None = 1e-6) -> DenseObjective:
    gen = torch.Generator().manual_seed(0)
    return DenseObjective(x / x.norm(), 1.0, eps=eps, max_params=None, rng=gen, control=Control())


def dense(graph: Graph, seed: int = 0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    layout = graph.layout()
    shapes = layout.shapes(graph.bond_ranks())
    return layout.build([torch.randn(s, generator=gen, dtype=torch.float64) for s in shapes]).to_dense()


GRAPHS = {
    "train": chain((3, 4, 5, 3), (2, 4, 3), order=(2, 0, 3, 1)),
    "ring": ring((4, 4, 5, 3), (2, 2, 3, 2)),
    "tucker": star((4, 5, 6), (2, 3, 3)),
    "tree": Graph((3, 3, 4, 4), [(0,), (1,), (2, 3), ()], {(0, 3): 2, (1, 3): 3, (2, 3): 4}),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_key_knows_no_order_of_nodes(name: str) -> None:
    graph = GRAPHS[name]
    for order in permutations(range(len(graph.nodes))):
        place = {k: j for j, k in enumerate(order)}
        other = Graph(
            graph.shape, [graph.nodes[k] for k in order], {(place[a], place[b]): r for (a, b), r in graph.ranks.items()}
        )
        assert other.key == graph.key
        assert other.n_params == graph.n_params
    bond = next(iter(graph.ranks))
    assert graph.with_rank(bond, graph.rank(bond) + 1).key != graph.key


@pytest.mark.parametrize("name", GRAPHS)
def test_bounds_are_below_every_fit_and_zero_at_the_truth(name: str) -> None:
    graph = GRAPHS[name]
    problem = objective(dense(graph))
    assert problem.bound(graph) < 1e-6
    for bond, rank in graph.ranks.items():
        smaller = graph.with_rank(bond, rank - 1)
        if smaller.ranks and smaller.bond_ranks():
            assert problem.bound(smaller) <= problem.fit(smaller, steps=20).error + 1e-9


@pytest.mark.parametrize("name", GRAPHS)
def test_growing_a_trial_leaves_its_tensor(name: str) -> None:
    graph = GRAPHS[name]
    gen = torch.Generator().manual_seed(1)
    layout = graph.layout()
    tensors = tuple(torch.randn(s, generator=gen, dtype=torch.float64) for s in layout.shapes(graph.bond_ranks()))
    first, last = 0, len(graph.nodes) - 1
    larger = graph.with_rank((first, last), graph.rank((first, last)) + 2)
    grown = moved(Trial(graph, tensors, 1.0), larger, gen)
    assert grown is not None
    assert torch.allclose(larger.layout().build(grown).to_dense(), layout.build(tensors).to_dense())
    back = moved(Trial(larger, grown, 1.0), graph, gen)
    assert back is not None
    assert torch.allclose(graph.layout().build(back).to_dense(), layout.build(tensors).to_dense())
    assert moved(Trial(chain((2, 2), (2,)), tensors[:2], 1.0), graph, gen) is None


def trees_by_hand(sizes: tuple[int, ...], rank: int) -> float:
    """Every tree over three modes at one rank for all cuts."""
    a, b, c = sizes
    whole = a * b * c
    matrices = min(a * b * rank + rank * c, a * c * rank + rank * b, b * c * rank + rank * a)
    trains = min(x * rank + rank * y * rank + rank * z for x, y, z in permutations(sizes))
    return min(whole, matrices, trains, rank**3 + rank * (a + b + c))


@pytest.mark.parametrize("sizes", [(4, 5, 6), (2, 9, 9), (3, 3, 30), (2, 2, 2)])
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_the_cheapest_tree_is_that_of_all_trees(sizes: tuple[int, ...], rank: int) -> None:
    ranks = np.full((1, 8), float(rank))
    size, graph = cheapest_trees(ranks, sizes)[0]
    assert size == trees_by_hand(sizes, rank)
    if rank > 1:
        assert graph.n_params == size


def test_the_integer_program_is_below_what_planted_ranks_take() -> None:
    for seed in range(3):
        graph = ring((6,) * 4, (2, 3, 2, 3))
        x = dense(graph, seed)
        spectra = objective(x).cuts
        assert spectra is not None
        needs = {m: int((spectra.tails(m)[:-1] > 1e-10).sum()) for m in range(1, 8)}
        found = smallest_graph(graph.shape, needs)
        assert found is not None
        assert found[0] <= graph.n_params
        failed = found[1]
        again = smallest_graph(graph.shape, needs, [failed])
        assert again is not None
        assert again[1].key != failed.key


@pytest.mark.parametrize(
    ("nodes", "ranks"),
    [([(0,)], {}), ([(0,), (0,), (1,)], {}), ([(0,), (1,)], {(0, 2): 2}), ([(0,), (1,)], {(0, 1): 0})],
)
def test_graphs_that_are_none_are_refused(nodes: list[tuple[int, ...]], ranks: dict[tuple[int, int], int]) -> None:
    with pytest.raises(tk.ShapeError):
        Graph((3, 4), nodes, ranks)
