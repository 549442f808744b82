"""One Linear layer converted: tensorly-torch, an SVD written by hand and tnkit, at equal parameters.

`python -m benchmarks.bench_layers [--limit S]`. Conversion time, relative error of the weight, and forward time for 512
rows beside that of the dense layer. Each conversion runs in a process of its own, on one thread, and is ended after
`--limit` seconds of processor time, so that what else runs on the machine counts little; forward times are the least of
many, the layer and the dense one taking turns.
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

import torch
from rich.table import Table
from torch import Tensor, nn

import tnkit as tk
from benchmarks.harness import relative_error, screen, write_json

ROWS, KEEP, ROUNDS = 512, 0.25, 15
#: Name, outputs, inputs.
SIZES = (("512 × 512", 512, 512), ("1024 × 4096", 1024, 4096))


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
    failed: str = ""


class ByHand(nn.Module):
    """Two factors of the truncated SVD."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        u, s, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        self.first, self.second = nn.Linear(*layer.weight.shape[::-1]), nn.Linear(1, 1)
        self.first.weight, self.first.bias = nn.Parameter(v[:rank]), None
        self.second.weight, self.second.bias = nn.Parameter(u[:, :rank] * s[:rank]), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def weight(m: int, n: int) -> Tensor:
    """A spectrum that falls like k^-.5."""
    rng, k = torch.Generator().manual_seed(0), min(m, n)
    u, v = (torch.linalg.qr(torch.randn(size, k, generator=rng))[0] for size in (m, n))
    return (u * torch.arange(1, k + 1) ** -0.5) @ v.T


def tensorly_torch(kind: str) -> Callable[[nn.Linear], nn.Module]:
    def convert(layer: nn.Linear) -> nn.Module:
        import tltorch

        options = {"n_tensorized_modes": 2, "factorization": kind, "implementation": "factorized"}
        return tltorch.FactorizedLinear.from_linear(layer, rank=KEEP, **options)

    return convert


def ours(spec: tk.nn.LayerSpec) -> Callable[[nn.Linear], nn.Module]:
    return lambda layer: tk.nn.compress_layer(layer, spec).module


def rank_of(layer: nn.Linear) -> int:
    m, n = layer.weight.shape
    return int(KEEP * m * n / (m + n))


CONTENDERS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "tnkit, low rank": ours(tk.nn.LowRankLayer(keep=KEEP)),
    "tnkit, block TT": ours(tk.nn.NetworkLayer("btt", keep=KEEP)),
    "tnkit, TT": ours(tk.nn.NetworkLayer("ttm", keep=KEEP)),
    "tnkit, CP": ours(tk.nn.NetworkLayer("cp", keep=KEEP, time_limit_s=20.0)),
    "SVD by hand": lambda layer: ByHand(layer, rank_of(layer)),
    "tensorly-torch, block TT": tensorly_torch("BlockTT"),
    "tensorly-torch, Tucker": tensorly_torch("Tucker"),
    "tensorly-torch, CP": tensorly_torch("CP"),
}


def dense_of(module: nn.Module, n: int) -> Tensor:
    """The weight as the layer acts."""
    bias = getattr(module, "bias", None)
    bias = module.second.bias if isinstance(module, ByHand) else bias
    found = module(torch.eye(n)).detach()
    return (found if bias is None else found - bias.detach()).T


def one(size: str, who: str, limit_s: int) -> Found:
    """In this process, which ends where a conversion takes longer."""
    torch.set_num_threads(1)
    _, m, n = next(s for s in SIZES if s[0] == size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, x = nn.Linear(n, m), torch.randn(ROWS, n)
    layer.weight = nn.Parameter(weight(m, n))
    hard, start = resource.getrlimit(resource.RLIMIT_CPU)[1], time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(start) + limit_s, hard))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = CONTENDERS[who](layer).eval()
    spent = time.process_time() - start
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    error = relative_error(layer.weight, dense_of(made, n))
    return Found(size, who, spent, sum(p.numel() for p in made.parameters()), error, *both_ms(made, layer, x))


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
    for size, _, _ in SIZES[:1] if asked.quick else SIZES:
        for who in CONTENDERS:
            if asked.who not in who or asked.case not in size:
                continue
            if who.startswith("tensorly") and find_spec("tltorch") is None:
                rows.append(Found(size, who, None, failed="tensorly-torch is not installed"))
            else:
                rows.append(apart(size, who, asked.limit))
            console.print(rows[-1])
            write_json(asked.json, {"keep": KEEP, "limit_s": asked.limit, "rows": [asdict(r) for r in rows]})
    table = Table("layer", "who", "conversion s", "numbers", "error", f"ms for {ROWS} rows", "dense ms")
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
            )
    console.print(table)
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
