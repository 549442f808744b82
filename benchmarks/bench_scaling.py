"""Cost against size, rank and order: `python -m benchmarks.bench_scaling [--quick] [--runs N] [--json PATH]`.

A train of a planted array is timed while one thing grows: the number of entries (64×n×64×64, rank 10), all sizes at
once (n⁴, rank 10), the rank (64⁴), the order (2²⁴ entries, rank 8). The floor is that of the other tables: two readings
and one product of the array with a basis of the rank, at the rates measured on this machine. The count is the same for
what is left after each cut as well, along the blocks of modes that tnkit peels off. A slope is that of a straight line
through the logarithms: of the time measured, of the count, of the floor.

All arrays of a series are measured in turn, round after round, and a point is the least time of its rounds: what else a
shared machine does only adds time, and a slope over a factor of ten is bent by one disturbed point. The rates behind
the count are taken in the same rounds, the best of them.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import log, prod
from statistics import median

import torch
from rich.table import Table

from benchmarks import data
from benchmarks.bench_decompose import ours
from benchmarks.harness import (
    PAUSE_S,
    Asked,
    Machine,
    arguments,
    gemm_gflops,
    machine,
    read_gb_per_s,
    relative_error,
    screen,
    write_json,
)
from tnkit.decompose.peeling import thick_block

#: from 100 MB, where the fixed cost of a call no longer counts, to 1 GB
LENGTHS = (48, 80, 136, 230, 390)
SIZES = (60, 70, 82, 95, 107)
#: measured calls for each point
ROUNDS = 9
RANKS = (8, 12, 16, 24, 32, 48, 64)
ORDERS = ((4096,) * 2, (256,) * 3, (64,) * 4, (16,) * 6, (8,) * 8, (4,) * 12, (2,) * 24)


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: what grows, its value, seconds measured (least and median of the rounds), floor and count."""

    series: str
    value: float
    measured_s: float
    median_s: float
    theory_s: float
    counted_s: float
    rel_error: float


def series(*, quick: bool) -> Iterator[tuple[str, list[tuple[float, tuple[int, ...], int]]]]:
    """What grows, and for each point its value, the shape and the rank."""
    yield "entries", [(float(64**3 * n), (64, n, 64, 64), 10) for n in ((4, 6, 8) if quick else LENGTHS)]
    yield "all sizes", [(float(n**4), (n,) * 4, 10) for n in ((16, 20, 24) if quick else SIZES)]
    yield "rank", [(float(r), ((16,) * 4 if quick else (64,) * 4), r) for r in ((2, 4, 6) if quick else RANKS)]
    yield "order", [(float(len(shape)), shape, 8) for shape in (((4,) * 6, (2,) * 12) if quick else ORDERS)]


def points_of(
    name: str, wanted: list[tuple[float, tuple[int, ...], int]], on: Machine, rounds: int
) -> tuple[list[Point], Machine]:
    """All arrays of a series, in turn; and the machine with the best rates that the rounds saw."""
    arrays = [data.train(shape, rank)() for _, shape, rank in wanted]
    taken: list[list[float]] = [[] for _ in wanted]
    errors = []
    for turn in range(rounds + 1):
        on = faster(on)
        for x, (_, _, rank), times in zip(arrays, wanted, taken, strict=True):
            time.sleep(PAUSE_S)
            begun = time.perf_counter()
            answer = ours("tt", rank=rank)(x)
            times.append(time.perf_counter() - begun)
            if turn == 0:
                errors.append(relative_error(x, answer.dense()))
                times.clear()
    points = []
    for (value, shape, rank), times, error in zip(wanted, taken, errors, strict=True):
        first, *later = floors(shape, rank, on)
        points.append(Point(name, value, min(times), median(times), first, first + sum(later), error))
    return points, on


def floors(shape: tuple[int, ...], rank: int, on: Machine) -> Iterator[float]:
    """Two readings and one product for the array, and for what is left after each block that is peeled off."""
    ranks = [min(rank, prod(shape[:k]), prod(shape[k:])) for k in range(1, len(shape))]
    x = torch.empty(shape, dtype=torch.float64, device="meta")
    while ranks:
        block, _ = thick_block(x.shape, ranks)
        cut = ranks[-block.count] if block.right else ranks[block.count - 1]
        yield on.floor_s(x, 2.0 * x.numel() * cut)
        x, ranks = block.merged(x.new_empty((block.matrix(x).shape[0], cut)), x), list(block.others(ranks))


def faster(on: Machine) -> Machine:
    """The machine with its rates of now where they are better."""
    return replace(
        on,
        gemm_gflops_f64=max(on.gemm_gflops_f64, gemm_gflops(torch.float64)),
        read_gb_per_s=max(on.read_gb_per_s, read_gb_per_s()),
    )


def slope(points: list[Point], values: list[float]) -> float:
    """Of a least-squares line through logarithms."""
    x = [log(p.value) for p in points]
    y = [log(v) for v in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def slopes(points: list[Point]) -> dict[str, dict[str, float]]:
    """Measured, counted and of the floor, by series."""
    found = {}
    for name in dict.fromkeys(p.series for p in points):
        mine = [p for p in points if p.series == name]
        found[name] = {
            "measured": slope(mine, [p.measured_s for p in mine]),
            "counted": slope(mine, [p.counted_s for p in mine]),
            "floor": slope(mine, [p.theory_s for p in mine]),
        }
    return found


def run(asked: Asked) -> int:
    """Measure, show, write."""
    console, on = screen(), machine()
    points: list[Point] = []
    for name, wanted in series(quick=asked.quick):
        if asked.case in name:
            found, on = points_of(name, wanted, on, max(asked.runs, 2 if asked.quick else ROUNDS))
            points += found
    headings = ("grows", "value", "ms", "median ms", "counted ms", "floor ms", "× floor", "true error")
    table = Table(*headings, title=f"TT, float64, {on.threads} threads")
    for p in points:
        ratio = f"{p.measured_s / p.theory_s:.1f}"
        times = [f"{seconds * 1e3:,.1f}" for seconds in (p.measured_s, p.median_s, p.counted_s, p.theory_s)]
        table.add_row(p.series, f"{p.value:,.0f}", *times, ratio, f"{p.rel_error:.3e}")
    console.print(table)
    lines = slopes(points)
    for name, line in lines.items():
        console.print(f"slope in {name}: " + ", ".join(f"{what} {value:.3f}" for what, value in line.items()))
    write_json(asked.json, {"machine": asdict(on), "points": [asdict(p) for p in points], "slopes": lines})
    return 0


if __name__ == "__main__":
    sys.exit(run(arguments("bench_scaling", __doc__)))
