"""The objective of a search on observed entries: fit a graph to most of them, measure it on those that are held out.

The held-out entries are the same for all graphs. A fit from noise is annealed, one from a parent's tensors goes on; it
ends where the held-out error has settled, and its best sweep counts. So the error of a trial is that on what it has not
seen, and more ranks do not always help. From noise, graphs are fitted by least squares to a part of the entries, which
finds good valleys; larger ones go on from there by quasi-Newton steps on the whole dense tensor where that costs less
(`masked`).

Reference: sweeps as in `tnkit.completion.als` (Grasedyck, Kluge, Krämer 2015, doi:10.1137/130942401).
"""

from __future__ import annotations

import time
from copy import copy
from dataclasses import replace
from math import inf, sqrt

import torch
from torch import Tensor

from tnkit.completion.entrywise import Entrywise
from tnkit.completion.holdout import split
from tnkit.completion.observations import Observations
from tnkit.completion.rows import Data
from tnkit.completion.sweep import balanced, sweep
from tnkit.formats import Layout, random_tensors
from tnkit.search.graph import Graph
from tnkit.search.masked import Entries, descend_dense, is_cheaper
from tnkit.search.objective import Objective, Trial, moved
from tnkit.solvers import Control
from tnkit.tensorize import Tensorization

__all__ = ["ObservedObjective"]

_LEAST = 4000  # entries that every fit sees
_DENSE_RIDGE = 0.1  # of the ridge, where steps are on the dense tensor
_BEYOND = 0.1  # of the range of what is observed
_REFIT = 3  # rounds of such steps with nothing held out: they end early, as they did with it
_RATE, _ANNEALED, _PATIENCE = 0.8, 20, 5  # of the annealing; its sweeps; sweeps without a gain


class ObservedObjective(Objective):
    """Fits graphs to observed entries.

    Args:
        observations: all of them.
        plan: from the array to the modes of the graphs.
        rng: chooses what is held out, and starts.
        control: deadline.
        holdout: the share that is held out.
        ridge: as for `CompletionALS`.
        sample: entries of the fit at the most; a part of them is drawn where there are more.
        each: entries of a fit at the most for each number of the graph; small graphs need no more to be compared.
    """

    def __init__(
        self,
        observations: Observations,
        plan: Tensorization,
        *,
        rng: torch.Generator,
        control: Control,
        holdout: float = 0.1,
        ridge: float = 3.0,
        sample: int | None = None,
        each: int | None = None,
    ) -> None:
        super().__init__(plan.out_shape, eps=None, max_params=None, rng=rng, control=control)
        self.plan, self.ridge, self.all, self.each = plan, ridge, observations, each
        held = split(observations, holdout, rng)
        if held is None:
            held = torch.zeros(observations.n, dtype=torch.bool, device=observations.values.device)
        self.most = known = observations.take(~held)
        if sample is not None and known.n > sample:
            order = torch.randperm(known.n, generator=rng, device=rng.device)[:sample].to(held.device)
            picks = torch.zeros(known.n, dtype=torch.bool, device=held.device)
            picks[order] = True
            known = known.take(picks)
        self.order = torch.randperm(known.n, generator=rng, device=rng.device).to(known.values.device)
        self.known, self.held = known, observations.take(held) if bool(held.any()) else known
        self.scale = float(observations.values.abs().square().mean().sqrt()) or 1.0
        self.span: tuple[float, float] | None = (
            None  # where values may be expected: a little beyond those that are known
        )
        if not observations.values.is_complex():
            low, high = (float(v) / self.scale for v in observations.values.aminmax())
            self.span = (low - _BEYOND * (high - low), high + _BEYOND * (high - low))

    def portable(self) -> ObservedObjective:
        """See `Objective.portable`."""
        made = copy(self)
        made.rng, made.control = torch.Generator(), Control()
        made.all, made.most, made.known, made.held = (
            part.as_tensors() for part in (self.all, self.most, self.known, self.held)
        )
        return made

    def layout(self, graph: Graph) -> Layout:
        """Of a graph over the array's own shape."""
        return replace(graph.layout(), shape=self.plan.shape, tensorization=self.plan)

    def fit(self, graph: Graph, start: Trial | None = None, *, steps: int = 100, starts: int = 1) -> Trial:
        """The graph at its ranks.

        Args:
            graph: the structure.
            start: a trial over the same nodes.
            steps: sweeps at the most.
            starts: not used: one.
        """
        begun = time.perf_counter()
        tensors = None if start is None else moved(start, graph, self.rng)
        if tensors is not None and self.by_dense(graph, self.known):
            best, error = self.steps_on_dense(graph, tensors, self.most, self.held, steps)
        else:
            best, error = self.descend(graph, tensors, self.enough(graph), self.held, steps)
        return Trial(graph, best, error, time.perf_counter() - begun, effort=steps * starts)

    def enough(self, graph: Graph) -> Observations:
        """The entries that a fit of this graph sees."""
        most = self.known.n if self.each is None else max(_LEAST, self.each * graph.n_params)
        if most >= self.known.n:
            return self.known
        picks = torch.zeros(self.known.n, dtype=torch.bool, device=self.order.device)
        picks[self.order[:most]] = True
        return self.known.take(picks)

    def by_dense(self, graph: Graph, entries: Observations) -> bool:
        """Whether the whole dense tensor is the cheaper way."""
        return not entries.values.is_complex() and is_cheaper(graph, entries.n)

    def entries(self, some: Observations) -> Entries:
        """Scaled, at their places in the tensor of the graphs."""
        rows, places = self.plan.positions(some.indices), some.indices.new_zeros(some.n)
        for column, n in zip(rows.unbind(-1), self.shape, strict=True):
            places = places * n + column
        return Entries(places, some.values / self.scale, None if some.weights is None else some.weights.sqrt())

    def steps_on_dense(
        self,
        graph: Graph,
        start: tuple[Tensor, ...],
        entries: Observations,
        held: Observations | None,
        steps: int,
    ) -> tuple[tuple[Tensor, ...], float]:
        """As `descend`, by quasi-Newton steps on the dense tensor."""
        return descend_dense(
            graph,
            start,
            self.entries(entries),
            None if held is None else self.entries(held),
            rounds=steps,
            ridge=_DENSE_RIDGE * self.ridge,
            control=self.control,
        )

    def with_all_entries(self, trial: Trial, steps: int = 40) -> Trial:
        """A trial fitted to all that is not held out, where the fits see a part of it only; the better one."""
        if self.control.out_of_time:
            return trial
        if self.by_dense(trial.graph, self.most):
            tensors, error = self.steps_on_dense(trial.graph, trial.tensors, self.most, self.held, 2 * steps)
            return trial if error > trial.error else replace(trial, tensors=tensors, error=error)
        if self.most.n == self.enough(trial.graph).n:
            return trial
        tensors, error = self.descend(trial.graph, trial.tensors, self.most, self.held, steps, trial.error**2)
        return trial if error > trial.error else replace(trial, tensors=tensors, error=error)

    def refit(self, trial: Trial, steps: int = 30) -> tuple[tuple[Tensor, ...], float]:
        """A trial fitted to all entries, and its relative error on them."""
        if self.by_dense(trial.graph, self.all):
            tensors, _ = self.steps_on_dense(trial.graph, trial.tensors, self.all, None, _REFIT)
        else:
            tensors, _ = self.descend(trial.graph, trial.tensors, self.all, None, steps, level=trial.error**2)
        return tensors, self.error(trial.graph, tensors, self.all)

    def error(self, graph: Graph, tensors: tuple[Tensor, ...], entries: Observations) -> float:
        """Relative, at some entries."""
        return float(self.misfit(graph, tensors, entries).norm())

    def misfit(self, graph: Graph, tensors: tuple[Tensor, ...], entries: Observations) -> Tensor:
        """√w (x − y) over the norm of √w y at some entries, (N,), or (2N,) real numbers of complex ones; double."""
        off = entries.values / self.scale - self.network(graph, entries).values(tensors)
        root = None if entries.weights is None else entries.weights.sqrt()
        known = entries.values / self.scale
        off, known = (off, known) if root is None else (off * root, known * root)
        off = torch.view_as_real(off.resolve_conj()).flatten() if off.is_complex() else off
        return off.to(torch.float64) / max(float(known.norm()), 1e-30)

    def beyond(self, dense: Tensor) -> float:
        """How far a dense array of the graphs' shape goes beyond what was observed, relative; 0 for complex ones.

        It is likely to be a part of the error, and what is held out need not show it.
        """
        return 0.0 if self.span is None else float((dense - dense.clamp(*self.span)).norm()) / sqrt(dense.numel())

    def unscaled(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Tensors of the entries themselves; fits are of entries of root mean square 1."""
        return (tensors[0] * self.scale, *tensors[1:])

    def network(self, graph: Graph, entries: Observations) -> Entrywise:
        """At some entries."""
        layout = self.layout(graph)
        return Entrywise.of(layout.topology, layout.sizes, layout.inner_plan.positions(entries.indices))

    def descend(
        self,
        graph: Graph,
        start: tuple[Tensor, ...] | None,
        entries: Observations,
        held: Observations | None,
        steps: int,
        level: float = 1.0,
    ) -> tuple[tuple[Tensor, ...], float]:
        """Sweeps until the error on what is held out (or the fit itself) has settled; the best sweep."""
        net = self.network(graph, entries)
        root = None if entries.weights is None else entries.weights.sqrt()
        data = Data(entries.values / self.scale, root)
        norm2 = max(float(data.weighted.abs().square().sum()), 1e-300)
        beside = None if held is None else self.network(graph, held)
        target = None if held is None else held.values / self.scale
        tensors = self.random(graph, data.values) if start is None else balanced(start)
        heat, noise = (10.0 if start is None else 0.5 if held is not None else 0.0), level
        best, least, since = tensors, inf, 0
        for number in range(steps):
            warm = heat * _RATE**number * min(1.0, 10 * noise)

            def kappa(unknowns: int, rows: int, warm: float = warm, noise: float = noise) -> float:
                return warm + self.ridge * noise * unknowns * rows / entries.n

            tensors, residual2 = sweep(net, tensors, data, kappa)
            fitted = sqrt(max(float(residual2), 0.0) / norm2)
            error = fitted
            if beside is not None and target is not None:
                error = float((target - beside.values(tensors)).norm() / target.norm().clamp_min(1e-300))
                noise = min(1.0, error * fitted)
            if error < least * (1 - 2e-3):
                since = 0
            elif number >= (_ANNEALED if start is None else 0):
                since += 1
            if error < least:
                best, least = tensors, error
            if since >= _PATIENCE or least < 1e-10 or self.control.out_of_time:
                break
        return best, least

    def random(self, graph: Graph, values: Tensor) -> tuple[Tensor, ...]:
        """Normal numbers, with a mean where the data has one."""
        mean = min(1.0, abs(complex(values.mean())))
        drawn = balanced(random_tensors(graph.layout(), graph.bond_ranks(), values, self.rng))
        size = drawn[0].abs().square().mean().sqrt()
        return tuple((1 - mean**2) ** 0.5 * t + mean * size for t in drawn)
