"""Sentence encoders: compressed by texts, their directory written and read as any other. Nothing is downloaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

import tnkit as tk
from tnkit.errors import DataError, OptionError

pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

from sentence_transformers import SentenceTransformer  # noqa: E402

from tnkit.interop.sentence_transformers import compress_encoder  # noqa: E402

TEXTS = ["the cat sat", "on a flat mat", "the mat", "a cat on a cat on a mat"]


@pytest.fixture
def encoder(tmp_path: Path) -> Any:
    """A directory as sentence-transformers lays it out, with random weights."""
    place = tmp_path / "encoder"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=30, **sizes)).save_pretrained(place)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", "flat"]
    (place / "vocab.txt").write_text("\n".join(words))
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    described = [
        {"idx": k, "name": str(k), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for k, (path, kind) in enumerate(modules)
    ]
    (place / "modules.json").write_text(json.dumps(described))
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": False}))
    (place / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (place / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (place / "2_Normalize").mkdir()
    return SentenceTransformer(str(place), device="cpu", local_files_only=True)


def n_params(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def test_compressed_saved_and_loaded(encoder: Any, tmp_path: Path) -> None:
    before, size = encoder.encode(TEXTS), n_params(encoder)
    small, report = compress_encoder(encoder, tk.Budget(params=0.6), TEXTS, measure=False)
    assert report.kept <= 0.6
    assert all(layer.weighted for layer in report.layers if layer.compressed)
    assert n_params(encoder) == size
    assert (encoder.encode(TEXTS) == before).all()
    small.save(str(tmp_path / "small"))
    again = SentenceTransformer(str(tmp_path / "small"), device="cpu", local_files_only=True)
    assert abs(again.encode(TEXTS) - small.encode(TEXTS)).max() < 1e-6
    assert n_params(again) == n_params(small) < size
    assert (before * again.encode(TEXTS)).sum(1).mean() > 0.9


def test_without_texts_and_what_is_refused(encoder: Any) -> None:
    small, _ = compress_encoder(encoder, tk.Budget(params=0.6), None)
    assert n_params(small) < n_params(encoder)
    with pytest.raises(DataError, match="no text"):
        compress_encoder(encoder, 0.5, [])
    with pytest.raises(OptionError, match="SentenceTransformer"):
        compress_encoder(torch.nn.Linear(3, 3), 0.5, TEXTS)
