"""faster_rows: what is not faster by the clock is not taken; the clock here is made up."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import tnkit.nn.compress
from tnkit.errors import BudgetError, OptionError
from tnkit.nn import Budget, FactoredLinear, compress
from tnkit.nn.choice import Choice, analysed, make_choice
from tnkit.nn.compress import _calibrated
from tnkit.nn.faster import AIM, SHARE, SURE, Race, confirmed, faster_rows
from tnkit.nn.plan import Outcome, Plan
from tnkit.nn.scope import find_scope


def by_params(overhead: float) -> Race:
    """A dense layer takes a unit for each weight; factors take that, and something besides."""

    def race(choice: Choice, module: nn.Module, rounds: int) -> float:
        weights = sum(p.numel() for name, p in module.named_parameters() if name != "bias")
        return (weights + overhead) / choice.weight.numel()

    return race


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 64))


@pytest.fixture
def batches() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(50, 16)]


def choices_of(model: nn.Module, batches: list[torch.Tensor] | None) -> tuple[Choice, ...]:
    choices = tuple(make_choice(item) for item in find_scope(model).items)
    found = _calibrated(model, choices, batches, 0, "auto")
    return tuple(analysed(choice, found) for choice in choices)


def test_sizes_below_the_break_even_are_allowed_and_no_others(
    model: nn.Sequential, batches: list[torch.Tensor]
) -> None:
    choices, overhead = choices_of(model, batches), 100.0
    for choice, rows in zip(choices, faster_rows(choices, by_params(overhead)), strict=True):
        dense = choice.weight.numel()
        want = np.flatnonzero(choice.grid.n_params + overhead <= AIM * dense)
        assert rows.tolist() == want.tolist()
        assert 0 < len(rows) < len(choice.params)


def test_layers_of_one_shape_are_timed_once(model: nn.Sequential, batches: list[torch.Tensor]) -> None:
    seen: list[tuple[str, int]] = []

    def race(choice: Choice, module: nn.Module, rounds: int) -> float:
        seen.append((choice.item.name, sum(p.numel() for p in module.parameters())))
        return by_params(50.0)(choice, module, rounds)

    faster_rows(choices_of(model, batches), race)
    assert {name for name, _ in seen} == {"0", "4"}
    assert len(set(seen)) == len(seen) <= 2 * 5


def test_nothing_is_known_without_an_input(model: nn.Sequential) -> None:
    choices = choices_of(model, None)
    assert [len(rows) for rows in faster_rows(choices, by_params(1e9))] == [len(c.params) for c in choices]


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def put(overhead: float) -> None:
        module = tnkit.nn.compress.__globals__
        monkeypatch.setitem(
            module, "confirmed", lambda planned, choices: confirmed(planned, choices, by_params(overhead))
        )

    return put


def test_a_layer_that_would_not_be_faster_stays_dense(
    model: nn.Sequential, batches: list[torch.Tensor], clocked: Callable[[float], None]
) -> None:
    clocked(240.0)  # more than the small layers take
    small, report = compress(model, Budget(params=0.5), batches, only_faster=True, measure=False)
    assert [layer.compressed for layer in report.layers] == [False, False, True]
    assert report.kept <= 0.5
    assert isinstance(small[4], FactoredLinear)
    free, _ = compress(model, Budget(params=0.5), batches, measure=False)
    assert any(isinstance(free[k], FactoredLinear) for k in (0, 2))


def test_a_budget_that_only_slower_layers_would_meet_is_refused(
    model: nn.Sequential, batches: list[torch.Tensor], clocked: Callable[[float], None]
) -> None:
    clocked(1e9)
    with pytest.raises(BudgetError, match=r"at least .* only_faster=True 3 of these 3 layer"):
        compress(model, Budget(params=0.5), batches, only_faster=True, measure=False)
    with pytest.raises(OptionError, match="only_faster"):
        compress(model, Budget(params=0.7), only_faster=True)


def test_what_loses_the_second_time_is_not_taken(model: nn.Sequential, batches: list[torch.Tensor]) -> None:
    """The first clock is wrong for one shape; what the longer race says counts, and the budget still holds."""
    choices = choices_of(model, batches)
    taken: list[tuple[int, ...]] = []

    def race(choice: Choice, module: nn.Module, rounds: int) -> float:
        share = by_params(0.0)(choice, module, rounds)
        return share + (0.6 if rounds == SURE and choice.weight.shape == (16, 16) else 0.0)

    def planned(allowed: tuple[np.ndarray, ...]) -> Outcome:
        found = Plan(model, choices, Budget(params=0.5), "greedy", None, None, None, False, allowed).search()
        taken.append(found.rows)
        return found

    found = confirmed(planned, choices, race)
    assert len(taken) > 1
    assert taken[0] != found.rows
    for choice, row in zip(choices, found.rows, strict=True):
        if row >= 0:
            assert race(choice, found.layers[choice.item.name], SURE) <= SHARE
    sizes = [c.dense_params if row < 0 else int(c.params[row]) for c, row in zip(choices, found.rows, strict=True)]
    assert sum(sizes) <= 0.5 * sum(c.dense_params for c in choices)


def test_layers_that_never_win_end_dense(model: nn.Sequential, batches: list[torch.Tensor]) -> None:
    choices = choices_of(model, batches)

    def race(choice: Choice, module: nn.Module, rounds: int) -> float:
        return 2.0 if rounds == SURE and choice.weight.shape == (16, 16) else by_params(0.0)(choice, module, rounds)

    def planned(allowed: tuple[np.ndarray, ...]) -> Outcome:
        return Plan(model, choices, Budget(params=0.7), "greedy", None, None, None, False, allowed).search()

    assert [row < 0 for row in confirmed(planned, choices, race).rows] == [True, True, False]
