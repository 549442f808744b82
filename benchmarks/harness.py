"""Time, true error and size of competing ways to do one piece of work, next to what the machine can do.

A benchmark module has `cases(quick)`, which yields `Case` values. A case is one piece of work with its contenders; each
contender is called with the case's data and returns (dense tensor, number of parameters). The clock stops before the
dense tensor is made: a contender returns it as a function.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contender found."""

    dense: Callable[[], Tensor]
    n_params: int


Contender = Callable[[Tensor], Answer]


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of work: data made on demand, and who does it."""

    name: str
    data: Callable[[], Tensor]
    contenders: Mapping[str, Contender]
    floor_flops: float | None = None  # of the cheapest known way; with one reading of the data it gives the floor


@dataclass(frozen=True, slots=True)
class Machine:
    """What bounds every row: arithmetic and memory, measured, with the threads that are in use."""

    cpu: str
    threads: int
    gemm_gflops_f32: float
    gemm_gflops_f64: float
    read_gb_per_s: float
    versions: dict[str, str]

    def floor_s(self, x: Tensor, flops: float | None) -> float:
        """One reading of x, plus the arithmetic at the rate of a large matrix product."""
        rate = self.gemm_gflops_f32 if x.dtype in (torch.float32, torch.complex64) else self.gemm_gflops_f64
        return x.numel() * x.element_size() / (self.read_gb_per_s * 1e9) + (flops or 0.0) / (rate * 1e9)


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one case."""

    case: str
    who: str
    floor_s: float
    runs: int = 0
    median_s: float | None = None
    min_s: float | None = None
    rel_error: float | None = None
    n_params: int | None = None
    failed: str | None = None


@dataclass(slots=True)
class Results:
    """All rows of a run and the machine that they were measured on."""

    machine: Machine
    rows: list[Row] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON, by way of a temporary name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n")
        part.replace(path)

    def print(self, console: Console) -> None:
        """One table for each case, fastest first."""
        for case in dict.fromkeys(row.case for row in self.rows):
            rows = sorted((r for r in self.rows if r.case == case), key=lambda r: r.median_s or float("inf"))
            table = Table(title=case, title_justify="left")
            for heading in ("who", "median ms", "fastest ms", "× floor", "true error", "parameters"):
                table.add_column(heading, justify="left" if heading == "who" else "right")
            for row in rows:
                table.add_row(*cells(row))
            console.print(table)


def cells(row: Row) -> tuple[str, ...]:
    """A row as text."""
    if row.median_s is None or row.min_s is None:
        return row.who, "failed", "", "", str(row.failed), ""
    times = f"{row.median_s * 1e3:,.1f}", f"{row.min_s * 1e3:,.1f}", f"{row.median_s / row.floor_s:,.1f}"
    return row.who, *times, f"{row.rel_error:.3e}", f"{row.n_params:,}"


def seconds(work: Callable[[], Any], *, runs: int = 5, at_most_s: float = 20.0) -> list[float]:
    """Times of `work` after one unmeasured call; fewer than `runs` where they would take too long, but at least one."""
    sync = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    start = time.perf_counter()
    work()
    sync()
    times: list[float] = []
    while len(times) < runs and (not times or time.perf_counter() - start + times[-1] < at_most_s):
        begun = time.perf_counter()
        work()
        sync()
        times.append(time.perf_counter() - begun)
    return times


def relative_error(x: Tensor, y: Tensor) -> float:
    """‖x − y‖ / ‖x‖ in double precision, by blocks."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    pairs = zip(x.reshape(-1).split(2**22), y.reshape(-1).split(2**22), strict=True)
    parts = [
        (torch.linalg.vector_norm(a.to(wide) - b.to(wide)), torch.linalg.vector_norm(a.to(wide))) for a, b in pairs
    ]
    off, all_of = (torch.linalg.vector_norm(torch.stack(part)).item() for part in zip(*parts, strict=True))
    return off / all_of if all_of else off


def gemm_gflops(dtype: torch.dtype, n: int = 2048) -> float:
    """The rate of a square matrix product."""
    a, b = torch.ones(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
    return 2 * n**3 / min(seconds(lambda: a @ b, runs=5)) / 1e9


def read_gb_per_s(n_bytes: int = 2**28) -> float:
    """The rate at which a vector far larger than the caches is read."""
    v = torch.ones(n_bytes // 4)
    return n_bytes / min(seconds(v.sum, runs=7)) / 1e9


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine(packages: Iterable[str] = ()) -> Machine:
    """Measure this machine."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    wanted = ("torch", "numpy", "tnkit", *packages)
    return Machine(
        cpu=f"{cpu_name()}, {os.cpu_count()} cores",
        threads=torch.get_num_threads(),
        gemm_gflops_f32=gemm_gflops(torch.float32),
        gemm_gflops_f64=gemm_gflops(torch.float64),
        read_gb_per_s=read_gb_per_s(),
        versions={"python": platform.python_version()} | {n: installed[n] for n in wanted if n in installed},
    )


def measure(case: Case, on: Machine, *, runs: int = 5, only: str = "") -> list[Row]:
    """All contenders of a case whose name holds `only`."""
    x = case.data()
    floor = on.floor_s(x, case.floor_flops)
    rows = []
    for who, contender in case.contenders.items():
        if only not in who:
            continue
        answers: list[Answer] = []

        def work(contender: Contender = contender, answers: list[Answer] = answers) -> None:
            answers[:] = [contender(x)]

        try:
            times = seconds(work, runs=runs)
        except Exception as error:  # another library's failure is a result, and is shown as one
            rows.append(Row(case.name, who, floor, failed=f"{type(error).__name__}: {error}"[:80]))
            continue
        true_error = relative_error(x, answers[0].dense())
        middle, least, size = statistics.median(times), min(times), answers[0].n_params
        rows.append(Row(case.name, who, floor, len(times), middle, least, true_error, size))
    return rows
