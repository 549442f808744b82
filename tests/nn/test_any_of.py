"""AnyOf: never worse than the best of its formats, at one size and under a budget."""

import pytest
import torch
from torch import nn

import tnkit as tk
from tnkit.errors import OptionError
from tnkit.nn import AnyOf, LowRankLayer, NetworkLayer, compress_layer

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
