"""Short fits of many, long ones of few; and larger graphs from which ranks are dropped."""

from itertools import pairwise

import torch

from tests.search.planted import dense
from tnkit.search import DenseObjective, Graph, Proposal, Setting
from tnkit.search.graph import ring
from tnkit.search.objective import Trial, dropped
from tnkit.search.raced import raced
from tnkit.solvers import Control

PLANTED = ring((6, 6, 6, 6), (3, 2, 3, 2))


def objective(*, warm: bool = True) -> DenseObjective:
    rng = torch.Generator().manual_seed(0)
    return DenseObjective(dense(PLANTED), 1.0, eps=1e-4, max_params=None, rng=rng, control=Control(), warm=warm)


def asked(warm: bool) -> tuple[list[list[Proposal]], list[Trial]]:
    """What is asked where every answer has an error of its graph's size, and what comes out."""
    setting = Setting(objective(warm=warm), torch.Generator(), {})
    parent = Trial(PLANTED, (), 0.5)
    graphs = [PLANTED.with_rank((0, 1), rank) for rank in (3, 4, 5, 6)]
    talk = raced(setting, [Proposal(g, parent, steps=40) for g in graphs])
    told, asks = next(talk), []
    try:
        while True:
            asks.append(told)
            told = talk.send([Trial(p.graph, (), 100.0 / p.graph.n_params / p.steps) for p in told])
    except StopIteration as done:
        return asks, done.value


def test_only_the_best_are_fitted_to_the_end() -> None:
    asks, found = asked(warm=True)
    assert [p.steps for p in asks[0]] == [5] * 4
    assert [p.graph.rank((0, 1)) for p in asks[1]] == [6, 5]
    assert [p.steps for p in asks[1]] == [40] * 2
    assert all(p.parent is not None and p.parent.graph.key == p.graph.key for p in asks[1])
    assert len(found) == 4
    assert min(found, key=lambda t: t.error).graph.rank((0, 1)) == 6


def test_from_noise_all_are_fitted_to_the_end() -> None:
    asks, found = asked(warm=False)
    assert [[p.steps for p in batch] for batch in asks] == [[40] * 4]
    assert len(found) == 4


def test_ranks_are_dropped_in_many_ways() -> None:
    larger = PLANTED.with_rank((0, 1), 4)
    trial = objective().fit(larger, steps=20, starts=8)
    gen = torch.Generator().manual_seed(1)
    ways = dropped(trial, PLANTED, gen, 5)
    shapes = [tuple(t.shape) for t in ways[0]]
    assert len(ways) == 5
    assert shapes == [tuple(s) for s in PLANTED.layout().shapes(PLANTED.bond_ranks())]
    assert all(not torch.equal(a[0], b[0]) for a, b in pairwise(ways))
    assert dropped(trial, larger, gen, 5) == []
    open_chain = Graph(larger.shape, larger.nodes, {b: r for b, r in larger.ranks.items() if b != (0, 1)})
    gone = dropped(trial, open_chain, gen, 1)
    assert gone[0][0].shape == (6, larger.rank((0, 3)))


def test_a_fit_comes_down_from_a_larger_one() -> None:
    search = objective()
    larger = search.fit(PLANTED.with_rank((0, 1), 4).with_rank((2, 3), 4), steps=200, starts=24)
    assert search.reached(larger.error)
    assert search.reached(search.fit(PLANTED, larger, steps=200, starts=8).error)
