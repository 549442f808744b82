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
from tnkit.nn.faster import SHARE, Clock, faster_rows
from tnkit.nn.scope import find_scope


def by_params(overhead: float) -> Clock:
    """A dense layer takes a unit for each weight; factors take that, and something besides."""

    def clock(choice: Choice, layer: nn.Module) -> float:
        weights = sum(p.numel() for name, p in layer.named_parameters() if name != "bias")
        return weights + (overhead if isinstance(layer, FactoredLinear) else 0.0)

    return clock


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
        want = np.flatnonzero(choice.grid.n_params + overhead <= SHARE * dense)
        assert rows.tolist() == want.tolist()
        assert 0 < len(rows) < len(choice.params)


def test_layers_of_one_shape_are_timed_once(model: nn.Sequential, batches: list[torch.Tensor]) -> None:
    seen: list[torch.Size] = []

    def clock(choice: Choice, layer: nn.Module) -> float:
        if not isinstance(layer, FactoredLinear):
            seen.append(choice.weight.shape)
        return by_params(50.0)(choice, layer)

    faster_rows(choices_of(model, batches), clock)
    assert sorted(seen) == [(16, 16), (64, 16)]


def test_nothing_is_known_without_an_input(model: nn.Sequential) -> None:
    choices = choices_of(model, None)
    assert [len(rows) for rows in faster_rows(choices, by_params(1e9))] == [len(c.params) for c in choices]


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def put(overhead: float) -> None:
        module = tnkit.nn.compress.__globals__
        monkeypatch.setitem(module, "faster_rows", lambda choices: faster_rows(choices, by_params(overhead)))

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
    with pytest.raises(BudgetError, match="at least"):
        compress(model, Budget(params=0.5), batches, only_faster=True, measure=False)
    with pytest.raises(OptionError, match="only_faster"):
        compress(model, Budget(params=0.7), only_faster=True)
