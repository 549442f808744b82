"""Nested projections: a dense array as a tree network, leaves first.

Each node but the root projects the array on the leading singular vectors of what stands below it, inside what the nodes
below have left. All of these are orthogonal projections, each in the range of those before, so the squared errors add
up
exactly: at most the sum of the tails of all cuts, which is quasi-optimal with the root of the number of cuts. The order
is free; nodes whose modes lie at an end of the array come first, the cheapest before the others, so that the whole
array is never moved.

References: Vannieuwenhoven, Vandebril & Meerbergen 2012, doi:10.1137/110836067 (Tucker, sequentially truncated);
Grasedyck 2010, doi:10.1137/090764189 (trees).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tnkit.decompose.rough import Rough
from tnkit.formats.trees import Edge, Tree
from tnkit.linalg import split, split_flops

__all__ = ["Nested", "project_nested"]

_MOVE = 200.0  # flops in the time in which one number is moved
_LATER = 400.0  # flops that each number that is left will cost


@dataclass(frozen=True, slots=True, eq=False)
class Nested:
    """A tree network of an array.

    Attributes:
        tensors: in the order of the topology; all but the root are isometries towards it.
        lost2: the squared error.
        certain: whether that number is more than rounding.
        least2: the largest part of the error that a single cut discards: no network of these ranks is below it.
    """

    tensors: list[Tensor]
    lost2: float
    certain: bool
    least2: float


def project_nested(
    x: Tensor,
    tree: Tree,
    ranks: Mapping[str, int],
    norm2: float,
    gen: torch.Generator,
    *,
    root: int = 0,
    rough: Rough | None = None,
) -> Nested:
    """Project an array on a tree.

    Args:
        x: in the order of the topology's open labels; of any strides.
        tree: of the topology.
        ranks: the largest rank of each bond.
        norm2: ‖x‖².
        gen: random numbers for sketches.
        root: the node that keeps the norm.
        rough: how far to stay below those ranks; None takes them.

    Cost:
        for known ranks a read or two of `x` and 2 N r flops for the first node; the others see what is left.
    """
    return _Projection(x, tree, ranks, norm2, gen, root, rough).run()


class _Projection:
    """What is left of the array, and the nodes that are done."""

    def __init__(
        self,
        x: Tensor,
        tree: Tree,
        ranks: Mapping[str, int],
        norm2: float,
        gen: torch.Generator,
        root: int,
        rough: Rough | None,
    ) -> None:
        self.tree, self.ranks, self.gen, self.root, self.rough = tree, ranks, gen, root, rough
        labels = tree.topology.output
        order = sorted(range(x.ndim), key=x.stride, reverse=True)  # as the array lies in memory
        self.left = x.permute(order).contiguous()
        self.labels = [labels[k] for k in order]
        self.norm2, self.lost, self.least, self.certain = norm2, 0.0, 0.0, True
        self.nodes: dict[int, Tensor] = {}

    def run(self) -> Nested:
        waiting = {edge.child: edge for edge in self.tree.edges(self.root)}
        while waiting:
            ready = [node for node in waiting if not any(edge.parent == node for edge in waiting.values())]
            node = min(ready, key=lambda k: self.cost(waiting[k]))
            self.project(waiting.pop(node))
        self.nodes[self.root] = self.as_node(self.left, self.labels, self.root)
        tensors = [self.nodes[k] for k in range(len(self.nodes))]
        return Nested(tensors, self.lost, self.certain, self.least)

    def below(self, edge: Edge) -> list[str]:
        """The labels of what is left that the node takes."""
        own = self.tree.topology.inputs[edge.child]
        return [label for label in self.labels if label in own and label != edge.label]

    def sizes(self, labels: list[str]) -> list[int]:
        return [self.left.shape[self.labels.index(label)] for label in labels]

    def cost(self, edge: Edge) -> float:
        """Flops of the projection, and of what comes after it."""
        labels = self.below(edge)
        entries, columns = float(self.left.numel()), prod(self.sizes(labels))
        rank = min(self.ranks[edge.label], columns, int(entries) // columns)
        move = 0.0 if self.at_end(labels) else _MOVE * entries
        if rank == columns and self.rough is None:
            return 1.0 + move
        work = split_flops((int(entries) // columns, columns), rank)
        turned = 0.0 if self.at_back(labels) else 0.5 * entries * rank  # the other layout multiplies a little slower
        return work + turned + move + _LATER * entries * rank / columns

    def at_back(self, labels: list[str]) -> bool:
        return self.labels[len(self.labels) - len(labels) :] == labels

    def at_end(self, labels: list[str]) -> bool:
        return self.labels[: len(labels)] == labels or self.at_back(labels)

    def project(self, edge: Edge) -> None:
        """Take the node's labels out, and put its bond there."""
        labels = self.below(edge)
        n = len(labels)
        rest = [label for label in self.labels if label not in labels]
        sizes, others = self.sizes(labels), self.sizes(rest)
        if not self.at_end(labels):
            self.left = self.left.permute([self.labels.index(label) for label in labels + rest]).contiguous()
            self.labels = labels + rest
        front = self.labels[:n] == labels
        columns = prod(sizes)
        a = self.left.reshape(columns, -1) if front else self.left.reshape(-1, columns)
        node, left = self.cut(a, edge.label, "left" if front else "right")
        rank = node.shape[1]
        rows = left if front else left.mT  # (r, entries); as they lie in memory, they are not copied
        if rows.stride(0) < rows.stride(1):
            self.left, self.labels = rows.mT.reshape(*others, rank), [*rest, edge.label]
        else:
            self.left, self.labels = rows.reshape(rank, *others), [edge.label, *rest]
        self.nodes[edge.child] = self.as_node(node.reshape(*sizes, rank), [*labels, edge.label], edge.child)

    def cut(self, a: Tensor, bond: str, side: str) -> tuple[Tensor, Tensor]:
        """The node (columns, r) and what is left."""
        columns = a.shape[0] if side == "left" else a.shape[1]
        rank = min(self.ranks[bond], *a.shape)
        if rank == columns and self.rough is None:
            return torch.eye(columns, dtype=a.dtype, device=a.device), a
        if self.rough is None:
            part = split(a, max_rank=rank, norm2=self.norm2, side=side, rng=self.gen)
            lost, basis, rest = part.discarded2, part.basis, part.rest
            self.certain = self.certain and (part.certain or lost == 0.0)
        else:
            found = self.rough.split(a, rank, self.norm2, self.lost, side)
            lost, basis, rest = found.lost2, found.basis, found.rest
        self.lost += lost
        self.least = max(self.least, lost)
        self.norm2 = max(self.norm2 - lost, 0.0)
        return (basis if side == "left" else basis.conj().resolve_conj()), rest

    def as_node(self, t: Tensor, labels: list[str], node: int) -> Tensor:
        """With the axes in the topology's order; labels that stand on this node alone and are summed have size 1."""
        own = self.tree.topology.inputs[node]
        alone = [label for label in own if label not in labels]
        t = t.reshape(*t.shape, *(1 for _ in alone))
        labels = [*labels, *alone]
        return t.permute([labels.index(label) for label in own]).contiguous()
