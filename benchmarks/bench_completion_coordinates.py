"""Completion of coordinates in an array of up to 10⁵ × 10⁴ × 10³: time, memory and error by the number of entries.

The array grows with the entries, so that each row of the longest mode has a hundred, and every size can be solved. A CP
of rank 8 with normal factors is planted; the entries stand at random places and carry noise of a tenth of their
root mean square. Each size runs in a process of its own, whose peak memory counts everything: Python, torch, the data
as generated, the copy that `Observations` sorts, and the fit. What is told of a fit:

- the error on 200 000 fresh places, against the truth without noise;
- beside it that of least squares for each row where the true factors of the other modes are given (an oracle).

At the largest size the rank is given in one run, and in another nothing is: format, method and rank are found. Where
entries are fewer than a start needs, 3·10⁶ in the largest array, the status says so; that run is the last one.

    python -m benchmarks.bench_completion_coordinates --json docs/figures/bench_completion_coordinates.json
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.harness import cpu_name, screen, write_json
from tnkit.completion import Observations, complete
from tnkit.completion.cp_entries import CPEntries

SHAPE, RANK, NOISE = (100_000, 10_000, 1_000), 8, 0.1
SIZES = (1_000_000, 2_000_000, 5_000_000, 10_000_000)
QUICK = (100_000, 200_000)
#: Entries in the largest array that are too few.
TOO_FEW = 3_000_000


def shape_of(n: int) -> tuple[int, ...]:
    """The array for so many entries."""
    return tuple(max(8, round(size * n / SIZES[-1])) for size in SHAPE)


def planted(
    n: int, shape: tuple[int, ...] = SHAPE, rank: int = RANK, noise: float = NOISE, seed: int = 0
) -> tuple[Observations, tuple[Tensor, ...]]:
    """Entries at random places of a CP with normal factors, with noise of this share of their root mean square."""
    gen = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randint(size, (n,), generator=gen) for size in shape], 1)
    factors = tuple(torch.randn(size, rank, generator=gen, dtype=torch.float64) for size in shape)
    values = truth(factors, indices, shape)
    values += noise * rank**0.5 * torch.randn(n, generator=gen, dtype=torch.float64)
    return Observations(indices, values, shape), factors


def truth(factors: tuple[Tensor, ...], indices: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The planted values at some places."""
    blank = torch.zeros(len(indices), dtype=torch.float64)
    return CPEntries.of(indices, blank, shape, sort=False).predict(factors)


def oracle(observed: Observations, factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Each factor by least squares with the true ones of the other modes."""
    entries = CPEntries.of(observed.indices, observed.values, observed.shape)
    ridge = torch.full((RANK,), NOISE**2 * RANK, dtype=torch.float64)
    return tuple(entries.solve(factors, mode, ridge) for mode in range(len(factors)))


def one(n: int, rank: str, seed: int, whole: bool = False) -> dict[str, Any]:
    """One fit, measured in this process; `whole` takes the largest array whatever the entries."""
    shape = SHAPE if whole else shape_of(n)
    observed, factors = planted(n, shape, seed=seed)
    begun, used = time.perf_counter(), time.process_time()
    if rank == "nothing":
        done = complete(observed, rng=seed)
    else:
        done = complete(observed, "cp", rank="auto" if rank == "auto" else int(rank), method="coordinates", rng=seed)
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gen = torch.Generator().manual_seed(10_000 + seed)
    fresh = torch.stack([torch.randint(size, (200_000,), generator=gen) for size in shape], 1)
    expected = truth(factors, fresh, shape)

    def error(values: Tensor) -> float:
        return float((values - expected).norm() / expected.norm())

    assert done.tensor is not None
    return {
        "entries": n,
        "shape": shape,
        "rank_asked": rank,
        "method": done.method,
        "rank": done.tensor.ranks[0],
        "seed": seed,
        "seconds": seconds,
        "cpu_seconds": used,
        "peak_bytes": peak,
        "sweeps": len(done.history),
        "error": error(done.tensor.at(fresh)),
        "oracle_error": error(truth(oracle(observed, factors), fresh, shape)),
        "heldout_error": done.heldout_error,
        "status": done.status.name,
    }


def main() -> None:
    """Measure, show, and write."""
    parser = argparse.ArgumentParser(description="Completion of many coordinates.")
    parser.add_argument("--json", type=Path, default=Path("out/bench_completion_coordinates.json"))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--state", default="", help="of the machine, if it was not idle; it goes into the file")
    parser.add_argument("--one", nargs=4, metavar=("ENTRIES", "RANK", "SEED", "WHOLE"), help="a single fit, as JSON")
    asked = parser.parse_args()
    if asked.one:
        n, rank, seed, whole = asked.one
        print(json.dumps(one(int(n), rank, int(seed), whole == "1")))
        return
    rows: list[dict[str, Any]] = []
    works = [(n, str(RANK), "0") for n in (QUICK if asked.quick else SIZES)]
    works += [] if asked.quick else [(SIZES[-1], "nothing", "0"), (TOO_FEW, str(RANK), "1")]
    about = {"threads": torch.get_num_threads(), "cpu": cpu_name(), "machine": asked.state or "idle"}
    for n, rank, whole in works:
        for seed in range(asked.seeds):
            command = [sys.executable, "-m", "benchmarks.bench_completion_coordinates"]
            command += ["--one", str(n), rank, str(seed), whole]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append(json.loads(told.splitlines()[-1]))
            write_json(asked.json, {**about, "rows": rows})
    table = Table(title=f"CP of rank {RANK}; the largest array is {SHAPE}")
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
