"""Planted low rank with noise, ranks not given: the error beside that of oracle least squares, and the ranks found.

Run it: `python -m benchmarks.bench_completion_planted [--quick] [--case TEXT] [--seeds N] [--first N] [--json PATH]`.
The oracle knows the rank and starts at the truth: alternating least squares on the same entries until it has settled.
With outliers, a tenth of the observed entries is ten standard deviations off, and the figure is beside that without.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path

import torch

import tnkit as tk
from benchmarks.harness import screen, write_json
from tnkit.completion.rows import Data
from tnkit.completion.sweep import balanced, sweep
from tnkit.completion.trials import Part
from tnkit.formats import as_spec, random_tensors, resolve_ranks
from tnkit.rng import generator

#: Format, shape, rank, share observed.
PLANTED = (
    ("tt", (15,) * 4, 3, 0.1),
    ("tucker", (30,) * 3, 3, 0.1),
    ("tr", (10,) * 4, 3, 0.2),
    ("cp", (40,) * 3, 5, 0.05),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One completion."""

    case: str
    seed: int
    error: float
    beside: float
    ranks: tuple[int, ...]
    right: bool
    wall_s: float
    cpu_s: float

    @property
    def ratio(self) -> float:
        """To the oracle, or to the answer without outliers."""
        return self.error / self.beside if self.beside else float("inf")


def measure(name: str, shape: tuple[int, ...], rank: int, share: float, noise: float, seed: int, spoil: bool) -> Row:
    """One format, one seed."""
    layout, gen = as_spec(name).layout(shape), generator(seed)
    ranks = resolve_ranks(layout, rank)
    truth = random_tensors(layout, ranks, torch.empty(0, dtype=torch.float64), gen)
    x = layout.build(truth).to_dense()
    sigma = float(x.square().mean().sqrt())
    noisy = x + noise * sigma * torch.randn(shape, generator=gen, dtype=x.dtype)
    mask = torch.rand(shape, generator=gen) < share
    hit = torch.rand(shape, generator=gen) < 0.1
    sign = torch.where(torch.rand(shape, generator=gen) < 0.5, -1.0, 1.0).to(x.dtype)
    seen = torch.where(hit, noisy + 10 * sigma * sign, noisy) if spoil else noisy
    wall, cpu = time.perf_counter(), time.process_time()
    done = tk.complete(seen, name, mask=mask, method="robust" if spoil else "als")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert done.tensor is not None
    error = float((done.tensor.to_dense() - x).norm() / x.norm())
    if spoil:
        clean = tk.complete(noisy, name, mask=mask, method="als").tensor
        assert clean is not None
        beside = float((clean.to_dense() - x).norm() / x.norm())
    else:
        beside = oracle(layout, truth, tk.Observations(mask.nonzero(), noisy[mask], shape), x) if noise else 1e-8
    case = f"{name} rank {rank}, {shape[0]}^{len(shape)}, {share:.0%} observed"
    case += f", noise {noise:g}" + (", outliers" if spoil else "")
    return Row(case, seed, error, beside, done.tensor.ranks, done.tensor.ranks == ranks, wall, cpu)


def oracle(layout: tk.formats.Layout, truth: tuple[torch.Tensor, ...], obs: tk.Observations, x: torch.Tensor) -> float:
    """Relative error of least squares from the truth."""
    part = Part.of(obs, layout, 1.0)
    tensors, last = balanced(truth), float("inf")
    for _ in range(200):
        tensors, residual2 = sweep(part.net, tensors, Data(obs.values), lambda unknowns, rows: 0.0)
        now = sqrt(float(residual2))
        if last - now <= 1e-7 * now:
            break
        last = now
    return float((layout.build(tensors).to_dense() - x).norm() / x.norm())


def rows(asked: argparse.Namespace) -> Iterator[Row]:
    """All that is asked for."""
    for noise, spoil in ((0.0, False), (1e-2, False), (1e-2, True)):
        for name, shape, rank, share in PLANTED:
            for seed in range(asked.first, asked.first + (1 if asked.quick else asked.seeds)):
                kind = "outliers" if spoil else "noise" if noise else "exact"
                if asked.case in f"{kind} {name}":
                    yield measure(name, shape, rank, share, noise, seed, spoil)


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_completion_planted", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--case", default="", help='such as "noise tt", "outliers", "exact cp"')
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--json", type=Path, default=Path("out/bench_completion_planted.json"))
    asked = parser.parse_args()
    console = screen()
    before = json.loads(asked.json.read_text()) if asked.json.exists() else []
    for row in rows(asked):
        console.print(
            f"{row.case}, seed {row.seed}: error {row.error:.2e}, {row.ratio:.2f} × the reference, "
            f"ranks {row.ranks}{'' if row.right else ' (not planted)'}, {row.cpu_s:.1f} s of processor"
        )
        before = [r for r in before if (r["case"], r["seed"]) != (row.case, row.seed)] + [asdict(row)]
        write_json(asked.json, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
