"""Whole compressed models as graphs: torch.export and torch.compile(fullgraph=True), also by the real compiler."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import tnkit as tk

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 60}
IDS = torch.arange(24).reshape(2, 12)


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "bert":
        return BertModel(BertConfig(**SIZES)).eval()
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1, use_cache=False)).eval()
    ends = {"bos_token_id": 0, "eos_token_id": 1, "use_cache": False}
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=60, n_positions=16, **ends)).eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@torch.no_grad()
def test_transformers(kind: str) -> None:
    small, _ = tk.nn.compress(made(kind), tk.Budget(params=0.5), [{"input_ids": IDS}], measure=False)
    want = small(input_ids=IDS)[0]
    exported = torch.export.export(small, (), {"input_ids": IDS}, strict=False)
    assert torch.allclose(exported.module()(input_ids=IDS)[0], want, atol=1e-5)
    torch._dynamo.reset()
    compiled = torch.compile(small, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(input_ids=IDS)[0], want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_by_inductor() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 6, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    x = torch.randn(4, 8, 8)
    rules = {"2": tk.nn.NetworkLayer("btt", keep=0.5)}
    small, _ = tk.nn.compress(model, tk.Budget(params=0.5), [x], rules, measure=False)
    torch._dynamo.reset()
    assert torch.allclose(torch.compile(small, fullgraph=True)(x), small(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@torch.no_grad()
def test_blocks_that_are_smaller() -> None:
    calib = [{"input_ids": IDS}]
    narrow, _ = tk.nn.rotate_blocks(made("bert"), 0.75, calib, measure=False)
    small, _ = tk.nn.compress_blocks(narrow, 0.5, calib, measure=False)
    want = small(input_ids=IDS)[0]
    exported = torch.export.export(small, (), {"input_ids": IDS}, strict=False)
    assert torch.allclose(exported.module()(input_ids=IDS)[0], want, atol=1e-5)
    torch._dynamo.reset()
    compiled = torch.compile(small, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(input_ids=IDS)[0], want, atol=1e-5)
