"""Sparse arrays: `python -m benchmarks.bench_sparse [--nnz N] [--rank R] [--sweeps S]`.

CP and Tucker of one sparse array by tnkit and by pyttb, from random starts, with the same number of sweeps on the same
number of threads. Time per sweep is the difference of a long and a short run over the sweeps between them, so that what
is set up once does not count. Errors are measured by `tk.error` on what each gives. The TT has no rival.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import tnkit as tk
from benchmarks.harness import Case
from tnkit.formats import Format

HAS_PYTTB = find_spec("pyttb") is not None
if HAS_PYTTB:
    import pyttb

SHAPE = (100_000, 10_000, 1_000)


@dataclass(frozen=True, slots=True)
class Row:
    """One method on the array."""

    work: str
    who: str
    sweep_s: float | None
    whole_s: float
    error: float


def cases(*, quick: bool = False) -> Iterator[Case]:
    """None: those of `python -m benchmarks` are dense."""
    return iter(())


def array(nnz: int, rank: int) -> tk.SparseTensor:
    """Sparse rank-one terms with noise on their entries, and half as many entries at random places."""
    gen = torch.Generator().manual_seed(0)
    indices, values = [], []
    side = max(2, round((2 * nnz / (3 * rank)) ** (1 / 3)))
    for _ in range(rank):
        places = [torch.randperm(n, generator=gen)[:side] for n in SHAPE]
        weights = [torch.rand(side, generator=gen, dtype=torch.float64) + 0.5 for _ in SHAPE]
        indices.append(torch.cartesian_prod(*places))
        values.append(torch.cartesian_prod(*weights).prod(1))
    rest = max(1, nnz - rank * side**3)
    indices.append(torch.stack([torch.randint(0, n, (rest,), generator=gen) for n in SHAPE], dim=1))
    values.append(torch.rand(rest, generator=gen, dtype=torch.float64))
    found = torch.cat(values)
    return tk.SparseTensor(torch.cat(indices), found + 0.1 * torch.randn(found.shape, generator=gen).double(), SHAPE)


def timed(work: Callable[[int], Format], few: int, many: int) -> tuple[float, float, Format]:
    """Seconds per sweep, seconds of the long run, and its result."""
    times = []
    for sweeps in (few, many):
        begun = time.perf_counter()
        found = work(sweeps)
        times.append(time.perf_counter() - begun)
    return (times[1] - times[0]) / (many - few), times[1], found


def rows(x: tk.SparseTensor, rank: int, sweeps: int) -> Iterator[Row]:
    """All methods."""

    def cp(steps: int) -> Format:
        method = tk.SparseCPALS(max_steps=steps, tol=0.0, start="random", starts=1)
        return tk.decompose(x, "cp", rank=rank, method=method).tensor

    def tucker(steps: int) -> Format:
        return tk.decompose(x, "tucker", rank=rank, method=tk.SparseTucker(max_steps=steps, tol=0.0)).tensor

    for work, run in (("CP", cp), ("Tucker", tucker)):
        sweep_s, whole_s, found = timed(run, 1, 1 + sweeps)
        yield Row(work, "tnkit", sweep_s, whole_s, tk.error(x, found))
        if HAS_PYTTB:
            rival = pyttb_cp if work == "CP" else pyttb_tucker
            sweep_s, whole_s, found = timed(lambda steps, rival=rival: rival(x, rank, steps), 1, 2)
            yield Row(work, "pyttb", sweep_s, whole_s, tk.error(x, found))
    begun = time.perf_counter()
    best = tk.decompose(x, "cp", rank=rank)
    yield Row("CP, own start, to its end", "tnkit", None, time.perf_counter() - begun, best.rel_error)
    begun = time.perf_counter()
    train = tk.decompose(x, "tt", rank=rank)
    yield Row("TT", "tnkit", None, time.perf_counter() - begun, train.rel_error)


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
    parser.add_argument("--nnz", type=int, default=1_000_000)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--sweeps", type=int, default=5, help="of tnkit; pyttb gets one")
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    x = array(asked.nnz, asked.rank)
    console.print(f"{x}, rank {asked.rank}, {torch.get_num_threads()} threads")
    table = Table("work", "who", "ms per sweep", "all s", "error", "× slower")
    known: dict[str, float] = {}
    for row in rows(x, asked.rank, asked.sweeps):
        sweep = "" if row.sweep_s is None else f"{1e3 * row.sweep_s:,.0f}"
        ratio = "" if row.sweep_s is None or row.work not in known else f"{row.sweep_s / known[row.work]:,.1f}"
        if row.sweep_s is not None:
            known.setdefault(row.work, row.sweep_s)
        table.add_row(row.work, row.who, sweep, f"{row.whole_s:,.2f}", f"{row.error:.4f}", ratio)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
