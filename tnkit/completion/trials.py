"""Fits of a network to observed entries, and the best of them: the workshop of `tnkit.completion.als`.

A start anneals: κ falls from a value at which a sweep is a power iteration on the array with zeros where nothing is
known (the spectral start) to the level of noise that the held-out error tells.

References: Grasedyck, Kluge, Krämer 2015, doi:10.1137/130942401 (tensor trains); Zhou, Wilkinson, Schreiber, Pan 2008,
doi:10.1007/978-3-540-68880-8_32 (ridge by the number of samples).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, prod, sqrt
from typing import Protocol

import torch
from torch import Tensor

from tnkit.arrays import machine_eps
from tnkit.completion.entrywise import Entrywise
from tnkit.completion.observations import Observations
from tnkit.completion.rows import Data
from tnkit.completion.sweep import Tensors, balanced, grown, shrunk, sweep
from tnkit.formats import Layout, random_tensors
from tnkit.solvers import CONVERGED, INTERRUPTED, MAX_STEPS, TIME_LIMIT, Control, Status, iterate

__all__ = ["CHEAP", "Part", "Rules", "Trial", "Trials", "rms"]

#: Multiplications of one sweep below which more starts are always tried.
CHEAP = 3e7
RATE = 0.8
#: Of an effort, the share that is for finding ranks and starts; the rest is kept for the fit to everything.
SEARCH = 0.75
#: What a sweep takes beside the squares of unknowns, in multiplications: an unknown and a node for each entry, a node.
UNKNOWN, VISIT, NODE = 180.0, 310.0, 1.3e7


class Rules(Protocol):
    """The options of the method that count here; see `tnkit.completion.CompletionALS`."""

    @property
    def max_steps(self) -> int:
        """Sweeps of one fit."""

    @property
    def tol(self) -> float:
        """When it ends."""

    @property
    def patience(self) -> int:
        """Over how many sweeps."""

    @property
    def ridge(self) -> float:
        """How strongly rows with few entries are drawn to zero."""

    @property
    def gain(self) -> float:
        """By what share the held-out error must fall."""

    @property
    def effort(self) -> float | None:
        """Multiplications of all sweeps at the most, as `Trials.cost` counts them."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
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
class Part:
    """Some of the entries with the network at them."""

    net: Entrywise
    data: Data
    norm2: float

    @staticmethod
    def of(obs: Observations, layout: Layout, scale: float) -> Part:
        """The network at these entries, whose values are divided by `scale`."""
        rows = layout.inner_plan.positions(obs.indices)
        root = None if obs.weights is None else obs.weights.sqrt()
        data = Data(obs.values / scale, root)
        net = Entrywise.of(layout.topology, layout.sizes, rows)
        return Part(net, data, max(float(data.weighted.abs().square().sum()), 1e-30))

    def error(self, tensors: Tensors) -> float:
        """Relative error at the entries."""
        r = self.data.values - self.net.values(tensors)
        r = r if self.data.root_weight is None else r * self.data.root_weight
        return sqrt(float(r.abs().square().sum()) / self.norm2)


@dataclass(slots=True, eq=False)
class Trials:
    """Fits to the same entries: the best one survives an interruption.

    Attributes:
        rules: options.
        layout: of the network.
        train: the entries that are fitted.
        held: those that tell how good a fit is; None where none are held out.
        control: deadline and progress.
        rng: random numbers.
        best: of the smallest held-out error.
        stopped: why there is to be no further fit, or None.
        status: how the last fit ended.
        spent: multiplications so far, as `cost` counts them.
    """

    rules: Rules
    layout: Layout
    train: Part
    held: Part | None
    control: Control
    rng: torch.Generator
    best: Trial | None = None
    stopped: Status | None = None
    status: Status = CONVERGED
    spent: float = 0.0

    @property
    def exact(self) -> float:
        """The error at which entries count as met exactly."""
        return 1e-10 if machine_eps(self.train.data.values.dtype) < 1e-12 else 1e-5

    def work(self, ranks: tuple[int, ...]) -> float:
        """Multiplications of a sweep, roughly."""
        return float(self.train.net.n) * sum(m * m for m in self.unknowns(ranks))

    def cost(self, ranks: tuple[int, ...], n: int) -> float:
        """The same for n entries, with what small networks take beside: a sweep does about 1e10 a second on one core.

        It is counted, not timed, so that what is bounded by it does not depend on how busy a machine is.
        """
        unknowns = self.unknowns(ranks)
        return NODE * len(unknowns) + n * sum(m * m + UNKNOWN * m + VISIT for m in unknowns)

    def unknowns(self, ranks: tuple[int, ...]) -> list[int]:
        """Of a row of each parameter node."""
        sizes = self.layout.label_sizes(ranks)
        topology = self.layout.topology
        return [
            prod(sizes[label] for label in topology.inputs[k] if label not in topology.output)
            for k in topology.parameters
        ]

    def fit(self, start: Tensors, part: Part, *, anneal: float, level: float, steps: int, refit: bool = False) -> Trial:
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
        part: Part,
        *,
        anneal: float,
        level: float,
        steps: int,
        refit: bool = False,
        close: bool = False,
    ) -> Trial:
        """See `fit`; with `close` the noise level is that of the fit alone."""
        held = None if refit else self.held
        noise = [level]
        n, norm2, floor = part.net.n, part.norm2, level if refit and not close else 0.0

        def step(state: Tensors, number: int) -> tuple[Tensors, float]:
            level = min(1.0, noise[0])
            annealed = anneal * RATE ** (number - 1) * min(1.0, 10 * level)

            def kappa(unknowns: int, rows: int) -> float:
                return annealed + self.rules.ridge * level * unknowns * rows / n

            tensors, residual2 = sweep(part.net, state, part.data, kappa)
            fitted = float(residual2) / norm2
            error = fitted**0.5 if held is None else held.error(tensors)
            noise[0] = max(fitted, floor) if held is None or close else error * fitted**0.5
            return tensors, error

        cost, effort = self.cost(self.layout.ranks_of(start), n), self.rules.effort
        left = inf if effort is None else (1.0 if refit else SEARCH) * effort - self.spent
        affordable = steps + 1 if left >= cost * (steps + 1) else max(1, int(left / cost))
        control = replace(
            self.control,
            max_steps=min(steps, affordable),
            tol=self.rules.tol if steps > 30 else 0.01,
            patience=self.rules.patience + (14 if anneal >= 1 else 0),
            target=self.exact / (100 if refit else 1),
        )
        start_error = inf if held is None else held.error(start)
        outcome = iterate(step, start, control, start_error=start_error)
        self.spent += cost * len(outcome.history)
        if outcome.status in (INTERRUPTED, TIME_LIMIT):
            self.stopped = outcome.status
        elif outcome.status is MAX_STEPS and affordable <= steps:
            self.stopped = MAX_STEPS
        self.status = outcome.status
        train = part.error(outcome.value)
        heldout = outcome.error if held is not None else train
        return Trial(self.layout.ranks_of(outcome.value), outcome.value, heldout, train)

    def random(self, ranks: tuple[int, ...]) -> Tensors:
        """Normal numbers, with a mean where the data has one: products of many factors of mean 0 would miss it."""
        values = self.train.data.values
        mean = min(1.0, abs(complex(values.mean())) / rms(values, None))
        drawn = balanced(random_tensors(self.layout, ranks, values, self.rng))
        size = drawn[0].abs().square().mean().sqrt()
        return tuple((1 - mean**2) ** 0.5 * t + mean * size for t in drawn)

    def fresh(self, ranks: tuple[int, ...], steps: int) -> Trial:
        """From a random network, annealed."""
        start = self.random(ranks)
        return self.fit(start, self.train, anneal=10.0, level=1.0, steps=steps)

    def raised(self, trial: Trial, ranks: tuple[int, ...], steps: int) -> Trial:
        """From a smaller network."""
        start = grown(self.layout, trial.tensors, ranks, 0.1, self.rng)
        return self.fit(start, self.train, anneal=0.5, level=trial.level, steps=steps)

    def lowered(self, trial: Trial, ranks: tuple[int, ...], steps: int) -> Trial:
        """From a larger network."""
        start = balanced(shrunk(self.layout, trial.tensors, ranks))
        return self.fit(start, self.train, anneal=0.0, level=trial.level, steps=steps)

    def keep(self, trial: Trial) -> bool:
        """Remember the best; whether this one is."""
        if self.best is None or trial.heldout < self.best.heldout:
            self.best = trial
            return True
        return False

    @property
    def done(self) -> bool:
        """Whether to look no further."""
        return self.stopped is not None or (self.best is not None and self.best.heldout <= self.exact)

    @property
    def hyper(self) -> bool:
        """Whether a bond joins more than two nodes; such networks are better grown than annealed."""
        return any(len(self.layout.topology.nodes_of(bond)) > 2 for bond in self.layout.bonds)

    @property
    def gain(self) -> float:
        """By how much the held-out error must fall: more than chance where few entries are held out."""
        return self.rules.gain if self.held is None else max(self.rules.gain, 0.5 * self.held.net.n**-0.5)


def rms(values: Tensor, weights: Tensor | None) -> float:
    """Root mean square by weight, without over- or underflow."""
    size = values.abs()
    largest = float(size.max())
    if largest == 0:
        return 0.0
    square = (size / largest).square()
    mean = square.mean() if weights is None else (square * weights).sum() / weights.sum()
    return largest * float(mean) ** 0.5 if float(mean) > 0 else largest
