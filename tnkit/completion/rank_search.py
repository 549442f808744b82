"""Which ranks: starts of several kinds where ranks are given, growth while the held-out error falls where they are not.

Reference: Steinlechner 2016, doi:10.1137/15M1010506 (ranks grown by a control set).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf

from tnkit.completion.sweep import balanced, grown, shrunk
from tnkit.completion.trials import CHEAP, Trial, Trials

__all__ = ["RankSearch"]

#: Sweeps of a start at twice the ranks.
WIDE = 80


@dataclass(frozen=True, slots=True, eq=False)
class RankSearch:
    """Looks for ranks and a network; what it finds is `trials.best`.

    Attributes:
        trials: makes the fits.
        starts: at the most, for given ranks.
        max_rank: no bond grows beyond this; None for no limit.
        refine: whether ranks are also tried from fresh starts and one by one, up and down.
        thorough: whether more starts are tried even where a sweep is costly.
    """

    trials: Trials
    starts: int
    max_rank: int | None
    refine: bool = True
    thorough: bool = False

    def at_ranks(self, ranks: tuple[int, ...]) -> None:
        """Starts at given ranks, of several kinds in turn, until one is exact, is sound, or agrees with another."""
        t = self.trials
        small = max(ranks, default=1) == 1
        ample = t.train.net.n >= 8 * t.layout.n_params(ranks)
        first = self.annealed if not t.hyper else self.plain if ample else self.climb
        costly = t.hyper and t.work(ranks) >= CHEAP
        kinds: tuple[Callable[[tuple[int, ...]], Trial], ...]
        kinds = (first, self.wide if costly else self.over, self.through, self.climb, self.annealed)
        if costly and self.thorough:
            kinds = (self.wide, self.annealed, self.wide, self.annealed, self.wide)
        for number in range(self.starts):
            before = inf if t.best is None else t.best.heldout
            trial = self.annealed(ranks) if small else kinds[number % len(kinds)](ranks)
            t.keep(trial)
            sound = trial.heldout <= min(0.9, 2 * trial.train)
            agrees = sound and before < inf and abs(trial.heldout - before) <= 0.02 * before
            if t.done or agrees or not self.worth_another():
                return

    def annealed(self, ranks: tuple[int, ...]) -> Trial:
        """A random start at full rank."""
        t = self.trials
        return t.fresh(ranks, t.rules.max_steps)

    def plain(self, ranks: tuple[int, ...]) -> Trial:
        """A random start at full rank, not annealed."""
        t = self.trials
        start = t.random(ranks)
        return t.fit(start, t.train, anneal=0.0, level=1.0, steps=t.rules.max_steps)

    def wide(self, ranks: tuple[int, ...]) -> Trial:
        """A random start at twice the ranks, annealed, and down at once: terms of a hyperedge that miss are dropped."""
        t = self.trials
        larger = tuple(min(2 * r, cap) for r, cap in zip(ranks, t.layout.caps, strict=True))
        if t.layout.n_params(larger) > t.train.net.n:
            return self.climb(ranks)
        trial = t.fresh(larger, WIDE)
        return trial if t.stopped is not None and t.best is not None else t.lowered(trial, ranks, WIDE)

    def over(self, ranks: tuple[int, ...], share: float = 1 / 3) -> Trial:
        """From larger ranks, where there are fewer local minima, down to those that were asked for."""
        t = self.trials
        larger = tuple(min(r + max(1, int(r * share)), cap) for r, cap in zip(ranks, t.layout.caps, strict=True))
        if t.layout.n_params(larger) > t.train.net.n:
            return self.climb(ranks)
        trial = self.climb(larger, keep=False)
        while trial.ranks != ranks and t.stopped is None:
            lower = tuple(max(r - 1, least) for r, least in zip(trial.ranks, ranks, strict=True))
            trial = t.lowered(trial, lower, t.rules.max_steps if lower == ranks else 12)
        return trial if trial.ranks == ranks else t.lowered(trial, ranks, 1)

    def through(self, ranks: tuple[int, ...]) -> Trial:
        """Up, as where ranks are chosen, to twice the ranks at the most, and down from where it was best."""
        t = self.trials
        best = self.rising(limit=2 * max(ranks) + 1)
        while best.ranks != ranks and t.stopped is None:
            up = t.layout.n_params(best.ranks) < t.layout.n_params(ranks)
            nearer = tuple(r + (r < want) - (r > want) for r, want in zip(best.ranks, ranks, strict=True))
            best = t.raised(best, nearer, 20) if up else self.between(best, nearer)
        return best if best.ranks == ranks else self.between(best, ranks)

    def between(self, trial: Trial, ranks: tuple[int, ...]) -> Trial:
        """From a network with some ranks too large and some too small."""
        t = self.trials
        least = tuple(min(a, b) for a, b in zip(trial.ranks, ranks, strict=True))
        tensors = grown(t.layout, shrunk(t.layout, trial.tensors, least), ranks, 0.1, t.rng)
        return t.fit(balanced(tensors), t.train, anneal=0.0, level=trial.level, steps=20)

    def worth_another(self) -> bool:
        """Whether entries that were not seen are met much worse than those that were, or a start costs little."""
        t = self.trials
        assert t.best is not None
        stalled = t.best.heldout > min(0.9, 2 * t.best.train)
        return t.held is not None and (stalled or self.thorough or t.work(t.best.ranks) < CHEAP)

    def climb(self, target: tuple[int, ...], keep: bool = True) -> Trial:
        """From rank one to given ranks."""
        t = self.trials
        now = (1,) * len(target)
        trial = t.fresh(now, 12)
        while now != target and t.stopped is None:
            if keep:
                self.keep_if_of(trial, target)
            step = max(1, max(now) // 4)
            now = tuple(min(r + step, most) for r, most in zip(now, target, strict=True))
            trial = t.raised(trial, now, t.rules.max_steps if now == target else 12)
        return trial

    def keep_if_of(self, trial: Trial, target: tuple[int, ...]) -> None:
        """What is there if time ends on the way: a smaller network, at the ranks that were asked for."""
        t = self.trials
        if t.best is None:
            t.best = replace(trial, ranks=target, tensors=grown(t.layout, trial.tensors, target, 0.0, t.rng))

    def grow(self) -> None:
        """Ranks from one up, all together and then one by one, while the held-out error falls; then down again."""
        self.trials.keep(self.rising(limit=self.max_rank, keep=True))
        if self.refine:
            self.one_by_one()
            self.trim()

    def rising(self, limit: int | None, keep: bool = False) -> Trial:
        """All ranks from one up while the held-out error falls.

        Args:
            limit: no rank goes beyond this.
            keep: whether to remember the best on the way, should time end.
        """
        t = self.trials
        trial = best = t.fresh((1,) * len(t.layout.bonds), 30)
        misses = 0
        while t.held is not None and t.stopped is None and best.heldout > t.exact:
            if keep:
                t.keep(best)
            cheap = t.work(trial.ranks) < CHEAP
            ranks = self.next_ranks(trial.ranks, limit)
            if ranks is None or misses >= (4 if cheap else 2):
                break
            trial = t.raised(trial, ranks, 30)
            if cheap and self.refine and trial.heldout > t.exact and t.stopped is None:
                trial = min(trial, t.fresh(ranks, 60), key=lambda found: found.heldout)
            misses = 0 if trial.heldout < (1 - t.gain) * best.heldout else misses + 1
            best = min(best, trial, key=lambda found: found.heldout)
        return best

    def next_ranks(self, ranks: tuple[int, ...], limit: int | None) -> tuple[int, ...] | None:
        """All bonds raised, or None where nothing can grow."""
        t = self.trials
        step = max(1, max(ranks, default=1) // 4)
        cap = inf if limit is None else limit
        raised = tuple(int(max(r, min(r + step, most, cap))) for r, most in zip(ranks, t.layout.caps, strict=True))
        return None if raised == ranks or t.layout.n_params(raised) > t.train.net.n else raised

    def one_by_one(self) -> None:
        """Each bond in turn, one more; kept where the held-out error falls."""
        t = self.trials
        for k in self.worth_trying():
            if t.done or t.best is None:
                return
            base = t.best
            ranks = tuple(r + (j == k) for j, r in enumerate(base.ranks))
            if ranks[k] > t.layout.caps[k] or t.layout.n_params(ranks) > t.train.net.n:
                continue
            trial = t.raised(base, ranks, 12)
            if trial.heldout < (1 - t.gain) * base.heldout:
                t.keep(trial)

    def trim(self) -> None:
        """Each bond in turn, one less, as long as the held-out error stays within chance of the smallest."""
        t = self.trials
        open_bonds = list(self.worth_trying())
        least = t.best.heldout if t.best is not None else 0.0
        while open_bonds and t.stopped is None and t.best is not None:
            k, base = open_bonds[0], t.best
            ranks = tuple(r - (j == k) for j, r in enumerate(base.ranks))
            allowed = max(t.exact, least * (1 + t.gain / 2))
            trial = t.lowered(base, ranks, 20) if ranks[k] > 0 else None
            if trial is not None and trial.heldout <= allowed:
                t.best = trial
            else:
                open_bonds.pop(0)

    def worth_trying(self) -> Iterator[int]:
        """The bonds, where a sweep is cheap."""
        t = self.trials
        if t.best is not None and t.work(t.best.ranks) < 30 * CHEAP:
            yield from range(len(t.layout.bonds))
