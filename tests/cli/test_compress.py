import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tnkit as tk

MODULE = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))

nothing = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module that makes a model; its name is not one that another test has imported."""
    name = "model_of_" + request.node.name.replace("[", "_").replace("]", "")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_module_with_weights_and_inputs(run_json, run, module: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16)).eval()
    save_file(model.state_dict(), "state.safetensors")
    np.save("inputs.npy", np.random.default_rng(0).standard_normal((100, 32)))
    arguments = [
        "compress",
        f"{module}:build",
        "--weights",
        "state.safetensors",
        "--keep",
        "50%",
        "--calib",
        "inputs.npy",
    ]
    values = run_json(*arguments, "-o", "small.safetensors", "--report", "r.md")
    assert values["kept"] <= 0.5
    small = tk.nn.load("small.safetensors", base=model)
    assert sum(p.numel() for p in small.parameters()) == values["params_after"]
    assert Path("r.md").read_text().startswith("| layer")
    run(*arguments, "-o", "b.safetensors", "--report", "r.html")
    assert "bytes" in Path("r.html").read_text()
    assert run_json("info", "small.safetensors")["kind"] == "model"


def test_layers_are_left(run_json, module: str) -> None:
    values = run_json("compress", f"{module}:build", "--keep", "0.4", "--leave", "2", "-o", "s.safetensors")
    assert {layer["name"] for layer in values["layers"] if layer["compressed"]} == {"0"}


@pytest.fixture
def tiny(run) -> str:
    """A folder with a small random BERT and a tokenizer, and texts beside it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", "flat"]
    Path("tiny/vocab.txt").write_text("\n".join(words))
    Path("tiny/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    Path("texts.txt").write_text("the cat sat\n\non a flat mat\n" * 8, encoding="utf-8")
    return "tiny"


def test_a_folder_of_transformers(run_json, tiny: str) -> None:
    values = run_json("compress", tiny, "--keep", "0.6", "--calib", "texts.txt")
    assert values["output"] == "tiny.small.safetensors"
    assert 0.4 < values["kept"] <= 0.6
    assert all(layer["weighted"] for layer in values["layers"] if layer["compressed"])


def test_to_a_folder_and_measured(run, run_json, tiny: str) -> None:
    made = run_json("compress", tiny, "--keep", "0.6", "--calib", "texts.txt", "-o", "smaller")
    assert sorted(p.name for p in Path().iterdir()) == ["smaller", "texts.txt", "tiny"]
    assert Path("smaller/tokenizer_config.json").is_file()
    run("compress", tiny, "--keep", "0.6", "-o", "small.safetensors")
    for small in ("small.safetensors", "smaller"):
        values = run_json("bench", tiny, small, "--calib", "texts.txt")
        assert values["params_before"] > values["params_after"]
        assert all(layer["flops_after"] < layer["flops_before"] for layer in values["layers"])
    assert values["params_after"] == made["params_after"]
    alone = run_json("bench", "smaller", "--calib", "texts.txt", "--report", "r.md")
    assert alone["output_error"] < 1e-5
    assert Path("r.md").read_text().startswith("| layer")
    assert "new folder" in run("compress", tiny, "--keep", "0.6", "-o", "smaller", code=2).stderr
    assert "--calib" in run("bench", tiny, "smaller", code=2).stderr


def test_a_layer_at_a_time(run, run_json, tiny: str) -> None:
    arguments = ["compress", tiny, "--keep", "0.6", "--calib", "texts.txt"]
    values = run_json(*arguments, "--by-layer", "-o", "smaller")
    assert 0.4 < values["kept"] <= 0.6
    assert all(layer["weighted"] for layer in values["layers"] if layer["compressed"])
    assert Path("smaller/vocab.txt").is_file()
    assert run_json("bench", "smaller", "--calib", "texts.txt")["params_after"] == values["params_after"]
    assert "without ending" in run(*arguments, "--by-layer", code=2).stderr


def test_analyze(run, run_json, tiny: str) -> None:
    values = run_json("analyze", tiny, "--calib", "texts.txt", "--leave", "pooler", "--report", "r.html")
    assert {layer["kind"] for layer in values["layers"]} == {"Linear"}
    assert values["left"]["pooler.dense"].startswith("excluded")
    page = Path("r.html").read_text()
    assert page.count("<polyline") >= len(values["layers"])
    assert "stable rank" in page
    run("analyze", tiny, "--report", "r.md")
    assert "no inputs" in Path("r.md").read_text()
    assert json.loads(run("analyze", tiny, "--json").stdout)["ms"] is None


def test_what_cannot_be(run, module: str, tmp_path: Path) -> None:
    assert "--keep" in run("compress", f"{module}:build", code=2).stderr
    assert "not an nn.Module" in run("compress", f"{module}:nothing", "--keep", "0.5", code=2).stderr
    assert "cannot be imported" in run("compress", "no_such_module:build", "--keep", "0.5", code=2).stderr
    assert "no such folder" in run("compress", "no/such/model", "--keep", "0.5", code=2).stderr
    assert "config.json" in run("compress", tmp_path, "--keep", "0.5", code=2).stderr
    Path("weights.safetensors").write_bytes(b"")
    assert "module:name" in run("compress", "weights.safetensors", "--keep", "0.5", code=2).stderr
    Path("t.txt").write_text("one line")
    arguments = ["compress", f"{module}:build", "--keep", "0.5"]
    assert "no tokenizer" in run(*arguments, "--calib", "t.txt", code=2).stderr
    assert "nowhere" in run(*arguments, "--leave", "nowhere", code=2).stderr
    assert not list(tmp_path.glob("*.small.safetensors"))
