"""SVDinsTN: one regularised fit that prunes the bonds of the fully connected network.

Each bond holds a diagonal matrix S_tl. The fit minimises

    ½‖X − TN(G, S)‖² + μ/2 Σ‖G_k‖² + Σ λ_tl ‖S_tl‖₁                                             (paper, eq. 5)

by proximal sweeps: each node in closed form, each diagonal by some ADMM steps with soft thresholds. Entries of S that
become zero take their slices with them, so the ranks fall during the fit. γ sets how strong the pull is, and so the
error: here γ is lowered step by step until eps is reached. What is left is polished by least squares.

Where the spectra of the cuts are known, a fit ends as soon as what it has pruned cannot reach eps any more. Then γ was
too strong: the network before that sweep is polished, and the next γ goes on from it where warm starts are on.

Reference: Zheng, Zhao, Zeng, Li, Jiang, Zhao, CVPR 2024, arXiv 2305.14912.

Example:
    >>> import tnkit as tk
    >>> x = tk.random_format("tr", (6, 6, 6, 6), 2, rng=0).to_dense()
    >>> tk.search(x, eps=1e-3, strategy=SVDinsTN(max_rank=3)).best.fit.n_params <= 120
    True
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.linalg.lstsq import solve_gram
from tnkit.search.full_network import FullNetwork
from tnkit.search.graph import Bond, Graph
from tnkit.search.greedy import lowered
from tnkit.search.objective import DenseObjective, Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting

__all__ = ["SVDinsTN", "first_ranks"]

_MOST_ENTRIES = 1500  # of a node without its mode: its normal matrix is the square of that


@dataclass(frozen=True, slots=True)
class SVDinsTN(Proposer):
    """Prune the fully connected network.

    Attributes:
        max_rank: of a bond at the start.
        gammas: γ of the paper, from strong to weak.
        mu: μ, the weight of the nodes' norms, for an array with entries of about 1.
        rho: ρ, the proximal weight.
        sweeps: of each fit at the most.
        admm: steps for a diagonal.
        tol: a fit ends when the tensor changes by less than this share in a sweep.
        steps: sweeps of the polish by least squares.
        lower: whether ranks are lowered afterwards, as far as eps holds; the paper does not.
    """

    max_rank: int = 4
    gammas: tuple[float, ...] = (3e-2, 1e-2, 3e-3, 1e-3, 1e-4)
    mu: float = 1.0
    rho: float = 1e-3
    sweeps: int = 100
    admm: int = 5
    tol: float = 1e-5
    steps: int = 80
    lower: bool = True
    name: ClassVar[str] = "svdinstn"
    summary: ClassVar[str] = "one regularised fit that prunes the fully connected network (arXiv 2305.14912)"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        objective = setting.objective
        if not isinstance(objective, DenseObjective):
            return
        tried: set[str] = set()
        net: FullNetwork | None = None
        for gamma in self.gammas:
            if net is None or not objective.warm or not self.admitted(objective, net):
                net = self.first(objective, setting.rng, gamma)
            if gamma != self.gammas[-1] and not self.admitted(objective, net):
                continue  # the shrunk spectra leave too little to start from
            self.fit(objective, net, gamma)
            if objective.control.out_of_time:
                return
            graph, tensors = net.graph()
            error = net.error()
            tensors = (tensors[0] / self.scale(objective), *tensors[1:])
            if graph.key in tried:
                continue
            tried.add(graph.key)
            best = yield from self.polished(setting, Trial(graph, tensors, error))
            if best is not None and objective.reached(best.error):
                if self.lower:
                    yield from lowered(setting, best, self.steps)
                return

    def polished(self, setting: Setting, start: Trial) -> Generator[list[Proposal], list[Trial | None], Trial | None]:
        """Least squares without the pull."""
        (trial,) = yield [Proposal(start.graph, start, steps=self.steps, starts=3)]
        return trial

    def scale(self, objective: DenseObjective) -> float:
        """To entries of about 1, as in the paper's data: μ is meant for those."""
        return sqrt(objective.x.numel()) / float(objective.x.norm())

    def first(self, objective: DenseObjective, rng: torch.Generator, gamma: float) -> FullNetwork:
        """Random nodes, and diagonals from the spectra of means."""
        x = objective.x * self.scale(objective)
        spectra = first_ranks(x, gamma, self.max_rank)
        net = FullNetwork.random(x, {bond: len(s) for bond, s in spectra.items()}, rng)
        for bond, s in spectra.items():
            net.diagonals[bond] = (s / s.max()).to(x.dtype)
        return net

    def fit(self, objective: DenseObjective, net: FullNetwork, gamma: float) -> None:
        """The regularised fit (algorithm 1 of the paper).

        Args:
            objective: with spectra or without.
            net: changes; where the pull is too strong, to the last state that the cuts admit.
            gamma: γ.
        """
        bounded = self.admitted(objective, net)
        before = net.dense()
        for _ in range(self.sweeps):
            nodes, diagonals = list(net.nodes), dict(net.diagonals)
            for k in range(net.x.ndim):
                gram, right = net.node_system(k)
                old = net.nodes[k].reshape(net.nodes[k].shape[0], -1)
                new = solve_gram(gram, right + self.rho * old.mT, self.mu + self.rho)
                net.nodes[k] = new.mT.reshape(net.nodes[k].shape)
            for bond in list(net.diagonals):
                self.shrink(net, bond, gamma)
            pruned = any(len(s) < len(diagonals[bond]) for bond, s in net.diagonals.items())
            if bounded and pruned and not self.admitted(objective, net):
                net.nodes, net.diagonals = nodes, diagonals
                return
            now = net.dense()
            if float((now - before).norm()) < self.tol * float(before.norm()) or objective.control.out_of_time:
                break
            before = now

    def admitted(self, objective: DenseObjective, net: FullNetwork) -> bool:
        """Whether no cut forbids eps at the ranks that are left."""
        ranks = {bond: len(s) for bond, s in net.diagonals.items()}
        graph = Graph(tuple(net.x.shape), [(k,) for k in range(net.x.ndim)], ranks)
        return objective.eps is None or objective.bound(graph) <= objective.eps

    def shrink(self, net: FullNetwork, bond: Bond, gamma: float) -> None:
        """The diagonal of a bond by ADMM; what is zero then is left out."""
        s = net.diagonals[bond]
        gram, right = net.bond_system(bond)
        level = gamma * float(s.abs().max()) * (self.rho + 1)
        weight = float(gram.diagonal().real.mean().clamp_min(1e-12))
        z, dual = s, torch.zeros_like(s)
        for _ in range(self.admm):
            free = solve_gram(gram, (right + self.rho * s + weight * (z - dual))[:, None], self.rho + weight)[:, 0]
            z = _soft(free + dual, level / weight)
            dual = dual + free - z
        net.diagonals[bond] = z
        net.prune(bond, z.abs() > 1e-12)


def first_ranks(x: Tensor, gamma: float, most: int) -> dict[Bond, Tensor]:
    """For each pair of modes the singular values of the mean over all others, shrunk by γ max(s)/s; at most `most`."""
    found = {}
    for a, b in combinations(range(x.ndim), 2):
        rest = [k for k in range(x.ndim) if k not in (a, b)]
        s = torch.linalg.svdvals(x.mean(rest) if rest else x)
        s = torch.clamp(s - gamma * s.max() / s.clamp_min(1e-12 * float(s.max()) + 1e-300), min=0)[:most]
        found[a, b] = s[s > 0] if bool((s > 0).any()) else s.new_ones(1)
    largest = max(x.ndim - 1, 1)
    cap = max(1, int(_MOST_ENTRIES ** (1 / largest)))
    return {bond: s[:cap] for bond, s in found.items()}


def _soft(values: Tensor, level: float) -> Tensor:
    return torch.sgn(values) * torch.clamp(values.abs() - level, min=0)


STRATEGIES.register(SVDinsTN.name, SVDinsTN)
