"""Ranks for methods that fit given ranks: by eps, by size, or both.

- rank alone: those ranks. Size alone: the largest ranks that fit.
- eps: a direct method (or a closed form), where there is one, gives the first ranks that reach it. From the least
  ranks that the spectra of the unfoldings admit, ranks grow until eps is reached, as long as that is smaller; else
  ranks between the least and those of the direct method are tried. Then each bond is lowered as far as eps allows.
- Limits together with eps: the same within them. If eps is not reached there, the best within them and EPS_NOT_REACHED.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, prod
from typing import TypeAlias

from torch import Tensor

from tnkit.decompose.base import Fit, Method, Problem, Target
from tnkit.decompose.compressed import compress_for_error
from tnkit.decompose.descent import NEWTON_MOST, NEWTON_QUICK, Trial, ended, rounding_error
from tnkit.decompose.measure import relative_error
from tnkit.decompose.resize import resized
from tnkit.decompose.run import error_floor
from tnkit.decompose.tree_svd import is_tree
from tnkit.formats import grow_within, ranks_within
from tnkit.linalg import rank_for_tail, spectrum
from tnkit.registry import METHODS
from tnkit.solvers import EPS_NOT_REACHED, Control

__all__ = ["RankSearch", "direct_fit", "measured", "newton_limit", "search_ranks", "steps_of"]

Ranks: TypeAlias = "tuple[int, ...]"

#: By how much ranks grow from one attempt to the next.
GROWTH = 1.35
#: Attempts between the least ranks and those of a direct method.
HALVINGS = 5
#: Steps of an attempt, and the fall of the error over five of them with which it goes on.
QUICK_STEPS, QUICK_TOL = 40, 5e-3
#: An attempt that ends this near to eps goes on with all the steps there are, and a small one from all starts.
NEAR = 1.03
#: An eps above this is a matter of size; below, of structure that is there or not.
ROUGH = 0.02


class RankSearch(Method):
    """A method that fits given ranks; what it is asked beyond that, `search_ranks` does with it."""

    @abstractmethod
    def solve(
        self, problem: Problem, ranks: Ranks, start: Sequence[Tensor] | None, goal: float | None, *, quick: bool = False
    ) -> Trial:
        """Fit these ranks.

        Args:
            problem: what to fit.
            ranks: one a bond; all must be used.
            start: tensors of these ranks to begin with.
            goal: a relative error at which to stop.
            quick: one of many attempts of a search; may end early.
        """

    def direct(self, problem: Problem) -> Trial | None:
        """Something within the limits of the target that reaches its eps, without iteration; None if there is none.

        With neither eps nor size in the target: something exact within its ranks.
        """
        return None

    def sized(self, problem: Problem) -> Trial | None:
        """What a direct method makes of a size, as a hint of which ranks are worth most; None if there is none."""
        return None

    def fit(self, problem: Problem) -> Fit:
        """See `search_ranks`."""
        return search_ranks(problem, self)


def measured(problem: Problem, tensors: Sequence[Tensor]) -> float:
    """The true relative error of some tensors."""
    layout = problem.layout
    value = layout.format.from_tensors(tuple(tensors), **layout.static)
    return relative_error(problem.x, value, norm=problem.norm)


def direct_fit(problem: Problem, names: Sequence[str], target: Target | None = None) -> Trial | None:
    """What the first registered one of some direct methods gives for this problem."""
    for name in names:
        if name in METHODS:
            method: Method = METHODS.get(name)()
            asked = problem if target is None else replace(problem, target=target)
            if method.takes(problem.layout.name) and method.suits(problem.layout):
                fit = method.fit(asked)
                return Trial(fit.tensors, measured(problem, fit.tensors), fit.status, fit.history)
    return None


def search_ranks(problem: Problem, method: RankSearch) -> Fit:
    """Decompose by whatever is asked (see the module)."""
    target, layout = problem.target, problem.layout
    if target.eps is None:
        caps = problem.max_ranks
        ranks = caps if target.max_params is None else ranks_within(layout, target.max_params, caps)
        best = method.direct(replace(problem, target=Target(ranks=ranks))) or method.solve(problem, ranks, None, None)
        if target.max_params is not None and not ended(best.status) and best.error > rounding_error(problem.x.dtype):
            best = min(best, _by_hint(problem, method, ranks) or best, key=lambda t: t.error)
    else:
        best = _Search(problem, method).run()
        best = replace(best, error=measured(problem, best.tensors))
        if best.error > target.eps and best.status.ok:
            best = replace(best, status=EPS_NOT_REACHED)
    return Fit(best.tensors, best.error, status=best.status, history=best.history)


def _by_hint(problem: Problem, method: RankSearch, known: Ranks) -> Trial | None:
    """The fit of the ranks that a direct method finds best for the size; None if those are known already."""
    layout, size = problem.layout, problem.target.max_params
    hint = method.sized(problem)
    if hint is None or size is None:
        return None
    ranks = layout.ranks_of(hint.tensors)
    ranks = tuple(min(r, cap) for r, cap in zip(ranks, problem.max_ranks, strict=True))
    ranks = grow_within(layout, ranks, size, problem.max_ranks)
    if ranks == known or layout.n_params(ranks) > size:
        return None
    start = resized(layout.topology, hint.tensors, dict(zip(layout.bonds, ranks, strict=True)), problem.rng)
    return method.solve(problem, ranks, start, None)


class _Search:
    """The search for the smallest ranks that reach eps; for large arrays in a basis that hardly loses anything."""

    def __init__(self, problem: Problem, method: RankSearch) -> None:
        assert problem.target.eps is not None
        self.whole, self.method, self.layout = problem, method, problem.layout
        self.over, self.tried = False, 0
        goal = max(problem.target.eps, error_floor(problem.x.dtype, len(problem.layout.shape)))
        self.inner = compress_for_error(problem, goal) if goal > ROUGH / 10 else None
        self.problem = problem if self.inner is None else self.inner.problem
        self.goal = goal if self.inner is None else self.inner.goal(goal)
        self.problem = replace(self.problem, target=replace(problem.target, eps=self.goal))

    def run(self) -> Trial:
        """The smallest that reaches eps, or the best within the limits, as a fit of the array."""
        found = self.search()
        return found if self.inner is None else self.inner.outside(found)

    def search(self) -> Trial:
        limits = self.limits()
        first = self.method.direct(self.whole)
        if first is not None and self.inner is not None:
            tensors = self.inner.inside(first.tensors)
            first = replace(first, tensors=tensors, error=measured(self.problem, tensors))
        if first is None or not self.reached(first):
            grown = self.grow(limits, inf)
            if grown is not None and self.reached(grown):
                return self.shrink(grown)
            return min((t for t in (grown, first) if t is not None), key=lambda t: t.error)
        if is_tree(self.layout):  # truncated SVDs find the ranks of a structure, and near the best ones otherwise
            return first if self.goal < ROUGH else self.shrink(first)
        grown = self.grow(limits, self.layout.n_params(self.ranks(first)))
        if grown is not None and self.reached(grown):
            return self.shrink(grown)
        return self.shrink(first if self.over else self.between(first))

    def limits(self) -> Ranks:
        caps, size = self.whole.max_ranks, self.whole.target.max_params
        return caps if size is None else ranks_within(self.layout, size, caps)

    def ranks(self, trial: Trial) -> Ranks:
        return self.problem.layout.ranks_of(trial.tensors)

    def reached(self, trial: Trial) -> bool:
        return trial.error <= self.goal

    def measured(self, trial: Trial) -> Trial:
        return replace(trial, error=measured(self.problem, trial.tensors))

    def cold(self, ranks: Ranks) -> bool:
        """Whether new starts are better than the last tensors: where a structure is looked for and steps are cheap."""
        return self.problem.layout.n_params(ranks) <= newton_limit(self.goal, quick=True)

    def attempt(self, ranks: Ranks, start: Trial | None) -> Trial:
        """A fit at these ranks, its error measured."""
        tensors = None
        if start is not None:
            bonds = dict(zip(self.layout.bonds, ranks, strict=True))
            tensors = resized(self.layout.topology, start.tensors, bonds, self.problem.rng)
        goal = self.goal * (1 - 1e-5)
        trial = self.measured(self.method.solve(self.problem, ranks, tensors, goal, quick=True))
        if self.goal < trial.error <= NEAR * self.goal and not ended(trial.status):
            trial = self.measured(self.method.solve(self.problem, ranks, trial.tensors, goal))
            if not self.reached(trial) and self.layout.n_params(ranks) <= NEWTON_MOST and not ended(trial.status):
                fresh = self.measured(self.method.solve(self.problem, ranks, None, goal))
                trial = min(trial, fresh, key=lambda t: t.error)
        self.tried += 1
        self.over = self.over or ended(trial.status) or self.problem.control.out_of_time
        return trial

    # -- upwards

    def grow(self, limits: Ranks, size: float) -> Trial | None:
        """Larger and larger ranks until eps or the limits are reached, and as long as they take less than `size`.

        Returns the best; None if even the least ranks take more.
        """
        ranks = least_ranks(self.problem, limits)
        best: Trial | None = None
        last: Trial | None = None
        while self.layout.n_params(ranks) < size:
            last = self.attempt(ranks, None if self.cold(ranks) else last)
            if best is None or last.error < best.error:
                best = last
            if self.reached(last) or self.over or ranks == limits:
                break
            ranks = tuple(min(limit, max(r + 1, int(r * GROWTH))) for r, limit in zip(ranks, limits, strict=True))
            if self.layout.n_params(ranks) >= self.whole.x.numel():
                ranks = limits  # larger than the array itself: only an exact form is worth a try
        return best

    def between(self, best: Trial) -> Trial:
        """The smallest ranks on the way from the least ones to those of a direct method that reach eps."""
        top = self.ranks(best)
        low = least_ranks(self.problem, top, each=True)
        failed, done = 0.0, 1.0
        seen = {top}
        for _ in range(HALVINGS):
            middle = (failed + done) / 2
            ranks = tuple(round(a ** (1 - middle) * b**middle) for a, b in zip(low, top, strict=True))
            if self.over or ranks in seen:
                break
            seen.add(ranks)
            trial = self.attempt(ranks, None if self.cold(ranks) else best)
            if self.reached(trial):
                best, done = trial, middle
            else:
                failed = middle
        return best

    # -- downwards

    def shrink(self, best: Trial) -> Trial:
        """Lower one bond after the other as far as eps allows, the largest saving first."""
        if self.over or self.layout.n_params(self.ranks(best)) >= self.whole.x.numel():
            return best
        low = least_ranks(self.problem, self.ranks(best), each=True)
        closed = set[int]()
        budget = self.tried + 2 * len(self.layout.bonds) + 4
        while not self.over and self.tried < budget:
            ranks = self.ranks(best)
            bonds = [b for b, r in enumerate(ranks) if r > low[b] and b not in closed]
            if not bonds:
                break
            bond = min(bonds, key=lambda b: (self.layout.n_params(_put(ranks, b, ranks[b] - 1)), b))
            best = self.lowest(best, bond, low[bond])
            closed.add(bond)
        return best

    def lowest(self, best: Trial, bond: int, low: int) -> Trial:
        """The smallest rank of one bond that still reaches eps, by steps that double and then halve."""
        step, failed = 1, low - 1
        while not self.over:
            rank = self.ranks(best)[bond]
            down = max(failed + 1, rank - step)
            if down >= rank:
                break
            trial = self.attempt(_put(self.ranks(best), bond, down), best)
            if self.reached(trial):
                best, step = trial, step * 2
            else:
                failed, step = down, max(1, (rank - down) // 2)
                if rank - down == 1:
                    break
        return best


def _put(ranks: Ranks, bond: int, rank: int) -> Ranks:
    return (*ranks[:bond], rank, *ranks[bond + 1 :])


def least_ranks(problem: Problem, limits: Ranks, *, each: bool = False) -> Ranks:
    """Ranks below which the spectra of the unfoldings forbid eps.

    The unfolding along one mode has at most as large a rank as the bonds of the nodes that carry the mode admit, and
    needs as many singular values as eps says.

    Args:
        problem: with an eps.
        limits: the largest ranks.
        each: bond by bond, with the others at their limits; else the least uniform ranks.
    """
    needs = list(_needs(problem))
    layout = problem.layout

    def possible(ranks: Ranks) -> bool:
        sizes = layout.label_sizes(ranks)
        return all(prod(sizes[label] for label in labels) >= need for labels, need in needs)

    def alone(b: int) -> int:
        return _first(lambda r: possible(_put(limits, b, r)), limits[b])

    if each:
        return tuple(alone(b) for b in range(len(limits)))
    uniform = _first(lambda r: possible(tuple(min(r, limit) for limit in limits)), max(limits, default=1))
    return tuple(min(uniform, limit) for limit in limits)


def _first(test: Callable[[int], bool], most: int) -> int:
    """The smallest number from 1 to `most` that passes a monotone test; `most` if none does."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if test(middle) else (middle + 1, high)
    return low


def _needs(problem: Problem) -> list[tuple[tuple[str, ...], int]]:
    """For each mode on a node of its own: the bonds of the node, and the rank of the unfolding at eps."""
    topology, allowed = problem.layout.topology, problem.error2_allowed
    assert allowed is not None
    needs = []
    for axis, mode in enumerate(topology.output):
        holders = topology.nodes_of(mode)
        if len(holders) != 1 or topology.constants[holders[0]] is not None:
            continue
        labels = topology.inputs[holders[0]]
        if sum(label in topology.output for label in labels) > 1 or problem.x.shape[axis] == 1:
            continue
        unfolded = problem.x.movedim(axis, 0).reshape(problem.x.shape[axis], -1)
        found = spectrum(unfolded, tail2=allowed, norm2=problem.norm**2)
        bonds = tuple(label for label in labels if label not in topology.output and len(topology.nodes_of(label)) > 1)
        needs.append((bonds, rank_for_tail(found.s2, allowed + found.noise2)))
    return needs


def newton_limit(goal: float | None, *, quick: bool) -> int:
    """Up to how many parameters Gauss–Newton steps pay: in a search for a rough eps they do not."""
    if not quick:
        return NEWTON_MOST
    return NEWTON_QUICK if goal is not None and goal < ROUGH else 0


def steps_of(problem: Problem, *, max_steps: int, tol: float, goal: float | None, quick: bool = False) -> Control:
    """The problem's control with a method's own numbers; fewer steps for one of many attempts."""
    if quick:
        rough = goal is None or goal >= ROUGH
        max_steps = min(max_steps, QUICK_STEPS if rough else 2 * QUICK_STEPS)
        tol = max(tol, QUICK_TOL if rough else QUICK_TOL / 5)
    return replace(problem.control, max_steps=max_steps, tol=tol, target=goal)
