"""The course of a cross interpolation: start, sweeps over the edges, checks over the whole domain, rounding."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, log2, sqrt
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tnkit.arrays import machine_eps
from tnkit.decompose.base import Fit
from tnkit.decompose.cross_sample import Estimate, Sample, TreeTensor, draw_sample, uniform_points, uniform_sample
from tnkit.decompose.cross_search import climb, unseen
from tnkit.decompose.cross_state import Pivots, add_pivot, first_pivot, local_residual, node_tensors
from tnkit.decompose.cross_sweep import Pending, Search, grow_edge
from tnkit.decompose.cross_tree import PivotTree, format_tensors, pivot_tree
from tnkit.decompose.source_method import SourceProblem
from tnkit.errors import OptionError
from tnkit.formats import Layout, TTSpec
from tnkit.formats.rank_plan import Limits, Truncated, truncate_within
from tnkit.formats.trees import tree_of
from tnkit.solvers import CONVERGED, REACHED, TIME_LIMIT, Progress, Status, StepInfo, iterate
from tnkit.sources import Entries

__all__ = ["CrossRun", "Effort", "zero_fit"]

Array: TypeAlias = "NDArray[Any]"
Points: TypeAlias = "NDArray[np.int64]"

#: Larger ones are never.
LARGEST_WHOLE = 2**24
#: Tolerances of the residual fall by this factor from sweep to sweep.
FALL = 5.0
#: The interpolation is to be so many times better than what is asked; the rounding takes the rest.
SHARE = 0.5
#: Where ranks or a size bind: so many times better than the truncation to them.
BOUND_SHARE = 0.25
#: Points whose error exceeds the tolerance so many times become pivots; so many at once when nothing else helps.
OUTLIER, MANY = 10.0, 32
#: Above this error the result is multiplied by what fits the sample best.
BAD = 0.5
#: Searches for peaks go on until so few of them end somewhere new, or so much of the evaluations is spent on them.
UNSEEN, SEARCH_SHARE = 0.05, 0.3
#: Rounds of fresh points and global searches that a result must pass.
CHECKS = 6

SPENT = Status(
    "max_evaluations",
    False,
    "the evaluations were spent; this is the best so far, give Cross(max_evaluations=…) for a better one",
)


class _SpentError(Exception):
    """The next entries would exceed max_evaluations, or the time is up."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass(frozen=True, slots=True)
class Effort:
    """The options of `Cross`; see there."""

    max_evaluations: int
    samples: int
    searches: int
    starts: int
    max_steps: int


def zero_fit(layout: Layout, like: Tensor, kind: str = "exact") -> Fit:
    """The zero array, at rank 1."""
    return Fit(tuple(like.new_zeros(s) for s in layout.shapes((1,) * len(layout.bonds))), 0.0, kind)


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """Where the iteration stands.

    Attributes:
        pivots: of all edges.
        pending: what the searches left on each edge.
        tolerance: that the last sweep went down to.
        sample: held-out points.
        tensor: the interpolation, or None before the first sweep.
        estimate: of its error.
        goal: that the estimate has to reach.
        checks: rounds of fresh points so far.
        passed: whether the last one found nothing.
    """

    pivots: Pivots
    pending: dict[int, Pending]
    tolerance: float
    sample: Sample
    tensor: TreeTensor | None = None
    estimate: Estimate = field(default_factory=lambda: Estimate(inf, inf, inf))
    goal: float = 0.0
    checks: int = 0
    passed: bool = False


class CrossRun:
    """One decomposition by `Cross`.

    Args:
        config: the options.
        problem: what is asked.
        source: the function; of at least two modes.
    """

    def __init__(self, config: Effort, problem: SourceProblem, source: Entries) -> None:
        self.config, self.problem, self.source = config, problem, source
        self.layout, self.target, self.shape = problem.layout, problem.target, source.shape
        self.tree: PivotTree = pivot_tree(problem.layout)
        self.like = torch.zeros(0, dtype=source.dtype, device=source.device)
        seed = int(torch.randint(2**62, (1,), generator=problem.rng, device=problem.rng.device))
        self.rng = np.random.default_rng(seed)
        self.unit = 1.0
        self.epsilon = machine_eps(source.dtype)
        self.scale = 0.0
        self.begun = source.evaluations
        self.ends = (
            self.uniform(0),
            np.zeros(0),
        )  # of all climbs on |f|, and the sizes there in the function's own units
        self.climbing = 0  # entries spent on them
        self.limited = False  # there is nothing to give back before the first pivot

    # --- values

    def f(self, points: Points) -> Array:
        """Values in units of their size; never more than max_evaluations of them."""
        room = self.config.max_evaluations - (self.source.evaluations - self.begun)
        if len(points) > room and self.source.new(points) > room:
            raise _SpentError(SPENT)
        if self.limited and self.problem.control.out_of_time:
            raise _SpentError(TIME_LIMIT)
        return self.source.at(points) / self.unit

    def size(self, points: Points) -> Array:
        """|f| in its own units."""
        size: Array = np.abs(self.f(points)) * self.unit
        return size

    def uniform(self, count: int) -> Points:
        """Points drawn uniformly."""
        return uniform_points(count, self.shape, self.rng)

    # --- the whole

    def fit(self) -> Fit | None:
        """The fit; None where it takes so many entries that the array is better read whole."""
        try:
            start = self.start()
        except _SpentError:
            raise OptionError(
                f"Cross(max_evaluations={self.config.max_evaluations}) does not reach the first pivot. Allow at least "
                f"{4 * self.config.samples + 2 * sum(self.shape)}."
            ) from None
        if start is None:
            return zero_fit(self.layout, self.like, "estimate")
        spent: list[Status] = []
        errors: list[float] = []

        def step(state: _State, number: int) -> tuple[_State, float]:
            try:
                after = self.sweep(state)
            except _SpentError as stop:
                spent.append(stop.status)
                raise KeyboardInterrupt from None  # ends the loop with the best so far
            errors.append(after.estimate.error)
            return after, -1.0 if after.passed or self.crowded else after.estimate.error

        def told(info: StepInfo) -> StepInfo:
            return replace(info, error=errors[info.step - 1])

        self.limited = True
        given = self.problem.control
        control = replace(given, max_steps=self.config.max_steps, tol=0.0, target=-0.5)
        listener: Progress | None = given.progress
        if listener is not None:
            control = replace(control, progress=lambda info: listener(told(info)))
        outcome = iterate(step, start, control)
        state = outcome.value
        if state.tensor is None:
            state = self.assembled(state)
        if self.crowded and not state.passed and not spent and outcome.status is REACHED:
            return None
        status = spent[0] if spent else CONVERGED if outcome.status is REACHED else outcome.status
        if status is CONVERGED and self.target.eps is not None and state.estimate.error <= self.target.eps:
            status = REACHED
        return self.rounded(state, status, tuple(told(info) for info in outcome.history))

    def start(self) -> _State | None:
        """The held-out uniform points, and pivots where a search finds the largest entries; None for nothing but 0."""
        config = self.config
        points = self.uniform(max(1, config.samples // 2))
        values = self.f(points)
        size = np.abs(values)
        tries = 0
        while not size.any() and tries < 4:  # nothing seen yet: look at more before calling it zero
            tries += 1
            points = np.concatenate([points, self.uniform(len(points))])
            values = self.f(points)
            size = np.abs(values)
        best = np.argsort(-size)[: (config.searches + 1) // 2]
        found, top = self.peaks(points[best])
        self.scale = float(top[0])
        if self.scale == 0.0:
            return None
        self.unit = 2.0 ** round(log2(self.scale))
        self.scale /= self.unit
        pivots = first_pivot(self.tree, self.f, found[0])
        state = _State(pivots, {}, self.scale, uniform_sample(points, values / self.unit, self.shape))
        return self.inserted(state, found[1:], 0.1 * self.scale)

    def peaks(self, starts: Points) -> tuple[Points, Array]:
        """Where climbs on |f| end, the largest first: from given starts and from random ones until few ends are new."""
        begun = self.source.evaluations
        room = max(4 * self.config.samples, SEARCH_SHARE * (begun - self.begun)) - self.climbing
        ends, sizes = self.ends
        while unseen(ends) > UNSEEN and self.source.evaluations - begun < room:
            fresh = self.uniform(self.config.searches - len(starts))
            found, top = climb(self.size, np.concatenate([starts, fresh]), self.shape, self.rng)
            ends, sizes = np.concatenate([ends, found]), np.concatenate([sizes, top])
            starts = starts[:0]
        self.ends = ends, sizes
        self.climbing += self.source.evaluations - begun
        ends, first = np.unique(ends, axis=0, return_index=True)
        order = np.argsort(-sizes[first], kind="stable")
        return ends[order], sizes[first][order]

    def sweep(self, start: _State) -> _State:
        """One tour over the edges at a smaller tolerance, outliers of the sample, and the error that is left."""
        state = start
        tolerance = max(state.tolerance / FALL, self.floor)
        search = Search(tolerance, self.config.starts, 0, self.floor)
        pivots, pending = state.pivots, dict(state.pending)
        edges = [edge for _, _, edge in self.tree.tour if edge is not None]
        for edge in edges if len(pivots.points[0]) % 2 else edges[::-1]:
            here = replace(search, cap=self.cap(edge))
            pivots, left = grow_edge(pivots, self.f, edge, here, pending.pop(edge, None), self.rng)
            if left is not None:
                pending[edge] = left
        state = self.assembled(replace(state, pivots=pivots, pending=pending, tolerance=tolerance))
        if state.estimate.error <= state.goal:
            return self.checked(state)
        state = self.outliers(state)
        if tolerance > self.floor or state.pivots.ranks != start.pivots.ranks:
            return state
        return self.stuck(state)

    def stuck(self, state: _State) -> _State:
        """Nothing is left that the edges can see: fresh points, of which the worst become pivots; or the end."""
        t = state.tensor
        assert t is not None
        sample = self.fresh(t)
        state = self.assembled(replace(state, sample=sample, checks=state.checks + 1))
        grown = self.outliers(state, MANY)
        over = state.checks >= CHECKS or grown.pivots.ranks == state.pivots.ranks
        return replace(state if over else grown, passed=over)

    @property
    def crowded(self) -> bool:
        """Whether so many entries are known that the others may as well be."""
        whole = self.source.numel
        known = self.source.evaluations
        allowed = self.config.max_evaluations + self.begun
        return 2 * known >= whole and whole <= min(allowed, LARGEST_WHOLE)

    @property
    def floor(self) -> float:
        """Residuals below this are rounding of the values."""
        return 2.0 * self.epsilon * self.scale

    def cap(self, edge: int) -> int:
        """The largest number of pivots of an edge: a little more than the ranks that are asked for."""
        limit = self.tree.caps[edge]
        if self.target.ranks:
            limit = min(limit, 2 * max(self.target.ranks) + 4)
        return limit

    # --- approximations and their errors

    def assembled(self, state: _State) -> _State:
        """With the interpolation of its pivots, its error and the goal."""
        tensor = TreeTensor(self.tree, node_tensors(state.pivots))
        state = replace(state, tensor=tensor, estimate=state.sample.estimate(tensor))
        return replace(state, goal=self.goal(state))

    def goal(self, state: _State) -> float:
        """The error at which more pivots are of no use."""
        eps, assert_tensor = self.target.eps, state.tensor
        assert assert_tensor is not None
        goal = 0.0 if eps is None else SHARE * eps
        if self.target.ranks is not None or self.target.max_params is not None:
            if state.estimate.mean > 0.3:
                return goal
            lost = sqrt(self.truncated(state.pivots, None)[1].lost2 / max(assert_tensor.norm2, 1e-300))
            goal = max(goal, BOUND_SHARE * lost)
        return max(goal, 4.0 * self.epsilon)

    def outliers(self, state: _State, count: int = 2) -> _State:
        """Held-out points that the pivots miss by far become pivots, and leave the sample."""
        assert state.tensor is not None
        off = np.abs(state.sample.values - state.tensor.at(state.sample.points))
        worst = np.argsort(-off)[:count]
        worst = worst[off[worst] > OUTLIER * state.tolerance]
        if not len(worst):
            return state
        grown = self.inserted(state, state.sample.points[worst], state.tolerance)
        return replace(grown, sample=state.sample.without(worst))

    def inserted(self, state: _State, points: Points, tolerance: float) -> _State:
        """Points as pivots of every edge whose own residual there exceeds the tolerance."""
        pivots = state.pivots
        for point in points:
            for edge in range(len(self.tree.edges)):
                if len(pivots.points[edge]) < self.cap(edge):
                    residual = local_residual(pivots, self.f, edge, point)
                    if residual > max(tolerance, self.floor):
                        pivots = add_pivot(pivots, self.f, edge, point)
        return replace(state, pivots=pivots)

    def checked(self, state: _State) -> _State:
        """Fresh points, and a search over the whole domain for large errors."""
        t = state.tensor
        assert t is not None
        sample = self.fresh(t)
        estimate = sample.estimate(t)
        found, size = self.searched(state, sample)
        # a peak that was missed is far above what the searches on the edges left
        limit = max(OUTLIER * estimate.worst, self.floor)
        missed = found[size > limit]
        done = estimate.error <= state.goal and not len(missed)
        state = replace(state, sample=sample, estimate=estimate, checks=state.checks + 1)
        if done or state.checks >= CHECKS:
            return replace(state, passed=True)
        if len(missed):
            tolerance = min(state.tolerance, float(size.max()) / OUTLIER)
            grown = self.inserted(state, missed, tolerance)
            return replace(grown, tolerance=tolerance * FALL)
        return state

    def fresh(self, t: TreeTensor) -> Sample:
        """A sample that nothing has been chosen by."""
        return draw_sample(t, self.f, self.config.samples, self.rng)

    def searched(self, state: _State, sample: Sample) -> tuple[Points, Array]:
        """Where |f − t| is large: from the worst points of the sample and near pivots; and the peaks of |f|."""
        t = state.tensor
        assert t is not None

        def off(points: Points) -> Array:
            size: Array = np.abs(self.f(points) - t.at(points))
            return size

        near = self.near_pivots(state.pivots)
        known = np.concatenate([sample.points, near])
        size = np.concatenate([np.abs(sample.values - t.at(sample.points)), off(near)])
        worst = np.argsort(-size)[: self.config.searches]
        found, size = climb(off, known[worst], self.shape, self.rng, rounds=2)
        peaks, _ = self.peaks(self.uniform(0))
        found, size = np.concatenate([found, peaks]), np.concatenate([size, off(peaks)])
        order = np.argsort(-size, kind="stable")
        return found[order], size[order]

    def near_pivots(self, pivots: Pivots) -> Points:
        """Pivots with one coordinate changed, and pivots with one side of their edge drawn anew.

        Pivots gather where the function is difficult; the second kind looks there at every scale.
        """
        count = self.config.samples // 2
        known = np.concatenate(pivots.points)
        single, fresh = known[self.rng.integers(len(known), size=count)], self.uniform(2 * count)
        rows, mode = np.arange(count), self.rng.integers(len(self.shape), size=count)
        single[rows, mode] = fresh[rows, mode]
        sides = fresh[count:]
        for k, edge in enumerate(self.rng.integers(len(self.tree.edges), size=count)):
            mask = self.tree.inside[self.tree.edges[edge][k % 2], int(edge)]
            sides[k, mask] = pivots.points[edge][self.rng.integers(len(pivots.points[edge]))][mask]
        return np.concatenate([single, sides])

    # --- the result

    def truncated(self, pivots: Pivots, error2: float | None) -> tuple[Layout, Truncated]:
        """The interpolation as the format, within the ranks, the size and an error."""
        layout = self.layout
        caps, size = self.target.ranks, self.target.max_params
        if layout.name == "tr":  # a ring with r_0 = 1 is a train
            layout = TTSpec().layout(self.shape)
            caps = None if caps is None else caps[1:] if len(self.shape) > 1 else ()
        arrays = format_tensors(self.tree, node_tensors(pivots), layout)
        tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
        limits = Limits(caps, error2, size)
        return layout, truncate_within(tree_of(layout.topology), tensors, layout.bonds, limits)

    def rounded(self, state: _State, status: Status, history: tuple[StepInfo, ...]) -> Fit:
        """The smallest result whose error, the interpolation's and the rounding's together, is within eps."""
        assert state.tensor is not None
        norm2, estimate, unit = state.tensor.norm2, state.estimate.error, self.unit
        if state.estimate.mean > BAD:  # what is far off is at least not worse than nothing
            factor, estimate = state.sample.fitted(state.tensor)
            unit *= factor
        error2: float | None = None
        if self.target.eps is not None:
            left2 = max((0.98 * self.target.eps) ** 2 - estimate**2, (0.1 * self.target.eps) ** 2)
            error2 = max(left2, self.epsilon**2) * norm2
        elif self.target.ranks is None and self.target.max_params is None:
            error2 = self.epsilon**2 * norm2
        _, done = self.truncated(state.pivots, error2)
        error = sqrt(estimate**2 + done.lost2 / norm2) if norm2 > 0 else estimate
        tensors = [t.to(self.source.device, self.source.dtype).contiguous() for t in done.tensors]
        tensors[0] = tensors[0] * unit
        return Fit(tuple(tensors), error, "estimate", status, history)
