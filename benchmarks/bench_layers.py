"""One layer converted: tensorly-torch, an SVD written by hand and tnkit, at equal parameters.

`python -m benchmarks.bench_layers [--limit S]`. Conversion time, relative error of the weight, and forward time beside
that of the dense layer: 512 rows for a Linear layer, 8 images of 28 × 28 for a convolution. Each conversion runs in a
process of its own, on one thread, and is ended after `--limit` seconds of processor time, so that what else runs on the
machine counts little; forward times are the least of many, the layer and the dense one taking turns. Fits of tnkit that
iterate have 20 seconds by the clock.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

import tnkit as tk
from benchmarks.harness import relative_error, screen, write_json

ROWS, IMAGES, SIDE, KEEP, ROUNDS, SECONDS = 512, 8, 28, 0.25, 15, 20.0


@dataclass(frozen=True, slots=True)
class Found:
    """One conversion; without figures where it was ended or failed."""

    size: str
    who: str
    convert_s: float | None
    params: int | None = None
    error: float | None = None
    ms: float | None = None
    dense_ms: float | None = None
    peak_mb: float | None = None
    failed: str = ""


def decaying(size: int, rng: torch.Generator) -> Tensor:
    """A random basis whose columns fall like k^-.5."""
    basis = torch.linalg.qr(torch.randn(size, size, generator=rng))[0]
    return basis * torch.arange(1, size + 1) ** -0.5


def linear(m: int, n: int) -> nn.Linear:
    """With singular values that fall like k^-.5."""
    rng, k = torch.Generator().manual_seed(0), min(m, n)
    u, v = (torch.linalg.qr(torch.randn(size, k, generator=rng))[0] for size in (m, n))
    layer = nn.Linear(n, m)
    layer.weight = nn.Parameter((u * torch.arange(1, k + 1) ** -0.5) @ v.T)
    return layer


def convolution(o: int, i: int) -> nn.Conv2d:
    """With channels that count less and less."""
    rng = torch.Generator().manual_seed(0)
    core = torch.randn(o, i, 3, 3, generator=rng)
    layer = nn.Conv2d(i, o, 3, padding=1)
    layer.weight = nn.Parameter(torch.einsum("op,iq,pqhw->oihw", decaying(o, rng), decaying(i, rng), core))
    return layer


LAYERS: dict[str, Callable[[], Any]] = {
    "Linear 512 × 512": lambda: linear(512, 512),
    "Linear 1024 × 4096": lambda: linear(1024, 4096),
    "Conv2d 256 × 256, 3 × 3": lambda: convolution(256, 256),
}


class ByHand(nn.Module):
    """Two factors of the truncated SVD of the weight as a matrix."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        w = layer.weight.detach()
        matrix = w.flatten(1)
        rank = int(KEEP * matrix.numel() / sum(matrix.shape))
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        first, second = v[:rank], u[:, :rank] * s[:rank]
        if w.ndim == 2:
            self.first, self.second = nn.Linear(w.shape[1], rank, bias=False), nn.Linear(rank, w.shape[0])
        else:
            self.first = nn.Conv2d(w.shape[1], rank, 3, padding=1, bias=False)
            self.second = nn.Conv2d(rank, w.shape[0], 1)
            first, second = first.reshape(rank, *w.shape[1:]), second[:, :, None, None]
        self.first.weight, self.second.weight = nn.Parameter(first), nn.Parameter(second)
        self.second.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def tensorly_torch(kind: str) -> Callable[[Any], nn.Module]:
    def convert(layer: Any) -> nn.Module:
        import tltorch

        options: dict[str, Any] = {"factorization": kind, "implementation": "factorized"}
        if isinstance(layer, nn.Linear):
            options["n_tensorized_modes"], rank = 2, KEEP
            if kind == "BlockTT":  # a share as rank gives far fewer numbers there
                least = tltorch.FactorizedLinear.from_linear(layer, rank=1, **options)
                rank = int(KEEP * layer.weight.numel() / sum(p.numel() for p in least.weight.parameters()))
            return tltorch.FactorizedLinear.from_linear(layer, rank=rank, **options)
        return tltorch.FactorizedConv.from_conv(layer, rank=KEEP, decompose_weights=True, **options)

    return convert


def ours(spec: tk.nn.LayerSpec) -> Callable[[Any], nn.Module]:
    return lambda layer: tk.nn.compress_layer(layer, spec).module


LINEAR: dict[str, Callable[[Any], nn.Module]] = {
    "tnkit, low rank": ours(tk.nn.LowRankLayer(keep=KEEP)),
    "tnkit, block TT": ours(tk.nn.NetworkLayer("btt", keep=KEEP)),
    "tnkit, TT": ours(tk.nn.NetworkLayer("ttm", keep=KEEP)),
    "tnkit, CP": ours(tk.nn.NetworkLayer("cp", keep=KEEP, time_limit_s=SECONDS)),
    "SVD by hand": ByHand,
    "tensorly-torch, block TT": tensorly_torch("BlockTT"),
    "tensorly-torch, Tucker": tensorly_torch("Tucker"),
    "tensorly-torch, CP": tensorly_torch("CP"),
}
CONVOLUTION: dict[str, Callable[[Any], nn.Module]] = {
    "tnkit, Tucker-2": ours(tk.nn.Tucker2(keep=KEEP)),
    "tnkit, channel SVD": ours(tk.nn.ChannelSVD(keep=KEEP)),
    "tnkit, CP": ours(tk.nn.CPLayer(keep=KEEP, time_limit_s=SECONDS)),
    "SVD by hand": ByHand,
    "tensorly-torch, Tucker": tensorly_torch("Tucker"),
    "tensorly-torch, TT": tensorly_torch("TT"),
    "tensorly-torch, CP": tensorly_torch("CP"),
}


def contenders(size: str) -> dict[str, Callable[[Any], nn.Module]]:
    return LINEAR if size.startswith("Linear") else CONVOLUTION


@torch.no_grad()
def dense_of(module: nn.Module, layer: Any) -> Tensor:
    """The weight as the layer acts: what it makes of each input alone, less what it makes of nothing."""
    i, *kernel = layer.weight.shape[1:]
    if not kernel:
        return torch.cat([module(rows) - module(0 * rows) for rows in torch.eye(i).split(ROWS)]).T
    points = torch.zeros(i, i, 3, 3)
    points[torch.arange(i), torch.arange(i), 1, 1] = 1.0
    return torch.cat([module(x) - module(0 * x) for x in points.split(64)]).flip(-1, -2).transpose(0, 1)


def one(size: str, who: str, limit_s: int) -> Found:
    """In this process, which ends where a conversion takes longer."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = LAYERS[size]()
        x = (
            torch.randn(IMAGES, layer.weight.shape[1], SIDE, SIDE)
            if layer.weight.ndim > 2
            else torch.randn(ROWS, layer.weight.shape[1])
        )
    hard, start = resource.getrlimit(resource.RLIMIT_CPU)[1], time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_CPU, (int(start) + limit_s, hard))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = contenders(size)[who](layer).eval()
    spent = time.process_time() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    error = relative_error(layer.weight, dense_of(made, layer))
    params = sum(p.numel() for p in made.parameters())
    return Found(size, who, spent, params, error, *both_ms(made, layer, x), peak)


@torch.no_grad()
def both_ms(made: nn.Module, layer: nn.Module, x: Tensor) -> tuple[float, float]:
    """Least milliseconds of both, which take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for module, into in zip((made, layer), times, strict=True):
            start = time.perf_counter()
            module(x)
            into.append(1e3 * (time.perf_counter() - start))
    return min(times[0]), min(times[1])


def apart(size: str, who: str, limit_s: int) -> Found:
    """In a process of its own, ended after the limit."""
    command = [sys.executable, "-m", "benchmarks.bench_layers", "--limit", str(limit_s), "--one", size, who]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGXCPU:
        return Found(size, who, None, failed=f"not finished in {limit_s} s")
    if done.returncode:
        return Found(size, who, None, failed=(done.stderr.strip().splitlines() or ["failed"])[-1][:120])
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_layers", description=__doc__)
    parser.add_argument("--limit", type=int, default=480, help="processor seconds for each conversion")
    parser.add_argument("--who", default="", help="only contenders whose name holds this")
    parser.add_argument("--case", default="", help="only sizes whose name holds this")
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "WHO"), help="one conversion in this process")
    parser.add_argument("--quick", action="store_true", help="the small layer only")
    parser.add_argument("--json", type=Path, default=Path("out/bench_layers.json"), help="where to write")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(asdict(one(*asked.one, asked.limit))))
        return 0
    console, rows = screen(), list[Found]()
    for size in list(LAYERS)[:1] if asked.quick else LAYERS:
        for who in contenders(size):
            if asked.who not in who or asked.case not in size:
                continue
            if who.startswith("tensorly") and find_spec("tltorch") is None:
                rows.append(Found(size, who, None, failed="tensorly-torch is not installed"))
            else:
                rows.append(apart(size, who, asked.limit))
            console.print(rows[-1])
            write_json(asked.json, {"keep": KEEP, "limit_s": asked.limit, "rows": [asdict(r) for r in rows]})
    table = Table("layer", "who", "conversion s", "numbers", "error", "ms", "dense ms", "peak MB")
    for r in rows:
        if r.convert_s is None or r.params is None:
            table.add_row(r.size, r.who, r.failed)
        else:
            table.add_row(
                r.size,
                r.who,
                f"{r.convert_s:.1f}",
                f"{r.params:,}",
                f"{r.error:.4f}",
                f"{r.ms:.1f}",
                f"{r.dense_ms:.1f}",
                f"{r.peak_mb:.0f}",
            )
    console.print(table)
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
