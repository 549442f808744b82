"""LRTFR: Tucker factors that are small networks of the coordinates with sine activations, trained on what is observed.

    X̂ = C ×_1 f_1(1 … n_1) ×_2 f_2(1 … n_2) …,

f_k a multilayer perceptron from a coordinate to r_k numbers, f(t) = H_2 sin(ω₀ H_1 sin(ω₀ H_0 t)), with weight decay on
all weights, by Adam. The networks are Lipschitz-smooth, so the array is smooth as well as of low rank. It is given as a
Tucker tensor, whose factors are the networks at the positions.

Reference: Luo, Zhao, Li, Ng, Meng 2024, "Low-rank tensor function representation for multi-dimensional data recovery",
TPAMI, doi:10.1109/TPAMI.2023.3341688, arXiv:2212.00262.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, own_layout, register
from tnkit.completion.factor_descent import Steps, fit_tensors, real_values, values_at
from tnkit.completion.observations import Observations
from tnkit.errors import OptionError
from tnkit.formats import Layout

__all__ = ["FunctionalNetwork"]

Tensors = tuple[Tensor, ...]
#: Entries that a step sees at the most.
BATCH = 2**17


@register
@dataclass(frozen=True, slots=True)
class FunctionalNetwork(CompletionMethod):
    """Tucker whose factors are sine networks of the positions: smooth arrays, images, holes of any form.

    Attributes:
        width: hidden numbers of a network.
        frequency: ω₀; higher for finer detail.
        rate: of Adam.
        decay: of the weights.
        max_steps: of Adam at the most.
        holdout: share of the entries held out to stop and to choose ranks, and given back for the last steps.
        max_rank: without a rank, min(n_k, max_rank) is taken for mode k.

    Raises:
        OptionError: numbers outside their ranges.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> t = np.linspace(0, 3, 24)
        >>> x = np.sin(t[:, None] * t) + t
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.5
        >>> done = complete(x, mask=mask, method=FunctionalNetwork(width=32, max_steps=400))
        >>> bool(np.linalg.norm(done.filled - x) < 0.1 * np.linalg.norm(x))
        True
    """

    width: int = 128
    frequency: float = 2.0
    rate: float = 1e-3
    decay: float = 0.1
    max_steps: int = 3000
    holdout: float = 0.05
    max_rank: int = 64
    name: ClassVar[str] = "functional_network"
    only: ClassVar[str] = "tucker"
    summary: ClassVar[str] = "Tucker whose factors are small sine networks of the positions (LRTFR)"

    def __post_init__(self) -> None:
        self.steps.require("FunctionalNetwork")
        if self.width < 1 or not (self.frequency > 0 and self.rate > 0) or self.decay < 0:
            raise OptionError(f"{self!r}: width must be 1 or more, frequency and rate above 0, decay at least 0.")

    @property
    def steps(self) -> Steps:
        """How long it runs; the error is measured every 25 steps."""
        return Steps(self.max_steps, 1e-3, 500, self.holdout, self.max_rank, 0, 25)

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            OptionError: another format than Tucker.
        """
        layout = own_layout(self, problem)
        obs = real_values(problem.observations, self.name)
        ranks = problem.ranks or tuple(
            min(n, self.max_rank, cap) for n, cap in zip(obs.shape, layout.caps, strict=True)
        )
        fixed = CompletionProblem(obs, layout, ranks, problem.rng, problem.control)
        return fit_tensors(fixed, layout, lambda part: _Networks(self, layout, part, problem.rng), self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class _Networks:
    method: FunctionalNetwork
    layout: Layout
    obs: Observations
    rng: torch.Generator

    def start(self, ranks: tuple[int, ...], before: Tensors | None) -> tuple[Tensors, Tensors, Tensors]:
        """Weights as of SIREN, and Adam's moments."""
        like, width, omega = self.obs.values, self.method.width, self.method.frequency
        weights: list[Tensor] = []

        def uniform(rows: int, columns: int, most: float) -> Tensor:
            drawn = torch.rand((rows, columns), generator=self.rng, device=self.rng.device, dtype=torch.float64)
            return ((2 * drawn - 1) * most).to(like)

        for r in ranks:
            weights += [uniform(1, width, 1.0), uniform(1, width, 1.0)]
            weights += [uniform(width, width, sqrt(6 / width) / omega), uniform(1, width, 1 / sqrt(width))]
            weights += [uniform(width, r, sqrt(6 / width) / omega)]
        core = uniform(1, int(torch.tensor(ranks).prod()), 1 / sqrt(max(ranks))).reshape(ranks)
        state = (core, *weights)
        zeros = tuple(torch.zeros_like(t) for t in state)
        return state, zeros, zeros

    def step(self, state: tuple[Tensors, Tensors, Tensors], number: int) -> tuple[Tensors, Tensors, Tensors]:
        """One step of Adam."""
        weights, first, second = state
        obs, method = self.obs, self.method
        leaves = tuple(w.detach().requires_grad_() for w in weights)
        picks: Tensor | slice = slice(None)
        if obs.n > BATCH:
            drawn = torch.randint(obs.n, (BATCH,), generator=self.rng, device=self.rng.device)
            picks = drawn.to(obs.values.device)
        with torch.enable_grad():
            off = values_at(self.layout, self.network(leaves), obs.indices[picks]) - obs.values[picks]
            square = off.square() if obs.weights is None else off.square() * obs.weights[picks]
            slopes = torch.autograd.grad(square.mean(), leaves)
        done: list[list[Tensor]] = [[], [], []]
        for w, a, b, slope in zip(weights, first, second, slopes, strict=True):
            a, b = 0.9 * a + 0.1 * slope, 0.999 * b + 0.001 * slope.square()
            change = a / (1 - 0.9**number) / ((b / (1 - 0.999**number)).sqrt() + 1e-8)
            for items, item in zip(done, (w - method.rate * (change + method.decay * w), a, b), strict=True):
                items.append(item)
        return tuple(done[0]), tuple(done[1]), tuple(done[2])

    def network(self, weights: Tensors) -> Tensors:
        """The Tucker tensor of the weights."""
        core, *rest = weights
        factors, omega = [], self.method.frequency
        for k, n in enumerate(self.obs.shape):
            first, shift, second, bias, last = rest[5 * k : 5 * k + 5]
            t = (
                torch.linspace(-1, 1, n, dtype=core.dtype, device=core.device)[:, None]
                if n > 1
                else core.new_zeros(1, 1)
            )
            spread = pi * max(1.0, n / 64)  # positions keep about the same distance whatever the size
            hidden = torch.sin(omega * (spread * t @ first + pi * shift))
            factors.append(torch.sin(omega * (hidden @ second + bias)) @ last)
        return (core, *factors)

    def tensors(self, state: tuple[Tensors, Tensors, Tensors]) -> Tensors:
        """The Tucker tensor."""
        with torch.no_grad():
            return self.network(state[0])
