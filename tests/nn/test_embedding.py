"""Embeddings: weighted by how often each row is looked up, tied heads, and what stays as it is."""

import pytest
import torch
from torch import nn

from tnkit.nn import (
    Budget,
    FactoredEmbedding,
    FactoredLinear,
    InputStats,
    LowRankLayer,
    NetworkLayer,
    calibrate,
    compress,
    compress_layer,
    load,
    materialize,
    save,
)
from tnkit.nn.stats import Metric


class Language(nn.Module):
    """A head tied to its embedding."""

    def __init__(self, words: int = 60, width: int = 12, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix = nn.Embedding(words, width), nn.Linear(width, width)
        self.head = nn.Linear(width, words, bias=bias)
        self.head.weight = self.embed.weight

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(self.mix(self.embed(input_ids)).tanh())


def test_rows_that_are_often_looked_up_are_kept_best() -> None:
    torch.manual_seed(0)
    layer = nn.Embedding(50, 16)
    ids = torch.randint(5, (8, 20))  # five words are all there is
    stats = calibrate(layer, [ids], rules={"": LowRankLayer(rank=4)})[""]
    assert stats.gram.shape == (1, 50)
    assert stats.gram[0, :5].sum() == stats.count == 160
    plain, fitted = (compress_layer(layer, LowRankLayer(rank=5), gram=g) for g in (None, stats))
    wrong = [float((r.module(ids) - layer(ids)).detach().norm() / layer(ids).detach().norm()) for r in (plain, fitted)]
    assert wrong[1] < 0.3 * wrong[0]
    assert fitted.report.rel_error == pytest.approx(wrong[1], rel=1e-3)
    btt = [compress_layer(layer, NetworkLayer("btt", rank=1), gram=g) for g in (None, stats)]
    wrong = [float((r.module(ids) - layer(ids)).detach().norm()) for r in btt]
    assert wrong[1] < 0.8 * wrong[0]


def test_masked_and_padding_tokens_are_not_counted() -> None:
    model = Language()
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    model.embed.padding_idx = 0
    ids, mask = torch.tensor([[1, 2, 3], [4, 0, 5]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    stats = calibrate(model, [{"input_ids": ids, "attention_mask": mask}], rules={"embed": LowRankLayer(rank=2)})
    assert stats["embed"].gram[0].nonzero().flatten().tolist() == [1, 2, 4, 5]


def test_an_embedding_is_compressed_where_a_rule_names_it() -> None:
    model = nn.Sequential(nn.Embedding(60, 12), nn.Linear(12, 12))
    _, report = compress(model, Budget(params=0.5))
    assert {r.name: r.compressed for r in report.layers} == {"0": False, "1": True}
    assert "rule" in next(r for r in report.layers if r.name == "0").reason
    ids = torch.randint(60, (4, 7))
    small, report = compress(model, Budget(params=0.5), calib=[ids], rules={"0": LowRankLayer()})
    assert isinstance(small[0], FactoredEmbedding)
    assert report.kept <= 0.5
    assert all(r.weighted for r in report.layers)
    assert report.layers[0].flops_before == 0
    assert small(ids).shape == (4, 7, 12)
    back = materialize(small)
    assert type(back[0]) is nn.Embedding
    assert torch.allclose(back(ids), small(ids), atol=1e-5)


def test_a_table_that_changes_stays() -> None:
    model = nn.ModuleDict({"e": nn.Embedding(60, 12, max_norm=1.0), "l": nn.Linear(12, 12)})
    _, report = compress(model, Budget(params=0.5), rules={"e": LowRankLayer(rank=2)})
    assert "max_norm" in next(r for r in report.layers if r.name == "e").reason


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("spec", [LowRankLayer(rank=4), NetworkLayer("kron", rank=4)], ids=str)
def test_a_head_and_its_embedding_share_their_factors(
    bias: bool, spec: LowRankLayer | NetworkLayer, tmp_path: object
) -> None:
    model, ids = Language(bias=bias), torch.randint(60, (3, 9))
    rules = {"embed": spec, "head": spec}
    small, report = compress(model, None, calib=[ids], rules={**rules, "mix": None})
    assert isinstance(small.embed, FactoredEmbedding)
    assert isinstance(small.head, FactoredLinear)
    names = [n for n, _ in small.embed.named_parameters()]
    assert all(getattr(small.embed, n) is getattr(small.head, n) for n in names)
    assert (small.head.bias is not None) == bias
    assert small.embed.bias is None
    assert report.params_after == sum(p.numel() for p in small.parameters())
    assert torch.allclose(small.embed.weight, small.head.weight, atol=1e-6)
    assert len([r for r in report.layers if r.compressed]) == 1
    again = load(save(small, f"{tmp_path}/m.safetensors"), base=Language(bias=bias))
    assert torch.allclose(again(ids), small(ids), atol=1e-6)
    assert getattr(again.embed, names[0]) is getattr(again.head, names[0])
    back = materialize(small)
    assert back.embed.weight is back.head.weight


def test_statistics_of_ids() -> None:
    one, two = InputStats.of_ids(torch.tensor([1, 1]), 3), InputStats.of_ids(torch.tensor([[0], [1]]), 3)
    assert (one + two).gram.tolist() == [[1.0, 3.0, 0.0]]
    assert (one + two).count == 4


def test_columns_that_the_outputs_do_not_feel_are_given_up() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(60, 16)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.embed(ids)[..., :8].mean(1)

    torch.manual_seed(0)
    model, ids = Half(), torch.randint(60, (64, 12))
    rules = {"embed": LowRankLayer(rank=8)}
    wrong = []
    for sensitivity in (False, True):
        small, report = compress(model, None, [ids], rules, sensitivity=sensitivity, measure=False)
        wrong.append(float((small(ids) - model(ids)).norm().detach() / model(ids).norm().detach()))
        assert report.layers[0].params_after == 8 * (60 + 16 - 8)
    assert wrong[1] < 0.2 * wrong[0]


@pytest.mark.parametrize("size", [60, 16])
def test_a_table_that_is_not_whitened_is_fitted_plainly(size: int) -> None:
    torch.manual_seed(0)
    model, ids = nn.Sequential(nn.Embedding(size, 16), nn.Linear(16, 4)), torch.randint(size, (64, 12))
    rules = {"0": LowRankLayer(rank=5, whiten=False), "1": None}
    small, _ = compress(model, None, [ids], rules, measure=False)
    blind, _ = compress(model, None, None, rules, measure=False)
    assert torch.allclose(small[0].weight, blind[0].weight, atol=1e-5)


def test_the_metric_of_a_table_is_what_its_outputs_feel() -> None:
    torch.manual_seed(0)
    table, often, felt = torch.randn(1, 9, 4), torch.rand(1, 9), torch.randn(1, 4, 4)
    felt = (felt @ felt.mT).double()
    metric = Metric(frequency=often.double(), columns=felt)
    want = torch.einsum("gmi,gm,gij,gmj->", table.double(), often.double(), felt, table.double())
    assert metric.felt(table) == pytest.approx(float(want))
    outputs = torch.eye(9)[None].double() * often[:, :, None]
    linear = Metric(InputStats.from_gram(felt), outputs)
    assert linear.felt(table) == pytest.approx(float(want))
