"""Automatic relevance determination: a Bayesian fit that prunes the bonds of a graph.

Every slice of a bond has a precision γ_r, shared by the two nodes it joins, and a Gamma prior; the noise has a
precision τ. The posterior of each node is Gaussian given the others; slices that the data do not need are drawn to zero
by their growing precision, and go. The ranks that are left need no eps.

Nodes are taken at their posterior mean, with the trace of their covariance in the update of the precisions.

References: Zhao, Zhang, Cichocki, Bayesian CP factorization, doi:10.1109/TPAMI.2015.2392756, eqs. 23-33; MacKay 1994.
Here the graph is a ring, a train, or all bonds.

Example:
    >>> import tnkit as tk
    >>> x = tk.random_format("tr", (6, 6, 6, 6), 2, rng=0).to_dense()
    >>> tk.search(x, eps=1e-3, strategy=ARD("ring", max_rank=4)).best.fit.n_params
    96
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.resize import shorter_bond
from tnkit.search.full_network import FullNetwork
from tnkit.search.graph import Bond
from tnkit.search.greedy import lowered
from tnkit.search.objective import DenseObjective, Trial
from tnkit.search.proposer import STRATEGIES, Conversation, Proposal, Proposer, Setting

__all__ = ["ARD"]


@dataclass(frozen=True, slots=True)
class ARD(Proposer):
    """Prune a graph by relevance.

    Attributes:
        template: "full", "ring" or "train".
        max_rank: of each bond at the start.
        sweeps: at the most.
        forget: slices whose power is below this share of the largest of their bond are left out.
        cooling: by how much the precision of the noise may grow in a sweep: the fit is slower than the relevance.
        steps: sweeps of the least squares afterwards.
    """

    template: str = "ring"
    max_rank: int = 6
    sweeps: int = 150
    forget: float = 1e-3
    cooling: float = 1.2
    steps: int = 80
    name: ClassVar[str] = "ard"
    summary: ClassVar[str] = "Bayesian relevance of the slices of each bond prunes a ring, a train or all bonds"

    def propose(self, setting: Setting) -> Conversation:
        """See `Proposer.propose`."""
        if not isinstance(setting.objective, DenseObjective):
            return
        trial = self.fit(setting.objective, setting.rng)
        (best,) = yield [Proposal(trial.graph, trial, steps=self.steps, starts=3)]
        if best is not None and setting.objective.reached(best.error):
            yield from lowered(setting, best, self.steps)

    def fit(self, objective: DenseObjective, rng: torch.Generator) -> Trial:
        """The pruned graph."""
        scale = objective.x.numel() ** 0.5 / float(objective.x.norm())
        x, d = objective.x * scale, objective.x.ndim
        ranks = {b: self.max_rank if self.used(b, d) else 1 for b in combinations(range(d), 2)}
        net = FullNetwork.random(x, ranks, rng)
        precision = {bond: x.new_ones(r) for bond, r in ranks.items()}
        noise, last = 1.0, float("inf")
        for _ in range(self.sweeps):
            spread: list[Tensor] = []
            for k in range(d):
                spread.append(self.update(net, k, precision, noise))
            for bond in precision:
                axes = [net.labels(k).index(f"b{bond[0]}_{bond[1]}") for k in bond]
                a, b = (net.nodes[k] for k in bond)
                net.nodes[bond[0]], net.nodes[bond[1]] = shorter_bond(a, axes[0], b, axes[1], a.shape[axes[0]])
                precision[bond] = self.relevance(net, bond, spread)
                self.prune(net, bond, precision)
            error = net.error()
            noise = min(self.cooling * noise, 1.0 / max(error, objective.eps or 0.0, 1e-6) ** 2)
            if objective.control.out_of_time or (abs(last - error) <= 1e-6 * error and noise * error**2 > 0.5):
                break
            last = error
        graph, tensors = net.graph()
        return Trial(graph, (tensors[0] / scale, *tensors[1:]), net.error())

    def used(self, bond: Bond, d: int) -> bool:
        """Whether the template has this bond."""
        near = bond[1] - bond[0] == 1
        return self.template == "full" or near or (self.template == "ring" and bond == (0, d - 1))

    def update(self, net: FullNetwork, k: int, precision: dict[Bond, Tensor], noise: float) -> Tensor:
        """The posterior mean of a node; the diagonal of its covariance, for each entry of its bonds."""
        gram, right = net.node_system(k)
        shape = net.nodes[k].shape
        prior = torch.zeros(shape[1:], dtype=net.x.dtype, device=net.x.device)
        for axis, bond in enumerate(b for b in net.diagonals if k in b):
            prior = prior + precision[bond].reshape([-1 if j == axis else 1 for j in range(len(shape) - 1)])
        matrix = noise * gram + torch.diag(prior.reshape(-1).to(gram.dtype))
        covariance = torch.linalg.inv(matrix)
        net.nodes[k] = (noise * covariance @ right).mT.reshape(shape)
        variances: Tensor = covariance.diagonal().real.reshape(shape[1:])
        return variances

    def relevance(self, net: FullNetwork, bond: Bond, spread: list[Tensor]) -> Tensor:
        """γ_r: the number of entries of the two slices over their expected power."""
        power, count = torch.zeros_like(net.diagonals[bond]), 0
        for k in bond:
            axis = net.labels(k).index(f"b{bond[0]}_{bond[1]}")
            node = net.nodes[k].movedim(axis, 0).flatten(1)
            power = power + node.square().sum(1) + spread[k].movedim(axis - 1, 0).flatten(1).sum(1) * net.x.shape[k]
            count += node.shape[1]
        return (count + 2e-6) / (power + 2e-6)

    def prune(self, net: FullNetwork, bond: Bond, precision: dict[Bond, Tensor]) -> None:
        """Without the slices that are too weak."""
        keep = 1 / precision[bond] > self.forget * float((1 / precision[bond]).max())
        if not bool(keep.all()):
            net.prune(bond, keep)
            precision[bond] = precision[bond][keep]


STRATEGIES.register(ARD.name, ARD)
