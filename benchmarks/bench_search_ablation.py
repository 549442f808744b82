"""Searches with and without warm starts and bounds: `python -m benchmarks.bench_search_ablation [--json PATH]`.

The synthetic targets of Greedy-TN (arXiv 2008.05437). Each search runs as it is for a few seconds; the size of the
smallest network that it has found at eps, and when, is what the others are measured by: the same search on the same
data with the same random numbers, with every fit from noise (or from the SVDs that the fit itself makes), with nothing
left out by the cuts, or with neither. It ends when it has found a network of that size, or after so many times the
seconds; then the ratio is a lower bound of what is saved. Seconds are those of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from rich.table import Table

import tnkit as tk
from benchmarks.harness import screen
from benchmarks.resumed import resumed
from benchmarks.search_data import greedy_targets, planted
from tnkit.search import TNGA, TNLS, DenseObjective, GreedyTN, Proposer, SVDinsTN, TnALE, Trial, run_objective
from tnkit.solvers import Control

SEARCHES: dict[str, Proposer] = {
    "TnALE": TnALE("full"),
    "TNLS": TNLS("full", rounds=1000),
    "TNGA": TNGA(generations=1000),  # none of them ends before its time
    "SVDinsTN": SVDinsTN(),
    "Greedy-TN": GreedyTN(),
}
EPS = 1e-2
TIMES = 12.0  # the seconds of the search as it is, after which the others end
#: warm starts, bounds; those with one of them alone run for the first seed only.
WAYS = {
    "both": (True, True),
    "bounds alone": (False, True),
    "warm starts alone": (True, False),
    "neither": (False, False),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One search on one array.

    Attributes:
        size: of the smallest network at eps that it found; None for none.
        to_beat: the size at which it was to end; None for the search as it is.
        found_s: seconds until that network, or until the end where the size was not found.
        evaluations: fits until then.
        reached: whether it found that size.
    """

    target: str
    search: str
    seed: int
    how: str
    planted: int
    size: int | None
    to_beat: int | None
    evaluations: int
    found_s: float
    seconds: float
    reached: bool


def run(name: str, target: str, seed: int, how: str, limit_s: float, to_beat: int | None) -> Row:
    """One search to a size or the limit."""
    graph, (warm, bounds) = greedy_targets()[target], WAYS[how]
    proposer = SEARCHES[name]
    if isinstance(proposer, GreedyTN) and not bounds:
        proposer = replace(proposer, prune=False)  # without cuts it takes no bounds otherwise
    begun = time.process_time()
    objective = DenseObjective(
        planted(graph, seed),
        1.0,
        eps=EPS,
        max_params=None,
        rng=torch.Generator().manual_seed(seed),
        control=Control().within(20 * limit_s),
        warm=warm,
        bounds=bounds,
    )
    fits, smallest, at, since = 0, None, 0, 0.0

    def heard(best: Trial) -> bool:
        nonlocal fits, smallest, at, since
        fits += 1
        spent = time.process_time() - begun
        if objective.reached(best.error) and (smallest is None or best.graph.n_params < smallest):
            smallest, at, since = best.graph.n_params, fits, spent
        return spent > limit_s or (to_beat is not None and smallest is not None and smallest <= to_beat)

    with suppress(tk.BudgetError):  # there was no time for a single fit
        run_objective(objective, proposer, heard=heard, prune=bounds)
    spent = time.process_time() - begun
    reached = smallest is not None and (to_beat is None or smallest <= to_beat)
    told = (at, since) if reached else (fits, spent)
    return Row(target, name, seed, how, graph.n_params, smallest, to_beat, *told, spent, reached)


def rows(known: list[Row], seeds: int, limit_s: float, only: str) -> Iterator[Row]:
    """What is not known yet; the others after the search as it is."""
    done = {(r.target, r.search, r.seed) for r in known}
    for seed in range(seeds):
        for target in greedy_targets():
            for name in SEARCHES:
                if only not in f"{target} {name}" or (target, name, seed) in done:
                    continue
                first = run(name, target, seed, "both", limit_s, None)
                yield first
                if first.size is not None:
                    for how in WAYS if seed == 0 else ("neither",):
                        if how != "both":
                            yield run(name, target, seed, how, max(TIMES * first.found_s, 1.0), first.size)


def table(found: list[Row]) -> Table:
    """Medians over the seeds: the search as it is beside the others, at equal size."""
    ways = [how for how in WAYS if how != "both"]
    made = Table("target", "search", "planted", "size", "fits", "seconds", *(f"{how}: seconds" for how in ways))
    for target, name in dict.fromkeys((r.target, r.search) for r in found):
        mine = [r for r in found if (r.target, r.search) == (target, name)]
        both = [r for r in mine if r.how == "both"]
        sizes = [r.size for r in both if r.size is not None]
        cells = [target, name, str(both[0].planted), f"{median(sizes):.0f}" if sizes else "none"]
        cells += [f"{median(r.evaluations for r in both):.0f}", f"{median(r.found_s for r in both):.2f}"]
        made.add_row(*cells, *(saved([r for r in mine if r.how == how], both) for how in ways))
    return made


def saved(others: list[Row], both: list[Row]) -> str:
    """Seconds, and how many times those of the search as it is; a lower bound where the size was not found."""
    if not others:
        return ""
    own = {r.seed: r.found_s for r in both}
    ratios = [r.found_s / own[r.seed] for r in others]
    sign = "" if all(r.reached for r in others) else "> "
    return f"{median(r.found_s for r in others):.1f} ({sign}{median(ratios):.1f}×)"


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_search_ablation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, one second for each search")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=4.0, help="seconds for each search as it is (default 4)")
    parser.add_argument("--only", default="", help="only rows whose target and search hold this")
    parser.add_argument("--json", type=Path, default=Path("out/bench_search_ablation.json"))
    asked = parser.parse_args()
    seeds, limit = (1, 1.0) if asked.quick else (asked.seeds, asked.limit)
    found = resumed(asked.json, Row, lambda known: rows(known, seeds, limit, asked.only), eps=EPS)
    screen().print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
