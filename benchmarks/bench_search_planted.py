"""Planted networks found again by the default search: `python -m benchmarks.bench_search_planted [--seeds N]`.

The four targets of Greedy-TN (arXiv 2008.05437), graphs with loops, and graphs drawn at random, each with and without
noise. The seed sets the nodes (and the random graph) and the random numbers of the search. A run is right where its
error, measured densely, keeps eps and its size is at most the planted one. Seconds are those of the processor, on one
thread; the half minute of the clock after which the default search ends is lifted, since on a machine that does other
work the clock goes on while the search does not. Rows are written as they come, and a run with the same file goes on
from it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

import tnkit as tk
from benchmarks import search_data as data
from benchmarks.harness import relative_error, screen
from benchmarks.resumed import resumed
from tnkit.search import AutoSearch, Graph

FIRST = 1000  # seed of the targets
NOISES = {0.0: 1e-4, 1e-3: 1.1e-3}  # noise, eps


@dataclass(frozen=True, slots=True)
class Row:
    """One search."""

    target: str
    noise: float
    seed: int
    strategy: str
    planted: int
    n_params: int
    rel_error: float
    eps: float
    evaluations: int
    seconds: float
    found: str

    @property
    def right(self) -> bool:
        """The planted size or less, within eps."""
        return self.n_params <= self.planted and self.rel_error <= self.eps * (1 + 1e-9)


def families() -> dict[str, dict[str, Callable[[int], Graph]]]:
    """By family and name what makes the graph of a seed."""

    def always(graphs: dict[str, Graph]) -> dict[str, Callable[[int], Graph]]:
        return {name: lambda seed, graph=graph: graph for name, graph in graphs.items()}

    drawn: dict[str, Callable[[int], Graph]] = {
        f"order {order}, {extra} bonds more than a tree": lambda seed, order=order, extra=extra: data.random_loops(
            order, extra, seed
        )
        for order, extra in ((4, 1), (4, 2), (5, 1), (5, 2))
    }
    return {"greedy": always(data.greedy_targets()), "loops": always(data.loopy_targets()), "random": drawn}


def run(target: str, graph: Graph, noise: float, seed: int, strategy: str) -> Row:
    """One search."""
    x, eps = data.planted(graph, seed, noise=noise), NOISES[noise]
    begun = time.process_time()
    result = tk.search(x, eps=eps, strategy=AutoSearch(seconds=600.0) if strategy == "auto" else strategy, rng=seed)
    spent, fit = time.process_time() - begun, result.best.fit
    error = relative_error(x, fit.tensor.to_dense())
    return Row(
        target,
        noise,
        seed,
        strategy,
        graph.n_params,
        fit.n_params,
        error,
        eps,
        result.evaluations,
        spent,
        result.best.label,
    )


def rows(known: list[Row], names: list[str], first: int, seeds: int, only: str, strategy: str) -> Iterator[Row]:
    """What is not known yet, seed by seed."""
    done = {(r.target, r.noise, r.seed, r.strategy) for r in known}
    for seed in range(first, first + seeds):
        for name in names:
            for target, make in families()[name].items():
                for noise in NOISES:
                    if only in target and (target, noise, seed, strategy) not in done:
                        yield run(target, make(seed), noise, seed, strategy)


def table(found: list[Row]) -> Table:
    """How many are right, and the seconds."""
    made = Table("target", "noise", "strategy", "right", "median s", "worst s", "misses: seed, found/planted")
    for target, noise, strategy in dict.fromkeys((r.target, r.noise, r.strategy) for r in found):
        mine = [r for r in found if (r.target, r.noise, r.strategy) == (target, noise, strategy)]
        spent = [r.seconds for r in mine]
        missed = ", ".join(f"{r.seed}: {r.n_params}/{r.planted}" for r in mine if not r.right)
        right = f"{sum(r.right for r in mine)}/{len(mine)}"
        made.add_row(
            target, f"{noise:g}", strategy, right, f"{statistics.median(spent):.1f}", f"{max(spent):.1f}", missed
        )
    return made


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_search_planted", description=__doc__)
    parser.add_argument("--families", nargs="+", default=["greedy"], choices=list(families()))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=FIRST, help="the first seed")
    parser.add_argument("--only", default="", help="only targets whose name holds this")
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--quick", action="store_true", help="one seed of one target")
    parser.add_argument("--json", type=Path, default=Path("out/bench_search_planted.json"))
    asked = parser.parse_args()
    seeds, only = (1, "TT") if asked.quick else (asked.seeds, asked.only)

    def missing(known: list[Row]) -> Iterator[Row]:
        return rows(known, asked.families, asked.first, seeds, only, asked.strategy)

    screen().print(table(resumed(asked.json, Row, missing)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
