"""Noisy samples of a smooth function of three real coordinates: smooth factors beside Tucker on a grid.

For each seed, 1000 points are drawn evenly from the unit cube, with noise of a tenth of the function's standard
deviation. `complete_points` fits Gaussian-process factors to them, ranks by held-out values. Beside it, the points are
put in the cells of grids of several sizes and completed as Tucker tensors with ranks by held-out entries; the best grid
on the test data counts, which favours it. Errors are against the function without noise at 5000 fresh points, in units
of its standard deviation. Coverage is told twice: of 90 % intervals for new noisy values, and of those for the function
itself (± 1.645 `std`), which leave out what the chosen ranks cannot express.

    python -m benchmarks.bench_functional --json docs/figures/bench_functional.json
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.harness import screen, write_json
from tnkit.completion import Observations, complete, complete_points

NOISE, GRIDS = 0.1, (6, 8, 10, 14, 20)


def waves(p: np.ndarray) -> np.ndarray:
    """A wave, a bump and a product."""
    x, y, z = p.T
    bump = np.exp(-4 * ((z - 0.5) ** 2 + (x - 0.3) ** 2))
    return np.sin(2 * np.pi * x * y) + bump + 0.5 * np.cos(3 * z + 2 * y) * x


def front(p: np.ndarray) -> np.ndarray:
    """A front that no low rank expresses."""
    x, y, z = p.T
    return np.tanh(3 * (x + y * z - 0.8)) + 0.3 * np.sin(5 * z)


FUNCTIONS = {"waves": waves, "front": front}


def on_a_grid(points: np.ndarray, values: np.ndarray, fresh: np.ndarray, cells: int) -> np.ndarray:
    """Tucker of the means in the cells."""
    at, wanted = (np.minimum((p * cells).astype(int), cells - 1) for p in (points, fresh))
    return np.asarray(complete(Observations(at, values, (cells,) * 3), "tucker", time_limit_s=30).predict(wanted))


def one(name: str, n: int, seed: int) -> dict[str, Any]:
    """One seed of one function."""
    function, rng = FUNCTIONS[name], np.random.default_rng(seed)
    points, fresh = rng.random((n, 3)), rng.random((5000, 3))
    truth, expected = function(points), function(fresh)
    spread = float(expected.std())
    values = truth + NOISE * spread * rng.normal(size=n)
    begun = time.perf_counter()
    found = complete_points(points, values, rng=seed)
    seconds = time.perf_counter() - begun
    off = found.predict(fresh) - expected
    low, high = found.interval(fresh, 0.9)
    noisy = expected + NOISE * spread * rng.normal(size=len(fresh))
    grids = {n: float(np.sqrt(np.mean((on_a_grid(points, values, fresh, n) - expected) ** 2))) for n in GRIDS}
    cells, least = min(grids.items(), key=lambda item: item[1])
    return {
        "function": name,
        "points": n,
        "seed": seed,
        "rmse": float(np.sqrt(np.mean(off**2))) / spread,
        "grid_rmse": least / spread,
        "grid": cells,
        "coverage_noisy": float(np.mean((low < noisy) & (noisy < high))),
        "coverage_function": float(np.mean(np.abs(off) < 1.645 * found.std(fresh))),
        "noise_found": found.noise_std / spread,
        "rank": found.ranks[0],
        "seconds": seconds,
    }


def main() -> None:
    """Measure, show, and write."""
    parser = argparse.ArgumentParser(description="Smooth factors at real coordinates.")
    parser.add_argument("--json", type=Path, default=Path("out/bench_functional.json"))
    parser.add_argument("--quick", action="store_true", help="one seed of few points, to see that everything runs")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in FUNCTIONS:
        for seed in range(1 if asked.quick else 5):
            rows.append(one(name, 200 if asked.quick else 1000, seed))
            write_json(asked.json, {"noise": NOISE, "grids": GRIDS, "rows": rows})
    table = Table(title="Error by the function's standard deviation")
    columns = (
        "function",
        "seed",
        "rank",
        "rmse",
        "grid_rmse",
        "grid",
        "coverage_noisy",
        "coverage_function",
        "seconds",
    )
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in columns))
    screen().print(table)


if __name__ == "__main__":
    main()
