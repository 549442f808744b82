"""Compressed models through save_pretrained and from_pretrained; tiny random models, nothing is downloaded."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

import tnkit as tk
import tnkit.interop.transformers
from tnkit.errors import FileFormatError
from tnkit.nn.versions import VERSION

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 60}
IDS = torch.arange(24).reshape(2, 12)


def bert(kind: type[nn.Module] = BertModel) -> nn.Module:
    torch.manual_seed(0)
    return kind(BertConfig(**SIZES)).eval()


def compressed(model: nn.Module) -> nn.Module:
    return tk.nn.compress(model, tk.Budget(params=0.5), calib=[{"input_ids": IDS}], measure=False)[0]


@torch.no_grad()
def output(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS)[0]


def test_a_folder_loads_by_auto_model_and_is_written_again(tmp_path: Path) -> None:
    small = compressed(bert())
    small.save_pretrained(tmp_path / "a")
    again = AutoModel.from_pretrained(tmp_path / "a")
    assert torch.equal(output(again), output(small))
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in small.parameters())
    again.save_pretrained(tmp_path / "b")
    assert torch.equal(output(AutoModel.from_pretrained(tmp_path / "b")), output(small))


def test_the_base_of_a_model_with_a_head_and_back(tmp_path: Path) -> None:
    small = compressed(bert(BertForSequenceClassification))
    small.save_pretrained(tmp_path)
    base = BertModel.from_pretrained(tmp_path)
    assert torch.equal(output(base), output(small.bert))


def test_a_language_model_with_a_tied_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=60, n_positions=16)).eval()
    small = compressed(model)
    small.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(output(again), output(small))
    assert again.lm_head.weight is again.transformer.wte.weight


def test_half_types(tmp_path: Path) -> None:
    compressed(bert()).save_pretrained(tmp_path)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert AutoModel.from_pretrained(tmp_path).half().dtype == torch.float16


def test_the_mark_is_of_what_is_compressed() -> None:
    model = bert()
    small = compressed(model)
    assert not hasattr(model.config, "quantization_config")
    assert small.config.quantization_config["quant_method"] == "tnkit"
    assert not hasattr(tk.nn.materialize(small).config, "quantization_config")


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_compressed_table_with_a_tied_head(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    if kind == "gpt2":
        ends = {"bos_token_id": 0, "eos_token_id": 1}
        model = GPT2LMHeadModel(
            GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=60, n_positions=16, **ends)
        ).eval()
        table, head = "transformer.wte", "lm_head"
    else:
        model, table, head = bert(BertForMaskedLM), "bert.embeddings.word_embeddings", "cls.predictions.decoder"
    spec = tk.nn.LowRankLayer(keep=0.4)
    calib = [{"input_ids": IDS}]
    small, _ = tk.nn.compress(model, tk.Budget(params=0.5), calib, {table: spec, head: spec}, measure=False)
    small.save_pretrained(tmp_path / "a")
    again = type(model).from_pretrained(tmp_path / "a")
    again.save_pretrained(tmp_path / "b")
    twice = type(model).from_pretrained(tmp_path / "b")
    for made in (again, twice):
        assert torch.equal(output(made), output(small))
        assert made.get_submodule(head).left is made.get_submodule(table).left
        assert made.num_parameters() <= small.num_parameters() < model.num_parameters()
    assert isinstance(AutoModel.from_pretrained(tmp_path / "a").get_input_embeddings(), tk.nn.FactoredEmbedding)
    dense = tk.nn.materialize(again)
    dense.save_pretrained(tmp_path / "c")
    assert dense.get_submodule(head).weight is dense.get_submodule(table).weight
    assert torch.equal(output(type(model).from_pretrained(tmp_path / "c")), output(dense))


def test_the_version_is_in_the_configuration(tmp_path: Path) -> None:
    compressed(bert()).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    assert config["quantization_config"]["version"] == VERSION
    del config["quantization_config"]["version"]  # as the first ones were
    file.write_text(json.dumps(config))
    AutoModel.from_pretrained(tmp_path)
    config["quantization_config"]["version"] = 99
    file.write_text(json.dumps(config))
    with pytest.raises(FileFormatError, match="version 99"):
        AutoModel.from_pretrained(tmp_path)
