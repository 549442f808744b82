"""Short fits of many neighbours from a centre's tensors, long ones of the few that promise.

A fit that goes on from its parent's tensors is near its end after few sweeps, and the errors of neighbours are in order
long before they are exact. So all are fitted a little, and those that reach what is asked, or come closest, to the end:
successive halving (Jamieson & Talwalkar, arXiv 1502.07943) with one cut. From noise few sweeps say nothing: where warm
starts are off every neighbour is fitted to the end.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from tnkit.search.objective import Trial
from tnkit.search.proposer import Proposal, Setting

__all__ = ["raced"]

_PART = 8  # of the sweeps: those of the short fits


def raced(
    setting: Setting, proposals: Sequence[Proposal], *, finalists: int = 2
) -> Generator[list[Proposal], list[Trial | None], list[Trial]]:
    """Ask for short fits, then for long ones of the best.

    Args:
        setting: with the objective; its `warm` says whether there are short fits.
        proposals: with their parents, and the sweeps of long fits.
        finalists: that are fitted to the end.

    Returns:
        The trials, those that were fitted to the end in place of their short ones.
    """
    objective = setting.objective
    short = objective.warm and len(proposals) > finalists and all(p.parent is not None for p in proposals)
    if not short:
        trials = yield list(proposals)
        return [t for t in trials if t is not None]
    first = [Proposal(p.graph, p.parent, steps=max(3, p.steps // _PART)) for p in proposals]
    trials = yield first
    known = [(p, t) for p, t in zip(proposals, trials, strict=True) if t is not None]
    done = [t for _, t in known if objective.reached(t.error)]
    least = min((t.graph.n_params for t in done), default=None)
    left = [(p, t) for p, t in known if not objective.reached(t.error)]
    left = [(p, t) for p, t in left if least is None or t.graph.n_params < least]
    left.sort(key=lambda pair: pair[1].error)
    trials = [] if not left else (yield [Proposal(p.graph, t, steps=p.steps) for p, t in left[:finalists]])
    ended = {t.graph.key: t for t in trials if t is not None}
    return [ended.get(t.graph.key, t) for _, t in known]
