"""Every proposer on planted data, and what they are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tnkit as tk
from tnkit.linalg.evbmf import evbmf_rank
from tnkit.search import (
    ARD,
    TNGA,
    Annealing,
    AutoSearch,
    BayesRanks,
    DenseObjective,
    Graph,
    GreedyTN,
    LoopSearch,
    Portfolio,
    RankLadder,
    SVDinsTN,
    Synthesis,
    Trial,
)
from tnkit.search.full_network import FullNetwork
from tnkit.search.graph import chain, ring, star
from tnkit.search.ladder import binary_tree
from tnkit.search.least_ranks import least_nearby, least_ranks
from tnkit.search.loops import unicyclic
from tnkit.search.split_merge import merges, splits
from tnkit.search.svdinstn import first_ranks
from tnkit.search.synthesis import splits_of, tree_of_cuts
from tnkit.solvers import Control

TRIANGLE = Graph((5,) * 4, [(0,), (1,), (2,), (3,)], {(0, 1): 3, (1, 2): 2, (0, 2): 3, (2, 3): 2})


def planted(graph: Graph, seed: int = 0, noise: float = 0.0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    layout = graph.layout()
    shapes = layout.shapes(graph.bond_ranks())
    x = layout.build([torch.randn(s, generator=gen, dtype=torch.float64) for s in shapes]).to_dense()
    e = torch.randn(x.shape, generator=gen, dtype=torch.float64)
    return x + noise * e * x.norm() / e.norm()


def objective(x: torch.Tensor, eps: float | None = 1e-3) -> DenseObjective:
    gen = torch.Generator().manual_seed(0)
    return DenseObjective(x / x.norm(), 1.0, eps=eps, max_params=None, rng=gen, control=Control())


@pytest.mark.parametrize(
    ("strategy", "graph"),
    [
        (GreedyTN(), star((6,) * 4, (2, 2, 2, 2))),
        (GreedyTN(), chain((5,) * 4, (2, 3, 2))),
        (SVDinsTN(max_rank=3), ring((6,) * 4, (2, 2, 2, 2))),
        (ARD("ring", max_rank=4), ring((6,) * 4, (2, 3, 2, 3))),
        (ARD("train", max_rank=4), chain((6,) * 4, (2, 3, 2))),
        (Synthesis(), chain((5,) * 5, (2, 3, 3, 2), order=(2, 0, 4, 1, 3))),
        (Synthesis(), star((7,) * 4, (2, 3, 3, 2))),
        (LoopSearch(), ring((6,) * 4, (2, 3, 2, 3), order=(0, 2, 1, 3))),
        (LoopSearch(), TRIANGLE),
        (RankLadder(rungs=(2, 3, 4)), chain((5,) * 4, (2, 2, 2))),
    ],
)
def test_planted_graphs_are_found_or_smaller_ones(strategy: tk.search, graph: Graph) -> None:  # type: ignore[valid-type]
    found = tk.search(planted(graph), eps=1e-3, strategy=strategy)
    assert found.best.fit.rel_error <= 1e-3
    assert found.best.fit.n_params <= graph.n_params


@pytest.mark.parametrize("strategy", [TNGA(population=16, generations=10), Annealing(moves=200)])
def test_random_searches_reach_eps_below_the_dense_size(strategy: TNGA | Annealing) -> None:
    x = planted(ring((5,) * 4, (2, 2, 2, 2)))
    found = tk.search(x, eps=1e-3, strategy=strategy)
    assert found.best.fit.rel_error <= 1e-3
    assert found.best.fit.n_params < x.numel() / 3


def test_the_default_finds_a_triangle_with_a_mode_hanging_on_it() -> None:
    x = planted(TRIANGLE, seed=1, noise=1e-3)
    few = AutoSearch(portfolio=Portfolio(formats=("tt", "ht", "tucker", "lowrank")))
    found = tk.search(x, eps=1.1e-3, strategy=few)
    assert found.best.fit.n_params <= TRIANGLE.n_params
    assert tk.error(x, found.best.fit.tensor) <= 1.1e-3
    formats = tk.search(x, eps=1.1e-3, strategy=few.portfolio)
    assert found.best.fit.n_params < formats.best.fit.n_params
    assert {c.label for c in formats.tried} <= {c.label for c in found.tried}


def test_ranks_of_variational_bayes_are_those_of_the_signal() -> None:
    x = planted(chain((8, 9, 10, 8), (2, 3, 2)), noise=0.05)
    found = tk.search(x, eps=0.06, strategy=BayesRanks())
    assert found.best.fit.rel_error <= 0.06
    assert min(c.fit.n_params for c in found.tried) == 8 * 2 + 2 * 9 * 3 + 3 * 10 * 2 + 2 * 8


@pytest.mark.parametrize("shape", [(40, 40), (30, 90)])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_evbmf_tells_signal_from_noise(shape: tuple[int, int], rank: int) -> None:
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1])) + 0.2 * rng.normal(size=shape)
    assert evbmf_rank(np.linalg.svd(x, compute_uv=False), *shape) == rank
    assert evbmf_rank(np.zeros(3), 3, 5) == 0


def test_a_tucker_core_is_split_out_of_one_node_a_mode_and_merged_back() -> None:
    gen = torch.Generator().manual_seed(0)
    wide = torch.randn(9, 2, generator=gen, dtype=torch.float64) @ torch.randn(2, 9, generator=gen, dtype=torch.float64)
    graph = Graph((9, 9, 9), [(0,), (1,), (2,)], {(0, 1): 3, (0, 2): 3})
    rest = [torch.randn(9, 3, generator=gen, dtype=torch.float64) for _ in range(2)]
    trial = Trial(graph, (wide.reshape(9, 3, 3), *rest), 0.0)
    x = graph.layout().build(trial.tensors).to_dense()
    (made,) = splits(trial, 1e-9)
    assert made.graph.n_params < graph.n_params
    assert torch.allclose(made.graph.layout().build(made.tensors).to_dense(), x)
    pads = {
        0: (0, 7),
        3: (0, 0, 0, 0, 0, 7),
    }  # the bond between them: last on the one, first on the other
    tensors = tuple(torch.nn.functional.pad(t, pads[k]) if k in pads else t for k, t in enumerate(made.tensors))
    bloated = Trial(made.graph.with_rank((0, 3), 9), tensors, 0.0)
    assert torch.allclose(bloated.graph.layout().build(bloated.tensors).to_dense(), x)
    sizes = [m.graph.n_params for m in merges(bloated)]
    assert min(sizes) < bloated.graph.n_params
    for m in merges(bloated):
        assert torch.allclose(m.graph.layout().build(m.tensors).to_dense(), x)


def test_merging_joins_bonds_that_lead_to_the_same_node() -> None:
    graph = Graph((4, 4, 4), [(0,), (1,), (2,), ()], {(0, 1): 2, (0, 3): 2, (1, 3): 2, (2, 3): 3, (1, 2): 2})
    x = planted(graph)
    gen = torch.Generator().manual_seed(0)
    layout = graph.layout()
    tensors = tuple(torch.randn(s, generator=gen, dtype=torch.float64) for s in layout.shapes(graph.bond_ranks()))
    made = list(merges(Trial(graph, tensors, 0.0)))
    for m in made:
        assert torch.allclose(m.graph.layout().build(m.tensors).to_dense(), x)
        assert len(m.graph.nodes) == 3


@pytest.mark.parametrize(("d", "count"), [(3, 1), (4, 15), (5, 222)])
def test_all_graphs_with_one_loop_are_made_once(d: int, count: int) -> None:
    graphs = unicyclic(d)
    assert len({row.tobytes() for row in graphs}) == count
    assert (graphs.sum(1) == d).all()


def test_least_ranks_meet_every_cut_and_none_can_be_lowered() -> None:
    x = planted(TRIANGLE)
    problem = objective(x)
    from tnkit.search.cut_needs import needs

    wanted = needs(problem)
    graphs = least_ranks((5,) * 4, wanted, unicyclic(4))
    assert graphs
    for graph in graphs:
        assert problem.bound(graph) <= 1e-3
    for graph in least_nearby(TRIANGLE, wanted):
        assert problem.bound(graph) <= 1e-3
        for bond, rank in graph.ranks.items():
            assert problem.bound(graph.with_rank(bond, rank - 1)) > 1e-3


def test_the_full_network_is_linear_in_each_of_its_parts() -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 5, generator=gen, dtype=torch.float64)
    net = FullNetwork.random(x, {(0, 1): 2, (0, 2): 3, (1, 2): 2}, gen)
    net.diagonals = {b: torch.rand(len(s), generator=gen, dtype=torch.float64) + 0.5 for b, s in net.diagonals.items()}
    whole = net.dense()
    for bond, s in list(net.diagonals.items()):
        net.diagonals[bond] = 2 * s
        assert torch.allclose(net.dense(), 2 * whole)
        net.diagonals[bond] = s
        gram, right = net.bond_system(bond)
        assert torch.allclose(s @ gram @ s, whole.square().sum())
        assert torch.allclose(s @ right, (whole * x).sum())
    for k in range(3):
        gram, right = net.node_system(k)
        node = net.nodes[k].reshape(net.nodes[k].shape[0], -1)
        assert torch.allclose((node @ gram * node).sum(), whole.square().sum())
        assert torch.allclose((node.mT * right).sum(), (whole * x).sum())
    graph, tensors = net.graph()
    assert torch.allclose(graph.layout().build(tensors).to_dense(), whole)
    net.prune((0, 2), torch.tensor([True, False, False]))
    graph, tensors = net.graph()
    assert (0, 2) not in graph.ranks
    assert torch.allclose(graph.layout().build(tensors).to_dense(), net.dense())


def test_first_ranks_are_smaller_where_the_pull_is_strong() -> None:
    x = planted(ring((6,) * 4, (2, 2, 2, 2)))
    weak, strong = (first_ranks(x, gamma, 6) for gamma in (1e-6, 0.1))
    assert all(len(strong[b]) <= len(weak[b]) for b in weak)
    assert sum(map(len, strong.values())) < sum(map(len, weak.values()))


def test_programs_of_splits_are_trees() -> None:
    cuts = frozenset({0b0011, 0b0111, 0b0001})
    graph = tree_of_cuts((4,) * 4, cuts)
    assert graph.is_tree
    assert len(graph.ranks) == 3
    assert all(c & 0b0011 in (0, c, 0b0011) for c in splits_of(frozenset({0b0011}), 4))


def test_a_binary_tree_has_every_mode_once() -> None:
    graph = binary_tree((3,) * 5, (4, 2, 0, 1, 3))
    assert graph.is_tree
    assert sorted(k for modes in graph.nodes for k in modes) == list(range(5))
    assert max(sum(node in bond for bond in graph.ranks) for node in range(len(graph.nodes))) == 3
