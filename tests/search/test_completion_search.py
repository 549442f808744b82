"""Completion by search: the race of families, the mean of several networks, and one network for it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

import tnkit as tk
from tnkit.completion import Observations
from tnkit.network import contract
from tnkit.search import ObservedObjective, StructureSearch
from tnkit.search.evaluate import fitted
from tnkit.search.families import FamilyRace
from tnkit.search.graph import Graph, chain, ring, star
from tnkit.search.mean_network import is_sound, mean_of, one_network, soundest
from tnkit.search.objective import Trial
from tnkit.search.proposer import Proposal, Setting
from tnkit.solvers import Control
from tnkit.tensorize import Tensorization

SHAPE = (4, 4, 4, 4, 4, 4)


def landscape(seed: int = 0, fine: float = 1.0) -> torch.Tensor:
    """Hills on 64×64, of no small rank."""
    gen = torch.Generator().manual_seed(seed)
    at = torch.linspace(0, 1, 64, dtype=torch.float64)
    x = torch.zeros(64, 64, dtype=torch.float64)
    for _ in range(25):
        row, column, width, height = torch.rand(4, generator=gen, dtype=torch.float64)
        far = (at[:, None] - row) ** 2 + (at[None] - column) ** 2
        x += (0.5 + height) * torch.exp(-far / (0.01 + 0.05 * width) * fine)
    return x


def seen(x: torch.Tensor, share: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share


def objective_of(x: torch.Tensor, share: float = 0.3) -> ObservedObjective:
    obs = Observations.from_dense(x, seen(x, share))
    plan = Tensorization.start(x.shape).reshape(SHAPE)
    return ObservedObjective(obs, plan, rng=torch.Generator().manual_seed(0), control=Control())


def fits(objective: ObservedObjective, count: int) -> list[Trial]:
    found = []
    for seed in range(count):
        objective.rng = torch.Generator().manual_seed(seed)
        graph = ring(SHAPE, (3,) * 6, (0, 3, 1, 4, 2, 5) if seed % 2 else None)
        found.append(objective.fit(graph, steps=15))
    return found


def test_a_mean_is_nearer_than_its_members_and_its_error_is_that_of_the_dense_mean() -> None:
    objective = objective_of(landscape())
    trials = fits(objective, 4)
    mean = mean_of(objective, trials)
    assert mean is not None
    assert sum(mean.weights) == pytest.approx(1)
    assert mean.error < 0.98 * min(t.error for t in trials)
    dense = sum(
        w * contract(t.graph.topology, list(t.tensors)) for w, t in zip(mean.weights, mean.members, strict=True)
    )
    assert isinstance(dense, torch.Tensor)
    held = objective.held
    places = objective.plan.positions(held.indices)
    off = dense[tuple(places.unbind(-1))] - held.values / objective.scale
    assert float(off.norm() / (held.values / objective.scale).norm()) == pytest.approx(mean.error, rel=1e-9)


def test_no_mean_of_fits_that_are_the_same_or_exact() -> None:
    objective = objective_of(landscape())
    trial = fits(objective, 1)[0]
    assert mean_of(objective, [trial]) is None
    assert mean_of(objective, [trial, Trial(trial.graph, trial.tensors, trial.error)]) is None
    exact = Trial(trial.graph, trial.tensors, 1e-9)
    assert mean_of(objective, [exact, *fits(objective, 2)]) is None


def test_one_network_stands_for_the_mean() -> None:
    objective = objective_of(landscape())
    mean = mean_of(objective, fits(objective, 4))
    assert mean is not None
    trial, tensors = one_network(objective, mean, Control(), most=2000)
    assert trial.graph.n_params <= 2000
    assert trial.error < 1.02 * mean.error
    assert trial.error == pytest.approx(objective.error(trial.graph, trial.tensors, objective.held), rel=1e-9)
    assert tensors is not None
    assert [t.shape for t in tensors] == [t.shape for t in trial.tensors]
    assert objective.error(trial.graph, tensors, objective.held) < trial.error  # they have seen those entries


def test_the_mean_lowers_the_error_on_what_was_not_observed() -> None:
    x = landscape(0, fine=5.0)
    mask = seen(x, 0.3)
    race = FamilyRace(sizes=(220,), again=4, steps=10)
    off = {}
    for mean in (True, False):
        done = tk.complete(x, mask=mask, method=StructureSearch(shape=SHAPE, strategy=race, mean=mean))
        assert done.tensor is not None
        assert done.heldout_error is not None
        off[mean] = float((done.filled - x)[~mask].norm() / x[~mask].norm())
        assert off[mean] < 1.5 * done.heldout_error
    assert off[True] < 0.97 * off[False]


def test_complex_values_and_weights_have_means_too() -> None:
    x = torch.complex(landscape(2), landscape(3))
    mask = seen(x, 0.3)
    race = FamilyRace(sizes=(100,), again=1, steps=4)
    done = tk.complete(x, mask=mask, method=StructureSearch(shape=SHAPE, strategy=race))
    assert done.tensor is not None
    assert done.tensor.dtype == torch.complex128
    assert float((done.filled - x)[~mask].norm() / x[~mask].norm()) < 0.8
    real = tk.complete(
        x.real, mask=mask, weights=torch.rand(64, 64), method=StructureSearch(shape=SHAPE, strategy=race)
    )
    assert real.heldout_error is not None


def test_the_fixed_families_over_the_given_order_are_in_the_race() -> None:
    shape = (5, 6, 7, 4)
    asked = {str(g.with_flat_ranks()) for _, g in FamilyRace().firsts(shape)}
    assert asked == {str(g) for g in (chain(shape, (2,) * 3), ring(shape, (2,) * 4), star(shape, (2,) * 4))}


class _Told:
    """Fits nothing: the error of a graph is a function of it."""

    control = Control()
    shape = (6,) * 5

    def reached(self, error: float) -> bool:
        return False

    def score(self, trial: Trial) -> tuple[float, float]:
        return trial.error, trial.graph.n_params


def _errors(race: FamilyRace, shape: tuple[int, ...], error: Any) -> list[Proposal]:
    talk = race.propose(Setting(_Told(), torch.Generator(), {}))  # type: ignore[arg-type]
    asked, told = [], None
    while True:
        try:
            batch = next(talk) if told is None else talk.send(told)
        except StopIteration:
            return asked
        asked += batch
        told = [Trial(p.graph, (), error(p.graph)) for p in batch]


def test_the_best_of_a_family_goes_on_while_it_is_near_and_what_was_near_is_fitted_again() -> None:
    shape = (6,) * 5
    race = FamilyRace(sizes=(100, 200, 400), again=4, raises=0)

    def error(graph: Graph) -> float:
        loops = not graph.is_tree
        inner = any(not nodes for nodes in graph.nodes)
        return (1.0 if loops else 1.1 if not inner else 1.4) * 0.98 ** max(graph.ranks.values())

    asked = [(p.graph, p.number) for p in _errors(race, shape, error)]
    first = [g for g, number in asked if number == 0]
    assert sum(g.is_tree and all(g.nodes) for g in first) > 1  # the train goes on
    assert sum(not all(g.nodes) for g in first) == 1  # the Tucker tensor is too far
    again = [g for g, number in asked if number > 0]
    assert {number for _, number in asked} == set(range(-1, 5))
    assert any(g.is_tree for g in again)
    assert any(not g.is_tree for g in again)


def test_fits_with_other_numbers_are_other_fits_and_the_same_number_is_the_same() -> None:
    objective = objective_of(landscape())
    graph = ring(SHAPE, (2,) * 6)
    errors = [fitted(objective, Proposal(graph, steps=5, number=n), 7).error for n in (0, 1, 1)]
    assert errors[1] == errors[2] != errors[0]


def test_ctrl_c_while_a_mean_is_made_gives_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[StructureSearch.__module__], "mean_of", stop)
    x = landscape()
    race = FamilyRace(sizes=(100,), again=1, steps=4)
    done = tk.complete(x, mask=seen(x, 0.4), method=StructureSearch(shape=SHAPE, strategy=race))
    assert done.status.name == "interrupted"
    assert done.tensor is not None
    assert done.heldout_error is not None
    assert done.heldout_error < 1


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"holdout": 1.5}, tk.OptionError, "holdout=1.5"),
        ({"part": 0}, tk.OptionError, "part=0"),
        ({"seconds": -1}, tk.OptionError, "seconds=-1"),
        ({"shape": (-1, 8)}, tk.ShapeError, "below 1"),
        ({"strategy": "greedy"}, tk.OptionError, "no proposer"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        StructureSearch(**options)


def test_a_method_that_is_given_as_a_format_is_named() -> None:
    with pytest.raises(tk.UnknownNameError, match="method='search'"):
        tk.complete([[1.0, None], [2.0, 4.0]], "search")


def test_where_nothing_can_be_held_out_no_error_is_told() -> None:
    x = torch.full((6, 8), torch.nan, dtype=torch.float64)
    x[0, :5] = torch.arange(5.0, dtype=torch.float64)
    done = tk.complete(x, method="search", time_limit_s=1)
    assert done.heldout_error is None
    assert done.tensor is not None


@pytest.mark.parametrize("shape", [(12, 1, 7), (13, 11), (24,), (2,) * 10])
@pytest.mark.parametrize("dtype", [torch.float16, torch.complex64])
def test_any_shape_and_dtype_within_a_tenth_of_a_second(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.ones(shape, dtype=dtype) * 3
    mask = seen(x, 0.6)
    done = tk.complete(x, mask=mask, method="search", time_limit_s=0.1)
    assert done.filled.dtype == dtype
    assert done.filled.shape == shape
    assert torch.equal(done.filled[mask], x[mask])
    assert done.tensor is not None
    assert done.status.name in ("time_limit", "converged")


def test_values_far_beyond_those_observed_count_as_errors() -> None:
    objective = objective_of(landscape())
    good, other = fits(objective, 3)[0], fits(objective, 3)[1]
    dense = contract(good.graph.topology, list(good.tensors))
    assert objective.beyond(dense) < 0.5 * good.error
    assert objective.beyond(10 * dense) > 1
    wild = Trial(good.graph, (10 * good.tensors[0], *good.tensors[1:]), 0.99 * good.error)
    assert soundest(objective, [wild, good]) is good
    assert not is_sound(objective, good, wild.tensors)
    assert is_sound(objective, good, good.tensors)
    mean = mean_of(objective, [wild, good, other])
    assert mean is None or wild not in mean.members
