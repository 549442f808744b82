"""Searches with and without warm starts and bounds: `python -m benchmarks.bench_search_ablation [--json PATH]`.

The synthetic targets of Greedy-TN (arXiv 2008.05437; the triangle: a loop of ranks 5, 2, 5 with a mode hanging by rank
2 on two of its corners). Each search runs twice on the same data with the same random numbers: as it is, and with every
fit from noise (or from the SVDs that the fit itself makes) and nothing left out. It ends when it has found a network of
the size that was planted, or at the limit; then the ratio is a lower bound of what is saved.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from rich.table import Table

from benchmarks.harness import screen
from tnkit.search import TNGA, TNLS, DenseObjective, Graph, GreedyTN, Proposer, SVDinsTN, TnALE, Trial, run_objective
from tnkit.search.graph import chain, ring, star
from tnkit.solvers import Control

SHAPE = (7,) * 5
TARGETS = {
    "Tucker (2,3,4,3,2)": star(SHAPE, (2, 3, 4, 3, 2)),
    "triangle (5,2,5,2,2)": Graph(
        SHAPE, [(k,) for k in range(5)], {(0, 1): 5, (1, 2): 2, (0, 2): 5, (2, 3): 2, (0, 4): 2}
    ),
    "TT (2,3,6,5)": chain(SHAPE, (2, 3, 6, 5)),
    "ring (2,3,4,5,5)": ring(SHAPE, (2, 3, 4, 5, 5)),
}
SEARCHES: dict[str, Proposer] = {
    "TnALE": TnALE(),
    "TnALE, all bonds": TnALE("full"),
    "TNLS": TNLS(),
    "TNGA": TNGA(),
    "SVDinsTN": SVDinsTN(),
    "Greedy-TN": GreedyTN(),
}
EPS = 1e-4


@dataclass(frozen=True, slots=True)
class Row:
    """One search on one array."""

    target: str
    search: str
    seed: int
    on: bool
    planted: int
    size: int | None
    evaluations: int
    seconds: float
    found: bool


def array(graph: Graph, seed: int) -> torch.Tensor:
    """Of norm 1, with normal cores."""
    gen = torch.Generator().manual_seed(seed)
    layout = graph.layout()
    x = layout.build(
        [torch.randn(s, generator=gen, dtype=torch.float64) for s in layout.shapes(graph.bond_ranks())]
    ).to_dense()
    return x / x.norm()


def run(name: str, target: str, seed: int, on: bool, limit_s: float) -> Row:
    """One search to the planted size or the limit."""
    graph = TARGETS[target]
    proposer = SEARCHES[name]
    if isinstance(proposer, GreedyTN) and not on:
        proposer = replace(proposer, prune=False)
    begun = time.perf_counter()
    objective = DenseObjective(
        array(graph, seed),
        1.0,
        eps=EPS,
        max_params=None,
        rng=torch.Generator().manual_seed(seed),
        control=Control().within(limit_s),
        warm=on,
        bounds=on,
    )

    def enough(best: Trial) -> bool:
        return objective.reached(best.error) and best.graph.n_params <= graph.n_params

    found = run_objective(objective, proposer, heard=enough, prune=on)
    size = found.best.graph.n_params if objective.reached(found.best.error) else None
    spent = time.perf_counter() - begun
    return Row(target, name, seed, on, graph.n_params, size, found.evaluations, spent, enough(found.best))


def rows(seeds: int, limit_s: float, only: str) -> Iterator[Row]:
    """Everything, on and off in turn."""
    for target in TARGETS:
        for name in SEARCHES:
            if only in f"{target} {name}":
                for seed in range(seeds):
                    for on in (True, False):
                        yield run(name, target, seed, on, limit_s)


def table(found: list[Row]) -> Table:
    """Medians over the seeds, on beside off."""
    made = Table("target", "search", "planted", "size on", "off", "fits on", "off", "seconds on", "off", "saved")
    for target, name in dict.fromkeys((r.target, r.search) for r in found):
        both = [[r for r in found if (r.target, r.search, r.on) == (target, name, on)] for on in (True, False)]
        sizes = [[r.size for r in part if r.size is not None] for part in both]
        seconds = [median(r.seconds for r in part) for part in both]
        fits = [median(r.evaluations for r in part) for part in both]
        told = [f"{median(s):.0f}" if s else "none" for s in sizes]
        hits = [sum(r.found for r in part) for part in both]
        sign = "" if hits[1] == len(both[1]) else "> " if hits[0] else "? "
        made.add_row(
            target,
            name,
            str(both[0][0].planted),
            f"{told[0]} ({hits[0]}/{len(both[0])})",
            f"{told[1]} ({hits[1]}/{len(both[1])})",
            f"{fits[0]:.0f}",
            f"{fits[1]:.0f}",
            f"{seconds[0]:.2f}",
            f"{seconds[1]:.2f}",
            f"{sign}{seconds[1] / seconds[0]:.1f}×",
        )
    return made


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_search_ablation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, five seconds for each search")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for each search (default 60)")
    parser.add_argument("--only", default="", help="only rows whose target and search hold this")
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args()
    seeds, limit = (1, 5.0) if asked.quick else (asked.seeds, asked.limit)
    found: list[Row] = []
    for row in rows(seeds, limit, asked.only):
        found.append(row)
        if asked.json is not None:
            asked.json.parent.mkdir(parents=True, exist_ok=True)
            asked.json.write_text(json.dumps([asdict(r) for r in found], indent=1))
    screen().print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
