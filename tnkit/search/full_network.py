"""The fully connected network with a diagonal on each bond: what methods that prune its bonds have in common.

Node k has one axis for its mode and one for each other node; every bond holds a vector (a diagonal matrix). With all
but one node, or all but one vector, the dense tensor is linear in it: these are the least-squares problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from tnkit.network import Topology, contract
from tnkit.rng import normal
from tnkit.search.graph import Bond, Graph

__all__ = ["FullNetwork"]


@dataclass(slots=True, eq=False)
class FullNetwork:
    """It changes.

    Attributes:
        x: the array.
        nodes: (n_k, R_k1, …) with the bonds in the order of the other nodes.
        diagonals: (R_kl,) by bond.
    """

    x: Tensor
    nodes: list[Tensor]
    diagonals: dict[Bond, Tensor]

    @staticmethod
    def random(x: Tensor, ranks: Mapping[Bond, int], rng: torch.Generator) -> FullNetwork:
        """Random nodes, diagonals of ones, about the norm of the array."""
        d = x.ndim
        bonds = list(combinations(range(d), 2))
        nodes = []
        for k in range(d):
            shape = (x.shape[k], *(ranks[b] for b in bonds if k in b))
            nodes.append(normal(shape, x, rng))
        made = FullNetwork(x, nodes, {b: x.new_ones(ranks[b]) for b in bonds})
        scale = (x.norm() / made.dense().norm()) ** (1 / d)
        made.nodes = [t * scale for t in nodes]
        return made

    def labels(self, k: int) -> tuple[str, ...]:
        """Of a node's axes."""
        return (f"m{k}", *(f"b{a}_{b}" for a, b in self.diagonals if k in (a, b)))

    def absorbed(self) -> list[Tensor]:
        """Nodes with each diagonal on the first of its two."""
        found = list(self.nodes)
        for (a, b), s in self.diagonals.items():
            axis = self.labels(a).index(f"b{a}_{b}")
            found[a] = found[a] * s.reshape([-1 if k == axis else 1 for k in range(found[a].ndim)])
        return found

    @property
    def output(self) -> tuple[str, ...]:
        """Labels of the array."""
        return tuple(f"m{k}" for k in range(self.x.ndim))

    def dense(self) -> Tensor:
        """The dense tensor."""
        d = self.x.ndim
        return contract(Topology(tuple(self.labels(k) for k in range(d)), self.output), self.absorbed())

    def error(self) -> float:
        """Relative."""
        return float((self.x - self.dense()).norm() / self.x.norm())

    def node_system(self, k: int) -> tuple[Tensor, Tensor]:
        """MMᵀ and M xᵀ of a node: (R, R) and (R, n_k), where x_(k) ≈ node · M."""
        held = self.absorbed()
        # the diagonals at the node belong to the rest
        for (a, b), s in self.diagonals.items():
            if a == k:
                axis = self.labels(b).index(f"b{a}_{b}")
                held[b] = held[b] * s.reshape([-1 if j == axis else 1 for j in range(held[b].ndim)])
        others = [j for j in range(self.x.ndim) if j != k]
        bonds = self.labels(k)[1:]
        rest = Topology(tuple(self.labels(j) for j in others), (*bonds, *(f"m{j}" for j in others)))
        m = contract(rest, [held[j] for j in others], optimize="greedy").reshape(self.nodes[k][0].numel(), -1)
        unfolded = self.x.movedim(k, 0).reshape(self.x.shape[k], -1)
        return m @ m.mH, m.conj() @ unfolded.mT

    def bond_system(self, bond: Bond) -> tuple[Tensor, Tensor]:
        """QᵀQ and Qᵀx of a diagonal: (R, R) and (R,), where column r of Q is the tensor with 1 in place r alone."""
        held, label = self.absorbed(), f"b{bond[0]}_{bond[1]}"
        held[bond[0]] = self._without(bond)
        d = self.x.ndim
        graph = Topology(tuple(self.labels(k) for k in range(d)), (label, *self.output))
        q = contract(graph, held, optimize="greedy").reshape(len(self.diagonals[bond]), -1)
        return q.conj() @ q.mT, q.conj() @ self.x.reshape(-1)

    def _without(self, bond: Bond) -> Tensor:
        """The first node of a bond with its other diagonals only."""
        node = self.nodes[bond[0]]
        for (a, b), s in self.diagonals.items():
            if a == bond[0] and (a, b) != bond:
                axis = self.labels(a).index(f"b{a}_{b}")
                node = node * s.reshape([-1 if k == axis else 1 for k in range(node.ndim)])
        return node

    def prune(self, bond: Bond, keep: Tensor) -> None:
        """Keep some slices of a bond; one at the least."""
        if not bool(keep.any()):
            keep = torch.zeros_like(keep)
            keep[int(self.diagonals[bond].abs().argmax())] = True
        places = keep.nonzero().flatten()
        for k in bond:
            axis = self.labels(k).index(f"b{bond[0]}_{bond[1]}")
            self.nodes[k] = self.nodes[k].index_select(axis, places)
        self.diagonals[bond] = self.diagonals[bond][places]

    def graph(self) -> tuple[Graph, tuple[Tensor, ...]]:
        """The graph of the bonds that are left, with its tensors."""
        d = self.x.ndim
        ranks = {b: len(s) for b, s in self.diagonals.items()}
        graph = Graph(tuple(self.x.shape), [(k,) for k in range(d)], ranks)
        tensors = []
        for k, t in enumerate(self.absorbed()):
            sizes = dict(zip(self.labels(k), t.shape, strict=True))
            kept = [label for label in self.labels(k) if sizes[label] > 1 or label.startswith("m")]
            t = t.reshape([sizes[label] for label in kept])
            tensors.append(t.permute([kept.index(label) for label in graph.topology.inputs[k]]).contiguous())
        return graph, tuple(tensors)
