"""Blocks with fewer neurons and dimensions: exact where there is nothing to lose, better than plain truncation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import tnkit as tk
import tnkit.interop.transformers
from tnkit.errors import DataError, OptionError
from tnkit.nn.blocks import Block, blocks_in, compress_blocks
from tnkit.nn.blocks.influence import influences, spread_out
from tnkit.nn.blocks.nystroem import read_off, select_neurons
from tnkit.nn.stats import InputStats

KINDS = ("llama", "opt", "gpt2", "bert", "qwen2")
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 80}
ENDS = {"bos_token_id": 0, "eos_token_id": 2}


def made(kind: str) -> nn.Module:
    """A random model whose biases are not zero and whose attention is not flat."""
    torch.manual_seed(0)
    wide = {"hidden_size": 64, "intermediate_size": 96, **SIZES}
    model: nn.Module = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **wide)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, **wide)),
        "opt": lambda: OPTForCausalLM(
            OPTConfig(hidden_size=64, word_embed_proj_dim=64, ffn_dim=96, pad_token_id=1, **ENDS, **SIZES)
        ),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=80, **ENDS)),
        "bert": lambda: BertModel(BertConfig(**wide)),
    }[kind]().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "bias" in name:
                p.normal_(std=0.1)
            elif p.ndim == 2:
                p.mul_(4)
    return model


def batches() -> list[dict[str, Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(3, 80, (8, 24), generator=random)} for _ in range(4)]


@torch.no_grad()
def output(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch)[0]


def error(model: nn.Module, other: nn.Module) -> float:
    pairs = [(output(model, b), output(other, b)) for b in batches()]
    wrong = sum(float((a - b).square().sum()) for a, b in pairs)
    return (wrong / sum(float(a.square().sum()) for a, _ in pairs)) ** 0.5


def rows_of(model: nn.Module, block: Block) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """(what, weight (m, n) and bias of its layers), as views that can be written."""
    family, heads = block.family, block.heads
    width, shared = heads.queries * heads.size, heads.keys * heads.size
    begins = {"queries": 0, "keys": width, "values": width + shared} if block.fused else {}
    for what in ("queries", "keys", "values", "output", "ups", "down"):
        names = getattr(family, what)
        for name in names if isinstance(names, tuple) else (names,):
            layer: Any = model.get_submodule(block.path(name))
            weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.T
            bias = getattr(layer, "bias", None)
            if what in begins:
                rows = slice(begins[what], begins[what] + (width if what == "queries" else shared))
                weight, bias = weight[rows], None if bias is None else bias[rows]
            yield what, weight, bias


@torch.no_grad()
def with_slack_(model: nn.Module) -> nn.Module:
    """Half of the neurons are copies of others or dead, half of the query pairs zero, values of half rank."""
    for block in blocks_in(model):
        size, half = block.heads.size, block.heads.size // 2
        for what, weight, bias in rows_of(model, block):
            if what in ("queries", "keys"):
                parts = [weight] if bias is None else [weight, bias]
                for part in parts:
                    cut = part.reshape(-1, size, *part.shape[1:])
                    cut[:, half // 2 : half] = 0
                    cut[:, half + half // 2 :] = 0
                    part.copy_(cut.reshape(part.shape))
            elif what == "values":
                cut = weight.reshape(-1, size, weight.shape[1]).clone()
                mix = torch.randn(half, half, generator=torch.Generator().manual_seed(1))
                cut[:, half:] = torch.einsum("ab,kbn->kan", mix, cut[:, :half])
                weight.copy_(cut.reshape(weight.shape))
                if bias is not None:
                    bias.zero_()
            elif what == "ups":
                count = len(weight) // 4
                weight[2 * count : 3 * count] = weight[:count]
                weight[3 * count :] = 0
                if bias is not None:
                    bias[2 * count : 3 * count] = bias[:count]
                    bias[3 * count :] = 0
    return model


@pytest.mark.parametrize("parts", [("mlp",), ("qk",), ("vo",), ("mlp", "qk", "vo")], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_exact_where_there_is_nothing_to_lose(kind: str, parts: tuple[str, ...]) -> None:
    model = with_slack_(made(kind))
    small, report = compress_blocks(model, 0.5, batches(), parts=parts)
    assert report.kept < (0.52 if kind != "gpt2" or len(parts) == 3 else 0.8)  # its one layer gives all three
    assert error(model, small) < 2e-4
    assert report.output_error < 2e-4


@pytest.mark.parametrize("kind", KINDS)
def test_all_is_kept(kind: str) -> None:
    model = made(kind)
    same, report = compress_blocks(model, 1.0, batches()[:1])
    assert report.params_after == report.params_before
    assert error(model, same) == 0.0


@torch.no_grad()
def truncated_(model: nn.Module, keep: float, parts: tuple[str, ...]) -> nn.Module:
    """Plain truncation: neurons and dimensions of the smallest weights become zero, and nothing makes up for them."""
    for block in blocks_in(model):
        size, heads = block.heads.size, block.heads
        found = list(rows_of(model, block))
        by_name = {what: (weight, bias) for what, weight, bias in found}
        if "mlp" in parts:
            norm = sum(w.square().sum(1) for what, w, _ in found if what == "ups")
            gone = norm.argsort()[: len(norm) - int(keep * len(norm))]
            by_name["down"][0][:, gone] = 0
        shared = heads.queries // heads.keys
        if "vo" in parts:
            norm = by_name["values"][0].square().sum(1).reshape(heads.keys, size)
            gone = norm.argsort(dim=1)[:, : size - int(keep * size)] + size * torch.arange(heads.keys)[:, None]
            for part in by_name["values"]:
                if part is not None:
                    part[gone.flatten()] = 0
        if "qk" in parts:
            half = size // 2
            norm = by_name["keys"][0].square().sum(1).reshape(heads.keys, size)
            pairs = norm[:, :half] + norm[:, half:]
            gone = pairs.argsort(dim=1)[:, : half - int(keep * half)]
            gone = torch.cat([gone, gone + half], dim=1)
            for what, repeat in (("queries", shared), ("keys", 1)):
                rows = gone.repeat_interleave(repeat, 0)
                rows = (rows + size * torch.arange(len(rows))[:, None]).flatten()
                for part in by_name[what]:
                    if part is not None:
                        part[rows] = 0
    return model


@pytest.mark.parametrize("parts", [("mlp",), ("vo",), ("mlp", "qk", "vo")], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_never_above_plain_truncation(kind: str, parts: tuple[str, ...]) -> None:
    model = made(kind)
    small, _ = compress_blocks(model, 0.5, batches(), parts=parts, measure=False)
    assert error(model, small) <= error(model, truncated_(made(kind), 0.5, parts))


def test_the_output_layer_is_read_off_by_least_squares() -> None:
    random = torch.Generator().manual_seed(0)
    x = (
        torch.randn(400, 12, generator=random, dtype=torch.float64) @ torch.randn(12, 12, generator=random).double()
        + 1.0
    )
    w, index = torch.randn(5, 12, generator=random).double(), torch.tensor([0, 3, 4, 9])
    kept = read_off(w, InputStats.of(x), index, centred=True)
    design = torch.cat([x[:, index], torch.ones(400, 1, dtype=torch.float64)], dim=1)
    best = torch.linalg.lstsq(design, x @ w.mT).solution
    assert torch.allclose(kept.weight, best[:-1].mT, atol=1e-8)
    assert torch.allclose(kept.shift, best[-1], atol=1e-8)
    wrong = x @ w.mT - design @ best
    assert kept.lost2 == pytest.approx(float(wrong.square().sum()), rel=1e-6)
    chosen = select_neurons(w, InputStats.of(x), 4, centred=True)
    assert chosen.lost2 <= kept.lost2


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt2", "bert"])
def test_saved_and_loaded_the_usual_way(tmp_path: Path, kind: str) -> None:
    model, batch = made(kind), batches()[0]
    small, report = compress_blocks(model, 0.6, batches(), measure=False)
    small.save_pretrained(tmp_path / "a")
    again = type(model).from_pretrained(tmp_path / "a")
    assert torch.equal(output(again, batch), output(small, batch))
    assert again.num_parameters() == small.num_parameters() == report.params_after
    path = tk.nn.save(small, tmp_path / "m.safetensors")
    assert torch.equal(output(tk.nn.load(path, base=model), batch), output(small, batch))
    dense = tk.nn.materialize(small)  # resized layers stay
    assert torch.allclose(output(dense, batch), output(small, batch), atol=1e-4)
    dense.save_pretrained(tmp_path / "b")
    assert torch.equal(output(type(model).from_pretrained(tmp_path / "b"), batch), output(dense, batch))


@torch.no_grad()
def test_a_cache_of_keys_and_values_works_as_before() -> None:
    small, _ = compress_blocks(made("llama"), 0.5, batches(), measure=False)
    ids = batches()[0]["input_ids"][:2]
    start = small(input_ids=ids[:, :-1], use_cache=True)
    step = small(input_ids=ids[:, -1:], past_key_values=start.past_key_values)
    assert torch.allclose(step.logits[:, -1], small(input_ids=ids).logits[:, -1], atol=1e-4)


def test_compressed_further_and_recovered() -> None:
    model = made("bert")
    small, _ = compress_blocks(model, 0.7, batches(), measure=False)
    better, report = tk.nn.recover(small, model, batches(), max_steps=20)
    assert report.error_after <= report.error_before
    again, _ = compress_blocks(model, 0.7, batches(), parts=("mlp",), measure=False)
    both, told = tk.nn.compress(again, tk.Budget(params=0.6), batches(), measure=False)
    assert told.params_after < sum(p.numel() for p in again.parameters())
    assert output(both, batches()[0]).isfinite().all()
    assert better is not small


def test_blocks_that_do_little_give_more() -> None:
    model = made("gpt2")
    with torch.no_grad():
        for name, p in model.transformer.h[1].named_parameters():
            if "c_proj" in name:
                p.mul_(0.01)
    first, second = influences(model, blocks_in(model), batches())
    assert second < first
    small, report = compress_blocks(model, 0.6, batches(), spread=0.2, measure=False)
    sizes = [block.mlp.c_fc.nf for block in small.transformer.h]
    assert sizes[1] < sizes[0]
    assert report.kept == pytest.approx(0.6, abs=0.03)
    assert sum(spread_out([0.0, 0.0, 5.0], 0.6, 0.1)) == pytest.approx(1.8)
    assert max(spread_out([0.0, 0.0, 5.0], 0.6, 0.1)) <= 0.9


def test_what_is_refused() -> None:
    with pytest.raises(OptionError, match="known family"):
        compress_blocks(nn.Sequential(nn.Linear(3, 3)), 0.5, [torch.ones(1, 3)])
    for options in ({"keep": 0.0}, {"keep": 0.5, "parts": ("head",)}, {"keep": 0.5, "spread": -1.0}):
        with pytest.raises(OptionError, match="keep in"):
            compress_blocks(made("bert"), calib=batches(), **options)
    with pytest.raises(DataError, match="no batch"):
        compress_blocks(made("bert"), 0.5, [])
