"""Time as a limit: measured for each layer at some sizes, and shared out like parameters; the clock here is made up."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

import tnkit.nn.plan
from tnkit.errors import BudgetError
from tnkit.nn import AnyOf, Budget, FactoredModule, LowRankLayer, NetworkLayer
from tnkit.nn.choice import Choice, analysed, make_choice
from tnkit.nn.clock import Stopwatch, curves
from tnkit.nn.compress import _calibrated
from tnkit.nn.plan import Outcome, Plan
from tnkit.nn.scope import find_scope


def costing(slow: float) -> Stopwatch:
    """Nanoseconds for each weight that is multiplied; 16×16 layers are slower by a factor."""

    def watch(choice: Choice, modules: list[nn.Module]) -> tuple[float, list[float]]:
        each = 1e-3 * (slow if choice.weight.shape == (16, 16) else 1.0)
        sizes = [sum(p.numel() for name, p in m.named_parameters() if name != "bias") for m in modules]
        return each * choice.weight.numel(), [each * size for size in sizes]

    return watch


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 64)).eval()


def planned(model: nn.Module, budget: Budget, watch: Stopwatch, rules: dict | None = None) -> Plan:
    choices = tuple(make_choice(item) for item in find_scope(model, rules).items)
    torch.manual_seed(1)
    found = _calibrated(model, choices, [torch.randn(50, 16)], 0, "auto")
    choices = tuple(analysed(choice, found) for choice in choices)
    return Plan(model, choices, budget, "greedy", found, None, None, False, watch=watch)


@pytest.fixture
def model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole model takes what its layers do, and a tenth of a millisecond."""

    def model_ms(model: nn.Module, batch: torch.Tensor) -> float:
        total = 0.1
        for layer in model.modules():
            if isinstance(layer, nn.Linear | FactoredModule):
                slow = 10.0 if (layer.in_features, layer.out_features) == (16, 16) else 1.0
                total += 1e-3 * slow * sum(p.numel() for name, p in layer.named_parameters() if name != "bias")
        return total

    monkeypatch.setattr(tnkit.nn.plan, "model_ms", model_ms)
    monkeypatch.setattr(tnkit.nn.plan, "layer_report", _untimed(tnkit.nn.plan.layer_report))


def _untimed(inner):
    return lambda choice, built, *, timed=False: inner(choice, built)


def test_a_curve_goes_through_what_was_measured(model: nn.Sequential) -> None:
    plan = planned(model, Budget(params=0.5), costing(10.0))
    for choice, curve in zip(plan.choices, curves(plan.choices, costing(10.0)), strict=True):
        each = 1e-3 * (10.0 if choice.weight.shape == (16, 16) else 1.0)
        smaller = choice.params < choice.dense_params
        assert np.allclose(curve.ms[smaller], each * choice.grid.n_params[smaller])
        assert curve.dense_ms == pytest.approx(each * choice.weight.numel())


def test_layers_of_one_shape_are_timed_once(model: nn.Sequential) -> None:
    seen: list[tuple[int, ...]] = []

    def watch(choice: Choice, modules: list[nn.Module]) -> tuple[float, list[float]]:
        seen.append(tuple(choice.weight.shape))
        return costing(1.0)(choice, modules)

    curves(planned(model, Budget(params=0.5), watch).choices, watch)
    assert seen == [(16, 16), (64, 16)]


def test_each_format_has_its_own_times(model: nn.Sequential) -> None:
    """One that is slow is not taken, however little it loses."""
    spec = AnyOf((LowRankLayer(pivoted=False), NetworkLayer("kron")))

    def watch(choice: Choice, modules: list[nn.Module]) -> tuple[float, list[float]]:
        slow = [10.0 if m.form.kind == "network" else 0.1 for m in modules]
        return 1.0, [s * (1 + sum(p.numel() for p in m.parameters())) / 1e3 for s, m in zip(slow, modules, strict=True)]

    plan = planned(model, Budget(latency_ms=1.0), watch, {"": spec})
    for choice, curve in zip(plan.choices, curves(plan.choices, watch), strict=True):
        place = choice.grid.ranks[:, 0]
        assert curve.ms[place == 1].min() > curve.ms[place == 0].max()
    timed = dataclasses.replace(plan, times=curves(plan.choices, watch))
    rows = timed.rows(None, ms=0.2)
    assert {int(c.grid.ranks[row, 0]) for c, row in zip(plan.choices, rows, strict=True) if row >= 0} == {0}


def kept(plan: Plan, found: Outcome) -> list[float]:
    return [
        1.0 if row < 0 else float(choice.params[row] / choice.dense_params)
        for choice, row in zip(plan.choices, found.rows, strict=True)
    ]


def lost(plan: Plan, rows: Sequence[int]) -> float:
    return sum(0.0 if row < 0 else float(choice.error[row]) for choice, row in zip(plan.choices, rows, strict=True))


@pytest.mark.usefixtures("model_takes")
@pytest.mark.parametrize("limit", [1.5, 2.0, 3.0, 4.0])
def test_time_goes_where_it_gains_most(model: nn.Sequential, limit: float) -> None:
    """The 16×16 layers are a third of the parameters and nearly all of the time: sharing out parameters loses more."""
    plan = planned(model, Budget(latency_ms=limit), costing(10.0))
    found = plan.search()
    assert tnkit.nn.plan.model_ms(tnkit.nn.plan.replaced(model, found.layers), None) <= limit
    for share in np.linspace(0.2, 1.0, 81):
        by_size = plan.outcome(float(share))
        if tnkit.nn.plan.model_ms(tnkit.nn.plan.replaced(model, by_size.layers), None) <= limit:
            assert lost(plan, found.rows) <= lost(plan, by_size.rows) + 1e-9


@pytest.mark.usefixtures("model_takes")
def test_a_limit_that_the_dense_model_keeps_changes_nothing(model: nn.Sequential) -> None:
    plan = planned(model, Budget(latency_ms=100.0), costing(10.0))
    assert plan.search().rows == (-1, -1, -1)


@pytest.mark.usefixtures("model_takes")
def test_time_and_parameters_both_hold(model: nn.Sequential) -> None:
    plan = planned(model, Budget(latency_ms=3.0, params=0.5), costing(10.0))
    found = plan.search()
    dense = sum(c.dense_params for c in plan.choices)
    size = sum(k * c.dense_params for k, c in zip(kept(plan, found), plan.choices, strict=True))
    assert size <= 0.5 * dense
    assert tnkit.nn.plan.model_ms(tnkit.nn.plan.replaced(model, found.layers), None) <= 3.0


@pytest.mark.usefixtures("model_takes")
def test_a_limit_that_no_model_keeps_is_refused(model: nn.Sequential) -> None:
    with pytest.raises(BudgetError, match="fastest"):
        planned(model, Budget(latency_ms=0.15), costing(10.0)).search()
