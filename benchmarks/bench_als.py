"""CP and ring by alternating least squares: `python -m benchmarks.bench_als [--quick] [--case TEXT] [--who TEXT]`.

Every contender gets the same rank and the same number of sweeps, without an early stop; errors are computed from the
dense result. Two times are given: that of the whole call divided by the number of sweeps (starts, compression and the
last measurement of the error are in it), and what one more sweep costs, from a long and a short call. The floor is what
no order of the products of a sweep avoids: two products of the array with a matrix, at the rate of a large matrix
product, and two reads. tnkit goes below it where its sweeps work on the array in the leading basis of its modes;
"no compression" makes all of them on the array itself. As it comes, tnkit tries several starts; those of CP race.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tnkit as tk
from benchmarks.harness import Answer, Machine, machine, relative_error
from tnkit.decompose import CPALS, RingALS
from tnkit.formats import TensorRing, random_format

HAS = {name: find_spec(name) is not None for name in ("tensorly", "pyttb")}
if HAS["tensorly"]:
    import tensorly
    from tensorly.datasets import load_indian_pines
    from tensorly.decomposition import parafac, tensor_ring_als
if HAS["pyttb"]:
    import pyttb


Sweeping = Callable[[Tensor, int], Answer]


@dataclass(frozen=True, slots=True)
class Work:
    """One array, one format with its ranks, and the number of sweeps that every contender makes."""

    name: str
    data: Callable[[], Tensor]
    format: str
    rank: int | tuple[int, ...]
    sweeps: int
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one piece of work; times in ms are those of a sweep."""

    work: str
    who: str
    sweeps: int
    total_s: float | None = None
    sweep_ms: float | None = None
    more_ms: float | None = None
    floor_ms: float | None = None
    rel_error: float | None = None
    failed: str | None = None


def works(*, quick: bool = False) -> Iterator[Work]:
    """What is measured."""
    if HAS["tensorly"]:
        pines = (145, 145, 200)
        yield Work("CP, Indian Pines", indian_pines, "cp", 30, 10 if quick else 50, pines)
        yield Work("ring, Indian Pines", indian_pines, "tr", (4, 20, 5), 5 if quick else 30, pines)
    n, m, sweeps = (40, 12, 3) if quick else (200, 50, 10)
    yield planted("CP", torch.float64, (n,) * 3, 20, sweeps)
    yield planted("CP", torch.float64, (m,) * 4, 16, sweeps)
    yield planted("CP", torch.float32, (n,) * 3, 20, sweeps)
    yield planted("CP", torch.complex128, (n // 2,) * 3, 20, sweeps)
    yield planted("CP, rank above a mode's size", torch.float64, (n, n, 8), 24, sweeps)


def planted(name: str, dtype: torch.dtype, shape: tuple[int, ...], rank: int, sweeps: int) -> Work:
    """A random CP tensor with a tenth of white noise."""

    def data() -> Tensor:
        x = random_format("cp", shape, rank, dtype=dtype, rng=0).to_dense()
        white = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
        return x + 0.1 * torch.linalg.vector_norm(x) / torch.linalg.vector_norm(white) * white

    kind = str(dtype).removeprefix("torch.")
    return Work(
        f"{name}, planted with noise, {kind}, {'×'.join(map(str, shape))}", data, "cp", rank, sweeps, shape, dtype
    )


def indian_pines() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.as_tensor(np.ascontiguousarray(load_indian_pines()["tensor"], dtype=np.float64))


def contenders(work: Work) -> dict[str, Sweeping]:
    """Who does it: tnkit as it comes, with a single start, and on the array itself; and what is installed."""
    return cp_contenders(work) if work.format == "cp" else ring_contenders(work)


def cp_contenders(work: Work) -> dict[str, Sweeping]:
    rank = work.rank
    assert isinstance(rank, int)
    who: dict[str, Sweeping] = {}
    for name, method in {
        "tnkit": CPALS(tol=0.0),
        "tnkit, one start": CPALS(tol=0.0, start="svd"),
        "tnkit, one start, no compression": CPALS(tol=0.0, start="svd", compress=False),
    }.items():
        who[name] = lambda x, n, m=method: report(
            tk.decompose(x, "cp", rank=rank, method=dataclasses.replace(m, max_steps=n))
        )
    if HAS["tensorly"]:
        who["tensorly"] = lambda x, n: cp_answer(*parafac(x.numpy(), rank, n_iter_max=n, tol=0, init="svd"))
        who["tensorly, random start"] = lambda x, n: cp_answer(
            *parafac(x.numpy(), rank, n_iter_max=n, tol=0, init="random", random_state=0)
        )
        who["tensorly (torch)"] = lambda x, n: on_torch(
            lambda: cp_answer(*parafac(x, rank, n_iter_max=n, tol=0, init="svd"))
        )
    if HAS["pyttb"]:
        who["pyttb"] = lambda x, n: pyttb_cp(x, rank, n)
    return who


def ring_contenders(work: Work) -> dict[str, Sweeping]:
    rank = work.rank
    assert isinstance(rank, tuple)
    closed = [*rank, rank[0]]
    who: dict[str, Sweeping] = {}
    for name, method in {
        "tnkit": RingALS(tol=0.0),
        "tnkit, one start": RingALS(tol=0.0, start="svd"),
        "tnkit, one start, no compression": RingALS(tol=0.0, start="svd", compress=False),
    }.items():
        who[name] = lambda x, n, m=method: report(
            tk.decompose(x, "tr", rank=rank, method=dataclasses.replace(m, max_steps=n))
        )

    def tensorly_ring(x: object, sweeps: int, solve: str) -> Answer:
        return ring_answer(tensor_ring_als(x, closed, n_iter_max=sweeps, tol=0, random_state=0, ls_solve=solve).factors)

    if HAS["tensorly"]:
        who["tensorly"] = lambda x, n: tensorly_ring(x.numpy(), n, "lstsq")
        who["tensorly, normal equations"] = lambda x, n: tensorly_ring(x.numpy(), n, "normal_eq")
        who["tensorly (torch), normal equations"] = lambda x, n: on_torch(lambda: tensorly_ring(x, n, "normal_eq"))
    return who


def report(fit: tk.FitReport) -> Answer:
    return Answer(fit.tensor.to_dense, fit.n_params)


def cp_answer(weights: object, factors: list[object]) -> Answer:
    parts = [torch.as_tensor(f) for f in factors]
    scale = torch.as_tensor(weights).to(parts[0].dtype)

    def dense() -> Tensor:
        left = scale[None]
        for f in parts[:-1]:
            left = (left[:, None] * f[None]).reshape(-1, f.shape[1])
        return (left @ parts[-1].mT).reshape([f.shape[0] for f in parts])

    return Answer(dense, scale.numel() + sum(f.numel() for f in parts))


def ring_answer(factors: list[object]) -> Answer:
    ring = TensorRing.from_cores([torch.as_tensor(f) for f in factors])
    return Answer(ring.to_dense, ring.n_params)


def pyttb_cp(x: Tensor, rank: int, sweeps: int) -> Answer:
    init = "nvecs" if rank <= min(x.shape) else "random"
    found, _, _ = pyttb.cp_als(pyttb.tensor(x.numpy()), rank, stoptol=0.0, maxiters=sweeps, init=init, printitn=0)
    return cp_answer(found.weights, list(found.factor_matrices))


def on_torch(do: Callable[[], Answer]) -> Answer:
    with tensorly.backend_context("pytorch"):
        return do()


def floor_flops(work: Work) -> float:
    """Of one sweep: two products of the array with a matrix of as many columns as the cheapest two halves need."""
    real = 4.0 if work.dtype.is_complex else 1.0
    n, d = prod(work.shape), len(work.shape)
    if isinstance(work.rank, int):
        return real * 4.0 * n * work.rank
    # a run of modes is cut from the rest at two bonds
    cuts = [work.rank[a] * work.rank[b] for a in range(d) for b in range(a + 1, d)]
    return real * 4.0 * n * min(cuts)


def floor_s(work: Work, on: Machine, x: Tensor) -> float:
    """One sweep at the machine's rates."""
    single = x.dtype in (torch.float32, torch.complex64)
    rate = on.gemm_gflops_f32 if single else on.gemm_gflops_f64
    read = 2 * x.numel() * x.element_size() / (on.read_gb_per_s * 1e9)
    return read + floor_flops(work) / (rate * 1e9)


def timed(sweeping: Sweeping, x: Tensor, sweeps: int, *, at_most_s: float = 8.0) -> tuple[float, Answer]:
    """The fastest of up to three calls, fewer where they are long."""
    times: list[float] = []
    while not times or (len(times) < 3 and sum(times) + times[-1] < at_most_s):
        begun = time.perf_counter()
        answer = sweeping(x, sweeps)
        times.append(time.perf_counter() - begun)
    return min(times), answer


def measure(work: Work, on: Machine, *, only: str = "") -> Iterator[Row]:
    """One row for each contender."""
    x = work.data()
    floor = floor_s(work, on, x)
    few = max(1, work.sweeps // 5)
    for who, sweeping in contenders(work).items():
        if only not in who:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what other libraries say about ranks and complex numbers
                sweeping(x, 1)
                short, _ = timed(sweeping, x, few)
                total, answer = timed(sweeping, x, work.sweeps)
        except Exception as error:  # another library's failure is a result, and is shown as one
            yield Row(work.name, who, work.sweeps, failed=f"{type(error).__name__}: {error}"[:80])
            continue
        more = (total - short) / (work.sweeps - few)
        true = relative_error(x, answer.dense())
        yield Row(work.name, who, work.sweeps, total, 1e3 * total / work.sweeps, 1e3 * more, 1e3 * floor, true)


def show(console: Console, rows: list[Row]) -> None:
    table = Table(title=f"{rows[0].work}, {rows[0].sweeps} sweeps", title_justify="left")
    for heading in ("who", "total s", "ms a sweep", "× tnkit", "one more, ms", "floor, ms", "true error"):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    ours = [r.sweep_ms for r in rows if r.sweep_ms is not None and r.who == "tnkit, one start"]
    for row in rows:
        if row.sweep_ms is None or row.total_s is None or row.more_ms is None or row.floor_ms is None:
            table.add_row(row.who, "failed", "", "", "", "", str(row.failed))
            continue
        slower = f"{row.sweep_ms / ours[0]:,.1f}" if ours else ""
        cells = f"{row.total_s:,.3f}", f"{row.sweep_ms:,.2f}", slower, f"{row.more_ms:,.2f}", f"{row.floor_ms:,.2f}"
        table.add_row(row.who, *cells, f"{row.rel_error:.4e}")
    console.print(table)


def main() -> int:
    """Measure and show; the exit status is 0 whatever the times are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_als", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few sweeps and small random arrays")
    parser.add_argument("--case", default="", help="only work whose name holds this")
    parser.add_argument("--who", default="", help="only contenders whose name holds this")
    parser.add_argument("--json", type=Path, default=Path("out/bench_als.json"), help="where to write")
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    on = machine(("tensorly", "pyttb"))
    console.print(on)
    rows: list[Row] = []
    for work in works(quick=asked.quick):
        if asked.case in work.name:
            found = list(measure(work, on, only=asked.who))
            rows += found
            if found:
                show(console, found)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps({"machine": asdict(on), "rows": [asdict(r) for r in rows]}, indent=1) + "\n")
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
