"""Alternating least squares on the observed entries, for any topology, with held-out validation and rank growth.

For one node after the other, each row of its unfolding is a small least-squares problem over the entries in that row
(`tnkit.completion.rows`). A start anneals: κ falls from a value at which a sweep is a power iteration on the array with
zeros where nothing is known (the spectral start) to the level of noise that the held-out error tells. Part of the
entries is held out; ranks grow while the error there falls, and the best is fitted to everything at the end.

References: Grasedyck, Kluge, Krämer 2015, doi:10.1137/130942401 (tensor trains); Zhou, Wilkinson, Schreiber, Pan 2008,
doi:10.1007/978-3-540-68880-8_32 (ridge by the number of samples); Steinlechner 2016, doi:10.1137/15M1010506 (ranks
grown by a control set).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import inf, prod, sqrt
from time import monotonic
from typing import ClassVar

from torch import Tensor

from tnkit.arrays import machine_eps
from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.coarse import Coarse, coarse
from tnkit.completion.entrywise import Entrywise
from tnkit.completion.holdout import split
from tnkit.completion.observations import Observations
from tnkit.completion.rows import Data
from tnkit.completion.sweep import Tensors, balanced, grown, refit_node, shrunk, sweep
from tnkit.formats import Layout, random_tensors
from tnkit.solvers import CONVERGED, INTERRUPTED, REACHED, TIME_LIMIT, Status, StepInfo, iterate

__all__ = ["CompletionALS"]

#: Multiplications of one sweep below which more starts are always tried.
CHEAP = 3e7
#: Sweeps of a start at twice the ranks.
WIDE = 80
RATE = 0.8


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
    name: ClassVar[str] = "als"
    summary: ClassVar[str] = "least squares for one node after the other on the observed entries; any format"

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class."""
        assert problem.layout is not None
        obs = problem.observations
        scale = _rms(obs.values, obs.weights)
        if scale == 0:
            ranks = problem.ranks or (1,) * len(problem.layout.bonds)
            zeros = tuple(obs.values.new_zeros(shape) for shape in problem.layout.shapes(ranks))
            return CompletionFit(zeros, None, 0.0, 0.0, CONVERGED)
        run = _Run(self, problem, scale)
        try:
            run.search()
            run.refit()
        except KeyboardInterrupt:
            run.stopped = INTERRUPTED
        return run.result()


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A network with its errors: relative to the norm of the entries they are over."""

    ranks: tuple[int, ...]
    tensors: Tensors
    heldout: float
    train: float

    @property
    def level(self) -> float:
        """The squared error that tells the noise: between what the fit leaves and what was held out."""
        return min(1.0, self.heldout * self.train)


@dataclass(slots=True, eq=False)
class _Part:
    """Some of the entries with the network at them."""

    net: Entrywise
    data: Data
    norm2: float

    @staticmethod
    def of(obs: Observations, layout: Layout, scale: float) -> _Part:
        rows = layout.inner_plan.positions(obs.indices)
        root = None if obs.weights is None else obs.weights.sqrt()
        data = Data(obs.values / scale, root)
        net = Entrywise.of(layout.topology, layout.sizes, rows)
        return _Part(net, data, max(float(data.weighted.abs().square().sum()), 1e-30))

    def error(self, tensors: Tensors) -> float:
        """Relative error at the entries."""
        r = self.data.values - self.net.values(tensors)
        r = r if self.data.root_weight is None else r * self.data.root_weight
        return sqrt(float(r.abs().square().sum()) / self.norm2)


@dataclass(slots=True, eq=False)
class _Run:
    """One completion in progress: what is best so far survives an interruption."""

    method: CompletionALS
    problem: CompletionProblem
    scale: float
    train: _Part = field(init=False)
    held: _Part | None = field(init=False, default=None)
    layout: Layout = field(init=False)
    best: _Trial | None = field(init=False, default=None)
    final: Tensors | None = field(init=False, default=None)
    final_train: float | None = field(init=False, default=None)
    stopped: Status | None = field(init=False, default=None)
    status: Status = field(init=False, default=CONVERGED)
    history: list[StepInfo] = field(init=False, default_factory=list)
    begun: float = field(init=False, default_factory=monotonic)
    part: Coarse | None = field(init=False, default=None)
    thorough: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        assert self.problem.layout is not None
        self.layout = self.problem.layout
        obs = self.problem.observations
        held = split(obs, self.method.holdout, self.problem.rng)
        if held is None:
            self.train = _Part.of(obs, self.layout, self.scale)
        else:
            known = obs.take(~held)
            self.part = coarse(known, self.layout, self.method.sample, self.problem.rng)
            self.train = _Part.of(known, self.layout, self.scale)
            self.held = _Part.of(obs.take(held), self.layout, self.scale)

    # --- what is enough ----------------------------------------------------------------------------------------------

    @property
    def exact(self) -> float:
        """The error at which entries count as met exactly."""
        return 1e-10 if machine_eps(self.problem.observations.values.dtype) < 1e-12 else 1e-5

    def work(self, ranks: tuple[int, ...]) -> float:
        """Multiplications of a sweep, roughly."""
        sizes = self.layout.label_sizes(ranks)
        topology = self.layout.topology
        unknowns = [
            prod(sizes[label] for label in topology.inputs[k] if label not in topology.output)
            for k in topology.parameters
        ]
        return float(self.train.net.n) * sum(m * m for m in unknowns)

    # --- fits --------------------------------------------------------------------------------------------------------

    def fit(
        self, start: Tensors, part: _Part, *, anneal: float, level: float, steps: int, refit: bool = False
    ) -> _Trial:
        """Sweeps from a start until the error has settled.

        Args:
            start: the first network.
            part: the entries to fit.
            anneal: κ at the start, beside what the residual tells; it falls by RATE a sweep.
            level: the squared error at the start.
            steps: sweeps at the most.
            refit: whether the error that counts is that of the fit itself.

        Where the held-out error stays well above that of the fit, either the fit is too close or the noise level that
        it tells is too high (the data may be exact). So it goes on with the level of the fit; the better one counts.
        """
        trial = self.descend(start, part, anneal=anneal, level=level, steps=steps, refit=refit)
        if refit or self.held is None or self.stopped is not None:
            return trial
        if trial.heldout <= max(self.exact, 1.3 * trial.train):
            return trial
        closer = self.descend(trial.tensors, part, anneal=0.0, level=trial.train**2, steps=steps, close=True)
        return min(trial, closer, key=lambda t: t.heldout)

    def descend(
        self,
        start: Tensors,
        part: _Part,
        *,
        anneal: float,
        level: float,
        steps: int,
        refit: bool = False,
        close: bool = False,
    ) -> _Trial:
        """See `fit`; with `close` the noise level is that of the fit alone."""
        held = None if refit else self.held
        noise = [level]
        n, norm2, floor = part.net.n, part.norm2, level if refit and not close else 0.0

        def step(state: Tensors, number: int) -> tuple[Tensors, float]:
            level = min(1.0, noise[0])
            annealed = anneal * RATE ** (number - 1) * min(1.0, 10 * level)

            def kappa(unknowns: int, rows: int) -> float:
                return annealed + self.method.ridge * level * unknowns * rows / n

            tensors, residual2 = sweep(part.net, state, part.data, kappa)
            fitted = float(residual2) / norm2
            error = fitted**0.5 if held is None else held.error(tensors)
            noise[0] = max(fitted, floor) if held is None or close else error * fitted**0.5
            return tensors, error

        limits = self.problem.control
        control = replace(
            limits,
            max_steps=steps,
            tol=self.method.tol if steps > 30 else 0.01,
            patience=self.method.patience + (14 if anneal >= 1 else 0),
            target=self.exact / (100 if refit else 1),
            progress=self._hear,
        )
        start_error = inf if held is None else held.error(start)
        outcome = iterate(step, start, control, start_error=start_error)
        if outcome.status in (INTERRUPTED, TIME_LIMIT):
            self.stopped = outcome.status
        self.status = outcome.status
        train = part.error(outcome.value)
        heldout = outcome.error if held is not None else train
        return _Trial(self.layout.ranks_of(outcome.value), outcome.value, heldout, train)

    def _hear(self, info: StepInfo) -> None:
        mine = StepInfo(len(self.history) + 1, info.error, monotonic() - self.begun)
        self.history.append(mine)
        if self.problem.control.progress is not None:
            self.problem.control.progress(mine)

    def random(self, ranks: tuple[int, ...]) -> Tensors:
        """Normal numbers, with a mean where the data has one: products of many factors of mean 0 would miss it."""
        values = self.train.data.values
        mean = min(1.0, abs(complex(values.mean())) / _rms(values, None))
        drawn = balanced(random_tensors(self.layout, ranks, values, self.problem.rng))
        size = drawn[0].abs().square().mean().sqrt()
        return tuple((1 - mean**2) ** 0.5 * t + mean * size for t in drawn)

    def fresh(self, ranks: tuple[int, ...], steps: int) -> _Trial:
        """From a random network, annealed."""
        start = self.random(ranks)
        return self.fit(start, self.train, anneal=10.0, level=1.0, steps=steps)

    def raised(self, trial: _Trial, ranks: tuple[int, ...], steps: int) -> _Trial:
        """From a smaller network."""
        start = grown(self.layout, trial.tensors, ranks, 0.1, self.problem.rng)
        return self.fit(start, self.train, anneal=0.5, level=trial.level, steps=steps)

    def lowered(self, trial: _Trial, ranks: tuple[int, ...], steps: int) -> _Trial:
        """From a larger network."""
        start = balanced(shrunk(self.layout, trial.tensors, ranks))
        return self.fit(start, self.train, anneal=0.0, level=trial.level, steps=steps)

    def keep(self, trial: _Trial) -> bool:
        """Remember the best; whether this one is."""
        if self.best is None or trial.heldout < self.best.heldout:
            self.best = trial
            return True
        return False

    @property
    def done(self) -> bool:
        """Whether to look no further."""
        return self.stopped is not None or (self.best is not None and self.best.heldout <= self.exact)

    # --- the search --------------------------------------------------------------------------------------------------

    def search(self) -> None:
        """Find ranks and a network on the entries that are not held out."""
        if self.part is not None:
            self.by_part(self.part)
        elif self.problem.ranks is not None:
            self.at_ranks(self.problem.ranks)
        else:
            self.grow()

    def by_part(self, part: Coarse) -> None:
        """Ranks and a start from a part of the entries, then all entries from there."""
        assert self.held is not None
        few = _Run(self.method, replace(self.problem, observations=part.observations, layout=part.layout), self.scale)
        few.part, few.thorough, few.history, few.begun = None, True, self.history, self.begun
        few.search()
        self.stopped = few.stopped
        if few.best is None:
            return
        level, n = few.best.level, self.train.net.n
        start = refit_node(
            self.train.net,
            part.lift(few.best.tensors),
            self.train.data,
            part.node,
            lambda unknowns, rows: self.method.ridge * level * unknowns * rows / n,
        )
        self.keep(_Trial(few.best.ranks, start, self.held.error(start), self.train.error(start)))
        if self.stopped is None:
            self.keep(self.fit(start, self.train, anneal=0.0, level=level, steps=self.method.max_steps))

    def at_ranks(self, ranks: tuple[int, ...]) -> None:
        """Starts at given ranks, of several kinds in turn, until one is exact, is sound, or agrees with another."""
        small = max(ranks, default=1) == 1
        ample = self.train.net.n >= 8 * self.layout.n_params(ranks)
        first = self.annealed if not self.hyper else self.plain if ample else self.climb
        costly = self.hyper and self.work(ranks) >= CHEAP
        kinds: tuple[Callable[[tuple[int, ...]], _Trial], ...]
        kinds = (first, self.wide if costly else self.over, self.through, self.climb, self.annealed)
        if costly and self.thorough:
            kinds = (self.wide, self.annealed, self.wide, self.annealed, self.wide)
        for number in range(self.method.starts):
            before = inf if self.best is None else self.best.heldout
            trial = self.annealed(ranks) if small else kinds[number % len(kinds)](ranks)
            self.keep(trial)
            sound = trial.heldout <= min(0.9, 2 * trial.train)
            agrees = sound and before < inf and abs(trial.heldout - before) <= 0.02 * before
            if self.done or agrees or not self.worth_another():
                return

    def annealed(self, ranks: tuple[int, ...]) -> _Trial:
        """A random start at full rank."""
        return self.fresh(ranks, self.method.max_steps)

    def plain(self, ranks: tuple[int, ...]) -> _Trial:
        """A random start at full rank, not annealed."""
        start = self.random(ranks)
        return self.fit(start, self.train, anneal=0.0, level=1.0, steps=self.method.max_steps)

    def wide(self, ranks: tuple[int, ...]) -> _Trial:
        """A random start at twice the ranks, annealed, and down at once: terms of a hyperedge that miss are dropped."""
        larger = tuple(min(2 * r, cap) for r, cap in zip(ranks, self.layout.caps, strict=True))
        if self.layout.n_params(larger) > self.train.net.n:
            return self.climb(ranks)
        trial = self.fresh(larger, WIDE)
        return trial if self.stopped is not None and self.best is not None else self.lowered(trial, ranks, WIDE)

    def over(self, ranks: tuple[int, ...], share: float = 1 / 3) -> _Trial:
        """From larger ranks, where there are fewer local minima, down to those that were asked for."""
        larger = tuple(min(r + max(1, int(r * share)), cap) for r, cap in zip(ranks, self.layout.caps, strict=True))
        if self.layout.n_params(larger) > self.train.net.n:
            return self.climb(ranks)
        trial = self.climb(larger, keep=False)
        while trial.ranks != ranks and self.stopped is None:
            lower = tuple(max(r - 1, least) for r, least in zip(trial.ranks, ranks, strict=True))
            trial = self.lowered(trial, lower, self.method.max_steps if lower == ranks else 12)
        return trial if trial.ranks == ranks else self.lowered(trial, ranks, 1)

    def through(self, ranks: tuple[int, ...]) -> _Trial:
        """Up, as where ranks are chosen, to twice the ranks at the most, and down from where it was best."""
        best = self.rising(limit=2 * max(ranks) + 1)
        while best.ranks != ranks and self.stopped is None:
            up = self.layout.n_params(best.ranks) < self.layout.n_params(ranks)
            nearer = tuple(r + (r < want) - (r > want) for r, want in zip(best.ranks, ranks, strict=True))
            best = self.raised(best, nearer, 20) if up else self.between(best, nearer)
        return best if best.ranks == ranks else self.between(best, ranks)

    def between(self, trial: _Trial, ranks: tuple[int, ...]) -> _Trial:
        """From a network with some ranks too large and some too small."""
        least = tuple(min(a, b) for a, b in zip(trial.ranks, ranks, strict=True))
        tensors = grown(self.layout, shrunk(self.layout, trial.tensors, least), ranks, 0.1, self.problem.rng)
        return self.fit(balanced(tensors), self.train, anneal=0.0, level=trial.level, steps=20)

    @property
    def hyper(self) -> bool:
        """Whether a bond joins more than two nodes; such networks are better grown than annealed."""
        return any(len(self.layout.topology.nodes_of(bond)) > 2 for bond in self.layout.bonds)

    def worth_another(self) -> bool:
        """Whether entries that were not seen are met much worse than those that were, or a start costs little."""
        assert self.best is not None
        stalled = self.best.heldout > min(0.9, 2 * self.best.train)
        return self.held is not None and (stalled or self.thorough or self.work(self.best.ranks) < CHEAP)

    def climb(self, target: tuple[int, ...], keep: bool = True) -> _Trial:
        """From rank one to given ranks."""
        now = (1,) * len(target)
        trial = self.fresh(now, 12)
        while now != target and self.stopped is None:
            if keep:
                self.keep_if_of(trial, target)
            step = max(1, max(now) // 4)
            now = tuple(min(r + step, t) for r, t in zip(now, target, strict=True))
            trial = self.raised(trial, now, self.method.max_steps if now == target else 12)
        return trial

    def keep_if_of(self, trial: _Trial, target: tuple[int, ...]) -> None:
        """What is there if time ends on the way: a smaller network, at the ranks that were asked for."""
        if self.best is None:
            self.best = replace(
                trial, ranks=target, tensors=grown(self.layout, trial.tensors, target, 0.0, self.problem.rng)
            )

    def grow(self) -> None:
        """Ranks from one up, all together and then one by one, while the held-out error falls; then down again."""
        self.keep(self.rising(limit=self.method.max_rank, keep=True))
        self.one_by_one()
        self.trim()

    def rising(self, limit: int | None, keep: bool = False) -> _Trial:
        """All ranks from one up while the held-out error falls.

        Args:
            limit: no rank goes beyond this.
            keep: whether to remember the best on the way, should time end.
        """
        trial = best = self.fresh((1,) * len(self.layout.bonds), 30)
        misses = 0
        while self.held is not None and self.stopped is None and best.heldout > self.exact:
            if keep:
                self.keep(best)
            cheap = self.work(trial.ranks) < CHEAP
            ranks = self.next_ranks(trial.ranks, limit)
            if ranks is None or misses >= (4 if cheap else 2):
                break
            trial = self.raised(trial, ranks, 30)
            if cheap and trial.heldout > self.exact and self.stopped is None:
                trial = min(trial, self.fresh(ranks, 60), key=lambda t: t.heldout)
            misses = 0 if trial.heldout < (1 - self.gain) * best.heldout else misses + 1
            best = min(best, trial, key=lambda t: t.heldout)
        return best

    @property
    def gain(self) -> float:
        """By how much the held-out error must fall: more than chance where few entries are held out."""
        return self.method.gain if self.held is None else max(self.method.gain, 0.5 * self.held.net.n**-0.5)

    def next_ranks(self, ranks: tuple[int, ...], limit: int | None) -> tuple[int, ...] | None:
        """All bonds raised, or None where nothing can grow."""
        step = max(1, max(ranks, default=1) // 4)
        cap = inf if limit is None else limit
        raised = tuple(int(max(r, min(r + step, most, cap))) for r, most in zip(ranks, self.layout.caps, strict=True))
        return None if raised == ranks or self.layout.n_params(raised) > self.train.net.n else raised

    def one_by_one(self) -> None:
        """Each bond in turn, one more; kept where the held-out error falls."""
        for k in self.worth_trying():
            if self.done or self.best is None:
                return
            base = self.best
            ranks = tuple(r + (j == k) for j, r in enumerate(base.ranks))
            if ranks[k] > self.layout.caps[k] or self.layout.n_params(ranks) > self.train.net.n:
                continue
            trial = self.raised(base, ranks, 12)
            if trial.heldout < (1 - self.gain) * base.heldout:
                self.keep(trial)

    def trim(self) -> None:
        """Each bond in turn, one less, as long as the held-out error stays."""
        open_bonds = list(self.worth_trying())
        while open_bonds and self.stopped is None and self.best is not None:
            k, base = open_bonds[0], self.best
            ranks = tuple(r - (j == k) for j, r in enumerate(base.ranks))
            allowed = max(self.exact, base.heldout * (1 + 1e-3))
            trial = self.lowered(base, ranks, 20) if ranks[k] > 0 else None
            if trial is not None and trial.heldout <= allowed:
                self.best = trial
            else:
                open_bonds.pop(0)

    def worth_trying(self) -> Iterator[int]:
        """The bonds, where a sweep is cheap."""
        if self.best is not None and self.work(self.best.ranks) < 30 * CHEAP:
            yield from range(len(self.layout.bonds))

    # --- the end -----------------------------------------------------------------------------------------------------

    def refit(self) -> None:
        """Fit everything, from the best."""
        if self.best is None or self.stopped is not None:
            return
        obs = self.problem.observations
        if self.held is not None:
            self.train = self.held  # the room of the others is needed for all
        part = self.train = self.train if self.held is None else _Part.of(obs, self.layout, self.scale)
        best, steps = self.best, self.method.max_steps
        trial = self.fit(best.tensors, part, anneal=0.0, level=best.level, steps=steps, refit=True)
        if self.work(best.ranks) < CHEAP and trial.train > self.exact and self.stopped is None:
            level = trial.train**2
            exact = self.descend(trial.tensors, part, anneal=0.0, level=level, steps=steps, refit=True, close=True)
            if exact.train <= self.exact and self.layout.n_params(best.ranks) < part.net.n:
                trial = exact  # more entries than numbers, and all are met: there was no noise
        self.final, self.final_train = trial.tensors, trial.train

    def result(self) -> CompletionFit:
        """What is best, in the scale of the data."""
        if self.best is None:
            ranks = self.problem.ranks or (1,) * len(self.layout.bonds)
            start = random_tensors(self.layout, ranks, self.train.data.values, self.problem.rng)
            self.best = _Trial(ranks, tuple(t * 0 for t in start), 1.0, 1.0)
        tensors = self.best.tensors if self.final is None else self.final
        train = self.best.train if self.final_train is None else self.final_train
        share = self.scale ** (1.0 / len(tensors))
        status = self.stopped if self.stopped is not None else self.status
        heldout = None if self.held is None else self.best.heldout
        if status is REACHED:
            status = CONVERGED
        return CompletionFit(tuple(t * share for t in tensors), None, heldout, train, status, tuple(self.history))


def _rms(values: Tensor, weights: Tensor | None) -> float:
    """Root mean square by weight, without over- or underflow."""
    size = values.abs()
    largest = float(size.max())
    if largest == 0:
        return 0.0
    square = (size / largest).square()
    mean = square.mean() if weights is None else (square * weights).sum() / weights.sum()
    return largest * float(mean) ** 0.5 if float(mean) > 0 else largest
