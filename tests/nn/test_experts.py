"""Mixtures of experts: stacked matrices become linear layers, told by what a module computes and not by its name."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tnkit as tk
from tnkit.errors import OptionError, ShapeError
from tnkit.nn import Budget, FactoredLinear, LowRankLayer, compress
from tnkit.nn.io import hollow_
from tnkit.nn.opening import OpenExperts, closed, opened_layers
from tnkit.nn.structure import structure_of

E, D, F = 3, 24, 40


class Experts(nn.Module):
    """As large mixtures hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_experts, self.width = E, D
        self.gate_up_proj = nn.Parameter(torch.randn(E, 2 * F, D) / D**0.5)
        self.down_proj = nn.Parameter(torch.randn(E, D, F) / F**0.5)
        self.act_fn = nn.SiLU()

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        total = torch.zeros_like(hidden_states)
        for k in range(self.num_experts):
            token, place = torch.where(top_k_index == k)
            gate, up = (hidden_states[token] @ self.gate_up_proj[k].T).chunk(2, dim=-1)
            total.index_add_(0, token, self.joined(gate, up) @ self.down_proj[k].T * top_k_weights[token, place, None])
        return total

    def joined(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.act_fn(gate) * up


class Clamped(Experts):
    """Looks alike, and is not."""

    def joined(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.act_fn(gate.clamp(max=0.1)) * (up + 1)


class Mixture(nn.Module):
    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.router, self.experts, self.head = nn.Linear(D, E), experts, nn.Linear(D, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        weights, index = self.router(rows).softmax(-1).topk(2)
        return self.head(x + self.experts(rows, index, weights).reshape(x.shape))


@pytest.fixture
def model() -> Mixture:
    torch.manual_seed(0)
    return Mixture(Experts()).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 9, D, generator=torch.Generator().manual_seed(1))


def test_open_and_closed_compute_alike(model: Mixture, x: Tensor) -> None:
    layer = opened_layers(model)["experts"]
    assert isinstance(layer, OpenExperts)
    assert layer.gate_up_1.weight.data_ptr() == model.experts.gate_up_proj[1].data_ptr()
    twin = copy.deepcopy(model)
    twin.experts = layer
    assert torch.allclose(twin(x), model(x), atol=1e-5)
    back = closed(layer)
    assert type(back) is Experts
    twin.experts = back
    assert torch.allclose(twin(x), model(x), atol=1e-6)


def test_one_that_computes_in_another_way_stays(x: Tensor) -> None:
    torch.manual_seed(0)
    model = Mixture(Clamped()).eval()
    small, report = compress(model, Budget(params=0.6), [x], measure=False)
    assert type(small.experts) is Clamped
    [row] = [r for r in report.layers if r.name == "experts"]
    assert "gate_up_proj (3, 80, 24)" in row.reason
    assert not row.compressed
    with pytest.raises(OptionError):
        tk.nn.compress_layer(model.experts, LowRankLayer(rank=3))


def test_full_rank_is_exact(model: Mixture, x: Tensor) -> None:
    rules = {"experts": LowRankLayer(rank=D - 1), "*": None}
    model.experts.gate_up_proj.data[:, :, 0] = model.experts.gate_up_proj.data[:, :, 1]  # of rank D − 1
    model.experts.down_proj.data[:, 0] = model.experts.down_proj.data[:, 1]
    small, report = compress(model, None, [x], rules, measure=False)
    assert sum(r.compressed for r in report.layers) == 2 * E
    assert torch.allclose(small(x), model(x), atol=1e-4)


def test_half_of_the_parameters_really_go(model: Mixture, x: Tensor, tmp_path: Path) -> None:
    small, report = compress(model, Budget(params=0.5), [x, x.flip(0)], measure=False)
    assert report.kept <= 0.5
    assert sum(p.numel() for p in small.parameters()) == report.params_after < 0.52 * report.params_before
    assert isinstance(small.experts.gate_up_0, FactoredLinear)
    before = small(x)
    tk.nn.save(small, tmp_path / "small.safetensors")
    torch.manual_seed(5)
    again = tk.nn.load(tmp_path / "small.safetensors", base=Mixture(Experts())).eval()
    assert torch.equal(again(x), before)
    dense = tk.nn.materialize(small)
    assert type(dense.experts) is Experts
    assert torch.allclose(dense(x), before, atol=1e-5)
    twice, report = compress(small, Budget(params=0.6), [x], measure=False)
    assert report.kept <= 0.6
    assert type(twice.experts) is OpenExperts


def test_it_is_exported(model: Mixture, x: Tensor) -> None:
    """Every expert sees every token there: which ones it is given would depend on values."""
    small, _ = compress(model, Budget(params=0.5), [x], measure=False)
    made = torch.export.export(small, (x,)).module()
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    assert torch.allclose(made(other), small(other), atol=1e-5)


def test_experts_that_nothing_is_sent_to(model: Mixture, x: Tensor) -> None:
    """They are fitted to their weights alone, and the report says so."""
    model.router.bias.data = torch.tensor([50.0, 50.0, -50.0])
    small, report = compress(model, Budget(params=0.5), [x], measure=False)
    assert any("experts.gate_up_2" in note for note in report.notes)
    assert bool(small(x).isfinite().all())


def test_gradients_go_through(model: Mixture, x: Tensor) -> None:
    small, _ = compress(model, Budget(params=0.5), [x, x.flip(0), x.flip(1)], measure=False)
    small(x).square().sum().backward()
    assert all(p.grad is not None for name, p in small.named_parameters() if "experts" in name)
    _, report = tk.nn.recover(small, model, [x + k for k in range(8)], max_steps=5)
    assert report.error_after <= report.error_before


def test_a_transformers_mixture(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    interop = pytest.importorskip("tnkit.interop.transformers")
    assert interop is not None
    config = transformers.MixtralConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=3,
        num_experts_per_tok=2,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config).eval()
    batches = [{"input_ids": torch.randint(0, 50, (3, 10))} for _ in range(3)]
    small, report = compress(model, Budget(params=0.5), batches, measure=False)
    experts = [r for r in report.layers if ".experts." in r.name]
    assert len(experts) == 2 * 2 * 3
    assert sum(r.compressed for r in experts) >= 6
    assert report.params_after < 0.6 * report.params_before
    small.save_pretrained(tmp_path / "small")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    with torch.no_grad():
        assert torch.equal(again(**batches[0]).logits, small(**batches[0]).logits)


def test_one_that_cannot_be_opened_is_never_left_random(model: Mixture, x: Tensor) -> None:
    """Loading says so, and does not go on with weights that were made up."""
    small, _ = compress(model, Budget(params=0.5), [x], measure=False)
    with pytest.raises(ShapeError, match=r"experts .* cannot be opened"):
        hollow_(Mixture(Clamped()), structure_of(small))
