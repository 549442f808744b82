"""Ranks by empirical variational Bayes: the analytic solution for each unfolding (EVBMF), and graphs of these ranks.

A matrix with noise of unknown level has singular values of signal above a threshold that the model knows in closed
form. Its rank for each set of modes gives a train, a Tucker tensor and the cheapest tree, without an eps.

Reference: Nakajima, Sugiyama, Babacan, Tomioka, JMLR 14 (2013): global analytic solution of fully-observed variational
Bayesian matrix factorization, theorem 2 and corollary 1.

Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 80)) + 0.1 * rng.normal(size=(60, 80))
    >>> evbmf_rank(np.linalg.svd(x, compute_uv=False), 60, 80)
    3
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

from tnkit.search.graph import chain, star
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting
from tnkit.search.tree_bounds import MOST_MODES, cheapest_trees

__all__ = ["BayesRanks", "evbmf_rank"]

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True, slots=True)
class BayesRanks(Proposer):
    """Graphs whose ranks are those of EVBMF.

    Attributes:
        steps: sweeps of each fit.
    """

    steps: int = 60
    name: ClassVar[str] = "evbmf"
    summary: ClassVar[str] = "train, Tucker and cheapest tree at the ranks of variational Bayes, for noisy arrays"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        cuts, shape = setting.objective.cuts, setting.shape
        d = len(shape)
        if cuts is None:
            return
        whole = int(np.prod(shape))

        def rank(mask: int) -> int:
            rows = int(np.prod([n for k, n in enumerate(shape) if mask >> k & 1]))
            tails = np.asarray(cuts.tails(mask), dtype=float)
            s = np.sqrt(np.clip(tails[:-1] - tails[1:], 0, None))
            return max(1, evbmf_rank(s, *sorted((rows, whole // rows))))

        graphs = [chain(shape, [rank(2 ** (k + 1) - 1) for k in range(d - 1)])]
        if d > 2:
            graphs.append(star(shape, [rank(1 << k) for k in range(d)]))
        if d <= MOST_MODES:
            table = np.ones((1, 2**d))
            for mask in range(1, 2 ** (d - 1)):
                table[0, mask] = table[0, 2**d - 1 - mask] = rank(mask)
            graphs.append(cheapest_trees(table, shape)[0][1])
        yield [Proposal(graph, steps=self.steps) for graph in graphs]


def evbmf_rank(s: Array, rows: int, columns: int) -> int:
    """The rank of a matrix with noise of unknown variance.

    Args:
        s: its singular values, the largest first; those that are missing count as zero.
        rows: its smaller side.
        columns: its larger side.

    Returns:
        How many singular values are above the threshold of the noise variance that minimises the free energy.
    """
    if not np.any(s > 0):
        return 0
    small, alpha = rows, rows / columns
    tau = 2.5129 * sqrt(alpha)  # an approximation of the root of the paper's equation for the threshold
    x_bar = (1 + tau) * (1 + alpha / tau)
    s2 = np.zeros(small)
    s2[: min(len(s), small)] = np.sort(np.asarray(s, dtype=float))[::-1][:small] ** 2
    total = float(s2.sum())
    most = max(min(int(np.ceil(small / (1 + alpha))) - 1, small - 1), 0)
    high = total / (small * columns)
    low = max(float(s2[most + 1]) / (columns * x_bar) if most + 1 < small else 0.0, float(s2[most:].mean()) / columns)
    if not low < high:
        return int((s2 > columns * high * x_bar).sum())
    found = scipy.optimize.minimize_scalar(
        lambda log: _free_energy(np.exp(log), s2, columns, alpha, x_bar),
        bounds=(np.log(max(low, 1e-12 * high)), np.log(high)),
        method="bounded",
    )
    return int((s2 > columns * np.exp(found.x) * x_bar).sum())


def _free_energy(variance: float, s2: Array, columns: int, alpha: float, x_bar: float) -> float:
    """Up to a constant (paper, eq. 26): Σ ψ(x) over the signal, x − log x over the noise."""
    x = np.clip(s2 / (columns * variance), 1e-300, None)
    noise, signal = x[x <= x_bar], x[x > x_bar]
    tau = 0.5 * (signal - 1 - alpha + np.sqrt(np.clip((signal - 1 - alpha) ** 2 - 4 * alpha, 0, None)))
    tau = np.clip(tau, 1e-300, None)
    kept = signal - tau + np.log((tau + 1) / signal) + alpha * np.log(tau / alpha + 1)
    return float((noise - np.log(noise)).sum() + kept.sum())


STRATEGIES.register(BayesRanks.name, BayesRanks)
