"""Compressed models as ONNX: onnxruntime gives the same numbers, for every kind of layer, at any batch size."""

from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

import tnkit as tk
from tnkit.errors import DataError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
library = pytest.importorskip("onnx")
onnx = pytest.importorskip("tnkit.interop.onnx")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter about itself


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.conv = nn.Conv1d(32, 32, 3, padding=1, groups=2)
        self.out = nn.Linear(32, 10)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.conv(self.encoder(self.table(ids)).mT).mT)


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    rules = {
        "table": tk.nn.LowRankLayer(keep=0.5),
        "out": tk.nn.NetworkLayer("btt", keep=0.9, execution="factored"),
        "encoder.linear1": tk.nn.LowRankLayer(keep=0.5, pivoted=False),
        "encoder.linear2": tk.nn.NetworkLayer("kron", keep=0.6, execution="factored"),
    }
    ids = torch.randint(50, (2, 7))
    return tk.nn.compress(Net().eval(), tk.Budget(params=0.6), [ids], rules, measure=False)[0]


@torch.no_grad()
def test_the_numbers_are_the_same_at_any_batch_size(small: nn.Module, tmp_path: Path) -> None:
    path = onnx.export_onnx(small, torch.randint(50, (2, 7)), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == [path]
    ids = torch.randint(50, (5, 7), generator=torch.Generator().manual_seed(1))
    assert torch.from_numpy(onnx.run_onnx(path, ids)[0]).allclose(small(ids), atol=1e-5)
    stored = sum(prod(t.dims) for t in library.load(path).graph.initializer if t.data_type == library.TensorProto.FLOAT)
    dense = sum(p.numel() for p in tk.nn.materialize(small).parameters())
    assert stored < 0.7 * dense  # the factors (a pivoted table with its identity), not the dense weights


@torch.no_grad()
def test_a_model_of_transformers_by_keywords(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=60, **sizes)).eval()
    batch = {"input_ids": torch.arange(24).reshape(2, 12), "attention_mask": torch.ones(2, 12, dtype=torch.long)}
    small, _ = tk.nn.compress(model, tk.Budget(params=0.5), [batch], measure=False)
    path = onnx.export_onnx(small, batch, tmp_path / "bert.onnx")
    assert torch.from_numpy(onnx.run_onnx(path, batch)[0]).allclose(small(**batch)[0], atol=1e-4)


def test_a_file_that_differs_is_not_kept(small: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(DataError, match="Nothing was written"):
        onnx.export_onnx(small, torch.randint(50, (2, 7)), tmp_path / "m.onnx", max_difference=-1.0)
    assert (tmp_path / "m.onnx").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(DataError, match="materialize"):
        onnx.export_onnx(Branching(), torch.ones(2), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
