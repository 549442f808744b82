"""AnyOf: never worse than the best of its formats, at one size and under a budget."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import tnkit as tk
from tnkit.errors import OptionError
from tnkit.nn import AnyOf, LowRankLayer, NetworkLayer, compress_layer
from tnkit.nn.stats import InputStats

FORMATS = (LowRankLayer(), NetworkLayer(tk.KronSpec(left=(4, 6))), NetworkLayer("btt"))


def layer_of(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def kronecker() -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.kron(torch.randn(4, 6, generator=rng), torch.randn(6, 4, generator=rng))


def low_rank() -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(24, 2, generator=rng) @ torch.randn(2, 24, generator=rng)


@pytest.mark.parametrize(("weight", "place"), [(low_rank(), 0), (kronecker(), 1)])
def test_the_format_that_made_a_weight_is_found(weight: torch.Tensor, place: int) -> None:
    result = compress_layer(layer_of(weight), AnyOf(FORMATS, keep=0.2))
    assert result.report.rel_error < 1e-5
    assert result.report.spec == type(FORMATS[place]).__name__
    assert result.report.rank == (result.module.ranks if place else (2,))


@pytest.mark.parametrize("keep", [0.35, 0.5, 0.7])
def test_never_worse_than_the_best_of_its_formats(keep: float) -> None:
    torch.manual_seed(2)
    layer, x = nn.Linear(24, 36), torch.randn(100, 24) @ torch.randn(24, 24)
    gram = x.T @ x
    alone = [compress_layer(layer, type(s)(**named(s), keep=keep), gram).report for s in FORMATS]
    best = compress_layer(layer, AnyOf(FORMATS, keep=keep), gram).report
    assert best.rel_error <= min(r.rel_error for r in alone) * (1 + 1e-9)
    assert best.params_after <= int(keep * layer.weight.numel()) + 36


def named(spec: tk.nn.LayerSpec) -> dict[str, object]:
    return {"format": spec.format} if isinstance(spec, NetworkLayer) else {}


def test_each_layer_of_a_model_gets_its_own() -> None:
    model = nn.Sequential(layer_of(low_rank()), layer_of(kronecker()))
    small, report = tk.nn.compress(model, tk.Budget(params=0.25), rules={"*": AnyOf(FORMATS)})
    assert [layer.spec for layer in report.layers] == ["LowRankLayer", "NetworkLayer"]
    assert report.kept <= 0.25
    x = torch.randn(5, 24)
    assert torch.allclose(small(x), model(x), atol=1e-3)


def test_what_it_does_not_take() -> None:
    with pytest.raises(OptionError, match="at least one"):
        AnyOf(())
    with pytest.raises(OptionError, match="matrices"):
        AnyOf((tk.nn.Tucker2(),))
    with pytest.raises(OptionError, match="limit of its own"):
        AnyOf((LowRankLayer(keep=0.5),))


def loss(module: nn.Module, layer: nn.Linear, rows: torch.Tensor) -> float:
    return float((rows @ (module.weight.detach().double() - layer.weight.detach().double()).T).norm())


def test_the_rows_that_were_kept_apart_decide() -> None:
    turned = 0
    for seed in range(8):
        torch.manual_seed(seed)
        layer, mix = nn.Linear(24, 36), torch.randn(24, 24, dtype=torch.float64)
        rows = torch.randn(30, 24, dtype=torch.float64) @ mix
        fitted_to, aside = (InputStats.of(part) for part in (rows[:20], rows[20:]))
        alone = [compress_layer(layer, type(s)(**named(s), keep=0.5), fitted_to).module for s in FORMATS]
        unseen = [loss(module, layer, rows[20:]) for module in alone]
        with_aside = compress_layer(layer, AnyOf(FORMATS, keep=0.5), fitted_to + replace(aside, aside=aside))
        without = compress_layer(layer, AnyOf(FORMATS, keep=0.5), fitted_to + aside)
        close = [loss(module, layer, rows) for module in (with_aside.module, without.module)]
        assert close[0] >= close[1] * (1 - 1e-9)  # on what it is fitted to the other choice is the best
        if with_aside.report.spec != without.report.spec:
            turned += 1
            chosen, other = (
                min(e for s, e in zip(FORMATS, unseen, strict=True) if type(s).__name__ == result.report.spec)
                for result in (with_aside, without)
            )
            assert chosen < other
    assert turned


def test_batches_are_kept_apart() -> None:
    model = nn.Sequential(layer_of(low_rank()))
    batches = [torch.randn(5, 24) for _ in range(7)]
    stats = tk.nn.calibrate(model, batches, aside=3)["0"]
    assert stats.aside is not None
    assert (stats.count, stats.aside.count, stats.rest().count) == (35, 10, 25)
    apart = torch.cat([batches[2], batches[5]]).double()
    assert torch.allclose(stats.aside.gram[0], apart.T @ apart)
    assert tk.nn.calibrate(model, batches)["0"].aside is None
    with pytest.raises(OptionError, match="aside=1"):
        tk.nn.calibrate(model, batches, aside=1)


@pytest.mark.parametrize(("worse", "spec"), [(0, "NetworkLayer"), (1, "LowRankLayer")])
def test_under_a_budget_the_rows_that_were_kept_apart_decide_too(
    monkeypatch: pytest.MonkeyPatch, worse: int, spec: str
) -> None:
    torch.manual_seed(3)
    layer = layer_of(kronecker() / kronecker().norm() + 0.6 * torch.randn(24, 24) / 24)  # the two formats come close
    rules = {"*": AnyOf((LowRankLayer(), NetworkLayer(tk.KronSpec(left=(4, 6)))))}
    calib, budget = list(torch.randn(20, 24).split(5)), tk.nn.Budget(params=0.5)
    measured, told = AnyOf._unseen, list[dict[int, float]]()

    def unseen(self: AnyOf, *given: Any) -> dict[int, float]:
        told.append(measured(self, *given))
        return {k: float(k == worse) for k in told[-1]}

    honest = tk.nn.compress(nn.Sequential(layer), budget, calib=calib, rules=rules)[1]
    monkeypatch.setattr(AnyOf, "_unseen", unseen)
    report = tk.nn.compress(nn.Sequential(layer), budget, calib=calib, rules=rules)[1]
    assert report.layers[0].spec == spec
    assert report.kept <= 0.5
    assert len(told) == 1
    assert all(0 < lost < 1e3 for lost in told[0].values())
    best = min(told[0], key=lambda k: told[0][k])
    assert honest.layers[0].spec == ("LowRankLayer", "NetworkLayer")[best]
