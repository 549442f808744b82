"""An array on disk within a memory limit: `python -m benchmarks.bench_outofcore [--quick] [--limit "300 MB"]`.

Makes a file (a planted train and noise), decomposes it in a process of its own, and reports the peak of its memory
above what it had before, the true error, and the time beside two readings of the file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from math import prod, sqrt
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

import tnkit as tk
from benchmarks.harness import screen, write_json
from tnkit.sources import as_bytes

SHAPE, QUICK = (400, 80, 80, 50), (60, 40, 40, 30)
NOISE, RANK = 1e-3, 12
#: (format, what is asked)
RUNS = (
    ("tt", {"eps": 1e-2}),
    ("tt", {"eps": 1.5e-3}),
    ("tt", {"rank": RANK}),
    ("tucker", {"eps": 1e-2}),
)


def write_file(path: Path, shape: tuple[int, ...]) -> None:
    """A random train of low ranks, whose Tucker ranks are low too, with noise; written slab by slab."""
    gen = torch.Generator().manual_seed(0)
    factors = [torch.linalg.qr(torch.randn(n, RANK, generator=gen, dtype=torch.float64)).Q for n in shape]
    core = tk.random_format("tt", (RANK,) * len(shape), RANK, rng=1).to_dense()
    core = core / core.norm()
    small = core
    for k, factor in enumerate(factors[1:], 1):
        small = torch.tensordot(small, factor, dims=([1], [1]))
        assert small.ndim == len(shape), k
    flat = small.reshape(RANK, -1)
    level = NOISE / sqrt(prod(shape))
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=shape)
    step = max(1, 2**22 // prod(shape[1:]))
    for i in range(0, shape[0], step):
        slab = factors[0][i : i + step] @ flat
        slab += level * torch.randn(slab.shape, generator=gen, dtype=torch.float64)
        array[i : i + step] = slab.reshape(-1, *shape[1:]).numpy()
        array.flush()
    del array


PROGRAM = """
import json, sys, time, numpy as np, torch, tnkit as tk
path, format, asked, limit, out = sys.argv[1:]

def memory(name):
    return 1024 * int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith(name + ":")))

tk.decompose(np.random.default_rng(0).standard_normal((40, 30, 20)), format, eps=0.5, memory_limit="1 MB")
torch.ones(500, 500) @ torch.ones(500, 500)
x = np.load(path, mmap_mode="r")
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
begun = time.perf_counter()
fit = tk.decompose(x, format, memory_limit=limit, **json.loads(asked))
seconds = time.perf_counter() - begun
peak = memory("VmHWM") - before
fit.tensor.save(out)
print(json.dumps({"seconds": seconds, "peak": peak, "result": fit.nbytes, "reported": fit.rel_error,
    "kind": fit.error_kind, "status": fit.status.name, "ranks": fit.ranks, "n_params": fit.n_params}))
"""


def run(path: Path, format: str, asked: dict[str, float], limit: str) -> dict[str, object]:
    """One decomposition in a process of its own, and its true error."""
    out = path.with_suffix(".safetensors")
    command = [sys.executable, "-c", PROGRAM, str(path), format, json.dumps(asked), limit, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    found: dict[str, object] = json.loads(done.stdout)
    found["true"] = true_error(np.load(path, mmap_mode="r"), tk.load(out))
    return found


def true_error(x: np.ndarray, value: tk.Format) -> float:
    """‖x − x̂‖/‖x‖, slab by slab."""
    step, lost, whole = max(1, 2**22 // prod(x.shape[1:])), 0.0, 0.0
    for i in range(0, x.shape[0], step):
        slab = np.array(x[i : i + step])
        whole += float(np.vdot(slab, slab))
        slab -= np.asarray(value[i : i + step])
        lost += float(np.vdot(slab, slab))
    return sqrt(lost / whole)


def two_reads_s(path: Path) -> float:
    """The time of two readings of the file as it is cached now, without any work on it."""
    buffer = bytearray(2**24)
    begun = time.perf_counter()
    for _ in range(2):
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - begun


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_outofcore")
    parser.add_argument("--quick", action="store_true", help="a small file, to see that everything runs")
    parser.add_argument("--limit", default=None, help='the memory limit (default "300 MB", "24 MB" with --quick)')
    parser.add_argument("--folder", type=Path, default=None, help="where the file is made (default: a temporary one)")
    parser.add_argument(
        "--json", type=Path, default=Path("out/bench_outofcore.json"), help="where to write the figures"
    )
    asked = parser.parse_args()
    shape, limit = (QUICK, asked.limit or "24 MB") if asked.quick else (SHAPE, asked.limit or "300 MB")
    console = screen()
    rows = []
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        path = Path(folder, "x.npy")
        write_file(path, shape)
        floor = two_reads_s(path)
        threads = torch.get_num_threads()
        title = f"{shape} float64, {os.path.getsize(path) / 1e6:,.0f} MB on disk, limit {limit}, {threads} threads"
        table = Table(title=f"{title}; two readings {floor:.2f} s", title_justify="left")
        for heading in (
            "format",
            "asked",
            "s",
            "× two reads",
            "peak MB",
            "limit + result",
            "true error",
            "reported",
            "n",
        ):
            table.add_column(heading, justify="right")
        for format, what in RUNS:
            found = run(path, format, what, limit)
            rows.append(
                {"format": format, "asked": what, "two_reads_s": floor, "limit_bytes": as_bytes(limit), **found}
            )
            table.add_row(*cells(format, what, found, floor, limit))
    console.print(table)
    write_json(asked.json, rows)
    console.print(f"written to {asked.json}")
    return 0


def cells(format: str, what: dict[str, float], found: dict[str, object], floor: float, limit: str) -> list[str]:
    """A row as text."""
    said = ", ".join(f"{k}={v:g}" for k, v in what.items())
    if "failed" in found:
        return [format, said, "failed", "", "", "", str(found["failed"]), "", ""]
    seconds, peak, result = (float(str(found[k])) for k in ("seconds", "peak", "result"))
    return [
        format,
        said,
        f"{seconds:.2f}",
        f"{seconds / floor:.1f}",
        f"{peak / 1e6:,.1f}",
        f"{((as_bytes(limit) or 0) + result) / 1e6:,.1f}",
        f"{float(str(found['true'])):.4e}",
        f"{float(str(found['reported'])):.4e}",
        f"{found['n_params']:,}",
    ]


if __name__ == "__main__":
    sys.exit(main())
