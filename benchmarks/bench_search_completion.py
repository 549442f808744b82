"""Completion by search beside fixed formats: `python -m benchmarks.bench_search_completion [--limit S] [--only TEXT]`.

A tenth of the entries of photographs (512×512 split as 8⁶, with colours ×3 or without, and 256×256 of one) and of the
kinetic data is observed. `StructureSearch` looks for the network; trains and rings over the given order of the parts
climb the same ladder of sizes with the same fits, and the formats of `tk.complete` choose their own ranks by held-out
entries, over the parts and over the array's own modes. All have the same seconds of the processor, on one thread. The
error is that on the entries that were not observed, relative to them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# isort: off
from benchmarks import processor_clock  # before tnkit, whose clock it sets

# isort: on
import numpy as np
import torch
from rich.table import Table
from torch import Tensor

import tnkit as tk
from benchmarks import search_data as data
from benchmarks.harness import screen
from benchmarks.resumed import resumed
from tnkit.search import RankLadder, StructureSearch

if find_spec("skimage"):
    from skimage.data import astronaut, camera, coffee

OBSERVED = 0.1
CLOCK = processor_clock.__name__.rpartition(".")[2].replace("_", " ")
SIZES = (400, 130, 45, 20, 10, 6, 4, 3)  # of the observed entries: numbers at each rung, as the search has them


@dataclass(frozen=True, slots=True)
class Row:
    """One completion."""

    array: str
    who: str
    seed: int
    heldout: float | None
    error: float
    n_params: int | None
    seconds: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class Case:
    """An array, and the shape that it is split to (None: as it is)."""

    make: Callable[[], Tensor]
    parts: tuple[int, ...] | None


def cases() -> dict[str, Case]:
    """Photographs and a chemical measurement."""
    found: dict[str, Case] = {}
    if find_spec("skimage"):
        found["astronaut 8⁶×3"] = Case(lambda: data.double(astronaut()), (*(8,) * 6, 3))
        found["cameraman 8⁶"] = Case(lambda: data.double(camera()), (8,) * 6)
        found["coffee 256×256×3"] = Case(lambda: data.double(coffee()[72:328, 172:428]), (8, 8, 4, 8, 8, 4, 3))
    if find_spec("tensorly"):
        found["kinetic 64×12×10×60"] = Case(data.kinetic, None)
    return found


def contenders(shape: tuple[int, ...], known: int) -> dict[str, tuple[bool, str, object]]:
    """By name: whether over the parts, the format, and the method."""
    sizes = tuple(max(known // part, sum(shape)) for part in SIZES)
    found: dict[str, tuple[bool, str, object]] = {"search": (True, "auto", StructureSearch(shape=shape))}
    for kind in ("train", "ring"):
        ladder = RankLadder((), (kind,), sizes=sizes, raises=3, steps=20)
        found[f"{kind}, given order, every size"] = (True, "auto", StructureSearch(shape=shape, strategy=ladder))
    for name in ("tt", "tr", "tucker"):
        found[f"{name} over the array's modes, own ranks"] = (False, name, "auto")
        if name != "tucker" or len(shape) <= 5:
            found[f"{name} over the parts, own ranks"] = (True, name, "auto")
    return found


def rows(known: list[Row], seeds: int, limit: float, only: str) -> Iterator[Row]:
    """What is not known yet."""
    done = {(r.array, r.who, r.seed) for r in known}
    for seed in range(seeds):
        for array, case in cases().items():
            whole = case.make()
            mask = torch.as_tensor(np.random.default_rng(seed).random(whole.shape) < OBSERVED)
            parts = case.parts or tuple(whole.shape)
            for who, (split, name, method) in contenders(parts, int(mask.sum())).items():
                if only not in f"{array} {who}" or (array, who, seed) in done or (case.parts is None and not split):
                    continue
                x, seen = (whole.reshape(parts), mask.reshape(parts)) if split else (whole, mask)
                begun = time.process_time()
                result = tk.complete(x, name, mask=seen, method=method, time_limit_s=limit, rng=seed)  # type: ignore[arg-type]
                spent = time.process_time() - begun
                off = (torch.as_tensor(result.filled) - x)[~seen].norm() / x[~seen].norm()
                size = None if result.tensor is None else result.tensor.n_params
                yield Row(array, who, seed, result.heldout_error, float(off), size, spent, limit)


def table(found: list[Row]) -> Table:
    """Each beside the others."""
    made = Table("array", "seed", "who", "held out", "error", "numbers", "seconds")
    for r in sorted(found, key=lambda r: (r.array, r.seed, r.error)):
        held = "" if r.heldout is None else f"{r.heldout:.4f}"
        made.add_row(r.array, str(r.seed), r.who, held, f"{r.error:.4f}", f"{r.n_params or 0:,}", f"{r.seconds:.0f}")
    return made


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_search_completion", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=40.0, help="seconds of the processor for each")
    parser.add_argument("--only", default="", help="only rows whose array and contender hold this")
    parser.add_argument("--quick", action="store_true", help="one contender on the smallest array, five seconds")
    parser.add_argument("--json", type=Path, default=Path("out/bench_search_completion.json"))
    asked = parser.parse_args()
    limit, only = (5.0, "kinetic 64×12×10×60 tt over") if asked.quick else (asked.limit, asked.only)
    found = resumed(asked.json, Row, lambda known: rows(known, asked.seeds, limit, only), clock=CLOCK)
    screen().print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
