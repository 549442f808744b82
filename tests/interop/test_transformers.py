"""Compressed models through save_pretrained and from_pretrained; tiny random models, nothing is downloaded."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

import tnkit as tk
import tnkit.interop.transformers
from tnkit.errors import OptionError
from tnkit.nn.io import hollow_

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


def test_shared_factors_are_refused_with_the_remedy() -> None:
    structure = {"layers": {"lm_head": {}}, "opened": [], "aliases": {"lm_head.left": "transformer.wte.left"}}
    with pytest.raises(OptionError, match=r"tk\.nn\.load"):
        hollow_(nn.Module(), structure)
