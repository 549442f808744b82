"""Models in files: compressed a layer at a time to what compress gives in memory; resumable, whole or not at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import tnkit as tk
import tnkit.interop.transformers
from tnkit.errors import BudgetError, FileFormatError, OptionError
from tnkit.interop.folders import _fill_buffers_
from tnkit.nn.large import TensorFiles, compress_files, paged
from tnkit.nn.structure import aliases_of

IDS = torch.arange(24).reshape(2, 12)
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 80}


def config_of(kind: str) -> Any:
    if kind == "llama":
        return LlamaConfig(hidden_size=48, num_key_value_heads=2, tie_word_embeddings=True, **SIZES)
    if kind == "gpt2":
        return GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=80, bos_token_id=0, eos_token_id=1)
    return BertConfig(hidden_size=48, **SIZES)


CLASSES: dict[str, Any] = {"llama": LlamaForCausalLM, "gpt2": GPT2LMHeadModel, "bert": BertModel}


def saved(kind: str, folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model = CLASSES[kind](config_of(kind)).eval()
    model.save_pretrained(folder, max_shard_size="60kB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return model


def without_values(kind: str) -> nn.Module:
    with torch.device("meta"):
        model = CLASSES[kind](config_of(kind)).eval()
    for module in model.modules():
        _fill_buffers_(model, module)
    return model


@torch.no_grad()
def output(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS)[0]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_a_paged_model_computes_as_one_in_memory(tmp_path: Path, kind: str) -> None:
    model, empty = saved(kind, tmp_path / "m"), without_values(kind)
    names = aliases_of(empty.state_dict(keep_vars=True))
    with paged(empty, TensorFiles.of(tmp_path / "m"), names) as ready:
        assert torch.allclose(output(ready), output(model), atol=1e-6)
    assert all(p.is_meta for p in empty.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in empty.modules())


@pytest.mark.parametrize("calib_bytes", [2**30, 30_000])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_as_in_memory(tmp_path: Path, kind: str, calib_bytes: int) -> None:
    calib = [{"input_ids": IDS}, {"input_ids": IDS + 24}]
    model = saved(kind, tmp_path / "m")
    (tmp_path / "m" / "vocab.txt").write_text("a tokenizer")
    sizes = {"max_shard_bytes": 40_000, "calib_bytes": calib_bytes}
    target = tk.Budget(params=0.5)
    report = compress_files(without_values(kind), tmp_path / "m", tmp_path / "s", target, calib, **sizes)
    assert report.kept <= 0.5
    assert all(layer.weighted for layer in report.layers if layer.compressed)
    auto = AutoModel if kind == "bert" else AutoModelForCausalLM
    small, told = tk.nn.compress(model, target, calib, sensitivity=False, sequential=0, measure=False)
    again = auto.from_pretrained(tmp_path / "s")
    assert torch.allclose(output(again), output(small), atol=1e-4)
    assert sum(p.numel() for p in again.parameters()) == report.params_after == told.params_after
    assert [x.rank for x in report.layers] == [x.rank for x in told.layers][: len(report.layers)]
    assert (tmp_path / "s" / "vocab.txt").read_text() == "a tokenizer"
    assert len(list((tmp_path / "s").glob("*.safetensors"))) > 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "s"]


def test_a_table_with_its_tied_head(tmp_path: Path) -> None:
    saved("llama", tmp_path / "m")
    spec = tk.nn.LowRankLayer(keep=0.4)
    rules = {"model.embed_tokens": spec, "lm_head": spec, "*": None}
    compress_files(without_values("llama"), tmp_path / "m", tmp_path / "s", None, rules=rules)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "s")
    assert again.lm_head.left is again.model.embed_tokens.left
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    small, _ = tk.nn.compress(model, None, rules=rules, measure=False)
    assert torch.allclose(output(again), output(small), atol=1e-4)


def test_half_types_stay(tmp_path: Path) -> None:
    CLASSES["bert"](config_of("bert")).to(torch.bfloat16).save_pretrained(tmp_path / "m")
    compress_files(without_values("bert"), tmp_path / "m", tmp_path / "s", tk.Budget(bytes=0.5))
    for file in (tmp_path / "s").glob("*.safetensors"):
        assert {t.dtype for t in load_file(file).values()} <= {torch.bfloat16}


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("bert", tmp_path / "m")
    options = {"max_shard_bytes": 20_000}
    target = tk.Budget(params=0.5)
    compress_files(without_values("bert"), tmp_path / "m", tmp_path / "whole", target, **options)
    module = sys.modules["tnkit.nn.large.compress_files"]
    real, calls = module.build, []

    def failing(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "build", failing)
    with pytest.raises(KeyboardInterrupt):
        compress_files(without_values("bert"), tmp_path / "m", tmp_path / "s", target, **options)
    assert not (tmp_path / "s").exists()
    assert (tmp_path / ".s.part" / "progress.json").is_file()
    monkeypatch.setattr(module.LayerMetrics, "with_errors", None)  # what is known is not found out again
    compress_files(without_values("bert"), tmp_path / "m", tmp_path / "s", target, **options)
    there = len([x for x in AutoModel.from_pretrained(tmp_path / "s").modules() if hasattr(x, "form")])
    assert 7 < len(calls) < there + 8
    assert not (tmp_path / ".s.part").exists()
    states = [AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("s", "whole")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_parts_of_another_task_are_not_used(tmp_path: Path) -> None:
    saved("bert", tmp_path / "m")
    (tmp_path / ".s.part").mkdir()
    (tmp_path / ".s.part" / "progress.json").write_text(json.dumps({"key": "another", "curves": {}}))
    (tmp_path / ".s.part" / "left.txt").write_text("old")
    report = compress_files(without_values("bert"), tmp_path / "m", tmp_path / "s", tk.Budget(params=0.5))
    assert report.kept <= 0.5
    assert not (tmp_path / "s" / "left.txt").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    saved("bert", tmp_path / "m")
    empty = without_values("bert")
    with pytest.raises(OptionError, match="whole model"):
        compress_files(empty, tmp_path / "m", tmp_path / "s", tk.Budget(latency_ms=1.0))
    with pytest.raises(BudgetError):
        compress_files(empty, tmp_path / "m", tmp_path / "s", tk.Budget(params=3))
    with pytest.raises(FileFormatError, match="is there already"):
        compress_files(empty, tmp_path / "m", tmp_path / "m", tk.Budget(params=0.5))
    with pytest.raises(FileFormatError, match="neither"):
        compress_files(empty, tmp_path, tmp_path / "s", tk.Budget(params=0.5))
    with pytest.raises(FileFormatError, match=r"holds (shape|nothing)"):
        compress_files(without_values("llama"), tmp_path / "m", tmp_path / "s", tk.Budget(params=0.5))
    shutil.copytree(tmp_path / "m", tmp_path / "half")
    next((tmp_path / "half").glob("*.safetensors")).unlink()
    with pytest.raises(FileFormatError, match="which is not there"):
        compress_files(empty, tmp_path / "half", tmp_path / "s", tk.Budget(params=0.5))
    assert all(p.is_meta for p in empty.parameters())
    assert not (tmp_path / "s").exists()


MEASURED = """
import resource, sys
import torch
from torch import nn
from tnkit.nn import Budget
from tnkit.nn.large import compress_files

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

source, out = sys.argv[1:]
with torch.device("meta"):
    model = nn.Sequential(*(nn.Linear(4096, 128) if k % 2 else nn.Linear(128, 4096) for k in range(40)))
torch.linalg.svd(torch.randn(512, 128, dtype=torch.float64))
before = peak()
compress_files(model, source, out, Budget(params=0.5), max_shard_bytes=2**22)
print(peak() - before)
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    random, places, size = torch.Generator().manual_seed(0), {}, 0
    for k in range(0, 40, 10):
        shapes = {str(j): (128, 4096) if j % 2 else (4096, 128) for j in range(k, k + 10)}
        tensors = {f"{j}.weight": torch.randn(shape, generator=random) for j, shape in shapes.items()}
        tensors |= {f"{j}.bias": torch.zeros(shape[0]) for j, shape in shapes.items()}
        save_file(tensors, tmp_path / "m" / f"part{k}.safetensors")
        places |= dict.fromkeys(tensors, f"part{k}.safetensors")
        size += sum(t.nbytes for t in tensors.values())
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "m"), str(tmp_path / "s")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert size > 80e6
    assert grown < 0.6 * size
    assert len(TensorFiles.of(tmp_path / "s").places) > 80
