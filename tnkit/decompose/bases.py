"""Orthonormal bases of the nodes of a tree, and the projection of an array on them, node by node from the leaves.

A step takes the labels below a node and puts the node's bond in their place. Steps are linear, so the projection of an
array is the sum of the projections of its parts: that is what passes over slabs and streams are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tnkit.formats.trees import Tree

__all__ = ["Labelled", "Step", "as_node", "grouped", "identity"]


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A tensor with a name for each of its axes."""

    tensor: Tensor
    labels: tuple[str, ...]

    def sizes(self, labels: Sequence[str]) -> tuple[int, ...]:
        """The sizes of some axes."""
        return tuple(self.tensor.shape[self.labels.index(label)] for label in labels)

    def ordered(self, labels: Sequence[str]) -> Tensor:
        """The tensor with its axes in this order."""
        return self.tensor.permute([self.labels.index(label) for label in labels])


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The basis of one node.

    Attributes:
        node: its number in the topology.
        below: the labels that it takes.
        bond: the label that it puts in their place.
        basis: (*sizes of `below`, r), orthonormal columns.
    """

    node: int
    below: tuple[str, ...]
    bond: str
    basis: Tensor

    @property
    def rank(self) -> int:
        """The number of columns."""
        return self.basis.shape[-1]

    def matrix(self) -> Tensor:
        """The basis as (c, r)."""
        return self.basis.reshape(prod(self.basis.shape[:-1]), self.rank)

    def project(self, x: Labelled, cut: Mapping[str, slice] | None = None) -> Labelled:
        """Basisᴴ x.

        Args:
            x: an array that has the labels below.
            cut: which part of a label `x` holds, where it does not hold all.

        Returns:
            the array with the bond in place of them. Cost: 2 r flops for each entry of `x`.
        """
        where = tuple((cut or {}).get(label, slice(None)) for label in self.below)
        basis = self.basis[where] if cut else self.basis
        rows = basis.reshape(prod(basis.shape[:-1]), self.rank).mH
        a, before, after = grouped(x, self.below)
        others = (*x.sizes(before), self.rank, *x.sizes(after))
        if a.shape[2] == 1:
            done = a[:, :, 0] @ rows.mT
        elif a.shape[0] == 1:
            done = rows @ a[0]
        else:
            done = rows @ a
        return Labelled(done.reshape(others), (*before, self.bond, *after))


def grouped(x: Labelled, below: Sequence[str]) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """An array as (before, c, after), where c runs over the labels below; a view if they are neighbours in order.

    Returns:
        the array, the labels before and the labels after.
    """
    first = min((x.labels.index(label) for label in below), default=0)
    if x.labels[first : first + len(below)] != tuple(below):
        rest = tuple(label for label in x.labels if label not in below)
        x, first = Labelled(x.ordered((*below, *rest)), (*below, *rest)), 0
    shape, last = x.tensor.shape, first + len(below)
    sizes = (prod(shape[:first]), prod(shape[first:last]), prod(shape[last:]))
    return x.tensor.reshape(sizes), x.labels[:first], x.labels[last:]


def as_node(x: Labelled, tree: Tree, node: int) -> Tensor:
    """A tensor as a node of the tree: axes in the topology's order, labels that it lacks of size 1."""
    own = tree.topology.inputs[node]
    alone = [label for label in own if label not in x.labels]
    labels = (*x.labels, *alone)
    wide = x.tensor.reshape(*x.tensor.shape, *(1 for _ in alone))
    return wide.permute([labels.index(label) for label in own]).contiguous()


def identity(columns: int, like: Tensor) -> Tensor:
    """The basis that keeps everything."""
    return torch.eye(columns, dtype=like.dtype, device=like.device)
