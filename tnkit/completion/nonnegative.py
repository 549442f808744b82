"""Non-negative CP: alternating least squares whose rows are kept non-negative, by hierarchical updates.

For one mode after the other, each row solves min_a≥0 ½ aᵀHa − bᵀa, with H and b from its observed entries, by passes of

    a_r ← max(0, a_r + (b_r − (H a)_r)/H_rr),

one component after the other (hierarchical alternating least squares on observed entries). The error never rises.

References: Cichocki, Phan 2009, doi:10.1587/transfun.E92.A.708 (HALS); Hsieh, Dhillon 2011, doi:10.1145/2020408.2020577
(coordinate descent).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionProblem, own_layout, register
from tnkit.completion.cp_entries import CPEntries, with_weights, without_weights
from tnkit.completion.descent_method import DescentMethod
from tnkit.completion.factor_descent import fit_tensors, real_values
from tnkit.completion.observations import Observations
from tnkit.errors import OptionError

__all__ = ["NonnegativeCP"]

Tensors = tuple[Tensor, ...]


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class NonnegativeCP(DescentMethod):
    """CP with factors and weights of at least 0: parts that add up, as for counts, spectra and concentrations.

    Attributes:
        passes: of the components of a mode, each time.
        ridge: pull to zero, as a share of the mean diagonal of the normal equations.
        max_steps, tol, patience, holdout, max_rank, starts: as of `DescentMethod`; a step is a sweep.

    Raises:
        OptionError: numbers outside their ranges.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> rng = np.random.default_rng(0)
        >>> a, b, c = (rng.random((n, 2)) for n in (15, 12, 10))
        >>> x = np.einsum("ir,jr,kr->ijk", a, b, c)
        >>> done = complete(x, "cp", mask=rng.random(x.shape) < 0.4, rank=2, method="nonnegative")
        >>> bool(np.linalg.norm(done.filled - x) < 1e-2 * np.linalg.norm(x)), bool((done.tensor.factors[0] >= 0).all())
        (True, True)
    """

    passes: int = 3
    ridge: float = 1e-6
    max_steps: int = 300
    tol: float = 2e-3
    patience: int = 10
    name: ClassVar[str] = "nonnegative"
    only: ClassVar[str] = "cp"
    summary: ClassVar[str] = "CP with factors of at least 0, by hierarchical least squares on the observed entries"

    def check(self) -> None:
        """Refuse passes and ridges outside their ranges."""
        if self.passes < 1 or self.ridge < 0:
            raise OptionError(f"{self!r}: passes must be 1 or more, ridge at least 0.")

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            OptionError: another format than CP.
        """
        layout = own_layout(self, problem)
        real_values(problem.observations, self.name)
        return fit_tensors(
            problem,
            layout,
            lambda obs: _Hierarchical(self, obs, problem.rng, CPEntries.of_observations(obs)),
            self.steps,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Hierarchical:
    method: NonnegativeCP
    obs: Observations
    rng: torch.Generator
    entries: CPEntries

    def start(self, ranks: tuple[int, ...], before: Tensors | None) -> Tensors:
        """Uniform numbers of the size of the data; or from where it was at these ranks."""
        if before is not None and before[0].shape[0] == ranks[0]:
            return without_weights(before)
        r, d = ranks[0], self.obs.ndim
        size = (float(self.obs.values.abs().mean()) / r) ** (1 / d) * 2
        drawn = (torch.rand((n, r), generator=self.rng, device=self.rng.device) for n in self.obs.shape)
        return tuple((size * t).to(self.obs.values) for t in drawn)

    def step(self, state: Tensors, number: int) -> Tensors:
        """Each mode once."""
        factors = list(state)
        for mode in range(len(factors)):
            gram, rhs = self.entries.normal(factors, mode)
            rows = self.entries.blocks[mode].rows.long()
            diagonal = gram.diagonal(dim1=-2, dim2=-1)
            diagonal.add_(self.method.ridge * diagonal.mean())
            floor = torch.finfo(gram.dtype).tiny
            a, b = factors[mode][rows], rhs[..., 0]
            for _ in range(self.method.passes):
                for r in range(a.shape[1]):
                    slope = b[:, r] - (gram[:, r] * a).sum(1)
                    a[:, r] = (a[:, r] + slope / gram[:, r, r].clamp_min(floor)).clamp_min(0.0)
            changed = torch.zeros_like(factors[mode])
            if len(rows) < len(changed):
                changed += a.mean(0)  # rows without entries: the mean of the others
            factors[mode] = changed.index_copy(0, rows, a)
            length = factors[mode].square().mean(0).sqrt()
            if mode + 1 < len(factors):  # scales wander to the last mode
                alive = length > 0
                factors[mode] = torch.where(alive, factors[mode] / length.clamp_min(floor), factors[mode])
                factors[-1] = factors[-1] * torch.where(alive, length, torch.ones_like(length))
        return tuple(factors)

    def tensors(self, state: Tensors) -> Tensors:
        """With weights of 1."""
        return with_weights(state)
