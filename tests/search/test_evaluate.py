"""Worker processes, ask and tell, other objectives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tnkit as tk
from tnkit.completion import Observations
from tnkit.search import (
    AskTell,
    DenseObjective,
    GreedyTN,
    LossObjective,
    ObservedObjective,
    RankLadder,
    StructureSearch,
    TnALE,
    TreeSearch,
    run_objective,
)
from tnkit.search.complete import mixed_orders
from tnkit.search.graph import Graph, chain, ring
from tnkit.search.reduced import Reduced
from tnkit.search.together import fit_together
from tnkit.solvers import Control
from tnkit.tensorize import Tensorization


def planted(graph: Graph, seed: int = 0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    layout = graph.layout()
    shapes = layout.shapes(graph.bond_ranks())
    return layout.build([torch.randn(s, generator=gen, dtype=torch.float64) for s in shapes]).to_dense()


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing() -> None:
    x = planted(ring((5,) * 4, (2, 3, 2, 2), order=(0, 2, 1, 3)))
    told = []
    for workers in (None, 1, 3):
        found = tk.search(x, eps=1e-3, strategy=GreedyTN(max_raises=4), workers=workers)
        told.append((found.evaluations, found.pruned, [(c.label, c.fit.rel_error) for c in found.front]))
    assert told[1] == told[2]
    assert told[0][:2] == told[1][:2]
    assert [label for label, _ in told[0][2]] == [label for label, _ in told[1][2]]


@pytest.mark.slow
def test_workers_keep_a_budget_of_fits() -> None:
    x = planted(ring((5,) * 4, (2, 3, 2, 2)))
    found = tk.search(x, eps=1e-3, strategy="greedy", workers=2, max_evaluations=3)
    assert found.evaluations == 3
    assert found.status.name == "max_steps"


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_numbers_of_workers_that_are_none_are_refused(workers: object) -> None:
    with pytest.raises(tk.OptionError, match="workers"):
        tk.search(torch.rand(4, 4, 4), eps=0.1, strategy="greedy", workers=workers)  # type: ignore[arg-type]


def test_a_search_by_hand_finds_what_the_runner_finds() -> None:
    x = planted(chain((4, 5, 6, 4), (2, 3, 2), order=(1, 3, 0, 2)))
    talk = AskTell.over(x, TreeSearch(), eps=1e-6)
    rounds = 0
    while asked := talk.ask():
        assert [p.graph.key for p in talk.ask()] == [p.graph.key for p in asked]
        talk.tell([talk.fit(p) for p in asked])
        rounds += 1
    assert rounds > 0
    assert talk.best is not None
    assert talk.best.graph.n_params == tk.search(x, eps=1e-6, strategy="trees").best.fit.n_params
    assert "any tree" in talk.setting.bounds
    with pytest.raises(tk.OptionError, match="ask"):
        talk.tell([])
    with pytest.raises(tk.OptionError, match="eps"):
        AskTell.over(x, TreeSearch())
    with pytest.raises(tk.ShapeError, match="7"):
        AskTell.over(x, TreeSearch(), eps=0.1, shape=(7, 7))


def test_a_proposer_may_be_told_that_nothing_was_fitted() -> None:
    x = planted(ring((4,) * 4, (2, 2, 2, 2)))
    talk = AskTell.over(x, TnALE(), eps=1e-6)
    while asked := talk.ask():
        talk.tell([None] * len(asked))
    assert talk.best is None


def test_a_graph_that_was_tried_shortly_is_fitted_well_when_that_is_asked() -> None:
    x = planted(ring((6,) * 4, (2, 2, 2, 2)))
    objective = DenseObjective(
        x / x.norm(), 1.0, eps=1e-6, max_params=None, rng=torch.Generator().manual_seed(0), control=Control()
    )
    graph = ring((6,) * 4, (2, 2, 2, 2))
    short = objective.fit(graph, steps=1)
    assert short.effort == 1
    assert objective.fit(graph, short, steps=60, starts=6).error < short.error


@pytest.mark.parametrize("seed", range(3))
def test_starts_in_a_batch_find_a_loop(seed: int) -> None:
    graph = ring((5,) * 4, (2, 3, 2, 3))
    x = planted(graph, seed)
    objective = DenseObjective(
        x / x.norm(), 1.0, eps=1e-6, max_params=None, rng=torch.Generator().manual_seed(seed), control=Control()
    )
    from tnkit.decompose import Target

    problem = objective.problem(graph, Target(ranks=graph.bond_ranks()))
    tensors, error = fit_together(problem, graph.bond_ranks(), [], 1e-6, steps=200, count=12, control=Control())
    assert error <= 1e-6
    assert float((graph.layout().build(tensors).to_dense() - objective.x).norm()) <= 2e-6


def test_a_fit_in_a_basis_is_one_of_the_array() -> None:
    graph = ring((12,) * 4, (2, 2, 2, 2))
    x = planted(graph)
    objective = DenseObjective(
        x / x.norm(), 1.0, eps=1e-3, max_params=None, rng=torch.Generator().manual_seed(0), control=Control()
    )
    assert isinstance(objective.reduced, Reduced)
    assert objective.reduced.core.problem.x.shape == (4, 4, 4, 4)
    trial = objective.fit(graph, steps=60, starts=4)
    dense = graph.layout().build(trial.tensors).to_dense()
    assert float((dense - objective.x).norm()) == pytest.approx(trial.error, rel=1e-6, abs=1e-12)
    assert trial.error <= 1e-3


def test_any_differentiable_loss_is_searched() -> None:
    x = planted(chain((4, 5, 6), (2, 3)))
    weights = torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(y: torch.Tensor) -> torch.Tensor:
        return (weights * (y - x).square()).sum() / (weights * x.square()).sum()

    ladder = RankLadder(shapes=("train",), rungs=(2, 3, 4), raises=0)
    found = run_objective(LossObjective(loss, x.shape, target=1e-6), ladder)
    assert found.best.error <= 1e-6
    assert found.best.graph.n_params < x.numel()
    assert [t.graph.n_params for t in found.front] == sorted(t.graph.n_params for t in found.front)
    with pytest.raises(tk.DataError, match="finite"):
        LossObjective(lambda y: y.sum() * float("nan"), (3, 3), target=1.0).fit(chain((3, 3), (2,)))


def test_the_error_of_a_trial_on_observed_entries_is_that_of_what_was_held_out() -> None:
    x = planted(chain((8, 9, 10), (2, 2)))
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    obs = Observations.from_dense(x, mask)
    objective = ObservedObjective(
        obs, Tensorization.start(x.shape), rng=torch.Generator().manual_seed(0), control=Control()
    )
    trial = objective.fit(chain((8, 9, 10), (2, 2)), steps=100)
    assert trial.error < 1e-6
    small = objective.fit(chain((8, 9, 10), (1, 1)), steps=50)
    assert small.error == pytest.approx(objective.error(small.graph, small.tensors, objective.held), rel=1e-6)
    assert small.error > 0.1


def test_completion_by_search_beats_the_order_that_was_given() -> None:
    graph = chain((6,) * 4, (2, 4, 2), order=(0, 2, 1, 3))  # coarse beside coarse, fine beside fine
    x = planted(graph).reshape(36, 36)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    ladder = RankLadder(mixed_orders((0, 0, 1, 1)), ("train",), rungs=(2, 3, 4), raises=2)
    method = StructureSearch(shape=(6,) * 4, strategy=ladder)
    done = tk.complete(x, mask=mask, method=method)
    assert done.tensor is not None
    assert done.tensor.shape == (36, 36)
    hidden = float((done.filled - x)[~mask].norm() / x[~mask].norm())
    fixed = tk.complete(x.reshape((6,) * 4), "tt", mask=mask.reshape((6,) * 4)).filled.reshape(36, 36)
    assert hidden < 0.3 * float((fixed - x)[~mask].norm() / x[~mask].norm())
    assert torch.equal(done.filled[mask], x[mask])
    with pytest.raises(tk.ShapeError, match="entries"):
        tk.complete(x, mask=mask, method=StructureSearch(shape=(5, 5)))


X = planted(chain((4, 5, 6), (2, 3)))


def missed(y: torch.Tensor) -> torch.Tensor:
    """A loss that other processes can be sent."""
    return (y - X).square().sum() / X.square().sum()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loss", "observed"])
def test_workers_fit_other_objectives_and_find_the_same(kind: str) -> None:
    def objective() -> LossObjective | ObservedObjective:
        if kind == "loss":
            return LossObjective(missed, X.shape, target=1e-3)
        mask = torch.rand(X.shape, generator=torch.Generator().manual_seed(0)) < 0.7
        obs = Observations.from_dense(X, mask)
        gen = torch.Generator().manual_seed(0)
        return ObservedObjective(obs, Tensorization.start(X.shape), rng=gen, control=Control())

    ladder = RankLadder(shapes=("train", "ring"), rungs=(2, 3), raises=1, steps=8)
    here, there = (run_objective(objective(), ladder, workers=workers) for workers in (None, 2))
    assert here.evaluations == there.evaluations
    assert [str(t.graph) for t in here.front] == [str(t.graph) for t in there.front]
    assert [t.error for t in here.front] == pytest.approx([t.error for t in there.front], rel=1e-6)


def test_a_loss_that_cannot_be_sent_is_refused_before_any_work() -> None:
    objective = LossObjective(lambda y: y.square().sum(), (3, 3), target=1.0)
    with pytest.raises(tk.OptionError, match="top of a module"):
        run_objective(objective, RankLadder(), workers=2)


INTERRUPTED = """
import os, signal, sys
import tnkit as tk

def heard(step):
    if step.step == int(sys.argv[2]):
        os.killpg(os.getpgrp(), signal.SIGINT)

if __name__ == "__main__":
    x = tk.random_format("tr", (5,) * 4, (2, 2, 2, 2), rng=0).to_dense()
    found = tk.search(x, eps=1e-3, strategy="greedy", workers=2, save=sys.argv[1], progress=heard)
    print(found.status.name, found.evaluations, found.best.fit.rel_error)
"""


@pytest.mark.slow
def test_ctrl_c_with_workers_keeps_every_fit_and_a_search_goes_on_from_there(tmp_path: Path) -> None:
    script, path = tmp_path / "search.py", tmp_path / "search.safetensors"
    script.write_text(INTERRUPTED)
    command = [sys.executable, str(script), str(path)]
    options = {"capture_output": True, "text": True, "start_new_session": True, "timeout": 120, "check": True}
    first = subprocess.run([*command, "3"], **options)  # type: ignore[call-overload]
    assert first.stdout.split()[:2] == ["interrupted", "3"]
    assert "Traceback" not in first.stderr
    x = tk.random_format("tr", (5,) * 4, (2, 2, 2, 2), rng=0).to_dense()
    second = tk.search(x, eps=1e-3, strategy="greedy", save=path)
    whole = tk.search(x, eps=1e-3, strategy="greedy")
    assert second.best.fit.rel_error <= 1e-3
    assert second.evaluations <= whole.evaluations - 3


def test_steps_on_the_dense_tensor_find_what_sweeps_find() -> None:
    graph = chain((8, 9, 10), (2, 2))
    x = planted(graph)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    obs, gen = Observations.from_dense(x, mask), torch.Generator().manual_seed(0)
    objective = ObservedObjective(obs, Tensorization.start(x.shape), rng=gen, control=Control())
    start = objective.fit(graph, steps=3)
    tensors, error = objective.steps_on_dense(graph, start.tensors, objective.most, objective.held, 40)
    assert error < 1e-4 < start.error
    assert error == pytest.approx(objective.error(graph, tensors, objective.held), rel=1e-6)


def test_a_graph_that_is_small_sees_a_part_of_the_entries() -> None:
    x = torch.rand((40, 40, 20), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    obs, gen = Observations.from_dense(x), torch.Generator().manual_seed(0)
    objective = ObservedObjective(obs, Tensorization.start(x.shape), rng=gen, control=Control(), each=50)
    small, large = chain((40, 40, 20), (2, 2)), chain((40, 40, 20), (9, 9))
    assert objective.enough(small).n == 50 * small.n_params
    assert objective.enough(large).n == objective.known.n == 28_800


def test_a_time_limit_ends_a_completion_by_search_with_the_best_so_far() -> None:
    x = planted(chain((6, 6, 6, 6), (2, 3, 2)))
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    done = tk.complete(x, mask=mask, method="search", time_limit_s=1e-3)
    assert done.status.name == "time_limit"
    assert done.heldout_error is not None
    assert bool(torch.isfinite(done.filled).all())


def test_rungs_of_a_size_are_kept() -> None:
    x = planted(chain((6, 6, 6, 6), (2, 3, 2)))
    ladder = RankLadder(shapes=("train", "ring", "tree"), sizes=(90, 180), raises=0)
    loss = LossObjective(lambda y: (y - x).square().sum() / x.square().sum(), x.shape, max_params=400)
    found = run_objective(loss, ladder)
    assert all(t.graph.n_params <= 180 for t in found.front)
    assert max(t.graph.n_params for t in found.front) > 90


def test_orders_that_mix_scales_hold_every_part_once() -> None:
    for order in mixed_orders((0, 0, 0, 1, 1, 1, 2)):
        assert sorted(order) == list(range(7))
