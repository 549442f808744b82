"""CommonRows: rows that are looked up most are exact, and the table is better than low rank of its size."""

import pytest
import torch
from torch import nn

from tnkit.nn import Budget, CommonRows, FactoredEmbedding, LowRankLayer, calibrate, compress, compress_layer


@pytest.fixture
def table() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(80, 12)


@pytest.fixture
def ids() -> torch.Tensor:
    torch.manual_seed(1)
    return (80 * torch.rand(200, 10) ** 4).long()  # a few words make most of a text


def test_the_commonest_rows_are_exact(table: nn.Embedding, ids: torch.Tensor) -> None:
    stats = calibrate(table, [ids], rules={"": CommonRows(keep=0.5)})[""]
    module = compress_layer(table, CommonRows(rank=(10, 3)), gram=stats).module
    assert isinstance(module, FactoredEmbedding)
    assert module.ranks == (10, 3)
    wrong = (module.weight - table.weight).detach().norm(dim=1)
    energy = stats.gram[0] * table.weight.detach().norm(dim=1) ** 2
    assert sorted((wrong < 1e-6).nonzero().flatten().tolist()) == sorted(energy.topk(10).indices.tolist())
    assert torch.allclose(module(ids), nn.functional.embedding(ids, module.weight), atol=1e-6)
    assert module.n_factor_params() == 10 * 12 + 3 * (70 + 12)


def test_better_than_low_rank_at_the_same_size(table: nn.Embedding, ids: torch.Tensor) -> None:
    stats = calibrate(table, [ids], rules={"": LowRankLayer(keep=0.5)})[""]
    reports = [compress_layer(table, kind(keep=0.5), gram=stats).report for kind in (LowRankLayer, CommonRows)]
    assert reports[1].rel_error < 0.8 * reports[0].rel_error
    assert max(r.params_after for r in reports) <= 0.5 * 80 * 12


def test_errors_are_those_of_the_fits(table: nn.Embedding) -> None:
    for rank in ((5, 2), (20, 11)):
        result = compress_layer(table, CommonRows(rank=rank))
        wrong = (result.format.to_dense() - table.weight.detach()).norm() / table.weight.detach().norm()
        assert result.report.rel_error == pytest.approx(float(wrong), rel=1e-5)


def test_exact_at_full_rank_and_in_a_linear_layer() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 20), torch.randn(4, 6)
    module = compress_layer(layer, CommonRows(rank=(3, 6))).module
    assert torch.allclose(module(x), layer(x), atol=1e-5)


def test_under_a_budget(table: nn.Embedding, ids: torch.Tensor) -> None:
    model = nn.Sequential(table, nn.Linear(12, 12))
    small, report = compress(model, Budget(params=0.6), [ids], {"0": CommonRows()}, measure=False)
    assert report.kept <= 0.6
    assert isinstance(small[0], FactoredEmbedding)
    assert small(ids).shape == (200, 10, 12)
