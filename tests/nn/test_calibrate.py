"""Calibration: what it keeps, what it shares, what it leaves out, and what it leaves as it was."""

import warnings
from collections import UserDict

import pytest
import torch
from torch import nn

from tnkit.errors import DataError, OptionError, ShapeError
from tnkit.nn import InputStats, LowRankLayer, Tucker2, calibrate, compress_layer


class Attention(nn.Module):
    """Query, key and value are fed the same tensor; `out` another one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))
        self.drop = nn.Dropout(0.5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        x = input_ids
        return self.out(self.drop(self.q(x) + self.k(x) + self.v(x)))


def test_the_gram_matrix_is_that_of_all_batches() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(10, 5, 4)
    stats = calibrate(model, [x[:3], x[3:4], x[4:]])["0"]
    rows = x.reshape(-1, 4).double()
    assert stats.gram.dtype == torch.float64
    assert torch.allclose(stats.gram[0], rows.mT @ rows)
    assert torch.allclose(stats.mean()[0], rows.mean(0))
    assert stats.count == 50
    assert torch.allclose(stats.centred().gram[0], (rows - rows.mean(0)).mT @ (rows - rows.mean(0)))


def test_layers_fed_the_same_tensor_share_one_gram_matrix() -> None:
    stats = calibrate(Attention(), [torch.randn(3, 6), torch.randn(2, 6)])
    assert stats["q"].gram is stats["k"].gram is stats["v"].gram
    assert stats["out"].gram is not stats["q"].gram


def test_a_tensor_that_was_changed_in_place_is_another_one() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.clone()
            first = self.a(y)
            y.mul_(2)
            return first + self.b(y)

    stats = calibrate(Model(), [torch.ones(4, 3)])
    assert torch.allclose(stats["b"].gram, 4 * stats["a"].gram)


def test_a_layer_that_is_called_twice_counts_both() -> None:
    layer = nn.Linear(3, 3)
    stats = calibrate(nn.Sequential(layer, layer), [torch.ones(4, 3)], rules=None)
    assert stats["0"].count == 8


def test_masked_tokens_are_left_out() -> None:
    x, mask = torch.randn(2, 4, 6), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    stats = calibrate(Attention(), [UserDict(input_ids=x, attention_mask=mask)])
    rows = x[mask.bool()].double()
    assert stats["q"].count == 4
    assert torch.allclose(stats["q"].gram[0], rows.mT @ rows)


def test_batches_of_every_kind() -> None:
    x = torch.randn(3, 6)
    kinds = [x, (x,), [x], {"input_ids": x}, UserDict(input_ids=x)]
    grams = [calibrate(Attention(), [kind])["q"].gram for kind in kinds]
    assert all(torch.equal(gram, grams[0]) for gram in grams)


def test_large_matrices_are_computed_in_blocks() -> None:
    x = torch.randn(7, 521)
    assert torch.allclose(InputStats.of(x).gram[0], x.double().mT @ x.double())


def test_the_model_is_left_as_it_was() -> None:
    model = Attention().train()
    model.drop.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    calibrate(model, [torch.randn(3, 6)])
    assert model.training
    assert not model.drop.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(not m._forward_pre_hooks for m in model.modules())
    with pytest.raises(DataError):
        calibrate(model, [torch.randn(3, 6), torch.randn(3, 7)])
    assert model.training
    assert all(not m._forward_pre_hooks for m in model.modules())


def test_dead_channels_and_few_samples() -> None:
    model = nn.Sequential(nn.Linear(20, 12, dtype=torch.float64))
    x = torch.randn(5, 20, dtype=torch.float64)
    x[:, ::2] = 0
    stats = calibrate(model, [x])["0"]
    module = compress_layer(model[0], LowRankLayer(rank=5), gram=stats).module
    assert torch.allclose(module(x), model(x))  # five samples span five directions
    full = compress_layer(model[0], LowRankLayer(rank=12), gram=stats).module
    assert torch.allclose(full.weight, model[0].weight)


def test_convolutions_watch_patches_or_channels() -> None:
    conv, x = nn.Conv2d(4, 6, 3, groups=2, padding=1), torch.randn(2, 4, 5, 5)
    stats = calibrate(conv, [x], rules={"": Tucker2()})[""]
    assert stats.gram.shape == (2, 2, 2)
    pixels = x[:, :2].permute(0, 2, 3, 1).reshape(-1, 2).double()
    assert torch.allclose(stats.gram[0], pixels.mT @ pixels)
    from tnkit.nn import ChannelSVD

    patches = calibrate(conv, [x], rules={"": ChannelSVD()})[""]
    assert patches.gram.shape == (2, 18, 18)
    assert patches.count == 50


def test_nested_tensors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them a prototype, once
        x = torch.nested.nested_tensor([torch.randn(3, 6), torch.randn(2, 6)])
    stats = calibrate(nn.Sequential(nn.Linear(6, 4)), [x])
    assert stats["0"].count == 5


class TestRefusals:
    model = nn.Sequential(nn.Linear(3, 3))

    @pytest.mark.parametrize("calib", [torch.ones(2, 3), {"x": torch.ones(2, 3)}, "batch", 3])
    def test_one_batch_instead_of_many(self, calib: object) -> None:
        with pytest.raises(OptionError, match=r"calib=\[batch\]"):
            calibrate(self.model, calib)

    def test_no_batch(self) -> None:
        with pytest.raises(DataError, match="no batch"):
            calibrate(self.model, [])
        used = iter([torch.ones(2, 3)])
        list(used)
        with pytest.raises(DataError, match="exhausted"):
            calibrate(self.model, used)

    def test_a_batch_that_the_model_does_not_take(self) -> None:
        with pytest.raises(DataError, match=r"Tensor\(2, 5\)"):
            calibrate(self.model, [torch.ones(2, 5)])
        with pytest.raises(DataError, match="TypeError"):
            calibrate(self.model, [(torch.ones(2, 3), torch.ones(2))])

    def test_inputs_that_are_not_finite(self) -> None:
        with pytest.raises(DataError, match="'0' held NaN"):
            calibrate(self.model, [torch.full((2, 3), float("inf"))])

    def test_a_gram_matrix_that_does_not_fit(self) -> None:
        with pytest.raises(ShapeError, match="of 4 does not fit"):
            compress_layer(self.model[0], LowRankLayer(rank=1), gram=torch.eye(4))
        with pytest.raises(ShapeError, match="XᵀX"):
            compress_layer(self.model[0], LowRankLayer(rank=1), gram=torch.ones(3, 4))
        with pytest.raises(DataError, match="NaN"):
            compress_layer(self.model[0], LowRankLayer(rank=1), gram=torch.full((3, 3), float("nan")))
