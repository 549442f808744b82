"""FCTN: completion by a fully connected network, a core for each mode and a bond for each pair of modes.

    min ½ ‖X − FCTN(G_1 … G_d)‖²   with X = M on the observed entries,

by proximal alternating minimisation: with M_k the contraction of all other cores,

    G_k ← (X_(k) M_kᵀ + ρ G_k)(M_k M_kᵀ + ρI)⁻¹,      X ← (FCTN(G) + ρX)/(1 + ρ) where missing,

ρ = 0.1. Bonds begin at max(1, R − 5) and grow by one, with small random numbers, where X changes by less than
a hundredth.

Reference: Zheng, Huang, Zhao, Jiang, Zeng 2021, "Fully-connected tensor network decomposition and its application to
higher-order tensor completion", AAAI 35, doi:10.1609/aaai.v35i12.17321.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.convex import checked, compare_and_fit
from tnkit.errors import OptionError, ShapeError
from tnkit.rng import generator, normal

__all__ = ["FullyConnected"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
#: Modes at the most: bonds grow with their square.
MOST = 6


@register
@dataclass(frozen=True, slots=True)
class FullyConnected(CompletionMethod):
    """The fully connected network on arrays of two to six modes; it gives a dense array.

    Attributes:
        ranks: largest bonds, compared on held-out entries.
        starts: random starts for each.
        rho: of the proximal terms.
        tol: a run ends when a round changes the array by less than this share.
        max_steps: rounds of a run.
        holdout: share of the observed entries held out for the comparison, then given back; 0: the first is taken.

    Raises:
        OptionError: bonds below 1, rho or tol <= 0, or a share outside 0 … 1.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.fromfunction(lambda i, j, k: 1.0 + i * j + k, (12, 12, 12))
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.5
        >>> done = complete(x, mask=mask, method=FullyConnected(ranks=(2,)))
        >>> bool(np.linalg.norm(done.filled - x) < 5e-2 * np.linalg.norm(x))
        True
    """

    ranks: tuple[int, ...] = (2, 3, 4, 6)
    starts: int = 2
    rho: float = 0.1
    tol: float = 1e-5
    max_steps: int = 500
    holdout: float = 0.1
    name: ClassVar[str] = "fctn"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "a fully connected network by proximal alternating minimisation, bonds that grow"

    def __post_init__(self) -> None:
        if not self.ranks or min(self.max_steps, self.starts, *self.ranks) < 1:
            raise OptionError(f"{self!r}: max_steps, starts and one or more ranks must be 1 or more.")
        if not (self.tol > 0 and self.rho > 0 and 0 <= self.holdout < 1):
            raise OptionError(f"{self!r}: tol and rho must be above 0, holdout at least 0 and below 1.")

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: fewer than 2 or more than 6 modes.
        """
        obs = checked(problem.observations, self.name)
        if obs.ndim > MOST:
            raise ShapeError(f'method "{self.name}" takes arrays of 2 to {MOST} modes; this one has shape {obs.shape}.')
        cases = [(r, seed) for r in self.ranks for seed in range(self.starts)]
        makers = {f"{r} {seed}": partial(_Network, method=self, most=r, seed=seed, last=[]) for r, seed in cases}
        return compare_and_fit(problem, makers, holdout=self.holdout, tol=self.tol, max_steps=self.max_steps)


class _State(NamedTuple):
    """x: the array. cores: one a mode, (n_k, bonds to the others in their order)."""

    x: Tensor
    cores: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Network:
    """m: observed values, 0 elsewhere. seen: where observed. last: cores of the run before, with fewer entries."""

    m: Tensor
    seen: Tensor
    method: FullyConnected
    most: int
    seed: int
    last: list[tuple[Tensor, ...]]

    def start(self) -> _State:
        """Missing entries at the mean, random cores of small bonds; or where the run before has ended."""
        d, gen = self.m.ndim, generator(self.seed, self.m.device)
        x = torch.where(self.seen, self.m, self.m.sum() / self.seen.sum())
        if self.last:
            return _State(torch.where(self.seen, self.m, network(self.last[0])), self.last[0])
        rank = max(1, self.most - 5)
        cores = [torch.rand((n, *[rank] * (d - 1)), generator=gen, device=gen.device).to(x) for n in x.shape]
        size = float(network(cores).norm())
        share = (float(x.norm()) / max(size, 1e-30)) ** (1 / d)
        return _State(x, tuple(core * share for core in cores))

    def step(self, s: _State, number: int) -> tuple[_State, float]:
        """One round."""
        cores, rho = list(s.cores), self.method.rho
        for k, core in enumerate(cores):
            rest = others(cores, k)  # (bonds of k, all other modes)
            flat = core.flatten(1)
            gram = rest @ rest.mT + rho * torch.eye(len(rest), dtype=rest.dtype, device=rest.device)
            right = s.x.movedim(k, 0).flatten(1) @ rest.mT + rho * flat
            cores[k] = torch.linalg.solve(gram, right.mT).mT.reshape(core.shape)
        x = torch.where(self.seen, self.m, (network(cores) + rho * s.x) / (1 + rho))
        change = float((x - s.x).norm() / x.norm().clamp_min(1e-30))
        if change < 1e-2 and cores[0].ndim > 1 and cores[0].shape[1] < self.most:
            cores = [self.padded(core, 1000 * self.seed + number + k) for k, core in enumerate(cores)]
            return _State(x, tuple(cores)), max(change, 1.0)
        return _State(x, tuple(cores)), change

    def padded(self, core: Tensor, seed: int) -> Tensor:
        """One more on every bond, of small random numbers."""
        size = float(core.square().mean().sqrt())
        wide = (
            0.1 * size * normal((core.shape[0], *(r + 1 for r in core.shape[1:])), core, generator(seed, core.device))
        )
        wide[tuple(slice(0, n) for n in core.shape)] = core
        return wide

    def dense(self, state: _State) -> Tensor:
        """The array."""
        self.last[:] = [state.cores]
        return state.x


def _labels(d: int) -> tuple[list[str], list[str]]:
    """For each core its letters (the mode's first), and the modes' letters."""
    modes = [LETTERS[k] for k in range(d)]
    bonds = {pair: LETTERS[d + i] for i, pair in enumerate(combinations(range(d), 2))}
    cores = [modes[k] + "".join(bonds[min(k, j), max(k, j)] for j in range(d) if j != k) for k in range(d)]
    return cores, modes


def network(cores: Sequence[Tensor]) -> Tensor:
    """The dense array of the cores."""
    labels, modes = _labels(len(cores))
    return _contract(list(cores), labels, "".join(modes))


def others(cores: Sequence[Tensor], k: int) -> Tensor:
    """(bonds of k, all other modes) the contraction of all cores but one."""
    labels, modes = _labels(len(cores))
    rest = [j for j in range(len(cores)) if j != k]
    out = labels[k][1:] + "".join(modes[j] for j in rest)
    done = _contract([cores[j] for j in rest], [labels[j] for j in rest], out)
    return done.reshape(core_size(cores[k]), -1)


def core_size(core: Tensor) -> int:
    """Numbers of a core for each position of its mode."""
    return core.numel() // core.shape[0]


def _contract(tensors: list[Tensor], labels: list[str], out: str) -> Tensor:
    """One after the other, summing a letter when nobody else needs it."""
    done, letters = tensors[0], labels[0]
    for i, (tensor, own) in enumerate(zip(tensors[1:], labels[1:], strict=True), start=1):
        later = set(out).union(*labels[i + 1 :])
        kept = "".join(dict.fromkeys(x for x in letters + own if x in later))
        done = torch.einsum(f"{letters},{own}->{kept}", done, tensor)
        letters = kept
    return torch.einsum(f"{letters}->{out}", done)
