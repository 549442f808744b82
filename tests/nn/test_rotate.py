"""A narrower residual stream: the same outputs at full width, better than plain cutting, saved and loaded as usual."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

import tnkit as tk
import tnkit.interop.transformers
from tnkit.errors import OptionError
from tnkit.nn.blocks import compress_blocks, rotate_blocks
from tnkit.nn.sliced_norm import SlicedNorm

KINDS = ("llama", "tied llama", "opt", "gpt2", "bert", "bert with head")
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 80}
ENDS = {"bos_token_id": 0, "eos_token_id": 2}


def made(kind: str) -> nn.Module:
    """A random model whose biases and norms are not trivial."""
    torch.manual_seed(0)
    wide = {"hidden_size": 64, "intermediate_size": 96, **SIZES}
    opt = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 96, "pad_token_id": 1, **ENDS, **SIZES}
    model: nn.Module = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **wide)),
        "tied llama": lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, tie_word_embeddings=True, **wide)),
        "opt": lambda: OPTForCausalLM(OPTConfig(**opt)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=80, **ENDS)),
        "bert": lambda: BertModel(BertConfig(**wide)),
        "bert with head": lambda: BertForSequenceClassification(BertConfig(**wide)),
    }[kind]().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "bias" in name:
                p.normal_(std=0.1)
            elif p.ndim == 2:
                p.mul_(4)
            else:
                p.normal_(1.0, std=0.2)
    return model


def batches() -> list[dict[str, Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(3, 80, (8, 24), generator=random)} for _ in range(3)]


@torch.no_grad()
def output(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch)[0]


def error(model: nn.Module, other: nn.Module) -> float:
    pairs = [(output(model, b), output(other, b)) for b in batches()]
    wrong = sum(float((a - b).square().sum()) for a, b in pairs)
    return (wrong / sum(float(a.square().sum()) for a, _ in pairs)) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("each_block", [False, True])
def test_the_same_outputs_at_full_width(kind: str, each_block: bool) -> None:
    model = made(kind)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    same, report = rotate_blocks(model, 1.0, batches(), each_block=each_block)
    assert error(model, same) < 1e-5
    assert report.output_error < 1e-5
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_never_above_cutting_coordinates(kind: str) -> None:
    model = made(kind)
    small, report = rotate_blocks(model, 0.75, batches(), measure=False)
    plain, _ = rotate_blocks(model, 0.75, batches(), rotation=False, measure=False)
    assert error(model, small) <= error(model, plain)
    assert report.params_after == sum(p.numel() for p in small.parameters()) < report.params_before
    assert output(small, batches()[0]).shape == output(model, batches()[0]).shape


def test_exact_where_the_stream_has_room() -> None:
    model = made("llama")
    with torch.no_grad():  # everything that is written lies in half of the directions
        basis = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0][:, :32]
        for name, p in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                p.copy_(basis @ basis.mT @ p)
            elif name.endswith("embed_tokens.weight"):
                p.copy_(p @ basis @ basis.mT)
    small, report = rotate_blocks(model, 0.5, batches())
    assert small.lm_head.in_features == 32
    assert report.params_after < 0.55 * report.params_before
    assert error(model, small) < 1e-4


def test_a_rotation_for_each_block_is_exact_where_only_each_block_has_room() -> None:
    """The stream of each block lies in another half of the directions; all together need all of them."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 80, "intermediate_size": 96}
    model = LlamaForCausalLM(LlamaConfig(hidden_size=64, num_key_value_heads=4, **sizes)).eval()
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=rng))[0]
    onward = basis @ basis.roll(-16, dims=1).mT  # from a quarter of the directions to the next one
    with torch.no_grad():
        words = torch.randn(80, 16, generator=rng)
        words *= 8 / words.norm(dim=1, keepdim=True)  # after the norm, just as long
        model.model.embed_tokens.weight.copy_(words @ basis[:, :16].mT)
        for layer in model.model.layers:
            layer.self_attn.v_proj.weight.copy_(torch.eye(64))
            layer.self_attn.o_proj.weight.copy_(onward.mT - torch.eye(64))
            layer.mlp.down_proj.weight.zero_()
    words_alone = [{"input_ids": torch.arange(80)[:, None]}]  # attention gives each its own values

    def worse(**how: bool) -> float:
        small, _ = rotate_blocks(model, 0.5, words_alone, measure=False, **how)
        dense = output(model, words_alone[0])
        return float((output(small, words_alone[0]) - dense).norm() / dense.norm())

    assert worse(each_block=True) < 1e-4
    assert worse() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("each_block", [False, True])
def test_saved_and_loaded_the_usual_way(tmp_path: Path, kind: str, each_block: bool) -> None:
    model, batch = made(kind), batches()[0]
    small, report = rotate_blocks(model, 0.75, batches(), each_block=each_block, measure=False)
    small.save_pretrained(tmp_path / "a")
    again = type(model).from_pretrained(tmp_path / "a")
    again.save_pretrained(tmp_path / "b")
    twice = type(model).from_pretrained(tmp_path / "b")
    for other in (again, twice):
        assert torch.equal(output(other, batch), output(small, batch))
        assert sum(p.numel() for p in other.parameters()) == report.params_after
    path = tk.nn.save(small, tmp_path / "m.safetensors")
    loaded = tk.nn.load(path, base=model)
    assert torch.equal(output(loaded, batch), output(small, batch))
    assert sum(p.numel() for p in loaded.parameters()) == report.params_after
    if kind == "tied llama":
        assert again.lm_head.weight is again.model.embed_tokens.weight
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_the_body_of_a_model_with_a_head(tmp_path: Path) -> None:
    small, _ = rotate_blocks(made("bert with head"), 0.75, batches(), measure=False)
    small.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(output(body, batches()[0]), output(small.bert, batches()[0]))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_with_other_ways_to_compress(tmp_path: Path, kind: str) -> None:
    model = made(kind)
    small, _ = rotate_blocks(model, 0.75, batches(), measure=False)
    for more, _ in (
        compress_blocks(small, 0.75, batches(), measure=False),
        tk.nn.compress(small, tk.Budget(params=0.6), batches(), measure=False),
    ):
        more.save_pretrained(tmp_path / "m")
        again = type(model).from_pretrained(tmp_path / "m")
        assert torch.equal(output(again, batches()[0]), output(more, batches()[0]))
        assert sum(p.numel() for p in more.parameters()) < sum(p.numel() for p in small.parameters())


def test_half_types() -> None:
    model = made("llama").to(torch.bfloat16)
    same, _ = rotate_blocks(model, 1.0, batches(), measure=False)
    assert {p.dtype for p in same.parameters()} == {torch.bfloat16}
    assert error(model, same) < 0.05


def test_norms_that_no_rotation_passes_are_refused() -> None:
    class Odd(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(weight), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return x.tanh() * self.weight

    model: Any = made("llama")
    model.model.norm = Odd(model.model.norm.weight.detach())
    with pytest.raises(OptionError, match="no rotation passes"):
        rotate_blocks(model, 0.5, batches())
    with pytest.raises(OptionError, match="keep="):
        rotate_blocks(made("bert"), 0.0, batches())
    small, _ = tk.nn.compress(made("bert"), tk.Budget(params=0.5), measure=False)
    with pytest.raises(OptionError, match="dense model"):
        rotate_blocks(small, 0.5, batches())


def test_the_norm_is_saved_by_its_structure() -> None:
    norm = SlicedNorm(4, 8, 1e-5, centred=True, out=6)
    twin = SlicedNorm.from_config(norm.config(), torch.float32)
    assert {n: p.shape for n, p in twin.named_parameters()} == {n: p.shape for n, p in norm.named_parameters()}
    assert norm(torch.ones(2, 3, 4)).shape == (2, 3, 6)
