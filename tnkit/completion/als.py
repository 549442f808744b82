"""Alternating least squares on the observed entries, for any topology, with held-out validation and rank growth.

For one node after the other, each row of its unfolding is a small least-squares problem over the entries in that row
(`tnkit.completion.rows`). Part of the entries is held out (`tnkit.completion.trials`); ranks grow while the error there
falls (`tnkit.completion.rank_search`), and the best is fitted to everything at the end.

References: Grasedyck, Kluge, Krämer 2015, doi:10.1137/130942401 (tensor trains); Steinlechner 2016,
doi:10.1137/15M1010506 (ranks grown by a control set).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.coarse import Coarse, coarse
from tnkit.completion.holdout import split
from tnkit.completion.rank_search import RankSearch
from tnkit.completion.sweep import Tensors, refit_node
from tnkit.completion.trials import CHEAP, Part, Trial, Trials, rms
from tnkit.formats import random_tensors
from tnkit.solvers import CONVERGED, INTERRUPTED, MAX_STEPS, REACHED, Record

__all__ = ["CompletionALS"]


@register
@dataclass(frozen=True, slots=True)
class CompletionALS(CompletionMethod):
    """Alternating least squares on the observed entries only.

    Attributes:
        max_steps: sweeps of one fit at the most.
        tol: a fit ends when the error has fallen by less than this, relative to itself, over `patience` sweeps.
        patience: over how many sweeps.
        holdout: share of the observed entries that is held out; 0 for none (a rank must then be given).
        ridge: how strongly rows with few entries are drawn to zero while the held-out error is large; 1 would be right
            for noise of that size.
        starts: starts at the most, for given ranks. There is one where a sweep is costly and the held-out error is near
            that of the fit; otherwise they go on until one is exact or two agree.
        gain: ranks grow while the held-out error falls by this share.
        max_rank: no bond grows beyond this when ranks are chosen; None for no limit but the number of entries.
        sample: where there are more than twice as many entries, ranks and starts are tried on about so many of them:
            those of some positions of the longest mode. All entries are fitted from there.
        refine: whether ranks, where they are chosen, are also tried from fresh starts and one by one, up and down.
            Without it a fit takes a third of the time.
        effort: multiplications of all sweeps at the most, a quarter of them for the last fit to everything; None for no
            limit. They are counted (1e10 take about a second on one core), so that the answer is the same on a busy
            machine, as it is not with a time limit.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.outer(np.arange(1.0, 21.0), np.arange(1.0, 16.0))
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.4
        >>> done = complete(x, "tt", mask=mask, rank=1, method=CompletionALS(max_steps=50))
        >>> bool(np.abs(done.filled - x).max() < 1e-6)
        True
    """

    max_steps: int = 200
    tol: float = 5e-3
    patience: int = 6
    holdout: float = 0.1
    ridge: float = 3.0
    starts: int = 5
    gain: float = 0.02
    max_rank: int | None = None
    sample: int = 400_000
    refine: bool = True
    effort: float | None = None
    name: ClassVar[str] = "als"
    summary: ClassVar[str] = "least squares for one node after the other on the observed entries; any format"

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class."""
        assert problem.layout is not None
        obs = problem.observations
        scale = rms(obs.values, obs.weights)
        if scale == 0:
            ranks = problem.ranks or (1,) * len(problem.layout.bonds)
            zeros = tuple(obs.values.new_zeros(shape) for shape in problem.layout.shapes(ranks))
            return CompletionFit(zeros, None, 0.0, 0.0, CONVERGED)
        run = _Run(self, problem, scale)
        try:
            run.search()
            run.refit()
        except KeyboardInterrupt:
            run.trials.stopped = INTERRUPTED
        return run.result()


class _Run:
    """One completion in progress."""

    def __init__(self, method: CompletionALS, problem: CompletionProblem, scale: float) -> None:
        assert problem.layout is not None
        self.method, self.problem, self.layout, self.scale = method, problem, problem.layout, scale
        self.final: tuple[Tensors, float] | None = None
        obs, layout = problem.observations, problem.layout
        flags = split(obs, method.holdout, problem.rng)
        known = obs if flags is None else obs.take(~flags)
        self.part = None if flags is None else coarse(known, layout, method.sample, problem.rng)
        held = None if flags is None else Part.of(obs.take(flags), layout, scale)
        train = Part.of(known, layout, scale)
        self.record = Record(problem.control)
        self.trials = Trials(method, layout, train, held, self.record.control, problem.rng)

    def search(self) -> None:
        """Find ranks and a network on the entries that are not held out."""
        if self.part is not None:
            self.search_part(self.part)
        else:
            self.search_ranks(self.trials, thorough=False)

    def search_ranks(self, trials: Trials, *, thorough: bool) -> None:
        """At given ranks, or growing."""
        method, ranks = self.method, self.problem.ranks
        search = RankSearch(trials, method.starts, method.max_rank, method.refine, thorough)
        if ranks is not None:
            search.at_ranks(ranks)
        else:
            search.grow()

    def search_part(self, part: Coarse) -> None:
        """Ranks and a start from a part of the entries, then all entries from there."""
        t, method = self.trials, self.method
        assert t.held is not None
        flags = split(part.observations, method.holdout, t.rng)
        known = part.observations if flags is None else part.observations.take(~flags)
        held = None if flags is None else Part.of(part.observations.take(flags), part.layout, self.scale)
        train = Part.of(known, part.layout, self.scale)
        few = Trials(method, part.layout, train, held, t.control, t.rng)
        self.search_ranks(few, thorough=True)
        t.stopped, t.spent = few.stopped, few.spent
        if few.best is None:
            return
        level, n = few.best.level, t.train.net.n
        start = refit_node(
            t.train.net,
            part.lift(few.best.tensors),
            t.train.data,
            part.node,
            lambda unknowns, rows: method.ridge * level * unknowns * rows / n,
        )
        t.keep(Trial(few.best.ranks, start, t.held.error(start), t.train.error(start)))
        if t.stopped is None:
            t.keep(t.fit(start, t.train, anneal=0.0, level=level, steps=method.max_steps))

    def refit(self) -> None:
        """Fit everything, from the best."""
        t, best = self.trials, self.trials.best
        if best is None or t.stopped not in (None, MAX_STEPS):
            return
        t.stopped = None
        if t.held is not None:
            t.train = t.held  # the room of the others is needed for all
            t.train = Part.of(self.problem.observations, self.layout, self.scale)
        part, steps = t.train, self.method.max_steps
        trial = t.fit(best.tensors, part, anneal=0.0, level=best.level, steps=steps, refit=True)
        if t.work(best.ranks) < CHEAP and trial.train > t.exact and t.stopped is None:
            level = trial.train**2
            exact = t.descend(trial.tensors, part, anneal=0.0, level=level, steps=steps, refit=True, close=True)
            if exact.train <= t.exact and self.layout.n_params(best.ranks) < part.net.n:
                trial = exact  # more entries than numbers, and all are met: there was no noise
        self.final = (trial.tensors, trial.train)

    def result(self) -> CompletionFit:
        """What is best, in the scale of the data."""
        t, best = self.trials, self.trials.best
        if best is None:
            ranks = self.problem.ranks or (1,) * len(self.layout.bonds)
            start = random_tensors(self.layout, ranks, t.train.data.values, t.rng)
            best = Trial(ranks, tuple(tensor * 0 for tensor in start), 1.0, 1.0)
        tensors, train = (best.tensors, best.train) if self.final is None else self.final
        share = self.scale ** (1.0 / len(tensors))
        status = t.stopped if t.stopped is not None else t.status
        status = CONVERGED if status is REACHED else status
        heldout = None if t.held is None else best.heldout
        return CompletionFit(tuple(x * share for x in tensors), None, heldout, train, status, tuple(self.record.steps))
