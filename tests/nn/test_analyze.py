"""analyze and bench: what they say is what is there, and nothing is changed."""

import json
import math

import pytest
import torch
from torch import nn

import tnkit as tk
from tnkit.errors import DataError, MissingExtraError, OptionError, ShapeError
from tnkit.nn.heavy_tail import heavy_tail_exponent
from tnkit.registry import PROVIDERS


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)
        self.a, self.b, self.idle = nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(self.norm(self.conv(x)).mean((-1, -2))).relu())


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def batches() -> list[torch.Tensor]:
    return [torch.randn(6, 4, 7, 7, generator=torch.Generator().manual_seed(k)) for k in range(3)]


def test_what_it_says(net: nn.Module, batches: list[torch.Tensor]) -> None:
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = tk.nn.analyze(net, batches, ratios=(0.9, 0.5))
    assert [layer.name for layer in found.layers] == ["conv", "a", "b", "idle"]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    a = found.layers[1]
    sigma = torch.linalg.svdvals(net.a.weight.detach().double())
    assert a.spectrum == pytest.approx((sigma / sigma[0]).tolist())
    assert a.stable_rank == pytest.approx(float(sigma.square().sum() / sigma[0] ** 2))
    assert a.errors[0] is not None
    assert a.errors[0] < a.errors[1]
    assert len(a.seen_spectrum) == 8
    assert a.ms is not None
    felt = [layer.sensitivity for layer in found.layers]
    assert felt[3] is None
    assert sum(x for x in felt if x is not None) == pytest.approx(1.0)
    assert not found.layers[3].weighted
    assert "idle" in str(found)
    assert any("idle" in note for note in found.notes)


def test_errors_are_those_that_compress_then_has(net: nn.Module, batches: list[torch.Tensor]) -> None:
    found = tk.nn.analyze(net, batches, ratios=(0.5,), measure=False)
    only = dict.fromkeys(("conv", "b", "idle"))
    _, report = tk.nn.compress(net, tk.Budget(params=0.5), batches, only, sensitivity=False, measure=False)
    assert report.layers[0].rel_error == pytest.approx(found.layers[1].errors[0], rel=1e-4)


def test_without_inputs(net: nn.Module) -> None:
    found = tk.nn.analyze(net)
    assert found.ms is None
    assert all(layer.ms is None and layer.seen_spectrum == () and not layer.weighted for layer in found.layers)
    assert "no inputs" in found.notes[0]


def test_json_and_markdown(net: nn.Module, batches: list[torch.Tensor]) -> None:
    found = tk.nn.analyze(net, batches, {"a": None}, measure=False)
    values = json.loads(found.to_json())
    assert values["left"] == {"a": "excluded by rule 'a'"}
    assert [layer["name"] for layer in values["layers"]] == ["conv", "b", "idle"]
    assert found.to_markdown().count("\n| ") == 3
    assert "NaN" not in found.to_json()


def test_what_is_refused(net: nn.Module) -> None:
    with pytest.raises(OptionError, match="ratios"):
        tk.nn.analyze(net, ratios=(1.5,))
    with pytest.raises(DataError, match="no batch"):
        tk.nn.analyze(net, [])
    with pytest.raises(OptionError, match="iterable of batches"):
        tk.nn.analyze(net, torch.ones(2, 4, 7, 7))


def test_the_tail_does_not_depend_on_the_aspect_ratio() -> None:
    random = torch.Generator().manual_seed(0)
    square, long = (torch.randn(m, 64, generator=random) for m in (64, 1024))
    assert heavy_tail_exponent(long) == pytest.approx(heavy_tail_exponent(square), rel=0.15)
    assert heavy_tail_exponent(long.mT) == heavy_tail_exponent(long)
    heavy = torch.randn(64, 64, generator=random) * torch.arange(1.0, 65.0) ** -2
    assert heavy_tail_exponent(heavy) < heavy_tail_exponent(square) - 0.3
    assert math.isnan(heavy_tail_exponent(torch.ones(3, 2)))
    with pytest.raises(ShapeError):
        heavy_tail_exponent(torch.ones(3))


def test_plots_need_their_import(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PROVIDERS, "_entries", {})
    with pytest.raises(MissingExtraError, match="matplotlib"):
        tk.nn.analyze(net).plot()


def test_bench_measures_what_is_there(net: nn.Module, batches: list[torch.Tensor]) -> None:
    small, made = tk.nn.compress(net, tk.Budget(params=0.6), batches, {"idle": None}, measure=False)
    for dense in (net, None):
        report = tk.nn.bench(small, batches, dense)
        by_name = {layer.name: layer for layer in report.layers}
        for layer in made.layers:
            if layer.compressed:
                assert by_name[layer.name].params_after == layer.params_after
                assert by_name[layer.name].params_before == layer.params_before
                assert by_name[layer.name].ms_after is not None
                assert (by_name[layer.name].flops_after or 0) > 0
    assert report.output_error == pytest.approx(0.0, abs=1e-5)  # beside its own weights
    assert tk.nn.bench(small, batches, net).output_error > 1e-3


def test_bench_of_attention_that_was_opened() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    x = torch.randn(2, 5, 32)
    small, _ = tk.nn.compress(layer, tk.Budget(params=0.5), [x], measure=False)
    report = tk.nn.bench(small, [x], layer)
    assert "self_attn.q_proj" in {found.name for found in report.layers}


def test_bench_refuses(net: nn.Module, batches: list[torch.Tensor]) -> None:
    small, _ = tk.nn.compress(net, tk.Budget(params=0.6), measure=False)
    with pytest.raises(OptionError, match="compressed"):
        tk.nn.bench(net, batches)
    with pytest.raises(DataError, match="no batch"):
        tk.nn.bench(small, [])
    with pytest.raises(ShapeError, match="no layer"):
        tk.nn.bench(small, batches, nn.Sequential(nn.Conv2d(4, 8, 3)))
