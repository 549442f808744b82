"""Time, memory, true error and size of competing ways to do one piece of work, next to what the machine can do.

A case is one piece of work with its contenders; each contender is called with the case's data and returns an `Answer`.
The clock stops before the dense tensor is made: a contender returns it as a function. Contenders run in turn, round
after round, so that what else the machine does falls on all alike; the first round is not timed, its memory is.

The floor of a case is two readings of the data and the counted flops, at the rates that this machine was measured at.
Flops are those of one product of the array with the basis that the narrowest cut needs: no direct method does with
less. (One reading would be the bound for a method that looks at each number once.)
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
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

#: Threads of the library that ran before wait busily for more work for a while, and would slow down the next.
PAUSE_S = 0.2
PACKAGES = ("tensorly", "quimb", "torchtt", "tntorch", "pyttb", "teneva")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contender found."""

    dense: Callable[[], Tensor]
    n_params: int


Contender = Callable[[Tensor], Answer]


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of work: data made on demand, and who does it.

    Attributes:
        name: of the work.
        data: makes it.
        contenders: by name; tnkit's begin with "tnkit", and those that draw random numbers say "randomised".
        floor_flops: of the cheapest known way.
        group: cases that stand in one chart.
        at_most_s: measured seconds for each contender; one run is done in any case.
    """

    name: str
    data: Callable[[], Tensor]
    contenders: Mapping[str, Contender]
    floor_flops: float = 0.0
    group: str = ""
    at_most_s: float = 6.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What bounds every row: arithmetic and memory, measured, with the threads that are in use."""

    cpu: str
    threads: int
    gemm_gflops_f32: float
    gemm_gflops_f64: float
    read_gb_per_s: float
    versions: dict[str, str]

    def floor_s(self, x: Tensor, flops: float) -> float:
        """Two readings of x, plus the arithmetic at the rate of a large matrix product."""
        rate = self.gemm_gflops_f32 if x.dtype in (torch.float32, torch.complex64) else self.gemm_gflops_f64
        flops *= 4.0 if x.is_complex() else 1.0
        return 2 * x.numel() * x.element_size() / (self.read_gb_per_s * 1e9) + flops / (rate * 1e9)


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one case."""

    case: str
    who: str
    group: str
    n_bytes: int
    floor_s: float
    runs: int = 0
    median_s: float | None = None
    min_s: float | None = None
    rel_error: float | None = None
    n_params: int | None = None
    peak_bytes: int | None = None
    failed: str | None = None

    @property
    def kind(self) -> str:
        """Whose it is: "tnkit", "randomised" or "exact"."""
        return "tnkit" if self.who.startswith("tnkit") else "randomised" if "randomised" in self.who else "exact"


@dataclass(slots=True)
class Results:
    """All rows of a run and the machine that they were measured on."""

    machine: Machine
    rows: list[Row] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON."""
        write_json(path, asdict(self))


def write_json(path: Path, value: Any) -> None:
    """By way of a temporary name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file that `Results.write` made."""
    return [Row(**row) for row in json.loads(path.read_text())["rows"]]


def best(rows: Iterable[Row], kind: str) -> Row | None:
    """The fastest of a kind."""
    found = [row for row in rows if row.kind == kind and row.median_s is not None]
    return min(found, key=lambda row: row.median_s or 0.0, default=None)


def show(console: Console, rows: list[Row]) -> None:
    """The table of one case, fastest first."""
    table = Table(title=rows[0].case, title_justify="left")
    for heading in ("who", "median ms", "× floor", "times tnkit", "peak / input", "true error", "numbers"):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    ours = best(rows, "tnkit")
    for row in sorted(rows, key=lambda row: row.median_s or float("inf")):
        table.add_row(*cells(row, ours))
    console.print(table)


def cells(row: Row, ours: Row | None) -> tuple[str, ...]:
    """A row as text."""
    if row.median_s is None or row.min_s is None:
        return row.who, "failed", "", "", "", str(row.failed), ""
    ratio = f"{row.median_s / ours.median_s:,.1f}" if ours is not None and ours.median_s else ""
    peak = "" if row.peak_bytes is None else f"{row.peak_bytes / row.n_bytes:.2f}"
    times = f"{row.median_s * 1e3:,.1f}", f"{row.median_s / row.floor_s:,.1f}"
    return row.who, *times, ratio, peak, f"{row.rel_error:.3e}", f"{row.n_params:,}"


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


def peak_of(work: Callable[[], Any]) -> int | None:
    """Bytes of memory that a call held at its worst, beyond what the process had before; None where nobody tells."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        work()
        return None

    def resident(name: str) -> int:
        return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith(name)))

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # else what was freed before would count as still there
    before = resident("VmRSS:")
    clear.write_text("5")
    work()
    return max(0, resident("VmHWM:") - before)


@dataclass(slots=True)
class _Lane:
    """One contender while it runs."""

    who: str
    contender: Contender
    times: list[float] = field(default_factory=list)
    answer: Answer | None = None
    peak: int | None = None
    spent: float = 0.0
    failed: str | None = None


def measure(case: Case, on: Machine, *, runs: int = 5, only: str = "") -> list[Row]:
    """All contenders of a case whose name holds `only`, in turn."""
    x = case.data()
    floor = on.floor_s(x, case.floor_flops)
    lanes = [_Lane(who, contender) for who, contender in case.contenders.items() if only in who]
    for turn in range(runs + 1):
        for lane in lanes:
            _turn(lane, x, first=turn == 0, at_most_s=case.at_most_s)
    rows = []
    for lane in lanes:
        n_bytes = x.numel() * x.element_size()
        if lane.answer is None or lane.failed:
            rows.append(Row(case.name, lane.who, case.group, n_bytes, floor, failed=lane.failed))
            continue
        middle, least = statistics.median(lane.times), min(lane.times)
        error, size = relative_error(x, lane.answer.dense()), lane.answer.n_params
        found = len(lane.times), middle, least, error, size, lane.peak
        rows.append(Row(case.name, lane.who, case.group, n_bytes, floor, *found))
        lane.answer = None
    return rows


def _turn(lane: _Lane, x: Tensor, *, first: bool, at_most_s: float) -> None:
    """One call of one contender, unless it has failed or had its time."""
    if lane.failed or (lane.times and lane.spent + lane.times[-1] > at_most_s):
        return
    took = 0.0
    time.sleep(PAUSE_S)

    def work() -> None:
        nonlocal took
        begun = time.perf_counter()
        lane.answer = lane.contender(x)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took = time.perf_counter() - begun

    try:
        if first:
            lane.peak = peak_of(work)
        else:
            work()
    except Exception as error:  # another library's failure is a result, and is shown as one
        lane.failed = f"{type(error).__name__}: {error}"[:80]
        return
    lane.spent += took
    if not first or took > at_most_s:
        lane.times.append(took)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line of a benchmark module says."""

    quick: bool
    case: str
    who: str
    runs: int
    json: Path


def arguments(name: str, about: str | None) -> Asked:
    """The options that all modules share."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--who", default="", help="only contenders whose name holds this")
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each (default 5; fewer where long)")
    parser.add_argument("--json", type=Path, default=Path(f"out/{name}.json"), help="where to write")
    return Asked(**vars(parser.parse_args()))


def screen() -> Console:
    """Where tables go."""
    return Console(width=None if sys.stdout.isatty() else 120)


def run_cases(cases: Iterable[Case], asked: Asked) -> Results:
    """Measure, show and write the cases that are asked for."""
    console = screen()
    results = Results(machine(PACKAGES))
    console.print(results.machine)
    for case in cases:
        if asked.case in case.name:
            rows = measure(case, results.machine, runs=asked.runs, only=asked.who)
            if rows:
                show(console, rows)
            results.rows += rows
            results.write(asked.json)
    console.print(f"written to {asked.json}")
    return results
