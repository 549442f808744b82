"""Sparse arrays: `python -m benchmarks.bench_sparse [--nnz N] [--rank R] [--sweeps S] [--tucker N] [--json FILE]`.

CP and Tucker of one sparse array by tnkit and by pyttb, on the same number of threads, CP from random starts. Time per
sweep is the difference of a long and a short run over the sweeps between them, so that what is set up once does not
count, after one run that is not timed. pyttb's Tucker makes a dense square matrix of each size, 75 GB here: it is
compared on a smaller array (`--tucker 0` leaves that out). Errors are measured by `tk.error` on what each gives, after
different numbers of sweeps from different starts. The TT has no rival.

The floor of a sweep of CP is order · rank · nnz multiplications and additions, and one reading of the coordinates and
values for each mode, at the rates that this machine reaches. Peak memory is what a decomposition adds to a process that
holds the array, in a fresh process for each (Linux only).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import tnkit as tk
from benchmarks.harness import machine
from tnkit.formats import Format

HAS_PYTTB = find_spec("pyttb") is not None
if HAS_PYTTB:
    import pyttb

SHAPE = (100_000, 10_000, 1_000)
#: pyttb's Tucker makes a dense square matrix of each size.
SMALLER = (2_000, 1_500, 1_000)


@dataclass(frozen=True, slots=True)
class Row:
    """One method on the array."""

    work: str
    who: str
    nnz: int
    sweep_s: float | None
    whole_s: float
    error: float


def array(nnz: int, rank: int, shape: tuple[int, ...] = SHAPE) -> tk.SparseTensor:
    """Sparse rank-one terms with noise on their entries, and half as many entries at random places."""
    gen = torch.Generator().manual_seed(0)
    indices, values = [], []
    side = max(2, round((2 * nnz / (3 * rank)) ** (1 / 3)))
    for _ in range(rank):
        places = [torch.randperm(n, generator=gen)[:side] for n in shape]
        weights = [torch.rand(side, generator=gen, dtype=torch.float64) + 0.5 for _ in shape]
        indices.append(torch.cartesian_prod(*places))
        values.append(torch.cartesian_prod(*weights).prod(1))
    rest = max(1, nnz - rank * side**3)
    indices.append(torch.stack([torch.randint(0, n, (rest,), generator=gen) for n in shape], dim=1))
    values.append(torch.rand(rest, generator=gen, dtype=torch.float64))
    found = torch.cat(values)
    return tk.SparseTensor(torch.cat(indices), found + 0.1 * torch.randn(found.shape, generator=gen).double(), shape)


def timed(work: Callable[[int], Format], few: int, many: int) -> tuple[float, float, Format]:
    """Seconds per sweep, seconds of the long run, and its result."""
    times = []
    work(few)
    for sweeps in (few, many):
        begun = time.perf_counter()
        found = work(sweeps)
        times.append(time.perf_counter() - begun)
    return (times[1] - times[0]) / (many - few), times[1], found


def tnkit_cp(x: tk.SparseTensor, rank: int, sweeps: int) -> Format:
    method = tk.SparseCPALS(max_steps=sweeps, tol=0.0, start="random", starts=1)
    return tk.decompose(x, "cp", rank=rank, method=method).tensor


def tnkit_tucker(x: tk.SparseTensor, rank: int, sweeps: int) -> Format:
    return tk.decompose(x, "tucker", rank=rank, method=tk.SparseTucker(max_steps=sweeps, tol=0.0)).tensor


def rows(x: tk.SparseTensor, rank: int, sweeps: int, tucker: tk.SparseTensor | None) -> Iterator[Row]:
    """All methods; Tucker of a second array by both as well."""
    contests = [("CP", x, tnkit_cp, pyttb_cp), ("Tucker", x, tnkit_tucker, None)]
    if tucker is not None:
        contests.append((f"Tucker, {tucker.nnz:,} of {tucker.shape}", tucker, tnkit_tucker, pyttb_tucker))
    for work, y, own, rival in contests:
        sweep_s, whole_s, found = timed(lambda steps, y=y, own=own: own(y, rank, steps), 1, 1 + sweeps)
        yield Row(work, "tnkit", y.nnz, sweep_s, whole_s, tk.error(y, found))
        if HAS_PYTTB and rival is not None:
            more = 4 if rival is pyttb_cp else 2
            sweep_s, whole_s, found = timed(lambda steps, y=y, rival=rival: rival(y, rank, steps), 1, more)
            yield Row(work, "pyttb", y.nnz, sweep_s, whole_s, tk.error(y, found))
    for work, name in (("CP, own start, to its end", "cp"), ("TT", "tt")):
        begun = time.perf_counter()
        fit = tk.decompose(x, name, rank=rank)
        yield Row(work, "tnkit", x.nnz, None, time.perf_counter() - begun, fit.rel_error)


def _status(field: str) -> float:
    """Bytes of a field of this process's status; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(field))


def _peak(nnz: int, rank: int, name: str) -> float:
    """By how much a decomposition raises the peak size of this process above what it has with the array, in bytes."""
    x = array(nnz, rank)
    tk.decompose(array(1000, 2), name, rank=2)  # libraries are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    tk.decompose(x, name, rank=rank)
    return _status("VmHWM") - before


def peaks(nnz: int, rank: int) -> dict[str, float]:
    """Bytes that each format takes beside the array, in fresh processes."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {name: pool.apply(_peak, (nnz, rank, name)) for name in ("cp", "tucker", "tt")}


def pyttb_array(x: tk.SparseTensor) -> pyttb.sptensor:
    return pyttb.sptensor(x.indices.numpy(), x.values.numpy()[:, None], x.shape)


def pyttb_cp(x: tk.SparseTensor, rank: int, sweeps: int) -> Format:
    np.random.seed(0)
    found, *_ = pyttb.cp_als(pyttb_array(x), rank, maxiters=sweeps, stoptol=0.0, printitn=0)
    factors = [torch.from_numpy(np.ascontiguousarray(f)) for f in found.factor_matrices]
    return tk.CP(torch.from_numpy(found.weights.copy()), tuple(factors))


def pyttb_tucker(x: tk.SparseTensor, rank: int, sweeps: int) -> Format:
    np.random.seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        found, *_ = pyttb.tucker_als(pyttb_array(x), rank, maxiters=sweeps, stoptol=0.0, printitn=0)
    core = torch.from_numpy(np.ascontiguousarray(found.core.double()))
    return tk.Tucker(core, tuple(torch.from_numpy(np.ascontiguousarray(f)) for f in found.factor_matrices))


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_sparse", description=(__doc__ or "")[:40])
    parser.add_argument("--quick", action="store_true", help="few entries, to see that everything runs")
    parser.add_argument("--nnz", type=int, default=1_000_000)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--sweeps", type=int, default=5, help="of tnkit; pyttb gets fewer")
    parser.add_argument("--tucker", type=int, default=20_000, help="entries of the array for pyttb's Tucker; 0: none")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    asked = parser.parse_args()
    if asked.quick:
        asked.nnz, asked.tucker, asked.no_memory = 20_000, 2_000, True
    console = Console(width=None if sys.stdout.isatty() else 120)
    x = array(asked.nnz, asked.rank)
    size = x.nnz * 8 * (x.ndim + 1)
    on = machine(["pyttb"] if HAS_PYTTB else [])
    flops = 2 * x.ndim * asked.rank * x.nnz
    floor_s = flops / (on.gemm_gflops_f64 * 1e9) + x.ndim * size / (on.read_gb_per_s * 1e9)
    console.print(f"{x}, rank {asked.rank}, {on.threads} threads; {size / 1e6:,.0f} MB of indices and values")
    console.print(
        f"floor of a sweep of CP: {flops / 1e6:,.0f} MFLOP at {on.gemm_gflops_f64:,.0f} GFLOP/s and "
        f"{x.ndim * size / 1e6:,.0f} MB at {on.read_gb_per_s:,.1f} GB/s: {1e3 * floor_s:,.1f} ms"
    )
    table = Table("work", "who", "ms per sweep", "all s", "error", "× slower", "× floor")
    smaller = array(asked.tucker, asked.rank, SMALLER) if asked.tucker else None
    known: dict[str, float] = {}
    found: list[Row] = []
    for row in rows(x, asked.rank, asked.sweeps, smaller):
        found.append(row)
        sweep = "" if row.sweep_s is None else f"{1e3 * row.sweep_s:,.0f}"
        ratio = "" if row.sweep_s is None or row.work not in known else f"{row.sweep_s / known[row.work]:,.1f}"
        floor = "" if row.sweep_s is None or row.work != "CP" else f"{row.sweep_s / floor_s:,.1f}"
        if row.sweep_s is not None:
            known.setdefault(row.work, row.sweep_s)
        table.add_row(row.work, row.who, sweep, f"{row.whole_s:,.2f}", f"{row.error:.4f}", ratio, floor)
    console.print(table)
    memory = {} if asked.no_memory or not Path("/proc/self/clear_refs").exists() else peaks(asked.nnz, asked.rank)
    if memory:
        said = ", ".join(f"{name} {n / 1e6:,.0f} MB ({n / size:.1f} ×)" for name, n in memory.items())
        console.print(f"peak memory beside the array (× its indices and values): {said}")
    if asked.json:
        figures = {"machine": asdict(on), "shape": SHAPE, "rank": asked.rank, "floor_s": floor_s, "bytes": size}
        figures |= {"rows": [asdict(row) for row in found], "peak_bytes": memory}
        part = asked.json.with_suffix(".part")
        part.write_text(json.dumps(figures, indent=1) + "\n")
        part.replace(asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
