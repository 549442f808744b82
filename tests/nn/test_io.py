"""Compressed models on disk: whole or not at all, and never mistaken for something else."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tnkit.errors import FileFormatError, OptionError, ShapeError, TnkitError
from tnkit.nn import Budget, FactoredLinear, compress, load, save


class Net(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3, padding="same", padding_mode="reflect"), nn.BatchNorm2d(width)
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(self.norm(self.conv(x)).mean((-1, -2))))


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return compress(Net().eval(), Budget(params=0.5), calib=[torch.randn(4, 3, 6, 6)], measure=False)[0]


def test_there_and_back(small: nn.Module, tmp_path: Path) -> None:
    path, base, x = tmp_path / "small.safetensors", Net().eval(), torch.randn(2, 3, 6, 6)
    before = {k: v.clone() for k, v in base.state_dict().items()}
    assert save(small, path) == path
    again = load(path, base=base)
    assert torch.allclose(again(x), small(x), atol=1e-6)
    assert isinstance(again.a, FactoredLinear)
    assert again.a.left is again.b.left
    assert again.a.config() == small.a.config()
    assert again.conv.config() == small.conv.config()
    assert all(torch.equal(before[k], v) for k, v in base.state_dict().items())
    assert list(tmp_path.iterdir()) == [path]
    from_compressed = load(path, base=small)
    assert torch.allclose(from_compressed(x), small(x), atol=1e-6)


def test_a_dense_model(tmp_path: Path) -> None:
    model = Net()
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors", base=Net())
    assert torch.equal(again.a.weight, model.a.weight)
    assert again.a.weight is again.b.weight


def test_half_types(tmp_path: Path) -> None:
    model = compress(nn.Sequential(nn.Linear(12, 12, dtype=torch.bfloat16)), Budget(params=0.5))[0]
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors", base=nn.Sequential(nn.Linear(12, 12)))
    assert again[0].left.dtype == torch.bfloat16
    assert torch.equal(again[0].left, model[0].left)


@pytest.mark.parametrize("size", [0, 5, 100, 1000])
def test_a_half_written_file(small: nn.Module, tmp_path: Path, size: int) -> None:
    path = save(small, tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FileFormatError, match="no whole safetensors"):
        load(path, base=Net())


def test_a_foreign_file(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(FileFormatError, match="no tnkit model"):
        load(tmp_path / "x.safetensors", base=Net())
    save_file({"x": torch.ones(2)}, tmp_path / "y.safetensors", metadata={"tnkit.model": "{"})
    with pytest.raises(FileFormatError, match="cannot be read"):
        load(tmp_path / "y.safetensors", base=Net())
    newer = json.dumps({"version": 99, "model": "", "layers": {}, "aliases": {}})
    save_file({"x": torch.ones(2)}, tmp_path / "z.safetensors", metadata={"tnkit.model": newer})
    with pytest.raises(FileFormatError, match="version 99"):
        load(tmp_path / "z.safetensors", base=Net())


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors", base=Net())


def test_another_base(small: nn.Module, tmp_path: Path) -> None:
    path = save(small, tmp_path / "m.safetensors")
    for base in (Net(20), nn.Linear(3, 3), nn.ModuleDict({"conv": nn.ReLU()})):
        with pytest.raises(ShapeError, match="base"):
            load(path, base=base)


def test_a_failed_write_leaves_the_old_file(small: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(small, tmp_path / "m.safetensors")
    old = path.read_bytes()

    def failing(tensors: object, name: str, metadata: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("tnkit.nn.io.save_file", failing)
    with pytest.raises(OSError, match="disk full"):
        save(small, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_without_values(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no tensor with values"):
        save(nn.Linear(3, 3, device="meta"), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
    assert issubclass(OptionError, TnkitError)
