"""Stochastic gradients with any loss, for any format: generalised completion of large coordinate sets.

    min Σ_e w_e f(x̂_e, y_e)

by Adam on samples of the observed entries, drawn anew for each step; an epoch ends with the loss on a fixed sample of
held-out entries, and where it has not fallen the rate is divided by ten and the last good state taken up again, a few
times. Losses for counts, binary values, positive and heavy-tailed ones stand in `tnkit.completion.losses`; where the
model must not be negative, neither are its tensors.

References: Kolda, Hong 2020, doi:10.1137/19M1266265 (stochastic gradients for generalised CP); Hong, Kolda, Duersch
2020, doi:10.1137/18M1203626; Kingma, Ba 2015, arXiv:1412.6980 (Adam).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.factor_descent import Steps, fit_tensors, gradients, real_values, values_at
from tnkit.completion.losses import LOSSES, Loss
from tnkit.completion.observations import Observations
from tnkit.errors import DataError, OptionError
from tnkit.formats import Layout, random_tensors

__all__ = ["StochasticGCP"]

Tensors = tuple[Tensor, ...]
#: Entries by which an epoch is judged where none are held out, and those of one judgement at the most.
JUDGED = 100_000


@register
@dataclass(frozen=True, slots=True)
class StochasticGCP(CompletionMethod):
    """Adam on samples of the entries, with a loss for the kind of values; any format.

    The model's tensor is what the loss speaks of: log-odds for "bernoulli", logarithms for "poisson_log", otherwise the
    expected values themselves.

    Attributes:
        loss: "gaussian", "huber", "absolute", "poisson", "poisson_log", "bernoulli" or "gamma".
        batch: entries of a sample.
        rate: of Adam at the start.
        epoch: steps between two judgements.
        max_steps: epochs of a run at the most.
        failures: how often the rate is lowered before a run ends.
        ridge: of the tensors, in the mean of an entry.
        holdout: share of the entries held out, and given back for the last epochs.
        max_rank: tried up to this where none is given.

    Raises:
        OptionError: an unknown loss, or numbers outside their ranges.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> rng = np.random.default_rng(0)
        >>> mean = 5 * np.einsum("ir,jr,kr->ijk", *(rng.random((n, 2)) for n in (20, 20, 20)))
        >>> counts = rng.poisson(mean).astype(float)
        >>> seen = rng.random(mean.shape) < 0.5
        >>> done = complete(counts, "cp", mask=seen, rank=2, method=StochasticGCP(loss="poisson"))
        >>> bool(np.linalg.norm(np.asarray(done.tensor) - mean) < 0.2 * np.linalg.norm(mean))
        True
    """

    loss: str = "gaussian"
    batch: int = 4096
    rate: float = 0.03
    epoch: int = 50
    max_steps: int = 60
    failures: int = 3
    ridge: float = 0.0
    holdout: float = 0.1
    max_rank: int = 6
    name: ClassVar[str] = "stochastic"
    summary: ClassVar[str] = "stochastic gradients with a loss for counts, binary, positive or heavy-tailed values"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise OptionError(f"StochasticGCP(loss={self.loss!r}): use one of {', '.join(LOSSES)}.")
        self.steps.require("StochasticGCP")
        if min(self.batch, self.epoch) < 1 or self.failures < 0 or not self.rate > 0 or self.ridge < 0:
            raise OptionError(f"{self!r}: batch and epoch must be 1 or more, rate above 0, the others at least 0.")

    @property
    def steps(self) -> Steps:
        """How long it runs; an epoch is a step."""
        return Steps(self.max_steps, 1e-3, 8, self.holdout, self.max_rank, 10)

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            DataError: values that the loss does not take.
        """
        layout, loss = problem.layout, LOSSES[self.loss]
        assert layout is not None
        obs = real_values(problem.observations, self.name)
        wrong = int((~loss.allowed(obs.values)).sum())
        if wrong:
            raise DataError(f'loss "{self.loss}" is for {loss.what}; {wrong} values are others. Name another loss.')
        return fit_tensors(
            problem,
            layout,
            lambda part: _Adam(self, layout, loss, part, problem.rng),
            self.steps,
            None if self.loss == "gaussian" else _deviance(layout, loss),
            loss.scales,
        )


def _deviance(layout: Layout, loss: Loss) -> Callable[[Tensors, Observations], float]:
    """The mean loss of a network above the least that any model could have there, by that of a constant."""

    def judged(tensors: Tensors, obs: Observations) -> float:
        x, w = obs.values, torch.ones_like(obs.values) if obs.weights is None else obs.weights
        with torch.no_grad():
            m = values_at(layout, tensors, obs.indices)
            m = m.clamp_min(0) if loss.positive else m
            mean = (w * x).sum() / w.sum().clamp_min(1e-30)
            constant = loss.from_mean(mean.expand_as(x))
            best = loss.of(loss.from_mean(x), x)
            left = (w * (loss.of(m, x) - best)).sum()
            whole = (w * (loss.of(constant, x) - best)).sum()
        return float((left.clamp_min(0) / whole.clamp_min(1e-30)).sqrt())

    return judged


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """tensors: of the network. first, second: Adam's moments. count, rate: its own. good, least: the best, its loss."""

    tensors: Tensors
    first: Tensors
    second: Tensors
    count: int
    rate: float
    good: Tensors
    least: float
    failed: int


@dataclass(frozen=True, slots=True, eq=False)
class _Adam:
    method: StochasticGCP
    layout: Layout
    loss: Loss
    obs: Observations
    rng: torch.Generator

    def start(self, ranks: tuple[int, ...], before: Tensors | None) -> _State:
        """Random tensors whose values are about the data's; or from where it was at these ranks."""
        if before is not None and self.layout.ranks_of(before) == ranks:
            tensors = tuple(before)
        else:
            drawn = random_tensors(self.layout, ranks, self.obs.values, self.rng)
            if self.loss.positive:
                drawn = tuple(t.abs() + 0.1 * t.abs().mean() for t in drawn)
            at = self.sample(min(self.obs.n, 10_000))
            size = float(values_at(self.layout, drawn, self.obs.indices[at]).square().mean().sqrt())
            wanted = float(self.loss.from_mean(self.obs.values.mean()).abs()) if not self.loss.scales else 0.3
            share = (max(wanted, 0.1) / max(size, 1e-30)) ** (1 / len(drawn))
            tensors = tuple(t * share for t in drawn)
        zeros = tuple(torch.zeros_like(t) for t in tensors)
        return _State(tensors, zeros, zeros, 0, self.method.rate, tensors, self.judged(tensors), 0)

    def sample(self, count: int) -> Tensor:
        """Places of some entries, drawn with replacement."""
        drawn = torch.randint(self.obs.n, (count,), generator=self.rng, device=self.rng.device)
        return drawn.to(self.obs.values.device)

    def judged(self, tensors: Tensors) -> float:
        """The mean loss of a fixed part of the entries."""
        part = slice(0, JUDGED) if self.obs.n <= JUDGED else slice(None, None, -(-self.obs.n // JUDGED))
        with torch.no_grad():
            m = values_at(self.layout, tensors, self.obs.indices[part])
            each = self.loss.of(m.clamp_min(0) if self.loss.positive else m, self.obs.values[part])
            return float((each if self.obs.weights is None else each * self.obs.weights[part]).mean())

    def step(self, state: _State, number: int) -> _State:
        """One epoch; a failed one is taken back."""
        if state.failed > self.method.failures:
            return state
        tensors, first, second, count = list(state.tensors), list(state.first), list(state.second), state.count
        batch = min(self.method.batch, self.obs.n)
        for _ in range(self.method.epoch):
            at = self.sample(batch)
            y = self.obs.values[at]
            w = None if self.obs.weights is None else self.obs.weights[at]
            _, slopes = gradients(self.layout, tensors, self.obs.indices[at], lambda m, y=y, w=w: self.mean(m, y, w))  # type: ignore[misc]
            count += 1
            for k, slope in enumerate(slopes):
                slope = slope + self.method.ridge * tensors[k] / len(tensors)
                first[k] = 0.9 * first[k] + 0.1 * slope
                second[k] = 0.999 * second[k] + 0.001 * slope.square()
                change = first[k] / (1 - 0.9**count) / ((second[k] / (1 - 0.999**count)).sqrt() + 1e-8)
                tensors[k] = tensors[k] - state.rate * change
                if self.loss.positive:
                    tensors[k] = tensors[k].clamp_min(0.0)
        now = self.judged(tuple(tensors))
        if now < state.least:
            done = tuple(tensors)
            return _State(done, tuple(first), tuple(second), count, state.rate, done, now, state.failed)
        zeros = tuple(torch.zeros_like(t) for t in tensors)
        return _State(state.good, zeros, zeros, 0, state.rate / 10**0.5, state.good, state.least, state.failed + 1)

    def mean(self, m: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
        """Of the losses of a sample."""
        each = self.loss.of(m, y)
        return (each if w is None else each * w).mean()

    def tensors(self, state: _State) -> Tensors:
        """The best so far."""
        return state.good
