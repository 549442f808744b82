"""DAIN: a neural model of the entries, retrained on cells that it makes up where data matter most.

1. A network on the embeddings of an entry's positions, side by side, is trained on part of the entries; the others
   validate. At the end of each epoch t the gradients g of each entry's loss by the last layer's weights are taken.
2. The importance of a training cell is its influence on the validation loss,  Σ_t η ⟨g_cell, Σ_validation g⟩: how much
   the steps taken on it lowered that loss. The importance of an entity (a position of a mode) is Σ |importance| of its
   cells.
3. New cells are drawn, the position in each mode by the importance of the entities there; the trained model says their
   values; and the network is trained anew on all of them.

Reference: Oh, Kim, Rossi, Kumar 2021, "Influence-guided data augmentation for neural tensor completion", CIKM,
doi:10.1145/3459637.3482267, arXiv:2108.10248 (the layers, the rate, the epochs and the batches are the defaults there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from time import monotonic
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.factor_descent import real_values
from tnkit.completion.holdout import split
from tnkit.completion.observations import Observations
from tnkit.errors import OptionError
from tnkit.rng import generator
from tnkit.solvers import CONVERGED, INTERRUPTED, TIME_LIMIT, Control, Status, StepInfo

__all__ = ["DAIN", "entity_importance"]

#: Cells whose predictions or gradients are made at once.
CHUNK = 16384


@register
@dataclass(frozen=True, slots=True)
class DAIN(CompletionMethod):
    """A neural model of sparse entries with influence-guided augmentation; it gives predictions and no format.

    Attributes:
        augment: new cells by the number of training cells; 0 for the plain neural model.
        guided: whether positions are drawn by importance; False draws them evenly.
        embedding: numbers for each position of a mode.
        layers: widths of the hidden layers.
        max_steps: epochs of each training.
        rate: of Adam.
        batch: cells of a step.
        validation: share of the entries that validate, give the held-out error, and choose the epoch.

    The answer is the better one of the models with and without augmentation by the validating entries; no model is
    trained on those. Cost: an epoch takes about 6 N times the number of weights in multiplications, `1 + augment`
    times.

    Raises:
        OptionError: numbers outside their ranges.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import Observations, complete
        >>> rng = np.random.default_rng(0)
        >>> at = np.stack([rng.integers(n, size=600) for n in (15, 12, 10)], 1)
        >>> y = np.sin(at[:, 0] / 3) + np.cos(at[:, 1] / 4) * at[:, 2]
        >>> method = DAIN(embedding=8, layers=(32, 16), max_steps=40, batch=64, rate=5e-3)
        >>> done = complete(Observations(at, y, (15, 12, 10)), method=method)
        >>> done.heldout_error < 0.4, done.predict([[0, 0, 0]]).shape
        (True, (1,))
    """

    augment: float = 0.5
    guided: bool = True
    embedding: int = 50
    layers: tuple[int, ...] = (1024, 1024, 128)
    max_steps: int = 50
    rate: float = 1e-3
    batch: int = 1024
    validation: float = 0.1
    name: ClassVar[str] = "dain"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "a neural model of sparse entries, retrained with cells made up where influence is large"

    def __post_init__(self) -> None:
        whole = min(self.embedding, self.max_steps, self.batch, *self.layers) >= 1 if self.layers else False
        if not whole or self.augment < 0 or not self.rate > 0 or not 0 < self.validation < 1:
            raise OptionError(
                "DAIN: embedding, layers, max_steps and batch must be 1 or more, augment at least 0, rate above 0, "
                "validation above 0 and below 1."
            )

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
        """
        obs = real_values(problem.observations, self.name)
        held = split(obs, self.validation, problem.rng)
        known = obs if held is None else obs.take(~held)
        aside = None if held is None else obs.take(held)
        offset, scale = float(known.values.mean()), float(known.values.std(unbiased=False)) or 1.0
        run = _Run(self, problem.control, aside, offset, scale)
        plain = run.train(known.indices, (known.values - offset) / scale, obs.shape, problem.rng, influences=True)
        best = plain
        if self.augment and aside is not None and run.status is CONVERGED:
            count = max(1, round(self.augment * known.n))
            chances = plain.entities if self.guided else [torch.ones_like(e) for e in plain.entities]
            made = torch.stack([_drawn(c, count, problem.rng) for c in chances], 1).to(known.indices)
            every = torch.cat([known.indices, made])
            values = torch.cat([(known.values - offset) / scale, predicted(plain.model, made)])
            second = run.train(every, values, obs.shape, problem.rng, influences=False)
            best = second if second.error < plain.error else plain
        model = best.model

        def at(indices: Tensor) -> Tensor:
            return offset + scale * predicted(model, indices).to(obs.values.dtype)

        size = float(obs.values.norm())
        train = float((at(obs.indices) - obs.values).norm()) / size if size else 0.0
        heldout = None if aside is None else best.error
        return CompletionFit(None, None, heldout, train, run.status, tuple(run.history), function=at)


class _Net(nn.Module):
    """Embeddings side by side, hidden layers with ReLU, one number."""

    def __init__(self, shape: Sequence[int], method: DAIN, like: Tensor, rng: torch.Generator) -> None:
        super().__init__()
        self.tables = nn.ParameterList()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()

        def drawn(rows: int, columns: int, size: float) -> nn.Parameter:
            numbers = torch.randn((rows, columns), generator=rng, device=rng.device) * size
            return nn.Parameter(numbers.to(like))

        for n in shape:
            self.tables.append(drawn(n, method.embedding, 0.1))
        widths = [len(shape) * method.embedding, *method.layers, 1]
        for a, b in pairwise(widths):
            self.weights.append(drawn(b, a, sqrt(2.0 / a)))
            self.biases.append(nn.Parameter(like.new_zeros(b)))

    def hidden(self, indices: Tensor) -> Tensor:
        """(N, w) what the last layer gets."""
        h = torch.cat([table[indices[:, k]] for k, table in enumerate(self.tables)], 1)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = functional.relu(functional.linear(h, weight, bias))
        return h

    def last(self, h: Tensor) -> Tensor:
        """(N,) the numbers."""
        return functional.linear(h, self.weights[-1], self.biases[-1])[:, 0]

    def forward(self, indices: Tensor) -> Tensor:
        """(N,) the numbers at some positions."""
        return self.last(self.hidden(indices))


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    """model: at its best epoch. error: relative, of the validating entries. entities: for each mode the importances."""

    model: _Net
    error: float
    entities: list[Tensor]


@dataclass(slots=True, eq=False)
class _Run:
    method: DAIN
    control: Control
    aside: Observations | None
    offset: float
    scale: float
    status: Status = CONVERGED
    history: list[StepInfo] = field(default_factory=list)
    begun: float = field(default_factory=monotonic)

    def train(
        self, indices: Tensor, values: Tensor, shape: Sequence[int], rng: torch.Generator, influences: bool
    ) -> _Trained:
        """A network anew; the state of the epoch with the smallest error on the validating entries."""
        model = _Net(shape, self.method, values, rng)
        adam = torch.optim.Adam(model.parameters(), lr=self.method.rate)
        cells = values.new_zeros(len(values), dtype=torch.float64)
        least, good = float("inf"), {k: v.clone() for k, v in model.state_dict().items()}
        try:
            for _ in range(self.method.max_steps):
                order = torch.randperm(len(values), generator=rng, device=rng.device).to(indices.device)
                for picks in order.split(self.method.batch):
                    with torch.enable_grad():
                        loss = functional.mse_loss(model(indices[picks]), values[picks])
                        adam.zero_grad()
                        loss.backward()
                    adam.step()
                    if self.control.out_of_time:
                        break
                if influences:
                    cells += self.influences(model, indices, values)
                error = self.error(model, indices, values)
                if error < least:
                    least, good = error, {k: v.clone() for k, v in model.state_dict().items()}
                self.hear(error)
                if self.control.out_of_time:
                    self.status = TIME_LIMIT
                    break
        except KeyboardInterrupt:
            self.status = INTERRUPTED
        model.load_state_dict(good)
        return _Trained(model, least, entity_importance(indices, cells, shape))

    def influences(self, model: _Net, indices: Tensor, values: Tensor) -> Tensor:
        """(N,) η ⟨g_cell, Σ g_validation⟩ by the last layer's weights, the cells' hidden numbers times their errors."""
        if self.aside is None:
            return torch.zeros_like(values, dtype=torch.float64)
        with torch.no_grad():
            total: Tensor | None = None
            aside = (self.aside.values - self.offset) / self.scale
            for part in torch.arange(len(aside), device=aside.device).split(CHUNK):
                h = model.hidden(self.aside.indices[part])
                g = 2 * (model.last(h) - aside[part]) @ _with_one(h)
                total = g if total is None else total + g
            assert total is not None
            found = []
            for part in torch.arange(len(values), device=values.device).split(CHUNK):
                h = model.hidden(indices[part])
                found.append(2 * (model.last(h) - values[part]) * (_with_one(h) @ total))
        return self.method.rate * torch.cat(found).double()

    def error(self, model: _Net, indices: Tensor, values: Tensor) -> float:
        """Relative error on the validating entries, in the data's scale; on the training ones where none validate."""
        if self.aside is None:
            return float((predicted(model, indices) - values).norm() / values.norm().clamp_min(1e-30))
        off = self.offset + self.scale * predicted(model, self.aside.indices) - self.aside.values
        return float(off.norm() / self.aside.values.norm().clamp_min(1e-30))

    def hear(self, error: float) -> None:
        """Note an epoch."""
        self.history.append(StepInfo(len(self.history) + 1, error, monotonic() - self.begun))
        if self.control.progress is not None:
            self.control.progress(self.history[-1])


def entity_importance(indices: Tensor, cells: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """For each mode (n,) the sums of the sizes of the importances of the cells of each position.

    Args:
        indices: (N, d).
        cells: (N,) importances.
        shape: of the array.

    Example:
        >>> entity_importance(torch.tensor([[0, 1], [0, 0]]), torch.tensor([1.0, -2.0]), (2, 2))[0].tolist()
        [3.0, 0.0]
    """
    size = cells.abs()
    return [size.new_zeros(n).index_add_(0, indices[:, k], size) for k, n in enumerate(shape)]


def predicted(model: nn.Module, indices: Tensor) -> Tensor:
    """(N,) the model at some positions."""
    with torch.no_grad():
        return torch.cat([model(part) for part in indices.split(CHUNK)])


def _drawn(importance: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Positions with chances in proportion to their importance (evenly, if none has any)."""
    chances = importance if float(importance.sum()) > 0 else torch.ones_like(importance)
    total = torch.cumsum(chances.double(), 0)
    drawn = torch.rand(count, generator=generator(rng), device=rng.device, dtype=torch.float64).to(total.device)
    return torch.searchsorted(total, drawn * total[-1], right=True).clamp_max(len(total) - 1)


def _with_one(h: Tensor) -> Tensor:
    return functional.pad(h, (0, 1), value=1.0)
