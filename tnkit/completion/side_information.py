"""CP with side information: factors that vary little along the edges of a graph, or in time.

    min ½ Σ_e w_e (y_e − x̂_e)² + ½ Σ_k λ_k tr(A_kᵀ L_k A_k) + ridge,

L_k the Laplacian of the graph of mode k, or that of a chain where the mode is time. The rows of a factor are then no
longer independent: its normal equations, block diagonal plus L_k ⊗ I, are solved by conjugate gradients preconditioned
by their blocks. A row without any entry, such as a sensor that is new, is told by its neighbours.

References: Narita, Hayashi, Tomioka, Kashima 2012, doi:10.1007/s10618-012-0280-z (relation-regularised CP); Yu, Rao,
Dhillon 2016 (temporal regularisation), NIPS, arXiv:1509.08333; Rao, Yu, Ravikumar, Dhillon 2015 (graphs, conjugate
gradients), NIPS 28.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import scipy
import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionProblem, own_layout, register
from tnkit.completion.cp_entries import CPEntries, with_weights, without_weights
from tnkit.completion.descent_method import DescentMethod
from tnkit.completion.factor_descent import fit_tensors, real_values
from tnkit.completion.observations import Observations
from tnkit.errors import OptionError, ShapeError
from tnkit.linalg.conjugate import conjugate_gradients
from tnkit.rng import generator, normal
from tnkit.solvers import INTERRUPTED, TIME_LIMIT

__all__ = ["SideInformation"]

Tensors = tuple[Tensor, ...]
#: Steps of conjugate gradients for one factor.
STEPS = 15


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class SideInformation(DescentMethod):
    """CP whose factors are smooth along graphs and in time.

    Attributes:
        graphs: from a mode to the (n, n) symmetric weights of its graph, at least 0; dense or of SciPy.
        time: modes whose neighbouring positions are alike.
        strengths: λ, relative to the mean of the normal equations; where there are several, held-out entries choose.
        ridge: pull to zero, relative to the same.
        max_steps, tol, patience, holdout, max_rank, starts: as of `DescentMethod`; a step is a sweep.

    Raises:
        OptionError: weights below 0 or not symmetric, modes that are not there, numbers outside their ranges.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> t = np.linspace(0, 3, 40)
        >>> x = np.sin(t)[:, None] * np.arange(1.0, 21.0)
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.3
        >>> mask[20] = False
        >>> done = complete(x, "cp", mask=mask, rank=1, method=SideInformation(time=(0,)))
        >>> bool(np.linalg.norm(done.filled[20] - x[20]) < 0.1 * np.linalg.norm(x[20]))
        True
    """

    graphs: Mapping[int, Any] = field(default_factory=dict)
    time: tuple[int, ...] = ()
    strengths: tuple[float, ...] = (0.01, 0.1, 1.0)
    ridge: float = 1e-3
    max_steps: int = 100
    tol: float = 2e-3
    patience: int = 6
    name: ClassVar[str] = "side_information"
    only: ClassVar[str] = "cp"
    refit: ClassVar[int] = 15
    summary: ClassVar[str] = "CP whose factors are smooth along given graphs and in time"

    def check(self) -> None:
        """Refuse strengths and modes that cannot be."""
        if not self.strengths or min(self.strengths) < 0 or self.ridge < 0:
            raise OptionError("SideInformation: one or more strengths of at least 0, and a ridge of at least 0.")
        both = set(self.graphs) & set(self.time)
        if both:
            raise OptionError(f"SideInformation: modes {sorted(both)} are given a graph and called time; choose one.")

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            OptionError: another format than CP.
            ShapeError: graphs that do not fit the array.
        """
        layout = own_layout(self, problem)
        obs = real_values(problem.observations, self.name)
        laplacians = self.laplacians(obs)
        seed = int(torch.randint(2**31, (), generator=problem.rng, device=problem.rng.device))
        fits: list[CompletionFit] = []
        for strength in self.strengths if self.holdout else self.strengths[:1]:
            rng = generator(seed, problem.rng.device)  # the same entries are held out in each
            here = replace(problem, rng=rng)
            fits.append(fit_tensors(here, layout, self.maker(laplacians, strength, rng), self.steps))
            if fits[-1].status in (INTERRUPTED, TIME_LIMIT) or fits[-1].heldout_error is None:
                break
        best = min(fits, key=lambda f: float("inf") if f.heldout_error is None else f.heldout_error)
        history = tuple(info for f in fits for info in f.history)
        renumbered = tuple(replace(info, step=k + 1) for k, info in enumerate(history))
        return replace(best, status=fits[-1].status, history=renumbered)

    def maker(self, laplacians: list[Tensor | None], strength: float, rng: torch.Generator) -> Any:
        """The iteration at one strength, for given entries."""
        return lambda obs: _Smooth(self, obs, rng, CPEntries.of_observations(obs), laplacians, strength)

    def laplacians(self, obs: Observations) -> list[Tensor | None]:
        """For each mode L as a sparse tensor of mean diagonal 1, or None.

        Raises:
            OptionError: graphs that are none, or of modes that are not there.
            ShapeError: a graph of another size.
        """
        wrong = [k for k in (*self.graphs, *self.time) if not 0 <= k < obs.ndim]
        if wrong:
            raise OptionError(f"SideInformation: modes {wrong} are named; there are 0 … {obs.ndim - 1}.")
        found: list[Tensor | None] = []
        for k, n in enumerate(obs.shape):
            if k in self.time and n > 1:
                weights = scipy.sparse.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1]).tocsr()
            elif k in self.graphs:
                weights = scipy.sparse.csr_array(self.graphs[k], dtype=float)
                if weights.shape != (n, n):
                    raise ShapeError(f"SideInformation: the graph of mode {k} is {weights.shape}; give ({n}, {n}).")
                uneven = abs(weights - weights.T).max() if weights.nnz else 0.0
                if weights.nnz and not (np.isfinite(weights.data).all() and weights.data.min() >= 0 and uneven == 0):
                    raise OptionError(f"SideInformation: the graph of mode {k} must be symmetric, finite, at least 0.")
            else:
                found.append(None)
                continue
            degree = np.asarray(weights.sum(1)).reshape(-1) - weights.diagonal()
            mean = float(degree.mean()) or 1.0
            laplacian = ((scipy.sparse.diags_array(degree + weights.diagonal()) - weights) / mean).tocoo()
            at = torch.from_numpy(np.stack(laplacian.coords).astype(np.int64))
            values = torch.from_numpy(laplacian.data).to(obs.values.dtype)
            found.append(torch.sparse_coo_tensor(at, values, (n, n), check_invariants=False).coalesce())
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Smooth:
    method: SideInformation
    obs: Observations
    rng: torch.Generator
    entries: CPEntries
    laplacians: list[Tensor | None]
    strength: float

    def start(self, ranks: tuple[int, ...], before: Tensors | None) -> Tensors:
        """Normal numbers with a mean, smoothed along the graphs; or smaller factors with a little noise."""
        r, d = ranks[0], self.obs.ndim
        factors = []
        for mode, n in enumerate(self.obs.shape):
            drawn = normal((n, r), self.obs.values, self.rng)
            laplacian = self.laplacians[mode]
            for _ in range(10 if laplacian is not None else 0):
                drawn = drawn - 0.3 * torch.sparse.mm(laplacian, drawn)
            factors.append((drawn / drawn.square().mean().sqrt().clamp_min(1e-30) + 0.3) * (1 / r) ** (1 / d))
        if before is not None:
            old = without_weights(before)
            factors = [torch.cat([o, 0.1 * f[:, o.shape[1] :]], 1) for o, f in zip(old, factors, strict=True)]
        return tuple(factors)

    def step(self, state: Tensors, number: int) -> Tensors:
        """Each mode once; all factors of equal size."""
        factors = list(state)
        for mode in range(len(factors)):
            factors[mode] = self.solved(factors, mode)
            sizes = torch.stack([f.norm().clamp_min(1e-30) / f.shape[0] ** 0.5 for f in factors])
            common = sizes.log().mean().exp()
            factors = [f * (common / s) for f, s in zip(factors, sizes, strict=True)]
        return tuple(factors)

    def solved(self, factors: list[Tensor], mode: int) -> Tensor:
        """One factor, by preconditioned conjugate gradients from where it is."""
        seen, right = self.entries.normal(factors, mode)
        rows, n, r = self.entries.blocks[mode].rows.long(), self.obs.shape[mode], factors[mode].shape[1]
        gram = seen.new_zeros(n, r, r).index_copy(0, rows, seen)
        rhs = seen.new_zeros(n, r).index_copy(0, rows, right[..., 0])
        mean = float(seen.diagonal(dim1=-2, dim2=-1).mean()) or 1.0
        eye = torch.eye(r, dtype=gram.dtype, device=gram.device)
        gram = gram + self.method.ridge * mean * eye
        laplacian = self.laplacians[mode]
        if laplacian is None:
            plain: Tensor = torch.linalg.solve(gram, rhs[..., None])[..., 0]
            return plain
        weight = self.strength * mean
        blocks = torch.linalg.inv(gram + weight * eye)

        def normal_of(a: Tensor) -> Tensor:
            found: Tensor = (gram @ a[..., None])[..., 0] + weight * torch.sparse.mm(laplacian, a)
            return found

        def by_blocks(a: Tensor) -> Tensor:
            found: Tensor = (blocks @ a[..., None])[..., 0]
            return found

        return conjugate_gradients(normal_of, rhs, by_blocks, start=factors[mode], max_steps=STEPS, tol=0.0)

    def tensors(self, state: Tensors) -> Tensors:
        """With weights of 1."""
        return with_weights(state)
