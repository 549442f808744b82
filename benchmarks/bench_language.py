"""A language model of characters made smaller without tuning: `python -m benchmarks.bench_language [--seeds 0 1 2]`.

432 k parameters, trained here on eight tenths of the docstrings of the standard library (901 k characters, files by
name), in a schedule of 700 steps that ends where perplexity on the first 200 pieces of the ninth tenth is 7.5: how
hard a model is to compress depends on how far it has come, and after 610 steps three seeds were at 8.5, 8.8 and 9.5 on
the last tenth, where seed 2 is at 9.0 by this rule.
`--until 0` makes all the steps. The ninth tenth is for choosing options too (`--text validation`), the last one, which
nothing else sees, for the figures. `keep` is the share of the parameters of its Linear layers. The published ways cut
every layer alike and hold two factors; all see the same 512 windows of training text. What else is random than the
training (windows, signs) has one seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

import tnkit as tk
from benchmarks.char_model import CONTEXT, loss, perplexity, text, trained, windows
from benchmarks.harness import screen, write_json
from benchmarks.svd_rivals import NAMES, low_rank, moments

#: What of ours is measured: options of `compress`.
OURS: dict[str, dict[str, Any]] = {
    "tnkit": {},
    "tnkit, not sequential": {"sequential": 0},
    "tnkit, two factors": {"pivoted": False},
    "tnkit, uniform": {"allocation": "uniform"},
}
WHO = (*OURS, *(f"{name}, uniform" for name in NAMES))


@dataclass(frozen=True, slots=True)
class Found:
    """One model at one size; the seed is that of its training."""

    seed: int
    who: str
    keep: float
    kept: float
    perplexity: float
    worse: float
    compress_s: float


def ours(model: nn.Module, calib: list[Tensor], keep: float, given: dict[str, Any]) -> tuple[Any, float]:
    """The compressed model and what it keeps."""
    options = dict(given)
    spec = tk.nn.LowRankLayer(pivoted=options.pop("pivoted", True))
    small, report = tk.nn.compress(model, tk.Budget(params=keep), calib, {"blocks": spec}, measure=False, **options)
    return small, report.kept


def measure(
    seed: int, model: nn.Module, train: Tensor, test: Tensor, keeps: list[float], n_calib: int, only: list[str]
) -> Iterator[Found]:
    """Every contender at every size."""
    pieces = list(windows(train, n_calib, torch.Generator().manual_seed(1)).split(16))
    calib = [piece[:, :-1] for piece in pieces]
    dense = perplexity(model, test)
    yield Found(seed, "dense", 1.0, 1.0, dense, 0.0, 0.0)
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    start = time.perf_counter()
    seen = moments(model, linear, pieces, loss)
    seeing = time.perf_counter() - start

    def found(who: str, keep: float, small: nn.Module, kept: float, start: float, before: float = 0.0) -> Found:
        spent = time.perf_counter() - start + before
        now = perplexity(small, test)
        return Found(seed, who, keep, kept, now, now / dense - 1.0, spent)

    for keep in keeps:
        for who, given in ((w, how) for w, how in OURS.items() if not only or w in only):
            start = time.perf_counter()
            yield found(who, keep, *ours(model, calib, keep, given), start)
        for who in (name for name in NAMES if not only or f"{name}, uniform" in only):
            start = time.perf_counter()
            yield found(f"{who}, uniform", keep, *low_rank(model, who, seen, keep), start, seeing)


def summary(rows: list[Found]) -> Table:
    """Means and the worst over the seeds."""
    table = Table("who", "keep", "kept", "perplexity", "worse by", "at worst", "s")
    for who, keep in dict.fromkeys((r.who, r.keep) for r in rows):
        mine = [r for r in rows if (r.who, r.keep) == (who, keep)]
        kept, found, worse, spent = (
            sum(getattr(r, field) for r in mine) / len(mine) for field in ("kept", "perplexity", "worse", "compress_s")
        )
        most = max(r.worse for r in mine)
        table.add_row(who, f"{keep}", f"{kept:.3f}", f"{found:.4f}", f"{worse:.2%}", f"{most:.2%}", f"{spent:.1f}")
    return table


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_language", description=__doc__)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.8, 0.6, 0.4, 0.25])
    parser.add_argument("--steps", type=int, default=700, help="of training at the most; three minutes on one core")
    parser.add_argument(
        "--until", type=float, default=7.5, help="perplexity at which training ends; 0: after its steps"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training, a model for each")
    parser.add_argument("--weights", type=Path, default=None, help="folder where trained models are, or are to be kept")
    parser.add_argument("--who", nargs="+", choices=WHO, default=[], metavar="WHO", help="only these rows of the table")
    parser.add_argument("--text", choices=["test", "validation"], default="test", help="what perplexity is of")
    parser.add_argument("--quick", action="store_true", help="hardly any training, to see that everything runs")
    parser.add_argument("--json", type=Path, default=Path("out/bench_language.json"), help="where to write")
    asked = parser.parse_args()
    console, ids = screen(), text()
    tenth = len(ids) // 10
    train = ids[: 8 * tenth]
    held_out = ids[8 * tenth : 9 * tenth]
    test = ids[9 * tenth :] if asked.text == "test" else held_out
    if asked.quick:
        test = test[:8000]
    rows: list[Found] = []
    keeps, n_calib = ([0.4], 32) if asked.quick else (asked.keep, 512)
    for seed in asked.seeds:
        steps, level = 20 if asked.quick else asked.steps, f"_{asked.until}" if asked.until else ""
        weights = None if asked.weights is None else asked.weights / f"char_{steps}{level}_{seed}.safetensors"
        model = trained(
            train, steps, weights, console.print, seed=seed, until=asked.until, watched=held_out[: 200 * (CONTEXT + 1)]
        )
        about = {
            "params": sum(p.numel() for p in model.parameters()),
            "steps": steps,
            "until": asked.until,
            "text": asked.text,
        }
        for row in measure(seed, model, train, test, keeps, n_calib, asked.who):
            rows.append(row)
            console.print(row)
            write_json(asked.json, {**about, "rows": [asdict(r) for r in rows]})
    console.print(summary(rows))
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
