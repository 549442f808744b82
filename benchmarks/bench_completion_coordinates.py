"""Completion of coordinates in an array of 10⁵ × 10⁴ × 10³ entries: time, memory and error by the number of entries.

A CP of rank 8 with normal factors is planted; the entries stand at random places and carry noise of a tenth of their
root mean square. Each size runs in a process of its own, whose peak memory counts everything: Python, torch, the data
as generated, the copy that `Observations` sorts, and the fit. What is told of a fit:

- the error on 200 000 fresh places, against the truth without noise;
- beside it that of least squares for each row where the true factors of the other modes are given (an oracle).

At the largest size the rank is given in one run and found in another. The smaller sizes show the cost, not the method:
10⁶ entries are nine for each row of eight unknowns of the longest mode.

    python -m benchmarks.bench_completion_coordinates --json docs/figures/bench_completion_coordinates.json
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.harness import screen, write_json
from tnkit.completion import Observations, complete
from tnkit.completion.cp_entries import CPEntries

SHAPE, RANK, NOISE = (100_000, 10_000, 1_000), 8, 0.1
SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
QUICK = (30_000, 100_000)


def planted(
    n: int, shape: tuple[int, ...] = SHAPE, rank: int = RANK, noise: float = NOISE, seed: int = 0
) -> tuple[Observations, tuple[Tensor, ...]]:
    """Entries at random places of a CP with normal factors, with noise of this share of their root mean square."""
    gen = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randint(size, (n,), generator=gen) for size in shape], 1)
    factors = tuple(torch.randn(size, rank, generator=gen, dtype=torch.float64) for size in shape)
    values = truth(factors, indices)
    values += noise * rank**0.5 * torch.randn(n, generator=gen, dtype=torch.float64)
    return Observations(indices, values, shape), factors


def truth(factors: tuple[Tensor, ...], indices: Tensor) -> Tensor:
    """The planted values at some places."""
    blank = torch.zeros(len(indices), dtype=torch.float64)
    return CPEntries.of(indices, blank, SHAPE, sort=False).predict(factors)


def oracle(observed: Observations, factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Each factor by least squares with the true ones of the other modes."""
    entries = CPEntries.of(observed.indices, observed.values, observed.shape)
    ridge = torch.full((RANK,), NOISE**2 * RANK, dtype=torch.float64)
    return tuple(entries.solve(factors, mode, ridge) for mode in range(len(factors)))


def one(n: int, rank: str, seed: int) -> dict[str, Any]:
    """One fit, measured in this process."""
    observed, factors = planted(n, seed=seed)
    begun = time.perf_counter()
    done = complete(observed, "cp", rank="auto" if rank == "auto" else int(rank), method="coordinates", rng=seed)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gen = torch.Generator().manual_seed(10_000 + seed)
    fresh = torch.stack([torch.randint(size, (200_000,), generator=gen) for size in SHAPE], 1)
    expected = truth(factors, fresh)

    def error(values: Tensor) -> float:
        return float((values - expected).norm() / expected.norm())

    assert done.tensor is not None
    return {
        "entries": n,
        "rank_asked": rank,
        "rank": done.tensor.ranks[0],
        "seed": seed,
        "seconds": seconds,
        "peak_bytes": peak,
        "sweeps": len(done.history),
        "error": error(done.tensor.at(fresh)),
        "oracle_error": error(truth(oracle(observed, factors), fresh)),
        "heldout_error": done.heldout_error,
        "status": done.status.name,
    }


def main() -> None:
    """Measure, show, and write."""
    parser = argparse.ArgumentParser(description="Completion of many coordinates.")
    parser.add_argument("--json", type=Path, default=Path("out/bench_completion_coordinates.json"))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--one", nargs=3, metavar=("ENTRIES", "RANK", "SEED"), help="a single fit, as JSON on a line")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(int(asked.one[0]), asked.one[1], int(asked.one[2]))))
        return
    rows = []
    for n in QUICK if asked.quick else SIZES:
        for rank in (str(RANK),) if n < SIZES[-1] else (str(RANK), "auto"):
            for seed in range(asked.seeds):
                command = [sys.executable, "-m", "benchmarks.bench_completion_coordinates"]
                command += ["--one", str(n), rank, str(seed)]
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                rows.append(json.loads(told.splitlines()[-1]))
                write_json(asked.json, {"threads": torch.get_num_threads(), "cpu": platform.processor(), "rows": rows})
    table = Table(title=f"CP rank {RANK} in {SHAPE}")
    for heading in ("entries", "rank", "seconds", "µs an entry", "peak GB", "sweeps", "error", "oracle"):
        table.add_column(heading, justify="right")
    for row in rows:
        each = 1e6 * row["seconds"] / row["entries"]
        peak, errors = f"{row['peak_bytes'] / 1e9:.2f}", [f"{row[key]:.3g}" for key in ("error", "oracle_error")]
        shown = [f"{row['entries']:,}", str(row["rank"]), f"{row['seconds']:.1f}", f"{each:.1f}", peak]
        table.add_row(*shown, str(row["sweeps"]), *errors)
    screen().print(table)


if __name__ == "__main__":
    main()
