"""The objective of a search on a dense array: fit one graph, from its parent's tensors where there are any.

What the singular values of the unfoldings say about a graph is known before it is fitted: for every way to put the
nodes on two sides, the rank of that unfolding is at most the product of the bonds in between, so the error is at least
what the unfolding loses at that rank. Such a bound costs nothing, and prunes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import inf, sqrt

import torch
from torch import Tensor

from tnkit.decompose import ALS, Problem, Target
from tnkit.decompose.cut_spectra import CutSpectra
from tnkit.decompose.descent import Trial as Solved
from tnkit.decompose.hierarchical import fit_tree
from tnkit.decompose.rank_search import measured
from tnkit.decompose.resize import resized
from tnkit.decompose.tree_svd import is_tree
from tnkit.rng import normal
from tnkit.search.graph import Graph, chain
from tnkit.search.reduced import Reduced
from tnkit.search.together import fit_together, suits
from tnkit.search.tree_fit import TreeFits
from tnkit.solvers import CONVERGED, Control

__all__ = ["DenseObjective", "Objective", "Trial"]

_CUTS = 12  # modes up to which the spectra of all cuts are taken
_BOUNDED = 10  # nodes up to which all sides of a graph are looked at
_MANY, _DROPPED = 8, 32  # starts from which on larger parents are cut in several ways; ways at the most


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A graph that was fitted.

    Attributes:
        graph: with the ranks that were used.
        tensors: of its nodes.
        error: relative, measured.
        seconds: that the fit took.
        by: the proposer's name.
        effort: sweeps times starts that it was given at the most.
    """

    graph: Graph
    tensors: tuple[Tensor, ...]
    error: float
    seconds: float = 0.0
    by: str = ""
    effort: int = 0


class Objective(ABC):
    """What a search wants of a graph: a fit, an error, and a score.

    Concrete ones give `fit`, and `bound` where they know one.

    Args:
        shape: of the modes of the graphs.
        eps: the relative error that is asked, if any.
        max_params: the size that is allowed, if any.
        rng: random numbers.
        control: deadline and progress.

    Attributes:
        norm: of what is fitted, in which the spectra are.
        warm: whether a fit starts from its parent's tensors.
    """

    norm: float = 1.0
    warm: bool = True

    def __init__(
        self,
        shape: Sequence[int],
        *,
        eps: float | None,
        max_params: int | None,
        rng: torch.Generator,
        control: Control,
    ) -> None:
        self.shape, self.eps, self.max_params = tuple(shape), eps, max_params
        self.rng, self.control = rng, control

    @property
    def cuts(self) -> CutSpectra | None:
        """The spectra of all cuts, where they are known."""
        return None

    def bound(self, graph: Graph) -> float:
        """An error below which no fit of this graph can come."""
        return 0.0

    @abstractmethod
    def fit(self, graph: Graph, start: Trial | None = None, *, steps: int = 100, starts: int = 1) -> Trial:
        """The graph at its ranks."""

    def fit_tree(self, graph: Graph, start: Trial | None = None) -> Trial:
        """A tree at ranks that are chosen; here at those of the graph."""
        return self.fit(graph, start)

    def portable(self) -> Objective:
        """A copy that other processes can be sent: without random numbers, deadline and progress."""
        made = copy(self)
        made.rng, made.control = torch.Generator(), Control()
        return made

    def reached(self, error: float) -> bool:
        """Whether an error is as small as asked; never without an eps."""
        return self.eps is not None and error <= self.eps * (1 + 1e-9)

    def score(self, trial: Trial) -> tuple[float, float]:
        """To be least: the size where eps is asked and reached, else the error."""
        if self.eps is None:
            fits = self.max_params is None or trial.graph.n_params <= self.max_params
            return (trial.error if fits else inf, trial.graph.n_params)
        return (trial.graph.n_params if self.reached(trial.error) else inf, trial.error)


class DenseObjective(Objective):
    """Fits graphs to a dense array.

    Args:
        x: of the shape of the graphs, with a norm near 1.
        norm: of it.
        eps: the relative error that is asked, if any.
        max_params: the size that is allowed, if any.
        rng: random numbers.
        control: deadline and progress.
        warm: whether a fit starts from its parent's tensors.
        bounds: whether the spectra of all cuts are taken.
    """

    def __init__(
        self,
        x: Tensor,
        norm: float,
        *,
        eps: float | None,
        max_params: int | None,
        rng: torch.Generator,
        control: Control,
        warm: bool = True,
        bounds: bool = True,
    ) -> None:
        super().__init__(x.shape, eps=eps, max_params=max_params, rng=rng, control=control)
        self.x, self.norm, self.warm, self.bounds = x, norm, warm, bounds
        self.trees = TreeFits(x, norm, eps, max_params, rng, control)
        anything = self.problem(chain(self.shape, (1,) * (x.ndim - 1)), Target(eps=eps))
        self.reduced = Reduced.of(anything, eps)

    @property
    def cuts(self) -> CutSpectra | None:
        """The spectra of all cuts, taken when they are asked for; None where there are too many."""
        return self.trees.cuts if self.bounds and 2 <= self.x.ndim <= _CUTS else None

    def bound(self, graph: Graph) -> float:
        """An error below which no fit of this graph can come."""
        if self.cuts is None or len(graph.nodes) > _BOUNDED:
            return 0.0
        most = 0.0
        for mask, rank in graph.sides():
            if mask not in (0, self.cuts.full):
                tails = self.cuts.tails(mask)
                most = max(most, float(tails[min(rank, len(tails) - 1)]))
        return sqrt(most) / self.norm * (1 - 1e-3)  # the spectra are Gram matrices', exact to far less than that

    def problem(self, graph: Graph, target: Target) -> Problem:
        """A graph's decomposition."""
        return Problem(self.x, self.norm, graph.layout(), graph.spec(), target, self.rng, self.control)

    def fit(self, graph: Graph, start: Trial | None = None, *, steps: int = 100, starts: int = 1) -> Trial:
        """The graph at its ranks, to the asked eps or as well as it goes.

        Args:
            graph: the structure.
            start: a trial over the same nodes, or over others with the same modes.
            steps: sweeps at the most.
            starts: how many, if they are done together; random ones beside those from the trial.
        """
        begun = time.perf_counter()
        if start is None and graph.is_tree and len(graph.nodes) > 1 and self.trees.resolved:
            found, nodes = self.trees.at_ranks(graph, steps=steps)
            error = measured(self.problem(found, Target(eps=self.eps)), nodes)
            return Trial(found, nodes, error, time.perf_counter() - begun, effort=steps * starts)
        ranks = graph.bond_ranks()
        problem = self.problem(graph, Target(ranks=ranks, eps=self.eps))
        goal = None if self.eps is None else self.eps * (1 - 1e-5)
        method = ALS(max_steps=steps, starts=starts)
        given = [] if start is None or not self.warm else self.starts_from(start, graph, starts)
        if self.reduced is None or goal is None:
            trial = self._solve(method, problem, ranks, given, goal)
        else:
            core = self.reduced.within(problem)
            inside = [core.inside(tensors) for tensors in given]
            trial = core.outside(self._solve(method, core.problem, ranks, inside, core.goal(goal)))
        error = measured(problem, trial.tensors)
        return Trial(graph, tuple(trial.tensors), error, time.perf_counter() - begun, effort=steps * starts)

    def starts_from(self, trial: Trial, graph: Graph, count: int) -> list[tuple[Tensor, ...]]:
        """The tensors of a trial, and where many starts are asked half as many ways to drop what is too much of it."""
        first = moved(trial, graph, self.rng)
        if first is None:
            return []
        drawn = dropped(trial, graph, self.rng, min(count // 2, _DROPPED)) if count >= _MANY else []
        return [first, *drawn]

    def _solve(
        self,
        method: ALS,
        problem: Problem,
        ranks: tuple[int, ...],
        given: Sequence[Sequence[Tensor]],
        goal: float | None,
    ) -> Solved:
        """One start after the other, or all of them together."""
        if method.starts < 2 or is_tree(problem.layout, ranks) or not suits(problem, ranks, method.starts):
            return method.solve(problem, ranks, given[0] if given else None, goal, quick=True)
        tensors, error = fit_together(
            problem, ranks, given, goal, steps=method.max_steps, count=method.starts, control=self.control
        )
        return Solved(tensors, error, CONVERGED)

    def fit_tree(self, graph: Graph, start: Trial | None = None) -> Trial:
        """A tree at the ranks that what is asked needs; those of the graph do not count, and its shape is a start.

        Args:
            graph: a tree.
            start: a trial of a tree, from which to look more closely.
        """
        begun = time.perf_counter()
        if self.trees.resolved:
            found, nodes = self.trees.fit(graph) if start is None else self.trees.polish(start.graph, start.tensors)
            error = measured(self.problem(found, Target(eps=self.eps)), nodes)
            return Trial(found, nodes, error, time.perf_counter() - begun)
        problem = self.problem(graph, Target(eps=self.eps, max_params=self.max_params))
        fit = fit_tree(problem)
        error = measured(problem, fit.tensors)
        sizes = problem.layout.topology.sizes([t.shape for t in fit.tensors])
        found = graph.with_ranks_of(sizes)
        tensors = squeezed(graph, found, fit.tensors)
        return Trial(found, tensors, error, time.perf_counter() - begun)


def squeezed(old: Graph, new: Graph, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Without the axes of bonds that the new graph, of the same nodes, does not have: they have size 1."""
    found = []
    for before, after, t in zip(old.topology.inputs, new.topology.inputs, tensors, strict=True):
        sizes = dict(zip(before, t.shape, strict=True))
        found.append(t.reshape([sizes[label] for label in after]).contiguous())
    return tuple(found)


def moved(start: Trial, graph: Graph, rng: torch.Generator) -> tuple[Tensor, ...] | None:
    """The tensors of a trial with the bonds and ranks of another graph of the same nodes; None if the nodes differ.

    Longer bonds leave the tensor as it is (zeros on one side, small random numbers on the other).
    """
    old = start.graph
    if old.nodes != graph.nodes or old.shape != graph.shape:
        return None
    union = Graph(graph.shape, graph.nodes, dict.fromkeys((*old.ranks, *graph.ranks), 2))
    tensors = []
    for before, after, t in zip(old.topology.inputs, union.topology.inputs, start.tensors, strict=True):
        sizes = dict(zip(before, t.shape, strict=True))
        t = t.permute([before.index(label) for label in after if label in sizes])
        tensors.append(t.reshape([sizes.get(label, 1) for label in after]))
    ranks = {f"b{a}_{b}": graph.rank((a, b)) for a, b in union.ranks}
    done = resized(union.topology, tensors, ranks, rng)
    return squeezed(union, graph, done)


def dropped(start: Trial, graph: Graph, rng: torch.Generator, count: int) -> list[tuple[Tensor, ...]]:
    """Ways to lower the ranks of a trial to those of another graph of the same nodes; none where none is lower.

    A bond is one of many, as any matrix and its inverse may stand on it. Each way turns the bonds that are to be
    shorter by a random orthogonal matrix and cuts off the last places. A sweep later these are different starts near a
    larger network that fits well; far more of them arrive than of random ones.

    Args:
        start: a trial.
        graph: with the ranks that are wanted.
        rng: random numbers.
        count: ways.
    """
    shorter = {b: graph.rank(b) for b, r in start.graph.ranks.items() if graph.rank(b) < r}
    if not shorter or start.graph.nodes != graph.nodes:
        return []
    between = Graph(graph.shape, graph.nodes, {**start.graph.ranks, **shorter})
    found = []
    for _ in range(count):
        tensors = list(start.tensors)
        for (a, b), rank in shorter.items():
            full = start.graph.rank((a, b))
            square = normal((full, full), tensors[a], rng)
            turn = torch.linalg.qr(square)[0][:, :rank]  # (r, r')
            for node, matrix in ((a, turn), (b, turn.conj())):
                axis = start.graph.topology.inputs[node].index(f"b{a}_{b}")
                tensors[node] = torch.tensordot(tensors[node], matrix, dims=([axis], [0])).movedim(-1, axis)
        cut = Trial(between, squeezed(start.graph, between, tensors), start.error)
        made = moved(cut, graph, rng)
        if made is not None:
            found.append(made)
    return found


def replaced(trial: Trial, by: str) -> Trial:
    """The same with the name of who proposed it."""
    return replace(trial, by=by)
